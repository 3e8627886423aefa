//! How the page heap grows, what it costs, and what it does when the system refuses.

use sysmem::os::freebsd::FreeBsd;
use sysmem::os::linux::Linux;
use sysmem::sim::{self, Backing, Call, Faulty, Mapping, Overcommit, Settings, Simulated, Traced};
use sysmem::{Errno, ErrorKind, Limit, Os};
use sysmem_pages::{Accounts, HugePages, MapCell, Options, PAGE, PageHeap, ReleaseOnFree, Run};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

fn accounts() -> &'static Accounts {
    Box::leak(Box::new(Accounts::new("growth", "records")))
}

fn heap_on<K>(kernel: &K, options: Options) -> PageHeap<Linux<K>>
where
    K: Clone,
    Linux<K>: Os,
{
    PageHeap::new(Linux::new(kernel.clone()), accounts(), options)
}

fn real(space: usize) -> Settings {
    Settings { backing: Backing::Real, ..Settings::heap(space) }
}

fn free<O: Os + Clone>(heap: &PageHeap<O>, run: Run) {
    // SAFETY: each test frees a run once and does not use it afterwards.
    unsafe { heap.free(run.start, run.npages) }.unwrap();
}

/// Allocates runs until one is refused; returns them and the refusal.
fn fill<O: Os + Clone>(heap: &PageHeap<O>, npages: usize) -> (Vec<Run>, sysmem::Error) {
    let mut runs = Vec::new();
    loop {
        match heap.allocate(npages, PAGE) {
            Ok(run) => {
                // SAFETY: the run is Ready and ours.
                unsafe { run.start.write(1) };
                runs.push(run);
            }
            Err(error) => return (runs, error),
        }
    }
}

#[test]
fn reservations_double_from_4_to_32_mib() {
    let heap = heap_on(&Simulated::new(real(GIB)), Options::new());
    let mut lengths = Vec::new();
    while lengths.len() < 6 {
        let before = heap.statistics().reserved;
        heap.allocate(16, PAGE).unwrap();
        let more = heap.statistics().reserved - before;
        lengths.extend((more > 0).then_some(more >> 20));
    }
    assert_eq!(lengths, [4, 8, 16, 32, 32, 32]);
    heap.verify().unwrap();
}

#[test]
fn a_run_of_more_than_32_mib_has_a_reservation_as_long_in_whole_huge_pages() {
    let heap = heap_on(&Simulated::new(real(GIB)), Options::new());
    heap.allocate(1, PAGE).unwrap();
    let before = heap.statistics().reserved;
    let long = heap.allocate(33 * MIB / PAGE, PAGE).unwrap();
    assert_eq!(heap.statistics().reserved - before, 34 * MIB as u64);
    assert_eq!(long.start.addr().get() % (2 * MIB), 0);
    // What is left of its last huge page is for others: that is half in use, the first hardly.
    let short = heap.allocate(1, PAGE).unwrap();
    assert_eq!(short.start.addr().get(), long.start.addr().get() + 33 * MIB);
    assert_eq!(heap.statistics().reserved - before, 34 * MIB as u64);
}

#[test]
fn alignments_up_to_a_gibibyte_are_kept() {
    let kernel = Simulated::new(Settings { alignment: GIB, ..real(64 * GIB) });
    let heap = heap_on(&kernel, Options::new());
    let mut runs = Vec::new();
    for align in (12..=30).map(|shift| 1 << shift) {
        for npages in [1, 3, 300, 5000] {
            let run = heap.allocate(npages, align).unwrap();
            assert_eq!(run.start.addr().get() % align, 0);
            runs.push(run);
        }
    }
    heap.verify().unwrap();
    runs.into_iter().for_each(|run| free(&heap, run));
    heap.verify().unwrap();
}

