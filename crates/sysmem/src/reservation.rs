mod applying;
mod batch;
mod capabilities;

use core::ffi::CStr;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use applying::Plan;

use crate::os::{GiveBack, Inheritance, Os, PageRange, PageResidency, Policy, ReserveOptions};
use crate::registry::{Entry, Registry, lost};
use crate::state_map::{Page, Shape};
use crate::{Account, Error, ErrorKind, Operation, Protection, State};

/// Address space that is ours, with the state of each of its pages.
///
/// Ranges are offsets and lengths in bytes, multiples of the page size. An operation looks at the
/// state of every page before it does anything: what the states forbid is refused with nothing
/// changed. When the system refuses in the middle, the pages before that point are in their new
/// state, the others in their old one, and both are what [`state`](Reservation::state) says.
///
/// It hands out raw pointers only: whoever makes references out of them must know that the pages
/// stay Ready. After a lazy [`unused`](Reservation::unused) even Ready pages may change under a
/// reader until they are first written.
///
/// Dropping a reservation returns it to the system.
pub struct Reservation<O: Os = crate::Native> {
    os: O,
    entry: NonNull<Entry>,
    start: NonNull<u8>,
    len: usize,
    account: &'static Account,
}

// SAFETY: a reservation owns its address space; `entry` lives as long as the system and is made
// of atomics.
unsafe impl<O: Os + Send> Send for Reservation<O> {}
// SAFETY: what takes `&self` only reads atomics, or is unsafe and says who may call it.
unsafe impl<O: Os> Sync for Reservation<O> {}

impl Reservation {
    /// None → Reserved: takes address space from the running system.
    #[track_caller]
    pub fn reserve(
        options: ReserveOptions,
        account: &'static Account,
    ) -> Result<Reservation, Error> {
        Reservation::reserve_in(crate::Native::NEW, options, account)
    }

    /// None → Ready: takes `len` bytes of zeroed memory, readable and writable, from the running
    /// system.
    #[track_caller]
    pub fn alloc(len: usize, account: &'static Account) -> Result<Reservation, Error> {
        Reservation::alloc_in(crate::Native::NEW, len, account)
    }
}

impl<O: Os> Reservation<O> {
    /// None → Reserved: takes address space from `os`.
    #[doc(alias = "sysReserveOS")]
    #[track_caller]
    pub fn reserve_in(
        os: O,
        options: ReserveOptions,
        account: &'static Account,
    ) -> Result<Reservation<O>, Error> {
        let room = os.registry().room(&os)?;
        let start = os.reserve(&options)?;
        let entry = room.enter(start, options.len, options.policy, Page::RESERVED, account);
        account.obtain(State::Reserved, options.len);
        os.registry().remember(Operation::Reserve, PageRange::new(start.as_ptr(), options.len));
        Ok(Reservation { os, entry, start, len: options.len, account })
    }

    /// None → Ready: takes `len` bytes of zeroed memory, readable and writable, from `os`.
    #[doc(alias = "sysAllocOS")]
    #[track_caller]
    pub fn alloc_in(os: O, len: usize, account: &'static Account) -> Result<Reservation<O>, Error> {
        Self::obtain_in(os, len, account, |os| os.alloc(len))
    }

    /// None → Ready: takes in the memory that `alloc` gets from `os`.
    #[track_caller]
    pub(crate) fn obtain_in(
        os: O,
        len: usize,
        account: &'static Account,
        alloc: impl FnOnce(&O) -> Result<NonNull<u8>, Error>,
    ) -> Result<Reservation<O>, Error> {
        let room = os.registry().room(&os)?;
        let start = alloc(&os)?;
        let page = Page::new(State::Ready, Protection::ReadWrite);
        let entry = room.enter(start, len, Policy::DEFAULT, page, account);
        account.obtain(State::Ready, len);
        os.registry().remember(Operation::Alloc, PageRange::new(start.as_ptr(), len));
        Ok(Reservation { os, entry, start, len, account })
    }

