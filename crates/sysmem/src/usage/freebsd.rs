//! FreeBSD: kern.proc, vm.stats, vm.swap_info.

use super::bsd::{alive, ask, free_swap, id, put_limits, rusage};
use super::bytes::{Bytes, unreadable, until_zero};
use super::residency::own_pages;
use super::{
    Detail, MachineUsage, Mapping, MappingKind, Overcommit, PageFigures, PageRun, PageState,
    Process, ProcessUsage, Usage, check_buffer,
};
use crate::calls::SysctlMib;
use crate::huge::HugePageControl;
use crate::os::bsd::{CTL_KERN, KERN_PROC_PID, number};
use crate::os::freebsd::{FreeBsd, FreeBsdCalls, KERN_PROC, kinfo_proc as at};
use crate::{Error, Os, PageRange};

// <sys/sysctl.h>.
const KERN_PROC_PATHNAME: i32 = 12;
const KERN_PROC_VMMAP: i32 = 32;
const KERN_PROC_RLIMIT: i32 = 37;

// <sys/user.h>.
const KVME_TYPE_NONE: u32 = 0;
const KVME_TYPE_DEFAULT: u32 = 1;
const KVME_TYPE_VNODE: u32 = 2;
const KVME_TYPE_SWAP: u32 = 3;
const KVME_TYPE_GUARD: u32 = 9;
const KVME_FLAG_GROWS_DOWN: u32 = 0x20;
const KVME_FLAG_USER_WIRED: u32 = 0x40;
const KVME_FLAG_SYSVSHM: u32 = 0x80;
const KVME_FLAG_POSIXSHM: u32 = 0x100;

/// `SZOMB` of `ki_stat`: <sys/proc.h>.
const ZOMBIE: u8 = 5;

impl<K: FreeBsdCalls + SysctlMib> Usage for FreeBsd<K> {
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let kernel = self.kernel();
        let id = id(kernel, process);
        let mib = [CTL_KERN, KERN_PROC, KERN_PROC_PID, id];
        let mut bytes = [0; at::LEN];
        let mut usage = decode(ask(kernel, &mib, &mut bytes)?, self.page_size() as u64)?;
        // `struct rlimit`: the soft limit comes first.
        put_limits(&mut usage, |resource| {
            let mib = [CTL_KERN, KERN_PROC, KERN_PROC_RLIMIT, id, resource];
            Bytes(ask(kernel, &mib, &mut [0; 16]).ok()?).u64(0)
        });
        Ok(usage)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let kernel = self.kernel();
        let page_size = self.page_size() as u64;
        let free = number(kernel, c"vm.stats.vm.v_free_count");
        let swap_total = number(kernel, c"vm.swap_total");
        let swap_used = swap_used(kernel, page_size);
        let huge = self.huge_pages();
        Ok(MachineUsage {
            page_size: Some(page_size),
            total: number(kernel, c"hw.physmem"),
            free: free.and_then(|pages| pages.checked_mul(page_size)),
            swap_total,
            swap_free: free_swap(swap_total, swap_used),
            committed: number(kernel, c"vm.swap_reserved"),
            // Bit 0: no more than swap (tuning(7)).
            overcommit: number(kernel, c"vm.overcommit").map(|bits| match bits & 1 {
                0 => Overcommit::Always,
                _ => Overcommit::Never,
            }),
            huge_page_size: huge.size.map(|size| size as u64),
            huge_pages: huge.mode,
            ..MachineUsage::default()
        })
    }

    fn mappings(
        &self,
        process: Process,
        _detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error> {
        check_buffer(buffer)?;
        let kernel = self.kernel();
        let mut mib = [CTL_KERN, KERN_PROC, KERN_PROC_PATHNAME, id(kernel, process)];
        let mut path = [0; 1024];
        let program = ask(kernel, &mib, &mut path).map(until_zero).unwrap_or_default();
        mib[2] = KERN_PROC_VMMAP;
        // The whole list at once: a process that ends later has been told.
        let entries = ask(kernel, &mib, buffer)?;
        // Zeros are told in place of what was not counted.
        let counted = number(kernel, c"kern.proc_vmmap_skip_resident_count") != Some(1);
        let page_size = self.page_size() as u64;
        each_entry(entries, counted.then_some(page_size), program, each)
    }

    fn page_runs(
        &self,
        process: Process,
        range: PageRange,
        each: &mut dyn FnMut(&PageRun),
    ) -> Result<(), Error> {
        let state = |page: &crate::os::PageResidency| PageState {
            resident: page.resident,
            huge: Some(page.huge),
            ..PageState::default()
        };
        own_pages(self, process, range, state, each)
    }
}

