//! Windows: the process status helpers (PSAPI), `VirtualQueryEx`, jobs.
//!
//! Read in Microsoft's reference of the calls and in the headers of mingw-w64; seen under Wine only.
//! The structures are those of 64-bit programs.

use core::time::Duration;

use super::bytes::{Bytes, unreadable};
use super::residency::Runs;
use super::{
    ControlGroup, Detail, MachineUsage, Mapping, MappingKind, NO_LIMIT, Overcommit, PageFigures,
    PageRun, PageState, Process, ProcessUsage, Usage, check_buffer, refusal,
};
use crate::calls::{ProcessStatistics, VirtualMemory, WorkingSetPage};
use crate::os::windows::{MEM_COMMIT, Windows};
use crate::{Errno, Error, ErrorKind, Operation, Os, PageRange};

// winerror.h.
const ERROR_ACCESS_DENIED: Errno = Errno(5);
const ERROR_INVALID_PARAMETER: Errno = Errno(87);

// winnt.h.
const MEM_FREE: u32 = 0x1_0000;
const MEM_MAPPED: u32 = 0x4_0000;
const MEM_IMAGE: u32 = 0x100_0000;
/// A page that faults once, whatever else is allowed.
const PAGE_GUARD: u32 = 0x100;
const JOB_OBJECT_LIMIT_PROCESS_MEMORY: u32 = 0x100;
const JOB_OBJECT_LIMIT_JOB_MEMORY: u32 = 0x200;

/// Bits of `PSAPI_WORKING_SET_EX_BLOCK`.
const VALID: usize = 1;
const SHARED: usize = 1 << 15;
const LARGE_PAGE: usize = 1 << 23;

impl<K: VirtualMemory + ProcessStatistics> Usage for Windows<K> {
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let process = Opened::open(self.kernel(), process)?;
        let mut bytes = [0; COUNTERS];
        process.kernel.memory_counters(process.handle, &mut bytes).map_err(refused)?;
        let mut usage = decode(&bytes)?;
        // In units of 100 ns.
        let times = process.kernel.process_times(process.handle).ok();
        let time = |units: u64| Some(Duration::from_nanos(units.checked_mul(100)?));
        usage.system_time = times.and_then(|(system, _)| time(system));
        usage.user_time = times.and_then(|(_, user)| time(user));
        process.alive()?;
        Ok(usage)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let kernel = self.kernel();
        let mut bytes = [0; PERFORMANCE];
        kernel.performance(&mut bytes).map_err(refused)?;
        let mut usage = decode_machine(&bytes)?;
        let files = kernel.page_files();
        let pages = |pages: usize| (pages as u64).checked_mul(self.page_size() as u64);
        usage.swap_total = files.and_then(|(total, _)| pages(total));
        usage.swap_free = files.and_then(|(total, used)| pages(total.checked_sub(used)?));
        // Zero says that the processor has none.
        usage.huge_page_size =
            Some(kernel.large_page_minimum() as u64).filter(|&minimum| minimum > 0);
        usage.memory_is_short = kernel.memory_is_short();
        Ok(usage)
    }

    /// Only the calling process can ask for its job.
    fn control_group(&self, process: Process) -> Result<ControlGroup, Error> {
        let mut bytes = [0; LIMITS];
        match process {
            Process::Own if self.kernel().own_job_limits(&mut bytes).is_ok() => decode_job(&bytes),
            _ => Ok(ControlGroup::default()),
        }
    }

    fn mappings(
        &self,
        process: Process,
        detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error> {
        check_buffer(buffer)?;
        let process = Opened::open(self.kernel(), process)?;
        let (kernel, handle) = (process.kernel, process.handle);
        let mut wide = [0; 1024];
        let program = kernel.program_base(handle);
        let mut at = 0;
        loop {
            let mut bytes = [0; REGION];
            // Past the end of the address space it is refused as a wrong parameter.
            match kernel.query_region(handle, at, &mut bytes) {
                Ok(()) => {}
                Err(ERROR_INVALID_PARAMETER) if at > 0 => break,
                Err(errno) => return Err(refused(errno)),
            }
            let region = Region::decode(Bytes(&bytes)).ok_or(unreadable())?;
            // It never goes back, or the walk would not end.
            let (start, end) = (region.start, region.end);
            at = Some(end).filter(|&end| end > at).ok_or(unreadable())?;
            if region.free {
                continue;
            }
            let len = match region.backed {
                true => kernel.mapped_file(handle, start, &mut wide).unwrap_or(0),
                false => 0,
            };
            let name = utf8(wide.get(..len).unwrap_or_default(), buffer);
            let mut pages = PageFigures::default();
            if detail == Detail::Pages && region.committed {
                pages = page_figures(&process, start..end, self.page_size())?;
            } else if detail == Detail::Pages {
                pages.resident = Some(0);
            }
            each(&region.mapping(name, program, pages));
        }
        process.alive()
    }

    fn page_runs(
        &self,
        process: Process,
        range: PageRange,
        each: &mut dyn FnMut(&PageRun),
    ) -> Result<(), Error> {
        range.check(Operation::Residency, self.page_size())?;
        let process = Opened::open(self.kernel(), process)?;
        let (mut runs, page_size) = (Runs::new(each), self.page_size());
        let start = range.start.addr();
        each_page(&process, start..start + range.len, page_size, &mut |page| {
            let is = |bit| page.attributes & bit != 0;
            let state = PageState {
                resident: is(VALID),
                // Of a page that is not valid the bits say other things.
                huge: Some(is(VALID) && is(LARGE_PAGE)),
                shared: is(VALID).then_some(is(SHARED)),
                ..PageState::default()
            };
            runs.add(page.address, page.address + page_size, state);
        })?;
        runs.finish();
        process.alive()
    }
}

