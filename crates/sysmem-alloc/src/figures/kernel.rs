//! What Linux says of a process in /proc, as text.

use super::KernelFigures;

impl KernelFigures {
    /// Takes over the figures that a `/proc/<pid>/status` holds; lines that are missing leave
    /// their figure alone.
    pub fn read_status(&mut self, text: &[u8]) {
        for line in text.split(|&byte| byte == b'\n') {
            let figure = match label(line) {
                b"VmSize" => &mut self.virtual_bytes,
                b"VmPeak" => &mut self.peak_virtual_bytes,
                b"VmRSS" => &mut self.resident_bytes,
                b"VmHWM" => &mut self.peak_resident_bytes,
                b"RssAnon" => &mut self.resident_anonymous_bytes,
                b"RssFile" => &mut self.resident_file_bytes,
                b"RssShmem" => &mut self.resident_shared_bytes,
                b"VmSwap" => &mut self.swapped_bytes,
                b"VmStk" => &mut self.stack_bytes,
                b"VmPTE" => &mut self.page_table_bytes,
                _ => continue,
            };
            *figure = kibibytes(line).unwrap_or(*figure);
        }
    }

    /// Takes over the figures that a `/proc/<pid>/smaps_rollup` holds.
    pub fn read_smaps_rollup(&mut self, text: &[u8]) {
        for line in text.split(|&byte| byte == b'\n') {
            let figure = match label(line) {
                b"AnonHugePages" => &mut self.huge_page_bytes,
                b"LazyFree" => &mut self.lazily_freed_bytes,
                _ => continue,
            };
            *figure = kibibytes(line).unwrap_or(*figure);
        }
    }
}

/// What stands before the colon.
fn label(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b':').next().unwrap_or(&[])
}

/// The bytes that a line `Label:   123 kB` means; the kernel's kB are 1,024 bytes (proc_pid_status(5)).
fn kibibytes(line: &[u8]) -> Option<u64> {
    let number = line.get(label(line).len() + 1..)?.strip_suffix(b" kB")?;
    core::str::from_utf8(number.trim_ascii()).ok()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_smaps_are_read_as_the_kernel_writes_them() {
        let mut kernel = KernelFigures::default();
        kernel.read_status(
            b"Name:\tVmRSS: 9 kB\nVmPeak:\t    3060 kB\nVmSize:\t    3059 kB\nVmHWM:\t    1744 kB\n\
              VmRSS:\t    1743 kB\nRssAnon:\t     112 kB\nRssFile:\t    1632 kB\nRssShmem:\t       0 kB\n\
              VmStk:\t     132 kB\nVmPTE:\t      48 kB\nVmSwap:\t       4 kB\nThreads:\t1\nVmLib",
        );
        kernel.read_smaps_rollup(
            b"5557a81be000-7ffe73e4c000 ---p 00000000 00:00 0                          [rollup]\n\
              Rss:                1744 kB\nLazyFree:              8 kB\nAnonHugePages:      2048 kB\n",
        );
        let expected = KernelFigures {
            virtual_bytes: 3059 << 10,
            peak_virtual_bytes: 3060 << 10,
            resident_bytes: 1743 << 10,
            peak_resident_bytes: 1744 << 10,
            resident_anonymous_bytes: 112 << 10,
            resident_file_bytes: 1632 << 10,
            resident_shared_bytes: 0,
            swapped_bytes: 4 << 10,
            stack_bytes: 132 << 10,
            page_table_bytes: 48 << 10,
            huge_page_bytes: 2048 << 10,
            lazily_freed_bytes: 8 << 10,
        };
        assert_eq!(kernel, expected);
    }

    #[test]
    fn damaged_status_lines_leave_figures_alone() {
        let mut kernel = KernelFigures::default();
        kernel.read_status(
            b"VmRSS:\t kB\nVmHWM:\t12\nVmSize:\t99999999999999999999 kB\n\nVmPTE: -3 kB",
        );
        assert_eq!(kernel, KernelFigures::default());
    }
}
