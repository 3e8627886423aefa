//! Sections of the paging file and their views: read in Microsoft's reference (CreateFileMapping,
//! MapViewOfFileEx, UnmapViewOfFile, VirtualAlloc) and seen under Wine 8. The errors are those of the
//! NTSTATUS that ReactOS has for each (`NtMapViewOfSection`, `MiMapViewOfDataSection`); Wine has the
//! same for views that are too long (dlls/ntdll/unix/virtual.c).
//!
//! A section is made with `SEC_RESERVE`: none of its pages is committed. Committing pages through one
//! view commits them for all, and is charged once.

use std::ops::Range;
use std::vec::Vec;

use super::{GRANULARITY, charge, pages, reservation};
use crate::Errno;
use crate::calls::Sections;
use crate::os::unix::{PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::os::windows::{
    ERROR_CALL_NOT_IMPLEMENTED, ERROR_INVALID_ADDRESS, ERROR_NOT_ENOUGH_MEMORY, FILE_MAP_EXECUTE,
    FILE_MAP_READ, FILE_MAP_WRITE,
};
use crate::sim::machine::Machine;
use crate::sim::mappings::{Attributes, Mapping};
use crate::sim::unix::protection;
use crate::sim::{Simulated, Windows};
use crate::{Protection, os::unix::bits};

const ERROR_ACCESS_DENIED: Errno = Errno(5);
const ERROR_INVALID_HANDLE: Errno = Errno(6);
const ERROR_INVALID_PARAMETER: Errno = Errno(87);
const ERROR_MAPPED_ALIGNMENT: Errno = Errno(1132);

// SAFETY: as for `Calls`.
unsafe impl Sections for Simulated<Windows> {
    fn create_section(&self, len: usize) -> Result<usize, Errno> {
        // Where the simulator has none.
        let section = self.call().create_object(len).ok_or(ERROR_CALL_NOT_IMPLEMENTED)?;
        Ok(section as usize)
    }

    fn close_section(&self, section: usize) {
        let machine = &mut *self.machine();
        machine.views.close(section as i32);
        machine.views.forget_unseen();
    }

    fn map_section(
        &self,
        section: usize,
        offset: usize,
        len: usize,
        address: *mut u8,
        access: u32,
    ) -> Result<*mut u8, Errno> {
        let machine = &mut *self.call();
        let section = section as i32;
        // STATUS_INVALID_HANDLE.
        let whole = machine.views.len_of(section).ok_or(ERROR_INVALID_HANDLE)?;
        // STATUS_MAPPED_ALIGNMENT.
        if offset % GRANULARITY != 0 || address.addr() % GRANULARITY != 0 {
            return Err(ERROR_MAPPED_ALIGNMENT);
        }
        let len = pages(machine, 0, len)?.len();
        // STATUS_INVALID_VIEW_SIZE.
        if offset.checked_add(len).is_none_or(|end| end > whole) {
            return Err(ERROR_ACCESS_DENIED);
        }
        // STATUS_NO_MEMORY.
        let start = match address.addr() {
            0 => machine.place(len, GRANULARITY).ok_or(ERROR_NOT_ENOUGH_MEMORY)?,
            address => address,
        };
        let range = start..start + len;
        // STATUS_CONFLICTING_ADDRESSES.
        if !machine.can_map(&range) {
            return Err(ERROR_INVALID_ADDRESS);
        }
        let allows = |bit: u32, allows: i32| if access & bit != 0 { allows } else { 0 };
        let maximum = allows(FILE_MAP_READ, PROT_READ)
            | allows(FILE_MAP_WRITE, PROT_READ | PROT_WRITE)
            | allows(FILE_MAP_EXECUTE, PROT_EXEC);
        let object = machine.object();
        let attributes = Attributes { maximum, object, ..Attributes::new(Protection::NoAccess) };
        machine.map_object(range, attributes, section, offset);
        // What other views have committed shows at once.
        let committed = machine.views.committed(section).inside(offset..offset + len);
        committed.into_iter().for_each(|pages| show(machine, section, &pages));
        Ok(machine.pointer(start))
    }
}

/// Shows committed pages of a section in all of its views that do not show them yet, with what the
/// view was mapped with.
fn show(machine: &mut Machine, section: i32, pages: &Range<usize>) {
    for range in machine.views.places(section, pages) {
        for part in machine.mappings.inside(range) {
            if !part.attributes.charged {
                let protection = protection(part.attributes.maximum);
                let attributes = part.attributes.clone();
                machine.alter(&part, Attributes { protection, charged: true, ..attributes });
            }
        }
    }
}

/// `VirtualAlloc` with MEM_COMMIT of parts of a view.
pub(super) fn commit(
    machine: &mut Machine,
    range: Range<usize>,
    parts: &[Mapping],
    allows: Protection,
) -> Result<*mut u8, Errno> {
    may_have(parts, allows)?;
    let fresh: Vec<_> = parts.iter().filter(|part| !part.attributes.charged).cloned().collect();
    charge(machine, fresh.iter().map(Mapping::len).sum())?;
    for part in &fresh {
        for (_, section, offset) in machine.views.inside(&(part.start..part.end)) {
            let pages = offset..offset + part.len();
            machine.views.commit(section, pages.clone());
            show(machine, section, &pages);
        }
        // What was committed before keeps its protection.
        for part in machine.mappings.inside(part.start..part.end) {
            let attributes = part.attributes.clone();
            machine.alter(&part, Attributes { protection: allows, ..attributes });
        }
    }
    Ok(machine.pointer(range.start))
}

/// STATUS_SECTION_PROTECTION: more than the view was mapped with.
pub(super) fn may_have(parts: &[Mapping], allows: Protection) -> Result<(), Errno> {
    let refused =
        |part: &Mapping| part.attributes.view != 0 && bits(allows) & !part.attributes.maximum != 0;
    if parts.iter().any(refused) { Err(ERROR_INVALID_PARAMETER) } else { Ok(()) }
}

/// `UnmapViewOfFile`: STATUS_NOT_MAPPED_VIEW where none begins.
pub(super) fn unmap(machine: &mut Machine, address: usize) -> Result<(), Errno> {
    let is_view = machine.mappings.at(address).is_some_and(|part| part.attributes.view != 0);
    let whole = reservation(machine, address).filter(|whole| is_view && whole.start == address);
    let whole = whole.ok_or(ERROR_INVALID_ADDRESS)?;
    machine.own("UnmapViewOfFile", &whole);
    machine.unmap(whole);
    machine.views.forget_unseen();
    Ok(())
}
