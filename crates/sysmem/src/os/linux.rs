//! Linux.
//!
//! What is peculiar to it:
//!
//! - `MADV_DONTNEED` drops private anonymous pages before it returns and leaves zeros; `MADV_FREE`
//!   (4.5) leaves them until memory is wanted, and the resident set does not fall until then
//!   (madvise(2)). Neither takes locked memory; `MADV_DONTNEED_LOCKED` (5.18) does.
//! - A reservation is `PROT_NONE | MAP_NORESERVE`; committing is `mprotect`, which costs a quarter
//!   of a fixed mapping and cannot leave a hole when it fails. Where the system does not overcommit
//!   (`vm.overcommit_memory` = 2), a page that was ever writable stays charged through
//!   `PROT_NONE`: there `fault` maps the range anew.
//! - `process_madvise` on the calling process (6.13; one TLB flush for all ranges since 6.16)
//!   batches advice. It is asked for through `PIDFD_SELF`, which needs no descriptor that a fork
//!   would turn into the parent's.
//! - `MAP_FIXED_NOREPLACE` is only a hint before 4.17: the address is compared.

use core::ffi::CStr;
use core::num::NonZeroU64;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;

use crate::calls::{Calls, Feature, Files, Kernel, Mincore, NameMapping, ProcessMadvise};
use crate::os::{
    BatchError, Contents, GiveBack, Os, PageRange, PageResidency, Placement, ReserveOptions,
    ResidentFalls, UnusedContract,
};
use crate::usage::linux as proc;
use crate::{Errno, Error, ErrorKind, Limit, Operation, Protection, Registry};

// Linux's numbers, the same on x86_64 and aarch64; `native` holds them against the libc crate.
pub(crate) const PROT_NONE: i32 = 0;
pub(crate) const PROT_READ: i32 = 1;
pub(crate) const PROT_WRITE: i32 = 2;
pub(crate) const PROT_EXEC: i32 = 4;
pub(crate) const MAP_PRIVATE: i32 = 0x02;
pub(crate) const MAP_FIXED: i32 = 0x10;
pub(crate) const MAP_ANONYMOUS: i32 = 0x20;
pub(crate) const MAP_NORESERVE: i32 = 0x4000;
pub(crate) const MAP_FIXED_NOREPLACE: i32 = 0x10_0000;
pub(crate) const MADV_DONTNEED: i32 = 4;
pub(crate) const MADV_FREE: i32 = 8;
pub(crate) const MADV_HUGEPAGE: i32 = 14;
pub(crate) const MADV_NOHUGEPAGE: i32 = 15;
pub(crate) const MADV_DONTNEED_LOCKED: i32 = 24;
pub(crate) const MADV_COLLAPSE: i32 = 25;
pub(crate) const RLIMIT_DATA: i32 = 2;
pub(crate) const RLIMIT_AS: i32 = 9;
pub(crate) const EPERM: Errno = Errno(1);
pub(crate) const EBADF: Errno = Errno(9);
pub(crate) const EAGAIN: Errno = Errno(11);
pub(crate) const ENOMEM: Errno = Errno(12);
pub(crate) const EBUSY: Errno = Errno(16);
pub(crate) const EEXIST: Errno = Errno(17);
pub(crate) const EINVAL: Errno = Errno(22);
pub(crate) const ENOSYS: Errno = Errno(38);

const RESERVED: i32 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

/// The ranges that one `process_madvise` takes (`UIO_MAXIOV`, uio(7)).
const BATCH: usize = 1024;

/// Linux over a table of calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux<K> {
    kernel: K,
}

/// The calls that the Linux backend is written against.
pub trait LinuxCalls: Calls + Files + Mincore + ProcessMadvise + NameMapping {}
impl<K: Calls + Files + Mincore + ProcessMadvise + NameMapping> LinuxCalls for K {}

const fn bits(protection: Protection) -> i32 {
    match protection {
        Protection::NoAccess => PROT_NONE,
        Protection::ReadOnly => PROT_READ,
        Protection::ReadWrite => PROT_READ | PROT_WRITE,
        Protection::ReadExecute => PROT_READ | PROT_EXEC,
    }
}

impl<K> Linux<K> {
    /// Linux as `kernel` answers it.
    pub const fn new(kernel: K) -> Linux<K> {
        Linux { kernel }
    }

    /// The table of calls below.
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }
}

