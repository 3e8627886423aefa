//! macOS and its kin: libproc, Mach, sysctl(3).
//!
//! Nothing here was seen: it is read in the headers of macOS 15 (<sys/proc_info.h>,
//! <mach/task_info.h>, <mach/vm_statistics.h>, <sys/resource.h>) and in XNU. Mappings come through
//! `proc_pidinfo`, which wants no port of the task: the user's own processes can be looked at
//! without an entitlement.

use core::time::Duration;

use super::bsd::id;
use super::bytes::{Bytes, unreadable, until_zero};
use super::residency::own_pages;
use super::{
    Detail, MachineUsage, Mapping, MappingKind, PageFigures, PageRun, PageState, Process,
    ProcessUsage, Usage, check_buffer, refusal,
};
use crate::calls::{MachStatistics, ResourceUsage, Sysctl, SysctlByName};
use crate::os::bsd::number;
use crate::os::darwin::{Darwin, DarwinCalls};
use crate::os::unix::{EINVAL, EPERM};
use crate::{Errno, Error, ErrorKind, Os, PageRange};

// <sys/proc_info.h>, <sys/resource.h>, <mach/task_info.h>, <mach/host_info.h>.
const PROC_PIDTASKINFO: i32 = 4;
const PROC_PIDREGIONPATHINFO: i32 = 8;
const RUSAGE_INFO_V4: i32 = 4;
const TASK_VM_INFO: u32 = 22;
const HOST_VM_INFO64: i32 = 4;

const PROC_REGION_SUBMAP: u32 = 1;
const SM_SHARED: u32 = 4;
const SM_TRUESHARED: u32 = 5;
const SM_SHARED_ALIASED: u32 = 7;
/// <mach/vm_statistics.h>.
const VM_MEMORY_STACK: u32 = 30;

const ESRCH: Errno = Errno(3);

impl<K> Usage for Darwin<K>
where
    K: DarwinCalls + MachStatistics + ResourceUsage + Sysctl + SysctlByName,
{
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let kernel = self.kernel();
        let id = id(kernel, process);
        let mut bytes = [0; TASK_INFO];
        let len = kernel.process_info(id, PROC_PIDTASKINFO, 0, &mut bytes).map_err(refused)?;
        let mut usage = decode_task(bytes.get(..len).ok_or(unreadable())?)?;
        let mut bytes = [0; RUSAGE_INFO];
        if kernel.process_rusage(id, RUSAGE_INFO_V4, &mut bytes).is_ok() {
            put_rusage(&mut usage, Bytes(&bytes), kernel.clock_ratio());
        }
        if process == Process::Own {
            let mut bytes = [0; VM_INFO];
            if let Some(len) = kernel.own_task_info(TASK_VM_INFO, &mut bytes) {
                put_vm_info(&mut usage, Bytes(bytes.get(..len).unwrap_or_default()));
            }
            let own = kernel.resource_usage();
            usage.user_time = Some(own.user_time);
            usage.system_time = Some(own.system_time);
            usage.minor_faults = Some(own.minor_faults);
            usage.major_faults = Some(own.major_faults);
            usage.page_faults = None;
        }
        Ok(usage)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let kernel = self.kernel();
        let page_size = self.page_size() as u64;
        let mut bytes = [0; VM_STATISTICS];
        let len = kernel.host_statistics(HOST_VM_INFO64, &mut bytes).unwrap_or(0);
        let statistics = Bytes(bytes.get(..len).unwrap_or_default());
        let mut bytes = [0; SWAP_USAGE];
        let len = kernel.sysctl_by_name(c"vm.swapusage", &mut bytes).unwrap_or(0);
        let swap = Bytes(bytes.get(..len).unwrap_or_default());
        Ok(MachineUsage {
            page_size: Some(page_size),
            total: number(kernel, c"hw.memsize"),
            // 1 normal, 2 warning, 4 critical.
            memory_is_short: number(kernel, c"kern.memorystatus_vm_pressure_level")
                .map(|level| level > 1),
            ..decode_machine(statistics, swap, page_size)
        })
    }

    /// Each call tells the first mapping that ends above an address; past the last one it answers
    /// EINVAL (XNU, `fill_procregioninfo`). Page counts are made by looking, with any detail.
    fn mappings(
        &self,
        process: Process,
        _detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error> {
        check_buffer(buffer)?;
        if buffer.len() < REGION + PATH_ROOM {
            return Err(refusal(ErrorKind::SmallBuffer { least: REGION + PATH_ROOM }));
        }
        let kernel = self.kernel();
        let id = id(kernel, process);
        let page_size = self.page_size() as u64;
        let (path, buffer) = buffer.split_at_mut(PATH_ROOM);
        let len = kernel.process_path(id, path).map_err(refused)?;
        let program = until_zero(path.get(..len).unwrap_or_default());
        let region = &mut buffer[..REGION];
        let mut at = 0;
        loop {
            region.fill(0);
            match kernel.process_info(id, PROC_PIDREGIONPATHINFO, at, region) {
                Ok(len) => {
                    let region = Bytes::of_at_least(region.get(..len).unwrap_or_default(), REGION)?;
                    let (mapping, end) = mapping(region, page_size, program).ok_or(unreadable())?;
                    // It never goes back, or the walk would not end.
                    at = Some(end).filter(|&end| end > at).ok_or(unreadable())?;
                    each(&mapping);
                }
                Err(EINVAL) if at > 0 => break,
                Err(errno) => return Err(refused(errno)),
            }
        }
        // What has ended has no mappings either.
        kernel.process_info(id, PROC_PIDTASKINFO, 0, &mut [0; TASK_INFO]).map(drop).map_err(refused)
    }

    fn page_runs(
        &self,
        process: Process,
        range: PageRange,
        each: &mut dyn FnMut(&PageRun),
    ) -> Result<(), Error> {
        let state = |page: &crate::os::PageResidency| PageState {
            resident: page.resident,
            swapped: Some(page.swapped),
            ..PageState::default()
        };
        own_pages(self, process, range, state, each)
    }
}

