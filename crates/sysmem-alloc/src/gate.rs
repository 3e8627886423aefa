//! Who may touch a heap: the thread that runs it, at the price of a few plain instructions, or now
//! and then the scavenger, at the price of two system calls.
//!
//! The thread says that it is at work (`busy`), then looks whether somebody else has the heap. Who
//! claims the heap says so first, then looks whether its thread is at work. Each writes one word and
//! reads the other, which is right only if neither read goes ahead of the write before it. A fence on
//! every allocation would cost as much as the allocation; instead the claimant has the system send
//! every thread through one ([`ThreadBarrier`]). After that either the thread sees the claim, or the
//! claimant sees that the thread is busy, and gives up: a heap at work is not idle.
//!
//! Most allocations and frees do not look at the claim, but at what they need anyway: the span to
//! allocate from, the owner to compare a span's with. These are shown at the gate, and hidden from the
//! thread once it can have been seen to respect the claim: it changes what is shown itself, but only
//! where it has looked at the claim before.
//!
//! The first test below tries all interleavings, with stores that wait in each processor's buffer as
//! long as they like.
//!
//! A thread that ends in the middle of its work, or a signal handler that never returns to it, leaves
//! the heap busy: nobody claims it then. A thread that finds its heap claimed waits; claims are short.
//!
//! [`ThreadBarrier`]: sysmem::ThreadBarrier

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::*, compiler_fence};

use sysmem::Os;

use crate::NATIVE;
use crate::page_map::NOTHING;
use crate::size_class::{self, SMALL_SIZES};
use crate::span::Span;
use crate::thread_heap::ThreadHeap;

/// Nobody but its thread has the heap.
const OPEN: u32 = 0;
const CLAIMED: u32 = 1;
/// Claimed, and its thread waits.
const AWAITED: u32 = 2;
/// No heap at all.
const NO_HEAP: u32 = 3;

/// The owner of no span.
const NOBODY: *mut ThreadHeap = ptr::without_provenance_mut(1);

/// Where a heap begins. A thread that has no heap has a gate that never opens.
#[repr(C)]
pub(crate) struct Gate {
    /// Not zero while the thread is at work on its heap.
    busy: AtomicU32,
    claim: AtomicU32,
    /// The heap, as the owner of its spans; nobody while it is claimed.
    owner: AtomicPtr<ThreadHeap>,
    /// What the thread allocates from: the current span of the class of each small size; while the
    /// heap is claimed, spans without blocks.
    spans: [AtomicPtr<Span>; SMALL_SIZES],
}

/// The gate of threads that have no heap yet.
pub(crate) static UNBORN: Gate = Gate::with_claim(NO_HEAP);
/// The gate of threads that had a heap and must not get another: their destructors have run.
pub(crate) static DEAD: Gate = Gate::with_claim(NO_HEAP);

impl Gate {
    /// One that hides what is behind it.
    pub(crate) const fn new() -> Gate {
        Gate::with_claim(OPEN)
    }

    const fn with_claim(claim: u32) -> Gate {
        Gate {
            busy: AtomicU32::new(0),
            claim: AtomicU32::new(claim),
            owner: AtomicPtr::new(NOBODY),
            spans: [const { AtomicPtr::new(NOTHING.cast_mut()) }; SMALL_SIZES],
        }
    }

    /// Whether there is a heap behind it.
    pub(crate) fn leads_to_a_heap(&self) -> bool {
        self.claim.load(Relaxed) != NO_HEAP
    }

    #[inline(always)]
    fn begin(&self) {
        self.busy.store(1, Relaxed);
        // The processor's own order is the claimant's care.
        compiler_fence(SeqCst);
    }

    /// The heap's thread begins to work on it, if nobody else has it. If somebody has, or there is
    /// none, the work does not begin: [`enter_waiting`](Gate::enter_waiting).
    #[inline(always)]
    pub(crate) fn enter(&self) -> bool {
        self.begin();
        self.is_open()
    }

