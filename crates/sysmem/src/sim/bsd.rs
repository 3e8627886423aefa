//! What the rules of the BSDs share: each is a [`Bsd`], a table of what it answers where they
//! differ. "Seen" is one of the kernels of `os/bsd.rs`: FreeBSD 15-CURRENT, OpenBSD 7.6, NetBSD
//! 7.0, all on amd64.

use std::fmt;
use std::ops::Range;

use super::machine::Machine;
use super::mappings::{Attributes, Mapping};
use super::signals::{Signal, Stray};
use super::unix::{MAP_SHARED, may_change, protection};
use super::{Simulated, System, UnixSystem};
use crate::calls::{Kernel, Minherit};
use crate::os::bsd::{INHERIT_COPY, INHERIT_NONE, INHERIT_SHARE, MAP_ANON, RLIMIT_AS};
use crate::os::unix::{EINVAL, ENOMEM, MAP_PRIVATE, RLIMIT_DATA};
use crate::{Errno, Inheritance, Protection};

pub(super) const EACCES: Errno = Errno(13);
pub(super) const EFAULT: Errno = Errno(14);
pub(super) const ENOENT: Errno = Errno(2);
pub(super) const EAGAIN: Errno = Errno(35);
pub(super) const RLIMIT_MEMLOCK: i32 = 6;
/// Advice that changes nothing here: MADV_NORMAL, _RANDOM, _SEQUENTIAL, _WILLNEED; and, on every
/// BSD, MADV_DONTNEED, which keeps contents (seen on all).
const ADVICE_WITHOUT_EFFECT: Range<i32> = 0..5;
/// The number of the simulated process.
pub(super) const PROCESS: i32 = 17;

/// What the calls answer where the BSDs differ.
pub struct Answers {
    /// munmap(2) over a hole, before anything is removed.
    pub(super) munmap_hole: Result<(), Errno>,
    /// madvise(2) of nothing begins with a look at the range: a hole is no error there.
    pub(super) madvise_hole: Result<(), Errno>,
    /// `MADV_FREE`.
    pub(super) free: i32,
    /// Whether `MADV_FREE` drops pages when it pleases, and not before it returns.
    pub(super) free_is_lazy: bool,
    /// `MADV_FREE` of a range with wired pages, before anything is done.
    pub(super) free_wired: Result<(), Errno>,
    /// `MADV_NOCORE` and `MADV_CORE`.
    pub(super) core: Option<[i32; 2]>,
    /// Advice that is known beside what all know, and changes nothing here.
    pub(super) other_advice: &'static [i32],
    /// mlock(2) and munlock(2) over a hole.
    pub(super) lock_hole: Errno,
    /// mlock(2) of what allows nothing.
    pub(super) lock_closed: Result<(), Errno>,
    /// munlock(2) of what is not locked.
    pub(super) unlock_unlocked: Result<(), Errno>,
    /// mlock(2) beyond `RLIMIT_MEMLOCK`, for root too.
    pub(super) lock_limit: Errno,
    /// The number of minherit(2) by which a child gets zeros.
    pub(super) inherit_zeros: Option<i32>,
    /// mmap(2) of anonymous memory at an offset of no file: refused, or what is not a whole page is
    /// added to the address.
    pub(super) anonymous_offset: Result<(), Errno>,
    /// mincore(2) over a hole, which else is told like what is not in memory.
    pub(super) mincore_hole: Result<(), Errno>,
    /// Whether there is an `RLIMIT_AS`.
    pub(super) address_space_limit: bool,
    /// The signal for an access to no address of the processor's.
    pub(super) not_canonical: Signal,
}

