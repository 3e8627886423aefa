//! Broken huge pages are kept small.
//!
//! Where a huge page is wanted, the system may make one of a few pages in use, and brings what was given
//! back beside them into memory again, where nobody knows of it: Linux's khugepaged does where up to
//! `max_ptes_none` of 512 pages are missing, by default all but one
//! (Documentation/admin-guide/mm/transhuge.rst). So before a part of a huge page is given back, the system
//! is told not to make one of it; and to make one again when the heap has it made whole, or takes it
//! into use anew.
//!
//! Each change in what the system was told is a mapping more, of which a process has some 65,000 at
//! most (`vm.max_map_count`). So the heap stops at a part of that.

use sysmem::{Os, Reservation};

use crate::block::Advice;
use crate::heap::PageHeap;
use crate::pages::{Pages, parts};
use crate::region::Region;
use crate::release::BATCH;
use crate::standing::WHOLE;

/// The huge pages that are kept small at most: two mappings each.
const MOST: usize = 4096;

impl<O: Os + Clone> PageHeap<O> {
    /// Has the system keep the huge pages small of which these pages, which were taken out, are to be
    /// given back and others are not. The caller holds the lock `releasing`.
    pub(crate) fn keep_small(&self, reservation: &Reservation<O>, ranges: &[(usize, usize)]) {
        let (mut small, mut len) = ([0; BATCH], 0);
        let mut pages = self.lock();
        if !pages.has_advised || !self.has_system_size() {
            return;
        }
        for (number, ..) in ranges.iter().flat_map(|&(first, npages)| parts(first, npages)) {
            if len < BATCH && pages.small < MOST && pages.is_to_be_small(number) {
                pages.set_advice(number, Advice::Small);
                small[len] = number;
                len += 1;
            }
        }
        drop(pages);
        for &number in &small[..len] {
            let (offset, len) = self.huge_page_in(reservation, number);
            if reservation.no_huge_page(offset, len).is_err() {
                self.lock().set_advice(number, Advice::Huge);
            }
        }
    }

    /// Where a huge page lies in its reservation, and its length, in bytes.
    fn huge_page_in(&self, reservation: &Reservation<O>, number: usize) -> (usize, usize) {
        let start = self.address_of(number * WHOLE).addr().get();
        (start - reservation.as_mut_ptr().addr(), WHOLE << self.page_shift())
    }
}

impl<O: Os + Clone> Pages<O> {
    /// Whether a huge page that is wanted as one keeps a part of its memory while others leave.
    fn is_to_be_small(&self, number: usize) -> bool {
        self.tree
            .block(number)
            .is_some_and(|block| block.advice == Advice::Huge && !block.is_given_back())
    }

    /// Tells the system that a huge page that was kept small and is wholly free, without memory, may be
    /// a huge page again.
    pub(crate) fn let_be_huge(&mut self, heap: &PageHeap<O>, number: usize) {
        if self.tree.block(number).is_none_or(|block| block.advice != Advice::Small) {
            return;
        }
        let Some(index) = self.regions.find(number * WHOLE) else { return };
        let reservation = self.regions[index].reservation();
        let (offset, len) = heap.huge_page_in(reservation, number);
        if reservation.huge_page(offset, len).is_ok() {
            self.set_advice(number, Advice::Huge);
        }
    }

    /// Notes what the system was told of a huge page last.
    pub(crate) fn set_advice(&mut self, number: usize, advice: Advice) {
        let told = self.tree.change(number, |block| core::mem::replace(&mut block.advice, advice));
        let Some(before) = told else { return };
        self.small = self.small + usize::from(advice == Advice::Small)
            - usize::from(before == Advice::Small);
    }

    /// How many mappings the system needs for the reservations, if it joins what is alike of each.
    pub(crate) fn mappings(&self) -> usize {
        let of_region = |region: &Region<O>| {
            let reserved_before = region.mapped > region.first && region.first > region.start;
            let reserved_after = region.mapped < region.start + region.npages;
            usize::from(reserved_before) + self.stretches(region) + usize::from(reserved_after)
        };
        self.regions.iter().map(of_region).sum()
    }

    /// Stretches of mapped pages of which the system was told the same.
    fn stretches(&self, region: &Region<O>) -> usize {
        if !self.has_advised {
            return usize::from(region.first < region.mapped);
        }
        let mut last = None;
        let told = parts(region.first, region.mapped - region.first)
            .map(|(number, ..)| self.tree.block(number).map(|block| block.advice));
        told.filter(|&told| last.replace(told) != Some(told)).count()
    }
}
