//! The heap of one thread: a current span for each size class, and the blocks that other threads
//! gave back.
//!
//! Everything but `remote` and `state` belongs to the one thread that runs the heap. A heap
//! outlives its thread: it then is idle, keeps the spans that still hold blocks, and goes whole to
//! the next thread that is born. So a span never changes its owner.

mod idle;

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

use sysmem::native::{keeping_errno, set_errno_out_of_memory};
use sysmem_pages::PAGE;

use crate::gate::Gate;
use crate::hook::Occasion;
use crate::scavenger::{self, After};
use crate::size_class::{self, CLASSES};
use crate::span::{Block, Listing, NOTHING, Span};
pub(crate) use idle::Part;
use idle::Watch;

use crate::{PAGES, hook, large, metadata, misuse, page_map, sampling, visitor};

/// A count that one thread adds to and any thread reads.
pub(crate) struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    #[inline(always)]
    pub(crate) fn add(&self, count: u64) {
        // One writer: a plain addition, without the lock prefix of a read-modify-write.
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What a heap knows of one size class, as far as every allocation and free needs it.
struct Bin {
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

/// How many slow allocations that take no pages pass by before the hook hears of one.
const UNTOLD: u32 = 64;

/// A thread runs the heap.
pub(crate) const LIVE: u32 = 0;
/// No thread runs it.
pub(crate) const IDLE: u32 = 1;
/// A thread that is not its own takes in what was freed, and is done in a moment.
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
    /// How far the span by span search for memory that is not needed has come.
    search: idle::Search,
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

/// What the counters of a heap say.
#[derive(Default)]
pub(crate) struct Counts {
    pub allocations: u64,
    pub frees: u64,
    pub requested_bytes: u64,
    pub allocated_bytes: u64,
    pub freed_bytes: u64,
}

impl core::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.allocations += other.allocations;
        self.frees += other.frees;
        self.requested_bytes += other.requested_bytes;
        self.allocated_bytes += other.allocated_bytes;
        self.freed_bytes += other.freed_bytes;
    }
}

