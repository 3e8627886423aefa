//! /proc/PID: status, stat, limits, smaps_rollup.

use core::time::Duration;

use crate::calls::{Files, ResourceUsage};
use crate::usage::files::{File, number_in, process_refusal};
use crate::usage::lines::{Lines, field, kilobytes, number};
use crate::usage::{Detail, NO_LIMIT, PageFigures, Process, ProcessUsage, refusal};
use crate::{Errno, Error, ErrorKind};

/// The ticks of a second in which /proc tells processor time: `USER_HZ`, which is 100 on every
/// architecture but Alpha and IA-64 (asm-generic/param.h).
const TICKS_PER_SECOND: u64 = 100;

pub(super) fn usage(
    kernel: &(impl Files + ResourceUsage),
    process: Process,
    detail: Detail,
) -> Result<ProcessUsage, Error> {
    let alive = Alive::open(kernel, process)?;
    let mut usage = ProcessUsage::default();
    // The kernel tells a list of mappings by the page; there may be tens of thousands.
    let mut buffer = [0; 4096];
    let status = File::of(kernel, process, "status").map_err(process_refusal)?;
    read_status(&mut status.lines(&mut buffer), &mut usage).map_err(process_refusal)?;
    if let Ok(limits) = File::of(kernel, process, "limits") {
        read_limits(&mut limits.lines(&mut buffer), &mut usage).map_err(process_refusal)?;
    }
    usage.mappings_limit = number_in(kernel, c"/proc/sys/vm/max_map_count");
    if detail == Detail::Pages {
        // Who may not trace the process may not see these; the other figures are for everybody.
        if let Ok(rollup) = File::of(kernel, process, "smaps_rollup") {
            usage.pages = read_rollup(&mut rollup.lines(&mut buffer)).map_err(process_refusal)?;
        }
        if let Ok(maps) = File::of(kernel, process, "maps") {
            let mut mappings = 0;
            let mut lines = maps.lines(&mut buffer);
            let read = lines.each(|_| {
                mappings += 1;
                true
            });
            read.map_err(process_refusal)?;
            usage.mappings = Some(mappings);
        }
    }
    let stat = alive.look()?;
    let ticks = |ticks: u64| {
        let nanoseconds = ticks % TICKS_PER_SECOND * (1_000_000_000 / TICKS_PER_SECOND);
        Duration::new(ticks / TICKS_PER_SECOND, nanoseconds as u32)
    };
    usage.user_time = Some(ticks(stat.user_ticks));
    usage.system_time = Some(ticks(stat.system_ticks));
    usage.minor_faults = Some(stat.minor_faults);
    usage.major_faults = Some(stat.major_faults);
    if process == Process::Own {
        let own = kernel.resource_usage();
        usage.user_time = Some(own.user_time);
        usage.system_time = Some(own.system_time);
        usage.minor_faults = Some(own.minor_faults);
        usage.major_faults = Some(own.major_faults);
    }
    Ok(usage)
}

/// A process that was there, to be looked at again.
///
/// The open file stays that of the process when its number goes to another, and then reads as
/// ESRCH. But what has no memory any more reads as empty and not as an error: the listing of the
/// mappings of a process that ended, or executed another program, just ends early.
pub(super) struct Alive<'a, K: Files> {
    file: File<'a, K>,
    pub first: Stat,
}

impl<'a, K: Files> Alive<'a, K> {
    pub fn open(kernel: &'a K, process: Process) -> Result<Alive<'a, K>, Error> {
        let file = File::of(kernel, process, "stat").map_err(process_refusal)?;
        let first = Stat::read(&file)?;
        Ok(Alive { file, first })
    }

    /// What the process is now, or that it is gone.
    pub fn look(&self) -> Result<Stat, Error> {
        let now = Stat::read(&self.file)?;
        if now.began_ticks != self.first.began_ticks {
            return Err(refusal(ErrorKind::Gone));
        }
        Ok(now)
    }

    /// That the process is alive and runs the program that it ran.
    pub fn same_program(&self) -> Result<(), Error> {
        let now = self.look()?;
        let program = |stat: &Stat| (stat.code_start, stat.stack_start);
        match program(&now) == program(&self.first) {
            true => Ok(()),
            false => Err(refusal(ErrorKind::Gone)),
        }
    }
}

/// What is wanted of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub minor_faults: u64,
    pub major_faults: u64,
    pub user_ticks: u64,
    pub system_ticks: u64,
    /// When the process began, in ticks since boot.
    pub began_ticks: u64,
    /// Where the program's code and stack begin; 0 or 1 for those who may not trace the process.
    pub code_start: u64,
    pub stack_start: u64,
}

