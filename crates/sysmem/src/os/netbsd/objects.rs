//! Memory objects by mremap(2) with `MAP_REMAPDUP`, which maps memory once more.
//!
//! An object is a shared anonymous mapping that allows nothing, and each view is that mapping again.
//! Shared, because views of private memory were seen not to agree at all times (NetBSD 9 and 10
//! beta: asmjit's issue 399), and would not in a forked child. What a view
//! shows is a matter of its protection: PaX MPROTECT lets it have any that the first mapping asked
//! for with `PROT_MPROTECT` (mmap(2), mremap(2) of NetBSD 10.1; sys/uvm/uvm_mremap.c).

use core::ptr::{self, NonNull};

use super::{NetBsd, NetBsdCalls, prot_mprotect};
use crate::calls::Remap;
use crate::os::bsd::MAP_ANON;
use crate::os::capabilities::{CodeMemory, MemoryObject, MemoryObjects, check_part};
use crate::os::netbsd::MADV_FREE;
use crate::os::unix::{
    EINVAL, ENOMEM, MAP_SHARED, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE, bits,
};
use crate::os::{Os, PageRange, ReserveOptions};
use crate::{Error, ErrorKind, Operation, Protection};

/// How often a place that was free is tried for before another thread has it.
const TRIES: usize = 8;

/// The byte at `offset` of the first mapping.
fn first_mapping(object: &MemoryObject, offset: usize) -> *mut u8 {
    ptr::with_exposed_provenance_mut(object.handle + offset)
}

// SAFETY: every view is the same memory (mremap(2)).
unsafe impl<K: NetBsdCalls + Remap> MemoryObjects for NetBsd<K> {
    fn create_object(&self, len: usize) -> Result<MemoryObject, Error> {
        let range = PageRange::new(ptr::null_mut(), len);
        range.check(Operation::CreateObject, self.kernel.page_size())?;
        let protection = PROT_NONE | prot_mprotect(PROT_READ | PROT_WRITE | PROT_EXEC);
        // SAFETY: nothing is replaced.
        unsafe { self.kernel.mmap(ptr::null_mut(), len, protection, MAP_SHARED | MAP_ANON) }
            .map(|start| MemoryObject { handle: start.expose_provenance(), len })
            .map_err(|errno| self.refused(Operation::CreateObject, range, errno))
    }

    fn close_object(&self, object: MemoryObject) {
        // SAFETY: the first mapping is the object's. A refusal cannot be helped.
        let _ = unsafe { self.kernel.munmap(first_mapping(&object, 0), object.len) };
    }

    unsafe fn discard_object(
        &self,
        object: &MemoryObject,
        offset: usize,
        len: usize,
    ) -> Result<(), Error> {
        let operation = Operation::DiscardObject;
        check_part(operation, object, offset, len, self.kernel.page_size())?;
        // At once, also of shared memory and where nothing is allowed (seen on 7.0).
        // SAFETY: the caller's promise.
        unsafe { self.kernel.madvise(first_mapping(object, offset), len, MADV_FREE) }
            .map_err(|errno| Error::new(operation, offset, len, ErrorKind::System(errno)))
    }

    fn reserve_view(
        &self,
        options: &ReserveOptions,
        object: &MemoryObject,
    ) -> Result<NonNull<u8>, Error> {
        check_part(Operation::Reserve, object, 0, options.len, self.kernel.page_size())?;
        let mut taken = PageRange::new(ptr::null_mut(), options.len);
        for _ in 0..TRIES {
            // A place is found as for any reservation. MAP_FIXED replaces nothing here: what
            // holds the place is removed first, and another thread may be faster.
            let place = self.reserve(options)?;
            taken = PageRange::new(place.as_ptr(), options.len);
            // SAFETY: just reserved and known to nobody.
            unsafe { self.free(taken) }?;
            let from = first_mapping(object, 0);
            // SAFETY: the first mapping is the object's.
            match unsafe { self.kernel.map_again(from, taken.start, taken.len) } {
                Ok(start) if start == taken.start => return Ok(place),
                Ok(start) => {
                    // SAFETY: just mapped and known to nobody.
                    unsafe { self.free(PageRange::new(start, taken.len)) }?;
                }
                // The flag came with 8.0 (seen to be refused by 7.0).
                Err(EINVAL) => {
                    return Err(taken.error(Operation::Reserve, ErrorKind::NotSupported));
                }
                Err(ENOMEM) => {}
                Err(errno) => return Err(self.refused(Operation::Reserve, taken, errno)),
            }
        }
        Err(taken.error(Operation::Reserve, ErrorKind::Taken))
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
        // SAFETY: the range is the caller's, and only gains access.
        unsafe { self.kernel.mprotect(range.start, range.len, bits(protection)) }
            .map_err(|errno| self.refused(Operation::MapObject, range, errno))
    }
}

impl<K: NetBsdCalls + Remap> CodeMemory for NetBsd<K> {}