#[test]
fn under_a_limit_on_address_space_reservations_shrink_to_what_is_left() {
    for limit in [3 * MIB, 40 * MIB, 90 * MIB] {
        let settings = Settings { address_space_limit: limit as u64, ..real(GIB) };
        let kernel = Simulated::new(settings);
        let heap = heap_on(&kernel, Options::new());
        let (runs, error) = fill(&heap, 4);
        let ErrorKind::OutOfMemory { limit: Some(named), .. } = error.kind() else {
            panic!("{error}")
        };
        assert_eq!(named, Limit::AddressSpace(limit as u64), "{error}");
        let obtained = runs.len() * 4 * PAGE;
        assert!(obtained + 512 * KIB > limit, "{obtained} of {limit} bytes were had");
        let reservations = heap.statistics().reservations;
        assert!(reservations <= 24, "{reservations} reservations, where halves suffice");
        heap.verify().unwrap();
        // What is freed can be had again.
        let count = runs.len();
        runs.into_iter().for_each(|run| free(&heap, run));
        let (runs, _) = fill(&heap, 4);
        assert!(runs.len() >= count);
        heap.verify().unwrap();
    }
}

#[test]
fn free_reservations_are_returned_when_address_space_runs_out() {
    let settings = Settings { address_space_limit: 100 * MIB as u64, ..real(GIB) };
    let heap = heap_on(&Simulated::new(settings), Options::new());
    let (runs, _) = fill(&heap, 64);
    let (first, rest) = runs.split_first().unwrap();
    rest.iter().for_each(|&run| free(&heap, run));
    let large = heap.allocate(60 * MIB / PAGE, PAGE).unwrap();
    assert!(heap.statistics().returned_reservations > 0);
    heap.verify().unwrap();
    free(&heap, large);
    free(&heap, *first);
}

#[test]
fn under_a_limit_on_data_the_last_step_is_as_small_as_is_needed() {
    let limit = 5 * MIB;
    let kernel = Simulated::new(Settings { data_limit: limit as u64, ..real(GIB) });
    let heap = heap_on(&kernel, Options::new());
    let (runs, error) = fill(&heap, 4);
    assert!(error.to_string().contains("RLIMIT_DATA is 5.0 MiB"), "{error}");
    let obtained = runs.len() * 4 * PAGE;
    assert!(obtained + 256 * KIB > limit, "{obtained} of {limit} bytes were had");
    heap.verify().unwrap();
    let last = runs[runs.len() / 2];
    free(&heap, last);
    assert_eq!(heap.allocate(4, PAGE).unwrap().start, last.start);
}

/// As much of a strict limit on promised memory is had as the heap's own records and what it could
/// not use of a step leave, in steps that become smaller; and had again after it was freed.
fn uses_what_a_limit_leaves<O: Os + Clone>(heap: &PageHeap<O>, limit: usize) {
    let (runs, error) = fill(heap, 4);
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
    let obtained = runs.len() * 4 * PAGE;
    assert!(obtained + 512 * KIB > limit, "{obtained} of {limit} bytes were had: {error}");
    heap.verify().unwrap();
    runs.iter().for_each(|&run| free(heap, run));
    let (again, _) = fill(heap, 4);
    assert!(again.len() >= runs.len(), "{} of {} runs were had again", again.len(), runs.len());
    heap.verify().unwrap();
}

#[test]
fn under_strict_accounting_of_swap_steps_shrink_to_what_is_left() {
    for limit in [3 * MIB, 7 * MIB, 41 * MIB, 90 * MIB] {
        let overcommit = Overcommit::Never { limit: limit as u64 };
        let kernel = Simulated::new(Settings { overcommit, ..real(GIB) });
        uses_what_a_limit_leaves(&heap_on(&kernel, Options::new()), limit);
    }
}

/// FreeBSD charges a reservation whole, so it is the reservations that have to shrink.
#[test]
fn under_a_limit_on_swap_that_charges_whole_reservations_they_shrink_to_what_is_left() {
    for limit in [3 * MIB, 7 * MIB, 41 * MIB, 90 * MIB] {
        let settings = Settings { swap_limit: limit as u64, ..real(GIB) };
        let kernel = Simulated::<sim::FreeBsd>::start(settings);
        let heap = PageHeap::new(FreeBsd::new(kernel), accounts(), Options::new());
        uses_what_a_limit_leaves(&heap, limit);
    }
}

