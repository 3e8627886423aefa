//! Giving free memory back to the system.
//!
//! Free pages that are backed are idle. A release takes idle pages out of the free ones, lets go
//! of the lock for the call to the system, and makes them free again, given back. So no thread
//! waits for the call, and none is handed a page that the call is about to drop.
//!
//! Free huge pages go first, whole. Then what is idle in huge pages that are broken already, which
//! loses nothing; then sparse huge pages are broken before full ones, which loses least for what it
//! gives, and long runs go before short ones; from the highest address down. A long reservation that
//! is wholly free is returned.

use core::ptr::NonNull;

use sysmem::{Contents, Os, PageRange, Reservation};

use crate::block::{Block, Now};
use crate::heap::PageHeap;
use crate::pages::{Pages, parts};
use crate::returning::Returning;
use crate::scavenger::QUIET_LOOKS;
use crate::standing::{RELEASE_ORDER, WHOLE, WHOLE_CLASS};

/// The ranges of one call: two KiB on the stack, and as much again as the system takes them. With
/// half as many, what each call costs by itself is a twentieth of the whole.
pub(crate) const BATCH: usize = 128;

/// A reservation goes whole for up to this part more than was asked for.
const SLACK: usize = 8;

/// What a release looks for, in this order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Free huge pages.
    Whole,
    /// Idle pages in huge pages of the rank at this place in the order in which ranks are released,
    /// whose longest free run is of this class.
    Ranked { place: usize, class: usize },
    /// Whatever is idle.
    Any,
}

/// How far a release has come.
pub(crate) struct Search {
    stage: Stage,
    /// All huge pages from this one on were looked at.
    below: usize,
    /// There is no more, or the system refused.
    pub(crate) done: bool,
    pub(crate) refused: bool,
    /// For the scavenger, the number of its look: it leaves alone what is not idle long enough.
    quiet_at: Option<u32>,
}

impl Search {
    /// One that has come to its end.
    pub(crate) const DONE: Search = Search { done: true, ..Search::ALL };

    /// For whatever is idle.
    const ALL: Search = Search {
        stage: Stage::Whole,
        below: usize::MAX,
        done: false,
        refused: false,
        quiet_at: None,
    };

    /// The scavenger's.
    pub(crate) const fn quiet_at(look: u32) -> Search {
        Search { quiet_at: Some(look), ..Search::ALL }
    }

    /// The next huge page that this stage finds.
    fn next<O: Os>(&self, pages: &Pages<O>) -> Option<usize> {
        match self.stage {
            Stage::Whole => pages.tree.last_free_backed(),
            Stage::Ranked { place, class } => {
                pages.tree.last_idle_of(RELEASE_ORDER[place], class, self.below)
            }
            Stage::Any => pages.tree.last_idle(self.below),
        }
    }

    /// Goes on with the next stage; whether there is one.
    fn next_stage(&mut self) -> bool {
        let longest = WHOLE_CLASS - 1;
        self.stage = match self.stage {
            Stage::Whole => Stage::Ranked { place: 0, class: longest },
            Stage::Ranked { place, class } if class > 0 => {
                Stage::Ranked { place, class: class - 1 }
            }
            Stage::Ranked { place, .. } if place + 1 < RELEASE_ORDER.len() => {
                Stage::Ranked { place: place + 1, class: longest }
            }
            // What was left of huge pages that changed their rank meanwhile.
            Stage::Ranked { .. } => Stage::Any,
            Stage::Any => return false,
        };
        self.below = usize::MAX;
        true
    }

    /// Whether idle pages may be taken from this huge page.
    fn takes_from(&self, block: &Block) -> bool {
        let untouched = self.quiet_at.map(|look| look.wrapping_sub(block.touched()));
        block.is_free() || untouched.is_none_or(|looks| looks >= QUIET_LOOKS)
    }
}

/// What one call is to give back.
enum Work<O: Os> {
    /// The ranges of the batch, all of one reservation, which were taken out.
    Ranges(NonNull<Reservation<O>>),
    /// A whole reservation.
    Whole(Returning<O>),
}

