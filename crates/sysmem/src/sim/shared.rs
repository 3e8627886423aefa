//! What the simulated kernel does not have: memory that is mapped twice, and seals.

use std::ffi::CStr;

use super::Simulated;
use crate::Errno;
use crate::calls::{Seal, SharedMemory};
use crate::os::linux::ENOSYS;
use crate::os::unix::EBADF;

// SAFETY: it answers as a kernel built without CONFIG_MEMFD_CREATE does, so no descriptor exists.
unsafe impl SharedMemory for Simulated {
    fn create_memory(&self, _name: &CStr, _len: usize) -> Result<i32, Errno> {
        Err(ENOSYS)
    }

    fn close_memory(&self, _memory: i32) {}

    fn discard_memory(&self, _memory: i32, _offset: u64, _len: usize) -> Result<(), Errno> {
        Err(EBADF)
    }

    unsafe fn mmap_memory(
        &self,
        _address: *mut u8,
        _len: usize,
        _protection: i32,
        _flags: i32,
        _memory: i32,
        _offset: u64,
    ) -> Result<*mut u8, Errno> {
        Err(EBADF)
    }
}

// SAFETY: it answers as a kernel before 6.10 does.
unsafe impl Seal for Simulated {
    unsafe fn seal(&self, _address: *mut u8, _len: usize) -> Result<(), Errno> {
        Err(ENOSYS)
    }
}
