pub(crate) use libmimalloc_sys::{
    mi_calloc as calloc, mi_free as free, mi_malloc as malloc, mi_realloc as realloc,
};

use core::ffi::c_void;

pub(crate) unsafe fn aligned(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller gives a power of two; any size may be asked for.
    unsafe { libmimalloc_sys::mi_malloc_aligned(size, align) }
}

pub(crate) unsafe fn usable_size(address: *mut c_void) -> usize {
    // SAFETY: the caller hands in null or what this allocator gave.
    unsafe { libmimalloc_sys::mi_usable_size(address) }
}
