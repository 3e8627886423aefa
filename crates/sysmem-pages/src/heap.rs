use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

use sysmem::{Account, Error, ErrorKind, Lock, LockGuard, Operation, Os};

use crate::grow::out_of_memory;
use crate::lost::is_loss;
use crate::misuse::{Misuse, MisuseKind};
use crate::options::{HugePages, Options, ReleaseOnFree};
use crate::page_cache::Depot;
use crate::pages::Pages;
use crate::region::return_reservation;
use crate::scavenger::Keeper;
use crate::statistics::Statistics;

/// The smallest heap page in bytes. On systems whose pages are larger, a heap page is one of
/// theirs: [`PageHeap::page_size`].
pub const PAGE: usize = 8192;

/// The accounts that one page heap books on. Each heap has its own, or its
/// [`verify`](PageHeap::verify) finds the other's bytes on them.
pub struct Accounts {
    /// The memory that runs are made of.
    pub heap: Account,
    /// The heap's own records.
    pub metadata: Account,
}

impl Accounts {
    /// Two empty accounts of these names.
    pub const fn new(heap: &'static str, metadata: &'static str) -> Accounts {
        Accounts { heap: Account::new(heap), metadata: Account::new(metadata) }
    }
}

/// Pages in a row that belong to whoever they were handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first byte.
    pub start: NonNull<u8>,
    /// The number of pages.
    pub npages: usize,
    /// Whether every byte is zero. If not, contents are unspecified, and may change under a
    /// reader until a page is first written (see [`sysmem::Contents`]).
    pub zeroed: bool,
}

// SAFETY: a run is an address and a length; it gives no access by itself.
unsafe impl Send for Run {}
// SAFETY: as above.
unsafe impl Sync for Run {}

/// Runs of pages, out of reservations that grow with what is in use.
///
/// A run that is shorter than a huge page comes from one whose longest free run is just long enough,
/// and of those from the fullest, so that what is in use gathers in few huge pages and others empty;
/// longer runs begin at a free huge page and leave the rest of their last one to others. Where two
/// places are equally good, the one at the lower address is taken. A search takes as long in a large
/// heap as in a small one, but for a step where the heap is 64 times as large.
///
/// All methods take `&self` and may be called from any thread. A heap can be a `static`; one that
/// is dropped returns all of its memory, and its runs end with it.
///
/// ```
/// use sysmem::Native;
/// use sysmem_pages::{Accounts, Options, PAGE, PageHeap};
///
/// static ACCOUNTS: Accounts = Accounts::new("buffers", "buffers: records");
/// static HEAP: PageHeap<Native> = PageHeap::new(Native::NEW, &ACCOUNTS, Options::new());
///
/// let run = HEAP.allocate(16, PAGE)?;
/// // SAFETY: the run is 16 pages of Ready memory, and ours.
/// unsafe { run.start.write_bytes(7, 16 * HEAP.page_size()) };
/// assert_eq!(HEAP.statistics().in_use, 16 * HEAP.page_size() as u64);
/// // SAFETY: the whole run, which is not used any more.
/// unsafe { HEAP.free(run.start, run.npages) }?;
/// assert!(HEAP.release_all() >= 16 * HEAP.page_size());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PageHeap<O: Os + Clone> {
    pub(crate) os: O,
    pub(crate) accounts: &'static Accounts,
    pub(crate) options: Options,
    /// Whether huge pages are asked for: what the options say, unless they were overruled.
    pub(crate) advises: AtomicBool,
    pages: Lock<Pages<O>>,
    /// What caches exchange; taken after the one on the pages, or alone.
    pub(crate) depot: Lock<Depot>,
    /// Held while memory is given back, which happens outside the lock on the pages. Always taken
    /// before that one.
    pub(crate) releasing: Lock<()>,
    /// Not zero from a call for the scavenger until it comes. It waits on this word.
    pub(crate) call: AtomicU32,
}

impl<O: Os + Clone> PageHeap<O> {
    /// An empty heap. Takes nothing from the system before the first run.
    pub const fn new(os: O, accounts: &'static Accounts, options: Options) -> PageHeap<O> {
        PageHeap {
            os,
            accounts,
            options,
            advises: AtomicBool::new(matches!(options.huge_pages, HugePages::Advise)),
            pages: Lock::new(Pages::new()),
            depot: Lock::new(Depot::new()),
            releasing: Lock::new(()),
            call: AtomicU32::new(0),
        }
    }

    /// Overrules what the [`Options`] say of huge pages, for memory that the heap maps from now on:
    /// for owners who know it only when the heap is in use.
    pub fn set_huge_pages(&self, huge_pages: HugePages) {
        self.advises.store(huge_pages == HugePages::Advise, Relaxed);
    }

