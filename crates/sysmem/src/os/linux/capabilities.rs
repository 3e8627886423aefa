//! Guards, memory objects and sealing.

use super::{ENOSYS, Linux, LinuxCalls, LinuxRules, give_back};
use crate::calls::{Seal, SharedMemory};
use crate::os::capabilities::{CodeMemory, GuardMechanism, Guards, PageRow, Sealing};
use crate::os::unix::objects::ObjectsByDescriptor;
use crate::os::unix::{EBADF, EINVAL, EPERM, PROT_NONE, bits};
use crate::os::{BatchError, GiveBack, PageRange};
use crate::{Errno, Error, ErrorKind, Operation, Protection};

const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;
/// Nothing, on every kernel so far.
const NO_SUCH_ADVICE: i32 = 0x7ead;

// SAFETY: a marker faults until it is removed (madvise(2)), and so does PROT_NONE.
unsafe impl<K: LinuxCalls> Guards for Linux<K> {
    unsafe fn install_guard(&self, range: PageRange) -> Result<GuardMechanism, Error> {
        range.check(Operation::Guard, self.kernel.page_size())?;
        let known = &self.kernel.findings().guard_markers;
        let markers = known.known().unwrap_or_else(|| {
            // qemu's emulation of a process (as of 7.2) takes all advice that it does not know for
            // a hint, and says yes.
            // SAFETY: advice that no kernel knows; the caller gives the contents up.
            let lies =
                unsafe { self.kernel.madvise(range.start, range.len, NO_SUCH_ADVICE) }.is_ok();
            known.set(!lies);
            !lies
        });
        // EINVAL from a kernel before 6.13, and on memory that takes no markers: locked (before
        // 6.15), huge or special. It fails before it does anything.
        // SAFETY: the caller gives contents and access up.
        let install = || unsafe { self.kernel.madvise(range.start, range.len, MADV_GUARD_INSTALL) };
        if markers && install().is_ok() {
            return Ok(GuardMechanism::Marker);
        }
        // SAFETY: as above.
        unsafe { self.protect_guard(range) }?;
        Ok(GuardMechanism::NoAccess)
    }

    unsafe fn remove_guard(
        &self,
        range: PageRange,
        protection: Protection,
        mechanism: GuardMechanism,
    ) -> Result<(), Error> {
        range.check(Operation::RemoveGuard, self.kernel.page_size())?;
        let removed = match mechanism {
            // SAFETY: the range is the caller's, and only gains access.
            GuardMechanism::Marker => unsafe {
                self.kernel.madvise(range.start, range.len, MADV_GUARD_REMOVE)
            },
            // SAFETY: as above.
            _ => unsafe { self.kernel.mprotect(range.start, range.len, bits(protection)) },
        };
        removed.map_err(|errno| self.refused(Operation::RemoveGuard, range, errno))
    }

    unsafe fn install_guards(
        &self,
        row: PageRow,
        protection: Protection,
    ) -> Result<GuardMechanism, Error> {
        let undo = |done: usize, mechanism: GuardMechanism| {
            let done = PageRow { count: done, ..row };
            // SAFETY: those were just installed.
            unsafe { self.remove_guards(done, protection, mechanism) }
                .map_err(|_| row.first.error(Operation::Guard, ErrorKind::Lost))
        };
        // The first one tells the mechanism.
        // SAFETY: the caller's promise.
        let mechanism = unsafe { self.install_guard(row.first) }?;
        let mut done = 1;
        if mechanism == GuardMechanism::Marker {
            // SAFETY: as above.
            done = unsafe { advise_row(&self.kernel, row, done, MADV_GUARD_INSTALL) };
            if done == row.count {
                return Ok(mechanism);
            }
            // A range takes no markers: then none of them is one.
            undo(done, mechanism)?;
            done = 0;
        }
        for index in done..row.count {
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { self.protect_guard(row.range(index)) } {
                return undo(index, GuardMechanism::NoAccess).and(Err(error));
            }
        }
        Ok(GuardMechanism::NoAccess)
    }

