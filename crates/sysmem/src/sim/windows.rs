//! The rules of Windows. None was seen but under Wine 8: they are read in Microsoft's reference
//! (memoryapi.h: VirtualAlloc, VirtualAlloc2, VirtualFree, VirtualProtect, VirtualQuery, VirtualLock;
//! "Large-Page Support"), the NTSTATUS of what is refused in ReactOS (ntoskrnl/mm/ARM3/virtual.c of
//! 0.4.15: `NtAllocateVirtualMemory`, `NtFreeVirtualMemory`, `MiProtectVirtualMemory`, `NtLockVirtualMemory`), and what that
//! becomes in Microsoft's table "Mapping NT Status Error Codes to Win32 Error Codes".
//!
//! What one call reserved has a number of its own, so that nothing spans two. Committed pages are
//! `charged`; pages that are only reserved allow nothing and are not.

mod sections;

use std::ops::Range;
use std::vec::Vec;

use super::machine::Machine;
use super::mappings::{Attributes, Mapping};
use super::settings::Overcommit;
use super::signals::{Signal, Stray};
use super::{Simulated, System};
use crate::calls::{
    AddressRequirements, Kernel, LargePages, Region, VirtualMemory, WorkingSetPage,
};
use crate::os::windows::large_pages::{
    ERROR_INVALID_PARAMETER, ERROR_NOT_ALL_ASSIGNED, ERROR_PRIVILEGE_NOT_HELD, MEM_LARGE_PAGES,
};
use crate::os::windows::{
    ERROR_COMMITMENT_LIMIT, ERROR_INVALID_ADDRESS, ERROR_NOT_ENOUGH_MEMORY, MEM_COMMIT,
    MEM_DECOMMIT, MEM_RELEASE, MEM_RESERVE, MEM_RESET, PAGE_EXECUTE_READ, PAGE_NOACCESS,
    PAGE_READONLY, PAGE_READWRITE,
};
use crate::{Errno, Protection};

/// The rules of Windows.
#[derive(Clone, Copy, Debug)]
pub struct Windows;

/// `dwAllocationGranularity` of SYSTEM_INFO.
const GRANULARITY: usize = 64 << 10;
const MEM_TOP_DOWN: u32 = 0x10_0000;
const ERROR_NOT_LOCKED: Errno = Errno(158);
const ERROR_NOACCESS: Errno = Errno(998);
const ERROR_WORKING_SET_QUOTA: Errno = Errno(1453);
/// The first version with VirtualAlloc2: Windows 10 1803.
const ALLOC_2: (u32, u32) = (10, 1803);
/// The end of the addresses of programs: "Memory Limits for Windows and Windows Server Releases",
/// 128 TiB since Windows 8.1, less what the system keeps of it.
const END: usize = 0x7fff_ffff_0000;

fn protection(constant: u32) -> Result<Protection, Errno> {
    match constant {
        PAGE_NOACCESS => Ok(Protection::NoAccess),
        PAGE_READONLY => Ok(Protection::ReadOnly),
        PAGE_READWRITE => Ok(Protection::ReadWrite),
        PAGE_EXECUTE_READ => Ok(Protection::ReadExecute),
        // STATUS_INVALID_PAGE_PROTECTION.
        _ => Err(ERROR_INVALID_PARAMETER),
    }
}

/// The pages that have a byte of a range in them; a range is not empty and ends below [`END`].
fn pages(machine: &Machine, address: usize, len: usize) -> Result<Range<usize>, Errno> {
    let end = address.checked_add(len).filter(|&end| len != 0 && end <= END);
    let end = end.and_then(|end| machine.round_up(end)).ok_or(ERROR_INVALID_PARAMETER)?;
    Ok(address & !(machine.page_size() - 1)..end)
}

/// What was reserved by one call together with an address.
fn reservation(machine: &Machine, address: usize) -> Option<Range<usize>> {
    let object = machine.mappings.at(address)?.attributes.object;
    let mut parts = machine.mappings.iter().filter(|part| part.attributes.object == object);
    let first = parts.next()?;
    Some(first.start..parts.last().map_or(first.end, |last| last.end))
}

/// The parts of a range that lies in one reservation; STATUS_CONFLICTING_ADDRESSES or
/// STATUS_MEMORY_NOT_ALLOCATED if it does not.
fn parts(machine: &Machine, range: &Range<usize>) -> Result<Vec<Mapping>, Errno> {
    match reservation(machine, range.start) {
        Some(whole) if range.end <= whole.end => Ok(machine.mappings.inside(range.clone())),
        _ => Err(ERROR_INVALID_ADDRESS),
    }
}

