//! Making broken huge pages whole again.
//!
//! A huge page of which a part was given back stays in small pages when the part is wanted again: what
//! builds huge pages unasked comes by rarely, or never (Linux's khugepaged looks at some 4096 pages
//! in ten seconds, Documentation/admin-guide/mm/transhuge.rst). So where the system builds huge pages
//! at all, a scavenger has it collapse those that are mostly in use again: it backs what is missing,
//! and lets go of the heap's lock for the call. The system copies the pages and holds up those who
//! touch them meanwhile, so they stay valid for their users.
//!
//! What is missing counts as free and backed afterwards, so there must be room for it in what may
//! stay so anyway. Otherwise it would soon be given back, and the work was for nothing.
//!
//! After a refusal everything is as it was before.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use sysmem::huge::{HugePageControl, Mode};
use sysmem::{Os, Reservation, State};

use crate::block::Advice;
use crate::heap::PageHeap;
use crate::pages::Pages;
use crate::release::{BATCH, Batch};
use crate::standing::WHOLE;

/// Looks for which a huge page is left broken before it is made whole: about a second.
const BROKEN_LOOKS: u32 = 10;

/// Huge pages that are looked at with the lock held.
const AT_ONCE: usize = 64;

/// How far the search through all dense broken huge pages has come.
pub(crate) struct Pass {
    /// All from this one on were looked at.
    below: usize,
    /// There was one that was not broken long enough, or that the system refused to make whole.
    waits: bool,
}

/// What a part of a pass did.
pub(crate) enum Progress {
    /// There is more to look at.
    More,
    /// The system refused.
    Refused,
    /// All were looked at, or none can be now; whether some may be made whole soon.
    End { waits: bool },
}

/// A huge page that the system is to make whole.
struct Collapse<O: Os> {
    number: usize,
    reservation: NonNull<Reservation<O>>,
    /// Where it is in the reservation.
    offset: usize,
    /// What was not backed, and was taken out.
    missing: Batch,
    /// Some of that could not be had.
    refused: bool,
    /// The system was told not to make a huge page of it.
    is_small: bool,
}

impl Pass {
    pub(crate) const NEW: Pass = Pass { below: usize::MAX, waits: false };

    /// Whether nothing was looked at yet.
    fn begins(&self) -> bool {
        self.below == usize::MAX
    }
}

impl<O: HugePageControl + Clone> PageHeap<O> {
    /// Whether the system makes huge pages of the heap's memory.
    fn has_huge_pages(&self) -> bool {
        let system = self.os.huge_pages();
        let is_wanted = match system.mode {
            Some(Mode::Always) => true,
            Some(Mode::Advised) => self.advises.load(Relaxed),
            Some(Mode::Never) | None => false,
        };
        let same_size = system.size == Some(WHOLE << self.page_shift());
        is_wanted && same_size && system.on_for_process != Some(false)
    }

    /// Whether there is a dense broken huge page and the system makes such whole.
    fn has_to_collapse(&self) -> bool {
        let mut pages = self.lock();
        pages.newly_dense = false;
        if pages.tree.last_dense_broken(usize::MAX).is_none() {
            return false;
        }
        drop(pages);
        let has_huge_pages = self.has_huge_pages();
        self.lock().makes_whole = has_huge_pages;
        has_huge_pages
    }

    /// Goes on with a pass, up to one huge page that the system makes whole, for which up to
    /// `most_idle` pages may be idle.
    pub(crate) fn collapse(
        &self,
        pass: &mut Pass,
        most_idle: impl FnOnce(&Pages<O>) -> usize,
    ) -> Progress {
        // Memory that is just being given back would come again unseen.
        let Some(_releasing) = self.releasing.try_lock(&self.os) else {
            return Progress::End { waits: true };
        };
        if pass.begins() && !self.has_to_collapse() {
            return Progress::End { waits: false };
        }
        let mut pages = self.lock();
        let most_idle = most_idle(&pages);
        let mut found = None;
        for _ in 0..AT_ONCE {
            let Some(number) = pages.tree.last_dense_broken(pass.below) else {
                let Pass { waits, .. } = core::mem::replace(pass, Pass::NEW);
                return Progress::End { waits };
            };
            pass.below = number;
            found = pages.begin_collapse(number, most_idle, self.page_shift(), &mut pass.waits);
            if found.is_some() {
                break;
            }
        }
        drop(pages);
        let refused = found.is_some_and(|collapse| !self.finish_collapse(collapse));
        pass.waits |= refused;
        if refused { Progress::Refused } else { Progress::More }
    }

