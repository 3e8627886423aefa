//! What reservations can do on the systems that have it: guards, views of memory objects, seals.

use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering::Relaxed;

use super::Reservation;
use super::applying::Plan;
use crate::os::capabilities::{
    CodeMemory, GuardMechanism, Guards, MemoryObject, MemoryObjects, PageRow, Sealing,
};
use crate::os::{BatchError, PageRange, Policy, ReserveOptions, Source};
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

    /// [`install_guard`](Reservation::install_guard) for `count` ranges of `len` bytes that begin
    /// `stride` bytes apart, the first of them at `offset`: all by one mechanism, in as few system
    /// calls as the system allows. On failure there is none of them.
    ///
    /// # Safety
    ///
    /// As for [`map_shared`](Reservation::map_shared), for each range.
    #[track_caller]
    pub unsafe fn install_guards_shared(
        &self,
        (offset, len): (usize, usize),
        stride: usize,
        count: usize,
    ) -> Result<GuardMechanism, Error> {
        let operation = Operation::Guard;
        let page_size = self.os.page_size();
        let first = self.range(operation, (offset, len))?;
        let row = PageRow { first, stride, count };
        if count == 0 {
            return Err(first.error(operation, ErrorKind::Empty));
        }
        if stride & (page_size - 1) != 0 {
            return Err(first.error(operation, ErrorKind::Unaligned { multiple: page_size }));
        }
        // The next one would begin in the one before it.
        if count > 1 && stride < len {
            return Err(row.range(1).error(operation, ErrorKind::Guard));
        }
        let page = self.page(offset);
        self.each_of_row(operation, offset, row, |found, whole| {
            match (found.is_guard(), found.state()) {
                (true, _) => Some(ErrorKind::Guard),
                (_, State::Ready) if found == page && whole => None,
                (_, State::Ready) => Some(ErrorKind::WrongProtection { found: found.protection() }),
                (_, found) => Some(ErrorKind::WrongState { found }),
            }
        })?;
        // SAFETY: the ranges are ours and Ready; the caller keeps others out.
        let installed = unsafe { self.os.install_guards(row, page.protection()) };
        let mechanism = installed.inspect_err(|error| {
            if error.kind() == ErrorKind::Lost {
                self.entry().lost.store(true, Relaxed);
            }
        })?;
        self.note_row(operation, row, page, Page::guard(page.protection()));
        Ok(mechanism)
    }

    /// [`remove_guard`](Reservation::remove_guard) for a row of guards, as they were installed. On
    /// failure, the error says how many of them are removed.
    ///
    /// # Safety
    ///
    /// As for [`map_shared`](Reservation::map_shared), for each range.
    #[track_caller]
    pub unsafe fn remove_guards_shared(
        &self,
        (offset, len): (usize, usize),
        stride: usize,
        count: usize,
        mechanism: GuardMechanism,
    ) -> Result<(), BatchError> {
        let operation = Operation::RemoveGuard;
        let refuse = |error| BatchError { done: 0, error };
        let first = self.range(operation, (offset, len)).map_err(refuse)?;
        let row = PageRow { first, stride, count };
        let page = self.page(offset);
        self.each_of_row(operation, offset, row, |found, whole| {
            let right = found.is_guard() && found == page && whole;
            (!right).then(|| ErrorKind::WrongState { found: found.state() })
        })
        .map_err(refuse)?;
        // SAFETY: the ranges are ours and guards; the caller keeps others out.
        let removed = unsafe { self.os.remove_guards(row, page.protection(), mechanism) };
        let done = removed.map_or_else(|stopped| stopped.done, |()| count);
        let ready = Page::new(State::Ready, page.protection());
        self.note_row(operation, PageRow { count: done, ..row }, page, ready);
        removed
    }

    /// The page that holds the byte at an offset inside.
    fn page(&self, offset: usize) -> Page {
        self.entry().states.get(offset / self.os.page_size(), self.shape())
    }

    /// Refuses a row, the first of whose ranges is at `offset`, if one of them does not lie inside
    /// or `wrong` names a fault of it; it is given the first page and whether all are like it.
    /// Afterwards there is room for the books to change.
    fn each_of_row(
        &self,
        operation: Operation,
        offset: usize,
        row: PageRow,
        wrong: impl Fn(Page, bool) -> Option<ErrorKind>,
    ) -> Result<(), Error> {
        for index in 0..row.count {
            let at = index.checked_mul(row.stride).and_then(|at| at.checked_add(offset));
            let part = (at.unwrap_or(usize::MAX & !(self.os.page_size() - 1)), row.first.len);
            let (first, end) = self.pages(operation, part)?;
            let (found, run_end) = self.entry().states.run(first, end, self.shape());
            if let Some(kind) = wrong(found, run_end == end) {
                return Err(row.range(index).error(operation, kind));
            }
            let pool = self.registry().pool(&self.os);
            self.entry().states.make_room(first, end, self.shape(), &pool)?;
        }
        Ok(())
    }

    /// Records what became of a row of ranges, all of whose pages were `from`.
    #[track_caller]
    fn note_row(&self, operation: Operation, row: PageRow, from: Page, to: Page) {
        let page_size = self.os.page_size();
        for index in 0..row.count {
            let range = row.range(index);
            let at = (range.start.addr() - self.start.addr().get()) / page_size;
            let npages = range.len / page_size;
            let mut before = [0; 3];
            before[from.state() as usize] = npages;
            self.note((at, at + npages), before, to);
            self.registry().remember(operation, range);
        }
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
