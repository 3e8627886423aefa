//! What an operating system does and promises: the trait [`Os`], a backend per system, and the
//! words they share.

use core::ffi::CStr;
use core::num::NonZeroU64;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

use crate::calls::time_and_parking;
use crate::{Error, Operation, Protection, Registry};

pub mod bsd;
pub mod capabilities;
pub mod darwin;
pub mod dragonfly;
pub mod freebsd;
pub mod illumos;
pub mod linux;
pub mod netbsd;
pub mod openbsd;
pub mod unix;
pub mod windows;

mod contract;
mod nearest;
mod policy;
mod range;

pub use contract::{Contents, GiveBack, ResidentFalls, UnusedContract};
pub use policy::{Inheritance, Placement, Policy, ReserveOptions, Source};
pub use range::PageRange;

/// Where one page is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageResidency {
    /// Whether the page is in physical memory.
    pub resident: bool,
    /// Whether the page is in swap.
    pub swapped: bool,
    /// Whether it is part of a huge page, where the system tells it (FreeBSD).
    pub huge: bool,
    /// The number of its physical frame, where the system tells it (Linux tells root).
    pub frame: Option<NonZeroU64>,
}

/// An error that stopped a batch: how many of its ranges were done, and what was wrong with the
/// next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchError {
    /// Ranges done in full.
    pub done: usize,
    /// What the range after them met.
    pub error: Error,
}

/// The operations of an operating system's virtual memory, raw: no accounts, no record of states.
///
/// Every method refuses ranges that are empty, unaligned or past the end of the address space.
/// Each is one system call where the system allows it. Ranges may not contain memory that is not
/// the caller's, and may not reach over the end of a reservation.
///
/// # Safety
///
/// Memory that an implementation calls Ready is accessible as it says; memory it hands out is
/// nobody else's; [`unused_contract`](Os::unused_contract) is kept.
pub unsafe trait Os: Sync {
    /// The size of a page in bytes.
    fn page_size(&self) -> usize;

    /// The size of a huge page that the system may build out of pages, if it has them.
    fn huge_page_size(&self) -> Option<usize>;

    /// What this system promises of memory given back in that way.
    fn unused_contract(&self, how: GiveBack) -> UnusedContract;

    /// Whether memory is committed by [`used`](Os::used), not by [`map`](Os::map): then Prepared
    /// memory faults, but for what was given back lazily. So it is on Windows.
    fn used_commits(&self) -> bool {
        false
    }

    /// Whether reservations can have this policy here.
    fn supports(&self, policy: Policy) -> bool;

    /// Every reservation made through this system.
    fn registry(&self) -> &Registry;

    /// None → Ready: `len` bytes of zeroed memory, readable and writable.
    #[doc(alias = "sysAllocOS")]
    fn alloc(&self, len: usize) -> Result<NonNull<u8>, Error>;

    /// None → Reserved: address space that faults on access and costs no memory.
    #[doc(alias = "sysReserveOS")]
    #[doc(alias = "sysReserveAligned")]
    fn reserve(&self, options: &ReserveOptions) -> Result<NonNull<u8>, Error>;

    /// Reserved → Prepared, to become accessible with `protection`.
    ///
    /// On failure the range is still Reserved, except after [`ErrorKind::Lost`](crate::ErrorKind::Lost).
    ///
    /// # Safety
    ///
    /// The range is Reserved with this policy, and the caller's.
    #[doc(alias = "sysMapOS")]
    unsafe fn map(
        &self,
        range: PageRange,
        protection: Protection,
        policy: Policy,
    ) -> Result<(), Error>;

    /// Prepared → Ready with the protection it was mapped with, which the caller says again.
    ///
    /// # Safety
    ///
    /// The range is Prepared with this protection, and the caller's.
    #[doc(alias = "sysUsedOS")]
    unsafe fn used(&self, range: PageRange, protection: Protection) -> Result<(), Error>;

