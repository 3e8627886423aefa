//! The table of system calls: the narrow waist between what an operating system promises
//! ([`os`](crate::os)) and the kernel that answers, running (`native`) or simulated (`sim`).
//!
//! [`Calls`] is the core that every system has, [`UnixCalls`] what every Unix has. What only some
//! kernels have is a trait of its own that a backend names as a bound, so that a kernel without
//! the call cannot be asked for it and no call is a stub. Flags and error numbers are the kernel's own: a backend holds them as
//! constants and asserts at compile time that [`Calls::KERNEL`] is its kernel.
//!
//! Pointers are passed as the kernel takes them. A call reports failure as the kernel's [`Errno`]
//! and leaves the thread's `errno` variable unspecified.

mod objects;
mod statistics;

use core::ffi::CStr;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize};
use core::time::Duration;

use crate::{Errno, PageRange, Registry};

pub use objects::{Remap, Seal, Sections, SharedMemory, SwitchPerThread};
pub use statistics::{
    Links, MachStatistics, PageRegion, PagemapScan, ProcessStatistics, ResourceUsage, Resources,
    SysctlMib, SystemPages,
};

/// Whose constants, error numbers and rules a table of calls follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Linux, with the numbers that x86_64 and aarch64 share.
    Linux,
    /// FreeBSD.
    FreeBsd,
    /// NetBSD.
    NetBsd,
    /// OpenBSD.
    OpenBsd,
    /// DragonFly BSD.
    DragonFly,
    /// illumos and Solaris.
    Illumos,
    /// macOS and its kin.
    Darwin,
    /// Windows.
    Windows,
}

/// The calls that every system has.
///
/// # Safety
///
/// The page size is the kernel's.
pub unsafe trait Calls: Sync {
    /// The kernel whose numbers the calls take and give.
    const KERNEL: Kernel;

    /// The size of a page in bytes, a power of two.
    fn page_size(&self) -> usize;

    /// Time since a fixed moment in the past, never going back.
    fn monotonic_time(&self) -> Duration;

    /// Processor time that the calling thread has used.
    fn thread_cpu_time(&self) -> Duration;

    /// Blocks the calling thread while `word` holds `while_equal`, until woken, interrupted or
    /// timed out; may return early for no reason.
    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>);

    /// Wakes at most `count` threads parked on `word`.
    fn wake(&self, word: &AtomicU32, count: u32);

    /// The value of an environment variable. Not to be called while another thread changes the
    /// environment.
    fn environment(&self, name: &CStr) -> Option<&CStr>;

    /// What has been found out about this kernel by asking it once.
    fn findings(&self) -> &Findings;
}

/// The methods of [`Calls`] and of [`Os`](crate::Os) that are those of something below.
macro_rules! time_and_parking {
    ($self:ident => $below:expr) => {
        fn monotonic_time(&$self) -> ::core::time::Duration {
            $below.monotonic_time()
        }

        fn thread_cpu_time(&$self) -> ::core::time::Duration {
            $below.thread_cpu_time()
        }

        fn park(
            &$self,
            word: &::core::sync::atomic::AtomicU32,
            while_equal: u32,
            timeout: Option<::core::time::Duration>,
        ) {
            $below.park(word, while_equal, timeout);
        }

        fn wake(&$self, word: &::core::sync::atomic::AtomicU32, count: u32) {
            $below.wake(word, count);
        }
    };
}
pub(crate) use time_and_parking;

