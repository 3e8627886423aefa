//! memfd_create(2) and mseal(2).

use core::ffi::CStr;

use super::Kernel;
use crate::Errno;
use crate::calls::{Seal, SharedMemory};
use crate::native::unix::{done, last_error};
use crate::os::unix::EINVAL;

/// Since 6.3 a memory file says whether it may be executed as a program, and the kernel complains
/// of those that do not; mapping it executable is another matter and stays allowed.
const MFD_NOEXEC_SEAL: u32 = 8;
/// The same number on every architecture, as for all calls that are newer than 5.0.
const SYS_MSEAL: core::ffi::c_long = 462;

// SAFETY: every call is the kernel's own.
unsafe impl SharedMemory for Kernel {
    fn create_memory(&self, name: &CStr, len: usize) -> Result<i32, Errno> {
        let create = |flags: u32| {
            // SAFETY: `name` ends in zero.
            let memory = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) };
            if memory < 0 { Err(last_error()) } else { Ok(memory) }
        };
        let memory = match create(MFD_NOEXEC_SEAL) {
            Err(EINVAL) => create(0)?,
            answer => answer?,
        };
        // SAFETY: the descriptor was just made.
        let sized = done(unsafe { libc::ftruncate(memory, len as libc::off_t) });
        if sized.is_err() {
            self.close_memory(memory);
        }
        sized.map(|()| memory)
    }

    fn close_memory(&self, memory: i32) {
        // SAFETY: the descriptor is the caller's.
        unsafe { libc::close(memory) };
    }

    fn discard_memory(&self, memory: i32, offset: u64, len: usize) -> Result<(), Errno> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the descriptor is the caller's, and so is what it holds.
        done(unsafe { libc::fallocate(memory, mode, offset as libc::off_t, len as libc::off_t) })
    }

    unsafe fn mmap_memory(
        &self,
        address: *mut u8,
        len: usize,
        protection: i32,
        flags: i32,
        memory: i32,
        offset: u64,
    ) -> Result<*mut u8, Errno> {
        // SAFETY: the caller's promise.
        let start = unsafe {
            libc::mmap(address.cast(), len, protection, flags, memory, offset as libc::off_t)
        };
        if start == libc::MAP_FAILED { Err(last_error()) } else { Ok(start.cast()) }
    }
}

// SAFETY: the call is the kernel's own.
unsafe impl Seal for Kernel {
    unsafe fn seal(&self, address: *mut u8, len: usize) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        if unsafe { libc::syscall(SYS_MSEAL, address, len, 0) } == 0 {
            Ok(())
        } else {
            Err(last_error())
        }
    }
}