    /// The size of a heap page in bytes: [`PAGE`], or the system's page if that is larger.
    #[inline]
    pub fn page_size(&self) -> usize {
        self.os.page_size().max(PAGE)
    }

    #[inline]
    pub(crate) fn page_shift(&self) -> u32 {
        self.page_size().ilog2()
    }

    #[inline]
    pub(crate) fn lock(&self) -> LockGuard<'_, Pages<O>, O> {
        self.pages.lock(&self.os)
    }

    pub(crate) fn try_lock(&self) -> Option<LockGuard<'_, Pages<O>, O>> {
        self.pages.try_lock(&self.os)
    }

    /// Hands out `npages` pages in a row, whose address is a multiple of `align` bytes (a power of
    /// two) and of the page size.
    pub fn allocate(&self, npages: usize, align: usize) -> Result<Run, Error> {
        self.allocate_with_room(npages, align, 0)
    }

    /// As [`allocate`](PageHeap::allocate) for a run that is going to grow: keeps address space for
    /// `room` pages after it, into which [`extend`](PageHeap::extend) makes it longer where it is. Less
    /// of it where the system has no such address space; nobody else gets pages there unless the heap
    /// can grow nowhere else. Room costs no memory, but each such run has a reservation of its own.
    pub fn allocate_with_room(
        &self,
        npages: usize,
        align: usize,
        room: usize,
    ) -> Result<Run, Error> {
        let shift = self.page_shift();
        let refuse = |kind| {
            let len = npages.saturating_mul(1 << shift);
            Err(Error::new(Operation::AllocatePages, 0, len, kind))
        };
        if npages == 0 {
            return refuse(ErrorKind::Empty);
        }
        if !align.is_power_of_two() {
            return refuse(ErrorKind::BadAlignment);
        }
        if npages > isize::MAX as usize >> shift {
            return refuse(ErrorKind::TooLong);
        }
        let align_pages = (align >> shift).max(1);
        let room = room.min((isize::MAX as usize >> shift) - npages);
        let (mut pages, run) = self.take_run(npages, align_pages, room)?;
        pages.counts.allocations += 1;
        Ok(run)
    }

    /// The lock, and a run out of what is free or may still grow, with room after it if that can be
    /// had; out of caches, if it must be.
    #[inline]
    pub(crate) fn take_run(
        &self,
        npages: usize,
        align_pages: usize,
        room: usize,
    ) -> Result<(LockGuard<'_, Pages<O>, O>, Run), Error> {
        let take = || {
            let (mut pages, first) = self.find_place(npages, align_pages, room)?;
            let zeroed = pages.hand_out(self, first, npages)?;
            Ok((pages, Run { start: self.address_of(first), npages, zeroed }))
        };
        match take() {
            Err(error) if self.may_mend(&error) => take().map_err(|error| {
                if is_loss(&error) { out_of_memory(npages << self.page_shift()) } else { error }
            }),
            answer => answer,
        }
    }

    /// Whether another try may do after a refusal: caches had something, or other pages will be taken
    /// than those that were lost.
    #[cold]
    fn may_mend(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::OutOfMemory { .. } => self.drain_caches() > 0,
            kind => kind == ErrorKind::Lost,
        }
    }

    /// The address of a page of the heap.
    #[inline]
    pub(crate) fn address_of(&self, page: usize) -> NonNull<u8> {
        let start = ptr::with_exposed_provenance_mut(page << self.page_shift());
        // SAFETY: page zero is in no reservation.
        unsafe { NonNull::new_unchecked(start) }
    }

    /// Takes back a run, and gives memory back to the system if [`Options`] say so now.
    ///
    /// # Safety
    ///
    /// `start` and `npages` are those of a run of this heap, as it is after `extend` and `shrink`,
    /// and nothing uses it any more.
    pub unsafe fn free(&self, start: NonNull<u8>, npages: usize) -> Result<(), Misuse> {
        let mut pages = self.lock();
        pages.take_back(start, npages, self.page_shift())?;
        pages.counts.frees += 1;
        self.release_if_due(pages);
        Ok(())
    }

    /// Makes a run longer where it is, if the pages after it are free; whether those are zero.
    /// `None` if they are not free or the system has no memory for them, and for a range that is
    /// not a run.
    ///
    /// # Safety
    ///
    /// `start` and `npages` are those of a run of this heap, and no other thread changes it.
    pub unsafe fn extend(
        &self,
        start: NonNull<u8>,
        npages: usize,
        new_npages: usize,
    ) -> Option<bool> {
        let added = new_npages.checked_sub(npages).filter(|&added| added > 0)?;
        let shift = self.page_shift();
        let mut pages = self.lock();
        let first = pages.run_at(start, npages, shift).ok()?;
        let (from, end) = (first + npages, first.checked_add(new_npages)?);
        let index = pages.regions.find(first)?;
        let region = &pages.regions[index];
        let mapped = region.mapped;
        if end > region.end || !pages.are_free(from, end.min(mapped).saturating_sub(from)) {
            return None;
        }
        if end > mapped {
            pages.map_region(self, index, end).ok()?;
            pages.counts.grows += 1;
        }
        if !pages.is_allowed(from, added) {
            return None;
        }
        let zeroed = pages.hand_out(self, from, added).ok()?;
        pages.counts.extensions += 1;
        Some(zeroed)
    }

    /// Makes a run shorter: takes back the pages after the first `new_npages`.
    ///
    /// # Safety
    ///
    /// `start` and `npages` are those of a run of this heap, and nothing uses the pages that are
    /// taken back.
    pub unsafe fn shrink(
        &self,
        start: NonNull<u8>,
        npages: usize,
        new_npages: usize,
    ) -> Result<(), Misuse> {
        let mut pages = self.lock();
        let first = pages.run_at(start, npages, self.page_shift())?;
        if new_npages == 0 || new_npages > npages {
            return Err(Misuse::new(start.addr().get(), new_npages, MisuseKind::Length));
        }
        if new_npages < npages {
            pages.put_back(first + new_npages, npages - new_npages);
            pages.counts.shrinks += 1;
            self.release_if_due(pages);
        }
        Ok(())
    }

    /// After runs were handed to a cache, calls for a scavenger that sleeps. Lets go of the lock.
    #[inline]
    pub(crate) fn call_if_due(&self, mut pages: LockGuard<'_, Pages<O>, O>) {
        let Keeper::Asleep { call_above } = pages.keeper else { return };
        if pages.idle + self.depot.lock(&self.os).most() > call_above {
            pages.keeper = Keeper::Awake;
            drop(pages);
            self.call_scavenger();
        }
    }

    /// After a run was freed, sees to it that what is too much goes back. Lets go of the lock first.
    #[inline]
    pub(crate) fn release_if_due(&self, pages: LockGuard<'_, Pages<O>, O>) {
        if !matches!(pages.keeper, Keeper::Freeing) {
            return self.call_if_due(pages);
        }
        let ReleaseOnFree::Above { bytes, divisor } = self.options.release_on_free else { return };
        let (least, idle) = (bytes >> self.page_shift(), pages.idle);
        if idle <= least || idle < pages.idle_before_retry {
            return;
        }
        let limit = least.max(pages.in_use / divisor.max(1));
        if idle > limit {
            drop(pages);
            self.release_down_to(limit / 2);
        }
    }

    /// What is known of the heap at this moment.
    pub fn statistics(&self) -> Statistics {
        let pages = self.lock();
        pages.statistics(&self.depot.lock(&self.os), self.page_shift())
    }

    /// What is known of the heap at this moment, without waiting for it: `None` while somebody is at
    /// work on it, who may be the caller in whose middle a signal handler runs.
    pub fn try_statistics(&self) -> Option<Statistics> {
        let pages = self.try_lock()?;
        let depot = self.depot.try_lock(&self.os)?;
        Some(pages.statistics(&depot, self.page_shift()))
    }

    /// Holds the heap still across a fork: no thread is in the middle of anything until
    /// [`unlock_after_fork`](PageHeap::unlock_after_fork). Waits for memory that is being given
    /// back. The caller holds the system's [`registry`](Os::registry) still after this and lets go
    /// of it before.
    pub fn lock_for_fork(&self) {
        self.releasing.lock_for_fork(&self.os);
        self.pages.lock_for_fork(&self.os);
        self.depot.lock_for_fork(&self.os);
    }

    /// Lets the heap go on, in the parent and in the child.
    ///
    /// # Safety
    ///
    /// The calling thread, or in a forked child the thread it is a copy of, called
    /// `lock_for_fork`.
    pub unsafe fn unlock_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.depot.unlock_after_fork(&self.os);
            self.pages.unlock_after_fork(&self.os);
            self.releasing.unlock_after_fork(&self.os);
        }
    }
}

impl<O: Os + Clone> Drop for PageHeap<O> {
    fn drop(&mut self) {
        let mut pages = self.lock();
        while let Some(last) = pages.regions.len().checked_sub(1) {
            let region = pages.regions.remove(last);
            // SAFETY: the region is out of the list, so nobody else reaches its reservation.
            unsafe { return_reservation(region.reservation_ptr()) };
        }
        // SAFETY: the list of regions is not used any more.
        unsafe { pages.metadata.free_all() };
    }
}
