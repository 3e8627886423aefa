//! DragonFly BSD: KERN_PROC, vm.stats, and /proc/PID/map, because no sysctl tells mappings.
//!
//! Nothing here was seen: it is read in the sources of 6.4.

use super::bsd::{RLIMIT_MEMLOCK, alive, ask, free_swap, id, own_limit, rusage};
use super::bytes::{unreadable, until_zero};
use super::lines::number as decimal;
use super::residency::{own_pages, resident};
use super::{
    Detail, MachineUsage, Mapping, MappingKind, PageFigures, PageRun, Process, ProcessUsage, Usage,
    check_buffer, refusal,
};
use crate::calls::{Files, Sysctl, SysctlByName};
use crate::os::bsd::{CTL_KERN, KERN_PROC_PID, RLIMIT_AS, number};
use crate::os::dragonfly::{DragonFly, DragonFlyCalls, KERN_PROC, kinfo_proc as at};
use crate::os::unix::{EPERM, RLIMIT_DATA};
use crate::{Errno, Error, ErrorKind, Os, PageRange};

// <sys/sysctl.h>.
const KERN_PROC_PATHNAME: i32 = 9;

/// `SZOMB` of `enum procstat`: <sys/proc_common.h>.
const ZOMBIE: u8 = 4;

const ENOENT: Errno = Errno(2);
const EACCES: Errno = Errno(13);
const EFBIG: Errno = Errno(27);

impl<K: DragonFlyCalls + Files + Sysctl + SysctlByName> Usage for DragonFly<K> {
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let kernel = self.kernel();
        let mut bytes = [0; at::ROOM];
        let mib = [CTL_KERN, KERN_PROC, KERN_PROC_PID, id(kernel, process)];
        let usage = decode(ask(kernel, &mib, &mut bytes)?, self.page_size() as u64)?;
        Ok(ProcessUsage {
            virtual_size_limit: own_limit(kernel, process, RLIMIT_AS),
            data_limit: own_limit(kernel, process, RLIMIT_DATA),
            locked_limit: own_limit(kernel, process, RLIMIT_MEMLOCK),
            mappings_limit: number(kernel, c"vm.max_proc_mmap"),
            ..usage
        })
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let kernel = self.kernel();
        let page_size = self.page_size() as u64;
        let pages = |name| number(kernel, name)?.checked_mul(page_size);
        let swap_total = pages(c"vm.swap_size");
        // Swap also caches files (swapcache(8)).
        let used = pages(c"vm.swap_anon_use").zip(pages(c"vm.swap_cache_use"));
        let used = used.and_then(|(anonymous, cache)| anonymous.checked_add(cache));
        Ok(MachineUsage {
            page_size: Some(page_size),
            total: number(kernel, c"hw.physmem"),
            free: pages(c"vm.stats.vm.v_free_count"),
            swap_total,
            swap_free: free_swap(swap_total, used),
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
        let id = id(kernel, process);
        let mut process = [0; at::ROOM];
        ask(kernel, &[CTL_KERN, KERN_PROC, KERN_PROC_PID, id], &mut process)?;
        let mut path = [0; 1024];
        let mib = [CTL_KERN, KERN_PROC, KERN_PROC_PATHNAME, id];
        let program = ask(kernel, &mib, &mut path).map(until_zero).unwrap_or_default();
        each_line(read_map(kernel, id, buffer)?, self.page_size() as u64, program, each)
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

/// Reads /proc/PID/map at once: from any other place than its beginning it reads as empty, and
/// EFBIG says that the buffer is too small (sys/vfs/procfs/procfs_map.c).
fn read_map<'b>(kernel: &impl Files, id: i32, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
    let mut path = super::files::Path::<32>::new();
    // Ten digits at most.
    let _ = core::fmt::Write::write_fmt(&mut path, format_args!("/proc/{id}/map"));
    let room = buffer.len();
    let refused = |errno| {
        refusal(match errno {
            // The process was there a moment ago: /proc is not mounted.
            ENOENT => ErrorKind::NotSupported,
            EPERM | EACCES => ErrorKind::Denied,
            EFBIG => ErrorKind::SmallBuffer { least: room + 1 },
            errno => ErrorKind::System(errno),
        })
    };
    let file = kernel.open(path.as_c_str().ok_or(unreadable())?).map_err(refused)?;
    let read = kernel.read_at(file, buffer, 0);
    kernel.close(file);
    let text = buffer.get(..read.map_err(refused)?).unwrap_or_default();
    match text.is_empty() {
        true => Err(refusal(ErrorKind::Gone)),
        false => Ok(text),
    }
}

/// Up to where it is read.
const LEN: usize = 512;

fn decode(bytes: &[u8], page_size: u64) -> Result<ProcessUsage, Error> {
    let process = alive(bytes, LEN, at::STAT, ZOMBIE)?;
    let pages = |offset| process.counted_u64(offset, page_size);
    Ok(ProcessUsage {
        virtual_size: process.u64(at::MAP_SIZE),
        resident: pages(at::RSSIZE),
        data: pages(at::DSIZE),
        stack: pages(at::SSIZE),
        pages: PageFigures {
            proportional: process.counted_u32(at::PRSSIZE, page_size),
            ..PageFigures::default()
        },
        ..rusage(process, at::RUSAGE)
    })
}

/// Lines as "0x400000 0x423000 12 3 0xfffff8 r-x 2 1 0x1000 COW NC vnode /bin/cat": start, end,
/// resident and private pages, the object, access, some counters (fewer in some versions), whether
/// writes copy, whether they have not yet, type and path ("-" for none).
fn each_line(
    text: &[u8],
    page_size: u64,
    program: &[u8],
    each: &mut dyn FnMut(&Mapping<'_>),
) -> Result<(), Error> {
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        each(&mapping(line, page_size, program).ok_or(unreadable())?);
    }
    Ok(())
}

fn mapping<'t>(line: &'t [u8], page_size: u64, program: &[u8]) -> Option<Mapping<'t>> {
    let hexadecimal = |word: &[u8]| {
        let digits = core::str::from_utf8(word.strip_prefix(b"0x")?).ok()?;
        usize::from_str_radix(digits, 16).ok()
    };
    let mut words = line.split(|&byte| byte == b' ');
    let (start, end) = (hexadecimal(words.next()?)?, hexadecimal(words.next()?)?);
    // A count that nobody could hold is not one: "-1".
    let pages = |word: &[u8]| decimal(word)?.checked_mul(page_size);
    let (resident, private) = (pages(words.next()?), pages(words.next()?));
    let access = words.nth(1)?;
    words.find(|word| matches!(*word, b"COW" | b"NCOW"))?;
    let kind = words.nth(1)?;
    // The path is the rest of the line; it may hold blanks.
    let name = match words.next()? {
        b"-" => b"",
        first => &line[first.as_ptr().addr() - line.as_ptr().addr()..],
    };
    let kind = match kind {
        b"vnode" if !program.is_empty() && name == program => MappingKind::Program,
        b"vnode" => MappingKind::File,
        b"default" | b"swap" | b"none" => MappingKind::Anonymous,
        _ => MappingKind::System,
    };
    let [readable, writable, executable] = access.try_into().ok()?;
    (start < end).then_some(Mapping {
        start,
        end,
        readable: readable == b'r',
        writable: writable == b'w',
        executable: executable == b'x',
        shared: None,
        offset: 0,
        kind,
        name,
        pages: PageFigures { resident, private, ..PageFigures::default() },
    })
}

