//! What the heap's lock guards: every page, and what is done with pages under it.

use core::ptr::NonNull;
use core::time::Duration;

use sysmem::{Error, Os};

use crate::block::{Block, Now};
use crate::heap::{PageHeap, Run};
use crate::limit::Limits;
use crate::metadata::Metadata;
use crate::misuse::{Misuse, MisuseKind};
use crate::page_cache::Caches;
use crate::region::Regions;
use crate::scavenger::Keeper;
use crate::standing::{WHOLE, WHOLE_CLASS, class_of};
use crate::statistics::ScavengerWork;
use crate::tree::{Place, Tree};

/// What the lock guards.
pub(crate) struct Pages<O: Os> {
    pub(crate) regions: Regions<O>,
    pub(crate) tree: Tree,
    pub(crate) metadata: Metadata<O>,
    /// Pages of address space, and those of them that are mapped. Lost ones are not among them.
    pub(crate) reserved: usize,
    pub(crate) mapped: usize,
    pub(crate) lost: usize,
    /// What the next reservation for all should be long, in bytes; zero before the first.
    pub(crate) next_reservation: usize,
    pub(crate) in_use: usize,
    pub(crate) idle: usize,
    /// Pages that are neither in use nor free, because they are being given back.
    pub(crate) leaving: usize,
    /// Regions that were taken out of the list and are being returned outside the lock.
    pub(crate) departing: usize,
    /// Whether the system was ever told that a huge page should be one, and how many of them it was
    /// told to keep small since.
    pub(crate) has_advised: bool,
    pub(crate) small: usize,
    /// The huge page that the system is just making whole, outside the lock.
    pub(crate) collapsing: Option<usize>,
    /// Whether a broken huge page became dense since a scavenger looked for those to be made whole,
    /// and whether it would find any: where the system makes none, nobody waits for it.
    pub(crate) newly_dense: bool,
    pub(crate) makes_whole: bool,
    /// Bytes in use whose memory was given back, and whether more is just going.
    pub(crate) given_back_in_use: usize,
    pub(crate) giving_back_in_use: bool,
    pub(crate) counts: Counts,
    /// After a release that was refused, freeing does not try again before this many pages are
    /// idle.
    pub(crate) idle_before_retry: usize,
    pub(crate) keeper: Keeper,
    /// How often a scavenger looked; wraps.
    pub(crate) look: u32,
    pub(crate) peak_since_look: usize,
    pub(crate) limits: Option<Limits>,
    pub(crate) caches: Caches,
}

// SAFETY: pointers lead to metadata, which belongs to the heap as a value; reservations are Send
// where their system is.
unsafe impl<O: Os + Send> Send for Pages<O> {}

/// Events, and the most pages there were.
pub(crate) struct Counts {
    pub(crate) peak_in_use: usize,
    pub(crate) allocations: u64,
    pub(crate) frees: u64,
    pub(crate) extensions: u64,
    pub(crate) shrinks: u64,
    pub(crate) grows: u64,
    pub(crate) reservations: u64,
    pub(crate) returned_reservations: u64,
    pub(crate) releases: u64,
    pub(crate) failed_releases: u64,
    pub(crate) released_pages: u64,
    pub(crate) collapses: u64,
    pub(crate) failed_collapses: u64,
    /// In bytes.
    pub(crate) released_in_use: u64,
    pub(crate) scavenger: ScavengerWork,
}

impl Counts {
    const NEW: Counts = Counts {
        peak_in_use: 0,
        allocations: 0,
        frees: 0,
        extensions: 0,
        shrinks: 0,
        grows: 0,
        reservations: 0,
        returned_reservations: 0,
        releases: 0,
        failed_releases: 0,
        released_pages: 0,
        collapses: 0,
        failed_collapses: 0,
        released_in_use: 0,
        scavenger: ScavengerWork {
            releases: 0,
            failed_releases: 0,
            released: 0,
            cpu_time: Duration::ZERO,
        },
    };
}

/// The parts of a range of pages in each huge page it touches: the huge page, the first page in it,
/// how many.
#[inline]
pub(crate) fn parts(first: usize, npages: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let (mut at, end) = (first, first + npages);
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (block, from) = (at / WHOLE, at % WHOLE);
        let len = (WHOLE - from).min(end - at);
        at += len;
        Some((block, from, len))
    })
}

