//! From an address to its span: two loads, no hash, no lock.
//!
//! A root, one word for each 512 MiB of address space, leads to leaves with one word for each page of
//! the heap. The root lies in zeroed static memory and the leaves are taken from the system as the heap
//! reaches their range, so what a small program touches is a few pages.
//!
//! A word is not the address of a leaf or of a span but its distance from the map. So zero stands for
//! one of each that is always there: a leaf of zeros before the root, and in its beginning a span that
//! describes nothing and has no owner. An address that is not ours leads to that span like any other
//! to its own, and a free need not ask at each step.

use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering::*};

use sysmem::Reservation;
use sysmem_pages::PAGE;

use crate::METADATA;
use crate::span::Span;

const PAGE_BITS: u32 = PAGE.ilog2();
/// Leaves cover 512 MiB: 16 bits of an address, which x86_64 takes out with one instruction.
const LEAF_BITS: u32 = 16;
/// Systems place programs below 2^47 on x86_64 and below 2^48 on aarch64.
const ADDRESS_BITS: u32 = if cfg!(target_arch = "x86_64") { 47 } else { 48 };
const ROOT_BITS: u32 = ADDRESS_BITS - LEAF_BITS - PAGE_BITS;

const LEAF_LEN: usize = 1 << LEAF_BITS;

type Leaf = [AtomicUsize; LEAF_LEN];

#[repr(C, align(64))]
struct Map {
    /// Never written to.
    nothing: Leaf,
    root: [AtomicUsize; 1 << ROOT_BITS],
}

static MAP: Map = Map {
    nothing: [const { AtomicUsize::new(0) }; LEAF_LEN],
    root: [const { AtomicUsize::new(0) }; 1 << ROOT_BITS],
};

/// The span that describes nothing: it has no block, and no heap is its owner. Never written to.
pub(crate) const NOTHING: *const Span = (&raw const MAP).cast();

/// Where the map tells of an address: the word of the root, and the word in its leaf.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    in_root: usize,
    in_leaf: usize,
}

impl Place {
    #[inline(always)]
    pub(crate) fn of(address: *mut u8) -> Place {
        let page = address.addr() >> PAGE_BITS;
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let (in_root, in_leaf) = (page >> LEAF_BITS, page & (LEAF_LEN - 1));
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        let (in_root, in_leaf) = {
            let mut in_root = page;
            let in_leaf: usize;
            // The compiler would compute each from the address anew.
            // SAFETY: arithmetic alone.
            unsafe {
                core::arch::asm!(
                    "movzx {in_leaf:e}, {in_root:x}",
                    "shr {in_root}, 16",
                    in_root = inout(reg) in_root,
                    in_leaf = out(reg) in_leaf,
                    options(pure, nomem, nostack),
                );
            }
            (in_root, in_leaf)
        };
        Place { in_root, in_leaf }
    }

    /// Whether the address can be one of ours.
    #[inline(always)]
    pub(crate) fn is_in_map(self) -> bool {
        self.in_root < MAP.root.len()
    }

    /// The span that the page of the address belongs to; [`NOTHING`] if it is none of ours. Of a large
    /// allocation only the first page is entered.
    ///
    /// # Safety
    ///
    /// The place is in the map.
    #[inline(always)]
    pub(crate) unsafe fn span(self) -> &'static Span {
        debug_assert!(self.in_leaf < LEAF_LEN);
        // The map says nothing about the memory it points to: whoever was handed the address was
        // handed the span with it.
        // SAFETY: the caller's promise, and so many bits of the number of a page.
        unsafe {
            let leaf: &Leaf = at_distance(MAP.root.get_unchecked(self.in_root).load(Acquire));
            at_distance(leaf.get_unchecked(self.in_leaf).load(Relaxed))
        }
    }
}

/// What lies at a distance from the map, as a word of it says.
///
/// # Safety
///
/// The word was read from the map, where the distances of leaves are if it is of the root, and those of
/// spans if it is of a leaf.
#[inline(always)]
unsafe fn at_distance<T>(distance: usize) -> &'static T {
    let address = ptr::from_ref(&MAP).addr().wrapping_add(distance);
    // SAFETY: what is entered lives forever, and its address was exposed then; at no distance there
    // are zeros, which are a leaf and the beginning of them a span.
    unsafe { &*ptr::with_exposed_provenance(address) }
}

/// The distance of what is entered.
fn distance_of<T>(place: *mut T) -> usize {
    // Exposed for `at_distance`, as the map itself is.
    ptr::from_ref(&MAP).expose_provenance();
    place.expose_provenance().wrapping_sub(ptr::from_ref(&MAP).addr())
}

