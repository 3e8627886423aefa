//! The rules of FreeBSD: seen on 15-CURRENT amd64 where nothing else is named.

use std::ffi::CStr;
use std::ops::Range;
use std::vec::Vec;

use super::bsd::{self, Answers, Attributed, Bsd, EACCES, ENOENT, PROCESS};
use super::machine::Machine;
use super::mappings::{Attributes, Mapping};
use super::settings::Overcommit;
use super::signals::{BUS_OBJERR, SIGBUS, Signal, Told};
use super::unix::{MAP_SHARED, PROT_ALL, protection};
use super::{Simulated, listed};
use crate::calls::{Kernel, Mincore, Sysctl, SysctlByName};
use crate::os::bsd::{CTL_KERN, KERN_PROC_PID, MAP_ANON};
use crate::os::freebsd::{
    INHERIT_ZERO, KERN_PROC, MADV_CORE, MADV_FREE, MADV_NOCORE, MAP_ALIGNED_SUPER, MAP_EXCL,
    MAP_NOCORE, RLIMIT_SWAP, kinfo_proc,
};
use crate::os::unix::{EINVAL, ENOMEM, MAP_FIXED, MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_WRITE};
use crate::{Errno, Inheritance, Protection};

/// The rules of FreeBSD.
#[derive(Clone, Copy, Debug)]
pub struct FreeBsd;

const MAP_GUARD: i32 = 0x2000;
const TOO_LARGE_FOR_A_GUARD: usize = 1 << 46;
const ALIGNMENT: i32 = 0xff << 24;
/// HASSEMAPHORE, STACK, NOSYNC, PREFAULT_READ: <sys/mman.h>.
const WITHOUT_EFFECT: i32 = 0x200 | 0x400 | 0x800 | 0x4_0000;
const EOPNOTSUPP: Errno = Errno(45);
/// `MINCORE_INCORE`, and with it referenced and modified, here and elsewhere.
const INCORE: u8 = 1;
const INCORE_IN_USE: u8 = 0x1f;
/// The same without modified.
const INCORE_CLEAN: u8 = 0xb;
/// The first superpage size, of `MINCORE_SUPER`.
const SUPERPAGE: u8 = 0x20;
const MADV_DONTNEED: i32 = 4;
/// Only below 2 GiB.
const MAP_32BIT: i32 = 0x8_0000;

/// The bytes of swap that can be promised, where that is enforced.
fn swap(machine: &Machine) -> Option<u64> {
    match machine.settings.overcommit {
        Overcommit::Never { limit } => Some(limit),
        _ => None,
    }
}

/// `vm.overcommit`: tuning(7).
fn overcommit(machine: &Machine) -> u32 {
    let enforces_limit = machine.settings.swap_limit != u64::MAX;
    u32::from(swap(machine).is_some()) | u32::from(enforces_limit) << 1
}

/// Whether so much more may be promised: `swap_reserve_by_cred` (vm/swap_pager.c; the limit is
/// compared in bytes, as in 10.4).
fn enough_swap(machine: &Machine, more: usize) -> bool {
    let charged = (machine.charged() + more) as u64;
    charged <= swap(machine).unwrap_or(u64::MAX) && charged <= machine.settings.swap_limit
}

/// `ki_size`, which `RLIMIT_AS` is held against: guards are not in it.
fn size(machine: &Machine) -> usize {
    let totals = machine.mappings.totals();
    totals.mapped - totals.guards
}

fn is_writable_and_executable(bits: i32) -> bool {
    bits & (PROT_WRITE | PROT_EXEC) == PROT_WRITE | PROT_EXEC
}

/// What a mapping may ever allow: what `PROT_MAX` asked for, or with vm.imply_prot_max what it was
/// mapped with, unless that was nothing.
fn maximum(machine: &Machine, bits: i32, asked: i32) -> i32 {
    match asked {
        0 if machine.settings.imply_prot_max && bits != PROT_NONE => bits,
        0 => PROT_ALL,
        asked => asked,
    }
}

