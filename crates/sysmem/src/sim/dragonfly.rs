//! The rules of DragonFly BSD. None was seen: they are read in vm/vm_mmap.c (`sys_mmap`,
//! `vm_mmap`, `sys_munmap`, …), in a version of 2003, and in the manual pages of 6.4.

use std::ops::Range;

use super::bsd::{self, ADVICE_WITHOUT_EFFECT, PROT_ALL, outward, protection};
use super::machine::{Machine, OUTSIDE};
use super::mappings::Attributes;
use super::{Simulated, System};
use crate::calls::{Kernel, Mincore, Minherit};
use crate::os::bsd::{MINCORE_INCORE, RLIMIT_AS};
use crate::os::dragonfly::{
    MADV_CORE, MADV_FREE, MADV_NOCORE, MAP_NOCORE, MAP_SIZEALIGN, MAP_TRYFIXED,
};
use crate::os::unix::{EINVAL, ENOMEM, MAP_FIXED};
use crate::{Errno, Protection};

/// The rules of DragonFly BSD.
#[derive(Clone, Copy, Debug)]
pub struct DragonFly;

/// The addresses of programs.
const USER: Range<usize> = 0x1000..1 << 47;

impl System for DragonFly {
    const KERNEL: Kernel = Kernel::DragonFly;

    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        // `sys_mmap`: a negative length; 6.4 refuses an empty one (mmap(2)).
        let len = machine.round_up(len).filter(|&len| 0 < len && len < 1 << 63).ok_or(EINVAL)?;
        let fixed = flags & MAP_FIXED != 0;
        if fixed || flags & MAP_TRYFIXED != 0 {
            let end = address.checked_add(len).ok_or(EINVAL)?;
            if !machine.is_aligned(address) || !bsd::is_user(machine, &(address..end), &USER) {
                return Err(EINVAL);
            }
        }
        // `vm.max_proc_mmap`, before anything is removed.
        if machine.mappings.count() + OUTSIDE >= machine.settings.max_map_count {
            return Err(ENOMEM);
        }
        // `vm_mmap`: RLIMIT_VMEM, which counts a fixed mapping in full.
        let mapped = machine.mappings.totals().mapped;
        if (mapped + len) as u64 > machine.settings.address_space_limit {
            return Err(ENOMEM);
        }
        let start = if fixed || flags & MAP_TRYFIXED != 0 {
            address
        } else {
            let page = machine.page_size();
            let align = match flags & MAP_SIZEALIGN {
                0 => page,
                // mmap(2): to its own size.
                _ => len.checked_next_power_of_two().ok_or(ENOMEM)?,
            };
            // The hint if it is free, or the next place above it (`vm_map_find`).
            let hint = machine.round_up(address).ok_or(ENOMEM)?;
            let hinted = if hint == 0 { None } else { machine.place_above(hint, len, align) };
            hinted.or_else(|| machine.place(len, align)).ok_or(ENOMEM)?
        };
        let range = start..start + len;
        let space = machine.space();
        let outside = range.start < space.start || range.end > space.end;
        // MAP_TRYFIXED over something; what is outside the space of the process is taken.
        if outside || !fixed && !machine.can_map(&range) {
            return Err(ENOMEM);
        }
        machine.own("a fixed mapping", &range);
        // Bits of protection that nobody knows are dropped.
        let mut attributes = bsd::attributes(machine, "DragonFly", bits & PROT_ALL, flags);
        attributes.dumped = flags & MAP_NOCORE == 0;
        machine.replace(range, |machine| {
            // Out of kernel memory: what was there is gone.
            let starved = fixed && core::mem::take(&mut machine.starve_replacement);
            if starved { Err(ENOMEM) } else { Ok(attributes) }
        })?;
        Ok(machine.pointer(start))
    }

    fn munmap(machine: &mut Machine, address: usize, len: usize) -> Result<(), Errno> {
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        // `sys_munmap`: nothing is no error; a hole is, before anything is removed.
        if range.is_empty() {
            return Ok(());
        }
        if !bsd::is_user(machine, &range, &USER) || !bsd::is_mapped(machine, &range) {
            return Err(EINVAL);
        }
        machine.own("munmap", &range);
        machine.unmap(range);
        Ok(())
    }

    fn mprotect(machine: &mut Machine, address: usize, len: usize, bits: i32) -> Result<(), Errno> {
        // `vm_map_protect`: no limit is looked at, holes are passed over.
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        machine.own("mprotect", &range);
        let protection = protection(bits);
        for part in machine.mappings.inside(range) {
            let attributes = Attributes { protection, ..part.attributes.clone() };
            bsd::change(machine, &part, attributes);
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
            || [MADV_FREE, MADV_NOCORE, MADV_CORE].contains(&advice);
        let range = outward(machine, address, len).filter(|_| known).ok_or(EINVAL)?;
        machine.own("madvise", &range);
        // `vm_map_madvise`: holes are passed over.
        for part in machine.mappings.inside(range) {
            match advice {
                // Lazy: madvise(2). As on FreeBSD, neither wired pages nor what a fork shares.
                MADV_FREE if !part.attributes.locked => {
                    machine.unshared(&part).iter().for_each(|part| machine.discard_lazily(part));
                }
                MADV_NOCORE | MADV_CORE => {
                    let dumped = advice == MADV_CORE;
                    let attributes = Attributes { dumped, ..part.attributes.clone() };
                    bsd::change(machine, &part, attributes);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn lock(machine: &mut Machine, address: usize, len: usize, locked: bool) -> Result<(), Errno> {
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        // mlock(2): a hole, what cannot be accessed, or RLIMIT_MEMLOCK.
        let closed = |attributes: &Attributes| attributes.protection == Protection::NoAccess;
        let parts = machine.mappings.inside(range.clone());
        if !bsd::is_mapped(machine, &range)
            || locked && parts.iter().any(|part| closed(&part.attributes))
            || locked && !bsd::may_wire(machine, &range)
        {
            return Err(ENOMEM);
        }
        bsd::wire(machine, range, locked);
        Ok(())
    }

    fn fork(_machine: &Machine) -> Result<usize, Errno> {
        // Nothing is charged.
        Ok(0)
    }

    fn resource_limit(machine: &Machine, resource: i32) -> Result<u64, Errno> {
        match resource {
            RLIMIT_AS => Ok(machine.settings.address_space_limit),
            _ => bsd::resource_limit(machine, resource).ok_or(EINVAL),
        }
    }
}

impl Mincore for Simulated<DragonFly> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        let machine = &*self.call();
        let range = outward(machine, address.addr(), len).ok_or(EINVAL)?;
        let start = range.start;
        // `sys_mincore`: holes are told like what is not in memory.
        residency[..range.len() / machine.page_size()].fill(0);
        for page in machine.resident_pages(range) {
            residency[(page - start) / machine.page_size()] = MINCORE_INCORE;
        }
        Ok(())
    }
}

// SAFETY: as for `Calls`.
unsafe impl Minherit for Simulated<DragonFly> {
    unsafe fn minherit(&self, address: *mut u8, len: usize, inherit: i32) -> Result<(), Errno> {
        let machine = &mut *self.call();
        // <sys/mman.h>: there is no number for zeros.
        let inheritance = bsd::inheritance(inherit).ok_or(EINVAL)?;
        let range = outward(machine, address.addr(), len).ok_or(EINVAL)?;
        bsd::inherit(machine, range, inheritance);
        Ok(())
    }
}