/// The rules of a BSD, where it has its own.
pub trait Bsd: Copy + fmt::Debug + Send + Sync + 'static {
    /// Whose rules they are.
    #[doc(hidden)]
    const KERNEL: Kernel;

    /// The addresses of programs.
    #[doc(hidden)]
    const USER: Range<usize>;

    /// What it answers where the BSDs differ.
    #[doc(hidden)]
    const ANSWERS: Answers;

    /// mmap(2).
    #[doc(hidden)]
    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno>;

    /// munmap(2) of nothing.
    #[doc(hidden)]
    fn munmap_nothing(machine: &Machine, address: usize) -> Result<(), Errno>;

    /// What each of the parts is to be after mprotect(2), if it may be: looked at before anything
    /// changes.
    #[doc(hidden)]
    fn protected(machine: &mut Machine, parts: &[Mapping], bits: i32) -> Result<Attributed, Errno>;

    /// Advice without effect on contents, on a part of one mapping.
    #[doc(hidden)]
    fn advised(_machine: &mut Machine, _part: &Mapping, _advice: i32) {}

    /// Whether a range of these parts may be inherited so.
    #[doc(hidden)]
    fn may_inherit(_parts: &[Mapping], _inheritance: Inheritance) -> Result<(), Errno> {
        Ok(())
    }

    /// The byte of mincore(2) for a page that is in memory.
    #[doc(hidden)]
    fn mincore_byte(_machine: &Machine, _page: usize) -> u8 {
        1
    }

    /// fork(2): what a child is charged with.
    #[doc(hidden)]
    fn fork(_machine: &Machine) -> Result<usize, Errno> {
        Ok(0)
    }

    /// Limits that others do not have.
    #[doc(hidden)]
    fn other_limit(_machine: &Machine, _resource: i32) -> Option<u64> {
        None
    }
}

/// What mprotect(2) makes of each part, if anything.
pub type Attributed = fn(&Attributes, bits: i32) -> Option<Attributes>;

impl<B: Bsd> System for B {
    const KERNEL: Kernel = B::KERNEL;

    fn lock(machine: &mut Machine, address: usize, len: usize, locked: bool) -> Result<(), Errno> {
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        let answers = B::ANSWERS;
        if !machine.is_mapped(&range) {
            return Err(answers.lock_hole);
        }
        let parts = machine.mappings.inside(range.clone());
        let any =
            |refused: fn(&Attributes) -> bool| parts.iter().any(|part| refused(&part.attributes));
        if locked && any(|part| part.protection == Protection::NoAccess) {
            answers.lock_closed?;
        }
        if !locked && any(|part| !part.locked) {
            answers.unlock_unlocked?;
        }
        // `RLIMIT_MEMLOCK`.
        let wired = machine.mappings.totals().locked;
        if locked && (wired + range.len()) as u64 > machine.settings.locked_limit {
            return Err(answers.lock_limit);
        }
        for part in parts {
            let attributes = Attributes { locked, ..part.attributes.clone() };
            machine.alter(&part, attributes);
        }
        Ok(())
    }

    fn signal(stray: Stray) -> Option<Signal> {
        Some(match stray {
            Stray::Refused => Signal::REFUSED,
            Stray::Unmapped => Signal::UNMAPPED,
            Stray::NotCanonical => B::ANSWERS.not_canonical,
        })
    }
}

