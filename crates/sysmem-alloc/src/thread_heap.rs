//! The heap of one thread: a current span for each size class, and the blocks that other threads
//! gave back.
//!
//! Everything but `remote` and `state` belongs to the one thread that runs the heap. A heap
//! outlives its thread: it then is idle, keeps the spans that still hold blocks, and goes whole to
//! the next thread that is born. So a span never changes its owner.

mod counts;
mod idle;
mod remote;
mod runs;
mod spans;

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, Ordering::*};

use sysmem::native::set_errno_out_of_memory;

use crate::gate::Gate;
use crate::page_map::NOTHING;
use crate::scavenger::{self, After};
use crate::size_class::{self, CLASSES};
use crate::span::{Block, Span};
pub(crate) use counts::{Counter, Counts};
pub(crate) use idle::Part;
use idle::Watch;

use crate::{hook, large, page_map, sampling, visitor};

/// What a heap knows of one size class, as far as every allocation and free needs it.
pub(crate) struct Bin {
    current: Cell<*const Span>,
    /// Counts allocations down to the next one that is to be sampled. The sign tells that it has
    /// come, which costs an allocation one jump more than counting does.
    unsampled: AtomicI64,
    /// Bytes that callers asked for.
    requested: Counter,
    frees: Counter,
}

/// What else it knows.
struct Shelf {
    available: Cell<*mut Span>,
    /// How many allocations there will have been when the next one is sampled.
    sampled_at: AtomicI64,
    /// The interval by which that one was chosen.
    interval: Cell<u64>,
    /// Spans whose free blocks are all on pages that were given back.
    trimmed: Cell<*mut Span>,
    /// What was seen of the class when somebody last looked for memory that it does not need.
    watch: Watch,
}

impl Bin {
    /// Counts one allocation; whether it is to be sampled.
    #[inline(always)]
    fn count(&self, size: usize) -> bool {
        self.requested.add(size as u64);
        // One writer, as in `Counter`.
        let left = self.unsampled.load(Relaxed) - 1;
        self.unsampled.store(left, Relaxed);
        left < 0
    }

    /// Has `unsampled` allocations pass by before the next one is sampled.
    fn sample_after(&self, shelf: &Shelf, unsampled: i64) {
        let end = (self.allocations(shelf) as i64).saturating_add(unsampled).saturating_add(1);
        shelf.sampled_at.store(end, Release);
        self.unsampled.store(unsampled, Release);
    }

    /// How many allocations there were. The two words change together rarely and only while
    /// something is sampled: who finds them in the middle looks again.
    fn allocations(&self, shelf: &Shelf) -> u64 {
        let mut end = shelf.sampled_at.load(Acquire);
        for _ in 0..8 {
            let left = self.unsampled.load(Acquire);
            let again = shelf.sampled_at.load(Acquire);
            if again == end && left >= 0 {
                return (end - left - 1) as u64;
            }
            end = again;
        }
        (end - self.unsampled.load(Relaxed) - 1) as u64
    }
}

/// What is left to do with a block, or with none, before the program gets it. The second of `block`
/// says whether it is zero.
pub(crate) fn finish((block, is_zero): (*mut u8, bool), size: usize, zeroed: bool) -> *mut u8 {
    if block.is_null() {
        set_errno_out_of_memory();
    } else if zeroed && !is_zero {
        // SAFETY: the block is at least `size` bytes long and the caller's alone.
        unsafe { block.write_bytes(0, size) };
    }
    block
}

/// How many blocks that others freed an allocation takes in before it looks whether they will do.
const COLLECTED_AT_A_TIME: usize = 64;

/// How many slow allocations that take no pages pass by before the hook hears of one.
const UNTOLD: u32 = 64;

/// A thread runs the heap.
pub(crate) const LIVE: u32 = 0;
/// No thread runs it.
pub(crate) const IDLE: u32 = 1;
/// A thread that leaves it, or is not its own, takes in what was freed and is done in a moment.
pub(crate) const BORROWED: u32 = 2;
/// The thread that ran it did not come along with a fork.
pub(crate) const ABANDONED: u32 = 3;

