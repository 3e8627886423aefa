//! What a heap knows of its caches: a list, and for each cache a record that cache and heap share.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering::*};

use sysmem::Os;

use super::depot::Depot;
use super::slots::{self, Cached, Slot};
use crate::heap::PageHeap;
use crate::misuse::Misuse;
use crate::pages::Pages;
use crate::verify::{Inconsistency, equal};

/// The lengths of runs that caches hold: this many pages at most.
pub(crate) const LONGEST: usize = 16;

/// The most runs of one length: as many as make 4 KiB of a record.
pub(super) const SLOTS: usize = 31;

const _: () = assert!(size_of::<Record>() <= 4096);

/// The most bytes of one length, where that is fewer.
const BYTES: usize = 2 << 20;

/// The runs that a cache may hold of a length when it is first asked for it, or again after it was
/// drained. Each time the depot has to be asked it is twice as many.
const FIRST_LIMIT: u8 = 2;

/// What cache and heap share of a cache. It lies in memory of the heap's records, where all zeros
/// is a cache that holds nothing and may hold nothing.
#[repr(C)]
pub(crate) struct Record {
    /// Runs handed out and taken back. Only the owner writes; relaxed, because they are figures.
    pub(crate) allocations: AtomicU64,
    pub(crate) frees: AtomicU64,
    /// How many runs of each length the owner may hold. Changed under the depot's lock only: the
    /// owner makes it more, a drainer makes it zero, so that the owner comes to the heap before it
    /// gathers much again.
    pub(super) limits: [AtomicU8; LONGEST],
    guarded: UnsafeCell<Guarded>,
    slots: [[AtomicPtr<u8>; SLOTS]; LONGEST],
}

// SAFETY: `guarded` is reached under the heap's lock only.
unsafe impl Sync for Record {}

/// The part that the heap's lock guards.
struct Guarded {
    next: *const Record,
    previous: *const Record,
    /// The last sweep that came by.
    sweep: u64,
    /// What [`Record::operations`] said when it came by.
    seen: u64,
}

/// The caches of a heap.
pub(crate) struct Caches {
    first: *const Record,
    /// Begins with 1.
    sweep: u64,
    /// A run that was freed twice, or was none, found when nobody could be told.
    pub(crate) misuse: Option<Misuse>,
}

impl Record {
    /// The slots for runs of `npages`.
    #[inline]
    pub(crate) fn slots(&self, npages: usize) -> &[AtomicPtr<u8>; SLOTS] {
        &self.slots[npages - 1]
    }

    /// How many runs of `npages` the owner may hold.
    #[inline]
    pub(crate) fn limit(&self, npages: usize) -> u8 {
        self.limits[npages - 1].load(Relaxed)
    }

    /// The most that a limit grows to.
    fn most(npages: usize, shift: u32) -> u8 {
        ((BYTES >> shift) / npages).clamp(FIRST_LIMIT as usize, SLOTS) as u8
    }

    /// Makes a limit twice as much; what it was and what it is.
    pub(super) fn raise_limit(&self, npages: usize, shift: u32) -> (u8, u8) {
        let before = self.limit(npages);
        let after = (before * 2).max(FIRST_LIMIT).min(Record::most(npages, shift));
        self.limits[npages - 1].store(after, Relaxed);
        (before, after)
    }

    fn operations(&self) -> u64 {
        self.allocations.load(Relaxed).wrapping_add(self.frees.load(Relaxed))
    }

    /// Pages that are in the cache. While its owner works, a run on its way may be missed or seen
    /// twice.
    fn npages(&self) -> usize {
        let of_length = |(index, slots): (usize, &[AtomicPtr<u8>; SLOTS])| {
            (index + 1) * slots.iter().filter(|slot| slot.look().is_some()).count()
        };
        self.slots.iter().enumerate().map(of_length).sum()
    }
}

