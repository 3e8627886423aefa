//! The rules of Linux over the [`Machine`], which knows of no kernel. Each is stated once, with
//! where it is written: a man page, a source file (read in 6.1 and 6.14) or a version.
//!
//! What a process may try freely, tests/agreement_linux.rs holds against the running kernel; 6.18
//! agreed. What is marked seen was tried by hand on 6.18.

mod advice;
mod files;
mod sealing;

use std::ffi::CStr;
use std::ops::Range;
use std::vec::Vec;

use super::machine::{Machine, OUTSIDE};
use super::mappings::{Attributes, Mapping, TooMany};
use super::settings::Overcommit;
use super::signals::{SIGSEGV, Signal, Stray, Told};
use super::unix::{may_change, protection};
use super::{ProcFiles, System, UnixSystem};
use crate::calls::Kernel;
use crate::os::linux::{MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_HUGETLB, MAP_NORESERVE, RLIMIT_AS};
use crate::os::unix::*;
use crate::{Errno, Inheritance, Protection};

pub(super) use advice::{name_mapping, process_madvise};
pub(super) use files::{process_control, write_file};

/// The rules of Linux.
#[derive(Clone, Copy, Debug)]
pub struct Linux;

impl System for Linux {
    const KERNEL: Kernel = Kernel::Linux;

    fn lock(machine: &mut Machine, address: usize, len: usize, locked: bool) -> Result<(), Errno> {
        lock(machine, whole(machine, address, len)?, locked)
    }

    fn signal(stray: Stray) -> Option<Signal> {
        // arch/x86/mm/fault.c, `bad_area`; arch/x86/kernel/traps.c, `exc_general_protection`:
        // `SI_KERNEL`, and an address of zero.
        const SI_KERNEL: i32 = 128;
        Some(match stray {
            Stray::Refused => Signal::REFUSED,
            Stray::Unmapped => Signal::UNMAPPED,
            Stray::NotCanonical => Signal::new(SIGSEGV, SI_KERNEL, Told::Other),
        })
    }
}

impl ProcFiles for Linux {
    fn file(machine: &Machine, path: &CStr) -> Result<Vec<u8>, Errno> {
        files::file(machine, path)
    }
}

impl UnixSystem for Linux {
    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        mmap(machine, address, len, bits, flags)
    }

    fn munmap(machine: &mut Machine, address: usize, len: usize) -> Result<(), Errno> {
        munmap(machine, address, len)
    }

    fn mprotect(machine: &mut Machine, address: usize, len: usize, bits: i32) -> Result<(), Errno> {
        mprotect(machine, address, len, bits)
    }

    fn madvise(
        machine: &mut Machine,
        address: usize,
        len: usize,
        advice: i32,
    ) -> Result<(), Errno> {
        advice::madvise(machine, address, len, advice)
    }

    fn fork(machine: &Machine) -> Result<usize, Errno> {
        // kernel/fork.c, `dup_mmap`: what is charged is charged again for the child.
        let inherited = machine.mappings.iter().filter(|mapping| {
            mapping.attributes.charged && mapping.attributes.inheritance != Inheritance::Nothing
        });
        let charge = inherited.map(Mapping::len).sum();
        if charge == 0 || enough_memory(machine, charge) { Ok(charge) } else { Err(ENOMEM) }
    }

    fn resource_limit(machine: &Machine, resource: i32) -> Result<u64, Errno> {
        resource_limit(machine, resource)
    }
}

const EAGAIN: Errno = Errno(11);
const EACCES: Errno = Errno(13);