#[test]
fn what_a_page_heap_cannot_hand_out_is_refused_with_a_reason() {
    let heap = heap_on(&Simulated::new(real(GIB)), Options::new());
    let kind = |npages, align| heap.allocate(npages, align).unwrap_err().kind();
    assert_eq!(kind(0, PAGE), ErrorKind::Empty);
    assert_eq!(kind(1, 3 * PAGE), ErrorKind::BadAlignment);
    assert_eq!(kind(1, 0), ErrorKind::BadAlignment);
    assert_eq!(kind(1, 1 << 63), ErrorKind::BadAlignment);
    assert_eq!(kind(usize::MAX, PAGE), ErrorKind::TooLong);
    assert_eq!(kind(1 << 60, PAGE), ErrorKind::TooLong);
    assert!(matches!(kind(2 * GIB / PAGE, PAGE), ErrorKind::OutOfMemory { .. }));
    heap.allocate(1, PAGE).unwrap();
    heap.verify().unwrap();
}

/// What a program does that grows, extends, gives back and returns; each run ends in order.
fn exercise<O: Os + Clone>(heap: &PageHeap<O>) -> Result<(), sysmem::Error> {
    let mut runs = Vec::new();
    let mut result = Ok(());
    for npages in [1, 700, 16, 5000, 300, 2] {
        match heap.allocate(npages, PAGE) {
            Ok(run) => runs.push(run),
            Err(error) => result = Err(error),
        }
        heap.verify().unwrap();
    }
    if let Some(last) = runs.last_mut() {
        // SAFETY: a run of this heap.
        if unsafe { heap.extend(last.start, last.npages, last.npages + 600) }.is_some() {
            last.npages += 600;
        }
    }
    for run in runs {
        free(heap, run);
        heap.release(MIB);
        heap.verify().unwrap();
    }
    heap.release_all();
    heap.verify().unwrap();
    result
}

#[test]
fn a_failure_of_any_call_is_reported_and_leaves_a_heap_that_works() {
    let mut failures = 0;
    for nth in 0.. {
        let kernel = Faulty::new(Simulated::new(real(GIB)));
        let heap = heap_on(&kernel, Options::new().huge_pages(HugePages::Advise));
        kernel.fail_nth(nth, Errno(12));
        let _ = exercise(&heap);
        let reached = kernel.calls() > nth;
        kernel.fail_nothing();
        exercise(&heap).unwrap();
        assert_eq!(heap.statistics().in_use, 0);
        drop(heap);
        if !reached {
            break;
        }
        failures += 1;
    }
    assert!(failures > 30, "only {failures} calls were made to fail");
}

#[test]
fn when_everything_fails_nothing_is_had_and_nothing_stays() {
    let kernel = Faulty::new(Simulated::new(real(GIB)));
    let heap = heap_on(&kernel, Options::new());
    kernel.fail_when(|_, _| Some(Errno(12)));
    assert!(exercise(&heap).is_err());
    assert_eq!(heap.statistics().allocations, 0);
    kernel.fail_nothing();
    exercise(&heap).unwrap();
}

#[test]
fn runs_of_backed_pages_need_no_system_call() {
    let kernel = Traced::new(Simulated::new(real(GIB)));
    let heap = heap_on(&kernel, Options::new().release_on_free(ReleaseOnFree::Never));
    let run = heap.allocate(512, PAGE).unwrap();
    free(&heap, run);
    kernel.clear();
    for npages in [1, 16, 100, 512] {
        let run = heap.allocate(npages, PAGE).unwrap();
        free(&heap, run);
    }
    assert_eq!(kernel.records().len(), 0);
}

