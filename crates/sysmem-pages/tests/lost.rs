//! What the page heap does when the system loses a range while it is given back: nothing of it is
//! handed out, given back or unmapped again, and what lies beside it stays with its owners.

use std::sync::{Arc, Mutex};

use sysmem::calls::UnixCalls;
use sysmem::os::{Os, netbsd::NetBsd, openbsd::OpenBsd};
use sysmem::sim::{self, Backing, Call, Faulty, Settings, Simulated};
use sysmem::{Errno, ErrorKind, PageRange};
use sysmem_pages::{Accounts, Options, PAGE, PageHeap, ReleaseOnFree, Run};

const MIB: usize = 1 << 20;
const ENOMEM: Errno = Errno(12);
const MAP_FIXED: i32 = 0x10;
/// Of the BSDs: readable and writable, and anonymous private memory.
const READ_WRITE: i32 = 3;
const ANON_PRIVATE: i32 = 0x1002;
const OTHERS: u8 = 0x5A;

type Kernel<S> = Faulty<Simulated<S>>;

fn settings() -> Settings {
    Settings { backing: Backing::Real, ..Settings::heap(1 << 30) }
}

fn heap_on<O: Os + Clone>(os: O) -> (PageHeap<O>, &'static Accounts) {
    let accounts: &'static Accounts = Box::leak(Box::new(Accounts::new("lost", "records")));
    let options = Options::new().release_on_free(ReleaseOnFree::Never);
    (PageHeap::new(os, accounts, options), accounts)
}

fn range_of(run: Run) -> PageRange {
    PageRange::new(run.start.as_ptr(), run.npages * PAGE)
}

fn overlap(a: PageRange, b: PageRange) -> bool {
    a.start.addr() < b.start.addr() + b.len && b.start.addr() < a.start.addr() + a.len
}

fn fill<O: Os + Clone>(heap: &PageHeap<O>, npages: usize, byte: u8) -> Run {
    let run = heap.allocate(npages, PAGE).unwrap();
    // SAFETY: the run is Ready and ours.
    unsafe { run.start.write_bytes(byte, npages * PAGE) };
    run
}

fn holds<O: Os + Clone>(_: &PageHeap<O>, run: Run, byte: u8) -> bool {
    // SAFETY: the run is Ready and ours.
    unsafe { std::slice::from_raw_parts(run.start.as_ptr(), run.npages * PAGE) }
        .iter()
        .all(|&found| found == byte)
}

fn free<O: Os + Clone>(heap: &PageHeap<O>, run: Run) {
    // SAFETY: each test frees a run once and does not use it afterwards.
    unsafe { heap.free(run.start, run.npages) }.unwrap();
}

/// On NetBSD a fixed mapping that is refused leaves a hole. From now on every one is refused, and so
/// is taking the hole again. Returns where to find the last hole.
fn lose_holes(kernel: &Kernel<sim::NetBsd>) -> Arc<Mutex<Option<PageRange>>> {
    let hole = Arc::new(Mutex::new(None));
    let (below, note) = (kernel.kernel().clone(), hole.clone());
    kernel.fail_when(move |_, call| match *call {
        Call::Mmap { address, len, flags, .. } if flags & MAP_FIXED != 0 => {
            let start = std::ptr::with_exposed_provenance_mut(address);
            // SAFETY: what a refused replacement does on this kernel: the range was given up.
            unsafe { below.munmap(start, len) }.unwrap();
            *note.lock().unwrap() = Some(PageRange::new(start, len));
            Some(ENOMEM)
        }
        Call::Mmap { address, .. } => (address != 0).then_some(ENOMEM),
        _ => None,
    });
    hole
}

/// Another thread is given what was lost, and writes to it.
fn map_another(kernel: &Kernel<sim::NetBsd>, range: PageRange) {
    let flags = ANON_PRIVATE | MAP_FIXED;
    // SAFETY: the range is free.
    let other = unsafe { kernel.kernel().mmap(range.start, range.len, READ_WRITE, flags) };
    assert_eq!(other, Ok(range.start));
    // SAFETY: just mapped.
    unsafe { range.start.write_bytes(OTHERS, range.len) };
}

