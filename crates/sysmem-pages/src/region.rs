//! One reservation and its pages, and the list of all of them.

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use sysmem::{Account, Error, Os, Protection, Reservation};

use crate::metadata::Metadata;
use crate::options::HugePages;
use crate::page_map::{Alignment, PageMap};

/// One reservation and its pages. Runs never cross from one to another, though they may touch:
/// some systems take no call that spans two reservations.
pub(crate) struct Region<O: Os> {
    pub(crate) pages: PageMap,
    /// The first address.
    pub(crate) start: usize,
    /// Lies in a piece of metadata of its own, so that calls to the system can use it outside the
    /// lock while the list of regions changes.
    reservation: NonNull<Reservation<O>>,
    /// Made for one run that is longer than any reservation for all: other runs come here only
    /// when there is room nowhere else, and it is returned when it is free.
    pub(crate) dedicated: bool,
    /// log2 of the page size.
    shift: u32,
}

impl<O: Os + Clone> Region<O> {
    /// A region over a reservation none of which is mapped. On failure the reservation is
    /// returned.
    pub(crate) fn new(
        reservation: Reservation<O>,
        dedicated: bool,
        shift: u32,
        metadata: &mut Metadata<O>,
        account: &'static Account,
    ) -> Result<Region<O>, Error> {
        let npages = reservation.len() >> shift;
        let start = reservation.as_mut_ptr().addr();
        let nchunks = PageMap::chunks_for(npages);
        let os = reservation.os();
        let place = metadata.take(1, os, account)?;
        let pages = metadata.take(nchunks, os, account).and_then(|summaries| {
            let chunks = metadata.take(nchunks, os, account).inspect_err(|_| {
                // SAFETY: just taken.
                unsafe { metadata.give(summaries, nchunks) }
            })?;
            // SAFETY: as many as needed, zero, and this region's alone until `dispose`.
            Ok(unsafe { PageMap::new(npages, summaries, chunks) })
        });
        let pages = pages.inspect_err(|_| {
            // SAFETY: just taken.
            unsafe { metadata.give::<Reservation<O>>(place, 1) }
        })?;
        // SAFETY: room for one reservation.
        unsafe { place.write(reservation) };
        Ok(Region { pages, start, reservation: place, dedicated, shift })
    }

    /// The reservation. It stays where it is as long as the region is in the list.
    pub(crate) fn reservation(&self) -> &Reservation<O> {
        // SAFETY: written by `new`, and nobody makes a mutable reference to it.
        unsafe { self.reservation.as_ref() }
    }

    /// Where the reservation lies.
    pub(crate) fn reservation_ptr(&self) -> NonNull<Reservation<O>> {
        self.reservation
    }

    /// Returns the reservation to the system; whether that succeeded.
    ///
    /// # Safety
    ///
    /// Nobody else has a reference to the reservation, and after success only
    /// [`dispose`](Region::dispose) follows.
    pub(crate) unsafe fn return_reservation(&self) -> bool {
        // SAFETY: written by `new`, and moved out for good only where it is not used again.
        match unsafe { self.reservation.read() }.free() {
            Ok(()) => true,
            Err((reservation, _)) => {
                // SAFETY: its own place.
                unsafe { self.reservation.write(reservation) };
                false
            }
        }
    }

    /// Ends the region, whose reservation was returned.
    pub(crate) fn dispose(self, metadata: &mut Metadata<O>) {
        let nchunks = PageMap::chunks_for(self.pages.npages());
        let (summaries, chunks) = self.pages.storage();
        // SAFETY: `new` took these, and they end with the region.
        unsafe {
            metadata.give(summaries, nchunks);
            metadata.give(chunks, nchunks);
            metadata.give(self.reservation, 1);
        }
    }

    /// A page that is a multiple of `npages`, a power of two, in memory.
    #[inline]
    pub(crate) fn alignment(&self, npages: usize) -> Alignment {
        Alignment { npages, offset: self.start >> self.shift & (npages - 1) }
    }

    /// The page at an offset of bytes.
    #[inline]
    pub(crate) fn page_of(&self, address: usize) -> usize {
        (address - self.start) >> self.shift
    }

    /// The address of a page.
    #[inline]
    pub(crate) fn address_of(&self, page: usize) -> *mut u8 {
        self.reservation().as_mut_ptr().wrapping_add(page << self.shift)
    }

