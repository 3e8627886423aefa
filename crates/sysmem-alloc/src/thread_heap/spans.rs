//! The spans of a heap: where the next one of a class comes from, where each belongs after a free.

use core::cell::Cell;
use core::ptr;

use sysmem::native::keeping_errno;
use sysmem_pages::PAGE;

use super::{ThreadHeap, UNTOLD};
use crate::page_map::NOTHING;
use crate::size_class::CLASSES;
use crate::span::{Listing, Span};
use crate::{PAGES, metadata, misuse, page_map, scavenger};

impl ThreadHeap {
    /// A span of this class with free blocks, to be the current one; the one before it has none.
    pub(super) fn next_span(&self, class: usize) -> *const Span {
        // SAFETY: a current span is one of ours, or `NOTHING`.
        let current = unsafe { &*self.bin(class).current.get() };
        self.set_current(class, NOTHING);
        if !ptr::eq(current, NOTHING) {
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
        let Ok(run) = self.take_run(npages, PAGE) else {
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
        new.bin.set(self.bin(class));
        new.begin(Listing::Current);
        new.zeroed.set(run.zeroed);
        new.start.set(start);
        new.len.set(npages * PAGES.page_size());
        new.given_back.set(0);
        if !page_map::enter(start, new.len.get(), span) {
            // SAFETY: the run was allocated above and nobody knows of it.
            let _ = unsafe { self.give_run(run.start, npages) };
            self.give_span(span);
            return ptr::null();
        }
        span
    }

    /// Finds the right place for a span that a block was put back into; whether that is the page
    /// heap, because it was the last one.
    pub(super) fn sort_in(&self, span: &Span, block: *mut u8) -> bool {
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

    pub(super) fn link(&self, span: &Span, listing: Listing) {
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

    pub(super) fn unlink(&self, span: &Span) {
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
    pub(super) fn release(&self, span: &Span) {
        if !span.use_all_again() {
            // No memory for it now. It waits for the next time it is empty.
            return self.link(span, Listing::Trimmed);
        }
        let (start, len) = (span.start.get(), span.len.get());
        page_map::remove(start, len);
        self.give_span(ptr::from_ref(span).cast_mut());
        let Some(run) = ptr::NonNull::new(start) else { return };
        // SAFETY: the run was allocated for this span, and no block of it is in use.
        if unsafe { self.give_run(run, crate::npages(len)) }.is_err() {
            misuse::die("a span was freed whose pages are not allocated", start);
        }
    }

    /// Returns the pages of every span that holds nothing. Only current spans can be such.
    pub(crate) fn release_empty(&self) {
        for (class, bin) in self.bins.iter().enumerate() {
            let current = bin.current.get();
            // SAFETY: a current span is one of ours, or `NOTHING`.
            let span = unsafe { &*current };
            if current != NOTHING && span.used() == 0 {
                self.set_current(class, NOTHING);
                self.release(span);
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
}