/// Whether all of the parts are committed; STATUS_NOT_COMMITTED if not.
fn committed(parts: &[Mapping]) -> Result<(), Errno> {
    let all = parts.iter().all(|part| part.attributes.charged);
    if all { Ok(()) } else { Err(ERROR_INVALID_ADDRESS) }
}

/// Bytes that can be committed together: memory and paging files.
fn commit_limit(machine: &Machine) -> u64 {
    match machine.settings.overcommit {
        Overcommit::Never { limit } => limit,
        Overcommit::Heuristic { memory } => memory,
        Overcommit::Always => u64::MAX,
    }
}

/// STATUS_COMMITMENT_LIMIT, before anything is changed.
fn charge(machine: &Machine, more: usize) -> Result<(), Errno> {
    let fits = (machine.charged() + more) as u64 <= commit_limit(machine);
    if fits { Ok(()) } else { Err(ERROR_COMMITMENT_LIMIT) }
}

/// Reserves, and commits with it if there is something to allow.
fn reserve(
    machine: &mut Machine,
    range: Range<usize>,
    commit: Option<Protection>,
) -> Result<*mut u8, Errno> {
    if commit.is_some() {
        charge(machine, range.len())?;
    }
    let mut attributes = Attributes::new(commit.unwrap_or(Protection::NoAccess));
    attributes.charged = commit.is_some();
    attributes.object = machine.object();
    machine.map(range.clone(), attributes);
    Ok(machine.pointer(range.start))
}

/// Whether the privilege to lock memory is switched on.
fn may_lock_memory(machine: &Machine) -> bool {
    machine.settings.lock_memory_privilege && machine.may_lock_memory
}

/// `VirtualAlloc`.
fn alloc(
    machine: &mut Machine,
    address: usize,
    len: usize,
    kind: u32,
    constant: u32,
) -> Result<*mut u8, Errno> {
    let allows = protection(constant)?;
    let large = kind & MEM_LARGE_PAGES != 0;
    let kind = kind & !(MEM_TOP_DOWN | MEM_LARGE_PAGES);
    // "Large-Page Support": with MEM_RESERVE and MEM_COMMIT, in whole large pages, with the
    // privilege SeLockMemoryPrivilege.
    let size = machine.settings.huge_page_size.filter(|_| large);
    if large {
        let whole = size.is_some_and(|size| (address | len) & (size - 1) == 0);
        if !whole || kind != MEM_RESERVE | MEM_COMMIT {
            return Err(ERROR_INVALID_PARAMETER);
        }
        if !may_lock_memory(machine) {
            return Err(ERROR_PRIVILEGE_NOT_HELD);
        }
    }
    match kind {
        // To commit at no address is to reserve, too.
        _ if kind == MEM_RESERVE
            || kind == MEM_RESERVE | MEM_COMMIT
            || kind == MEM_COMMIT && address == 0 =>
        {
            // The address is rounded down to the granularity, or is the system's to choose.
            let range = match address {
                0 => {
                    let len = pages(machine, 0, len)?.len();
                    let align = size.unwrap_or(GRANULARITY);
                    let start = machine.place(len, align).ok_or(ERROR_NOT_ENOUGH_MEMORY)?;
                    start..start + len
                }
                _ => address & !(GRANULARITY - 1)..pages(machine, address, len)?.end,
            };
            // STATUS_CONFLICTING_ADDRESSES: something is reserved there.
            if !machine.can_map(&range) {
                return Err(ERROR_INVALID_ADDRESS);
            }
            let start = reserve(machine, range.clone(), (kind != MEM_RESERVE).then_some(allows))?;
            if large {
                // Never paged: as if locked.
                for part in machine.mappings.inside(range) {
                    let attributes = part.attributes.clone();
                    machine
                        .alter(&part, Attributes { locked: true, huge: Some(true), ..attributes });
                }
            }
            Ok(start)
        }
        MEM_COMMIT => {
            let range = pages(machine, address, len)?;
            let parts = parts(machine, &range)?;
            machine.own("VirtualAlloc", &range);
            if parts.iter().any(|part| part.attributes.view != 0) {
                return sections::commit(machine, range, &parts, allows);
            }
            // What is committed already is not charged again, and keeps its contents.
            let more = parts.iter().filter(|part| !part.attributes.charged).map(Mapping::len);
            charge(machine, more.sum())?;
            for part in parts {
                let attributes = part.attributes.clone();
                let charged = Attributes { protection: allows, charged: true, ..attributes };
                machine.alter(&part, charged);
            }
            Ok(machine.pointer(range.start))
        }
        MEM_RESET => {
            // Whatever the pages allow, they must be committed: taken from `VirtualProtect`, and not
            // verified. The reference does not say; ReactOS does nothing, with any page of a
            // reservation.
            let range = pages(machine, address, len)?;
            let parts = parts(machine, &range)?;
            // Of a view, what is not committed is passed over (seen under Wine 8).
            let is_view = parts.iter().any(|part| part.attributes.view != 0);
            if !is_view {
                committed(&parts)?;
            }
            machine.own("VirtualAlloc", &range);
            for part in parts.iter().filter(|part| !part.attributes.locked) {
                // Of a view, whatever it may become, it becomes at once.
                match part.attributes.view {
                    0 => machine.discard_lazily(part),
                    _ => machine.discard(part),
                }
            }
            Ok(machine.pointer(range.start))
        }
        // No kind, or kinds that go with no other.
        _ => Err(ERROR_INVALID_PARAMETER),
    }
}