/// The features that came with a version.
mod since {
    /// `MADV_FREE`: madvise(2).
    pub const FREE: (u32, u32) = (4, 5);
    /// `RLIMIT_DATA` counts private writable mappings: getrlimit(2).
    pub const DATA_LIMIT: (u32, u32) = (4, 7);
    /// `MADV_WIPEONFORK` and `MADV_KEEPONFORK`: madvise(2).
    pub const WIPEONFORK: (u32, u32) = (4, 14);
    /// `MAP_FIXED_NOREPLACE`: mmap(2).
    pub const NOREPLACE: (u32, u32) = (4, 17);
    /// process_madvise(2).
    pub const PROCESS_MADVISE: (u32, u32) = (5, 10);
    /// `PR_SET_VMA_ANON_NAME`: PR_SET_VMA(2const).
    pub const NAMES: (u32, u32) = (5, 17);
    /// `MADV_DONTNEED_LOCKED`: madvise(2).
    pub const DONTNEED_LOCKED: (u32, u32) = (5, 18);
    /// `MADV_COLLAPSE`: madvise(2).
    pub const COLLAPSE: (u32, u32) = (6, 1);
    /// mseal(2), on 64-bit machines.
    pub const SEALS: (u32, u32) = (6, 10);
    /// What was never written to is charged no more once it is not writable (mm/mprotect.c).
    pub const UNCHARGES_UNTOUCHED: (u32, u32) = (6, 6);
    /// A fixed mapping that fails restores what it had unmapped (mm/vma.c,
    /// `vms_abort_munmap_vmas`).
    pub const REPLACEMENT_RESTORES: (u32, u32) = (6, 12);
    /// process_madvise(2) takes advice that destroys contents, of the calling process.
    pub const PROCESS_MADVISE_SELF: (u32, u32) = (6, 13);
    /// `PIDFD_SELF` where a pidfd is taken (include/uapi/linux/pidfd.h).
    pub const PIDFD_SELF: (u32, u32) = (6, 14);
}

fn whole(machine: &Machine, address: usize, len: usize) -> Result<Range<usize>, Errno> {
    // mm/madvise.c, mm/mprotect.c: the address must be aligned, the length is rounded up.
    if !machine.is_aligned(address) {
        return Err(EINVAL);
    }
    let len = machine.round_up(len).ok_or(EINVAL)?;
    Ok(address..address.checked_add(len).ok_or(EINVAL)?)
}

/// Whether so much more fits under the limits (mm/mmap.c, `may_expand_vm`).
fn may_expand(machine: &Machine, attributes: &Attributes, more: usize) -> bool {
    let settings = &machine.settings;
    let fits = |used: usize, limit: u64| used as u64 + more as u64 <= limit;
    // The program's own mappings are the whole process here, but for what lies outside its space.
    if !fits(machine.mappings.totals().mapped, settings.address_space_limit) {
        return false;
    }
    // `is_data_mapping`: private and writable.
    settings.version < since::DATA_LIMIT
        || !attributes.writable()
        || fits(machine.mappings.totals().writable, settings.data_limit)
}

/// Whether so much may be promised (mm/util.c, `__vm_enough_memory`).
fn enough_memory(machine: &Machine, more: usize) -> bool {
    match machine.settings.overcommit {
        Overcommit::Always => true,
        Overcommit::Heuristic { memory } => more as u64 <= memory,
        Overcommit::Never { limit } => {
            let committed = machine.charged();
            ((committed + more) as u64) < limit
        }
    }
}

