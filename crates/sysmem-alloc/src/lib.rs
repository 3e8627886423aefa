//! A general-purpose allocator that gives memory back.
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: sysmem_alloc::SysMem = sysmem_alloc::SysMem;
//!
//! let numbers: Vec<u32> = (0..1000).collect();
//! assert!(sysmem_alloc::statistics().allocations > 0);
//! # drop(numbers);
//! ```
//!
//! How it works, from the caller down:
//!
//! - A request up to 64 KiB is rounded up to a size class (`size_class`).
//! - The calling thread's heap (`thread_heap`), reached through one word of the thread
//!   (`thread_slot`), takes a block from the current span of the class.
//! - A span (`span`) is a run of pages from the page heap, cut into blocks of one size. There is no
//!   header before a block: its span is found from its address (`page_map`).
//! - A block freed by the thread that owns its span goes back to the span; freed by another, it
//!   goes to a lock-free list of the owner's heap, which takes it in when it next runs short.
//! - Larger requests are whole pages (`large`). Runs of up to 128 KiB, for these and for spans, a thread
//!   keeps at hand for itself when they are free (`thread_heap::runs`).
//! - When a thread ends, its heap keeps what still holds blocks and waits for the next thread
//!   (`lifecycle`).
//! - Some allocations are sampled, where that is wanted (`sampling`): a profile needs no more.
//! - What the thread does to its heap it does behind a gate (`gate`), through which the scavenger comes
//!   when the thread is idle.
//! - Memory goes back when more of it is freed or, after [`start_scavenger`], by a thread that looks
//!   after it (`scavenger`).
//!
//! Every function here may be called in any thread at any time: before the thread has a heap, while
//! its destructors run, after them, and in a child after a fork. None panics; out of memory is a
//! null pointer. A free that can be seen to be wrong ends the program with one line that says what
//! the pointer is.
#![no_std]

pub mod figures;
mod gate;
mod hook;
mod large;
mod lifecycle;
mod limit;
mod metadata;
mod misuse;
mod page_map;
mod pressure;
pub mod samples;
mod sampling;
mod scavenger;
mod size_class;
mod span;
mod statistics;
mod thread_heap;
mod thread_slot;
mod trim;
mod visitor;

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use sysmem::native::keeping_errno;
use sysmem::{Account, Native};
use sysmem_pages::{Accounts, Options, PageHeap};

use crate::page_map::Place;
use crate::span::Span;
use crate::thread_heap::ThreadHeap;

pub use hook::{Occasion, set_slow_path_hook};
pub use limit::{MemoryLimit, set_memory_limit};
pub use sampling::{Recorder, start_sampling};
pub use scavenger::start_scavenger;
pub use statistics::{
    ClassStatistics, SIZE_CLASSES, Statistics, class_statistics, large_statistics, statistics,
    try_statistics,
};
pub use sysmem_pages::HugePages;

static NATIVE: Native = Native::NEW;
static PAGES: PageHeap<Native> = PageHeap::new(Native::NEW, &ACCOUNTS, Options::new());
static ACCOUNTS: Accounts = Accounts::new("page heap", "page heap metadata");
static METADATA: Account = Account::new("allocator metadata");

/// The pages of the heap that `len` bytes take.
fn npages(len: usize) -> usize {
    len.div_ceil(PAGES.page_size())
}

/// The allocator, for `#[global_allocator]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SysMem;

