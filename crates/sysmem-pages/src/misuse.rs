use core::fmt;

/// Pages that were handed in and cannot be a run of the heap.
///
/// Nothing was changed. Memory is most likely corrupt already: an allocator prints this and aborts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misuse {
    address: usize,
    npages: usize,
    kind: MisuseKind,
}

/// What was wrong with a range that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MisuseKind {
    /// The address does not lie in memory of this heap.
    Foreign,
    /// The address is not that of a page.
    Unaligned,
    /// A page of the range is free.
    AlreadyFree,
    /// The range reaches over the end of what was ever handed out there.
    TooLong,
    /// The range is empty, or a run was to become longer by shrinking or shorter by extending.
    Length,
}

impl Misuse {
    pub(crate) fn new(address: usize, npages: usize, kind: MisuseKind) -> Misuse {
        Misuse { address, npages, kind }
    }

    /// The address that was handed in.
    pub fn address(&self) -> usize {
        self.address
    }

    /// The number of pages that was handed in.
    pub fn npages(&self) -> usize {
        self.npages
    }

    /// What was wrong.
    pub fn kind(&self) -> MisuseKind {
        self.kind
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages at {:#x} are no run: ", self.npages, self.address)?;
        f.write_str(match self.kind {
            MisuseKind::Foreign => "the address is not in this heap",
            MisuseKind::Unaligned => "the address is not that of a page",
            MisuseKind::AlreadyFree => "a page is already free (freed twice?)",
            MisuseKind::TooLong => "they reach over the end of what was handed out there",
            MisuseKind::Length => "a run cannot become as long as this",
        })
    }
}

impl core::error::Error for Misuse {}
