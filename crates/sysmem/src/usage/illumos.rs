//! illumos and Solaris: /proc, sysconf(3C), swapctl(2).
//!
//! Nothing here was seen: it is read in proc(5) and in <sys/procfs.h>, <sys/swap.h> and
//! <vm/anon.h> of illumos-gate. The structures are those of 64-bit programs, for processes of
//! 64 bits; a 32-bit process is told by the same files.

use super::bsd::own_limit;
use super::bytes::{Bytes, unreadable, until_zero};
use super::files::{File, Path, process_refusal};
use super::residency::{own_pages, resident};
use super::{
    Detail, MachineUsage, Mapping, MappingKind, Overcommit, PageFigures, PageRun, Process,
    ProcessUsage, Usage, check_buffer, refusal,
};
use crate::calls::{Files, Links, SystemPages};
use crate::huge::HugePageControl;
use crate::os::illumos::{Illumos, IllumosCalls, RLIMIT_AS, anonymous_memory, psinfo};
use crate::os::unix::RLIMIT_DATA;
use crate::{Error, ErrorKind, Os, PageRange};

impl<K: IllumosCalls + Files + Links + SystemPages> Usage for Illumos<K> {
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let kernel = self.kernel();
        let open = |name| File::of(kernel, process, name).map_err(process_refusal);
        // Both are for everybody to read.
        let mut bytes = [0; psinfo::LEN];
        let mut usage = decode(open("psinfo")?.fill(&mut bytes).map_err(process_refusal)?)?;
        let mut bytes = [0; PRUSAGE];
        put_usage(&mut usage, open("usage")?.fill(&mut bytes).map_err(process_refusal)?)?;
        // For those who may look only.
        let places = places(kernel, process).unwrap_or_default();
        usage.stack = places.stack.map(|(start, end)| (end - start) as u64);
        usage.virtual_size_limit = own_limit(kernel, process, RLIMIT_AS);
        usage.data_limit = own_limit(kernel, process, RLIMIT_DATA);
        Ok(usage)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let kernel = self.kernel();
        let page_size = self.page_size() as u64;
        let bytes = |pages: Option<u64>| pages.and_then(|pages| pages.checked_mul(page_size));
        let anonymous = anonymous_memory(kernel);
        Ok(MachineUsage {
            page_size: Some(page_size),
            total: bytes(kernel.physical_pages()),
            free: bytes(kernel.free_pages()),
            committed: anonymous.map(|anonymous| anonymous.reserved),
            commit_limit: anonymous.map(|anonymous| anonymous.most),
            overcommit: Some(Overcommit::Never),
            huge_page_size: self.huge_pages().size.map(|size| size as u64),
            ..MachineUsage::default()
        })
    }

    fn mappings(
        &self,
        process: Process,
        detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error> {
        check_buffer(buffer)?;
        let kernel = self.kernel();
        let places = places(kernel, process)?;
        // xmap has the pages, and is built by looking at them; map tells the rest as it is.
        let (file, len) = match detail {
            Detail::Pages => ("xmap", PRXMAP),
            Detail::Counters => ("map", PRMAP),
        };
        let file = File::of(kernel, process, file).map_err(process_refusal)?;
        let (name, entries) = buffer.split_at_mut(buffer.len() / 2);
        let room = entries.len() / len * len;
        let mut offset = 0;
        loop {
            let read = file.read_at(&mut entries[..room], offset).map_err(process_refusal)?;
            let entries = entries.get(..read).ok_or(unreadable())?.chunks_exact(len);
            if !entries.remainder().is_empty() {
                return Err(unreadable());
            }
            for entry in entries {
                let mapping = mapping(Bytes(entry), &places).ok_or(unreadable())?;
                let path = path_of(kernel, process, mapping.name, name);
                each(&Mapping { name: path.unwrap_or(mapping.name), ..mapping });
            }
            if read < room {
                break;
            }
            offset += read as u64;
        }
        // What has ended reads as empty.
        let mut bytes = [0; psinfo::LEN];
        let file = File::of(kernel, process, "psinfo").map_err(process_refusal)?;
        decode(file.fill(&mut bytes).map_err(process_refusal)?).map(drop)
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

fn decode(bytes: &[u8]) -> Result<ProcessUsage, Error> {
    let told = Bytes::of_at_least(bytes, psinfo::LEN)?;
    if told.u32(psinfo::NLWP) == Some(0) {
        return Err(refusal(ErrorKind::Gone));
    }
    Ok(ProcessUsage {
        virtual_size: told.counted_u64(psinfo::SIZE, 1024),
        resident: told.counted_u64(psinfo::RSSIZE, 1024),
        ..ProcessUsage::default()
    })
}

/// `sizeof(prusage_t)`.
const PRUSAGE: usize = 504;

/// `prusage_t`: `pr_utime` 72, `pr_stime` 88, `pr_minf` 328, `pr_majf` 336.
fn put_usage(usage: &mut ProcessUsage, bytes: &[u8]) -> Result<(), Error> {
    let times = Bytes::of_at_least(bytes, PRUSAGE)?;
    usage.user_time = times.timespec(72);
    usage.system_time = times.timespec(88);
    usage.minor_faults = times.u64(328);
    usage.major_faults = times.u64(336);
    Ok(())
}

/// Where the heap behind the program and the first thread's stack are. (What the flags of a mapping
/// say of that is obsolete and unreliable: <sys/procfs.h>.)
#[derive(Clone, Copy, Default)]
struct Places {
    program_break: Option<(usize, usize)>,
    stack: Option<(usize, usize)>,
}

/// `pstatus_t`: `pr_brkbase` 48, `pr_brksize` 56, `pr_stkbase` 64, `pr_stksize` 72.
fn places(kernel: &impl Files, process: Process) -> Result<Places, Error> {
    const UNTIL: usize = 80;
    let file = File::of(kernel, process, "status").map_err(process_refusal)?;
    let mut bytes = [0; UNTIL];
    let status = Bytes::of_at_least(file.fill(&mut bytes).map_err(process_refusal)?, UNTIL)?;
    let place = |offset| {
        let start = status.address(offset)?;
        Some((start, start.checked_add(status.address(offset + 8)?)?))
    };
    Ok(Places { program_break: place(48), stack: place(64) })
}

/// `sizeof(prmap_t)` and `sizeof(prxmap_t)`, which begins in the same way.
const PRMAP: usize = 104;
const PRXMAP: usize = 216;

/// `prmap_t`: `pr_vaddr` 0, `pr_size` 8, `pr_mapname` 16 (64 bytes), `pr_offset` 80, `pr_mflags` 88,
/// `pr_pagesize` 92. `prxmap_t` goes on: `pr_rss` 120, `pr_anon` 128, `pr_locked` 136, in pages of
/// `pr_pagesize`.
fn mapping<'e>(entry: Bytes<'e>, places: &Places) -> Option<Mapping<'e>> {
    // MA_*.
    const EXECUTE: u32 = 0x1;
    const WRITE: u32 = 0x2;
    const READ: u32 = 0x4;
    const SHARED: u32 = 0x8;
    const ANONYMOUS: u32 = 0x40;
    const INTIMATE: u32 = 0x80;
    const SYSTEM_V: u32 = 0x200;
    let flags = entry.u32(88)?;
    let start = entry.address(0)?;
    let end = start.checked_add(entry.address(8)?)?;
    let name = until_zero(entry.0.get(16..80)?);
    let within =
        |place: Option<(usize, usize)>| place.is_some_and(|(from, to)| from < end && start < to);
    let kind = if flags & (INTIMATE | SYSTEM_V) != 0 {
        MappingKind::SharedMemory
    } else if within(places.stack) {
        MappingKind::Stack
    } else if within(places.program_break) && name.is_empty() {
        MappingKind::ProgramBreak
    } else if name == b"a.out" {
        MappingKind::Program
    } else if !name.is_empty() {
        MappingKind::File
    } else if flags & ANONYMOUS != 0 && flags & SHARED != 0 {
        MappingKind::SharedMemory
    } else {
        MappingKind::Anonymous
    };
    let page_size = u64::from(entry.u32(92)?);
    let pages = |offset| entry.counted_u64(offset, page_size);
    (start < end).then_some(Mapping {
        start,
        end,
        readable: flags & READ != 0,
        writable: flags & WRITE != 0,
        executable: flags & EXECUTE != 0,
        shared: Some(flags & SHARED != 0),
        offset: entry.u64(80)?,
        kind,
        name,
        pages: PageFigures {
            resident: pages(120),
            anonymous: pages(128),
            locked: pages(136),
            ..PageFigures::default()
        },
    })
}