#[cfg(test)]
mod tests {
    use super::super::answers::{Answers, DragonFlyKernel, ask_everything, damages, reconciled};
    use super::super::bytes::put;
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    /// Composed from <sys/kinfo.h>.
    fn process() -> Vec<u8> {
        let mut bytes = std::vec![0xee; 1000];
        put(&mut bytes, 12, &2u32.to_ne_bytes());
        for (offset, value) in [
            (312, 128_364_544u64),
            (320, 1000),
            (344, 500),
            (352, 32),
            (368, 2),
            (376, 500_000),
            (384, 1),
            (392, 7),
            (400, 8032),
            (432, 4711),
            (440, 12),
        ] {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        put(&mut bytes, 360, &900u32.to_ne_bytes());
        bytes
    }

    /// Composed from the format in sys/vfs/procfs/procfs_map.c; the fourth line with the fewer
    /// counters of later versions.
    const MAP: &str = "\
0x400000 0x423000 12 3 0xfffff80012345678 r-x 2 1 0x1000 COW NC vnode /bin/cat
0x800000000 0x800009000 7 0 0xfffff80012345679 r-- 9 1 0x1000 COW NNC vnode /lib/my lib.so
0x801000000 0x801010000 5 5 0xfffff8001234567a rw- 1 0 0x2180 NCOW NNC default -
0x802000000 0x803000000 0 0 0 --- 0 0x0000 NCOW NNC none -
0x7fffffffe000 0x800000000000 1 0 0xfffff8001234567b rw- 3 0 0x0 NCOW NNC device -
";

    fn answers() -> Answers<DragonFlyKernel> {
        Answers::new()
            .number(&[1, 14, 1, 17], process())
            .number(&[1, 14, 9, 17], b"/bin/cat\0".to_vec())
            .file("/proc/17/map", MAP.as_bytes().to_vec())
            .name(c"vm.max_proc_mmap", 65_536u32)
            .name(c"hw.physmem", 1u64 << 34)
            .name(c"vm.stats.vm.v_free_count", 1u64 << 10)
            .name(c"vm.swap_size", 100u64)
            .name(c"vm.swap_anon_use", 20u64)
            .name(c"vm.swap_cache_use", 10u64)
    }

    #[test]
    fn a_process_is_told_with_its_proportional_size() {
        let os = DragonFly::new(answers());
        let told = os.process_usage(Process::Id(17), Detail::Counters).unwrap();
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
            mappings_limit: Some(65_536),
            pages: PageFigures { proportional: Some(900 << 12), ..PageFigures::default() },
            ..ProcessUsage::default()
        };
        assert_eq!(told, expected);
        let own = os.process_usage(Process::Own, Detail::Counters).unwrap();
        assert_eq!(own.data_limit, Some(1 << 28));
        let machine = os.machine_usage().unwrap();
        assert_eq!((machine.total, machine.free), (Some(1 << 34), Some(1 << 22)));
        assert_eq!((machine.swap_total, machine.swap_free), (Some(100 << 12), Some(70 << 12)));
        let mut zombie = process();
        zombie[12] = ZOMBIE;
        assert_eq!(decode(&zombie, 4096).unwrap_err().kind(), ErrorKind::Gone);
    }