#[test]
fn a_gibibyte_in_small_runs_takes_few_calls_and_few_records() {
    let kernel = Traced::new(Simulated::new(real(4 * GIB)));
    let heap = heap_on(&kernel, Options::new());
    for _ in 0..GIB / (4 * PAGE) {
        heap.allocate(4, PAGE).unwrap();
    }
    let mapped = kernel.count(|call| matches!(call, Call::Mprotect { .. }));
    assert_eq!(mapped, 512, "one call for each 2 MiB");
    let records = heap.statistics().metadata as usize
        + Linux::new(kernel.clone()).registry().metadata_bytes();
    assert!(records <= GIB / 500 + 128 * KIB, "{records} bytes of records");
    heap.verify().unwrap();
}

/// What huge pages were asked for: the offset in a huge page and the length of each mapping.
fn advised(kernel: &Simulated) -> Vec<(usize, usize)> {
    let mappings = kernel.mappings().into_iter();
    let advised = mappings.filter(|mapping| mapping.attributes.huge == Some(true));
    advised.map(|mapping| (mapping.start % (2 * MIB), mapping.len())).collect()
}

#[test]
fn advice_covers_whole_huge_pages_and_only_those() {
    let kernel = Simulated::new(real(GIB));
    let heap = heap_on(&kernel, Options::new().huge_pages(HugePages::Advise));
    heap.allocate(300, PAGE).unwrap();
    assert_eq!(advised(&kernel), [(0, 4 * MIB)]);
}

#[test]
fn advice_is_given_as_was_said_last() {
    let kernel = Simulated::new(real(GIB));
    let heap = heap_on(&kernel, Options::new());
    heap.allocate(256, PAGE).unwrap();
    assert_eq!(advised(&kernel), []);
    heap.set_huge_pages(HugePages::Advise);
    heap.allocate(512, PAGE).unwrap();
    assert_eq!(advised(&kernel), [(0, 4 * MIB)]);
    heap.set_huge_pages(HugePages::System);
    heap.allocate(1024, PAGE).unwrap();
    assert_eq!(advised(&kernel), [(0, 4 * MIB)]);
    heap.verify().unwrap();
}

#[test]
fn a_run_with_room_grows_in_place_while_others_come_and_go() {
    let heap = heap_on(&Simulated::new(real(GIB)), Options::new());
    let run = heap.allocate_with_room(MIB / PAGE, PAGE, 7 * MIB / PAGE).unwrap();
    let mapped = |heap: &PageHeap<_>| heap.statistics().reserved - heap.statistics().unmapped;
    assert_eq!(mapped(&heap), MIB as u64, "room costs nothing");
    let reserved = heap.statistics().reserved;
    let mut npages = run.npages;
    let mut others = Vec::new();
    while npages < 8 * MIB / PAGE {
        others.push(heap.allocate(1 + npages % 40, PAGE).unwrap());
        // SAFETY: a run of the heap, as long as it has grown to.
        let zeroed = unsafe { heap.extend(run.start, npages, npages + 3) };
        if npages + 3 > 8 * MIB / PAGE {
            assert_eq!(zeroed, None, "there is no more room");
            break;
        }
        assert_eq!(zeroed, Some(true));
        npages += 3;
        if npages % 5 == 0 {
            free(&heap, others.swap_remove(npages % others.len()));
        }
    }
    assert!(npages > 8 * MIB / PAGE - 3);
    heap.verify().unwrap();
    let before = heap.statistics().reserved;
    others.into_iter().for_each(|run| free(&heap, run));
    free(&heap, Run { npages, ..run });
    heap.release_all();
    assert_eq!(before - heap.statistics().reserved, reserved, "room is returned with its run");
}

#[test]
fn room_is_less_where_address_space_is_short_and_others_get_it_before_they_get_nothing() {
    let settings = Settings { address_space_limit: 24 * MIB as u64, ..real(GIB) };
    let heap = heap_on(&Simulated::new(settings), Options::new());
    let run = heap.allocate_with_room(MIB / PAGE, PAGE, 100 * MIB / PAGE).unwrap();
    let reserved = heap.statistics().reserved;
    assert!((8 * MIB as u64..24 * MIB as u64).contains(&reserved), "{reserved}");
    let (runs, _) = fill(&heap, 16);
    // All there is, but for records and what is lost to huge pages.
    assert!(runs.len() * 16 * PAGE > 18 * MIB, "{}", runs.len());
    heap.verify().unwrap();
    free(&heap, run);
    runs.into_iter().for_each(|run| free(&heap, run));
}

