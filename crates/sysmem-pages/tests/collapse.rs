//! Broken huge pages that are mostly in use again are made whole, on a simulated machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use sysmem::calls::Calls;
use sysmem::huge::{HugePageControl, Scope};
use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, Call, Faulty, Settings, Simulated};
use sysmem::{Errno, PageRange};
use sysmem_pages::{Accounts, HugePages, Options, PAGE, PageHeap, Run, Scavenger, Statistics};

const MIB: usize = 1 << 20;
/// Pages in a huge page, and in each of the runs that share a broken one.
const HUGE: usize = 2 * MIB / PAGE;
const PART: usize = 16;
/// From madvise(2).
const MADV_COLLAPSE: i32 = 25;

type Kernel = Faulty<Simulated>;

/// A heap that has room for idle memory, and one huge page of which a quarter was given back.
struct Machine {
    clock: Simulated,
    kernel: Kernel,
    heap: PageHeap<Linux<Kernel>>,
    scavenger: Scavenger,
    /// What is in use of the broken huge page.
    parts: Vec<Run>,
    before: Statistics,
}

impl Machine {
    fn new(huge_pages: HugePages) -> Machine {
        let settings =
            Settings { backing: Backing::Real, clock_stands: true, ..Settings::heap(4 << 30) };
        let clock = Simulated::new(settings);
        let kernel = Faulty::new(clock.clone());
        let accounts = Box::leak(Box::new(Accounts::new("collapse", "records")));
        let options = Options::new().huge_pages(huge_pages);
        let heap = PageHeap::new(Linux::new(kernel.clone()), accounts, options);
        heap.expect_scavenger(0);
        heap.allocate(32 * HUGE, PAGE).unwrap();
        let parts = broken(&heap, 1, 4);
        let before = heap.statistics();
        assert_eq!(before.in_use - before.in_use_intact, (12 * PART * PAGE) as u64);
        Machine { clock, kernel, heap, scavenger: Scavenger::new(), parts, before }
    }

    /// Scavenges for this long.
    fn run(&mut self, seconds: u64) {
        let until = self.clock.monotonic_time() + Duration::from_secs(seconds);
        while self.clock.monotonic_time() < until {
            let wait = self.scavenger.step(&self.heap).unwrap_or(Duration::MAX);
            self.clock.advance(wait.min(until - self.clock.monotonic_time()));
            if self.clock.monotonic_time() < until {
                self.heap.verify().unwrap();
            }
        }
        self.heap.verify().unwrap();
        for run in &self.parts {
            // SAFETY: a run of this test, which is in use.
            let bytes = unsafe { std::slice::from_raw_parts(run.start.as_ptr(), PART * PAGE) };
            assert!(bytes.iter().all(|&byte| byte == 0x5A));
        }
    }

    /// Has these calls fail; how many of them there were.
    fn refuse(
        &self,
        what: impl Fn(&Call) -> Option<Errno> + Send + Sync + 'static,
    ) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        self.kernel.fail_when(move |_, call| {
            let answer = what(call);
            counted.fetch_add(usize::from(answer.is_some()), Relaxed);
            answer
        });
        count
    }

    /// Whether the huge page is whole again, and what was missing is idle.
    fn is_whole(&self) -> bool {
        let now = self.heap.statistics();
        assert_eq!(now.in_use, self.before.in_use);
        match now.collapses {
            0 => {
                assert_eq!(now.in_use_intact, self.before.in_use_intact);
                false
            }
            collapses => {
                assert_eq!((collapses, now.in_use_intact), (1, now.in_use));
                assert_eq!(now.free_backed, (4 * PART * PAGE) as u64);
                true
            }
        }
    }

    /// Whether as much is idle and as much given back as before.
    fn is_as_before(&self) -> bool {
        let now = self.heap.statistics();
        let figures = |of: Statistics| (of.free_backed, of.given_back, of.in_use_intact);
        figures(now) == figures(self.before)
    }
}

/// Fills huge pages with runs, frees so many of the 16 of each, and gives those back.
fn broken(heap: &PageHeap<Linux<Kernel>>, count: usize, freed: usize) -> Vec<Run> {
    let mut parts: Vec<Run> =
        (0..count * HUGE / PART).map(|_| heap.allocate(PART, PAGE).unwrap()).collect();
    for run in &parts {
        // SAFETY: the run is Ready and ours.
        unsafe { run.start.write_bytes(0x5A, PART * PAGE) };
    }
    parts.retain(|run| {
        let is_kept = run.start.addr().get() / (PART * PAGE) % (HUGE / PART) >= freed;
        if !is_kept {
            // SAFETY: the run goes out of the list.
            unsafe { heap.free(run.start, run.npages) }.unwrap();
        }
        is_kept
    });
    heap.release_all();
    parts
}