/// The calls that every Unix has.
///
/// # Safety
///
/// The implementation really maps, protects and releases the memory it says it does: callers
/// access memory on the strength of its answers.
pub unsafe trait UnixCalls: Calls {
    /// Maps `len` bytes of private anonymous memory: mmap(2) without a file. `address` may be
    /// null.
    ///
    /// # Safety
    ///
    /// With a flag that replaces mappings, the caller owns the whole range.
    unsafe fn mmap(
        &self,
        address: *mut u8,
        len: usize,
        protection: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno>;

    /// Removes the mappings of a range: munmap(2).
    ///
    /// # Safety
    ///
    /// The caller owns the range and nothing uses it any more.
    unsafe fn munmap(&self, address: *mut u8, len: usize) -> Result<(), Errno>;

    /// Changes what a range allows: mprotect(2).
    ///
    /// # Safety
    ///
    /// The caller owns the range, and nothing relies on the access it loses.
    unsafe fn mprotect(&self, address: *mut u8, len: usize, protection: i32) -> Result<(), Errno>;

    /// Advises the kernel about a range: madvise(2).
    ///
    /// # Safety
    ///
    /// The caller owns the range, and nothing relies on contents that the advice forfeits.
    unsafe fn madvise(&self, address: *mut u8, len: usize, advice: i32) -> Result<(), Errno>;

    /// The soft limit on a resource, `u64::MAX` where there is none: getrlimit(2).
    fn resource_limit(&self, resource: i32) -> Result<u64, Errno>;
}

/// What has been found out about a kernel by asking it, kept so that it is asked only once.
/// A kernel is asked for a feature by calling it: version numbers lie where features are
/// backported or forbidden by a sandbox.
pub struct Findings {
    /// The huge page size in bytes; 0 = not asked yet, 1 = there are none.
    pub(crate) huge_page_size: AtomicUsize,
    /// Whether the kernel takes many ranges in one call: a [`Feature`].
    pub(crate) batched_advice: Feature,
    /// Whether every promise of memory is charged against a commit limit: a [`Feature`].
    pub(crate) strict_commit: Feature,
    /// Whether the kernel has light guards: a [`Feature`].
    pub(crate) guard_markers: Feature,
    /// Every reservation made through this kernel.
    pub(crate) registry: Registry,
}

impl Findings {
    /// Nothing found out yet.
    pub const fn new() -> Findings {
        Findings {
            huge_page_size: AtomicUsize::new(0),
            batched_advice: Feature::new(),
            strict_commit: Feature::new(),
            guard_markers: Feature::new(),
            registry: Registry::new(),
        }
    }
}

impl Default for Findings {
    fn default() -> Findings {
        Findings::new()
    }
}

/// A yes-or-no question to the kernel and its answer.
pub(crate) struct Feature(AtomicU8);

impl Feature {
    const fn new() -> Feature {
        Feature(AtomicU8::new(0))
    }

    /// The answer, `None` before the kernel was asked.
    pub(crate) fn known(&self) -> Option<bool> {
        match self.0.load(core::sync::atomic::Ordering::Relaxed) {
            0 => None,
            answer => Some(answer == 2),
        }
    }

