//! What DragonFly tells about a process and itself.

use core::ffi::c_int;
use core::mem::offset_of;

use super::{Fact, sysctl};

pub(super) const LIMITS: &[(&str, c_int)] =
    &[("RLIMIT_DATA", libc::RLIMIT_DATA as c_int), ("RLIMIT_STACK", libc::RLIMIT_STACK as c_int)];

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__errno_location() }
}

pub(super) fn power_off() {
    // SAFETY: returns if the caller may not (reboot(2), <sys/reboot.h> of 6.4).
    unsafe { libc::reboot(libc::RB_HALT | libc::RB_POWEROFF) };
}

/// The eight bytes at an offset of the `struct kinfo_proc` of this process (<sys/kinfo.h>).
fn process(offset: usize) -> Option<u64> {
    // SAFETY: getpid(2) cannot fail.
    let process = unsafe { libc::getpid() };
    let number = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, process];
    let mut structure = [0; size_of::<libc::kinfo_proc>()];
    let len = sysctl::by_number(&number, &mut structure)?;
    let told = sysctl::four_bytes(&structure, offset_of!(libc::kinfo_proc, kp_pid))?;
    // Otherwise the structure is another one.
    let is_this = len == structure.len() && told == process as u64;
    if is_this { sysctl::eight_bytes(&structure, offset) } else { None }
}

pub(super) fn resident() -> Option<u64> {
    let pages = process(offset_of!(libc::kinfo_proc, kp_vm_rssize))?;
    Some(pages * sysmem::page_size() as u64)
}

pub(super) fn size() -> Option<u64> {
    process(offset_of!(libc::kinfo_proc, kp_vm_map_size))
}

pub(super) fn facts(fact: Fact<'_>) {
    for (name, key) in [
        ("kern.osreldate", c"kern.osreldate"),
        ("hw.physmem", c"hw.physmem"),
        ("hw.usermem", c"hw.usermem"),
        ("vm.swap_size", c"vm.swap_size"),
    ] {
        if let Some(value) = sysctl::by_name(key) {
            fact(name, format_args!("{value}"));
        }
    }
}