/// `VirtualFree`.
fn free(machine: &mut Machine, address: usize, len: usize, kind: u32) -> Result<(), Errno> {
    let whole = reservation(machine, address);
    // STATUS_UNABLE_TO_DELETE_SECTION.
    if machine.mappings.at(address).is_some_and(|part| part.attributes.view != 0) {
        return Err(ERROR_INVALID_PARAMETER);
    }
    match kind {
        MEM_RELEASE => {
            // The length must be zero, and the address what VirtualAlloc returned.
            if len != 0 {
                return Err(ERROR_INVALID_PARAMETER);
            }
            let whole = whole.filter(|whole| whole.start == address);
            let whole = whole.ok_or(ERROR_INVALID_ADDRESS)?;
            machine.own("VirtualFree", &whole);
            machine.unmap(whole.clone());
            // Another thread may reserve the place at once.
            if machine.settings.rival && machine.random.once_in(3) {
                let rival = Attributes::new(Protection::NoAccess);
                machine.map(whole, Attributes { foreign: true, ..rival });
            }
            Ok(())
        }
        MEM_DECOMMIT => {
            // A length of zero means all of it, if the address is its beginning.
            let range = match (len, whole) {
                (0, Some(whole)) if whole.start == address => whole,
                // STATUS_FREE_VM_NOT_AT_BASE.
                (0, _) => return Err(ERROR_INVALID_ADDRESS),
                // STATUS_UNABLE_TO_FREE_VM: it runs on past what was reserved.
                (_, Some(whole)) if pages(machine, address, len)?.end > whole.end => {
                    return Err(ERROR_INVALID_PARAMETER);
                }
                _ => pages(machine, address, len)?,
            };
            let parts = parts(machine, &range)?;
            // Large pages (`VadLargePages`): STATUS_MEMORY_NOT_ALLOCATED.
            if parts.iter().any(|part| part.attributes.huge == Some(true)) {
                return Err(ERROR_INVALID_ADDRESS);
            }
            machine.own("VirtualFree", &range);
            // What is not committed is no error; what is, is charged no more.
            for part in parts {
                let object = part.attributes.object;
                let attributes = Attributes { object, ..Attributes::new(Protection::NoAccess) };
                machine.replace(part.start..part.end, |_| Ok(attributes))?;
            }
            Ok(())
        }
        _ => Err(ERROR_INVALID_PARAMETER),
    }
}

impl System for Windows {
    const KERNEL: Kernel = Kernel::Windows;

    fn lock(machine: &mut Machine, address: usize, len: usize, locked: bool) -> Result<(), Errno> {
        // ReactOS, `MiLockVirtualMemory`: every page is read; what is not reserved, not committed or
        // allows nothing is STATUS_ACCESS_VIOLATION.
        let range = pages(machine, address, len)?;
        let parts = machine.mappings.inside(range.clone());
        let mapped = machine.is_mapped(&range);
        let all = |is: fn(&Attributes) -> bool| parts.iter().all(|part| is(&part.attributes));
        let readable = mapped && all(|part| part.protection != Protection::NoAccess);
        if locked && !readable {
            return Err(ERROR_NOACCESS);
        }
        // `MiUnlockVirtualMemory`: STATUS_NOT_LOCKED, and nothing is unlocked. (Such pages are taken out
        // of the working set besides.)
        if !(locked || mapped && all(|part| part.locked)) {
            return Err(ERROR_NOT_LOCKED);
        }
        // "… is equal to the number of pages in its minimum working set minus a small overhead."
        let total = machine.mappings.totals().locked + range.len();
        if locked && total as u64 > machine.settings.locked_limit {
            return Err(ERROR_WORKING_SET_QUOTA);
        }
        for part in parts {
            machine.alter(&part, Attributes { locked, ..part.attributes.clone() });
        }
        Ok(())
    }

    fn signal(_stray: Stray) -> Option<Signal> {
        // Exceptions, which are handed to handlers in the process.
        None
    }
}