fn is_collapse(call: &Call) -> bool {
    matches!(call, Call::Madvise { advice: MADV_COLLAPSE, .. })
}

#[test]
fn a_broken_huge_page_that_is_mostly_in_use_is_made_whole_after_a_second() {
    let mut machine = Machine::new(HugePages::Advise);
    machine.run(1);
    assert!(!machine.is_whole() && machine.is_as_before());
    machine.run(2);
    assert!(machine.is_whole());
    assert_eq!(machine.heap.statistics().failed_collapses, 0);
}

#[test]
fn any_one_call_may_be_refused_and_the_huge_page_is_whole_later() {
    for errno in [Errno(11), Errno(12), Errno(22)] {
        for number in 0.. {
            let mut machine = Machine::new(HugePages::Advise);
            let at = AtomicUsize::new(0);
            let refused =
                machine.refuse(move |_| (at.fetch_add(1, Relaxed) == number).then_some(errno));
            machine.run(3);
            assert!(machine.is_whole() || machine.is_as_before(), "call {number}, {errno:?}");
            let refused = refused.load(Relaxed);
            machine.refuse(|_| None);
            // It sleeps until the heap calls, and asks again no sooner than after ten seconds.
            machine.run(10);
            machine.run(3);
            assert!(machine.is_whole(), "call {number}, {errno:?}");
            if refused == 0 {
                assert!(number > 1, "there are calls to refuse");
                break;
            }
        }
    }
}

#[test]
fn a_refused_collapse_changes_nothing_and_is_not_tried_again_at_once() {
    for errno in [Errno(11), Errno(12), Errno(22)] {
        let mut machine = Machine::new(HugePages::Advise);
        let calls = machine.refuse(move |call| is_collapse(call).then_some(errno));
        machine.run(3);
        assert_eq!((calls.load(Relaxed), machine.is_as_before()), (1, true));
        machine.run(57);
        assert!((1..=6).contains(&calls.load(Relaxed)), "{} calls", calls.load(Relaxed));
        assert_eq!(machine.heap.statistics().failed_collapses, calls.load(Relaxed) as u64);
        assert!(!machine.is_whole() && machine.is_as_before());
    }
}

#[test]
fn where_giving_back_is_refused_too_what_was_backed_is_idle() {
    let mut machine = Machine::new(HugePages::Advise);
    machine.refuse(|call| {
        matches!(call, Call::Madvise { .. } | Call::ProcessMadvise { .. }).then_some(Errno(12))
    });
    machine.run(30);
    assert!(!machine.is_whole());
    assert_eq!(machine.heap.statistics().free_backed, (4 * PART * PAGE) as u64);
}

#[test]
fn nothing_is_made_whole_where_huge_pages_are_off() {
    // The machine builds them where it is advised to.
    let mut machine = Machine::new(HugePages::System);
    let calls = machine.refuse(|call| is_collapse(call).then_some(Errno(12)));
    machine.run(30);
    let switch = |on| Linux::new(machine.kernel.clone()).switch_huge_pages(Scope::System, on);
    switch(false).unwrap();
    assert_eq!((calls.load(Relaxed), machine.is_as_before()), (0, true));
    switch(true).unwrap();
    machine.heap.call_scavenger();
    machine.run(3);
    assert_eq!(calls.load(Relaxed), 1);

    let mut machine = Machine::new(HugePages::Advise);
    let calls = machine.refuse(|call| is_collapse(call).then_some(Errno(12)));
    Linux::new(machine.kernel.clone()).switch_huge_pages(Scope::System, false).unwrap();
    machine.run(30);
    assert_eq!((calls.load(Relaxed), machine.is_as_before()), (0, true));
}

#[test]
fn no_more_is_backed_than_may_stay_idle() {
    let mut machine = Machine::new(HugePages::Advise);
    // Room for about 10 MiB in all, of which each needs one.
    broken(&machine.heap, 20, 8);
    machine.run(60);
    let now = machine.heap.statistics();
    assert!((7..=12).contains(&now.collapses), "{now:?}");
    assert!(now.free_backed <= now.in_use / 8, "{now:?}");
    assert_eq!(now.broken_huge_pages.iter().sum::<u64>(), 21 - now.collapses);
}

#[test]
fn what_owners_gave_back_of_their_runs_does_not_come_again() {
    let mut machine = Machine::new(HugePages::Advise);
    let calls = machine.refuse(|call| is_collapse(call).then_some(Errno(12)));
    let run = machine.parts.pop().unwrap();
    let range = PageRange::new(run.start.as_ptr(), PAGE);
    // SAFETY: the first page of the run, which is not used before `use_again`.
    unsafe { machine.heap.give_back_in_use(&[range], |_| unreachable!()) }.unwrap();
    machine.run(30);
    assert_eq!(calls.load(Relaxed), 0);
    machine.refuse(|_| None);
    // SAFETY: what was given back above.
    unsafe { machine.heap.use_again(range) }.unwrap();
    machine.run(3);
    assert!(machine.is_whole());
}

