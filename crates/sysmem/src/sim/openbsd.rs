//! The rules of OpenBSD: seen on 7.6 amd64 where nothing else is named.

use std::ops::Range;

use super::bsd::{self, Answers, Attributed, Bsd, EAGAIN, EFAULT, ENOENT, PROCESS};
use super::machine::Machine;
use super::mappings::{Attributes, Mapping};
use super::signals::{SEGV_MAPERR, SIGSEGV, Signal, Told};
use super::unix::{MAP_SHARED, PROT_ALL, may_change};
use super::{Simulated, listed};
use crate::calls::{Kernel, Seal, Sysctl};
use crate::os::bsd::{ANONYMOUS, CTL_KERN};
use crate::os::openbsd::{
    MADV_FREE, MAP_CONCEAL, MAP_INHERIT_ZERO, MAP_NOREPLACE, MAP_STACK, kinfo_proc, process_mib,
};
use crate::os::unix::{
    EINVAL, ENOMEM, EPERM, MAP_FIXED, MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE,
};
use crate::{Errno, Inheritance, Protection};

/// The rules of OpenBSD.
#[derive(Clone, Copy, Debug)]
pub struct OpenBsd;

const ENOTSUP: Errno = Errno(91);
const MADV_DONTNEED: i32 = 4;
/// `MAP_FLAGMASK` of <sys/mman.h>: 0x100 is let pass, 0x10000 is not.
const FLAGS: i32 = 0xfff7;

/// Whether so much more that allows anything stays below `RLIMIT_DATA`.
fn fits(machine: &Machine, more: usize) -> bool {
    let used = machine.mappings.totals().accessible;
    (used + more) as u64 <= machine.settings.data_limit
}

impl Bsd for OpenBsd {
    const KERNEL: Kernel = Kernel::OpenBsd;
    // Page 0 is not a program's; up to `VM_MAXUSER_ADDRESS` (amd64 vmparam.h).
    const USER: Range<usize> = 0x1000..0x7f7f_ffff_c000;
    const ANSWERS: Answers = Answers {
        // Read in uvm/uvm_mmap.c, `sys_munmap`: before anything is removed.
        munmap_hole: Err(EINVAL),
        madvise_hole: Err(EFAULT),
        free: MADV_FREE,
        free_is_lazy: false,
        free_wired: Ok(()),
        core: None,
        // 5 and 8 are invalid.
        other_advice: &[],
        lock_hole: ENOMEM,
        lock_closed: Ok(()),
        unlock_unlocked: Ok(()),
        lock_limit: EAGAIN,
        inherit_zeros: Some(MAP_INHERIT_ZERO),
        anonymous_offset: Ok(()),
        // There is no mincore.
        mincore_hole: Ok(()),
        address_space_limit: false,
        not_canonical: Signal::new(SIGSEGV, SEGV_MAPERR, Told::Instruction),
    };

    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        // A bit of protection, or a flag, that nobody knows.
        if bits & !PROT_ALL != 0 || flags & !FLAGS != 0 {
            return Err(EINVAL);
        }
        // Shared and private; "do not replace" where nothing could be.
        let both = MAP_SHARED | MAP_PRIVATE;
        if flags & both == both || flags & (MAP_NOREPLACE | MAP_FIXED) == MAP_NOREPLACE {
            return Err(EINVAL);
        }
        // No page is writable and executable.
        if bits & (PROT_WRITE | PROT_EXEC) == PROT_WRITE | PROT_EXEC {
            return Err(ENOTSUP);
        }
        // What stacks lie in is private, anonymous, readable and writable, and has no other flag
        // (uvm/uvm_mmap.c of 7.6, `sys_mmap`).
        if flags & MAP_STACK != 0
            && (flags & !(MAP_STACK | MAP_FIXED) != ANONYMOUS || bits != PROT_READ | PROT_WRITE)
        {
            return Err(EINVAL);
        }
        // An empty range, and one that rounds up past the end of all numbers.
        let len = machine.round_up(len).filter(|&len| len != 0).ok_or(EINVAL)?;
        let fixed = flags & MAP_FIXED != 0;
        if fixed {
            let end = address.checked_add(len).ok_or(EINVAL)?;
            // Unaligned, or outside the addresses of programs.
            if !machine.is_aligned(address) || !bsd::is_user::<OpenBsd>(machine, &(address..end)) {
                return Err(EINVAL);
            }
        } else if address >= Self::USER.end && !machine.space().contains(&address) {
            // A hint among the kernel's addresses.
            return Err(ENOMEM);
        }
        // RLIMIT_DATA counts what allows anything, private or shared, and counts again what is
        // replaced. It is looked at first, so what was there is still there.
        if bits != PROT_NONE && !fits(machine, len) {
            return Err(ENOMEM);
        }
        let page = machine.page_size();
        let start = match (fixed, machine.round_up(address).ok_or(ENOMEM)?) {
            (true, _) => address,
            (false, 0) => machine.place(len, page).ok_or(ENOMEM)?,
            // The hint if it is free, or the next place above it.
            (false, hint) => {
                let place = machine.place_above(hint, len, page);
                place.or_else(|| machine.place(len, page)).ok_or(ENOMEM)?
            }
        };
        let range = start..start + len;
        // A taken address is told like exhaustion. What lies outside the space of the simulated
        // process is taken.
        if !machine.has(&range) || flags & MAP_NOREPLACE != 0 && !machine.can_map(&range) {
            return Err(ENOMEM);
        }
        // What a mapping needs is allocated before anything is removed (uvm/uvm_map.c,
        // `uvm_mapanon`).
        if fixed && core::mem::take(&mut machine.starve_replacement) {
            return Err(ENOMEM);
        }
        may_change(&machine.mappings.inside(range.clone()))?;
        machine.own("a fixed mapping", &range);
        let mut attributes = bsd::attributes(machine, bits, flags);
        attributes.dumped = flags & MAP_CONCEAL == 0;
        machine.replace(range, |_| Ok(attributes))?;
        Ok(machine.pointer(start))
    }

    fn munmap_nothing(machine: &Machine, address: usize) -> Result<(), Errno> {
        if machine.is_aligned(address) { Ok(()) } else { Err(EINVAL) }
    }

    fn protected(machine: &mut Machine, parts: &[Mapping], bits: i32) -> Result<Attributed, Errno> {
        if bits & !PROT_ALL != 0 {
            return Err(EINVAL);
        }
        if bits & (PROT_WRITE | PROT_EXEC) == PROT_WRITE | PROT_EXEC {
            return Err(ENOTSUP);
        }
        // What comes to allow anything is counted.
        let closed = |part: &&Mapping| part.attributes.protection == Protection::NoAccess;
        let more = parts.iter().filter(closed).map(Mapping::len).sum();
        if bits != PROT_NONE && !fits(machine, more) {
            return Err(ENOMEM);
        }
        Ok(bsd::protected)
    }

    fn advised(machine: &mut Machine, part: &Mapping, advice: i32) {
        // Out of the page table, contents are kept; told by the resident set.
        if advice == MADV_DONTNEED {
            machine.deactivate(part);
        }
    }

    fn may_inherit(parts: &[Mapping], inheritance: Inheritance) -> Result<(), Errno> {
        // Only what can be written to can become zeros.
        let all_writable = parts.iter().all(|part| part.attributes.writable());
        if inheritance == Inheritance::Zeros && !all_writable { Err(EPERM) } else { Ok(()) }
    }
}

