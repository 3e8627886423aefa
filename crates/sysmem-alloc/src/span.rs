//! A span: a run of pages cut into blocks of one size, or one large allocation.

use core::cell::Cell;
use core::ptr;

use crate::thread_heap::{Bin, ThreadHeap};

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

impl Listing {
    /// What `Span::count` is when no block is in use.
    fn count_of_none(self) -> i32 {
        match self {
            // An empty current span stays for the next allocation.
            Listing::Current => 0,
            // An empty one beside it does not.
            Listing::Available => -1,
            // Any free has to be noticed.
            Listing::Full | Listing::Trimmed => i32::MIN,
        }
    }
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
    /// Blocks in use, in such a form that the free which changes more than the span is the one that
    /// makes it negative: see [`used`](Span::used).
    count: Cell<i32>,
    pub block_size: Cell<u32>,
    /// The class of the blocks; [`NO_CLASS`](crate::size_class::NO_CLASS) for a large allocation.
    pub class: Cell<u8>,
    listing: Cell<Listing>,
    /// Whether the blocks that were never used are zero.
    pub zeroed: Cell<bool>,
    /// Where the owner counts what happens to blocks of the class.
    pub bin: Cell<*const Bin>,

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
            count: Cell::new(0),
            block_size: Cell::new(0),
            class: Cell::new(0),
            listing: Cell::new(Listing::Full),
            zeroed: Cell::new(false),
            bin: Cell::new(ptr::null()),
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

    /// Takes a freed block; null if there is none.
    #[inline(always)]
    pub(crate) fn take_freed(&self) -> *mut u8 {
        let block = self.free.get();
        if !block.is_null() {
            // SAFETY: a free block is memory of this span that nobody uses.
            self.free.set(unsafe { (*block).next.get() });
            self.count.set(self.count.get().wrapping_add(1));
        }
        block.cast()
    }

    /// Takes a block that was never used; null if there is none.
    #[inline(always)]
    pub(crate) fn take_unused(&self) -> *mut u8 {
        let block = self.bump.get();
        if block == self.bump_end.get() {
            return ptr::null_mut();
        }
        self.bump.set(block.wrapping_add(self.block_size.get() as usize));
        self.count.set(self.count.get().wrapping_add(1));
        block
    }

    /// Takes a block, a freed one first. The second value says whether the block is known to be
    /// zero. Null if there is none.
    pub(crate) fn take(&self) -> (*mut u8, bool) {
        let freed = self.take_freed();
        if freed.is_null() { (self.take_unused(), self.zeroed.get()) } else { (freed, false) }
    }

    /// Puts a block back; whether that changes more than the span: its last block is free, or it was
    /// full or trimmed, or the block was free already as far as that can be seen.
    ///
    /// # Safety
    ///
    /// The block was handed out from this span, and nobody uses it.
    #[inline(always)]
    pub(crate) unsafe fn put_back(&self, block: *mut u8) -> bool {
        let block: *mut Block = block.cast();
        let first = self.free.get();
        if first == block {
            // Free already: that is as if more blocks had been freed than were in use.
            self.count.set(self.listing.get().count_of_none().wrapping_sub(1));
            return true;
        }
        // SAFETY: the block is ours again and at least a word long.
        unsafe { (*block).next.set(first) };
        self.free.set(block);
        let count = self.count.get().wrapping_sub(1);
        self.count.set(count);
        count < 0
    }

    pub(crate) fn listing(&self) -> Listing {
        self.listing.get()
    }

    /// Blocks in use; negative if more were freed than there were.
    pub(crate) fn used(&self) -> i32 {
        self.count.get().wrapping_sub(self.listing.get().count_of_none())
    }

    /// Says where the span is to be found from now on.
    pub(crate) fn set_listing(&self, listing: Listing) {
        let used = self.used();
        self.listing.set(listing);
        self.count.set(used.wrapping_add(listing.count_of_none()));
    }

    /// Says that no block is in use, and where the span is to be found.
    pub(crate) fn begin(&self, listing: Listing) {
        self.listing.set(listing);
        self.count.set(listing.count_of_none());
    }

    /// Whether [`take`](Span::take) would find a block.
    pub(crate) fn has_free(&self) -> bool {
        !self.free.get().is_null() || self.bump.get() != self.bump_end.get()
    }
}
