//! What only some systems do, each a trait of its own that an [`Os`] may have.

mod barrier;
mod elsewhere;

use core::fmt;
use core::ptr::{self, NonNull};

pub use barrier::ThreadBarrier;

use crate::os::{BatchError, ReserveOptions};
use crate::{Error, ErrorKind, Operation, Os, PageRange, Protection};

/// How a guard is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GuardMechanism {
    /// A mark in the page table: `MADV_GUARD_INSTALL` (Linux 6.13). The mapping stays whole.
    Marker,
    /// Pages that allow nothing: `PROT_NONE` (everywhere). Splits the mapping in up to three.
    NoAccess,
}

impl GuardMechanism {
    /// What takes such a guard away besides removing it, when somebody does it to the address
    /// behind the owner's back.
    pub const fn destroyed_by(self) -> &'static str {
        match self {
            // madvise(2), MADV_GUARD_INSTALL: "survives ... fork, mprotect, DONTNEED, FREE".
            GuardMechanism::Marker => "munmap, mmap with MAP_FIXED, and MADV_WIPEONFORK in a child",
            GuardMechanism::NoAccess => "mprotect, munmap and mmap with MAP_FIXED",
        }
    }
}

impl fmt::Display for GuardMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GuardMechanism::Marker => "MADV_GUARD_INSTALL",
            GuardMechanism::NoAccess => "PROT_NONE",
        })
    }
}

/// Ranges of one length that begin at equal distances, such as the lowest pages of the stacks of a
/// pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRow {
    /// The first range.
    pub first: PageRange,
    /// From the beginning of one range to that of the next, in bytes: no less than a range is long.
    pub stride: usize,
    /// How many there are.
    pub count: usize,
}

impl PageRow {
    /// The range of that number, from zero on.
    pub fn range(&self, index: usize) -> PageRange {
        PageRange::new(self.first.start.wrapping_add(index * self.stride), self.first.len)
    }
}

/// A system that can put guards into Ready memory.
///
/// # Safety
///
/// Every access to a guard faults until it is removed.
pub unsafe trait Guards: Os {
    /// Makes every access to the range fault, by the cheapest means the system has; its contents
    /// are forfeit. On failure the range is as it was, but for its contents.
    ///
    /// # Safety
    ///
    /// The range is Ready and the caller's; nothing relies on its contents or accesses it.
    unsafe fn install_guard(&self, range: PageRange) -> Result<GuardMechanism, Error>;

    /// Makes the range Ready again with `protection`; zeroed on Linux, else with contents that are
    /// unspecified.
    ///
    /// # Safety
    ///
    /// The range is a guard of this mechanism, in memory that had this protection.
    unsafe fn remove_guard(
        &self,
        range: PageRange,
        protection: Protection,
        mechanism: GuardMechanism,
    ) -> Result<(), Error>;

    /// [`install_guard`](Guards::install_guard) for every range of a row, all by one mechanism and
    /// in as few system calls as the system allows. On failure there is none of them, or the memory
    /// is [`Lost`](ErrorKind::Lost).
    ///
    /// # Safety
    ///
    /// As for `install_guard`, for each range; all of them allow `protection`.
    unsafe fn install_guards(
        &self,
        row: PageRow,
        protection: Protection,
    ) -> Result<GuardMechanism, Error> {
        let mut mechanism = GuardMechanism::NoAccess;
        for index in 0..row.count {
            // SAFETY: the caller's promise.
            match unsafe { self.install_guard(row.range(index)) } {
                Ok(found) => mechanism = found,
                Err(error) => {
                    let done = PageRow { count: index, ..row };
                    // SAFETY: those were just installed.
                    return match unsafe { self.remove_guards(done, protection, mechanism) } {
                        Ok(()) => Err(error),
                        Err(stopped) => Err(Error::new(
                            Operation::Guard,
                            stopped.error.address(),
                            stopped.error.len(),
                            ErrorKind::Lost,
                        )),
                    };
                }
            }
        }
        Ok(mechanism)
    }

    /// [`remove_guard`](Guards::remove_guard) for every range of a row, in order and in as few
    /// system calls as the system allows.
    ///
    /// # Safety
    ///
    /// As for `remove_guard`, for each range.
    unsafe fn remove_guards(
        &self,
        row: PageRow,
        protection: Protection,
        mechanism: GuardMechanism,
    ) -> Result<(), BatchError> {
        for done in 0..row.count {
            // SAFETY: the caller's promise.
            unsafe { self.remove_guard(row.range(done), protection, mechanism) }
                .map_err(|error| BatchError { done, error })?;
        }
        Ok(())
    }
}