impl<B: Bsd> UnixSystem for B {
    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        B::mmap(machine, address, len, bits, flags)
    }

    fn munmap(machine: &mut Machine, address: usize, len: usize) -> Result<(), Errno> {
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        if len == 0 {
            return B::munmap_nothing(machine, address);
        }
        if !is_user::<B>(machine, &range) {
            return Err(EINVAL);
        }
        if !machine.is_mapped(&range) {
            B::ANSWERS.munmap_hole?;
        }
        may_change(&machine.mappings.inside(range.clone()))?;
        machine.own("munmap", &range);
        machine.unmap(range);
        Ok(())
    }

    fn mprotect(machine: &mut Machine, address: usize, len: usize, bits: i32) -> Result<(), Errno> {
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        machine.own("mprotect", &range);
        // Holes are passed over (seen on all).
        let parts = machine.mappings.inside(range.clone());
        may_change(&parts)?;
        let attributed = B::protected(machine, &parts, bits)?;
        // To ask may have changed what the parts are.
        for part in machine.mappings.inside(range) {
            if let Some(attributes) = attributed(&part.attributes, bits) {
                machine.alter(&part, attributes);
            }
        }
        Ok(())
    }

    fn madvise(
        machine: &mut Machine,
        address: usize,
        len: usize,
        advice: i32,
    ) -> Result<(), Errno> {
        let answers = B::ANSWERS;
        let dumped = answers.core.and_then(|core| core.iter().position(|&known| known == advice));
        let known = ADVICE_WITHOUT_EFFECT.contains(&advice)
            || advice == answers.free
            || dumped.is_some()
            || answers.other_advice.contains(&advice);
        let range = outward(machine, address, len).filter(|_| known).ok_or(EINVAL)?;
        // Nothing is advised of nothing, wherever it begins (seen on all).
        if len == 0 {
            return Ok(());
        }
        machine.own("madvise", &range);
        if !machine.is_mapped(&range) {
            answers.madvise_hole?;
        }
        let parts = machine.mappings.inside(range);
        if let Some(dumped) = dumped {
            for part in &parts {
                let attributes = Attributes { dumped: dumped == 1, ..part.attributes.clone() };
                machine.alter(part, attributes);
            }
        }
        parts.iter().for_each(|part| B::advised(machine, part, advice));
        if advice == answers.free {
            // Of sealed memory that allows nothing, it is no error (seen).
            let closed = |part: &Mapping| part.attributes.protection == Protection::NoAccess;
            if !parts.iter().all(closed) {
                may_change(&parts)?;
            }
            if parts.iter().any(|part| part.attributes.locked) {
                answers.free_wired?;
            }
            // What is wired stays in memory, next to go as it is (seen on FreeBSD, by mincore).
            if answers.free_is_lazy {
                for part in parts.iter().filter(|part| part.attributes.locked) {
                    machine.deactivate(part);
                }
            }
            // Whatever the pages allow, but not what is wired (seen on all) or what a fork shares
            // (vm/vm_object.c of FreeBSD, `vm_object_madvise`; uvm/uvm_map.c, `uvm_map_clean`).
            for part in parts.iter().filter(|part| !part.attributes.locked) {
                for part in machine.unshared(part) {
                    match answers.free_is_lazy {
                        true => machine.discard_lazily(&part),
                        false => machine.discard(&part),
                    }
                }
            }
        }
        Ok(())
    }

    fn fork(machine: &Machine) -> Result<usize, Errno> {
        B::fork(machine)
    }

    fn resource_limit(machine: &Machine, resource: i32) -> Result<u64, Errno> {
        let settings = &machine.settings;
        match resource {
            RLIMIT_DATA => Ok(settings.data_limit),
            RLIMIT_MEMLOCK => Ok(settings.locked_limit),
            RLIMIT_AS if B::ANSWERS.address_space_limit => Ok(settings.address_space_limit),
            _ => B::other_limit(machine, resource).ok_or(EINVAL),
        }
    }
}

/// mincore(2), which OpenBSD has not.
pub(super) fn mincore<B: Bsd>(
    machine: &Machine,
    address: usize,
    len: usize,
    residency: &mut [u8],
) -> Result<(), Errno> {
    let range = outward(machine, address, len).ok_or(ENOMEM)?;
    if !machine.is_mapped(&range) {
        B::ANSWERS.mincore_hole?;
    }
    machine.tell_resident(range, residency, |page| B::mincore_byte(machine, page));
    Ok(())
}

// SAFETY: as for `Calls`.
unsafe impl<B: Bsd> Minherit for Simulated<B> {
    unsafe fn minherit(&self, address: *mut u8, len: usize, inherit: i32) -> Result<(), Errno> {
        let machine = &mut *self.call();
        let inheritance = inheritance(inherit, B::ANSWERS.inherit_zeros).ok_or(EINVAL)?;
        let range = outward(machine, address.addr(), len).ok_or(EINVAL)?;
        let parts = machine.mappings.inside(range.clone());
        may_change(&parts)?;
        B::may_inherit(&parts, inheritance)?;
        inherit_range(machine, range, inheritance);
        Ok(())
    }
}

