pub(crate) use tikv_jemalloc_sys::{calloc, free, malloc, realloc};

use core::ffi::c_void;

pub(crate) unsafe fn aligned(align: usize, size: usize) -> *mut c_void {
    // Unlike aligned_alloc of older C standards it takes any size.
    // SAFETY: the size is not zero, and the flags are the logarithm of an alignment (MALLOCX_LG_ALIGN).
    unsafe { tikv_jemalloc_sys::mallocx(size.max(1), align.trailing_zeros() as i32) }
}

pub(crate) unsafe fn usable_size(address: *mut c_void) -> usize {
    // SAFETY: the caller hands in null or what this allocator gave.
    unsafe { tikv_jemalloc_sys::malloc_usable_size(address) }
}
