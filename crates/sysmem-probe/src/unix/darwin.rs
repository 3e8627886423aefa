//! What Darwin tells about a process.

use core::ffi::c_int;

use super::Fact;

pub(super) const LIMITS: &[(&str, c_int)] =
    &[("RLIMIT_DATA", libc::RLIMIT_DATA as c_int), ("RLIMIT_STACK", libc::RLIMIT_STACK as c_int)];

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__error() }
}

unsafe extern "C" {
    /// bsd/sys/reboot.h of XNU; the headers for programs leave it out.
    fn reboot(how: c_int) -> c_int;
}

pub(super) fn power_off() {
    const RB_HALT: c_int = 8;
    // SAFETY: returns if the caller may not (reboot(2)).
    unsafe { reboot(RB_HALT) };
}

unsafe extern "C" {
    // <mach/mach_init.h>; a macro calls it `mach_task_self()`.
    static mach_task_self_: libc::mach_port_t;
}

/// `struct task_vm_info` of this process up to its first revision (<mach/task_info.h>).
fn process() -> Option<[u32; 38]> {
    const TASK_VM_INFO: libc::task_flavor_t = 22;
    let mut structure = [0; 38];
    let mut count = structure.len() as libc::mach_msg_type_number_t;
    let place = structure.as_mut_ptr().cast();
    // SAFETY: the port was set before `main`; there is room for `count` numbers of four bytes.
    let answer = unsafe { libc::task_info(mach_task_self_, TASK_VM_INFO, place, &mut count) };
    (answer == 0 && count as usize == structure.len()).then_some(structure)
}

/// The eight bytes at an offset.
fn figure(offset: usize) -> Option<u64> {
    let [low, high] = *process()?.get(offset / 4..)?.first_chunk::<2>()?;
    Some(u64::from(high) << 32 | u64::from(low))
}

/// The footprint: what is given back leaves it at once, and the resident set later.
pub(super) fn resident() -> Option<u64> {
    const PHYS_FOOTPRINT: usize = 144;
    figure(PHYS_FOOTPRINT)
}

pub(super) fn size() -> Option<u64> {
    const VIRTUAL_SIZE: usize = 0;
    figure(VIRTUAL_SIZE)
}

pub(super) fn facts(_fact: Fact<'_>) {}