#[repr(C, align(64))]
pub(crate) struct ThreadHeap {
    gate: Gate,
    bins: [Bin; size_class::COUNT],
    shelves: [Shelf; size_class::COUNT],
    pub large_allocations: Counter,
    /// Bytes that callers asked for.
    pub large_requested: Counter,
    pub large_allocated_bytes: Counter,
    pub large_frees: Counter,
    pub large_freed_bytes: Counter,
    /// Where the random numbers that decide what is sampled have come to.
    random: Cell<u64>,
    /// Slow allocations of which the hook has not heard.
    untold: Cell<u32>,
    /// The scavenger's round in which empty spans were last returned.
    round: Cell<u32>,
    /// Blocks that other threads freed and that are being taken in.
    collected: Cell<*mut Block>,
    /// Blocks of another heap that this one's thread freed.
    outgoing: remote::Outgoing,
    /// How far the span by span search for memory that is not needed has come.
    search: idle::Search,
    runs: runs::Runs,
    /// Spans that describe nothing, for use again.
    spare_spans: Cell<*mut Span>,
    /// The next heap in the list of idle ones, under the lock of that list.
    pub next_idle: Cell<*mut ThreadHeap>,
    /// The next heap in the list of all; fixed once it is entered.
    pub next: Cell<*mut ThreadHeap>,
    /// What follows is written by other threads, away from the lines above.
    shared: Shared,
}

#[repr(align(128))]
struct Shared {
    /// Blocks freed by other threads.
    remote: AtomicPtr<Block>,
    state: AtomicU32,
}

impl ThreadHeap {
    pub(crate) const fn new() -> ThreadHeap {
        ThreadHeap {
            gate: Gate::new(),
            bins: [const {
                Bin {
                    current: Cell::new(NOTHING),
                    // Never, until sampling begins.
                    unsampled: AtomicI64::new(i64::MAX - 1),
                    requested: Counter::new(),
                    frees: Counter::new(),
                }
            }; size_class::COUNT],
            shelves: [const {
                Shelf {
                    available: Cell::new(ptr::null_mut()),
                    sampled_at: AtomicI64::new(i64::MAX),
                    interval: Cell::new(u64::MAX),
                    trimmed: Cell::new(ptr::null_mut()),
                    watch: Watch::new(),
                }
            }; size_class::COUNT],
            large_allocations: Counter::new(),
            large_requested: Counter::new(),
            large_allocated_bytes: Counter::new(),
            large_frees: Counter::new(),
            large_freed_bytes: Counter::new(),
            random: Cell::new(0),
            untold: Cell::new(0),
            round: Cell::new(0),
            collected: Cell::new(ptr::null_mut()),
            outgoing: remote::Outgoing::new(),
            search: idle::Search::new(),
            runs: runs::Runs::new(),
            spare_spans: Cell::new(ptr::null_mut()),
            next_idle: Cell::new(ptr::null_mut()),
            next: Cell::new(ptr::null_mut()),
            shared: Shared { remote: AtomicPtr::new(ptr::null_mut()), state: AtomicU32::new(LIVE) },
        }
    }

    /// The heap that a gate leads to.
    ///
    /// # Safety
    ///
    /// It is the gate of a heap.
    #[inline(always)]
    pub(crate) unsafe fn behind(gate: &'static Gate) -> &'static ThreadHeap {
        // The gate is where the heap begins, and came from its address.
        let heap = ptr::with_exposed_provenance::<ThreadHeap>(ptr::from_ref(gate).addr());
        // SAFETY: the caller's promise; heaps live forever.
        unsafe { &*heap }
    }

    /// What is entered to work on the heap.
    pub(crate) fn gate(&self) -> &'static Gate {
        // Exposed for `behind`.
        let gate = ptr::from_ref(self).expose_provenance();
        // SAFETY: heaps live forever, and begin with their gate.
        unsafe { &*ptr::with_exposed_provenance(gate) }
    }

    /// Shows the thread what it needs, at a gate that hid it. The caller has the heap.
    pub(crate) fn show(&self) {
        for (class, bin) in self.bins.iter().enumerate() {
            self.gate.show_span(class, bin.current.get());
        }
        self.gate.show_owner(self);
    }

    /// Says which span a class allocates from. Who has claimed the heap says only of none.
    fn set_current(&self, class: usize, span: *const Span) {
        self.bin(class).current.set(span);
        self.gate.show_span(class, span);
    }

    /// Takes the heap from its thread for a while, if that is not at work: see
    /// [`Gate::claim`](Gate::claim).
    pub(crate) fn claim(&self, barrier: impl Fn() -> bool) -> bool {
        self.gate.claim(barrier, || self.show())
    }

