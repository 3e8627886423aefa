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
fn slot(page: usize) -> Option<&'static AtomicPtr<Span>> {
    let leaf = ROOT.get(page >> LEAF_BITS)?.load(Acquire);
    // SAFETY: leaves are entered zeroed and live forever.
    let leaf = unsafe { leaf.as_ref() }?;
    Some(&leaf[page & ((1 << LEAF_BITS) - 1)])
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
    let (first, end) = pages(start, len);
    for slot in &ROOT[first >> LEAF_BITS..=(end - 1) >> LEAF_BITS] {
        if slot.load(Acquire).is_null() {
            let leaf = Reservation::alloc(size_of::<Leaf>(), &METADATA)?;
            let fresh = leaf.as_mut_ptr().cast();
            let entered = slot.compare_exchange(ptr::null_mut(), fresh, AcqRel, Acquire);
            if entered.is_ok() {
                core::mem::forget(leaf);
            }
        }
    }
    set(first, end, span);
    Ok(())
}

/// Takes a span out.
pub(crate) fn remove(start: *mut u8, len: usize) {
    let (first, end) = pages(start, len);
    set(first, end, ptr::null_mut());
}

/// The numbers of the first page and of the one after the last.
fn pages(start: *mut u8, len: usize) -> (usize, usize) {
    let first = start.addr() >> PAGE_BITS;
    (first, first + len.div_ceil(PAGE))
}

fn set(first: usize, end: usize, span: *mut Span) {
    for page in first..end {
        if let Some(slot) = slot(page) {
            slot.store(span, Relaxed);
        }
    }
}
