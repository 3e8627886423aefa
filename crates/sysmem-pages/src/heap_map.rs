//! A picture of the heap: one cell for each huge page of address space.

use sysmem::Os;

use crate::bits::PAGES as CHUNK_PAGES;
use crate::heap::{PageHeap, Pages};

/// What the pages of one huge page are: 256 heap pages, or fewer where a reservation ends.
///
/// Laid out as in C, so that cells can be written to a file and drawn by another program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MapCell {
    /// The first address.
    pub address: usize,
    /// Pages that are handed out.
    pub in_use: u16,
    /// Pages that are free, and as far as the heap knows in memory.
    pub free_backed: u16,
    /// Pages without memory: given back, or mapped and not used yet.
    pub given_back: u16,
    /// Pages of address space that were never mapped.
    pub unmapped: u16,
}

impl<O: Os + Clone> PageHeap<O> {
    /// Draws the heap into as many cells as there is room for, in the order of addresses. Returns
    /// how many huge pages the heap has.
    pub fn map(&self, cells: &mut [MapCell]) -> usize {
        self.lock().map(cells, self.page_shift())
    }

    /// [`map`](PageHeap::map) without waiting: `None` while somebody is at work on the heap, who
    /// may be the caller in whose middle a signal handler runs.
    pub fn try_map(&self, cells: &mut [MapCell]) -> Option<usize> {
        Some(self.try_lock()?.map(cells, self.page_shift()))
    }
}

impl<O: Os + Clone> Pages<O> {
    fn map(&self, cells: &mut [MapCell], shift: u32) -> usize {
        let mut count = 0;
        for region in self.regions.iter() {
            for chunk in 0..region.pages.npages().div_ceil(CHUNK_PAGES) {
                if let Some(cell) = cells.get_mut(count) {
                    let counts = region.pages.counts(chunk);
                    let address = region.start + ((chunk * CHUNK_PAGES) << shift);
                    *cell = MapCell { address, ..counts };
                }
                count += 1;
            }
        }
        count
    }
}
