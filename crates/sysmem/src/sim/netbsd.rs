//! The rules of NetBSD: seen on 7.0 amd64 where nothing else is named.

use std::ops::Range;

use super::bsd::{self, Answers, Attributed, Bsd, EACCES, EAGAIN, EFAULT, ENOENT, PROCESS};
use super::machine::Machine;
use super::mappings::Mapping;
use super::signals::{SEGV_ACCERR, SIGSEGV, Signal, Told};
use super::unix::{MAP_SHARED, PROT_ALL};
use super::{Simulated, listed};
use crate::Errno;
use crate::calls::{Kernel, Mincore, Sysctl};
use crate::os::netbsd::{MADV_FREE, MAP_INHERIT_ZERO, MAP_TRYFIXED, kinfo_proc2, process_mib};
use crate::os::unix::{EINVAL, ENOMEM, MAP_FIXED, MAP_PRIVATE};

/// The rules of NetBSD.
#[derive(Clone, Copy, Debug)]
pub struct NetBsd;

const EBUSY: Errno = Errno(16);
const EFBIG: Errno = Errno(27);

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

impl Bsd for NetBsd {
    const KERNEL: Kernel = Kernel::NetBsd;
    // Up to `VM_MAXUSER_ADDRESS` (amd64 vmparam.h).
    const USER: Range<usize> = 0..0x7f7f_ffff_f000;
    const ANSWERS: Answers = Answers {
        munmap_hole: Ok(()),
        madvise_hole: Err(EFAULT),
        free: MADV_FREE,
        free_is_lazy: false,
        // Seen of a wired page; before anything is done (uvm/uvm_map.c, `uvm_map_clean`).
        free_wired: Err(EBUSY),
        core: None,
        // 5 and 8 are invalid.
        other_advice: &[],
        lock_hole: EINVAL,
        lock_closed: Err(EINVAL),
        unlock_unlocked: Err(EINVAL),
        lock_limit: EAGAIN,
        inherit_zeros: Some(MAP_INHERIT_ZERO),
        anonymous_offset: Ok(()),
        mincore_hole: Err(ENOMEM),
        address_space_limit: true,
        // The address was one of the stack.
        not_canonical: Signal::new(SIGSEGV, SEGV_ACCERR, Told::Other),
    };

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
            if !bsd::is_user::<NetBsd>(machine, &(address..end)) {
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
        if !machine.has(&range) {
            return Err(ENOMEM);
        }
        machine.own("a fixed mapping", &range);
        let mut attributes = bsd::attributes(machine, bits, flags);
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

    fn munmap_nothing(_machine: &Machine, _address: usize) -> Result<(), Errno> {
        Ok(())
    }

    fn protected(
        _machine: &mut Machine,
        parts: &[Mapping],
        bits: i32,
    ) -> Result<Attributed, Errno> {
        // Unknown bits are no error, and no limit is looked at. More than the maximum
        // (uvm/uvm_map.c, `uvm_map_protect`).
        if parts.iter().any(|part| bits & PROT_ALL & !part.attributes.maximum != 0) {
            return Err(EACCES);
        }
        Ok(bsd::protected)
    }
}

impl Mincore for Simulated<NetBsd> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        bsd::mincore::<NetBsd>(&self.call(), address.addr(), len, residency)
    }
}

impl Sysctl for Simulated<NetBsd> {
    fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno> {
        /// CTL_VM, VM_PROC, VM_PROC_MAP, the process, the length of an entry.
        const MAP: [i32; 5] = [2, 16, 1, PROCESS, 1128];
        let machine = &*self.call();
        if mib == MAP {
            return listed::netbsd(machine, value);
        }
        if mib != process_mib(PROCESS) {
            return Err(ENOENT);
        }
        let size = (machine.mappings.totals().mapped / machine.page_size()) as u64;
        let resident = bsd::mapped_pages(machine, |_| true) as u32;
        let fields: [(usize, &[u8]); 2] = [
            (kinfo_proc2::P_VM_RSSIZE, &resident.to_ne_bytes()),
            (kinfo_proc2::P_VM_VSIZE, &size.to_ne_bytes()),
        ];
        bsd::answer(value, kinfo_proc2::LEN, &fields)
    }

    fn process_id(&self) -> i32 {
        PROCESS
    }
}
