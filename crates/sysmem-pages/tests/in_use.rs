//! Memory of runs that stay in use: it goes, it comes again, and every book says so.

use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, Call, Faulty, Settings, Simulated};
use sysmem::{Errno, ErrorKind, Limit, Os, PageRange};
use sysmem_pages::{Accounts, MapCell, Options, PAGE, PageHeap, ReleaseOnFree, Run};

const MIB: usize = 1 << 20;
const SYSTEM_PAGE: usize = 4096;

fn heap_on<K>(kernel: &K) -> PageHeap<Linux<K>>
where
    K: Clone,
    Linux<K>: Os,
{
    let accounts = Box::leak(Box::new(Accounts::new("in use", "records")));
    let options = Options::new().release_on_free(ReleaseOnFree::Never);
    PageHeap::new(Linux::new(kernel.clone()), accounts, options)
}

fn simulated() -> Simulated {
    Simulated::new(Settings { backing: Backing::Real, ..Settings::heap(1 << 30) })
}

/// Every second page of the system in a run.
fn every_second(run: Run) -> Vec<PageRange> {
    (0..run.npages * PAGE / SYSTEM_PAGE)
        .step_by(2)
        .map(|page| {
            PageRange::new(run.start.as_ptr().wrapping_add(page * SYSTEM_PAGE), SYSTEM_PAGE)
        })
        .collect()
}

#[test]
fn what_goes_is_zero_when_it_comes_again_and_its_neighbours_are_untouched() {
    let heap = heap_on(&simulated());
    // Two reservations, so that a call has parts.
    let runs = [heap.allocate(64, PAGE).unwrap(), heap.allocate(64 * MIB / PAGE, PAGE).unwrap()];
    let mut ranges = Vec::new();
    for run in runs {
        // SAFETY: the run is Ready and ours.
        unsafe { run.start.write_bytes(7, 64 * PAGE) };
        ranges.extend(every_second(Run { npages: 64, ..run }));
    }
    let bytes = (ranges.len() * SYSTEM_PAGE) as u64;
    let before = heap.statistics();
    // SAFETY: the ranges lie in runs of ours, and nothing touches them.
    unsafe { heap.give_back_in_use(&ranges, |_| unreachable!()) }.unwrap();
    let now = heap.statistics();
    assert_eq!((now.in_use, now.in_use_given_back), (before.in_use, bytes));
    assert_eq!(now.released - before.released, bytes);
    heap.verify().unwrap();

    for &range in &ranges {
        // SAFETY: the range was given back.
        unsafe { heap.use_again(range) }.unwrap();
        // SAFETY: both are Ready and ours.
        unsafe {
            assert_eq!((range.start.read(), range.start.add(SYSTEM_PAGE - 1).read()), (0, 0));
            assert_eq!(range.start.add(SYSTEM_PAGE).read(), 7);
        }
    }
    assert_eq!(heap.statistics().in_use_given_back, 0);
    heap.verify().unwrap();
}

#[test]
fn memory_that_went_leaves_room_under_a_hard_limit_and_comes_again_only_within_it() {
    let heap = heap_on(&simulated());
    heap.set_limit(usize::MAX, 8 * MIB);
    let run = heap.allocate(8 * MIB / PAGE, PAGE).unwrap();
    assert!(heap.allocate(1, PAGE).is_err());
    let range = PageRange::new(run.start.as_ptr(), 2 * MIB);
    // SAFETY: the range lies in a run of ours, and nothing touches it.
    unsafe { heap.give_back_in_use(&[range], |_| unreachable!()) }.unwrap();
    let other = heap.allocate(MIB / PAGE, PAGE).unwrap();
    // SAFETY: the range was given back.
    let error = unsafe { heap.use_again(range) }.unwrap_err();
    let limit = Some(Limit::Heap(8 * MIB as u64));
    assert_eq!(error.kind(), ErrorKind::OutOfMemory { errno: None, limit }, "{error}");
    heap.verify().unwrap();
    // SAFETY: the run is not used any more; the range was given back.
    unsafe {
        heap.free(other.start, other.npages).unwrap();
        heap.release_all();
        heap.use_again(range).unwrap();
    }
    heap.verify().unwrap();
}

