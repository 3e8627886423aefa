//! Blocks of a heap that other threads free: a list that anyone adds to and the heap takes whole.
//!
//! A thread does not add each small block by itself. The first one it frees becomes a parcel: its memory,
//! which nobody uses any more, holds the addresses of those that follow, and it is added when it is full,
//! or when the next block is another heap's. So there is one atomic operation for many blocks, and who
//! takes them in need not wait for the memory of each, which is in another processor's cache, to learn
//! where the next one is.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::*};

use super::ThreadHeap;
use crate::span::{Block, Span};
use crate::{lifecycle, misuse, page_map};

/// What a block in the list holds, if it is at least [`LEAST`](Parcel::LEAST) bytes long.
#[repr(C)]
struct Parcel {
    block: Block,
    /// How many addresses follow.
    len: Cell<usize>,
    first: Cell<*mut Block>,
}

impl Parcel {
    /// The shortest block that is a parcel, in bytes.
    const LEAST: usize = 32;

    /// The most addresses in one.
    const MOST: usize = 30;

    /// The longest block that waits in a parcel, in bytes: so that little memory does.
    const LONGEST: usize = 1024;

    fn room(block_size: usize) -> usize {
        ((block_size - size_of::<Block>() - size_of::<usize>()) / size_of::<usize>())
            .min(Parcel::MOST)
    }

    /// The address of a number, which is less than the room for them.
    fn address(&self, number: usize) -> &Cell<*mut Block> {
        // SAFETY: the block is so long; nobody else uses its memory.
        unsafe { &*ptr::from_ref(&self.first).wrapping_add(number) }
    }
}

/// The parcel that a thread is filling.
pub(super) struct Outgoing {
    /// Null if there is none. Read by others, to know whether there is.
    parcel: AtomicPtr<Parcel>,
    /// How many more addresses it holds.
    room: Cell<usize>,
    to: Cell<*const ThreadHeap>,
}

