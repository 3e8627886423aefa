//! Every reservation that was made, readable without a lock.
//!
//! Fault reports look up an address here inside a signal handler, so pages that hold entries or
//! states are taken from the system once and never unmapped; what is freed is used again. Writers
//! take a short lock, readers take none: an entry's version is odd while it changes, and a reader
//! that saw two versions looks again.

use core::ptr::{self, NonNull};
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering::*, fence,
};

use crate::os::Source;
use crate::state_map::{Node, NodePool, Page, Shape, StateMap};
use crate::{
    Account, Error, Inheritance, Lock, Operation, Os, PageRange, Policy, Protection, State,
};

/// One reservation.
#[repr(align(128))]
pub(crate) struct Entry {
    version: AtomicU32,
    policy: AtomicU8,
    pub(crate) lost: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    account: AtomicPtr<Account>,
    next_free: AtomicPtr<Entry>,
    pub(crate) states: StateMap,
}

const _: () = assert!(size_of::<Entry>() == 128);

/// A page of entries. The header takes the room of one.
#[repr(C, align(128))]
struct Chunk {
    next: AtomicPtr<Chunk>,
    len: usize,
}

/// What is free for use again.
struct Free {
    entries: *mut Entry,
    /// Nodes of state maps, linked through their first word.
    nodes: *mut Node,
}

// SAFETY: the pointers lead to pages that only the holder of the lock changes.
unsafe impl Send for Free {}

/// Every reservation made through one operating system.
pub struct Registry {
    first: AtomicPtr<Chunk>,
    free: Lock<Free>,
    /// Held while a tree of states gains a node.
    growing: Lock<()>,
    metadata: AtomicUsize,
    #[cfg(feature = "call-sites")]
    history: crate::history::History,
}

impl Registry {
    /// An empty registry.
    pub const fn new() -> Registry {
        Registry {
            first: AtomicPtr::new(ptr::null_mut()),
            free: Lock::new(Free { entries: ptr::null_mut(), nodes: ptr::null_mut() }),
            growing: Lock::new(()),
            metadata: AtomicUsize::new(0),
            #[cfg(feature = "call-sites")]
            history: crate::history::History::new(),
        }
    }

    /// Bytes that the registry itself took from the system. They are never returned.
    pub fn metadata_bytes(&self) -> usize {
        self.metadata.load(Relaxed)
    }

    /// Holds the registry still across a fork, so that a forked child finds it whole.
    pub fn lock_for_fork(&self, os: &impl Os) {
        self.growing.lock_for_fork(os);
        self.free.lock_for_fork(os);
    }

    /// Releases what [`lock_for_fork`](Registry::lock_for_fork) holds, in parent and child.
    ///
    /// # Safety
    ///
    /// The calling thread, or in a forked child the thread it is a copy of, called
    /// `lock_for_fork`.
    pub unsafe fn unlock_after_fork(&self, os: &impl Os) {
        // SAFETY: the caller's promise.
        unsafe {
            self.free.unlock_after_fork(os);
            self.growing.unlock_after_fork(os);
        }
    }

    /// Makes room for an entry; [`Registration::enter`] fills it, dropping it gives the room back.
    pub(crate) fn room<'a, O: Os>(&'a self, os: &'a O) -> Result<Registration<'a, O>, Error> {
        let mut free = self.free.lock(os);
        if free.entries.is_null() {
            let page_size = os.page_size();
            let page: NonNull<Chunk> = os.alloc(page_size)?.cast();
            self.metadata.fetch_add(page_size, Relaxed);
            let len = page_size / size_of::<Entry>() - 1;
            let mut next_free = ptr::null_mut();
            for index in (1..=len).rev() {
                // SAFETY: entries follow the header inside the page.
                let entry = unsafe { page.cast::<Entry>().add(index) };
                // SAFETY: as above; the page is fresh and nobody else's.
                unsafe {
                    entry.write(Entry {
                        version: AtomicU32::new(0),
                        policy: AtomicU8::new(0),
                        lost: AtomicBool::new(false),
                        start: AtomicUsize::new(0),
                        len: AtomicUsize::new(0),
                        account: AtomicPtr::new(ptr::null_mut()),
                        next_free: AtomicPtr::new(next_free),
                        states: StateMap::new(),
                    });
                }
                next_free = entry.as_ptr();
            }
            free.entries = next_free;
            let next = AtomicPtr::new(self.first.load(Relaxed));
            // SAFETY: the header has the first entry's room.
            unsafe { page.write(Chunk { next, len }) };
            self.first.store(page.as_ptr(), Release);
        }
        let entry = free.entries;
        // SAFETY: the list of free entries holds entries of chunks, which live forever.
        free.entries = unsafe { &*entry }.next_free.load(Relaxed);
        Ok(Registration { registry: self, os, entry })
    }

