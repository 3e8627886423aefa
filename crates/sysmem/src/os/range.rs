//! Ranges of memory.

use crate::{Error, ErrorKind, Operation};

/// A range of whole pages.
///
/// Laid out like `struct iovec` (readv(2)), so that a slice of ranges can go to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PageRange {
    /// The first byte, a multiple of the page size.
    pub start: *mut u8,
    /// The length in bytes, a multiple of the page size, not zero.
    pub len: usize,
}

// SAFETY: a range is an address and a length; it gives no access by itself.
unsafe impl Send for PageRange {}
// SAFETY: as above.
unsafe impl Sync for PageRange {}

impl PageRange {
    /// The `len` bytes at `start`.
    pub const fn new(start: *mut u8, len: usize) -> PageRange {
        PageRange { start, len }
    }

    /// Refuses what no kernel may be given: ranges that are empty, unaligned or run past the end
    /// of the address space. Kernels disagree about those, and round outward into memory that was
    /// not meant (munmap(2), madvise(2) on every BSD).
    #[inline]
    pub(crate) fn check(self, operation: Operation, page_size: usize) -> Result<(), Error> {
        let address = self.start.addr();
        if (address | self.len) & (page_size - 1) == 0
            && self.len != 0
            && address.checked_add(self.len).is_some()
        {
            return Ok(());
        }
        Err(self.refusal(operation, page_size))
    }

    #[cold]
    fn refusal(self, operation: Operation, page_size: usize) -> Error {
        let address = self.start.addr();
        let kind = if self.len == 0 {
            ErrorKind::Empty
        } else if (address | self.len) & (page_size - 1) != 0 {
            ErrorKind::Unaligned { multiple: page_size }
        } else {
            ErrorKind::TooLong
        };
        Error::new(operation, address, self.len, kind)
    }

    /// An error that `operation` met on this range.
    pub(crate) fn error(self, operation: Operation, kind: ErrorKind) -> Error {
        Error::new(operation, self.start.addr(), self.len, kind)
    }
}
