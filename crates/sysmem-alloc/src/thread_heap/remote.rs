//! Blocks of a heap that other threads free: a list that anyone adds to and the heap takes whole.

use core::ptr;
use core::sync::atomic::Ordering::*;

use super::ThreadHeap;
use crate::span::Block;
use crate::{misuse, page_map};

impl ThreadHeap {
    /// Takes in the blocks that other threads freed.
    pub(crate) fn collect(&self) {
        if !self.shared.remote.load(Relaxed).is_null() || !self.collected.get().is_null() {
            self.collect_some(usize::MAX);
        }
    }

    /// Takes in at most `limit` blocks that other threads freed; whether there are more.
    pub(super) fn collect_some(&self, mut limit: usize) -> bool {
        let mut block = self.collected.get();
        loop {
            if block.is_null() {
                block = self.shared.remote.swap(ptr::null_mut(), Acquire);
            }
            if block.is_null() || limit == 0 {
                self.collected.set(block);
                return !block.is_null();
            }
            limit -= 1;
            // SAFETY: the list holds free blocks, linked by whoever freed them. Each was found to be
            // in a span of ours when it was freed, and the span is there as long as the block counts
            // as used in it.
            unsafe {
                let next = (*block).next.get();
                let span = page_map::find(block.cast());
                self.shelves[span.class.get() as usize].watch.note_change();
                self.search.begin_class_anew();
                if span.put_back(block.cast()) {
                    self.sort_in(span, block.cast());
                }
                block = next;
            }
        }
    }

    /// Whether blocks that other threads freed wait to be taken in.
    pub(crate) fn has_remote(&self) -> bool {
        !self.shared.remote.load(SeqCst).is_null()
    }

    /// Hands a block of this heap back from another thread.
    ///
    /// # Safety
    ///
    /// `block` was handed out from a span that this heap owns, and nobody uses it.
    pub(crate) unsafe fn free_remote(&self, block: *mut u8) {
        let block: *mut Block = block.cast();
        let mut first = self.shared.remote.load(Relaxed);
        loop {
            if first == block {
                misuse::double_free(block.cast());
            }
            // SAFETY: the block is nobody's but this thread's until it is in the list.
            unsafe { (*block).next.set(first) };
            // SeqCst: either this thread sees that the heap has become idle, or the thread that
            // leaves it sees the block (`lifecycle::leave`).
            match self.shared.remote.compare_exchange_weak(first, block, SeqCst, Relaxed) {
                Ok(_) => return,
                Err(newer) => first = newer,
            }
        }
    }
}