    /// Takes out an entry that was hidden. Its reservation is gone.
    pub(crate) fn remove(&self, entry: &Entry, os: &impl Os) {
        let shape = Shape::new(entry.len.load(Relaxed) / os.page_size(), os);
        entry.states.clear(shape, &Pool { registry: self, os });
        self.put_back(ptr::from_ref(entry).cast_mut(), os);
    }

    fn put_back(&self, entry: *mut Entry, os: &impl Os) {
        let mut free = self.free.lock(os);
        // SAFETY: entries live forever.
        unsafe { &*entry }.next_free.store(free.entries, Relaxed);
        free.entries = entry;
    }

    /// Remembers where in the program `operation` was called on a range, with the feature
    /// `call-sites`.
    #[inline]
    #[track_caller]
    #[allow(unused_variables)]
    pub(crate) fn remember(&self, operation: Operation, range: PageRange) {
        #[cfg(feature = "call-sites")]
        self.history.remember(operation, range, core::panic::Location::caller());
    }

    /// The last operation on the page that holds `address`, if the feature `call-sites` was on
    /// when it happened and it was not long ago. Takes no lock and may be called in a signal
    /// handler.
    #[allow(unused_variables)]
    pub fn last_change(&self, address: usize) -> Option<Change> {
        #[cfg(feature = "call-sites")]
        return self.history.last(address);
        #[cfg(not(feature = "call-sites"))]
        None
    }

    /// The pool that state maps take their nodes from.
    pub(crate) fn pool<'a, O: Os>(&'a self, os: &'a O) -> Pool<'a, O> {
        Pool { registry: self, os }
    }

    /// The reservations at this moment, in no order. Takes no lock and may be called in a signal
    /// handler.
    pub fn reservations(&self) -> impl Iterator<Item = Registered<'_>> {
        let mut chunk = self.first.load(Acquire);
        let mut index = 0;
        core::iter::from_fn(move || {
            loop {
                // SAFETY: chunks are entered whole and live forever.
                let header = unsafe { chunk.as_ref() }?;
                if index == header.len {
                    chunk = header.next.load(Acquire);
                    index = 0;
                    continue;
                }
                index += 1;
                // SAFETY: `len` entries follow the header.
                let entry = unsafe { &*chunk.cast::<Entry>().add(index) };
                if let Some(registered) = entry.read() {
                    return Some(registered);
                }
            }
        })
    }

    /// The reservation that an address lies in. Takes no lock and may be called in a signal
    /// handler.
    ///
    /// Of one that is lost, a part may be another's by now: another reservation's, if there is one.
    pub fn find(&self, address: usize) -> Option<Registered<'_>> {
        let mut lost = None;
        for found in self.reservations() {
            if address.checked_sub(found.start).is_some_and(|at| at < found.len) {
                if !found.is_lost() {
                    return Some(found);
                }
                lost = Some(found);
            }
        }
        lost
    }
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::new()
    }
}

impl Entry {
    /// Runs `change` while readers look away.
    fn write(&self, change: impl FnOnce()) {
        self.version.fetch_add(1, AcqRel);
        // Whoever sees anything of the change sees the odd version too.
        fence(Release);
        change();
        self.version.fetch_add(1, Release);
    }

    /// Hides the reservation from readers. That is done before the system gets its address space
    /// back: by the time the entry is removed, another reservation may be in the same place.
    pub(crate) fn hide(&self) {
        self.write(|| self.start.store(0, Relaxed));
    }