    /// Keeps the answer.
    pub(crate) fn set(&self, answer: bool) {
        self.0.store(1 + answer as u8, core::sync::atomic::Ordering::Relaxed);
    }
}

/// Reading small files the kernel offers, such as those in /proc.
pub trait Files: UnixCalls {
    /// Opens a file for reading; the descriptor is closed on exec.
    fn open(&self, path: &CStr) -> Result<i32, Errno>;
    /// Reads from an offset (`pread(2)`); returns the number of bytes read, 0 at the end.
    fn read_at(&self, file: i32, buffer: &mut [u8], offset: u64) -> Result<usize, Errno>;
    /// Closes a descriptor that [`open`](Files::open) gave.
    fn close(&self, file: i32);
}

/// Changing settings that the kernel offers as files, such as those in /sys.
pub trait WriteFiles: Files {
    /// Writes `bytes` to a file that is there, in one write(2).
    fn write_file(&self, path: &CStr, bytes: &[u8]) -> Result<(), Errno>;
}

/// Settings of the calling process by number: prctl(2) of Linux, with one argument that is a number.
pub trait ProcessControl: UnixCalls {
    /// Carries out `option`; returns what it answers.
    fn process_control(&self, option: i32, argument: usize) -> Result<i32, Errno>;
}

/// Memory barriers on other threads: membarrier(2) of Linux 4.3.
///
/// # Safety
///
/// The kernel really does what `command` stands for when the call succeeds.
pub unsafe trait Membarrier: UnixCalls {
    /// Carries out `command`, without flags.
    fn membarrier(&self, command: i32) -> Result<(), Errno>;
}

/// Which pages of a range are resident: mincore(2), which OpenBSD removed in 6.5.
pub trait Mincore: UnixCalls {
    /// Fills `residency` with one byte a page of the range, whose bits are the kernel's.
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno>;
}

/// Advice about many ranges in one call: process_madvise(2) on the calling process, which Linux
/// has since 6.13.
///
/// # Safety
///
/// As for [`UnixCalls`].
pub unsafe trait ProcessMadvise: UnixCalls {
    /// Advises the kernel about ranges of the calling process, in order; returns the number of
    /// bytes it got through, which may be fewer than all.
    ///
    /// # Safety
    ///
    /// As for [`UnixCalls::madvise`], for each range.
    unsafe fn process_madvise(&self, ranges: &[PageRange], advice: i32) -> Result<usize, Errno>;
}

/// Names for anonymous mappings, shown in /proc/PID/maps: `PR_SET_VMA_ANON_NAME`, Linux 5.17.
///
/// # Safety
///
/// As for [`UnixCalls`].
pub unsafe trait NameMapping: UnixCalls {
    /// Names the mappings of a range.
    ///
    /// # Safety
    ///
    /// The caller owns the range.
    unsafe fn name_mapping(&self, address: *mut u8, len: usize, name: &CStr) -> Result<(), Errno>;
}

/// Facts about the system by number: sysctl(3) of the BSDs and Darwin.
pub trait Sysctl: UnixCalls {
    /// Reads the value called `mib` into `value`; returns its length in bytes.
    fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno>;
    /// The number of the calling process, which is part of some names.
    fn process_id(&self) -> i32;
}

/// Facts about the system by name: sysctlbyname(3), which OpenBSD has not.
pub trait SysctlByName: UnixCalls {
    /// Reads the value called `name` into `value`; returns its length in bytes.
    fn sysctl_by_name(&self, name: &CStr, value: &mut [u8]) -> Result<usize, Errno>;
}

/// What a forked child gets of a range: minherit(2) of the BSDs and Darwin.
///
/// # Safety
///
/// As for [`UnixCalls`].
pub unsafe trait Minherit: UnixCalls {
    /// Sets what a forked child gets of the pages of a range.
    ///
    /// # Safety
    ///
    /// The caller owns the range.
    unsafe fn minherit(&self, address: *mut u8, len: usize, inherit: i32) -> Result<(), Errno>;
}

/// The page sizes of the machine: getpagesizes(3C) of illumos and Solaris.
pub trait PageSizes: UnixCalls {
    /// Fills `sizes`, the smallest first; returns how many there are.
    fn page_sizes(&self, sizes: &mut [usize]) -> Result<usize, Errno>;
}

/// Control of mappings: memcntl(2) of illumos and Solaris.
///
/// # Safety
///
/// As for [`UnixCalls`].
pub unsafe trait Memcntl: UnixCalls {
    /// Carries out `command` on a range; with `MC_HAT_ADVISE`, the advice is `MHA_MAPSIZE_VA` and
    /// `page_size`.
    ///
    /// # Safety
    ///
    /// The caller owns the range.
    unsafe fn memcntl(
        &self,
        address: *mut u8,
        len: usize,
        command: i32,
        page_size: usize,
    ) -> Result<(), Errno>;
}

/// Virtual memory by Mach's calls, which Darwin has beside those of Unix. Failures are
/// `kern_return_t`.
pub trait MachVm: UnixCalls {
    /// Maps `len` bytes of anonymous memory that allows nothing and may come to allow `maximum`:
    /// `mach_vm_map`. The address has no bit of `mask`. With flags that replace nothing, as here.
    fn mach_vm_map(
        &self,
        address: usize,
        len: usize,
        mask: usize,
        flags: i32,
        maximum: i32,
    ) -> Result<*mut u8, i32>;