impl Stat {
    fn read(file: &File<'_, impl Files>) -> Result<Stat, Error> {
        let mut buffer = [0; 1024];
        let text = file.fill(&mut buffer).map_err(process_refusal)?;
        Stat::parse(text)
    }

    fn parse(text: &[u8]) -> Result<Stat, Error> {
        let unreadable = || refusal(ErrorKind::Unreadable);
        let text = text.strip_suffix(b"\n").ok_or_else(unreadable)?;
        // The name in brackets may hold brackets, blanks and line ends.
        let name_end = text.iter().rposition(|&byte| byte == b')').ok_or_else(unreadable)?;
        let mut fields = text[name_end + 1..].trim_ascii_start().split(|&byte| byte == b' ');
        // A zombie, or dead: nothing but its number is left of it.
        if matches!(fields.next(), Some(b"Z" | b"X" | b"x")) {
            return Err(refusal(ErrorKind::Gone));
        }
        // The state was field 3.
        let mut at = 3;
        let mut field = |wanted: usize| {
            let value = fields.nth(wanted - at - 1).and_then(number);
            at = wanted;
            value.ok_or_else(unreadable)
        };
        Ok(Stat {
            minor_faults: field(10)?,
            major_faults: field(12)?,
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            began_ticks: field(22)?,
            code_start: field(26)?,
            stack_start: field(28)?,
        })
    }
}

fn read_status(
    lines: &mut Lines<'_, impl FnMut(&mut [u8]) -> Result<usize, Errno>>,
    usage: &mut ProcessUsage,
) -> Result<(), Errno> {
    lines.each(|line| {
        let Some((key, value)) = field(line) else { return true };
        let figure = match key {
            b"VmPeak" => &mut usage.peak_virtual_size,
            b"VmSize" => &mut usage.virtual_size,
            b"VmLck" => &mut usage.locked,
            b"VmHWM" => &mut usage.peak_resident,
            b"VmRSS" => &mut usage.resident,
            b"RssAnon" => &mut usage.resident_anonymous,
            b"RssFile" => &mut usage.resident_files,
            b"RssShmem" => &mut usage.resident_shared,
            b"VmData" => &mut usage.data,
            b"VmStk" => &mut usage.stack,
            b"VmPTE" => &mut usage.page_tables,
            b"VmSwap" => &mut usage.swapped,
            _ => return true,
        };
        *figure = kilobytes(value);
        true
    })
}

/// Lines as "Max data size             unlimited            unlimited            bytes": the name
/// takes 25 columns, then the soft limit.
fn read_limits(
    lines: &mut Lines<'_, impl FnMut(&mut [u8]) -> Result<usize, Errno>>,
    usage: &mut ProcessUsage,
) -> Result<(), Errno> {
    lines.each(|line| {
        let Some((name, limits)) = line.split_at_checked(25) else { return true };
        let limit = match name.trim_ascii() {
            b"Max address space" => &mut usage.virtual_size_limit,
            b"Max data size" => &mut usage.data_limit,
            b"Max locked memory" => &mut usage.locked_limit,
            _ => return true,
        };
        *limit = match limits.trim_ascii_start().starts_with(b"unlimited") {
            true => Some(NO_LIMIT),
            false => number(limits),
        };
        true
    })
}

fn read_rollup(
    lines: &mut Lines<'_, impl FnMut(&mut [u8]) -> Result<usize, Errno>>,
) -> Result<PageFigures, Errno> {
    let mut figures = PageFigures::default();
    lines.each(|line| {
        if let Some((key, value)) = field(line) {
            add_page_figure(&mut figures, key, value);
        }
        true
    })?;
    Ok(figures)
}