#[test]
fn a_refusal_says_which_ranges_stay_and_the_books_are_true() {
    for refused_at in 0..4 {
        let kernel = Faulty::new(simulated());
        let heap = heap_on(&kernel);
        let run = heap.allocate(64, PAGE).unwrap();
        // SAFETY: the run is Ready and ours.
        unsafe { run.start.write_bytes(7, 64 * PAGE) };
        let ranges = every_second(run);
        let mut seen = 0;
        kernel.fail_when(move |_, call| {
            let gives_back = matches!(call, Call::Madvise { .. } | Call::ProcessMadvise { .. });
            seen += usize::from(gives_back);
            (gives_back && seen > refused_at).then_some(Errno(12))
        });
        let mut kept = Vec::new();
        // SAFETY: the ranges lie in a run of ours, and nothing touches them.
        let answer = unsafe { heap.give_back_in_use(&ranges, |range| kept.push(range)) };
        assert_eq!(answer.is_err(), !kept.is_empty(), "{refused_at}");
        assert!(answer.is_err() || refused_at > 0);
        let gone = ranges.len() - kept.len();
        assert_eq!(heap.statistics().in_use_given_back, (gone * SYSTEM_PAGE) as u64);
        assert_eq!(kept, ranges[gone..]);
        for range in kept {
            // SAFETY: what did not go is Ready.
            assert_eq!(unsafe { range.start.read() }, 7);
        }
        heap.verify().unwrap();
    }
}

#[test]
fn the_map_tells_what_was_given_back_in_use_and_agrees_with_the_sums() {
    let heap = heap_on(&simulated());
    let runs = [heap.allocate(200, PAGE).unwrap(), heap.allocate(600, PAGE).unwrap()];
    let freed = heap.allocate(30, PAGE).unwrap();
    // SAFETY: a run of ours that is not used any more.
    unsafe { heap.free(freed.start, freed.npages) }.unwrap();
    let cells = || {
        let mut cells = [MapCell::default(); 16];
        let count = heap.map(&mut cells);
        cells[..count].to_vec()
    };
    let sum = |of: fn(&MapCell) -> u16| -> u64 {
        cells().iter().map(|cell| u64::from(of(cell)) * PAGE as u64).sum()
    };
    let before = heap.statistics();
    assert_eq!(sum(|cell| cell.in_use), before.in_use);
    for run in runs {
        // Halves of pages, an odd number of them, and pages as a whole.
        let halves = every_second(Run { npages: 101, ..run });
        let whole = PageRange::new(run.start.as_ptr().wrapping_add(150 * PAGE), 10 * PAGE);
        let ranges = [&halves[..], &[whole]].concat();
        // SAFETY: the ranges lie in runs of ours, and nothing touches them.
        unsafe { heap.give_back_in_use(&ranges, |_| unreachable!()) }.unwrap();
    }
    let now = heap.statistics();
    assert_eq!(now.in_use_given_back, (2 * 101 * SYSTEM_PAGE + 20 * PAGE) as u64);
    assert_eq!(sum(|cell| cell.in_use), now.in_use - now.in_use_given_back);
    assert_eq!(sum(|cell| cell.given_back), now.given_back + now.in_use_given_back);
    assert_eq!(sum(|cell| cell.free_backed), now.free_backed);
    // Each where it lies: 101 halves and ten pages of the first run's 200, and maybe a half of another.
    let first = runs[0].start.addr().get() / (256 * PAGE) * (256 * PAGE);
    let cell = cells().into_iter().find(|cell| cell.address == first).unwrap();
    assert!((139..=140).contains(&cell.in_use), "{cell:?}");
}
