//! What an operating system does and promises: the trait [`Os`], a backend per system, and the
//! words they share.

use core::ffi::CStr;
use core::num::NonZeroU64;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

use crate::calls::time_and_parking;
use crate::{Error, ErrorKind, Operation, Protection, Registry};

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

mod nearest;

/// A range of whole pages.
///
/// Laid out like `struct iovec` (readv(2)), so that a slice of ranges can go to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PageRange {
    /// The first byte, a multiple of the page size.
    pub start: *mut u8,
    /// The length in bytes, a multiple of the page size, not zero.
    pub len: usize,
}

// SAFETY: a range is an address and a length; it gives no access by itself.
unsafe impl Send for PageRange {}
// SAFETY: as above.
unsafe impl Sync for PageRange {}

impl PageRange {
    /// The `len` bytes at `start`.
    pub const fn new(start: *mut u8, len: usize) -> PageRange {
        PageRange { start, len }
    }

    /// Refuses what no kernel may be given: ranges that are empty, unaligned or run past the end
    /// of the address space. Kernels disagree about those, and round outward into memory that was
    /// not meant (munmap(2), madvise(2) on every BSD).
    #[inline]
    pub(crate) fn check(self, operation: Operation, page_size: usize) -> Result<(), Error> {
        let address = self.start.addr();
        if (address | self.len) & (page_size - 1) == 0
            && self.len != 0
            && address.checked_add(self.len).is_some()
        {
            return Ok(());
        }
        Err(self.refusal(operation, page_size))
    }

    #[cold]
    fn refusal(self, operation: Operation, page_size: usize) -> Error {
        let address = self.start.addr();
        let kind = if self.len == 0 {
            ErrorKind::Empty
        } else if (address | self.len) & (page_size - 1) != 0 {
            ErrorKind::Unaligned { multiple: page_size }
        } else {
            ErrorKind::TooLong
        };
        Error::new(operation, address, self.len, kind)
    }

    /// An error that `operation` met on this range.
    pub(crate) fn error(self, operation: Operation, kind: ErrorKind) -> Error {
        Error::new(operation, self.start.addr(), self.len, kind)
    }
}

/// Where a reservation is to lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the system likes.
    #[default]
    Any,
    /// At this address if it is free, elsewhere otherwise.
    Hint(usize),
    /// At this address, or [`ErrorKind::Taken`].
    At(usize),
    /// As close to `address` as can be found, every byte within `distance` bytes of it, or
    /// [`ErrorKind::NoPlace`]: for code that reaches its callees with relative calls.
    Near {
        /// The address to be close to.
        address: usize,
        /// The farthest any byte may be, in bytes.
        distance: usize,
    },
    /// Above the first 4 GiB, away from addresses that fit in 32 bits.
    High,
}

/// What a forked child gets of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Inheritance {
    /// A copy.
    #[default]
    Copy,
    /// The same memory.
    Share,
    /// Nothing: the range is not mapped.
    Nothing,
    /// Zeros.
    Zeros,
}

/// What the pages of a reservation are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// Memory of the process, from no object.
    #[default]
    Anonymous,
    /// The bytes of a memory object, of which the reservation is a view: made by
    /// [`Reservation::reserve_view_in`](crate::Reservation::reserve_view_in) only.
    Object,
    /// Memory of the process that each thread switches between writable and executable for itself
    /// ([`CodeMemory::let_thread_write`](capabilities::CodeMemory::let_thread_write)): `MAP_JIT`
    /// of macOS on Apple silicon. A thread can write to it or execute it, never both at once.
    PerThread,
}

/// What memory keeps through every operation.
///
/// A mapping that replaces another has none of what the other was told. So each operation that
/// may map a range anew is told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Whether pages may become executable.
    pub executable: bool,
    /// Whether a core dump has the memory in it.
    pub dumped: bool,
    /// What a forked child gets of the memory.
    pub inheritance: Inheritance,
    /// What its pages are.
    pub source: Source,
    /// Whether threads may have their stacks in it, where it is mapped readable and writable.
    pub stacks: bool,
}

impl Policy {
    /// Anonymous, not executable, dumped, copied for a forked child, not for stacks: what every
    /// system does unasked.
    pub const DEFAULT: Policy = Policy {
        executable: false,
        dumped: true,
        inheritance: Inheritance::Copy,
        source: Source::Anonymous,
        stacks: false,
    };
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::DEFAULT
    }
}

/// What to reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ReserveOptions {
    pub(crate) len: usize,
    pub(crate) align: usize,
    pub(crate) placement: Placement,
    pub(crate) policy: Policy,
}

impl ReserveOptions {
    /// `len` bytes anywhere, aligned to a page.
    pub const fn new(len: usize) -> ReserveOptions {
        ReserveOptions { len, align: 1, placement: Placement::Any, policy: Policy::DEFAULT }
    }

    /// Aligned to `align` bytes, a power of two; a page where that is less.
    pub const fn align(self, align: usize) -> ReserveOptions {
        ReserveOptions { align, ..self }
    }

