//! Memory of runs that stay in use: what their owner does not need for a while goes back, page by page
//! of the system, and comes again when it is wanted.
//!
//! The pages stay the owner's. Only the books know the difference: what was given back is Prepared,
//! not Ready, and does not count against a limit.

#[cfg(doc)]
use sysmem::ErrorKind;
use sysmem::{Error, Os, PageRange};

use crate::heap::PageHeap;
use crate::lost::is_loss;
use crate::pages::Pages;

impl<O: Os + Clone> PageHeap<O> {
    /// Gives the memory of ranges inside runs back to the system, in order, and tells `kept` of each
    /// range that its owner keeps as it is: what comes after a refusal, and what lies in a
    /// reservation of which the system lost a part, where no call will do. Returns the refusal.
    /// Ranges are whole pages of the system, and quickest when those of one reservation come together.
    ///
    /// A refusal in whose middle the system lost a range ([`ErrorKind::Lost`]) counts that range as
    /// gone: it may be another's, and `use_again` refuses it for ever.
    ///
    /// # Safety
    ///
    /// Every range lies in a run of this heap. It is Ready, and from now on nothing touches it
    /// before [`use_again`](PageHeap::use_again) succeeded; its contents are forfeit. The run is not
    /// freed, extended or shrunk meanwhile.
    pub unsafe fn give_back_in_use(
        &self,
        ranges: &[PageRange],
        mut kept: impl FnMut(PageRange),
    ) -> Result<(), Error> {
        let _releasing = self.releasing.lock(&self.os);
        let mut rest = ranges;
        while let Some(first) = rest.first() {
            let mut pages = self.lock();
            let page_of = |range: &PageRange| range.start.addr() >> self.page_shift();
            let Some(index) = pages.regions.find(page_of(first)) else { break };
            let region = &pages.regions[index];
            let inside = |range: &PageRange| region.contains(page_of(range));
            let len = rest.iter().position(|range| !inside(range)).unwrap_or(rest.len());
            let (these, others) = rest.split_at(len);
            if region.lost {
                drop(pages);
                these.iter().for_each(|&range| kept(range));
                rest = others;
                continue;
            }
            let reservation = region.reservation_ptr();
            pages.giving_back_in_use = true;
            drop(pages);
            // SAFETY: a region stays, and its reservation stays where it is, while a page of it is
            // in use.
            let reservation = unsafe { reservation.as_ref() };
            let how = self.options.give_back;
            // SAFETY: the caller's promise.
            let answer = unsafe { reservation.unused_batch_shared(these, how) };
            let mut done = answer.as_ref().map_or_else(|stopped| stopped.done, |()| len);
            let bytes: usize = these[..done].iter().map(|range| range.len).sum();
            let mut pages = self.lock();
            pages.giving_back_in_use = false;
            pages.given_back_in_use += bytes;
            pages.counts.released_in_use += bytes as u64;
            let Err(stopped) = answer else {
                pages.counts.releases += 1;
                rest = others;
                continue;
            };
            pages.counts.failed_releases += 1;
            if is_loss(&stopped.error) {
                done += 1;
                if let Some(index) = pages.regions.find(page_of(first)) {
                    pages.note_refusal(index, &stopped.error);
                }
            }
            drop(pages);
            rest[done..].iter().for_each(|&range| kept(range));
            return Err(stopped.error);
        }
        Ok(())
    }

    /// Makes a range Ready again that [`give_back_in_use`](PageHeap::give_back_in_use) took; its
    /// contents are as for a [`Run`](crate::Run) that was given back. Fails as
    /// [`allocate`](PageHeap::allocate) does, and changes nothing then; with [`ErrorKind::Lost`] where
    /// the system lost a part of the reservation: then the range is never memory again, and the run
    /// never freed.
    ///
    /// # Safety
    ///
    /// The whole range was given back so, in a run of this heap, and no other thread works on it.
    pub unsafe fn use_again(&self, range: PageRange) -> Result<(), Error> {
        let mut pages = self.lock();
        let shift = self.page_shift();
        let Some(index) = pages.regions.find(range.start.addr() >> shift) else { return Ok(()) };
        if !pages.may_use_again(range.len) {
            return Err(self.refusal(&pages, range.len.div_ceil(self.page_size())));
        }
        let offset = range.start.addr() - (pages.regions[index].start << shift);
        // SAFETY: the caller's promise.
        let used = unsafe { pages.regions[index].reservation().used_shared(offset, range.len) };
        used.inspect_err(|error| pages.note_refusal(index, error))?;
        pages.given_back_in_use -= range.len;
        Ok(())
    }
}

impl<O: Os + Clone> Pages<O> {
    /// The pages in use that are in memory.
    pub(crate) fn in_use_in_memory(&self, shift: u32) -> usize {
        self.in_use.saturating_sub(self.given_back_in_use >> shift)
    }
}
