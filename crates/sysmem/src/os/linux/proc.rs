//! What the backend reads of itself and of the machine in /proc (proc(5)), without a heap.

use core::ops::Range;

use crate::calls::Files;
use crate::usage::files::{File, read};
use crate::usage::lines::{field, kilobytes, number};

/// The figures of /proc/PID/statm that the layer needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statm {
    /// The size of the address space: what `RLIMIT_AS` limits.
    pub virtual_size: u64,
    /// Private writable mappings and stacks: about what `RLIMIT_DATA` limits.
    pub data: u64,
}

/// /proc/self/statm (proc_pid_statm(5)): pages of size, resident, shared, text, lib, data, dt.
pub(crate) fn statm(kernel: &impl Files, buffer: &mut [u8]) -> Option<Statm> {
    let text = read(kernel, c"/proc/self/statm", buffer)?;
    let page_size = kernel.page_size() as u64;
    let mut fields = text.split(|&byte| byte == b' ');
    let virtual_size = number(fields.next()?)?.checked_mul(page_size)?;
    let data = number(fields.nth(4)?)?.checked_mul(page_size)?;
    Some(Statm { virtual_size, data })
}

/// A figure of /proc/meminfo, in bytes.
pub(crate) fn meminfo(kernel: &impl Files, key: &[u8]) -> Option<u64> {
    let file = File::open(kernel, c"/proc/meminfo").ok()?;
    let mut found = None;
    let seen = file.lines(&mut [0; 256]).each(|line| {
        found =
            field(line).filter(|&(name, _)| name == key).and_then(|(_, value)| kilobytes(value));
        found.is_none()
    });
    found.filter(|_| seen.is_ok())
}

/// Hands each mapping of the calling process to `each`, lowest address first: where it begins and ends.
/// `None` if the list cannot be read or is not what it should be.
pub(crate) fn mappings(kernel: &impl Files, each: &mut dyn FnMut(usize, usize)) -> Option<()> {
    let maps = File::open(kernel, c"/proc/self/maps").ok()?;
    let mut buffer = [0; 1024];
    let mut lines = maps.lines(&mut buffer);
    while let Some(line) = lines.next().ok()? {
        let (start, end) = line.split(|&byte| byte == b' ').next().and_then(addresses)?;
        each(start, end);
    }
    Some(())
}

/// Whether all of a range of the calling process is mapped with this flag of `VmFlags` in its smaps
/// (proc_pid_smaps(5), Linux 3.8). `None` if that cannot be read.
pub(crate) fn has_flag(kernel: &impl Files, range: Range<usize>, flag: &[u8]) -> Option<bool> {
    let smaps = File::open(kernel, c"/proc/self/smaps").ok()?;
    let mut buffer = [0; 1024];
    let mut lines = smaps.lines(&mut buffer);
    let mut mapping = 0..0;
    let mut at = range.start;
    while let Some(line) = lines.next().ok()? {
        let header = line.split(|&byte| byte == b' ').next().and_then(addresses);
        if let Some((start, end)) = header {
            mapping = start..end;
            if mapping.start > at || at >= range.end {
                break;
            }
        } else if let (true, Some((b"VmFlags", flags))) = (mapping.contains(&at), field(line)) {
            if !flags.split(|&byte| byte == b' ').any(|found| found == flag) {
                return Some(false);
            }
            at = mapping.end;
        }
    }
    Some(at >= range.end)
}

pub(crate) fn hexadecimal(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok()
}

/// Two hexadecimal addresses with a dash between them.
pub(crate) fn addresses(text: &[u8]) -> Option<(usize, usize)> {
    let dash = text.iter().position(|&byte| byte == b'-')?;
    let start = usize::try_from(hexadecimal(&text[..dash])?).ok()?;
    let end = usize::try_from(hexadecimal(&text[dash + 1..])?).ok()?;
    (start < end).then_some((start, end))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::calls::UnixCalls;
    use crate::os::linux::MADV_RANDOM;
    use crate::os::{Os, PageRange, ReserveOptions};
    use crate::{GiveBack, Native, Policy, Protection};

    #[test]
    fn the_running_kernel_tells_which_range_was_marked() {
        let (os, page) = (Native::NEW, Native::NEW.page_size());
        let start = os.reserve(&ReserveOptions::new(8 * page)).unwrap();
        let part = |at: usize, npages: usize| {
            PageRange::new(start.as_ptr().wrapping_add(at * page), npages * page)
        };
        let marked = |range: PageRange| {
            let start = range.start.addr();
            has_flag(os.kernel(), start..start + range.len, b"rr")
        };
        assert_eq!(marked(part(0, 8)), Some(false));
        // SAFETY: reserved here.
        unsafe {
            os.map(part(2, 2), Protection::ReadWrite, Policy::DEFAULT).unwrap();
            os.kernel().madvise(part(1, 4).start, 4 * page, MADV_RANDOM).unwrap();
        }
        assert_eq!(marked(part(1, 4)), Some(true), "over more than one mapping");
        assert_eq!(marked(part(2, 1)), Some(true));
        assert_eq!(marked(part(0, 2)), Some(false));
        assert_eq!(marked(part(4, 2)), Some(false));
        // SAFETY: as above.
        unsafe {
            os.unused(part(2, 2), Protection::ReadWrite, GiveBack::Eager, Policy::DEFAULT).unwrap();
            assert_eq!(marked(part(1, 4)), Some(true));
            os.free(part(0, 8)).unwrap();
        }
        assert_eq!(marked(part(1, 4)), Some(false));
    }
}
