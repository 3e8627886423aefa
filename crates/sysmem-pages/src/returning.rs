//! Returning reservations that are wholly free.

use sysmem::{Os, State};

use crate::block::Advice;
use crate::grow::LONGEST;
use crate::pages::{Pages, parts};
use crate::region::{Region, return_reservation};
use crate::standing::WHOLE;

/// A region that nobody can get pages of, whose reservation is to be returned to the system.
///
/// It is out of the list: as soon as the system has it back, another thread may reserve the same
/// addresses.
pub(crate) struct Returning<O: Os> {
    region: Region<O>,
    /// The pages of it that are backed.
    pub(crate) idle: usize,
}

impl<O: Os + Clone> Returning<O> {
    /// Returns the reservation; whether the system took it.
    pub(crate) fn to_system(&self) -> bool {
        // SAFETY: the region is in no list, so nobody else reaches its reservation.
        unsafe { return_reservation(self.region.reservation_ptr()) }
    }
}

impl<O: Os + Clone> Pages<O> {
    /// The free and backed pages of a region that is wholly free and may be returned: no call works
    /// on it.
    pub(crate) fn idle_of_free(&self, index: usize) -> Option<usize> {
        let region = &self.regions[index];
        if region.lost || self.collapsing.is_some_and(|number| region.contains(number * WHOLE)) {
            return None;
        }
        let mut idle = 0;
        for (block, at, len) in parts(region.first, region.mapped - region.first) {
            let block = self.tree.block(block).filter(|block| block.are_free(at, len))?;
            idle += len - block.count_unbacked(at, len);
        }
        Some(idle)
    }

    /// As [`idle_of_free`](Pages::idle_of_free), of a region that is to be returned when it is free:
    /// one that is longer than others, or was kept for one run. The address space of others is soon
    /// wanted again, and reserving and mapping it anew takes many calls.
    pub(crate) fn idle_of_returnable(&self, index: usize, shift: u32) -> Option<usize> {
        let region = &self.regions[index];
        let is_special = region.kept || region.npages > LONGEST >> shift;
        if is_special { self.idle_of_free(index) } else { None }
    }

    /// Takes a region out if it is wholly free.
    pub(crate) fn withdraw(&mut self, index: usize) -> Option<Returning<O>> {
        let idle = self.idle_of_free(index)?;
        let region = self.regions.remove(index);
        for (block, at, len) in parts(region.first, region.mapped - region.first) {
            self.set_advice(block, Advice::None);
            self.tree.withdraw(block, at, len);
        }
        self.idle -= idle;
        self.leaving += region.mapped - region.first;
        self.departing += 1;
        Some(Returning { region, idle })
    }

    /// Ends a region that was returned, or enters it again, its pages as they are in its books.
    pub(crate) fn finish_return(&mut self, leaving: Returning<O>, returned: bool) {
        let region = leaving.region;
        let (first, mapped) = (region.first, region.mapped - region.first);
        self.leaving -= mapped;
        self.departing -= 1;
        if returned {
            for (block, ..) in parts(first, mapped) {
                self.tree.forget(block, &mut self.metadata);
            }
            self.reserved -= region.npages;
            self.mapped -= mapped;
            self.counts.returned_reservations += 1;
            region.dispose(&mut self.metadata);
            return;
        }
        for (block, at, len) in parts(first, mapped) {
            self.tree.restore(block, (at, len), first < block * WHOLE);
            let (mut from, end) = (at, at + len);
            while from < end {
                let page = block * WHOLE + from;
                let found = region.reservation().state(region.offset_of(page));
                let Some((state, _, to)) = found else { break };
                let count = (region.page_at(to) - page).clamp(1, end - from);
                if state == State::Ready {
                    let added = self.tree.change(block, |block| block.back(from, count));
                    self.idle += added.unwrap_or(0);
                }
                from += count;
            }
        }
        self.regions.insert(region);
    }
}