/// How many of the kernel's mappings the heap's reservations lie in.
fn mappings<O: Os + Clone>(kernel: &Simulated, heap: &PageHeap<O>) -> u64 {
    let mut cells = vec![MapCell::default(); 1000];
    let count = heap.map(&mut cells);
    let lies_in = |mapping: &Mapping| {
        cells[..count].iter().any(|cell| {
            let pages = cell.in_use + cell.free_backed + cell.given_back + cell.unmapped;
            assert_eq!(usize::from(pages) * PAGE, 2 * MIB, "whole huge pages");
            cell.address < mapping.end && mapping.start < cell.address + 2 * MIB
        })
    };
    kernel.mappings().iter().filter(|mapping| lies_in(mapping)).count() as u64
}

#[test]
fn the_mappings_that_are_told_are_the_kernels_however_runs_come_and_go() {
    for huge_pages in [HugePages::System, HugePages::Advise] {
        let kernel = Simulated::new(Settings { huge_page_size: Some(2 * MIB), ..real(GIB) });
        let options = Options::new().huge_pages(huge_pages).release_on_free(ReleaseOnFree::Never);
        let heap = heap_on(&kernel, options);
        assert_eq!(heap.statistics().mappings, 0);
        // Half of 4 MiB is mapped, then all.
        let first = heap.allocate(1, PAGE).unwrap();
        assert_eq!((heap.statistics().mappings, mappings(&kernel, &heap)), (2, 2));
        let second = heap.allocate(256, PAGE).unwrap();
        assert_eq!((heap.statistics().mappings, mappings(&kernel, &heap)), (1, 1));
        free(&heap, second);
        let with_room = heap.allocate_with_room(10, PAGE, 1000).unwrap();
        assert_eq!(heap.statistics().mappings, 3);
        let runs: Vec<Run> = (0..2000).map(|_| heap.allocate(8, PAGE).unwrap()).collect();
        // A few huge pages far apart, many, all.
        for (first, step) in [(1, 258), (2, 6), (3, 6)] {
            runs.iter().skip(first).step_by(step).for_each(|&run| free(&heap, run));
            heap.release_all();
            let (told, found) = (heap.statistics().mappings, mappings(&kernel, &heap));
            // The kernel joins what is alike of reservations that it puts beside each other.
            let reservations = heap.statistics().reservations;
            assert!(found <= told && told < found + reservations, "{found} of {told}");
            // Giving back splits nothing but where huge pages are kept small.
            let splits = huge_pages == HugePages::Advise && step == 258;
            assert_eq!(told > 2 * reservations, splits, "{told}");
        }
        free(&heap, first);
        free(&heap, with_room);
        heap.verify().unwrap();
    }
}

#[test]
fn the_mappings_that_are_told_are_the_kernels_while_a_heap_with_broken_huge_pages_grows() {
    let kernel = Simulated::new(Settings { huge_page_size: Some(2 * MIB), ..real(4 * GIB) });
    let options =
        Options::new().huge_pages(HugePages::Advise).release_on_free(ReleaseOnFree::Never);
    let heap = heap_on(&kernel, options);
    let mut runs = Vec::new();
    let mut seed = 1usize;
    let mut below = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    for _ in 0..600 {
        let npages = if below(4) == 0 { 300 } else { 40 };
        runs.push(heap.allocate(1 + below(npages), PAGE).unwrap());
        if below(3) == 0 {
            free(&heap, runs.swap_remove(below(runs.len())));
        }
        if below(4) == 0 {
            heap.release(below(64) * PAGE);
        }
        let (told, found) = (heap.statistics().mappings, mappings(&kernel, &heap));
        let reservations = heap.statistics().reservations;
        assert!(found <= told && told < found + reservations, "{found} of {told}");
    }
    heap.verify().unwrap();
    runs.into_iter().for_each(|run| free(&heap, run));
}