impl<K: LinuxCalls> Linux<K> {
    const SPEAKS_LINUX: () = assert!(matches!(K::KERNEL, Kernel::Linux), "not a Linux kernel");

    /// The error of a call that failed on `range`, with the limit that refused where it can be
    /// told.
    #[cold]
    fn refused(&self, operation: Operation, range: PageRange, errno: Errno) -> Error {
        let kind = match errno {
            ENOMEM => {
                let limit = self.limit_behind(operation, range.len);
                ErrorKind::OutOfMemory { errno: Some(errno), limit }
            }
            EEXIST => ErrorKind::Taken,
            errno => ErrorKind::System(errno),
        };
        range.error(operation, kind)
    }

    /// Which limit an ENOMEM comes from, by looking how close each is. Address space and data are
    /// counted in whole pages, as the kernel counts them (mm/mmap.c, `may_expand_vm`).
    fn limit_behind(&self, operation: Operation, len: usize) -> Option<Limit> {
        let mut page = [0; 512];
        let statm = proc::statm(&self.kernel, &mut page);
        let over = |used: Option<u64>, limit: u64| {
            used.is_some_and(|used| used.saturating_add(len as u64) > limit)
        };
        if matches!(operation, Operation::Alloc | Operation::Reserve) {
            let limit = self.kernel.resource_limit(RLIMIT_AS).unwrap_or(u64::MAX);
            if over(statm.map(|statm| statm.virtual_size), limit) {
                return Some(Limit::AddressSpace(limit));
            }
        }
        let limit = self.kernel.resource_limit(RLIMIT_DATA).unwrap_or(u64::MAX);
        if operation != Operation::Reserve && over(statm.map(|statm| statm.data), limit) {
            return Some(Limit::Data(limit));
        }
        if let Some(most) = proc::number_in(&self.kernel, c"/proc/sys/vm/max_map_count") {
            let mut mappings = 0;
            let counted = proc::mappings(&self.kernel, &mut |_| mappings += 1);
            // A change in the middle of a mapping makes two more.
            if counted.is_some() && mappings + 2 >= most {
                return Some(Limit::Mappings(most));
            }
        }
        if self.strict_commit() {
            return proc::meminfo(&self.kernel, b"CommitLimit").map(Limit::Commit);
        }
        None
    }

    fn strict_commit(&self) -> bool {
        let known = &self.kernel.findings().strict_commit;
        known.known().unwrap_or_else(|| {
            let mode = proc::number_in(&self.kernel, c"/proc/sys/vm/overcommit_memory");
            known.set(mode == Some(2));
            mode == Some(2)
        })
    }

    /// Maps `len` reserved bytes at exactly `address`, if nothing is there.
    fn reserve_at(&self, address: usize, len: usize) -> Result<NonNull<u8>, Errno> {
        let wanted = ptr::with_exposed_provenance_mut(address);
        // SAFETY: nothing is replaced, so nothing of anybody's is touched.
        let got =
            unsafe { self.kernel.mmap(wanted, len, PROT_NONE, RESERVED | MAP_FIXED_NOREPLACE) }?;
        if got.addr() == address {
            return NonNull::new(got).ok_or(EINVAL);
        }
        // Before 4.17 the flag is unknown and the address a hint.
        // SAFETY: the mapping was made two lines above and nobody knows of it.
        let _ = unsafe { self.kernel.munmap(got, len) };
        Err(EEXIST)
    }

    fn reserve_anywhere(&self, hint: usize, len: usize) -> Result<NonNull<u8>, Errno> {
        let hint = ptr::without_provenance_mut(hint);
        // SAFETY: without MAP_FIXED nothing is replaced.
        let start = unsafe { self.kernel.mmap(hint, len, PROT_NONE, RESERVED) }?;
        NonNull::new(start).ok_or(EINVAL)
    }