/// Ranges for one call, in no order: pages and how many.
pub(crate) struct Batch {
    ranges: [(usize, usize); BATCH],
    len: usize,
    pub(crate) npages: usize,
    /// The region that all of them lie in.
    region: Option<usize>,
}

impl Batch {
    pub(crate) const EMPTY: Batch =
        Batch { ranges: [(0, 0); BATCH], len: 0, npages: 0, region: None };

    /// Adds pages if there is room.
    pub(crate) fn add(&mut self, first: usize, npages: usize) -> bool {
        // Idle runs of one huge page never touch each other.
        let may_join = first % WHOLE == 0 || (first + npages) % WHOLE == 0;
        let ranges = &mut self.ranges[..if may_join { self.len } else { 0 }];
        if let Some(range) = ranges.iter_mut().find(|range| first + npages == range.0) {
            *range = (first, range.1 + npages);
        } else if let Some(range) = ranges.iter_mut().find(|range| range.0 + range.1 == first) {
            range.1 += npages;
        } else if self.len < BATCH {
            self.ranges[self.len] = (first, npages);
            self.len += 1;
        } else {
            return false;
        }
        self.npages += npages;
        true
    }

    fn ranges(&self) -> &[(usize, usize)] {
        &self.ranges[..self.len]
    }
}

impl<O: Os + Clone> PageHeap<O> {
    /// Gives at least `bytes` of free backed memory back to the system, if there is as much, and
    /// less than a huge page more, or up to an eighth where a whole reservation goes. Returns how many
    /// bytes; fewer when the system refuses. Drains caches if there is less otherwise.
    pub fn release(&self, bytes: usize) -> usize {
        let shift = self.page_shift();
        let want = bytes.div_ceil(1 << shift);
        if self.lock().idle < want {
            self.drain_caches();
        }
        let mut search = Search::ALL;
        let mut released = 0;
        while released < want && !search.done {
            let _releasing = self.releasing.lock(&self.os);
            released += self.release_batch(&mut search, |_| want - released);
        }
        released << shift
    }

