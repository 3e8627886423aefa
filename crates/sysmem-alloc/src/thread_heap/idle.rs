//! What a heap has that it does not need: seen from outside, and taken from it while nothing happens.
//!
//! A class is quiet when two looks in a row find that no block of it was allocated or freed since the
//! look before. Then its empty span goes to the page heap, and the free pages inside its other spans
//! go to the system (`trim`). The looks read counters only and may come from any thread; the rest is
//! for who has the heap.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

use sysmem::{Error, PageRange};

use super::{Bin, Shelf, ThreadHeap};
use crate::page_map::NOTHING;
use crate::span::{Listing, Span};
use crate::{PAGES, page_map, size_class, trim};

/// How many looks must find a class unchanged before it is quiet.
const QUIET_LOOKS: u64 = 2;
/// Nothing is left to be done for the class until it changes.
const DONE: u64 = 3;

/// How often a class was used when it was last looked at, and how many looks found that unchanged.
pub(super) struct Watch(AtomicU64);

impl Watch {
    pub(super) const fn new() -> Watch {
        Watch(AtomicU64::new(DONE))
    }

    /// For changes that no counter of the class tells of.
    pub(super) fn note_change(&self) {
        self.0.store(u64::MAX, Relaxed);
    }
}

/// What a look found.
#[derive(Clone, Copy, Default)]
pub(crate) struct Look {
    /// Something was used since the look before, or so short ago that it is not quiet yet.
    pub astir: bool,
    /// There is memory to be given back, perhaps.
    pub quiet: bool,
}

/// How far a search through the spans of a heap has come.
pub(super) struct Search {
    /// Whether there is something to search for. Written by looks only, and by who has the heap.
    wanted: AtomicU32,
    class: Cell<usize>,
    /// The next span of the class; null for its current one.
    span: Cell<*mut Span>,
    /// What the class looked like when that was the next one.
    seen: Cell<u64>,
}

impl Search {
    pub(super) const fn new() -> Search {
        Search {
            wanted: AtomicU32::new(0),
            class: Cell::new(0),
            span: Cell::new(ptr::null_mut()),
            seen: Cell::new(0),
        }
    }

    /// For who changed the lists of spans.
    pub(super) fn begin_class_anew(&self) {
        self.span.set(ptr::null_mut());
    }
}

/// The ranges of one call to the system: two KiB on the stack.
const BATCH: usize = 128;

/// What is done before whoever waits for the heap gets it.
const SPANS_AT_A_TIME: usize = 64;
const BLOCKS_AT_A_TIME: usize = 4096;

/// How a part of the work ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// There is more.
    More,
    Finished,
    /// The system did not take the memory.
    Refused,
}

impl Shelf {
    fn activity(&self, bin: &Bin) -> u64 {
        bin.allocations(self).wrapping_add(bin.frees.get()) & u64::MAX >> 2
    }

    /// One more look at the class.
    fn look(&self, bin: &Bin) -> Look {
        let (before, activity) = (self.watch.0.load(Relaxed), self.activity(bin));
        let looks = match before & 3 {
            _ if before >> 2 != activity || before == u64::MAX => 0,
            DONE => return Look::default(),
            looks => (looks + 1).min(QUIET_LOOKS),
        };
        // What changes meanwhile is seen by the next look.
        let _ = self.watch.0.compare_exchange(before, activity << 2 | looks, Relaxed, Relaxed);
        Look { astir: looks < QUIET_LOOKS, quiet: looks == QUIET_LOOKS }
    }

    fn is_quiet(&self, bin: &Bin) -> bool {
        self.watch.0.load(Relaxed) == self.activity(bin) << 2 | QUIET_LOOKS
    }

    fn set_done(&self, bin: &Bin) {
        self.watch.0.store(self.activity(bin) << 2 | DONE, Relaxed);
    }
}

