use core::fmt;

use sysmem::{Os, State};

use crate::heap::{PageHeap, Pages};
use crate::region::Region;

/// Two records of a page heap that contradict each other: a defect of the heap, or its memory was
/// overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inconsistency {
    /// What was compared.
    pub what: &'static str,
    /// The address it is about, zero where it is about the whole heap.
    pub address: usize,
    /// The figure that the heap keeps.
    pub kept: u64,
    /// What was counted, or what another record says.
    pub counted: u64,
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inconsistency { what, address, kept, counted } = self;
        write!(f, "page heap: {what}")?;
        if *address != 0 {
            write!(f, " at {address:#x}")?;
        }
        write!(f, ": the heap says {kept}, counted are {counted}")
    }
}

impl core::error::Error for Inconsistency {}

impl<O: Os + Clone> PageHeap<O> {
    /// Walks every page and holds bitmaps, summaries, figures, the states that reservations
    /// record, and accounts against each other. While another thread gives memory back, states and
    /// accounts are a moment ahead of the heap and are left out.
    ///
    /// For tests and debugging: it holds the lock all the while.
    pub fn verify(&self) -> Result<(), Inconsistency> {
        let pages = self.lock();
        pages.verify_regions()?;
        let statistics = pages.statistics(self.page_shift());
        if pages.leaving != 0 || pages.departing != 0 || pages.giving_back_in_use {
            return Ok(());
        }
        let ready = statistics.in_use + statistics.free_backed - statistics.in_use_given_back;
        let prepared = statistics.given_back + statistics.in_use_given_back;
        let (heap, metadata) = (self.accounts.heap.figures(), self.accounts.metadata.figures());
        for (what, kept, counted) in [
            ("bytes Ready on its account", ready, heap.ready),
            ("bytes Prepared on its account", prepared, heap.prepared),
            ("bytes Reserved on its account", statistics.unmapped, heap.reserved),
            ("bytes Ready on its metadata account", statistics.metadata, metadata.ready),
        ] {
            equal(what, 0, kept, counted)?;
        }
        Ok(())
    }
}

impl<O: Os + Clone> Pages<O> {
    fn verify_regions(&self) -> Result<(), Inconsistency> {
        let (mut busy, mut idle, mut before) = (0, 0, 0);
        let mut given_back_in_use = 0;
        for region in self.regions.iter() {
            let pages = &region.pages;
            if region.start < before {
                return equal("the order of reservations", region.start, 1, 0);
            }
            before = region.address_of(pages.npages()).addr();
            pages.check().map_err(|(what, page, kept, counted)| Inconsistency {
                what,
                address: region.address_of(page).addr(),
                kept: kept as u64,
                counted: counted as u64,
            })?;
            busy += pages.busy() as u64;
            idle += pages.idle() as u64;
            let mut at = 0;
            while self.leaving == 0 && !self.giving_back_in_use && at < pages.npages() {
                let (kind, end) = pages.alike(at);
                if kind.mapped && !kind.free {
                    let (from, to) = (region.address_of(at).addr(), region.address_of(end).addr());
                    given_back_in_use +=
                        region.prepared_bytes(from - region.start, to - region.start);
                    at = end;
                    continue;
                }
                let expected = match (kind.mapped, kind.backed) {
                    (false, _) => State::Reserved,
                    (true, false) => State::Prepared,
                    (true, true) => State::Ready,
                };
                let offset = |page| region.address_of(page).addr() - region.start;
                let found = region.reservation().state(offset(at));
                let same =
                    found.is_some_and(|(state, _, to)| state == expected && to >= offset(end));
                if !same {
                    let found = found.map_or(u64::MAX, |(state, ..)| state as u64);
                    let what = "the state of pages (0 Reserved, 1 Prepared, 2 Ready)";
                    let address = region.address_of(at).addr();
                    return Err(Inconsistency {
                        what,
                        address,
                        kept: expected as u64,
                        counted: found,
                    });
                }
                at = end;
            }
        }
        if self.leaving == 0 && !self.giving_back_in_use {
            let kept = self.given_back_in_use as u64;
            equal("bytes given back in use", 0, kept, given_back_in_use)?;
        }
        equal("pages in use or leaving", 0, (self.in_use + self.leaving) as u64, busy)?;
        equal("pages free and backed", 0, self.idle as u64, idle)
    }
}

impl<O: Os + Clone> Region<O> {
    /// The bytes from one offset to another that are Prepared.
    fn prepared_bytes(&self, mut at: usize, end: usize) -> u64 {
        let mut bytes = 0;
        while let Some((state, _, to)) = self.reservation().state(at).filter(|_| at < end) {
            let to = to.min(end);
            bytes += if state == State::Prepared { (to - at) as u64 } else { 0 };
            at = to;
        }
        bytes
    }
}

fn equal(what: &'static str, address: usize, kept: u64, counted: u64) -> Result<(), Inconsistency> {
    if kept == counted {
        return Ok(());
    }
    Err(Inconsistency { what, address, kept, counted })
}
