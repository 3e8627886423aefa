//! Free pages inside a span that is partly in use: finding them, and coming by them again.
//!
//! Free blocks are linked through their own first words, so a page that is to go must have no block
//! of the list in it: every free block that touches such a page is taken off the list. Nothing more
//! is kept than which pages went (`Span::given_back`). A free block touches one of them exactly if it
//! is not in the list, which is how it is found again.
//!
//! Pages are the system's here, which are often smaller than those of the page heap.

use core::ptr;

use sysmem::PageRange;

use crate::PAGES;
use crate::size_class::CLASSES;
use crate::span::{Block, Span};

/// The most pages that a span has: one bit each.
const MOST: usize = u64::BITS as usize;

/// Pages of a span, a bit each.
pub(crate) type PageSet = u64;

impl Span {
    fn blocks_end(&self) -> *mut u8 {
        let blocks = CLASSES[self.class.get() as usize].blocks as usize;
        self.start.get().wrapping_add(blocks * self.block_size.get() as usize)
    }

    /// The pages that some of the bytes from one offset to another lie on.
    fn pages_of(&self, from: usize, end: usize, page_size: usize) -> PageSet {
        let (first, last) = (from / page_size, (end - 1) / page_size);
        (PageSet::MAX >> (MOST - 1 - last)) & (PageSet::MAX << first)
    }

    fn offset(&self, address: *mut u8) -> usize {
        address.addr() - self.start.get().addr()
    }

    /// Whether a block that begins at an offset touches one of these pages.
    fn touches(&self, offset: usize, pages: PageSet, page_size: usize) -> bool {
        self.pages_of(offset, offset + self.block_size.get() as usize, page_size) & pages != 0
    }

    /// Takes every page that holds nothing in use away from the blocks, and returns which pages were
    /// taken: their memory may go now. They count as given back.
    pub(crate) fn take_free_pages(&self) -> PageSet {
        let page_size = sysmem::page_size();
        let (len, block_size) = (self.len.get(), self.block_size.get() as usize);
        debug_assert!(len / page_size <= MOST);
        let gone = self.given_back.get();
        let used_up_to = self.offset(self.bump.get());
        let used = self.used() as usize * block_size;
        if len - used < page_size {
            return 0;
        }
        // How much of each page is free.
        let mut free = [0_u32; MOST];
        let mut add = |from: usize, end: usize| {
            let mut at = from;
            while at < end {
                let next = (at / page_size + 1) * page_size;
                free[at / page_size] += (next.min(end) - at) as u32;
                at = next;
            }
        };
        let mut block = self.free.get();
        while !block.is_null() {
            let offset = self.offset(block.cast());
            add(offset, offset + block_size);
            // SAFETY: a free block of the list, which holds the next one.
            block = unsafe { (*block).next.get() };
        }
        if gone != 0 {
            for offset in (0..used_up_to).step_by(block_size) {
                if self.touches(offset, gone, page_size) {
                    add(offset, offset + block_size);
                }
            }
        }
        // What was never used is in memory only if it was another's before. The tail is no block's.
        if !self.zeroed.get() || self.bump.get() == self.blocks_end() {
            add(used_up_to, len);
        }
        let mut taken = 0;
        for (page, &free) in free[..len / page_size].iter().enumerate() {
            if free as usize == page_size {
                taken |= 1 << page;
            }
        }
        taken &= !gone;
        if taken != 0 {
            self.take_off(taken, page_size);
        }
        taken
    }

    fn take_off(&self, taken: PageSet, page_size: usize) {
        self.given_back.set(self.given_back.get() | taken);
        let mut kept: *mut Block = ptr::null_mut();
        let mut block = self.free.get();
        self.free.set(ptr::null_mut());
        while !block.is_null() {
            // SAFETY: a free block of the list, as is the last one that was kept.
            unsafe {
                let next = (*block).next.get();
                if !self.touches(self.offset(block.cast()), taken, page_size) {
                    match kept.as_ref() {
                        None => self.free.set(block),
                        Some(kept) => kept.next.set(block),
                    }
                    kept = block;
                    (*block).next.set(ptr::null_mut());
                }
                block = next;
            }
        }
        self.limit_bump(page_size);
    }