    /// The first byte.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: no system reserves nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The account it is booked on.
    pub fn account(&self) -> &'static Account {
        self.account
    }

    /// The system it was taken from.
    pub fn os(&self) -> &O {
        &self.os
    }

    /// The state and protection of the page that holds the byte at `offset`, and the end of the
    /// run of pages from there that are the same. `None` outside.
    pub fn state(&self, offset: usize) -> Option<(State, Protection, usize)> {
        if offset >= self.len {
            return None;
        }
        let page_size = self.os.page_size();
        let npages = self.len / page_size;
        let (page, end) = self.entry().states.run(offset / page_size, npages, self.shape());
        Some((page.state(), page.protection(), end * page_size))
    }

    /// Reserved → Prepared, to become accessible with `protection`.
    #[doc(alias = "sysMapOS")]
    #[track_caller]
    pub fn map(&mut self, offset: usize, len: usize, protection: Protection) -> Result<(), Error> {
        // SAFETY: `&mut self` keeps others out of every range.
        unsafe { self.map_shared(offset, len, protection) }
    }

    /// Prepared → Ready with the protection it was mapped with. Pages that are Ready stay so.
    #[doc(alias = "sysUsedOS")]
    #[track_caller]
    pub fn used(&mut self, offset: usize, len: usize) -> Result<(), Error> {
        // SAFETY: `&mut self` keeps others out of every range.
        unsafe { self.used_shared(offset, len) }
    }

    /// Ready → Prepared: contents are forfeit and the memory goes back, as `how` and
    /// [`Os::unused_contract`] say. Pages that are Prepared are given back once more.
    #[doc(alias = "sysUnusedOS")]
    #[track_caller]
    pub fn unused(&mut self, offset: usize, len: usize, how: GiveBack) -> Result<(), Error> {
        // SAFETY: `&mut self` keeps others out of every range.
        unsafe { self.unused_shared(offset, len, how) }
    }

    /// Ready, Prepared → Reserved: contents are dropped, memory and commit charge given back, and
    /// every access faults. Pages that are Reserved stay so.
    #[doc(alias = "sysFaultOS")]
    #[track_caller]
    pub fn fault(&mut self, offset: usize, len: usize) -> Result<(), Error> {
        self.apply(
            Operation::Fault,
            (offset, len),
            |page| match page.state() {
                State::Reserved => Plan::Keep,
                _ => Plan::Become(Page::RESERVED),
            },
            // SAFETY: the range is ours, `&mut self` keeps others out.
            |range, _| unsafe { self.os.fault(range, self.policy()) },
        )
    }

    /// Ready → Ready with another protection; contents stay.
    #[track_caller]
    pub fn protect(
        &mut self,
        offset: usize,
        len: usize,
        protection: Protection,
    ) -> Result<(), Error> {
        self.may_have(Operation::Protect, (offset, len), protection)?;
        self.apply(
            Operation::Protect,
            (offset, len),
            |page| match page.state() {
                State::Ready if page.protection() == protection => Plan::Keep,
                State::Ready => Plan::Become(Page::new(State::Ready, protection)),
                found => Plan::Refuse(ErrorKind::WrongState { found }),
            },
            // SAFETY: the range is ours, `&mut self` keeps others out.
            |range, page| unsafe { self.os.protect(range, page.protection()) },
        )
    }

    /// [`map`](Reservation::map) while other threads work on other ranges.
    ///
    /// # Safety
    ///
    /// No other call on an overlapping range runs at the same time, and nothing relies on the
    /// range's contents or access in a way the operation takes away.
    #[track_caller]
    pub unsafe fn map_shared(
        &self,
        offset: usize,
        len: usize,
        protection: Protection,
    ) -> Result<(), Error> {
        self.may_have(Operation::Map, (offset, len), protection)?;
        self.apply(
            Operation::Map,
            (offset, len),
            |page| match page.state() {
                State::Reserved => Plan::Become(Page::new(State::Prepared, protection)),
                found => Plan::Refuse(ErrorKind::WrongState { found }),
            },
            // SAFETY: the range is ours and Reserved; the caller keeps others out.
            |range, page| unsafe { self.os.map(range, page.protection(), self.policy()) },
        )
    }

    /// [`used`](Reservation::used) while other threads work on other ranges.
    ///
    /// # Safety
    ///
    /// As for [`map_shared`](Reservation::map_shared).
    #[track_caller]
    pub unsafe fn used_shared(&self, offset: usize, len: usize) -> Result<(), Error> {
        self.apply(
            Operation::Used,
            (offset, len),
            |page| match page.state() {
                State::Ready => Plan::Keep,
                State::Prepared => Plan::Become(Page::new(State::Ready, page.protection())),
                found => Plan::Refuse(ErrorKind::WrongState { found }),
            },
            // SAFETY: the range is ours and Prepared; the caller keeps others out.
            |range, page| unsafe { self.os.used(range, page.protection()) },
        )
    }

    /// [`unused`](Reservation::unused) while other threads work on other ranges.
    ///
    /// # Safety
    ///
    /// As for [`map_shared`](Reservation::map_shared).
    #[track_caller]
    pub unsafe fn unused_shared(
        &self,
        offset: usize,
        len: usize,
        how: GiveBack,
    ) -> Result<(), Error> {
        self.apply(
            Operation::Unused,
            (offset, len),
            plan_unused,
            // SAFETY: the range is ours; the caller keeps others out and gives contents up.
            |range, page| unsafe { self.os.unused(range, page.protection(), how, self.policy()) },
        )
    }

    /// Hint: build this range out of huge pages.
    #[doc(alias = "sysHugePageOS")]
    pub fn huge_page(&self, offset: usize, len: usize) -> Result<(), Error> {
        let range = self.range(Operation::HugePage, (offset, len))?;
        // SAFETY: the range is ours, and the advice keeps contents.
        unsafe { self.os.huge_page(range) }
    }

    /// Hint: do not build this range out of huge pages.
    #[doc(alias = "sysNoHugePageOS")]
    pub fn no_huge_page(&self, offset: usize, len: usize) -> Result<(), Error> {
        let range = self.range(Operation::NoHugePage, (offset, len))?;
        // SAFETY: the range is ours, and the advice keeps contents.
        unsafe { self.os.no_huge_page(range) }
    }

    /// Makes huge pages out of this range now, which may take milliseconds.
    #[doc(alias = "sysHugePageCollapseOS")]
    pub fn collapse(&self, offset: usize, len: usize) -> Result<(), Error> {
        let range = self.range(Operation::Collapse, (offset, len))?;
        // SAFETY: the range is ours, and contents stay.
        unsafe { self.os.collapse(range) }
    }

    /// Names the whole reservation in the system's listing of mappings.
    pub fn name(&self, name: &CStr) -> Result<(), Error> {
        let range = self.range(Operation::Name, (0, self.len))?;
        // SAFETY: the range is ours.
        unsafe { self.os.name(range, name) }
    }

    /// What the reservation keeps through every operation.
    pub fn policy(&self) -> Policy {
        self.entry().policy()
    }

    /// Sets what a forked child gets of the whole reservation.
    pub fn set_inheritance(&mut self, inheritance: Inheritance) -> Result<(), Error> {
        let range = self.range(Operation::SetInheritance, (0, self.len))?;
        let policy = Policy { inheritance, ..self.policy() };
        if !self.os.supports(policy) {
            return Err(range.error(Operation::SetInheritance, ErrorKind::NotSupported));
        }
        // SAFETY: the range is ours, and contents stay.
        unsafe { self.os.set_inheritance(range, inheritance) }?;
        self.entry().set_policy(policy);
        Ok(())
    }

    /// Sets whether a core dump has the whole reservation in it.
    pub fn set_dumped(&mut self, dumped: bool) -> Result<(), Error> {
        let range = self.range(Operation::SetDumped, (0, self.len))?;
        // SAFETY: the range is ours, and contents stay.
        unsafe { self.os.set_dumped(range, dumped) }?;
        self.entry().set_policy(Policy { dumped, ..self.policy() });
        Ok(())
    }

    /// Where each page of a range is; `pages` has one element a page.
    pub fn residency(&self, offset: usize, pages: &mut [PageResidency]) -> Result<(), Error> {
        let len = pages.len().saturating_mul(self.os.page_size());
        self.os.residency(self.range(Operation::Residency, (offset, len))?, pages)
    }

    /// Bytes of a range that are in physical memory.
    pub fn resident_bytes(&self, offset: usize, len: usize) -> Result<usize, Error> {
        self.os.resident_bytes(self.range(Operation::Residency, (offset, len))?)
    }

    /// Any → None: returns the whole reservation. If the system refuses, the reservation comes
    /// back with the error, and no figure has changed.
    #[doc(alias = "sysFreeOS")]
    pub fn free(self) -> Result<(), (Reservation<O>, Error)> {
        let this = ManuallyDrop::new(self);
        match this.release() {
            Ok(()) => {
                // SAFETY: `this` is not used again, and not dropped.
                drop(unsafe { core::ptr::read(&this.os) });
                Ok(())
            }
            Err(error) => Err((ManuallyDrop::into_inner(this), error)),
        }
    }

    fn release(&self) -> Result<(), Error> {
        let entry = self.entry();
        let range = PageRange::new(self.start.as_ptr(), self.len);
        if entry.lost.load(Relaxed) {
            return Err(lost(Operation::Free, self.start.addr().get(), self.len));
        }
        let pages = entry.states.count(0, self.len / self.os.page_size(), self.shape());
        entry.hide();
        // SAFETY: exactly the whole reservation, which nobody can reach any more.
        unsafe { self.os.free(range) }.inspect_err(|_| entry.show(self.start))?;
        for state in [State::Reserved, State::Prepared, State::Ready] {
            self.account.release(state, pages[state as usize] * self.os.page_size());
        }
        self.registry().remove(entry, &self.os);
        Ok(())
    }

    fn registry(&self) -> &Registry {
        self.os.registry()
    }

    fn entry(&self) -> &Entry {
        // SAFETY: entries live as long as the system that `os` is or refers to.
        unsafe { self.entry.as_ref() }
    }

    fn shape(&self) -> Shape {
        Shape::new(self.len / self.os.page_size(), &self.os)
    }

    /// The range in memory, refused if it is not whole pages inside the reservation.
    fn range(
        &self,
        operation: Operation,
        (offset, len): (usize, usize),
    ) -> Result<PageRange, Error> {
        let range = PageRange::new(self.start.as_ptr().wrapping_add(offset), len);
        if self.entry().lost.load(Relaxed) {
            return Err(range.error(operation, ErrorKind::Lost));
        }
        range.check(operation, self.os.page_size())?;
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(range.error(operation, ErrorKind::OutOfBounds { len: self.len }));
        }
        Ok(range)
    }

    /// The numbers of the first page and of the one after the last.
    fn pages(&self, operation: Operation, part: (usize, usize)) -> Result<(usize, usize), Error> {
        self.range(operation, part)?;
        let page_size = self.os.page_size();
        Ok((part.0 / page_size, (part.0 + part.1) / page_size))
    }

    /// Refuses a protection that this reservation cannot have.
    fn may_have(
        &self,
        operation: Operation,
        part: (usize, usize),
        protection: Protection,
    ) -> Result<(), Error> {
        if protection == Protection::ReadExecute && !self.policy().executable {
            return Err(self.range(operation, part)?.error(operation, ErrorKind::NotExecutable));
        }
        Ok(())
    }
}

fn plan_unused(page: Page) -> Plan {
    match page.state() {
        State::Reserved => Plan::Refuse(ErrorKind::WrongState { found: State::Reserved }),
        _ => Plan::Become(Page::new(State::Prepared, page.protection())),
    }
}

impl<O: Os> Drop for Reservation<O> {
    fn drop(&mut self) {
        // If the system refuses, the address space stays ours, counted and registered: there is
        // nobody to tell. A lost reservation must not be unmapped: it may be another's by now.
        let _ = self.release();
    }
}

impl<O: Os> fmt::Debug for Reservation<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("start", &self.start)
            .field("len", &self.len)
            .field("account", &self.account.name())
            .finish()
    }
}
