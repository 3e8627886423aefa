//! The rules of DragonFly BSD. None was seen: they are read in vm/vm_mmap.c (`sys_mmap`,
//! `vm_mmap`, `sys_munmap`, …), in a version of 2003, and in the manual pages of 6.4.

use std::ops::Range;

use super::Simulated;
use super::bsd::{self, Answers, Attributed, Bsd};
use super::machine::{Machine, OUTSIDE};
use super::mappings::Mapping;
use super::unix::PROT_ALL;
use crate::Errno;
use crate::calls::{Kernel, Mincore};
use crate::os::dragonfly::{
    MADV_CORE, MADV_FREE, MADV_NOCORE, MAP_NOCORE, MAP_SIZEALIGN, MAP_TRYFIXED,
};
use crate::os::unix::{EINVAL, ENOMEM, MAP_FIXED};

/// The rules of DragonFly BSD.
#[derive(Clone, Copy, Debug)]
pub struct DragonFly;

impl Bsd for DragonFly {
    const KERNEL: Kernel = Kernel::DragonFly;
    const USER: Range<usize> = 0x1000..1 << 47;
    const ANSWERS: Answers = Answers {
        // `sys_munmap`: before anything is removed.
        munmap_hole: Err(EINVAL),
        // `vm_map_madvise`.
        madvise_hole: Ok(()),
        free: MADV_FREE,
        // madvise(2).
        free_is_lazy: true,
        free_wired: Ok(()),
        core: Some([MADV_NOCORE, MADV_CORE]),
        other_advice: &[],
        // mlock(2): a hole, what cannot be accessed, RLIMIT_MEMLOCK.
        lock_hole: ENOMEM,
        lock_closed: Err(ENOMEM),
        unlock_unlocked: Ok(()),
        lock_limit: ENOMEM,
        // <sys/mman.h>: there is no number for zeros.
        inherit_zeros: None,
        anonymous_offset: Ok(()),
        // `sys_mincore`.
        mincore_hole: Ok(()),
        address_space_limit: true,
    };

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
            if !machine.is_aligned(address) || !bsd::is_user::<DragonFly>(machine, &(address..end))
            {
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
        // MAP_TRYFIXED over something; what is outside the space of the process is taken.
        if !machine.has(&range) || !fixed && !machine.can_map(&range) {
            return Err(ENOMEM);
        }
        machine.own("a fixed mapping", &range);
        // Bits of protection that nobody knows are dropped.
        let mut attributes = bsd::attributes(machine, bits & PROT_ALL, flags);
        attributes.dumped = flags & MAP_NOCORE == 0;
        machine.replace(range, |machine| {
            // Out of kernel memory: what was there is gone.
            let starved = fixed && core::mem::take(&mut machine.starve_replacement);
            if starved { Err(ENOMEM) } else { Ok(attributes) }
        })?;
        Ok(machine.pointer(start))
    }

    fn munmap_nothing(_machine: &Machine, _address: usize) -> Result<(), Errno> {
        Ok(())
    }

    fn protected(
        _machine: &mut Machine,
        _parts: &[Mapping],
        _bits: i32,
    ) -> Result<Attributed, Errno> {
        // `vm_map_protect`: no limit is looked at.
        Ok(bsd::protected)
    }
}

impl Mincore for Simulated<DragonFly> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        bsd::mincore::<DragonFly>(&self.call(), address.addr(), len, residency)
    }
}
