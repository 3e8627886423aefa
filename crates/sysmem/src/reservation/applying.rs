//! An operation on a range: every page is looked at, the system is asked run by run, and what it
//! did is recorded.

use super::Reservation;
use crate::os::{Os, PageRange, Source};
use crate::state_map::Page;
use crate::{Error, ErrorKind, Operation, Protection, State};
use core::sync::atomic::Ordering::Relaxed;

/// What an operation does with a page.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Plan {
    /// It does not start from this page's state.
    Refuse(ErrorKind),
    /// The page is as it should be.
    Keep,
    /// The system is asked, then the page is this.
    Become(Page),
}

impl<O: Os> Reservation<O> {
    /// Asks `plan` about every page of a range; if none refuses, makes one call for each run of
    /// pages that allow the same and are to become the same, and keeps the books of what
    /// succeeded.
    #[track_caller]
    pub(super) fn apply(
        &self,
        operation: Operation,
        part: (usize, usize),
        plan: impl Fn(Page) -> Plan,
        call: impl Fn(PageRange, Page) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (first, end) = self.pages(operation, part)?;
        if may_not_be_of_views(operation) && self.policy().source == Source::Object {
            return Err(self.range(operation, part)?.error(operation, ErrorKind::View));
        }
        let (states, shape) = (&self.entry().states, self.shape());
        let page_size = self.os.page_size();
        let range = |at: usize, end: usize| {
            let start = self.start.as_ptr().wrapping_add(at * page_size);
            PageRange::new(start, (end - at) * page_size)
        };
        let first_run = states.run(first, end, shape);
        let (mut at, (mut page, mut run_end)) = (first, first_run);
        loop {
            if page.is_guard() && !may_meet_guards(operation) {
                return Err(range(at, run_end).error(operation, ErrorKind::Guard));
            }
            if let Plan::Refuse(kind) = plan(page) {
                return Err(range(at, run_end).error(operation, kind));
            }
            if run_end == end {
                break;
            }
            at = run_end;
            (page, run_end) = states.run(at, end, shape);
        }
        let (mut at, mut run) = (first, first_run);
        while at < end {
            let (page, mut run_end) = run;
            let what = plan(page);
            let mut before = [0; 3];
            before[page.state() as usize] += run_end - at;
            while run_end < end {
                run = states.run(run_end, end, shape);
                let (next, next_end) = run;
                if plan(next) != what || next.protection() != page.protection() {
                    break;
                }
                before[next.state() as usize] += next_end - run_end;
                run_end = next_end;
            }
            if let Plan::Become(to) = what {
                states.make_room(at, run_end, shape, &self.registry().pool(&self.os))?;
                let range = range(at, run_end);
                call(range, to)
                    .map_err(|error| self.undo(operation, range, page.protection(), error))?;
                self.note((at, run_end), before, to);
                self.registry().remember(operation, range);
            }
            at = run_end;
        }
        Ok(())
    }

    /// After a call that failed: sees to it that the range allows what it allowed before, or that
    /// the reservation says it is lost.
    #[cold]
    pub(super) fn undo(
        &self,
        operation: Operation,
        range: PageRange,
        protection: Protection,
        error: Error,
    ) -> Error {
        let whole = match operation {
            _ if error.kind() == ErrorKind::Lost => false,
            // Nothing was tried.
            _ if error.kind() == ErrorKind::NotSupported => true,
            // A protection is changed mapping by mapping, and a limit may stop that half way.
            Operation::Fault | Operation::Protect | Operation::Guard => {
                // SAFETY: the range is ours, allowed this before, and its user keeps others out.
                unsafe { self.os.protect(range, protection) }.is_ok()
            }
            _ => true,
        };
        if whole {
            return error;
        }
        self.entry().lost.store(true, Relaxed);
        range.error(operation, ErrorKind::Lost)
    }

    /// Records that pages, of which so many were in each state before, are `page` now.
    pub(super) fn note(&self, (at, end): (usize, usize), before: [usize; 3], page: Page) {
        let pool = self.registry().pool(&self.os);
        self.entry().states.set(at, end, page, self.shape(), &pool);
        for from in [State::Reserved, State::Prepared, State::Ready] {
            let bytes = before[from as usize] * self.os.page_size();
            if bytes != 0 {
                self.account.transfer(from, page.state(), bytes);
            }
        }
    }
}

/// Whether an operation has no meaning for views of objects, whose pages are the object's.
fn may_not_be_of_views(operation: Operation) -> bool {
    matches!(operation, Operation::Map | Operation::Unused | Operation::Guard)
}

/// Whether an operation has a meaning for guards. The others would take them away, or leave them
/// in memory that is called Ready: a light guard survives mprotect(2) and madvise(2).
fn may_meet_guards(operation: Operation) -> bool {
    matches!(operation, Operation::RemoveGuard)
}
