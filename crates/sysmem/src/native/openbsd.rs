//! The running OpenBSD kernel.

use core::ffi::c_int;
use core::ptr;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

pub use super::unix::Kernel;
use super::unix::{done, same, same_as, timespec};
use crate::Errno;
use crate::calls::{Kernel as Name, Seal};

/// The operating system that this program runs on. Zero-sized.
pub type Native = crate::os::openbsd::OpenBsd<Kernel>;

pub(super) const NAME: Name = Name::OpenBsd;
pub(super) const THREAD_CLOCK: libc::clockid_t = libc::CLOCK_THREAD_CPUTIME_ID;

// Not held: MAP_NOREPLACE (`__MAP_NOREPLACE`), which the libc crate (0.2.191) lacks.
same!(crate::os::openbsd: MAP_CONCEAL, MAP_STACK, MADV_FREE, MAP_INHERIT_ZERO, KERN_PROC);
same_as!(crate::os::bsd: INHERIT_SHARE = MAP_INHERIT_SHARE, INHERIT_COPY = MAP_INHERIT_COPY);
same_as!(crate::os::bsd: INHERIT_NONE = MAP_INHERIT_NONE);

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__errno() }
}

pub(super) fn set_errno(value: c_int) {
    // SAFETY: the C library's errno of this thread is always writable.
    unsafe { *libc::__errno() = value };
}

pub(super) fn park(word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(timespec);
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let value = while_equal as c_int;
    // SAFETY: futex(2): the word and the timeout live through the call.
    unsafe { libc::futex(word.as_ptr(), operation, value, timeout, ptr::null_mut()) };
}

pub(super) fn wake(word: &AtomicU32, count: u32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    let count = count as c_int;
    // SAFETY: futex(2): the kernel takes the word for an address only.
    unsafe { libc::futex(word.as_ptr(), operation, count, ptr::null(), ptr::null_mut()) };
}

// SAFETY: the call is the kernel's own.
unsafe impl Seal for Kernel {
    unsafe fn seal(&self, address: *mut u8, len: usize) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        done(unsafe { libc::mimmutable(address.cast(), len) })
    }
}