    /// Ready → Prepared: contents are forfeit and the memory goes back as `how` says.
    ///
    /// # Safety
    ///
    /// The range is Ready (or Prepared) with this protection and policy, and the caller's;
    /// nothing relies on its contents.
    #[doc(alias = "sysUnusedOS")]
    unsafe fn unused(
        &self,
        range: PageRange,
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), Error>;

    /// [`unused`](Os::unused) for many ranges, in as few system calls as the system allows.
    ///
    /// # Safety
    ///
    /// As for `unused`, for each range.
    unsafe fn unused_batch(
        &self,
        ranges: &[PageRange],
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), BatchError> {
        // SAFETY: the caller's promise.
        unsafe { unused_one_by_one(self, ranges, protection, how, policy) }
    }

    /// Ready, Prepared → Reserved: contents are dropped, memory and commit charge given back,
    /// and every access faults.
    ///
    /// # Safety
    ///
    /// The range is the caller's, has this policy and is not None; nothing relies on its contents
    /// or accesses it.
    #[doc(alias = "sysFaultOS")]
    unsafe fn fault(&self, range: PageRange, policy: Policy) -> Result<(), Error>;

    /// Any → None: releases exactly one whole reservation or allocation.
    ///
    /// # Safety
    ///
    /// The range is exactly what `alloc` or `reserve` gave, and nothing uses it any more.
    #[doc(alias = "sysFreeOS")]
    unsafe fn free(&self, range: PageRange) -> Result<(), Error>;

    /// Ready → Ready with another protection; contents stay.
    ///
    /// # Safety
    ///
    /// The range is Ready and the caller's, and nothing relies on the access it loses.
    unsafe fn protect(&self, range: PageRange, protection: Protection) -> Result<(), Error>;

    /// Hint: build this range out of huge pages.
    ///
    /// # Safety
    ///
    /// The range is mapped and the caller's.
    #[doc(alias = "sysHugePageOS")]
    unsafe fn huge_page(&self, range: PageRange) -> Result<(), Error>;

    /// Hint: do not build this range out of huge pages.
    ///
    /// # Safety
    ///
    /// The range is mapped and the caller's.
    #[doc(alias = "sysNoHugePageOS")]
    unsafe fn no_huge_page(&self, range: PageRange) -> Result<(), Error>;

    /// Makes huge pages out of this range now, which may copy it and take milliseconds.
    ///
    /// # Safety
    ///
    /// The range is Ready and the caller's.
    #[doc(alias = "sysHugePageCollapseOS")]
    unsafe fn collapse(&self, range: PageRange) -> Result<(), Error>;

    /// Names a range in the system's listing of mappings, where it has such names.
    ///
    /// # Safety
    ///
    /// The range is the caller's.
    unsafe fn name(&self, range: PageRange, name: &CStr) -> Result<(), Error>;

    /// Sets what a forked child gets of a range. The policy of every later operation on it says
    /// the same.
    ///
    /// # Safety
    ///
    /// The range is the caller's.
    unsafe fn set_inheritance(
        &self,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), Error>;

    /// Sets whether a core dump has a range in it. The policy of every later operation on it says
    /// the same. OpenBSD takes this only when memory is reserved.
    ///
    /// # Safety
    ///
    /// The range is the caller's.
    unsafe fn set_dumped(&self, range: PageRange, dumped: bool) -> Result<(), Error>;

    /// Where each page of a range is. `pages` has one element a page.
    fn residency(&self, range: PageRange, pages: &mut [PageResidency]) -> Result<(), Error>;