fn refused(errno: Errno) -> Error {
    refusal(match errno {
        ERROR_INVALID_PARAMETER => ErrorKind::Gone,
        ERROR_ACCESS_DENIED => ErrorKind::Denied,
        errno => ErrorKind::System(errno),
    })
}

/// A process that is held: its number goes to no other meanwhile.
struct Opened<'k, K: ProcessStatistics> {
    kernel: &'k K,
    handle: isize,
}

impl<'k, K: ProcessStatistics> Opened<'k, K> {
    fn open(kernel: &'k K, process: Process) -> Result<Opened<'k, K>, Error> {
        let id = match process {
            Process::Own => None,
            Process::Id(id) => Some(id),
        };
        let opened = Opened { kernel, handle: kernel.open_process(id).map_err(refused)? };
        // One that has ended stays while somebody holds it.
        opened.alive()?;
        Ok(opened)
    }

    fn alive(&self) -> Result<(), Error> {
        match self.kernel.has_ended(self.handle) {
            true => Err(refusal(ErrorKind::Gone)),
            false => Ok(()),
        }
    }
}

impl<K: ProcessStatistics> Drop for Opened<'_, K> {
    fn drop(&mut self) {
        self.kernel.close_process(self.handle);
    }
}

fn each_page<K: ProcessStatistics>(
    process: &Opened<'_, K>,
    range: core::ops::Range<usize>,
    page_size: usize,
    each: &mut dyn FnMut(&WorkingSetPage),
) -> Result<(), Error> {
    let mut pages = [WorkingSetPage { address: 0, attributes: 0 }; 256];
    let mut at = range.start;
    while at < range.end {
        let count = ((range.end - at) / page_size).min(pages.len());
        let pages = &mut pages[..count];
        if pages.is_empty() {
            return Err(unreadable());
        }
        for (index, page) in pages.iter_mut().enumerate() {
            *page = WorkingSetPage { address: at + index * page_size, attributes: 0 };
        }
        process.kernel.working_set_of(process.handle, pages).map_err(refused)?;
        pages.iter().for_each(&mut *each);
        at += count * page_size;
    }
    Ok(())
}

fn page_figures<K: ProcessStatistics>(
    process: &Opened<'_, K>,
    range: core::ops::Range<usize>,
    page_size: usize,
) -> Result<PageFigures, Error> {
    let (mut resident, mut private, mut huge) = (0, 0, 0);
    let size = page_size as u64;
    each_page(process, range, page_size, &mut |page| {
        let is = |bit: usize| u64::from(page.attributes & bit != 0);
        resident += is(VALID) * size;
        private += is(VALID) * (1 - is(SHARED)) * size;
        huge += is(VALID) * is(LARGE_PAGE) * size;
    })?;
    Ok(PageFigures {
        resident: Some(resident),
        private: Some(private),
        huge: Some(huge),
        ..PageFigures::default()
    })
}

/// `sizeof(PROCESS_MEMORY_COUNTERS_EX)`.
const COUNTERS: usize = 80;

/// `struct _PROCESS_MEMORY_COUNTERS_EX` of Windows, 80 bytes: `PageFaultCount` 4, `PeakWorkingSetSize` 8, `WorkingSetSize` 16,
/// `PeakPagefileUsage` 64, `PrivateUsage` 72.
fn decode(bytes: &[u8]) -> Result<ProcessUsage, Error> {
    let counters = Bytes::of_at_least(bytes, COUNTERS)?;
    Ok(ProcessUsage {
        page_faults: counters.u32(4).map(u64::from),
        peak_resident: counters.u64(8),
        resident: counters.u64(16),
        peak_commit_charge: counters.u64(64),
        commit_charge: counters.u64(72),
        ..ProcessUsage::default()
    })
}

/// `sizeof(PERFORMANCE_INFORMATION)`.
const PERFORMANCE: usize = 104;

