//! What OpenBSD tells about a process and itself. It has no sysctlbyname(3) and no mincore(2).

use core::ffi::c_int;

use super::{Fact, sysctl};

/// There is no `RLIMIT_AS` (getrlimit(2)).
pub(super) const LIMITS: &[(&str, c_int)] = &[
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
];

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__errno() }
}

pub(super) fn power_off() {
    // SAFETY: returns if the caller may not (reboot(2)).
    unsafe { libc::reboot(libc::RB_HALT | libc::RB_POWERDOWN) };
}

/// Four fields of `struct kinfo_proc` of this process, in pages: resident, text, data, stack
/// (sys/sysctl.h, `p_vm_rssize` and what follows). The kernel fills as many bytes as are asked
/// for.
fn process() -> Option<[u64; 4]> {
    const P_VM_RSSIZE: usize = 384;
    let mut structure = [0; P_VM_RSSIZE + 16];
    // SAFETY: getpid(2) cannot fail.
    let process = unsafe { libc::getpid() };
    let len = structure.len() as c_int;
    let number = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, process, len, 1];
    if sysctl::by_number(&number, &mut structure)? != structure.len() {
        return None;
    }
    let mut fields = [0; 4];
    for (index, field) in fields.iter_mut().enumerate() {
        *field = sysctl::four_bytes(&structure, P_VM_RSSIZE + 4 * index)?;
    }
    Some(fields)
}

pub(super) fn resident() -> Option<u64> {
    let [resident, ..] = process()?;
    Some(resident * sysmem::page_size() as u64)
}

/// What counts against `RLIMIT_DATA`, text and stack: reservations do not, nothing tells those.
pub(super) fn size() -> Option<u64> {
    let [_, text, data, stack] = process()?;
    Some((text + data + stack) * sysmem::page_size() as u64)
}

pub(super) fn facts(fact: Fact<'_>) {
    // sys/sysctl.h; the libc crate does not have the second numbers.
    for (name, key) in [("hw.physmem", 19), ("hw.usermem", 20)] {
        let mut value = [0; 8];
        if sysctl::by_number(&[libc::CTL_HW, key], &mut value) == Some(value.len()) {
            fact(name, format_args!("{}", u64::from_ne_bytes(value)));
        }
    }
}
