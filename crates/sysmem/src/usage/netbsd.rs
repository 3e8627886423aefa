//! NetBSD: KERN_PROC2, proc.PID.rlimit, VM_UVMEXP2, vm.proc.map.

use super::bsd::{CTL_HW, CTL_VM, alive, ask, free_swap, id, number, put_limits};
use super::bytes::{Bytes, unreadable};
use super::residency::{own_pages, resident};
use super::{
    Detail, MachineUsage, Mapping, MappingKind, PageFigures, PageRun, Process, ProcessUsage, Usage,
    check_buffer,
};
use crate::huge::HugePageControl;
use crate::os::netbsd::{NetBsd, NetBsdCalls, kinfo_proc2 as at, process_mib};
use crate::{Error, Os, PageRange};

// <sys/sysctl.h>, <uvm/uvm_param.h>.
const CTL_PROC: i32 = 10;
const PROC_PID_LIMIT: i32 = 2;
const PROC_PID_LIMIT_TYPE_SOFT: i32 = 1;
const VM_UVMEXP2: i32 = 5;
const VM_PROC: i32 = 16;
const VM_PROC_MAP: i32 = 1;
const HW_PHYSMEM64: i32 = 13;

const KVME_TYPE_VNODE: u32 = 2;
const KVME_TYPE_KERN: u32 = 3;
const KVME_TYPE_DEVICE: u32 = 4;
const KVME_TYPE_SUBMAP: u32 = 6;
const KVME_FLAG_GROWS_DOWN: u32 = 0x20;

/// `LSZOMB` of `p_stat`: <sys/lwp.h>.
const ZOMBIE: u8 = 5;