/// `struct _PERFORMANCE_INFORMATION` of Windows, 104 bytes: `CommitTotal` 8, `CommitLimit` 16, `PhysicalTotal` 32,
/// `PhysicalAvailable` 40 in pages, `PageSize` 80.
fn decode_machine(bytes: &[u8]) -> Result<MachineUsage, Error> {
    let performance = Bytes::of_at_least(bytes, PERFORMANCE)?;
    let page_size = performance.u64(80);
    let pages = |offset| performance.counted_u64(offset, page_size?);
    Ok(MachineUsage {
        page_size,
        total: pages(32),
        available: pages(40),
        committed: pages(8),
        commit_limit: pages(16),
        overcommit: Some(Overcommit::Never),
        ..MachineUsage::default()
    })
}

/// `sizeof(JOBOBJECT_EXTENDED_LIMIT_INFORMATION)`.
const LIMITS: usize = 144;

/// `struct _JOBOBJECT_EXTENDED_LIMIT_INFORMATION` of Windows, 144 bytes:
/// `BasicLimitInformation.LimitFlags` 16, `ProcessMemoryLimit` 112, `JobMemoryLimit` 120, `PeakJobMemoryUsed` 136.
fn decode_job(bytes: &[u8]) -> Result<ControlGroup, Error> {
    let limits = Bytes::of_at_least(bytes, LIMITS)?;
    let flags = limits.u32(16).ok_or(unreadable())?;
    let limit = |flag, offset| match flags & flag {
        0 => Some(NO_LIMIT),
        _ => limits.u64(offset),
    };
    Ok(ControlGroup {
        limit: limit(JOB_OBJECT_LIMIT_JOB_MEMORY, 120),
        process_limit: limit(JOB_OBJECT_LIMIT_PROCESS_MEMORY, 112),
        peak: limits.u64(136),
        ..ControlGroup::default()
    })
}

/// `sizeof(MEMORY_BASIC_INFORMATION)`.
const REGION: usize = 48;

/// Pages next to each other that the system says the same of.
struct Region {
    start: usize,
    end: usize,
    /// Where what it is a part of begins.
    base: usize,
    free: bool,
    committed: bool,
    /// By a file or by memory that may be shared.
    backed: bool,
    /// Of a program or library.
    image: bool,
    protection: u32,
}

impl Region {
    /// `struct _MEMORY_BASIC_INFORMATION` of Windows, 48 bytes: `BaseAddress` 0, `AllocationBase` 8, `RegionSize` 24, `State` 32, `Protect` 36,
    /// `Type` 40.
    fn decode(bytes: Bytes<'_>) -> Option<Region> {
        let start = bytes.address(0)?;
        let end = start.checked_add(bytes.address(24)?).filter(|&end| end > start)?;
        let (state, kind) = (bytes.u32(32)?, bytes.u32(40)?);
        Some(Region {
            start,
            end,
            base: bytes.address(8)?,
            free: state == MEM_FREE,
            committed: state == MEM_COMMIT,
            backed: matches!(kind, MEM_MAPPED | MEM_IMAGE),
            image: kind == MEM_IMAGE,
            // Only what is committed has one.
            protection: if state == MEM_COMMIT { bytes.u32(36)? } else { 0 },
        })
    }

    fn mapping<'n>(
        &self,
        name: &'n [u8],
        program: Option<usize>,
        pages: PageFigures,
    ) -> Mapping<'n> {
        // PAGE_READONLY, READWRITE, WRITECOPY, EXECUTE, EXECUTE_READ, EXECUTE_READWRITE,
        // EXECUTE_WRITECOPY are bits 1 to 7; of these, which read, write and execute.
        let allows = |bits: u32| self.protection & PAGE_GUARD == 0 && self.protection & bits != 0;
        let copied = self.protection & 0x88 != 0;
        Mapping {
            start: self.start,
            end: self.end,
            readable: allows(0xee),
            writable: allows(0xcc),
            executable: allows(0xf0),
            shared: Some(self.backed && !self.image && !copied),
            offset: 0,
            kind: match (self.backed, name.is_empty()) {
                (false, _) => MappingKind::Anonymous,
                (true, _) if self.image && program == Some(self.base) => MappingKind::Program,
                (true, false) => MappingKind::File,
                (true, true) if self.image => MappingKind::System,
                (true, true) => MappingKind::SharedMemory,
            },
            name,
            pages,
        }
    }
}

/// UTF-16 as UTF-8, cut at the last character that has room.
fn utf8<'b>(wide: &[u16], buffer: &'b mut [u8]) -> &'b [u8] {
    let mut len = 0;
    for character in char::decode_utf16(wide.iter().copied()) {
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        let size = character.len_utf8();
        let Some(place) = buffer.get_mut(len..len + size) else { break };
        character.encode_utf8(place);
        len += size;
    }
    &buffer[..len]
}

#[cfg(test)]
mod tests;
