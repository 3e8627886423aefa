//! The rules of illumos. None was seen: they are read in illumos-gate (uts/common/os/grow.c,
//! syscall/memcntl.c, vm/vm_as.c, vm/seg_vn.c, vm/vm_anon.c, as they were in 2018 and later) and in
//! the manual pages.
//!
//! What a segment of private anonymous memory has reserved in swap is `charged`. A segment with
//! `MAP_NORESERVE` takes swap page by page at the first touch, which a simulated process cannot be
//! refused: a real one would get SIGBUS.

use std::ffi::CStr;
use std::ops::Range;
use std::vec;
use std::vec::Vec;

use super::machine::Machine;
use super::mappings::{Attributes, Mapping};
use super::settings::Overcommit;
use super::signals::{SEGV_MAPERR, SIGSEGV, Signal, Stray, Told};
use super::unix::{MAP_SHARED, PROT_ALL, protection};
use super::{ProcFiles, Simulated, System, UnixSystem};
use crate::calls::{Kernel, Memcntl, Mincore, PageSizes, SystemPages};
use crate::os::illumos::{
    EAGAIN, MADV_FREE, MAP_ALIGN, MAP_ANON, MAP_NORESERVE, MC_HAT_ADVISE, MC_INHERIT_ZERO,
    RLIMIT_AS, psinfo,
};
use crate::os::unix::{EINVAL, ENOMEM, MAP_FIXED, MAP_PRIVATE, RLIMIT_DATA};
use crate::{Errno, Inheritance};

/// The rules of illumos.
#[derive(Clone, Copy, Debug)]
pub struct Illumos;

const EACCES: Errno = Errno(13);
const EBUSY: Errno = Errno(16);
const ENOENT: Errno = Errno(2);
const ENOTSUP: Errno = Errno(48);
/// `MAP_TYPE` of <sys/mman.h>: shared or private.
const MAP_TYPE: i32 = 0xf;
const MADV_DONTNEED: i32 = 4;
/// MADV_NORMAL, _RANDOM, _SEQUENTIAL, _WILLNEED; MADV_DONTNEED, which writes pages to where they
/// belong and drops no contents (`memcntl`: an asynchronous MC_SYNC); MADV_ACCESS_*.
const ADVICE_WITHOUT_EFFECT: [i32; 8] = [0, 1, 2, 3, 4, 6, 7, 8];
/// `SEG_PAGE_INCORE` and `SEG_PAGE_ANON` of <vm/seg.h>: mincore(2) promises the first bit only.
const INCORE: u8 = 1 | 0x20;

/// Up to `a_userlimit` (amd64, <sys/machparam.h>).
const USER: Range<usize> = 0..0xffff_fc7f_ffe0_0000;

/// Bytes that can be reserved in swap. There is no overcommitting: what a setting says of it is how
/// much there is.
fn swap(machine: &Machine) -> u64 {
    match machine.settings.overcommit {
        Overcommit::Never { limit } => limit,
        Overcommit::Heuristic { memory } => memory,
        Overcommit::Always => u64::MAX,
    }
}

/// Whether so much can be reserved: `anon_resv_zone` (vm_anon.c).
fn enough_swap(machine: &Machine, more: usize) -> bool {
    (machine.charged() + more) as u64 <= swap(machine)
}

/// A range of whole pages from an aligned address; what is wrong with it otherwise.
fn whole(
    machine: &Machine,
    address: usize,
    len: usize,
    outside: Errno,
) -> Result<Range<usize>, Errno> {
    // `munmap`, `mprotect`, `memcntl`, `mincore`: an unaligned address, nothing at all.
    if !machine.is_aligned(address) || len == 0 {
        return Err(EINVAL);
    }
    // `valid_usr_range`.
    let end = machine.round_up(len).and_then(|len| address.checked_add(len));
    let range = address..end.ok_or(outside)?;
    if range.end <= USER.end { Ok(range) } else { Err(outside) }
}

