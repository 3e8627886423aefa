//! The rules of NetBSD: seen on 7.0 amd64 where nothing else is named.

use std::ops::Range;

use super::bsd::{
    self, ADVICE_WITHOUT_EFFECT, EACCES, EAGAIN, EFAULT, ENOENT, MAP_SHARED, PROCESS, PROT_ALL,
    outward, protection,
};
use super::machine::Machine;
use super::mappings::Attributes;
use super::{Simulated, System};
use crate::calls::{Kernel, Mincore, Minherit, Sysctl};
use crate::os::bsd::{CTL_KERN, KERN_PROC_PID, RLIMIT_AS};
use crate::os::netbsd::{KERN_PROC2, MADV_FREE, MAP_INHERIT_ZERO, MAP_TRYFIXED};
use crate::os::unix::{EINVAL, ENOMEM, MAP_FIXED, MAP_PRIVATE};
use crate::{Errno, Inheritance, Protection};

/// The rules of NetBSD.
#[derive(Clone, Copy, Debug)]
pub struct NetBsd;

const EBUSY: Errno = Errno(16);
const EFBIG: Errno = Errno(27);

/// The addresses of programs: up to `VM_MAXUSER_ADDRESS` (amd64 vmparam.h).
const USER: Range<usize> = 0..0x7f7f_ffff_f000;

/// Where `MAP_ALIGNED(n)` and a hint put a mapping.
fn place(machine: &mut Machine, hint: usize, len: usize, align: usize) -> Result<usize, Errno> {
    let hint = machine.round_up(hint).ok_or(ENOMEM)?;
    // The hint if it is free, or the next place below it.
    let place = match hint {
        0 => None,
        hint => machine.place_below(hint, len, align),
    };
    place.or_else(|| machine.place(len, align)).ok_or(ENOMEM)
}

