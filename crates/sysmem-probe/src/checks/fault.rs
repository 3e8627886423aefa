//! `fault`: contents are dropped, memory is given back, and every access faults.

use sysmem::{GiveBack, Os, Protection};

use super::Suite;
use crate::platform::Platform;
use crate::report::{Checked, Stop};

impl<O: Os, P: Platform> Suite<'_, O, P> {
    pub(super) fn fault(&self) {
        self.check("fault: Ready memory faults", |suite| {
            let region = suite.ready(4, Protection::ReadWrite)?;
            suite.fill(region.range())?;
            region.drop_contents(region.range())?;
            suite.faults_throughout(region.range())
        });
        self.check("fault: Prepared memory faults", |suite| {
            let region = suite.ready(4, Protection::ReadWrite)?;
            suite.fill(region.range())?;
            region.give_back(region.range(), Protection::ReadWrite, GiveBack::Lazy)?;
            region.drop_contents(region.range())?;
            suite.faults_throughout(region.range())
        });
        self.check("fault: contents are gone when mapped again", |suite| {
            let region = suite.ready(16, Protection::ReadWrite)?;
            suite.fill(region.range())?;
            region.drop_contents(region.range())?;
            region.make_ready(region.range(), Protection::ReadWrite)?;
            suite.zero(region.range())?;
            let seed = suite.fill(region.range())?;
            suite.holds(region.range(), seed, 0)
        });
        self.check("fault: contents are gone that could only be read", |suite| {
            let region = suite.ready(4, Protection::ReadWrite)?;
            suite.fill(region.range())?;
            region.protect(region.range(), Protection::ReadOnly)?;
            region.drop_contents(region.range())?;
            region.make_ready(region.range(), Protection::ReadOnly)?;
            suite.zero(region.range())
        });
        self.check("fault: the pages around keep their contents", |suite| {
            let region = suite.ready(12, Protection::ReadWrite)?;
            let seed = suite.fill(region.range())?;
            region.drop_contents(region.pages(4, 4))?;
            suite.holds(region.pages(0, 4), seed, 0)?;
            suite.holds(region.pages(8, 4), seed, 8)
        });
        self.check("fault: the resident set falls", |suite| {
            let npages = suite.bulk() / suite.page_size();
            let region = suite.ready(npages, Protection::ReadWrite)?;
            let fall = || region.drop_contents(region.range());
            suite.resident_falls(|| suite.touch(region.range()), fall)
        });
        self.check("fault: no page is resident", |suite| {
            let region = suite.ready(16, Protection::ReadWrite)?;
            suite.fill(region.range())?;
            region.drop_contents(region.range())?;
            let resident = suite.os.resident_bytes(region.range())?;
            suite.ensure(resident == 0, format_args!("{resident} of {}", region.len))
        });
        self.check("fault: of a whole reservation in several states", Self::mixed);
        self.check("fault: pages that a forked child shares", Self::fault_shared);
        self.check("fault: pages that are locked", Self::fault_locked);
    }

    fn mixed(&self) -> Checked {
        let region = self.reserve(16 * self.page_size())?;
        region.make_ready(region.pages(2, 4), Protection::ReadWrite)?;
        region.make_ready(region.pages(8, 4), Protection::ReadWrite)?;
        self.fill(region.pages(2, 4))?;
        self.fill(region.pages(8, 4))?;
        region.give_back(region.pages(8, 4), Protection::ReadWrite, GiveBack::Lazy)?;
        region.protect(region.pages(3, 1), Protection::ReadOnly)?;
        region.drop_contents(region.range())?;
        region.make_ready(region.range(), Protection::ReadWrite)?;
        self.zero(region.range())
    }

    fn fault_shared(&self) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        self.fill(region.range())?;
        let mut checked = Ok(());
        let forked = self.platform.while_forked(&mut || {
            checked = region
                .drop_contents(region.range())
                .and_then(|()| region.make_ready(region.range(), Protection::ReadWrite))
                .and_then(|()| self.zero(region.range()));
        });
        if forked { checked } else { Err(self.cannot("the platform cannot fork")) }
    }

    fn fault_locked(&self) -> Checked {
        let region = self.ready(4, Protection::ReadWrite)?;
        self.fill(region.range())?;
        if !self.platform.lock(region.range()) {
            return Err(self.cannot("the platform cannot lock memory"));
        }
        match region.drop_contents(region.range()) {
            // A clear refusal breaks no promise.
            Err(Stop::Refused(error)) => {
                self.note(format_args!("{error}"));
                return Ok(());
            }
            answer => answer?,
        }
        region.make_ready(region.range(), Protection::ReadWrite)?;
        self.zero(region.range())
    }
}