// SAFETY: as for `Calls`.
unsafe impl VirtualMemory for Simulated<Windows> {
    fn allocation_granularity(&self) -> usize {
        GRANULARITY
    }

    unsafe fn virtual_alloc(
        &self,
        address: *mut u8,
        len: usize,
        kind: u32,
        protection: u32,
    ) -> Result<*mut u8, Errno> {
        alloc(&mut self.call(), address.addr(), len, kind, protection)
    }

    fn reserve_where(
        &self,
        requirements: AddressRequirements,
        len: usize,
    ) -> Option<Result<*mut u8, Errno>> {
        let machine = &mut *self.call();
        if machine.settings.version < ALLOC_2 {
            return None;
        }
        let AddressRequirements { lowest, align } = requirements;
        // MEM_ADDRESS_REQUIREMENTS: zero, or a power of two no less than the granularity.
        let valid = align == 0 || align.is_power_of_two() && align >= GRANULARITY;
        if !valid || lowest % GRANULARITY != 0 {
            return Some(Err(ERROR_INVALID_PARAMETER));
        }
        let align = align.max(GRANULARITY);
        Some(pages(machine, 0, len).and_then(|range| {
            let place = match lowest {
                0 => machine.place(range.len(), align),
                lowest => machine.place_above(lowest, range.len(), align),
            };
            let start = place.ok_or(ERROR_NOT_ENOUGH_MEMORY)?;
            reserve(machine, start..start + range.len(), None)
        }))
    }

    unsafe fn virtual_free(&self, address: *mut u8, len: usize, kind: u32) -> Result<(), Errno> {
        free(&mut self.call(), address.addr(), len, kind)
    }

    unsafe fn unmap_view(&self, address: *mut u8) -> Result<(), Errno> {
        sections::unmap(&mut self.call(), address.addr())
    }

    unsafe fn virtual_protect(
        &self,
        address: *mut u8,
        len: usize,
        constant: u32,
    ) -> Result<(), Errno> {
        let machine = &mut *self.call();
        let protection = protection(constant)?;
        let range = pages(machine, address.addr(), len)?;
        // Within one reservation, of committed pages only; or nothing is changed.
        let parts = parts(machine, &range)?;
        committed(&parts)?;
        sections::may_have(&parts, protection)?;
        machine.own("VirtualProtect", &range);
        for part in parts {
            machine.alter(&part, Attributes { protection, ..part.attributes.clone() });
        }
        Ok(())
    }

    fn virtual_query(&self, address: usize) -> Option<Region> {
        let machine = &*self.call();
        let space = machine.space();
        let start = address & !(machine.page_size() - 1);
        // Outside the space of the process, all is taken.
        let (end, free) = match machine.mappings.at(start) {
            _ if start >= END => return None,
            _ if start < space.start => (space.start, false),
            _ if start >= space.end => (END, false),
            Some(mapping) => (mapping.end, false),
            None => {
                let gap = machine.mappings.gaps(start..space.end).into_iter().next()?;
                (gap.end, true)
            }
        };
        Some(Region { start, len: end - start, free })
    }

    fn working_set(&self, told: &mut [WorkingSetPage]) -> Result<(), Errno> {
        let machine = &*self.call();
        let page = machine.page_size();
        for told in told {
            let start = told.address & !(page - 1);
            let resident = machine.resident_pages(start..start + page).contains(&start);
            let mapping = machine.mappings.at(start);
            // QueryWorkingSetEx: what allows nothing is in no working set.
            let open = |mapping: &&Mapping| mapping.attributes.protection != Protection::NoAccess;
            let large = mapping.is_some_and(|mapping| mapping.attributes.huge == Some(true));
            told.attributes = match mapping.filter(open) {
                Some(_) if resident => 1 | usize::from(large) << 23,
                _ => 0,
            };
        }
        Ok(())
    }

    fn commit_limit(&self) -> Option<u64> {
        Some(commit_limit(&self.call()))
    }
}

impl LargePages for Simulated<Windows> {
    fn large_page_size(&self) -> usize {
        self.call().settings.huge_page_size.unwrap_or(0)
    }

    fn lock_memory_privilege(&self) -> Option<bool> {
        Some(may_lock_memory(&self.call()))
    }

    fn switch_lock_memory_privilege(&self, on: bool) -> Result<(), Errno> {
        let machine = &mut *self.call();
        // "… cannot add new privileges to the access token. It can only enable or disable the token's
        // existing privileges" (AdjustTokenPrivileges), which are disabled at first.
        if !machine.settings.lock_memory_privilege {
            return Err(ERROR_NOT_ALL_ASSIGNED);
        }
        machine.may_lock_memory = on;
        Ok(())
    }
}