impl ThreadHeap {
    /// Looks at what the thread did since the last look.
    pub(crate) fn look(&self) -> Look {
        let mut all = Look::default();
        for (bin, shelf) in self.bins.iter().zip(&self.shelves) {
            let look = shelf.look(bin);
            all.astir |= look.astir;
            all.quiet |= look.quiet;
        }
        // An idle thread does not take in what others freed.
        let waits = !self.shared.remote.load(Relaxed).is_null() || !self.outgoing.is_empty();
        all.quiet |= !all.astir && waits;
        self.search.wanted.store(all.quiet.into(), Relaxed);
        all
    }

    /// Whether the last look found something that was not seen to since.
    pub(crate) fn wants_search(&self) -> bool {
        self.search.wanted.load(Relaxed) != 0
    }

    /// Leaves what there is to be done to the next look.
    pub(crate) fn postpone_search(&self) {
        self.search.wanted.store(0, Relaxed);
    }

    /// Takes in what other threads freed, and gives back what quiet classes do not need: a part of
    /// it. The caller has the heap.
    pub(crate) fn give_back_some(&self) -> Part {
        self.send();
        if self.collect_some(BLOCKS_AT_A_TIME) {
            return Part::More;
        }
        let mut batch = Batch { ranges: [PageRange::new(ptr::null_mut(), 0); BATCH], len: 0 };
        let mut spans = SPANS_AT_A_TIME;
        let mut finished = true;
        while let Some(bin) = self.bins.get(self.search.class.get()) {
            let shelf = &self.shelves[self.search.class.get()];
            if shelf.is_quiet(bin) && !self.search_class(bin, shelf, &mut spans, &mut batch) {
                finished = false;
                break;
            }
            self.search.span.set(ptr::null_mut());
            self.search.class.set(self.search.class.get() + 1);
        }
        if finished {
            self.search.class.set(0);
            self.search.wanted.store(0, Relaxed);
        }
        if self.give_back(&batch).is_err() {
            return Part::Refused;
        }
        if finished { Part::Finished } else { Part::More }
    }

    /// Searches a quiet class; whether it came to its end.
    fn search_class(&self, bin: &Bin, shelf: &Shelf, spans: &mut usize, batch: &mut Batch) -> bool {
        let seen = shelf.watch.0.load(Relaxed);
        if self.search.span.get().is_null() || self.search.seen.replace(seen) != seen {
            let current = bin.current.get();
            // SAFETY: a current span is one of ours, or `NOTHING`.
            let span = unsafe { &*current };
            if !ptr::eq(current, NOTHING) {
                if span.used() == 0 {
                    self.set_current(span.class.get() as usize, NOTHING);
                    self.release(span);
                } else {
                    batch.take_from(span);
                }
            }
            self.search.span.set(shelf.available.get());
        }
        // SAFETY: spans in lists are ours. The class was not used since the search came to this one.
        while let Some(span) = unsafe { self.search.span.get().as_ref() } {
            if *spans == 0 || batch.is_full() {
                return false;
            }
            *spans -= 1;
            let next = span.next.get();
            batch.take_from(span);
            if !span.has_free() {
                self.unlink(span);
                self.link(span, Listing::Trimmed);
            }
            self.search.span.set(next);
            if next.is_null() {
                break;
            }
        }
        shelf.set_done(bin);
        true
    }

    /// Gives a batch to the system, as far as it takes it.
    fn give_back(&self, batch: &Batch) -> Result<(), Error> {
        let kept = |range: PageRange| {
            let span = page_map::find(range.start);
            span.keep(range);
            if span.listing() == Listing::Trimmed && span.has_free() {
                self.unlink(span);
                self.link(span, Listing::Available);
            }
        };
        // SAFETY: the pages were taken from spans of ours, and nothing on them is in use.
        unsafe { PAGES.give_back_in_use(&batch.ranges[..batch.len], kept) }
    }

