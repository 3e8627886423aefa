//! The checks. Each is named for what it shows when it passes.

use core::cell::{Cell, RefCell};
use core::fmt;

use sysmem::{GiveBack, Os, Policy, Protection, ReserveOptions};

use crate::platform::Platform;
use crate::region::Region;
use crate::report::{Checked, Report, Stop, Summary, Text};
use crate::{Capable, Options};

mod allocation;
mod capabilities;
mod fault;
mod hints;
mod misuse;
mod model;
mod placement;
mod policy;
mod protection;
mod reservation;
mod unused;

/// What a check needs: the system, the platform around it, and a place for what was seen.
pub(crate) struct Suite<'a, O, P> {
    pub(crate) os: &'a O,
    pub(crate) platform: &'a P,
    pub(crate) options: Options,
    report: RefCell<Report<'a>>,
    note: RefCell<Text>,
    seeds: Cell<u64>,
}

impl<'a, O: Os, P: Platform> Suite<'a, O, P> {
    pub(crate) fn new(
        os: &'a O,
        platform: &'a P,
        out: &'a mut dyn fmt::Write,
        options: Options,
    ) -> Suite<'a, O, P> {
        let report = RefCell::new(Report::new(out, options.json));
        let note = RefCell::new(Text::new());
        Suite { os, platform, options, report, note, seeds: Cell::new(0) }
    }

    pub(crate) fn page_size(&self) -> usize {
        self.os.page_size()
    }

    /// A number that was not given before.
    pub(crate) fn seed(&self) -> u64 {
        self.seeds.set(self.seeds.get() + 1);
        self.seeds.get()
    }

    /// Says what was seen, instead of what was said before.
    pub(crate) fn note(&self, seen: fmt::Arguments<'_>) {
        self.note.borrow_mut().set(seen);
    }

    /// A broken promise, and how it was seen.
    pub(crate) fn failed(&self, seen: fmt::Arguments<'_>) -> Stop {
        self.note(seen);
        Stop::Failed
    }

    /// Passes if `kept`; says what was seen otherwise.
    pub(crate) fn ensure(&self, kept: bool, seen: fmt::Arguments<'_>) -> Checked {
        if kept { Ok(()) } else { Err(self.failed(seen)) }
    }

    /// Ends a check that the platform cannot make.
    pub(crate) fn cannot(&self, why: &str) -> Stop {
        self.note(format_args!("{why}"));
        Stop::NotSupported
    }

    /// Bytes for checks that measure the process: enough to stand out.
    pub(crate) fn bulk(&self) -> usize {
        let len = (16 << 20).min(self.platform.room() / 4);
        len & !(self.page_size() - 1)
    }

    /// How much of [`bulk`](Suite::bulk) a measurement of the process may be off by: kernels count
    /// the resident set in batches a processor (Linux since 6.2), and the process itself moves.
    pub(crate) fn tolerance(&self) -> u64 {
        (self.bulk() / 8) as u64
    }

    fn check(&self, name: &str, check: impl FnOnce(&Self) -> Checked) {
        self.note(format_args!(""));
        let checked = check(self);
        self.report.borrow_mut().checked(name, checked, self.note.borrow().as_str());
    }

    pub(crate) fn failures(&self) -> usize {
        self.report.borrow().summary().failed
    }

    pub(crate) fn finish(self) -> Summary {
        self.report.into_inner().finish()
    }

    fn fact(&self, name: &str, value: fmt::Arguments<'_>) {
        self.report.borrow_mut().fact(name, value);
    }

    pub(crate) fn run(&self)
    where
        O: Capable,
    {
        self.facts();
        self.capability_facts();
        self.allocation();
        self.placement();
        self.protection();
        self.unused();
        self.fault();
        self.policy();
        self.hints();
        self.misuse();
        self.reservation();
        self.capabilities();
    }

    fn facts(&self) {
        self.platform.facts(&mut |name, value| self.fact(name, value));
        self.fact("page size", format_args!("{}", self.page_size()));
        match self.os.huge_page_size() {
            Some(size) => self.fact("huge page size", format_args!("{size}")),
            None => self.fact("huge page size", format_args!("none")),
        }
        for (name, how) in [("unused lazily", GiveBack::Lazy), ("unused eagerly", GiveBack::Eager)]
        {
            let promised = self.os.unused_contract(how);
            self.fact(
                name,
                format_args!(
                    "contents {:?}, resident set falls {:?}, used is {}",
                    promised.contents,
                    promised.resident_falls,
                    if promised.used_is_a_call { "a call" } else { "no call" }
                ),
            );
        }
        for (name, inheritance) in policy::INHERITANCES {
            let supported = self.os.supports(Policy { inheritance, ..Policy::DEFAULT });
            self.fact(name, format_args!("{}", if supported { "supported" } else { "no" }));
        }
        let supported = self.os.supports(Policy { dumped: false, ..Policy::DEFAULT });
        self.fact(
            "left out of core dumps",
            format_args!("{}", if supported { "supported" } else { "no" }),
        );
        self.largest_reservation();
        self.untouched_memory();
    }

    fn largest_reservation(&self) {
        let room = self.platform.room() as u64;
        let before = self.platform.resident();
        let mut largest = None;
        for shift in (20..47).filter(|&shift| 1 << shift <= room) {
            let Ok(len) = usize::try_from(1u64 << shift) else { break };
            let Ok(start) = self.os.reserve(&ReserveOptions::new(len)) else { break };
            let after = self.platform.resident();
            drop(Region::of(self, start.as_ptr(), len));
            largest = Some(len);
            // An emulator may keep a record of every page: going on would take all memory.
            let cost = after.zip(before).map_or(0, |(after, before)| after.saturating_sub(before));
            if cost > self.tolerance() {
                self.fact("reservations cost", format_args!("{cost} bytes for 2^{shift}"));
                break;
            }
        }
        match largest {
            Some(len) => self.fact("largest reservation", format_args!("2^{} bytes", len.ilog2())),
            None => self.fact("largest reservation", format_args!("less than a mebibyte")),
        }
    }

    /// What memory costs that is Ready and that nobody touched: no system promises it.
    fn untouched_memory(&self) {
        let Ok(region) = self.ready(self.bulk() / self.page_size(), Protection::ReadWrite) else {
            return;
        };
        if let Ok(resident) = self.os.resident_bytes(region.range()) {
            self.fact("untouched memory", format_args!("{resident} of {} resident", region.len));
        }
    }
}
