//! The running Linux kernel.

#[path = "linux/objects.rs"]
mod objects;

use core::ffi::{CStr, c_int, c_ulong, c_void};
use core::ops::Range;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

pub use super::unix::Kernel;
use super::unix::{done, last_error, same, same_errno, timespec};
use crate::calls::{
    Files, Kernel as Name, Membarrier, NameMapping, PageRegion, PagemapScan, ProcessControl,
    ProcessMadvise, WriteFiles,
};
use crate::{Errno, PageRange};

/// The operating system that this program runs on. Zero-sized.
pub type Native = crate::os::linux::Linux<Kernel>;

pub(super) const NAME: Name = Name::Linux;
pub(super) const THREAD_CLOCK: libc::clockid_t = libc::CLOCK_THREAD_CPUTIME_ID;

/// The calling thread, where a call takes a descriptor of a process (<linux/pidfd.h>, Linux 6.14):
/// its memory is the process's. `PIDFD_SELF_PROCESS` means the first thread, which may have ended.
const PIDFD_SELF: c_int = -10000;
const PR_SET_VMA: c_int = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: usize = 0;

same!(crate::os::linux: MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE, RLIMIT_AS);
same!(crate::os::linux: MADV_DONTNEED, MADV_FREE, MADV_DONTFORK, MADV_DOFORK, MADV_HUGEPAGE);
same!(crate::os::linux: MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK);
same!(crate::os::linux: MADV_KEEPONFORK, MADV_DONTNEED_LOCKED, MADV_COLLAPSE);
same!(crate::os::linux: MADV_NORMAL, MADV_RANDOM, MAP_HUGETLB);
same!(crate::os::linux::huge: PR_SET_THP_DISABLE, PR_GET_THP_DISABLE);
// Not held: MADV_GUARD_INSTALL and MADV_GUARD_REMOVE, which the libc crate (0.2.191) lacks.
same_errno!(crate::os::linux: ENOSYS);
same_errno!(crate::os::linux::huge: ENOENT, EACCES, EROFS);
const _: () = assert!(size_of::<PageRange>() == size_of::<libc::iovec>());

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__errno_location() }
}

pub(super) fn set_errno(value: c_int) {
    // SAFETY: the C library's errno of this thread is always writable.
    unsafe { *libc::__errno_location() = value };
}

pub(super) fn park(word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(timespec);
    let timeout = timeout.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: futex(2): the word and the timeout live through the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, while_equal, timeout) };
}

pub(super) fn wake(word: &AtomicU32, count: u32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: futex(2): the kernel takes the word for an address only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, count) };
}

impl WriteFiles for Kernel {
    fn write_file(&self, path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
        // SAFETY: `path` ends in zero.
        let file = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
        if file < 0 {
            return Err(last_error());
        }
        // SAFETY: the buffer is as long as said.
        let written = unsafe { libc::write(file, bytes.as_ptr().cast(), bytes.len()) };
        // A setting is taken whole or not at all.
        let answer = if written < 0 { Err(last_error()) } else { Ok(()) };
        self.close(file);
        answer
    }
}

/// `struct pm_scan_arg`: <linux/fs.h>.
#[repr(C)]
struct PagemapScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    region_count: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    told: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: c_ulong =
    3 << 30 | (size_of::<PagemapScanArguments>() as c_ulong) << 16 | 0x66 << 8 | 16;

impl PagemapScan for Kernel {
    fn pagemap_scan(
        &self,
        file: i32,
        range: Range<usize>,
        wanted: u64,
        regions: &mut [PageRegion],
    ) -> Result<(usize, u64), Errno> {
        let mut arguments = PagemapScanArguments {
            size: size_of::<PagemapScanArguments>() as u64,
            flags: 0,
            start: range.start as u64,
            end: range.end as u64,
            walk_end: 0,
            regions: regions.as_mut_ptr().expose_provenance() as u64,
            region_count: regions.len() as u64,
            max_pages: 0,
            inverted: 0,
            all_of: 0,
            any_of: wanted,
            // FILE, PRESENT, SWAPPED, PFNZERO, HUGE.
            told: 0x7c,
        };
        // SAFETY: the arguments say how long they and the regions are, and live through the call;
        // without flags nothing is changed. Other files answer ENOTTY.
        let count = unsafe { libc::ioctl(file, PAGEMAP_SCAN as _, &mut arguments) };
        let count = usize::try_from(count).map_err(|_| last_error())?;
        Ok((count, arguments.walk_end))
    }
}

impl ProcessControl for Kernel {
    fn process_control(&self, option: i32, argument: usize) -> Result<i32, Errno> {
        // SAFETY: prctl(2) with numbers only. What options demand to be zero is.
        let answer = unsafe { libc::prctl(option, argument, 0usize, 0usize, 0usize) };
        if answer < 0 { Err(last_error()) } else { Ok(answer) }
    }
}

// SAFETY: the call is the kernel's own.
unsafe impl Membarrier for Kernel {
    fn membarrier(&self, command: i32) -> Result<(), Errno> {
        // SAFETY: membarrier(2) takes numbers only.
        if unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } < 0 {
            return Err(last_error());
        }
        Ok(())
    }
}

// SAFETY: the call is the kernel's own.
unsafe impl ProcessMadvise for Kernel {
    unsafe fn process_madvise(&self, ranges: &[PageRange], advice: i32) -> Result<usize, Errno> {
        // SAFETY: a PageRange is laid out as an iovec; the rest is the caller's promise.
        let bytes = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                PIDFD_SELF,
                ranges.as_ptr().cast::<c_void>(),
                ranges.len(),
                advice,
                0,
            )
        };
        usize::try_from(bytes).map_err(|_| last_error())
    }
}

// SAFETY: the call is the kernel's own.
unsafe impl NameMapping for Kernel {
    unsafe fn name_mapping(&self, address: *mut u8, len: usize, name: &CStr) -> Result<(), Errno> {
        // SAFETY: prctl(2) with PR_SET_VMA reads the name and changes no memory.
        done(unsafe { libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, len, name.as_ptr()) })
    }
}
