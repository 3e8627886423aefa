//! What every Unix does in the same way: the operations on top of mmap(2), munmap(2), mprotect(2)
//! and madvise(2). What a system does in a way of its own is its [`UnixRules`].

pub(crate) mod objects;
mod placing;
pub(crate) mod replacing;
mod rules;

use core::ffi::CStr;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

use crate::calls::{Mincore, UnixCalls, time_and_parking};
use crate::os::nearest::ADDRESS_END;
use crate::os::{
    BatchError, GiveBack, Inheritance, Os, PageRange, PageResidency, Placement, Policy,
    ReserveOptions, Source, UnusedContract,
};
use crate::{Errno, Error, ErrorKind, Operation, Protection, Registry};

pub use rules::{Leaves, NotPlaced, UnixRules};

// Numbers that every supported Unix shares; `native` holds them against the libc crate.
pub(crate) const PROT_NONE: i32 = 0;
pub(crate) const PROT_READ: i32 = 1;
pub(crate) const PROT_WRITE: i32 = 2;
pub(crate) const PROT_EXEC: i32 = 4;
pub(crate) const MAP_SHARED: i32 = 0x01;
pub(crate) const MAP_PRIVATE: i32 = 0x02;
pub(crate) const MAP_FIXED: i32 = 0x10;
pub(crate) const RLIMIT_DATA: i32 = 2;
pub(crate) const EPERM: Errno = Errno(1);
pub(crate) const EBADF: Errno = Errno(9);
pub(crate) const ENOMEM: Errno = Errno(12);
pub(crate) const EEXIST: Errno = Errno(17);
pub(crate) const EINVAL: Errno = Errno(22);

/// The bits that mmap(2) and mprotect(2) take.
pub(crate) const fn bits(protection: Protection) -> i32 {
    match protection {
        Protection::NoAccess => PROT_NONE,
        Protection::ReadOnly => PROT_READ,
        Protection::ReadWrite => PROT_READ | PROT_WRITE,
        Protection::ReadExecute => PROT_READ | PROT_EXEC,
    }
}

/// A Unix with the rules `R`, over a table of calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unix<K, R> {
    pub(crate) kernel: K,
    rules: PhantomData<R>,
}

impl<K, R> Unix<K, R> {
    /// The system as `kernel` answers it.
    pub const fn new(kernel: K) -> Unix<K, R> {
        Unix { kernel, rules: PhantomData }
    }

    /// The table of calls below.
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }
}

impl<K: UnixCalls, R: UnixRules<K>> Unix<K, R> {
    const SPEAKS_ITS_LANGUAGE: () =
        assert!(K::KERNEL as u8 == R::KERNEL as u8, "a backend on another system's kernel");

    /// The error of a call that failed on `range`, with the limit that refused where it can be
    /// told.
    #[cold]
    pub(crate) fn refused(&self, operation: Operation, range: PageRange, errno: Errno) -> Error {
        let kind = match R::is_exhaustion(&self.kernel, operation, errno) {
            true => {
                let limit = R::limit_behind(&self.kernel, operation, range.len);
                ErrorKind::OutOfMemory { errno: Some(errno), limit }
            }
            // To DragonFly and Darwin such a length is invalid.
            false if range.len > ADDRESS_END => ErrorKind::TooLong,
            false => ErrorKind::System(errno),
        };
        range.error(operation, kind)
    }

    /// What is left to do for memory that mprotect(2) was refused to make accessible.
    ///
    /// # Safety
    ///
    /// As for [`Os::map`].
    #[cold]
    unsafe fn map_refused(
        &self,
        range: PageRange,
        protection: Protection,
        policy: Policy,
        errno: Errno,
    ) -> Result<(), Error> {
        // Over several mappings mprotect may have changed the first of them; putting those back
        // joins mappings and needs none.
        // SAFETY: the range is the caller's, and Reserved: nothing relies on its access.
        let _ = unsafe { self.kernel.mprotect(range.start, range.len, PROT_NONE) };
        if R::mapping_may_commit(errno) {
            // SAFETY: as above, and nothing relies on its contents.
            return unsafe { self.replace_by(Operation::Map, range, protection, policy) };
        }
        Err(self.refused(Operation::Map, range, errno))
    }

