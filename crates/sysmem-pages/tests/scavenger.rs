//! What the scavenger gives back and when, in the time of a simulated machine.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysmem::Errno;
use sysmem::calls::Calls;
use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, Call, Faulty, Settings, Simulated};
use sysmem_pages::{Accounts, Options, PAGE, PageHeap, Run, Scavenger, ScavengerWork};

const MIB: usize = 1 << 20;
const HUGE_PAGE: usize = 2 * MIB;
/// Pages in a huge page.
const HUGE: usize = HUGE_PAGE / PAGE;

type Kernel = Faulty<Simulated>;

/// A heap on a machine where time passes by waiting, and by `cost` for each 4 KiB that a call gives
/// back; and what a scavenger did to it.
struct Machine {
    simulated: Simulated,
    kernel: Kernel,
    heap: PageHeap<Linux<Kernel>>,
    scavenger: Scavenger,
    /// CPU time that its steps took.
    cpu: Duration,
    given_back: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Machine {
    fn new(cost: Duration) -> Machine {
        let settings =
            Settings { backing: Backing::Real, clock_stands: true, ..Settings::heap(4 << 30) };
        let simulated = Simulated::new(settings);
        let kernel = Faulty::new(simulated.clone());
        let accounts = Box::leak(Box::new(Accounts::new("scavenger", "records")));
        let heap = PageHeap::new(Linux::new(kernel.clone()), accounts, Options::new());
        let machine = Machine {
            simulated,
            kernel,
            heap,
            scavenger: Scavenger::new(),
            cpu: Duration::ZERO,
            given_back: Arc::default(),
        };
        machine.allow(cost);
        machine.heap.expect_scavenger(0);
        machine
    }

    /// Has giving back succeed, at this cost.
    fn allow(&self, cost: Duration) {
        let (clock, given_back) = (self.simulated.clone(), self.given_back.clone());
        self.kernel.fail_when(move |_, call| {
            let ranges: Vec<(usize, usize)> = match call {
                Call::Madvise { address, len, .. } => vec![(*address, *len)],
                Call::ProcessMadvise { ranges, .. } => {
                    ranges.iter().map(|range| (range.start.addr(), range.len)).collect()
                }
                Call::Munmap { address, len } => vec![(*address, *len)],
                _ => return None,
            };
            let pages: usize = ranges.iter().map(|range| range.1 / 4096).sum();
            clock.advance(cost * pages as u32);
            given_back.lock().unwrap().extend(ranges);
            None
        });
    }

    fn touched(&self, npages: usize) -> Run {
        let run = self.heap.allocate(npages, PAGE).unwrap();
        // SAFETY: the run is Ready and ours.
        unsafe { run.start.write_bytes(0x5A, npages * PAGE) };
        run
    }

    fn free(&self, run: Run) {
        // SAFETY: each test frees a run once and does not use it afterwards.
        unsafe { self.heap.free(run.start, run.npages) }.unwrap();
    }

    fn now(&self) -> Duration {
        self.simulated.monotonic_time()
    }

    fn free_backed(&self) -> usize {
        self.heap.statistics().free_backed as usize
    }

    /// One step, and the wait that it asks for; a wait for a call ends with `until`.
    fn step(&mut self, until: Duration) {
        let before = self.simulated.thread_cpu_time();
        let wait = self.scavenger.step(&self.heap).unwrap_or(Duration::MAX);
        self.cpu += self.simulated.thread_cpu_time() - before;
        self.simulated.advance(wait.min(until.saturating_sub(self.now())));
    }

    /// Scavenges for this long.
    fn run(&mut self, time: Duration) {
        let until = self.now() + time;
        while self.now() < until {
            self.step(until);
        }
        self.heap.verify().unwrap();
    }

    fn ranges(&self) -> Vec<(usize, usize)> {
        std::mem::take(&mut *self.given_back.lock().unwrap())
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn memory_is_back_within_a_second_of_the_load_falling_and_not_before_half_of_one() {
    let mut machine = Machine::new(Duration::from_nanos(100));
    let live = machine.touched(30 * MIB / PAGE);
    let runs: Vec<Run> = (0..270 * MIB / (16 * PAGE)).map(|_| machine.touched(16)).collect();
    machine.run(ms(1000));
    runs.into_iter().for_each(|run| machine.free(run));
    machine.run(ms(450));
    assert_eq!(machine.heap.statistics().released, 0);
    machine.run(ms(550));
    // A twelfth of what is in use stays, and a part of the next huge page.
    assert!(machine.free_backed() <= 5 * MIB / 2, "{}", machine.free_backed());
    assert!(machine.simulated.resident_bytes() < 33 * MIB);
    machine.free(live);
}

#[test]
fn a_load_that_comes_and_goes_within_half_a_second_keeps_its_memory() {
    let mut machine = Machine::new(Duration::ZERO);
    for _ in 0..50 {
        let runs: Vec<Run> = (0..100).map(|_| machine.touched(HUGE / 2)).collect();
        machine.run(ms(150));
        runs.into_iter().for_each(|run| machine.free(run));
        machine.run(ms(250));
    }
    assert_eq!(machine.heap.statistics().released, 0);
}

#[test]
fn whole_huge_pages_go_before_any_is_broken() {
    let mut machine = Machine::new(Duration::ZERO);
    let runs: Vec<Run> = (0..60).map(|_| machine.touched(HUGE / 2)).collect();
    // The first 20 huge pages become half free, the last 10 whole.
    let (low, high) = runs.split_at(40);
    low.iter().step_by(2).for_each(|&run| machine.free(run));
    high.iter().for_each(|&run| machine.free(run));
    machine.run(ms(2000));
    let ranges = machine.ranges();
    let first_part = ranges.iter().position(|range| range.1 % HUGE_PAGE != 0).unwrap();
    let (whole, parts) = ranges.split_at(first_part);
    assert!(whole.iter().map(|range| range.1).sum::<usize>() >= 10 * HUGE_PAGE);
    assert!(!parts.is_empty() && parts.iter().all(|range| range.1 < HUGE_PAGE));
    assert!(machine.free_backed() <= 4 * MIB);
}

#[test]
fn a_huge_page_is_broken_only_when_it_was_left_alone() {
    let mut machine = Machine::new(Duration::ZERO);
    let runs: Vec<Run> = (0..40).map(|_| machine.touched(HUGE / 2)).collect();
    let idle: Vec<Run> = runs.iter().copied().step_by(2).collect();
    idle.iter().for_each(|&run| machine.free(run));
    let mut pages = BTreeSet::new();
    for _ in 0..100 {
        // The first half free huge page is in use again and again.
        let busy = machine.touched(3);
        machine.run(ms(50));
        machine.free(busy);
        machine.run(ms(50));
        pages.insert(busy.start.addr().get() & !(HUGE_PAGE - 1));
    }
    let page = *pages.first().unwrap();
    assert_eq!(pages.len(), 1);
    let ranges = machine.ranges();
    assert!(ranges.iter().all(|range| !(page..page + HUGE_PAGE).contains(&range.0)));
    assert!(ranges.iter().map(|range| range.1).sum::<usize>() >= 15 * HUGE_PAGE / 2);
}

#[test]
fn no_minute_takes_more_than_a_hundredth_of_a_cpu() {
    // 82 ms for each 32 MiB: far more than there is time for.
    let mut machine = Machine::new(Duration::from_micros(10));
    let mut spent = vec![(machine.now(), Duration::ZERO)];
    let mut largest = Duration::ZERO;
    let end = machine.now() + Duration::from_secs(300);
    while machine.now() < end {
        // As much becomes free as there is room for.
        if machine.free_backed() < 64 * MIB {
            let runs: Vec<Run> = (0..32).map(|_| machine.touched(2 * HUGE)).collect();
            runs.into_iter().for_each(|run| machine.free(run));
        }
        machine.step(end);
        let cpu = machine.cpu;
        largest = largest.max(cpu - spent.last().unwrap().1);
        spent.push((machine.now(), cpu));
    }
    for (index, &(from, before)) in spent.iter().enumerate() {
        for &(to, after) in &spent[index..] {
            if to - from <= Duration::from_secs(60) {
                // One call may cost more than is left; it is paid back.
                assert!(after - before <= ms(600) + largest, "{:?} at {from:?}", after - before);
            }
        }
    }
    let all = spent.last().unwrap().1;
    assert!(all >= 5 * ms(350), "it works as much as it may: {all:?}");
}

#[test]
fn a_burst_goes_at_once() {
    // 184 ms in all: within the burst.
    let mut machine = Machine::new(Duration::from_nanos(1200));
    let runs: Vec<Run> = (0..300).map(|_| machine.touched(HUGE)).collect();
    runs.into_iter().for_each(|run| machine.free(run));
    machine.run(ms(1000));
    assert!(machine.free_backed() <= 2 * MIB, "{}", machine.free_backed());
    assert!(machine.cpu > ms(180));
}

#[test]
fn one_step_gives_back_32_mib_at_most_even_of_one_long_run() {
    let mut machine = Machine::new(Duration::from_nanos(100));
    let long = machine.touched(300 * MIB / PAGE);
    machine.free(long);
    let end = machine.now() + ms(2000);
    while machine.now() < end {
        machine.ranges();
        machine.step(end);
        let bytes: usize = machine.ranges().iter().map(|range| range.1).sum::<usize>();
        // The reservation, when nothing of it is left in memory, goes in one call.
        if machine.heap.statistics().reserved > 0 {
            assert!(bytes <= 34 * MIB, "{bytes}");
        }
    }
    assert_eq!(machine.heap.statistics().reserved, 0);
}

#[test]
fn statistics_tell_what_it_did_and_what_that_cost() {
    let mut machine = Machine::new(Duration::from_micros(1));
    let runs: Vec<Run> = (0..50 * MIB / (16 * PAGE)).map(|_| machine.touched(16)).collect();
    runs.iter().step_by(2).for_each(|&run| machine.free(run));
    let by_hand = machine.heap.release(MIB) as u64;
    assert_eq!(machine.heap.statistics().scavenger, ScavengerWork::default());
    machine.run(ms(2000));
    let statistics = machine.heap.statistics();
    let work = statistics.scavenger;
    assert!(work.released >= 20 * MIB as u64, "{work:?}");
    assert_eq!(work.released + by_hand, statistics.released);
    assert!(work.releases > 0 && work.releases < statistics.releases, "{work:?}");
    assert!(machine.cpu > ms(5), "a microsecond for each 4 KiB: {:?}", machine.cpu);
    assert_eq!(work.cpu_time, machine.cpu);
    assert_eq!(work.failed_releases, 0);
    // What its owner does on its budget is among its costs, and not in its work.
    let clock = machine.simulated.clone();
    machine.scavenger.share_budget(&machine.heap, || clock.advance(ms(3))).unwrap();
    let after = ScavengerWork { cpu_time: work.cpu_time + ms(3), ..work };
    assert_eq!(machine.heap.statistics().scavenger, after);
    // Refusals.
    machine.kernel.fail_when(|_, call| match call {
        Call::Madvise { .. } | Call::ProcessMadvise { .. } => Some(Errno(12)),
        _ => None,
    });
    runs.iter().skip(1).step_by(2).for_each(|&run| machine.free(run));
    machine.run(ms(2000));
    let refused = machine.heap.statistics().scavenger;
    assert!(refused.failed_releases > 0, "{refused:?}");
    assert_eq!(refused.failed_releases, machine.heap.statistics().failed_releases);
}

#[test]
fn a_refusal_is_not_tried_again_at_once() {
    let mut machine = Machine::new(Duration::ZERO);
    // Reserving at a multiple of a huge page cuts off what is too much, which needs munmap.
    let runs: Vec<Run> = (0..40).map(|_| machine.touched(HUGE)).collect();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    machine.kernel.fail_when(move |_, call| {
        let gives_back = matches!(
            call,
            Call::Madvise { .. } | Call::ProcessMadvise { .. } | Call::Munmap { .. }
        );
        counted.fetch_add(u64::from(gives_back), Relaxed);
        gives_back.then_some(Errno(12))
    });
    runs.into_iter().for_each(|run| machine.free(run));
    machine.run(Duration::from_secs(60));
    // A batch is tried as one call and once more singly.
    assert!((5..=14).contains(&calls.load(Relaxed)), "{} calls", calls.load(Relaxed));
    machine.allow(Duration::ZERO);
    machine.run(Duration::from_secs(12));
    assert!(machine.free_backed() <= 2 * MIB);
}

#[test]
fn it_sleeps_until_the_heap_calls() {
    let mut machine = Machine::new(Duration::ZERO);
    let runs: Vec<Run> = (0..40).map(|_| machine.touched(HUGE)).collect();
    assert_eq!(machine.scavenger.step(&machine.heap), None);
    assert!(!machine.heap.calls_for_scavenger());
    let mut freed = runs.into_iter();
    // Of 80 MiB, six may be free, and half as much again.
    while machine.free_backed() <= 9 * MIB {
        assert!(!machine.heap.calls_for_scavenger());
        machine.free(freed.next().unwrap());
    }
    assert!(machine.heap.calls_for_scavenger());
    // Returns at once, and only once.
    machine.heap.wait_for_call(None);
    assert!(!machine.heap.calls_for_scavenger());
    assert!(machine.scavenger.step(&machine.heap).is_some());
}

#[test]
fn nothing_is_held_back_while_others_wait_for_memory() {
    let mut machine = Machine::new(Duration::ZERO);
    let kept: Vec<Run> = (0..50).map(|_| machine.touched(HUGE)).collect();
    let peak: Vec<Run> = (0..50).map(|_| machine.touched(HUGE)).collect();
    peak.into_iter().for_each(|run| machine.free(run));
    machine.run(Duration::from_secs(2));
    // A twelfth of what is in use.
    assert!((7 * MIB..10 * MIB).contains(&machine.free_backed()), "{}", machine.free_backed());
    machine.scavenger.set_pressure(true);
    machine.run(Duration::from_secs(1));
    assert_eq!(machine.free_backed(), 0);
    machine.scavenger.set_pressure(false);
    kept.into_iter().take(2).for_each(|run| machine.free(run));
    machine.run(Duration::from_secs(1));
    assert_eq!(machine.free_backed(), 4 * MIB);
}

#[test]
fn without_a_scavenger_freeing_gives_back() {
    let machine = Machine::new(Duration::ZERO);
    let free_60 = || {
        let runs: Vec<Run> = (0..30).map(|_| machine.touched(HUGE)).collect();
        runs.into_iter().for_each(|run| machine.free(run));
    };
    free_60();
    assert_eq!(machine.heap.statistics().released, 0);
    assert!(machine.heap.calls_for_scavenger());
    machine.heap.dismiss_scavenger();
    free_60();
    assert!(machine.free_backed() <= 16 * MIB);
}
