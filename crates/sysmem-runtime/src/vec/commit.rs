//! Memory: committed as a vector grows, given back as it shrinks.

use sysmem::{Error, ErrorKind, Operation, Os, Protection};

use super::VmVec;

/// The least that is committed at once, and that a vector keeps when it shrinks, in bytes. A
/// commit costs about as much as the first touch of two pages.
const LEAST_STEP: usize = 64 << 10;

/// The most that is committed at once, in bytes: where the system charges promises, a vector
/// holds at most this much of them without need.
const MOST_STEP: usize = 64 << 20;

impl<T, O: Os> VmVec<T, O> {
    /// Commits memory for `additional` more elements, so that pushing them cannot fail.
    pub fn reserve(&mut self, additional: usize) -> Result<(), Error> {
        if self.committed - self.len >= additional { Ok(()) } else { self.grow(additional) }
    }

    /// Gives back the memory that no element lies in, all of it.
    pub fn shrink_to_fit(&mut self) -> Result<(), Error> {
        self.decommit(self.len)
    }

    /// Gives back the memory beyond that of the elements and of `committed` elements.
    pub fn shrink_to(&mut self, committed: usize) -> Result<(), Error> {
        self.decommit(self.len.max(committed))
    }

    /// Commits memory for `additional` more elements, and for some after them.
    #[cold]
    #[inline(never)]
    pub(super) fn grow(&mut self, additional: usize) -> Result<(), Error> {
        let (len, capacity) = (self.len, self.capacity);
        let full = || {
            let wanted = len.saturating_add(additional).saturating_mul(size_of::<T>());
            let bytes = capacity.saturating_mul(size_of::<T>());
            Error::new(Operation::Map, 0, wanted, ErrorKind::OutOfBounds { len: bytes })
        };
        let needed = len.checked_add(additional).filter(|&needed| needed <= capacity);
        let (Some(needed), Some(reservation)) = (needed, &mut self.reservation) else {
            return Err(full());
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

    /// Gives memory back after the vector became shorter, if it became much shorter: growing
    /// commits half as much again, so a length that goes to and fro by a quarter asks the system for
    /// nothing.
    #[inline]
    pub(super) fn settle(&mut self) {
        if !Self::ZERO_SIZED && self.committed / 2 > self.len {
            self.settle_slow();
        }
    }

    #[cold]
    #[inline(never)]
    fn settle_slow(&mut self) {
        if self.committed * size_of::<T>() > 4 * LEAST_STEP {
            let keep = self.len + self.len / 4 + LEAST_STEP / size_of::<T>();
            // A system that refuses to take memory back leaves it in use: nothing is lost.
            let _ = self.decommit(keep);
        }
    }

    /// Gives back what lies behind the memory of `keep` elements.
    fn decommit(&mut self, keep: usize) -> Result<(), Error> {
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
}

/// Gives memory back once elements were dropped, even if dropping one of them panicked.
pub(super) struct SettleOnDrop<'a, T, O: Os>(pub(super) &'a mut VmVec<T, O>);

impl<T, O: Os> Drop for SettleOnDrop<'_, T, O> {
    fn drop(&mut self) {
        self.0.settle();
    }
}
