//! The running Linux kernel.

use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use core::time::Duration;

use crate::calls::{
    Calls, Files, Findings, Kernel as Name, Mincore, NameMapping, ProcessMadvise, UnixCalls,
};
use crate::os::linux as numbers;
use crate::{Errno, PageRange};

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

static FINDINGS: Findings = Findings::new();

/// "This process", where a call takes a descriptor of one (pidfd_open(2), Linux 6.14).
const PIDFD_SELF: c_int = -10001;
const PR_SET_VMA: c_int = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: usize = 0;

/// Holds a constant of the backend against the C library's.
macro_rules! same {
    ($($name:ident),*) => { $(const _: () = assert!(numbers::$name == libc::$name);)* };
}
same!(PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC);
same!(MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE);
same!(MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTNEED_LOCKED);
same!(MADV_COLLAPSE);
macro_rules! same_number {
    ($($name:ident),*) => { $(const _: () = assert!(numbers::$name.0 == libc::$name);)* };
}
same_number!(EPERM, EBADF, EAGAIN, ENOMEM, EBUSY, EEXIST, EINVAL, ENOSYS);
const _: () = assert!(numbers::RLIMIT_AS == libc::RLIMIT_AS as i32);
const _: () = assert!(numbers::RLIMIT_DATA == libc::RLIMIT_DATA as i32);
const _: () = assert!(size_of::<PageRange>() == size_of::<libc::iovec>());

pub(crate) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__errno_location() }
}

pub(crate) fn set_errno(value: c_int) {
    // SAFETY: the C library's errno of this thread is always writable.
    unsafe { *libc::__errno_location() = value };
}

#[cold]
fn last_error() -> Errno {
    Errno(errno())
}

#[inline]
fn done(answer: c_int) -> Result<(), Errno> {
    if answer == 0 { Ok(()) } else { Err(last_error()) }
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to write to. The clocks asked for exist on every Linux, so the
    // call cannot fail.
    unsafe { libc::clock_gettime(id, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

// SAFETY: every call is the kernel's own.
unsafe impl Calls for Kernel {
    const KERNEL: Name = Name::Linux;

    #[inline]
    fn page_size(&self) -> usize {
        static SIZE: AtomicUsize = AtomicUsize::new(0);
        match SIZE.load(Relaxed) {
            0 => {
                // SAFETY: takes no memory.
                let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
                SIZE.store(size, Relaxed);
                size
            }
            size => size,
        }
    }

    fn monotonic_time(&self) -> Duration {
        clock(libc::CLOCK_MONOTONIC)
    }

    fn thread_cpu_time(&self) -> Duration {
        clock(libc::CLOCK_THREAD_CPUTIME_ID)
    }

    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as _,
        });
        let timeout = timeout.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: futex(2): the word and the timeout live through the call.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, while_equal, timeout) };
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        let count = count.min(i32::MAX as u32);
        // SAFETY: futex(2): the kernel takes the word for an address only.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, count) };
    }

    fn environment(&self, name: &CStr) -> Option<&CStr> {
        // SAFETY: `name` ends in zero; the caller sees to it that nobody changes the environment.
        let value = unsafe { libc::getenv(name.as_ptr()) };
        // SAFETY: getenv gives a string that ends in zero, or null.
        (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
    }

    #[inline]
    fn findings(&self) -> &Findings {
        &FINDINGS
    }
}

// SAFETY: every call is the kernel's own.
unsafe impl UnixCalls for Kernel {
    #[inline]
    unsafe fn mmap(
        &self,
        address: *mut u8,
        len: usize,
        protection: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        // SAFETY: the caller's promise.
        let start = unsafe { libc::mmap(address.cast(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED { Err(last_error()) } else { Ok(start.cast()) }
    }

    #[inline]
    unsafe fn munmap(&self, address: *mut u8, len: usize) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        done(unsafe { libc::munmap(address.cast(), len) })
    }

    #[inline]
    unsafe fn mprotect(&self, address: *mut u8, len: usize, protection: i32) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        done(unsafe { libc::mprotect(address.cast(), len, protection) })
    }

    #[inline]
    unsafe fn madvise(&self, address: *mut u8, len: usize, advice: i32) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        done(unsafe { libc::madvise(address.cast(), len, advice) })
    }

    fn resource_limit(&self, resource: i32) -> Result<u64, Errno> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is an rlimit to write to.
        done(unsafe { libc::getrlimit(resource as _, &mut limit) })?;
        Ok(limit.rlim_cur)
    }
}

impl Files for Kernel {
    fn open(&self, path: &CStr) -> Result<i32, Errno> {
        // SAFETY: `path` ends in zero.
        let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if file < 0 { Err(last_error()) } else { Ok(file) }
    }

    fn read_at(&self, file: i32, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        // SAFETY: the buffer is as long as said.
        let read = unsafe {
            libc::pread(file, buffer.as_mut_ptr().cast(), buffer.len(), offset as libc::off_t)
        };
        usize::try_from(read).map_err(|_| last_error())
    }

    fn close(&self, file: i32) {
        // SAFETY: the descriptor is the caller's.
        unsafe { libc::close(file) };
    }
}

impl Mincore for Kernel {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        if residency.len() < len.div_ceil(self.page_size()) {
            return Err(numbers::EINVAL);
        }
        // SAFETY: the kernel writes one byte a page, and there is room for them.
        done(unsafe { libc::mincore(address.cast(), len, residency.as_mut_ptr().cast()) })
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
