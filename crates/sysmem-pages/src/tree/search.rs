//! Searches that begin in the middle: from the root down, where a child can be in vain.

use crate::tree::{BITS, FANOUT, Head, Node, Tree};

impl Tree {
    /// The last huge page before `end` that is in both sets.
    pub(super) fn last_before(&self, end: usize, sets: (usize, usize)) -> Option<usize> {
        let last = end.checked_sub(1)?;
        // SAFETY: the root of this tree, and its height.
        unsafe { nearest::<true>(self.root, self.height, self.prefix, sets, last) }
    }

    /// The first huge page from `from` on that is in a set.
    pub(super) fn first_from(&self, from: usize, set: usize) -> Option<usize> {
        // SAFETY: as above.
        unsafe { nearest::<false>(self.root, self.height, self.prefix, (set, set), from) }
    }
}

/// The huge page that is in both sets and nearest to `bound`, which counts: of those up to it the last
/// if `LAST`, of those from it on the first otherwise. Below a node or leaf of this height and number.
///
/// # Safety
///
/// `at` is null or a node or leaf of a tree that does not change meanwhile, with its height and
/// number.
unsafe fn nearest<const LAST: bool>(
    at: *mut Head,
    height: u32,
    number: usize,
    sets: (usize, usize),
    bound: usize,
) -> Option<usize> {
    let first = number << BITS;
    let slot = bound >> (BITS * height);
    let allowed = if LAST {
        u64::MAX >> (FANOUT - 1).saturating_sub(slot.checked_sub(first)?)
    } else {
        let slot = u32::try_from(slot.saturating_sub(first)).unwrap_or(u32::MAX);
        u64::MAX.checked_shl(slot).unwrap_or(0)
    };
    // SAFETY: the caller's promise.
    let head = unsafe { at.as_ref() }?;
    let mut left = head.sets[sets.0] & head.sets[sets.1] & allowed;
    // In vain only where `bound` lies in a child, or where a child has both sets apart.
    while left != 0 {
        let slot = if LAST { left.ilog2() } else { left.trailing_zeros() } as usize;
        if height == 0 {
            return Some(first | slot);
        }
        left &= !(1 << slot);
        // SAFETY: as above; above height zero it is a node.
        let child = unsafe { (*at.cast::<Node>()).children[slot] };
        // SAFETY: as above.
        let found = unsafe { nearest::<LAST>(child, height - 1, first | slot, sets, bound) };
        if found.is_some() {
            return found;
        }
    }
    None
}