// SAFETY: as for `Calls`.
unsafe impl Seal for Simulated<OpenBsd> {
    /// mimmutable(2), since 7.3.
    unsafe fn seal(&self, address: *mut u8, len: usize) -> Result<(), Errno> {
        let machine = &mut *self.call();
        let range = bsd::outward(machine, address.addr(), len).ok_or(EINVAL)?;
        machine.own("mimmutable", &range);
        // Holes are passed over (uvm/uvm_map.c of 7.6, `uvm_map_immutable`).
        for part in machine.mappings.inside(range) {
            machine.alter(&part, Attributes { immutable: true, ..part.attributes.clone() });
        }
        Ok(())
    }
}

impl Simulated<OpenBsd> {
    /// mquery(2): where a mapping would lie.
    pub fn mquery(&self, address: usize, len: usize, fixed: bool) -> Result<usize, Errno> {
        let machine = &mut *self.call();
        let len = machine.round_up(len).ok_or(EINVAL)?;
        match fixed {
            // Taken.
            true if !machine.can_map(&(address..address + len)) => Err(EINVAL),
            true => Ok(address),
            false => machine.place(len, machine.page_size()).ok_or(ENOMEM),
        }
    }
}

impl Sysctl for Simulated<OpenBsd> {
    fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno> {
        const KERN_PROC_VMMAP: i32 = 80;
        let machine = &*self.call();
        if mib == [CTL_KERN, KERN_PROC_VMMAP, PROCESS] {
            return listed::openbsd(machine, value);
        }
        if mib != process_mib(PROCESS) {
            return Err(ENOENT);
        }
        let resident = bsd::mapped_pages(machine, |page| !machine.is_inactive(page)) as u32;
        let data = (machine.mappings.totals().accessible / machine.page_size()) as u32;
        let fields: [(usize, &[u8]); 2] = [
            (kinfo_proc::P_VM_RSSIZE, &resident.to_ne_bytes()),
            (kinfo_proc::P_VM_DSIZE, &data.to_ne_bytes()),
        ];
        bsd::answer(value, kinfo_proc::LEN, &fields)
    }

    fn process_id(&self) -> i32 {
        PROCESS
    }
}
