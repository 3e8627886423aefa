//! The rules of Darwin. None was seen: they are read in XNU (bsd/kern/kern_mman.c, osfmk/vm/vm_map.c,
//! vm_user.c, vm_object.c; xnu-11215 of macOS 15 and xnu-12377 of macOS 26), for a process on arm64
//! that may not have memory writable and executable.

use super::bsd::{self, outward};
use super::machine::Machine;
use super::mappings::{Attributes, Jit, Mapping};
use super::signals::{BUS_ADRALN, SEGV_ACCERR, SIGBUS, SIGSEGV, Signal, Stray, Told};
use super::unix::{MAP_SHARED, PROT_ALL, protection};
use super::{Simulated, System, UnixSystem};
use crate::calls::{Kernel, MachVm, Mincore, Minherit, SwitchPerThread};
use crate::os::bsd::{MAP_ANON, MINCORE_INCORE};
use crate::os::darwin::{
    KERN_NO_SPACE, MADV_FREE_REUSABLE, MADV_FREE_REUSE, MAP_JIT, RLIMIT_AS, VM_FLAGS_ANYWHERE,
};
use crate::os::unix::{
    EINVAL, ENOMEM, EPERM, MAP_FIXED, MAP_PRIVATE, PROT_EXEC, PROT_WRITE, RLIMIT_DATA,
};
use crate::{Errno, Inheritance, Protection};

/// The rules of Darwin.
#[derive(Clone, Copy, Debug)]
pub struct Darwin;

const EACCES: Errno = Errno(13);
const EAGAIN: Errno = Errno(35);
const ENOTSUP: Errno = Errno(45);
/// The flags of <sys/mman.h> that concern no anonymous memory or change nothing about it: COPY,
/// RENAME, NORESERVE, RESERVED0080, NOEXTEND, HASSEMAPHORE, NOCACHE.
const WITHOUT_EFFECT: i32 = 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400;
const MADV_FREE: i32 = 5;
/// MADV_NORMAL, _RANDOM, _SEQUENTIAL, _WILLNEED; _DONTNEED, which makes pages inactive
/// (VM_SYNC_DEACTIVATE) and keeps contents; _ZERO_WIRED_PAGES; _CAN_REUSE, a question.
const ADVICE_WITHOUT_EFFECT: [i32; 7] = [0, 1, 2, 3, 4, 6, 9];
const MADV_PAGEOUT: i32 = 10;
const RLIMIT_MEMLOCK: i32 = 6;
/// MINCORE_REFERENCED, MINCORE_MODIFIED; MINCORE_ANONYMOUS, which is said of every page that is not
/// a file's, present or not (`mincore`).
const IN_USE: u8 = 2 | 4;
const ANONYMOUS: u8 = 0x80;
const KERN_INVALID_ADDRESS: i32 = 1;
/// `MACH_VM_MAX_ADDRESS` of arm64.
const END: usize = 1 << 47;

/// Whether so much may be mapped: `vm_map_enter` looks once the new mapping is there, and takes it
/// back. `RLIMIT_AS` and `RLIMIT_DATA` are both held against the size of the whole map (since
/// xnu-8020, macOS 12).
fn fits(machine: &Machine, more: usize, less: usize) -> bool {
    let settings = &machine.settings;
    let size = (machine.mappings.totals().mapped + more - less) as u64;
    size <= settings.address_space_limit && size <= settings.data_limit
}

/// `VM_MAP_POLICY_WX_FAIL`.
fn is_refused(bits: i32) -> bool {
    bits & (PROT_WRITE | PROT_EXEC) == PROT_WRITE | PROT_EXEC
}

/// What a thread may do with memory for a JIT: writing, or executing.
fn switched(writable: bool) -> Protection {
    if writable { Protection::ReadWrite } else { Protection::ReadExecute }
}

impl System for Darwin {
    const KERNEL: Kernel = Kernel::Darwin;

