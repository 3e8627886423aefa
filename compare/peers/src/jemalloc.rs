pub(crate) use tikv_jemalloc_sys::{calloc, free, malloc, realloc};

use core::ffi::c_void;

pub(crate) unsafe fn aligned(align: usize, size: usize) -> *mut c_void {
    // Unlike aligned_alloc of older C standards it takes any size.
    unsafe { tikv_jemalloc_sys::mallocx(size.max(1), align.trailing_zeros() as i32) }
}

pub(crate) unsafe fn usable_size(address: *mut c_void) -> usize {
    unsafe { tikv_jemalloc_sys::malloc_usable_size(address) }
}
