//! Page caches: what they hold and when it goes back, on a simulated kernel and with real threads.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, Settings, Simulated};
use sysmem::{ErrorKind, Native, Os};
use sysmem_pages::{
    Accounts, MisuseKind, Options, PAGE, PageCache, PageHeap, ReleaseOnFree, Run, Scavenger,
};

const MIB: usize = 1 << 20;

/// A heap on a machine where time passes by waiting only.
struct Machine {
    kernel: Simulated,
    heap: PageHeap<Linux<Simulated>>,
}

impl Machine {
    fn new() -> Machine {
        let settings =
            Settings { backing: Backing::Real, clock_stands: true, ..Settings::heap(1 << 30) };
        let kernel = Simulated::new(settings);
        let options = Options::new().release_on_free(ReleaseOnFree::Never);
        let heap = PageHeap::new(Linux::new(kernel.clone()), accounts(), options);
        Machine { kernel, heap }
    }

    fn cached(&self) -> usize {
        self.heap.verify().unwrap();
        self.heap.statistics().cached as usize
    }

    /// Has a scavenger look for so many milliseconds; whether it rests then.
    fn scavenge(&self, scavenger: &mut Scavenger, milliseconds: u64) -> bool {
        use sysmem::calls::Calls;
        let until = self.kernel.monotonic_time() + Duration::from_millis(milliseconds);
        loop {
            let wait = scavenger.step(&self.heap);
            let now = self.kernel.monotonic_time();
            if now >= until {
                return wait.is_none();
            }
            self.kernel.advance(wait.unwrap_or(Duration::MAX).min(until - now));
        }
    }
}

fn accounts() -> &'static Accounts {
    Box::leak(Box::new(Accounts::new("caches", "caches: records")))
}

fn free<O: Os + Clone>(cache: &mut PageCache<'_, O>, run: Run) {
    // SAFETY: each test frees a run once and does not use it afterwards.
    unsafe { cache.free(run.start, run.npages) }.unwrap();
}

/// Runs of every length, freed into the cache until it may hold the most of each.
fn fill<O: Os + Clone>(heap: &PageHeap<O>, cache: &mut PageCache<'_, O>) {
    for npages in 1..=PageCache::<O>::LONGEST {
        let runs: Vec<_> = (0..100).map(|_| heap.allocate(npages, PAGE).unwrap()).collect();
        runs.into_iter().for_each(|run| free(cache, run));
    }
}

#[test]
fn a_freed_run_is_the_next_of_its_length_and_the_heap_is_not_asked() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    let run = cache.allocate(3, PAGE).unwrap();
    assert!(run.zeroed, "fresh memory is");
    free(&mut cache, run);
    machine.heap.lock_for_fork();
    let again = cache.allocate(3, PAGE).unwrap();
    free(&mut cache, again);
    // SAFETY: this thread took it.
    unsafe { machine.heap.unlock_after_fork() };
    assert_eq!((again.start, again.npages, again.zeroed), (run.start, 3, false));
    let statistics = machine.heap.statistics();
    assert_eq!((statistics.allocations, statistics.frees), (2, 2));
    // One more came with the first, for the next time.
    assert_eq!((statistics.in_use, statistics.cached), (0, 2 * 3 * PAGE as u64));
    machine.heap.verify().unwrap();
}

#[test]
fn a_cache_and_the_depot_hold_no_more_of_a_length_than_they_say() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    let cached = || machine.heap.statistics().cached as usize;
    for npages in 1..=16 {
        let before = cached();
        let runs: Vec<_> = (0..200).map(|_| machine.heap.allocate(npages, PAGE).unwrap()).collect();
        // A third of it in the cache.
        let most = 3 * (2 * MIB / PAGE / npages).min(31) * npages * PAGE;
        for run in runs {
            free(&mut cache, run);
            assert!(cached() - before <= most, "runs of {npages}");
        }
        assert!(machine.cached() - before >= most / 2, "runs of {npages}");
    }
    assert_eq!(machine.heap.statistics().in_use, 0);
    // Longer runs go to the heap.
    let before = machine.cached();
    let long = cache.allocate(17, PAGE).unwrap();
    free(&mut cache, long);
    assert_eq!(machine.cached(), before);
}