/// Adds a line of smaps or smaps_rollup to the figure that it is part of.
pub(super) fn add_page_figure(figures: &mut PageFigures, key: &[u8], value: &[u8]) {
    let figure = match key {
        b"Rss" => &mut figures.resident,
        b"Pss" => &mut figures.proportional,
        b"Private_Clean" | b"Private_Dirty" => &mut figures.private,
        b"Anonymous" => &mut figures.anonymous,
        b"LazyFree" => &mut figures.lazily_freed,
        b"AnonHugePages" | b"ShmemPmdMapped" | b"FilePmdMapped" => &mut figures.huge,
        b"Shared_Hugetlb" | b"Private_Hugetlb" => &mut figures.reserved_huge,
        b"Swap" => &mut figures.swapped,
        b"Locked" => &mut figures.locked,
        _ => return,
    };
    if let Some(bytes) = kilobytes(value) {
        *figure = Some(figure.unwrap_or(0).saturating_add(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::lines::tests::reader;
    use proptest::prelude::*;

    /// Of a process on Linux 6.18, with a name made to confuse.
    const STAT: &[u8] =
        b"3808 (a) R (x\n) S 3788 3788 32543 0 -1 4194304 102 7 3 9 250 41 0 0 20 0 \
        1 0 580658 3133440 390 18446744073709551615 94273657180160 94273657200041 140726584046080 \
        0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 94273657216048 94273657217664 94274261508096 \
        140726584052253 140726584052273 140726584052273 140726584053739 0\n";

    fn status(text: &[u8], step: usize, room: usize) -> ProcessUsage {
        let mut usage = ProcessUsage::default();
        let mut buffer = std::vec![0; room];
        read_status(&mut Lines::new(reader(text, step), &mut buffer), &mut usage).unwrap();
        usage
    }

    #[test]
    fn stat_is_read_past_a_name_made_to_confuse() {
        let stat = Stat::parse(STAT).unwrap();
        assert_eq!((stat.minor_faults, stat.major_faults), (102, 3));
        assert_eq!((stat.user_ticks, stat.system_ticks), (250, 41));
        assert_eq!(stat.began_ticks, 580_658);
        assert_eq!(stat.code_start, 94_273_657_180_160);
        assert_eq!(stat.stack_start, 140_726_584_046_080);
    }

    #[test]
    fn zombies_are_gone_and_half_a_line_is_unreadable() {
        let kind = |text: &[u8]| Stat::parse(text).unwrap_err().kind();
        assert_eq!(kind(b"12 (sh) Z 1 2 3\n"), ErrorKind::Gone);
        assert_eq!(kind(b"12 (sh) X 1 2 3\n"), ErrorKind::Gone);
        assert_eq!(kind(b"12 (sh) R 1 2 3\n"), ErrorKind::Unreadable);
        assert_eq!(kind(b""), ErrorKind::Unreadable);
        assert_eq!(kind(&STAT[..STAT.len() / 2]), ErrorKind::Unreadable);
    }

    /// Of Linux 6.18, with a line of groups longer than the buffer.
    #[test]
    fn status_is_read_whatever_is_between_its_lines() {
        let mut text = std::string::String::from("Name:\tVmRSS: 9 kB\nGroups:\t");
        for group in 0..2000 {
            text += &std::format!("{group} ");
        }
        text += "\nVmPeak:\t    3060 kB\nVmSize:\t    3059 kB\nVmLck:\t       1 kB\n\
            VmHWM:\t    1784 kB\nVmRSS:\t    1783 kB\nRssAnon:\t     112 kB\nRssFile:\t    1671 kB\n\
            RssShmem:\t       0 kB\nVmData:\t     360 kB\nVmStk:\t     132 kB\nVmExe:\t      20 kB\n\
            VmLib:\t    1528 kB\nVmPTE:\t      48 kB\nVmSwap:\t       8 kB\nThreads:\t1\n";
        let expected = ProcessUsage {
            peak_virtual_size: Some(3060 << 10),
            virtual_size: Some(3059 << 10),
            locked: Some(1 << 10),
            peak_resident: Some(1784 << 10),
            resident: Some(1783 << 10),
            resident_anonymous: Some(112 << 10),
            resident_files: Some(1671 << 10),
            resident_shared: Some(0),
            data: Some(360 << 10),
            stack: Some(132 << 10),
            page_tables: Some(48 << 10),
            swapped: Some(8 << 10),
            ..ProcessUsage::default()
        };
        for step in [1, 7, 4096] {
            assert_eq!(status(text.as_bytes(), step, 256), expected);
        }
    }

    /// A kernel thread has no memory; Linux before 4.5 had no `RssAnon`.
    #[test]
    fn what_is_not_there_is_none() {
        let usage = status(b"Name:\tkthreadd\nState:\tS (sleeping)\nThreads:\t1\n", 99, 256);
        assert_eq!(usage, ProcessUsage::default());
        let usage = status(b"VmRSS:\t     4 kB\n", 99, 256);
        assert_eq!((usage.resident, usage.resident_anonymous), (Some(4096), None));
    }

    #[test]
    fn limits_are_read_by_their_columns() {
        let text =
            b"Limit                     Soft Limit           Hard Limit           Units     \n\
            Max cpu time              unlimited            unlimited            seconds   \n\
            Max data size             1610612736           unlimited            bytes     \n\
            Max locked memory         3157970944           3157970944           bytes     \n\
            Max address space         unlimited            unlimited            bytes     \n";
        let mut usage = ProcessUsage::default();
        let mut buffer = [0; 128];
        read_limits(&mut Lines::new(reader(text, 50), &mut buffer), &mut usage).unwrap();
        assert_eq!(usage.data_limit, Some(1_610_612_736));
        assert_eq!(usage.locked_limit, Some(3_157_970_944));
        assert_eq!(usage.virtual_size_limit, Some(NO_LIMIT));
    }

    #[test]
    fn the_rollup_adds_what_belongs_together() {
        let text = b"5652686ed000-7ffce718c000 ---p 00000000 00:00 0                  [rollup]\n\
            Rss:                1644 kB\nPss:                 228 kB\nPss_Dirty:           116 kB\n\
            Shared_Clean:       1488 kB\nShared_Dirty:          0 kB\nPrivate_Clean:        40 kB\n\
            Private_Dirty:       116 kB\nAnonymous:           116 kB\nLazyFree:              4 kB\n\
            AnonHugePages:      2048 kB\nShmemPmdMapped:     4096 kB\nFilePmdMapped:         0 kB\n\
            Shared_Hugetlb:        8 kB\nPrivate_Hugetlb:       0 kB\nSwap:                  0 kB\n\
            SwapPss:               0 kB\nLocked:               12 kB\n";
        let mut buffer = [0; 128];
        let figures = read_rollup(&mut Lines::new(reader(text, 9), &mut buffer)).unwrap();
        let expected = PageFigures {
            resident: Some(1644 << 10),
            proportional: Some(228 << 10),
            private: Some(156 << 10),
            anonymous: Some(116 << 10),
            lazily_freed: Some(4 << 10),
            huge: Some(6144 << 10),
            reserved_huge: Some(8 << 10),
            swapped: Some(0),
            locked: Some(12 << 10),
        };
        assert_eq!(figures, expected);
        assert_eq!(figures.resident_in_use(), Some(1640 << 10));
        let without = PageFigures { lazily_freed: None, ..figures };
        assert_eq!(without.resident_in_use(), None);
    }

    proptest! {
        #[test]
        fn damaged_text_is_refused_or_read_never_a_panic(
            place in 0..STAT.len(),
            damage in proptest::collection::vec(any::<u8>(), 0..6),
        ) {
            let mut text = STAT.to_vec();
            text.splice(place..(place + damage.len()).min(STAT.len()), damage);
            let _ = Stat::parse(&text);
            let _ = status(&text, 3, 64);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            text in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = Stat::parse(&text);
            let mut usage = status(&text, 11, 32);
            let mut buffer = [0; 40];
            read_limits(&mut Lines::new(reader(&text, 5), &mut buffer), &mut usage).unwrap();
            read_rollup(&mut Lines::new(reader(&text, 5), &mut buffer)).unwrap();
        }
    }
}