fn is_anothers(range: PageRange) -> bool {
    // SAFETY: mapped by `map_another`, unless the heap took it away, which is what is tested.
    unsafe { std::slice::from_raw_parts(range.start, range.len) }
        .iter()
        .all(|&found| found == OTHERS)
}

/// Uses and frees more than the heap had, gives it back, and ends the heap; none of it may touch the
/// range. `beside` is a run beside it, in the same reservation.
fn goes_on_beside<O: Os + Clone>(heap: PageHeap<O>, beside: Run, range: PageRange) {
    assert!(holds(&heap, beside, 1), "a run beside it is its owner's");
    let runs: Vec<Run> =
        [1, 4, 16, 64, 256, 600, 700].into_iter().map(|npages| fill(&heap, npages, 2)).collect();
    for &run in &runs {
        assert!(!overlap(range_of(run), range), "{run:?} was handed out again");
    }
    heap.verify().unwrap();
    let lost = heap.statistics().lost;
    assert!(lost >= range.len as u64);
    // What is freed beside it is handed out again, as no call is needed for that.
    free(&heap, beside);
    let again = fill(&heap, beside.npages, 3);
    assert_eq!(again.start, beside.start);
    free(&heap, again);
    runs.into_iter().for_each(|run| free(&heap, run));
    heap.verify().unwrap();
    let failed = heap.statistics().failed_releases;
    let free_backed = heap.statistics().free_backed;
    let released = heap.release_all() as u64;
    let now = heap.statistics();
    assert_eq!((now.failed_releases, now.free_backed), (failed, 0), "nothing was tried in vain");
    assert_eq!(now.lost - lost, free_backed - released);
    assert_eq!(now.lost - lost, (beside.npages * PAGE) as u64);
    heap.verify().unwrap();
}

#[test]
fn on_netbsd_a_hole_that_is_anothers_by_now_is_neither_handed_out_nor_given_back_nor_unmapped() {
    let kernel = Faulty::new(Simulated::<sim::NetBsd>::start(settings()));
    let (heap, accounts) = heap_on(NetBsd::new(kernel.clone()));
    let beside = fill(&heap, 8, 1);
    let gone = fill(&heap, 64, 1);
    free(&heap, gone);
    let hole = lose_holes(&kernel);
    assert_eq!(heap.release_all(), 0);
    kernel.fail_nothing();
    let range = hole.lock().unwrap().unwrap();
    assert!(overlap(range, range_of(gone)));
    map_another(&kernel, range);
    let reserved = heap.statistics().reserved;
    assert_eq!(heap.statistics().failed_releases, 1);
    goes_on_beside(heap, beside, range);
    assert!(is_anothers(range));
    // The lost reservation stays on its account: nobody knows what of it is still there.
    let figures = accounts.heap.figures();
    assert_eq!(figures.reserved + figures.prepared + figures.ready, reserved);
    kernel.kernel().verify();
}

#[test]
fn on_openbsd_a_range_that_cannot_be_opened_again_is_not_handed_out() {
    let kernel = Faulty::new(Simulated::<sim::OpenBsd>::start(settings()));
    let (heap, _) = heap_on(OpenBsd::new(kernel.clone()));
    let beside = fill(&heap, 8, 1);
    let gone = fill(&heap, 64, 1);
    free(&heap, gone);
    // RLIMIT_DATA is met: fresh memory is refused, and what was closed is not opened again, because
    // another thread has taken what that had made free.
    kernel.fail_every(
        |call| match call {
            Call::Mmap { protection, flags, .. } => {
                *protection == READ_WRITE && flags & MAP_FIXED != 0
            }
            Call::Mprotect { protection, .. } => *protection == READ_WRITE,
            _ => false,
        },
        ENOMEM,
    );
    assert_eq!(heap.release_all(), 0);
    kernel.fail_nothing();
    assert_eq!(heap.statistics().failed_releases, 1);
    goes_on_beside(heap, beside, range_of(gone));
    kernel.kernel().verify();
}