    #[test]
    fn mappings_are_read_from_proc_whatever_their_counters() {
        let os = DragonFly::new(answers());
        let mut seen = Vec::new();
        os.mappings(Process::Own, Detail::Pages, &mut [0; 2048], &mut |mapping| {
            let name = String::from_utf8(mapping.name.to_vec()).unwrap();
            let resident = mapping.pages.resident.unwrap() / 4096;
            seen.push((mapping.len() / 4096, mapping.kind, name, mapping.executable, resident));
        })
        .unwrap();
        use MappingKind::*;
        let expected = [
            (35, Program, "/bin/cat", true, 12),
            (9, File, "/lib/my lib.so", false, 7),
            (16, Anonymous, "", false, 5),
            (4096, Anonymous, "", false, 0),
            (2, System, "", false, 1),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(len, kind, name, executable, n)| (len, kind, name.into(), executable, n))
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn without_proc_or_without_the_process_it_says_so() {
        let mut buffer = [0; 2048];
        let unmounted = Answers::<DragonFlyKernel>::new().number(&[1, 14, 1, 17], process());
        let os = DragonFly::new(unmounted);
        let refused = os.mappings(Process::Own, Detail::Pages, &mut buffer, &mut |_| {});
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotSupported);
        let os = DragonFly::new(answers().file("/proc/17/map", Vec::new()));
        let ended = os.mappings(Process::Own, Detail::Pages, &mut buffer, &mut |_| {});
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Gone);
        let gone = os.mappings(Process::Id(18), Detail::Pages, &mut buffer, &mut |_| {});
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::Gone);
    }

    #[test]
    fn a_reservation_in_the_listing_is_ours_and_the_rest_is_named() {
        let os = DragonFly::new(answers());
        let (size, resident, whole) = reconciled(&os, 0x801000000, 16 << 12);
        assert_eq!((size, resident), (16 << 12, Some(5 << 12)));
        let rest = whole.not_ours(super::super::Group::Program);
        assert_eq!((rest.virtual_size, rest.resident), (35 << 12, Some(12 << 12)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
            place in 0..MAP.len(),
            damage in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let _ = decode(&bytes, 4096);
            let _ = each_line(&bytes, 4096, b"/bin/cat", &mut |_| {});
            let mut text = MAP.as_bytes().to_vec();
            text.splice(place..(place + damage.len()).min(MAP.len()), damage);
            let _ = each_line(&text, 4096, b"/bin/cat", &mut |mapping| {
                assert!(mapping.start < mapping.end);
            });
        }

        #[test]
        fn damaged_answers_are_told_or_refused(damage in damages()) {
            ask_everything(&DragonFly::new(answers().damaged(&damage)), Detail::Pages);
        }
    }
}
