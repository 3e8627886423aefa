//! OpenBSD: KERN_PROC, VM_UVMEXP, KERN_PROC_VMMAP.

use super::bsd::{CTL_HW, CTL_VM, RLIMIT_MEMLOCK, alive, ask, free_swap, id, number, own_limit};
use super::bytes::{Bytes, put_u64, unreadable};
use super::{
    Detail, MachineUsage, Mapping, MappingKind, NO_LIMIT, PageFigures, PageRun, Process,
    ProcessUsage, Usage, check_buffer, refusal,
};
use crate::os::bsd::CTL_KERN;
use crate::os::openbsd::{OpenBsd, OpenBsdCalls, kinfo_proc as at, process_mib};
use crate::os::unix::{EINVAL, EPERM, RLIMIT_DATA};
use crate::{Errno, Error, ErrorKind, Os, PageRange};

// <sys/sysctl.h>, <uvm/uvmexp.h>.
const KERN_PROC_VMMAP: i32 = 80;
const VM_UVMEXP: i32 = 4;
const HW_PHYSMEM64: i32 = 19;

const KVE_ET_OBJ: u32 = 0x1;
const KVE_ET_SUBMAP: u32 = 0x2;
const KVE_ET_COPYONWRITE: u32 = 0x4;
const KVE_ET_HOLE: u32 = 0x10;
const KVE_ET_STACK: u32 = 0x40;

/// `SDEAD` of `p_stat`: <sys/proc.h>.
const DEAD: u8 = 6;

const ESRCH: Errno = Errno(3);
const ENOMEM: Errno = Errno(12);

impl<K: OpenBsdCalls> Usage for OpenBsd<K> {
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let kernel = self.kernel();
        let mut bytes = [0; at::LEN];
        let told = ask(kernel, &process_mib(id(kernel, process)), &mut bytes)?;
        let usage = decode(told, self.page_size() as u64)?;
        Ok(ProcessUsage {
            // There is no RLIMIT_AS.
            virtual_size_limit: Some(NO_LIMIT),
            data_limit: own_limit(kernel, process, RLIMIT_DATA),
            locked_limit: own_limit(kernel, process, RLIMIT_MEMLOCK),
            ..usage
        })
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let kernel = self.kernel();
        let mut bytes = [0; UVMEXP];
        let pages = ask(kernel, &[CTL_VM, VM_UVMEXP], &mut bytes)?;
        Ok(MachineUsage {
            total: number(kernel, &[CTL_HW, HW_PHYSMEM64]),
            ..decode_machine(Bytes(pages), self.page_size() as u64)
        })
    }

    /// The list comes in pieces, each from the address that the buffer begins with on
    /// (sys/kern/kern_sysctl.c, `sysctl_proc_vmmap`): a whole number of entries, at most
    /// `MAXPHYS` (64 KiB). ENOMEM says that the piece is full and more follows; EINVAL, that the
    /// process is ending, or the kernel's.
    fn mappings(
        &self,
        process: Process,
        _detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error> {
        check_buffer(buffer)?;
        let kernel = self.kernel();
        let mib = [CTL_KERN, KERN_PROC_VMMAP, id(kernel, process)];
        let room = buffer.len().min(64 << 10) / ENTRY * ENTRY;
        let buffer = &mut buffer[..room];
        let mut from = 0;
        loop {
            put_u64(buffer, 0, from);
            let (len, more) = match kernel.sysctl(&mib, buffer) {
                Ok(len) => (len, false),
                Err(ENOMEM) => (room, true),
                Err(errno) => {
                    return Err(refusal(match errno {
                        ESRCH | EINVAL => ErrorKind::Gone,
                        EPERM => ErrorKind::Denied,
                        errno => ErrorKind::System(errno),
                    }));
                }
            };
            let next = each_entry(buffer.get(..len).ok_or(unreadable())?, from, each)?;
            if !more {
                return Ok(());
            }
            from = next.filter(|&next| next > from).ok_or(unreadable())?;
        }
    }

    fn page_runs(
        &self,
        _process: Process,
        _range: PageRange,
        _each: &mut dyn FnMut(&PageRun),
    ) -> Result<(), Error> {
        Err(refusal(ErrorKind::NotSupported))
    }
}

