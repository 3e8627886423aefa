//! What an address that faulted was to us.

use core::fmt;

use sysmem::{Change, Operation, Os, Protection, State};

#[cfg(unix)]
mod address;
#[cfg(unix)]
mod context;
#[cfg(any(unix, windows))]
mod handler;
#[cfg(unix)]
mod stack;

#[cfg(any(unix, windows))]
pub use handler::{FaultHandler, InstallError, write_to_stderr};
#[cfg(unix)]
pub use stack::AlternateStack;

/// What was tried at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Each is what it says.
pub enum Access {
    Read,
    Write,
    Execute,
}

/// What an address that faulted was to us: whose memory, in what state, how far from memory that
/// is Ready, and who moved it there.
///
/// Made and shown without a lock and without a heap, so it can be had in a signal handler. Who
/// moved the memory is known with the feature `call-sites`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FaultReport {
    /// The address.
    pub address: usize,
    /// What was tried there, where the system tells it.
    pub access: Option<Access>,
    /// The name of the account that the reservation is booked on.
    pub name: &'static str,
    /// The first address of the reservation.
    pub start: usize,
    /// The length of the reservation in bytes.
    pub len: usize,
    /// The state of the page.
    pub state: State,
    /// What the page allows, if it is Ready.
    pub protection: Protection,
    /// Whether the page is a guard.
    pub guard: bool,
    /// Bytes from the address down to the nearest Ready byte of the reservation.
    pub ready_below: Option<usize>,
    /// Bytes from the address up to the nearest Ready byte of the reservation.
    pub ready_above: Option<usize>,
    /// The last operation on the page, if it is remembered.
    pub change: Option<Change>,
}

impl FaultReport {
    /// What `address` is to `os`; `None` if it lies in none of its reservations.
    pub fn of(address: usize, os: &impl Os) -> Option<FaultReport> {
        let found = os.registry().find(address)?;
        let (state, protection) = found.state_at(address, os)?;
        let (below, above) = match state {
            State::Ready => (None, None),
            _ => found.nearest_ready(address, os),
        };
        Some(FaultReport {
            address,
            access: None,
            name: found.account().name(),
            start: found.address(),
            len: found.len(),
            state,
            protection,
            guard: found.is_guard(address, os),
            ready_below: below.map(|below| address - below),
            ready_above: above.map(|above| above - address),
            change: os.registry().last_change(address),
        })
    }
}

impl FaultReport {
    /// Whether reading and writing are allowed there.
    fn is_allowed_but_for_execution(&self) -> bool {
        self.state == State::Ready && self.protection == Protection::ReadWrite
    }
}

/// The operation as it is called in a program.
fn called(operation: Operation) -> &'static str {
    match operation {
        Operation::Alloc => "alloc()",
        Operation::Reserve => "reserve()",
        Operation::Map => "map()",
        Operation::Used => "used()",
        Operation::Unused => "unused()",
        Operation::Fault => "fault()",
        Operation::Protect => "protect()",
        Operation::Guard => "install_guard()",
        Operation::RemoveGuard => "remove_guard()",
        Operation::MapObject => "map_object()",
        _ => "another operation",
    }
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Some(Access::Read) => "reading",
            Some(Access::Write) => "writing",
            Some(Access::Execute) => "executing",
            None => "an access to",
        };
        write!(f, "sysmem: {access} {:#x} faulted: ", self.address)?;
        let unused = matches!(self.change, Some(Change { operation: Operation::Unused, .. }));
        match (self.guard, self.state) {
            (true, _) => write!(f, "a guard of {:?}", self.name)?,
            (_, State::Reserved) => write!(f, "{:?}, Reserved", self.name)?,
            (_, State::Prepared) if unused => write!(f, "{:?}, after unused()", self.name)?,
            (_, State::Prepared) => write!(f, "{:?}, Prepared, before used()", self.name)?,
            (_, State::Ready) => write!(f, "{:?}, Ready and {:?}", self.name, self.protection)?,
        }
        if self.is_allowed_but_for_execution() && self.access.is_none() {
            f.write_str(" (it was executed, or this is not the address of the access)")?;
        }
        let offset = self.address - self.start;
        write!(f, ", at {offset:#x} of {:#x} bytes from {:#x}", self.len, self.start)?;
        if self.state != State::Ready {
            match (self.ready_below, self.ready_above) {
                (None, None) => f.write_str("; nothing of it is Ready")?,
                (Some(below), None) => write!(f, "; the last Ready byte is {below} below")?,
                (None, Some(above)) => write!(f, "; the first Ready byte is {above} above")?,
                (Some(below), Some(above)) => {
                    write!(f, "; the nearest Ready bytes are {below} below and {above} above")?;
                }
            }
        }
        match self.change {
            Some(change) => write!(f, "; by {} at {}", called(change.operation), change.caller),
            None => Ok(()),
        }
    }
}