    fn lock(machine: &mut Machine, address: usize, len: usize, locked: bool) -> Result<(), Errno> {
        // `mlock`, `munlock`.
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        // `vm_map_wire_nested`: a hole. `vm_map_unwire_nested`: what is not locked.
        let parts = machine.mappings.inside(range.clone());
        let unlocked = parts.iter().any(|part| !part.attributes.locked);
        if !machine.is_mapped(&range) || !locked && unlocked {
            return Err(ENOMEM);
        }
        // `add_wire_counts`: KERN_RESOURCE_SHORTAGE beyond RLIMIT_MEMLOCK.
        let wired = machine.mappings.totals().locked;
        if locked && (wired + range.len()) as u64 > machine.settings.locked_limit {
            return Err(EAGAIN);
        }
        for part in parts {
            machine.alter(&part, Attributes { locked, ..part.attributes.clone() });
        }
        Ok(())
    }

    fn signal(stray: Stray) -> Option<Signal> {
        // bsd/uxkern/ux_exception.c, `ux_exception`: by what the fault was; bsd/dev/arm/unix_signal.c,
        // `sendsig`: the code by the signal alone.
        match stray {
            Stray::Refused => Some(Signal::new(SIGBUS, BUS_ADRALN, Told::Access)),
            Stray::Unmapped => Some(Signal::new(SIGSEGV, SEGV_ACCERR, Told::Access)),
            // Of x86_64.
            Stray::NotCanonical => None,
        }
    }
}