    /// Reserves `len` bytes aligned to `align`, leaving nothing else reserved.
    fn reserve_aligned(&self, hint: usize, len: usize, align: usize) -> Result<NonNull<u8>, Errno> {
        let start = self.reserve_anywhere(hint, len)?;
        // Large mappings are aligned to huge pages since 6.7, so this is often the end.
        if start.addr().get() & (align - 1) == 0 {
            return Ok(start);
        }
        // SAFETY: just reserved and known to nobody.
        unsafe { self.kernel.munmap(start.as_ptr(), len) }?;
        // Mappings are placed downward, so the aligned address below is most likely free.
        let below = start.addr().get() & !(align - 1);
        if below != 0 {
            if let Ok(start) = self.reserve_at(below, len) {
                return Ok(start);
            }
        }
        let slack = align - self.kernel.page_size();
        let whole = self.reserve_anywhere(hint, len.checked_add(slack).ok_or(ENOMEM)?)?.as_ptr();
        let head = whole.addr().wrapping_neg() & (align - 1);
        let start = whole.wrapping_add(head);
        let tail = slack - head;
        let trim = |from: *mut u8, len: usize| {
            if len == 0 {
                return Ok(());
            }
            // SAFETY: inside `whole`, outside the part that is kept.
            unsafe { self.kernel.munmap(from, len) }
        };
        let trimmed = trim(start.wrapping_add(len), tail).and_then(|()| trim(whole, head));
        if let Err(errno) = trimmed {
            // Trimming splits a mapping that the kernel joined to its neighbours, and that can
            // meet the limit on mappings. Nothing may stay behind.
            for (from, len) in [(whole, head), (start, len), (start.wrapping_add(len), tail)] {
                let _ = trim(from, len);
            }
            return Err(errno);
        }
        NonNull::new(start).ok_or(EINVAL)
    }

    /// Reserves in the free gap closest to `address`, as /proc/self/maps tells it.
    fn reserve_near(
        &self,
        address: usize,
        distance: usize,
        len: usize,
        align: usize,
    ) -> Result<NonNull<u8>, ErrorKind> {
        let lowest = address.saturating_sub(distance).max(1 << 16);
        let end = address.saturating_add(distance).min(1 << 47);
        // Another thread may take the place between the look and the mapping; look again then.
        for _ in 0..8 {
            let mut best: Option<usize> = None;
            let mut consider = |gap_start: usize, gap_end: usize| {
                let from = gap_start.max(lowest).checked_next_multiple_of(align);
                let last = gap_end.min(end).checked_sub(len).map(|last| last & !(align - 1));
                if let (Some(from), Some(last)) = (from, last) {
                    if from <= last {
                        let aligned = address & !(align - 1);
                        let candidate = aligned.clamp(from, last);
                        if best
                            .is_none_or(|best| candidate.abs_diff(address) < best.abs_diff(address))
                        {
                            best = Some(candidate);
                        }
                    }
                }
            };
            let mut gap_start = 0;
            let looked = proc::mappings(&self.kernel, &mut |mapping| {
                consider(gap_start, mapping.start);
                // A stack grows down into the gap below it: the kernel keeps 1 MiB free there
                // (`stack_guard_gap`), and says so only by refusing.
                gap_start = mapping.end;
            });
            looked.ok_or(ErrorKind::NotSupported)?;
            consider(gap_start, usize::MAX);
            let Some(candidate) = best else { return Err(ErrorKind::NoPlace) };
            match self.reserve_at(candidate, len) {
                Ok(start) => return Ok(start),
                Err(EEXIST) => continue,
                Err(errno) => return Err(ErrorKind::System(errno)),
            }
        }
        Err(ErrorKind::NoPlace)
    }

    /// Replaces the range by fresh reserved memory.
    ///
    /// # Safety
    ///
    /// As for `fault`.
    unsafe fn replace(&self, range: PageRange) -> Result<(), Error> {
        let PageRange { start, len } = range;
        // SAFETY: the caller owns the range and gives its contents up.
        let replaced = unsafe { self.kernel.mmap(start, len, PROT_NONE, RESERVED | MAP_FIXED) };
        let Err(errno) = replaced else { return Ok(()) };
        // A fixed mapping that fails may already have removed what was there (mm/mmap.c unmaps
        // before it allocates, up to 6.11). If the place is free, taking it again finishes the
        // work; if it is taken, what was there still is.
        match self.reserve_at(start.addr(), len) {
            Ok(_) => Ok(()),
            Err(EEXIST) => Err(self.refused(Operation::Fault, range, errno)),
            Err(_) => Err(range.error(Operation::Fault, ErrorKind::Lost)),
        }
    }

