//! Runs of pages that threads keep for themselves: what they count as, and when they go. The whole
//! test program runs on the allocator.
#![cfg(unix)]

use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use sysmem_alloc::{SysMem, allocate, free, release, statistics};

#[global_allocator]
static ALLOCATOR: SysMem = SysMem;

/// Held by each test: they look at figures of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const THREADS: usize = 8;

/// Longer than any block of a size class: each is a run of its own, of the longest that are kept.
const LONG: usize = 128 << 10;

/// What all threads keep at least after [`use_long_runs`], in bytes, and what others in this program
/// keep at most.
const KEPT: u64 = 6 << 20;
const OTHERS: u64 = 2 << 20;

/// Allocates a MiB and frees it.
fn use_long_runs() {
    let blocks = [(); 8].map(|()| allocate(LONG, 8));
    for block in blocks {
        assert!(!block.is_null());
        // SAFETY: the block is ours, that long, and freed once.
        unsafe {
            block.write_bytes(1, LONG);
            free(block);
        }
    }
}

/// Runs `meanwhile` while threads sleep that have used long runs.
fn while_threads_keep_runs(meanwhile: impl FnOnce()) {
    let step = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        let keeper = || {
            use_long_runs();
            step.wait();
            step.wait();
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(keeper)).collect();
        step.wait();
        meanwhile();
        step.wait();
        // A scope does not wait for the destructors of its threads, joining does.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn runs_that_threads_keep_count_as_cached_and_go_back_when_all_is_released() {
    let _alone = alone();
    let before = statistics().pages;
    while_threads_keep_runs(|| {
        let pages = statistics().pages;
        assert!(pages.cached > KEPT, "{pages:?}");
        assert!(pages.in_use < before.in_use + OTHERS, "{pages:?}, before {before:?}");
        assert!(release() as u64 > KEPT);
        let pages = statistics().pages;
        assert!(pages.cached < OTHERS, "{pages:?}");
        // The threads find that they keep nothing any more.
        use_long_runs();
    });
}

#[test]
fn threads_that_ended_keep_no_runs() {
    let _alone = alone();
    while_threads_keep_runs(|| assert!(statistics().pages.cached > KEPT));
    let pages = statistics().pages;
    assert!(pages.cached < OTHERS, "{pages:?}");
}

#[test]
fn a_forked_child_gives_back_what_threads_kept_that_it_does_not_have() {
    let _alone = alone();
    while_threads_keep_runs(|| {
        // SAFETY: the child only reads figures, allocates, gives back and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let kept = statistics().pages.cached > KEPT;
            use_long_runs();
            release();
            let gone = statistics().pages.cached < OTHERS;
            // SAFETY: ends the child without running what belongs to the parent.
            unsafe { libc::_exit(if kept && gone { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
        // What the child did is the child's.
        assert!(statistics().pages.cached > KEPT);
    });
}