    /// Gives all free backed memory back to the system, that in caches too; returns how many bytes.
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
        let mut batch = Batch::EMPTY;
        let mut pages = self.lock();
        let want = want(&pages);
        let Some(work) = pages.choose(want, search, &mut batch, self.page_shift()) else {
            search.done = true;
            return 0;
        };
        drop(pages);
        let (released, refused) = match work {
            Work::Whole(leaving) => self.give_back_whole(leaving),
            Work::Ranges(reservation) => self.give_back(reservation, &batch),
        };
        let mut pages = self.lock();
        if refused {
            (search.done, search.refused) = (true, true);
            pages.counts.failed_releases += 1;
            pages.idle_before_retry = pages.idle + pages.idle / 4 + WHOLE;
        } else {
            pages.counts.releases += 1;
            pages.idle_before_retry = 0;
        }
        pages.counts.released_pages += released as u64;
        if search.quiet_at.is_some() {
            let work = &mut pages.counts.scavenger;
            work.releases += u64::from(!refused);
            work.failed_releases += u64::from(refused);
            work.released += (released as u64) << self.page_shift();
        }
        released
    }

    /// Returns a reservation; how many pages were given back, and whether the system refused.
    fn give_back_whole(&self, leaving: Returning<O>) -> (usize, bool) {
        let returned = leaving.to_system();
        let idle = leaving.idle;
        self.lock().finish_return(leaving, returned);
        (if returned { idle } else { 0 }, !returned)
    }

    /// Gives back the pages of a batch; how many were, and whether the system refused.
    /// The caller holds the lock `releasing`.
    pub(crate) fn give_back(
        &self,
        reservation: NonNull<Reservation<O>>,
        batch: &Batch,
    ) -> (usize, bool) {
        let how = self.options.give_back;
        let mut ranges = [PageRange::new(core::ptr::null_mut(), 0); BATCH];
        for (range, &(first, npages)) in ranges.iter_mut().zip(batch.ranges()) {
            *range = PageRange::new(self.address_of(first).as_ptr(), npages << self.page_shift());
        }
        // SAFETY: a region stays, and its reservation stays where it is, while a page of it is
        // not free.
        let reservation = unsafe { reservation.as_ref() };
        self.keep_small(reservation, batch.ranges());
        // SAFETY: the pages were taken out, so they are ours and nobody uses them.
        let answer = unsafe { reservation.unused_batch_shared(&ranges[..batch.len], how) };
        let done = answer.map_or_else(|stopped| stopped.done, |()| batch.len);
        let zero = self.os.unused_contract(how).contents == Contents::Zero;
        let start = batch.ranges()[0].0;
        let mut pages = self.lock();
        if let (Err(stopped), Some(index)) = (&answer, pages.regions.find(start)) {
            pages.note_refusal(index, &stopped.error);
        }
        let released = pages.put_back_batch(batch, done, zero);
        // What is left of a reservation without any memory is address space.
        let shift = self.page_shift();
        let is_empty = |&index: &usize| pages.idle_of_returnable(index, shift) == Some(0);
        let region = pages.regions.find(start).filter(is_empty);
        if let Some(leaving) = region.and_then(|index| pages.withdraw(index)) {
            drop(pages);
            self.give_back_whole(leaving);
        }
        (released, answer.is_err())
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
        if want == 0 {
            return None;
        }
        if want >= self.idle && search.quiet_at.is_none() && search.stage != Stage::Any {
            // Everything goes: no use in looking for the best first.
            *search = Search { stage: Stage::Any, ..Search::ALL };
        }
        loop {
            let Some(number) = search.next(self) else {
                if batch.len > 0 || !search.next_stage() {
                    break;
                }
                continue;
            };
            // Every page of the heap lies in a region.
            let idle = self.tree.block(number).and_then(|block| block.idle_runs().next());
            let Some(index) = idle.and_then(|(at, _)| self.regions.find(number * WHOLE + at))
            else {
                break;
            };
            if self.regions[index].lost {
                self.lose_freed(index, number);
                continue;
            }
            if batch.len == 0 {
                // A reservation that is to go as a whole goes in one call.
                let enough = want.saturating_add(want / SLACK);
                if self.idle_of_returnable(index, shift).is_some_and(|idle| idle <= enough) {
                    return self.withdraw(index).map(Work::Whole);
                }
            }
            let complete = self.take_idle(index, number, want, search, batch);
            if !complete {
                break;
            }
            search.below = number;
        }
        self.idle -= batch.npages;
        self.leaving += batch.npages;
        batch.region.map(|index| Work::Ranges(self.regions[index].reservation_ptr()))
    }

    /// Takes idle pages of a huge page, of which the first lie in a region, into a batch; false if the
    /// batch takes no more.
    fn take_idle(
        &mut self,
        index: usize,
        number: usize,
        want: usize,
        search: &Search,
        batch: &mut Batch,
    ) -> bool {
        let Some(block) = self.tree.block(number) else { return true };
        if !search.takes_from(block) {
            return true;
        }
        for (at, len) in block.idle_runs() {
            let first = number * WHOLE + at;
            let region = &self.regions[*batch.region.get_or_insert(index)];
            if !region.contains(first) || batch.npages >= want || !batch.add(first, len) {
                return false;
            }
            self.tree.change(number, |block| block.take_leaving(at, len));
        }
        true
    }

    /// Makes the pages of a batch free again, of which the first `done` ranges were given back; if
    /// their reservation is lost, all of them are out of the heap. Returns how many pages that was.
    pub(crate) fn put_back_batch(&mut self, batch: &Batch, done: usize, zero: bool) -> usize {
        let released = batch.ranges()[..done].iter().map(|&(_, npages)| npages).sum();
        self.leaving -= batch.npages;
        let index = self.regions.find(batch.ranges()[0].0);
        if index.is_some_and(|index| self.regions[index].lost) {
            self.lose(batch.npages);
            return released;
        }
        self.idle += batch.npages - released;
        let look = self.look;
        for (number, &(first, npages)) in batch.ranges().iter().enumerate() {
            let now = if number < done { Now::GivenBack { zero, look } } else { Now::Unchanged };
            for (block, at, len) in parts(first, npages) {
                self.tree.change(block, |block| block.put_back(at, len, now));
            }
        }
        released
    }
}
