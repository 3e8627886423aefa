//! More free pages: mapping more of a reservation, and making reservations.
//!
//! Address space is limited too (`ulimit -v`), so a reservation is made when there is no room in
//! the others, the first of 4 MiB, each twice as long as the one before up to 32 MiB, and half as
//! long where the system refuses, down to what is needed. A reservation is mapped from its start
//! in steps of a huge page: writable mappings are limited too (`ulimit -d` on Linux since 4.7).

use sysmem::{Error, ErrorKind, Os, Reservation, ReserveOptions};

use crate::heap::{PageHeap, Pages};
use crate::region::Region;

/// The first reservation in bytes.
const FIRST: usize = 4 << 20;

/// The longest reservation for all in bytes. A longer run has one of its own.
pub(crate) const LONGEST: usize = 32 << 20;

/// What is mapped at once on systems without huge pages.
const MAP_STEP: usize = 2 << 20;

impl<O: Os + Clone> PageHeap<O> {
    /// The size of a huge page, if reservations are long enough to hold some.
    fn huge_page_size(&self) -> Option<usize> {
        self.os.huge_page_size().filter(|&size| size <= LONGEST)
    }

    /// The pages to map at once.
    pub(crate) fn map_step(&self) -> usize {
        let step = self.huge_page_size().unwrap_or(MAP_STEP);
        (step >> self.page_shift()).max(1)
    }
}

impl<O: Os + Clone> Pages<O> {
    /// Makes room for a run that fits nowhere; returns the region and the first page.
    #[cold]
    pub(crate) fn grow(
        &mut self,
        heap: &PageHeap<O>,
        npages: usize,
        align_pages: usize,
    ) -> Result<(usize, usize), Error> {
        self.counts.grows += 1;
        let (step, huge_pages) = (heap.map_step(), heap.options.huge_pages);
        let mut refused = None;
        for (index, region) in self.regions.iter_mut().enumerate() {
            let mapped = region.pages.mapped();
            if mapped == region.pages.npages() {
                continue;
            }
            let from = mapped - region.pages.tail();
            let room = region.pages.npages() - from;
            if let Some(first) = region.alignment(align_pages).place(from, room, npages) {
                match region.map(first + npages, step, huge_pages) {
                    Ok(()) => return Ok((index, first)),
                    Err(error) => refused = Some(error),
                }
            }
        }
        // A new reservation would have to be mapped too, and all of the run.
        if let Some(error) = refused {
            return Err(error);
        }
        let index = self.add_region(heap, npages, align_pages)?;
        match self.regions[index].map(npages, step, huge_pages) {
            Ok(()) => Ok((index, 0)),
            Err(error) => {
                self.return_region(index);
                Err(error)
            }
        }
    }

    /// Reserves address space that begins where such a run may and holds it.
    fn add_region(
        &mut self,
        heap: &PageHeap<O>,
        npages: usize,
        align_pages: usize,
    ) -> Result<usize, Error> {
        let (os, account, shift) = (&heap.os, &heap.accounts.metadata, heap.page_shift());
        let needed = npages << shift;
        let dedicated = needed > LONGEST;
        let huge = heap.huge_page_size().unwrap_or(1);
        let mut len = match self.next_reservation {
            _ if dedicated => needed,
            0 => FIRST.max(needed.next_multiple_of(huge)),
            next => next.max(needed.next_multiple_of(huge)),
        };
        let align = align_pages << shift;
        let mut align_to = if len >= huge { align.max(huge) } else { align };
        self.regions.make_room(1 + self.departing, &mut self.metadata, os, account)?;
        let reservation = loop {
            let options = ReserveOptions::new(len).align(align_to);
            let error = match Reservation::reserve_in(os.clone(), options, &heap.accounts.heap) {
                Ok(reservation) => break reservation,
                Err(error) => error,
            };
            if !matches!(error.kind(), ErrorKind::OutOfMemory { .. }) {
                return Err(error);
            }
            if len > needed {
                len = (len >> 1 >> shift << shift).max(needed);
            } else if align_to > align {
                align_to = align;
            } else if !self.return_free_regions() {
                return Err(error);
            }
        };
        let metadata = &mut self.metadata;
        let region = Region::new(reservation, dedicated, shift, metadata, account)?;
        self.counts.reservations += 1;
        if !dedicated {
            self.next_reservation = (len * 2).min(LONGEST);
        }
        Ok(self.regions.insert(region))
    }

    /// Returns every reservation that is wholly free; whether there was one.
    fn return_free_regions(&mut self) -> bool {
        let mut returned = false;
        for index in (0..self.regions.len()).rev() {
            returned |= self.regions[index].pages.busy() == 0 && self.return_region(index);
        }
        returned
    }

    /// Returns a wholly free reservation, unless the system refuses.
    fn return_region(&mut self, index: usize) -> bool {
        let region = self.take_region_out(index);
        // SAFETY: the region is out of the list: nobody else reaches its reservation.
        let returned = unsafe { region.return_reservation() };
        self.finish_return(region, returned)
    }

    /// Takes a wholly free region out of the list, to be returned.
    pub(crate) fn take_region_out(&mut self, index: usize) -> Region<O> {
        let region = self.regions.remove(index);
        self.idle -= region.pages.idle();
        self.departing += 1;
        region
    }

    /// Ends a region that was returned, or enters it again.
    pub(crate) fn finish_return(&mut self, region: Region<O>, returned: bool) -> bool {
        self.departing -= 1;
        if returned {
            self.counts.returned_reservations += 1;
            region.dispose(&mut self.metadata);
        } else {
            self.idle += region.pages.idle();
            self.regions.insert(region);
        }
        returned
    }
}