/// `p_vm_map_size` is left at zero.
fn decode(bytes: &[u8], page_size: u64) -> Result<ProcessUsage, Error> {
    let process = alive(bytes, at::LEN, at::P_STAT, DEAD)?;
    let pages = |offset| process.counted_u32(offset, page_size);
    Ok(ProcessUsage {
        resident: pages(at::P_VM_RSSIZE),
        data: pages(at::P_VM_DSIZE),
        stack: pages(at::P_VM_SSIZE),
        user_time: process.time_u32(at::P_UUTIME_SEC),
        system_time: process.time_u32(at::P_USTIME_SEC),
        peak_resident: process.counted_u64(at::P_URU_MAXRSS, 1024),
        minor_faults: process.u64(at::P_URU_MINFLT),
        major_faults: process.u64(at::P_URU_MAJFLT),
        ..ProcessUsage::default()
    })
}

/// What is asked for of `struct uvmexp`.
const UVMEXP: usize = 344;

/// `struct uvmexp` of OpenBSD, 344 bytes, in 32-bit counts of pages: `free` 16, `swpages` 104,
/// `swpginuse` 108.
fn decode_machine(pages: Bytes<'_>, page_size: u64) -> MachineUsage {
    let at = |offset| pages.counted_u32(offset, page_size);
    MachineUsage {
        page_size: Some(page_size),
        free: at(16),
        swap_total: at(104),
        swap_free: free_swap(at(104), at(108)),
        ..MachineUsage::default()
    }
}

/// `sizeof(struct kinfo_vmentry)`: <sys/sysctl.h>, and as a running kernel told them.
const ENTRY: usize = 80;

