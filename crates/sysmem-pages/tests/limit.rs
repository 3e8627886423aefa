//! What a limit on the memory of a heap does.

use std::time::Duration;

use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, Settings, Simulated};
use sysmem::{ErrorKind, Limit};
use sysmem_pages::{Accounts, Options, PAGE, PageHeap, ReleaseOnFree, Run, Scavenger};

const MIB: usize = 1 << 20;
const NONE: usize = usize::MAX;

type Heap = PageHeap<Linux<Simulated>>;

fn heap() -> (Simulated, Heap) {
    let settings =
        Settings { backing: Backing::Real, clock_stands: true, ..Settings::heap(1 << 30) };
    let kernel = Simulated::new(settings);
    let accounts = Box::leak(Box::new(Accounts::new("limit", "records")));
    let options = Options::new().release_on_free(ReleaseOnFree::Never);
    (kernel.clone(), PageHeap::new(Linux::new(kernel), accounts, options))
}

fn backed(heap: &Heap) -> usize {
    let statistics = heap.statistics();
    (statistics.in_use + statistics.free_backed) as usize
}

fn free(heap: &Heap, run: Run) {
    // SAFETY: each test frees a run once and does not use it afterwards.
    unsafe { heap.free(run.start, run.npages) }.unwrap();
}

#[test]
fn an_allocation_over_the_hard_limit_fails_and_names_it() {
    let (_, heap) = heap();
    heap.set_limit(NONE, 40 * MIB);
    let mut runs: Vec<Run> = (0..40).map(|_| heap.allocate(MIB / PAGE, PAGE).unwrap()).collect();
    let reserved = heap.statistics().reserved;
    for npages in [1, 100, 10_000] {
        let error = heap.allocate(npages, PAGE).unwrap_err();
        let limit = Some(Limit::Heap(40 * MIB as u64));
        assert_eq!(error.kind(), ErrorKind::OutOfMemory { errno: None, limit }, "{error}");
    }
    assert_eq!(heap.statistics().reserved, reserved);
    let last = *runs.last().unwrap();
    // SAFETY: a run of the heap.
    assert_eq!(unsafe { heap.extend(last.start, last.npages, last.npages + 1) }, None);
    free(&heap, runs.swap_remove(3));
    heap.allocate(MIB / PAGE, PAGE).unwrap();
    assert!(heap.allocate(1, PAGE).is_err());
    heap.set_limit(NONE, NONE);
    heap.allocate(1, PAGE).unwrap();
    heap.verify().unwrap();
}

#[test]
fn what_is_free_goes_back_rather_than_an_allocation_fails() {
    let (_, heap) = heap();
    heap.set_limit(NONE, 40 * MIB);
    let small: Vec<Run> = (0..39 * 16).map(|_| heap.allocate(8, PAGE).unwrap()).collect();
    // Half of it in pieces that are too short for the next.
    small.iter().step_by(2).for_each(|&run| free(&heap, run));
    let long = heap.allocate(19 * MIB / PAGE, PAGE).unwrap();
    assert!(backed(&heap) <= 40 * MIB, "{}", backed(&heap));
    free(&heap, long);
    heap.verify().unwrap();
}

#[test]
fn above_the_soft_limit_allocations_give_back_and_succeed() {
    let (_, heap) = heap();
    heap.set_limit(40 * MIB, NONE);
    let small: Vec<Run> = (0..38 * 16).map(|_| heap.allocate(8, PAGE).unwrap()).collect();
    small.iter().step_by(2).for_each(|&run| free(&heap, run));
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(heap.allocate(2 * MIB / PAGE, PAGE).unwrap());
        assert!(backed(&heap) <= 40 * MIB, "{}", backed(&heap));
    }
    held.push(heap.allocate(30 * MIB / PAGE, PAGE).unwrap());
    assert_eq!(heap.statistics().free_backed, 0);
    heap.verify().unwrap();
}

#[test]
fn what_the_process_has_besides_counts_against_the_soft_limit_up_to_an_eighth_of_it() {
    let (_, heap) = heap();
    assert_eq!(heap.soft_limit_and_memory(), None);
    heap.set_limit(40 * MIB, NONE);
    let most_with = |besides| {
        heap.count_besides(besides);
        let small: Vec<Run> = (0..34 * 16).map(|_| heap.allocate(8, PAGE).unwrap()).collect();
        small.iter().step_by(2).for_each(|&run| free(&heap, run));
        let mut held: Vec<Run> = small.into_iter().skip(1).step_by(2).collect();
        let mut most = 0;
        while held.len() < 17 * 16 + 7 {
            held.push(heap.allocate(2 * MIB / PAGE, PAGE).unwrap());
            most = most.max(backed(&heap));
        }
        assert_eq!(heap.soft_limit_and_memory(), Some((40 << 20, backed(&heap) as u64)));
        held.into_iter().for_each(|run| free(&heap, run));
        heap.release_all();
        most
    };
    assert!((39 * MIB..=40 * MIB).contains(&most_with(0)));
    assert!((36 * MIB..=37 * MIB).contains(&most_with(3 * MIB)));
    assert!((34 * MIB..=35 * MIB).contains(&most_with(400 * MIB)));
    // A new limit is for the same process.
    heap.set_limit(80 * MIB, NONE);
    heap.set_limit(40 * MIB, NONE);
    assert!((34 * MIB..=35 * MIB).contains(&most_with(400 * MIB)));
    heap.verify().unwrap();
}

#[test]
fn the_scavenger_holds_nothing_back_above_the_soft_limit() {
    let (kernel, heap) = heap();
    let runs: Vec<Run> = (0..30).map(|_| heap.allocate(2 * MIB / PAGE, PAGE).unwrap()).collect();
    heap.set_limit(40 * MIB, NONE);
    let mut scavenger = Scavenger::new();
    scavenger.step(&heap);
    runs.into_iter().for_each(|run| free(&heap, run));
    // Half a second is not over.
    for _ in 0..10 {
        scavenger.step(&heap);
        kernel.advance(Duration::from_millis(30));
    }
    assert!((38 * MIB..=40 * MIB).contains(&backed(&heap)), "{}", backed(&heap));
    heap.verify().unwrap();
}
