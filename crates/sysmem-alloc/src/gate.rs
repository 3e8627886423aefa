//! Who may touch a heap: the thread that runs it, at the price of a few plain instructions, or now
//! and then the scavenger, at the price of a system call.
//!
//! The thread says that it is at work (`busy`), then looks whether somebody else has the heap
//! (`claim`). Who claims the heap says so first, then looks whether its thread is at work. Each
//! writes one word and reads the other, which is right only if neither read goes ahead of the write
//! before it. A fence on every allocation would cost as much as the allocation; instead the claimant
//! has the system send every thread through one ([`ThreadBarrier`]). After that either the thread
//! sees the claim, or the claimant sees that the thread is busy, and gives up: a heap at work is not
//! idle.
//!
//! The first test below tries all interleavings, with stores that wait in each processor's buffer as
//! long as they like.
//!
//! A thread that ends in the middle of its work, or a signal handler that never returns to it, leaves
//! the heap busy: nobody claims it then. A thread that finds its heap claimed waits; claims are short.
//!
//! [`ThreadBarrier`]: sysmem::ThreadBarrier

use core::sync::atomic::{AtomicU32, Ordering::*, compiler_fence};

use sysmem::Os;

use crate::NATIVE;

/// Nobody but its thread has the heap.
const OPEN: u32 = 0;
const CLAIMED: u32 = 1;
/// Claimed, and its thread waits.
const AWAITED: u32 = 2;
/// No heap at all.
const NO_HEAP: u32 = 3;

/// The first word of a heap. A thread that has no heap has a gate that never opens.
pub(crate) struct Gate {
    /// Not zero while the thread is at work on its heap.
    busy: AtomicU32,
    claim: AtomicU32,
}

/// The gate of threads that have no heap yet.
pub(crate) static UNBORN: Gate = Gate { busy: AtomicU32::new(0), claim: AtomicU32::new(NO_HEAP) };
/// The gate of threads that had a heap and must not get another: their destructors have run.
pub(crate) static DEAD: Gate = Gate { busy: AtomicU32::new(0), claim: AtomicU32::new(NO_HEAP) };

impl Gate {
    pub(crate) const fn new() -> Gate {
        Gate { busy: AtomicU32::new(0), claim: AtomicU32::new(OPEN) }
    }

    /// Whether there is a heap behind it.
    pub(crate) fn leads_to_a_heap(&self) -> bool {
        self.claim.load(Relaxed) != NO_HEAP
    }

    /// The heap's thread begins to work on it, if nobody else has it. If somebody has, or there is
    /// none, the work does not begin: [`enter_waiting`](Gate::enter_waiting).
    #[inline(always)]
    pub(crate) fn enter(&self) -> bool {
        self.busy.store(1, Relaxed);
        // The processor's own order is the claimant's care.
        compiler_fence(SeqCst);
        // Acquire: what the claimant did to the heap.
        self.claim.load(Acquire) == OPEN
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

    /// Takes the heap from its thread, unless that is at work. `barrier` sends all threads through a
    /// memory barrier, and says whether it did. One claimant at a time.
    pub(crate) fn claim(&self, barrier: impl FnOnce() -> bool) -> bool {
        if self.busy.load(Relaxed) != 0 || self.claim.load(Relaxed) != OPEN {
            return false;
        }
        self.claim.store(CLAIMED, SeqCst);
        // Acquire: what the thread did to the heap.
        if barrier() && self.busy.load(Acquire) == 0 {
            return true;
        }
        self.give_back();
        false
    }

    /// Gives the heap back to its thread.
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
        /// Values of `busy` on their way to memory.
        buffer: Vec<u32>,
        thread: At,
        rounds_left: u32,
        claimant: By,
        tries_left: u32,
        parked: bool,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum At {
        Outside,
        Entering,
        Inside,
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
        Inside,
        GivingBack,
        Done,
    }

    impl Model {
        const BEGIN: Model = Model {
            busy: 0,
            claim: OPEN,
            buffer: Vec::new(),
            thread: At::Outside,
            rounds_left: 2,
            claimant: By::Outside,
            tries_left: 2,
            parked: false,
        };

        fn next_round(&mut self) {
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
                next.busy = next.buffer.remove(0);
                next
            })
        }

        fn thread_steps(&self) -> Option<Model> {
            let mut next = self.clone();
            match self.thread {
                At::Outside => {
                    next.buffer.push(1);
                    next.thread = At::Entering;
                }
                At::Entering if self.claim == OPEN => next.thread = At::Inside,
                At::Entering => next.thread = At::TurnedAway,
                At::Inside => {
                    next.buffer.push(0);
                    next.next_round();
                }
                At::TurnedAway => {
                    next.buffer.push(0);
                    // A compare-exchange waits until the buffer is empty.
                    while let Some(drained) = next.drain() {
                        next = drained;
                    }
                    if self.claim == CLAIMED {
                        next.claim = AWAITED;
                    }
                    next.thread = At::AboutToPark;
                }
                At::AboutToPark if self.claim == AWAITED => {
                    if self.parked {
                        return None;
                    }
                    next.parked = true;
                }
                // futex(2): the word is not what it was.
                At::AboutToPark if !self.parked => next.thread = At::Outside,
                At::AboutToPark | At::Done => return None,
            }
            Some(next)
        }

        fn claimant_steps(&self, fenced: bool) -> Option<Model> {
            let mut next = self.clone();
            match self.claimant {
                By::Outside if self.busy != 0 => next.next_try(),
                By::Outside => next.claimant = By::LookedOnce,
                By::LookedOnce => {
                    next.claim = CLAIMED;
                    next.claimant = By::Announced;
                }
                By::Announced => {
                    // membarrier(2): the thread's accesses so far are in memory.
                    while let (true, Some(drained)) = (fenced, next.drain()) {
                        next = drained;
                    }
                    next.claimant = By::Fenced;
                }
                By::Fenced if self.busy == 0 => next.claimant = By::Inside,
                By::Fenced => next.claimant = By::GivingBack,
                By::Inside => next.claimant = By::GivingBack,
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
    fn walk(fenced: bool) -> Result<usize, &'static str> {
        let mut seen = HashSet::from([Model::BEGIN]);
        let mut left = Vec::from([Model::BEGIN]);
        while let Some(model) = left.pop() {
            if (model.thread, model.claimant) == (At::Inside, By::Inside) {
                return Err("both have the heap");
            }
            let steps = [model.thread_steps(), model.claimant_steps(fenced), model.drain()];
            let done = (model.thread, model.claimant) == (At::Done, By::Done);
            if !done && steps.iter().all(Option::is_none) {
                return Err("nobody can go on");
            }
            for next in steps.into_iter().flatten() {
                if seen.insert(next.clone()) {
                    left.push(next);
                }
            }
        }
        Ok(seen.len())
    }

    #[test]
    fn no_interleaving_lets_two_have_a_heap_or_leaves_one_waiting() {
        assert!(walk(true).unwrap() > 200);
        // The model tells a good lock from a bad one.
        assert_eq!(walk(false), Err("both have the heap"));
    }

    #[test]
    fn a_heap_at_work_is_not_claimed_and_a_claim_keeps_its_thread_out() {
        static GATE: Gate = Gate::new();
        assert!(GATE.enter());
        assert!(!GATE.claim(|| true));
        GATE.leave();
        assert!(!GATE.claim(|| false), "claimed without a barrier");
        assert!(GATE.claim(|| true));
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
