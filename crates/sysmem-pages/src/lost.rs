//! Reservations that are lost.
//!
//! Where memory is given back by a fixed mapping, a refusal can leave a hole that another thread of the
//! process may take at once; where the hole cannot be taken again, the reservation is
//! [`Lost`](ErrorKind::Lost), and refuses every later call. Only the range of the failed call may be
//! another's. So pages in use stay with their owners, and when they are freed they are handed out
//! again as long as that takes no call. Everything else is out of the heap for good: free pages at
//! once, freed ones when they would be given back.

use sysmem::{Error, ErrorKind, Os};

use crate::pages::{Pages, parts};
use crate::standing::WHOLE;

/// Whether an error says that a reservation is lost.
pub(crate) fn is_loss(error: &Error) -> bool {
    error.kind() == ErrorKind::Lost
}

impl<O: Os + Clone> Pages<O> {
    /// After a call on a region that failed: if its reservation is lost, no free page of it will be
    /// handed out any more.
    #[cold]
    pub(crate) fn note_refusal(&mut self, index: usize, error: &Error) {
        let region = &mut self.regions[index];
        if !is_loss(error) || region.lost {
            return;
        }
        region.lost = true;
        region.end = region.mapped;
        let (first, mapped) = (region.first, region.mapped - region.first);
        let unmapped = region.npages - mapped;
        self.reserved -= unmapped;
        self.lost += unmapped;
        self.lose_free_pages(first, mapped);
    }

    /// Takes free pages of a huge page out of the heap that lie in a region whose reservation is lost.
    pub(crate) fn lose_freed(&mut self, index: usize, number: usize) {
        let region = &self.regions[index];
        let first = region.first.max(number * WHOLE);
        let end = region.mapped.min((number + 1) * WHOLE);
        self.lose_free_pages(first, end - first);
    }

    fn lose_free_pages(&mut self, first: usize, npages: usize) {
        for (block, at, len) in parts(first, npages) {
            let unmapped = self.tree.change(block, |block| block.unmap(at, len));
            let (free, idle) = unmapped.unwrap_or_default();
            self.idle -= idle;
            self.lose(free);
        }
    }

    /// Counts mapped pages as lost that are not free.
    pub(crate) fn lose(&mut self, npages: usize) {
        self.mapped -= npages;
        self.reserved -= npages;
        self.lost += npages;
    }
}