    unsafe fn remove_guards(
        &self,
        row: PageRow,
        protection: Protection,
        mechanism: GuardMechanism,
    ) -> Result<(), BatchError> {
        let done = match mechanism {
            // SAFETY: the ranges are the caller's, and only gain access.
            GuardMechanism::Marker => unsafe {
                advise_row(&self.kernel, row, 0, MADV_GUARD_REMOVE)
            },
            _ => 0,
        };
        for done in done..row.count {
            // SAFETY: the caller's promise.
            unsafe { self.remove_guard(row.range(done), protection, mechanism) }
                .map_err(|error| BatchError { done, error })?;
        }
        Ok(())
    }
}

/// The ranges that go to the kernel in one call; their list lies on the stack.
const AT_ONCE: usize = 128;

/// Advises the kernel of the ranges of a row from number `done` on: of many at once where it takes
/// that of the calling process (6.13, by `PIDFD_SELF` 6.14), or one by one. Returns how many are
/// done; the kernel refuses the one after them.
///
/// # Safety
///
/// As for `UnixCalls::madvise`, for each range.
unsafe fn advise_row(
    kernel: &impl LinuxCalls,
    row: PageRow,
    mut done: usize,
    advice: i32,
) -> usize {
    let batched = &kernel.findings().batched_advice;
    while done < row.count {
        let count = (row.count - done).min(AT_ONCE);
        if count > 1 && batched.known() != Some(false) {
            let mut ranges = [row.first; AT_ONCE];
            for (index, range) in ranges[..count].iter_mut().enumerate() {
                *range = row.range(done + index);
            }
            // SAFETY: the caller's promise.
            match unsafe { kernel.process_madvise(&ranges[..count], advice) } {
                Ok(bytes) => done += bytes / row.first.len,
                Err(ENOSYS | EPERM | EBADF) => batched.set(false),
                Err(_) => {}
            }
            if done == row.count {
                break;
            }
        }
        let range = row.range(done);
        // What stopped the batch, or was to be its first.
        // SAFETY: the caller's promise.
        if unsafe { kernel.madvise(range.start, range.len, advice) }.is_err() {
            break;
        }
        done += 1;
    }
    done
}

impl<K: LinuxCalls> Linux<K> {
    /// Makes a guard by protection.
    ///
    /// # Safety
    ///
    /// As for [`Guards::install_guard`].
    unsafe fn protect_guard(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: the caller gives contents and access up.
        unsafe { self.kernel.mprotect(range.start, range.len, PROT_NONE) }
            .map_err(|errno| self.refused(Operation::Guard, range, errno))?;
        // Only memory that is locked on a kernel before 5.18 refuses; it stays resident then.
        // SAFETY: as above.
        let _ = unsafe { give_back(&self.kernel, range, GiveBack::Eager) };
        Ok(())
    }
}

impl ObjectsByDescriptor for LinuxRules {
    /// Before 3.17, or forbidden by a sandbox.
    const WITHOUT: &'static [Errno] = &[ENOSYS, EPERM];
}

impl<K: LinuxCalls + SharedMemory> CodeMemory for Linux<K> {}

// SAFETY: mseal(2).
unsafe impl<K: LinuxCalls + Seal> Sealing for Linux<K> {
    fn sealing_name(&self) -> &'static str {
        "mseal"
    }

    unsafe fn seal(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::Seal, self.kernel.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { self.kernel.seal(range.start, range.len) }.map_err(|errno| match errno {
            // Before 6.10, or on a 32-bit kernel; EINVAL cannot come from a range of whole pages.
            ENOSYS | EPERM | EINVAL => range.error(Operation::Seal, ErrorKind::NotSupported),
            errno => self.refused(Operation::Seal, range, errno),
        })
    }
}
