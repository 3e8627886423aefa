pub(crate) use snmalloc_sys::{
    sn_calloc as calloc, sn_free as free, sn_malloc as malloc, sn_realloc as realloc,
};

use core::ffi::c_void;

pub(crate) unsafe fn aligned(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller gives a power of two; any size may be asked for.
    unsafe { snmalloc_sys::sn_rust_alloc(align, size) }
}

pub(crate) unsafe fn usable_size(address: *mut c_void) -> usize {
    // SAFETY: the caller hands in null or what this allocator gave.
    unsafe { snmalloc_sys::sn_malloc_usable_size(address) }
}
