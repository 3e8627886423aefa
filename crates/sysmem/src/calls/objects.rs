//! Memory that can be mapped more than once, memory that threads switch for themselves, and mappings
//! that can never be changed again.

use core::ffi::CStr;

use super::{Calls, UnixCalls, VirtualMemory};
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
    /// with `FALLOC_FL_PUNCH_HOLE`, fspacectl(2) with `SPACECTL_DEALLOC` (FreeBSD 14).
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

/// Mappings that are moved, or mapped once more: mremap(2) of NetBSD, which is not Linux's.
///
/// # Safety
///
/// As for [`UnixCalls`].
pub unsafe trait Remap: UnixCalls {
    /// Maps the memory of `len` bytes at `from` at `to` too, with the same protection:
    /// `MAP_REMAPDUP` (8.0) and `MAP_FIXED`, which replaces nothing here.
    ///
    /// # Safety
    ///
    /// The caller owns what is mapped at `from`.
    unsafe fn map_again(&self, from: *mut u8, to: *mut u8, len: usize) -> Result<*mut u8, Errno>;
}

/// Sections of Windows that are backed by the paging file. Failures are error codes.
///
/// # Safety
///
/// As for [`VirtualMemory`].
pub unsafe trait Sections: VirtualMemory {
    /// Makes a section of `len` bytes, none of them committed, whose views may be read, written
    /// and executed: `CreateFileMappingW` with `SEC_RESERVE`. Returns its handle.
    fn create_section(&self, len: usize) -> Result<usize, Errno>;

    /// Closes the handle. The memory lives as long as it is mapped.
    fn close_section(&self, section: usize);

    /// Maps `len` bytes of the section from `offset` on, with at most the `access` of
    /// `MapViewOfFileEx`, at this address or, if it is null, where the system likes.
    fn map_section(
        &self,
        section: usize,
        offset: usize,
        len: usize,
        address: *mut u8,
        access: u32,
    ) -> Result<*mut u8, Errno>;
}

/// Memory that each thread switches for itself: `MAP_JIT` of macOS.
pub trait SwitchPerThread: UnixCalls {
    /// Whether the processor has it: `pthread_jit_write_protect_supported_np`.
    fn switches_per_thread(&self) -> bool;

    /// Lets the calling thread write to all such memory, or execute it:
    /// `pthread_jit_write_protect_np`.
    fn let_thread_write(&self, writable: bool);
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