/// Where `MAP_ALIGNED(n)`, `MAP_ALIGNED_SUPER` and a hint put a mapping.
fn place(machine: &mut Machine, hint: usize, len: usize, flags: i32) -> Result<usize, Errno> {
    let page = machine.page_size();
    let superpage = machine.settings.huge_page_size.filter(|&size| len >= size);
    let align = match flags & ALIGNMENT {
        0 => page,
        // Less than a superpage is not aligned.
        MAP_ALIGNED_SUPER => superpage.unwrap_or(page),
        flags => match 1usize.checked_shl(flags as u32 >> 24) {
            // 2 and 11 are invalid, 47 and more find no place.
            Some(align) if align < page => return Err(EINVAL),
            Some(align) if align < 1 << 47 => align,
            _ => return Err(ENOMEM),
        },
    };
    if flags & MAP_32BIT != 0 {
        // `MAP_32BIT_MAX_ADDR` (sys/vm/vm_mmap.c, `vm_mmap_object`).
        let highest = (1usize << 31).checked_sub(len).ok_or(ENOMEM)?;
        return machine.place_below(highest, len, align).ok_or(ENOMEM);
    }
    let hint = machine.round_up(hint).ok_or(ENOMEM)?;
    if hint == 0 || machine.settings.aslr {
        // With kern.elf64.aslr.enable a hint is not honoured, free as it may be.
        return machine.place(len, align).ok_or(ENOMEM);
    }
    // Without, the hint is honoured exactly, or the next place above it is taken.
    let place = machine.place_above(hint, len, align);
    place.or_else(|| machine.place(len, align)).ok_or(ENOMEM)
}