/// Does something to each segment up to the first hole, which is ENOMEM once it is reached
/// (`as_setprot`, `as_ctl`).
fn walk(
    machine: &mut Machine,
    range: Range<usize>,
    mut each: impl FnMut(&mut Machine, &Mapping) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut at = range.start;
    for part in machine.mappings.inside(range.clone()) {
        if part.start != at {
            return Err(ENOMEM);
        }
        each(machine, &part)?;
        at = part.end;
    }
    if at == range.end { Ok(()) } else { Err(ENOMEM) }
}

impl System for Illumos {
    const KERNEL: Kernel = Kernel::Illumos;

    fn lock(machine: &mut Machine, address: usize, len: usize, locked: bool) -> Result<(), Errno> {
        let range = whole(machine, address, len, ENOMEM)?;
        // `as_ctl`: a hole leaves nothing locked.
        if locked && !machine.is_mapped(&range) {
            return Err(ENOMEM);
        }
        // `segvn_lockop`: project.max-locked-memory. (What allows nothing is locked, too.)
        let unlocked = |part: &&Mapping| !part.attributes.locked;
        let parts = machine.mappings.inside(range.clone());
        let more: usize = parts.iter().filter(unlocked).map(Mapping::len).sum();
        let total = machine.mappings.totals().locked + more;
        if locked && total as u64 > machine.settings.locked_limit {
            return Err(EAGAIN);
        }
        walk(machine, range, |machine, part| {
            // A page of a segment without reserve is locked once it is there: not modelled.
            let locked = locked && !part.attributes.uncharged;
            machine.alter(part, Attributes { locked, ..part.attributes.clone() });
            Ok(())
        })
    }

    fn signal(stray: Stray) -> Option<Signal> {
        // uts/i86pc/os/trap.c, `trap`: a page fault by what `pagefault` says; a general protection
        // fault.
        Some(match stray {
            Stray::Refused => Signal::REFUSED,
            Stray::Unmapped => Signal::UNMAPPED,
            Stray::NotCanonical => Signal::new(SIGSEGV, SEGV_MAPERR, Told::Instruction),
        })
    }
}

