//! mseal(2): read in 6.14, mm/mseal.c, mm/vma.h (`can_modify_vma`), mm/madvise.c.

use super::{change, since, whole};
use crate::Errno;
use crate::calls::Seal;
use crate::os::linux::ENOSYS;
use crate::os::unix::ENOMEM;
use crate::sim::Simulated;
use crate::sim::mappings::{Attributes, Mapping};

/// Advice that takes contents away, of memory from no file that the program could not write to
/// itself (`can_modify_vma_madv`).
pub(super) fn is_sealed_from_advice(part: &Mapping) -> bool {
    let attributes = &part.attributes;
    attributes.immutable && attributes.view == 0 && !attributes.writable()
}

// SAFETY: as for `Calls`.
unsafe impl Seal for Simulated {
    unsafe fn seal(&self, address: *mut u8, len: usize) -> Result<(), Errno> {
        let machine = &mut *self.call();
        if machine.settings.version < since::SEALS {
            return Err(ENOSYS);
        }
        let range = whole(machine, address.addr(), len)?;
        machine.own("mseal", &range);
        // `check_mm_seal`: a hole, before anything is sealed.
        if !machine.is_mapped(&range) {
            return Err(ENOMEM);
        }
        for part in machine.mappings.inside(range) {
            let attributes = Attributes { immutable: true, ..part.attributes.clone() };
            change(machine, &part, attributes).map_err(|_| ENOMEM)?;
        }
        Ok(())
    }
}
