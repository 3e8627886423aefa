//! The part of a cache that has no lock: stacks of slots, each of which holds one run or nothing.
//!
//! Only the owner of a cache fills slots. Owner and drainer empty them by exchanging what is there
//! for nothing, so that each run goes to one of them. The owner remembers how many slots it filled
//! and has not emptied; the slots above are empty, those below may have been emptied by a drainer.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering::*};

/// A run of a cache whose length is known from where it lies: its address, which is odd if every
/// byte of the run is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cached(NonNull<u8>);

impl Cached {
    #[inline]
    pub(crate) fn new(start: NonNull<u8>, zeroed: bool) -> Cached {
        Cached(start.map_addr(|address| address | zeroed as usize))
    }

    #[inline]
    pub(crate) fn start(self) -> NonNull<u8> {
        let start = self.0.as_ptr().map_addr(|address| address & !1);
        // SAFETY: a page is not at address zero, nor at one.
        unsafe { NonNull::new_unchecked(start) }
    }

    #[inline]
    pub(crate) fn zeroed(self) -> bool {
        self.0.addr().get() & 1 != 0
    }
}

/// Room for one run: an atomic pointer, or a model of one.
pub(crate) trait Slot {
    /// What lies here, for a look.
    fn look(&self) -> Option<Cached>;
    /// Fills an empty slot.
    fn put(&self, run: Cached);
    /// Empties the slot.
    fn take(&self) -> Option<Cached>;
}

impl Slot for AtomicPtr<u8> {
    #[inline]
    fn look(&self) -> Option<Cached> {
        NonNull::new(self.load(Relaxed)).map(Cached)
    }

    #[inline]
    fn put(&self, run: Cached) {
        // What this thread did to the run's memory comes before what the next one does.
        self.store(run.0.as_ptr(), Release);
    }

    #[inline]
    fn take(&self) -> Option<Cached> {
        NonNull::new(self.swap(ptr::null_mut(), Acquire)).map(Cached)
    }
}

/// The owner takes the run that it put last, of those that are left.
#[inline]
pub(crate) fn pop(slots: &[impl Slot], filled: &mut u8) -> Option<Cached> {
    while *filled > 0 {
        *filled -= 1;
        if let Some(run) = slots[*filled as usize].take() {
            return Some(run);
        }
    }
    None
}

/// The owner puts a run on top; there is room.
#[inline]
pub(crate) fn push(slots: &[impl Slot], filled: &mut u8, run: Cached) {
    slots[*filled as usize].put(run);
    *filled += 1;
}

/// The owner takes out the `count` slots that were filled first, and moves the others down.
pub(crate) fn take_oldest(
    slots: &[impl Slot],
    filled: &mut u8,
    count: u8,
    mut take: impl FnMut(Cached),
) {
    let count = count.min(*filled);
    slots[..count as usize].iter().filter_map(Slot::take).for_each(&mut take);
    let rest = count as usize..*filled as usize;
    *filled = 0;
    for slot in &slots[rest] {
        if let Some(run) = slot.take() {
            push(slots, filled, run);
        }
    }
}