    /// The bounds of the first mapping that ends above `address`: `mach_vm_region`.
    fn mach_vm_region(&self, address: usize) -> Option<(usize, usize)>;
}

/// Where `VirtualAlloc2` may put a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRequirements {
    /// No byte is below; a multiple of the allocation granularity.
    pub lowest: usize,
    /// The multiple, a power of two no less than the allocation granularity; zero for any.
    pub align: usize,
}

/// A range of pages that `VirtualQuery` says the same of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first address.
    pub start: usize,
    /// The length in bytes.
    pub len: usize,
    /// Whether it is neither reserved nor committed.
    pub free: bool,
}

/// One page as `QueryWorkingSetEx` takes and tells it; laid out like
/// `PSAPI_WORKING_SET_EX_INFORMATION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WorkingSetPage {
    /// An address in the page.
    pub address: usize,
    /// What the system tells: bit 0 is set if the page is in memory.
    pub attributes: usize,
}

/// The calls of Windows's virtual memory. Failures are error codes (`GetLastError`).
///
/// # Safety
///
/// As for [`UnixCalls`].
pub unsafe trait VirtualMemory: Calls {
    /// What the address of a reservation is a multiple of.
    fn allocation_granularity(&self) -> usize;

    /// `VirtualAlloc`. `address` may be null.
    ///
    /// # Safety
    ///
    /// Where something is reserved at the address, it is the caller's.
    unsafe fn virtual_alloc(
        &self,
        address: *mut u8,
        len: usize,
        kind: u32,
        protection: u32,
    ) -> Result<*mut u8, Errno>;

    /// Reserves with `VirtualAlloc2`. `None` before Windows 10 1803, which has it not.
    fn reserve_where(
        &self,
        requirements: AddressRequirements,
        len: usize,
    ) -> Option<Result<*mut u8, Errno>>;

    /// `VirtualFree`.
    ///
    /// # Safety
    ///
    /// The range is the caller's and nothing uses it any more.
    unsafe fn virtual_free(&self, address: *mut u8, len: usize, kind: u32) -> Result<(), Errno>;

    /// `UnmapViewOfFile`.
    ///
    /// # Safety
    ///
    /// The address is that of a view of the caller's, which nothing uses any more.
    unsafe fn unmap_view(&self, address: *mut u8) -> Result<(), Errno>;

    /// `VirtualProtect`.
    ///
    /// # Safety
    ///
    /// The range is the caller's, and nothing relies on the access it loses.
    unsafe fn virtual_protect(
        &self,
        address: *mut u8,
        len: usize,
        protection: u32,
    ) -> Result<(), Errno>;

    /// `VirtualQuery`; `None` past the end of the address space.
    fn virtual_query(&self, address: usize) -> Option<Region>;

    /// `QueryWorkingSetEx`, which fills in the attributes.
    fn working_set(&self, pages: &mut [WorkingSetPage]) -> Result<(), Errno>;

    /// Bytes that all processes together may commit: `GlobalMemoryStatusEx`.
    fn commit_limit(&self) -> Option<u64>;
}

/// Large pages of Windows, which a process may have that holds the privilege to lock memory.
pub trait LargePages: VirtualMemory {
    /// `GetLargePageMinimum`; zero where the processor has none.
    fn large_page_size(&self) -> usize;

    /// Whether `SeLockMemoryPrivilege` is switched on for the process; `None` where the system does
    /// not tell.
    fn lock_memory_privilege(&self) -> Option<bool>;

    /// Switches it: `AdjustTokenPrivileges`. `ERROR_NOT_ALL_ASSIGNED` where the user has not been
    /// given it.
    fn switch_lock_memory_privilege(&self, on: bool) -> Result<(), Errno>;
}
