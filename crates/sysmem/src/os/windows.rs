//! Windows.
//!
//! Nothing here was seen but under Wine, where the conformance suite passes; it is read in
//! Microsoft's reference of the calls.
//!
//! - Address space is reserved (`MEM_RESERVE`) in multiples of the allocation granularity, 64 KiB,
//!   and memory committed (`MEM_COMMIT`) inside it, charged against a commit limit at that moment.
//!   No call spans two reservations, and `VirtualFree` releases exactly a whole one.
//! - `used` commits, and `map` is only a change in our books: pages that nobody uses are not
//!   charged. Committing what is committed already keeps its contents.
//! - Giving back at once is `MEM_DECOMMIT`, which cannot run out of anything, returns the commit
//!   charge, and takes pages that are not committed in its stride. What is committed again is
//!   zeros.
//! - Giving back lazily is `MEM_RESET`: the pages stay committed and are not written to the paging
//!   file when memory is wanted. Of the two younger calls, `DiscardVirtualMemory` takes the pages
//!   out of the working set at once, which costs what decommitting costs and keeps the charge, and
//!   `OfferVirtualMemory` makes an access before `ReclaimVirtualMemory` undefined, where ours may
//!   only be unspecified. Ranges with uncommitted pages, which `MEM_RESET` refuses, are decommitted.
//! - Alignment and a lowest address are asked for with `VirtualAlloc2` (Windows 10 1803). Older
//!   systems are asked for more, which is released and reserved again at an aligned address; another
//!   thread may come between, so that is tried a few times.
//! - Large pages need the privilege `SeLockMemoryPrivilege`, must be committed when they are
//!   reserved, and are never paged: no range is ever built out of them later
//!   ([`HugeMemory`](crate::huge::HugeMemory)).
//! - Memory is seen at more than one address by sections of the paging file, whose views are mapped
//!   whole: no view can take the place of a part of a reservation.
//! - There is no fork.

pub(crate) mod large_pages;
mod sections;

use core::ffi::CStr;
use core::ptr::{self, NonNull};

use super::nearest::{ADDRESS_END, NearestPlace};
use super::{
    Contents, GiveBack, Inheritance, Os, PageRange, PageResidency, Placement, Policy,
    ReserveOptions, ResidentFalls, Source, UnusedContract,
};
use crate::calls::{AddressRequirements, Kernel, VirtualMemory, WorkingSetPage, time_and_parking};
use crate::{Errno, Error, ErrorKind, Limit, Operation, Protection, Registry};

// winnt.h and winerror.h.
pub(crate) const MEM_COMMIT: u32 = 0x1000;
pub(crate) const MEM_RESERVE: u32 = 0x2000;
pub(crate) const MEM_DECOMMIT: u32 = 0x4000;
pub(crate) const MEM_RELEASE: u32 = 0x8000;
pub(crate) const MEM_RESET: u32 = 0x8_0000;
pub(crate) const PAGE_NOACCESS: u32 = 0x01;
pub(crate) const PAGE_READONLY: u32 = 0x02;
pub(crate) const PAGE_READWRITE: u32 = 0x04;
pub(crate) const PAGE_EXECUTE_READ: u32 = 0x20;
pub(crate) const ERROR_NOT_ENOUGH_MEMORY: Errno = Errno(8);
pub(crate) const ERROR_OUTOFMEMORY: Errno = Errno(14);
pub(crate) const ERROR_CALL_NOT_IMPLEMENTED: Errno = Errno(120);
pub(crate) const ERROR_INVALID_ADDRESS: Errno = Errno(487);
pub(crate) const ERROR_NO_SYSTEM_RESOURCES: Errno = Errno(1450);
pub(crate) const ERROR_COMMITMENT_LIMIT: Errno = Errno(1455);

pub(crate) const FILE_MAP_WRITE: u32 = 0x02;
pub(crate) const FILE_MAP_READ: u32 = 0x04;
pub(crate) const FILE_MAP_EXECUTE: u32 = 0x20;

/// Bits of `PSAPI_WORKING_SET_EX_BLOCK`.
const VALID: usize = 1;
const LARGE_PAGE: usize = 1 << 23;

const ABOVE_4_GIB: usize = 1 << 32;

/// How often a place that was found free is tried for before another thread has it.
const TRIES: usize = 8;

/// Windows over a table of calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Windows<K> {
    kernel: K,
}

const fn bits(protection: Protection) -> u32 {
    match protection {
        Protection::NoAccess => PAGE_NOACCESS,
        Protection::ReadOnly => PAGE_READONLY,
        Protection::ReadWrite => PAGE_READWRITE,
        Protection::ReadExecute => PAGE_EXECUTE_READ,
    }
}