    /// Placed as `placement` says.
    pub const fn placement(self, placement: Placement) -> ReserveOptions {
        ReserveOptions { placement, ..self }
    }

    /// Whether pages may become executable later. NetBSD (mmap(2), `PROT_MPROTECT`) must know
    /// when the memory is reserved; asking everywhere keeps a program portable.
    pub const fn executable(self, executable: bool) -> ReserveOptions {
        ReserveOptions { policy: Policy { executable, ..self.policy }, ..self }
    }

    /// Executable memory that each thread switches for itself ([`Source::PerThread`]);
    /// [`Os::supports`] tells whether the system has it.
    pub const fn switched_per_thread(self) -> ReserveOptions {
        let policy = Policy { executable: true, source: Source::PerThread, ..self.policy };
        ReserveOptions { policy, ..self }
    }

    /// Whether a core dump has the memory in it; [`Os::supports`] tells whether the system can
    /// leave it out.
    pub const fn dumped(self, dumped: bool) -> ReserveOptions {
        ReserveOptions { policy: Policy { dumped, ..self.policy }, ..self }
    }

    /// What a forked child gets of the memory; [`Os::supports`] tells whether the system has it.
    pub const fn inheritance(self, inheritance: Inheritance) -> ReserveOptions {
        ReserveOptions { policy: Policy { inheritance, ..self.policy }, ..self }
    }

    /// Whether threads may have their stacks in the memory, where it is mapped readable and
    /// writable. OpenBSD ends a process that enters the kernel with its stack pointer anywhere
    /// else (mmap(2), `MAP_STACK`, since 6.4); asking everywhere keeps a program portable.
    pub const fn stacks(self, stacks: bool) -> ReserveOptions {
        ReserveOptions { policy: Policy { stacks, ..self.policy }, ..self }
    }

    /// The length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero, which no system reserves.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it is to be aligned to, in bytes.
    pub const fn alignment(&self) -> usize {
        self.align
    }

    /// Where it is to lie.
    pub const fn place(&self) -> Placement {
        self.placement
    }

    /// What it is to keep through every operation.
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether pages may become executable later.
    pub const fn may_become_executable(&self) -> bool {
        self.policy.executable
    }
}

/// How memory is given back by `unused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GiveBack {
    /// The system takes the pages when it wants memory: cheap, and cheap to use again.
    Lazy,
    /// The system takes the pages now.
    Eager,
}

/// When the resident set falls after `unused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidentFalls {
    /// Before the call returns.
    AtOnce,
    /// When the system wants memory, or never.
    UnderPressure,
}

/// What pages hold after `unused` and `used`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Zeros.
    Zero,
    /// Anything, until a page is first written: two reads may differ.
    Unspecified,
}

/// What a system promises of memory given back: its `needZeroAfterSysUnused`, in full.
///
/// | System | [`GiveBack`] | the resident set falls | contents | `used` is | by |
/// |---|---|---|---|---|---|
/// | Linux | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | Linux | `Eager` | `AtOnce` | `Zero` | no call | `MADV_DONTNEED` |
/// | FreeBSD | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | FreeBSD | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | FreeBSD, strict | `Lazy` | `UnderPressure` | `Unspecified` | a call | `MADV_FREE` |
/// | FreeBSD, strict | `Eager` | `AtOnce` | `Zero` | a call | fresh fixed mapping |
/// | NetBSD | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | NetBSD | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | OpenBSD | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | OpenBSD | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | DragonFly | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | DragonFly | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | illumos | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | illumos | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | Darwin | `Lazy` | `UnderPressure` | `Unspecified` | a call | `MADV_FREE_REUSABLE` |
/// | Darwin | `Eager` | `AtOnce` | `Zero` | a call | fresh fixed mapping |
/// | Windows | `Lazy` | `UnderPressure` | `Unspecified` | a call | `MEM_RESET` |
/// | Windows | `Eager` | `AtOnce` | `Zero` | a call | `MEM_DECOMMIT` |
///
/// FreeBSD is strict where `vm.overcommit` has it refuse what swap cannot hold (tuning(7)).
///
/// A promise is the least that holds. `MADV_FREE` of NetBSD and OpenBSD drops pages before it
/// returns, but neither those that a forked child shares nor wired ones; Windows decommits in place
/// of `MEM_RESET` where pages are not all committed, and Darwin maps anew where pages are not
/// writable. Darwin counts what it was given back out of the footprint at once, and the resident
/// set later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "needZeroAfterSysUnusedOS")]
pub struct UnusedContract {
    /// When the resident set falls.
    pub resident_falls: ResidentFalls,
    /// What the pages hold once they are used again.
    pub contents: Contents,
    /// Whether `used` is a real call on this system, or only a change in our books.
    pub used_is_a_call: bool,
}

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
    /// On failure the range is still Reserved, except after [`ErrorKind::Lost`].
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
        for (done, &range) in ranges.iter().enumerate() {
            // SAFETY: the caller's promise for each range.
            unsafe { self.unused(range, protection, how, policy) }
                .map_err(|error| BatchError { done, error })?;
        }
        Ok(())
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
