//! Threads: blocks freed elsewhere, threads that come and go, destructors that allocate. The whole
//! test program runs on the allocator.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use sysmem_alloc::{SysMem, allocate, free, statistics};

#[global_allocator]
static ALLOCATOR: SysMem = SysMem;

/// Held by each test: they look at figures of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn blocks_freed_by_other_threads_are_used_again() {
    let _alone = alone();
    let (to, from) = mpsc::sync_channel::<Box<[u64; 64]>>(256);
    let rounds = 200_000u64;
    let before = statistics().pages.in_use;
    let taker = thread::spawn(move || from.iter().map(|block| block[63]).sum::<u64>());
    for round in 0..rounds {
        to.send(Box::new([round; 64])).unwrap();
    }
    drop(to);
    assert_eq!(taker.join().unwrap(), rounds * (rounds - 1) / 2);
    // 100 MiB went through; at most some hundred blocks were alive at a time.
    let grown = statistics().pages.in_use.saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes of pages for a few hundred blocks");
}

#[test]
fn ten_thousand_short_threads_leave_nothing_behind() {
    let _alone = alone();
    let short = || {
        let batch: Vec<_> = (0..50)
            .map(|count| thread::spawn(move || vec![count as u8; 1000 * (count + 1)].len()))
            .collect();
        batch.into_iter().for_each(|thread| assert!(thread.join().unwrap() > 0));
    };
    (0..20).for_each(|_| short());
    let before = statistics();
    (0..180).for_each(|_| short());
    let after = statistics();
    assert!(after.allocations > before.allocations + 9_000);
    let grown = (after.pages.in_use + after.metadata_bytes)
        .saturating_sub(before.pages.in_use + before.metadata_bytes);
    assert!(grown < 4 << 20, "{grown} bytes more after 9,000 threads");
}

#[test]
fn what_an_ended_thread_allocated_goes_back_when_others_free_it() {
    let _alone = alone();
    let before = statistics().pages.in_use;
    let blocks = thread::spawn(|| (0..100_000).map(|_| Box::new([1u8; 500])).collect::<Vec<_>>());
    let blocks = blocks.join().unwrap();
    assert!(statistics().pages.in_use > before + (45 << 20));
    drop(blocks);
    let after = statistics().pages.in_use;
    assert!(after < before + (8 << 20), "{after} bytes in use, {before} before");
}

#[test]
fn a_thread_may_allocate_in_its_destructors() {
    let _alone = alone();
    struct Late(Vec<String>);
    impl Drop for Late {
        fn drop(&mut self) {
            let more: Vec<String> = (0..100).map(|index| format!("late {index}")).collect();
            assert_eq!(self.0.len() + more.len(), 200);
        }
    }
    thread_local! {
        static LATE: Late = Late((0..100).map(|index| index.to_string()).collect());
    }
    let threads: Vec<_> =
        (0..50).map(|_| thread::spawn(|| LATE.with(|late| late.0.len()))).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 100);
    }
}

#[test]
fn statistics_count_what_happened() {
    let _alone = alone();
    // The test harness allocates too, so only a lower bound can be told.
    let before = statistics();
    let blocks: Vec<usize> = (0..10_000).map(|_| allocate(1000, 8).expose_provenance()).collect();
    let middle = statistics();
    assert!(middle.allocations >= before.allocations + 10_000);
    assert!(middle.requested_bytes >= before.requested_bytes + 10_000_000);
    for address in blocks {
        // SAFETY: each was allocated above and is freed once.
        unsafe { free(std::ptr::with_exposed_provenance_mut(address)) };
    }
    let after = statistics();
    assert!(after.frees >= middle.frees + 10_000);
    assert!(after.freed_bytes >= middle.freed_bytes + 10_000_000);
}

#[test]
fn a_map_that_grows_and_shrinks_keeps_its_entries() {
    let _alone = alone();
    let mut map = HashMap::new();
    for round in 0..3u64 {
        for key in 0..50_000u64 {
            map.insert(key, vec![key as u8; (key % 200) as usize + round as usize]);
        }
        map.retain(|key, _| key % 3 == round);
        assert!(map.iter().all(|(key, value)| value.iter().all(|byte| *byte == *key as u8)));
    }
}
