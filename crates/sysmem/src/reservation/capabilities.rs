//! What reservations can do on the systems that have it: guards, views of memory objects, seals.

use core::mem::ManuallyDrop;

use super::{Plan, Reservation};
use crate::os::capabilities::{
    CodeMemory, GuardMechanism, Guards, MemoryObject, MemoryObjects, Sealing,
};
use crate::os::{PageRange, Policy, ReserveOptions, Source};
use crate::state_map::Page;
use crate::{Account, Error, ErrorKind, Operation, Protection, State};

impl<O: Guards> Reservation<O> {
    /// Ready → Reserved, by the cheapest means the system has, and marked as a guard: contents are
    /// forfeit and every access faults until [`remove_guard`](Reservation::remove_guard), which
    /// wants to be told the mechanism. All of the range has one protection. Other operations
    /// refuse a range with a guard in it.
    #[track_caller]
    pub fn install_guard(&mut self, offset: usize, len: usize) -> Result<GuardMechanism, Error> {
        // SAFETY: `&mut self` keeps others out of every range.
        unsafe { self.install_guard_shared(offset, len) }
    }

    /// [`install_guard`](Reservation::install_guard) while other threads work on other ranges.
    ///
    /// # Safety
    ///
    /// As for [`map_shared`](Reservation::map_shared).
    #[track_caller]
    pub unsafe fn install_guard_shared(
        &self,
        offset: usize,
        len: usize,
    ) -> Result<GuardMechanism, Error> {
        let (first, end) = self.pages(Operation::Guard, (offset, len))?;
        let (page, run_end) = self.entry().states.run(first, end, self.shape());
        // One protection, so that one call does it and one mechanism is the answer.
        if run_end < end && page.state() == State::Ready {
            let at = run_end * self.os.page_size();
            let (next, _) = self.entry().states.run(run_end, end, self.shape());
            let kind = match (next.is_guard(), next.state()) {
                (true, _) => ErrorKind::Guard,
                (_, State::Ready) => ErrorKind::WrongProtection { found: next.protection() },
                (_, found) => ErrorKind::WrongState { found },
            };
            return Err(self
                .range(Operation::Guard, (at, offset + len - at))?
                .error(Operation::Guard, kind));
        }
        let mechanism = core::cell::Cell::new(GuardMechanism::NoAccess);
        self.apply(
            Operation::Guard,
            (offset, len),
            |page| match page.state() {
                State::Ready => Plan::Become(Page::guard(page.protection())),
                found => Plan::Refuse(ErrorKind::WrongState { found }),
            },
            |range, _| {
                // SAFETY: the range is ours and Ready; the caller keeps others out.
                mechanism.set(unsafe { self.os.install_guard(range) }?);
                Ok(())
            },
        )?;
        Ok(mechanism.get())
    }

    /// Reserved → Ready for a guard of this mechanism: accessible as it was before; zeroed on
    /// Linux, elsewhere with contents that are unspecified.
    #[track_caller]
    pub fn remove_guard(
        &mut self,
        offset: usize,
        len: usize,
        mechanism: GuardMechanism,
    ) -> Result<(), Error> {
        // SAFETY: `&mut self` keeps others out of every range.
        unsafe { self.remove_guard_shared(offset, len, mechanism) }
    }

    /// [`remove_guard`](Reservation::remove_guard) while other threads work on other ranges.
    ///
    /// # Safety
    ///
    /// As for [`map_shared`](Reservation::map_shared).
    #[track_caller]
    pub unsafe fn remove_guard_shared(
        &self,
        offset: usize,
        len: usize,
        mechanism: GuardMechanism,
    ) -> Result<(), Error> {
        self.apply(
            Operation::RemoveGuard,
            (offset, len),
            |page| match page.is_guard() {
                true => Plan::Become(Page::new(State::Ready, page.protection())),
                false => Plan::Refuse(ErrorKind::WrongState { found: page.state() }),
            },
            // SAFETY: the range is ours and a guard; the caller keeps others out.
            |range, page| unsafe { self.os.remove_guard(range, page.protection(), mechanism) },
        )
    }

