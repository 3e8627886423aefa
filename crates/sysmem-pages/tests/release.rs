//! How the page heap gives memory back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, Call, Faulty, Settings, Simulated, Traced};
use sysmem::{Errno, GiveBack, Os};
use sysmem_pages::{Accounts, Options, PAGE, PageHeap, ReleaseOnFree, Run};

const MIB: usize = 1 << 20;
const HUGE_PAGE: usize = 2 * MIB;
/// Pages in a huge page.
const HUGE: usize = HUGE_PAGE / PAGE;

fn heap_on<K>(kernel: &K, options: Options) -> PageHeap<Linux<K>>
where
    K: Clone,
    Linux<K>: Os,
{
    let accounts = Box::leak(Box::new(Accounts::new("release", "records")));
    PageHeap::new(Linux::new(kernel.clone()), accounts, options)
}

fn simulated() -> Simulated {
    Simulated::new(Settings { backing: Backing::Real, ..Settings::heap(1 << 30) })
}

fn by_hand() -> Options {
    Options::new().release_on_free(ReleaseOnFree::Never)
}

/// A run of which every page was written to.
fn touched<O: Os + Clone>(heap: &PageHeap<O>, npages: usize) -> Run {
    let run = heap.allocate(npages, PAGE).unwrap();
    // SAFETY: the run is Ready and ours.
    unsafe { run.start.write_bytes(0x5A, npages * PAGE) };
    run
}

fn free<O: Os + Clone>(heap: &PageHeap<O>, run: Run) {
    // SAFETY: each test frees a run once and does not use it afterwards.
    unsafe { heap.free(run.start, run.npages) }.unwrap();
}

/// The ranges that calls gave back, in their order.
fn given_back(kernel: &Traced<Simulated>) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    for record in kernel.records() {
        match record.call {
            Call::Madvise { address, len, .. } | Call::Munmap { address, len } => {
                ranges.push((address, len));
            }
            Call::ProcessMadvise { ranges: batch, .. } => {
                ranges.extend(batch.iter().map(|range| (range.start.addr(), range.len)));
            }
            _ => {}
        }
    }
    ranges
}

#[test]
fn memory_leaves_the_process_when_it_is_released() {
    let kernel = simulated();
    let heap = heap_on(&kernel, by_hand());
    let runs: Vec<Run> = (0..64).map(|_| touched(&heap, 16)).collect();
    let resident = kernel.resident_bytes();
    runs.iter().step_by(2).for_each(|&run| free(&heap, run));
    assert_eq!(kernel.resident_bytes(), resident);
    assert_eq!(heap.release_all(), 32 * 16 * PAGE);
    assert_eq!(kernel.resident_bytes(), resident - 32 * 16 * PAGE);
    heap.verify().unwrap();
}

#[test]
fn free_huge_pages_go_first_then_sparse_ones_and_of_equals_long_runs() {
    let kernel = Traced::new(simulated());
    let heap = heap_on(&kernel, by_hand());
    // What follows lies in one reservation.
    for npages in [2 * HUGE, 4 * HUGE] {
        heap.allocate(npages, PAGE).unwrap();
    }
    // Each of these fills a huge page.
    let parts = [[250, 6], [100, 156], [236, 20], [128, 128], [HUGE - 5, 5], [HUGE - 1, 1]];
    let runs: Vec<[Run; 2]> =
        parts.iter().map(|pair| pair.map(|npages| touched(&heap, npages))).collect();
    let base = runs[0][0].start.addr().get();
    let at = |index: usize| base + index * HUGE_PAGE;
    let free_whole = touched(&heap, HUGE);
    for (index, pair) in runs.iter().enumerate() {
        assert_eq!(pair[0].start.addr().get(), at(index), "{index}");
        assert_eq!(pair[1].start.addr().get(), at(index) + parts[index][0] * PAGE, "{index}");
    }
    free(&heap, free_whole);
    runs.iter().for_each(|pair| free(&heap, pair[1]));
    kernel.clear();
    let free_whole = (free_whole.start.addr().get(), HUGE_PAGE);
    let tail = |index: usize| {
        let [used, freed] = parts[index];
        (at(index) + used * PAGE, freed * PAGE)
    };
    // Up to four eighths of huge pages 1 and 3 are in use, and more than seven of the others.
    let order = [free_whole, tail(3), tail(1), tail(2), tail(0), tail(4), tail(5)];
    for (address, len) in order {
        kernel.clear();
        assert_eq!(heap.release(PAGE), len);
        assert_eq!(given_back(&kernel), [(address, len)]);
    }
    assert_eq!(heap.release(PAGE), 0);
    heap.verify().unwrap();
}

#[test]
fn scattered_runs_go_in_batches_and_free_huge_pages_in_one_range() {
    let kernel = Traced::new(simulated());
    let heap = heap_on(&kernel, by_hand());
    let runs: Vec<Run> = (0..800).map(|_| touched(&heap, 1)).collect();
    let long = touched(&heap, 4 * HUGE);
    runs.iter().step_by(2).for_each(|&run| free(&heap, run));
    free(&heap, long);
    kernel.clear();
    heap.release_all();
    let calls = kernel.records().len();
    assert!(calls <= 10, "{calls} calls for 400 runs and 4 huge pages");
    assert!(given_back(&kernel).iter().any(|range| range.1 >= 4 * HUGE_PAGE));
    assert_eq!(heap.statistics().free_backed, 0);
    heap.verify().unwrap();
}

