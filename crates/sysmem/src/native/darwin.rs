//! The running Darwin kernel.

#[path = "darwin/statistics.rs"]
mod statistics;

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

pub use super::unix::Kernel;
use super::unix::{same, same_as};
use crate::calls::{Kernel as Name, MachVm, SwitchPerThread};
use crate::os::bsd::INHERIT_COPY;
use crate::os::unix::PROT_NONE;

/// The operating system that this program runs on. Zero-sized.
pub type Native = crate::os::darwin::Darwin<Kernel>;

pub(super) const NAME: Name = Name::Darwin;
pub(super) const THREAD_CLOCK: libc::clockid_t = libc::CLOCK_THREAD_CPUTIME_ID;

// Not held: MINCORE_PAGED_OUT, which the libc crate (0.2.191) lacks.
same!(crate::os::darwin: MADV_FREE_REUSABLE, MADV_FREE_REUSE, RLIMIT_AS, MAP_JIT);
same!(crate::os::darwin: KERN_NO_SPACE, KERN_RESOURCE_SHORTAGE);
same!(crate::os::bsd: MINCORE_INCORE);
same_as!(crate::os::bsd: INHERIT_SHARE = VM_INHERIT_SHARE, INHERIT_COPY = VM_INHERIT_COPY);
same_as!(crate::os::bsd: INHERIT_NONE = VM_INHERIT_NONE);
#[allow(deprecated)] // In favour of another crate.
const _: () = {
    use crate::os::darwin::{VM_FLAGS_ANYWHERE, VM_FLAGS_FIXED};
    assert!(VM_FLAGS_FIXED == libc::VM_FLAGS_FIXED);
    assert!(VM_FLAGS_ANYWHERE == libc::VM_FLAGS_ANYWHERE);
    use crate::os::darwin::superpages::VM_FLAGS_SUPERPAGE_SIZE_2MB;
    assert!(VM_FLAGS_SUPERPAGE_SIZE_2MB == libc::VM_FLAGS_SUPERPAGE_SIZE_2MB);
};

const VM_REGION_BASIC_INFO_64: c_int = 9;
/// `VM_REGION_BASIC_INFO_COUNT_64`: the structure in words.
const BASIC_INFO_WORDS: u32 = 9;

// <sys/ulock.h> of XNU, since macOS 10.12. os_sync_wait_on_address is the public name of the same,
// since 14.4.
const UL_COMPARE_AND_WAIT: u32 = 1;
const ULF_WAKE_ALL: u32 = 0x100;
const ULF_NO_ERRNO: u32 = 0x0100_0000;

unsafe extern "C" {
    static mach_task_self_: libc::mach_port_t;
    fn mach_vm_map(
        task: libc::mach_port_t,
        address: *mut u64,
        len: u64,
        mask: u64,
        flags: c_int,
        object: libc::mach_port_t,
        offset: u64,
        copy: c_int,
        protection: c_int,
        maximum: c_int,
        inheritance: u32,
    ) -> c_int;
    fn mach_vm_region(
        task: libc::mach_port_t,
        address: *mut u64,
        len: *mut u64,
        flavor: c_int,
        info: *mut c_int,
        words: *mut u32,
        object: *mut libc::mach_port_t,
    ) -> c_int;
    fn __ulock_wait(operation: u32, word: *mut c_void, value: u64, microseconds: u32) -> c_int;
    fn __ulock_wake(operation: u32, word: *mut c_void, value: u64) -> c_int;
}

fn task() -> libc::mach_port_t {
    // SAFETY: set before the program starts, and never changed.
    unsafe { mach_task_self_ }
}

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__error() }
}

pub(super) fn set_errno(value: c_int) {
    // SAFETY: the C library's errno of this thread is always writable.
    unsafe { *libc::__error() = value };
}

pub(super) fn park(word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
    // Zero is forever.
    let timeout = timeout.map_or(0, |timeout| timeout.as_micros().clamp(1, 1_000_000) as u32);
    let operation = UL_COMPARE_AND_WAIT | ULF_NO_ERRNO;
    // SAFETY: the word lives through the call.
    unsafe { __ulock_wait(operation, word.as_ptr().cast(), u64::from(while_equal), timeout) };
}

pub(super) fn wake(word: &AtomicU32, count: u32) {
    let all = if count > 1 { ULF_WAKE_ALL } else { 0 };
    let operation = UL_COMPARE_AND_WAIT | ULF_NO_ERRNO | all;
    // SAFETY: the kernel takes the word for an address only.
    unsafe { __ulock_wake(operation, word.as_ptr().cast(), 0) };
}

impl MachVm for Kernel {
    fn mach_vm_map(
        &self,
        address: usize,
        len: usize,
        mask: usize,
        flags: i32,
        maximum: i32,
    ) -> Result<*mut u8, i32> {
        let mut address = address as u64;
        // SAFETY: anonymous memory, and no flag that replaces what is there.
        let answer = unsafe {
            mach_vm_map(
                task(),
                &mut address,
                len as u64,
                mask as u64,
                flags,
                0,
                0,
                0,
                PROT_NONE,
                maximum,
                INHERIT_COPY as u32,
            )
        };
        match answer {
            libc::KERN_SUCCESS => Ok(ptr::with_exposed_provenance_mut(address as usize)),
            answer => Err(answer),
        }
    }

    fn mach_vm_region(&self, address: usize) -> Option<(usize, usize)> {
        let (mut start, mut len) = (address as u64, 0);
        let mut info = [0; BASIC_INFO_WORDS as usize];
        let mut words = BASIC_INFO_WORDS;
        let mut object = 0;
        // SAFETY: there is room for the flavor asked for; the object is always null.
        let answer = unsafe {
            mach_vm_region(
                task(),
                &mut start,
                &mut len,
                VM_REGION_BASIC_INFO_64,
                info.as_mut_ptr(),
                &mut words,
                &mut object,
            )
        };
        (answer == libc::KERN_SUCCESS).then_some((start as usize, len as usize))
    }
}

/// macOS 11, the first on Apple silicon, has both functions; Intel's processors have no such
/// switch, and the systems for smaller devices keep it from programs (<pthread.h>).
#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
impl SwitchPerThread for Kernel {
    fn switches_per_thread(&self) -> bool {
        // SAFETY: asks only.
        unsafe { pthread_jit_write_protect_supported_np() != 0 }
    }

    fn let_thread_write(&self, writable: bool) {
        // SAFETY: changes what the calling thread may do with memory mapped with MAP_JIT.
        unsafe { pthread_jit_write_protect_np(c_int::from(!writable)) };
    }
}

#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
unsafe extern "C" {
    fn pthread_jit_write_protect_supported_np() -> c_int;
    fn pthread_jit_write_protect_np(enabled: c_int);
}

#[cfg(not(all(target_os = "macos", target_arch = "aarch64")))]
impl SwitchPerThread for Kernel {
    fn switches_per_thread(&self) -> bool {
        false
    }

    /// Nothing: no memory is switched.
    fn let_thread_write(&self, _writable: bool) {}
}
