//! [`Reservation`], [`Account`], [`Registry`](sysmem::Registry) and [`Lock`] on this system.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use core::time::Duration;

use sysmem::{
    Account, AccountFigures, ErrorKind, GiveBack, Lock, Os, PageRange, Protection, Reservation,
    ReserveOptions, State,
};

use super::Suite;
use crate::platform::{Access, Platform};
use crate::report::{Checked, Stop};

static PROBE: Account = Account::new("sysmem-probe");

const RW: Protection = Protection::ReadWrite;

impl<'a, O: Os, P: Platform> Suite<'a, O, P> {
    pub(super) fn reservation(&self) {
        self.check("Reservation: states follow the operations", Self::states);
        self.check("Reservation: what the states forbid changes nothing", Self::forbidden);
        self.check("Reservation: given back in a batch", Self::reservation_batch);
        self.check("Reservation: alloc is Ready", Self::allocated);
        self.check("Reservation: free returns it", |suite| {
            let memory = Reservation::alloc_in(suite.os, 16 * suite.page_size(), &PROBE)?;
            let start = memory.as_mut_ptr();
            suite.fill(PageRange::new(start, memory.len()))?;
            memory.free().map_err(|(_, error)| error)?;
            suite.faults(start, Access::Read)
        });
        self.check("Account: figures follow the operations", Self::account);
        self.check("Registry: finds what is reserved, with its state", Self::registry);
        self.check("Reservation: random operations against a model", Self::random_operations);
        self.check("park, wake: a thread that waits is woken", Self::woken);
        self.check("Lock: threads that contend lose no increment", Self::contended);
    }

