//! The running NetBSD kernel.

use core::ffi::c_int;
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};
use core::time::Duration;

use super::slots::{Sleeper, Slots};
pub use super::unix::Kernel;
use super::unix::{last_error, same, same_as, timespec};
use crate::Errno;
use crate::calls::{Kernel as Name, Remap};

/// The operating system that this program runs on. Zero-sized.
pub type Native = crate::os::netbsd::NetBsd<Kernel>;

pub(super) const NAME: Name = Name::NetBsd;
/// `CLOCK_THREAD_CPUTIME_ID` (<sys/time.h> of 10.1), which the libc crate (0.2.191) lacks.
pub(super) const THREAD_CLOCK: libc::clockid_t = 0x2000_0000;

same!(crate::os::netbsd: MAP_NORESERVE, MAP_TRYFIXED, MADV_FREE, MAP_INHERIT_ZERO, KERN_PROC2);
same_as!(crate::os::bsd: INHERIT_SHARE = MAP_INHERIT_SHARE, INHERIT_COPY = MAP_INHERIT_COPY);
same_as!(crate::os::bsd: INHERIT_NONE = MAP_INHERIT_NONE);
// `PROT_MPROTECT` is a function that is not `const`; its value is <sys/mman.h>'s.

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__errno() }
}

pub(super) fn set_errno(value: c_int) {
    // SAFETY: the C library's errno of this thread is always writable.
    unsafe { *libc::__errno() = value };
}

// SAFETY: the call is the kernel's own.
unsafe impl Remap for Kernel {
    unsafe fn map_again(&self, from: *mut u8, to: *mut u8, len: usize) -> Result<*mut u8, Errno> {
        let flags = libc::MAP_REMAPDUP | libc::MAP_FIXED;
        // SAFETY: the caller's promise. MAP_FIXED fails over what is there (mremap(2)).
        let start = unsafe { libc::mremap(from.cast(), len, to.cast(), len, flags) };
        if start == libc::MAP_FAILED { Err(last_error()) } else { Ok(start.cast()) }
    }
}

/// A thread, which _lwp_park(2) puts to sleep. The kernel remembers an _lwp_unpark(2) that comes
/// before.
struct Lwp(AtomicI32);

impl Sleeper for Lwp {
    const NEW: Lwp = Lwp(AtomicI32::new(0));

    fn claim(&self) {
        // SAFETY: takes no memory.
        self.0.store(unsafe { libc::_lwp_self() }, Relaxed);
    }

    fn sleep(&self, timeout: Option<Duration>) {
        let mut timeout = timeout.map(timespec);
        let timeout = timeout.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
        // The time is relative, as no flag says otherwise.
        // SAFETY: the timeout lives through the call.
        unsafe {
            libc::_lwp_park(libc::CLOCK_MONOTONIC, 0, timeout, 0, ptr::null(), ptr::null_mut())
        };
    }

    fn wake(&self) {
        // SAFETY: takes no memory; a thread that is gone is refused.
        unsafe { libc::_lwp_unpark(self.0.load(Relaxed), ptr::null()) };
    }
}

static PARKED: Slots<Lwp> = Slots::new();

pub(super) fn park(word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
    PARKED.park(word, while_equal, timeout);
}

pub(super) fn wake(word: &AtomicU32, _count: u32) {
    PARKED.wake_all(word);
}
