//! Memory objects that have a descriptor, which mmap(2) maps: those of Linux and FreeBSD.

use core::ptr::{self, NonNull};

use super::{MAP_FIXED, MAP_SHARED, NotPlaced, Unix, UnixRules, bits};
use crate::calls::{SharedMemory, UnixCalls};
use crate::os::capabilities::{MemoryObject, MemoryObjects, check_part};
use crate::os::{Os, PageRange, Policy, ReserveOptions};
use crate::{Errno, Error, ErrorKind, Operation, Protection};

/// The rules of a system whose memory objects have a descriptor.
pub(crate) trait ObjectsByDescriptor {
    /// What the system answers where it has none.
    const WITHOUT: &'static [Errno];

    /// Protection bits that a view needs which may come to allow only what it is mapped with.
    fn maximum(protection: Protection) -> i32 {
        let _ = protection;
        0
    }
}

// SAFETY: shared mappings of one object show the same bytes (mmap(2)).
unsafe impl<K: UnixCalls + SharedMemory, R: UnixRules<K> + ObjectsByDescriptor> MemoryObjects
    for Unix<K, R>
{
    fn create_object(&self, len: usize) -> Result<MemoryObject, Error> {
        let range = PageRange::new(ptr::null_mut(), len);
        range.check(Operation::CreateObject, self.kernel.page_size())?;
        match self.kernel.create_memory(c"sysmem", len) {
            Ok(memory) => Ok(MemoryObject { handle: memory as usize, len }),
            Err(errno) if R::WITHOUT.contains(&errno) => {
                Err(range.error(Operation::CreateObject, ErrorKind::NotSupported))
            }
            Err(errno) => Err(range.error(Operation::CreateObject, ErrorKind::System(errno))),
        }
    }

    fn close_object(&self, object: MemoryObject) {
        self.kernel.close_memory(object.handle as i32);
    }

    unsafe fn discard_object(
        &self,
        object: &MemoryObject,
        offset: usize,
        len: usize,
    ) -> Result<(), Error> {
        let operation = Operation::DiscardObject;
        check_part(operation, object, offset, len, self.kernel.page_size())?;
        let discarded = self.kernel.discard_memory(object.handle as i32, offset as u64, len);
        discarded.map_err(|errno| {
            let kind = match R::WITHOUT.contains(&errno) {
                true => ErrorKind::NotSupported,
                false => ErrorKind::System(errno),
            };
            Error::new(operation, offset, len, kind)
        })
    }

    /// Plain address space: each part is mapped when it is shown.
    fn reserve_view(
        &self,
        options: &ReserveOptions,
        object: &MemoryObject,
    ) -> Result<NonNull<u8>, Error> {
        check_part(Operation::Reserve, object, 0, options.len, self.kernel.page_size())?;
        self.reserve(options)
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
        // SAFETY: the range is the caller's, and Reserved.
        let mapped = unsafe {
            self.kernel.mmap_memory(
                range.start,
                range.len,
                bits(protection) | R::maximum(protection),
                MAP_SHARED | MAP_FIXED,
                object.handle as i32,
                offset as u64,
            )
        };
        let Err(errno) = mapped else { return Ok(()) };
        // As in `replace`: the mapping that failed may have removed what was there.
        let policy = Policy { executable: true, ..Policy::DEFAULT };
        match R::reserve_at(self, range.start.addr(), range.len, policy) {
            Ok(_) | Err(NotPlaced::Taken) => Err(self.refused(Operation::MapObject, range, errno)),
            Err(NotPlaced::Unclear(_)) if R::still_mapped(&self.kernel, range) => {
                Err(self.refused(Operation::MapObject, range, errno))
            }
            Err(_) => Err(range.error(Operation::MapObject, ErrorKind::Lost)),
        }
    }
}