    /// Whether the work that was begun in another way may be any on the heap.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        // Acquire: what the claimant did to the heap.
        self.claim.load(Acquire) == OPEN
    }

    /// The heap's thread begins to work on its current span for blocks of this size, which is small.
    /// If the span has no block, the work does not begin.
    #[inline(always)]
    pub(crate) fn enter_for(&self, size: usize) -> &'static Span {
        self.begin();
        // Acquire: what the claimant did to the heap.
        let span = self.spans[size_class::index_of_small(size)].load(Acquire);
        // SAFETY: what is shown is one of the heap's current spans, or `NOTHING`; spans live forever.
        unsafe { &*span }
    }

    /// The heap's thread begins to work on this span, if it is one of the heap and nobody else has
    /// that. If not, the work does not begin.
    #[inline(always)]
    pub(crate) fn enter_as_owner_of(&self, span: &Span) -> bool {
        self.begin();
        // Acquire: what the claimant did to the heap.
        ptr::eq(self.owner.load(Acquire), span.owner.get())
    }

    /// The heap's thread begins to work on it, when nobody else has it any more.
    pub(crate) fn enter_waiting(&self) {
        while !self.enter() {
            self.leave();
            // Relaxed: `enter` looks again.
            let _ = self.claim.compare_exchange(CLAIMED, AWAITED, Relaxed, Relaxed);
            NATIVE.park(&self.claim, AWAITED, None);
        }
    }

    /// The heap's thread has finished its work. May be called in the middle of it, once nothing
    /// follows that touches the heap.
    #[inline(always)]
    pub(crate) fn leave(&self) {
        self.busy.store(0, Release);
    }

    /// Shows the owner of the heap's spans. As for what else is shown, the caller has the heap.
    pub(crate) fn show_owner(&self, heap: &ThreadHeap) {
        self.owner.store(ptr::from_ref(heap).cast_mut(), Release);
    }

    /// Shows the current span of a class, for the small sizes that are of it.
    pub(crate) fn show_span(&self, class: usize, span: *const Span) {
        for shown in &self.spans[size_class::small_indexes(class)] {
            shown.store(span.cast_mut(), Release);
        }
    }

    fn hide(&self) {
        self.owner.store(NOBODY, Relaxed);
        for shown in &self.spans {
            shown.store(NOTHING.cast_mut(), Relaxed);
        }
    }

    /// Takes the heap from its thread, unless that is at work. `barrier` sends all threads through a
    /// memory barrier, and says whether it did; `show` shows again what has to be hidden. One
    /// claimant at a time.
    pub(crate) fn claim(&self, barrier: impl Fn() -> bool, show: impl Fn()) -> bool {
        if self.busy.load(Relaxed) != 0 || self.claim.load(Relaxed) != OPEN {
            return false;
        }
        self.claim.store(CLAIMED, SeqCst);
        // Acquire: what the thread did to the heap.
        if barrier() && self.busy.load(Acquire) == 0 {
            // Nobody shows anything any more.
            self.hide();
            if barrier() && self.busy.load(Acquire) == 0 {
                return true;
            }
            show();
        }
        self.give_back();
        false
    }

    /// Gives the heap back to its thread, with everything shown.
    pub(crate) fn give_back(&self) {
        if self.claim.swap(OPEN, Release) == AWAITED {
            NATIVE.wake(&self.claim, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashSet;
    use std::vec::Vec;

    use super::{AWAITED, CLAIMED, Gate, OPEN};

    /// A thread that enters and leaves twice, a claimant that tries twice, and the memory between
    /// them: what the methods of [`Gate`] do, one access to memory a step. Stores of the thread wait
    /// in the buffer of its processor, in order, until the kernel of the model drains them.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Model {
        busy: u32,
        claim: u32,
        /// Whether the thread finds a span to work on without a look at the claim.
        shown: bool,
        /// Stores on their way to memory.
        buffer: Vec<Store>,
        thread: At,
        rounds_left: u32,
        claimant: By,
        tries_left: u32,
        parked: bool,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum Store {
        Busy(u32),
        Shown,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum At {
        Outside,
        /// About to look at the claim, or only at what is shown.
        Entering,
        Looking,
        /// Having looked at the claim: it may show another span.
        Inside,
        InsideOfSpan,
        TurnedAway,
        AboutToPark,
        Done,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum By {
        Outside,
        LookedOnce,
        Announced,
        Fenced,
        Hiding,
        Hidden,
        FencedAgain,
        Inside,
        Showing,
        GivingBack,
        Done,
    }

    /// How the claimant goes about it.
    #[derive(Clone, Copy)]
    struct Manner {
        fenced: bool,
        /// Whether it looks for the thread before it hides anything, too.
        in_two_steps: bool,
    }

    impl Model {
        const BEGIN: Model = Model {
            busy: 0,
            claim: OPEN,
            shown: true,
            buffer: Vec::new(),
            thread: At::Outside,
            rounds_left: 2,
            claimant: By::Outside,
            tries_left: 2,
            parked: false,
        };

        fn next_round(&mut self) {
            self.buffer.push(Store::Busy(0));
            self.rounds_left -= 1;
            self.thread = if self.rounds_left == 0 { At::Done } else { At::Outside };
        }

        fn next_try(&mut self) {
            self.tries_left -= 1;
            self.claimant = if self.tries_left == 0 { By::Done } else { By::Outside };
        }

        /// The oldest buffered store reaches memory.
        fn drain(&self) -> Option<Model> {
            let mut next = self.clone();
            (!next.buffer.is_empty()).then(|| {
                match next.buffer.remove(0) {
                    Store::Busy(busy) => next.busy = busy,
                    Store::Shown => next.shown = true,
                }
                next
            })
        }

        fn drain_all(&mut self) {
            while let Some(drained) = self.drain() {
                *self = drained;
            }
        }

        /// What the thread may do next.
        fn thread_steps(&self) -> Vec<Model> {
            let mut next = self.clone();
            match self.thread {
                At::Outside => {
                    next.buffer.push(Store::Busy(1));
                    let mut looking = next.clone();
                    looking.thread = At::Looking;
                    next.thread = At::Entering;
                    return Vec::from([next, looking]);
                }
                At::Entering if self.claim == OPEN => next.thread = At::Inside,
                At::Entering => next.thread = At::TurnedAway,
                At::Looking if self.shown || self.buffer.contains(&Store::Shown) => {
                    next.thread = At::InsideOfSpan;
                }
                At::Looking => {
                    next.buffer.push(Store::Busy(1));
                    next.thread = At::Entering;
                }
                At::Inside => {
                    next.buffer.push(Store::Shown);
                    next.next_round();
                }
                At::InsideOfSpan => next.next_round(),
                At::TurnedAway => {
                    next.buffer.push(Store::Busy(0));
                    // A compare-exchange waits until the buffer is empty.
                    next.drain_all();
                    if self.claim == CLAIMED {
                        next.claim = AWAITED;
                    }
                    next.thread = At::AboutToPark;
                }
                At::AboutToPark if self.claim == AWAITED => {
                    if self.parked {
                        return Vec::new();
                    }
                    next.parked = true;
                }
                // futex(2): the word is not what it was.
                At::AboutToPark if !self.parked => {
                    next.buffer.push(Store::Busy(1));
                    next.thread = At::Entering;
                }
                At::AboutToPark | At::Done => return Vec::new(),
            }
            Vec::from([next])
        }

        fn claimant_steps(&self, manner: Manner) -> Option<Model> {
            let mut next = self.clone();
            match self.claimant {
                By::Outside if self.busy != 0 => next.next_try(),
                By::Outside => next.claimant = By::LookedOnce,
                By::LookedOnce => {
                    next.claim = CLAIMED;
                    next.claimant = if manner.in_two_steps { By::Announced } else { By::Hiding };
                }
                By::Announced | By::Hidden => {
                    // membarrier(2): the thread's accesses so far are in memory.
                    if manner.fenced {
                        next.drain_all();
                    }
                    let first = self.claimant == By::Announced;
                    next.claimant = if first { By::Fenced } else { By::FencedAgain };
                }
                By::Fenced if self.busy == 0 => next.claimant = By::Hiding,
                By::Fenced => next.claimant = By::GivingBack,
                By::Hiding => {
                    next.shown = false;
                    next.claimant = By::Hidden;
                }
                By::FencedAgain if self.busy == 0 => next.claimant = By::Inside,
                By::FencedAgain | By::Inside => next.claimant = By::Showing,
                By::Showing => {
                    next.shown = true;
                    next.claimant = By::GivingBack;
                }
                By::GivingBack => {
                    if self.claim == AWAITED && self.parked {
                        next.parked = false;
                        next.thread = At::Outside;
                    }
                    next.claim = OPEN;
                    next.next_try();
                }
                By::Done => return None,
            }
            Some(next)
        }
    }

    /// Walks every state that can be reached; how many there are, or a state in which both have the
    /// heap or nobody can go on.
    fn walk(manner: Manner) -> Result<usize, &'static str> {
        let mut seen = HashSet::from([Model::BEGIN]);
        let mut left = Vec::from([Model::BEGIN]);
        while let Some(model) = left.pop() {
            let thread_is_inside = matches!(model.thread, At::Inside | At::InsideOfSpan);
            if thread_is_inside && model.claimant == By::Inside {
                return Err("both have the heap");
            }
            let mut steps = model.thread_steps();
            steps.extend(model.claimant_steps(manner));
            steps.extend(model.drain());
            let done = (model.thread, model.claimant) == (At::Done, By::Done);
            if !done && steps.is_empty() {
                return Err("nobody can go on");
            }
            for next in steps {
                if seen.insert(next.clone()) {
                    left.push(next);
                }
            }
        }
        Ok(seen.len())
    }

    #[test]
    fn no_interleaving_lets_two_have_a_heap_or_leaves_one_waiting() {
        assert!(walk(Manner { fenced: true, in_two_steps: true }).unwrap() > 500);
        // The model tells a good lock from bad ones.
        let unfenced = walk(Manner { fenced: false, in_two_steps: true });
        assert_eq!(unfenced, Err("both have the heap"));
        let in_one_step = walk(Manner { fenced: true, in_two_steps: false });
        assert_eq!(in_one_step, Err("both have the heap"));
    }

    #[test]
    fn a_heap_at_work_is_not_claimed_and_a_claim_keeps_its_thread_out() {
        static GATE: Gate = Gate::new();
        assert!(GATE.enter());
        assert!(!GATE.claim(|| true, || ()));
        GATE.leave();
        assert!(!GATE.claim(|| false, || ()), "claimed without a barrier");
        assert!(GATE.claim(|| true, || ()));
        let waiting = std::thread::spawn(|| {
            GATE.enter_waiting();
            GATE.leave();
        });
        while GATE.claim.load(super::Relaxed) != AWAITED {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        GATE.give_back();
        waiting.join().unwrap();
        assert!(GATE.enter());
    }
}