impl System for NetBsd {
    const KERNEL: Kernel = Kernel::NetBsd;

    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        // Unknown bits and flags are no error; shared and private is.
        if flags & (MAP_SHARED | MAP_PRIVATE) == MAP_SHARED | MAP_PRIVATE {
            return Err(EINVAL);
        }
        let page = machine.page_size();
        let shift = flags as u32 >> 24;
        let align = match 1usize << shift.min(62) {
            1 => page,
            // 1, 2 and 11 are invalid, 47 and more find no place.
            align if align < page => return Err(EINVAL),
            align if align < 1 << 47 => align,
            _ => return Err(ENOMEM),
        };
        let fixed = flags & MAP_FIXED != 0;
        // The length is rounded up, past the end of all numbers too.
        let len = machine.round_up(len).unwrap_or(0);
        if fixed {
            // Unaligned, also to what is asked for besides; page 0; past the end.
            if address & (align - 1) != 0 {
                return Err(EINVAL);
            }
            if address == 0 {
                return Err(EACCES);
            }
            let end = address.checked_add(len).ok_or(EFBIG)?;
            if !bsd::is_user(machine, &(address..end), &USER) {
                return Err(EFBIG);
            }
        }
        // Nothing at all is "mapped", at an address that is nobody's.
        if len == 0 {
            return Ok(machine.pointer(machine.space().end));
        }
        let limit = machine.settings.address_space_limit;
        // Whatever it allows counts, and a fixed mapping counts again in full.
        let fits = (machine.mappings.totals().mapped + len) as u64 <= limit;
        if !fixed && !fits {
            return Err(ENOMEM);
        }
        let start = match fixed {
            true => address,
            // Where it is taken, MAP_TRYFIXED is a hint.
            false if flags & MAP_TRYFIXED != 0 && machine.can_map(&(address..address + len)) => {
                address
            }
            false => place(machine, address, len, align)?,
        };
        let range = start..start + len;
        // What lies outside the space of the simulated process is taken.
        let space = machine.space();
        if range.start < space.start || range.end > space.end {
            return Err(ENOMEM);
        }
        machine.own("a fixed mapping", &range);
        let mut attributes = bsd::attributes(machine, "NetBSD", bits, flags);
        // PaX MPROTECT: what it allows now, and what PROT_MPROTECT asks for (mmap(2) of 10.1).
        if machine.settings.pax_mprotect {
            attributes.maximum = (bits | bits >> 3) & PROT_ALL;
        }
        machine.replace(range, |machine| {
            let starved = fixed && core::mem::take(&mut machine.starve_replacement);
            // Only now the limit: what was there is gone.
            if fits && !starved { Ok(attributes) } else { Err(ENOMEM) }
        })?;
        Ok(machine.pointer(start))
    }

    fn munmap(machine: &mut Machine, address: usize, len: usize) -> Result<(), Errno> {
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        // The kernel's addresses; page 0 is no error, an empty range and holes are none.
        if !bsd::is_user(machine, &range, &USER) {
            return Err(EINVAL);
        }
        if len != 0 {
            machine.own("munmap", &range);
            machine.unmap(range);
        }
        Ok(())
    }

    fn mprotect(machine: &mut Machine, address: usize, len: usize, bits: i32) -> Result<(), Errno> {
        // Unknown bits are no error, and no limit is looked at; holes are passed over.
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        machine.own("mprotect", &range);
        let parts = machine.mappings.inside(range);
        // More than the maximum (uvm/uvm_map.c, `uvm_map_protect`: before anything changes).
        if parts.iter().any(|part| bits & PROT_ALL & !part.attributes.maximum != 0) {
            return Err(EACCES);
        }
        let protection = protection(bits);
        for part in parts {
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
        // 5 and 8 are invalid.
        let known = ADVICE_WITHOUT_EFFECT.contains(&advice) || advice == MADV_FREE;
        let range = outward(machine, address, len).filter(|_| known).ok_or(EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        machine.own("madvise", &range);
        // A hole, before anything is done.
        if !bsd::is_mapped(machine, &range) {
            return Err(EFAULT);
        }
        if advice != MADV_FREE {
            return Ok(());
        }
        let parts = machine.mappings.inside(range);
        // Wired pages, before anything is done (uvm/uvm_map.c, `uvm_map_clean`).
        if parts.iter().any(|part| part.attributes.locked) {
            return Err(EBUSY);
        }
        // At once, whatever the pages allow.
        // What a fork shares stays (uvm/uvm_map.c, `uvm_map_clean`).
        for part in &parts {
            machine.unshared(part).iter().for_each(|part| machine.discard(part));
        }
        Ok(())
    }

    fn lock(machine: &mut Machine, address: usize, len: usize, locked: bool) -> Result<(), Errno> {
        let range = outward(machine, address, len).ok_or(EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        // A hole; wiring what allows nothing; unwiring what is not wired.
        let refused = |attributes: &Attributes| match locked {
            true => attributes.protection == Protection::NoAccess,
            false => !attributes.locked,
        };
        let parts = machine.mappings.inside(range.clone());
        let refused = parts.iter().any(|part| refused(&part.attributes));
        if refused || !bsd::is_mapped(machine, &range) {
            return Err(EINVAL);
        }
        // RLIMIT_MEMLOCK.
        if locked && !bsd::may_wire(machine, &range) {
            return Err(EAGAIN);
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

impl Mincore for Simulated<NetBsd> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        let machine = &*self.call();
        let range = outward(machine, address.addr(), len).ok_or(ENOMEM)?;
        // A hole.
        if !bsd::is_mapped(machine, &range) {
            return Err(ENOMEM);
        }
        let start = range.start;
        residency[..range.len() / machine.page_size()].fill(0);
        // 0 or 1, whatever the pages allow.
        for page in machine.resident_pages(range) {
            residency[(page - start) / machine.page_size()] = 1;
        }
        Ok(())
    }
}

// SAFETY: as for `Calls`.
unsafe impl Minherit for Simulated<NetBsd> {
    unsafe fn minherit(&self, address: *mut u8, len: usize, inherit: i32) -> Result<(), Errno> {
        let machine = &mut *self.call();
        let inheritance = match inherit {
            MAP_INHERIT_ZERO => Some(Inheritance::Zeros),
            number => bsd::inheritance(number),
        };
        let inheritance = inheritance.ok_or(EINVAL)?;
        let range = outward(machine, address.addr(), len).ok_or(EINVAL)?;
        bsd::inherit(machine, range, inheritance);
        Ok(())
    }
}

impl Sysctl for Simulated<NetBsd> {
    fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno> {
        const LEN: usize = 680;
        let machine = &*self.call();
        if mib != [CTL_KERN, KERN_PROC2, KERN_PROC_PID, PROCESS, LEN as i32, 1] {
            return Err(ENOENT);
        }
        // struct kinfo_proc2: p_vm_rssize at 432, p_vm_vsize at 664, in pages.
        let size = (machine.mappings.totals().mapped / machine.page_size()) as u64;
        let resident = bsd::resident_pages(machine) as u32;
        bsd::answer(value, LEN, &[(432, &resident.to_ne_bytes()), (664, &size.to_ne_bytes())])
    }

    fn process_id(&self) -> i32 {
        PROCESS
    }
}
