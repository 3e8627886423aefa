//! What the rules of all simulated Unixes need.

use super::mappings::Mapping;
use crate::os::unix::{EPERM, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE};
use crate::{Errno, Protection};

pub(super) const MAP_SHARED: i32 = 1;
pub(super) const PROT_ALL: i32 = PROT_READ | PROT_WRITE | PROT_EXEC;

/// What the bits of mmap(2) allow; writing is never without reading.
pub(super) fn protection(bits: i32) -> Protection {
    match bits & PROT_ALL {
        PROT_NONE => Protection::NoAccess,
        PROT_READ => Protection::ReadOnly,
        bits if bits & PROT_WRITE == 0 => Protection::ReadExecute,
        bits if bits & PROT_EXEC == 0 => Protection::ReadWrite,
        bits => panic!("no simulated kernel has memory for protection {bits:#x}"),
    }
}

/// Sealed memory stays as it is: mimmutable(2) of OpenBSD (seen), mseal(2) of Linux.
pub(super) fn may_change(parts: &[Mapping]) -> Result<(), Errno> {
    if parts.iter().any(|part| part.attributes.immutable) { Err(EPERM) } else { Ok(()) }
}