/// Hands the entries of a piece to `each`. Returns where the last one
/// ends; each begins at `from` or after the one before.
fn each_entry(
    entries: &[u8],
    from: u64,
    each: &mut dyn FnMut(&Mapping<'_>),
) -> Result<Option<u64>, Error> {
    let entries = entries.chunks_exact(ENTRY);
    if !entries.remainder().is_empty() {
        return Err(unreadable());
    }
    let mut last = None;
    for entry in entries {
        let entry = Bytes(entry);
        let (start, end) = entry.u64(0).zip(entry.u64(8)).ok_or(unreadable())?;
        if start < last.unwrap_or(from) || end < start {
            return Err(unreadable());
        }
        last = Some(end);
        // An entry without length only marks where free space begins.
        if let Some(mapping) = mapping(entry).filter(|mapping| mapping.start < mapping.end) {
            each(&mapping);
        }
    }
    Ok(last)
}

/// `struct kinfo_vmentry` of OpenBSD, 80 bytes: `kve_start` 0, `kve_end` 8, `kve_offset` 40,
/// `kve_etype` 52, `kve_protection` 56. Nothing has a name. Private objects are files; a file that
/// is mapped shared cannot be told from shared memory, and is told as that.
fn mapping(entry: Bytes<'_>) -> Option<Mapping<'_>> {
    let flags = entry.u32(52)?;
    let shared = flags & KVE_ET_COPYONWRITE == 0;
    let kind = match flags {
        flags if flags & KVE_ET_HOLE != 0 => return None,
        flags if flags & KVE_ET_STACK != 0 => MappingKind::Stack,
        flags if flags & KVE_ET_SUBMAP != 0 => MappingKind::System,
        flags if flags & KVE_ET_OBJ != 0 && shared => MappingKind::SharedMemory,
        flags if flags & KVE_ET_OBJ != 0 => MappingKind::File,
        _ => MappingKind::Anonymous,
    };
    let protection = entry.u32(56)?;
    Some(Mapping {
        start: entry.address(0)?,
        end: entry.address(8)?,
        readable: protection & 1 != 0,
        writable: protection & 2 != 0,
        executable: protection & 4 != 0,
        shared: Some(shared),
        offset: entry.u64(40)?,
        kind,
        name: b"",
        pages: PageFigures::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::answers::{Answers, OpenBsdKernel, ask_everything, damages, reconciled};
    use super::super::bytes::put;
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Composed from <sys/sysctl.h>.
    fn process() -> Vec<u8> {
        let mut bytes = std::vec![0xee; 648];
        bytes[304] = 2;
        for (offset, value) in
            [(384, 700u32), (392, 300), (396, 20), (420, 1), (424, 5), (428, 0), (432, 9)]
        {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        put(&mut bytes, 440, &8324u64.to_ne_bytes());
        put(&mut bytes, 472, &42u64.to_ne_bytes());
        put(&mut bytes, 480, &3u64.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_process_is_told_in_pages_and_kibibytes() {
        let mut bytes = process();
        let expected = ProcessUsage {
            resident: Some(700 << 12),
            data: Some(300 << 12),
            stack: Some(20 << 12),
            user_time: Some(Duration::from_micros(1_000_005)),
            system_time: Some(Duration::from_micros(9)),
            peak_resident: Some(8324 << 10),
            minor_faults: Some(42),
            major_faults: Some(3),
            ..ProcessUsage::default()
        };
        assert_eq!(decode(&bytes, 4096), Ok(expected));
        bytes[304] = DEAD;
        assert_eq!(decode(&bytes, 4096).unwrap_err().kind(), ErrorKind::Gone);
    }

    /// Composed from <sys/sysctl.h>, 80 bytes as a running kernel told them.
    fn entry(start: u64, npages: u64, etype: u32, protection: u32) -> Vec<u8> {
        let mut bytes = std::vec![0; ENTRY];
        put(&mut bytes, 0, &start.to_ne_bytes());
        put(&mut bytes, 8, &(start + npages * 4096).to_ne_bytes());
        put(&mut bytes, 52, &etype.to_ne_bytes());
        put(&mut bytes, 56, &protection.to_ne_bytes());
        bytes
    }

    fn listing() -> Vec<Vec<u8>> {
        std::vec![
            entry(0x1000, 0, 0, 0),
            entry(0x2000, 4, 0x5, 5),
            entry(0x10_0000, 1 << 20, 0x4, 0),
            entry(0x2_0000_0000, 8, 0x1, 3),
            entry(0x3_0000_0000, 9, 0x10, 0),
            entry(0x4_0000_0000, 16, 0x44, 3),
        ]
    }

    const EXPECTED: [(usize, MappingKind, bool, bool); 4] = [
        (4, MappingKind::File, false, false),
        (1 << 20, MappingKind::Anonymous, false, false),
        (8, MappingKind::SharedMemory, true, true),
        (16, MappingKind::Stack, true, false),
    ];

    /// Entries in a buffer of `LEAST_BUFFER` bytes: six. With less, more pieces.
    fn answers() -> Answers<OpenBsdKernel> {
        Answers::new().number(&[1, 66, 1, 17, 648, 1], process()).entries(
            &[1, 80, 17],
            listing(),
            2,
        )
    }

    #[test]
    fn mappings_come_in_pieces_and_are_told_once() {
        let os = OpenBsd::new(answers());
        let mut seen = Vec::new();
        os.mappings(Process::Own, Detail::Pages, &mut [0; 1024], &mut |mapping| {
            assert_eq!(mapping.pages, PageFigures::default());
            let shared = mapping.shared.unwrap();
            seen.push((mapping.len() / 4096, mapping.kind, mapping.writable, shared));
        })
        .unwrap();
        assert_eq!(seen, EXPECTED);
        let told = os.process_usage(Process::Own, Detail::Counters).unwrap();
        assert_eq!(told.data_limit, Some(1 << 28));
        let gone = os.mappings(Process::Id(18), Detail::Pages, &mut [0; 1024], &mut |_| {});
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::Gone);
    }

    #[test]
    fn a_list_that_goes_back_is_refused_and_ends() {
        let bytes = [entry(0x9000, 1, 0, 3), entry(0x2000, 1, 0, 3)].concat();
        let error = each_entry(&bytes, 0, &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreadable);
        let early = each_entry(&bytes[..ENTRY], 0xa000, &mut |_| {}).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::Unreadable);
    }

    #[test]
    fn a_reservation_in_the_listing_is_ours_and_the_rest_is_named() {
        let os = OpenBsd::new(answers());
        let (size, resident, whole) = reconciled(&os, 0x10_0000, (1 << 20) << 12);
        assert_eq!((size, resident), ((1 << 20) << 12, None));
        let rest = whole.not_ours(super::super::Group::Stacks);
        assert_eq!((rest.virtual_size, rest.resident), (16 << 12, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
            place in 0usize..400,
            damage in proptest::collection::vec(any::<u8>(), 1..6),
        ) {
            let _ = decode(&bytes, 4096);
            let _ = each_entry(&bytes, 0, &mut |_| {});
            let mut listing = listing().concat();
            put(&mut listing, place, &damage);
            let _ = each_entry(&listing, 0, &mut |mapping| assert!(mapping.start < mapping.end));
        }

        #[test]
        fn damaged_answers_are_told_or_refused(damage in damages()) {
            ask_everything(&OpenBsd::new(answers().damaged(&damage)), Detail::Pages);
        }
    }
}