    /// Whether the page that holds the byte at `offset` is a guard.
    pub fn is_guard(&self, offset: usize) -> bool {
        let page = offset / self.os.page_size();
        offset < self.len && self.entry().states.get(page, self.shape()).is_guard()
    }
}

impl<O: MemoryObjects> Reservation<O> {
    /// None → Reserved: takes address space from `os` for a view of the whole of `object`, whose
    /// length `options` say again. Its pages become Ready by
    /// [`map_object`](Reservation::map_object), and Reserved again by
    /// [`fault`](Reservation::fault), which leaves what they showed in the object; other
    /// operations on their states are refused.
    #[track_caller]
    pub fn reserve_view_in(
        os: O,
        options: ReserveOptions,
        account: &'static Account,
        object: &MemoryObject,
    ) -> Result<Reservation<O>, Error> {
        let room = os.registry().room(&os)?;
        let start = os.reserve_view(&options, object)?;
        let policy = Policy { source: Source::Object, ..options.policy };
        let entry = room.enter(start, options.len, policy, Page::RESERVED, account);
        account.obtain(State::Reserved, options.len);
        os.registry().remember(Operation::Reserve, PageRange::new(start.as_ptr(), options.len));
        Ok(Reservation { os, entry, start, len: options.len, account })
    }

    /// Reserved → Ready: shows the bytes of `object`, of which the reservation is a view, at the
    /// same offset.
    #[track_caller]
    pub fn map_object(
        &mut self,
        offset: usize,
        len: usize,
        protection: Protection,
        object: &MemoryObject,
    ) -> Result<(), Error> {
        self.may_have(Operation::MapObject, (offset, len), protection)?;
        if self.policy().source != Source::Object {
            let kind = ErrorKind::NotSupported;
            return Err(self
                .range(Operation::MapObject, (offset, len))?
                .error(Operation::MapObject, kind));
        }
        self.apply(
            Operation::MapObject,
            (offset, len),
            |page| match page.state() {
                State::Reserved => Plan::Become(Page::new(State::Ready, protection)),
                found => Plan::Refuse(ErrorKind::WrongState { found }),
            },
            |range, _| {
                let into = range.start.addr() - self.start.addr().get();
                // SAFETY: the range is ours and Reserved, `&mut self` keeps others out.
                unsafe { self.os.map_object(range, protection, object, into) }
            },
        )
    }
}

impl<O: CodeMemory> Reservation<O> {
    /// Ready → Ready with another protection in the books only, for memory that threads switch for
    /// themselves ([`Source::PerThread`]): what each may do with it is what it says itself.
    #[track_caller]
    pub fn protect_per_thread(
        &mut self,
        offset: usize,
        len: usize,
        protection: Protection,
    ) -> Result<(), Error> {
        if self.policy().source != Source::PerThread {
            let range = self.range(Operation::Protect, (offset, len))?;
            return Err(range.error(Operation::Protect, ErrorKind::NotSupported));
        }
        self.apply(
            Operation::Protect,
            (offset, len),
            |page| match page.state() {
                State::Ready => Plan::Become(Page::new(State::Ready, protection)),
                found => Plan::Refuse(ErrorKind::WrongState { found }),
            },
            |_, _| Ok(()),
        )
    }
}

impl<O: Sealing> Reservation<O> {
    /// Makes the reservation unchangeable until the process ends, as it is now. If the system
    /// refuses, the reservation comes back with the error.
    pub fn seal(self) -> Result<PageRange, (Reservation<O>, Error)> {
        let this = ManuallyDrop::new(self);
        let range = PageRange::new(this.start.as_ptr(), this.len);
        // SAFETY: ours, and from now on nobody's to return.
        match unsafe { this.os.seal(range) } {
            Ok(()) => Ok(range),
            Err(error) => Err((ManuallyDrop::into_inner(this), error)),
        }
    }
}