    /// Gives the heap back to its thread.
    pub(crate) fn give_back_claimed(&self) {
        self.show();
        self.gate.give_back();
    }

    /// Whether a thread runs the heap.
    pub(crate) fn state(&self) -> &AtomicU32 {
        &self.shared.state
    }

    #[inline(always)]
    fn bin(&self, class: usize) -> &Bin {
        debug_assert!(class < size_class::COUNT);
        // SAFETY: classes come from `size_class`, or from a span that was given one of them.
        unsafe { self.bins.get_unchecked(class) }
    }

    /// A block of a class, for `size` bytes, all zero if that is wanted. Null when memory has run
    /// out. Leaves the gate, which the caller entered: whatever takes long is the last thing to be
    /// called, and nothing need be kept for afterwards. (Functions with the C ABI cannot unwind, so
    /// that there is nothing to be done after them in a caller that must not either.)
    #[inline(always)]
    pub(crate) fn allocate(&self, class: usize, size: usize, zeroed: bool) -> *mut u8 {
        // SAFETY: the current span of a bin is one of ours, or `NOTHING`.
        let span = unsafe { &*self.bin(class).current.get() };
        let freed = span.take_freed();
        if !freed.is_null() {
            return self.hand_out(span, freed, size, zeroed, false);
        }
        let unused = span.take_unused();
        if !unused.is_null() {
            return self.hand_out(span, unused, size, zeroed, span.zeroed.get());
        }
        self.allocate_slow(class, size, zeroed)
    }

    /// Hands out a block of a span of ours, which is zero or not. Leaves the gate.
    #[inline(always)]
    pub(crate) fn hand_out(
        &self,
        span: &Span,
        block: *mut u8,
        size: usize,
        zeroed: bool,
        is_zero: bool,
    ) -> *mut u8 {
        // SAFETY: the bin of a span of ours is one of ours.
        if unsafe { &*span.bin.get() }.count(size) {
            return self.sample(span.class.get() as usize, size, zeroed, block);
        }
        self.gate.leave();
        if zeroed && !is_zero {
            // SAFETY: the block is at least `size` bytes long and the caller's alone.
            unsafe { block.write_bytes(0, size) };
        }
        block
    }

    #[cold]
    #[inline(never)]
    extern "C" fn allocate_slow(&self, class: usize, size: usize, zeroed: bool) -> *mut u8 {
        let block = self.allocate_behind_gate(class, size);
        self.gate.leave();
        finish(block, size, zeroed)
    }

    /// A block of a class, for `size` bytes; whether it is known to be zero. Null when memory has run
    /// out. The caller entered the gate and leaves it.
    pub(crate) fn allocate_behind_gate(&self, class: usize, size: usize) -> (*mut u8, bool) {
        let bin = self.bin(class);
        // SAFETY: as in `allocate`.
        let finds_next = !unsafe { &*bin.current.get() }.has_free();
        if finds_next && !self.find_next(class) {
            return (ptr::null_mut(), false);
        }
        // SAFETY: as in `allocate`.
        let (block, is_zero) = unsafe { &*bin.current.get() }.take();
        let block = match bin.count(size) {
            true => self.record_sample(class, size, block),
            false => (block, is_zero),
        };
        if finds_next {
            scavenger::start_if_due(After::Allocation);
            if self.is_worth_telling() {
                hook::call(self.occasion());
            }
        }
        block
    }

    /// Sees to it that the current span of a class, which has no free block, has some or is another
    /// one that has; false if there is no memory for one.
    fn find_next(&self, class: usize) -> bool {
        self.send();
        // No more than is needed now: what is taken in should be used while it is in the cache.
        while self.has_collected() && !self.has_some(class) {
            self.collect_some(COLLECTED_AT_A_TIME);
        }
        // While the scavenger is at work, a span that is empty now is better looked after by it.
        if self.round.replace(scavenger::round()) != scavenger::round() {
            self.release_empty();
            if !visitor::reaches_live_heaps() {
                self.look_after_itself();
            }
        }
        let bin = self.bin(class);
        // SAFETY: as in `allocate`.
        if !unsafe { &*bin.current.get() }.has_free() {
            let next = self.next_span(class);
            if next.is_null() {
                return false;
            }
            self.set_current(class, next);
        }
        true
    }

