//! Operations that move pages from state to state.

use std::collections::BTreeMap;

use sysmem::{Errno, Error, ErrorKind, GiveBack, Os, PageRange, Protection, Reservation, State};

use super::{Page, RESERVED, World};
use crate::operations::Part;
use crate::systems::System;

/// What an operation makes of a page, if it may.
type Step<'a> = &'a dyn Fn(Page) -> Result<Page, ErrorKind>;

/// An operation on an offset and a length.
type Operate<'a, O> = &'a dyn Fn(&mut Reservation<O>, usize, usize) -> Result<(), Error>;

impl<S: System> World<S> {
    pub(super) fn map(&mut self, part: Part, protection: Protection) {
        self.run(
            part,
            protection == Protection::ReadExecute,
            &|page| match page.state {
                State::Reserved => Ok(Page { state: State::Prepared, protection, ..RESERVED }),
                found => Err(ErrorKind::WrongState { found }),
            },
            &|reservation, at, len| reservation.map(at, len, protection),
        );
    }

    pub(super) fn used(&mut self, part: Part) {
        self.run(
            part,
            false,
            &|page| match page.state {
                State::Reserved => Err(ErrorKind::WrongState { found: State::Reserved }),
                _ => Ok(Page { state: State::Ready, ..page }),
            },
            &|reservation, at, len| reservation.used(at, len),
        );
    }

    pub(super) fn unused(&mut self, part: Part, how: GiveBack) {
        let refusal = self.wired_refusal(&[self.part(part)], how);
        self.run_or(
            part,
            false,
            refusal,
            &|page| given_back(page, how),
            &|reservation, at, len| reservation.unused(at, len, how),
        );
    }

    pub(super) fn fault(&mut self, part: Part) {
        self.run(part, false, &|_| Ok(RESERVED), &|reservation, at, len| {
            reservation.fault(at, len)
        });
    }

    pub(super) fn protect(&mut self, part: Part, protection: Protection) {
        self.run(
            part,
            protection == Protection::ReadExecute,
            &|page| match page.state {
                State::Ready => Ok(Page { protection, ..page }),
                found => Err(ErrorKind::WrongState { found }),
            },
            &|reservation, at, len| reservation.protect(at, len, protection),
        );
    }

    /// What the kernel may refuse to give these parts back with, because pages are wired.
    fn wired_refusal(&self, parts: &[(usize, usize, usize)], how: GiveBack) -> Option<Errno> {
        let errno = (self.refuses_wired)(how)?;
        let page_size = self.page_size();
        let mappings = self.kernel.mappings();
        let any_wired = |&(which, at, end): &(usize, usize, usize)| {
            let start = self.entries[which].reservation.as_mut_ptr().addr();
            let (start, end) = (start + at * page_size, start + end * page_size);
            let mut inside = mappings.iter().filter(|it| it.start < end && start < it.end);
            inside.any(|it| it.attributes.locked)
        };
        parts.iter().any(any_wired).then_some(errno)
    }

    /// Runs an operation that makes `step` of each page of a part.
    fn run(&mut self, part: Part, executes: bool, step: Step, operate: Operate<S::Os>) {
        self.run_or(part, executes, None, step, operate);
    }

    /// The same of an operation that the kernel may refuse in this way.
    fn run_or(
        &mut self,
        part: Part,
        executes: bool,
        refusal: Option<Errno>,
        step: Step,
        operate: Operate<S::Os>,
    ) {
        let (which, at, end) = self.part(part);
        let page_size = self.page_size();
        let entry = &mut self.entries[which];
        let expected = match entry.lost {
            true => Err(ErrorKind::Lost),
            false if executes && !entry.policy.executable => Err(ErrorKind::NotExecutable),
            false => entry.pages[at..end].iter().map(|&page| step(page)).collect(),
        };
        let len = (end - at) * page_size;
        let result = operate(&mut entry.reservation, at * page_size, len);
        self.settle(which, vec![(at, end)], refusal, expected, result);
    }