    /// Shows a reservation that was hidden.
    pub(crate) fn show(&self, start: NonNull<u8>) {
        self.write(|| self.start.store(start.addr().get(), Relaxed));
    }

    pub(crate) fn policy(&self) -> Policy {
        let bits = self.policy.load(Relaxed);
        let inheritance = match bits >> 2 & 3 {
            0 => Inheritance::Copy,
            1 => Inheritance::Share,
            2 => Inheritance::Nothing,
            _ => Inheritance::Zeros,
        };
        let source = match bits >> 4 & 3 {
            0 => Source::Anonymous,
            1 => Source::Object,
            _ => Source::PerThread,
        };
        let [executable, dumped, stacks] = [1, 2, 64].map(|bit| bits & bit != 0);
        Policy { executable, dumped, inheritance, source, stacks }
    }

    pub(crate) fn set_policy(&self, policy: Policy) {
        let Policy { executable, dumped, inheritance, source, stacks } = policy;
        let flags = executable as u8 | (dumped as u8) << 1 | (stacks as u8) << 6;
        let bits = flags | (inheritance as u8) << 2 | (source as u8) << 4;
        self.policy.store(bits, Relaxed);
    }

    /// A consistent view of the entry, `None` if it is free.
    fn read(&self) -> Option<Registered<'_>> {
        // A writer changes an entry in a few instructions, but a signal handler may have
        // interrupted that very writer: then the entry is being born or dying, and is left out.
        for _ in 0..64 {
            let version = self.version.load(Acquire);
            let start = self.start.load(Relaxed);
            let len = self.len.load(Relaxed);
            let account = self.account.load(Relaxed);
            fence(Acquire);
            if version % 2 == 0 && self.version.load(Relaxed) == version {
                // SAFETY: entries hold `&'static Account`s.
                let account = unsafe { account.as_ref() }?;
                return (start != 0).then_some(Registered { entry: self, start, len, account });
            }
            core::hint::spin_loop();
        }
        None
    }
}

/// Room for an entry, not filled yet.
pub(crate) struct Registration<'a, O: Os> {
    registry: &'a Registry,
    os: &'a O,
    entry: *mut Entry,
}

impl<O: Os> Registration<'_, O> {
    /// Enters a reservation, all of whose pages are `page`.
    pub(crate) fn enter(
        self,
        start: NonNull<u8>,
        len: usize,
        policy: Policy,
        page: Page,
        account: &'static Account,
    ) -> NonNull<Entry> {
        // SAFETY: entries live forever, and `room` gave a valid one.
        let entry = unsafe { &*self.entry };
        entry.write(|| {
            entry.set_policy(policy);
            entry.lost.store(false, Relaxed);
            entry.start.store(start.addr().get(), Relaxed);
            entry.len.store(len, Relaxed);
            entry.account.store(ptr::from_ref(account).cast_mut(), Relaxed);
            entry.states.reset(page);
        });
        core::mem::forget(self);
        NonNull::from(entry)
    }
}

impl<O: Os> Drop for Registration<'_, O> {
    fn drop(&mut self) {
        self.registry.put_back(self.entry, self.os);
    }
}

/// Pages for the nodes of state maps.
pub(crate) struct Pool<'a, O: Os> {
    registry: &'a Registry,
    os: &'a O,
}

impl<O: Os> NodePool for Pool<'_, O> {
    fn take(&self) -> Result<*mut Node, Error> {
        let mut free = self.registry.free.lock(self.os);
        let node = free.nodes;
        if !node.is_null() {
            // SAFETY: the first word of a free node is the address of the next.
            let next = unsafe { &*node }.load(Relaxed);
            free.nodes = ptr::with_exposed_provenance_mut(next as usize);
            return Ok(node);
        }
        let page_size = self.os.page_size();
        let node = self.os.alloc(page_size)?;
        self.registry.metadata.fetch_add(page_size, Relaxed);
        Ok(node.cast().as_ptr())
    }

    fn give(&self, node: *mut Node) {
        let mut free = self.registry.free.lock(self.os);
        // SAFETY: the node is a page of words that nobody changes any more.
        unsafe { &*node }.store(free.nodes.expose_provenance() as u64, Relaxed);
        free.nodes = node;
    }

    fn alone<R>(&self, change: impl FnOnce() -> R) -> R {
        let _growing = self.registry.growing.lock(self.os);
        change()
    }
}