    /// Bytes of a range that are in physical memory.
    fn resident_bytes(&self, range: PageRange) -> Result<usize, Error> {
        let page_size = self.page_size();
        range.check(Operation::Residency, page_size)?;
        let mut pages = [PageResidency::default(); 64];
        let mut resident = 0;
        let mut at = 0;
        while at < range.len {
            let len = (range.len - at).min(pages.len() * page_size);
            let part = PageRange::new(range.start.wrapping_add(at), len);
            let pages = &mut pages[..len / page_size];
            self.residency(part, pages)?;
            resident += pages.iter().filter(|page| page.resident).count() * page_size;
            at += len;
        }
        Ok(resident)
    }

    /// Time since a fixed moment in the past, never going back.
    fn monotonic_time(&self) -> Duration;

    /// Processor time that the calling thread has used.
    fn thread_cpu_time(&self) -> Duration;

    /// Blocks the calling thread while `word` holds `while_equal`, until woken, interrupted or
    /// timed out; may return early for no reason.
    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>);

    /// Wakes at most `count` threads parked on `word`.
    fn wake(&self, word: &AtomicU32, count: u32);
}

/// Forwards every method of [`Os`] to what `$self` dereferences to.
macro_rules! forward_os {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(fn $name(&self $(, $argument: $type)*) $(-> $result)? { (**self).$name($($argument),*) })*
    };
}

macro_rules! forward_unsafe_os {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(unsafe fn $name(&self $(, $argument: $type)*) $(-> $result)? {
            // SAFETY: the caller's promise, handed on.
            unsafe { (**self).$name($($argument),*) }
        })*
    };
}

/// [`unused`](Os::unused) for each range, in as many calls.
///
/// # Safety
///
/// As for [`Os::unused_batch`].
pub(crate) unsafe fn unused_one_by_one<O: Os + ?Sized>(
    os: &O,
    ranges: &[PageRange],
    protection: Protection,
    how: GiveBack,
    policy: Policy,
) -> Result<(), BatchError> {
    for (done, &range) in ranges.iter().enumerate() {
        // SAFETY: the caller's promise for each range.
        unsafe { os.unused(range, protection, how, policy) }
            .map_err(|error| BatchError { done, error })?;
    }
    Ok(())
}

// SAFETY: every promise is that of the referenced system.
unsafe impl<O: Os + ?Sized> Os for &O {
    forward_os! {
        fn page_size() -> usize;
        fn huge_page_size() -> Option<usize>;
        fn unused_contract(how: GiveBack) -> UnusedContract;
        fn used_commits() -> bool;
        fn supports(policy: Policy) -> bool;
        fn registry() -> &Registry;
        fn alloc(len: usize) -> Result<NonNull<u8>, Error>;
        fn reserve(options: &ReserveOptions) -> Result<NonNull<u8>, Error>;
        fn residency(range: PageRange, pages: &mut [PageResidency]) -> Result<(), Error>;
        fn resident_bytes(range: PageRange) -> Result<usize, Error>;
    }
    time_and_parking!(self => (**self));
    forward_unsafe_os! {
        fn map(range: PageRange, protection: Protection, policy: Policy) -> Result<(), Error>;
        fn used(range: PageRange, protection: Protection) -> Result<(), Error>;
        fn unused(range: PageRange, protection: Protection, how: GiveBack, policy: Policy) -> Result<(), Error>;
        fn unused_batch(ranges: &[PageRange], protection: Protection, how: GiveBack, policy: Policy) -> Result<(), BatchError>;
        fn fault(range: PageRange, policy: Policy) -> Result<(), Error>;
        fn free(range: PageRange) -> Result<(), Error>;
        fn protect(range: PageRange, protection: Protection) -> Result<(), Error>;
        fn huge_page(range: PageRange) -> Result<(), Error>;
        fn no_huge_page(range: PageRange) -> Result<(), Error>;
        fn collapse(range: PageRange) -> Result<(), Error>;
        fn set_inheritance(range: PageRange, inheritance: Inheritance) -> Result<(), Error>;
        fn set_dumped(range: PageRange, dumped: bool) -> Result<(), Error>;
        fn name(range: PageRange, name: &CStr) -> Result<(), Error>;
    }
}
