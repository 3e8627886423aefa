//! Large pages: memory that is committed in them when it is reserved, locked, and freed whole
//! (VirtualAlloc, "Large-Page Support" in Microsoft's reference).

use core::ptr::{self, NonNull};

use super::{ERROR_NOT_ENOUGH_MEMORY, MEM_COMMIT, MEM_RESERVE, PAGE_READWRITE, Windows};
use crate::calls::LargePages;
use crate::huge::{HugePageControl, HugePages, Scope};
use crate::os::PageRange;
use crate::{Errno, Error, ErrorKind, Operation};

// winnt.h and winerror.h.
pub(crate) const MEM_LARGE_PAGES: u32 = 0x2000_0000;
pub(crate) const ERROR_INVALID_PARAMETER: Errno = Errno(87);
pub(crate) const ERROR_NOT_ALL_ASSIGNED: Errno = Errno(1300);
pub(crate) const ERROR_PRIVILEGE_NOT_HELD: Errno = Errno(1314);

/// What it takes, and where it is granted: an administrator has not got it of himself either.
const PRIVILEGE: ErrorKind = ErrorKind::NoPrivilege {
    privilege: "SeLockMemoryPrivilege (secpol.msc: Local Policies, User Rights Assignment, \
                \"Lock pages in memory\"; then log on again)",
};

impl<K: LargePages> HugePageControl for Windows<K> {
    fn huge_pages(&self) -> HugePages {
        let size = self.kernel().large_page_size();
        HugePages {
            size: (size != 0).then_some(size),
            mode: None,
            on_for_process: self.kernel().lock_memory_privilege(),
        }
    }

    fn switch_huge_pages(&self, scope: Scope, on: bool) -> Result<(), Error> {
        let fail = |kind| Error::new(Operation::SwitchHugePages, 0, 0, kind);
        if scope == Scope::System {
            return Err(fail(ErrorKind::NotSupported));
        }
        self.kernel().switch_lock_memory_privilege(on).map_err(|errno| {
            fail(match errno {
                ERROR_NOT_ALL_ASSIGNED | ERROR_PRIVILEGE_NOT_HELD => PRIVILEGE,
                errno => ErrorKind::System(errno),
            })
        })
    }

    fn alloc_huge(&self, len: usize) -> Result<NonNull<u8>, Error> {
        let range = PageRange::new(ptr::null_mut(), len);
        let fail = |kind| range.error(Operation::AllocHuge, kind);
        let HugePages { size, on_for_process, .. } = self.huge_pages();
        range.check(Operation::AllocHuge, size.ok_or(fail(ErrorKind::NotSupported))?)?;
        if on_for_process == Some(false) {
            return Err(fail(PRIVILEGE));
        }
        let kind = MEM_RESERVE | MEM_COMMIT | MEM_LARGE_PAGES;
        // SAFETY: nothing is reserved at an address of the system's choice.
        unsafe { self.kernel().virtual_alloc(ptr::null_mut(), len, kind, PAGE_READWRITE) }
            .and_then(|start| NonNull::new(start).ok_or(ERROR_NOT_ENOUGH_MEMORY))
            .map_err(|errno| match errno {
                ERROR_PRIVILEGE_NOT_HELD => fail(PRIVILEGE),
                // Nothing that was asked for is invalid, where the flag is known (Wine 8: not).
                ERROR_INVALID_PARAMETER => fail(ErrorKind::NotSupported),
                errno => self.refused(Operation::AllocHuge, range, errno),
            })
    }
}
