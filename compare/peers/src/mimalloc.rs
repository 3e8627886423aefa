pub(crate) use libmimalloc_sys::{
    mi_calloc as calloc, mi_free as free, mi_malloc as malloc, mi_realloc as realloc,
};

use core::ffi::c_void;

pub(crate) unsafe fn aligned(align: usize, size: usize) -> *mut c_void {
    unsafe { libmimalloc_sys::mi_malloc_aligned(size, align) }
}

pub(crate) unsafe fn usable_size(address: *mut c_void) -> usize {
    unsafe { libmimalloc_sys::mi_usable_size(address) }
}
