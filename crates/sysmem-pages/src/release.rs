//! Giving free memory back to the system.
//!
//! Free pages that are backed are idle. A release takes idle pages out of the free ones, lets go
//! of the lock for the call to the system, and makes them free again, given back. So no thread
//! waits for the call, and none is handed a page that the call is about to drop.
//!
//! Reservations made for one run go first, whole. Then whole free chunks, which are whole huge
//! pages on most systems, then shorter and shorter runs; among those of one length from the
//! highest address down, because runs are handed out from the lowest up.

use sysmem::{Contents, GiveBack, Os, PageRange};

use crate::bits::PAGES as CHUNK_PAGES;
use crate::heap::{PageHeap, Pages};
use crate::page_map::Now;
use crate::region::Region;

/// The ranges of one call: a KiB on the stack.
const BATCH: usize = 64;

/// How far a release has come.
pub(crate) struct Search {
    /// The least length in pages of the runs looked for.
    least: usize,
    /// All with higher addresses were looked at.
    below: usize,
    /// There is no more, or the system refused.
    pub(crate) done: bool,
    pub(crate) refused: bool,
    /// For the scavenger, the number of its look: it leaves alone what is not idle long enough, and
    /// reservations that are longer than what should go.
    quiet_at: Option<u32>,
}

impl Search {
    /// One that has come to its end.
    pub(crate) const DONE: Search = Search { done: true, ..Search::ALL };

    /// For whatever is idle.
    const ALL: Search = Search {
        least: CHUNK_PAGES,
        below: usize::MAX,
        done: false,
        refused: false,
        quiet_at: None,
    };

    /// The scavenger's.
    pub(crate) const fn quiet_at(look: u32) -> Search {
        Search { quiet_at: Some(look), ..Search::ALL }
    }

    /// Goes on with shorter runs; whether there are any. The scavenger walks large heaps often, and
    /// takes fewer steps.
    fn shorter(&mut self) -> bool {
        if self.least == 1 {
            return false;
        }
        self.least /= if self.quiet_at.is_some() { 16 } else { 2 };
        self.below = usize::MAX;
        true
    }
}

/// What one call is to give back.
enum Work<O: Os> {
    /// The pages of the batch, all of one region, which were taken out.
    Pages { index: usize },
    /// A region, which was taken out of the list.
    Whole(Region<O>),
}

/// Ranges for one call, in no order.
struct Batch {
    ranges: [PageRange; BATCH],
    len: usize,
    npages: usize,
}

impl Batch {
    /// Adds a range if there is room.
    fn add(&mut self, start: *mut u8, len: usize) -> bool {
        for range in &mut self.ranges[..self.len] {
            if start.wrapping_add(len) == range.start {
                *range = PageRange::new(start, range.len + len);
                return true;
            }
            if range.start.wrapping_add(range.len) == start {
                range.len += len;
                return true;
            }
        }
        if self.len == BATCH {
            return false;
        }
        self.ranges[self.len] = PageRange::new(start, len);
        self.len += 1;
        true
    }

    fn ranges(&self) -> &[PageRange] {
        &self.ranges[..self.len]
    }
}

impl<O: Os + Clone> PageHeap<O> {
    /// Gives at least `bytes` of free backed memory back to the system, if there is as much, and
    /// less than a huge page more, except that a reservation made for one run goes whole. Returns
    /// how many bytes; fewer when the system refuses.
    pub fn release(&self, bytes: usize) -> usize {
        let shift = self.page_shift();
        let want = bytes.div_ceil(1 << shift);
        let mut search = Search::ALL;
        let mut released = 0;
        while released < want && !search.done {
            let _releasing = self.releasing.lock(&self.os);
            released += self.release_batch(&mut search, |_| want - released);
        }
        released << shift
    }

    /// Gives all free backed memory back to the system; returns how many bytes.
    pub fn release_all(&self) -> usize {
        self.release(usize::MAX)
    }

    /// Gives back until `keep` pages are idle, unless another thread is giving back already.
    pub(crate) fn release_down_to(&self, keep: usize) {
        let mut search = Search::ALL;
        while !search.done {
            let Some(_releasing) = self.releasing.try_lock(&self.os) else { return };
            self.release_batch(&mut search, |pages| pages.idle.saturating_sub(keep));
        }
    }

    /// One call to the system for the scavenger, unless another thread is giving back.
    pub(crate) fn scavenge(&self, search: &mut Search, want: impl FnOnce(&Pages<O>) -> usize) {
        match self.releasing.try_lock(&self.os) {
            Some(_releasing) => _ = self.release_batch(search, want),
            None => search.done = true,
        }
    }