impl Caches {
    pub(crate) const fn new() -> Caches {
        Caches { first: ptr::null(), sweep: 0, misuse: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    fn iter(&self) -> impl Iterator<Item = &Record> {
        // SAFETY: records in the list are alive until `remove`, which takes `&mut self`.
        let mut next = unsafe { self.first.as_ref() };
        core::iter::from_fn(move || {
            let record = next?;
            // SAFETY: as above; `&self` and `&mut self` stand for the lock.
            next = unsafe { (*record.guarded.get()).next.as_ref() };
            Some(record)
        })
    }

    /// Enters a record of all zeros.
    ///
    /// # Safety
    ///
    /// It stays where it is until [`remove`](Caches::remove).
    pub(crate) unsafe fn insert(&mut self, record: &Record) {
        // SAFETY: `&mut self` stands for the lock.
        unsafe { (*record.guarded.get()).next = self.first };
        // SAFETY: records in the list are alive; the lock as above.
        if let Some(next) = unsafe { self.first.as_ref() } {
            // SAFETY: as above.
            unsafe { (*next.guarded.get()).previous = record };
        }
        self.first = record;
    }

    /// Takes a record out that is in the list.
    pub(crate) fn remove(&mut self, record: &Record) {
        // SAFETY: what a record in the list leads to is in the list, and alive; `&mut self` stands
        // for the lock.
        unsafe {
            let Guarded { next, previous, .. } = *record.guarded.get();
            match previous.as_ref() {
                Some(previous) => (*previous.guarded.get()).next = next,
                None => self.first = next,
            }
            if let Some(next) = next.as_ref() {
                (*next.guarded.get()).previous = previous;
            }
        }
    }

    /// Pages in caches.
    pub(crate) fn npages(&self) -> usize {
        self.iter().map(Record::npages).sum()
    }

    /// Runs that caches handed out and took back.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.iter().fold((0, 0), |(allocations, frees), record| {
            let here = (record.allocations.load(Relaxed), record.frees.load(Relaxed));
            (allocations + here.0, frees + here.1)
        })
    }

    /// The next cache that this sweep has not come by and that is idle: nothing was done with it
    /// since the sweep before. With `all`, whether idle or not.
    fn next_of_sweep(&mut self, sweep: u64, all: bool) -> Option<*const Record> {
        let found = self.iter().find(|record| {
            // SAFETY: `&mut self` stands for the lock, and this is the only reference.
            let guarded = unsafe { &mut *record.guarded.get() };
            if guarded.sweep >= sweep {
                return false;
            }
            guarded.sweep = sweep;
            let operations = record.operations();
            let idle = guarded.seen == operations;
            guarded.seen = operations;
            all || idle
        });
        found.map(ptr::from_ref)
    }
}

impl<O: Os + Clone> Pages<O> {
    /// Takes back every run of a cache; how many pages that is.
    pub(crate) fn drain(&mut self, record: &Record, heap: &PageHeap<O>) -> usize {
        heap.depot.lock(&heap.os).drop_limits(record);
        let mut drained = 0;
        for npages in 1..=LONGEST {
            slots::take_all(record.slots(npages), |run| {
                drained += self.take_back_cached(run, npages, heap.page_shift());
            });
        }
        drained
    }

    /// Takes back a run that nobody can be told of if it is none; how many pages that is.
    pub(super) fn take_back_cached(&mut self, run: Cached, npages: usize, shift: u32) -> usize {
        match self.take_back(run.start(), npages, shift) {
            Ok(()) => npages,
            Err(misuse) => {
                self.caches.misuse = Some(misuse);
                0
            }
        }
    }

    /// Holds caches and depot against the heap: what they have is in use for it.
    pub(crate) fn verify_caches(&self, depot: &Depot, shift: u32) -> Result<(), Inconsistency> {
        let is_run = |(run, npages): (Cached, usize)| {
            let is_run = self.run_at(run.start(), npages, shift).is_ok();
            let address = run.start().addr().get();
            equal("a run in a cache that is in use", address, is_run as u64, 1)
        };
        let mut room = 0;
        for record in self.caches.iter() {
            for npages in 1..=LONGEST {
                room += record.limit(npages) as usize * npages;
                let mut runs = record.slots(npages).iter().filter_map(Slot::look);
                runs.try_for_each(|run| is_run((run, npages)))?;
            }
        }
        depot.runs().try_for_each(is_run)?;
        depot.verify(room)
    }
}

impl<O: Os + Clone> PageHeap<O> {
    /// Takes back the runs of all caches, whatever their owners do; how many bytes that is. Nothing
    /// is given back to the system.
    pub fn drain_caches(&self) -> usize {
        self.sweep_caches(true)
    }

    /// Takes back the runs of caches that are idle since the last sweep, and of lengths that no cache
    /// came to the depot for, or of all.
    pub(crate) fn sweep_caches(&self, all: bool) -> usize {
        let mut drained = 0;
        let mut sweep = None;
        // The lock is let go of after each cache that had something, and after each length.
        loop {
            let mut pages = self.lock();
            let sweep = *sweep.get_or_insert_with(|| {
                pages.caches.sweep += 1;
                pages.caches.sweep
            });
            let Some(record) = pages.caches.next_of_sweep(sweep, all) else { break };
            // SAFETY: in the list, so alive as long as the lock is held.
            drained += pages.drain(unsafe { &*record }, self);
        }
        for npages in 1..=LONGEST {
            drained += self.lock().drain_depot(self, npages, !all);
        }
        drained << self.page_shift()
    }
}