/// Memory that can be seen at more than one address. Closed by
/// [`close_object`](MemoryObjects::close_object), not by dropping it.
#[derive(Debug, PartialEq, Eq)]
pub struct MemoryObject {
    /// What the system knows it by: a descriptor, a handle, or the address of its first mapping.
    pub(crate) handle: usize,
    pub(crate) len: usize,
}

impl MemoryObject {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: no object is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A system that may have memory which can be seen at more than one address:
///
/// | System | by |
/// |---|---|
/// | Linux (3.17) | `memfd_create` |
/// | FreeBSD | `shm_open` with `SHM_ANON` |
/// | NetBSD (8.0) | `mremap` with `MAP_REMAPDUP` |
/// | Windows | sections of the paging file |
///
/// A view is a reservation as long as its object. Each page of it is Reserved, or Ready and shows
/// the bytes of the object at the same offset. Windows lets a page that one view shows be seen
/// through those views, too, in which it was never anything but Reserved. What a forked child has are views of the same
/// memory, not of a copy.
///
/// # Safety
///
/// All views of one part of an object show the same bytes.
pub unsafe trait MemoryObjects: Os {
    /// Makes an object of `len` zeroed bytes, none of which is in memory yet.
    fn create_object(&self, len: usize) -> Result<MemoryObject, Error>;

    /// Ends the object. Its memory lives until no view of it is mapped.
    fn close_object(&self, object: MemoryObject);

    /// Gives the memory of a part of the object back; what it holds from then on is unspecified.
    /// `NotSupported` by FreeBSD before 14. On Windows the system takes the memory when it is
    /// wanted, and the commit charge stays.
    ///
    /// # Safety
    ///
    /// Nothing relies on these bytes, and no page of a view shows them.
    unsafe fn discard_object(
        &self,
        object: &MemoryObject,
        offset: usize,
        len: usize,
    ) -> Result<(), Error>;

    /// None → Reserved: address space for a view of the whole of `object`, whose length `options`
    /// say again.
    fn reserve_view(
        &self,
        options: &ReserveOptions,
        object: &MemoryObject,
    ) -> Result<NonNull<u8>, Error>;

    /// Reserved → Ready: shows the bytes of `object` from `offset` on, which is where the range
    /// lies in its view. On failure the range is still Reserved, or
    /// [`Lost`](crate::ErrorKind::Lost). [`Os::fault`] with the policy of the view takes them out
    /// of sight again; the object keeps them.
    ///
    /// # Safety
    ///
    /// The range lies in a view of this object, is Reserved and the caller's.
    unsafe fn map_object(
        &self,
        range: PageRange,
        protection: Protection,
        object: &MemoryObject,
        offset: usize,
    ) -> Result<(), Error>;
}

/// Refuses a part of an object that is not whole pages, or runs past its end.
pub(crate) fn check_part(
    operation: Operation,
    object: &MemoryObject,
    offset: usize,
    len: usize,
    page_size: usize,
) -> Result<(), Error> {
    let range = PageRange::new(ptr::without_provenance_mut(offset), len);
    range.check(operation, page_size)?;
    if offset.checked_add(len).is_none_or(|end| end > object.len) {
        return Err(range.error(operation, ErrorKind::OutOfBounds { len: object.len }));
    }
    Ok(())
}

/// A system on which machine code can be made, in one of the ways that there are: views of an
/// object, memory that each thread switches ([`Source::PerThread`](crate::os::Source::PerThread)),
/// or [`Os::protect`].
pub trait CodeMemory: MemoryObjects {
    /// Lets the calling thread write to all memory that is switched per thread, or execute it. A
    /// thread begins by executing. Nothing where no reservation can have that policy
    /// ([`Os::supports`]).
    fn let_thread_write(&self, writable: bool) {
        let _ = writable;
    }
}

/// A system that may be able to seal mappings: mseal(2), mimmutable(2).
///
/// # Safety
///
/// What is sealed stays mapped with the protection it has.
pub unsafe trait Sealing: Os {
    /// What sealing is called on this system.
    fn sealing_name(&self) -> &'static str;

    /// Makes a range unchangeable until the process ends: neither its protection nor its place
    /// can be changed, by anybody. `NotSupported` where this kernel cannot.
    ///
    /// # Safety
    ///
    /// The range is the caller's, who will not return it.
    unsafe fn seal(&self, range: PageRange) -> Result<(), Error>;
}
