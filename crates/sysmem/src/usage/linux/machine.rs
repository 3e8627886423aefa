//! /proc/meminfo, /sys/kernel/mm, /proc/pressure.

use crate::calls::Files;
use crate::huge::HugePages;
use crate::usage::files::{File, number_in, read};
use crate::usage::lines::{Lines, field, kilobytes, number};
use crate::usage::{MachineUsage, Overcommit, Pressure, Stall, refusal};
use crate::{Errno, Error, ErrorKind};
use core::ffi::CStr;
use core::time::Duration;

pub(super) fn usage(kernel: &impl Files, huge: HugePages) -> Result<MachineUsage, Error> {
    let system = |errno| refusal(ErrorKind::System(errno));
    let mut usage =
        MachineUsage { page_size: Some(kernel.page_size() as u64), ..MachineUsage::default() };
    let meminfo = File::open(kernel, c"/proc/meminfo").map_err(system)?;
    read_meminfo(&mut meminfo.lines(&mut [0; 256]), &mut usage).map_err(system)?;
    usage.overcommit =
        number_in(kernel, c"/proc/sys/vm/overcommit_memory").and_then(|mode| match mode {
            0 => Some(Overcommit::Heuristic),
            1 => Some(Overcommit::Always),
            2 => Some(Overcommit::Never),
            _ => None,
        });
    usage.huge_page_size = huge.size.map(|size| size as u64);
    usage.huge_pages = huge.mode;
    usage.pressure = pressure(kernel, c"/proc/pressure/memory");
    Ok(usage)
}

fn read_meminfo(
    lines: &mut Lines<'_, impl FnMut(&mut [u8]) -> Result<usize, Errno>>,
    usage: &mut MachineUsage,
) -> Result<(), Errno> {
    let mut free_pages = None;
    lines.each(|line| {
        let Some((key, value)) = field(line) else { return true };
        let figure = match key {
            b"MemTotal" => &mut usage.total,
            b"MemFree" => &mut usage.free,
            b"MemAvailable" => &mut usage.available,
            b"SwapTotal" => &mut usage.swap_total,
            b"SwapFree" => &mut usage.swap_free,
            b"CommitLimit" => &mut usage.commit_limit,
            b"Committed_AS" => &mut usage.committed,
            b"PageTables" => &mut usage.page_tables,
            b"Zswap" => &mut usage.compressor,
            b"AnonHugePages" => &mut usage.anonymous_huge,
            b"Hugepagesize" => &mut usage.reserved_huge_page_size,
            b"Hugetlb" => &mut usage.reserved_huge,
            b"HugePages_Free" => {
                free_pages = number(value);
                return true;
            }
            _ => return true,
        };
        *figure = kilobytes(value);
        true
    })?;
    usage.reserved_huge_free = free_pages
        .zip(usage.reserved_huge_page_size)
        .and_then(|(pages, size)| pages.checked_mul(size));
    Ok(())
}

/// What a file of pressure says; `None` where the kernel does not keep it (opening says
/// EOPNOTSUPP where it is turned off).
pub(super) fn pressure(kernel: &impl Files, path: &CStr) -> Option<Pressure> {
    parse_pressure(read(kernel, path, &mut [0; 256])?)
}

/// Two lines as "some avg10=0.00 avg60=0.00 avg300=0.13 total=8736406", the total in
/// microseconds (Documentation/accounting/psi.rst).
fn parse_pressure(text: &[u8]) -> Option<Pressure> {
    let stall = |name: &[u8]| {
        let line = text
            .split(|&byte| byte == b'\n')
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(b" "))?;
        let value = |key: &[u8]| {
            line.split(|&byte| byte == b' ')
                .find_map(|word| word.strip_prefix(key)?.strip_prefix(b"="))
        };
        Some(Stall {
            ten_seconds: hundredths(value(b"avg10")?)?,
            minute: hundredths(value(b"avg60")?)?,
            five_minutes: hundredths(value(b"avg300")?)?,
            total: Duration::from_micros(number(value(b"total")?)?),
        })
    };
    Some(Pressure { some: stall(b"some")?, full: stall(b"full")? })
}

/// A percentage with two decimals, in hundredths.
fn hundredths(text: &[u8]) -> Option<u32> {
    let (whole, part) = core::str::from_utf8(text).ok()?.split_once('.')?;
    let part = part.parse::<u32>().ok().filter(|_| part.len() == 2)?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::lines::tests::reader;
    use proptest::prelude::*;

    #[test]
    fn meminfo_is_read_as_the_kernel_writes_it() {
        // Linux 6.18, shortened, with eight pages set aside.
        let text = b"MemTotal:       24684084 kB\nMemFree:         2493228 kB\n\
            MemAvailable:    8622288 kB\nSwapCached:            0 kB\nSwapTotal:       1000000 kB\n\
            SwapFree:         900000 kB\nPageTables:        36436 kB\nSecPageTables:         0 kB\n\
            CommitLimit:    12342040 kB\nCommitted_AS:   15209904 kB\nAnonHugePages:      2048 kB\n\
            HugePages_Total:       8\nHugePages_Free:        3\nHugepagesize:       2048 kB\n\
            Hugetlb:           16384 kB\nDirectMap4k:       26624 kB\n";
        let mut usage = MachineUsage::default();
        let mut buffer = [0; 64];
        read_meminfo(&mut Lines::new(reader(text, 31), &mut buffer), &mut usage).unwrap();
        let expected = MachineUsage {
            total: Some(24_684_084 << 10),
            free: Some(2_493_228 << 10),
            available: Some(8_622_288 << 10),
            swap_total: Some(1_000_000 << 10),
            swap_free: Some(900_000 << 10),
            page_tables: Some(36_436 << 10),
            commit_limit: Some(12_342_040 << 10),
            committed: Some(15_209_904 << 10),
            anonymous_huge: Some(2 << 20),
            reserved_huge_page_size: Some(2 << 20),
            reserved_huge: Some(16 << 20),
            reserved_huge_free: Some(6 << 20),
            ..MachineUsage::default()
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = b"some avg10=12.34 avg60=100.00 avg300=0.13 total=8736406\n\
            full avg10=0.00 avg60=0.07 avg300=0.08 total=5577702\n";
        let pressure = parse_pressure(text).unwrap();
        let some = Stall {
            ten_seconds: 1234,
            minute: 10_000,
            five_minutes: 13,
            total: Duration::from_micros(8_736_406),
        };
        assert_eq!(pressure.some, some);
        assert_eq!(pressure.full.minute, 7);
        assert_eq!(pressure.full.total, Duration::from_micros(5_577_702));
        assert_eq!(parse_pressure(b"some avg10=1.00 avg60=1.00 avg300=1.00 total=1\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            text in proptest::collection::vec(any::<u8>(), 0..200),
            share in "[0-9.]{0,12}",
        ) {
            let mut usage = MachineUsage::default();
            let mut buffer = [0; 32];
            read_meminfo(&mut Lines::new(reader(&text, 7), &mut buffer), &mut usage).unwrap();
            parse_pressure(&text);
            hundredths(share.as_bytes());
            let line = std::format!("some avg10={share} avg60={share} avg300={share} total={share}");
            parse_pressure(line.as_bytes());
        }
    }
}