    /// Advises with the first of `advice` that does not answer EINVAL, which is how the kernel
    /// says that this advice is unknown or not for such memory.
    ///
    /// # Safety
    ///
    /// As for `madvise`, with each.
    unsafe fn advise(&self, range: PageRange, advice: &[i32]) -> Result<(), Errno> {
        let mut answer = Err(EINVAL);
        for &advice in advice {
            // SAFETY: the caller's promise.
            answer = unsafe { self.kernel.madvise(range.start, range.len, advice) };
            if answer != Err(EINVAL) {
                break;
            }
        }
        answer
    }

    /// # Safety
    ///
    /// As for `madvise`.
    unsafe fn hint(
        &self,
        operation: Operation,
        range: PageRange,
        advice: i32,
    ) -> Result<(), Error> {
        range.check(operation, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { self.kernel.madvise(range.start, range.len, advice) }.map_err(
            |errno| match errno {
                // A kernel built without transparent huge pages, or before 6.1 for collapsing.
                EINVAL => range.error(operation, ErrorKind::NotSupported),
                errno => self.refused(operation, range, errno),
            },
        )
    }
}

/// The kinds of advice that give memory back in that way, the best first. Locked memory takes
/// neither of the usual two.
const fn giving_back(how: GiveBack) -> &'static [i32] {
    match how {
        GiveBack::Lazy => &[MADV_FREE, MADV_DONTNEED, MADV_DONTNEED_LOCKED],
        GiveBack::Eager => &[MADV_DONTNEED, MADV_DONTNEED_LOCKED],
    }
}

// SAFETY: each method does with the kernel's calls what the trait promises; madvise(2), mmap(2),
// mprotect(2).
unsafe impl<K: LinuxCalls> Os for Linux<K> {
    #[inline]
    fn page_size(&self) -> usize {
        let () = Self::SPEAKS_LINUX;
        self.kernel.page_size()
    }

    fn huge_page_size(&self) -> Option<usize> {
        let known = &self.kernel.findings().huge_page_size;
        let mut size = known.load(Relaxed);
        if size == 0 {
            let path = c"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
            size = proc::number_in(&self.kernel, path).map_or(1, |size| size as usize);
            known.store(size, Relaxed);
        }
        (size > 1).then_some(size)
    }

    fn unused_contract(&self, how: GiveBack) -> UnusedContract {
        match how {
            GiveBack::Lazy => UnusedContract {
                resident_falls: ResidentFalls::UnderPressure,
                contents: Contents::Unspecified,
                used_is_a_call: false,
            },
            GiveBack::Eager => UnusedContract {
                resident_falls: ResidentFalls::AtOnce,
                contents: Contents::Zero,
                used_is_a_call: false,
            },
        }
    }

    fn registry(&self) -> &Registry {
        &self.kernel.findings().registry
    }

    fn alloc(&self, len: usize) -> Result<NonNull<u8>, Error> {
        let range = PageRange::new(ptr::null_mut(), len);
        range.check(Operation::Alloc, self.kernel.page_size())?;
        let protection = PROT_READ | PROT_WRITE;
        // SAFETY: without MAP_FIXED nothing is replaced.
        unsafe { self.kernel.mmap(ptr::null_mut(), len, protection, MAP_PRIVATE | MAP_ANONYMOUS) }
            .and_then(|start| NonNull::new(start).ok_or(EINVAL))
            .map_err(|errno| self.refused(Operation::Alloc, range, errno))
    }

    fn reserve(&self, options: &ReserveOptions) -> Result<NonNull<u8>, Error> {
        let &ReserveOptions { len, align, placement, executable: _ } = options;
        let page_size = self.kernel.page_size();
        let address = match placement {
            Placement::At(address) | Placement::Near { address, .. } => address,
            _ => 0,
        };
        let range = PageRange::new(ptr::without_provenance_mut(address), len);
        let fail = |kind| range.error(Operation::Reserve, kind);
        PageRange::new(ptr::null_mut(), len).check(Operation::Reserve, page_size)?;
        if !align.is_power_of_two() || align > 1 << 47 {
            return Err(fail(ErrorKind::BadAlignment));
        }
        let align = align.max(page_size);
        let refused = |errno| self.refused(Operation::Reserve, range, errno);
        let anywhere = |hint: usize| match align == page_size {
            true => self.reserve_anywhere(hint, len).map_err(refused),
            false => self.reserve_aligned(hint, len, align).map_err(refused),
        };
        match placement {
            Placement::Any => anywhere(0),
            Placement::Hint(hint) => anywhere(hint & !(align - 1)),
            Placement::At(address) if address & (align - 1) != 0 => {
                Err(fail(ErrorKind::Unaligned { multiple: align }))
            }
            Placement::At(address) => self.reserve_at(address, len).map_err(refused),
            Placement::Near { address, distance } => {
                self.reserve_near(address, distance, len, align).map_err(|kind| match kind {
                    ErrorKind::System(errno) => refused(errno),
                    kind => fail(kind),
                })
            }
            Placement::High => {
                // mmap(2) chooses from the top down, or from a third of the address space up with
                // the legacy layout; either is far above 4 GiB.
                let start = anywhere(0)?;
                if start.addr().get() as u64 >= 1 << 32 {
                    return Ok(start);
                }
                // SAFETY: just reserved and known to nobody.
                let _ = unsafe { self.kernel.munmap(start.as_ptr(), len) };
                Err(fail(ErrorKind::NoPlace))
            }
        }
    }

