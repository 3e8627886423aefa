//! Large allocations: whole pages, straight from the page heap.

use core::ptr::{self, NonNull};

use sysmem_pages::PAGE;

use crate::scavenger::After;
use crate::size_class::NO_CLASS;
use crate::span::{LARGE, Span};
use crate::thread_heap::ThreadHeap;
use crate::{PAGES, hook, misuse, npages, page_map, sampling, scavenger};

/// A large allocation that grows and has to move is going to grow again: from this many bytes on it
/// gets a reservation with room. Smaller ones would make many mappings for little that is not copied.
const ROOM_FROM: usize = 1 << 20;

/// The room, as a multiple of what it has grown to. So an allocation moves once in four doublings, in
/// steps however small.
const ROOM: usize = 15;

/// Allocates `size` bytes aligned to `align`; the second value says whether they are known to be
/// zero. Null when memory has run out, or the address space.
pub(crate) fn allocate(heap: &ThreadHeap, size: usize, align: usize) -> (*mut u8, bool) {
    allocate_with_room(heap, size, align, 0)
}

/// As [`allocate`], for an allocation that has grown and moves here.
pub(crate) fn allocate_grown(heap: &ThreadHeap, size: usize, align: usize) -> (*mut u8, bool) {
    let room = if size >= ROOM_FROM { ROOM.saturating_mul(size) } else { 0 };
    allocate_with_room(heap, size, align, room)
}

fn allocate_with_room(
    heap: &ThreadHeap,
    size: usize,
    align: usize,
    room: usize,
) -> (*mut u8, bool) {
    let Some(len) = size.max(1).checked_next_multiple_of(PAGES.page_size()) else {
        return (ptr::null_mut(), false);
    };
    let Some((span, zeroed)) = take_run(heap, len, align, room) else {
        return (ptr::null_mut(), false);
    };
    span.class.set(NO_CLASS);
    span.sample.set(sampling::large(heap, size, len));
    count_allocation(heap, size, len);
    scavenger::start_if_due(After::Allocation);
    hook::call(heap.occasion());
    (span.start.get(), zeroed)
}

/// Pages for one block of a class, whose free is to be told of. The caller has counted it.
pub(crate) fn allocate_sampled(
    heap: &ThreadHeap,
    class: usize,
    block_size: usize,
    sample: u64,
) -> (*mut u8, bool) {
    let len = block_size.next_multiple_of(PAGES.page_size());
    let Some((span, zeroed)) = take_run(heap, len, PAGE, 0) else {
        return (ptr::null_mut(), false);
    };
    span.class.set(class as u8);
    span.sample.set(sample);
    (span.start.get(), zeroed)
}

/// A run of pages with a span of its own, entered in the page map; whether it is zero.
fn take_run(
    heap: &ThreadHeap,
    len: usize,
    align: usize,
    room: usize,
) -> Option<(&'static Span, bool)> {
    let npages = npages(len);
    let span = heap.take_span();
    // SAFETY: a span that describes nothing is this heap's alone; null is out of memory.
    let new = unsafe { span.as_ref() }?;
    let run = match room {
        0 => heap.take_run(npages, align),
        room => {
            let run = PAGES.allocate_with_room(npages, align.max(PAGE), crate::npages(room));
            run.inspect(|_| heap.note_moved(npages as isize))
        }
    };
    let Ok(run) = run else {
        heap.give_span(span);
        return None;
    };
    new.owner.set(LARGE);
    new.block_size.set(0);
    new.start.set(run.start.as_ptr());
    new.len.set(len);
    if !page_map::enter_first(run.start.as_ptr(), span) {
        // SAFETY: the run was allocated above and nobody knows of it.
        let _ = unsafe { heap.give_run(run.start, npages) };
        heap.give_span(span);
        return None;
    }
    Some((new, run.zeroed))
}

/// Frees a large allocation, or a sampled one.
///
/// # Safety
///
/// Nobody uses it any more.
pub(crate) unsafe fn free(heap: &ThreadHeap, span: &Span, address: *mut u8) {
    let (start, len, class) = (span.start.get(), span.len.get(), span.class.get());
    if address != start {
        misuse::not_ours("free", address);
    }
    page_map::remove_first(start);
    sampling::freed(span.sample.replace(0));
    heap.give_span(ptr::from_ref(span).cast_mut());
    match class {
        NO_CLASS => count_free(heap, len),
        class => heap.count_free(class as usize),
    }
    let Some(start) = NonNull::new(start) else { return };
    // SAFETY: the pages were allocated for this span, and nobody uses them.
    if unsafe { heap.give_run(start, npages(len)) }.is_err() {
        misuse::double_free(address);
    }
    scavenger::start_if_due(After::Free);
    hook::call(heap.occasion());
}

/// Makes a large allocation `size` bytes long where it is, if that can be.
///
/// # Safety
///
/// The allocation is the caller's.
pub(crate) unsafe fn resize_in_place(heap: &ThreadHeap, span: &Span, size: usize) -> bool {
    let wanted = size.checked_next_multiple_of(PAGES.page_size());
    let Some(wanted) = wanted.filter(|&wanted| wanted <= isize::MAX as usize) else { return false };
    let len = span.len.get();
    let Some(start) = NonNull::new(span.start.get()) else { return false };
    // A sampled block counts in its class; it becomes large elsewhere.
    if span.class.get() != NO_CLASS {
        return false;
    }
    if wanted != len {
        let (before, after) = (npages(len), npages(wanted));
        // SAFETY: the pages are the caller's, who gives up those past the new end.
        if wanted < len && unsafe { PAGES.shrink(start, before, after) }.is_err() {
            misuse::double_free(start.as_ptr());
        }
        // SAFETY: the pages are the caller's.
        if wanted > len && unsafe { PAGES.extend(start, before, after) }.is_none() {
            return false;
        }
        span.len.set(wanted);
        heap.note_moved(after as isize - before as isize);
    }
    // As if it had been freed and allocated anew.
    sampling::freed(span.sample.get());
    span.sample.set(sampling::large(heap, size, wanted));
    count_free(heap, len);
    count_allocation(heap, size, wanted);
    scavenger::start_if_due(if wanted < len { After::Free } else { After::Allocation });
    if wanted != len {
        hook::call(heap.occasion());
    }
    true
}

fn count_allocation(heap: &ThreadHeap, size: usize, bytes: usize) {
    heap.large_allocations.add(1);
    heap.large_requested.add(size as u64);
    heap.large_allocated_bytes.add(bytes as u64);
}

fn count_free(heap: &ThreadHeap, bytes: usize) {
    heap.large_frees.add(1);
    heap.large_freed_bytes.add(bytes as u64);
}
