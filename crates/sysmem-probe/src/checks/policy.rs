//! [`Policy`]: what a forked child gets, what a core dump has in it, what may become executable,
//! where stacks may be, and that no operation makes memory forget it. A mapping that replaces
//! another has none of it (mmap(2) of each system), so a backend that replaces mappings must say it
//! again.

use sysmem::{ErrorKind, GiveBack, Inheritance, Os, Policy, Protection, ReserveOptions};

use super::Suite;
use crate::platform::{Access, Platform, Seen};
use crate::region::Region;
use crate::report::{Checked, Stop};

const RW: Protection = Protection::ReadWrite;

pub(super) const INHERITANCES: [(&str, Inheritance); 4] = [
    ("a forked child gets a copy", Inheritance::Copy),
    ("a forked child shares", Inheritance::Share),
    ("a forked child gets nothing", Inheritance::Nothing),
    ("a forked child gets zeros", Inheritance::Zeros),
];

impl<'a, O: Os, P: Platform> Suite<'a, O, P> {
    pub(super) fn policy(&self) {
        self.check("policy: reserve takes what is supported, and nothing else", Self::supported);
        self.check("inheritance: a forked child gets a copy", |s| s.inherited(Inheritance::Copy));
        self.check("inheritance: a forked child shares", |s| s.inherited(Inheritance::Share));
        self.check("inheritance: a forked child gets nothing", |s| {
            s.inherited(Inheritance::Nothing)
        });
        self.check("inheritance: a forked child gets zeros", |s| s.inherited(Inheritance::Zeros));
        self.check("inheritance: stays through every operation", Self::inheritance_stays);
        self.check("set_inheritance: what a forked child gets changes", Self::inheritance_changes);
        self.check("dumped: memory that is left out, through every operation", Self::left_out);
        self.check("set_dumped: contents stay", Self::dumped_changes);
        self.check("executable: stays through every operation", Self::executable_stays);
        self.check("stacks: threads may have theirs in it, through every operation", Self::stacks);
    }

    fn supported(&self) -> Checked {
        let mut taken = 0;
        for (_, inheritance) in INHERITANCES {
            for bits in 0..8 {
                let [executable, dumped, stacks] = [1, 2, 4].map(|bit| bits & bit != 0);
                let policy = Policy { executable, dumped, inheritance, stacks, ..Policy::DEFAULT };
                let options = ReserveOptions::new(self.page_size())
                    .executable(executable)
                    .dumped(dumped)
                    .inheritance(inheritance)
                    .stacks(stacks);
                match (self.os.supports(policy), self.reserve_as(&options)) {
                    (true, Ok(_)) => taken += 1,
                    (false, Err(Stop::Refused(error)))
                        if error.kind() == ErrorKind::NotSupported => {}
                    (supported, answer) => {
                        let answer = answer.map(|region| region.start);
                        return Err(self.failed(format_args!(
                            "{policy:?} is said to be supported: {supported}, and reserve says \
                             {answer:?}"
                        )));
                    }
                }
            }
        }
        self.note(format_args!("{taken} of 32"));
        Ok(())
    }

    /// Four pages of Ready memory with this policy.
    fn ready_as(&self, policy: Policy) -> Result<Region<'_, 'a, O, P>, Stop> {
        if !self.os.supports(policy) {
            return Err(self.cannot("this system does not have it"));
        }
        let options = ReserveOptions::new(4 * self.page_size())
            .executable(policy.executable)
            .dumped(policy.dumped)
            .inheritance(policy.inheritance)
            .stacks(policy.stacks);
        let region = self.reserve_as(&options)?;
        region.make_ready(region.range(), RW)?;
        Ok(region)
    }

    /// Does everything to a region that may map it anew, and ends with it Ready; `look` looks after
    /// each.
    fn through_every_operation(
        &self,
        region: &Region<'_, 'a, O, P>,
        look: impl Fn() -> Checked,
    ) -> Checked {
        let range = region.range();
        look()?;
        region.protect(range, Protection::ReadOnly)?;
        region.protect(range, RW)?;
        look()?;
        for how in [GiveBack::Lazy, GiveBack::Eager] {
            region.give_back(range, RW, how)?;
            // SAFETY: the region is Prepared.
            unsafe { self.os.used(range, RW) }?;
            look()?;
        }
        region.drop_contents(range)?;
        region.make_ready(range, RW)?;
        look()
    }

    fn inherited(&self, inheritance: Inheritance) -> Checked {
        let region = self.ready_as(Policy { inheritance, ..Policy::DEFAULT })?;
        self.child_gets(&region, inheritance)
    }

    fn inheritance_stays(&self) -> Checked {
        let mut shown = 0;
        for (_, inheritance) in INHERITANCES {
            let policy = Policy { inheritance, ..Policy::DEFAULT };
            if self.os.supports(policy) {
                let region = self.ready_as(policy)?;
                self.through_every_operation(&region, || self.child_gets(&region, inheritance))?;
                shown += 1;
            }
        }
        self.note(format_args!("{shown} of {}", INHERITANCES.len()));
        Ok(())
    }