impl<K: NetBsdCalls> Usage for NetBsd<K> {
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let kernel = self.kernel();
        let id = id(kernel, process);
        let mut bytes = [0; at::LEN];
        let told = ask(kernel, &process_mib(id), &mut bytes)?;
        let mut usage = decode(told, self.page_size() as u64)?;
        put_limits(&mut usage, |resource| {
            let soft = PROC_PID_LIMIT_TYPE_SOFT;
            number(kernel, &[CTL_PROC, id, PROC_PID_LIMIT, resource + 1, soft])
        });
        Ok(usage)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let kernel = self.kernel();
        let mut bytes = [0; UVMEXP];
        let page_size = self.page_size() as u64;
        let pages = ask(kernel, &[CTL_VM, VM_UVMEXP2], &mut bytes)?;
        Ok(MachineUsage {
            total: number(kernel, &[CTL_HW, HW_PHYSMEM64]),
            huge_page_size: self.huge_pages().size.map(|size| size as u64),
            ..decode_machine(Bytes(pages), page_size)
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
        let id = id(kernel, process);
        // The kernel tells the length that it was asked for of each entry, and the whole list at
        // once: a process that ends later has been told.
        let mib = [CTL_VM, VM_PROC, VM_PROC_MAP, id, ENTRY as i32];
        each_entry(ask(kernel, &mib, buffer)?, each)
    }

    fn page_runs(
        &self,
        process: Process,
        range: PageRange,
        each: &mut dyn FnMut(&PageRun),
    ) -> Result<(), Error> {
        own_pages(self, process, range, resident, each)
    }
}

/// `p_uru_maxrss` is always 0.
fn decode(bytes: &[u8], page_size: u64) -> Result<ProcessUsage, Error> {
    let process = alive(bytes, at::LEN, at::P_STAT, ZOMBIE)?;
    let pages = |offset| process.counted_u32(offset, page_size);
    Ok(ProcessUsage {
        virtual_size: pages(at::P_VM_VSIZE),
        resident: pages(at::P_VM_RSSIZE),
        data: pages(at::P_VM_DSIZE),
        stack: pages(at::P_VM_SSIZE),
        user_time: process.time_u32(at::P_UUTIME_SEC),
        system_time: process.time_u32(at::P_USTIME_SEC),
        minor_faults: process.u64(at::P_URU_MINFLT),
        major_faults: process.u64(at::P_URU_MAJFLT),
        ..ProcessUsage::default()
    })
}

/// What is asked for of `struct uvmexp_sysctl`.
const UVMEXP: usize = 712;

/// `struct uvmexp_sysctl` of NetBSD, 712 bytes, in 64-bit counts of pages: `free` 32, `swpages` 136,
/// `swpginuse` 144.
fn decode_machine(pages: Bytes<'_>, page_size: u64) -> MachineUsage {
    let at = |offset| pages.counted_u64(offset, page_size);
    MachineUsage {
        page_size: Some(page_size),
        free: at(32),
        swap_total: at(136),
        swap_free: free_swap(at(136), at(144)),
        ..MachineUsage::default()
    }
}

/// `sizeof(struct kinfo_vmentry)`: <sys/sysctl.h>.
const ENTRY: usize = 1128;

fn each_entry(entries: &[u8], each: &mut dyn FnMut(&Mapping<'_>)) -> Result<(), Error> {
    let entries = entries.chunks_exact(ENTRY);
    if !entries.remainder().is_empty() {
        return Err(unreadable());
    }
    for entry in entries {
        each(&mapping(Bytes(entry)).ok_or(unreadable())?);
    }
    Ok(())
}

/// `struct kinfo_vmentry` of NetBSD, 1128 bytes: `kve_start` 0, `kve_end` 8, `kve_offset` 16,
/// `kve_type` 24, `kve_flags` 28, `kve_protection` 48, `kve_path` 104. How many pages are resident
/// is not told: `kve_count` is of the object behind, which other mappings may share.
fn mapping(entry: Bytes<'_>) -> Option<Mapping<'_>> {
    let (name, kind) = (entry.text(104), entry.u32(24)?);
    let kind = match kind {
        _ if entry.u32(28)? & KVME_FLAG_GROWS_DOWN != 0 => MappingKind::Stack,
        KVME_TYPE_VNODE => MappingKind::File,
        KVME_TYPE_KERN | KVME_TYPE_DEVICE | KVME_TYPE_SUBMAP => MappingKind::System,
        // None, object, anonymous, unknown.
        _ => MappingKind::Anonymous,
    };
    let protection = entry.u32(48)?;
    let (start, end) = (entry.address(0)?, entry.address(8)?);
    (start < end).then_some(Mapping {
        start,
        end,
        readable: protection & 1 != 0,
        writable: protection & 2 != 0,
        executable: protection & 4 != 0,
        shared: None,
        offset: entry.u64(16)?,
        kind,
        name,
        pages: PageFigures::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::answers::{Answers, NetBsdKernel, ask_everything, damages, reconciled};
    use super::super::bytes::put;
    use super::*;
    use crate::ErrorKind;
    use core::time::Duration;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Composed from <sys/sysctl.h>.
    fn process() -> Vec<u8> {
        let mut bytes = std::vec![0xee; 680];
        bytes[360] = 2;
        for (offset, value) in [
            (664, 3000u32),
            (432, 700),
            (440, 300),
            (444, 20),
            (464, 1),
            (468, 5),
            (472, 0),
            (476, 9),
        ] {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        put(&mut bytes, 512, &42u64.to_ne_bytes());
        put(&mut bytes, 520, &3u64.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_process_is_told_in_pages() {
        let mut bytes = process();
        let expected = ProcessUsage {
            virtual_size: Some(3000 << 12),
            resident: Some(700 << 12),
            data: Some(300 << 12),
            stack: Some(20 << 12),
            user_time: Some(Duration::from_micros(1_000_005)),
            system_time: Some(Duration::from_micros(9)),
            minor_faults: Some(42),
            major_faults: Some(3),
            ..ProcessUsage::default()
        };
        assert_eq!(decode(&bytes, 4096), Ok(expected));
        bytes[360] = ZOMBIE;
        assert_eq!(decode(&bytes, 4096).unwrap_err().kind(), ErrorKind::Gone);
    }

    /// Composed from <sys/sysctl.h>.
    fn entry(
        kind: u32,
        start: u64,
        npages: u64,
        flags: u32,
        protection: u32,
        path: &str,
    ) -> Vec<u8> {
        let mut bytes = std::vec![0; ENTRY];
        put(&mut bytes, 0, &start.to_ne_bytes());
        put(&mut bytes, 8, &(start + npages * 4096).to_ne_bytes());
        put(&mut bytes, 16, &4096u64.to_ne_bytes());
        put(&mut bytes, 24, &kind.to_ne_bytes());
        put(&mut bytes, 28, &flags.to_ne_bytes());
        put(&mut bytes, 48, &protection.to_ne_bytes());
        put(&mut bytes, 104, path.as_bytes());
        bytes
    }

    fn listing() -> Vec<u8> {
        [
            entry(2, 0x20_0000, 4, 1, 5, "/bin/cat"),
            entry(255, 0x7000_0000, 100, 0, 3, ""),
            entry(5, 0x7100_0000, 1 << 18, 0, 0, ""),
            entry(255, 0x7fff_0000, 16, 0x20, 3, ""),
            entry(4, 0x7fff_8000_0000, 1, 0, 3, "/dev/fb0"),
        ]
        .concat()
    }

    #[test]
    fn mappings_are_told_with_kind_and_path() {
        let mut seen = Vec::new();
        each_entry(&listing(), &mut |mapping| {
            assert_eq!(mapping.pages, PageFigures::default());
            assert_eq!(mapping.offset, 4096);
            seen.push((
                mapping.len() / 4096,
                mapping.kind,
                mapping.name.to_vec(),
                mapping.writable,
            ));
        })
        .unwrap();
        let expected = [
            (4, MappingKind::File, b"/bin/cat".to_vec(), false),
            (100, MappingKind::Anonymous, Vec::new(), true),
            (1 << 18, MappingKind::Anonymous, Vec::new(), false),
            (16, MappingKind::Stack, Vec::new(), true),
            (1, MappingKind::System, b"/dev/fb0".to_vec(), true),
        ];
        assert_eq!(seen, expected);
        let cut = each_entry(&listing()[..ENTRY + 5], &mut |_| {});
        assert_eq!(cut.unwrap_err().kind(), ErrorKind::Unreadable);
    }

    fn answers() -> Answers<NetBsdKernel> {
        let mut pages = std::vec![0xee; 712];
        for (offset, value) in [(32, 5u64), (136, 70), (144, 30)] {
            put(&mut pages, offset, &value.to_ne_bytes());
        }
        let number = |value: u64| value.to_ne_bytes().to_vec();
        Answers::new()
            .number(&[1, 47, 1, 17, 680, 1], process())
            .number(&[10, 17, 2, 11, 1], number(i64::MAX as u64))
            .number(&[10, 17, 2, 3, 1], number(256 << 20))
            .number(&[10, 17, 2, 7, 1], number(64 << 10))
            .number(&[2, 5], pages)
            .number(&[6, 13], number(1 << 28))
            .number(&[2, 16, 1, 17, 1128], listing())
    }

    #[test]
    fn the_kernel_is_asked_for_what_it_has() {
        let os = NetBsd::new(answers());
        let told = os.process_usage(Process::Own, Detail::Counters).unwrap();
        assert_eq!(told.virtual_size_limit, Some(super::super::NO_LIMIT));
        assert_eq!((told.data_limit, told.locked_limit), (Some(256 << 20), Some(64 << 10)));
        assert_eq!(told.peak_resident, None, "always 0 there");
        let machine = os.machine_usage().unwrap();
        assert_eq!((machine.total, machine.free), (Some(1 << 28), Some(5 << 12)));
        assert_eq!((machine.swap_total, machine.swap_free), (Some(70 << 12), Some(40 << 12)));
        let mut count = 0;
        let mut buffer = std::vec![0; 8192];
        os.mappings(Process::Id(17), Detail::Pages, &mut buffer, &mut |_| count += 1).unwrap();
        assert_eq!(count, 5);
        let gone = os.mappings(Process::Id(18), Detail::Pages, &mut buffer, &mut |_| {});
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::Gone);
    }

    #[test]
    fn a_reservation_in_the_listing_is_ours_and_the_rest_is_named() {
        let os = NetBsd::new(answers());
        let (size, resident, whole) = reconciled(&os, 0x7000_0000, 100 << 12);
        assert_eq!((size, resident), (100 << 12, Some(50 << 12)));
        let rest = whole.not_ours(super::super::Group::Stacks);
        assert_eq!((rest.virtual_size, rest.resident), (16 << 12, Some(8 << 12)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2600),
            place in 0usize..ENTRY,
            damage in proptest::collection::vec(any::<u8>(), 1..6),
        ) {
            let _ = decode(&bytes, 4096);
            let _ = each_entry(&bytes, &mut |_| {});
            let mut listing = listing();
            put(&mut listing, place, &damage);
            let _ = each_entry(&listing, &mut |mapping| assert!(mapping.start < mapping.end));
        }

        #[test]
        fn damaged_answers_are_told_or_refused(damage in damages()) {
            ask_everything(&NetBsd::new(answers().damaged(&damage)), Detail::Counters);
        }
    }
}
