//! Taking elements out of the middle.

use core::mem;
use core::ops::{Bound, Range, RangeBounds};
use core::ptr::{self, NonNull};

use sysmem::Os;

use super::{Drain, VmVec};

impl<T, O: Os> VmVec<T, O> {
    /// Keeps the elements that `keep` says yes to, in their order, and drops the others.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.retain_mut(|element| keep(element));
    }

    /// As [`retain`](VmVec::retain), with elements that may be changed while they are looked at.
    pub fn retain_mut(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        let len = mem::take(&mut self.len);
        // However it ends, what was not looked at is kept and moves down over the gap.
        let mut sieve = Sieve { vector: self, len, seen: 0, kept: 0 };
        while sieve.seen < len {
            let start = sieve.vector.start.as_ptr();
            // SAFETY: not looked at yet, so it is there.
            let element = unsafe { &mut *start.add(sieve.seen) };
            if keep(element) {
                // SAFETY: moves down into the gap, or onto itself.
                unsafe { ptr::copy(start.add(sieve.seen), start.add(sieve.kept), 1) };
                (sieve.seen, sieve.kept) = (sieve.seen + 1, sieve.kept + 1);
            } else {
                sieve.seen += 1;
                // SAFETY: counted out above, so that it is dropped once even if that panics.
                unsafe { ptr::drop_in_place(element) };
            }
        }
    }

    /// Drops each element that equals the one before it.
    pub fn dedup(&mut self)
    where
        T: PartialEq,
    {
        self.dedup_by(|element, before| element == before);
    }

    /// Drops each element whose key equals that of the one before it.
    pub fn dedup_by_key<K: PartialEq>(&mut self, mut key: impl FnMut(&mut T) -> K) {
        self.dedup_by(|element, before| key(element) == key(before));
    }

    /// Drops each element that `same` calls the same as the one before it, which it is given
    /// second.
    pub fn dedup_by(&mut self, mut same: impl FnMut(&mut T, &mut T) -> bool) {
        let mut last: Option<NonNull<T>> = None;
        let start = self.start;
        let mut index = 0;
        self.retain_mut(|element| {
            // SAFETY: `last` is where the last element that was kept moved to, below this one.
            if last.is_some_and(|mut last| same(element, unsafe { last.as_mut() })) {
                return false;
            }
            // SAFETY: the place this element will have: fewer were kept than looked at.
            last = Some(unsafe { start.add(index) });
            index += 1;
            true
        });
    }

    /// Takes the elements of a range out, and moves those behind them down when the iterator is
    /// dropped.
    ///
    /// # Panics
    ///
    /// If the range begins after it ends, or ends after the last element.
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> Drain<'_, T, O> {
        let Range { start, end } = self.range(range);
        Drain::new(self, start, end)
    }

    /// The bounds of a range, which lies inside.
    pub(super) fn range(&self, range: impl RangeBounds<usize>) -> Range<usize> {
        let from = match range.start_bound() {
            Bound::Included(&from) => from,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        assert!(
            from <= end && end <= self.len,
            "{from}..{end} of a vector of {} elements",
            self.len
        );
        from..end
    }
}

/// A vector in the middle of [`retain_mut`](VmVec::retain_mut).
struct Sieve<'a, T, O: Os> {
    vector: &'a mut VmVec<T, O>,
    len: usize,
    seen: usize,
    kept: usize,
}

impl<T, O: Os> Drop for Sieve<'_, T, O> {
    fn drop(&mut self) {
        let rest = self.len - self.seen;
        let start = self.vector.start.as_ptr();
        // SAFETY: what was not looked at moves down behind what was kept.
        unsafe { ptr::copy(start.add(self.seen), start.add(self.kept), rest) };
        self.vector.len = self.kept + rest;
        self.vector.settle();
    }
}