/// What is used of all swap devices, of which vm.swap_info.N tells one: `struct xswdev` of FreeBSD,
/// 32 bytes: `xsw_used` 24 in pages (<vm/vm_param.h>).
fn swap_used(kernel: &(impl FreeBsdCalls + SysctlMib), page_size: u64) -> Option<u64> {
    let mut mib = [0; 16];
    let len = kernel.sysctl_mib(c"vm.swap_info", &mut mib).ok().filter(|&len| len < mib.len())?;
    let mut used = 0u64;
    // Devices are numbered from 0; the first that is not there ends them.
    for device in 0..64 {
        mib[len] = device;
        let mut bytes = [0; 32];
        let Ok(bytes) = ask(kernel, &mib[..=len], &mut bytes) else { break };
        used = used.checked_add(Bytes(bytes).counted_u32(24, page_size)?)?;
    }
    Some(used)
}

fn decode(bytes: &[u8], page_size: u64) -> Result<ProcessUsage, Error> {
    let process = alive(bytes, at::LEN, at::KI_STAT, ZOMBIE)?;
    let pages = |offset| process.counted_u64(offset, page_size);
    Ok(ProcessUsage {
        virtual_size: process.u64(at::KI_SIZE),
        resident: pages(at::KI_RSSIZE),
        data: pages(at::KI_DSIZE),
        stack: pages(at::KI_SSIZE),
        ..rusage(process, at::KI_RUSAGE)
    })
}

