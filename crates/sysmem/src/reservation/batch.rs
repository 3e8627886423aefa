//! Many ranges given back at once.

use core::sync::atomic::Ordering::Relaxed;

use super::applying::Plan;
use super::{Reservation, plan_unused};
use crate::os::{BatchError, GiveBack, Os, PageRange, Source};
use crate::state_map::Page;
use crate::{ErrorKind, Operation, Protection, State};

impl<O: Os> Reservation<O> {
    /// [`unused_shared`](Reservation::unused_shared) for many ranges, given as pointers, in as
    /// few system calls as the system allows. Every page has the same protection.
    ///
    /// # Safety
    ///
    /// As for [`map_shared`](Reservation::map_shared), for each range.
    #[track_caller]
    pub unsafe fn unused_batch_shared(
        &self,
        ranges: &[PageRange],
        how: GiveBack,
    ) -> Result<(), BatchError> {
        let Some(first) = ranges.first() else { return Ok(()) };
        if self.policy().source == Source::Object {
            return Err(BatchError {
                done: 0,
                error: first.error(Operation::Unused, ErrorKind::View),
            });
        }
        let mut protection = None;
        let offset_of =
            |range: &PageRange| range.start.addr().wrapping_sub(self.start.addr().get());
        for range in ranges {
            let refuse = |error| BatchError { done: 0, error };
            let (at, end) =
                self.pages(Operation::Unused, (offset_of(range), range.len)).map_err(refuse)?;
            let mut start = at;
            while start < end {
                let (page, run_end) = self.entry().states.run(start, end, self.shape());
                let plan = plan_unused(page);
                let common = *protection.get_or_insert(page.protection());
                let wrong = match plan {
                    _ if page.is_guard() => Some(ErrorKind::Guard),
                    Plan::Refuse(kind) => Some(kind),
                    _ if page.protection() != common => {
                        Some(ErrorKind::WrongProtection { found: page.protection() })
                    }
                    _ => None,
                };
                if let Some(kind) = wrong {
                    return Err(refuse(range.error(Operation::Unused, kind)));
                }
                start = run_end;
            }
            let pool = self.registry().pool(&self.os);
            self.entry().states.make_room(at, end, self.shape(), &pool).map_err(refuse)?;
        }
        let protection = protection.unwrap_or(Protection::NoAccess);
        debug_assert!(first.len > 0);
        // SAFETY: the ranges are ours; the caller keeps others out and gives contents up.
        let result = unsafe { self.os.unused_batch(ranges, protection, how, self.policy()) };
        let done = result.map_or_else(|stopped| stopped.done, |()| ranges.len());
        if matches!(&result, Err(stopped) if stopped.error.kind() == ErrorKind::Lost) {
            self.entry().lost.store(true, Relaxed);
        }
        for range in &ranges[..done] {
            let page_size = self.os.page_size();
            let at = offset_of(range) / page_size;
            let end = at + range.len / page_size;
            let before = self.entry().states.count(at, end, self.shape());
            self.note((at, end), before, Page::new(State::Prepared, protection));
            self.registry().remember(Operation::Unused, *range);
        }
        result
    }
}
