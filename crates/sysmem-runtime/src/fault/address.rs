//! Whether the address that a signal tells is that of the access. Seen on FreeBSD 15-CURRENT, OpenBSD
//! 7.6 and NetBSD 7.0, all on amd64:
//!
//! - An access to a non-canonical address tells the address of the instruction on FreeBSD, as
//!   SIGBUS, and on OpenBSD, as `SEGV_MAPERR`. Where the instruction lies in memory of ours, which a
//!   JIT's does, that would be mistaken for a fault of that memory.
//! - NetBSD tells some address of the stack then, as `SEGV_ACCERR`, which cannot be told apart.
//! - What allows nothing, or not this, is told exactly and as `SEGV_ACCERR` on all of them; on
//!   Darwin as SIGBUS (`ux_exception`, bsd/uxkern/ux_exception.c: KERN_PROTECTION_FAILURE).

use sysmem::State;
use sysmem::calls::Kernel;

/// What a signal says about the access.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// SIGBUS, not SIGSEGV.
    pub(super) bus: bool,
    /// `si_code`.
    pub(super) code: i32,
}

/// 1 on every Unix: nothing is mapped there.
const SEGV_MAPERR: i32 = 1;

/// Whether the access was at the address told, on the running system, in a page of ours in this
/// state.
pub(super) fn is_told(told: Told, state: State) -> bool {
    is_told_by(<sysmem::native::Kernel as sysmem::calls::Calls>::KERNEL, told, state)
}

fn is_told_by(kernel: Kernel, told: Told, state: State) -> bool {
    match kernel {
        // Anonymous memory that is Ready is never the cause of SIGBUS.
        Kernel::FreeBsd | Kernel::DragonFly => !told.bus || state != State::Ready,
        // Every page of a reservation is mapped.
        Kernel::OpenBsd => told.bus || told.code != SEGV_MAPERR,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_an_instruction_is_not_taken_for_that_of_its_access() {
        let (segv, bus) = (|code| Told { bus: false, code }, |code| Told { bus: true, code });
        use State::*;
        for (kernel, told, state, expected) in [
            (Kernel::FreeBsd, bus(3), Ready, false),
            (Kernel::FreeBsd, bus(3), Reserved, true),
            (Kernel::FreeBsd, segv(2), Ready, true),
            (Kernel::OpenBsd, segv(1), Ready, false),
            (Kernel::OpenBsd, segv(2), Ready, true),
            (Kernel::OpenBsd, segv(2), Reserved, true),
            (Kernel::NetBsd, segv(2), Reserved, true),
            (Kernel::Darwin, bus(2), Ready, true),
            (Kernel::Darwin, bus(2), Reserved, true),
            // A light guard.
            (Kernel::Linux, segv(1), Reserved, true),
            (Kernel::Linux, segv(2), Ready, true),
        ] {
            assert_eq!(is_told_by(kernel, told, state), expected, "{kernel:?} {told:?} {state:?}");
        }
    }
}
