//! How a thread comes by a heap, and what becomes of the heap when the thread ends.
//!
//! A thread is unborn until it first allocates, then live until the last round of its destructors,
//! then dead; it may allocate and free in all three. Unborn and dead threads have no heap of their
//! own: they borrow an idle one for a moment.
//!
//! Under an allocator nothing may allocate to do this. `pthread_key_create` and, for the first 32
//! keys, `pthread_setspecific` do not in glibc; for later keys `pthread_setspecific` calls
//! `calloc`, which finds the thread live by then.

use core::cell::Cell;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering::*};

use sysmem::native::keeping_errno;
use sysmem::{Lock, Os};

use crate::gate::DEAD;
use crate::thread_heap::{ABANDONED, BORROWED, IDLE, LIVE, ThreadHeap};
use crate::{NATIVE, PAGES, metadata, sampling, scavenger, thread_slot, visitor};

/// Every heap, the newest first.
static ALL: AtomicPtr<ThreadHeap> = AtomicPtr::new(ptr::null_mut());

/// Heaps that no thread runs, the last one left first.
static IDLE_HEAPS: Lock<IdleHeaps> = Lock::new(IdleHeaps(Cell::new(ptr::null_mut())));
struct IdleHeaps(Cell<*mut ThreadHeap>);
// SAFETY: the list is touched under its lock only.
unsafe impl Send for IdleHeaps {}

/// The key whose destructor tells that a thread ends.
static EXIT_KEY: Lock<Option<libc::pthread_key_t>> = Lock::new(None);

/// How often glibc and the BSDs go through a thread's destructors (`PTHREAD_DESTRUCTOR_ITERATIONS`,
/// limits.h). The heap is left in the last round, so that the other destructors still have one.
const ROUNDS: usize = 4;

/// Begins work on the calling thread's own heap, to be ended by leaving its gate. `None` if it has
/// none, or if somebody else has it just now.
#[inline(always)]
pub(crate) fn enter() -> Option<&'static ThreadHeap> {
    let gate = thread_slot::get();
    // SAFETY: a gate that can be entered is a heap's, and heaps live forever.
    gate.enter().then(|| unsafe { ThreadHeap::behind(gate) })
}

/// Whether the calling thread has a heap of its own.
pub(crate) fn is_live() -> bool {
    thread_slot::get().leads_to_a_heap()
}

/// Runs `work` on the calling thread's own heap, if it has one.
pub(crate) fn with_own_heap<R>(work: impl FnOnce(&ThreadHeap) -> R) -> Option<R> {
    let gate = thread_slot::get();
    if !gate.leads_to_a_heap() {
        return None;
    }
    gate.enter_waiting();
    // SAFETY: as in `enter`.
    let result = work(unsafe { ThreadHeap::behind(gate) });
    gate.leave();
    Some(result)
}

/// Runs `work` on the calling thread's heap. A thread that has none gets one for good, or borrows
/// one if it is dead. `None` when memory has run out.
pub(crate) fn with_heap<R>(work: impl FnOnce(&ThreadHeap) -> R) -> Option<R> {
    if is_live() {
        return with_own_heap(work);
    }
    let heap = adopt().or_else(create)?;
    if ptr::eq(thread_slot::get(), &DEAD) {
        heap.gate().enter_waiting();
        let result = work(heap);
        leave(heap);
        return Some(result);
    }
    thread_slot::set(heap.gate());
    watch_forks();
    watch_exit();
    with_own_heap(work)
}

/// Every heap there is.
pub(crate) fn heaps() -> impl Iterator<Item = &'static ThreadHeap> {
    let mut at = ALL.load(Acquire);
    core::iter::from_fn(move || {
        // SAFETY: heaps live forever.
        let heap = unsafe { at.as_ref() }?;
        at = heap.next.get();
        Some(heap)
    })
}

fn create() -> Option<&'static ThreadHeap> {
    let heap = metadata::allocate(ThreadHeap::new());
    // SAFETY: metadata lives forever; null is out of memory.
    let created = unsafe { heap.as_ref() }?;
    created.show();
    if sampling::is_on() {
        created.begin_sampling();
    }
    let mut first = ALL.load(Relaxed);
    loop {
        created.next.set(first);
        match ALL.compare_exchange_weak(first, heap, Release, Relaxed) {
            Ok(_) => return Some(created),
            Err(newer) => first = newer,
        }
    }
}

/// An idle heap, now live.
fn adopt() -> Option<&'static ThreadHeap> {
    let idle = IDLE_HEAPS.lock(&NATIVE);
    let mut link = &idle.0;
    loop {
        let heap = link.get();
        // SAFETY: heaps live forever.
        let found = unsafe { heap.as_ref() }?;
        // One that is borrowed is passed by: whoever borrowed it may be gone with a fork.
        if found.state().compare_exchange(IDLE, LIVE, AcqRel, Relaxed).is_ok() {
            link.set(found.next_idle.get());
            return Some(found);
        }
        link = &found.next_idle;
    }
}

