//! The rules of DragonFly BSD. None was seen: they are read in sys/vm/vm_mmap.c (`kern_mmap`,
//! `vm_mmap`, `sys_munmap`, …), sys/vm/vm_map.c (`vm_map_madvise`, `vm_map_unwire`, …) and
//! sys/vm/vm_object.c, in versions later than 3.0 up to one of 2026, and in the manual pages of 6.4.

use std::ffi::CStr;
use std::ops::Range;

use super::Simulated;
use super::bsd::{self, Answers, Attributed, Bsd, ENOENT, PROCESS};
use super::machine::{Machine, OUTSIDE};
use super::mappings::Mapping;
use super::signals::{BUS_OBJERR, SIGBUS, Signal, Told};
use super::unix::PROT_ALL;
use crate::calls::{Kernel, Mincore, Sysctl, SysctlByName};
use crate::os::bsd::{CTL_KERN, KERN_PROC_PID};
use crate::os::dragonfly::{
    KERN_PROC, MADV_CORE, MADV_FREE, MADV_NOCORE, MAP_NOCORE, MAP_SIZEALIGN, MAP_TRYFIXED,
    kinfo_proc,
};
use crate::os::unix::{EINVAL, ENOMEM, MAP_FIXED, PROT_READ, PROT_WRITE};
use crate::{Errno, Protection};

/// The rules of DragonFly BSD.
#[derive(Clone, Copy, Debug)]
pub struct DragonFly;

/// <sys/mman.h>.
const MAP_STACK: i32 = 0x400;

impl Bsd for DragonFly {
    const KERNEL: Kernel = Kernel::DragonFly;
    // `VM_MIN_USER_ADDRESS` and `VM_MAX_USER_ADDRESS` (pc64 vmparam.h).
    const USER: Range<usize> = 0..1 << 47;
    const ANSWERS: Answers = Answers {
        // `sys_munmap`: before anything is removed.
        munmap_hole: Err(EINVAL),
        // `vm_map_madvise`.
        madvise_hole: Ok(()),
        free: MADV_FREE,
        // madvise(2).
        free_is_lazy: true,
        // `vm_object_madvise`: they are passed over.
        free_wired: Ok(()),
        core: Some([MADV_NOCORE, MADV_CORE]),
        // MADV_NOSYNC, MADV_AUTOSYNC; MADV_INVAL, which makes the page table anew (`sys_madvise`
        // refuses from MADV_SETMAP on).
        other_advice: &[6, 7, 10],
        // `vm_map_unwire`: a hole, what cannot be accessed (`vm_fault_wire`), what is not locked;
        // whichever it is, `sys_mlock` and `sys_munlock` answer ENOMEM.
        lock_hole: ENOMEM,
        lock_closed: Err(ENOMEM),
        unlock_unlocked: Err(ENOMEM),
        // `sys_mlock`: RLIMIT_MEMLOCK.
        lock_limit: ENOMEM,
        // <sys/mman.h>: there is no number for zeros.
        inherit_zeros: None,
        // `kern_mmap`.
        anonymous_offset: Err(EINVAL),
        // `sys_mincore`, in 2026. An older one told what is not mapped as not in memory.
        mincore_hole: Err(ENOMEM),
        address_space_limit: true,
        // `trap` (platform/pc64/x86_64/trap.c): a general protection fault, which tells no address. A
        // page fault is SIGSEGV, whatever `trap_pfault` calls it.
        not_canonical: Signal::new(SIGBUS, BUS_OBJERR, Told::Other),
    };

    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        // `kern_mmap`: nothing at all; a length that wraps when it is rounded up.
        let len = machine.round_up(len).filter(|&len| len > 0).ok_or(EINVAL)?;
        // A stack is readable and writable.
        if flags & MAP_STACK != 0 && bits & (PROT_READ | PROT_WRITE) != PROT_READ | PROT_WRITE {
            return Err(EINVAL);
        }
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
        let size = machine.mappings.totals().mapped.checked_add(len).ok_or(ENOMEM)?;
        if size as u64 > machine.settings.address_space_limit {
            return Err(ENOMEM);
        }
        // `vm_mmap`: to its own size, which must be a power of two; without, to what one page of
        // the page table maps, if it is as long or much longer.
        let page = machine.page_size();
        let table = machine.settings.huge_page_size.unwrap_or(page);
        let align = match flags & MAP_SIZEALIGN {
            0 if fixed || len % table != 0 && len <= 16 * table => page,
            0 => table,
            _ if len.is_power_of_two() => len,
            _ => return Err(EINVAL),
        };
        let start = if fixed || flags & MAP_TRYFIXED != 0 {
            address
        } else {
            // The hint if it is free, or the next place above it, and nowhere else
            // (`vm_map_findspace`). Without a hint it is above the heap.
            match machine.round_up(address).ok_or(ENOMEM)? {
                0 => machine.place(len, align),
                hint => machine.place_above(hint, len, align),
            }
            .ok_or(ENOMEM)?
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
            // `vm_map_insert`: another thread had the place (KERN_NO_SPACE), because `vm_map_remove`
            // blocked and so gave up the token of the map. What was there is gone.
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

    fn mincore_byte(machine: &Machine, page: usize) -> u8 {
        // vm.mincore_mapped=1, the default: what no page table has is not told.
        let mapping = machine.mappings.at(page);
        mapping.is_some_and(|mapping| mapping.attributes.protection != Protection::NoAccess).into()
    }
}

impl Mincore for Simulated<DragonFly> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        bsd::mincore::<DragonFly>(&self.call(), address.addr(), len, residency)
    }
}

impl Sysctl for Simulated<DragonFly> {
    fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno> {
        let machine = &*self.call();
        if mib != [CTL_KERN, KERN_PROC, KERN_PROC_PID, PROCESS] {
            return Err(ENOENT);
        }
        let size = (machine.mappings.totals().mapped as u64).to_ne_bytes();
        bsd::answer(value, 512, &[(kinfo_proc::MAP_SIZE, &size)])
    }

    fn process_id(&self) -> i32 {
        PROCESS
    }
}

impl SysctlByName for Simulated<DragonFly> {
    fn sysctl_by_name(&self, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        let most = self.call().settings.max_map_count as i32;
        if name != c"vm.max_proc_mmap" {
            return Err(ENOENT);
        }
        bsd::answer(value, 4, &[(0, &most.to_ne_bytes())])
    }
}