impl Bsd for FreeBsd {
    const KERNEL: Kernel = Kernel::FreeBsd;
    // Page 0 is not a program's.
    const USER: Range<usize> = 0x1000..1 << 47;
    const ANSWERS: Answers = Answers {
        munmap_hole: Ok(()),
        // Nor where nothing at all is mapped.
        madvise_hole: Ok(()),
        free: MADV_FREE,
        free_is_lazy: true,
        free_wired: Ok(()),
        core: Some([MADV_NOCORE, MADV_CORE]),
        // MADV_NOSYNC, MADV_AUTOSYNC, MADV_PROTECT (as root).
        other_advice: &[6, 7, 10],
        lock_hole: ENOMEM,
        lock_closed: Err(ENOMEM),
        unlock_unlocked: Ok(()),
        lock_limit: ENOMEM,
        inherit_zeros: Some(INHERIT_ZERO),
        anonymous_offset: Err(EINVAL),
        mincore_hole: Err(ENOMEM),
        address_space_limit: true,
        not_canonical: Signal::new(SIGBUS, BUS_OBJERR, Told::Instruction),
    };

    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        // PROT_MAX: what is asked for beyond it in the same call is refused with this.
        let (bits, asked) = (bits & !(PROT_ALL << 16), bits >> 16 & PROT_ALL);
        if asked != 0 && bits & PROT_ALL & !asked != 0 {
            return Err(EOPNOTSUPP);
        }
        // Programs that were executed since it was set (seen: mmap and mprotect).
        if is_writable_and_executable(bits) && !machine.settings.allow_wx {
            return Err(EACCES);
        }
        // An empty range; a bit of protection, or a flag, that nobody knows.
        let known = MAP_SHARED
            | MAP_PRIVATE
            | MAP_FIXED
            | MAP_ANON
            | MAP_GUARD
            | MAP_EXCL
            | MAP_NOCORE
            | MAP_32BIT
            | WITHOUT_EFFECT
            | ALIGNMENT;
        if len == 0 || bits & !PROT_ALL != 0 || flags & !known != 0 {
            return Err(EINVAL);
        }
        // Shared and private; "do not replace" where nothing could be.
        let both = MAP_SHARED | MAP_PRIVATE;
        if flags & both == both || flags & (MAP_EXCL | MAP_FIXED) == MAP_EXCL {
            return Err(EINVAL);
        }
        let guard = flags & MAP_GUARD != 0;
        // A guard allows nothing and is neither private nor anonymous.
        if guard && (bits != PROT_NONE || flags & (both | MAP_ANON) != 0) {
            return Err(EINVAL);
        }
        // -1, -4096 and 1 << 63 are more than there is.
        let len = machine.round_up(len).ok_or(ENOMEM)?;
        // A guard of 1 TiB is made, one of 64 TiB is not. Why, and where between, is not known.
        if guard && len >= TOO_LARGE_FOR_A_GUARD {
            return Err(ENOMEM);
        }
        let fixed = flags & MAP_FIXED != 0;
        if fixed {
            let end = address.checked_add(len).ok_or(EINVAL)?;
            // Unaligned, or outside the addresses of programs. An alignment that is asked for
            // besides is not looked at.
            if !machine.is_aligned(address) || !bsd::is_user::<FreeBsd>(machine, &(address..end)) {
                return Err(EINVAL);
            }
            // `kern_mmap`.
            if flags & MAP_32BIT != 0 && end > 1 << 31 {
                return Err(EINVAL);
            }
        }
        // Nothing, a guard, what is only read and what is shared: all count, and a fixed mapping
        // counts again in full. What was there is still there.
        if (size(machine) + len) as u64 > machine.settings.address_space_limit {
            return Err(ENOMEM);
        }
        let start = if fixed { address } else { place(machine, address, len, flags)? };
        let range = start..start + len;
        // A taken address, a guard's too, is told like exhaustion. What lies outside the space of
        // the simulated process is taken.
        if !machine.has(&range) || flags & MAP_EXCL != 0 && !machine.can_map(&range) {
            return Err(ENOMEM);
        }
        machine.own("a fixed mapping", &range);
        let mut attributes = match guard {
            true => Attributes { guard, ..Attributes::new(Protection::NoAccess) },
            false => bsd::attributes(machine, bits, flags),
        };
        attributes.dumped = flags & MAP_NOCORE == 0;
        attributes.maximum = maximum(machine, bits, asked);
        // What can be written to is charged with its length; what can only be read is not.
        attributes.charged = attributes.writable();
        attributes.object = machine.object();
        let charge = if attributes.charged { len } else { 0 };
        machine.replace(range.clone(), |machine| {
            let starved = fixed && core::mem::take(&mut machine.starve_replacement);
            // Refused by swap accounting, and that is not ENOMEM: what was there is gone.
            match !starved && enough_swap(machine, charge) {
                true => Ok(attributes),
                false => Err(EINVAL),
            }
        })?;
        Ok(machine.pointer(start))
    }

    fn munmap_nothing(_machine: &Machine, _address: usize) -> Result<(), Errno> {
        Err(EINVAL)
    }

    fn protected(machine: &mut Machine, parts: &[Mapping], bits: i32) -> Result<Attributed, Errno> {
        let (bits, asked) = (bits & !(PROT_ALL << 16), bits >> 16 & PROT_ALL);
        if is_writable_and_executable(bits) && !machine.settings.allow_wx {
            return Err(EACCES);
        }
        if bits & !PROT_ALL != 0 {
            return Err(EINVAL);
        }
        if asked != 0 && bits & !asked != 0 {
            return Err(EOPNOTSUPP);
        }
        // A guard is passed over: no error, no effect.
        let parts = || parts.iter().filter(|part| !part.attributes.guard);
        // More than the maximum, or raising that (vm/vm_map.c, `vm_map_protect`).
        if parts().any(|part| (bits | asked) & !part.attributes.maximum != 0) {
            return Err(EACCES);
        }
        if protection(bits) == Protection::ReadWrite {
            parts().try_for_each(|part| charge_object(machine, part))?;
        }
        Ok(|attributes, bits| {
            let asked = bits >> 16 & PROT_ALL;
            let maximum = if asked != 0 { asked } else { attributes.maximum };
            let protection = protection(bits);
            (!attributes.guard).then(|| Attributes { protection, maximum, ..attributes.clone() })
        })
    }

    fn advised(machine: &mut Machine, part: &Mapping, advice: i32) {
        // Next to go, contents are kept; told by mincore.
        if advice == MADV_DONTNEED {
            machine.deactivate(part);
        }
    }

    fn mincore_byte(machine: &Machine, page: usize) -> u8 {
        let byte = page_byte(machine, page);
        let Some(superpage) = superpage(machine, page) else { return byte };
        let whole = |byte| are_alike_beside(machine, superpage.clone(), page, byte);
        match byte {
            // Alike with all pages around: a superpage.
            INCORE_IN_USE | INCORE_CLEAN if whole(byte) => byte | SUPERPAGE,
            // One page that is given back of a superpage leaves the page table.
            INCORE if machine.is_freed(page) && whole(INCORE_IN_USE) => 0,
            byte => byte,
        }
    }

    fn fork(machine: &Machine) -> Result<usize, Errno> {
        // What is charged and copied is charged again for the child.
        let copied = machine.mappings.iter().filter(|mapping| {
            mapping.attributes.charged && mapping.attributes.inheritance == Inheritance::Copy
        });
        let charge = copied.map(Mapping::len).sum();
        if charge == 0 || enough_swap(machine, charge) { Ok(charge) } else { Err(ENOMEM) }
    }

    fn other_limit(machine: &Machine, resource: i32) -> Option<u64> {
        (resource == RLIMIT_SWAP).then_some(machine.settings.swap_limit)
    }
}