    /// One call to the system. `want` says how many idle pages should go. Returns how many went.
    /// The caller holds the lock `releasing`.
    fn release_batch(&self, search: &mut Search, want: impl FnOnce(&Pages<O>) -> usize) -> usize {
        let nothing = PageRange::new(core::ptr::null_mut(), 0);
        let mut batch = Batch { ranges: [nothing; BATCH], len: 0, npages: 0 };
        let mut pages = self.lock();
        let want = want(&pages);
        let Some(work) = pages.choose(want, search, &mut batch, self.page_shift()) else {
            search.done = true;
            return 0;
        };
        let (released, refused) = match work {
            Work::Whole(region) => {
                drop(pages);
                let idle = region.pages.idle();
                // SAFETY: the region is out of the list: nobody else reaches its reservation.
                let returned = unsafe { region.return_reservation() };
                pages = self.lock();
                pages.finish_return(region, returned);
                (if returned { idle } else { 0 }, !returned)
            }
            Work::Pages { index } => {
                let reservation = pages.regions[index].reservation_ptr();
                drop(pages);
                // SAFETY: a region stays, and its reservation stays where it is, while a page of
                // it is not free.
                let reservation = unsafe { reservation.as_ref() };
                let how = self.options.give_back;
                // SAFETY: the pages were taken out, so they are ours and nobody uses them.
                let answer = unsafe { reservation.unused_batch_shared(batch.ranges(), how) };
                let done = answer.map_or_else(|stopped| stopped.done, |()| batch.len);
                pages = self.lock();
                (pages.put_back_batch(&batch, done, self, how), answer.is_err())
            }
        };
        if refused {
            (search.done, search.refused) = (true, true);
            pages.counts.failed_releases += 1;
            pages.idle_before_retry = pages.idle + pages.idle / 4 + CHUNK_PAGES;
        } else {
            pages.counts.releases += 1;
            pages.idle_before_retry = 0;
        }
        pages.counts.released_pages += released as u64;
        released
    }
}

impl<O: Os + Clone> Pages<O> {
    /// Takes out what the next call is to give back: of about `want` idle pages as many as go into
    /// one batch. `None` when nothing is left to be done.
    fn choose(
        &mut self,
        want: usize,
        search: &mut Search,
        batch: &mut Batch,
        shift: u32,
    ) -> Option<Work<O>> {
        let scavenges = search.quiet_at.is_some();
        if want == 0 && !scavenges {
            return None;
        }
        if want >= self.idle && search.least > 1 && !scavenges {
            // Everything goes: no use in looking for the longest first.
            *search = Search { least: 1, ..Search::ALL };
        }
        for index in (0..self.regions.len()).rev() {
            let pages = &self.regions[index].pages;
            let free = self.regions[index].dedicated && pages.busy() == 0;
            // A long one would take the scavenger long; it is emptied first.
            if free && (!scavenges || pages.idle() <= want) {
                return Some(Work::Whole(self.take_region_out(index)));
            }
        }
        if want == 0 {
            return None;
        }
        loop {
            for index in (0..self.regions.len()).rev() {
                let region = &mut self.regions[index];
                if region.start >= search.below || region.pages.idle() == 0 {
                    continue;
                }
                let below = region.page_of(search.below).min(region.pages.npages());
                let down_to = region.pages.idle_runs_below(
                    below,
                    search.least,
                    search.quiet_at,
                    |first, len| {
                        if batch.npages >= want
                            || !batch.add(region.address_of(first), len << shift)
                        {
                            return false;
                        }
                        batch.npages += len;
                        true
                    },
                );
                search.below = region.start + (down_to << shift);
                if batch.len > 0 {
                    for range in batch.ranges() {
                        let first = region.page_of(range.start.addr());
                        region.pages.take(first, range.len >> shift, None);
                    }
                    self.idle -= batch.npages;
                    self.leaving += batch.npages;
                    return Some(Work::Pages { index });
                }
            }
            if !search.shorter() {
                return None;
            }
        }
    }

    /// Makes the pages of a batch free again, of which the first `done` ranges were given back.
    /// Returns how many pages that was.
    fn put_back_batch(
        &mut self,
        batch: &Batch,
        done: usize,
        heap: &PageHeap<O>,
        how: GiveBack,
    ) -> usize {
        let zero = heap.os.unused_contract(how).contents == Contents::Zero;
        let mut released = 0;
        for (number, range) in batch.ranges().iter().enumerate() {
            let (address, npages) = (range.start.addr(), range.len >> heap.page_shift());
            let Some(index) = self.regions.find(address) else { continue };
            let region = &mut self.regions[index];
            let given_back = number < done;
            let now = if given_back { Now::GivenBack { zero } } else { Now::Unchanged };
            region.pages.put_back(region.page_of(address), npages, now);
            if given_back {
                released += npages;
            } else {
                self.idle += npages;
            }
            self.leaving -= npages;
        }
        released
    }
}