#[test]
fn freeing_gives_back_what_is_too_much_and_keeps_the_rest() {
    let kernel = Traced::new(simulated());
    let heap = heap_on(&kernel, Options::new());
    let runs: Vec<Run> = (0..40 * MIB / (16 * PAGE)).map(|_| touched(&heap, 16)).collect();
    kernel.clear();
    for &run in &runs {
        free(&heap, run);
        let statistics = heap.statistics();
        assert!(statistics.free_backed <= 16 * MIB as u64);
    }
    let statistics = heap.statistics();
    assert!(statistics.free_backed >= 8 * MIB as u64);
    assert_eq!(statistics.free_backed + statistics.released, 40 * MIB as u64);
    // Each time 8 MiB at least were freed before, in two reservations at most.
    assert!(statistics.releases <= 2 * 4, "{} releases", statistics.releases);
    heap.verify().unwrap();
}

#[test]
fn a_heap_in_steady_use_gives_nothing_back() {
    let kernel = Traced::new(simulated());
    let heap = heap_on(&kernel, Options::new());
    let mut runs: Vec<Run> = (0..100 * MIB / (16 * PAGE)).map(|_| touched(&heap, 16)).collect();
    for round in 0..20 {
        for index in (round..runs.len()).step_by(10) {
            free(&heap, runs[index]);
        }
        for index in (round..runs.len()).step_by(10) {
            runs[index] = touched(&heap, 16);
        }
    }
    assert_eq!(heap.statistics().released, 0);
}

#[test]
fn pages_that_are_being_given_back_are_handed_to_nobody() {
    let kernel = Faulty::new(simulated());
    for how in [GiveBack::Eager, GiveBack::Lazy] {
        let heap = Arc::new(heap_on(&kernel, by_hand().give_back(how)));
        let low = touched(&heap, 2 * HUGE);
        let high = touched(&heap, 4 * HUGE);
        free(&heap, low);
        free(&heap, high);
        // In the middle of each call that gives back, another owner comes for memory.
        let (leaving, handed_out) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::default());
        let calls = {
            let (heap, leaving) = (heap.clone(), leaving.clone());
            let handed_out: Arc<Mutex<Vec<Run>>> = Arc::clone(&handed_out);
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = calls.clone();
            kernel.fail_when(move |_, call| {
                if let Call::Madvise { address, len, .. } = *call {
                    counted.fetch_add(1, Relaxed);
                    leaving.lock().unwrap().extend((address..address + len).step_by(PAGE));
                    assert!(heap.statistics().releasing >= len as u64);
                    heap.verify().unwrap();
                    handed_out.lock().unwrap().push(heap.allocate(32, PAGE).unwrap());
                    // Freed in the middle: does not disturb the release either.
                    free(&heap, heap.allocate(32, PAGE).unwrap());
                }
                None
            });
            calls
        };
        assert!(heap.release(HUGE_PAGE) >= HUGE_PAGE);
        kernel.fail_nothing();
        assert!(calls.load(Relaxed) > 0);
        let leaving = leaving.lock().unwrap();
        for run in handed_out.lock().unwrap().iter() {
            let start = run.start.addr().get();
            assert!((start..start + run.npages * PAGE).all(|page| !leaving.contains(&page)));
        }
        assert_eq!(heap.statistics().releasing, 0);
        heap.verify().unwrap();
        drop(leaving);
    }
}

#[test]
fn a_refused_release_keeps_pages_and_is_not_tried_again_at_once() {
    let kernel = Faulty::new(simulated());
    let options = Options::new().release_on_free(ReleaseOnFree::Above { bytes: MIB, divisor: 8 });
    let heap = heap_on(&kernel, options);
    let runs: Vec<Run> = (0..600).map(|_| touched(&heap, 4)).collect();
    let gives_back = |call: &Call| {
        matches!(call, Call::Madvise { .. } | Call::ProcessMadvise { .. } | Call::Munmap { .. })
    };
    kernel.fail_every(gives_back, Errno(12));
    for &run in &runs[..500] {
        free(&heap, run);
    }
    let statistics = heap.statistics();
    assert_eq!(statistics.released, 0);
    assert_eq!(statistics.free_backed, 500 * 4 * PAGE as u64);
    assert!((1..=8).contains(&statistics.failed_releases), "{}", statistics.failed_releases);
    heap.verify().unwrap();
    kernel.fail_nothing();
    assert_eq!(heap.release_all(), 500 * 4 * PAGE);
    heap.verify().unwrap();
}

#[test]
fn a_reservation_that_cannot_be_returned_is_kept_and_used() {
    let kernel = Faulty::new(simulated());
    let heap = heap_on(&kernel, by_hand());
    let long = touched(&heap, 40 * MIB / PAGE);
    free(&heap, long);
    kernel.fail_every(|call| matches!(call, Call::Munmap { .. }), Errno(12));
    assert_eq!(heap.release_all(), 0);
    assert_eq!(heap.statistics().failed_releases, 1);
    heap.verify().unwrap();
    let again = touched(&heap, 40 * MIB / PAGE);
    assert_eq!(again.start, long.start);
    kernel.fail_nothing();
    free(&heap, again);
    assert_eq!(heap.release_all(), 40 * MIB);
    assert_eq!(heap.statistics().reserved, 0);
    heap.verify().unwrap();
}