impl<K> Windows<K> {
    /// Windows as `kernel` answers it.
    pub const fn new(kernel: K) -> Windows<K> {
        Windows { kernel }
    }

    /// The table of calls below.
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }
}

impl<K: VirtualMemory> Windows<K> {
    const SPEAKS_ITS_LANGUAGE: () =
        assert!(matches!(K::KERNEL, Kernel::Windows), "a backend on another system's kernel");

    /// Refuses what is longer than the address space: the system would not call that a want of
    /// memory but `ERROR_INVALID_PARAMETER`.
    fn check_len(&self, operation: Operation, range: PageRange) -> Result<(), Error> {
        PageRange::new(ptr::null_mut(), range.len).check(operation, self.kernel.page_size())?;
        if range.len > ADDRESS_END {
            return Err(range.error(operation, ErrorKind::TooLong));
        }
        Ok(())
    }

    /// The error of a call that failed on `range`.
    #[cold]
    fn refused(&self, operation: Operation, range: PageRange, errno: Errno) -> Error {
        let kind = match errno {
            ERROR_COMMITMENT_LIMIT => ErrorKind::OutOfMemory {
                errno: Some(errno),
                limit: self.kernel.commit_limit().map(Limit::Commit),
            },
            ERROR_NOT_ENOUGH_MEMORY | ERROR_OUTOFMEMORY | ERROR_NO_SYSTEM_RESOURCES => {
                ErrorKind::OutOfMemory { errno: Some(errno), limit: None }
            }
            // "This function is not supported on this system."
            ERROR_CALL_NOT_IMPLEMENTED => ErrorKind::NotSupported,
            errno => ErrorKind::System(errno),
        };
        range.error(operation, kind)
    }

    /// Reserves at exactly this address, or where the system likes if it is zero.
    fn reserve_at(&self, address: usize, len: usize) -> Result<*mut u8, Errno> {
        let address = ptr::with_exposed_provenance_mut(address);
        // SAFETY: what is reserved already is refused.
        unsafe { self.kernel.virtual_alloc(address, len, MEM_RESERVE, PAGE_NOACCESS) }
    }

    fn release(&self, start: *mut u8) -> Result<(), Errno> {
        // SAFETY: called on what was just reserved and nobody knows of.
        unsafe { self.kernel.virtual_free(start, 0, MEM_RELEASE) }
    }