#[test]
fn what_one_cache_has_too_much_of_another_gets_without_the_heap() {
    let machine = Machine::new();
    let (mut frees, mut allocates) = (machine.heap.cache().unwrap(), machine.heap.cache().unwrap());
    let runs: Vec<_> = (0..60).map(|_| machine.heap.allocate(3, PAGE).unwrap()).collect();
    runs.iter().for_each(|&run| free(&mut frees, run));
    let freed: HashSet<_> = runs.iter().map(|run| run.start).collect();
    let got: Vec<_> = (0..10).map(|_| allocates.allocate(3, PAGE).unwrap()).collect();
    assert!(got.iter().all(|run| freed.contains(&run.start)));
    // Nothing was free for the heap, or became so.
    let statistics = machine.heap.statistics();
    assert_eq!(
        (statistics.in_use, statistics.cached),
        (10 * 3 * PAGE as u64, 50 * 3 * PAGE as u64)
    );
    got.into_iter().for_each(|run| free(&mut allocates, run));
    drop(frees);
    assert!(machine.cached() > 0, "the depot is the other's too");
    drop(allocates);
    assert_eq!(machine.cached(), 0);
}

#[test]
fn a_length_that_no_cache_comes_to_the_depot_for_goes_back_beside_one_that_is_used() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    fill(&machine.heap, &mut cache);
    let before = machine.cached();
    let mut scavenger = Scavenger::new();
    for _ in 0..10 {
        machine.scavenge(&mut scavenger, 99);
        // More than the cache holds, so that some come from the depot and go back there.
        let runs: Vec<_> = (0..60).map(|_| cache.allocate(1, PAGE).unwrap()).collect();
        runs.into_iter().for_each(|run| free(&mut cache, run));
    }
    // The cache was used, so what it has of other lengths stays with it: a third of all, or half of
    // that where it had just made room.
    let left = machine.cached() - 93 * PAGE;
    assert!((before / 6..=before / 3).contains(&left), "{left} of {before}");
}

#[test]
fn runs_with_more_alignment_than_a_page_come_from_the_heap_and_bad_requests_are_refused() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    let aligned = cache.allocate(2, 64 * PAGE).unwrap();
    assert_eq!(aligned.start.addr().get() % (64 * PAGE), 0);
    free(&mut cache, aligned);
    let kinds = [(0, PAGE), (1, 3), (1, 0)]
        .map(|(npages, align)| cache.allocate(npages, align).unwrap_err().kind());
    assert_eq!(kinds, [ErrorKind::Empty, ErrorKind::BadAlignment, ErrorKind::BadAlignment]);
}

#[test]
fn a_dropped_cache_gives_back_what_it_holds_and_its_record_serves_the_next() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    fill(&machine.heap, &mut cache);
    let metadata = machine.heap.statistics().metadata;
    assert!(machine.cached() > 8 * MIB);
    let held = cache.allocate(5, PAGE).unwrap();
    drop(cache);
    assert_eq!(machine.cached(), 0);
    let statistics = machine.heap.statistics();
    assert_eq!(statistics.in_use, 5 * PAGE as u64);
    assert_eq!(statistics.allocations, statistics.frees + 1);
    for _ in 0..100 {
        drop(machine.heap.cache().unwrap());
    }
    assert_eq!(machine.heap.statistics().metadata, metadata);
    // SAFETY: the run that was held, not used any more.
    unsafe { machine.heap.free(held.start, held.npages) }.unwrap();
    assert_eq!(machine.heap.statistics().in_use, 0);
}

#[test]
fn a_scavenger_drains_the_cache_of_an_owner_who_sleeps_and_leaves_that_of_one_who_works() {
    let machine = Machine::new();
    let (mut sleeps, mut works) = (machine.heap.cache().unwrap(), machine.heap.cache().unwrap());
    fill(&machine.heap, &mut sleeps);
    let first = machine.cached();
    fill(&machine.heap, &mut works);
    let both = machine.cached();
    let mut scavenger = Scavenger::new();
    for _ in 0..10 {
        machine.scavenge(&mut scavenger, 99);
        let run = works.allocate(1, PAGE).unwrap();
        free(&mut works, run);
    }
    assert_eq!(machine.cached(), both - first);
    // The other sleeps too; what both had is given back, and the scavenger rests.
    assert!(machine.scavenge(&mut scavenger, 1000));
    assert_eq!(machine.cached(), 0);
    assert!(machine.heap.statistics().free_backed as usize <= 2 * MIB);
}

#[test]
fn what_an_owner_gathers_after_it_slept_does_not_stay_unseen() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    fill(&machine.heap, &mut cache);
    let runs: Vec<_> = (0..1000).map(|index| machine.heap.allocate(index % 16 + 1, PAGE)).collect();
    let mut scavenger = Scavenger::new();
    assert!(machine.scavenge(&mut scavenger, 2000), "nothing is free");
    assert!(!machine.heap.calls_for_scavenger());
    // Frees alone, that find the cache empty.
    for run in runs.into_iter().take(150) {
        free(&mut cache, run.unwrap());
    }
    assert!(machine.cached() > 4 * MIB);
    assert!(machine.heap.calls_for_scavenger());
    assert!(machine.scavenge(&mut scavenger, 2000));
    assert_eq!(machine.cached(), 0);
}

