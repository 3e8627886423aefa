use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use sysmem::{Account, Error, ErrorKind, Lock, LockGuard, Operation, Os};

use crate::limit::Limits;
use crate::metadata::Metadata;
use crate::misuse::{Misuse, MisuseKind};
use crate::options::{Options, ReleaseOnFree};
use crate::page_map::Now;
use crate::region::Regions;
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
/// A run is the first place in address order that is long enough, so that what is in use gathers
/// at low addresses and the rest can go back in long pieces. Pages that were given back are no
/// worse a place than pages that are still backed: avoiding them would save a page fault now and
/// spread the heap for as long as the run lives. Reservations that were made for one long run come
/// after all others.
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
    pages: Lock<Pages<O>>,
    /// Held while memory is given back, which happens outside the lock on the pages. Always taken
    /// before that one.
    pub(crate) releasing: Lock<()>,
    /// Not zero from a call for the scavenger until it comes. It waits on this word.
    pub(crate) call: AtomicU32,
}

/// What the lock guards.
pub(crate) struct Pages<O: Os> {
    pub(crate) regions: Regions<O>,
    pub(crate) metadata: Metadata<O>,
    /// What the next reservation for all should be long, in bytes; zero before the first.
    pub(crate) next_reservation: usize,
    pub(crate) in_use: usize,
    pub(crate) idle: usize,
    /// Pages that are neither in use nor free, because they are being given back.
    pub(crate) leaving: usize,
    /// Bytes in use whose memory was given back, and whether more is just going.
    pub(crate) given_back_in_use: usize,
    pub(crate) giving_back_in_use: bool,
    pub(crate) counts: Counts,
    /// Regions that were taken out of the list and are being returned outside the lock.
    pub(crate) departing: usize,
    /// After a release that was refused, freeing does not try again before this many pages are
    /// idle.
    pub(crate) idle_before_retry: usize,
    pub(crate) keeper: Keeper,
    /// How often a scavenger looked; wraps.
    pub(crate) look: u32,
    pub(crate) peak_since_look: usize,
    pub(crate) limits: Option<Limits>,
}

// SAFETY: pointers lead to metadata, which belongs to the heap as a value; reservations are Send
// where their system is.
unsafe impl<O: Os + Send> Send for Pages<O> {}

/// Events, and the most pages there were.
pub(crate) struct Counts {
    pub(crate) peak_in_use: usize,
    pub(crate) allocations: u64,
    pub(crate) frees: u64,
    pub(crate) extensions: u64,
    pub(crate) shrinks: u64,
    pub(crate) grows: u64,
    pub(crate) reservations: u64,
    pub(crate) returned_reservations: u64,
    pub(crate) releases: u64,
    pub(crate) failed_releases: u64,
    pub(crate) released_pages: u64,
    /// In bytes.
    pub(crate) released_in_use: u64,
}

impl<O: Os + Clone> PageHeap<O> {
    /// An empty heap. Takes nothing from the system before the first run.
    pub const fn new(os: O, accounts: &'static Accounts, options: Options) -> PageHeap<O> {
        let counts = Counts {
            peak_in_use: 0,
            allocations: 0,
            frees: 0,
            extensions: 0,
            shrinks: 0,
            grows: 0,
            reservations: 0,
            returned_reservations: 0,
            releases: 0,
            failed_releases: 0,
            released_pages: 0,
            released_in_use: 0,
        };
        let pages = Pages {
            regions: Regions::new(),
            metadata: Metadata::new(),
            next_reservation: 0,
            in_use: 0,
            idle: 0,
            leaving: 0,
            given_back_in_use: 0,
            giving_back_in_use: false,
            departing: 0,
            counts,
            idle_before_retry: 0,
            keeper: Keeper::Freeing,
            look: 0,
            peak_since_look: 0,
            limits: None,
        };
        let (pages, releasing) = (Lock::new(pages), Lock::new(()));
        PageHeap { os, accounts, options, pages, releasing, call: AtomicU32::new(0) }
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
        let (mut pages, index, first) = self.find_place(npages, align_pages)?;
        let zeroed = pages.hand_out(index, first, npages)?;
        let start = pages.regions[index].address_of(first);
        pages.counts.allocations += 1;
        // SAFETY: an address inside a reservation is not null.
        Ok(Run { start: unsafe { NonNull::new_unchecked(start) }, npages, zeroed })
    }

    /// Takes back a run, and gives memory back to the system if [`Options`] say so now.
    ///
    /// # Safety
    ///
    /// `start` and `npages` are those of a run of this heap, as it is after `extend` and `shrink`,
    /// and nothing uses it any more.
    pub unsafe fn free(&self, start: NonNull<u8>, npages: usize) -> Result<(), Misuse> {
        let mut pages = self.lock();
        let (index, first) = pages.run_at(start, npages, self.page_shift())?;
        pages.put_back(index, first, npages);
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
        let (index, first) = pages.run_at(start, npages, shift).ok()?;
        let step = self.map_step();
        let region = &mut pages.regions[index];
        let (from, end) = (first + npages, first.checked_add(new_npages)?);
        if end > region.pages.npages() {
            return None;
        }
        let mapped = region.pages.mapped();
        if !region.pages.is_free(from, end.min(mapped) - from) {
            return None;
        }
        if end > mapped {
            region.map(end, step, self.options.huge_pages).ok()?;
            pages.counts.grows += 1;
        }
        if !pages.is_allowed(index, from, added) {
            return None;
        }
        let zeroed = pages.hand_out(index, from, added).ok()?;
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
        let (index, first) = pages.run_at(start, npages, self.page_shift())?;
        if new_npages == 0 || new_npages > npages {
            return Err(Misuse::new(start.addr().get(), new_npages, MisuseKind::Length));
        }
        if new_npages < npages {
            pages.put_back(index, first + new_npages, npages - new_npages);
            pages.counts.shrinks += 1;
            self.release_if_due(pages);
        }
        Ok(())
    }

