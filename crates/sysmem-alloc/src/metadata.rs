//! Memory for what the allocator must know: spans and heaps. It is never returned, so whoever
//! holds a pointer into it may follow it; what is free is used again by its owner.

use core::ptr;

use sysmem::{Lock, Reservation};
use sysmem_pages::PAGE;

use crate::{METADATA, NATIVE, PAGES};

/// What is taken from the system at a time, in bytes.
const PIECE: usize = 64 << 10;

struct Piece {
    next: *mut u8,
    left: usize,
}

// SAFETY: the memory is touched by the holder of the lock only.
unsafe impl Send for Piece {}

static PIECE_IN_USE: Lock<Piece> = Lock::new(Piece { next: ptr::null_mut(), left: 0 });

/// Puts `value` into memory that lives forever; null when memory has run out.
pub(crate) fn allocate<T>(value: T) -> *mut T {
    const { assert!(size_of::<T>() <= PIECE && align_of::<T>() <= 4096) };
    let mut piece = PIECE_IN_USE.lock(&NATIVE);
    let skip = piece.next.addr().wrapping_neg() & (align_of::<T>() - 1);
    if piece.left < skip + size_of::<T>() {
        let Some(next) = fresh_piece() else { return ptr::null_mut() };
        *piece = Piece { next, left: PIECE };
    }
    let skip = piece.next.addr().wrapping_neg() & (align_of::<T>() - 1);
    let place: *mut T = piece.next.wrapping_add(skip).cast();
    piece.next = piece.next.wrapping_add(skip + size_of::<T>());
    piece.left -= skip + size_of::<T>();
    // SAFETY: the place is aligned, inside the piece and nobody else's.
    unsafe { place.write(value) };
    place
}

/// A piece from the system. Where that has no address space left (`ulimit -v`), from the page heap:
/// what the program freed may lie there, of no use without spans for it.
fn fresh_piece() -> Option<*mut u8> {
    if let Ok(fresh) = Reservation::alloc(PIECE, &METADATA) {
        let start = fresh.as_mut_ptr();
        core::mem::forget(fresh);
        return Some(start);
    }
    let run = PAGES.allocate(PIECE.div_ceil(PAGES.page_size()), PAGE).ok()?;
    Some(run.start.as_ptr())
}

/// Holds metadata still across a fork.
pub(crate) fn lock_for_fork() {
    PIECE_IN_USE.lock_for_fork(&NATIVE);
}

/// # Safety
///
/// `lock_for_fork` was called by this thread, or by the one it is a copy of.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the caller's promise.
    unsafe { PIECE_IN_USE.unlock_after_fork(&NATIVE) };
}
