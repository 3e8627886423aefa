//! What FreeBSD tells about a process and itself.

use core::ffi::c_int;

use super::{Fact, sysctl};

pub(super) const LIMITS: &[(&str, c_int)] = &[
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_SWAP", libc::RLIMIT_SWAP),
];

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__error() }
}

pub(super) fn power_off() {
    // SAFETY: returns if the caller may not (reboot(2)).
    unsafe { libc::reboot(libc::RB_HALT | libc::RB_POWEROFF) };
}

/// A field of `struct kinfo_proc` of this process (sys/user.h; 1,088 bytes on 64-bit machines).
fn process(offset: usize) -> Option<u64> {
    // SAFETY: getpid(2) cannot fail.
    let process = unsafe { libc::getpid() };
    let number = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, process];
    let mut structure = [0; 1088];
    let len = sysctl::by_number(&number, &mut structure)?;
    if len == structure.len() { sysctl::eight_bytes(&structure, offset) } else { None }
}

pub(super) fn resident() -> Option<u64> {
    const KI_RSSIZE: usize = 264;
    Some(process(KI_RSSIZE)? * sysmem::page_size() as u64)
}

pub(super) fn size() -> Option<u64> {
    const KI_SIZE: usize = 256;
    process(KI_SIZE)
}

pub(super) fn facts(fact: Fact<'_>) {
    for (name, key) in [
        ("kern.osreldate", c"kern.osreldate"),
        ("hw.physmem", c"hw.physmem"),
        ("hw.usermem", c"hw.usermem"),
        ("vm.swap_total", c"vm.swap_total"),
        ("vm.swap_reserved", c"vm.swap_reserved"),
        // A bit mask: tuning(7).
        ("vm.overcommit", c"vm.overcommit"),
        ("vm.max_user_wired", c"vm.max_user_wired"),
        ("vm.mincore_mapped", c"vm.mincore_mapped"),
        ("vm.imply_prot_max", c"vm.imply_prot_max"),
        ("vm.pmap.pg_ps_enabled", c"vm.pmap.pg_ps_enabled"),
        ("kern.elf64.allow_wx", c"kern.elf64.allow_wx"),
        ("kern.elf64.aslr.enable", c"kern.elf64.aslr.enable"),
    ] {
        if let Some(value) = sysctl::by_name(key) {
            fact(name, format_args!("{value}"));
        }
    }
}
