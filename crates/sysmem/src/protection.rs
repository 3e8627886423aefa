/// What a Ready page allows.
///
/// No value is writable and executable: OpenBSD (mmap(2)), NetBSD with PaX MPROTECT and hardened
/// systems refuse such pages, so a program that never asks for them runs everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protection {
    /// Every access faults; the contents stay.
    NoAccess = 0,
    /// Reads succeed, writes fault.
    ReadOnly = 1,
    /// Reads and writes succeed.
    ReadWrite = 2,
    /// Reads and instruction fetches succeed; only in a reservation made with
    /// [`executable`](crate::ReserveOptions::executable).
    ReadExecute = 3,
}

impl Protection {
    /// The protection that the two low bits of `bits` stand for.
    pub(crate) const fn from_bits(bits: u8) -> Protection {
        match bits & 3 {
            0 => Protection::NoAccess,
            1 => Protection::ReadOnly,
            2 => Protection::ReadWrite,
            _ => Protection::ReadExecute,
        }
    }
}
