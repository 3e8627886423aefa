//! Memory that can be mapped more than once, and mappings that can never be changed again.

use core::ffi::CStr;

use super::Calls;
use crate::Errno;

/// Memory with a descriptor: memfd_create(2) of Linux, shm_open(2) with `SHM_ANON` of FreeBSD.
///
/// # Safety
///
/// As for [`Calls`].
pub unsafe trait SharedMemory: Calls {
    /// Makes an object of `len` zeroed bytes that has no name in any file system and is closed on
    /// exec; `name` is for those who look at the process.
    fn create_memory(&self, name: &CStr, len: usize) -> Result<i32, Errno>;

    /// Closes the descriptor. The memory lives as long as it is mapped.
    fn close_memory(&self, memory: i32);

    /// Gives the memory of a part of the object back, which is zero from then on: fallocate(2)
    /// with `FALLOC_FL_PUNCH_HOLE`.
    fn discard_memory(&self, memory: i32, offset: u64, len: usize) -> Result<(), Errno>;

    /// Maps a part of the object: mmap(2) with `MAP_SHARED` in `flags`.
    ///
    /// # Safety
    ///
    /// With a flag that replaces mappings, the caller owns the whole range.
    unsafe fn mmap_memory(
        &self,
        address: *mut u8,
        len: usize,
        protection: i32,
        flags: i32,
        memory: i32,
        offset: u64,
    ) -> Result<*mut u8, Errno>;
}

/// Sealing: mseal(2) of Linux 6.10, mimmutable(2) of OpenBSD 7.3.
///
/// # Safety
///
/// As for [`Calls`].
pub unsafe trait Seal: Calls {
    /// Makes the mappings of a range unchangeable until the process ends.
    ///
    /// # Safety
    ///
    /// The caller owns the range and will neither unmap it nor change its protection.
    unsafe fn seal(&self, address: *mut u8, len: usize) -> Result<(), Errno>;
}