    /// Calls the system; whether it made a huge page. The caller holds the lock `releasing`.
    fn finish_collapse(&self, collapse: Collapse<O>) -> bool {
        let Collapse { number, reservation, offset, missing, refused, is_small } = collapse;
        let len = WHOLE << self.page_shift();
        // SAFETY: a region stays, and its reservation stays where it is, while a huge page of it is
        // being collapsed.
        let memory = unsafe { reservation.as_ref() };
        let may_be = !refused && (!is_small || memory.huge_page(offset, len).is_ok());
        let is_whole = may_be && memory.collapse(offset, len).is_ok();
        let told_back = is_whole || !is_small || memory.no_huge_page(offset, len).is_ok();
        let mut pages = self.lock();
        if is_small && (is_whole || !told_back) {
            pages.set_advice(number, Advice::Huge);
        }
        pages.collapsing = None;
        let look = pages.look;
        if is_whole {
            if missing.npages > 0 {
                pages.put_back_batch(&missing, 0, false);
            }
            pages.tree.change(number, |block| block.made_whole());
            pages.counts.collapses += 1;
            return true;
        }
        pages.counts.failed_collapses += 1;
        pages.tree.change(number, |block| block.stays_broken(look));
        drop(pages);
        if missing.npages > 0 {
            self.give_back(reservation, &missing);
        }
        false
    }
}

impl<O: Os + Clone> Pages<O> {
    /// Backs and takes out what is missing of a broken huge page, if it is to be made whole now. Says
    /// so in `waits` if it may be later.
    fn begin_collapse(
        &mut self,
        number: usize,
        most_idle: usize,
        shift: u32,
        waits: &mut bool,
    ) -> Option<Collapse<O>> {
        let (first, end) = (number * WHOLE, (number + 1) * WHOLE);
        let block = self.tree.block(number)?;
        let count = block.count_unbacked(0, WHOLE);
        let is_young = self.look.wrapping_sub(block.broken_at()) < BROKEN_LOOKS;
        if is_young || count > 0 && self.idle + count > most_idle {
            *waits |= is_young;
            return None;
        }
        if block.given_back_runs().count() > BATCH {
            return None;
        }
        let region = &self.regions[self.regions.find(first)?];
        // All of it must be mapped and of one reservation, which is not lost.
        if region.lost || first < region.first || region.mapped < end {
            return None;
        }
        // What owners gave back of their runs must not come again.
        let offset = region.offset_of(first);
        let prepared = region.bytes_in(State::Prepared, offset, offset + (WHOLE << shift));
        if prepared != (count << shift) as u64 {
            return None;
        }
        let (reservation, start) = (region.reservation_ptr(), region.start);
        let is_small = self.tree.block(number)?.advice == Advice::Small;
        let (mut missing, mut refused) = (Batch::EMPTY, false);
        for (at, len) in self.tree.block(number)?.given_back_runs() {
            let offset = (first + at - start) << shift;
            // SAFETY: the region is in the list, so its reservation is there.
            let reservation = unsafe { reservation.as_ref() };
            // SAFETY: the pages are free, so nobody works on them: the caller holds the lock.
            refused = unsafe { reservation.used_shared(offset, len << shift) }.is_err();
            if refused {
                break;
            }
            missing.add(first + at, len);
            self.tree.change(number, |block| {
                block.back(at, len);
                block.take_leaving(at, len);
            });
            self.leaving += len;
        }
        self.collapsing = Some(number);
        Some(Collapse { number, reservation, offset, missing, refused, is_small })
    }
}