    fn reservation_of(&self, npages: usize) -> Result<Reservation<&'a O>, Stop> {
        let options = ReserveOptions::new(npages * self.page_size());
        Ok(Reservation::reserve_in(self.os, options, &PROBE)?)
    }

    /// Passes if the pages from `first` to `end` are in this state, and the run ends there.
    fn run_is(
        &self,
        reservation: &Reservation<&'a O>,
        (first, end): (usize, usize),
        state: State,
    ) -> Checked {
        let page_size = self.page_size();
        let found = reservation.state(first * page_size);
        let right =
            found.is_some_and(|(found, _, run_end)| found == state && run_end == end * page_size);
        self.ensure(right, format_args!("pages {first} to {end} are {found:?}, not {state:?}"))
    }

    fn states(&self) -> Checked {
        let page = self.page_size();
        let mut reservation = self.reservation_of(16)?;
        self.run_is(&reservation, (0, 16), State::Reserved)?;
        reservation.map(4 * page, 8 * page, RW)?;
        self.run_is(&reservation, (0, 4), State::Reserved)?;
        self.run_is(&reservation, (4, 12), State::Prepared)?;
        reservation.used(4 * page, 8 * page)?;
        self.run_is(&reservation, (4, 12), State::Ready)?;
        let start = reservation.as_mut_ptr();
        let range = |first: usize, npages: usize| {
            PageRange::new(start.wrapping_add(first * page), npages * page)
        };
        let seed = self.fill(range(4, 8))?;
        reservation.unused(6 * page, 2 * page, GiveBack::Eager)?;
        self.run_is(&reservation, (6, 8), State::Prepared)?;
        reservation.used(4 * page, 8 * page)?;
        self.run_is(&reservation, (4, 12), State::Ready)?;
        self.holds(range(4, 2), seed, 0)?;
        self.holds(range(8, 4), seed, 4)?;
        reservation.fault(2 * page, 4 * page)?;
        self.run_is(&reservation, (0, 6), State::Reserved)?;
        self.holds(range(8, 4), seed, 4)?;
        match self.faults_throughout(range(2, 4)) {
            Err(Stop::NotSupported) => Ok(()),
            answer => answer,
        }
    }

    /// Passes if an operation was refused for this reason.
    fn forbids(&self, what: &str, answer: Result<(), sysmem::Error>, reason: ErrorKind) -> Checked {
        match answer {
            Err(error) if error.kind() == reason => Ok(()),
            answer => Err(self.failed(format_args!("{what}: {answer:?}, not {reason:?}"))),
        }
    }

    fn forbidden(&self) -> Checked {
        let page = self.page_size();
        let mut reservation = self.reservation_of(16)?;
        let wrong = |found| ErrorKind::WrongState { found };
        let answer = reservation.used(0, page);
        self.forbids("used of Reserved pages", answer, wrong(State::Reserved))?;
        let answer = reservation.unused(0, page, GiveBack::Lazy);
        self.forbids("unused of Reserved pages", answer, wrong(State::Reserved))?;
        let answer = reservation.map(0, page, Protection::ReadExecute);
        self.forbids("map to execute", answer, ErrorKind::NotExecutable)?;
        let answer = reservation.map(8 * page, 9 * page, RW);
        self.forbids("map past the end", answer, ErrorKind::OutOfBounds { len: 16 * page })?;
        reservation.map(0, 8 * page, RW)?;
        let answer = reservation.protect(0, page, RW);
        self.forbids("protect of Prepared pages", answer, wrong(State::Prepared))?;
        reservation.used(0, 8 * page)?;
        let answer = reservation.map(4 * page, 8 * page, RW);
        self.forbids("map of Ready pages", answer, wrong(State::Ready))?;
        let answer = reservation.map(1, page, RW);
        self.forbids("map off a page", answer, ErrorKind::Unaligned { multiple: page })?;
        self.run_is(&reservation, (0, 8), State::Ready)?;
        self.run_is(&reservation, (8, 16), State::Reserved)?;
        let outside = reservation.state(16 * page);
        self.ensure(outside.is_none(), format_args!("past the end: {outside:?}"))?;
        match self.faults(reservation.as_mut_ptr().wrapping_add(8 * page), Access::Read) {
            Err(Stop::NotSupported) => Ok(()),
            answer => answer,
        }
    }

    fn reservation_batch(&self) -> Checked {
        let page = self.page_size();
        let mut reservation = self.reservation_of(16)?;
        reservation.map(0, 16 * page, RW)?;
        reservation.used(0, 16 * page)?;
        let start = reservation.as_mut_ptr();
        let seed = self.fill(PageRange::new(start, 16 * page))?;
        let ranges = [2, 5, 11].map(|first| PageRange::new(start.wrapping_add(first * page), page));
        // SAFETY: this thread alone has the reservation, and gives the contents up.
        unsafe { reservation.unused_batch_shared(&ranges, GiveBack::Eager) }
            .map_err(|stopped| stopped.error)?;
        self.run_is(&reservation, (2, 3), State::Prepared)?;
        self.run_is(&reservation, (6, 11), State::Ready)?;
        self.run_is(&reservation, (11, 12), State::Prepared)?;
        self.holds(PageRange::new(start.wrapping_add(6 * page), 5 * page), seed, 6)
    }

    fn allocated(&self) -> Checked {
        let page = self.page_size();
        let mut memory = Reservation::alloc_in(self.os, 16 * page, &PROBE)?;
        self.run_is(&memory, (0, 16), State::Ready)?;
        let range = PageRange::new(memory.as_mut_ptr(), 16 * page);
        self.zero(range)?;
        self.fill(range)?;
        memory.unused(0, 16 * page, GiveBack::Lazy)?;
        self.run_is(&memory, (0, 16), State::Prepared)?;
        memory.used(0, 16 * page)?;
        let seed = self.fill(range)?;
        self.holds(range, seed, 0)
    }

    /// Passes if the bytes in the states Reserved, Prepared and Ready are so many pages more than
    /// before.
    pub(super) fn booked(
        &self,
        account: &Account,
        before: &AccountFigures,
        pages: [usize; 3],
    ) -> Checked {
        let now = account.figures();
        let grown = [
            now.reserved.wrapping_sub(before.reserved),
            now.prepared.wrapping_sub(before.prepared),
            now.ready.wrapping_sub(before.ready),
        ];
        let expected = pages.map(|pages| (pages * self.page_size()) as u64);
        self.ensure(
            grown == expected,
            format_args!("reserved, prepared, ready grew by {grown:?}, not {expected:?}"),
        )
    }

    fn account(&self) -> Checked {
        let page = self.page_size();
        let before = PROBE.figures();
        let mut reservation = self.reservation_of(16)?;
        self.booked(&PROBE, &before, [16, 0, 0])?;
        reservation.map(0, 8 * page, RW)?;
        self.booked(&PROBE, &before, [8, 8, 0])?;
        reservation.used(0, 4 * page)?;
        self.booked(&PROBE, &before, [8, 4, 4])?;
        reservation.unused(0, page, GiveBack::Lazy)?;
        self.booked(&PROBE, &before, [8, 5, 3])?;
        reservation.fault(0, 16 * page)?;
        self.booked(&PROBE, &before, [16, 0, 0])?;
        drop(reservation);
        self.booked(&PROBE, &before, [0, 0, 0])?;
        let obtained = PROBE.figures().obtained - before.obtained;
        self.ensure(
            obtained == 16 * page as u64,
            format_args!("{obtained} bytes obtained for 16 pages"),
        )?;
        let listed = sysmem::accounts().any(|account| core::ptr::eq(account, &PROBE));
        self.ensure(listed, format_args!("the account is not in the list of accounts"))
    }

    fn registry(&self) -> Checked {
        let page = self.page_size();
        let mut reservation = self.reservation_of(200)?;
        reservation.map(150 * page, page, RW)?;
        reservation.used(150 * page, page)?;
        let start = reservation.as_mut_ptr().addr();
        for (offset, state) in [
            (0, State::Reserved),
            (150 * page + 17, State::Ready),
            (200 * page - 1, State::Reserved),
        ] {
            let found = self.os.registry().find(start + offset);
            let right = found.is_some_and(|found| {
                (found.address(), found.len()) == (start, 200 * page)
                    && core::ptr::eq(found.account(), &PROBE)
                    && found.state_at(start + offset, self.os).is_some_and(|(at, _)| at == state)
            });
            self.ensure(right, format_args!("{offset} bytes into a reservation: not found so"))?;
        }
        let listed = self.os.registry().reservations();
        let count = listed.filter(|found| found.address() == start).count();
        self.ensure(count == 1, format_args!("listed {count} times"))?;
        drop(reservation);
        let found = self.os.registry().find(start).is_some();
        self.ensure(!found, format_args!("{start:#x} is found after it was freed"))
    }

    fn contended(&self) -> Checked {
        const EACH: u64 = 50_000;
        if self.failures() > 0 {
            // A thread that is never woken would wait for ever.
            return Err(self.cannot("not tried after a failure"));
        }
        let Some(beside) = self.options.beside else {
            return Err(self.cannot("no second thread"));
        };
        let (os, count) = (self.os, Lock::new(0));
        beside(&|| {
            for _ in 0..EACH {
                *count.lock(os) += 1;
            }
        });
        let count = *count.lock(os);
        self.ensure(count == 2 * EACH, format_args!("{count} and not {}", 2 * EACH))
    }

    fn woken(&self) -> Checked {
        // Far more than a busy machine takes to run a thread that was woken.
        const PATIENCE: Duration = Duration::from_secs(10);
        let Some(beside) = self.options.beside else {
            return Err(self.cannot("no second thread"));
        };
        let os = self.os;
        let (arrived, word) = (AtomicUsize::new(0), AtomicU32::new(0));
        let waited_in_vain = AtomicUsize::new(0);
        beside(&|| {
            let start = os.monotonic_time();
            if arrived.fetch_add(1, SeqCst) == 0 {
                while word.load(SeqCst) == 0 && os.monotonic_time() < start + PATIENCE {
                    os.park(&word, 0, Some(PATIENCE));
                }
                let took = os.monotonic_time().saturating_sub(start);
                waited_in_vain.fetch_add(usize::from(took >= PATIENCE), SeqCst);
            } else {
                // Gives the other thread time to park.
                let nothing = AtomicU32::new(0);
                os.park(&nothing, 0, Some(Duration::from_millis(50)));
                word.store(1, SeqCst);
                os.wake(&word, 1);
            }
        });
        self.ensure(
            waited_in_vain.load(SeqCst) == 0,
            format_args!("still parked {PATIENCE:?} after it was to wake"),
        )
    }
}
