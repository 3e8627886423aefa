use core::fmt;

use sysmem::{Os, State};

use crate::block::{Advice, PageKind};
use crate::heap::PageHeap;
use crate::pages::Pages;
use crate::standing::WHOLE;

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
        let depot = self.depot.lock(&self.os);
        let lost = pages.verify_regions(self.page_shift())?;
        pages.verify_caches(&depot, self.page_shift())?;
        let statistics = pages.statistics(&depot, self.page_shift());
        if pages.leaving != 0 || pages.departing != 0 || pages.giving_back_in_use {
            return Ok(());
        }
        let in_use = statistics.in_use + statistics.cached;
        let ready = in_use + statistics.free_backed - statistics.in_use_given_back;
        let ready = ready + lost[State::Ready as usize];
        let prepared = statistics.given_back + statistics.in_use_given_back;
        let prepared = prepared + lost[State::Prepared as usize];
        let reserved = statistics.unmapped + lost[State::Reserved as usize];
        let (heap, metadata) = (self.accounts.heap.figures(), self.accounts.metadata.figures());
        for (what, kept, counted) in [
            ("bytes Ready on its account", ready, heap.ready),
            ("bytes Prepared on its account", prepared, heap.prepared),
            ("bytes Reserved on its account", reserved, heap.reserved),
            ("bytes Ready on its metadata account", statistics.metadata, metadata.ready),
        ] {
            equal(what, 0, kept, counted)?;
        }
        Ok(())
    }
}

impl<O: Os + Clone> Pages<O> {
    /// Returns the bytes that are lost, by the state that their reservations record.
    fn verify_regions(&self, shift: u32) -> Result<[u64; 3], Inconsistency> {
        self.tree.check().map_err(|(what, block, kept, counted)| Inconsistency {
            what,
            address: (block * WHOLE) << shift,
            kept: kept as u64,
            counted: counted as u64,
        })?;
        let (mut in_use, mut idle, mut reserved, mut mapped, mut before) = (0, 0, 0, 0, 0);
        let mut given_back_in_use = 0;
        let mut small = 0;
        let mut lost = [0; 3];
        for region in self.regions.iter() {
            let whole = region.first.div_ceil(WHOLE)..region.mapped / WHOLE;
            let kept_small = |&number: &usize| {
                self.tree.block(number).is_some_and(|block| block.advice == Advice::Small)
            };
            small += whole.filter(kept_small).count() as u64;
            if region.start < before {
                equal("the order of reservations", region.start << shift, 1, 0)?;
            }
            before = region.start + region.npages;
            reserved += region.npages as u64;
            mapped += (region.mapped - region.first) as u64;
            let mut at = region.start;
            while at < before {
                let (kind, end) = self.alike(at, before);
                match kind {
                    PageKind::InUse => in_use += (end - at) as u64,
                    PageKind::Idle => idle += (end - at) as u64,
                    PageKind::Absent | PageKind::GivenBack => {}
                }
                if kind == PageKind::InUse {
                    let (from, to) = (region.offset_of(at), region.offset_of(end));
                    given_back_in_use += region.bytes_in(State::Prepared, from, to);
                    at = end;
                    continue;
                }
                if kind == PageKind::Absent && region.lost {
                    let (from, to) = (region.offset_of(at), region.offset_of(end));
                    for state in [State::Reserved, State::Prepared, State::Ready] {
                        lost[state as usize] += region.bytes_in(state, from, to);
                    }
                    reserved -= (end - at) as u64;
                    let mapped_end = end.min(region.mapped);
                    mapped -= mapped_end.saturating_sub(at.max(region.first)) as u64;
                    at = end;
                    continue;
                }
                let expected = match kind {
                    PageKind::Absent => State::Reserved,
                    PageKind::GivenBack => State::Prepared,
                    PageKind::Idle | PageKind::InUse => State::Ready,
                };
                let found = region.reservation().state(region.offset_of(at));
                let same = found
                    .is_some_and(|(state, _, to)| state == expected && to >= region.offset_of(end));
                if !same && self.leaving == 0 {
                    let found = found.map_or(u64::MAX, |(state, ..)| state as u64);
                    let what = "the state of pages (0 Reserved, 1 Prepared, 2 Ready)";
                    equal(what, at << shift, expected as u64, found)?;
                }
                at = end;
            }
        }
        if self.leaving == 0 && !self.giving_back_in_use {
            let kept = self.given_back_in_use as u64;
            equal("bytes given back in use", 0, kept, given_back_in_use)?;
        }
        equal("huge pages that are kept small", 0, self.small as u64, small)?;
        equal("pages in use", 0, self.in_use as u64, in_use)?;
        equal("pages free and backed", 0, self.idle as u64, idle)?;
        let any_lost = self.regions.iter().any(|region| region.lost);
        if self.departing != 0 || any_lost && self.leaving != 0 {
            return Ok(lost);
        }
        equal("pages reserved", 0, self.reserved as u64, reserved)?;
        equal("pages mapped", 0, self.mapped as u64, mapped)?;
        equal("bytes lost", 0, (self.lost as u64) << shift, lost.iter().sum())?;
        Ok(lost)
    }

    /// What a page is, and the first page after it, up to `end`, that is something else.
    pub(crate) fn alike(&self, at: usize, end: usize) -> (PageKind, usize) {
        let part = |page: usize| match self.tree.block(page / WHOLE) {
            Some(block) => {
                let (kind, to) = block.alike(page % WHOLE);
                (kind, page / WHOLE * WHOLE + to)
            }
            None => (PageKind::Absent, (page / WHOLE + 1) * WHOLE),
        };
        let (kind, mut to) = part(at);
        while to < end {
            match part(to) {
                (next, further) if next == kind => to = further,
                _ => break,
            }
        }
        (kind, to.min(end))
    }
}

pub(crate) fn equal(
    what: &'static str,
    address: usize,
    kept: u64,
    counted: u64,
) -> Result<(), Inconsistency> {
    if kept == counted {
        return Ok(());
    }
    Err(Inconsistency { what, address, kept, counted })
}
