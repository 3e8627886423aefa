//! Calling the kernel with the stack in memory of one's own. Not by sigaltstack(2): OpenBSD maps
//! what that is given anew, as memory for stacks (`uvm_map_remap_as_stack`).
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

use core::arch::asm;

use sysmem::PageRange;

/// Says that the kernel let this be said.
extern "C" fn report() -> ! {
    super::say([0; 4]);
    // SAFETY: ends the child without running what the parent wants to run at its end.
    unsafe { libc::_exit(0) }
}

/// Moves the stack and calls the kernel, in a child that does nothing else.
///
/// # Safety
///
/// In a forked child, and nobody relies on the contents of the memory.
pub(super) unsafe fn enter_kernel_from(stack: PageRange) -> ! {
    // SAFETY: ends the child if the kernel does not.
    unsafe { libc::alarm(super::PATIENCE) };
    let top = stack.start.wrapping_add(stack.len);
    // SAFETY: nothing on the old stack is used from here on; the function does not return, and finds
    // the stack pointer as a call leaves it: a multiple of 16, before the address to return to.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("mov rsp, {top}", "call {report}", "ud2", top = in(reg) top, report = sym report,
            options(noreturn))
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("mov sp, {top}", "bl {report}", "brk #1", top = in(reg) top, report = sym report,
            options(noreturn))
    }
}