fn mmap(
    machine: &mut Machine,
    address: usize,
    len: usize,
    bits: i32,
    flags: i32,
) -> Result<*mut u8, Errno> {
    // None are set aside, as vm.nr_hugepages has it unless it is told otherwise (seen on 6.18).
    if flags & MAP_HUGETLB != 0 {
        return Err(ENOMEM);
    }
    const KNOWN: i32 =
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED | MAP_FIXED_NOREPLACE;
    assert!(
        flags & !KNOWN == 0 && flags & MAP_PRIVATE != 0 && flags & MAP_ANONYMOUS != 0,
        "the simulated Linux has no rule for mmap flags {flags:#x}"
    );
    let version = machine.settings.version;
    // mmap(2): older kernels take the flag for a hint.
    let no_replace = flags & MAP_FIXED_NOREPLACE != 0 && version >= since::NOREPLACE;
    let fixed = flags & MAP_FIXED != 0 || no_replace;
    // mm/mmap.c, `do_mmap`, in its order.
    if len == 0 {
        return Err(EINVAL);
    }
    let len = machine.round_up(len).ok_or(ENOMEM)?;
    // One mapping more than the limit says, which only splitting takes to the letter (seen).
    if machine.mappings.count() + OUTSIDE > machine.settings.max_map_count {
        return Err(ENOMEM);
    }
    let start = if fixed {
        let space = machine.space();
        // `get_unmapped_area`: outside the address space is ENOMEM, before alignment.
        if address < space.start || address.checked_add(len).is_none_or(|end| end > space.end) {
            return Err(ENOMEM);
        }
        if !machine.is_aligned(address) {
            return Err(EINVAL);
        }
        address
    } else {
        // A hint is rounded down to a page (`round_hint_to_min`, PAGE_ALIGN).
        let hint = address & !(machine.page_size() - 1);
        let hinted = hint..hint.checked_add(len).ok_or(ENOMEM)?;
        match hint != 0 && machine.can_map(&hinted) {
            true => hint,
            false => machine.place(len, machine.page_size()).ok_or(ENOMEM)?,
        }
    };
    let range = start..start + len;
    if no_replace && !machine.mappings.is_free(range.clone()) {
        return Err(EEXIST);
    }
    machine.own("a fixed mapping", &range);
    let mut attributes = Attributes::new(protection(bits));
    attributes.locked = machine.settings.lock_new_mappings;
    // proc_sys_vm(5): a system that never overcommits ignores MAP_NORESERVE.
    let strict = matches!(machine.settings.overcommit, Overcommit::Never { .. });
    attributes.uncharged = flags & MAP_NORESERVE != 0 && !strict;
    // `accountable_mapping`: private, writable, not MAP_NORESERVE.
    attributes.charged = attributes.writable() && !attributes.uncharged;

    let replaced = machine.mappings.inside(range.clone());
    let bytes = |parts: &[Mapping]| parts.iter().map(Mapping::len).sum::<usize>();
    // What is replaced does not count against the limits (`count_vma_pages_range`).
    if !may_expand(machine, &attributes, len - bytes(&replaced)) {
        return Err(ENOMEM);
    }
    unmap_checked(machine, range.clone(), &replaced)?;
    // Up to 6.11 what is replaced is gone by now; from 6.12 on it is only set aside, and its
    // charge counts for what replaces it.
    let restores = version >= since::REPLACEMENT_RESTORES;
    let mut charge = if attributes.charged { len } else { 0 };
    if restores {
        let given_back = replaced.iter().filter(|part| part.attributes.charged);
        charge = charge.saturating_sub(given_back.map(Mapping::len).sum());
    }
    let starved = fixed && core::mem::take(&mut machine.starve_replacement);
    let enough = |machine: &Machine| charge == 0 || enough_memory(machine, charge);
    if restores && (starved || !enough(machine)) {
        return Err(ENOMEM);
    }
    machine.replace(range, |machine| {
        if starved || !enough(machine) { Err(ENOMEM) } else { Ok(attributes) }
    })?;
    Ok(machine.pointer(start))
}

/// Whether a range may be unmapped: a hole in the middle of a mapping makes one more of it, and
/// only that is held against the limit (seen; mm/vma.c, `vms_gather_munmap_vmas`).
fn unmap_checked(machine: &Machine, range: Range<usize>, parts: &[Mapping]) -> Result<(), Errno> {
    may_change(parts)?;
    let full = machine.mappings.count() + OUTSIDE >= machine.settings.max_map_count;
    if !parts.is_empty() && full && machine.mappings.removing_splits(range) {
        return Err(ENOMEM);
    }
    Ok(())
}

fn munmap(machine: &mut Machine, address: usize, len: usize) -> Result<(), Errno> {
    // mm/vma.c, `do_vmi_munmap`: an empty range is refused, a hole is not.
    let range = whole(machine, address, len)?;
    if range.is_empty() {
        return Err(EINVAL);
    }
    machine.own("munmap", &range);
    let parts = machine.mappings.inside(range.clone());
    unmap_checked(machine, range.clone(), &parts)?;
    machine.unmap(range);
    Ok(())
}

fn mprotect(machine: &mut Machine, address: usize, len: usize, bits: i32) -> Result<(), Errno> {
    let range = whole(machine, address, len)?;
    let protection = protection(bits);
    machine.own("mprotect", &range);
    // mm/mprotect.c, `do_mprotect_pkey`: mapping after mapping, those before a failure stay
    // changed; a hole is ENOMEM once it is reached.
    let mut at = range.start;
    for part in machine.mappings.inside(range.clone()) {
        if part.start != at {
            return Err(ENOMEM);
        }
        protect_part(machine, &part, protection)?;
        at = part.end;
    }
    if at == range.end { Ok(()) } else { Err(ENOMEM) }
}