/// Packed entries, each as long as its first word says.
fn each_entry(
    mut entries: &[u8],
    page_size: Option<u64>,
    program: &[u8],
    each: &mut dyn FnMut(&Mapping<'_>),
) -> Result<(), Error> {
    const PATH: usize = 136;
    while !entries.is_empty() {
        let (entry, rest) = Bytes(entries)
            .u32(0)
            .map(|len| len as usize)
            // The kernel ends a list that was cut with a zero.
            .filter(|&len| len > PATH)
            .and_then(|len| entries.split_at_checked(len))
            .ok_or(unreadable())?;
        entries = rest;
        each(&mapping(Bytes(entry), entry.get(PATH..), page_size, program).ok_or(unreadable())?);
    }
    Ok(())
}

/// `struct kinfo_vmentry` of FreeBSD: `kve_type` 4, `kve_start` 8, `kve_end` 16, `kve_offset` 24,
/// `kve_flags` 44, `kve_resident` 48 and `kve_private_resident` 52 in pages, `kve_protection` 56,
/// `kve_path` 136 (<sys/user.h>).
fn mapping<'e>(
    entry: Bytes<'e>,
    path: Option<&'e [u8]>,
    page_size: Option<u64>,
    program: &[u8],
) -> Option<Mapping<'e>> {
    let (name, flags) = (until_zero(path?), entry.u32(44)?);
    let kind = match entry.u32(4)? {
        _ if flags & KVME_FLAG_GROWS_DOWN != 0 => MappingKind::Stack,
        _ if flags & (KVME_FLAG_SYSVSHM | KVME_FLAG_POSIXSHM) != 0 => MappingKind::SharedMemory,
        KVME_TYPE_VNODE if !program.is_empty() && name == program => MappingKind::Program,
        KVME_TYPE_VNODE => MappingKind::File,
        KVME_TYPE_NONE | KVME_TYPE_DEFAULT | KVME_TYPE_SWAP | KVME_TYPE_GUARD => {
            MappingKind::Anonymous
        }
        _ => MappingKind::System,
    };
    let pages = |offset| entry.counted_u32(offset, page_size?);
    let protection = entry.u32(56)?;
    let (start, end) = (entry.address(8)?, entry.address(16)?);
    let len = end.checked_sub(start).filter(|&len| len > 0)?;
    Some(Mapping {
        start,
        end,
        readable: protection & 1 != 0,
        writable: protection & 2 != 0,
        executable: protection & 4 != 0,
        shared: None,
        offset: entry.u64(24)?,
        kind,
        name,
        pages: PageFigures {
            resident: pages(48),
            private: pages(52),
            locked: Some(if flags & KVME_FLAG_USER_WIRED != 0 { len as u64 } else { 0 }),
            ..PageFigures::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::answers::{Answers, FreeBsdKernel, ask_everything, damages, reconciled};
    use super::super::bytes::put;
    use super::*;
    use crate::ErrorKind;
    use core::time::Duration;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Composed from <sys/user.h>.
    fn process() -> Vec<u8> {
        let mut bytes = std::vec![0xee; 1088];
        bytes[388] = 3;
        for (offset, value) in [
            (256, 128_364_544u64),
            (264, 1000),
            (288, 500),
            (296, 32),
            (608, 2),
            (616, 500_000),
            (624, 1),
            (632, 7),
            (640, 8032),
            (672, 4711),
            (680, 12),
        ] {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_process_is_told_in_bytes_pages_and_kibibytes() {
        let mut bytes = process();
        let expected = ProcessUsage {
            virtual_size: Some(128_364_544),
            resident: Some(1000 << 12),
            data: Some(500 << 12),
            stack: Some(32 << 12),
            user_time: Some(Duration::from_millis(2500)),
            system_time: Some(Duration::from_micros(1_000_007)),
            peak_resident: Some(8032 << 10),
            minor_faults: Some(4711),
            major_faults: Some(12),
            ..ProcessUsage::default()
        };
        assert_eq!(decode(&bytes, 4096), Ok(expected));
        bytes[388] = ZOMBIE;
        assert_eq!(decode(&bytes, 4096).unwrap_err().kind(), ErrorKind::Gone);
        assert_eq!(decode(&bytes[..1000], 4096).unwrap_err().kind(), ErrorKind::Unreadable);
    }

    /// An entry as the kernel packs it: as long as its path needs, rounded up to eight bytes.
    fn entry(
        kind: u32,
        start: u64,
        npages: u64,
        flags: u32,
        protection: u32,
        path: &str,
    ) -> Vec<u8> {
        let len = (136 + path.len() + 1).next_multiple_of(8);
        let mut bytes = std::vec![0; len];
        put(&mut bytes, 0, &(len as u32).to_ne_bytes());
        put(&mut bytes, 4, &kind.to_ne_bytes());
        put(&mut bytes, 8, &start.to_ne_bytes());
        put(&mut bytes, 16, &(start + npages * 4096).to_ne_bytes());
        put(&mut bytes, 44, &flags.to_ne_bytes());
        put(&mut bytes, 48, &7u32.to_ne_bytes());
        put(&mut bytes, 52, &5u32.to_ne_bytes());
        put(&mut bytes, 56, &protection.to_ne_bytes());
        put(&mut bytes, 136, path.as_bytes());
        bytes
    }

    /// Composed from <sys/user.h>, with the kinds and the length (144) that a running kernel told.
    fn listing() -> Vec<u8> {
        [
            entry(2, 0x20_0000, 4, 0, 1 | 4, "/bin/cat"),
            entry(2, 0x8_0000_0000, 9, 1, 1, "/lib/libc.so.7"),
            entry(3, 0x8_1000_0000, 16, 0x40, 3, ""),
            entry(9, 0x8_2000_0000, 100, 0, 0, ""),
            entry(3, 0x8_3000_0000, 2, 0x100, 3, ""),
            entry(3, 0x7fff_dfff_0000, 16, 0x20, 3, ""),
            entry(5, 0x7fff_ffff_e000, 1, 0, 5, ""),
        ]
        .concat()
    }

    #[test]
    fn mappings_are_told_with_kind_path_and_pages() {
        assert_eq!(entry(9, 0, 1, 0, 0, "").len(), 144, "as seen on a running kernel");
        let mut seen = Vec::new();
        each_entry(&listing(), Some(4096), b"/bin/cat", &mut |mapping| {
            assert_eq!(mapping.pages.resident, Some(7 << 12));
            assert_eq!(mapping.pages.private, Some(5 << 12));
            let locked = mapping.pages.locked.unwrap() / 4096;
            let access = (mapping.readable, mapping.writable, mapping.executable);
            let npages = mapping.len() / 4096;
            seen.push((npages, mapping.kind, mapping.name.to_vec(), access, locked));
        })
        .unwrap();
        let expected = [
            (4, MappingKind::Program, &b"/bin/cat"[..], (true, false, true), 0),
            (9, MappingKind::File, b"/lib/libc.so.7", (true, false, false), 0),
            (16, MappingKind::Anonymous, b"", (true, true, false), 16),
            (100, MappingKind::Anonymous, b"", (false, false, false), 0),
            (2, MappingKind::SharedMemory, b"", (true, true, false), 0),
            (16, MappingKind::Stack, b"", (true, true, false), 0),
            (1, MappingKind::System, b"", (true, false, true), 0),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(len, kind, name, a, locked)| (len, kind, name.to_vec(), a, locked))
            .collect();
        assert_eq!(seen, expected);
    }

    fn answers() -> Answers<FreeBsdKernel> {
        let mut answers = Answers::new()
            .number(&[1, 14, 1, 17], process())
            .number(&[1, 14, 12, 17], b"/bin/cat\0".to_vec())
            .number(&[1, 14, 32, 17], listing())
            .name(c"hw.physmem", 1u64 << 34)
            .name(c"vm.stats.vm.v_free_count", 1u32 << 10)
            .name(c"vm.swap_total", 1u64 << 33)
            .name(c"vm.swap_reserved", 1u64 << 20)
            .name(c"vm.overcommit", 1u32)
            .name(c"vm.pmap.pg_ps_enabled", 1u32)
            .mib(c"vm.swap_info", &[2, 77]);
        for (resource, soft) in [(10, i64::MAX as u64), (2, (1 << 30) + 2), (6, (1 << 30) + 3)] {
            let bytes = [soft.to_ne_bytes(), u64::MAX.to_ne_bytes()].concat();
            answers = answers.number(&[1, 14, 37, 17, resource], bytes);
        }
        for (device, used) in [(0, 3u32), (1, 4)] {
            let mut bytes = std::vec![0xee; 32];
            put(&mut bytes, 24, &used.to_ne_bytes());
            answers = answers.number(&[2, 77, device], bytes);
        }
        answers
    }

    #[test]
    fn a_process_has_its_limits_and_the_machine_its_swap() {
        let os = FreeBsd::new(answers());
        let process = os.process_usage(Process::Own, Detail::Pages).unwrap();
        assert_eq!(process.virtual_size_limit, Some(super::super::NO_LIMIT));
        assert_eq!(process.data_limit, Some((1 << 30) + 2));
        assert_eq!(process.locked_limit, Some((1 << 30) + 3));
        assert_eq!(os.process_usage(Process::Id(17), Detail::Counters).unwrap(), process);
        let machine = os.machine_usage().unwrap();
        assert_eq!((machine.total, machine.free), (Some(1 << 34), Some(1 << 22)));
        assert_eq!((machine.swap_total, machine.committed), (Some(1 << 33), Some(1 << 20)));
        assert_eq!(machine.swap_free, Some((1 << 33) - 7 * 4096));
        assert_eq!(machine.overcommit, Some(Overcommit::Never));
        assert_eq!(machine.huge_pages, Some(crate::huge::Mode::Always));
        assert_eq!(machine.available, None, "the kernel keeps no such figure");
    }

    #[test]
    fn a_process_that_is_gone_or_hidden_and_a_small_buffer_are_errors() {
        let os = FreeBsd::new(answers());
        let gone = os.process_usage(Process::Id(18), Detail::Counters);
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::Gone);
        let small = os.mappings(Process::Own, Detail::Pages, &mut [0; 600], &mut |_| {});
        assert_eq!(small.unwrap_err().kind(), ErrorKind::SmallBuffer { least: 601 });
        let os = FreeBsd::new(answers().refuse(1));
        let denied = os.mappings(Process::Own, Detail::Pages, &mut [0; 4096], &mut |_| {});
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
        let os = FreeBsd::new(answers().name(c"kern.proc_vmmap_skip_resident_count", 1u32));
        os.mappings(Process::Own, Detail::Pages, &mut [0; 4096], &mut |mapping| {
            assert_eq!(mapping.pages.resident, None, "zeros that nobody counted");
        })
        .unwrap();
    }

    #[test]
    fn a_reservation_in_the_listing_is_ours_and_the_rest_is_named() {
        let os = FreeBsd::new(answers());
        let (size, resident, whole) = reconciled(&os, 0x8_1000_0000, 4 << 12);
        assert_eq!((size, resident), (4 << 12, Some(2 << 12)));
        let rest = whole.not_ours(super::super::Group::Unnamed);
        assert_eq!((rest.virtual_size, rest.resident), (12 << 12, Some(5 << 12)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..1200),
            place in 0usize..800,
            damage in proptest::collection::vec(any::<u8>(), 1..6),
        ) {
            let _ = decode(&bytes, 4096);
            let _ = each_entry(&bytes, Some(4096), b"/bin/cat", &mut |_| {});
            let mut listing = listing();
            let place = place % (listing.len() - damage.len());
            put(&mut listing, place, &damage);
            let mut last = 0;
            let _ = each_entry(&listing, Some(4096), b"/bin/cat", &mut |mapping| {
                assert!(mapping.start < mapping.end);
                last += 1;
            });
            assert!(last <= listing.len() / 137);
        }

        #[test]
        fn damaged_answers_are_told_or_refused(damage in damages()) {
            ask_everything(&FreeBsd::new(answers().damaged(&damage)), Detail::Pages);
        }
    }
}