    /// After a run was freed, sees to it that what is too much goes back. Lets go of the lock first.
    #[inline]
    fn release_if_due(&self, mut pages: LockGuard<'_, Pages<O>, O>) {
        match pages.keeper {
            Keeper::Freeing => {}
            Keeper::Asleep { call_above } if pages.idle > call_above => {
                pages.keeper = Keeper::Awake;
                drop(pages);
                return self.call_scavenger();
            }
            Keeper::Asleep { .. } | Keeper::Awake => return,
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
        self.lock().statistics(self.page_shift())
    }

    /// What is known of the heap at this moment, without waiting for it: `None` while somebody is at
    /// work on it, who may be the caller in whose middle a signal handler runs.
    pub fn try_statistics(&self) -> Option<Statistics> {
        Some(self.try_lock()?.statistics(self.page_shift()))
    }

    /// Holds the heap still across a fork: no thread is in the middle of anything until
    /// [`unlock_after_fork`](PageHeap::unlock_after_fork). Waits for memory that is being given
    /// back. The caller holds the system's [`registry`](Os::registry) still after this and lets go
    /// of it before.
    pub fn lock_for_fork(&self) {
        self.releasing.lock_for_fork(&self.os);
        self.pages.lock_for_fork(&self.os);
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
            self.pages.unlock_after_fork(&self.os);
            self.releasing.unlock_after_fork(&self.os);
        }
    }
}

impl<O: Os + Clone> Pages<O> {
    /// The first place where a run fits, among reservations for all first.
    #[inline]
    pub(crate) fn fit(&mut self, npages: usize, align_pages: usize) -> Option<(usize, usize)> {
        for dedicated in [false, true] {
            for (index, region) in self.regions.iter_mut().enumerate() {
                if region.pages.longest() < npages || region.dedicated != dedicated {
                    continue;
                }
                let align = region.alignment(align_pages);
                if let Some(first) = region.pages.fit(npages, align) {
                    return Some((index, first));
                }
            }
        }
        None
    }

    /// The region and the first page of a range that may be a run.
    #[inline]
    fn run_at(
        &self,
        start: NonNull<u8>,
        npages: usize,
        shift: u32,
    ) -> Result<(usize, usize), Misuse> {
        let address = start.addr().get();
        let refuse = |kind| Err(Misuse::new(address, npages, kind));
        let Some(index) = self.regions.find(address) else {
            return refuse(MisuseKind::Foreign);
        };
        if address & ((1 << shift) - 1) != 0 {
            return refuse(MisuseKind::Unaligned);
        }
        if npages == 0 {
            return refuse(MisuseKind::Length);
        }
        let region = &self.regions[index];
        let first = region.page_of(address);
        if npages > region.pages.mapped().saturating_sub(first) {
            return refuse(MisuseKind::TooLong);
        }
        if !region.pages.is_busy(first, npages) {
            return refuse(MisuseKind::AlreadyFree);
        }
        Ok((index, first))
    }

    /// Takes free pages out for an owner, Ready; whether all of them are zero.
    #[inline]
    fn hand_out(&mut self, index: usize, first: usize, npages: usize) -> Result<bool, Error> {
        let region = &mut self.regions[index];
        let idle_before = region.pages.idle();
        let backed = region.back(first, npages);
        // What was made Ready before a refusal stays so.
        self.idle += region.pages.idle() - idle_before;
        backed?;
        let zeroed = region.pages.take(first, npages, Some(self.look));
        self.idle -= npages;
        self.in_use += npages;
        self.counts.peak_in_use = self.counts.peak_in_use.max(self.in_use);
        self.peak_since_look = self.peak_since_look.max(self.in_use);
        Ok(zeroed)
    }

    #[inline]
    fn put_back(&mut self, index: usize, first: usize, npages: usize) {
        self.regions[index].pages.put_back(first, npages, Now::Dirty { look: self.look });
        self.in_use -= npages;
        self.idle += npages;
    }
}

impl<O: Os + Clone> Drop for PageHeap<O> {
    fn drop(&mut self) {
        let mut pages = self.lock();
        while let Some(last) = pages.regions.len().checked_sub(1) {
            let region = pages.regions.remove(last);
            // SAFETY: the region is out of the list, so nobody else reaches its reservation.
            drop(unsafe { region.reservation_ptr().read() });
        }
        // SAFETY: the list of regions is not used any more.
        unsafe { pages.metadata.free_all() };
    }
}