    fn reserve_aligned(&self, len: usize, align: usize) -> Result<*mut u8, Errno> {
        if align <= self.kernel.allocation_granularity() {
            return self.reserve_at(0, len);
        }
        let requirements = AddressRequirements { lowest: 0, align };
        if let Some(answer) = self.kernel.reserve_where(requirements, len) {
            return answer;
        }
        let mut answer = Err(ERROR_NOT_ENOUGH_MEMORY);
        for _ in 0..TRIES {
            let long = len.checked_add(align).ok_or(ERROR_NOT_ENOUGH_MEMORY)?;
            let start = self.reserve_at(0, long)?;
            self.release(start)?;
            answer = self.reserve_at(start.addr().next_multiple_of(align), len);
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    /// Takes the free place closest to `address`, with what takes an address.
    fn take_near(
        &self,
        address: usize,
        distance: usize,
        len: usize,
        align: usize,
        take: &dyn Fn(usize) -> Result<*mut u8, Errno>,
    ) -> Result<*mut u8, ErrorKind> {
        for _ in 0..TRIES {
            let mut nearest = NearestPlace::new(address, distance, len, align);
            let mut at = 0;
            while let Some(region) = self.kernel.virtual_query(at) {
                let Some(end) = region.start.checked_add(region.len).filter(|&end| end > at) else {
                    break;
                };
                if region.free {
                    nearest.consider(region.start, end);
                }
                at = end;
            }
            let place = nearest.place().ok_or(ErrorKind::NoPlace)?;
            match take(place) {
                Ok(start) => return Ok(start),
                // Another thread was faster.
                Err(ERROR_INVALID_ADDRESS) => {}
                Err(errno) => return Err(ErrorKind::System(errno)),
            }
        }
        Err(ErrorKind::NoPlace)
    }

    /// Takes a place above the first 4 GiB.
    fn take_high(
        &self,
        len: usize,
        align: usize,
        take: &dyn Fn(usize) -> Result<*mut u8, Errno>,
    ) -> Result<*mut u8, ErrorKind> {
        let middle = ABOVE_4_GIB + (ADDRESS_END - ABOVE_4_GIB) / 2;
        self.take_near(middle, middle - ABOVE_4_GIB, len, align, take)
    }

    fn place(&self, options: &ReserveOptions, align: usize) -> Result<*mut u8, ErrorKind> {
        let &ReserveOptions { len, placement, .. } = options;
        let anywhere = || self.reserve_aligned(len, align).map_err(ErrorKind::System);
        match placement {
            Placement::Any => anywhere(),
            Placement::Hint(hint) => match hint & !(align - 1) {
                0 => anywhere(),
                hint => self.reserve_at(hint, len).or_else(|_| anywhere()),
            },
            // VirtualAlloc rounds the address down.
            Placement::At(address) if address & (align - 1) != 0 => {
                Err(ErrorKind::Unaligned { multiple: align })
            }
            Placement::At(address) => self.reserve_at(address, len).map_err(|errno| match errno {
                ERROR_INVALID_ADDRESS => ErrorKind::Taken,
                errno => ErrorKind::System(errno),
            }),
            Placement::Near { address, distance } => {
                self.take_near(address, distance, len, align, &|place| self.reserve_at(place, len))
            }
            Placement::High => {
                let lowest = ABOVE_4_GIB;
                let requirements = AddressRequirements { lowest, align };
                match self.kernel.reserve_where(requirements, len) {
                    Some(Ok(start)) if start.addr() < lowest => {
                        // Wine 8 takes no notice of the lowest address.
                        self.release(start).map_err(ErrorKind::System)?;
                    }
                    Some(answer) => return answer.map_err(ErrorKind::System),
                    None => {}
                }
                self.take_high(len, align, &|place| self.reserve_at(place, len))
            }
        }
    }
}

// SAFETY: each method does with the kernel's calls what the trait promises.
unsafe impl<K: VirtualMemory> Os for Windows<K> {
    #[inline]
    fn page_size(&self) -> usize {
        let () = Self::SPEAKS_ITS_LANGUAGE;
        self.kernel.page_size()
    }

    fn huge_page_size(&self) -> Option<usize> {
        None
    }

    fn unused_contract(&self, how: GiveBack) -> UnusedContract {
        match how {
            GiveBack::Lazy => UnusedContract {
                resident_falls: ResidentFalls::UnderPressure,
                contents: Contents::Unspecified,
                used_is_a_call: true,
            },
            GiveBack::Eager => UnusedContract {
                resident_falls: ResidentFalls::AtOnce,
                contents: Contents::Zero,
                used_is_a_call: true,
            },
        }
    }

    fn used_commits(&self) -> bool {
        true
    }

    fn supports(&self, policy: Policy) -> bool {
        policy.source == Source::Anonymous
            && policy.dumped
            && policy.inheritance == Inheritance::Copy
    }

    fn registry(&self) -> &Registry {
        &self.kernel.findings().registry
    }

    fn alloc(&self, len: usize) -> Result<NonNull<u8>, Error> {
        let range = PageRange::new(ptr::null_mut(), len);
        self.check_len(Operation::Alloc, range)?;
        let kind = MEM_RESERVE | MEM_COMMIT;
        // SAFETY: nothing is reserved at an address of the system's choice.
        unsafe { self.kernel.virtual_alloc(ptr::null_mut(), len, kind, PAGE_READWRITE) }
            .and_then(|start| NonNull::new(start).ok_or(ERROR_NOT_ENOUGH_MEMORY))
            .map_err(|errno| self.refused(Operation::Alloc, range, errno))
    }

    fn reserve(&self, options: &ReserveOptions) -> Result<NonNull<u8>, Error> {
        let &ReserveOptions { len, align, placement, policy } = options;
        let address = match placement {
            Placement::At(address) | Placement::Near { address, .. } => address,
            _ => 0,
        };
        let range = PageRange::new(ptr::without_provenance_mut(address), len);
        self.check_len(Operation::Reserve, range)?;
        if !align.is_power_of_two() || align > ADDRESS_END {
            return Err(range.error(Operation::Reserve, ErrorKind::BadAlignment));
        }
        if !self.supports(policy) {
            return Err(range.error(Operation::Reserve, ErrorKind::NotSupported));
        }
        self.place(options, align.max(self.kernel.allocation_granularity()))
            .and_then(|start| NonNull::new(start).ok_or(ErrorKind::System(ERROR_NOT_ENOUGH_MEMORY)))
            .map_err(|kind| match kind {
                ErrorKind::System(errno) => self.refused(Operation::Reserve, range, errno),
                kind => range.error(Operation::Reserve, kind),
            })
    }

    unsafe fn map(
        &self,
        range: PageRange,
        _protection: Protection,
        _policy: Policy,
    ) -> Result<(), Error> {
        range.check(Operation::Map, self.kernel.page_size())
    }

    unsafe fn used(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        range.check(Operation::Used, self.kernel.page_size())?;
        let PageRange { start, len } = range;
        // SAFETY: the caller's promise.
        unsafe { self.kernel.virtual_alloc(start, len, MEM_COMMIT, bits(protection)) }
            .map(drop)
            .map_err(|errno| self.refused(Operation::Used, range, errno))
    }

    unsafe fn unused(
        &self,
        range: PageRange,
        _protection: Protection,
        how: GiveBack,
        _policy: Policy,
    ) -> Result<(), Error> {
        range.check(Operation::Unused, self.kernel.page_size())?;
        let PageRange { start, len } = range;
        if how == GiveBack::Lazy {
            // The protection must be a valid one, and is ignored.
            // SAFETY: the range is the caller's and its contents are forfeit.
            let reset = unsafe { self.kernel.virtual_alloc(start, len, MEM_RESET, PAGE_NOACCESS) };
            if reset.is_ok() {
                return Ok(());
            }
        }
        // SAFETY: as above.
        unsafe { self.kernel.virtual_free(start, len, MEM_DECOMMIT) }
            .map_err(|errno| self.refused(Operation::Unused, range, errno))
    }

    unsafe fn fault(&self, range: PageRange, policy: Policy) -> Result<(), Error> {
        range.check(Operation::Fault, self.kernel.page_size())?;
        let PageRange { start, len } = range;
        let faulted = match policy.source {
            // Pages of a section are not decommitted; the view goes on without access.
            // SAFETY: the caller owns the range, and nothing accesses it.
            Source::Object => unsafe { self.kernel.virtual_protect(start, len, PAGE_NOACCESS) },
            // SAFETY: the caller owns the range and gives its contents up.
            _ => unsafe { self.kernel.virtual_free(start, len, MEM_DECOMMIT) },
        };
        faulted.map_err(|errno| self.refused(Operation::Fault, range, errno))
    }

    unsafe fn free(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::Free, self.kernel.page_size())?;
        // The length must be zero: the system knows what it reserved here.
        // SAFETY: the caller's promise.
        unsafe { self.kernel.virtual_free(range.start, 0, MEM_RELEASE) }
            // What is no reservation of VirtualAlloc's may be a view of a section.
            // SAFETY: as above.
            .or_else(|errno| unsafe { self.kernel.unmap_view(range.start) }.map_err(|_| errno))
            .map_err(|errno| self.refused(Operation::Free, range, errno))
    }

    unsafe fn protect(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        range.check(Operation::Protect, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { self.kernel.virtual_protect(range.start, range.len, bits(protection)) }
            .map_err(|errno| self.refused(Operation::Protect, range, errno))
    }

    unsafe fn huge_page(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::HugePage, self.kernel.page_size())?;
        Err(range.error(Operation::HugePage, ErrorKind::NotSupported))
    }

    unsafe fn no_huge_page(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::NoHugePage, self.kernel.page_size())?;
        Err(range.error(Operation::NoHugePage, ErrorKind::NotSupported))
    }

