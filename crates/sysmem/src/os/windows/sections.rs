//! Memory objects: sections of the paging file.
//!
//! A section is reserved (`SEC_RESERVE`) and its pages are committed when a view first shows them,
//! which commits them for every view: a page that no view was told to show is accessible in those
//! whose `VirtualProtect` never touched it. A view that may be executed cannot be written to, and
//! the other way round (`MapViewOfFileEx`: its access is the most that `VirtualProtect` gives).

use core::ptr::{self, NonNull};

use super::{
    ABOVE_4_GIB, ERROR_INVALID_ADDRESS, FILE_MAP_EXECUTE, FILE_MAP_READ, FILE_MAP_WRITE,
    MEM_COMMIT, MEM_RESET, PAGE_NOACCESS, Windows, bits,
};
use crate::calls::Sections;
use crate::os::capabilities::{CodeMemory, MemoryObject, MemoryObjects, check_part};
use crate::os::{Os, PageRange, Placement, ReserveOptions};
use crate::{Errno, Error, ErrorKind, Operation, Protection};

impl<K: Sections> Windows<K> {
    fn place_view(
        &self,
        options: &ReserveOptions,
        section: usize,
        align: usize,
    ) -> Result<*mut u8, ErrorKind> {
        let &ReserveOptions { len, placement, policy, .. } = options;
        let access =
            FILE_MAP_READ | if policy.executable { FILE_MAP_EXECUTE } else { FILE_MAP_WRITE };
        let at = |address: usize| -> Result<*mut u8, Errno> {
            let address = ptr::with_exposed_provenance_mut(address);
            self.kernel.map_section(section, 0, len, address, access)
        };
        let anywhere = || match align > self.kernel.allocation_granularity() {
            true => self.take_high(len, align, &at),
            false => at(0).map_err(ErrorKind::System),
        };
        match placement {
            Placement::Any => anywhere(),
            Placement::Hint(hint) => match hint & !(align - 1) {
                0 => anywhere(),
                hint => at(hint).or_else(|_| anywhere()),
            },
            Placement::At(address) if address & (align - 1) != 0 => {
                Err(ErrorKind::Unaligned { multiple: align })
            }
            Placement::At(address) => at(address).map_err(|errno| match errno {
                ERROR_INVALID_ADDRESS => ErrorKind::Taken,
                errno => ErrorKind::System(errno),
            }),
            Placement::Near { address, distance } => {
                self.take_near(address, distance, len, align, &at)
            }
            Placement::High => match anywhere()? {
                start if start.addr() >= ABOVE_4_GIB => Ok(start),
                start => {
                    // SAFETY: just mapped and known to nobody. A refusal cannot be helped.
                    let _ = unsafe { self.kernel.unmap_view(start) };
                    self.take_high(len, align, &at)
                }
            },
        }
    }
}

// SAFETY: all views of one section show the same bytes.
unsafe impl<K: Sections> MemoryObjects for Windows<K> {
    fn create_object(&self, len: usize) -> Result<MemoryObject, Error> {
        let range = PageRange::new(ptr::null_mut(), len);
        self.check_len(Operation::CreateObject, range)?;
        self.kernel
            .create_section(len)
            .map(|handle| MemoryObject { handle, len })
            .map_err(|errno| self.refused(Operation::CreateObject, range, errno))
    }

    fn close_object(&self, object: MemoryObject) {
        self.kernel.close_section(object.handle);
    }

    unsafe fn discard_object(
        &self,
        object: &MemoryObject,
        offset: usize,
        len: usize,
    ) -> Result<(), Error> {
        let operation = Operation::DiscardObject;
        check_part(operation, object, offset, len, self.kernel.page_size())?;
        // No view shows the pages: a new one does, which begins at a multiple of the granularity.
        let into = offset % self.kernel.allocation_granularity();
        let access = FILE_MAP_READ | FILE_MAP_WRITE;
        let (from, len_mapped) = (offset - into, len + into);
        let view =
            self.kernel.map_section(object.handle, from, len_mapped, ptr::null_mut(), access);
        view.and_then(|view| {
            let start = view.wrapping_add(into);
            // The protection must be a valid one, and is ignored.
            // SAFETY: the caller gives these bytes up; the view is ours alone.
            let reset = unsafe { self.kernel.virtual_alloc(start, len, MEM_RESET, PAGE_NOACCESS) };
            // SAFETY: as above.
            unsafe { self.kernel.unmap_view(view) }.and(reset).map(drop)
        })
        .map_err(|errno| Error::new(operation, offset, len, ErrorKind::System(errno)))
    }

    fn reserve_view(
        &self,
        options: &ReserveOptions,
        object: &MemoryObject,
    ) -> Result<NonNull<u8>, Error> {
        check_part(Operation::Reserve, object, 0, options.len, self.kernel.page_size())?;
        let range = PageRange::new(ptr::null_mut(), options.len);
        if !self.supports(options.policy) {
            return Err(range.error(Operation::Reserve, ErrorKind::NotSupported));
        }
        let align = options.align.max(self.kernel.allocation_granularity());
        self.place_view(options, object.handle, align)
            .and_then(|start| NonNull::new(start).ok_or(ErrorKind::NoPlace))
            .map_err(|kind| match kind {
                ErrorKind::System(errno) => self.refused(Operation::Reserve, range, errno),
                kind => range.error(Operation::Reserve, kind),
            })
    }

    unsafe fn map_object(
        &self,
        range: PageRange,
        protection: Protection,
        object: &MemoryObject,
        offset: usize,
    ) -> Result<(), Error> {
        let page_size = self.kernel.page_size();
        range.check(Operation::MapObject, page_size)?;
        check_part(Operation::MapObject, object, offset, range.len, page_size)?;
        let PageRange { start, len } = range;
        // What is committed already keeps its protection, so that is set besides.
        // SAFETY: the range is the caller's, and only gains access.
        unsafe { self.kernel.virtual_alloc(start, len, MEM_COMMIT, bits(protection)) }
            // SAFETY: as above.
            .and_then(|_| unsafe { self.kernel.virtual_protect(start, len, bits(protection)) })
            .map_err(|errno| self.refused(Operation::MapObject, range, errno))
    }
}

impl<K: Sections> CodeMemory for Windows<K> {}
