//! What NetBSD tells about a process and itself.

use core::ffi::c_int;

use super::{Fact, sysctl};

pub(super) const LIMITS: &[(&str, c_int)] = &[
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
];

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__errno() }
}

pub(super) fn power_off() {
    // SAFETY: returns if the caller may not (reboot(2)); no boot string is passed.
    unsafe { libc::reboot(libc::RB_POWERDOWN, core::ptr::null_mut()) };
}

/// `struct kinfo_proc2` of this process (sys/sysctl.h). The kernel fills as many bytes as are
/// asked for, so one that has more behind these answers as well.
fn process() -> Option<[u8; 680]> {
    let mut structure = [0; 680];
    // SAFETY: getpid(2) cannot fail.
    let process = unsafe { libc::getpid() };
    let len = structure.len() as c_int;
    let number = [libc::CTL_KERN, libc::KERN_PROC2, libc::KERN_PROC_PID, process, len, 1];
    let filled = sysctl::by_number(&number, &mut structure)?;
    (filled == structure.len()).then_some(structure)
}

pub(super) fn resident() -> Option<u64> {
    const P_VM_RSSIZE: usize = 432;
    let pages = sysctl::four_bytes(&process()?, P_VM_RSSIZE)?;
    Some(pages * sysmem::page_size() as u64)
}

pub(super) fn size() -> Option<u64> {
    const P_VM_VSIZE: usize = 664;
    let pages = sysctl::eight_bytes(&process()?, P_VM_VSIZE)?;
    Some(pages * sysmem::page_size() as u64)
}

pub(super) fn facts(fact: Fact<'_>) {
    for (name, key) in [
        ("kern.osrevision", c"kern.osrevision"),
        ("hw.physmem64", c"hw.physmem64"),
        ("hw.usermem64", c"hw.usermem64"),
        ("vm.user_va0_disable", c"vm.user_va0_disable"),
        // Whether pages that were writable may become executable (paxctl(8), security(7)).
        ("security.pax.mprotect.enabled", c"security.pax.mprotect.enabled"),
        ("security.pax.mprotect.global", c"security.pax.mprotect.global"),
        ("security.pax.aslr.enabled", c"security.pax.aslr.enabled"),
    ] {
        if let Some(value) = sysctl::by_name(key) {
            fact(name, format_args!("{value}"));
        }
    }
}
