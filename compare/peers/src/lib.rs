//! The C library's allocation functions over one allocator, chosen by a feature: a jump each.
//!
//! The allocators are built as their crates build them by default.

#![warn(clippy::undocumented_unsafe_blocks)]

use core::ffi::{c_int, c_void};
use core::ptr;

#[cfg(feature = "jemalloc")]
mod jemalloc;
#[cfg(feature = "mimalloc")]
mod mimalloc;
#[cfg(feature = "snmalloc")]
mod snmalloc;

#[cfg(feature = "jemalloc")]
use jemalloc as chosen;
#[cfg(feature = "mimalloc")]
use mimalloc as chosen;
#[cfg(feature = "snmalloc")]
use snmalloc as chosen;

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    // SAFETY: the caller keeps to the C standard, which is what the allocator asks for.
    unsafe { chosen::malloc(size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller keeps to the C standard, which is what the allocator asks for.
    unsafe { chosen::calloc(count, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(address: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller keeps to the C standard, which is what the allocator asks for.
    unsafe { chosen::realloc(address, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn free(address: *mut c_void) {
    // SAFETY: the caller keeps to the C standard, which is what the allocator asks for.
    unsafe { chosen::free(address) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn reallocarray(address: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: as for `realloc`.
        Some(bytes) => unsafe { chosen::realloc(address, bytes) },
        None => ptr::null_mut(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int {
    const EINVAL: c_int = 22;
    const ENOMEM: c_int = 12;
    if !align.is_power_of_two() || align % size_of::<*mut c_void>() != 0 {
        return EINVAL;
    }
    // SAFETY: the alignment is a power of two; any size may be asked for.
    let address = unsafe { chosen::aligned(align, size) };
    if address.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller gave a place to write to (POSIX).
    unsafe { place.write(address) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller keeps to the C standard, which is what the allocator asks for.
    unsafe { chosen::aligned(align, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller keeps to the C standard, which is what the allocator asks for.
    unsafe { chosen::aligned(align.next_power_of_two(), size) }
}

/// Largest page of the systems that peers are measured on.
const PAGE: usize = 4096;

#[unsafe(no_mangle)]
unsafe extern "C" fn valloc(size: usize) -> *mut c_void {
    // SAFETY: the caller keeps to the C standard, which is what the allocator asks for.
    unsafe { chosen::aligned(PAGE, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pvalloc(size: usize) -> *mut c_void {
    // SAFETY: the caller keeps to the C standard, which is what the allocator asks for.
    unsafe { chosen::aligned(PAGE, size.next_multiple_of(PAGE)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(address: *mut c_void) -> usize {
    // SAFETY: the caller keeps to the C standard, which is what the allocator asks for.
    unsafe { chosen::usable_size(address) }
}
