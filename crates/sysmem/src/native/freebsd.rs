//! The running FreeBSD kernel.

#[path = "freebsd/objects.rs"]
mod objects;

use core::ffi::{c_int, c_ulong};
use core::ptr;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

pub use super::unix::Kernel;
use super::unix::{done, last_error, same, same_errno, timespec};
use crate::calls::Kernel as Name;

/// The operating system that this program runs on. Zero-sized.
pub type Native = crate::os::freebsd::FreeBsd<Kernel>;

pub(super) const NAME: Name = Name::FreeBsd;
pub(super) const THREAD_CLOCK: libc::clockid_t = libc::CLOCK_THREAD_CPUTIME_ID;

// Not held: MINCORE_SUPER, which the libc crate (0.2.191) has as FreeBSD 12 had it.
same!(crate::os::freebsd: MAP_EXCL, MAP_NOCORE, MAP_ALIGNED_SUPER, MADV_FREE, MADV_NOCORE);
same!(crate::os::freebsd: MADV_CORE, INHERIT_ZERO, RLIMIT_SWAP, KERN_PROC);
same!(crate::os::bsd: INHERIT_SHARE, INHERIT_COPY, INHERIT_NONE, MINCORE_INCORE);
same_errno!(crate::os::freebsd: ENOSYS, ECAPMODE);
const _: () = assert!(crate::os::bsd::map_aligned(1 << 21) == libc::MAP_ALIGNED(21));

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__error() }
}

pub(super) fn set_errno(value: c_int) {
    // SAFETY: the C library's errno of this thread is always writable.
    unsafe { *libc::__error() = value };
}

pub(super) fn park(word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
    let mut timeout = timeout.map(timespec);
    let (size, timeout) = match &mut timeout {
        // _umtx_op(2): with the size of a timespec, the time is relative.
        Some(timeout) => (size_of::<libc::timespec>(), ptr::from_mut(timeout)),
        None => (0, ptr::null_mut()),
    };
    let operation = libc::UMTX_OP_WAIT_UINT_PRIVATE;
    let size = ptr::without_provenance_mut(size);
    // SAFETY: the word and the timeout live through the call.
    unsafe {
        libc::_umtx_op(
            word.as_ptr().cast(),
            operation,
            c_ulong::from(while_equal),
            size,
            timeout.cast(),
        )
    };
}

pub(super) fn wake(word: &AtomicU32, count: u32) {
    let operation = libc::UMTX_OP_WAKE_PRIVATE;
    let (word, null) = (word.as_ptr().cast(), ptr::null_mut());
    // SAFETY: the kernel takes the word for an address only.
    unsafe { libc::_umtx_op(word, operation, c_ulong::from(count), null, null) };
}
