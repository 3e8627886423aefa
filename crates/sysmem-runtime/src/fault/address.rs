//! Whether the address that a signal tells is that of the access. Seen on FreeBSD 15-CURRENT, OpenBSD
//! 7.6 and NetBSD 7.0, all on amd64; the simulated kernels say the same, and where others are read:
//!
//! - An access to a non-canonical address tells the address of the instruction on FreeBSD, as
//!   SIGBUS, and on OpenBSD and illumos, as `SEGV_MAPERR`. Where the instruction lies in memory of ours, which a
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
        Kernel::OpenBsd | Kernel::Illumos => told.bus || told.code != SEGV_MAPERR,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sysmem::sim::{self, Stray, System};

    /// What a process on a simulated kernel is told of an access; and where it is told, which address.
    fn told<S: System>(stray: Stray) -> Option<(Told, sim::Told)> {
        let signal = S::signal(stray)?;
        Some((Told { bus: signal.number != libc::SIGSEGV, code: signal.code }, signal.told))
    }

    fn only_addresses_of_accesses_are_believed<S: System>() {
        for state in [State::Reserved, State::Prepared, State::Ready] {
            let (refused, _) = told::<S>(Stray::Refused).unwrap();
            assert!(is_told_by(S::KERNEL, refused, state), "{:?} {refused:?} {state:?}", S::KERNEL);
        }
        // The instruction lies in memory that is Ready.
        if let Some((told, sim::Told::Instruction)) = told::<S>(Stray::NotCanonical) {
            assert!(!is_told_by(S::KERNEL, told, State::Ready), "{:?} {told:?}", S::KERNEL);
        }
    }

    #[test]
    fn the_address_of_an_instruction_is_not_taken_for_that_of_its_access() {
        only_addresses_of_accesses_are_believed::<sim::Linux>();
        only_addresses_of_accesses_are_believed::<sim::FreeBsd>();
        only_addresses_of_accesses_are_believed::<sim::OpenBsd>();
        only_addresses_of_accesses_are_believed::<sim::NetBsd>();
        only_addresses_of_accesses_are_believed::<sim::DragonFly>();
        only_addresses_of_accesses_are_believed::<sim::Darwin>();
        only_addresses_of_accesses_are_believed::<sim::Illumos>();
        // A light guard of Linux.
        assert!(is_told_by(Kernel::Linux, Told { bus: false, code: SEGV_MAPERR }, State::Reserved));
    }
}