impl<O: Os + Clone> Pages<O> {
    pub(crate) const fn new() -> Pages<O> {
        Pages {
            regions: Regions::new(),
            tree: Tree::new(),
            metadata: Metadata::new(),
            reserved: 0,
            mapped: 0,
            lost: 0,
            next_reservation: 0,
            in_use: 0,
            idle: 0,
            leaving: 0,
            departing: 0,
            has_advised: false,
            small: 0,
            collapsing: None,
            newly_dense: false,
            makes_whole: true,
            given_back_in_use: 0,
            giving_back_in_use: false,
            counts: Counts::NEW,
            idle_before_retry: 0,
            keeper: Keeper::Freeing,
            look: 0,
            peak_since_look: 0,
            limits: None,
            caches: Caches::new(),
        }
    }

    /// The best place for a run among free pages.
    #[inline]
    pub(crate) fn fit(&self, npages: usize, align_pages: usize) -> Option<usize> {
        if npages > WHOLE || align_pages > WHOLE {
            let block = self.tree.free_run(npages.div_ceil(WHOLE), (align_pages / WHOLE).max(1))?;
            return Some(block * WHOLE);
        }
        let place = |class| {
            let place = self.tree.best(class)?;
            let at = self.tree.at(place).fit(npages, align_pages)?;
            Some(place.number * WHOLE + at)
        };
        match place(class_of(npages)) {
            None if align_pages > 1 => {
                let slack = align_pages - 1;
                place(class_of((npages + slack).min(WHOLE))).or_else(|| place(WHOLE_CLASS))
            }
            found => found,
        }
    }

    /// The huge page that a range of pages lies in, if it lies in one, which is the heap's.
    #[inline]
    fn in_one(&self, first: usize, npages: usize) -> Option<Place> {
        if npages <= WHOLE - first % WHOLE { self.tree.place(first / WHOLE) } else { None }
    }

    /// The first page of a range that may be a run.
    #[inline]
    pub(crate) fn run_at(
        &self,
        start: NonNull<u8>,
        npages: usize,
        shift: u32,
    ) -> Result<usize, Misuse> {
        self.find_run(start, npages, shift).map(|(first, _)| first)
    }

    /// The first page of a range that may be a run, and the huge page it lies in, if it lies in one.
    #[inline]
    fn find_run(
        &self,
        start: NonNull<u8>,
        npages: usize,
        shift: u32,
    ) -> Result<(usize, Option<Place>), Misuse> {
        let address = start.addr().get();
        let first = address >> shift;
        let aligned = address & ((1 << shift) - 1) == 0;
        if aligned && npages > 0 && npages < usize::MAX >> shift {
            let one = self.in_one(first, npages);
            if self.are_in_use(one, first, npages) {
                return Ok((first, one));
            }
        }
        let refuse = |kind| Err(Misuse::new(address, npages, kind));
        let Some(index) = self.regions.find(first) else {
            return refuse(MisuseKind::Foreign);
        };
        let region = &self.regions[index];
        refuse(match npages {
            _ if !aligned => MisuseKind::Unaligned,
            0 => MisuseKind::Length,
            _ if npages > region.mapped.saturating_sub(first) => MisuseKind::TooLong,
            _ => MisuseKind::AlreadyFree,
        })
    }

    /// Whether every page of a range is in use, all in one reservation.
    #[inline]
    fn are_in_use(&self, one: Option<Place>, first: usize, npages: usize) -> bool {
        if let Some(place) = one {
            return self.tree.at(place).are_in_use(first % WHOLE, npages);
        }
        parts(first, npages).all(|(block, at, len)| {
            let joined = at > 0 || block * WHOLE == first || self.tree.is_joined(block);
            joined && self.tree.block(block).is_some_and(|block| block.are_in_use(at, len))
        })
    }

    /// Whether every page of a mapped range of one reservation is free.
    pub(crate) fn are_free(&self, first: usize, npages: usize) -> bool {
        parts(first, npages).all(|(block, at, len)| {
            self.tree.block(block).is_some_and(|block| block.are_free(at, len))
        })
    }

