//! The C functions, as the C standard (C23, 7.24.4), POSIX.1-2024 and glibc's manual (malloc(3),
//! posix_memalign(3), mallinfo(3)) have them. Where those leave a choice, glibc's is taken: this
//! library stands in for it.

use core::ffi::{c_int, c_void};
use core::ptr;
use std::io::Write;

use sysmem_alloc as heap;

/// The alignment asked for where C asks for none: blocks of more than 8 bytes are aligned to 16
/// anyhow, smaller ones cannot hold anything that needs more than 8.
const NO_ALIGN: usize = 8;

fn set_errno(value: c_int) {
    // SAFETY: the C library's errno of this thread is always writable.
    unsafe { *libc::__errno_location() = value };
}

/// No allocation, and errno tells why.
#[cold]
fn no_memory() -> *mut c_void {
    sysmem::native::set_errno_out_of_memory();
    ptr::null_mut()
}

/// Allocates `size` bytes.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    heap::allocate(size, NO_ALIGN).cast()
}

/// Allocates an array of `count` zeroed elements of `size` bytes.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) => heap::allocate_zeroed(bytes, NO_ALIGN).cast(),
        None => no_memory(),
    }
}

/// Makes an allocation `size` bytes long, moving it if need be. As in glibc, no address means
/// `malloc`, and no size means `free`.
///
/// # Safety
///
/// `address` is null or an allocation of this library, not freed since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(address: *mut c_void, size: usize) -> *mut c_void {
    if address.is_null() {
        return heap::allocate(size, NO_ALIGN).cast();
    }
    if size == 0 {
        // SAFETY: the caller's promise.
        unsafe { heap::free(address.cast()) };
        return ptr::null_mut();
    }
    // SAFETY: the caller's promise.
    unsafe { heap::reallocate(address.cast(), size, NO_ALIGN) }.cast()
}

/// `realloc` of an array, refusing a size that overflows.
///
/// # Safety
///
/// As for `realloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(
    address: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's promise.
        Some(bytes) => unsafe { realloc(address, bytes) },
        None => no_memory(),
    }
}

/// Frees an allocation; null is nothing to free. Leaves errno as it was.
///
/// # Safety
///
/// `address` is null or an allocation of this library, not freed since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(address: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { heap::free(address.cast()) }
}

/// `free` with the size that was asked for (C23), which is not needed to find the block.
///
/// # Safety
///
/// As for `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(address: *mut c_void, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { free(address) }
}

/// `free` with the alignment and size that were asked for (C23).
///
/// # Safety
///
/// As for `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(address: *mut c_void, _align: usize, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { free(address) }
}

/// Allocates at a multiple of `align`, a power of two and a multiple of a pointer's size. Returns
/// the error number and leaves errno and `place` alone on failure.
///
/// # Safety
///
/// `place` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(
    place: *mut *mut c_void,
    align: usize,
    size: usize,
) -> c_int {
    if !align.is_power_of_two() || align % size_of::<*mut c_void>() != 0 {
        return libc::EINVAL;
    }
    let address = sysmem::native::keeping_errno(|| heap::allocate(size, align));
    if address.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { place.write(address.cast()) };
    0
}

/// Allocates at a multiple of `align`, a power of two.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        set_errno(libc::EINVAL);
        return ptr::null_mut();
    }
    heap::allocate(size, align).cast()
}

/// Allocates at a multiple of `align`, rounded up to a power of two as glibc does.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => heap::allocate(size, align).cast(),
        None => {
            set_errno(libc::EINVAL);
            ptr::null_mut()
        }
    }
}

/// Allocates at a multiple of the page size.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    heap::allocate(size, sysmem::page_size()).cast()
}

/// Allocates whole pages.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    match size.checked_next_multiple_of(sysmem::page_size()) {
        Some(size) => valloc(size),
        None => no_memory(),
    }
}

/// The number of bytes an allocation really has; 0 for null.
///
/// # Safety
///
/// As for `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(address: *mut c_void) -> usize {
    // SAFETY: the caller's promise.
    unsafe { heap::usable_size(address.cast()) }
}

/// Gives free memory back to the system; 1 if there was any. The pad that glibc would keep is not
/// kept.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    sysmem::native::keeping_errno(|| (heap::release() > 0).into())
}

/// Accepts glibc's tuning and does nothing with it: there are no such knobs here.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(_parameter: c_int, _value: c_int) -> c_int {
    1
}

/// `struct mallinfo2` of glibc 2.33.
#[repr(C)]
#[allow(missing_docs)] // The names are glibc's; what each holds here is said in `mallinfo2`.
#[derive(Default)]
pub struct MallInfo2 {
    pub arena: usize,
    pub ordblks: usize,
    pub smblks: usize,
    pub hblks: usize,
    pub hblkhd: usize,
    pub usmblks: usize,
    pub fsmblks: usize,
    pub uordblks: usize,
    pub fordblks: usize,
    pub keepcost: usize,
}

/// What the heap holds, in glibc's terms: `arena` is all memory that backs the heap, `uordblks`
/// what the program has, `fordblks` the rest, `keepcost` what `malloc_trim` would give back at
/// once. There are no fast bins and no separately mapped blocks.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> MallInfo2 {
    let figures = heap::statistics();
    let pages = figures.pages;
    let free = pages.free_backed + pages.cached;
    let backed = pages.in_use - pages.in_use_given_back + free;
    let in_use = figures.allocated_bytes.saturating_sub(figures.freed_bytes);
    MallInfo2 {
        arena: backed as usize,
        uordblks: in_use as usize,
        fordblks: (backed as u64).saturating_sub(in_use) as usize,
        keepcost: free as usize,
        ..MallInfo2::default()
    }
}

/// Prints what the heap holds to standard error.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    let figures = heap::statistics();
    let mut line = [0u8; 512];
    let mut rest = &mut line[..];
    let in_use = figures.allocated_bytes.saturating_sub(figures.freed_bytes);
    // A line that is cut off is better than one that needs memory.
    let _ = write!(
        rest,
        "sysmem: {} allocations, {} frees\n\
         sysmem: program has   {in_use:>14} bytes\n\
         sysmem: pages in use  {:>14} bytes\n\
         sysmem: pages free    {:>14} bytes\n\
         sysmem: given back    {:>14} bytes\n",
        figures.allocations,
        figures.frees,
        figures.pages.in_use - figures.pages.in_use_given_back,
        figures.pages.free_backed + figures.pages.cached,
        figures.pages.given_back + figures.pages.in_use_given_back,
    );
    let left = rest.len();
    let len = line.len() - left;
    // SAFETY: the text is as long as said. Nothing can be done if it does not get out.
    unsafe { libc::write(2, line.as_ptr().cast(), len) };
}
