//! `alloc` and `free`.

use sysmem::{ErrorKind, Os, Placement, Protection, ReserveOptions};

use super::Suite;
use crate::platform::{Access, Platform};
use crate::report::{Checked, Stop};

impl<O: Os, P: Platform> Suite<'_, O, P> {
    pub(super) fn allocation(&self) {
        self.check("alloc: memory is zero and can be written to", Self::alloc_is_zero);
        self.check("alloc: memory is zero after other memory was dirty", Self::alloc_after_free);
        self.check("alloc: more than there can be is refused", Self::alloc_too_much);
        self.check("alloc, free: the resident set rises and falls", Self::alloc_resident);
        self.check("free: freed memory faults", Self::freed_faults);
        self.check("free: no address space stays behind", Self::free_returns_size);
        self.check("free: the place can be taken again", Self::free_place);
    }

    fn alloc_is_zero(&self) -> Checked {
        let region = self.alloc(16 * self.page_size())?;
        self.ensure(
            region.start.addr() % self.page_size() == 0,
            format_args!("{:p} is not the address of a page", region.start),
        )?;
        self.zero(region.range())?;
        let seed = self.fill(region.range())?;
        self.holds(region.range(), seed, 0)
    }

    fn alloc_after_free(&self) -> Checked {
        for _ in 0..4 {
            let region = self.alloc(16 * self.page_size())?;
            self.zero(region.range())?;
            self.fill(region.range())?;
            region.free()?;
        }
        Ok(())
    }

    fn alloc_too_much(&self) -> Checked {
        match self.os.alloc(1 << (usize::BITS - 1)) {
            Ok(start) => {
                Err(self.failed(format_args!("half of the address space was given at {start:p}")))
            }
            Err(error) => {
                self.note(format_args!("{error}"));
                let clear =
                    matches!(error.kind(), ErrorKind::OutOfMemory { .. } | ErrorKind::TooLong);
                self.ensure(clear, format_args!("not said to be out of memory: {error}"))
            }
        }
    }

    fn alloc_resident(&self) -> Checked {
        let region = self.alloc(self.bulk())?;
        self.resident_falls(|| self.touch(region.range()), || region.free())
    }

    /// Passes if the resident set, raised by `raise` by [`bulk`](Suite::bulk) bytes, falls by as
    /// many in `fall`.
    pub(super) fn resident_falls(
        &self,
        raise: impl FnOnce() -> Checked,
        fall: impl FnOnce() -> Checked,
    ) -> Checked {
        let bulk = self.bulk() as u64;
        let before = self.platform.resident();
        raise()?;
        let between = self.platform.resident();
        fall()?;
        let after = self.platform.resident();
        let (Some(before), Some(between), Some(after)) = (before, between, after) else {
            return Err(self.cannot("the platform does not tell the resident set"));
        };
        self.note(format_args!("resident {before}, {between}, {after} bytes"));
        if between < before + bulk - self.tolerance() {
            // Something else takes memory from this process at the same time.
            return Err(Stop::NotSupported);
        }
        self.ensure(
            after + bulk - self.tolerance() <= between,
            format_args!("resident {before}, {between}, and then still {after} bytes"),
        )
    }

    fn freed_faults(&self) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        self.fill(region.range())?;
        region.free()?;
        self.faults(region.start, Access::Read)?;
        self.faults(region.pages(15, 1).start, Access::Write)
    }

    fn free_returns_size(&self) -> Checked {
        let before = self.platform.size();
        let region = self.ready(self.bulk() / self.page_size(), Protection::ReadWrite)?;
        // In the middle, so that the mapping is in three pieces when it goes.
        region.protect(region.pages(1, 1), Protection::ReadOnly)?;
        region.free()?;
        let after = self.platform.size();
        let (Some(before), Some(after)) = (before, after) else {
            return Err(self.cannot("the platform does not tell the size of the process"));
        };
        self.note(format_args!("size {before} and then {after} bytes"));
        self.ensure(
            after < before + self.tolerance(),
            format_args!("size {before} and then still {after} bytes"),
        )
    }

    fn free_place(&self) -> Checked {
        let len = 16 * self.page_size();
        let region = self.ready(16, Protection::ReadWrite)?;
        self.fill(region.range())?;
        let place = region.start.addr();
        region.free()?;
        let options = ReserveOptions::new(len).placement(Placement::At(place));
        let again = self.reserve_as(&options)?;
        self.ensure(
            again.start.addr() == place,
            format_args!("asked for {place:#x}, given {:p}", again.start),
        )?;
        again.make_ready(again.range(), Protection::ReadWrite)?;
        self.zero(again.range())
    }
}
