//! What was tried, as the processor says it in the registers that a signal handler is given.

use core::ffi::c_void;

use super::Access;

/// The error code of a page fault on x86 (Intel SDM volume 3, 4.7): bit 1 is set for writes, bit 4
/// for instruction fetches.
#[allow(dead_code)] // Not every system hands it on.
fn x86(error: u64) -> Access {
    match (error & 16 != 0, error & 2 != 0) {
        (true, _) => Access::Execute,
        (_, true) => Access::Write,
        _ => Access::Read,
    }
}

/// The exception syndrome of aarch64 (Arm ARM, D24.2.40): class 0x20 is an instruction abort from
/// below, 0x24 a data abort, whose bit 6 is set for writes.
#[allow(dead_code)] // Not every system hands it on.
fn aarch64(syndrome: u64) -> Option<Access> {
    match (syndrome >> 26 & 0x3f, syndrome >> 6 & 1) {
        (0x20, _) => Some(Access::Execute),
        (0x24, 1) => Some(Access::Write),
        (0x24, _) => Some(Access::Read),
        _ => None,
    }
}

/// What was tried. `context` is the third argument of a handler with SA_SIGINFO (sigaction(2)), or
/// null.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(super) fn access(context: *mut c_void) -> Option<Access> {
    // SAFETY: a context, or null.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_ref() }?;
    Some(x86(context.uc_mcontext.gregs[libc::REG_ERR as usize] as u64))
}

/// What was tried: in a record behind the registers (<asm/sigcontext.h>), which are records of a
/// magic number, a length and as many bytes.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub(super) fn access(context: *mut c_void) -> Option<Access> {
    /// Of `mcontext_t`: the address, 31 registers, stack pointer, program counter and state come
    /// before, in 8 bytes each, and the records begin at a multiple of 16 bytes.
    const REGISTERS: usize = 8 * 35;
    const RECORDS: usize = REGISTERS.next_multiple_of(16);
    const ESR_MAGIC: u32 = 0x4553_5201;
    // SAFETY: a context, or null.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_ref() }?;
    let mut record = (&raw const context.uc_mcontext).cast::<u8>().wrapping_add(RECORDS);
    for _ in 0..16 {
        // SAFETY: the records are 4096 bytes long, and the last has no magic number.
        let [magic, len] = unsafe { record.cast::<[u32; 2]>().read_unaligned() };
        match magic {
            0 => return None,
            ESR_MAGIC => {
                // SAFETY: the syndrome follows.
                return aarch64(unsafe { record.add(8).cast::<u64>().read_unaligned() });
            }
            _ => record = record.wrapping_add(len as usize),
        }
    }
    None
}

/// What was tried.
#[cfg(all(target_os = "freebsd", target_arch = "x86_64"))]
pub(super) fn access(context: *mut c_void) -> Option<Access> {
    // SAFETY: a context, or null.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_ref() }?;
    Some(x86(context.uc_mcontext.mc_err as u64))
}

/// What was tried.
#[cfg(target_os = "macos")]
pub(super) fn access(context: *mut c_void) -> Option<Access> {
    // SAFETY: a context, or null; its registers are there.
    let registers = unsafe { context.cast::<libc::ucontext_t>().as_ref()?.uc_mcontext.as_ref() }?;
    #[cfg(target_arch = "x86_64")]
    return Some(x86(u64::from(registers.__es.__err)));
    #[cfg(target_arch = "aarch64")]
    return aarch64(u64::from(registers.__es.__esr));
    #[allow(unreachable_code)]
    None
}

/// Not known here.
#[cfg(not(any(
    all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")),
    all(target_os = "freebsd", target_arch = "x86_64"),
    target_os = "macos"
)))]
pub(super) fn access(_context: *mut c_void) -> Option<Access> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_is_read_from_what_the_processor_says() {
        let user = 4;
        assert_eq!(x86(user), Access::Read);
        assert_eq!(x86(user | 1 | 2), Access::Write);
        assert_eq!(x86(user | 1 | 16), Access::Execute);
        assert_eq!(aarch64(0x20 << 26 | 0xf), Some(Access::Execute));
        assert_eq!(aarch64(0x24 << 26 | 1 << 25 | 1 << 6 | 0xf), Some(Access::Write));
        assert_eq!(aarch64(0x24 << 26 | 1 << 25 | 0xf), Some(Access::Read));
        // Not an abort.
        assert_eq!(aarch64(0x15 << 26), None);
    }
}
