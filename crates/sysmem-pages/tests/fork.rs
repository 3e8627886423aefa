//! A process forks while its threads work on a page heap.
#![cfg(unix)]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use sysmem::{Native, Os};
use sysmem_pages::{Accounts, Options, PAGE, PageCache, PageHeap, ReleaseOnFree, Run};

static ACCOUNTS: Accounts = Accounts::new("fork", "fork: records");
static HEAP: PageHeap<Native> = PageHeap::new(
    Native::NEW,
    &ACCOUNTS,
    Options::new().release_on_free(ReleaseOnFree::Above { bytes: 1 << 20, divisor: 8 }),
);

type Cache = PageCache<'static, Native>;

fn free(cache: &mut Cache, run: Run) {
    // SAFETY: a run of the heap, freed once.
    unsafe { cache.free(run.start, run.npages) }.unwrap();
}

/// Allocates, writes and frees; panics where the heap misbehaves. Allocates nothing else.
fn work(cache: &mut Cache, rounds: usize, seed: usize) {
    let mut runs: [Option<Run>; 16] = [None; 16];
    for round in 0..rounds {
        let index = (round * 7 + seed) % runs.len();
        match runs[index].take() {
            Some(run) => free(cache, run),
            None => {
                let npages = if round % 97 == 0 { 700 } else { 1 + round % 16 };
                let run = cache.allocate(npages, PAGE).unwrap();
                // SAFETY: the run is Ready and ours.
                unsafe { run.start.write_bytes(seed as u8, PAGE) };
                runs[index] = Some(run);
            }
        }
        if round % 50 == 0 {
            HEAP.release(1 << 20);
        }
    }
    runs.into_iter().flatten().for_each(|run| free(cache, run));
}

#[test]
fn a_child_of_a_busy_process_has_a_whole_heap() {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 1..4 {
            let stop = &stop;
            scope.spawn(move || {
                let mut cache = HEAP.cache().unwrap();
                while !stop.load(Relaxed) {
                    work(&mut cache, 500, seed);
                }
            });
        }
        let mut failed = None;
        for _ in 0..150 {
            HEAP.lock_for_fork();
            Native::NEW.registry().lock_for_fork(&Native::NEW);
            // SAFETY: the child uses nothing but the heap, which is held still.
            let child = unsafe { libc::fork() };
            // SAFETY: locked above, by this thread.
            unsafe {
                Native::NEW.registry().unlock_after_fork(&Native::NEW);
                HEAP.unlock_after_fork();
            }
            if child == 0 {
                // A child that hangs, as one that panics does while it waits for threads that it
                // does not have, is ended by its alarm.
                // SAFETY: takes no memory.
                unsafe { libc::alarm(20) };
                let before = HEAP.statistics();
                let mut cache = HEAP.cache().unwrap();
                work(&mut cache, 300, 9);
                // What is in the caches of threads that the child does not have, too.
                HEAP.release_all();
                let after = HEAP.statistics();
                let whole = HEAP.verify().is_ok()
                    && before.releasing == 0
                    && after.in_use == before.in_use
                    && after.cached == 0
                    && after.free_backed == 0;
                // SAFETY: ends the child without running what is the parent's.
                unsafe { libc::_exit(i32::from(!whole)) };
            }
            let mut status = 0;
            // SAFETY: waits for the child just made.
            let waited = unsafe { libc::waitpid(child, &mut status, 0) };
            if waited != child || status != 0 {
                failed = Some((waited, status));
                break;
            }
        }
        stop.store(true, Relaxed);
        assert_eq!(failed, None);
    });
    HEAP.verify().unwrap();
}
