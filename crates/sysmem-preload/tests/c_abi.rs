//! The C functions, called as C calls them: what they return, and what they leave in errno.
//!
//! The library is linked into this program, so everything here runs on it, the test harness too.
#![cfg(target_os = "linux")]

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use sysmem_preload::c_abi::*;

/// A value that no function sets.
const UNTOUCHED: c_int = 12345;

fn errno() -> c_int {
    // SAFETY: this thread's errno is always readable.
    unsafe { *libc::__errno_location() }
}

/// What a call returns, and errno after it.
fn with_errno<R>(call: impl FnOnce() -> R) -> (R, c_int) {
    // SAFETY: this thread's errno is always writable.
    unsafe { *libc::__errno_location() = UNTOUCHED };
    let result = call();
    (result, errno())
}

/// More than any object may be long (C23, 7.24.4; malloc(3)).
const TOO_LONG: [usize; 3] = [isize::MAX as usize + 1, usize::MAX - 4096, usize::MAX];

#[test]
fn every_function_that_allocates_gives_memory_at_the_right_alignment() {
    let blocks: [(*mut c_void, usize, usize); 9] = [
        (malloc(100), 100, 16),
        (malloc(1), 1, 8),
        (calloc(10, 10), 100, 16),
        // SAFETY: no address is `malloc`.
        (unsafe { realloc(null_mut(), 100) }, 100, 16),
        // SAFETY: as above.
        (unsafe { reallocarray(null_mut(), 10, 10) }, 100, 16),
        (aligned_alloc(1 << 16, 100), 100, 1 << 16),
        (memalign(64, 100), 100, 64),
        (valloc(100), 100, 4096),
        (pvalloc(100), 4096, 4096),
    ];
    for (block, size, align) in blocks {
        assert!(!block.is_null() && block.addr() % align == 0, "{block:p} for {align}");
        // SAFETY: the block is ours.
        unsafe {
            assert!(malloc_usable_size(block) >= size);
            block.cast::<u8>().write_bytes(1, size);
            free(block);
        }
    }
}

#[test]
fn calloc_gives_zeros_where_a_freed_block_was_not() {
    for size in [8, 100, 5_000, 100_000, 3_000_000] {
        for _ in 0..20 {
            let block = calloc(size, 1).cast::<u8>();
            // SAFETY: the block is ours and that long.
            unsafe {
                assert!((0..size).all(|at| block.add(at).read() == 0), "{size}");
                block.write_bytes(0xa5, size);
                free(block.cast());
            }
        }
    }
}

#[test]
fn too_long_is_null_with_enomem() {
    for size in TOO_LONG {
        let null_with_enomem = (null_mut(), libc::ENOMEM);
        assert_eq!(with_errno(|| malloc(size)), null_with_enomem);
        assert_eq!(with_errno(|| calloc(1, size)), null_with_enomem);
        assert_eq!(with_errno(|| aligned_alloc(64, size)), null_with_enomem);
        assert_eq!(with_errno(|| memalign(64, size)), null_with_enomem);
        assert_eq!(with_errno(|| valloc(size)), null_with_enomem);
        assert_eq!(with_errno(|| pvalloc(size)), null_with_enomem);
        // SAFETY: no address is `malloc`.
        assert_eq!(with_errno(|| unsafe { realloc(null_mut(), size) }), null_with_enomem);
    }
}

#[test]
fn products_that_overflow_are_null_with_enomem() {
    let half = 1 << (usize::BITS / 2);
    let null_with_enomem = (null_mut(), libc::ENOMEM);
    assert_eq!(with_errno(|| calloc(half, half)), null_with_enomem);
    assert_eq!(with_errno(|| calloc(usize::MAX, 2)), null_with_enomem);
    let block = malloc(100).cast::<u8>();
    // SAFETY: the block is ours; a refused reallocation leaves it alone.
    unsafe {
        block.write_bytes(7, 100);
        assert_eq!(with_errno(|| reallocarray(block.cast(), half, half)), null_with_enomem);
        assert!((0..100).all(|at| block.add(at).read() == 7));
        free(block.cast());
    }
}

