//! Memory under examination: what it holds, and what an access to it meets.

use core::cell::Cell;

use sysmem::{Errno, ErrorKind, GiveBack, Os, PageRange, Policy, Protection, ReserveOptions};

use crate::checks::Suite;
use crate::platform::{Access, Platform, Seen};
use crate::report::{Checked, Stop};

/// A reservation or allocation of the suite's, released when dropped.
pub(crate) struct Region<'s, 'a, O: Os, P: Platform> {
    suite: &'s Suite<'a, O, P>,
    pub(crate) start: *mut u8,
    pub(crate) len: usize,
    policy: Policy,
    owned: Cell<bool>,
}

/// The word that a fill with `seed` puts at `index`: distinct and never zero.
pub(crate) fn word(seed: u64, index: usize) -> u64 {
    (seed << 32 ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn words(range: PageRange) -> impl Iterator<Item = (usize, *mut u64)> {
    let words = range.start.cast::<u64>();
    (0..range.len / size_of::<u64>()).map(move |index| (index, words.wrapping_add(index)))
}

impl<'s, 'a, O: Os, P: Platform> Region<'s, 'a, O, P> {
    pub(crate) fn of(suite: &'s Suite<'a, O, P>, start: *mut u8, len: usize) -> Self {
        Region::with_policy(suite, start, len, Policy::DEFAULT)
    }

    pub(crate) fn with_policy(
        suite: &'s Suite<'a, O, P>,
        start: *mut u8,
        len: usize,
        policy: Policy,
    ) -> Self {
        Region { suite, start, len, policy, owned: Cell::new(true) }
    }

    pub(crate) fn range(&self) -> PageRange {
        PageRange::new(self.start, self.len)
    }

    /// `npages` pages from the one with number `first`.
    pub(crate) fn pages(&self, first: usize, npages: usize) -> PageRange {
        let page_size = self.suite.page_size();
        PageRange::new(self.start.wrapping_add(first * page_size), npages * page_size)
    }

    /// Reserved → Ready.
    pub(crate) fn make_ready(&self, range: PageRange, protection: Protection) -> Checked {
        // SAFETY: the range is part of this region, and Reserved.
        unsafe { self.suite.os.map(range, protection, self.policy) }?;
        // SAFETY: as above, and Prepared now.
        unsafe { self.suite.os.used(range, protection) }?;
        Ok(())
    }

    /// Ready → Prepared.
    pub(crate) fn give_back(
        &self,
        range: PageRange,
        protection: Protection,
        how: GiveBack,
    ) -> Checked {
        // SAFETY: the range is part of this region, Ready with this protection, contents given up.
        Ok(unsafe { self.suite.os.unused(range, protection, how, self.policy) }?)
    }

    /// Any state → Reserved.
    pub(crate) fn drop_contents(&self, range: PageRange) -> Checked {
        // SAFETY: the range is part of this region, contents given up.
        Ok(unsafe { self.suite.os.fault(range, self.policy) }?)
    }

    pub(crate) fn protect(&self, range: PageRange, protection: Protection) -> Checked {
        // SAFETY: the range is part of this region, and Ready.
        Ok(unsafe { self.suite.os.protect(range, protection) }?)
    }

    /// Leaves it behind.
    pub(crate) fn give_up(&self) {
        self.owned.set(false);
    }

    /// Releases it, where dropping would not say whether the system agreed.
    pub(crate) fn free(&self) -> Checked {
        self.give_up();
        // SAFETY: the whole region, of which nobody holds a reference.
        Ok(unsafe { self.suite.os.free(self.range()) }?)
    }
}

impl<O: Os, P: Platform> Drop for Region<'_, '_, O, P> {
    fn drop(&mut self) {
        if self.owned.get() {
            // What a check left behind when it failed is not worth a second failure.
            let _ = self.free();
        }
    }
}

impl<'a, O: Os, P: Platform> Suite<'a, O, P> {
    /// `len` reserved bytes anywhere.
    pub(crate) fn reserve(&self, len: usize) -> Result<Region<'_, 'a, O, P>, Stop> {
        self.reserve_as(&ReserveOptions::new(len))
    }

    pub(crate) fn reserve_as(
        &self,
        options: &ReserveOptions,
    ) -> Result<Region<'_, 'a, O, P>, Stop> {
        if options.len() > self.platform.room() {
            self.note(format_args!("the platform has no room for {} bytes", options.len()));
            return Err(Stop::NotSupported);
        }
        let start = self.os.reserve(options)?;
        Ok(Region::with_policy(self, start.as_ptr(), options.len(), options.policy()))
    }

    /// `npages` pages of Ready memory.
    pub(crate) fn ready(
        &self,
        npages: usize,
        protection: Protection,
    ) -> Result<Region<'_, 'a, O, P>, Stop> {
        let options = ReserveOptions::new(npages * self.page_size())
            .executable(protection == Protection::ReadExecute);
        let region = self.reserve_as(&options)?;
        region.make_ready(region.range(), protection)?;
        Ok(region)
    }

    /// `npages` pages of Ready, writable memory that may become executable.
    pub(crate) fn executable(&self, npages: usize) -> Result<Region<'_, 'a, O, P>, Stop> {
        let options = ReserveOptions::new(npages * self.page_size()).executable(true);
        let region = self.reserve_as(&options)?;
        region.make_ready(region.range(), Protection::ReadWrite)?;
        Ok(region)
    }

    pub(crate) fn alloc(&self, len: usize) -> Result<Region<'_, 'a, O, P>, Stop> {
        Ok(Region::of(self, self.os.alloc(len)?.as_ptr(), len))
    }

    /// What an access meets. `None` where the platform cannot look.
    pub(crate) fn access(&self, address: *mut u8, access: Access) -> Option<Seen> {
        // SAFETY: the suite executes only pages that begin with code it wrote, or zeros, or a
        // pattern: in a child, which dies of what is no code.
        unsafe { self.platform.access(address, access) }
    }

    /// Passes if the access faults, at the address.
    pub(crate) fn faults(&self, address: *mut u8, access: Access) -> Checked {
        match self.access(address, access) {
            None => {
                self.note(format_args!("the platform cannot catch a fault"));
                Err(Stop::NotSupported)
            }
            Some(Seen::Fault { signal, code, address: at }) if at == address.addr() => {
                let seen = Seen::Fault { signal, code, address: at };
                self.note(format_args!("{seen}"));
                Ok(())
            }
            Some(seen) => {
                Err(self.failed(format_args!("{} at {:#x}: {seen}", access.name(), address.addr())))
            }
        }
    }

    /// Passes if reading and writing fault in the first and the last byte of the range.
    pub(crate) fn faults_throughout(&self, range: PageRange) -> Checked {
        let last = range.start.wrapping_add(range.len - 1);
        for address in [range.start, last] {
            self.faults(address, Access::Read)?;
            self.faults(address, Access::Write)?;
        }
        Ok(())
    }

    /// Passes if the access succeeds, or the platform cannot look.
    pub(crate) fn allowed(&self, address: *mut u8, access: Access) -> Checked {
        match self.access(address, access) {
            None | Some(Seen::Value(_)) => Ok(()),
            Some(seen) => {
                Err(self.failed(format_args!("{} at {:#x}: {seen}", access.name(), address.addr())))
            }
        }
    }

    /// Passes if the first and the last byte of the range allow the access: what comes next does
    /// it here, where a fault would end everything.
    fn accessible(&self, range: PageRange, access: Access) -> Checked {
        self.allowed(range.start, access)?;
        self.allowed(range.start.wrapping_add(range.len - 1), access)
    }

    /// Fills Ready, writable memory with words that no other fill writes, and says which.
    pub(crate) fn fill(&self, range: PageRange) -> Result<u64, Stop> {
        self.accessible(range, Access::Write)?;
        let seed = self.seed();
        self.write_words(range, seed);
        Ok(seed)
    }

    /// [`fill`](Suite::fill) of memory that is known to be writable.
    pub(crate) fn write_words(&self, range: PageRange, seed: u64) {
        for (index, place) in words(range) {
            // SAFETY: inside Ready, writable memory that only this suite knows.
            unsafe { place.write_volatile(word(seed, index)) };
        }
    }

    /// Passes if Ready, readable memory holds what the fill with `seed` wrote, beginning with its
    /// page number `first`.
    pub(crate) fn holds(&self, range: PageRange, seed: u64, first: usize) -> Checked {
        let skipped = first * self.page_size() / size_of::<u64>();
        self.every_word(range, |index| Some(word(seed, skipped + index)))
    }

    /// Passes if Ready, readable memory is zero.
    pub(crate) fn zero(&self, range: PageRange) -> Checked {
        self.every_word(range, |_| Some(0))
    }

    /// Passes if each word of Ready, readable memory is what `expected` says, where it says
    /// anything.
    pub(crate) fn every_word(
        &self,
        range: PageRange,
        expected: impl Fn(usize) -> Option<u64>,
    ) -> Checked {
        self.accessible(range, Access::Read)?;
        self.words_are(range, expected)
    }

    /// [`every_word`](Suite::every_word) of memory that is known to be readable.
    pub(crate) fn words_are(
        &self,
        range: PageRange,
        expected: impl Fn(usize) -> Option<u64>,
    ) -> Checked {
        for (index, place) in words(range) {
            let Some(expected) = expected(index) else { continue };
            // SAFETY: inside Ready, readable memory that only this suite knows.
            let found = unsafe { place.read_volatile() };
            if found != expected {
                return Err(self.failed(format_args!(
                    "the word at {place:p} is {found:#x} and not {expected:#x}"
                )));
            }
        }
        Ok(())
    }

    /// A number that says what Ready, readable memory holds.
    pub(crate) fn digest(&self, range: PageRange) -> Result<u64, Stop> {
        self.accessible(range, Access::Read)?;
        Ok(words(range).fold(0, |digest: u64, (_, place)| {
            // SAFETY: inside Ready, readable memory that only this suite knows.
            digest.rotate_left(5) ^ unsafe { place.read_volatile() }
        }))
    }

    /// How many pages of Ready, readable memory are zero.
    pub(crate) fn zero_pages(&self, range: PageRange) -> Result<usize, Stop> {
        self.accessible(range, Access::Read)?;
        let in_page = self.page_size() / size_of::<u64>();
        let mut zero = 0;
        let mut page_is_zero = true;
        for (index, place) in words(range) {
            // SAFETY: inside Ready, readable memory that only this suite knows.
            page_is_zero &= unsafe { place.read_volatile() } == 0;
            if index % in_page == in_page - 1 {
                zero += usize::from(page_is_zero);
                page_is_zero = true;
            }
        }
        Ok(zero)
    }

    /// Writes a word to every page of Ready, writable memory, so that it is resident.
    pub(crate) fn touch(&self, range: PageRange) -> Checked {
        self.accessible(range, Access::Write)?;
        let seed = self.seed();
        for offset in (0..range.len).step_by(self.page_size()) {
            let place = range.start.wrapping_add(offset).cast::<u64>();
            // SAFETY: inside Ready, writable memory that only this suite knows.
            unsafe { place.write_volatile(word(seed, offset)) };
        }
        Ok(())
    }

    /// Passes what the system refused for want of memory or address space: that is a limit of
    /// this machine and no broken promise.
    pub(crate) fn unless_too_large<T>(&self, result: Result<T, Stop>) -> Result<T, Stop> {
        match result {
            Err(Stop::Refused(error)) if matches!(error.kind(), ErrorKind::OutOfMemory { .. }) => {
                self.note(format_args!("{error}"));
                Err(Stop::NotSupported)
            }
            result => result,
        }
    }

    /// Passes an operation that the system does not have, or that it refused with an error
    /// number of its own; says so in the note.
    pub(crate) fn hint(&self, result: Result<(), sysmem::Error>) -> Checked {
        match result {
            Ok(()) => Ok(()),
            Err(error) => match error.kind() {
                ErrorKind::NotSupported
                | ErrorKind::OutOfMemory { .. }
                | ErrorKind::System(Errno(_)) => {
                    self.note(format_args!("{error}"));
                    Err(Stop::NotSupported)
                }
                _ => Err(Stop::Refused(error)),
            },
        }
    }
}
