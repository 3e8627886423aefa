//! Memory: committed as a vector grows, given back as it shrinks.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr;

use sysmem::{Account, Error, ErrorKind, Operation, Os, Protection, Reservation, ReserveOptions};

use super::VmVec;

/// The least that is committed at once, and that a vector keeps when it shrinks, in bytes. A
/// commit costs about as much as the first touch of two pages.
const LEAST_STEP: usize = 64 << 10;

/// The most that is committed at once, in bytes: where the system charges promises, a vector
/// holds at most this much of them without need.
const MOST_STEP: usize = 64 << 20;

/// The memory for the elements of a vector.
pub(super) struct Room<T, O: Os> {
    /// Elements that there is Ready memory for.
    pub(super) committed: usize,
    /// Elements that there is address space for.
    pub(super) capacity: usize,
    /// Bytes from the beginning that are not Reserved: those of the committed elements, rounded
    /// up to a page, and what the system refused to take back.
    mapped: usize,
    /// `None` where no memory is needed.
    pub(super) reservation: Option<Reservation<O>>,
    elements: PhantomData<T>,
}

impl<T, O: Os> Room<T, O> {
    const ZERO_SIZED: bool = size_of::<T>() == 0;

    /// Address space for `capacity` elements.
    // Inline, so that the compiler sees that nothing is committed.
    #[inline]
    pub(super) fn reserve(
        os: O,
        capacity: usize,
        account: &'static Account,
    ) -> Result<Room<T, O>, Error> {
        let without_memory = |elements| Room {
            committed: elements,
            capacity: elements,
            mapped: 0,
            reservation: None,
            elements: PhantomData,
        };
        if Self::ZERO_SIZED {
            return Ok(without_memory(usize::MAX));
        }
        if capacity == 0 {
            return Ok(without_memory(0));
        }
        let reservation = Some(Self::reserve_space(os, capacity, account)?);
        Ok(Room { capacity, reservation, ..without_memory(0) })
    }

    fn reserve_space(
        os: O,
        capacity: usize,
        account: &'static Account,
    ) -> Result<Reservation<O>, Error> {
        let len = capacity
            .checked_mul(size_of::<T>())
            .and_then(|len| len.checked_next_multiple_of(os.page_size()))
            // The most that pointers of one allocation may be apart.
            .filter(|&len| len <= isize::MAX as usize)
            .ok_or(Error::new(Operation::Reserve, 0, usize::MAX, ErrorKind::TooLong))?;
        let options = ReserveOptions::new(len).align(align_of::<T>());
        Reservation::reserve_in(os, options, account)
    }

    /// Commits memory for `additional` more elements than `len`, and for some after them.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, len: usize, additional: usize) -> Result<(), Error> {
        let needed = len.checked_add(additional).filter(|&needed| needed <= self.capacity);
        let (Some(needed), Some(reservation)) = (needed, &mut self.reservation) else {
            let wanted = len.saturating_add(additional).saturating_mul(size_of::<T>());
            let bytes = self.capacity.saturating_mul(size_of::<T>());
            let kind = ErrorKind::OutOfBounds { len: bytes };
            return Err(Error::new(Operation::Map, 0, wanted, kind));
        };
        let page_size = reservation.os().page_size();
        let from = (self.committed * size_of::<T>()).next_multiple_of(page_size);
        if from < self.mapped {
            // What the system refused to take back may be in any state: it is given back before
            // it is used again.
            reservation.fault(from, self.mapped - from)?;
            self.mapped = from;
        }
        let least = (needed * size_of::<T>()).next_multiple_of(page_size);
        let step = (least / 2).clamp(LEAST_STEP, MOST_STEP).next_multiple_of(page_size);
        let mut end = least.saturating_add(step).min(reservation.len());
        while let Err(error) = reservation.map(from, end - from, Protection::ReadWrite) {
            if end == least {
                return Err(error);
            }
            end = least + (((end - least) / 2) & !(page_size - 1));
        }
        self.mapped = end;
        reservation.used(from, end - from)?;
        self.committed = (end / size_of::<T>()).min(self.capacity);
        Ok(())
    }

    /// Gives back what lies behind the memory of `keep` elements.
    fn shrink(&mut self, keep: usize) -> Result<(), Error> {
        let Some(reservation) = &mut self.reservation else { return Ok(()) };
        let page_size = reservation.os().page_size();
        let from = (keep.min(self.capacity) * size_of::<T>()).next_multiple_of(page_size);
        if from >= self.mapped {
            return Ok(());
        }
        // Even if the system refuses half way: nothing beyond is used before `grow`.
        self.committed = (from / size_of::<T>()).min(self.capacity);
        reservation.fault(from, self.mapped - from)?;
        self.mapped = from;
        Ok(())
    }

    /// Shrinks after the vector became much shorter than what is committed.
    #[cold]
    #[inline(never)]
    fn settle(&mut self, len: usize) {
        if self.committed * size_of::<T>() > 4 * LEAST_STEP {
            let keep = len + len / 4 + LEAST_STEP / size_of::<T>();
            // A system that refuses to take memory back leaves it in use: nothing is lost.
            let _ = self.shrink(keep);
        }
    }
}

impl<T, O: Os> VmVec<T, O> {
    /// Commits memory for `additional` more elements, so that pushing them cannot fail.
    #[inline]
    pub fn reserve(&mut self, additional: usize) -> Result<(), Error> {
        if self.room.committed - self.len >= additional { Ok(()) } else { self.grow(additional) }
    }

    /// Gives back the memory that no element lies in, all of it.
    pub fn shrink_to_fit(&mut self) -> Result<(), Error> {
        self.shrink_to(0)
    }

    /// Gives back the memory beyond that of the elements and of `committed` elements.
    pub fn shrink_to(&mut self, committed: usize) -> Result<(), Error> {
        let keep = self.len.max(committed);
        self.with_room(|room| room.shrink(keep))
    }

    /// Commits memory for `additional` more elements, and for some after them.
    #[inline]
    pub(super) fn grow(&mut self, additional: usize) -> Result<(), Error> {
        let len = self.len;
        self.with_room(|room| room.grow(len, additional))
    }

    /// Gives memory back after the vector became shorter, if it became much shorter: growing
    /// commits half as much again, so a length that goes to and fro by a quarter asks the system for
    /// nothing.
    #[inline]
    pub(super) fn settle(&mut self) {
        let len = self.len;
        if size_of::<T>() != 0 && self.room.committed / 2 > len {
            self.with_room(|room| room.settle(len));
        }
    }

    /// Works on a copy of the room, which then takes its place.
    ///
    /// If no function is ever given the vector's own address, it can live in registers: in a loop
    /// that pushes, the length goes to memory only when the loop ends, where `Vec` writes it for
    /// each element.
    #[inline]
    fn with_room<R>(&mut self, work: impl FnOnce(&mut Room<T, O>) -> R) -> R {
        // SAFETY: the copy takes the place of the original, and neither is dropped here. (If the
        // work panicked, which no system does, memory would be lost.)
        let mut room = ManuallyDrop::new(unsafe { ptr::read(&*self.room) });
        let result = work(&mut room);
        self.room = room;
        result
    }
}

/// Gives memory back once elements were dropped, even if dropping one of them panicked.
pub(super) struct SettleOnDrop<'a, T, O: Os>(pub(super) &'a mut VmVec<T, O>);

impl<T, O: Os> Drop for SettleOnDrop<'_, T, O> {
    fn drop(&mut self) {
        self.0.settle();
    }
}