    /// Takes free pages out for an owner, Ready; whether all of them are zero.
    #[inline]
    pub(crate) fn hand_out(
        &mut self,
        heap: &PageHeap<O>,
        first: usize,
        npages: usize,
    ) -> Result<bool, Error> {
        let look = self.look;
        let one = self.in_one(first, npages);
        let are_backed = match one {
            Some(place) => self.tree.at(place).are_backed(first % WHOLE, npages),
            None => self.are_backed(first, npages),
        };
        if !are_backed {
            self.back(heap, first, npages)?;
        }
        let (mut zeroed, mut dense) = (true, false);
        self.change(one, first, npages, |block, at, len| {
            zeroed &= block.take(at, len, look);
            dense |= block.is_newly_dense(len);
        });
        if dense {
            self.note_dense(heap);
        }
        self.idle -= npages;
        self.in_use += npages;
        self.counts.peak_in_use = self.counts.peak_in_use.max(self.in_use);
        self.peak_since_look = self.peak_since_look.max(self.in_use);
        Ok(zeroed)
    }

    /// After pages were handed out of a broken huge page that is dense now: a scavenger that sleeps is
    /// called, where the system makes such whole.
    #[cold]
    fn note_dense(&mut self, heap: &PageHeap<O>) {
        self.newly_dense = self.makes_whole;
        if self.makes_whole && matches!(self.keeper, Keeper::Asleep { .. }) {
            self.keeper = Keeper::Awake;
            heap.call_scavenger();
        }
    }

    #[cold]
    fn are_backed(&self, first: usize, npages: usize) -> bool {
        parts(first, npages).all(|(block, at, len)| {
            self.tree.block(block).is_some_and(|block| block.are_backed(at, len))
        })
    }

    /// Changes every huge page that a range of pages touches: there, from which page on, how many.
    #[inline]
    fn change(
        &mut self,
        one: Option<Place>,
        first: usize,
        npages: usize,
        mut change: impl FnMut(&mut Block, usize, usize),
    ) {
        if let Some(place) = one {
            return self.tree.change_at(place, |block| change(block, first % WHOLE, npages));
        }
        for (block, at, len) in parts(first, npages) {
            self.tree.change(block, |block| change(block, at, len));
        }
    }

    /// Prepared → Ready for every page of a free range that is not backed.
    #[cold]
    fn back(&mut self, heap: &PageHeap<O>, first: usize, npages: usize) -> Result<(), Error> {
        let shift = heap.page_shift();
        for (block, mut at, mut len) in parts(first, npages) {
            let Some(page) = self.tree.block(block) else { continue };
            let whole = heap.makes_huge_pages() && page.is_free() && page.idle() == 0;
            if whole && self.is_allowed(block * WHOLE, WHOLE) {
                // The first access makes a huge page of it, so all of it will be in memory.
                (at, len) = (0, WHOLE);
                self.let_be_huge(heap, block);
            }
            while let Some((from, count)) =
                self.tree.block(block).and_then(|page| page.unbacked(at, len))
            {
                let page = block * WHOLE + from;
                let Some(index) = self.regions.find(page) else { break };
                let region = &self.regions[index];
                // SAFETY: the pages are free, so nobody works on them: the caller holds the lock.
                let used = unsafe {
                    region.reservation().used_shared(region.offset_of(page), count << shift)
                };
                used.inspect_err(|error| self.note_refusal(index, error))?;
                let added = self.tree.change(block, |block| block.back(from, count));
                // What was made Ready before a refusal stays so.
                self.idle += added.unwrap_or(0);
            }
        }
        Ok(())
    }

    /// A run for later, if there is a place and no limit speaks against it.
    pub(crate) fn take_another(&mut self, heap: &PageHeap<O>, npages: usize) -> Option<Run> {
        let first =
            self.fit(npages, 1).filter(|&first| self.is_within_soft_limit(first, npages))?;
        let zeroed = self.hand_out(heap, first, npages).ok()?;
        Some(Run { start: heap.address_of(first), npages, zeroed })
    }

    /// Makes the pages of a run free.
    #[inline]
    pub(crate) fn take_back(
        &mut self,
        start: NonNull<u8>,
        npages: usize,
        shift: u32,
    ) -> Result<(), Misuse> {
        let (first, one) = self.find_run(start, npages, shift)?;
        self.put_back_in(one, first, npages);
        Ok(())
    }

    /// Makes pages in use free.
    pub(crate) fn put_back(&mut self, first: usize, npages: usize) {
        self.put_back_in(self.in_one(first, npages), first, npages);
    }

    #[inline]
    fn put_back_in(&mut self, one: Option<Place>, first: usize, npages: usize) {
        let now = Now::Dirty { look: self.look };
        self.change(one, first, npages, |block, at, len| block.put_back(at, len, now));
        self.in_use -= npages;
        self.idle += npages;
    }
}
