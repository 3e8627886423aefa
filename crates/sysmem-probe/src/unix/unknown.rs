//! A Unix whose way to tell the size of a process is not known here.

use core::ffi::c_int;

use super::Fact;

pub(super) const LIMITS: &[(&str, c_int)] =
    &[("RLIMIT_DATA", libc::RLIMIT_DATA as c_int), ("RLIMIT_STACK", libc::RLIMIT_STACK as c_int)];

#[cfg(target_vendor = "apple")]
pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__error() }
}

#[cfg(any(target_os = "illumos", target_os = "solaris"))]
pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::___errno() }
}

/// 0: not known. DragonFly's is a thread-local variable, which stable Rust has no way to name.
#[cfg(not(any(target_vendor = "apple", target_os = "illumos", target_os = "solaris")))]
pub(super) fn errno() -> c_int {
    0
}

pub(super) fn power_off() {}

pub(super) fn resident() -> Option<u64> {
    None
}

pub(super) fn size() -> Option<u64> {
    None
}

pub(super) fn facts(_fact: Fact<'_>) {}
