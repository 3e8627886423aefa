//! Superpages, which Macs with Intel processors have (XNU, osfmk/vm/vm_map.c, `vm_map_enter`): whole
//! ones, aligned, wired, and not there in a forked child.

use core::ptr::{self, NonNull};

use super::{Darwin, DarwinCalls, KERN_NO_SPACE, KERN_RESOURCE_SHORTAGE, VM_FLAGS_ANYWHERE};
use crate::huge::{HugePageControl, HugePages, Scope};
use crate::os::PageRange;
use crate::os::unix::{PROT_READ, PROT_WRITE};
use crate::{Error, ErrorKind, Operation};

/// <mach/vm_statistics.h> of macOS 15.
pub(crate) const VM_FLAGS_SUPERPAGE_SIZE_2MB: i32 = 2 << 16;

const SIZE: usize = 2 << 20;

impl<K: DarwinCalls> HugePageControl for Darwin<K> {
    fn huge_pages(&self) -> HugePages {
        HugePages::default()
    }

    fn switch_huge_pages(&self, _scope: Scope, _on: bool) -> Result<(), Error> {
        Err(Error::new(Operation::SwitchHugePages, 0, 0, ErrorKind::NotSupported))
    }

    fn alloc_huge(&self, len: usize) -> Result<NonNull<u8>, Error> {
        let range = PageRange::new(ptr::null_mut(), len);
        range.check(Operation::AllocHuge, SIZE)?;
        let flags = VM_FLAGS_ANYWHERE | VM_FLAGS_SUPERPAGE_SIZE_2MB;
        let start = self
            .kernel
            .mach_vm_map(0, len, SIZE - 1, flags, PROT_READ | PROT_WRITE)
            .map_err(|answer| match answer {
                KERN_NO_SPACE | KERN_RESOURCE_SHORTAGE => {
                    ErrorKind::OutOfMemory { errno: None, limit: None }
                }
                // KERN_INVALID_ARGUMENT: Apple's own processors have none.
                _ => ErrorKind::NotSupported,
            })
            .map_err(|kind| range.error(Operation::AllocHuge, kind))?;
        // Mapped without access, as reservations are.
        // SAFETY: just mapped and known to nobody.
        let opened = unsafe { self.kernel.mprotect(start, len, PROT_READ | PROT_WRITE) };
        if let Err(errno) = opened {
            // SAFETY: as above.
            let _ = unsafe { self.kernel.munmap(start, len) };
            return Err(self.refused(Operation::AllocHuge, range, errno));
        }
        NonNull::new(start).ok_or(range.error(Operation::AllocHuge, ErrorKind::NotSupported))
    }
}