fn refused(errno: Errno) -> Error {
    refusal(match errno {
        ESRCH => ErrorKind::Gone,
        EPERM => ErrorKind::Denied,
        errno => ErrorKind::System(errno),
    })
}

/// `sizeof(struct proc_taskinfo)`.
const TASK_INFO: usize = 96;

/// `struct proc_taskinfo` of Darwin, 96 bytes: `pti_virtual_size` 0, `pti_resident_size` 8, `pti_faults` 52.
fn decode_task(bytes: &[u8]) -> Result<ProcessUsage, Error> {
    let task = Bytes::of_at_least(bytes, TASK_INFO)?;
    Ok(ProcessUsage {
        virtual_size: task.u64(0),
        resident: task.u64(8),
        page_faults: task.u32(52).map(u64::from),
        ..ProcessUsage::default()
    })
}

/// `sizeof(struct rusage_info_v4)`.
const RUSAGE_INFO: usize = 296;

/// `struct rusage_info_v4` of Darwin, 296 bytes: `ri_user_time` 16, `ri_system_time` 24 in ticks of
/// Mach's clock, `ri_wired_size` 56, `ri_phys_footprint` 72, `ri_lifetime_max_phys_footprint` 240 in bytes.
fn put_rusage(usage: &mut ProcessUsage, info: Bytes<'_>, clock: (u32, u32)) {
    let time = |offset| {
        let ticks = u128::from(info.u64(offset)?);
        let nanoseconds = (ticks * u128::from(clock.0)).checked_div(u128::from(clock.1))?;
        Some(Duration::from_nanos(u64::try_from(nanoseconds).ok()?))
    };
    usage.user_time = time(16);
    usage.system_time = time(24);
    usage.locked = info.u64(56);
    usage.phys_footprint = info.u64(72);
    usage.peak_phys_footprint = info.u64(240);
}

/// `sizeof(struct task_vm_info)`; older systems tell less of it.
const VM_INFO: usize = 372;

/// `struct task_vm_info` of Darwin, 372 bytes: `region_count` 8, `resident_size` 16, `resident_size_peak` 24, `internal`
/// 48, `external` 64, `reusable` 80, `compressed` 120.
fn put_vm_info(usage: &mut ProcessUsage, info: Bytes<'_>) {
    usage.mappings = info.u32(8).map(u64::from);
    usage.peak_resident = info.u64(24);
    usage.resident_anonymous = info.u64(48);
    usage.resident_files = info.u64(64);
    usage.swapped = info.u64(120);
    usage.pages.resident = info.u64(16);
    usage.pages.lazily_freed = info.u64(80);
}

/// Up to `swapped_count`; newer systems have more.
const VM_STATISTICS: usize = 160;

/// `sizeof(struct xsw_usage)`.
const SWAP_USAGE: usize = 32;

