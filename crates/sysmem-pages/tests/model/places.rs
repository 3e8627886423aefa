//! Where a run should come from.

use super::pages::is_backed;
use super::*;

/// The lengths of free runs that the heap tells apart.
const LENGTHS: [usize; 32] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96,
    112, 128, 160, 192, 224, 256,
];

impl<S: System> Model<S> {
    /// Where a run should come from; `None` if it fits nowhere, or where several rules meet.
    pub(super) fn best_place(&self, npages: usize, align: usize) -> Option<usize> {
        let align_pages = align / self.page_size;
        match npages {
            ..=16 if align_pages == 1 => self.best_short(npages, 1),
            ..=WHOLE if align_pages <= WHOLE => None,
            _ => self.first_long(npages, align_pages),
        }
    }

    /// The first place in the huge page whose longest free run is the shortest that suffices. Among
    /// equals the fullest by eighths; rather an intact one than a broken one; of the free ones rather
    /// one with memory; and the first of those.
    fn best_short(&self, npages: usize, step: usize) -> Option<usize> {
        let mut best = None;
        for (number, pages) in self.blocks() {
            let (mut run, mut longest) = (0, 0);
            let mut place = None;
            for (index, &(at, page)) in pages.iter().enumerate() {
                let follows = index > 0 && pages[index - 1].0 + 1 == at;
                run = match page {
                    Page::Free { .. } if follows => run + 1,
                    Page::Free { .. } => 1,
                    _ => 0,
                };
                longest = longest.max(run);
                if place.is_none() && run >= npages {
                    place = Some(at + 1 - npages).filter(|place| place % step == 0);
                }
            }
            let in_use = pages.iter().filter(|page| page.1 == Page::InUse).count();
            let backed = pages.iter().any(|page| is_backed(page.1));
            let rank = match in_use {
                0 if longest < WHOLE => (0, false),
                0 => (0, backed),
                _ => (1 + (in_use - 1) / 32, !self.broken.contains(&number)),
            };
            let class = LENGTHS.partition_point(|&length| length <= longest);
            let rank = (usize::MAX - class, rank);
            if let Some(place) = place.filter(|_| best.is_none_or(|(than, _)| rank > than)) {
                best = Some((rank, number * WHOLE + place));
            }
        }
        best.map(|(_, page)| page * self.page_size)
    }

    /// The first wholly free huge pages that such a run touches.
    fn first_long(&self, npages: usize, align_pages: usize) -> Option<usize> {
        let slack = align_pages.max(WHOLE) - WHOLE;
        for (start, pages) in &self.regions {
            let first = start / self.page_size;
            let is_free = |page: &Page| matches!(page, Page::Free { .. });
            for from in (first.next_multiple_of(WHOLE)..first + pages.len()).step_by(WHOLE) {
                let free = pages[from - first..].iter().take_while(|page| is_free(page)).count();
                if free >= npages.next_multiple_of(WHOLE) + slack {
                    return Some(from.next_multiple_of(align_pages.max(WHOLE)) * self.page_size);
                }
            }
        }
        None
    }
}
