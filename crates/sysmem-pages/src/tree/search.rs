//! Searches that begin in the middle: from the root down, where a child can be in vain.

use crate::tree::{BITS, FANOUT, Head, Node};

/// The last huge page up to `last` that is in both sets, below a node or leaf of this height and
/// number.
///
/// # Safety
///
/// `at` is null or a node or leaf of a tree that does not change meanwhile, with its height and
/// number.
pub(super) unsafe fn last_before(
    at: *mut Head,
    height: u32,
    number: usize,
    sets: (usize, usize),
    last: usize,
) -> Option<usize> {
    let first = number << BITS;
    let slot = (last >> (BITS * height)).checked_sub(first)?;
    let allowed = u64::MAX >> (FANOUT - 1).saturating_sub(slot);
    // SAFETY: the caller's promise.
    let head = unsafe { at.as_ref() }?;
    let mut left = head.sets[sets.0] & head.sets[sets.1] & allowed;
    // In vain only where `last` lies in a child, or where a child has both sets apart.
    while let Some(slot) = left.checked_ilog2() {
        let slot = slot as usize;
        if height == 0 {
            return Some(first | slot);
        }
        left &= !(1 << slot);
        // SAFETY: as above; above height zero it is a node.
        let child = unsafe { (*at.cast::<Node>()).children[slot] };
        // SAFETY: as above.
        let found = unsafe { last_before(child, height - 1, first | slot, sets, last) };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The first huge page from `from` on of a set, below a node or leaf of this height and number.
///
/// # Safety
///
/// As for [`last_before`].
pub(super) unsafe fn first_from(
    at: *mut Head,
    height: u32,
    number: usize,
    set: usize,
    from: usize,
) -> Option<usize> {
    let first = number << BITS;
    let slot = (from >> (BITS * height)).saturating_sub(first);
    let allowed = u64::MAX.checked_shl(u32::try_from(slot).unwrap_or(u32::MAX)).unwrap_or(0);
    // SAFETY: the caller's promise.
    let mut left = unsafe { at.as_ref() }?.sets[set] & allowed;
    // Of two children at most: only the one that `from` lies in can be in vain.
    while left != 0 {
        let slot = left.trailing_zeros() as usize;
        if height == 0 {
            return Some(first | slot);
        }
        left &= !(1 << slot);
        // SAFETY: as above; above height zero it is a node.
        let child = unsafe { (*at.cast::<Node>()).children[slot] };
        // SAFETY: as above.
        let found = unsafe { first_from(child, height - 1, first | slot, set, from) };
        if found.is_some() {
            return found;
        }
    }
    None
}