    #[inline]
    unsafe fn map(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        range.check(Operation::Map, self.kernel.page_size())?;
        // SAFETY: the range is the caller's, and Reserved: nothing relies on its access.
        let mapped = unsafe { self.kernel.mprotect(range.start, range.len, bits(protection)) };
        mapped.map_err(|errno| {
            // Over several mappings mprotect may have changed the first of them; putting those
            // back joins mappings and needs none.
            // SAFETY: as above.
            let _ = unsafe { self.kernel.mprotect(range.start, range.len, PROT_NONE) };
            self.refused(Operation::Map, range, errno)
        })
    }

    #[inline]
    unsafe fn used(&self, range: PageRange, _protection: Protection) -> Result<(), Error> {
        // The kernel finds the pages again at the first touch.
        range.check(Operation::Used, self.kernel.page_size())
    }

    #[inline]
    unsafe fn unused(
        &self,
        range: PageRange,
        _protection: Protection,
        how: GiveBack,
    ) -> Result<(), Error> {
        range.check(Operation::Unused, self.kernel.page_size())?;
        // SAFETY: the range is the caller's and its contents are forfeit.
        unsafe { self.advise(range, giving_back(how)) }
            .map_err(|errno| self.refused(Operation::Unused, range, errno))
    }

    unsafe fn unused_batch(
        &self,
        ranges: &[PageRange],
        protection: Protection,
        how: GiveBack,
    ) -> Result<(), BatchError> {
        let page_size = self.kernel.page_size();
        for range in ranges {
            let stop = |error| BatchError { done: 0, error };
            range.check(Operation::Unused, page_size).map_err(stop)?;
        }
        let batched: &Feature = &self.kernel.findings().batched_advice;
        let mut done = 0;
        while done < ranges.len() {
            let rest = &ranges[done..];
            if rest.len() > 1 && batched.known() != Some(false) {
                let batch = &rest[..rest.len().min(BATCH)];
                // SAFETY: the ranges are the caller's and their contents are forfeit.
                match unsafe { self.kernel.process_madvise(batch, giving_back(how)[0]) } {
                    Ok(mut bytes) => {
                        batched.set(true);
                        let before = done;
                        // A short count ends in the middle of a range that the kernel stumbled
                        // over; it is done again, which is harmless, by itself below.
                        for range in batch {
                            if bytes < range.len {
                                break;
                            }
                            bytes -= range.len;
                            done += 1;
                        }
                        if done > before {
                            continue;
                        }
                    }
                    // Before 6.13, under a sandbox, or without PIDFD_SELF. EINVAL may also come
                    // from locked memory, which the single calls below know how to take; a batch
                    // that has worked before is tried again.
                    Err(ENOSYS | EPERM | EBADF) => batched.set(false),
                    Err(EINVAL) if batched.known().is_none() => batched.set(false),
                    Err(_) => {}
                }
            }
            // SAFETY: the range is the caller's and its contents are forfeit.
            unsafe { self.unused(ranges[done], protection, how) }
                .map_err(|error| BatchError { done, error })?;
            done += 1;
        }
        Ok(())
    }

