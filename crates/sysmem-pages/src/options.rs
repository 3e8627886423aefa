use sysmem::GiveBack;

/// How a page heap behaves. Made with [`Options::new`] and changed by the methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Options {
    pub(crate) give_back: GiveBack,
    pub(crate) huge_pages: HugePages,
    pub(crate) release_on_free: ReleaseOnFree,
}

/// What a heap tells the system about huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Nothing: the system's own setting decides.
    System,
    /// Every part of a reservation that can be a huge page should be one, but for those of which a
    /// part was given back: until they are made whole or used anew, the system is told to keep them
    /// small, or it might bring back what was given back.
    Advise,
}

/// When freeing a run gives free memory back by itself: for owners that cannot have a
/// [`Scavenger`](crate::Scavenger), whose first step ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseOnFree {
    /// Never: the owner calls [`release`](crate::PageHeap::release).
    Never,
    /// When more is free and backed than `bytes` and than what is in use divided by `divisor`.
    /// Then half of it is given back, whole huge pages first. Half as much as the limit has to be
    /// freed before it happens again, so that each byte given back was paid for by a byte freed.
    Above {
        /// As much stays free and backed whatever is in use, in bytes.
        bytes: usize,
        /// The part of what is in use that may be free and backed: 4 is a quarter. Not zero.
        divisor: usize,
    },
}

impl Options {
    /// Gives back at once, leaves huge pages to the system, and lets 16 MiB or a quarter of what
    /// is in use stay free and backed, whichever is more.
    pub const fn new() -> Options {
        Options {
            give_back: GiveBack::Eager,
            huge_pages: HugePages::System,
            release_on_free: ReleaseOnFree::Above { bytes: 16 << 20, divisor: 4 },
        }
    }

    /// How free memory is given back.
    pub const fn give_back(self, give_back: GiveBack) -> Options {
        Options { give_back, ..self }
    }

    /// What the system is told about huge pages.
    pub const fn huge_pages(self, huge_pages: HugePages) -> Options {
        Options { huge_pages, ..self }
    }

    /// When freeing gives memory back by itself.
    pub const fn release_on_free(self, release_on_free: ReleaseOnFree) -> Options {
        Options { release_on_free, ..self }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}
