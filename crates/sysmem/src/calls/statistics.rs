//! What only statistics are asked for. Structures come as the kernel's bytes.

use core::ffi::CStr;
use core::ops::Range;

use super::{Calls, Files, SysctlByName, UnixCalls, VirtualMemory, WorkingSetPage};
use crate::Errno;

/// Pages next to each other that are alike; laid out like `struct page_region` (<linux/fs.h>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PageRegion {
    /// The first address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// What they are: bits `PAGE_IS_*`.
    pub categories: u64,
}

/// Looking at page tables: `PAGEMAP_SCAN` of /proc/PID/pagemap, which Linux has since 6.7.
pub trait PagemapScan: Files {
    /// Fills `regions` with the pages of a range that are in one of the categories `wanted`;
    /// returns how many there are and the address up to which was looked.
    fn pagemap_scan(
        &self,
        file: i32,
        range: Range<usize>,
        wanted: u64,
        regions: &mut [PageRegion],
    ) -> Result<(usize, u64), Errno>;
}

/// Numbers behind names: sysctlnametomib(3) of FreeBSD, whose nodes that end in a number have no
/// names of their own.
pub trait SysctlMib: SysctlByName {
    /// Fills in the number behind `name`; returns its length.
    fn sysctl_mib(&self, name: &CStr, mib: &mut [i32]) -> Result<usize, Errno>;
}

/// Where symbolic links lead: readlink(2).
pub trait Links: UnixCalls {
    /// Fills in what the link says, without a zero at its end; returns its length.
    fn read_link(&self, path: &CStr, target: &mut [u8]) -> Result<usize, Errno>;
}

/// The memory of the machine: sysconf(3C) and swapctl(2) of illumos and Solaris.
pub trait SystemPages: UnixCalls {
    /// `_SC_PHYS_PAGES`.
    fn physical_pages(&self) -> Option<u64>;
    /// `_SC_AVPHYS_PAGES`.
    fn free_pages(&self) -> Option<u64>;
    /// Fills in `struct anoninfo`: `SC_AINFO`.
    fn anonymous_memory(&self, info: &mut [u8; 24]) -> Result<(), Errno>;
}

/// What Darwin tells through libproc and Mach.
pub trait MachStatistics: UnixCalls {
    /// `proc_pidinfo`: fills in the structure of `flavor`; returns its length.
    fn process_info(
        &self,
        process: i32,
        flavor: i32,
        argument: u64,
        info: &mut [u8],
    ) -> Result<usize, Errno>;
    /// `proc_pid_rusage`, whose structures have the length that their flavor says: at least
    /// `RUSAGE_INFO_V4`'s.
    fn process_rusage(&self, process: i32, flavor: i32, info: &mut [u8; 296]) -> Result<(), Errno>;
    /// `proc_pidpath`: the program; returns the length.
    fn process_path(&self, process: i32, path: &mut [u8]) -> Result<usize, Errno>;
    /// `task_info` of the calling process; returns the length, of which older systems have less.
    fn own_task_info(&self, flavor: u32, info: &mut [u8]) -> Option<usize>;
    /// `host_statistics64`; returns the length.
    fn host_statistics(&self, flavor: i32, info: &mut [u8]) -> Option<usize>;
    /// `mach_timebase_info`: nanoseconds in a tick, as a fraction.
    fn clock_ratio(&self) -> (u32, u32);
}

/// What Windows tells of processes and of the machine. Failures are error codes (`GetLastError`).
pub trait ProcessStatistics: VirtualMemory {
    /// `OpenProcess` with as many rights to look as there are to be had; `None` is the calling
    /// process.
    fn open_process(&self, id: Option<u32>) -> Result<isize, Errno>;
    /// `CloseHandle`.
    fn close_process(&self, process: isize);
    /// Whether it has an exit code.
    fn has_ended(&self, process: isize) -> bool;
    /// `GetProcessMemoryInfo`: `PROCESS_MEMORY_COUNTERS_EX`.
    fn memory_counters(&self, process: isize, counters: &mut [u8; 80]) -> Result<(), Errno>;
    /// `GetProcessTimes`: kernel and user, in units of 100 ns.
    fn process_times(&self, process: isize) -> Result<(u64, u64), Errno>;
    /// `VirtualQueryEx`: `MEMORY_BASIC_INFORMATION`.
    fn query_region(
        &self,
        process: isize,
        address: usize,
        region: &mut [u8; 48],
    ) -> Result<(), Errno>;
    /// `GetMappedFileName`; returns the length.
    fn mapped_file(&self, process: isize, address: usize, name: &mut [u16]) -> Option<usize>;
    /// Where the program is mapped: the first that `EnumProcessModules` tells.
    fn program_base(&self, process: isize) -> Option<usize>;
    /// `QueryWorkingSetEx`, which fills in the attributes.
    fn working_set_of(&self, process: isize, pages: &mut [WorkingSetPage]) -> Result<(), Errno>;
    /// `GetPerformanceInfo`: `PERFORMANCE_INFORMATION`.
    fn performance(&self, information: &mut [u8; 104]) -> Result<(), Errno>;
    /// `EnumPageFiles`: the pages of all, and how many of them are in use.
    fn page_files(&self) -> Option<(usize, usize)>;
    /// `GetLargePageMinimum`, 0 for none.
    fn large_page_minimum(&self) -> usize;
    /// `QueryInformationJobObject` of the calling process's job:
    /// `JOBOBJECT_EXTENDED_LIMIT_INFORMATION`.
    fn own_job_limits(&self, limits: &mut [u8; 144]) -> Result<(), Errno>;
    /// `QueryMemoryResourceNotification` of the low memory notification.
    fn memory_is_short(&self) -> Option<bool>;
}

/// What the calling process has used: getrusage(2), which every Unix has.
pub trait ResourceUsage: Calls {
    /// Processor time and page faults of the calling process, all its threads together.
    fn resource_usage(&self) -> Resources;
}

/// What getrusage(2) tells in the same units on every system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Processor time in user mode.
    pub user_time: core::time::Duration,
    /// Processor time in the kernel.
    pub system_time: core::time::Duration,
    /// Page faults that needed no input or output.
    pub minor_faults: u64,
    /// Page faults that waited for input or output.
    pub major_faults: u64,
}