    pub(super) fn batch(&mut self, parts: &[Part], how: GiveBack) {
        let Some(&first) = parts.first() else { return };
        let (which, ..) = self.part(first);
        let page_size = self.page_size();
        let spans: Vec<(usize, usize)> = parts
            .iter()
            .map(|part| self.part(Part { which, ..*part }))
            .map(|(_, at, end)| (at, end))
            .collect();
        let entry = &self.entries[which];
        let start = entry.reservation.as_mut_ptr();
        let ranges: Vec<PageRange> = spans
            .iter()
            .map(|&(at, end)| {
                PageRange::new(start.wrapping_add(at * page_size), (end - at) * page_size)
            })
            .collect();
        let common = entry.pages[spans[0].0].protection;
        let pages = spans.iter().flat_map(|&(at, end)| &entry.pages[at..end]);
        let expected = match entry.lost {
            true => Err(ErrorKind::Lost),
            false => pages
                .map(|&page| match given_back(page, how) {
                    Ok(page) if page.protection != common => {
                        Err(ErrorKind::WrongProtection { found: page.protection })
                    }
                    result => result,
                })
                .collect(),
        };
        let parts: Vec<_> = spans.iter().map(|&(at, end)| (which, at, end)).collect();
        let refusal = self.wired_refusal(&parts, how);
        let entry = &self.entries[which];
        // SAFETY: nobody else works on the reservation.
        let result = unsafe { entry.reservation.unused_batch_shared(&ranges, how) };
        self.settle(which, spans, refusal, expected, result.map_err(|stopped| stopped.error));
    }

    /// Holds a result against what was expected, and moves the model on.
    fn settle(
        &mut self,
        which: usize,
        spans: Vec<(usize, usize)>,
        refusal: Option<Errno>,
        expected: Result<Vec<Page>, ErrorKind>,
        result: Result<(), Error>,
    ) {
        let entry = &mut self.entries[which];
        let touched = spans.iter().flat_map(|&(at, end)| at..end);
        match (expected, result) {
            (Ok(pages), Ok(())) => {
                for (index, page) in touched.zip(pages) {
                    entry.pages[index] = page;
                }
            }
            (Err(expected), Err(error)) => assert_eq!(error.kind(), expected, "{error}"),
            (Err(expected), Ok(())) => panic!("{expected:?} was not refused"),
            (Ok(pages), Err(error)) => {
                let refused = refusal.is_some_and(|it| error.kind() == ErrorKind::System(it));
                assert!(self.injecting || refused, "{error}");
                if error.kind() == ErrorKind::Lost {
                    entry.lost = true;
                    let start = entry.reservation.as_mut_ptr().addr();
                    let page_size = self.os.page_size();
                    let mappings = self.kernel.mappings();
                    let is_as_it_was = |index: usize| {
                        let address = start + index * page_size;
                        let found = mappings
                            .iter()
                            .find(|found| (found.start..found.end).contains(&address))
                            .filter(|found| !found.attributes.foreign);
                        found.map(|found| found.attributes.protection)
                            == Some(entry.pages[index].protection)
                    };
                    let all = touched.clone().all(is_as_it_was);
                    assert!(!self.honest || !all, "nothing is lost: {error}");
                }
                // Some pages may be done, others not; each is what the reservation says, and that
                // is one of the two. Forfeit contents may be gone from either.
                let page_size = self.os.page_size();
                let after: BTreeMap<usize, Page> = touched.zip(pages).collect();
                for (index, new) in after {
                    let old = &mut entry.pages[index];
                    let (state, protection, _) =
                        entry.reservation.state(index * page_size).expect("inside");
                    let forfeit = new.state != State::Ready;
                    if (state, protection) == (new.state, new.protection) {
                        // Where that changes nothing, it may not have been done.
                        let unstable = new.unstable || forfeit;
                        let same = (old.state, old.protection) == (new.state, new.protection);
                        let words = if same { old.words } else { new.words };
                        *old = Page { unstable, words, ..new };
                    } else {
                        assert_eq!((state, protection), (old.state, old.protection), "{error}");
                        old.unstable |= forfeit;
                    }
                }
            }
        }
    }
}

fn given_back(page: Page, how: GiveBack) -> Result<Page, ErrorKind> {
    let unstable = how == GiveBack::Lazy;
    match page.state {
        State::Reserved => Err(ErrorKind::WrongState { found: State::Reserved }),
        _ if unstable => Ok(Page { state: State::Prepared, unstable, ..page }),
        _ => Ok(Page { state: State::Prepared, words: [0; 3], unstable, ..page }),
    }
}