// SAFETY: `allocate` gives memory of the size and alignment asked for that is nobody else's until
// it is freed, and null when it cannot.
unsafe impl GlobalAlloc for SysMem {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocate(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocate_zeroed(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn dealloc(&self, address: *mut u8, _layout: Layout) {
        // SAFETY: the caller hands back what `alloc` gave.
        unsafe { free(address) }
    }

    #[inline]
    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller hands in what `alloc` gave.
        unsafe { reallocate(address, size, layout.align()) }
    }
}

/// `size` bytes at a multiple of `align`, a power of two. Null when memory has run out; `errno` says
/// so then.
///
/// A size of zero gives a pointer of its own, to be freed as any other.
#[inline]
pub fn allocate(size: usize, align: usize) -> *mut u8 {
    allocate_block(size, align, false)
}

/// As [`allocate`], all bytes zero. Memory that is known to be zero is not cleared again.
#[inline]
pub fn allocate_zeroed(size: usize, align: usize) -> *mut u8 {
    allocate_block(size, align, true)
}

/// The alignment that every block of a class has without being asked: what a power of two times
/// an odd number in `size_class` leaves. Blocks of 8 bytes are aligned to 8 only.
const NATURAL_ALIGN: usize = 16;

/// Whether any block that holds `size` bytes is aligned to `align`.
#[inline(always)]
fn is_aligned_anyway(size: usize, align: usize) -> bool {
    align <= 8 || align <= NATURAL_ALIGN && size > 8
}

#[inline(always)]
fn allocate_block(size: usize, align: usize, zeroed: bool) -> *mut u8 {
    if size > size_class::LARGEST_SMALL || !is_aligned_anyway(size, align) {
        return allocate_more(size, align, zeroed);
    }
    let gate = thread_slot::get();
    let span = gate.enter_for(size);
    let block = span.take_freed();
    if block.is_null() {
        return allocate_unused(span, size, align, zeroed);
    }
    // SAFETY: there is a heap behind a gate that shows a block.
    unsafe { ThreadHeap::behind(gate) }.hand_out(span, block, size, zeroed, false)
}

/// A small block where the current span has none that was freed. The calling thread entered its gate
/// for the span.
#[inline(never)]
extern "C" fn allocate_unused(span: &Span, size: usize, align: usize, zeroed: bool) -> *mut u8 {
    let block = span.take_unused();
    if block.is_null() {
        return allocate_more(size, align, zeroed);
    }
    // SAFETY: as in `allocate_block`.
    let heap = unsafe { ThreadHeap::behind(thread_slot::get()) };
    heap.hand_out(span, block, size, zeroed, span.zeroed.get())
}

/// More than a small block, or what is not to be had at once.
#[inline(never)]
extern "C" fn allocate_more(size: usize, align: usize, zeroed: bool) -> *mut u8 {
    if size <= size_class::LARGEST && is_aligned_anyway(size, align) {
        let class = size_class::of_size(size);
        if let Some(heap) = lifecycle::enter() {
            return heap.allocate(class, size, zeroed);
        }
    }
    allocate_unusual(size, align, zeroed)
}

/// Large, over-aligned, or the first allocation of a thread.
#[cold]
#[inline(never)]
extern "C" fn allocate_unusual(size: usize, align: usize, zeroed: bool) -> *mut u8 {
    allocate_in_any_heap(size, zeroed, |heap| match size_class::of_layout(size, align) {
        Some(class) => heap.allocate_behind_gate(class, size),
        None => large::allocate(heap, size, align),
    })
}

/// Frees what any of the functions here allocated. Null is nothing to free. Leaves `errno` as it
/// was.
///
/// A pointer that no allocation begins at ends the program with a line that says so, where that
/// can be seen.
///
/// # Safety
///
/// `address` is null, or came from a function here, was not freed since, and nobody uses it.
#[inline(always)]
pub unsafe fn free(address: *mut u8) {
    let place = Place::of(address);
    if !place.is_in_map() {
        return free_unknown(address);
    }
    // SAFETY: as asked.
    let span = unsafe { place.span() };
    let gate = thread_slot::get();
    if gate.enter_as_owner_of(span) {
        // SAFETY: the block was handed out from this span, which the calling thread's heap owns.
        return unsafe { ThreadHeap::behind(gate).free(address, span) };
    }
    // SAFETY: the caller's promise.
    unsafe { free_elsewhere(address, span) }
}

/// Frees what the calling thread's heap does not own, or does not have just now. The gate was entered
/// in vain.
///
/// # Safety
///
/// As for [`free`].
#[inline(never)]
unsafe extern "C" fn free_elsewhere(address: *mut u8, span: &Span) {
    let (gate, owner) = (thread_slot::get(), span.owner.get());
    if owner.is_null() {
        gate.leave();
        return free_unknown(address);
    }
    if span.is_large() || !gate.is_open() || ptr::addr_eq(owner, gate) {
        gate.leave();
        // SAFETY: the caller's promise.
        return unsafe { free_unusual(span, address) };
    }
    // SAFETY: a gate that is open leads to the heap of this thread; owners live forever; the rest is
    // the caller's promise.
    unsafe {
        let heap = ThreadHeap::behind(gate);
        heap.count_free(span.class.get() as usize);
        heap.free_to(&*owner, address, span);
    }
    gate.leave();
}

#[cold]
#[inline(never)]
extern "C" fn free_unknown(address: *mut u8) {
    if !address.is_null() {
        misuse::not_ours("free", address);
    }
}

/// Frees a large allocation, a block of a heap that is claimed, or one in a thread without a heap.
///
/// # Safety
///
/// As for [`free`].
#[cold]
#[inline(never)]
unsafe extern "C" fn free_unusual(span: &Span, address: *mut u8) {
    let work = |heap: &ThreadHeap| {
        if span.is_large() {
            // SAFETY: the caller's promise.
            return unsafe { large::free(heap, span, address) };
        }
        if ptr::eq(span.owner.get(), heap) {
            // SAFETY: as above.
            return unsafe { heap.free_behind_gate(span, address) };
        }
        heap.count_free(span.class.get() as usize);
        // SAFETY: owners live forever.
        let owner = unsafe { &*span.owner.get() };
        // SAFETY: the caller's promise.
        unsafe { owner.free_remote(address, span) };
        lifecycle::tidy(owner);
    };
    keeping_errno(|| {
        if lifecycle::with_heap(work).is_none() && !span.is_large() {
            // No memory for a heap to count the free in: the block goes back uncounted. A large
            // allocation cannot be here, since it took a heap to make and heaps are never returned.
            // SAFETY: the caller's promise; owners live forever.
            unsafe { (*span.owner.get()).free_remote(address, span) };
        }
    });
}

/// Makes an allocation `size` bytes long, where it is if that can be, else by moving it to a place
/// that is a multiple of `align` as well. Null when memory has run out; the old one is then
/// unchanged.
///
/// # Safety
///
/// As for [`free`]; on success nobody uses the old pointer any more.
#[inline]
pub unsafe fn reallocate(address: *mut u8, size: usize, align: usize) -> *mut u8 {
    let span = page_map::find(address);
    // Zero for a large allocation, and for what is none.
    let block_size = span.block_size.get() as usize;
    if size != 0 && size <= block_size && size >= block_size / 2 {
        return address;
    }
    // SAFETY: the caller's promise.
    unsafe { reallocate_elsewhere(span, address, size, align) }
}

/// Changes the size of a large allocation, or of one that has to move.
///
/// # Safety
///
/// As for [`reallocate`]; `span` is what the page map says of the address.
#[inline(never)]
unsafe extern "C" fn reallocate_elsewhere(
    span: &Span,
    address: *mut u8,
    size: usize,
    align: usize,
) -> *mut u8 {
    if ptr::eq(span, page_map::NOTHING) {
        misuse::not_ours("realloc", address);
    }
    let usable = usable_size_in(span);
    if span.is_large() && size > size_class::LARGEST {
        let resized = lifecycle::with_own_heap(|heap| {
            // SAFETY: the allocation is the caller's.
            unsafe { large::resize_in_place(heap, span, size) }
        });
        if resized.unwrap_or(size <= usable) {
            return address;
        }
    }
    let grows = span.is_large() && size > usable.max(size_class::LARGEST);
    let moved = if grows { allocate_grown(size, align) } else { allocate(size, align) };
    if !moved.is_null() {
        // SAFETY: both are at least that long, and two allocations do not overlap.
        unsafe {
            moved.copy_from_nonoverlapping(address, size.min(usable));
            free(address);
        }
    }
    moved
}

/// A new place for a large allocation that is longer now: `size` bytes, more than any block has.
fn allocate_grown(size: usize, align: usize) -> *mut u8 {
    allocate_in_any_heap(size, false, |heap| large::allocate_grown(heap, size, align))
}

/// Allocates in the heap of the calling thread, or in a borrowed one.
fn allocate_in_any_heap(
    size: usize,
    zeroed: bool,
    allocate: impl FnOnce(&ThreadHeap) -> (*mut u8, bool),
) -> *mut u8 {
    // A larger object would break pointer subtraction.
    let found = (size <= isize::MAX as usize).then(|| lifecycle::with_heap(allocate));
    thread_heap::finish(found.flatten().unwrap_or((ptr::null_mut(), false)), size, zeroed)
}

/// The number of bytes that an allocation really has, at least what was asked for; zero for null.
///
/// # Safety
///
/// `address` is null or came from a function here and was not freed since.
pub unsafe fn usable_size(address: *mut u8) -> usize {
    if address.is_null() {
        return 0;
    }
    let span = page_map::find(address);
    if ptr::eq(span, page_map::NOTHING) {
        misuse::not_ours("usable size", address);
    }
    usable_size_in(span)
}

fn usable_size_in(span: &Span) -> usize {
    match span.is_large() {
        true => span.len.get(),
        false => span.block_size.get() as usize,
    }
}

/// What the system is told about huge pages for memory that the heap maps from now on, so to be called
/// first of all. [`HugePages::System`] to begin with.
///
/// [`HugePages::Advise`] is for programs with much memory that they go through again and again, where
/// the system makes huge pages only of what asks for them (`madvise` in
/// `/sys/kernel/mm/transparent_hugepage/enabled` of Linux): fewer faults and fewer misses of the
/// processor's address cache, for up to 2 MiB in memory where a page was touched. The scavenger then
/// also has broken huge pages made whole.
pub fn set_huge_pages(huge_pages: HugePages) {
    PAGES.set_huge_pages(huge_pages);
}

/// Gives all free memory that the calling thread can reach back to the system now, and returns how
/// many bytes that were.
pub fn release() -> usize {
    lifecycle::with_own_heap(|heap| {
        heap.collect();
        heap.release_empty();
    });
    for heap in lifecycle::heaps() {
        lifecycle::tidy(heap);
    }
    PAGES.release_all()
}