    /// Has the blocks that were never used end before the first page that is given back.
    fn limit_bump(&self, page_size: usize) {
        let at = self.offset(self.bump.get());
        // A block that was never used and the ones before share the page it begins on.
        let ahead =
            self.given_back.get() & PageSet::MAX.checked_shl((at / page_size) as u32).unwrap_or(0);
        if ahead == 0 {
            return self.bump_end.set(self.blocks_end());
        }
        let first = ahead.trailing_zeros() as usize * page_size;
        let block_size = self.block_size.get() as usize;
        let room = first.saturating_sub(at) / block_size * block_size;
        let end = self.bump.get().wrapping_add(room);
        self.bump_end.set(end.min(self.blocks_end()));
    }

    /// Brings back some of the pages that were given back, and the blocks on them; whether there
    /// were any and the system had the memory.
    pub(crate) fn use_some_again(&self) -> bool {
        let gone = self.given_back.get();
        if gone == 0 {
            return false;
        }
        // The first run of pages: blocks across its ends are not in use, so that what they touch
        // beside it was given back with it, or is still there.
        let first = gone.trailing_zeros();
        let run = (gone >> first).trailing_ones();
        let again = (PageSet::MAX >> (MOST as u32 - run)) << first;
        self.use_again(again)
    }

    /// Brings back all pages that were given back, without their blocks, because no block will be
    /// taken any more; whether the system had the memory.
    pub(crate) fn use_all_again(&self) -> bool {
        let gone = self.given_back.get();
        if gone != 0 && !self.make_ready(gone) {
            return false;
        }
        self.given_back.set(0);
        true
    }

    fn use_again(&self, again: PageSet) -> bool {
        let ready = self.make_ready(again);
        if ready {
            self.bring_back(again);
        }
        ready
    }

    /// Asks for the memory of pages that were given back. What came before a refusal is brought
    /// back.
    fn make_ready(&self, again: PageSet) -> bool {
        let page_size = sysmem::page_size();
        let mut done = 0;
        for range in ranges(self, again) {
            // SAFETY: the pages were given back, and the span is the caller's.
            if unsafe { PAGES.use_again(range) }.is_err() {
                if done != 0 {
                    self.bring_back(done);
                }
                return false;
            }
            let offset = self.offset(range.start);
            done |= self.pages_of(offset, offset + range.len, page_size);
        }
        true
    }

    /// Brings back what the system refused to take.
    pub(crate) fn keep(&self, range: PageRange) {
        let offset = self.offset(range.start);
        self.bring_back(self.pages_of(offset, offset + range.len, sysmem::page_size()));
    }

    /// Puts the blocks of these pages back into the list, as far as they touch no other page that is
    /// given back.
    fn bring_back(&self, again: PageSet) {
        let page_size = sysmem::page_size();
        let left = self.given_back.get() & !again;
        self.given_back.set(left);
        let block_size = self.block_size.get() as usize;
        let used_up_to = self.offset(self.bump.get());
        // From the highest address down, so that the lowest is used first.
        let end = ((MOST - again.leading_zeros() as usize) * page_size).min(used_up_to);
        let mut number = end.div_ceil(block_size).min(used_up_to / block_size);
        let from = again.trailing_zeros() as usize * page_size / block_size;
        while number > from {
            number -= 1;
            let offset = number * block_size;
            if self.touches(offset, again, page_size) && !self.touches(offset, left, page_size) {
                let block: *mut Block = self.start.get().wrapping_add(offset).cast();
                // SAFETY: a block that is not in use and in no list: it touched a page that was given
                // back, and is memory again.
                unsafe { (*block).next.set(self.free.get()) };
                self.free.set(block);
            }
        }
        self.limit_bump(page_size);
    }
}

/// The ranges that pages of a span are.
pub(crate) fn ranges(span: &Span, pages: PageSet) -> impl Iterator<Item = PageRange> {
    let (start, page_size) = (span.start.get(), sysmem::page_size());
    let mut left = pages;
    core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let first = left.trailing_zeros();
        let len = (left >> first).trailing_ones();
        left &= !((PageSet::MAX >> (MOST as u32 - len)) << first);
        let start = start.wrapping_add(first as usize * page_size);
        Some(PageRange::new(start, len as usize * page_size))
    })
}
