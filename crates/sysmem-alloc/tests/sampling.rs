//! Sampling tells how much was allocated and how much of it is held, whatever the sizes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

use sysmem_alloc::{Recorder, allocate, free, reallocate, start_sampling, statistics};

/// Goes back and forth between these from sample to sample.
const INTERVALS: [u64; 2] = [2048, 8192];

struct Sample {
    requested: usize,
    block: usize,
    interval: u64,
    freed: bool,
}

static SAMPLES: Mutex<Vec<Sample>> = Mutex::new(Vec::new());
static INTERVAL: AtomicU64 = AtomicU64::new(INTERVALS[0]);
static FULL: AtomicBool = AtomicBool::new(false);

// The test's own allocations come from the system's allocator, not from this one.
static RECORDER: Recorder = Recorder {
    interval: || INTERVAL.load(Relaxed),
    allocated: |requested, block, interval| {
        if FULL.load(Relaxed) {
            return 0;
        }
        let mut samples = SAMPLES.lock().unwrap();
        samples.push(Sample { requested, block, interval, freed: false });
        INTERVAL.store(INTERVALS[samples.len() % 2], Relaxed);
        samples.len() as u64
    },
    freed: |sample| {
        let entry = &mut SAMPLES.lock().unwrap()[sample as usize - 1];
        assert!(!entry.freed, "freed twice");
        entry.freed = true;
    },
};

/// Objects and bytes for which the samples stand that the choice takes.
fn estimate(choice: impl Fn(usize, bool) -> bool) -> (f64, f64) {
    let samples = SAMPLES.lock().unwrap();
    let chosen = samples.iter().filter(|sample| choice(sample.requested, sample.freed));
    chosen.fold((0.0, 0.0), |(objects, bytes), sample| {
        let block = sample.block as f64;
        let stands_for = 1.0 / (1.0 - (-block / sample.interval as f64).exp());
        (objects + stands_for, bytes + stands_for * block)
    })
}

fn close(estimate: f64, truth: f64, samples: f64) -> bool {
    // Five standard deviations of a sum of that many, of which half count four times the others.
    (estimate - truth).abs() < 5.0 * 1.17 * truth / samples.sqrt() + 1.0
}

#[test]
fn estimates_are_true_for_all_sizes_and_intervals_and_a_free_is_seen_wherever_it_comes_from() {
    start_sampling(&RECORDER);
    for (size, count) in [(8, 60_000), (100, 20_000), (3000, 2000), (60_000, 100), (300_000, 50)] {
        SAMPLES.lock().unwrap().clear();
        let before = statistics();
        let blocks: Vec<usize> = (0..count)
            .map(|n| {
                let block = allocate(size, 8);
                assert!(!block.is_null());
                // SAFETY: the block is ours and that long.
                unsafe { block.write_bytes(n as u8, size) };
                block as usize
            })
            .collect();
        let now = statistics();
        assert_eq!(now.allocations - before.allocations, count as u64);
        let bytes = now.allocated_bytes - before.allocated_bytes;
        let sampled = SAMPLES.lock().unwrap().len() as f64;
        let (objects, estimated) = estimate(|requested, freed| requested == size && !freed);
        assert!(sampled > 20.0, "{size}: {sampled}");
        assert!(close(objects, count as f64, sampled), "{size}: {objects} of {count}");
        assert!(close(estimated, bytes as f64, sampled), "{size}: {estimated} of {bytes}");

        // Half is freed here, half in another thread.
        let (here, elsewhere) = blocks.split_at(count / 2);
        let check_and_free = |block: usize, n: usize| {
            let block = block as *mut u8;
            // SAFETY: the block is ours, that long, and not used any more.
            unsafe {
                assert_eq!((*block, *block.add(size - 1)), (n as u8, n as u8));
                free(block);
            }
        };
        here.iter().enumerate().for_each(|(n, &block)| check_and_free(block, n));
        let (half, _) = estimate(|_, freed| !freed);
        assert!(close(half, count as f64 / 2.0, sampled / 2.0), "{size}: {half} of {count} / 2");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let numbers = count / 2..;
                elsewhere.iter().zip(numbers).for_each(|(&block, n)| check_and_free(block, n));
            });
        });
        assert!(SAMPLES.lock().unwrap().iter().all(|sample| sample.freed), "{size}");
        let end = statistics();
        assert_eq!(end.frees - before.frees, count as u64);
        assert_eq!(end.freed_bytes - before.freed_bytes, bytes);
    }
    growing_and_a_full_recorder();
}

/// In the same test, because a process is sampled or it is not.
fn growing_and_a_full_recorder() {
    SAMPLES.lock().unwrap().clear();
    let before = statistics();
    let mut block = allocate(16, 8);
    let mut size = 16;
    while size < 4 << 20 {
        // SAFETY: the block is ours, and each byte that is looked at was written.
        unsafe {
            block.add(size - 1).write(7);
            let grown = size + size / 3 + 1;
            block = reallocate(block, grown, 8);
            assert_eq!(*block.add(size - 1), 7);
            size = grown;
        }
    }
    assert_eq!(SAMPLES.lock().unwrap().iter().filter(|sample| !sample.freed).count(), 1);
    // SAFETY: the block is ours.
    unsafe { free(block) };
    assert!(SAMPLES.lock().unwrap().iter().all(|sample| sample.freed));

    FULL.store(true, Relaxed);
    let recorded = SAMPLES.lock().unwrap().len();
    for _ in 0..10_000 {
        let block = allocate(1000, 8);
        // SAFETY: the block is ours.
        unsafe { free(block) };
    }
    assert_eq!(SAMPLES.lock().unwrap().len(), recorded);
    let end = statistics();
    assert_eq!(end.allocations - before.allocations, end.frees - before.frees);
}