#[test]
fn posix_memalign_returns_its_errors_and_leaves_errno_and_the_place_alone() {
    let mut place = null_mut();
    let cases = [
        (0, 10, libc::EINVAL),
        (4, 10, libc::EINVAL),
        (24, 10, libc::EINVAL),
        (16, usize::MAX, libc::ENOMEM),
        (16, isize::MAX as usize, libc::ENOMEM),
    ];
    for (align, size, error) in cases {
        // SAFETY: `place` may be written to.
        let result = with_errno(|| unsafe { posix_memalign(&mut place, align, size) });
        assert_eq!(result, (error, UNTOUCHED), "{align} {size}");
        assert!(place.is_null());
    }
    // SAFETY: as above; what it gives is freed once.
    unsafe {
        assert_eq!(posix_memalign(&mut place, 1 << 21, 10), 0);
        assert!(!place.is_null() && place.addr() % (1 << 21) == 0);
        free(place);
    }
}

#[test]
fn alignments_that_are_none_are_null_with_einval() {
    for align in [0, 3, 24] {
        assert_eq!(with_errno(|| aligned_alloc(align, 10)), (null_mut(), libc::EINVAL));
    }
    assert_eq!(with_errno(|| memalign(usize::MAX, 10)), (null_mut(), libc::EINVAL));
}

#[test]
fn free_leaves_errno_as_it_was() {
    for size in [1, 100, 10_000, 70_000, 200 << 20] {
        let block = malloc(size);
        assert!(!block.is_null());
        // SAFETY: the block is ours and freed once.
        let ((), errno) = with_errno(|| unsafe { free(block) });
        assert_eq!(errno, UNTOUCHED, "{size}");
    }
    // SAFETY: null is nothing to free; the blocks are freed once.
    let ((), errno) = with_errno(|| unsafe {
        free(null_mut());
        free_sized(malloc(30), 30);
        free_aligned_sized(aligned_alloc(64, 128), 64, 128);
    });
    assert_eq!(errno, UNTOUCHED);
}

#[test]
fn freeing_a_block_of_another_thread_leaves_errno_as_it_was() {
    let block = std::thread::spawn(|| malloc(100).expose_provenance()).join().unwrap();
    // SAFETY: the block is freed once.
    let ((), errno) = with_errno(|| unsafe { free(std::ptr::with_exposed_provenance_mut(block)) });
    assert_eq!(errno, UNTOUCHED);
}

#[test]
fn realloc_to_nothing_frees_and_sizes_of_zero_have_addresses_of_their_own() {
    // SAFETY: each block is freed once.
    unsafe {
        assert!(realloc(malloc(100), 0).is_null());
        let (first, second) = (malloc(0), calloc(0, 10));
        assert!(!first.is_null() && !second.is_null() && first != second);
        free(first);
        free(second);
        assert_eq!(malloc_usable_size(null_mut()), 0);
    }
}

#[test]
fn tuning_is_accepted_and_figures_add_up() {
    assert_eq!(mallopt(libc::M_MMAP_THRESHOLD, 1 << 20), 1);
    let before = mallinfo2();
    let block = malloc(50 << 20);
    let with_block = mallinfo2();
    assert!(with_block.uordblks >= before.uordblks + (50 << 20));
    assert!(with_block.arena >= with_block.uordblks);
    // SAFETY: the block is ours and that long, and freed once.
    unsafe {
        block.cast::<u8>().write_bytes(1, 50 << 20);
        free(block);
    }
    assert!(mallinfo2().uordblks < with_block.uordblks);
    malloc_trim(0);
    // SAFETY: frees what it allocated.
    unsafe { free(malloc(100)) };
}