/// What mincore tells of a page in memory, whatever is around it.
fn page_byte(machine: &Machine, page: usize) -> u8 {
    let allowed = machine.mappings.at(page).map(|mapping| mapping.attributes.protection);
    match allowed {
        // vm.mincore_mapped=1, the default: what no page table has is not told.
        Some(Protection::NoAccess) | None => 0,
        _ if machine.is_freed(page) || machine.is_inactive(page) => INCORE,
        // What was taken away from writing.
        Some(Protection::ReadOnly | Protection::ReadExecute) => INCORE_CLEAN,
        _ if machine.is_shared(page) => INCORE_CLEAN,
        _ => INCORE_IN_USE,
    }
}

/// The range of the superpage that a page could be in: aligned, in one mapping.
fn superpage(machine: &Machine, page: usize) -> Option<Range<usize>> {
    let size = machine.settings.huge_page_size?;
    let start = page & !(size - 1);
    let mapping = machine.mappings.at(page)?;
    (mapping.start <= start && start + size <= mapping.end).then_some(start..start + size)
}

/// Whether all pages of a superpage but one are in memory, and mincore tells this of each.
fn are_alike_beside(machine: &Machine, superpage: Range<usize>, page: usize, byte: u8) -> bool {
    let others = superpage.len() / machine.page_size() - 1;
    let mut resident = machine.resident_pages(superpage);
    resident.retain(|&other| other != page);
    resident.len() == others && resident.iter().all(|&other| page_byte(machine, other) == byte)
}

/// The first byte of a mapping that becomes writable charges all that was mapped together with it,
/// and nothing but munmap gives that back.
fn charge_object(machine: &mut Machine, part: &Mapping) -> Result<(), Errno> {
    if machine.mappings.at(part.start).is_none_or(|part| part.attributes.charged) {
        return Ok(());
    }
    let object = part.attributes.object;
    let uncharged = |part: &&Mapping| part.attributes.object == object && !part.attributes.charged;
    let together: Vec<_> = machine.mappings.iter().filter(uncharged).cloned().collect();
    if !enough_swap(machine, together.iter().map(Mapping::len).sum()) {
        return Err(ENOMEM);
    }
    for part in together {
        let attributes = Attributes { charged: true, ..part.attributes.clone() };
        machine.alter(&part, attributes);
    }
    Ok(())
}