impl Outgoing {
    pub(super) const fn new() -> Outgoing {
        Outgoing {
            parcel: AtomicPtr::new(ptr::null_mut()),
            room: Cell::new(0),
            to: Cell::new(ptr::null()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parcel.load(Relaxed).is_null()
    }
}

impl ThreadHeap {
    /// Sends what this heap's thread freed of others, and takes in what other threads freed.
    pub(crate) fn collect(&self) {
        self.send();
        if self.has_collected() {
            self.collect_some(usize::MAX);
        }
    }

    /// Whether there may be blocks to take in.
    pub(super) fn has_collected(&self) -> bool {
        !self.shared.remote.load(Relaxed).is_null() || !self.collected.get().is_null()
    }

    /// Takes in the blocks that other threads freed, about `limit` of them; whether there are more.
    pub(super) fn collect_some(&self, mut limit: usize) -> bool {
        let mut next = self.collected.get();
        loop {
            if next.is_null() {
                next = self.shared.remote.swap(ptr::null_mut(), Acquire);
            }
            // SAFETY: the list holds free blocks, linked by whoever freed them.
            let Some(block) = (unsafe { next.as_ref() }) else { break };
            if limit == 0 {
                break;
            }
            next = block.next.get();
            let span = page_map::find(ptr::from_ref(block).cast_mut().cast());
            if span.block_size.get() as usize >= Parcel::LEAST {
                // SAFETY: so long a block of the list is a parcel.
                let parcel = unsafe { &*ptr::from_ref(block).cast::<Parcel>() };
                let len = parcel.len.get().min(Parcel::MOST);
                for number in 0..len {
                    let block = parcel.address(number).get();
                    self.take_in(block, page_map::find(block.cast()));
                }
                limit = limit.saturating_sub(len);
            }
            self.take_in(ptr::from_ref(block).cast_mut(), span);
            limit = limit.saturating_sub(1);
        }
        self.collected.set(next);
        !next.is_null()
    }

    /// Takes in a block of a span, which was found to be ours when the block was freed, and is there as
    /// long as the block counts as used in it.
    #[inline]
    fn take_in(&self, block: *mut Block, span: &Span) {
        // What lies in a freed block and was written over since may lead anywhere.
        let shelf = self.shelves.get(span.class.get() as usize);
        let Some(shelf) = shelf.filter(|_| ptr::eq(span.owner.get(), self)) else {
            misuse::not_ours("free", block.cast());
        };
        shelf.watch.note_change();
        self.search.begin_class_anew();
        // SAFETY: the block is free, and was handed out from this span.
        if unsafe { span.put_back(block.cast()) } {
            self.sort_in(span, block.cast());
        }
    }

    /// Whether blocks that other threads freed wait to be taken in.
    pub(crate) fn has_remote(&self) -> bool {
        !self.shared.remote.load(SeqCst).is_null()
    }

    /// Hands a block of another heap to that, now or with some more. The caller has this one.
    ///
    /// # Safety
    ///
    /// `block` was handed out from `span`, which `owner` owns, and nobody uses it.
    #[inline]
    pub(crate) unsafe fn free_to(&self, owner: &ThreadHeap, block: *mut u8, span: &Span) {
        let (block, block_size): (*mut Block, _) = (block.cast(), span.block_size.get() as usize);
        let outgoing = &self.outgoing;
        // SAFETY: the parcel is a free block that nobody else knows of.
        let parcel = unsafe { outgoing.parcel.load(Relaxed).as_ref() };
        if let Some(filling) = parcel.filter(|_| ptr::eq(outgoing.to.get(), owner)) {
            let len = filling.len.get();
            let last = match len {
                0 => ptr::from_ref(&filling.block),
                len => filling.address(len - 1).get(),
            };
            if ptr::eq(last, block) {
                misuse::double_free(block.cast());
            }
            if outgoing.room.get() > 0 && block_size <= Parcel::LONGEST {
                filling.address(len).set(block);
                filling.len.set(len + 1);
                outgoing.room.set(outgoing.room.get() - 1);
                return;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.free_to_anew(owner, block, span) }
    }

    /// # Safety
    ///
    /// As for [`free_to`](ThreadHeap::free_to).
    #[inline(never)]
    unsafe fn free_to_anew(&self, owner: &ThreadHeap, block: *mut Block, span: &Span) {
        let block_size = span.block_size.get() as usize;
        if !(Parcel::LEAST..=Parcel::LONGEST).contains(&block_size) {
            // SAFETY: the caller's promise.
            unsafe { owner.free_remote(block.cast(), span) };
            return lifecycle::tidy(owner);
        }
        self.send();
        // SAFETY: the block is long enough, and nobody's but this thread's.
        unsafe { (*block.cast::<Parcel>()).len.set(0) };
        self.outgoing.to.set(owner);
        self.outgoing.room.set(Parcel::room(block_size));
        self.outgoing.parcel.store(block.cast(), Relaxed);
    }

    /// Sends the parcel that is being filled to its heap, if there is one.
    pub(super) fn send(&self) {
        let parcel = self.outgoing.parcel.load(Relaxed);
        if !parcel.is_null() {
            self.outgoing.parcel.store(ptr::null_mut(), Relaxed);
            // SAFETY: heaps live forever.
            let owner = unsafe { &*self.outgoing.to.get() };
            owner.add_remote(parcel.cast());
            lifecycle::tidy(owner);
        }
    }

    /// Hands a block of this heap back from another thread.
    ///
    /// # Safety
    ///
    /// `block` was handed out from `span`, which this heap owns, and nobody uses it.
    pub(crate) unsafe fn free_remote(&self, block: *mut u8, span: &Span) {
        if span.block_size.get() as usize >= Parcel::LEAST {
            // SAFETY: the block is long enough, and nobody's but this thread's.
            unsafe { (*block.cast::<Parcel>()).len.set(0) };
        }
        self.add_remote(block.cast());
    }

    /// Adds a block that nobody else knows of, with what it holds.
    fn add_remote(&self, block: *mut Block) {
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

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use crate::{allocate, free};

    #[test]
    fn blocks_wait_in_a_parcel_until_it_is_sent_and_all_of_them_come_back() {
        for size in [8, 16, 32, 100, 1000, 1024, 2000] {
            let blocks: Vec<usize> =
                (0..75).map(|_| allocate(size, 8).expose_provenance()).collect();
            let spans: Vec<&Span> = blocks.iter().fold(Vec::new(), |mut spans, &block| {
                let span = page_map::find(ptr::with_exposed_provenance_mut(block));
                if !spans.iter().any(|&other| ptr::eq(other, span)) {
                    spans.push(span);
                }
                spans
            });
            let used = || spans.iter().map(|span| span.used()).sum::<i32>();
            let before = used();
            let freed = blocks.clone();
            let other = std::thread::spawn(move || {
                // The first allocation gives the thread a heap.
                // SAFETY: allocated here, and the blocks are this thread's now.
                unsafe {
                    free(allocate(1, 1));
                    freed.into_iter().for_each(|it| free(ptr::with_exposed_provenance_mut(it)));
                }
                let waits = |heap: &ThreadHeap| !heap.outgoing.is_empty();
                let before = lifecycle::with_own_heap(waits);
                // What the scavenger does.
                lifecycle::with_own_heap(|heap| heap.give_back_some());
                (before, lifecycle::with_own_heap(waits))
            });
            let is_packed = (Parcel::LEAST..=Parcel::LONGEST).contains(&size);
            assert_eq!(other.join().unwrap(), (Some(is_packed), Some(false)), "{size}");
            assert_eq!(used(), before, "{size}");
            lifecycle::with_own_heap(ThreadHeap::collect);
            assert_eq!(used(), before - 75, "{size}");
        }
    }
}