    fn inheritance_changes(&self) -> Checked {
        let region = self.ready_as(Policy::DEFAULT)?;
        let mut shown = 0;
        for (_, inheritance) in INHERITANCES {
            // Between each and the next, what every system does unasked.
            for inheritance in [inheritance, Inheritance::Copy] {
                // SAFETY: the suite's own range; `child_gets` knows what was set.
                match unsafe { self.os.set_inheritance(region.range(), inheritance) } {
                    Ok(()) => self.child_gets(&region, inheritance)?,
                    Err(error) if error.kind() == ErrorKind::NotSupported => continue,
                    Err(error) => return Err(error.into()),
                }
                shown += 1;
            }
        }
        if shown == 0 {
            return Err(self.cannot("this system does not have it"));
        }
        self.note(format_args!("{shown} changes"));
        Ok(())
    }

    /// Passes if a forked child gets of Ready, writable memory what it is to get.
    fn child_gets(&self, region: &Region<'_, 'a, O, P>, inheritance: Inheritance) -> Checked {
        const OURS: u8 = 0xa5;
        for page in [0, region.len / self.page_size() - 1] {
            let place = region.pages(page, 1).start;
            // SAFETY: the suite's own memory, which is not executed.
            let look = |access| unsafe { self.platform.access_by_child(place, access) };
            let child =
                |access| look(access).ok_or_else(|| self.cannot("the platform cannot fork"));
            if inheritance == Inheritance::Nothing {
                let seen = child(Access::Read)?;
                let right = matches!(seen, Seen::Fault { address, .. } if address == place.addr());
                self.ensure(right, format_args!("Nothing: a child read {place:p}: {seen}"))?;
                continue;
            }
            // By the child first: this tells whether it is safe here.
            let seen = child(Access::Write)?;
            let right = matches!(seen, Seen::Value(_));
            self.ensure(
                right,
                format_args!("{inheritance:?}: a child wrote to {place:p}: {seen}"),
            )?;
            // SAFETY: Ready, writable, and the suite's.
            unsafe { place.write_volatile(OURS) };
            let seen = child(Access::Read)?;
            let expected = if inheritance == Inheritance::Zeros { 0 } else { OURS };
            self.ensure(
                seen == Seen::Value(expected),
                format_args!("{inheritance:?}: a child read {place:p}: {seen}"),
            )?;
            child(Access::Write)?;
            // SAFETY: as above, and the child is gone.
            let ours = unsafe { place.read_volatile() };
            self.ensure(
                (ours == OURS) == (inheritance != Inheritance::Share),
                format_args!(
                    "{inheritance:?}: a child wrote to {place:p}, which is {ours:#x} here"
                ),
            )?;
        }
        Ok(())
    }

    /// Passes if a core dump has a region in it or not, as was said, or the platform cannot tell.
    fn dumped_is(&self, region: &Region<'_, 'a, O, P>, dumped: bool) -> Checked {
        let found = self.platform.dumped(region.start);
        self.ensure(
            found.is_none_or(|found| found == dumped),
            format_args!("a core dump has it: {found:?}, and not {dumped}"),
        )
    }

    fn left_out(&self) -> Checked {
        let region = self.ready_as(Policy { dumped: false, ..Policy::DEFAULT })?;
        self.through_every_operation(&region, || {
            let seed = self.fill(region.range())?;
            self.holds(region.range(), seed, 0)?;
            self.dumped_is(&region, false)
        })
    }

    fn dumped_changes(&self) -> Checked {
        let region = self.ready_as(Policy::DEFAULT)?;
        let seed = self.fill(region.range())?;
        self.dumped_is(&region, true)?;
        for dumped in [false, true] {
            // SAFETY: the suite's own range.
            let answer = unsafe { self.os.set_dumped(region.range(), dumped) };
            self.holds(region.range(), seed, 0)?;
            self.hint(answer)?;
            self.dumped_is(&region, dumped)?;
        }
        Ok(())
    }

    fn stacks(&self) -> Checked {
        let region = self.ready_as(Policy { stacks: true, ..Policy::DEFAULT })?;
        self.through_every_operation(&region, || {
            let seed = self.fill(region.range())?;
            self.holds(region.range(), seed, 0)?;
            // SAFETY: the suite's own memory.
            match unsafe { self.platform.stand_on(region.range()) } {
                None | Some(Seen::Value(_)) => Ok(()),
                Some(seen) => {
                    Err(self.failed(format_args!("a child with its stack there: {seen}")))
                }
            }
        })
    }

    fn executable_stays(&self) -> Checked {
        let region = self.ready_as(Policy { executable: true, ..Policy::DEFAULT })?;
        self.through_every_operation(&region, || {
            let seed = self.fill(region.range())?;
            region.protect(region.range(), Protection::ReadExecute)?;
            self.holds(region.range(), seed, 0)?;
            region.protect(region.range(), RW)
        })
    }
}