    unsafe fn fault(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::Fault, self.kernel.page_size())?;
        if self.strict_commit() {
            // SAFETY: the caller's promise.
            return unsafe { self.replace(range) };
        }
        // The protection first: it is what can fail, and nothing is lost by then.
        // SAFETY: the range is the caller's and nothing accesses it.
        unsafe { self.kernel.mprotect(range.start, range.len, PROT_NONE) }
            .map_err(|errno| self.refused(Operation::Fault, range, errno))?;
        // SAFETY: the contents are given up.
        unsafe { self.advise(range, giving_back(GiveBack::Eager)) }
            // Locked memory before 5.18.
            // SAFETY: the caller's promise.
            .or_else(|_| unsafe { self.replace(range) })
    }

    unsafe fn free(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::Free, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { self.kernel.munmap(range.start, range.len) }
            .map_err(|errno| self.refused(Operation::Free, range, errno))
    }

    unsafe fn protect(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        range.check(Operation::Protect, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { self.kernel.mprotect(range.start, range.len, bits(protection)) }
            .map_err(|errno| self.refused(Operation::Protect, range, errno))
    }

    unsafe fn huge_page(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: advice that keeps contents.
        unsafe { self.hint(Operation::HugePage, range, MADV_HUGEPAGE) }
    }

    unsafe fn no_huge_page(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: advice that keeps contents.
        unsafe { self.hint(Operation::NoHugePage, range, MADV_NOHUGEPAGE) }
    }

    unsafe fn collapse(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: advice that keeps contents.
        unsafe { self.hint(Operation::Collapse, range, MADV_COLLAPSE) }
    }

    unsafe fn name(&self, range: PageRange, name: &CStr) -> Result<(), Error> {
        range.check(Operation::Name, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        let named = unsafe { self.kernel.name_mapping(range.start, range.len, name) };
        named.map_err(|errno| match errno {
            // Before 5.17, or built without CONFIG_ANON_VMA_NAME.
            EINVAL | ENOSYS => range.error(Operation::Name, ErrorKind::NotSupported),
            errno => self.refused(Operation::Name, range, errno),
        })
    }

    fn residency(&self, range: PageRange, pages: &mut [PageResidency]) -> Result<(), Error> {
        let page_size = self.kernel.page_size();
        range.check(Operation::Residency, page_size)?;
        if pages.len() != range.len / page_size {
            return Err(range.error(Operation::Residency, ErrorKind::TooLong));
        }
        if pagemap(&self.kernel, range.start.addr() / page_size, pages).is_some() {
            return Ok(());
        }
        // Without /proc. mincore calls a page resident that is only in the swap cache.
        let mut at = range.start;
        for chunk in pages.chunks_mut(256) {
            let mut bytes = [0u8; 256];
            let bytes = &mut bytes[..chunk.len()];
            let len = chunk.len() * page_size;
            self.kernel
                .mincore(at, len, bytes)
                .map_err(|errno| self.refused(Operation::Residency, range, errno))?;
            for (page, byte) in chunk.iter_mut().zip(bytes) {
                *page = PageResidency { resident: *byte & 1 != 0, ..PageResidency::default() };
            }
            at = at.wrapping_add(len);
        }
        Ok(())
    }

    fn monotonic_time(&self) -> Duration {
        self.kernel.monotonic_time()
    }

    fn thread_cpu_time(&self) -> Duration {
        self.kernel.thread_cpu_time()
    }

    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
        self.kernel.park(word, while_equal, timeout);
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        self.kernel.wake(word, count);
    }
}

/// Reads /proc/self/pagemap (proc_pid_pagemap(5)): 8 bytes a page; bit 63 present, bit 62 swapped,
/// bits 0 to 54 the frame, zero for those who may not see it.
fn pagemap(kernel: &impl Files, first_page: usize, pages: &mut [PageResidency]) -> Option<()> {
    let file = kernel.open(c"/proc/self/pagemap").ok()?;
    let mut at = first_page as u64 * 8;
    let mut whole = Some(());
    for chunk in pages.chunks_mut(64) {
        let mut bytes = [0u8; 64 * 8];
        let bytes = &mut bytes[..chunk.len() * 8];
        if kernel.read_at(file, bytes, at) != Ok(bytes.len()) {
            whole = None;
            break;
        }
        at += bytes.len() as u64;
        for (page, entry) in chunk.iter_mut().zip(bytes.chunks_exact(8)) {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            let resident = entry >> 63 != 0;
            *page = PageResidency {
                resident,
                swapped: entry >> 62 & 1 != 0,
                frame: NonZeroU64::new(entry & ((1 << 55) - 1)).filter(|_| resident),
            };
        }
    }
    kernel.close(file);
    whole
}