    /// As [`refused`](Unix::refused), for what may be known already.
    #[cold]
    fn failed(&self, operation: Operation, range: PageRange, kind: ErrorKind) -> Error {
        match kind {
            ErrorKind::System(errno) => self.refused(operation, range, errno),
            kind => range.error(operation, kind),
        }
    }
}

/// The flags that a mapping with that protection needs if threads are to have stacks in it.
pub(crate) fn stack_flags<K: UnixCalls, R: UnixRules<K>>(
    protection: Protection,
    policy: Policy,
) -> i32 {
    match protection {
        Protection::ReadWrite if policy.stacks => R::STACK,
        _ => 0,
    }
}

/// Where pages are, told by mincore(2), whose bytes `decode` understands.
pub(crate) fn mincore_residency(
    kernel: &impl Mincore,
    range: PageRange,
    pages: &mut [PageResidency],
    decode: impl Fn(u8) -> PageResidency,
) -> Result<(), ErrorKind> {
    let mut at = range.start;
    for chunk in pages.chunks_mut(256) {
        let mut bytes = [0u8; 256];
        let bytes = &mut bytes[..chunk.len()];
        let len = chunk.len() * kernel.page_size();
        kernel.mincore(at, len, bytes).map_err(ErrorKind::System)?;
        for (page, &byte) in chunk.iter_mut().zip(&*bytes) {
            *page = decode(byte);
        }
        at = at.wrapping_add(len);
    }
    Ok(())
}

// SAFETY: each method does with the kernel's calls what the trait promises, by the rules of its
// kernel; mmap(2), mprotect(2), munmap(2), madvise(2).
unsafe impl<K: UnixCalls, R: UnixRules<K>> Os for Unix<K, R> {
    #[inline]
    fn page_size(&self) -> usize {
        let () = Self::SPEAKS_ITS_LANGUAGE;
        self.kernel.page_size()
    }

    fn huge_page_size(&self) -> Option<usize> {
        let known = &self.kernel.findings().huge_page_size;
        let mut size = known.load(Relaxed);
        if size == 0 {
            size = R::huge_page_size(&self.kernel).unwrap_or(1);
            known.store(size, Relaxed);
        }
        (size > 1).then_some(size)
    }

    fn unused_contract(&self, how: GiveBack) -> UnusedContract {
        R::unused_contract(&self.kernel, how)
    }

    fn supports(&self, policy: Policy) -> bool {
        let source = match policy.source {
            Source::Anonymous => true,
            // Such a reservation is made with its object.
            Source::Object => false,
            Source::PerThread => R::switches_per_thread(&self.kernel),
        };
        source && R::supports(&self.kernel, policy)
    }

    fn registry(&self) -> &Registry {
        &self.kernel.findings().registry
    }

    #[inline]
    fn alloc(&self, len: usize) -> Result<NonNull<u8>, Error> {
        let range = PageRange::new(ptr::null_mut(), len);
        range.check(Operation::Alloc, self.kernel.page_size())?;
        // SAFETY: without MAP_FIXED nothing is replaced.
        unsafe { self.kernel.mmap(ptr::null_mut(), len, PROT_READ | PROT_WRITE, R::ANONYMOUS) }
            .and_then(|start| NonNull::new(start).ok_or(EINVAL))
            .map_err(|errno| self.refused(Operation::Alloc, range, errno))
    }

    // Always: where the options are written down, the compiler sees which way it goes.
    #[inline(always)]
    fn reserve(&self, options: &ReserveOptions) -> Result<NonNull<u8>, Error> {
        let &ReserveOptions { len, align, placement, policy } = options;
        // What most reservations are is not to pay for the rest.
        if placement != Placement::Any || align != 1 || policy != Policy::DEFAULT {
            return self.reserve_specially(options);
        }
        let range = PageRange::new(ptr::null_mut(), len);
        range.check(Operation::Reserve, self.kernel.page_size())?;
        R::reserve_anywhere(self, 0, len, align, policy)
            .and_then(|start| NonNull::new(start).ok_or(EINVAL))
            .map_err(|errno| self.refused(Operation::Reserve, range, errno))
    }