/// The leaf of a number, or the one that holds nothing.
#[inline(always)]
fn leaf(number: usize) -> &'static Leaf {
    match MAP.root.get(number) {
        // SAFETY: a word of the root.
        Some(word) => unsafe { at_distance(word.load(Acquire)) },
        None => &MAP.nothing,
    }
}

/// The span of an address; [`NOTHING`] if it is none of ours.
#[inline(always)]
pub(crate) fn find(address: *mut u8) -> &'static Span {
    let place = Place::of(address);
    if !place.is_in_map() {
        // SAFETY: it is there always.
        return unsafe { &*NOTHING };
    }
    // SAFETY: as asked.
    unsafe { place.span() }
}

/// Enters a span for the pages of the first `len` bytes, or nothing if it cannot.
pub(crate) fn enter(start: *mut u8, len: usize, span: *mut Span) -> bool {
    let (first, last) = pages(start, len);
    let mut leaves = first >> LEAF_BITS..=last >> LEAF_BITS;
    let has_leaves = leaves.all(|number| !ptr::eq(leaf(number), &MAP.nothing) || make_leaf(number));
    if has_leaves {
        set(first, last, distance_of(span));
    }
    has_leaves
}

#[cold]
fn make_leaf(number: usize) -> bool {
    let Some(word) = MAP.root.get(number) else { return false };
    let Ok(leaf) = Reservation::alloc(size_of::<Leaf>(), &METADATA) else { return false };
    let fresh = distance_of(leaf.as_mut_ptr());
    if word.compare_exchange(0, fresh, AcqRel, Acquire).is_ok() {
        core::mem::forget(leaf);
    }
    true
}

/// Takes a span out.
pub(crate) fn remove(start: *mut u8, len: usize) {
    let (first, last) = pages(start, len);
    set(first, last, 0);
}

/// The numbers of the first page and of the last.
#[inline(always)]
fn pages(start: *mut u8, len: usize) -> (usize, usize) {
    let first = start.addr() >> PAGE_BITS;
    (first, first + (len - 1) / PAGE)
}

fn set(first: usize, last: usize, word: usize) {
    let mut page = first;
    // Nearly always there is one leaf.
    while page <= last {
        let leaf = leaf(page >> LEAF_BITS);
        let from = page & (LEAF_LEN - 1);
        let slots = leaf[from..].iter().take(last - page + 1);
        page += slots.len();
        slots.for_each(|slot| slot.store(word, Relaxed));
    }
}

/// Enters a span for the page that begins at `start` alone: nothing but the beginning of a large
/// allocation is ever looked up, and a GiB would take a MiB of the map.
#[inline(always)]
pub(crate) fn enter_first(start: *mut u8, span: *mut Span) -> bool {
    enter(start, PAGE, span)
}

/// Takes out what [`enter_first`] entered.
#[inline(always)]
pub(crate) fn remove_first(start: *mut u8) {
    remove(start, PAGE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_class::LARGEST;
    use crate::{allocate, free};

    #[test]
    fn addresses_of_blocks_lead_to_their_span_and_all_others_to_none() {
        for size in [1, 100, LARGEST, LARGEST + 1] {
            let block = allocate(size, 8);
            let span = find(block);
            assert!(!ptr::eq(span, NOTHING));
            let end = span.start.get().wrapping_add(span.len.get());
            assert!((span.start.get()..end).contains(&block));
            // The same page with a bit set that no address of ours has.
            for bit in ADDRESS_BITS..usize::BITS {
                let beyond = ptr::without_provenance_mut(block.addr() | 1 << bit);
                assert!(ptr::eq(find(beyond), NOTHING), "{beyond:p}");
            }
            // SAFETY: allocated above.
            unsafe { free(block) };
        }
        let here = 0_u64;
        for address in [0, 1, 1 << LEAF_BITS, ptr::from_ref(&here).addr(), usize::MAX] {
            assert!(ptr::eq(find(ptr::without_provenance_mut(address)), NOTHING), "{address:#x}");
        }
    }

    #[test]
    fn the_span_that_describes_nothing_has_no_block_and_no_owner() {
        // SAFETY: it is there always.
        let nothing = unsafe { &*NOTHING };
        assert!(nothing.take().0.is_null());
        assert!(!nothing.has_free() && !nothing.is_large());
        assert!(nothing.owner.get().is_null());
        assert_eq!(nothing.used(), 0);
    }
}
