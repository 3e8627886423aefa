//! What the scavenger does for heaps whose threads are idle, or gone: as long as something happens it
//! looks ten times a second; when nothing does, it waits to be told.

use core::sync::atomic::{AtomicBool, Ordering::*};
use core::time::Duration;

use sysmem::{Lock, Os, ThreadBarrier};

use crate::thread_heap::{BORROWED, IDLE, LIVE, Part, ThreadHeap};
use crate::{NATIVE, lifecycle};

/// How often heaps are looked at while something happens.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often while nothing does: for what nobody tells.
const DOZE: Duration = Duration::from_secs(10);

/// How long after a refusal the system is asked again.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// Held while a heap is taken from its thread, and across a fork.
static VISITS: Lock<()> = Lock::new(());

/// Whether the scavenger can take heaps from threads that run.
static REACHES: AtomicBool = AtomicBool::new(false);

/// Whether the scavenger waits to be told.
static DOZES: AtomicBool = AtomicBool::new(false);

/// Looks at heaps, and gives back what they do not need.
pub(crate) struct Visitor {
    next_look: Duration,
    astir: bool,
    wanted: bool,
}

impl Visitor {
    /// One for this process.
    pub(crate) fn new() -> Visitor {
        REACHES.store(NATIVE.register_thread_barrier(), Relaxed);
        Visitor { next_look: Duration::ZERO, astir: true, wanted: false }
    }

    /// A look, if it is time for one, or a part of the work; how long to wait before the next.
    pub(crate) fn step(&mut self) -> Duration {
        let now = NATIVE.monotonic_time();
        let told = DOZES.swap(false, Relaxed);
        if now >= self.next_look || told {
            (self.astir, self.wanted) = (false, false);
            // The others look at themselves.
            let reached =
                |heap: &&ThreadHeap| REACHES.load(Relaxed) || heap.state().load(Relaxed) == IDLE;
            for heap in lifecycle::heaps().filter(reached) {
                let look = heap.look();
                self.astir |= look.astir;
                self.wanted |= look.quiet;
            }
            self.next_look = now + LOOK_EVERY;
        }
        if self.wanted {
            let next = lifecycle::heaps().find(|heap| heap.wants_search());
            match next.map(visit) {
                Some(Some(Part::Refused)) => {
                    self.wanted = false;
                    self.next_look = now + AFTER_REFUSAL;
                    return AFTER_REFUSAL;
                }
                Some(_) => return Duration::ZERO,
                None => self.wanted = false,
            }
        }
        if self.astir {
            return self.next_look.saturating_sub(now);
        }
        DOZES.store(true, Relaxed);
        DOZE
    }
}

/// Does a part of the work on one heap, if nobody else has it.
fn visit(heap: &ThreadHeap) -> Option<Part> {
    let _visiting = VISITS.lock(&NATIVE);
    if heap.state().compare_exchange(IDLE, BORROWED, AcqRel, Relaxed).is_ok() {
        heap.collect();
        let part = heap.give_back_some();
        heap.state().store(IDLE, SeqCst);
        // What came meanwhile.
        lifecycle::tidy(heap);
        return Some(part);
    }
    if REACHES.load(Relaxed) && heap.claim(|| NATIVE.barrier_on_all_threads()) {
        // A thread that ends makes its heap idle behind the gate, so a heap that is live stays so.
        let part = (heap.state().load(Acquire) == LIVE).then(|| heap.give_back_some());
        heap.give_back_claimed();
        if part.is_some() {
            return part;
        }
    }
    // Not before the next look.
    heap.postpone_search();
    None
}

/// Whether heaps of threads that run are looked after by the scavenger.
pub(crate) fn reaches_live_heaps() -> bool {
    REACHES.load(Relaxed)
}

/// Tells the scavenger, if it waits for that; whether it does.
#[inline]
pub(crate) fn wakes_visitor() -> bool {
    DOZES.load(Relaxed) && DOZES.swap(false, Relaxed)
}

/// Waits until no heap is taken from its thread, and keeps it so across a fork.
pub(crate) fn lock_for_fork() {
    VISITS.lock_for_fork(&NATIVE);
}

/// # Safety
///
/// `lock_for_fork` was called by this thread, or by the one it is a copy of.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the caller's promise.
    unsafe { VISITS.unlock_after_fork(&NATIVE) };
}

/// In the child of a fork, where nobody waits to be told.
pub(crate) fn after_fork_in_child() {
    DOZES.store(false, Relaxed);
}
