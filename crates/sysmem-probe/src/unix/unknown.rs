//! A Unix whose way to tell the size of a process is not known here.

use core::ffi::c_int;

use super::Fact;

pub(super) const LIMITS: &[(&str, c_int)] =
    &[("RLIMIT_DATA", libc::RLIMIT_DATA as c_int), ("RLIMIT_STACK", libc::RLIMIT_STACK as c_int)];

pub(super) fn errno() -> c_int {
    #[cfg(any(target_os = "illumos", target_os = "solaris"))]
    use libc::___errno as place;
    #[cfg(target_os = "dragonfly")]
    use libc::__errno_location as place;
    #[cfg(target_vendor = "apple")]
    use libc::__error as place;
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *place() }
}

pub(super) fn power_off() {}

pub(super) fn resident() -> Option<u64> {
    None
}

pub(super) fn size() -> Option<u64> {
    None
}

pub(super) fn facts(_fact: Fact<'_>) {}