/// An operation on a reservation, and where it was called.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The operation.
    pub operation: Operation,
    /// The call in the program.
    pub caller: &'static core::panic::Location<'static>,
}

/// A reservation as the [`Registry`] shows it.
#[derive(Clone, Copy)]
pub struct Registered<'a> {
    entry: &'a Entry,
    start: usize,
    len: usize,
    account: &'static Account,
}

impl Registered<'_> {
    /// The first address.
    pub fn address(&self) -> usize {
        self.start
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: no reservation is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The account it is booked on.
    pub fn account(&self) -> &'static Account {
        self.account
    }

    /// Whether every operation on it is refused with [`ErrorKind::Lost`](crate::ErrorKind::Lost): a
    /// part of it may be another's.
    pub fn is_lost(&self) -> bool {
        self.entry.lost.load(Relaxed)
    }

    /// The state and protection of the page that holds `address`, `None` outside.
    pub fn state_at(&self, address: usize, os: &impl Os) -> Option<(State, Protection)> {
        let offset = address.checked_sub(self.start).filter(|&offset| offset < self.len)?;
        let shape = Shape::new(self.len / os.page_size(), os);
        let page = self.entry.states.get(offset / os.page_size(), shape);
        Some((page.state(), page.protection()))
    }

    /// Whether the page that holds `address` is a guard.
    pub fn is_guard(&self, address: usize, os: &impl Os) -> bool {
        address.checked_sub(self.start).filter(|&offset| offset < self.len).is_some_and(|offset| {
            let shape = Shape::new(self.len / os.page_size(), os);
            self.entry.states.get(offset / os.page_size(), shape).is_guard()
        })
    }

    /// The addresses of the Ready bytes closest to `address` below and above it, as far as the
    /// reservation has any. `address` itself lies in a page that is not Ready.
    pub fn nearest_ready(&self, address: usize, os: &impl Os) -> (Option<usize>, Option<usize>) {
        let page_size = os.page_size();
        let shape = Shape::new(self.len / page_size, os);
        let npages = self.len / page_size;
        let here = address.saturating_sub(self.start) / page_size;
        let (mut below, mut at) = (None, 0);
        while at < npages {
            let (page, end) = self.entry.states.run(at, npages, shape);
            let ready = page.state() == State::Ready;
            if ready && at > here {
                return (below, Some(self.start + at * page_size));
            }
            if ready && end <= here {
                below = Some(self.start + end * page_size - 1);
            }
            at = end;
        }
        (below, None)
    }

    /// Ready, Prepared → Reserved for the whole reservation, whoever owns it: the end of a
    /// simulated crash. Returns the bytes that were not Reserved before.
    ///
    /// # Safety
    ///
    /// Nothing uses the reservation's memory any more, and no operation on it runs.
    #[track_caller]
    pub unsafe fn fault(&self, os: &impl Os) -> Result<usize, Error> {
        let range = PageRange::new(ptr::with_exposed_provenance_mut(self.start), self.len);
        if self.is_lost() {
            return Err(lost(Operation::Fault, self.start, self.len));
        }
        // SAFETY: the reservation is this system's, and the caller gives it up.
        unsafe { os.fault(range, self.entry.policy()) }?;
        let npages = self.len / os.page_size();
        let (pool, shape) = (os.registry().pool(os), Shape::new(npages, os));
        let before = self.entry.states.count(0, npages, shape);
        self.entry.states.set(0, npages, Page::RESERVED, shape, &pool);
        let mut bytes = 0;
        for from in [State::Prepared, State::Ready] {
            let moved = before[from as usize] * os.page_size();
            self.account.transfer(from, State::Reserved, moved);
            bytes += moved;
        }
        os.registry().remember(Operation::Fault, range);
        Ok(bytes)
    }
}

/// An error for a reservation that is lost.
pub(crate) fn lost(operation: Operation, start: usize, len: usize) -> Error {
    Error::new(operation, start, len, crate::ErrorKind::Lost)
}