    unsafe fn collapse(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::Collapse, self.kernel.page_size())?;
        Err(range.error(Operation::Collapse, ErrorKind::NotSupported))
    }

    unsafe fn name(&self, range: PageRange, _name: &CStr) -> Result<(), Error> {
        range.check(Operation::Name, self.kernel.page_size())?;
        Err(range.error(Operation::Name, ErrorKind::NotSupported))
    }

    unsafe fn set_inheritance(
        &self,
        range: PageRange,
        _inheritance: Inheritance,
    ) -> Result<(), Error> {
        range.check(Operation::SetInheritance, self.kernel.page_size())?;
        Err(range.error(Operation::SetInheritance, ErrorKind::NotSupported))
    }

    unsafe fn set_dumped(&self, range: PageRange, _dumped: bool) -> Result<(), Error> {
        range.check(Operation::SetDumped, self.kernel.page_size())?;
        Err(range.error(Operation::SetDumped, ErrorKind::NotSupported))
    }

    fn residency(&self, range: PageRange, pages: &mut [PageResidency]) -> Result<(), Error> {
        let page_size = self.kernel.page_size();
        range.check(Operation::Residency, page_size)?;
        if pages.len() != range.len / page_size {
            return Err(range.error(Operation::Residency, ErrorKind::TooLong));
        }
        let mut address = range.start.addr();
        for chunk in pages.chunks_mut(64) {
            let mut told = [WorkingSetPage { address: 0, attributes: 0 }; 64];
            let told = &mut told[..chunk.len()];
            for page in &mut *told {
                page.address = address;
                address += page_size;
            }
            self.kernel
                .working_set(told)
                .map_err(|errno| self.refused(Operation::Residency, range, errno))?;
            for (page, told) in chunk.iter_mut().zip(told) {
                let resident = told.attributes & VALID != 0;
                *page = PageResidency {
                    resident,
                    huge: resident && told.attributes & LARGE_PAGE != 0,
                    ..PageResidency::default()
                };
            }
        }
        Ok(())
    }

    time_and_parking!(self => self.kernel);
}
