//! The signal that a process gets for an access that its memory does not allow.
//!
//! Nothing sends it here: on the real backing the running system sends its own, on the others nothing
//! faults. These are facts for whoever says what a process would be told. A file that ends before its
//! mapping does, no simulated process has.

use super::{Simulated, System};
use crate::Protection;
use crate::os::unix::bits;

/// The same on every Unix, as are the codes.
pub(super) const SIGSEGV: i32 = 11;
pub(super) const SEGV_MAPERR: i32 = 1;
pub(super) const SEGV_ACCERR: i32 = 2;
/// Of the BSDs and Darwin.
pub(super) const SIGBUS: i32 = 10;
pub(super) const BUS_ADRALN: i32 = 1;
pub(super) const BUS_OBJERR: i32 = 3;

/// An access that memory does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// Something is mapped there, and allows nothing, or not this.
    Refused,
    /// Nothing is mapped there, or the addresses are the kernel's.
    Unmapped,
    /// No address that the processor has, between those of programs and those of the kernel.
    NotCanonical,
}

/// Which address a signal tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// That of the access, to the byte.
    Access,
    /// That of the instruction.
    Instruction,
    /// Another.
    Other,
}

/// What a signal tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Its number on the system: SIGSEGV or SIGBUS.
    pub number: i32,
    /// Its `si_code`.
    pub code: i32,
    /// What its `si_addr` is.
    pub told: Told,
}

impl Signal {
    pub(super) const fn new(number: i32, code: i32, told: Told) -> Signal {
        Signal { number, code, told }
    }

    /// Every Unix but Darwin: seen on FreeBSD, OpenBSD and NetBSD, read for the others.
    pub(super) const REFUSED: Signal = Signal::new(SIGSEGV, SEGV_ACCERR, Told::Access);
    pub(super) const UNMAPPED: Signal = Signal::new(SIGSEGV, SEGV_MAPERR, Told::Access);
}

impl<S: System> Simulated<S> {
    /// The signal for an access at an address that needs this protection. `None` where memory allows
    /// it, and on Windows.
    pub fn signal_at(&self, address: usize, needed: Protection) -> Option<Signal> {
        let half = 1usize << 47;
        let stray = match self.protection_at(address) {
            Some(protection) if bits(needed) & !bits(protection) == 0 => return None,
            Some(_) => Stray::Refused,
            None if (half..half.wrapping_neg()).contains(&address) => Stray::NotCanonical,
            None => Stray::Unmapped,
        };
        S::signal(stray)
    }
}