    /// Prepared → Ready for every page of a free range that is not backed.
    #[inline]
    pub(crate) fn back(&mut self, first: usize, npages: usize) -> Result<(), Error> {
        while let Some((at, len)) = self.pages.unbacked(first, npages) {
            // SAFETY: the pages are free, so nobody works on them: the caller holds the lock.
            unsafe { self.reservation().used_shared(at << self.shift, len << self.shift) }?;
            self.pages.back(at, len);
        }
        Ok(())
    }

    /// Reserved → Prepared up to `end` at least, in steps of `step` pages if the system agrees.
    pub(crate) fn map(
        &mut self,
        end: usize,
        step: usize,
        huge_pages: HugePages,
    ) -> Result<(), Error> {
        let from = self.pages.mapped();
        if end <= from {
            return Ok(());
        }
        // Large steps keep calls rare, and end where huge pages do.
        let wide = end.next_multiple_of(step).min(self.pages.npages());
        let map = |end: usize| {
            let (offset, len) = (from << self.shift, (end - from) << self.shift);
            // SAFETY: the pages were never mapped, so nobody works on them.
            unsafe { self.reservation().map_shared(offset, len, Protection::ReadWrite) }
        };
        let end = match map(wide) {
            Err(_) if end < wide => map(end).map(|()| end)?,
            answer => answer.map(|()| wide)?,
        };
        if huge_pages == HugePages::Advise {
            if let Some(huge) = self.reservation().os().huge_page_size() {
                let first = (self.start + (from << self.shift)).next_multiple_of(huge);
                let last = (self.start + (end << self.shift)) & !(huge - 1);
                if first < last {
                    // Advice: where it is refused, pages are as they would be without.
                    let _ = self.reservation().huge_page(first - self.start, last - first);
                }
            }
        }
        self.pages.map(end);
        Ok(())
    }
}

/// Every region, in the order of their addresses.
pub(crate) struct Regions<O: Os> {
    first: NonNull<Region<O>>,
    len: usize,
    capacity: usize,
}

impl<O: Os> Deref for Regions<O> {
    type Target = [Region<O>];
    #[inline]
    fn deref(&self) -> &[Region<O>] {
        // SAFETY: `len` regions were written from `first` on; an empty list needs no room.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<O: Os> DerefMut for Regions<O> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Region<O>] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<O: Os + Clone> Regions<O> {
    const LEAST: usize = 4;

    pub(crate) const fn new() -> Regions<O> {
        Regions { first: NonNull::dangling(), len: 0, capacity: 0 }
    }

    /// The region that an address lies in.
    #[inline]
    pub(crate) fn find(&self, address: usize) -> Option<usize> {
        let after = self.partition_point(|region| region.start <= address);
        let index = after.checked_sub(1)?;
        let region = &self[index];
        (region.page_of(address) < region.pages.npages()).then_some(index)
    }

    /// Makes sure that `more` calls of [`insert`](Regions::insert) need no memory.
    pub(crate) fn make_room(
        &mut self,
        more: usize,
        metadata: &mut Metadata<O>,
        os: &O,
        account: &'static Account,
    ) -> Result<(), Error> {
        if self.len + more <= self.capacity {
            return Ok(());
        }
        let capacity = (self.len + more).max(Self::LEAST).next_power_of_two();
        let first: NonNull<Region<O>> = metadata.take(capacity, os, account)?;
        // SAFETY: `len` regions move to where there is room for more; the old room is not used
        // any more.
        unsafe {
            first.copy_from_nonoverlapping(self.first, self.len);
            if self.capacity != 0 {
                metadata.give(self.first, self.capacity);
            }
        }
        (self.first, self.capacity) = (first, capacity);
        Ok(())
    }

    /// Enters a region, for which [`make_room`](Regions::make_room) was called.
    pub(crate) fn insert(&mut self, region: Region<O>) -> usize {
        let index = self.partition_point(|other| other.start < region.start);
        assert!(self.len < self.capacity);
        // SAFETY: there is room for one more.
        unsafe {
            let place = self.first.add(index);
            place.add(1).copy_from(place, self.len - index);
            place.write(region);
        }
        self.len += 1;
        index
    }

    /// Takes a region out.
    pub(crate) fn remove(&mut self, index: usize) -> Region<O> {
        assert!(index < self.len);
        self.len -= 1;
        // SAFETY: the region at `index` moves out, those after it move down.
        unsafe {
            let place = self.first.add(index);
            let region = place.read();
            place.copy_from(place.add(1), self.len - index);
            region
        }
    }
}
