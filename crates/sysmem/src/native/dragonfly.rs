//! The running DragonFly kernel.

use core::ffi::c_int;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

pub use super::unix::Kernel;
use super::unix::same;
use crate::calls::Kernel as Name;

/// The operating system that this program runs on. Zero-sized.
pub type Native = crate::os::dragonfly::DragonFly<Kernel>;

pub(super) const NAME: Name = Name::DragonFly;
pub(super) const THREAD_CLOCK: libc::clockid_t = libc::CLOCK_THREAD_CPUTIME_ID;

// Not held: MAP_TRYFIXED and MAP_SIZEALIGN, which the libc crate (0.2.191) lacks.
same!(crate::os::dragonfly: MAP_NOCORE, MADV_FREE, MADV_NOCORE, MADV_CORE, KERN_PROC);
same!(crate::os::bsd: INHERIT_SHARE, INHERIT_COPY, INHERIT_NONE, MINCORE_INCORE);

const _: () = {
    use crate::os::dragonfly::kinfo_proc as at;
    use core::mem::offset_of;
    assert!(offset_of!(libc::kinfo_proc, kp_stat) == at::STAT);
    assert!(offset_of!(libc::kinfo_proc, kp_vm_map_size) == at::MAP_SIZE);
    assert!(offset_of!(libc::kinfo_proc, kp_vm_rssize) == at::RSSIZE);
    assert!(offset_of!(libc::kinfo_proc, kp_vm_dsize) == at::DSIZE);
    assert!(offset_of!(libc::kinfo_proc, kp_vm_ssize) == at::SSIZE);
    assert!(offset_of!(libc::kinfo_proc, kp_vm_prssize) == at::PRSSIZE);
    assert!(offset_of!(libc::kinfo_proc, kp_ru) == at::RUSAGE);
};

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__errno_location() }
}

pub(super) fn set_errno(value: c_int) {
    // SAFETY: the C library's errno of this thread is always writable.
    unsafe { *libc::__errno_location() = value };
}

pub(super) fn park(word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
    // umtx(2): microseconds, and zero is forever.
    let timeout = timeout.map_or(0, |timeout| timeout.as_micros().clamp(1, 1_000_000) as c_int);
    // SAFETY: the word lives through the call.
    unsafe { libc::umtx_sleep(word.as_ptr().cast(), while_equal as c_int, timeout) };
}

pub(super) fn wake(word: &AtomicU32, count: u32) {
    // SAFETY: the kernel takes the word for an address only.
    unsafe { libc::umtx_wakeup(word.as_ptr().cast(), count as c_int) };
}
