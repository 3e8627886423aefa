//! A span: a run of pages cut into blocks of one size, or one large allocation.

use core::cell::Cell;
use core::ptr;

use crate::thread_heap::ThreadHeap;

/// A free block. The first word leads to the next one.
#[repr(C)]
pub(crate) struct Block {
    pub next: Cell<*mut Block>,
}

/// Where a span of blocks is to be found in its heap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Listing {
    /// It is the span that its class allocates from.
    Current,
    /// It has free blocks and waits in the list of its class.
    Available,
    /// It has no free block, and is in no list until one is freed.
    Full,
    /// Its free blocks are all on pages that were given back; it waits in a list of its class until
    /// they are needed, or until another block is freed.
    Trimmed,
}

/// What is known about a run of pages. All but `remote` frees go through the owner: the heap of
/// one thread, so nothing here is atomic.
///
/// The fields that an allocation and a free touch come first, in one cache line.
#[repr(C, align(64))]
pub(crate) struct Span {
    /// Freed blocks.
    pub free: Cell<*mut Block>,
    /// The next block that was never used, and the end of those.
    pub bump: Cell<*mut u8>,
    pub bump_end: Cell<*mut u8>,
    /// The heap whose thread may touch this span; [`LARGE`] for a large allocation.
    pub owner: Cell<*const ThreadHeap>,
    /// Blocks in use.
    pub used: Cell<u32>,
    pub block_size: Cell<u32>,
    /// The class of the blocks; [`NO_CLASS`](crate::size_class::NO_CLASS) for a large allocation.
    pub class: Cell<u8>,
    pub listing: Cell<Listing>,
    /// Whether the blocks that were never used are zero.
    pub zeroed: Cell<bool>,

    pub start: Cell<*mut u8>,
    /// The length in bytes.
    pub len: Cell<usize>,
    /// The system's pages whose memory was given back (`trim`), a bit each from `start` on.
    pub given_back: Cell<u64>,
    /// The sample that was taken of the one allocation here; 0 for none.
    pub sample: Cell<u64>,
    pub previous: Cell<*mut Span>,
    pub next: Cell<*mut Span>,
}

const _: () = assert!(size_of::<Span>() == 128);

/// The owner of large allocations, and of sampled ones: nobody. No heap has this address, and no thread this heap.
pub(crate) const LARGE: *const ThreadHeap = ptr::without_provenance(2);

impl Span {
    pub(crate) const fn new() -> Span {
        Span {
            free: Cell::new(ptr::null_mut()),
            bump: Cell::new(ptr::null_mut()),
            bump_end: Cell::new(ptr::null_mut()),
            owner: Cell::new(ptr::null()),
            used: Cell::new(0),
            block_size: Cell::new(0),
            class: Cell::new(0),
            listing: Cell::new(Listing::Full),
            zeroed: Cell::new(false),
            start: Cell::new(ptr::null_mut()),
            len: Cell::new(0),
            given_back: Cell::new(0),
            sample: Cell::new(0),
            previous: Cell::new(ptr::null_mut()),
            next: Cell::new(ptr::null_mut()),
        }
    }

    pub(crate) fn is_large(&self) -> bool {
        self.owner.get() == LARGE
    }

    /// Takes a block: a freed one, or one that was never used. The second value says whether the
    /// block is known to be zero. Null if there is none.
    #[inline(always)]
    pub(crate) fn take(&self) -> (*mut u8, bool) {
        let block = self.free.get();
        if !block.is_null() {
            // SAFETY: a free block is memory of this span that nobody uses.
            self.free.set(unsafe { (*block).next.get() });
            self.used.set(self.used.get() + 1);
            return (block.cast(), false);
        }
        let block = self.bump.get();
        if block != self.bump_end.get() {
            self.bump.set(block.wrapping_add(self.block_size.get() as usize));
            self.used.set(self.used.get() + 1);
            return (block, self.zeroed.get());
        }
        (ptr::null_mut(), false)
    }

    /// Whether [`take`](Span::take) would find a block.
    pub(crate) fn has_free(&self) -> bool {
        !self.free.get().is_null() || self.bump.get() != self.bump_end.get()
    }
}

/// The span of a class that has none: nothing free, and never written to.
pub(crate) struct Nothing(Span);

// SAFETY: `take` and `has_free` only read a span without free blocks, and nothing else is done
// with this one.
unsafe impl Sync for Nothing {}

pub(crate) static NOTHING: Nothing = Nothing(Span::new());

impl Nothing {
    pub(crate) const fn span(&'static self) -> *const Span {
        &self.0
    }
}