impl UnixSystem for Darwin {
    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        // A flag that nobody knows (programs built with an SDK of 2020 or later). The C library
        // asks for conformance (MAP_UNIX03): private or shared, and something to map.
        let known = MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_ANON | MAP_JIT | WITHOUT_EFFECT;
        if flags & !known != 0 || flags & (MAP_SHARED | MAP_PRIVATE) == 0 || len == 0 {
            return Err(EINVAL);
        }
        assert!(flags & MAP_ANON != 0, "the simulated Darwin has anonymous memory only");
        let len = machine.round_up(len).ok_or(EINVAL)?;
        // `vm_map_range_overflows`.
        address.checked_add(len).ok_or(EINVAL)?;
        let fixed = flags & MAP_FIXED != 0;
        if fixed && !machine.is_aligned(address) {
            return Err(EINVAL);
        }
        // `mmap`: memory for a JIT is private, and at no address of the caller's.
        let jit = flags & MAP_JIT != 0;
        if jit && (fixed || flags & MAP_SHARED != 0) {
            return Err(EINVAL);
        }
        // The hardened runtime without the entitlement (`cs_allow_invalid`, as EPERM).
        if jit && !machine.settings.allow_jit {
            return Err(EPERM);
        }
        assert!(!jit || bits & PROT_ALL == 0, "such memory is reserved before it is used");
        // Bits of protection that nobody knows are dropped. `vm_map_enter`.
        if is_refused(bits) {
            return Err(EACCES);
        }
        let start = match fixed {
            true => address,
            false => {
                // The hint rounded up, or the first place above it; or once more from the lowest
                // address on (`mmap`, `map_anon_retry`).
                let hint = machine.round_up(address).ok_or(EINVAL)?;
                let page = machine.page_size();
                let above = if hint == 0 { None } else { machine.place_above(hint, len, page) };
                above.or_else(|| machine.place(len, page)).ok_or(ENOMEM)?
            }
        };
        let range = start..start + len;
        // `vm_map_locate_space_fixed`: KERN_INVALID_ADDRESS.
        if !machine.has(&range) || range.end > END {
            return Err(ENOMEM);
        }
        machine.own("a fixed mapping", &range);
        // What a refusal has removed is put back before anybody sees it (`vm_map_enter`,
        // `vm_map_enter_restore_successes`).
        if fixed && core::mem::take(&mut machine.starve_replacement) {
            // KERN_RESOURCE_SHORTAGE has no error of its own.
            return Err(EINVAL);
        }
        let replaced = machine.mappings.inside(range.clone());
        if !fits(machine, len, replaced.iter().map(Mapping::len).sum()) {
            return Err(ENOMEM);
        }
        let mut attributes = Attributes::new(protection(bits));
        if jit {
            attributes.jit = Jit::Reserved;
        }
        if flags & MAP_SHARED != 0 {
            attributes.inheritance = Inheritance::Share;
        }
        machine.replace(range, |_| Ok(attributes))?;
        Ok(machine.pointer(start))
    }

    fn munmap(machine: &mut Machine, address: usize, len: usize) -> Result<(), Errno> {
        // An unaligned address, nothing at all; holes are no error (`vm_map_delete`).
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        if len == 0 || !machine.is_aligned(address) {
            return Err(EINVAL);
        }
        machine.own("munmap", &range);
        machine.unmap(range);
        Ok(())
    }

    fn mprotect(machine: &mut Machine, address: usize, len: usize, bits: i32) -> Result<(), Errno> {
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        if !machine.is_aligned(address) {
            return Err(EINVAL);
        }
        machine.own("mprotect", &range);
        // `vm_map_protect` looks at all of the range first: a hole, more than the maximum, writing
        // and executing. Nothing at all is no error (`mach_vm_protect`).
        if !machine.is_mapped(&range) {
            return Err(ENOMEM);
        }
        let parts = machine.mappings.inside(range);
        let more = |part: &Mapping| bits & PROT_ALL & !part.attributes.maximum != 0;
        let is = |state: Jit| parts.iter().any(|part| part.attributes.jit == state);
        // What threads switch stays so (`pmap_has_prot_policy`).
        if parts.iter().any(more) || is(Jit::Switched) {
            return Err(EACCES);
        }
        if is(Jit::Reserved) && is_refused(bits) {
            assert!(!is(Jit::No), "one mapping at a time");
            for part in parts {
                let protection = switched(machine.jit_writable);
                let jit = Jit::Switched;
                machine.alter(&part, Attributes { protection, jit, ..part.attributes.clone() });
            }
            return Ok(());
        }
        if is_refused(bits) {
            return Err(EACCES);
        }
        // Without `allow-unsigned-executable-memory` nothing else becomes executable.
        if bits & PROT_EXEC != 0 && !machine.settings.executable_anonymous {
            return Err(EACCES);
        }
        let protection = protection(bits);
        for part in parts {
            machine.alter(&part, Attributes { protection, ..part.attributes.clone() });
        }
        Ok(())
    }

    fn madvise(
        machine: &mut Machine,
        address: usize,
        len: usize,
        advice: i32,
    ) -> Result<(), Errno> {
        let known = ADVICE_WITHOUT_EFFECT.contains(&advice)
            || [MADV_FREE, MADV_FREE_REUSABLE, MADV_FREE_REUSE].contains(&advice);
        // `madvise`.
        match advice {
            MADV_PAGEOUT => return Err(ENOTSUP),
            _ if !known => return Err(EINVAL),
            _ => {}
        }
        // `mach_vm_behavior_set`: nothing is no error, what is unaligned is rounded outward.
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        machine.own("madvise", &range);
        // `vm_map_reusable_pages`, `vm_map_reuse_pages`, `vm_map_msync`: a hole is
        // KERN_INVALID_ADDRESS, before anything is done.
        if !machine.is_mapped(&range) {
            return Err(EINVAL);
        }
        if advice == MADV_FREE_REUSE {
            machine.reusable.remove(range.clone());
        }
        if advice != MADV_FREE && advice != MADV_FREE_REUSABLE {
            return Ok(());
        }
        for part in machine.mappings.inside(range) {
            // `vm_map_reusable_pages`: what cannot be written to is refused once it is reached
            // (KERN_PROTECTION_FAILURE, which has no error of its own here).
            let writable = part.attributes.writable() || part.attributes.jit == Jit::Switched;
            if advice == MADV_FREE_REUSABLE && !writable {
                return Err(EINVAL);
            }
            // `deactivate_pages_in_object`: not what is wired. What is shared stays as well, in
            // truth all of an object that is.
            if part.attributes.locked {
                continue;
            }
            for part in machine.unshared(&part) {
                machine.discard_lazily(&part);
                if advice == MADV_FREE_REUSABLE {
                    machine.reusable.insert(part.start..part.end);
                }
            }
        }
        Ok(())
    }

    fn resource_limit(machine: &Machine, resource: i32) -> Result<u64, Errno> {
        match resource {
            RLIMIT_AS => Ok(machine.settings.address_space_limit),
            RLIMIT_DATA => Ok(machine.settings.data_limit),
            RLIMIT_MEMLOCK => Ok(machine.settings.locked_limit),
            _ => Err(EINVAL),
        }
    }
}

