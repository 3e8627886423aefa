//! What illumos tells about a process, in /proc where it is mounted.

use core::ffi::c_int;

use super::Fact;

pub(super) const LIMITS: &[(&str, c_int)] =
    &[("RLIMIT_DATA", libc::RLIMIT_DATA as c_int), ("RLIMIT_STACK", libc::RLIMIT_STACK as c_int)];

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::___errno() }
}

unsafe extern "C" {
    /// <sys/uadmin.h>.
    fn uadmin(command: c_int, function: c_int, argument: usize) -> c_int;
}

pub(super) fn power_off() {
    const A_REBOOT: c_int = 1;
    const AD_POWEROFF: c_int = 6;
    // At once: A_SHUTDOWN would first end every process, and this is the one that cannot be.
    // SAFETY: returns if the caller may not (uadmin(2)); no boot arguments are passed.
    unsafe { uadmin(A_REBOOT, AD_POWEROFF, 0) };
}

/// The number of kibibytes at an offset of `psinfo_t` (<sys/procfs.h>), in bytes.
fn figure(offset: usize) -> Option<u64> {
    const PR_PID: usize = 8;
    let mut structure = [0u8; 64];
    // SAFETY: the path ends in zero.
    let file = unsafe { libc::open(c"/proc/self/psinfo".as_ptr(), libc::O_RDONLY) };
    if file < 0 {
        return None;
    }
    // SAFETY: there is room for what is asked for, and the descriptor is ours.
    let read = unsafe {
        let read = libc::read(file, structure.as_mut_ptr().cast(), structure.len());
        libc::close(file);
        read
    };
    let process = i32::from_ne_bytes(*structure[PR_PID..].first_chunk()?);
    // SAFETY: getpid(2) cannot fail.
    let is_this = read == structure.len() as isize && process == unsafe { libc::getpid() };
    is_this.then_some(u64::from_ne_bytes(*structure[offset..].first_chunk()?) * 1024)
}

pub(super) fn resident() -> Option<u64> {
    const PR_RSSIZE: usize = 56;
    figure(PR_RSSIZE)
}

pub(super) fn size() -> Option<u64> {
    const PR_SIZE: usize = 48;
    figure(PR_SIZE)
}

pub(super) fn facts(_fact: Fact<'_>) {}
