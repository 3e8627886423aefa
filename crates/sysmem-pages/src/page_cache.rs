//! Short runs without a lock.
//!
//! A cache belongs to one owner: a thread, or whatever runs on one CPU. It holds, for each length
//! of 1 to 16 pages, a few runs that are in use as far as the heap's books of pages go and that
//! nobody has. What a cache has too little or too much of it exchanges with the depot, which all caches
//! share, and what that has not or cannot hold with the heap, many runs under one lock. How much a
//! cache may hold of a length begins small and doubles with each exchange, so that a cache holds much
//! only of what its owner asks for often.
//!
//! Others may empty a cache at any time, while its owner sleeps or works: a [`Scavenger`] those
//! that were not used between two of its looks, an allocation that would otherwise be refused all
//! of them, and the depot with them.
//!
//! [`Scavenger`]: crate::Scavenger

mod depot;
mod records;
mod slots;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::*};

use sysmem::{Error, Os};

use crate::heap::{PageHeap, Run};
use crate::misuse::{Misuse, MisuseKind};
pub(crate) use depot::Depot;
pub(crate) use records::Caches;
use records::{LONGEST, Record};
use slots::{Cached, Slot};

/// Runs of up to [`LONGEST`](PageCache::LONGEST) pages at hand for one owner, who takes and frees
/// them without a lock.
///
/// A run may be allocated in one cache and freed in another or at the heap, by any thread: a cache
/// only holds what is free. What it holds is [`cached`](crate::Statistics::cached), at most 31 runs of
/// each length and not more than 2 MiB or 2 runs. Beside that at most twice as much lies in the heap's
/// depot, where a cache leaves what it has too much of and gets what it has too little of. It goes
/// back to the heap when the cache is dropped (from the depot with the last cache), when a scavenger
/// sees that it is idle, and when the heap runs out of memory.
/// Where no scavenger comes, [`PageHeap::drain_caches`] does what it does. It also takes what is in
/// the caches of threads that a forked child does not have; a run that such a thread had just in its
/// hands is lost to the child.
///
/// ```
/// use sysmem::Native;
/// use sysmem_pages::{Accounts, Options, PAGE, PageHeap};
///
/// static ACCOUNTS: Accounts = Accounts::new("buffers", "buffers: records");
/// static HEAP: PageHeap<Native> = PageHeap::new(Native::NEW, &ACCOUNTS, Options::new());
///
/// let workers: Vec<_> = (0..2)
///     .map(|_| {
///         std::thread::spawn(|| {
///             let mut cache = HEAP.cache()?;
///             for npages in (1..=16).cycle().take(10_000) {
///                 let run = cache.allocate(npages, PAGE)?;
///                 // SAFETY: the first byte of a run that is ours, and freed once.
///                 unsafe {
///                     run.start.write(1);
///                     cache.free(run.start, run.npages).expect("a run of this heap");
///                 }
///             }
///             Ok::<_, sysmem::Error>(())
///         })
///     })
///     .collect();
/// for worker in workers {
///     worker.join().unwrap()?;
/// }
/// let statistics = HEAP.statistics();
/// assert_eq!((statistics.allocations, statistics.in_use, statistics.cached), (20_000, 0, 0));
/// # Ok::<(), sysmem::Error>(())
/// ```
pub struct PageCache<'heap, O: Os + Clone> {
    heap: &'heap PageHeap<O>,
    /// In the heap's records until the cache is dropped.
    record: &'heap Record,
    /// By length: the slots that the owner filled and has not emptied.
    filled: [u8; LONGEST],
    page_size: usize,
}

impl<O: Os + Clone> PageHeap<O> {
    /// A cache that holds nothing yet. It costs 4 KiB of records, which a cache that is dropped
    /// leaves to the next, and the first 8 KiB more.
    pub fn cache(&self) -> Result<PageCache<'_, O>, Error> {
        let mut pages = self.lock();
        pages.open_depot(self)?;
        let record = pages.metadata.take::<Record>(1, &self.os, &self.accounts.metadata)?;
        // SAFETY: all zeros are a record; it is given back when the cache is dropped, and the heap
        // outlives the cache.
        let record: &Record = unsafe { record.as_ref() };
        // SAFETY: as above; dropping the cache takes it out.
        unsafe { pages.caches.insert(record) };
        drop(pages);
        Ok(PageCache { heap: self, record, filled: [0; LONGEST], page_size: self.page_size() })
    }
}

/// Adds one to a figure that one thread writes.
#[inline]
fn count(figure: &AtomicU64) {
    figure.store(figure.load(Relaxed) + 1, Relaxed);
}

