//! `reserve`: where reservations lie, and what they cost.

use sysmem::{Error, ErrorKind, Os, Placement, Protection, ReserveOptions};

use super::Suite;
use crate::platform::Platform;
use crate::region::Region;
use crate::report::{Checked, Stop};

impl<O: Os, P: Platform> Suite<'_, O, P> {
    pub(super) fn placement(&self) {
        self.check("reserve: reading and writing fault", |suite| {
            let region = suite.reserve(16 * suite.page_size())?;
            suite.faults_throughout(region.range())
        });
        self.check("reserve: no two reservations overlap", Self::reservations_are_apart);
        self.check("reserve: address space costs no memory", Self::reserve_costs_nothing);
        for (name, align) in [
            ("reserve: aligned to 64 KiB", 64 << 10),
            ("reserve: aligned to 2 MiB", 2 << 20),
            ("reserve: aligned to 32 MiB", 32 << 20),
            ("reserve: aligned to 1 GiB", 1 << 30),
        ] {
            self.check(name, |suite| suite.aligned(align));
        }
        self.check("reserve: alignment leaves nothing else behind", Self::alignment_size);
        self.check("reserve: a hint at a free address is taken", Self::hint_at_free);
        self.check("reserve: a hint at a taken address harms nothing", Self::hint_at_taken);
        self.check("reserve: a taken address is refused and keeps its contents", Self::at_taken);
        self.check("reserve: near an address", Self::near);
        self.check("reserve: nothing free near an address is said", Self::near_nothing);
        self.check("reserve: high", Self::high);
    }

    fn reservations_are_apart(&self) -> Checked {
        let len = 4 * self.page_size();
        let (a, b) = (self.reserve(len)?, self.reserve(len)?);
        let (c, d) = (self.reserve(2 * len)?, self.alloc(len)?);
        let regions = [&a, &b, &c, &d];
        for (index, one) in regions.iter().enumerate() {
            for other in &regions[..index] {
                let apart = one.start.addr() >= other.start.addr() + other.len
                    || other.start.addr() >= one.start.addr() + one.len;
                self.ensure(apart, format_args!("{:p} and {:p} overlap", one.start, other.start))?;
            }
        }
        Ok(())
    }

    fn reserve_costs_nothing(&self) -> Checked {
        let len = (1 << 30).min(self.platform.room() / 2) & !(self.page_size() - 1);
        let before = self.platform.resident();
        let region = self.unless_too_large(self.reserve(len))?;
        let after = self.platform.resident();
        let (Some(before), Some(after)) = (before, after) else {
            return Err(self.cannot("the platform does not tell the resident set"));
        };
        self.note(format_args!("resident {before} and then {after} bytes"));
        // Some systems and emulators keep a few bytes for each page.
        self.ensure(
            after < before + self.tolerance().max(len as u64 / 64),
            format_args!("{} reserved: resident {before} and then {after} bytes", region.len),
        )
    }

    fn aligned(&self, align: usize) -> Checked {
        if align > self.platform.room() / 2 {
            return Err(self.cannot("the platform has no room for it"));
        }
        // Three in a row: the first may lie well by accident, its neighbours cannot.
        let options = ReserveOptions::new(3 * self.page_size()).align(align);
        let regions = [
            self.unless_too_large(self.reserve_as(&options))?,
            self.unless_too_large(self.reserve_as(&options))?,
            self.unless_too_large(self.reserve_as(&options))?,
        ];
        for region in &regions {
            self.ensure(
                region.start.addr() % align == 0,
                format_args!("{:p} is no multiple of {align:#x}", region.start),
            )?;
        }
        Ok(())
    }

    fn alignment_size(&self) -> Checked {
        let align = (1 << 30).min(self.platform.room().next_power_of_two() / 8);
        let options = ReserveOptions::new(3 * self.page_size()).align(align);
        let before = self.platform.size();
        let region = self.unless_too_large(self.reserve_as(&options))?;
        let after = self.platform.size();
        let (Some(before), Some(after)) = (before, after) else {
            return Err(self.cannot("the platform does not tell the size of the process"));
        };
        self.note(format_args!("size {before} and then {after} bytes"));
        // Below the alignment, above what a process grows by on its own.
        let most = (align / 4).min(8 << 20) as u64;
        self.ensure(
            after <= before + region.len as u64 + most,
            format_args!("{} aligned to {align}: size {before} and then {after}", region.len),
        )
    }

    /// An address where `len` bytes were free a moment ago.
    fn free_address(&self, len: usize) -> Result<usize, Stop> {
        let region = self.reserve(len)?;
        region.free()?;
        Ok(region.start.addr())
    }

    fn hint_at_free(&self) -> Checked {
        let len = 16 * self.page_size();
        let place = self.free_address(len)?;
        let options = ReserveOptions::new(len).placement(Placement::Hint(place));
        let region = self.reserve_as(&options)?;
        self.ensure(
            region.start.addr() == place,
            format_args!("{place:#x} was free, given {:p}", region.start),
        )
    }

    fn hint_at_taken(&self) -> Checked {
        let taken = self.ready(16, Protection::ReadWrite)?;
        let seed = self.fill(taken.range())?;
        let hint = Placement::Hint(taken.pages(4, 1).start.addr());
        let options = ReserveOptions::new(4 * self.page_size()).placement(hint);
        let region = self.reserve_as(&options)?;
        let (start, end) = (region.start.addr(), region.start.addr() + region.len);
        let apart = end <= taken.start.addr() || taken.start.addr() + taken.len <= start;
        self.ensure(apart, format_args!("{start:#x} lies in what was taken"))?;
        self.holds(taken.range(), seed, 0)
    }

    /// Passes if a reservation is refused for this reason.
    fn refused(&self, options: &ReserveOptions, reason: impl Fn(ErrorKind) -> bool) -> Checked {
        match self.os.reserve(options) {
            Ok(start) => {
                drop(Region::of(self, start.as_ptr(), options.len()));
                Err(self.failed(format_args!("given at {start:p}")))
            }
            Err(error) => self.told(error, reason),
        }
    }

    /// Passes if an error has the right reason; says which.
    pub(super) fn told(&self, error: Error, reason: impl Fn(ErrorKind) -> bool) -> Checked {
        self.note(format_args!("{error}"));
        if error.kind() == ErrorKind::NotSupported {
            return Err(error.into());
        }
        self.ensure(reason(error.kind()), format_args!("refused for another reason: {error}"))
    }

    fn at_taken(&self) -> Checked {
        // Windows reserves at multiples of 64 KiB, and so only there tells who is in the way.
        let len = 64 << 10;
        let taken = self.ready(4 * len / self.page_size(), Protection::ReadWrite)?;
        let seed = self.fill(taken.range())?;
        let address = taken.start.addr().next_multiple_of(len) + len;
        let options = ReserveOptions::new(len).placement(Placement::At(address));
        if let Ok(start) = self.os.reserve(&options) {
            // Not released: if it is where it was asked to be, it is part of `taken`.
            return Err(self.failed(format_args!("{address:#x} is taken, given {start:p}")));
        }
        self.refused(&options, |kind| kind == ErrorKind::Taken)?;
        self.holds(taken.range(), seed, 0)
    }

    fn near(&self) -> Checked {
        let anchor = self.ready(16, Protection::ReadWrite)?;
        let distance = (1usize << 30).min(self.platform.room());
        let address = anchor.pages(8, 1).start.addr();
        let options = ReserveOptions::new(16 * self.page_size())
            .placement(Placement::Near { address, distance });
        let region = self.reserve_as(&options)?;
        let last = region.start.addr() + region.len - 1;
        let farthest = region.start.addr().abs_diff(address).max(last.abs_diff(address));
        self.note(format_args!("{farthest} bytes away at most"));
        self.ensure(
            farthest <= distance,
            format_args!("{:p} is {farthest} from {address:#x}", region.start),
        )
    }

    fn near_nothing(&self) -> Checked {
        let taken = self.reserve(64 * self.page_size())?;
        let address = taken.pages(32, 1).start.addr();
        let distance = 16 * self.page_size();
        let options = ReserveOptions::new(4 * self.page_size())
            .placement(Placement::Near { address, distance });
        self.refused(&options, |kind| kind == ErrorKind::NoPlace)
    }

    fn high(&self) -> Checked {
        let options = ReserveOptions::new(16 * self.page_size()).placement(Placement::High);
        let region = self.reserve_as(&options)?;
        self.note(format_args!("{:p}", region.start));
        self.ensure(
            region.start.addr() as u64 >= 1 << 32,
            format_args!("{:p} lies in the first 4 GiB", region.start),
        )
    }
}