/// `struct vm_statistics64` of Darwin: `free_count` 0, `compressor_page_count` 128 in pages.
/// `struct xsw_usage` of Darwin, 32 bytes: `xsu_total` 0, `xsu_avail` 8.
fn decode_machine(pages: Bytes<'_>, swap: Bytes<'_>, page_size: u64) -> MachineUsage {
    MachineUsage {
        free: pages.counted_u32(0, page_size),
        compressor: pages.counted_u32(128, page_size),
        swap_total: swap.u64(0),
        swap_free: swap.u64(8),
        ..MachineUsage::default()
    }
}

/// `sizeof(struct proc_regionwithpathinfo)`, and the room that paths have (`MAXPATHLEN`, four
/// times as much in `proc_pidpath`).
const REGION: usize = 1272;
const PATH_ROOM: usize = 4096;

/// `struct proc_regionwithpathinfo` of Darwin, 1272 bytes: `prp_prinfo.pri_protection` 0,
/// `prp_prinfo.pri_flags` 12, `prp_prinfo.pri_offset` 16, `prp_prinfo.pri_user_wired_count` 28,
/// `prp_prinfo.pri_user_tag` 32, `prp_prinfo.pri_pages_resident` 36,
/// `prp_prinfo.pri_pages_swapped_out` 44, `prp_prinfo.pri_share_mode` 60,
/// `prp_prinfo.pri_private_pages_resident` 64, `prp_prinfo.pri_address` 80, `prp_prinfo.pri_size`
/// 88, `prp_vip.vip_path` 248. Returns the mapping and where the next may begin.
fn mapping<'r>(region: Bytes<'r>, page_size: u64, program: &[u8]) -> Option<(Mapping<'r>, u64)> {
    let (start, len) = (region.u64(80)?, region.u64(88)?);
    let end = start.checked_add(len).filter(|&end| end > start)?;
    let path = region.text(248);
    let tag = region.u32(32)?;
    let shared = [SM_SHARED, SM_TRUESHARED, SM_SHARED_ALIASED].contains(&region.u32(60)?);
    let (kind, name) = match tag {
        _ if !path.is_empty() && path == program => (MappingKind::Program, path),
        _ if !path.is_empty() => (MappingKind::File, path),
        // The libraries that all processes share are mapped as one.
        _ if region.u32(12)? & PROC_REGION_SUBMAP != 0 => (MappingKind::File, path),
        VM_MEMORY_STACK => (MappingKind::Stack, path),
        _ if shared => (MappingKind::SharedMemory, path),
        tag => match tag_name(tag) {
            Some(name) => (MappingKind::Named, name),
            None => (MappingKind::Anonymous, path),
        },
    };
    let pages = |offset| region.counted_u32(offset, page_size);
    let protection = region.u32(0)?;
    let mapping = Mapping {
        start: usize::try_from(start).ok()?,
        end: usize::try_from(end).ok()?,
        readable: protection & 1 != 0,
        writable: protection & 2 != 0,
        executable: protection & 4 != 0,
        shared: Some(shared),
        offset: region.u64(16)?,
        kind,
        name,
        pages: PageFigures {
            resident: pages(36),
            private: pages(64),
            swapped: pages(44),
            locked: Some(if region.u32(28)? > 0 { len } else { 0 }),
            ..PageFigures::default()
        },
    };
    Some((mapping, end))
}

/// What memory was tagged with when it was mapped, by the names of <mach/vm_statistics.h>.
fn tag_name(tag: u32) -> Option<&'static [u8]> {
    Some(match tag {
        1 => b"MALLOC",
        2 => b"MALLOC_SMALL",
        3 => b"MALLOC_LARGE",
        4 => b"MALLOC_HUGE",
        6 => b"REALLOC",
        7 => b"MALLOC_TINY",
        8 => b"MALLOC_LARGE_REUSABLE",
        9 => b"MALLOC_LARGE_REUSED",
        11 => b"MALLOC_NANO",
        12 => b"MALLOC_MEDIUM",
        13 => b"MALLOC_PROB_GUARD",
        20 => b"MACH_MSG",
        21 => b"IOKIT",
        31 => b"GUARD",
        33 => b"DYLIB",
        44 => b"JAVA",
        53 => b"TCMALLOC",
        60 => b"DYLD",
        61 => b"DYLD_MALLOC",
        62 => b"SQLITE",
        63 => b"JAVASCRIPT_CORE",
        64 => b"JAVASCRIPT_JIT_EXECUTABLE_ALLOCATOR",
        73 => b"OS_ALLOC_ONCE",
        74 => b"LIBDISPATCH",
        82 => b"SWIFT_RUNTIME",
        99 => b"SANITIZER",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