/// Changes a part of a mapping, while that needs no more mappings than there may be.
fn change(machine: &mut Machine, part: &Mapping, attributes: Attributes) -> Result<(), TooMany> {
    let most = machine.settings.max_map_count.saturating_sub(OUTSIDE);
    machine.change(part, attributes, most)
}

/// mm/mprotect.c, `mprotect_fixup`.
fn protect_part(
    machine: &mut Machine,
    part: &Mapping,
    protection: Protection,
) -> Result<(), Errno> {
    // First of all, also where nothing would change.
    may_change(std::slice::from_ref(part))?;
    let old = &part.attributes;
    if old.protection == protection {
        return Ok(());
    }
    // security/selinux/hooks.c, `file_map_prot_check`: `execmem` of what is no file's, `execute`
    // of a file of tmpfs.
    let may = match part.attributes.view {
        0 => machine.settings.executable_anonymous,
        _ => machine.settings.executable_objects,
    };
    if protection == Protection::ReadExecute && !may {
        return Err(EACCES);
    }
    let mut new = Attributes { protection, ..old.clone() };
    if new.writable() {
        // Where the old protection does not fit any more either, the limit is left alone.
        if !may_expand(machine, &new, part.len()) && may_expand(machine, old, part.len()) {
            return Err(ENOMEM);
        }
        // What becomes writable is charged, and stays so.
        if !old.charged && !old.writable() && !old.uncharged {
            if !enough_memory(machine, part.len()) {
                return Err(ENOMEM);
            }
            new.charged = true;
        }
    } else if old.charged
        && machine.settings.version >= since::UNCHARGES_UNTOUCHED
        && !machine.holds_anything(part)
    {
        // Only where no page of the whole mapping was ever touched, which is not known here.
        new.charged = machine.random.once_in(2);
    }
    change(machine, part, new).map_err(|_| ENOMEM)
}

pub(super) fn mincore(
    machine: &Machine,
    address: usize,
    len: usize,
    residency: &mut [u8],
) -> Result<(), Errno> {
    // mincore(2): EINVAL unaligned, ENOMEM over a hole.
    let range = whole(machine, address, len)?;
    if !machine.is_mapped(&range) {
        return Err(ENOMEM);
    }
    machine.tell_resident(range, residency, |_| 1);
    Ok(())
}

fn resource_limit(machine: &Machine, resource: i32) -> Result<u64, Errno> {
    match resource {
        RLIMIT_AS => Ok(machine.settings.address_space_limit),
        RLIMIT_DATA => Ok(machine.settings.data_limit),
        resource => panic!("the simulated Linux has no rule for the limit on resource {resource}"),
    }
}

/// Locks or unlocks a range: mlock(2), without its limit.
fn lock(machine: &mut Machine, range: Range<usize>, locked: bool) -> Result<(), Errno> {
    advice::walk(machine, range, |machine, part| {
        let attributes = Attributes { locked, ..part.attributes.clone() };
        change(machine, part, attributes).map_err(|_| ENOMEM)
    })
}

/// mmap(2) of an object that memfd_create(2) made, over what is there.
pub(super) fn map_object(
    machine: &mut Machine,
    range: Range<usize>,
    bits: i32,
    object: i32,
    offset: usize,
) -> Result<(), Errno> {
    // Before anything is unmapped (mm/mmap.c, `do_mmap`; security/selinux/hooks.c).
    if bits & PROT_EXEC != 0 && !machine.settings.executable_objects {
        return Err(EACCES);
    }
    let attributes = Attributes::new(protection(bits));
    let replaced = machine.mappings.inside(range.clone());
    let len = range.len() - replaced.iter().map(Mapping::len).sum::<usize>();
    if !may_expand(machine, &attributes, len) {
        return Err(ENOMEM);
    }
    machine.own("a fixed mapping", &range);
    unmap_checked(machine, range.clone(), &replaced)?;
    let attributes = Attributes { inheritance: Inheritance::Share, ..attributes };
    machine.map_object(range, attributes, object, offset);
    Ok(())
}
