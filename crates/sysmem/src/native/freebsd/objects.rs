//! shm_open(2) with `SHM_ANON`, and fspacectl(2).

use core::ffi::{CStr, c_int};
use core::mem;
use core::ptr;

use super::{Kernel, done, last_error};
use crate::Errno;
use crate::calls::SharedMemory;
use crate::os::freebsd::ENOSYS;

type SpaceControl = unsafe extern "C" fn(
    c_int,
    c_int,
    *const libc::spacectl_range,
    c_int,
    *mut libc::spacectl_range,
) -> c_int;

/// fspacectl(2), looked up: a program that is linked against it would not start before 14.0.
fn space_control() -> Option<SpaceControl> {
    // SAFETY: the name ends in zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"fspacectl".as_ptr()) };
    // SAFETY: the address of the function of that name, or null.
    unsafe { mem::transmute(found) }
}

// SAFETY: every call is the kernel's own.
unsafe impl SharedMemory for Kernel {
    /// The object has no name, so that there is none to give it.
    fn create_memory(&self, _name: &CStr, len: usize) -> Result<i32, Errno> {
        let flags = libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: SHM_ANON is taken for what it is, not for a string (shm_open(2)).
        let memory = unsafe { libc::shm_open(libc::SHM_ANON, flags, 0o600) };
        if memory < 0 {
            return Err(last_error());
        }
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
        let space_control = space_control().ok_or(ENOSYS)?;
        let range =
            libc::spacectl_range { r_offset: offset as libc::off_t, r_len: len as libc::off_t };
        // SAFETY: the descriptor is the caller's, and so is what it holds.
        done(unsafe { space_control(memory, libc::SPACECTL_DEALLOC, &range, 0, ptr::null_mut()) })
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