impl UnixSystem for Illumos {
    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        // `smmap_common`: a flag that nobody knows; neither shared nor private, or both.
        let known = MAP_TYPE | MAP_FIXED | MAP_NORESERVE | MAP_ANON | MAP_ALIGN;
        let kind = flags & MAP_TYPE;
        if flags & !known != 0 || kind != MAP_PRIVATE && kind != MAP_SHARED {
            return Err(EINVAL);
        }
        assert!(flags & MAP_ANON != 0, "the simulated illumos has anonymous memory only");
        // An alignment goes in place of the address, and is a power of two and no less than a page.
        let fixed = flags & MAP_FIXED != 0;
        let (address, align) = match flags & MAP_ALIGN {
            0 => (address, machine.page_size()),
            _ if fixed || address != 0 && !address.is_power_of_two() => return Err(EINVAL),
            _ if address != 0 && address < machine.page_size() => return Err(EINVAL),
            _ => (0, address.max(machine.page_size())),
        };
        // Nothing at all.
        if len == 0 {
            return Err(EINVAL);
        }
        // `zmap`.
        if bits & !PROT_ALL != 0 {
            return Err(EACCES);
        }
        let len = machine.round_up(len).ok_or(ENOMEM)?;
        let start = match fixed {
            true => whole(machine, address, len, ENOMEM)?.start,
            false => {
                // `choose_addr`: a free hint, rounded down to a page, or somewhere else.
                // (aslr_respect_mmap_hint is on unless it is switched off.)
                let hint = address & !(machine.page_size() - 1);
                let hinted = hint..hint.checked_add(len).ok_or(ENOMEM)?;
                match hint != 0 && machine.can_map(&hinted) {
                    true => hint,
                    false => machine.place(len, align).ok_or(ENOMEM)?,
                }
            }
        };
        let range = start..start + len;
        if !machine.has(&range) {
            return Err(ENOMEM);
        }
        machine.own("a fixed mapping", &range);
        let mut attributes = Attributes::new(protection(bits));
        if kind == MAP_SHARED {
            attributes.inheritance = Inheritance::Share;
        }
        // `segvn_create`: a shared segment has no use for MAP_NORESERVE. Whatever it allows, all of
        // an anonymous segment is reserved at once.
        attributes.uncharged = flags & MAP_NORESERVE != 0 && kind == MAP_PRIVATE;
        attributes.charged = !attributes.uncharged;
        // mlockall(MCL_FUTURE).
        attributes.locked = machine.settings.lock_new_mappings && !attributes.uncharged;
        let charge = if attributes.charged { len } else { 0 };
        machine.replace(range, |machine| {
            // `choose_addr` has unmapped the range by now. `as_map_locked`: RLIMIT_VMEM.
            let mapped = machine.mappings.totals().mapped;
            if (mapped + len) as u64 > machine.settings.address_space_limit {
                return Err(ENOMEM);
            }
            // `segvn_create`.
            let starved = fixed && core::mem::take(&mut machine.starve_replacement);
            if starved || charge != 0 && !enough_swap(machine, charge) {
                return Err(EAGAIN);
            }
            Ok(attributes)
        })?;
        Ok(machine.pointer(start))
    }

    fn munmap(machine: &mut Machine, address: usize, len: usize) -> Result<(), Errno> {
        let range = whole(machine, address, len, EINVAL)?;
        machine.own("munmap", &range);
        // `as_unmap`: holes are passed over.
        machine.unmap(range);
        Ok(())
    }

    fn mprotect(machine: &mut Machine, address: usize, len: usize, bits: i32) -> Result<(), Errno> {
        let range = whole(machine, address, len, ENOMEM)?;
        // `valid_usr_range`: RANGE_BADPROT.
        if bits & !PROT_ALL != 0 {
            return Err(ENOTSUP);
        }
        machine.own("mprotect", &range);
        let protection = protection(bits);
        walk(machine, range, |machine, part| {
            // `segvn_setprot`: swap is reserved already, or never.
            machine.alter(part, Attributes { protection, ..part.attributes.clone() });
            Ok(())
        })
    }

    fn madvise(
        machine: &mut Machine,
        address: usize,
        len: usize,
        advice: i32,
    ) -> Result<(), Errno> {
        let range = whole(machine, address, len, ENOMEM)?;
        // `segvn_advise`.
        if advice != MADV_FREE && !ADVICE_WITHOUT_EFFECT.contains(&advice) {
            return Err(EINVAL);
        }
        // `memcntl` rounds the length down for this one: half a page is not given back.
        let range = match advice {
            MADV_FREE => range.start..range.start + (len & !(machine.page_size() - 1)),
            _ => range,
        };
        machine.own("madvise", &range);
        let mut locked = false;
        walk(machine, range, |machine, part| {
            locked |= part.attributes.locked;
            match advice {
                // memcntl(2), of MC_SYNC with MS_INVALIDATE: what is locked, once it is reached.
                MADV_DONTNEED if part.attributes.locked => return Err(EBUSY),
                // `anon_disclaim`: whatever the pages allow, the swap slot is freed and the page
                // goes to the free list, where it may be found again. Not what is still shared with
                // a child.
                MADV_FREE if !part.attributes.locked => {
                    machine.unshared(part).iter().for_each(|part| machine.discard_lazily(part));
                }
                _ => {}
            }
            Ok(())
        })?;
        // `anon_disclaim` passes over what is locked, and answers EBUSY once the rest is done (so
        // since there is MADV_PURGE; before, it answered nothing).
        if advice == MADV_FREE && locked { Err(EBUSY) } else { Ok(()) }
    }

    fn fork(machine: &Machine) -> Result<usize, Errno> {
        // `segvn_dup`: what a private segment has reserved is reserved again for the child,
        // whatever that gets of it; without reserve, as much as there are pages.
        let charge = machine.mappings.iter().map(|mapping| match &mapping.attributes {
            attributes if attributes.inheritance == Inheritance::Share => 0,
            attributes if attributes.charged => mapping.len(),
            _ => {
                let range = mapping.start..mapping.end;
                machine.resident_pages(range).len() * machine.page_size()
            }
        });
        let charge = charge.sum();
        if charge == 0 || enough_swap(machine, charge) { Ok(charge) } else { Err(ENOMEM) }
    }

    fn resource_limit(machine: &Machine, resource: i32) -> Result<u64, Errno> {
        match resource {
            // `RLIMIT_VMEM`.
            RLIMIT_AS => Ok(machine.settings.address_space_limit),
            RLIMIT_DATA => Ok(machine.settings.data_limit),
            _ => Err(EINVAL),
        }
    }
}