    /// Whether there are blocks of a class without a new span.
    fn has_some(&self, class: usize) -> bool {
        // SAFETY: as in `allocate`.
        let current = unsafe { &*self.bin(class).current.get() };
        current.has_free() || !self.shelves[class].available.get().is_null()
    }

    /// Whether the hook is to hear of a slow allocation: of one that took pages; and of others now
    /// and then, because counts change too. In a heap with a free block here and there, every other
    /// allocation is slow.
    fn is_worth_telling(&self) -> bool {
        let untold = self.untold.get();
        let tell = untold >= UNTOLD;
        self.untold.set(if tell { 0 } else { untold + 1 });
        tell
    }

    /// How many bytes pass by before one is chosen.
    pub(crate) fn bytes_to_sample(&self, interval: u64) -> f64 {
        sampling::exponential(&self.random) * interval as f64
    }

    /// Chooses the next allocation of a class that is to be sampled.
    fn choose_next(&self, class: usize) {
        let interval = sampling::interval();
        let blocks = self.bytes_to_sample(interval) / f64::from(CLASSES[class].block_size);
        let shelf = &self.shelves[class];
        shelf.interval.set(interval);
        self.bin(class).sample_after(shelf, blocks as i64);
    }

    /// Has the classes counted down to their samples from now on.
    pub(crate) fn begin_sampling(&self) {
        // Where a heap lies is random where the system places programs at random.
        self.random.set(ptr::from_ref(self).addr() as u64);
        (0..size_class::COUNT).for_each(|class| self.choose_next(class));
    }

    /// Records the allocation of a block. From then on it has pages of its own, so that its free
    /// is seen without a look at any other: see `sampling`.
    #[cold]
    #[inline(never)]
    extern "C" fn sample(
        &self,
        class: usize,
        size: usize,
        zeroed: bool,
        block: *mut u8,
    ) -> *mut u8 {
        let sampled = self.record_sample(class, size, block);
        self.gate.leave();
        finish(sampled, size, zeroed)
    }

    fn record_sample(&self, class: usize, size: usize, block: *mut u8) -> (*mut u8, bool) {
        let interval = self.shelves[class].interval.get();
        self.choose_next(class);
        let block_size = CLASSES[class].block_size as usize;
        let sample = sampling::record(size, block_size, interval);
        if sample == 0 {
            return (block, false);
        }
        let run = large::allocate_sampled(self, class, block_size, sample);
        if run.0.is_null() {
            sampling::freed(sample);
            return (block, false);
        }
        let span = page_map::find(block);
        // SAFETY: the block was taken from this heap's current span a moment ago.
        if unsafe { span.put_back(block) } {
            self.sort_in(span, block);
        }
        run
    }

    /// Takes back a block that this heap owns, freed by its own thread. Leaves the gate, which the
    /// caller entered.
    ///
    /// # Safety
    ///
    /// `block` was handed out from `span`, which this heap owns, and nobody uses it.
    #[inline(always)]
    pub(crate) unsafe fn free(&self, block: *mut u8, span: &Span) {
        // SAFETY: the bin of a span of ours is one of ours.
        unsafe { &*span.bin.get() }.frees.add(1);
        // SAFETY: the caller's promise.
        if unsafe { span.put_back(block) } {
            return ThreadHeap::after_own_free(block, span, self);
        }
        self.gate.leave();
    }

    #[cold]
    #[inline(never)]
    extern "C" fn after_own_free(block: *mut u8, span: &Span, heap: &ThreadHeap) {
        heap.after_free(span, block);
        heap.gate.leave();
    }

    /// As [`free`](ThreadHeap::free), for a caller that leaves the gate itself.
    ///
    /// # Safety
    ///
    /// As for `free`.
    pub(crate) unsafe fn free_behind_gate(&self, span: &Span, block: *mut u8) {
        self.count_free(span.class.get() as usize);
        // SAFETY: the caller's promise.
        if unsafe { span.put_back(block) } {
            self.after_free(span, block);
        }
    }

    /// Counts a free, also of a block that goes to another heap.
    #[inline(always)]
    pub(crate) fn count_free(&self, class: usize) {
        self.bin(class).frees.add(1);
    }

    /// What a free changes beside its span. The work on the heap is done with it.
    fn after_free(&self, span: &Span, block: *mut u8) {
        if self.sort_in(span, block) {
            scavenger::start_if_due(After::Free);
            hook::call(self.occasion());
        }
    }
}