#[test]
fn what_gathers_in_the_depot_while_the_scavenger_sleeps_calls_for_it() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    let mut runs: Vec<_> =
        (0..200).map(|index| machine.heap.allocate(12 + index % 5, PAGE)).collect();
    // Until the cache may hold the most of each length, which is 10 MiB.
    runs.drain(..120).for_each(|run| free(&mut cache, run.unwrap()));
    machine.heap.expect_scavenger(16 * MIB);
    let idle = machine.heap.statistics().free_backed;
    assert!(idle < 2 * MIB as u64);
    let called = runs.into_iter().position(|run| {
        free(&mut cache, run.unwrap());
        machine.heap.calls_for_scavenger()
    });
    assert!(called > Some(0), "{called:?}");
    assert_eq!(machine.heap.statistics().free_backed, idle);
    assert!((14 * MIB..18 * MIB).contains(&machine.cached()), "{}", machine.cached());
}

#[test]
fn under_pressure_every_cache_is_drained() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    let mut scavenger = Scavenger::new();
    scavenger.set_pressure(true);
    fill(&machine.heap, &mut cache);
    machine.scavenge(&mut scavenger, 0);
    assert_eq!(machine.cached(), 0);
}

#[test]
fn release_all_gives_back_what_is_in_caches_too() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    fill(&machine.heap, &mut cache);
    assert!(machine.cached() > 8 * MIB);
    machine.heap.release_all();
    let statistics = machine.heap.statistics();
    assert_eq!((statistics.in_use, statistics.cached, statistics.free_backed), (0, 0, 0));
    machine.heap.verify().unwrap();
}

#[test]
fn what_is_in_caches_serves_an_allocation_that_would_be_refused() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    fill(&machine.heap, &mut cache);
    machine.heap.release_all();
    fill(&machine.heap, &mut cache);
    let limit = (machine.heap.statistics().cached as usize).next_multiple_of(MIB);
    machine.heap.set_limit(limit, limit);
    let run = machine.heap.allocate(limit / PAGE, PAGE).unwrap();
    assert_eq!(machine.cached(), 0);
    let refused = cache.allocate(1, PAGE).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::OutOfMemory { .. }), "{refused}");
    free(&mut cache, run);
    let served = cache.allocate(1, PAGE).unwrap();
    free(&mut cache, served);
    machine.heap.verify().unwrap();
}

#[test]
fn a_run_freed_twice_is_told_at_once_or_when_it_comes_to_the_heap() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    let runs: Vec<_> = (0..100).map(|_| machine.heap.allocate(2, PAGE).unwrap()).collect();
    // SAFETY: nobody uses the runs; what is wrong is what the test is about.
    let mut free = |run: Run| unsafe { cache.free(run.start, run.npages) };
    runs[..6].iter().for_each(|&run| free(run).unwrap());
    let twice = free(runs[5]).unwrap_err();
    assert_eq!(
        (twice.kind(), twice.address()),
        (MisuseKind::AlreadyFree, runs[5].start.addr().get())
    );
    let unaligned = runs[6].start.map_addr(|address| address | 64);
    assert_eq!(
        free(Run { start: unaligned, ..runs[6] }).unwrap_err().kind(),
        MisuseKind::Unaligned
    );
    // Not the last one that was freed: it is found when the second of the two comes to the heap.
    free(runs[0]).unwrap();
    assert!(machine.heap.verify().is_ok(), "each copy may be a run");
    assert!(runs[6..].iter().all(|&run| free(run).is_ok()));
    machine.heap.drain_caches();
    let told = cache.drain().unwrap_err();
    assert_eq!(
        (told.kind(), told.address()),
        (MisuseKind::AlreadyFree, runs[0].start.addr().get())
    );
    machine.heap.verify().unwrap();
    drop(cache);
    let statistics = machine.heap.statistics();
    assert_eq!((statistics.in_use, statistics.cached), (0, 0));
}

#[test]
fn a_run_freed_twice_that_a_scavenger_finds_is_told_to_the_next_who_comes_to_the_heap() {
    let machine = Machine::new();
    let mut cache = machine.heap.cache().unwrap();
    let run = machine.heap.allocate(2, PAGE).unwrap();
    free(&mut cache, run);
    // SAFETY: nobody uses it; it is freed twice, which is what the test is about.
    unsafe { machine.heap.free(run.start, run.npages) }.unwrap();
    let inconsistency = machine.heap.verify().unwrap_err();
    assert_eq!(inconsistency.address, run.start.addr().get());
    assert_eq!(machine.heap.drain_caches(), 0);
    assert_eq!(cache.drain().unwrap_err().kind(), MisuseKind::AlreadyFree);
    machine.heap.verify().unwrap();
}

