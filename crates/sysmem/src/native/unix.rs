//! What the running kernels of Unix systems answer in the same words.

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use core::time::Duration;

use super::system;
use crate::Errno;
use crate::calls::{Calls, Findings, Kernel as Name, ResourceUsage, Resources, UnixCalls};

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

static FINDINGS: Findings = Findings::new();
static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);

#[cold]
#[inline(never)]
fn ask_page_size() -> usize {
    // SAFETY: takes no memory.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    PAGE_SIZE.store(size, Relaxed);
    size
}

/// Holds constants of a backend against the C library's.
macro_rules! same {
    ($module:path: $($name:ident),*) => { $(const _: () = {
        use $module as numbers;
        assert!(numbers::$name as i64 == libc::$name as i64);
    };)* };
}
/// The same for error numbers.
macro_rules! same_errno {
    ($module:path: $($name:ident),*) => { $(const _: () = {
        use $module as numbers;
        assert!(numbers::$name.0 == libc::$name);
    };)* };
}
/// The same for constants that a C library knows by another name.
#[allow(unused_macros)] // Linux calls them all alike.
macro_rules! same_as {
    ($module:path: $($name:ident = $theirs:ident),*) => { $(const _: () = {
        use $module as numbers;
        assert!(numbers::$name as i64 == libc::$theirs as i64);
    };)* };
}
pub(super) use same;
#[cfg(any(target_os = "netbsd", target_os = "openbsd", target_vendor = "apple"))]
pub(super) use same_as;
#[cfg(any(
    target_os = "linux",
    target_os = "freebsd",
    target_os = "illumos",
    target_os = "solaris"
))]
pub(super) use same_errno;

same!(crate::os::unix: PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC, MAP_SHARED, MAP_PRIVATE);
same!(crate::os::unix: MAP_FIXED);
same!(crate::os::unix: RLIMIT_DATA);
same_errno!(crate::os::unix: EPERM, EBADF, ENOMEM, EEXIST, EINVAL);

#[cold]
pub(super) fn last_error() -> Errno {
    Errno(system::errno())
}

#[inline]
pub(super) fn done(answer: c_int) -> Result<(), Errno> {
    if answer == 0 { Ok(()) } else { Err(last_error()) }
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to write to. The clocks asked for exist on every system, so
    // the call cannot fail.
    unsafe { libc::clock_gettime(id, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A time as the kernel takes it, cut off at what every `time_t` holds.
#[cfg(any(test, not(any(target_os = "dragonfly", target_vendor = "apple"))))]
pub(super) fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: time.subsec_nanos() as _,
    }
}

// SAFETY: every call is the kernel's own.
unsafe impl Calls for Kernel {
    const KERNEL: Name = system::NAME;

    #[inline]
    fn page_size(&self) -> usize {
        match PAGE_SIZE.load(Relaxed) {
            0 => ask_page_size(),
            size => size,
        }
    }

    fn monotonic_time(&self) -> Duration {
        clock(libc::CLOCK_MONOTONIC)
    }

    fn thread_cpu_time(&self) -> Duration {
        clock(system::THREAD_CLOCK)
    }

    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
        system::park(word, while_equal, timeout);
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        system::wake(word, count.min(i32::MAX as u32));
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
        Ok(match limit.rlim_cur {
            libc::RLIM_INFINITY => u64::MAX,
            #[allow(clippy::unnecessary_cast)] // Signed on FreeBSD and DragonFly.
            limit => limit as u64,
        })
    }
}

#[cfg(not(target_os = "openbsd"))]
impl crate::calls::Mincore for Kernel {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        if residency.len() < len.div_ceil(self.page_size()) {
            return Err(crate::os::unix::EINVAL);
        }
        // SAFETY: the kernel writes one byte a page, and there is room for them.
        done(unsafe { libc::mincore(address.cast(), len, residency.as_mut_ptr().cast()) })
    }
}

#[cfg(any(
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
    target_vendor = "apple"
))]
mod bsd {
    use super::{Kernel, done};
    use crate::Errno;
    use crate::calls::{Minherit, Sysctl};

    super::same!(crate::os::bsd: MAP_ANON);
    #[cfg(not(any(target_os = "openbsd", target_vendor = "apple")))]
    super::same!(crate::os::bsd: RLIMIT_AS);
    super::same!(crate::os::bsd: CTL_KERN, KERN_PROC_PID);

    impl Sysctl for Kernel {
        fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno> {
            let mut len = value.len();
            // SAFETY: the name and the buffer are as long as said; nothing is set.
            done(unsafe {
                libc::sysctl(
                    mib.as_ptr().cast_mut(),
                    mib.len() as _,
                    value.as_mut_ptr().cast(),
                    &mut len,
                    core::ptr::null_mut(),
                    0,
                )
            })?;
            Ok(len)
        }

        fn process_id(&self) -> i32 {
            // SAFETY: takes no memory.
            unsafe { libc::getpid() }
        }
    }

    #[cfg(not(target_os = "openbsd"))]
    impl crate::calls::SysctlByName for Kernel {
        fn sysctl_by_name(&self, name: &core::ffi::CStr, value: &mut [u8]) -> Result<usize, Errno> {
            let mut len = value.len();
            // SAFETY: the name ends in zero, the buffer is as long as said; nothing is set.
            done(unsafe {
                libc::sysctlbyname(
                    name.as_ptr(),
                    value.as_mut_ptr().cast(),
                    &mut len,
                    core::ptr::null_mut(),
                    0,
                )
            })?;
            Ok(len)
        }
    }

    #[cfg(target_os = "freebsd")]
    impl crate::calls::SysctlMib for Kernel {
        fn sysctl_mib(&self, name: &core::ffi::CStr, mib: &mut [i32]) -> Result<usize, Errno> {
            let mut len = mib.len();
            // SAFETY: the name ends in zero, the buffer is as long as said.
            done(unsafe { libc::sysctlnametomib(name.as_ptr(), mib.as_mut_ptr(), &mut len) })?;
            Ok(len)
        }
    }

    // SAFETY: the call is the kernel's own.
    unsafe impl Minherit for Kernel {
        unsafe fn minherit(&self, address: *mut u8, len: usize, inherit: i32) -> Result<(), Errno> {
            // SAFETY: the caller's promise.
            done(unsafe { libc::minherit(address.cast(), len, inherit) })
        }
    }
}

impl crate::calls::Files for Kernel {
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

impl crate::calls::Links for Kernel {
    fn read_link(&self, path: &CStr, target: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: the path ends in zero; the buffer is as long as said.
        let len =
            unsafe { libc::readlink(path.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
        usize::try_from(len).map_err(|_| last_error())
    }
}

impl ResourceUsage for Kernel {
    fn resource_usage(&self) -> Resources {
        let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is an rusage to write to. The calling process always exists, so the call
        // cannot fail.
        unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
        // SAFETY: numbers, for which zeros are valid too.
        let usage = unsafe { usage.assume_init() };
        let duration =
            |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
        Resources {
            user_time: duration(usage.ru_utime),
            system_time: duration(usage.ru_stime),
            minor_faults: usage.ru_minflt as u64,
            major_faults: usage.ru_majflt as u64,
        }
    }
}