#[test]
fn a_range_that_is_lost_in_use_counts_as_gone_and_never_comes_again() {
    let kernel = Faulty::new(Simulated::<sim::NetBsd>::start(settings()));
    let (heap, _) = heap_on(NetBsd::new(kernel.clone()));
    let run = fill(&heap, 64, 1);
    let range = |page: usize| PageRange::new(range_of(run).start.wrapping_add(page * PAGE), PAGE);
    let ranges = [range(0), range(2), range(4)];
    // SAFETY: the ranges lie in a run of ours, and nothing touches them.
    unsafe { heap.give_back_in_use(&ranges[..1], |_| unreachable!()) }.unwrap();
    let hole = lose_holes(&kernel);
    let mut kept = Vec::new();
    // SAFETY: as above.
    let refusal = unsafe { heap.give_back_in_use(&ranges[1..], |range| kept.push(range)) };
    assert_eq!(refusal.unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(kept, ranges[2..]);
    kernel.fail_nothing();
    assert_eq!(*hole.lock().unwrap(), Some(ranges[1]));
    map_another(&kernel, ranges[1]);
    heap.verify().unwrap();
    for gone in &ranges[..2] {
        // SAFETY: the range is gone.
        let error = unsafe { heap.use_again(*gone) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lost);
    }
    // SAFETY: kept, so it is Ready.
    assert_eq!(unsafe { ranges[2].start.read() }, 1);
    let other = fill(&heap, 300, 2);
    assert!(!overlap(range_of(other), range_of(run)));
    heap.verify().unwrap();
    drop(heap);
    assert!(is_anothers(ranges[1]));
}

#[test]
fn what_lies_in_a_lost_reservation_is_kept_and_holds_up_nothing_that_lies_in_another() {
    let kernel = Faulty::new(Simulated::<sim::NetBsd>::start(settings()));
    let (heap, _) = heap_on(NetBsd::new(kernel.clone()));
    let lost = fill(&heap, 33 * MIB / PAGE, 1);
    let other = fill(&heap, 33 * MIB / PAGE, 1);
    assert_eq!(heap.statistics().reservations, 2);
    let range =
        |run: Run, page| PageRange::new(range_of(run).start.wrapping_add(page * PAGE), PAGE);
    lose_holes(&kernel);
    // SAFETY: the range lies in a run of ours, and nothing touches it.
    let refusal = unsafe { heap.give_back_in_use(&[range(lost, 0)], |_| unreachable!()) };
    assert_eq!(refusal.unwrap_err().kind(), ErrorKind::Lost);
    kernel.fail_nothing();
    let before = heap.statistics();
    let ranges = [range(lost, 2), range(other, 0), range(lost, 4), range(lost, 6), range(other, 2)];
    let mut kept = Vec::new();
    // SAFETY: as above.
    unsafe { heap.give_back_in_use(&ranges, |range| kept.push(range)) }.unwrap();
    assert_eq!(kept, [ranges[0], ranges[2], ranges[3]]);
    let now = heap.statistics();
    assert_eq!(now.in_use_given_back - before.in_use_given_back, 2 * PAGE as u64);
    assert_eq!(now.failed_releases, before.failed_releases, "nothing was tried in vain");
    heap.verify().unwrap();
    for range in kept {
        // SAFETY: kept, so it is Ready.
        assert_eq!(unsafe { range.start.read() }, 1);
    }
}

#[test]
fn new_reservations_keep_out_of_holes_in_lost_ones() {
    let kernel = Faulty::new(Simulated::<sim::NetBsd>::start(settings()));
    let (heap, _) = heap_on(NetBsd::new(kernel.clone()));
    // The hole is as long as a reservation, and has runs in use on both sides.
    let beside = fill(&heap, 1, 1);
    let gone = fill(&heap, 33 * MIB / PAGE, 1);
    let last = fill(&heap, 100, 1);
    free(&heap, gone);
    let hole = lose_holes(&kernel);
    heap.release_all();
    kernel.fail_nothing();
    let range = hole.lock().unwrap().unwrap();
    for _ in 0..20 {
        let run = fill(&heap, 4 * MIB / PAGE, 2);
        assert!(!overlap(range_of(run), range), "{run:?}");
        heap.verify().unwrap();
    }
    assert!(holds(&heap, beside, 1) && holds(&heap, last, 1));
}