/// The path behind a name, which is that of a link in /proc/PID/path.
fn path_of<'b>(
    kernel: &impl Links,
    process: Process,
    name: &[u8],
    buffer: &'b mut [u8],
) -> Option<&'b [u8]> {
    if name.is_empty() {
        return None;
    }
    let mut path = Path::<128>::of(process, "path/")?;
    path.push(name)?;
    let len = kernel.read_link(path.as_c_str()?, buffer).ok().filter(|&len| len > 0)?;
    buffer.get(..len)
}

#[cfg(test)]
mod tests {
    use super::super::answers::{Answers, IllumosKernel, ask_everything, damages, reconciled};
    use super::super::bytes::put;
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Composed from <sys/procfs.h>.
    fn process() -> Vec<u8> {
        let mut bytes = std::vec![0xee; 416];
        put(&mut bytes, 4, &3u32.to_ne_bytes());
        put(&mut bytes, 48, &12_000u64.to_ne_bytes());
        put(&mut bytes, 56, &5_000u64.to_ne_bytes());
        bytes
    }

    fn usage() -> Vec<u8> {
        let mut bytes = std::vec![0xee; PRUSAGE];
        for (offset, value) in [(72, 2u64), (80, 7), (88, 0), (96, 9), (328, 42), (336, 3)] {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        bytes
    }

    fn status() -> Vec<u8> {
        let mut bytes = std::vec![0xee; 600];
        for (offset, value) in [(48, 0x5_0000u64), (56, 0x2000), (64, 0x7fff_0000), (72, 0x1_0000)]
        {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        bytes
    }

    fn entry(start: u64, npages: u64, flags: u32, name: &str) -> Vec<u8> {
        let mut bytes = std::vec![0; PRXMAP];
        put(&mut bytes, 0, &start.to_ne_bytes());
        put(&mut bytes, 8, &(npages * 4096).to_ne_bytes());
        put(&mut bytes, 16, name.as_bytes());
        put(&mut bytes, 88, &flags.to_ne_bytes());
        put(&mut bytes, 92, &4096u32.to_ne_bytes());
        for (offset, value) in [(120, 7u64), (128, 5), (136, 1)] {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        bytes
    }

    fn listing() -> Vec<u8> {
        [
            entry(0x4_0000, 4, 0x5, "a.out"),
            entry(0x5_0000, 2, 0x52, ""),
            entry(0x10_0000, 16, 0x47, ""),
            entry(0x20_0000, 9, 0x5, "zfs.1.2"),
            entry(0x30_0000, 8, 0x4f, ""),
            entry(0x40_0000, 8, 0xcf, ""),
            entry(0x7fff_8000, 8, 0x46, ""),
        ]
        .concat()
    }

    fn answers() -> Answers<IllumosKernel> {
        let mut anonymous = Vec::new();
        for pages in [1000u64, 400, 700] {
            anonymous.extend_from_slice(&pages.to_ne_bytes());
        }
        Answers::new()
            .file("/proc/self/psinfo", process())
            .file("/proc/self/usage", usage())
            .file("/proc/self/status", status())
            .file("/proc/self/xmap", listing())
            .link("/proc/self/path/zfs.1.2", "/lib/libc.so.1")
            .link("/proc/self/path/a.out", "/usr/bin/cat")
            .anonymous(anonymous)
    }

    #[test]
    fn a_process_is_told_in_kibibytes_and_nanoseconds() {
        let os = Illumos::new(answers());
        let told = os.process_usage(Process::Own, Detail::Pages).unwrap();
        let expected = ProcessUsage {
            virtual_size: Some(12_000 << 10),
            resident: Some(5_000 << 10),
            stack: Some(0x1_0000),
            user_time: Some(Duration::new(2, 7)),
            system_time: Some(Duration::new(0, 9)),
            minor_faults: Some(42),
            major_faults: Some(3),
            virtual_size_limit: Some(1 << 28),
            data_limit: Some(1 << 28),
            ..ProcessUsage::default()
        };
        assert_eq!(told, expected);
        let mut zombie = process();
        put(&mut zombie, 4, &0u32.to_ne_bytes());
        assert_eq!(decode(&zombie).unwrap_err().kind(), ErrorKind::Gone);
        let gone = os.process_usage(Process::Id(18), Detail::Pages);
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::Gone);
        let machine = os.machine_usage().unwrap();
        assert_eq!(machine.commit_limit, Some(1000 << 12));
        assert_eq!(machine.committed, Some(700 << 12));
    }

    #[test]
    fn mappings_are_told_with_the_path_behind_their_name() {
        let os = Illumos::new(answers());
        // In pieces of one entry, of two, of all.
        for room in [512, 1024, 8192] {
            let mut seen = Vec::new();
            let mut buffer = std::vec![0; room];
            os.mappings(Process::Own, Detail::Pages, &mut buffer, &mut |mapping| {
                assert_eq!(mapping.pages.resident, Some(7 << 12));
                assert_eq!(mapping.pages.anonymous, Some(5 << 12));
                let shared = mapping.shared.unwrap();
                seen.push((mapping.kind, mapping.name.to_vec(), shared, mapping.writable));
            })
            .unwrap();
            use MappingKind::*;
            let expected = [
                (Program, &b"/usr/bin/cat"[..], false, false),
                (ProgramBreak, b"", false, true),
                (Anonymous, b"", false, true),
                (File, b"/lib/libc.so.1", false, false),
                (SharedMemory, b"", true, true),
                (SharedMemory, b"", true, true),
                (Stack, b"", false, true),
            ];
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(kind, name, shared, writable)| (kind, name.to_vec(), shared, writable))
                .collect();
            assert_eq!(seen, expected, "{room}");
        }
    }

    #[test]
    fn a_reservation_in_the_listing_is_ours_and_the_rest_is_named() {
        let os = Illumos::new(answers());
        let (size, resident, whole) = reconciled(&os, 0x10_0000, 16 << 12);
        assert_eq!((size, resident), (16 << 12, Some(7 << 12)));
        let rest = whole.not_ours(super::super::Group::Stacks);
        assert_eq!((rest.virtual_size, rest.resident), (8 << 12, Some(7 << 12)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
            place in 0usize..700,
            damage in proptest::collection::vec(any::<u8>(), 1..6),
        ) {
            let _ = decode(&bytes);
            let _ = put_usage(&mut ProcessUsage::default(), &bytes);
            let _ = mapping(Bytes(&bytes), &Places::default());
            let mut listing = listing();
            put(&mut listing, place, &damage);
            let os = Illumos::new(answers().file("/proc/self/xmap", listing));
            let mut buffer = [0; 1024];
            let _ = os.mappings(Process::Own, Detail::Pages, &mut buffer, &mut |mapping| {
                assert!(mapping.start < mapping.end);
            });
        }

        #[test]
        fn damaged_answers_are_told_or_refused(damage in damages()) {
            ask_everything(&Illumos::new(answers().damaged(&damage)), Detail::Pages);
        }
    }
}
