//! A vector that never moves.

use core::fmt;
use core::mem::{self, ManuallyDrop, MaybeUninit};
use core::ops::RangeBounds;
use core::ptr::{self, NonNull};
use core::slice;

use sysmem::{Account, Error, Native, Os, Reservation};

mod iterators;
mod removing;
mod room;
mod traits;

pub use iterators::{Drain, IntoIter};
use room::{Room, SettleOnDrop};

/// What vectors are booked on that name no account of their own.
static VECTORS: Account = Account::new("vectors");

/// A vector that never moves its elements: it reserves address space for all it may ever hold
/// once, commits memory as it grows and gives memory back as it shrinks.
///
/// **Pointers stay valid.** An element stays at its address until it is removed, or shifted by
/// [`insert`](VmVec::insert), [`remove`](VmVec::remove), [`retain`](VmVec::retain) and their kin;
/// pushing never moves anything, nor does moving the vector itself. (References still follow
/// Rust's rules: the borrow checker ends them at the next `push`. It is raw pointers and indices
/// that gain.) The reservation costs address space only: 1 TiB is fine.
///
/// What a system can refuse returns a [`Result`]; an index that is out of bounds panics, as in
/// `Vec`. Elements of size zero take no memory at all.
///
/// ```
/// use sysmem_runtime::VmVec;
///
/// let mut log = VmVec::with_capacity(1 << 30)?;
/// log.push(1u64)?;
/// let first = log.as_ptr();
/// log.extend(2..=100_000)?;
/// assert_eq!(log.as_ptr(), first);
/// assert_eq!(log.iter().sum::<u64>(), 5_000_050_000);
/// # Ok::<(), sysmem::Error>(())
/// ```
pub struct VmVec<T, O: Os = Native> {
    start: NonNull<T>,
    len: usize,
    room: ManuallyDrop<Room<T, O>>,
}

// SAFETY: a vector owns its elements and its reservation, as `Vec` does.
unsafe impl<T: Send, O: Os + Send> Send for VmVec<T, O> {}
// SAFETY: a shared vector gives shared access to its elements, and none to the reservation.
unsafe impl<T: Sync, O: Os> Sync for VmVec<T, O> {}

/// An element that a vector could not take, and why.
pub struct PushError<T> {
    /// The element, given back.
    pub value: T,
    /// Why there was no room for it.
    pub error: Error,
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> core::error::Error for PushError<T> {}

impl<T> From<PushError<T>> for Error {
    fn from(refused: PushError<T>) -> Error {
        refused.error
    }
}

impl<T> VmVec<T> {
    /// An empty vector with address space for `capacity` elements, which is all it will ever
    /// hold. Costs no memory.
    #[inline]
    pub fn with_capacity(capacity: usize) -> Result<VmVec<T>, Error> {
        VmVec::with_capacity_in(Native::NEW, capacity, &VECTORS)
    }
}

impl<T, O: Os> VmVec<T, O> {
    /// An empty vector with address space for `capacity` elements, from `os` and booked on
    /// `account`.
    // Inline, so that the compiler sees that it is empty.
    #[inline]
    pub fn with_capacity_in(
        os: O,
        capacity: usize,
        account: &'static Account,
    ) -> Result<VmVec<T, O>, Error> {
        let room = ManuallyDrop::new(Room::reserve(os, capacity, account)?);
        let start = room.reservation.as_ref().map_or(ptr::null_mut(), Reservation::as_mut_ptr);
        // Where there is no memory, null.
        let start = NonNull::new(start.cast()).unwrap_or(NonNull::dangling());
        Ok(VmVec { start, len: 0, room })
    }

    /// How many elements there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many elements it can ever hold.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.room.capacity
    }

    /// How many elements it can hold without asking the system for memory.
    #[inline]
    pub fn committed(&self) -> usize {
        self.room.committed
    }

    /// The address of the first element, or of where it will be: the same as long as the vector
    /// lives.
    #[inline]
    pub fn as_ptr(&self) -> *const T {
        self.start.as_ptr()
    }

