//! Random operations on a [`Reservation`], held against a model of the four states.

use sysmem::{
    Account, Contents, Error, ErrorKind, GiveBack, Os, PageRange, Protection, Reservation,
    ReserveOptions, State,
};

use super::Suite;
use crate::platform::Platform;
use crate::region::word;
use crate::report::{Checked, Stop};

static MODEL: Account = Account::new("sysmem-probe: model");

const PAGES: usize = 32;
const OPERATIONS: usize = 3000;

/// What a page is said to hold.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    Zero,
    /// What a fill with this seed wrote.
    Filled(u64),
    Unspecified,
}

#[derive(Clone, Copy)]
struct ModelPage {
    state: State,
    protection: Protection,
    holds: Holds,
}

const RESERVED: ModelPage =
    ModelPage { state: State::Reserved, protection: Protection::NoAccess, holds: Holds::Zero };

/// A generator of numbers (xorshift64*, Marsaglia and Vigna).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn protection(&mut self) -> Protection {
        // Mostly writable: else little is ever written.
        match self.below(6) {
            0 => Protection::NoAccess,
            1 => Protection::ReadOnly,
            _ => Protection::ReadWrite,
        }
    }
}

/// A reservation and what it should be.
struct Pair<O: Os> {
    real: Reservation<O>,
    model: [ModelPage; PAGES],
}

impl<'a, O: Os, P: Platform> Suite<'a, O, P> {
    pub(super) fn random_operations(&self) -> Checked {
        if self.failures() > 0 {
            // Accesses are made in this process here: they might end it.
            return Err(self.cannot("not tried after a failure"));
        }
        let before = MODEL.figures();
        let options = ReserveOptions::new(PAGES * self.page_size());
        let real = Reservation::reserve_in(self.os, options, &MODEL)?;
        let mut pair = Pair { real, model: [RESERVED; PAGES] };
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for step in 0..OPERATIONS {
            self.random_step(step, &mut random, &mut pair)?;
            let count = |state| pair.model.iter().filter(|page| page.state == state).count();
            let pages = [State::Reserved, State::Prepared, State::Ready].map(count);
            self.booked(&MODEL, &before, pages)?;
        }
        for page in 0..PAGES {
            self.page_is_as_modelled(OPERATIONS, &pair.real, page, pair.model[page])?;
        }
        drop(pair);
        self.booked(&MODEL, &before, [0; 3])?;
        self.note(format_args!("{OPERATIONS} operations on {PAGES} pages"));
        Ok(())
    }

    fn random_step(
        &self,
        step: usize,
        random: &mut Random,
        Pair { real, model }: &mut Pair<&'a O>,
    ) -> Checked {
        let page_size = self.page_size();
        let first = random.below(PAGES);
        let npages = 1 + random.below(6.min(PAGES - first));
        let (offset, len) = (first * page_size, npages * page_size);
        let pages = &mut model[first..first + npages];
        let every = |state| pages.iter().all(|page| page.state == state);
        let none_reserved = pages.iter().all(|page| page.state != State::Reserved);
        match random.below(7) {
            0 => {
                let protection = random.protection();
                let allowed = every(State::Reserved);
                let answer = real.map(offset, len, protection);
                if self.answers(step, "map", answer, allowed)? {
                    pages.fill(ModelPage { state: State::Prepared, protection, ..RESERVED });
                }
            }
            1 | 2 => {
                let answer = real.used(offset, len);
                if self.answers(step, "used", answer, none_reserved)? {
                    pages.iter_mut().for_each(|page| page.state = State::Ready);
                }
            }
            3 => {
                let how = [GiveBack::Lazy, GiveBack::Eager][random.below(2)];
                let answer = real.unused(offset, len, how);
                if self.answers(step, "unused", answer, none_reserved)? {
                    let holds = match self.os.unused_contract(how).contents {
                        Contents::Zero => Holds::Zero,
                        Contents::Unspecified => Holds::Unspecified,
                    };
                    for page in pages {
                        *page = ModelPage { state: State::Prepared, holds, ..*page };
                    }
                }
            }
            4 => {
                let answer = real.fault(offset, len);
                if self.answers(step, "fault", answer, true)? {
                    pages.fill(RESERVED);
                }
            }
            5 => {
                let protection = random.protection();
                let allowed = every(State::Ready);
                let answer = real.protect(offset, len, protection);
                if self.answers(step, "protect", answer, allowed)? {
                    pages.iter_mut().for_each(|page| page.protection = protection);
                }
            }
            _ => {}
        }
        for (index, page) in model.iter_mut().enumerate().skip(first).take(npages) {
            self.page_is_as_modelled(step, real, index, *page)?;
            if page.state == State::Ready && page.protection == Protection::ReadWrite {
                let seed = self.seed();
                self.write_words(self.page_of(real, index), seed);
                page.holds = Holds::Filled(seed);
            }
        }
        Ok(())
    }

    fn page_of(&self, real: &Reservation<&'a O>, index: usize) -> PageRange {
        let page_size = self.page_size();
        PageRange::new(real.as_mut_ptr().wrapping_add(index * page_size), page_size)
    }

    /// Says whether an operation was done; fails unless it was done exactly if it was allowed.
    fn answers(
        &self,
        step: usize,
        what: &str,
        answer: Result<(), Error>,
        allowed: bool,
    ) -> Result<bool, Stop> {
        match answer {
            Ok(()) if allowed => Ok(true),
            Err(error) if !allowed && matches!(error.kind(), ErrorKind::WrongState { .. }) => {
                Ok(false)
            }
            answer => Err(self.failed(format_args!(
                "step {step}, {what}, {}: {answer:?}",
                if allowed { "allowed" } else { "forbidden" }
            ))),
        }
    }

    fn page_is_as_modelled(
        &self,
        step: usize,
        real: &Reservation<&'a O>,
        index: usize,
        expected: ModelPage,
    ) -> Checked {
        let found = real.state(index * self.page_size()).map(|(state, protection, _)| {
            (state, if state == State::Reserved { Protection::NoAccess } else { protection })
        });
        self.ensure(
            found == Some((expected.state, expected.protection)),
            format_args!("step {step}, page {index}: {found:?}, not {:?}", expected.state),
        )?;
        let readable = expected.protection != Protection::NoAccess;
        if expected.state != State::Ready || !readable {
            return Ok(());
        }
        self.words_are(self.page_of(real, index), |at| match expected.holds {
            Holds::Zero => Some(0),
            Holds::Filled(seed) => Some(word(seed, at)),
            Holds::Unspecified => None,
        })
    }
}
