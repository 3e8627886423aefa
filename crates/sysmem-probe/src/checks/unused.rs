//! `unused`: what giving memory back does, held against [`UnusedContract`](sysmem::UnusedContract).
//!
//! Where kernels differ: FreeBSD, NetBSD and OpenBSD keep the contents through `MADV_DONTNEED`;
//! `MADV_FREE` is lazy on Linux and FreeBSD, and zeroes at once on NetBSD and OpenBSD, but not what
//! is locked; Linux's `MADV_DONTNEED` refuses what is locked (madvise(2) of each).

use sysmem::{Contents, ErrorKind, GiveBack, Os, PageRange, Policy, Protection, ResidentFalls};

use super::Suite;
use crate::platform::{Access, Platform};
use crate::region::word;
use crate::report::{Checked, Stop};

impl<O: Os, P: Platform> Suite<'_, O, P> {
    pub(super) fn unused(&self) {
        const LAZY: GiveBack = GiveBack::Lazy;
        const EAGER: GiveBack = GiveBack::Eager;
        self.check("unused lazily: contents are as promised", |s| s.contents(LAZY));
        self.check("unused eagerly: contents are as promised", |s| s.contents(EAGER));
        self.check("unused lazily: what is written afterwards stays", |s| s.written_stays(LAZY));
        self.check("unused eagerly: what is written afterwards stays", |s| s.written_stays(EAGER));
        self.check("unused lazily: the pages around keep their contents", |s| s.around(LAZY));
        self.check("unused eagerly: the pages around keep their contents", |s| s.around(EAGER));
        self.check("unused lazily: memory that is read only", |s| s.read_only(LAZY));
        self.check("unused eagerly: memory that is read only", |s| s.read_only(EAGER));
        self.check("unused lazily: the resident set falls when promised", |s| s.resident(LAZY));
        self.check("unused eagerly: the resident set falls when promised", |s| s.resident(EAGER));
        self.check("unused lazily: no page is resident when promised", |s| s.residency(LAZY));
        self.check("unused eagerly: no page is resident when promised", |s| s.residency(EAGER));
        self.check("unused: eagerly after lazily, contents are as promised", Self::twice);
        self.check("unused eagerly: pages that a forked child shares", Self::shared_with_child);
        self.check("unused eagerly: pages that are locked", Self::locked);
        self.check("unused_batch: every range and nothing else", |s| s.batch(50));
        self.check("unused_batch: more ranges than a call takes", |s| s.batch(1100));
        self.check("unused_batch: a bad range is refused, what follows stays", Self::batch_stops);
        self.check("unused_batch: no ranges are no work", |suite| {
            // SAFETY: no range is touched.
            let answer = unsafe {
                suite.os.unused_batch(&[], Protection::ReadWrite, GiveBack::Eager, Policy::DEFAULT)
            };
            suite.ensure(answer.is_ok(), format_args!("{answer:?}"))
        });
    }

    /// Prepared → Ready, of part of a region.
    fn use_again(&self, range: PageRange, protection: Protection) -> Checked {
        // SAFETY: part of a region of the suite's, Prepared with this protection.
        Ok(unsafe { self.os.used(range, protection) }?)
    }

    /// Passes if memory that was given back in that way and is used again holds what was promised.
    fn as_promised(&self, range: PageRange, how: GiveBack) -> Checked {
        let zero = self.zero_pages(range)?;
        let npages = range.len / self.page_size();
        match self.os.unused_contract(how).contents {
            Contents::Zero if zero < npages => self.zero(range),
            _ => {
                self.note(format_args!("{zero} of {npages} pages were zero"));
                Ok(())
            }
        }
    }

    fn contents(&self, how: GiveBack) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        self.fill(region.range())?;
        region.give_back(region.range(), Protection::ReadWrite, how)?;
        self.use_again(region.range(), Protection::ReadWrite)?;
        self.as_promised(region.range(), how)
    }

    fn written_stays(&self, how: GiveBack) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        self.fill(region.range())?;
        region.give_back(region.range(), Protection::ReadWrite, how)?;
        self.use_again(region.range(), Protection::ReadWrite)?;
        let seed = self.fill(region.range())?;
        // Other work in between: a lazy kernel may take the pages at any time, if it still may.
        for _ in 0..4 {
            drop(self.ready(16, Protection::ReadWrite)?);
        }
        self.holds(region.range(), seed, 0)?;
        // The first write keeps the whole page, whatever it holds by then.
        region.give_back(region.range(), Protection::ReadWrite, how)?;
        self.use_again(region.range(), Protection::ReadWrite)?;
        self.touch(region.range())?;
        let before = self.digest(region.range())?;
        for _ in 0..4 {
            drop(self.ready(16, Protection::ReadWrite)?);
        }
        let after = self.digest(region.range())?;
        self.ensure(
            before == after,
            format_args!("a page changed after it was written to: digest {before:#x}, {after:#x}"),
        )
    }

    fn around(&self, how: GiveBack) -> Checked {
        let region = self.ready(12, Protection::ReadWrite)?;
        let seed = self.fill(region.range())?;
        region.give_back(region.pages(4, 4), Protection::ReadWrite, how)?;
        self.use_again(region.pages(4, 4), Protection::ReadWrite)?;
        self.holds(region.pages(0, 4), seed, 0)?;
        self.holds(region.pages(8, 4), seed, 8)
    }

    fn read_only(&self, how: GiveBack) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        self.fill(region.range())?;
        region.protect(region.range(), Protection::ReadOnly)?;
        region.give_back(region.range(), Protection::ReadOnly, how)?;
        self.use_again(region.range(), Protection::ReadOnly)?;
        self.as_promised(region.range(), how)?;
        match self.faults(region.start, Access::Write) {
            Err(Stop::NotSupported) => Ok(()),
            answer => answer,
        }
    }

    fn resident(&self, how: GiveBack) -> Checked {
        let region = self.ready(self.bulk() / self.page_size(), Protection::ReadWrite)?;
        let fall = || region.give_back(region.range(), Protection::ReadWrite, how);
        let fell = self.resident_falls(|| self.touch(region.range()), fall);
        match (self.os.unused_contract(how).resident_falls, fell) {
            (ResidentFalls::UnderPressure, Err(Stop::Failed)) => Ok(()),
            (_, fell) => fell,
        }
    }

    fn residency(&self, how: GiveBack) -> Checked {
        let region = self.ready(self.bulk() / self.page_size(), Protection::ReadWrite)?;
        self.touch(region.range())?;
        let before = self.os.resident_bytes(region.range())?;
        region.give_back(region.range(), Protection::ReadWrite, how)?;
        let after = self.os.resident_bytes(region.range())?;
        self.note(format_args!("{before} and then {after} bytes of {}", region.len));
        match self.os.unused_contract(how).resident_falls {
            ResidentFalls::UnderPressure => Ok(()),
            ResidentFalls::AtOnce => self.ensure(
                after == 0,
                format_args!("{before} and then still {after} bytes of {}", region.len),
            ),
        }
    }

    fn twice(&self) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        self.fill(region.range())?;
        for how in [GiveBack::Lazy, GiveBack::Lazy, GiveBack::Eager, GiveBack::Eager] {
            region.give_back(region.range(), Protection::ReadWrite, how)?;
        }
        self.use_again(region.range(), Protection::ReadWrite)?;
        self.as_promised(region.range(), GiveBack::Eager)
    }

    fn shared_with_child(&self) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        self.fill(region.range())?;
        let mut checked = Ok(());
        let forked = self.platform.while_forked(&mut || {
            checked = region
                .give_back(region.range(), Protection::ReadWrite, GiveBack::Eager)
                .and_then(|()| self.use_again(region.range(), Protection::ReadWrite))
                .and_then(|()| self.as_promised(region.range(), GiveBack::Eager));
        });
        if forked { checked } else { Err(self.cannot("the platform cannot fork")) }
    }

    fn locked(&self) -> Checked {
        let region = self.ready(4, Protection::ReadWrite)?;
        self.fill(region.range())?;
        if !self.platform.lock(region.range()) {
            return Err(self.cannot("the platform cannot lock memory"));
        }
        match region.give_back(region.range(), Protection::ReadWrite, GiveBack::Eager) {
            // A clear refusal breaks no promise.
            Err(Stop::Refused(error)) => {
                self.note(format_args!("{error}"));
                return Ok(());
            }
            answer => answer?,
        }
        self.use_again(region.range(), Protection::ReadWrite)?;
        self.as_promised(region.range(), GiveBack::Eager)
    }

    /// Gives every other page back in one call.
    fn batch(&self, count: usize) -> Checked {
        let len = (2 * count + 1) * self.page_size();
        if len > self.platform.room() / 2 {
            return Err(self.cannot("the platform has no room for it"));
        }
        let region = self.ready(2 * count + 1, Protection::ReadWrite)?;
        let seed = self.fill(region.range())?;
        let mut ranges = [region.range(); 1100];
        let ranges = &mut ranges[..count];
        for (index, range) in ranges.iter_mut().enumerate() {
            *range = region.pages(2 * index + 1, 1);
        }
        // SAFETY: each range is part of the region, Ready, and its contents are given up.
        unsafe {
            self.os.unused_batch(ranges, Protection::ReadWrite, GiveBack::Eager, Policy::DEFAULT)
        }
        .map_err(|stopped| stopped.error)?;
        for &range in ranges.iter() {
            self.use_again(range, Protection::ReadWrite)?;
        }
        let zero = self.os.unused_contract(GiveBack::Eager).contents == Contents::Zero;
        let in_page = self.page_size() / size_of::<u64>();
        self.every_word(region.range(), |index| match index / in_page % 2 {
            0 => Some(word(seed, index)),
            _ => zero.then_some(0),
        })?;
        self.note(format_args!("{count} ranges"));
        Ok(())
    }

    fn batch_stops(&self) -> Checked {
        let region = self.ready(12, Protection::ReadWrite)?;
        let seed = self.fill(region.range())?;
        let bad = PageRange::new(region.start.wrapping_add(1), self.page_size());
        let ranges = [region.pages(1, 1), region.pages(3, 1), bad, region.pages(9, 1)];
        // SAFETY: each range but the bad one, which is refused, is part of the region, Ready, and
        // its contents are given up.
        let answer = unsafe {
            self.os.unused_batch(&ranges, Protection::ReadWrite, GiveBack::Eager, Policy::DEFAULT)
        };
        let Err(stopped) = answer else {
            return Err(self.failed(format_args!("an unaligned range was accepted")));
        };
        self.told(stopped.error, |kind| matches!(kind, ErrorKind::Unaligned { .. }))?;
        self.ensure(stopped.done <= 2, format_args!("said to be done: {} of 2", stopped.done))?;
        for &range in &ranges[..stopped.done] {
            self.use_again(range, Protection::ReadWrite)?;
            self.as_promised(range, GiveBack::Eager)?;
        }
        self.holds(region.pages(4, 8), seed, 4)
    }
}