    /// What the scavenger does for heaps whose threads are idle, where it cannot reach them: a look,
    /// and a part of the work, by the heap's own thread.
    #[cold]
    pub(super) fn look_after_itself(&self) {
        if self.look().quiet {
            let _ = self.give_back_some();
        }
    }
}

struct Batch {
    ranges: [PageRange; BATCH],
    len: usize,
}

impl Batch {
    /// Whether the pages of one more span might not find room: every second one of them, at most.
    fn is_full(&self) -> bool {
        self.len > BATCH - u64::BITS as usize / 2
    }

    fn take_from(&mut self, span: &Span) {
        for range in trim::ranges(span, span.take_free_pages()) {
            self.ranges[self.len] = range;
            self.len += 1;
        }
    }
}

const _: () = assert!(size_class::LONGEST_SPAN <= u64::BITS as usize * 4096);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::sync::Mutex;
    use std::vec::Vec;

    use super::Part;
    use crate::{PAGES, allocate, free, lifecycle};

    struct Block {
        address: *mut u8,
        size: usize,
        mark: u8,
    }

    impl Block {
        fn new(size: usize, mark: u8) -> Block {
            let address = allocate(size, 8);
            assert!(!address.is_null());
            // SAFETY: the block is ours and that long.
            unsafe { address.write_bytes(mark, size) };
            Block { address, size, mark }
        }

        fn check_and_free(self) {
            // SAFETY: the block is ours, that long, and written to.
            let bytes = unsafe { core::slice::from_raw_parts(self.address, self.size) };
            assert!(bytes.iter().all(|&byte| byte == self.mark), "{} bytes", self.size);
            // SAFETY: the block is ours and not used any more.
            unsafe { free(self.address) };
        }
    }

    /// What the scavenger does for an idle thread, done by the thread.
    fn idle_for_a_while() {
        lifecycle::with_own_heap(|heap| {
            for _ in 0..4 {
                heap.look();
                while heap.wants_search() {
                    assert!(heap.give_back_some() != Part::Refused);
                }
            }
        });
    }

    /// The figures are those of the process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn given_back() -> u64 {
        PAGES.statistics().in_use_given_back
    }

    #[test]
    fn what_lives_stays_as_it_is_while_free_pages_around_it_go_and_come_again() {
        let _alone = ONE_AT_A_TIME.lock().unwrap();
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            (state >> 33) as usize % below
        };
        let mut blocks = Vec::new();
        let mut most = 0;
        for round in 0..60 {
            for _ in 0..400 {
                let size = match random(8) {
                    0..5 => 1 + random(600),
                    5..7 => 1 + random(5000),
                    _ => 1 + random(crate::size_class::LARGEST),
                };
                blocks.push(Block::new(size, random(256) as u8));
            }
            let keep = [200, 50, 1500][round % 3];
            while blocks.len() > keep {
                let chosen = random(blocks.len());
                blocks.swap_remove(chosen).check_and_free();
            }
            idle_for_a_while();
            most = most.max(given_back());
            PAGES.verify().unwrap();
        }
        assert!(most > 1 << 20, "{most}");
        for block in blocks {
            block.check_and_free();
        }
        idle_for_a_while();
    }

    #[test]
    fn blocks_freed_by_another_thread_are_taken_in_while_the_owner_sleeps() {
        let _alone = ONE_AT_A_TIME.lock().unwrap();
        let blocks: Vec<usize> = (0..20_000).map(|_| allocate(500, 8) as usize).collect();
        let before = PAGES.statistics().in_use;
        std::thread::spawn(move || {
            // SAFETY: the blocks are the thread's now.
            blocks.into_iter().for_each(|block| unsafe { free(block as *mut u8) });
        })
        .join()
        .unwrap();
        assert!(PAGES.statistics().in_use + (1 << 20) > before);
        idle_for_a_while();
        assert!(PAGES.statistics().in_use + (8 << 20) < before);
    }
}
