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

impl<O: Os + Clone> PageHeap<O> {
    /// Gives the memory of ranges inside runs back to the system, in order; returns how many ranges
    /// went before the system refused. Ranges are whole pages of the system, and quickest when those
    /// of one reservation come together.
    ///
    /// A refusal in whose middle the system lost a range ([`ErrorKind::Lost`]) counts that range as
    /// gone: it may be another's, and `use_again` refuses it for ever.
    ///
    /// # Safety
    ///
    /// Every range lies in a run of this heap. It is Ready, and from now on nothing touches it
    /// before [`use_again`](PageHeap::use_again) succeeded; its contents are forfeit. The run is not
    /// freed, extended or shrunk meanwhile.
    pub unsafe fn give_back_in_use(&self, ranges: &[PageRange]) -> usize {
        let _releasing = self.releasing.lock(&self.os);
        let mut gone = 0;
        while gone < ranges.len() {
            let rest = &ranges[gone..];
            let mut pages = self.lock();
            let page_of = |range: &PageRange| range.start.addr() >> self.page_shift();
            let Some(index) = pages.regions.find(page_of(&rest[0])) else { break };
            let region = &pages.regions[index];
            if region.lost {
                pages.counts.failed_releases += 1;
                break;
            }
            let inside = |range: &PageRange| region.contains(page_of(range));
            let len = rest.iter().position(|range| !inside(range)).unwrap_or(rest.len());
            let reservation = region.reservation_ptr();
            pages.giving_back_in_use = true;
            drop(pages);
            // SAFETY: a region stays, and its reservation stays where it is, while a page of it is
            // in use.
            let reservation = unsafe { reservation.as_ref() };
            let how = self.options.give_back;
            // SAFETY: the caller's promise.
            let answer = unsafe { reservation.unused_batch_shared(&rest[..len], how) };
            let done = answer.as_ref().map_or_else(|stopped| stopped.done, |()| len);
            let bytes: usize = rest[..done].iter().map(|range| range.len).sum();
            let mut pages = self.lock();
            pages.giving_back_in_use = false;
            pages.given_back_in_use += bytes;
            pages.counts.released_in_use += bytes as u64;
            gone += done;
            match answer {
                Ok(()) => pages.counts.releases += 1,
                Err(stopped) => {
                    pages.counts.failed_releases += 1;
                    if is_loss(&stopped.error) {
                        gone += 1;
                        if let Some(index) = pages.regions.find(page_of(&rest[0])) {
                            pages.note_refusal(index, &stopped.error);
                        }
                    }
                    break;
                }
            }
        }
        gone
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