impl ThreadHeap {
    pub(crate) const fn new() -> ThreadHeap {
        ThreadHeap {
            gate: Gate::new(),
            bins: [const {
                Bin {
                    current: Cell::new(NOTHING.span()),
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
            search: idle::Search::new(),
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
        let bin = self.bin(class);
        // SAFETY: the current span of a bin is one of ours, or `NOTHING`.
        let block = unsafe { &*bin.current.get() }.take_freed();
        if block.is_null() {
            return self.allocate_unused(class, size, zeroed);
        }
        if bin.count(size) {
            return self.sample(class, size, zeroed, block);
        }
        self.gate.leave();
        if zeroed {
            // SAFETY: the block is at least `size` bytes long and the caller's alone.
            unsafe { block.write_bytes(0, size) };
        }
        block
    }

    /// The same where the current span has no block that was freed.
    #[inline(never)]
    extern "C" fn allocate_unused(&self, class: usize, size: usize, zeroed: bool) -> *mut u8 {
        let bin = self.bin(class);
        // SAFETY: as in `allocate`.
        let span = unsafe { &*bin.current.get() };
        let block = span.take_unused();
        if block.is_null() {
            return self.allocate_slow(class, size, zeroed);
        }
        if bin.count(size) {
            return self.sample(class, size, zeroed, block);
        }
        let clear = zeroed && !span.zeroed.get();
        self.gate.leave();
        if clear {
            // SAFETY: as in `allocate`.
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
                hook::call(Occasion::Busy);
            }
        }
        block
    }

    /// Sees to it that the current span of a class, which has no free block, has some or is another
    /// one that has; false if there is no memory for one.
    fn find_next(&self, class: usize) -> bool {
        self.collect();
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
            bin.current.set(next);
        }
        true
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

    /// The next bytes at which this heap is to be sampled, counted from now.
    pub(crate) fn bytes_to_sample(&self) -> f64 {
        sampling::exponential(&self.random)
    }

    /// Has the classes counted down to their samples from now on.
    pub(crate) fn begin_sampling(&self) {
        // Where a heap lies is random where the system places programs at random.
        self.random.set(ptr::from_ref(self).addr() as u64);
        for ((bin, shelf), class) in self.bins.iter().zip(&self.shelves).zip(&CLASSES) {
            bin.sample_after(shelf, sampling::unsampled(self, class.block_size));
        }
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
        let bin = self.bin(class);
        let block_size = CLASSES[class].block_size;
        bin.sample_after(&self.shelves[class], sampling::unsampled(self, block_size));
        let sample = sampling::record(size, block_size as usize);
        if sample == 0 {
            return (block, false);
        }
        let run = large::allocate_sampled(self, class, block_size as usize, sample);
        if run.0.is_null() {
            sampling::freed(sample);
            return (block, false);
        }
        let span = page_map::find(block);
        // SAFETY: the block was taken from this heap's current span a moment ago.
        unsafe {
            if (*span).put_back(block) {
                self.sort_in(&*span, block);
            }
        }
        run
    }

    /// A span of this class with free blocks, to be the current one; the one before it has none.
    fn next_span(&self, class: usize) -> *const Span {
        let bin = self.bin(class);
        // SAFETY: a current span is one of ours, or `NOTHING`.
        let current = unsafe { &*bin.current.replace(NOTHING.span()) };
        if !ptr::eq(current, NOTHING.span()) {
            if current.given_back.get() != 0 {
                self.link(current, Listing::Trimmed);
            } else {
                current.set_listing(Listing::Full);
            }
        }
        let span = self.shelves[class].available.get();
        // SAFETY: spans in lists are ours.
        if let Some(available) = unsafe { span.as_ref() } {
            self.unlink(available);
            available.set_listing(Listing::Current);
            return span;
        }
        // What was given back costs as much as new pages, and its span is there already.
        // SAFETY: spans in lists are ours.
        while let Some(trimmed) = unsafe { self.shelves[class].trimmed.get().as_ref() } {
            if !trimmed.use_some_again() {
                break;
            }
            if trimmed.has_free() {
                self.unlink(trimmed);
                trimmed.set_listing(Listing::Current);
                return trimmed;
            }
        }
        let span = self.new_span(class);
        if !span.is_null() {
            return span;
        }
        // Out of memory: spans that wait empty for their class may serve this one.
        self.release_empty();
        self.new_span(class)
    }

    fn new_span(&self, class: usize) -> *const Span {
        let shape = CLASSES[class];
        let npages = crate::npages(shape.npages as usize * PAGE);
        let span = self.take_span();
        if span.is_null() {
            return span;
        }
        let Ok(run) = PAGES.allocate(npages, PAGE) else {
            self.give_span(span);
            return ptr::null();
        };
        self.untold.set(UNTOLD);
        let start = run.start.as_ptr();
        // SAFETY: a span that describes nothing is this heap's alone.
        let new = unsafe { &*span };
        new.free.set(ptr::null_mut());
        new.bump.set(start);
        new.bump_end.set(start.wrapping_add(shape.blocks as usize * shape.block_size as usize));
        new.owner.set(self);
        new.block_size.set(shape.block_size);
        new.class.set(class as u8);
        new.begin(Listing::Current);
        new.zeroed.set(run.zeroed);
        new.start.set(start);
        new.len.set(npages * PAGES.page_size());
        new.given_back.set(0);
        if page_map::enter(start, new.len.get(), span).is_err() {
            // SAFETY: the run was allocated above and nobody knows of it.
            let _ = unsafe { PAGES.free(run.start, npages) };
            self.give_span(span);
            return ptr::null();
        }
        span
    }

    /// Takes back a block that this heap owns, freed by its own thread. Leaves the gate, which the
    /// caller entered.
    ///
    /// # Safety
    ///
    /// `block` was handed out from `span`, which this heap owns, and nobody uses it.
    #[inline(always)]
    pub(crate) unsafe fn free(&self, span: &Span, block: *mut u8) {
        self.count_free(span.class.get() as usize);
        // SAFETY: the caller's promise.
        if unsafe { span.put_back(block) } {
            return self.after_own_free(span, block);
        }
        self.gate.leave();
    }

    #[cold]
    #[inline(never)]
    extern "C" fn after_own_free(&self, span: &Span, block: *mut u8) {
        self.after_free(span, block);
        self.gate.leave();
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
            hook::call(Occasion::Busy);
        }
    }

    /// Finds the right place for a span that a block was put back into; whether that is the page
    /// heap, because it was the last one.
    fn sort_in(&self, span: &Span, block: *mut u8) -> bool {
        if span.used() < 0 {
            misuse::double_free(block);
        }
        match span.listing() {
            Listing::Full => {
                self.link(span, Listing::Available);
                scavenger::note_idle_memory();
            }
            Listing::Trimmed if span.used() > 0 => {
                self.unlink(span);
                self.link(span, Listing::Available);
            }
            Listing::Available | Listing::Trimmed => {
                self.unlink(span);
                keeping_errno(|| self.release(span));
                return true;
            }
            // The last span of a class stays, for the next allocation.
            Listing::Current => {}
        }
        false
    }

    /// The list of a class in which spans of a listing are.
    fn list(&self, class: u8, listing: Listing) -> &Cell<*mut Span> {
        let shelf = &self.shelves[class as usize];
        if listing == Listing::Trimmed { &shelf.trimmed } else { &shelf.available }
    }

    fn link(&self, span: &Span, listing: Listing) {
        span.set_listing(listing);
        let this = ptr::from_ref(span).cast_mut();
        let first = self.list(span.class.get(), listing).replace(this);
        span.previous.set(ptr::null_mut());
        span.next.set(first);
        // SAFETY: spans in lists are ours.
        if let Some(first) = unsafe { first.as_ref() } {
            first.previous.set(this);
        }
    }

    fn unlink(&self, span: &Span) {
        let (previous, next) = (span.previous.get(), span.next.get());
        // SAFETY: spans in lists are ours.
        match unsafe { previous.as_ref() } {
            Some(previous) => previous.next.set(next),
            None => self.list(span.class.get(), span.listing()).set(next),
        }
        // SAFETY: as above.
        if let Some(next) = unsafe { next.as_ref() } {
            next.previous.set(previous);
        }
    }

    /// Returns the pages of a span without blocks in use, which is in no list.
    fn release(&self, span: &Span) {
        if !span.use_all_again() {
            // No memory for it now. It waits for the next time it is empty.
            return self.link(span, Listing::Trimmed);
        }
        let (start, len) = (span.start.get(), span.len.get());
        page_map::remove(start, len);
        self.give_span(ptr::from_ref(span).cast_mut());
        let Some(run) = ptr::NonNull::new(start) else { return };
        // SAFETY: the run was allocated for this span, and no block of it is in use.
        if unsafe { PAGES.free(run, crate::npages(len)) }.is_err() {
            misuse::die("a span was freed whose pages are not allocated", start);
        }
    }

    /// Returns the pages of every span that holds nothing. Only current spans can be such.
    pub(crate) fn release_empty(&self) {
        for bin in &self.bins {
            let current = bin.current.get();
            // SAFETY: a current span is one of ours, or `NOTHING`.
            let span = unsafe { &*current };
            if current != NOTHING.span() && span.used() == 0 {
                bin.current.set(NOTHING.span());
                self.release(span);
            }
        }
    }

    /// Takes in the blocks that other threads freed.
    pub(crate) fn collect(&self) {
        if !self.shared.remote.load(Relaxed).is_null() || !self.collected.get().is_null() {
            self.collect_some(usize::MAX);
        }
    }

    /// Takes in at most `limit` blocks that other threads freed; whether there are more.
    fn collect_some(&self, mut limit: usize) -> bool {
        let mut block = self.collected.get();
        loop {
            if block.is_null() {
                block = self.shared.remote.swap(ptr::null_mut(), Acquire);
            }
            if block.is_null() || limit == 0 {
                self.collected.set(block);
                return !block.is_null();
            }
            limit -= 1;
            // SAFETY: the list holds free blocks, linked by whoever freed them. Each was found to be
            // in a span of ours when it was freed, and the span is there as long as the block counts
            // as used in it.
            unsafe {
                let next = (*block).next.get();
                let span = &*page_map::find(block.cast());
                self.shelves[span.class.get() as usize].watch.note_change();
                self.search.begin_class_anew();
                if span.put_back(block.cast()) {
                    self.sort_in(span, block.cast());
                }
                block = next;
            }
        }
    }

    /// Whether blocks that other threads freed wait to be taken in.
    pub(crate) fn has_remote(&self) -> bool {
        !self.shared.remote.load(SeqCst).is_null()
    }

    /// Hands a block of this heap back from another thread.
    ///
    /// # Safety
    ///
    /// `block` was handed out from a span that this heap owns, and nobody uses it.
    pub(crate) unsafe fn free_remote(&self, block: *mut u8) {
        let block: *mut Block = block.cast();
        let mut first = self.shared.remote.load(Relaxed);
        loop {
            if first == block {
                misuse::double_free(block.cast());
            }
            // SAFETY: the block is nobody's but this thread's until it is in the list.
            unsafe { (*block).next.set(first) };
            // SeqCst: either this thread sees that the heap has become idle, or the thread that
            // leaves it sees the block (`lifecycle::leave`).
            match self.shared.remote.compare_exchange_weak(first, block, SeqCst, Relaxed) {
                Ok(_) => return,
                Err(newer) => first = newer,
            }
        }
    }

    /// A span that describes nothing; null when memory has run out.
    pub(crate) fn take_span(&self) -> *mut Span {
        let span = self.spare_spans.get();
        // SAFETY: spare spans are this heap's alone.
        if let Some(spare) = unsafe { span.as_ref() } {
            self.spare_spans.set(spare.next.get());
            return span;
        }
        metadata::allocate(Span::new())
    }

    /// Keeps a span that describes nothing for use again.
    pub(crate) fn give_span(&self, span: *mut Span) {
        // SAFETY: the span describes nothing and is this heap's alone.
        unsafe { &*span }.next.set(self.spare_spans.replace(span));
    }

    /// What the counters say; while the thread runs, a moment ago.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.large_counts();
        for class in 0..size_class::COUNT {
            counts += self.class_counts(class);
        }
        counts
    }

    /// What the counters of one class say.
    pub(crate) fn class_counts(&self, class: usize) -> Counts {
        let bin = self.bin(class);
        let block_size = u64::from(CLASSES[class].block_size);
        let (allocations, frees) = (bin.allocations(&self.shelves[class]), bin.frees.get());
        Counts {
            allocations,
            frees,
            requested_bytes: bin.requested.get(),
            allocated_bytes: allocations * block_size,
            freed_bytes: frees * block_size,
        }
    }

    /// What the counters of large allocations say.
    pub(crate) fn large_counts(&self) -> Counts {
        Counts {
            allocations: self.large_allocations.get(),
            frees: self.large_frees.get(),
            requested_bytes: self.large_requested.get(),
            allocated_bytes: self.large_allocated_bytes.get(),
            freed_bytes: self.large_freed_bytes.get(),
        }
    }
}
