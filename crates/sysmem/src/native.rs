//! The running kernel: the only code chosen by target.

use crate::Os;
use crate::calls::Calls;

mod linux;

pub use linux::Kernel;

/// The operating system that this program runs on. Zero-sized.
pub type Native = crate::os::linux::Linux<Kernel>;

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

/// Runs `work` and leaves the calling thread's `errno` as it was: for code inside functions that
/// must not change it, as `free` must not (POSIX.1-2024).
pub fn keeping_errno<R>(work: impl FnOnce() -> R) -> R {
    let before = linux::errno();
    let result = work();
    linux::set_errno(before);
    result
}