#[test]
fn what_a_sleeping_thread_has_in_its_cache_goes_back_while_nobody_calls_the_heap() {
    let heap = &PageHeap::new(Native::NEW, accounts(), Options::new());
    let ended = &AtomicBool::new(false);
    heap.expect_scavenger(MIB);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut scavenger = Scavenger::new();
            while !ended.load(Relaxed) {
                let wait = scavenger.step(heap);
                heap.wait_for_call(wait);
            }
        });
        let (filled, wait_for_fill) = std::sync::mpsc::channel();
        let sleeper = scope.spawn(move || {
            let mut cache = heap.cache().unwrap();
            fill(heap, &mut cache);
            filled.send(()).unwrap();
            // Sleeps with all that it has.
            while !ended.load(Relaxed) {
                thread::park();
            }
        });
        wait_for_fill.recv().unwrap();
        // Within a second where the machine is quiet.
        let left = (0..600).find_map(|_| {
            thread::sleep(Duration::from_millis(100));
            let now = heap.statistics();
            (now.cached == 0 && now.free_backed as usize <= 2 * MIB).then_some(now)
        });
        ended.store(true, Relaxed);
        heap.call_scavenger();
        sleeper.thread().unpark();
        assert!(left.is_some(), "{:?}", heap.statistics());
    });
    heap.verify().unwrap();
}

/// Runs that are in use, each by the thread that put it there or took it from there.
struct InUse(Mutex<(HashSet<usize>, Vec<Run>)>);

impl InUse {
    fn add(&self, run: Run) {
        let fresh = self.0.lock().unwrap().0.insert(run.start.addr().get());
        assert!(fresh, "handed out twice");
        // SAFETY: the run is ours alone.
        unsafe { run.start.cast::<usize>().write(run.start.addr().get()) };
    }

    fn remove(&self, run: Run) {
        // SAFETY: as above.
        let written = unsafe { run.start.cast::<usize>().read() };
        assert_eq!(written, run.start.addr().get(), "somebody else wrote to it");
        assert!(self.0.lock().unwrap().0.remove(&run.start.addr().get()));
    }
}

#[test]
fn threads_that_trade_runs_while_another_drains_lose_none_and_share_none() {
    let options = Options::new().release_on_free(ReleaseOnFree::Never);
    let heap = &PageHeap::new(Native::NEW, accounts(), options);
    let in_use = &InUse(Mutex::default());
    let ended = &AtomicBool::new(false);
    thread::scope(|scope| {
        let owners: Vec<_> = (0..3_u64)
            .map(|number| {
                scope.spawn(move || {
                    let mut cache = heap.cache().unwrap();
                    let mut random = number + 1;
                    let mut below = |end: usize| {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (random >> 33) as usize % end
                    };
                    let mut held = Vec::new();
                    for _ in 0..2_000 {
                        let run = cache.allocate(1 + below(16), PAGE).unwrap();
                        in_use.add(run);
                        held.push(run);
                        if below(2) == 0 {
                            let run = held.swap_remove(below(held.len()));
                            in_use.0.lock().unwrap().1.push(run);
                        }
                        while held.len() > below(64) {
                            let run = held.swap_remove(below(held.len()));
                            in_use.remove(run);
                            free(&mut cache, run);
                        }
                        // Also what another thread allocated, through its cache.
                        let traded = in_use.0.lock().unwrap().1.pop();
                        if let Some(run) = traded {
                            in_use.remove(run);
                            free(&mut cache, run);
                        }
                    }
                    for run in held {
                        in_use.remove(run);
                        free(&mut cache, run);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                for _ in 0..50 {
                    heap.drain_caches();
                }
                heap.verify().unwrap();
            }
        });
        for owner in owners {
            owner.join().unwrap();
        }
        ended.store(true, Relaxed);
    });
    for run in std::mem::take(&mut in_use.0.lock().unwrap().1) {
        // SAFETY: no thread uses it any more.
        unsafe { heap.free(run.start, run.npages) }.unwrap();
    }
    let statistics = heap.statistics();
    assert_eq!((statistics.in_use, statistics.cached), (0, 0));
    assert_eq!((statistics.allocations, statistics.frees), (6_000, 6_000));
    heap.verify().unwrap();
}
