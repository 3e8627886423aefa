//! The page heap on the running kernel.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use sysmem::{GiveBack, Native};
use sysmem_pages::{Accounts, HugePages, MisuseKind, Options, PAGE, PageHeap, ReleaseOnFree, Run};

const MIB: usize = 1 << 20;

/// A heap with accounts of its own.
fn heap(options: Options) -> PageHeap<Native> {
    let accounts = Box::leak(Box::new(Accounts::new("test", "test: records")));
    PageHeap::new(Native::NEW, accounts, options)
}

fn bytes(heap: &PageHeap<Native>, run: Run) -> &'static mut [u8] {
    // SAFETY: the run is Ready memory of the calling test alone, which uses it only while it has
    // the run.
    unsafe { std::slice::from_raw_parts_mut(run.start.as_ptr(), run.npages * heap.page_size()) }
}

fn free(heap: &PageHeap<Native>, run: Run) {
    // SAFETY: each test frees a run once and does not use it afterwards.
    unsafe { heap.free(run.start, run.npages) }.unwrap();
}

#[test]
fn a_long_run_that_is_freed_gives_its_address_space_back() {
    let heap = heap(Options::new());
    let small = heap.allocate(1, PAGE).unwrap();
    let before = heap.statistics();
    // No more than OpenBSD lets a process have that asks for nothing (`RLIMIT_DATA`, login.conf(5)).
    let run = heap.allocate(96 * MIB / heap.page_size(), PAGE).unwrap();
    assert_eq!(heap.statistics().reserved, before.reserved + 96 * MIB as u64);
    bytes(&heap, run)[..16 * MIB].fill(1);
    free(&heap, run);
    let after = heap.statistics();
    assert_eq!(after.reserved, before.reserved);
    assert_eq!(after.returned_reservations, 1);
    heap.verify().unwrap();
    free(&heap, small);
}

#[test]
fn a_released_run_is_handed_out_zeroed() {
    let heap = heap(Options::new().release_on_free(ReleaseOnFree::Never));
    let _stays = heap.allocate(1, PAGE).unwrap();
    let run = heap.allocate(100, PAGE).unwrap();
    assert!(run.zeroed, "fresh memory is");
    bytes(&heap, run).fill(0xA5);
    free(&heap, run);
    let again = heap.allocate(100, PAGE).unwrap();
    assert_eq!(again.start, run.start);
    assert!(!again.zeroed, "nobody cleared it");
    free(&heap, again);
    assert_eq!(heap.release_all(), 100 * heap.page_size());
    let released = heap.allocate(100, PAGE).unwrap();
    assert_eq!(released.start, run.start);
    assert!(released.zeroed);
    assert!(bytes(&heap, released).iter().all(|&byte| byte == 0));
    heap.verify().unwrap();
}

#[test]
fn lazily_released_memory_is_not_called_zero() {
    let options = Options::new().give_back(GiveBack::Lazy).release_on_free(ReleaseOnFree::Never);
    let heap = heap(options);
    let _stays = heap.allocate(1, PAGE).unwrap();
    let run = heap.allocate(10, PAGE).unwrap();
    free(&heap, run);
    assert_eq!(heap.release_all(), 10 * heap.page_size());
    assert!(!heap.allocate(10, PAGE).unwrap().zeroed);
    heap.verify().unwrap();
}

#[test]
fn misuse_is_named_and_changes_nothing() {
    let heap = heap(Options::new());
    let run = heap.allocate(4, PAGE).unwrap();
    let before = heap.statistics();
    let page_size = heap.page_size();
    let kind = |address: usize, npages: usize| {
        let start = std::ptr::NonNull::new(std::ptr::without_provenance_mut(address)).unwrap();
        // SAFETY: what is freed here is refused before anything is touched.
        unsafe { heap.free(start, npages) }.unwrap_err().kind()
    };
    let at = run.start.addr().get();
    let local = 0u8;
    assert_eq!(kind((&raw const local).addr(), 1), MisuseKind::Foreign);
    assert_eq!(kind(at + 512, 1), MisuseKind::Unaligned);
    assert_eq!(kind(at, 0), MisuseKind::Length);
    assert_eq!(kind(at, usize::MAX), MisuseKind::TooLong);
    assert_eq!(kind(at, 5), MisuseKind::AlreadyFree);
    assert_eq!(kind(at + 4 * page_size, 1), MisuseKind::AlreadyFree);
    // SAFETY: refused.
    let grown = unsafe { heap.shrink(run.start, 4, 5) }.unwrap_err();
    assert_eq!(grown.kind(), MisuseKind::Length);
    assert_eq!(heap.statistics(), before);
    free(&heap, run);
    assert_eq!(kind(at, 4), MisuseKind::AlreadyFree);
    heap.verify().unwrap();
}

#[test]
fn threads_that_hammer_a_heap_never_share_a_page() {
    let options = Options::new()
        .release_on_free(ReleaseOnFree::Above { bytes: MIB, divisor: 8 })
        .huge_pages(HugePages::Advise);
    let heap = heap(options);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4u64)
            .map(|id| {
                let heap = &heap;
                scope.spawn(move || {
                    let mut random = (id + 1) * 0x0123_4567_89AB_CDEF;
                    let mut next = move |below: usize| {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        (random >> 16) as usize % below
                    };
                    let mut runs: Vec<(Run, u8)> = Vec::new();
                    for step in 0..6_000 {
                        if runs.len() < 40 && next(5) < 3 {
                            let npages = if next(50) == 0 { 1 + next(600) } else { 1 + next(16) };
                            let run = heap.allocate(npages, PAGE << next(4)).unwrap();
                            let all = bytes(heap, run);
                            if run.zeroed {
                                assert!(all.iter().step_by(509).all(|&byte| byte == 0));
                            }
                            let stamp = (id * 61 + step) as u8;
                            all.iter_mut().step_by(1021).for_each(|byte| *byte = stamp);
                            runs.push((run, stamp));
                        } else if !runs.is_empty() {
                            let (run, stamp) = runs.swap_remove(next(runs.len()));
                            let all = bytes(heap, run);
                            assert!(all.iter().step_by(1021).all(|&byte| byte == stamp));
                            free(heap, run);
                        }
                    }
                    runs.into_iter().for_each(|(run, _)| free(heap, run));
                })
            })
            .collect();
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                heap.release(MIB);
                heap.release_all();
                heap.verify().unwrap();
                // The lock is not fair: without a pause this thread could have it nearly always.
                thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let done: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Relaxed);
        done.into_iter().for_each(|worker| worker.unwrap());
    });
    assert_eq!(heap.statistics().in_use, 0);
    assert_eq!(heap.statistics().failed_releases, 0);
    heap.release_all();
    assert_eq!(heap.statistics().free_backed, 0);
    heap.verify().unwrap();
}
