//! What the rules of the BSDs share. "Seen" is one of the kernels of `os/bsd.rs`: FreeBSD
//! 15-CURRENT, OpenBSD 7.6, NetBSD 7.0, all on amd64.

use std::ops::Range;

use super::machine::Machine;
use super::mappings::{Attributes, Mapping};
use crate::os::bsd::{INHERIT_COPY, INHERIT_NONE, INHERIT_SHARE, MAP_ANON};
use crate::os::unix::{
    ENOMEM, MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE, RLIMIT_DATA,
};
use crate::{Errno, Inheritance, Protection};

pub(super) const MAP_SHARED: i32 = 1;
pub(super) const EACCES: Errno = Errno(13);
pub(super) const EFAULT: Errno = Errno(14);
pub(super) const ENOENT: Errno = Errno(2);
pub(super) const EAGAIN: Errno = Errno(35);
pub(super) const PROT_ALL: i32 = PROT_READ | PROT_WRITE | PROT_EXEC;
pub(super) const RLIMIT_MEMLOCK: i32 = 6;
/// Advice that changes nothing here: MADV_NORMAL, _RANDOM, _SEQUENTIAL, _WILLNEED; and, on every
/// BSD, MADV_DONTNEED, which keeps contents (seen on all).
pub(super) const ADVICE_WITHOUT_EFFECT: Range<i32> = 0..5;
/// The number of the simulated process.
pub(super) const PROCESS: i32 = 17;

/// What the bits of mmap(2) allow; writing is never without reading.
pub(super) fn protection(bits: i32) -> Protection {
    match bits & PROT_ALL {
        PROT_NONE => Protection::NoAccess,
        PROT_READ => Protection::ReadOnly,
        bits if bits & PROT_WRITE == 0 => Protection::ReadExecute,
        bits if bits & PROT_EXEC == 0 => Protection::ReadWrite,
        bits => panic!("no simulated BSD has a rule for protection {bits:#x}"),
    }
}

/// The whole pages that a range touches: every BSD rounds outward (seen on all, for munmap,
/// mprotect and madvise). `None` where it runs past the end of all addresses.
pub(super) fn outward(machine: &Machine, address: usize, len: usize) -> Option<Range<usize>> {
    let start = address & !(machine.page_size() - 1);
    Some(start..machine.round_up(address.checked_add(len)?)?)
}

/// Whether programs have these addresses: `user` ones, and those of the simulated process.
pub(super) fn is_user(machine: &Machine, range: &Range<usize>, user: &Range<usize>) -> bool {
    let inside = |space: &Range<usize>| space.start <= range.start && range.end <= space.end;
    inside(user) || inside(&machine.space())
}

/// Whether the range has no hole.
pub(super) fn is_mapped(machine: &Machine, range: &Range<usize>) -> bool {
    let parts = machine.mappings.inside(range.clone());
    parts.iter().map(Mapping::len).sum::<usize>() == range.len()
}

/// Changes a part of a mapping; the BSDs have no limit on mappings.
pub(super) fn change(machine: &mut Machine, part: &Mapping, attributes: Attributes) {
    let changed = machine.change(part, attributes, usize::MAX);
    changed.expect("there is no limit on mappings");
}

/// Attributes of a new mapping: shared anonymous memory differs from private by what a forked
/// child gets of it. (Seen on all: with neither flag it is private.)
pub(super) fn attributes(machine: &Machine, name: &str, bits: i32, flags: i32) -> Attributes {
    assert!(flags & MAP_ANON != 0, "the simulated {name} has anonymous memory only");
    let mut attributes = Attributes::new(protection(bits));
    attributes.locked = machine.settings.lock_new_mappings;
    if flags & (MAP_SHARED | MAP_PRIVATE) == MAP_SHARED {
        attributes.inheritance = Inheritance::Share;
    }
    attributes
}

/// Changes what a forked child gets. Holes are passed over (seen on all).
pub(super) fn inherit(machine: &mut Machine, range: Range<usize>, inheritance: Inheritance) {
    machine.own("minherit", &range);
    for part in machine.mappings.inside(range) {
        let attributes = Attributes { inheritance, ..part.attributes.clone() };
        change(machine, &part, attributes);
    }
}

/// What the numbers of minherit(2) mean that every BSD has.
pub(super) fn inheritance(number: i32) -> Option<Inheritance> {
    match number {
        INHERIT_SHARE => Some(Inheritance::Share),
        INHERIT_COPY => Some(Inheritance::Copy),
        INHERIT_NONE => Some(Inheritance::Nothing),
        _ => None,
    }
}

/// Wires or unwires the mappings of a range.
pub(super) fn wire(machine: &mut Machine, range: Range<usize>, locked: bool) {
    for part in machine.mappings.inside(range) {
        let attributes = Attributes { locked, ..part.attributes.clone() };
        change(machine, &part, attributes);
    }
}

/// Whether wiring the range stays below `RLIMIT_MEMLOCK`.
pub(super) fn may_wire(machine: &Machine, range: &Range<usize>) -> bool {
    let wired = machine.mappings.totals().locked;
    (wired + range.len()) as u64 <= machine.settings.locked_limit
}

/// The limits that every BSD numbers alike; `None` for others.
pub(super) fn resource_limit(machine: &Machine, resource: i32) -> Option<u64> {
    match resource {
        RLIMIT_DATA => Some(machine.settings.data_limit),
        RLIMIT_MEMLOCK => Some(machine.settings.locked_limit),
        _ => None,
    }
}

/// Bytes of the process in memory.
pub(super) fn resident_pages(machine: &Machine) -> usize {
    machine.resident_pages(machine.space()).len()
}

/// A structure of the kernel's, zero but for some fields.
pub(super) fn answer(
    value: &mut [u8],
    len: usize,
    fields: &[(usize, &[u8])],
) -> Result<usize, Errno> {
    // A buffer that is too short (seen on FreeBSD).
    let value = value.get_mut(..len).ok_or(ENOMEM)?;
    value.fill(0);
    for &(offset, field) in fields {
        value[offset..offset + field.len()].copy_from_slice(field);
    }
    Ok(len)
}