impl Simulated<Darwin> {
    /// What the system judges the process by (`phys_footprint`), in bytes: what is in memory and
    /// not reusable. (Here reusable memory that is written to stays out of it until it is said to
    /// be used again; the kernel finds out at the next fault.)
    pub fn footprint(&self) -> usize {
        let machine = self.machine();
        let resident = machine.resident_pages(machine.space());
        let page = machine.page_size();
        let counts = |&&start: &&usize| machine.reusable.inside(start..start + page).is_empty();
        resident.iter().filter(counts).count() * page
    }
}

impl Mincore for Simulated<Darwin> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        let machine = &*self.call();
        // `mincore`: outward; what is not mapped is told like what is not in memory.
        let range = outward(machine, address.addr(), len).ok_or(EINVAL)?;
        machine.tell_resident(range, residency, |_| MINCORE_INCORE | IN_USE);
        residency.iter_mut().for_each(|byte| *byte |= ANONYMOUS);
        Ok(())
    }
}

// SAFETY: as for `Calls`.
unsafe impl Minherit for Simulated<Darwin> {
    unsafe fn minherit(&self, address: *mut u8, len: usize, inherit: i32) -> Result<(), Errno> {
        let machine = &mut *self.call();
        // <mach/vm_inherit.h>: there is no number for zeros.
        let inheritance = bsd::inheritance(inherit, None).ok_or(EINVAL)?;
        let range = outward(machine, address.addr(), len).ok_or(EINVAL)?;
        bsd::inherit_range(machine, range, inheritance);
        Ok(())
    }
}

impl SwitchPerThread for Simulated<Darwin> {
    fn switches_per_thread(&self) -> bool {
        true
    }

    /// The process has one thread here: what it may do is what the memory allows.
    fn let_thread_write(&self, writable: bool) {
        let machine = &mut *self.machine();
        machine.jit_writable = writable;
        let space = machine.space();
        for part in machine.mappings.inside(space) {
            if part.attributes.jit == Jit::Switched {
                let protection = switched(writable);
                machine.alter(&part, Attributes { protection, ..part.attributes.clone() });
            }
        }
    }
}

impl MachVm for Simulated<Darwin> {
    fn mach_vm_map(
        &self,
        address: usize,
        len: usize,
        mask: usize,
        flags: i32,
        maximum: i32,
    ) -> Result<*mut u8, i32> {
        let machine = &mut *self.call();
        let hint = machine.round_up(address).ok_or(KERN_INVALID_ADDRESS)?;
        let align = (mask + 1).max(machine.page_size());
        let start = if flags & VM_FLAGS_ANYWHERE != 0 {
            // `vm_map_locate_space_anywhere`: the first place from the address upward.
            match hint {
                0 => machine.place(len, align),
                hint => machine.place_above(hint, len, align),
            }
            .ok_or(KERN_NO_SPACE)?
        } else {
            // `vm_map_locate_space_fixed`: outside the map; a bit of the mask; taken.
            let range = address..address.checked_add(len).ok_or(KERN_INVALID_ADDRESS)?;
            if !machine.has(&range) {
                return Err(KERN_INVALID_ADDRESS);
            }
            if address & mask != 0 || !machine.can_map(&range) {
                return Err(KERN_NO_SPACE);
            }
            address
        };
        // A limit is told like a taken address.
        if !fits(machine, len, 0) {
            return Err(KERN_NO_SPACE);
        }
        let attributes = Attributes { maximum, ..Attributes::new(Protection::NoAccess) };
        machine.map(start..start + len, attributes);
        Ok(machine.pointer(start))
    }

    fn mach_vm_region(&self, address: usize) -> Option<(usize, usize)> {
        let machine = &*self.call();
        // Below and above the space of the process, all is taken.
        let space = machine.space();
        let (below, above) = (0..space.start, space.end..END);
        let inside = machine.mappings.iter().map(|mapping| mapping.start..mapping.end);
        let mut regions = [below].into_iter().chain(inside).chain([above]);
        regions.find(|region| region.end > address).map(|region| (region.start, region.len()))
    }
}
