//! The running kernel: the only code chosen by target.

use crate::Os;
use crate::calls::Calls;

#[cfg(unix)]
mod unix;

// A line for each system.
#[cfg_attr(target_os = "linux", path = "native/linux.rs")]
#[cfg_attr(target_os = "freebsd", path = "native/freebsd.rs")]
#[cfg_attr(target_os = "netbsd", path = "native/netbsd.rs")]
#[cfg_attr(target_os = "openbsd", path = "native/openbsd.rs")]
#[cfg_attr(target_os = "dragonfly", path = "native/dragonfly.rs")]
#[cfg_attr(any(target_os = "illumos", target_os = "solaris"), path = "native/illumos.rs")]
#[cfg_attr(target_vendor = "apple", path = "native/darwin.rs")]
#[cfg_attr(windows, path = "native/windows.rs")]
mod system;

#[cfg(any(target_os = "netbsd", target_os = "illumos", target_os = "solaris", all(test, unix)))]
mod slots;

pub use system::{Kernel, Native};

impl Native {
    /// The running system.
    pub const NEW: Native = Native::new(Kernel);
}

const _: () = assert!(size_of::<Native>() == 0);

/// The page size of the running system in bytes.
pub fn page_size() -> usize {
    Native::NEW.page_size()
}

/// The value of an environment variable, read without an allocation. Not to be called while
/// another thread changes the environment.
pub fn environment(name: &core::ffi::CStr) -> Option<&'static core::ffi::CStr> {
    static KERNEL: Kernel = Kernel;
    KERNEL.environment(name)
}

#[cfg(unix)]
const OUT_OF_MEMORY: core::ffi::c_int = libc::ENOMEM;
#[cfg(windows)]
const OUT_OF_MEMORY: core::ffi::c_int =
    windows_sys::Win32::Foundation::ERROR_NOT_ENOUGH_MEMORY as core::ffi::c_int;

/// Says in the calling thread's `errno` (on Windows, its last error) that memory has run out.
#[cold]
pub fn set_errno_out_of_memory() {
    system::set_errno(OUT_OF_MEMORY);
}

/// Runs `work` and leaves the calling thread's `errno` (on Windows, its last error) as it was: for code inside functions that
/// must not change it, as `free` must not (POSIX.1-2024).
pub fn keeping_errno<R>(work: impl FnOnce() -> R) -> R {
    let before = system::errno();
    let result = work();
    system::set_errno(before);
    result
}