    /// As [`as_ptr`](VmVec::as_ptr), to write through.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.start.as_ptr()
    }

    /// All elements.
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: the first `len` elements are initialized and in Ready memory.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// All elements, to change them.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and the vector is borrowed for it alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The committed room behind the last element. Its contents are unspecified.
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<T>] {
        // SAFETY: Ready memory behind the elements; uninitialized is all it need be.
        unsafe {
            let first = self.start.as_ptr().add(self.len).cast();
            slice::from_raw_parts_mut(first, self.room.committed - self.len)
        }
    }

    /// Says how many elements there are, without making or dropping any.
    ///
    /// # Safety
    ///
    /// `len` is at most [`committed`](VmVec::committed), and the first `len` are initialized.
    pub unsafe fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.room.committed);
        self.len = len;
    }

    /// Appends an element. Fails, and hands it back, where the vector is full or the system has
    /// no memory.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), PushError<T>> {
        let len = self.len;
        if len == self.room.committed {
            if let Err(error) = self.grow(1) {
                return Err(PushError { value, error });
            }
        }
        // SAFETY: there is Ready memory for one more than `len`.
        unsafe { self.start.as_ptr().add(len).write(value) };
        // Not `+= 1`: the compiler cannot know that the element was not written over the length,
        // and would read it back.
        self.len = len + 1;
        Ok(())
    }

    /// Takes the last element.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: it was an element, and is none any more.
        let value = unsafe { self.start.as_ptr().add(self.len).read() };
        self.settle();
        Some(value)
    }

    /// Puts an element before the one at `index` and moves those from there on up by one.
    ///
    /// # Panics
    ///
    /// If `index` is greater than the length.
    pub fn insert(&mut self, index: usize, value: T) -> Result<(), PushError<T>> {
        assert!(index <= self.len, "insert at {index} into a vector of {} elements", self.len);
        if let Err(error) = self.reserve(1) {
            return Err(PushError { value, error });
        }
        // SAFETY: `index` is inside, and there is room for one more.
        unsafe {
            let place = self.start.as_ptr().add(index);
            ptr::copy(place, place.add(1), self.len - index);
            place.write(value);
        }
        self.len += 1;
        Ok(())
    }

    /// Takes the element at `index` and moves those behind it down by one.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn remove(&mut self, index: usize) -> T {
        assert!(index < self.len, "remove {index} from a vector of {} elements", self.len);
        self.len -= 1;
        // SAFETY: the element at `index` moves out, those behind it move down.
        let value = unsafe {
            let place = self.start.as_ptr().add(index);
            let value = place.read();
            ptr::copy(place.add(1), place, self.len - index);
            value
        };
        self.settle();
        value
    }

    /// Takes the element at `index` and puts the last one in its place.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn swap_remove(&mut self, index: usize) -> T {
        let last = self.len.wrapping_sub(1);
        self.as_mut_slice().swap(index, last);
        match self.pop() {
            Some(value) => value,
            None => unreachable!("swap has checked the index"),
        }
    }

    /// Drops the elements from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        // Cut off first: an element that panics in drop is not dropped again.
        let tail = ptr::slice_from_raw_parts_mut(
            // SAFETY: inside.
            unsafe { self.start.as_ptr().add(len) },
            self.len - len,
        );
        self.len = len;
        let settled = SettleOnDrop(self);
        // SAFETY: they were elements, and are none any more.
        unsafe { ptr::drop_in_place(tail) };
        drop(settled);
    }

    /// Drops every element.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Appends every element of an iterator, until one finds no room: that one is handed back,
    /// and those before it are in.
    pub fn extend(&mut self, elements: impl IntoIterator<Item = T>) -> Result<(), PushError<T>> {
        for value in elements {
            self.push(value)?;
        }
        Ok(())
    }

    /// Appends clones of the elements of a slice.
    pub fn extend_from_slice(&mut self, elements: &[T]) -> Result<(), Error>
    where
        T: Clone,
    {
        self.reserve(elements.len())?;
        for element in elements {
            let clone = element.clone();
            // SAFETY: there is room for all of them; each counts once it is there.
            unsafe { self.start.as_ptr().add(self.len).write(clone) };
            self.len += 1;
        }
        Ok(())
    }

    /// Appends clones of the elements of a range of this vector.
    ///
    /// # Panics
    ///
    /// If the range begins after it ends, or ends after the last element.
    pub fn extend_from_within(&mut self, range: impl RangeBounds<usize>) -> Result<(), Error>
    where
        T: Clone,
    {
        let range = self.range(range);
        self.reserve(range.len())?;
        for index in range {
            let clone = self[index].clone();
            // SAFETY: there is room for all of them; each counts once it is there.
            unsafe { self.start.as_ptr().add(self.len).write(clone) };
            self.len += 1;
        }
        Ok(())
    }

    /// The elements, for good: neither they nor their memory are ever given back.
    pub fn leak<'a>(self) -> &'a mut [T]
    where
        O: 'a,
    {
        let (start, len, reservation) = self.into_parts();
        core::mem::forget(reservation);
        // SAFETY: initialized, in memory that stays, and nobody else's.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// Moves every element of another vector to the end of this one.
    pub fn append<P: Os>(&mut self, other: &mut VmVec<T, P>) -> Result<(), Error> {
        self.reserve(other.len)?;
        // SAFETY: there is room for all, and the other vector forgets them.
        unsafe {
            let end = self.start.as_ptr().add(self.len);
            ptr::copy_nonoverlapping(other.start.as_ptr(), end, other.len);
        }
        self.len += mem::take(&mut other.len);
        other.settle();
        Ok(())
    }

    /// Makes it `len` elements long, with clones of `value` where it grows.
    pub fn resize(&mut self, len: usize, value: T) -> Result<(), Error>
    where
        T: Clone,
    {
        self.resize_with(len, || value.clone())
    }

    /// Makes it `len` elements long, with what `make` makes where it grows.
    pub fn resize_with(&mut self, len: usize, mut make: impl FnMut() -> T) -> Result<(), Error> {
        self.reserve(len.saturating_sub(self.len))?;
        while self.len < len {
            let value = make();
            // SAFETY: there is room for `len`.
            unsafe { self.start.as_ptr().add(self.len).write(value) };
            self.len += 1;
        }
        self.truncate(len);
        Ok(())
    }

    /// The memory below, to name it, to look at it or to advise the system; `None` where there is
    /// none.
    pub fn reservation(&self) -> Option<&Reservation<O>> {
        self.room.reservation.as_ref()
    }
}

impl<T, O: Os> Drop for VmVec<T, O> {
    fn drop(&mut self) {
        // Returns to the system at the end, even if an element panics.
        // SAFETY: taken once, here.
        let _room = unsafe { ManuallyDrop::take(&mut self.room) };
        // SAFETY: every element is dropped once: the vector ends here.
        unsafe { ptr::drop_in_place(self.as_mut_slice()) };
    }
}

impl<T, O: Os> VmVec<T, O> {
    /// The parts, for an iterator that owns them.
    fn into_parts(self) -> (NonNull<T>, usize, Option<Reservation<O>>) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once; the vector is not used or dropped after this.
        let room = unsafe { ManuallyDrop::take(&mut this.room) };
        (this.start, this.len, room.reservation)
    }
}
