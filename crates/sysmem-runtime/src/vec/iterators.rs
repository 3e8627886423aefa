use core::fmt;
use core::iter::FusedIterator;
use core::marker::PhantomData;
use core::mem;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::slice;

use sysmem::{Native, Os, Reservation};

use super::VmVec;

/// The elements of a vector, by value. The memory goes back when the iterator is dropped.
pub struct IntoIter<T, O: Os = Native> {
    start: NonNull<T>,
    left: Range<usize>,
    /// Held, because dropping it returns the memory.
    #[allow(dead_code)]
    reservation: Option<Reservation<O>>,
    elements: PhantomData<T>,
}

// SAFETY: as for the vector.
unsafe impl<T: Send, O: Os + Send> Send for IntoIter<T, O> {}
// SAFETY: as for the vector.
unsafe impl<T: Sync, O: Os> Sync for IntoIter<T, O> {}

impl<T, O: Os> IntoIter<T, O> {
    /// The elements that are left.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: those are initialized and were not handed out.
        unsafe { slice::from_raw_parts(self.start.as_ptr().add(self.left.start), self.left.len()) }
    }
}

impl<T, O: Os> Iterator for IntoIter<T, O> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        let index = self.left.next()?;
        // SAFETY: an element, counted out.
        Some(unsafe { self.start.as_ptr().add(index).read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl<T, O: Os> DoubleEndedIterator for IntoIter<T, O> {
    fn next_back(&mut self) -> Option<T> {
        let index = self.left.next_back()?;
        // SAFETY: an element, counted out.
        Some(unsafe { self.start.as_ptr().add(index).read() })
    }
}

impl<T, O: Os> ExactSizeIterator for IntoIter<T, O> {}
impl<T, O: Os> FusedIterator for IntoIter<T, O> {}

impl<T, O: Os> Drop for IntoIter<T, O> {
    fn drop(&mut self) {
        let left = mem::replace(&mut self.left, 0..0);
        // SAFETY: those are initialized, were not handed out, and never will be.
        unsafe {
            let first = self.start.as_ptr().add(left.start);
            ptr::drop_in_place(ptr::slice_from_raw_parts_mut(first, left.len()));
        }
    }
}

impl<T: fmt::Debug, O: Os> fmt::Debug for IntoIter<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntoIter").field(&self.as_slice()).finish()
    }
}

impl<T, O: Os> IntoIterator for VmVec<T, O> {
    type Item = T;
    type IntoIter = IntoIter<T, O>;

    fn into_iter(self) -> IntoIter<T, O> {
        let (start, len, reservation) = self.into_parts();
        IntoIter { start, left: 0..len, reservation, elements: PhantomData }
    }
}

/// The elements of a range of a vector, by value: made by [`VmVec::drain`].
///
/// If it is forgotten, the vector forgets the elements from the beginning of the range on.
pub struct Drain<'a, T, O: Os = Native> {
    vector: &'a mut VmVec<T, O>,
    /// What is left of the range.
    left: Range<usize>,
    /// What lies behind the range.
    tail: Range<usize>,
}

impl<'a, T, O: Os> Drain<'a, T, O> {
    /// `from..end` lies inside the vector.
    pub(super) fn new(vector: &'a mut VmVec<T, O>, from: usize, end: usize) -> Drain<'a, T, O> {
        let tail = end..vector.len;
        vector.len = from;
        Drain { vector, left: from..end, tail }
    }
}

impl<T, O: Os> Iterator for Drain<'_, T, O> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        let index = self.left.next()?;
        // SAFETY: an element of the range, counted out.
        Some(unsafe { self.vector.start.as_ptr().add(index).read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl<T, O: Os> DoubleEndedIterator for Drain<'_, T, O> {
    fn next_back(&mut self) -> Option<T> {
        let index = self.left.next_back()?;
        // SAFETY: an element of the range, counted out.
        Some(unsafe { self.vector.start.as_ptr().add(index).read() })
    }
}

impl<T, O: Os> ExactSizeIterator for Drain<'_, T, O> {}
impl<T, O: Os> FusedIterator for Drain<'_, T, O> {}

impl<T, O: Os> Drop for Drain<'_, T, O> {
    fn drop(&mut self) {
        /// Closes the gap, even if dropping an element panics.
        struct Close<'b, 'a, T, O: Os>(&'b mut Drain<'a, T, O>);
        impl<T, O: Os> Drop for Close<'_, '_, T, O> {
            fn drop(&mut self) {
                let Drain { vector, tail, .. } = &mut *self.0;
                let start = vector.start.as_ptr();
                // SAFETY: the tail moves down to the end of what stayed.
                unsafe { ptr::copy(start.add(tail.start), start.add(vector.len), tail.len()) };
                vector.len += tail.len();
                vector.settle();
            }
        }
        let left = mem::replace(&mut self.left, 0..0);
        let close = Close(self);
        // SAFETY: elements of the range that were not handed out, and never will be.
        unsafe {
            let first = close.0.vector.start.as_ptr().add(left.start);
            ptr::drop_in_place(ptr::slice_from_raw_parts_mut(first, left.len()));
        }
    }
}
