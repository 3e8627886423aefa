//! Runs on their way from caches that have too much to caches that have too little. That takes a short
//! lock and a copy of each address, where going back to the heap and out of it again changes the books
//! of two huge pages for each run, which processors then fetch from each other.
//!
//! The lock also guards how much each cache may hold. It is taken alone or inside the heap's, never
//! around that.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::*;

use sysmem::{Error, Os};

use super::records::{LONGEST, Record};
use super::slots::Cached;
use crate::heap::PageHeap;
use crate::pages::Pages;
use crate::verify::{Inconsistency, equal};

/// The depot may hold so many times what the cache may that comes to it, ...
const TIMES: usize = 2;
/// ... and the most runs of one length.
const SLOTS: usize = TIMES * super::records::SLOTS;

/// The heap is told each time there are so many bytes more here than ever since it took them back.
const TOLD_BYTES: usize = 1 << 20;

/// What lies here, and what caches may hold.
pub(crate) struct Depot {
    /// By length. Taken from the heap's records with the first cache.
    stacks: Option<NonNull<[Stack; LONGEST]>>,
    /// Pages in the stacks.
    held: usize,
    /// The most of them that the heap was told of, which may have to call for a scavenger.
    told: usize,
    /// Pages that caches may hold without coming here.
    room: usize,
}

// SAFETY: the stacks are reached through the depot only.
unsafe impl Send for Depot {}

/// Runs of one length. All zeros is an empty one.
struct Stack {
    filled: u8,
    /// Whether nothing came or went since the last sweep.
    is_idle: bool,
    runs: [Option<Cached>; SLOTS],
}

impl Depot {
    pub(crate) const fn new() -> Depot {
        Depot { stacks: None, held: 0, told: 0, room: 0 }
    }

    fn stacks(&self) -> &[Stack] {
        // SAFETY: taken for this depot, and kept as long as the heap.
        self.stacks.map_or(&[], |stacks| unsafe { stacks.as_ref() })
    }

    fn stack(&mut self, npages: usize) -> Option<&mut Stack> {
        // SAFETY: as above; `&mut self` stands for the lock.
        Some(&mut unsafe { self.stacks?.as_mut() }[npages - 1])
    }

    /// Pages in the depot.
    pub(crate) fn npages(&self) -> usize {
        self.held
    }

    /// Pages that are here or may be in caches.
    pub(crate) fn most(&self) -> usize {
        self.held + self.room
    }

    /// The runs in the depot, with their lengths.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (Cached, usize)> {
        self.stacks().iter().enumerate().flat_map(|(index, stack)| {
            stack.runs[..stack.filled as usize].iter().flatten().map(move |&run| (run, index + 1))
        })
    }

    /// The run that was left here last.
    pub(super) fn take(&mut self, npages: usize) -> Option<Cached> {
        let stack = self.stack(npages)?;
        let last = stack.filled.checked_sub(1)?;
        (stack.filled, stack.is_idle) = (last, false);
        let run = stack.runs[last as usize].take();
        self.held -= npages;
        run
    }

    /// How many more runs a cache that may hold `limit` of them may leave here.
    pub(super) fn space(&mut self, npages: usize, limit: u8) -> u8 {
        let most = (TIMES * limit as usize).min(SLOTS) as u8;
        self.stack(npages).map_or(0, |stack| most.saturating_sub(stack.filled))
    }

    /// Leaves a run here; there is space.
    pub(super) fn put(&mut self, npages: usize, run: Cached) {
        if let Some(stack) = self.stack(npages) {
            stack.runs[stack.filled as usize] = Some(run);
            (stack.filled, stack.is_idle) = (stack.filled + 1, false);
            self.held += npages;
        }
    }

    /// Whether there is so much more here than ever that the heap should know.
    pub(super) fn has_grown(&mut self, shift: u32) -> bool {
        let has_grown = self.held >= self.told + (TOLD_BYTES >> shift);
        if has_grown {
            self.told = self.held;
        }
        has_grown
    }

    /// Lets a cache hold more runs of a length, if it does not hold the most already; how many, and
    /// whether that is more.
    pub(super) fn raise_limit(&mut self, record: &Record, npages: usize, shift: u32) -> (u8, bool) {
        let (before, after) = record.raise_limit(npages, shift);
        self.room += (after - before) as usize * npages;
        (after, after > before)
    }

    /// Lets a cache hold nothing until it asks.
    pub(super) fn drop_limits(&mut self, record: &Record) {
        for (npages, limit) in (1..).zip(&record.limits) {
            self.room -= limit.swap(0, Relaxed) as usize * npages;
        }
    }

    /// Holds figures against what is there, and what the limits of caches make `room` for.
    pub(super) fn verify(&self, room: usize) -> Result<(), Inconsistency> {
        let held: usize = self.runs().map(|(_, npages)| npages).sum();
        equal("pages in the depot", 0, self.held as u64, held as u64)?;
        equal("pages that caches may hold", 0, self.room as u64, room as u64)
    }
}

impl<O: Os + Clone> Pages<O> {
    /// Makes a depot if there is none.
    pub(super) fn open_depot(&mut self, heap: &PageHeap<O>) -> Result<(), Error> {
        let mut depot = heap.depot.lock(&heap.os);
        if depot.stacks.is_none() {
            depot.stacks = Some(self.metadata.take(1, &heap.os, &heap.accounts.metadata)?);
        }
        Ok(())
    }

    /// Takes back the runs of a length that are in the depot, unless `but_used` and they came since the
    /// last sweep; how many pages that is.
    pub(super) fn drain_depot(
        &mut self,
        heap: &PageHeap<O>,
        npages: usize,
        but_used: bool,
    ) -> usize {
        let mut depot = heap.depot.lock(&heap.os);
        let Some(stack) = depot.stack(npages) else { return 0 };
        if but_used && !stack.is_idle {
            stack.is_idle = true;
            return 0;
        }
        let mut drained = 0;
        while let Some(run) = depot.take(npages) {
            drained += self.take_back_cached(run, npages, heap.page_shift());
        }
        depot.told = depot.told.min(depot.held);
        drained
    }
}