impl<B: Bsd> Simulated<B> {
    /// mmap(2) with a descriptor and an offset, which mean nothing for anonymous memory.
    pub fn mmap_of(
        &self,
        address: usize,
        len: usize,
        protection: i32,
        flags: i32,
        (file, offset): (i32, usize),
    ) -> Result<usize, Errno> {
        let machine = &mut *self.call();
        // A descriptor, open or not (seen on all).
        if file != -1 {
            return Err(EINVAL);
        }
        if offset != 0 {
            B::ANSWERS.anonymous_offset?;
        }
        let start = B::mmap(machine, address, len, protection, flags)?;
        Ok(start.addr() + (offset & (machine.page_size() - 1)))
    }
}

/// Pages in the page table, as far as it can be told: those in memory that allow anything.
pub(super) fn mapped_pages(machine: &Machine, counts: impl Fn(usize) -> bool) -> usize {
    let open = |page: &usize| {
        let mapping = machine.mappings.at(*page);
        mapping.is_some_and(|mapping| mapping.attributes.protection != Protection::NoAccess)
    };
    let pages = machine.resident_pages(machine.space());
    pages.into_iter().filter(|page| open(page) && counts(*page)).count()
}

/// What a number of minherit(2) means, with the system's own for zeros.
pub(super) fn inheritance(number: i32, zeros: Option<i32>) -> Option<Inheritance> {
    match number {
        INHERIT_SHARE => Some(Inheritance::Share),
        INHERIT_COPY => Some(Inheritance::Copy),
        INHERIT_NONE => Some(Inheritance::Nothing),
        number => (zeros == Some(number)).then_some(Inheritance::Zeros),
    }
}

/// Changes what a child gets of a range. Holes are passed over (seen on all BSDs; `vm_map_inherit`
/// of Darwin).
pub(super) fn inherit_range(machine: &mut Machine, range: Range<usize>, inheritance: Inheritance) {
    machine.own("minherit", &range);
    for part in machine.mappings.inside(range) {
        machine.alter(&part, Attributes { inheritance, ..part.attributes.clone() });
    }
}

/// What mprotect(2) makes of a part where it changes the protection alone.
pub(super) fn protected(attributes: &Attributes, bits: i32) -> Option<Attributes> {
    Some(Attributes { protection: protection(bits), ..attributes.clone() })
}

/// The whole pages that a range touches: every BSD rounds outward (seen on all, for munmap,
/// mprotect and madvise). `None` where it runs past the end of all addresses.
pub(super) fn outward(machine: &Machine, address: usize, len: usize) -> Option<Range<usize>> {
    let start = address & !(machine.page_size() - 1);
    Some(start..machine.round_up(address.checked_add(len)?)?)
}

/// Whether programs have these addresses: those of the system, and of the simulated process.
pub(super) fn is_user<B: Bsd>(machine: &Machine, range: &Range<usize>) -> bool {
    let inside = |space: &Range<usize>| space.start <= range.start && range.end <= space.end;
    inside(&B::USER) || machine.has(range)
}

/// Attributes of a new mapping: shared anonymous memory differs from private by what a forked
/// child gets of it. (Seen on all: with neither flag it is private.)
pub(super) fn attributes(machine: &Machine, bits: i32, flags: i32) -> Attributes {
    assert!(flags & MAP_ANON != 0, "the simulated BSDs have anonymous memory only");
    let mut attributes = Attributes::new(protection(bits));
    attributes.locked = machine.settings.lock_new_mappings;
    if flags & (MAP_SHARED | MAP_PRIVATE) == MAP_SHARED {
        attributes.inheritance = Inheritance::Share;
    }
    attributes
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