impl Mincore for Simulated<FreeBsd> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        bsd::mincore::<FreeBsd>(&self.call(), address.addr(), len, residency)
    }
}

impl Sysctl for Simulated<FreeBsd> {
    fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno> {
        const KERN_PROC_VMMAP: i32 = 32;
        let machine = &*self.call();
        if mib == [CTL_KERN, KERN_PROC, KERN_PROC_VMMAP, PROCESS] {
            return listed::freebsd(machine, value);
        }
        if mib != [CTL_KERN, KERN_PROC, KERN_PROC_PID, PROCESS] {
            return Err(ENOENT);
        }
        let size = (size(machine) as u64).to_ne_bytes();
        let resident = (bsd::mapped_pages(machine, |_| true) as u64).to_ne_bytes();
        let fields: [(usize, &[u8]); 2] =
            [(kinfo_proc::KI_SIZE, &size), (kinfo_proc::KI_RSSIZE, &resident)];
        bsd::answer(value, kinfo_proc::LEN, &fields)
    }

    fn process_id(&self) -> i32 {
        PROCESS
    }
}

impl SysctlByName for Simulated<FreeBsd> {
    fn sysctl_by_name(&self, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        const MEMORY: u64 = 1_060_610_048;
        let machine = &*self.call();
        let superpage = machine.settings.huge_page_size;
        let page = machine.page_size();
        let four = |number: u32, value| bsd::answer(value, 4, &[(0, &number.to_ne_bytes())]);
        let eight = |number: u64, value| bsd::answer(value, 8, &[(0, &number.to_ne_bytes())]);
        match name.to_bytes() {
            b"vm.overcommit" => four(overcommit(machine), value),
            b"vm.swap_total" => eight(swap(machine).unwrap_or(0), value),
            b"vm.swap_reserved" => eight(machine.charged() as u64, value),
            b"vm.pmap.pg_ps_enabled" => four(superpage.is_some().into(), value),
            b"hw.physmem" | b"hw.usermem" => eight(MEMORY, value),
            b"hw.pagesize" => four(page as u32, value),
            b"hw.pagesizes" => {
                // Three numbers; zeros where there are no superpages (hw.pagesizes is
                // `pagesizes[]` of the machine: read in kern/kern_mib.c).
                let sizes =
                    [page, superpage.unwrap_or(0), 0].map(|size| (size as u64).to_ne_bytes());
                bsd::answer(value, 24, &[(0, &sizes[0]), (8, &sizes[1]), (16, &sizes[2])])
            }
            _ => Err(ENOENT),
        }
    }
}

/// mmap(2) of an object that shm_open(2) made with `SHM_ANON`, over what is there.
pub(super) fn map_object(
    machine: &mut Machine,
    range: Range<usize>,
    bits: i32,
    object: i32,
    offset: usize,
) -> Result<(), Errno> {
    let (bits, asked) = (bits & !(PROT_ALL << 16), bits >> 16 & PROT_ALL);
    if asked != 0 && bits & PROT_ALL & !asked != 0 {
        return Err(EOPNOTSUPP);
    }
    if is_writable_and_executable(bits) && !machine.settings.allow_wx {
        return Err(EACCES);
    }
    // Counts again in full, as anonymous memory does. What was there is still there.
    if (size(machine) + range.len()) as u64 > machine.settings.address_space_limit {
        return Err(ENOMEM);
    }
    machine.own("a fixed mapping", &range);
    let mut attributes = Attributes::new(protection(bits));
    attributes.maximum = maximum(machine, bits, asked);
    attributes.inheritance = Inheritance::Share;
    machine.map_object(range, attributes, object, offset);
    Ok(())
}