/// Anybody takes what is there.
pub(crate) fn take_all(slots: &[impl Slot], take: impl FnMut(Cached)) {
    // Most slots are empty, and an exchange takes the slot's cache line from its owner.
    let filled = slots.iter().filter(|slot| slot.look().is_some());
    filled.filter_map(Slot::take).for_each(take);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A slot for [`loom`], which tries every order in which its threads can go on.
    struct Modelled(loom::sync::atomic::AtomicPtr<u8>);

    impl Slot for Modelled {
        fn look(&self) -> Option<Cached> {
            NonNull::new(self.0.load(Relaxed)).map(Cached)
        }

        /// An exchange whose answer is that the slot was empty. With a plain store, loom (0.7) lets
        /// an exchange of the other thread that found the slot empty come after the store all the
        /// same, which no exchange may: it reads what is last before it.
        fn put(&self, run: Cached) {
            assert!(self.0.swap(run.0.as_ptr(), Release).is_null());
        }

        fn take(&self) -> Option<Cached> {
            NonNull::new(self.0.swap(ptr::null_mut(), Acquire)).map(Cached)
        }
    }

    /// Runs are numbers from 1 on; each has memory that whoever has the run writes to, so that loom
    /// tells when two have it at once or one has it before the other's writes are seen.
    struct Heap {
        slots: Vec<Modelled>,
        memory: Vec<loom::cell::UnsafeCell<u32>>,
        /// Runs that went back, as under the heap's lock.
        free: loom::sync::Mutex<Vec<usize>>,
    }

    impl Heap {
        fn new(slots: usize, runs: usize) -> Heap {
            let slot = || Modelled(loom::sync::atomic::AtomicPtr::new(ptr::null_mut()));
            Heap {
                slots: (0..slots).map(|_| slot()).collect(),
                memory: (0..runs).map(|_| loom::cell::UnsafeCell::new(0)).collect(),
                free: loom::sync::Mutex::new(Vec::new()),
            }
        }

        fn run(number: usize) -> Cached {
            Cached::new(NonNull::new(ptr::without_provenance_mut(number * 16)).unwrap(), false)
        }

        /// Uses a run's memory; its number.
        fn use_memory(&self, run: Cached) -> usize {
            let number = run.start().addr().get() / 16;
            // SAFETY: loom tells if another thread is here too.
            self.memory[number - 1].with_mut(|memory| unsafe { *memory += 1 });
            number
        }

        fn take_back(&self, run: Cached) {
            let number = self.use_memory(run);
            self.free.lock().unwrap().push(number);
        }
    }

    /// An owner does what `work` says, beside threads that drain. Afterwards every run is in one
    /// place.
    fn model(
        runs: usize,
        drainers: usize,
        work: impl Fn(&Heap, &mut u8) -> Vec<usize> + Send + Sync + Copy + 'static,
    ) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let heap = loom::sync::Arc::new(Heap::new(3, runs));
            let drainers: Vec<_> = (0..drainers)
                .map(|_| {
                    let heap = heap.clone();
                    loom::thread::spawn(move || take_all(&heap.slots, |run| heap.take_back(run)))
                })
                .collect();
            let mut filled = 0;
            let mut found = work(&heap, &mut filled);
            for drainer in drainers {
                drainer.join().unwrap();
            }
            let cached = heap.slots[..filled as usize].iter().filter_map(Slot::look);
            found.extend(cached.map(|run| run.start().addr().get() / 16));
            assert!(heap.slots[filled as usize..].iter().all(|slot| slot.look().is_none()));
            found.extend(heap.free.lock().unwrap().iter());
            found.sort();
            assert_eq!(found, (1..=runs).collect::<Vec<_>>());
        });
    }

    fn put(heap: &Heap, filled: &mut u8, number: usize) {
        heap.use_memory(Heap::run(number));
        push(&heap.slots, filled, Heap::run(number));
    }

    #[test]
    fn no_order_of_steps_of_owner_and_drainer_loses_a_run_or_hands_it_out_twice() {
        model(3, 1, |heap, filled| {
            put(heap, filled, 1);
            put(heap, filled, 2);
            let mut held: Vec<_> = pop(&heap.slots, filled).into_iter().collect();
            held.iter().for_each(|&run| assert_ne!(heap.use_memory(run), 0));
            put(heap, filled, 3);
            held.extend(pop(&heap.slots, filled));
            held.extend(pop(&heap.slots, filled));
            held.into_iter().map(|run| heap.use_memory(run)).collect()
        });
    }

    #[test]
    fn no_order_of_steps_loses_a_run_while_others_move_down() {
        model(4, 1, |heap, filled| {
            (1..=3).for_each(|number| put(heap, filled, number));
            take_oldest(&heap.slots, filled, 1, |run| heap.take_back(run));
            put(heap, filled, 4);
            pop(&heap.slots, filled).into_iter().map(|run| heap.use_memory(run)).collect()
        });
    }

    #[test]
    fn two_drainers_and_the_owner_share_what_is_there() {
        model(2, 2, |heap, filled| {
            put(heap, filled, 1);
            put(heap, filled, 2);
            pop(&heap.slots, filled).into_iter().map(|run| heap.use_memory(run)).collect()
        });
    }

    #[test]
    fn whether_a_run_is_zero_is_kept_with_its_address() {
        let start = NonNull::new(ptr::without_provenance_mut(8192)).unwrap();
        for zeroed in [false, true] {
            let run = Cached::new(start, zeroed);
            assert_eq!((run.start(), run.zeroed()), (start, zeroed));
        }
    }
}
