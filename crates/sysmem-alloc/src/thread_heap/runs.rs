//! Runs of pages for the spans of a heap: short ones from a cache of its own, without the page
//! heap's lock.
//!
//! A heap gets its cache with the first run that it gives back, and keeps it as long as a thread runs
//! it: threads that only ever need more have none. What is in the cache while the thread is idle goes
//! to the page heap by the scavenger of that, without a visit to this one.

use core::cell::{Cell, UnsafeCell};
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use sysmem::{Error, Native};
use sysmem_pages::{Misuse, PAGE, PageCache, Run};

use super::{LIVE, ThreadHeap};
use crate::PAGES;
use crate::hook::Occasion;

/// How many pages make a difference that the hook is told of: 1 MiB, where pages have 8 KiB.
const MUCH: usize = (1 << 20) / PAGE;

pub(super) struct Runs {
    cache: UnsafeCell<Option<PageCache<'static, Native>>>,
    /// Pages taken less pages given back, since the hook was last told that they are many.
    moved: Cell<isize>,
}

impl Runs {
    pub(super) const fn new() -> Runs {
        Runs { cache: UnsafeCell::new(None), moved: Cell::new(0) }
    }

    /// # Safety
    ///
    /// The caller has the heap, and no other reference that came from here.
    #[expect(clippy::mut_from_ref)] // The caller's promise.
    unsafe fn cache(&self) -> &mut Option<PageCache<'static, Native>> {
        // SAFETY: whoever has the heap is alone with it.
        unsafe { &mut *self.cache.get() }
    }
}

impl ThreadHeap {
    /// A run of pages at a multiple of `align` bytes.
    pub(crate) fn take_run(&self, npages: usize, align: usize) -> Result<Run, Error> {
        // SAFETY: the caller has the heap, and the page heap calls nobody.
        let run = match unsafe { self.runs.cache() } {
            Some(cache) => cache.allocate(npages, align.max(PAGE)),
            None => PAGES.allocate(npages, align.max(PAGE)),
        };
        if run.is_ok() {
            self.note_moved(npages as isize);
        }
        run
    }

    /// Gives a run back.
    ///
    /// # Safety
    ///
    /// Nobody uses it any more, and it came from [`take_run`](ThreadHeap::take_run) of any heap, or
    /// from the page heap.
    pub(crate) unsafe fn give_run(&self, start: NonNull<u8>, npages: usize) -> Result<(), Misuse> {
        self.note_moved(-(npages as isize));
        // SAFETY: as above.
        let cache = unsafe { self.runs.cache() };
        let is_short = npages <= PageCache::<Native>::LONGEST;
        if cache.is_none() && is_short && self.state().load(Relaxed) == LIVE {
            *cache = PAGES.cache().ok();
        }
        match cache {
            // SAFETY: the caller's promise.
            Some(cache) => unsafe { cache.free(start, npages) },
            // SAFETY: as above.
            None => unsafe { PAGES.free(start, npages) },
        }
    }

    /// Counts pages that were taken, or if negative given back, by this heap's thread.
    pub(crate) fn note_moved(&self, npages: isize) {
        self.runs.moved.set(self.runs.moved.get() + npages);
    }

    /// What there is to tell the hook, which is called now.
    pub(crate) fn occasion(&self) -> Occasion {
        if self.runs.moved.get().unsigned_abs() < MUCH {
            return Occasion::Busy;
        }
        self.runs.moved.set(0);
        Occasion::Moved
    }

    /// Does without a cache from now on: no thread will run the heap for a while.
    pub(crate) fn drop_cache(&self) {
        // SAFETY: as above.
        *unsafe { self.runs.cache() } = None;
    }
}