/// Makes a heap idle, with as little memory in it as can be. Its gate was entered.
fn leave(heap: &ThreadHeap) {
    // From here on it makes no cache. Relaxed: nobody goes by it but who has the heap.
    heap.state().store(BORROWED, Relaxed);
    heap.drop_cache();
    heap.collect();
    heap.release_empty();
    let idle = IDLE_HEAPS.lock(&NATIVE);
    heap.next_idle.set(idle.0.replace(ptr::from_ref(heap).cast_mut()));
    drop(idle);
    // SeqCst: see `free_remote`. A block that came before this is seen below, one that comes after
    // is taken in by the thread that frees it.
    heap.state().store(IDLE, SeqCst);
    heap.gate().leave();
    tidy(heap);
}

/// Takes in what was freed to a heap that no thread runs, so that its memory does not wait for a
/// thread that may never be born.
#[inline]
pub(crate) fn tidy(heap: &ThreadHeap) {
    // SeqCst: see `free_remote`.
    if heap.state().load(SeqCst) == IDLE {
        keeping_errno(|| tidy_idle(heap));
    }
}

#[cold]
#[inline(never)]
fn tidy_idle(heap: &ThreadHeap) {
    while heap.has_remote()
        && heap.state().compare_exchange(IDLE, BORROWED, AcqRel, Relaxed).is_ok()
    {
        heap.collect();
        heap.release_empty();
        heap.state().store(IDLE, SeqCst);
    }
}

/// Makes sure that the end of the calling thread is told to `thread_ends`.
fn watch_exit() {
    let mut made = EXIT_KEY.lock(&NATIVE);
    if made.is_none() {
        let mut new = 0;
        // SAFETY: `new` is a key to write to; the destructor may run in any thread.
        if unsafe { libc::pthread_key_create(&mut new, Some(thread_ends)) } == 0 {
            *made = Some(new);
        }
    }
    let key = *made;
    drop(made);
    // Where no key is left (`PTHREAD_KEYS_MAX`), heaps of ended threads are not used again.
    if let Some(key) = key {
        set_round(key, 1);
    }
}

/// Has the fork handlers called, from the first birth of a thread on.
fn watch_forks() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.swap(true, Relaxed) {
        // SAFETY: the handlers may run in any thread that forks.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork_in_child))
        };
    }
}

fn set_round(key: libc::pthread_key_t, round: usize) {
    // SAFETY: the key exists; the value is a number, never followed.
    unsafe { libc::pthread_setspecific(key, ptr::without_provenance::<c_void>(round)) };
}

extern "C" fn thread_ends(round: *mut c_void) {
    let round = round.addr();
    if round < ROUNDS {
        let key = *EXIT_KEY.lock(&NATIVE);
        if let Some(key) = key {
            set_round(key, round + 1);
            return;
        }
    }
    let gate = thread_slot::get();
    if gate.leads_to_a_heap() {
        gate.enter_waiting();
        thread_slot::set(&DEAD);
        // SAFETY: as in `enter`.
        leave(unsafe { ThreadHeap::behind(gate) });
        scavenger::thread_ends();
    }
}

/// Takes every lock, in the order in which they are taken inside each other, so that the child
/// finds nothing half done. Heaps that other threads run are not used in the child again.
extern "C" fn before_fork() {
    visitor::lock_for_fork();
    EXIT_KEY.lock_for_fork(&NATIVE);
    IDLE_HEAPS.lock_for_fork(&NATIVE);
    metadata::lock_for_fork();
    PAGES.lock_for_fork();
    NATIVE.registry().lock_for_fork(&NATIVE);
}

extern "C" fn after_fork() {
    // SAFETY: `before_fork` took them in this thread, or in the one it is a copy of.
    unsafe {
        NATIVE.registry().unlock_after_fork(&NATIVE);
        PAGES.unlock_after_fork();
        metadata::unlock_after_fork();
        IDLE_HEAPS.unlock_after_fork(&NATIVE);
        EXIT_KEY.unlock_after_fork(&NATIVE);
        visitor::unlock_after_fork();
    }
}

extern "C" fn after_fork_in_child() {
    after_fork();
    let own = thread_slot::get();
    for heap in heaps().filter(|heap| !ptr::eq(heap.gate(), own)) {
        // The thread is not there any more, and may have been in the middle of something.
        let _ = heap.state().compare_exchange(LIVE, ABANDONED, Relaxed, Relaxed);
    }
    scavenger::after_fork_in_child();
}
