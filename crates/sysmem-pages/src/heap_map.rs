//! A picture of the heap: one cell for each huge page of address space.

use sysmem::{Os, State};

use crate::heap::PageHeap;
use crate::pages::{Pages, parts};
use crate::standing::WHOLE;

/// What the pages of one huge page are: 256 heap pages, or fewer where a reservation begins or ends
/// inside it.
///
/// Laid out as in C, so that cells can be written to a file and drawn by another program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MapCell {
    /// The first address.
    pub address: usize,
    /// Pages that are handed out, or in caches, and in memory.
    pub in_use: u16,
    /// Pages that are free, and as far as the heap knows in memory.
    pub free_backed: u16,
    /// Pages without memory: given back, also by those who have them, or mapped and not used yet. Of
    /// parts of pages that were given back in use, as many as a page count as one, here or in the next
    /// cells, so that the sum of all cells is right to a page.
    pub given_back: u16,
    /// Pages of address space that were never mapped, or are [lost](crate::Statistics::lost).
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
        let mut last = None;
        // Bytes given back in use that are in no cell yet.
        let mut parts_of_pages = 0;
        for region in self.regions.iter() {
            for (number, at, len) in parts(region.start, region.npages) {
                // Reservations may meet inside a huge page.
                count += usize::from(last != Some(number));
                let new = last.replace(number) != Some(number);
                let Some(cell) = cells.get_mut(count - 1) else { continue };
                if new {
                    *cell = MapCell { address: (number * WHOLE) << shift, ..MapCell::default() };
                }
                let block = self.tree.block(number);
                let [in_use, idle, given_back] = block.map_or([0; 3], |block| block.count(at, len));
                let mut gone = 0;
                if let Some(block) = block.filter(|_| self.given_back_in_use > 0) {
                    for (from, len) in block.in_use_runs(at, len) {
                        let first = number * WHOLE + from;
                        let (from, to) = (region.offset_of(first), region.offset_of(first + len));
                        parts_of_pages += region.bytes_in(State::Prepared, from, to);
                    }
                    gone = ((parts_of_pages >> shift) as usize).min(in_use);
                    parts_of_pages -= (gone as u64) << shift;
                }
                cell.in_use += (in_use - gone) as u16;
                cell.free_backed += idle as u16;
                cell.given_back += (given_back + gone) as u16;
                cell.unmapped += (len - in_use - idle - given_back) as u16;
            }
        }
        count
    }
}