    #[inline]
    unsafe fn map(
        &self,
        range: PageRange,
        protection: Protection,
        policy: Policy,
    ) -> Result<(), Error> {
        range.check(Operation::Map, self.kernel.page_size())?;
        if R::commits_by_mapping(&self.kernel) || stack_flags::<K, R>(protection, policy) != 0 {
            // SAFETY: the range is the caller's, and Reserved: nothing relies on its contents.
            return unsafe { self.replace_by(Operation::Map, range, protection, policy) };
        }
        // SAFETY: the range is the caller's, and Reserved: nothing relies on its access.
        let mapped = unsafe {
            self.kernel.mprotect(range.start, range.len, R::access_bits(protection, policy))
        };
        // SAFETY: as above.
        mapped.or_else(|errno| unsafe { self.map_refused(range, protection, policy, errno) })
    }

    #[inline]
    unsafe fn used(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        range.check(Operation::Used, self.kernel.page_size())?;
        if R::used_protects(&self.kernel) {
            // SAFETY: the range is the caller's and gains access.
            unsafe { self.kernel.mprotect(range.start, range.len, bits(protection)) }
                .map_err(|errno| self.refused(Operation::Used, range, errno))?;
        }
        // SAFETY: the caller's promise.
        unsafe { R::used(self, range) };
        Ok(())
    }

    #[inline]
    unsafe fn unused(
        &self,
        range: PageRange,
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), Error> {
        range.check(Operation::Unused, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { R::unused(self, range, protection, how, policy) }
    }

    unsafe fn unused_batch(
        &self,
        ranges: &[PageRange],
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), BatchError> {
        let page_size = self.kernel.page_size();
        for range in ranges {
            let stop = |error| BatchError { done: 0, error };
            range.check(Operation::Unused, page_size).map_err(stop)?;
        }
        // SAFETY: the caller's promise.
        unsafe { R::unused_batch(self, ranges, protection, how, policy) }
    }

    unsafe fn fault(&self, range: PageRange, policy: Policy) -> Result<(), Error> {
        range.check(Operation::Fault, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { R::fault(self, range, policy) }
    }

    #[inline]
    unsafe fn free(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::Free, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { self.kernel.munmap(range.start, range.len) }
            .map_err(|errno| self.refused(Operation::Free, range, errno))
    }

    #[inline]
    unsafe fn protect(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        range.check(Operation::Protect, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { self.kernel.mprotect(range.start, range.len, bits(protection)) }
            .map_err(|errno| self.refused(Operation::Protect, range, errno))
    }

    unsafe fn huge_page(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::HugePage, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { R::advise_huge(&self.kernel, Operation::HugePage, range) }
            .map_err(|kind| self.failed(Operation::HugePage, range, kind))
    }

    unsafe fn no_huge_page(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::NoHugePage, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { R::advise_huge(&self.kernel, Operation::NoHugePage, range) }
            .map_err(|kind| self.failed(Operation::NoHugePage, range, kind))
    }

    unsafe fn collapse(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::Collapse, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { R::advise_huge(&self.kernel, Operation::Collapse, range) }
            .map_err(|kind| self.failed(Operation::Collapse, range, kind))
    }

    unsafe fn name(&self, range: PageRange, name: &CStr) -> Result<(), Error> {
        range.check(Operation::Name, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { R::name(&self.kernel, range, name) }
            .map_err(|kind| self.failed(Operation::Name, range, kind))
    }

    unsafe fn set_inheritance(
        &self,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), Error> {
        range.check(Operation::SetInheritance, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { R::set_inheritance(&self.kernel, range, inheritance) }
            .map_err(|kind| self.failed(Operation::SetInheritance, range, kind))
    }

    unsafe fn set_dumped(&self, range: PageRange, dumped: bool) -> Result<(), Error> {
        range.check(Operation::SetDumped, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { R::set_dumped(&self.kernel, range, dumped) }
            .map_err(|kind| self.failed(Operation::SetDumped, range, kind))
    }

    fn residency(&self, range: PageRange, pages: &mut [PageResidency]) -> Result<(), Error> {
        let page_size = self.kernel.page_size();
        range.check(Operation::Residency, page_size)?;
        if pages.len() != range.len / page_size {
            return Err(range.error(Operation::Residency, ErrorKind::TooLong));
        }
        R::residency(&self.kernel, range, pages)
            .map_err(|kind| self.failed(Operation::Residency, range, kind))
    }

    time_and_parking!(self => self.kernel);
}
