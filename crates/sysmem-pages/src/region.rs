//! One reservation, and the list of all of them.

use core::ops::{Deref, DerefMut, Range};
use core::ptr::NonNull;

use sysmem::{Account, Error, Os, Protection, Reservation, State};

use crate::metadata::Metadata;
use crate::standing::WHOLE;

/// One reservation. Pages are numbered by address; runs never cross from one reservation to
/// another, though they may touch: some systems take no call that spans two.
pub(crate) struct Region<O: Os> {
    /// The first page.
    pub(crate) start: usize,
    pub(crate) npages: usize,
    /// The first page that can be mapped, and the page after the last: all, but for pages that keep
    /// two reservations apart that meet inside a huge page.
    pub(crate) first: usize,
    pub(crate) end: usize,
    /// The page after the last that is mapped.
    pub(crate) mapped: usize,
    /// Whether what is not mapped is room for one run to grow into.
    pub(crate) kept: bool,
    /// The reservation refuses every call, because the system lost a part of it.
    pub(crate) lost: bool,
    /// Lies in a piece of metadata of its own, so that calls to the system can use it outside the
    /// lock while the list of regions changes.
    reservation: NonNull<Reservation<O>>,
    /// log2 of the page size.
    shift: u32,
}

impl<O: Os + Clone> Region<O> {
    /// A region over a reservation none of which is mapped. On failure the reservation is
    /// returned.
    pub(crate) fn new(
        reservation: Reservation<O>,
        kept: bool,
        shift: u32,
        metadata: &mut Metadata<O>,
        account: &'static Account,
    ) -> Result<Region<O>, Error> {
        let (start, npages) =
            (reservation.as_mut_ptr().expose_provenance() >> shift, reservation.len() >> shift);
        let place = metadata.take(1, reservation.os(), account)?;
        // SAFETY: room for one reservation.
        unsafe { place.write(reservation) };
        Ok(Region {
            start,
            npages,
            first: start,
            end: start + npages,
            mapped: start,
            kept,
            lost: false,
            reservation: place,
            shift,
        })
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

    /// Ends the region, whose reservation was returned.
    pub(crate) fn dispose(self, metadata: &mut Metadata<O>) {
        // SAFETY: `new` took it, and it ends with the region.
        unsafe { metadata.give(self.reservation, 1) };
    }

    /// How far a page is from the start of the reservation, in bytes.
    #[inline]
    pub(crate) fn offset_of(&self, page: usize) -> usize {
        (page - self.start) << self.shift
    }

    /// The page at an offset.
    pub(crate) fn page_at(&self, offset: usize) -> usize {
        self.start + (offset >> self.shift)
    }

    /// The bytes from one offset to another that are in a state.
    pub(crate) fn bytes_in(&self, state: State, mut at: usize, end: usize) -> u64 {
        let mut bytes = 0;
        while let Some((found, _, to)) = self.reservation().state(at).filter(|_| at < end) {
            let to = to.min(end);
            bytes += if found == state { (to - at) as u64 } else { 0 };
            at = to;
        }
        bytes
    }

    /// Whether pages are left that can be mapped.
    pub(crate) fn has_room(&self) -> bool {
        self.mapped < self.end
    }

    pub(crate) fn contains(&self, page: usize) -> bool {
        page.wrapping_sub(self.start) < self.npages
    }

    /// Reserved → Prepared up to `end` at least, up to `wide` if the system agrees, and huge pages if
    /// that is wanted. Returns the page up to which is mapped now, and the huge pages of the heap that
    /// are to be the system's. The caller notes it.
    pub(crate) fn map(
        &self,
        end: usize,
        wide: usize,
        advises: bool,
    ) -> Result<(usize, Range<usize>), Error> {
        let from = self.mapped;
        let map = |end: usize| {
            let (offset, len) = (self.offset_of(from), (end - from) << self.shift);
            // SAFETY: the pages were never mapped, so nobody works on them.
            unsafe { self.reservation().map_shared(offset, len, Protection::ReadWrite) }
        };
        let end = match map(wide) {
            Err(_) if end < wide => map(end).map(|()| end)?,
            answer => answer.map(|()| wide)?,
        };
        let huge = self.reservation().os().huge_page_size().filter(|_| advises);
        let Some(huge) = huge.map(|huge| (huge >> self.shift).max(WHOLE)) else {
            return Ok((end, 0..0));
        };
        let (first, last) = (from.next_multiple_of(huge), end / huge * huge);
        if first >= last {
            return Ok((end, 0..0));
        }
        // Advice: where it is refused, pages are as they would be without.
        let told =
            self.reservation().huge_page(self.offset_of(first), (last - first) << self.shift);
        Ok((end, if told.is_ok() { first / WHOLE..last / WHOLE } else { 0..0 }))
    }
}

/// Returns a reservation to the system; whether that succeeded.
///
/// # Safety
///
/// Nobody else has a reference to the reservation, and after success it is not used any more.
pub(crate) unsafe fn return_reservation<O: Os>(reservation: NonNull<Reservation<O>>) -> bool {
    // SAFETY: the caller's promise; moved out for good only where it is not used again.
    match unsafe { reservation.read() }.free() {
        Ok(()) => true,
        Err((kept, _)) => {
            // SAFETY: its own place.
            unsafe { reservation.write(kept) };
            false
        }
    }
}

/// Every region, in the order of their addresses.
pub(crate) struct Regions<O: Os> {
    list: NonNull<Region<O>>,
    len: usize,
    capacity: usize,
}

impl<O: Os> Deref for Regions<O> {
    type Target = [Region<O>];
    #[inline]
    fn deref(&self) -> &[Region<O>] {
        // SAFETY: `len` regions were written; an empty list needs no room.
        unsafe { core::slice::from_raw_parts(self.list.as_ptr(), self.len) }
    }
}

impl<O: Os> DerefMut for Regions<O> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Region<O>] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(self.list.as_ptr(), self.len) }
    }
}

impl<O: Os + Clone> Regions<O> {
    const LEAST: usize = 4;

    pub(crate) const fn new() -> Regions<O> {
        Regions { list: NonNull::dangling(), len: 0, capacity: 0 }
    }

    /// The region that a page lies in.
    #[inline]
    pub(crate) fn find(&self, page: usize) -> Option<usize> {
        let after = self.partition_point(|region| region.start <= page);
        let index = after.checked_sub(1)?;
        self[index].contains(page).then_some(index)
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
        let list: NonNull<Region<O>> = metadata.take(capacity, os, account)?;
        // SAFETY: `len` regions move to where there is room for more; the old room is not used
        // any more.
        unsafe {
            list.copy_from_nonoverlapping(self.list, self.len);
            if self.capacity != 0 {
                metadata.give(self.list, self.capacity);
            }
        }
        (self.list, self.capacity) = (list, capacity);
        Ok(())
    }

    /// Enters a region, for which [`make_room`](Regions::make_room) was called.
    pub(crate) fn insert(&mut self, region: Region<O>) -> usize {
        let index = self.partition_point(|other| other.start < region.start);
        assert!(self.len < self.capacity);
        // SAFETY: there is room for one more.
        unsafe {
            let place = self.list.add(index);
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
            let place = self.list.add(index);
            let region = place.read();
            place.copy_from(place.add(1), self.len - index);
            region
        }
    }
}