/// A scavenger that sleeps, and a huge page of which six sixteenths are in use, the rest free and
/// without memory.
fn asleep(huge_pages: HugePages) -> Machine {
    let mut machine = Machine::new(huge_pages);
    for run in machine.parts.drain(6..) {
        // SAFETY: out of the list of runs in use.
        unsafe { machine.heap.free(run.start, PART) }.unwrap();
    }
    machine.heap.release_all();
    machine.run(3);
    machine.heap.wait_for_call(Some(Duration::ZERO));
    assert_eq!(machine.scavenger.step(&machine.heap), None);
    machine.before = machine.heap.statistics();
    machine
}

#[test]
fn a_sleeping_scavenger_is_called_when_a_broken_huge_page_becomes_dense_and_makes_it_whole() {
    let mut machine = asleep(HugePages::Advise);
    for in_use in 7..=8 {
        assert!(!machine.heap.calls_for_scavenger(), "{in_use}");
        let run = machine.heap.allocate(PART, PAGE).unwrap();
        // SAFETY: the run is Ready and ours.
        unsafe { run.start.write_bytes(0x5A, PART * PAGE) };
        machine.parts.push(run);
    }
    assert!(machine.heap.calls_for_scavenger());
    machine.heap.wait_for_call(None);
    machine.run(3);
    let now = machine.heap.statistics();
    assert_eq!((now.collapses, now.in_use_intact), (machine.before.collapses + 1, now.in_use));
    // It sleeps again, and nothing but a load calls it.
    assert_eq!(machine.scavenger.step(&machine.heap), None);
    assert!(!machine.heap.calls_for_scavenger());
}

#[test]
fn a_sleeping_scavenger_is_called_in_vain_once_where_the_system_makes_no_huge_pages() {
    let mut machine = asleep(HugePages::System);
    let mut calls = 0;
    for _ in 0..10 {
        let runs = [(); 2].map(|()| machine.heap.allocate(PART, PAGE).unwrap());
        if machine.heap.calls_for_scavenger() {
            machine.heap.wait_for_call(None);
            calls += 1;
        }
        machine.run(2);
        for run in runs {
            // SAFETY: a run of this test, which is not used any more.
            unsafe { machine.heap.free(run.start, run.npages) }.unwrap();
        }
    }
    assert_eq!(calls, 1);
}

/// What the system was told of the memory at an address, and whether all mappings are counted.
fn told(machine: &Machine, run: &Run) -> Option<bool> {
    let mappings = machine.clock.mappings();
    let address = run.start.addr().get();
    let of_run = mappings.iter().find(|it| (it.start..it.start + it.len()).contains(&address));
    let huge = of_run.unwrap().attributes.huge;
    let advised = mappings.iter().filter(|it| it.attributes.huge.is_some()).count();
    let reserved = machine.heap.statistics().reservations as usize;
    let counted = machine.heap.statistics().mappings as usize;
    assert!((advised..=advised + 2 * reserved).contains(&counted), "{counted}, {advised} advised");
    huge
}

#[test]
fn a_broken_huge_page_is_kept_small_until_it_is_made_whole_or_taken_into_use_anew() {
    let mut machine = Machine::new(HugePages::Advise);
    let run = machine.parts[0];
    assert_eq!(told(&machine, &run), Some(false));
    machine.run(3);
    assert!(machine.is_whole());
    assert_eq!(told(&machine, &run), Some(true));

    // Where the system refuses to keep it small, what is idle goes back all the same.
    machine.refuse(|call| matches!(call, Call::Madvise { advice: 15, .. }).then_some(Errno(12)));
    assert_eq!(machine.heap.release_all(), 4 * PART * PAGE);
    assert_eq!(told(&machine, &run), Some(true));
    machine.refuse(|_| None);
    let first = machine.parts.remove(1);
    // SAFETY: out of the list of runs in use.
    unsafe { machine.heap.free(first.start, PART) }.unwrap();
    assert_eq!(machine.heap.release_all(), PART * PAGE);
    assert_eq!(told(&machine, &run), Some(false));

    for run in machine.parts.drain(..) {
        // SAFETY: as above.
        unsafe { machine.heap.free(run.start, PART) }.unwrap();
    }
    assert_eq!(machine.heap.release_all(), 11 * PART * PAGE);
    let anew = machine.heap.allocate(HUGE, PAGE).unwrap();
    assert_eq!(anew.start.addr().get() / (HUGE * PAGE), run.start.addr().get() / (HUGE * PAGE));
    assert_eq!(told(&machine, &run), Some(true));
    machine.heap.verify().unwrap();
}