impl Mincore for Simulated<Illumos> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        let machine = &*self.call();
        let range = whole(machine, address.addr(), len, ENOMEM)?;
        // `as_incore`.
        if !machine.is_mapped(&range) {
            return Err(ENOMEM);
        }
        machine.tell_resident(range, residency, |_| INCORE);
        Ok(())
    }
}

// SAFETY: as for `Calls`.
unsafe impl Memcntl for Simulated<Illumos> {
    unsafe fn memcntl(
        &self,
        address: *mut u8,
        len: usize,
        command: i32,
        page_size: usize,
    ) -> Result<(), Errno> {
        let machine = &mut *self.call();
        let huge = match command {
            // `memcntl`: a size that the machine has (`mem_getpgszc`), and whole pages of it.
            MC_HAT_ADVISE => {
                let large = Some(page_size) == machine.settings.huge_page_size;
                let whole_pages = (address.addr() | len) & (page_size.max(1) - 1) == 0;
                if !whole_pages || !large && page_size != machine.page_size() {
                    return Err(EINVAL);
                }
                Some(large)
            }
            MC_INHERIT_ZERO => None,
            _ => return Err(EINVAL),
        };
        let range = whole(machine, address.addr(), len, ENOMEM)?;
        machine.own("memcntl", &range);
        walk(machine, range, |machine, part| {
            let mut attributes = part.attributes.clone();
            match huge {
                // `segvn_create` and `segvn_setpagesize`: a segment without reserve keeps small
                // pages, and says nothing.
                Some(_) if attributes.uncharged => {}
                Some(large) => attributes.huge = Some(large),
                // `segvn_inherit`: not of what is shared.
                None if attributes.inheritance == Inheritance::Share => return Err(EINVAL),
                None => attributes.inheritance = Inheritance::Zeros,
            }
            machine.alter(part, attributes);
            Ok(())
        })
    }
}

impl PageSizes for Simulated<Illumos> {
    fn page_sizes(&self, sizes: &mut [usize]) -> Result<usize, Errno> {
        let machine = &*self.call();
        let has = [Some(machine.page_size()), machine.settings.huge_page_size];
        // getpagesizes(3C): as many as there is room for.
        let has = has.into_iter().flatten().zip(&mut *sizes);
        Ok(has.map(|(size, place)| *place = size).count())
    }
}

impl ProcFiles for Illumos {
    fn file(machine: &Machine, path: &CStr) -> Result<Vec<u8>, Errno> {
        if path != c"/proc/self/psinfo" || !machine.settings.proc_mounted {
            return Err(ENOENT);
        }
        let mut told = vec![0; psinfo::LEN];
        let mut put = |at: usize, value: &[u8]| told[at..at + value.len()].copy_from_slice(value);
        let kib = |bytes: usize| (bytes as u64 / 1024).to_ne_bytes();
        put(psinfo::NLWP, &1u32.to_ne_bytes());
        put(psinfo::SIZE, &kib(machine.mappings.totals().mapped));
        put(psinfo::RSSIZE, &kib(machine.resident() * machine.page_size()));
        Ok(told)
    }
}

impl SystemPages for Simulated<Illumos> {
    fn physical_pages(&self) -> Option<u64> {
        None
    }

    fn free_pages(&self) -> Option<u64> {
        None
    }

    fn anonymous_memory(&self, info: &mut [u8; 24]) -> Result<(), Errno> {
        let machine = &*self.call();
        // `struct anoninfo`: `ani_max`, `ani_free`, `ani_resv`, in pages.
        let page = machine.page_size() as u64;
        let (most, reserved) = (swap(machine) / page, machine.charged() as u64 / page);
        for (place, pages) in info.chunks_exact_mut(8).zip([most, most - reserved, reserved]) {
            place.copy_from_slice(&pages.to_ne_bytes());
        }
        Ok(())
    }
}
