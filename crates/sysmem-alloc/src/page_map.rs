//! From an address to its span: two loads, no hash, no lock.
//!
//! A root of pointers, one for each GiB of address space, leads to leaves with one pointer for
//! each page of the heap. The root lies in zeroed static memory and the leaves are taken from the
//! system as the heap reaches their GiB, so what a small program touches is a few pages.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::*};

use sysmem::{Error, Reservation};
use sysmem_pages::PAGE;

use crate::METADATA;
use crate::span::Span;

const PAGE_BITS: u32 = PAGE.ilog2();
/// Leaves cover one GiB.
const LEAF_BITS: u32 = 30 - PAGE_BITS;
/// x86_64 and aarch64 systems place programs below 2^48.
const ROOT_BITS: u32 = 48 - 30;

type Leaf = [AtomicPtr<Span>; 1 << LEAF_BITS];

static ROOT: [AtomicPtr<Leaf>; 1 << ROOT_BITS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; 1 << ROOT_BITS];

#[inline(always)]
fn leaf(number: usize) -> Option<&'static Leaf> {
    let leaf = ROOT.get(number)?.load(Acquire);
    // SAFETY: leaves are entered zeroed and live forever.
    unsafe { leaf.as_ref() }
}

#[inline(always)]
fn slot(page: usize) -> Option<&'static AtomicPtr<Span>> {
    Some(&leaf(page >> LEAF_BITS)?[page & ((1 << LEAF_BITS) - 1)])
}

/// The span that the page of `address` belongs to; null if it is none of ours. Of a large
/// allocation only the first page is entered.
#[inline(always)]
pub(crate) fn find(address: *mut u8) -> *mut Span {
    // The map says nothing about the memory it points to: whoever was handed the address was
    // handed the span with it.
    slot(address.addr() >> PAGE_BITS).map_or(ptr::null_mut(), |slot| slot.load(Relaxed))
}

/// Enters a span for the pages of the first `len` bytes. On failure nothing is entered.
pub(crate) fn enter(start: *mut u8, len: usize, span: *mut Span) -> Result<(), Error> {
    let (first, last) = pages(start, len);
    for number in first >> LEAF_BITS..=last >> LEAF_BITS {
        if leaf(number).is_none() {
            make_leaf(number)?;
        }
    }
    set(first, last, span);
    Ok(())
}

#[cold]
fn make_leaf(number: usize) -> Result<(), Error> {
    let leaf = Reservation::alloc(size_of::<Leaf>(), &METADATA)?;
    let fresh = leaf.as_mut_ptr().cast();
    if ROOT[number].compare_exchange(ptr::null_mut(), fresh, AcqRel, Acquire).is_ok() {
        core::mem::forget(leaf);
    }
    Ok(())
}

/// Takes a span out.
pub(crate) fn remove(start: *mut u8, len: usize) {
    let (first, last) = pages(start, len);
    set(first, last, ptr::null_mut());
}

/// The numbers of the first page and of the last.
#[inline(always)]
fn pages(start: *mut u8, len: usize) -> (usize, usize) {
    let first = start.addr() >> PAGE_BITS;
    (first, first + (len - 1) / PAGE)
}

fn set(first: usize, last: usize, span: *mut Span) {
    let mut page = first;
    // Nearly always there is one leaf.
    while let (true, Some(leaf)) = (page <= last, leaf(page >> LEAF_BITS)) {
        let from = page & (leaf.len() - 1);
        let slots = leaf[from..].iter().take(last - page + 1);
        page += slots.len();
        slots.for_each(|slot| slot.store(span, Relaxed));
    }
}

/// Enters a span for the page that begins at `start` alone: nothing but the beginning of a large
/// allocation is ever looked up, and a GiB would take a MiB of the map.
#[inline(always)]
pub(crate) fn enter_first(start: *mut u8, span: *mut Span) -> Result<(), Error> {
    match slot(start.addr() >> PAGE_BITS) {
        Some(slot) => slot.store(span, Relaxed),
        None => enter(start, PAGE, span)?,
    }
    Ok(())
}

/// Takes out what [`enter_first`] entered.
#[inline(always)]
pub(crate) fn remove_first(start: *mut u8) {
    if let Some(slot) = slot(start.addr() >> PAGE_BITS) {
        slot.store(ptr::null_mut(), Relaxed);
    }
}