impl<O: Os + Clone> PageCache<'_, O> {
    /// The longest runs in pages that a cache holds. Longer ones, and those with more alignment
    /// than a page's, it asks the heap for, and frees there.
    pub const LONGEST: usize = LONGEST;

    /// Hands out a run, as [`PageHeap::allocate`] does.
    #[inline]
    pub fn allocate(&mut self, npages: usize, align: usize) -> Result<Run, Error> {
        let fits = (1..=LONGEST).contains(&npages);
        if !fits || !align.is_power_of_two() || align > self.page_size {
            return self.heap.allocate(npages, align);
        }
        let record = self.record;
        match slots::pop(record.slots(npages), &mut self.filled[npages - 1]) {
            Some(run) => {
                count(&record.allocations);
                Ok(Run { start: run.start(), npages, zeroed: run.zeroed() })
            }
            None => self.refill(npages),
        }
    }

    /// Takes back a run that was allocated here, in another cache or at the heap.
    ///
    /// What is no run is found at once only where that costs nothing, and otherwise when it comes
    /// back to the heap: then the next call that comes there says so, and
    /// [`Misuse::address`] tells of which run.
    ///
    /// # Safety
    ///
    /// As for [`PageHeap::free`].
    #[inline]
    pub unsafe fn free(&mut self, start: NonNull<u8>, npages: usize) -> Result<(), Misuse> {
        if !(1..=LONGEST).contains(&npages) {
            // SAFETY: the caller's promise.
            return unsafe { self.heap.free(start, npages) };
        }
        if start.addr().get() & (self.page_size - 1) != 0 {
            return Err(Misuse::new(start.addr().get(), npages, MisuseKind::Unaligned));
        }
        let record = self.record;
        let (slots, filled) = (record.slots(npages), &mut self.filled[npages - 1]);
        let last = filled.checked_sub(1).and_then(|last| slots[last as usize].look());
        if last.is_some_and(|last| last.start() == start) {
            return Err(Misuse::new(start.addr().get(), npages, MisuseKind::AlreadyFree));
        }
        if *filled >= record.limit(npages) {
            return self.flush(start, npages);
        }
        slots::push(slots, filled, Cached::new(start, false));
        count(&record.frees);
        Ok(())
    }

    /// A run from the depot or the heap, and more of its length for the next time, if they cost
    /// nothing but the search.
    #[cold]
    #[inline(never)]
    fn refill(&mut self, npages: usize) -> Result<Run, Error> {
        let (heap, record) = (self.heap, self.record);
        let (slots, filled) = (record.slots(npages), &mut self.filled[npages - 1]);
        let mut depot = heap.depot.lock(&heap.os);
        let (limit, is_raised) = depot.raise_limit(record, npages, heap.page_shift());
        let first = depot.take(npages);
        let first = first.map(|run| Run { start: run.start(), npages, zeroed: run.zeroed() });
        *filled = 0;
        while let Some(run) = (*filled < limit / 2).then(|| depot.take(npages)).flatten() {
            slots::push(slots, filled, run);
        }
        drop(depot);
        let (mut pages, run) = match first {
            Some(run) if *filled == limit / 2 && !is_raised => {
                count(&record.allocations);
                return Ok(run);
            }
            Some(run) => (heap.lock(), run),
            None => heap.take_run(npages, 1, 0)?,
        };
        count(&record.allocations);
        while *filled < limit / 2 {
            let Some(run) = pages.take_another(heap, npages) else { break };
            slots::push(slots, filled, Cached::new(run.start, run.zeroed));
        }
        heap.call_if_due(pages);
        Ok(run)
    }

    /// Frees a run where a cache may hold no more of its length: raises that limit, or makes room.
    #[cold]
    #[inline(never)]
    fn flush(&mut self, start: NonNull<u8>, npages: usize) -> Result<(), Misuse> {
        let (heap, record, shift) = (self.heap, self.record, self.heap.page_shift());
        let (slots, filled) = (record.slots(npages), &mut self.filled[npages - 1]);
        if slots.iter().filter_map(Slot::look).any(|run| run.start() == start) {
            return Err(Misuse::new(start.addr().get(), npages, MisuseKind::AlreadyFree));
        }
        let mut depot = heap.depot.lock(&heap.os);
        let (limit, is_raised) = depot.raise_limit(record, npages, shift);
        if *filled >= limit {
            let count = (*filled - limit / 2).min(depot.space(npages, limit));
            slots::take_oldest(slots, filled, count, |run| depot.put(npages, run));
        }
        let has_grown = is_raised | depot.has_grown(shift);
        drop(depot);
        let mut misuse = None;
        if *filled >= limit || has_grown {
            let mut pages = heap.lock();
            misuse = pages.caches.misuse.take();
            if *filled >= limit {
                slots::take_oldest(slots, filled, *filled - limit / 2, |run| {
                    misuse = pages.take_back(run.start(), npages, shift).err().or(misuse);
                });
            }
            heap.release_if_due(pages);
        }
        slots::push(slots, filled, Cached::new(start, false));
        count(&record.frees);
        misuse.map_or(Ok(()), Err)
    }

    /// Gives everything back to the heap. An error says of one run that it was none.
    pub fn drain(&mut self) -> Result<(), Misuse> {
        let mut pages = self.heap.lock();
        pages.drain(self.record, self.heap);
        self.filled = [0; LONGEST];
        let misuse = pages.caches.misuse.take();
        self.heap.release_if_due(pages);
        misuse.map_or(Ok(()), Err)
    }
}

impl<O: Os + Clone> Drop for PageCache<'_, O> {
    fn drop(&mut self) {
        let mut pages = self.heap.lock();
        let record = self.record;
        pages.drain(record, self.heap);
        pages.counts.allocations += record.allocations.load(Relaxed);
        pages.counts.frees += record.frees.load(Relaxed);
        pages.caches.remove(record);
        if pages.caches.is_empty() {
            for npages in 1..=LONGEST {
                pages.drain_depot(self.heap, npages, false);
            }
        }
        // SAFETY: taken when the cache was made, out of the list, and not used any more.
        unsafe { pages.metadata.give(NonNull::from(record), 1) };
        self.heap.release_if_due(pages);
    }
}
