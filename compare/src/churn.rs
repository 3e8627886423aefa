//! An hour of runs that come and go, in the time of a simulated machine: how much of what is in use
//! lies in whole huge pages, how much free memory the heap keeps, and what is left a second after the
//! load fell to a tenth.
//!
//! What the loads are is said by numbers: how long runs are, how long they live, how many are alive.
//! Nobody touches the runs; giving back takes time as it does on Linux.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::error::Error;
use std::time::Duration;

use sysmem::calls::Calls;
use sysmem::os::linux::Linux;
use sysmem::sim::{Call, Faulty, Settings, Simulated};
use sysmem_pages::{Accounts, HugePages, PAGE, PageHeap, Run, Scavenger, Statistics};

use crate::measure::{Random, verdict};
use crate::table;

#[derive(clap::Args)]
pub struct Options {
    /// Seconds of the machine's time that each load goes on.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Fail if a figure is beyond its bound.
    #[arg(long)]
    check: bool,
}

/// At least this part of what is in use lies in whole huge pages.
const INTACT: f64 = 0.85;
/// At most this part of what is in use is free and in memory besides, on the average.
const FREE: f64 = 0.10;
/// At most this part of the most that was in use is free and in memory a second after the drop.
const AFTER_DROP: f64 = 0.05;

/// What runs a program has, in 8 KiB pages and seconds. Shares are of runs, in a hundred.
struct LoadOf {
    name: &'static str,
    /// A share is this many to that many pages long, short ones rather than long ones.
    lengths: &'static [(usize, usize, usize)],
    /// A share lives this many to that many seconds, as likely once as ten times as long.
    lifetimes: &'static [(usize, f64, f64)],
    /// Where runs end with a unit of work rather than by themselves: how many are under way, and how
    /// long each takes. The shares of lifetimes are of what survives, a twentieth.
    units: Option<(usize, f64, f64)>,
    /// The bytes that are alive, ...
    alive: usize,
    /// ... a tenth more or less over ten minutes where there is a tide.
    tide: bool,
    /// The bytes that can be allocated in a second.
    pace: usize,
}

const MIB: usize = 1 << 20;

const LOADS: [LoadOf; 3] = [
    LoadOf {
        name: "a compiler",
        lengths: &[(80, 1, 4), (15, 5, 16), (4, 17, 128), (1, 129, 1024)],
        lifetimes: &[(100, 60.0, 1800.0)],
        units: Some((8, 2.0, 20.0)),
        alive: 256 * MIB,
        tide: false,
        pace: 200 * MIB,
    },
    LoadOf {
        name: "a cache",
        lengths: &[(60, 1, 1), (25, 2, 8), (14, 9, 64), (1, 65, 512)],
        lifetimes: &[(100, 1.0, 1000.0)],
        units: None,
        alive: 1024 * MIB,
        tide: false,
        pace: 200 * MIB,
    },
    LoadOf {
        name: "a web server",
        lengths: &[(70, 1, 2), (20, 3, 8), (9, 9, 32), (1, 33, 512)],
        lifetimes: &[(85, 0.02, 2.0), (12, 2.0, 60.0), (3, 60.0, 1800.0)],
        units: None,
        alive: 384 * MIB,
        tide: true,
        pace: 400 * MIB,
    },
];

/// How often the load is looked at.
const TICK: Duration = Duration::from_millis(20);
/// What happens before figures are taken.
const WARM_UP: Duration = Duration::from_secs(60);

/// What giving back takes: a call, and each 4 KiB page of it (measured on Linux 6.18: some 0.1 µs).
const A_CALL: Duration = Duration::from_micros(2);
const A_PAGE: Duration = Duration::from_nanos(120);

/// From madvise(2), and what it takes for each huge page (measured on Linux 6.18 with parts missing: 130
/// to 470 µs, this much on the average).
const MADV_COLLAPSE: i32 = 25;
const MADV_HUGEPAGE: i32 = 14;
const MADV_NOHUGEPAGE: i32 = 15;
const A_COLLAPSE: Duration = Duration::from_micros(250);

type Kernel = Faulty<Simulated>;

/// A heap on a machine where time passes by waiting and by giving back.
struct Machine {
    clock: Simulated,
    heap: PageHeap<Linux<Kernel>>,
    scavenger: Scavenger,
    next_step: Duration,
    scavenged: Duration,
}

impl Machine {
    fn new() -> Machine {
        let settings = Settings { clock_stands: true, ..Settings::real(16 << 30) };
        let clock = Simulated::new(settings);
        let kernel = Faulty::new(clock.clone());
        let costs = clock.clone();
        kernel.fail_when(move |_, call| {
            let len = match call {
                Call::Madvise { len, advice: MADV_COLLAPSE, .. } => {
                    costs.advance(A_COLLAPSE * (len >> 21) as u32);
                    return None;
                }
                Call::Madvise { advice: MADV_HUGEPAGE | MADV_NOHUGEPAGE, .. } => 0,
                Call::Madvise { len, .. } | Call::Munmap { len, .. } => *len,
                Call::ProcessMadvise { ranges, .. } => ranges.iter().map(|range| range.len).sum(),
                _ => return None,
            };
            costs.advance(A_CALL + A_PAGE * (len / 4096) as u32);
            None
        });
        let options = sysmem_pages::Options::new().huge_pages(HugePages::Advise);
        let accounts = Box::leak(Box::new(Accounts::new("churn", "churn: records")));
        let heap = PageHeap::new(Linux::new(kernel), accounts, options);
        heap.expect_scavenger(0);
        let (scavenger, next_step) = (Scavenger::new(), Duration::ZERO);
        Machine { clock, heap, scavenger, next_step, scavenged: Duration::ZERO }
    }

    fn now(&self) -> Duration {
        self.clock.monotonic_time()
    }

    /// Lets time pass, and the scavenger do what it wants to do meanwhile.
    fn pass(&mut self, time: Duration) {
        let until = self.now() + time;
        while self.now() < until {
            if self.heap.calls_for_scavenger() {
                self.heap.wait_for_call(Some(Duration::ZERO));
                self.next_step = self.now();
            }
            if self.next_step <= self.now() {
                let before = self.clock.thread_cpu_time();
                let wait = self.scavenger.step(&self.heap);
                self.scavenged += self.clock.thread_cpu_time() - before;
                self.next_step = wait.map_or(Duration::MAX, |wait| self.now() + wait);
            }
            let next = self.next_step.min(until);
            self.clock.advance(next.saturating_sub(self.now()));
        }
    }

    fn free(&self, run: Run) -> Result<(), Box<dyn Error>> {
        // SAFETY: a run of the heap that was taken out of the list of those in use.
        unsafe { self.heap.free(run.start, run.npages) }.map_err(|misuse| format!("{misuse:?}"))?;
        Ok(())
    }
}

/// A number between two, as likely in one octave as in the next.
fn log_uniform(random: &mut Random, from: f64, to: f64) -> f64 {
    let part = random.below(1 << 20) as f64 / (1 << 20) as f64;
    from * (to / from).powf(part)
}

/// One of a list of shares, in a hundred.
fn share<T: Copy>(random: &mut Random, shares: &[T], part: impl Fn(&T) -> usize) -> T {
    let mut left = random.below(100);
    let chosen = shares.iter().find(|share| match left.checked_sub(part(share)) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    });
    *chosen.unwrap_or(&shares[0])
}

/// A run that is alive until then. Runs are told apart by a number, so that they have an order.
type Alive = Reverse<(Duration, u64, RunOf)>;

/// A run in the order of its address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RunOf {
    start: std::ptr::NonNull<u8>,
    npages: usize,
}

struct Churn {
    machine: Machine,
    random: Random,
    alive: BinaryHeap<Alive>,
    /// When each unit of work ends.
    units: Vec<Duration>,
    count: u64,
}

impl Churn {
    fn new(load: &LoadOf) -> Churn {
        let units = vec![Duration::ZERO; load.units.map_or(0, |units| units.0)];
        let random = Random(0x9E37_79B9_7F4A_7C15);
        Churn { machine: Machine::new(), random, alive: BinaryHeap::new(), units, count: 0 }
    }

    /// How long the next run lives.
    fn end(&mut self, load: &LoadOf, now: Duration) -> Duration {
        if let Some((_, shortest, longest)) = load.units {
            let unit = self.random.below(self.units.len());
            if self.random.below(20) != 0 {
                if self.units[unit] <= now {
                    let takes = log_uniform(&mut self.random, shortest, longest);
                    self.units[unit] = now + Duration::from_secs_f64(takes);
                }
                return self.units[unit];
            }
        }
        let (_, from, to) = share(&mut self.random, load.lifetimes, |lifetime| lifetime.0);
        now + Duration::from_secs_f64(log_uniform(&mut self.random, from, to))
    }

    /// What happens in one tick: runs end, others begin.
    fn tick(&mut self, load: &LoadOf) -> Result<(), Box<dyn Error>> {
        let now = self.machine.now();
        while let Some(Reverse((end, _, run))) = self.alive.peek().copied() {
            if end > now {
                break;
            }
            self.alive.pop();
            self.machine.free(Run { start: run.start, npages: run.npages, zeroed: false })?;
        }
        let tide =
            if load.tide { (now.as_secs_f64() / 600.0 * std::f64::consts::TAU).sin() } else { 0.0 };
        let wanted = load.alive as f64 * (1.0 + tide / 10.0);
        let mut left = (load.pace as f64 * TICK.as_secs_f64()) as usize;
        let mut in_use = self.machine.heap.statistics().in_use as usize;
        while (in_use as f64) < wanted && left > 0 {
            let (_, from, to) = share(&mut self.random, load.lengths, |length| length.0);
            let npages = log_uniform(&mut self.random, from as f64, to as f64 + 0.99) as usize;
            let run = self.machine.heap.allocate(npages, PAGE)?;
            let end = self.end(load, now);
            self.count += 1;
            let run = RunOf { start: run.start, npages };
            self.alive.push(Reverse((end, self.count, run)));
            in_use += npages * PAGE;
            left = left.saturating_sub(npages * PAGE);
        }
        self.machine.pass(TICK);
        Ok(())
    }

    /// Nine of ten runs end at once, whichever they are.
    fn drop_to_a_tenth(&mut self) -> Result<(), Box<dyn Error>> {
        let mut alive = std::mem::take(&mut self.alive).into_vec();
        for index in 0..alive.len() {
            let other = index + self.random.below(alive.len() - index);
            alive.swap(index, other);
        }
        let mut left = self.machine.heap.statistics().in_use / 10;
        for Reverse((end, count, run)) in alive {
            let len = (run.npages * PAGE) as u64;
            if len <= left {
                left -= len;
                self.alive.push(Reverse((end, count, run)));
            } else {
                self.machine.free(Run { start: run.start, npages: run.npages, zeroed: false })?;
            }
        }
        Ok(())
    }
}

/// What was seen of a load while it was steady, as parts of what was in use: on the average and at
/// worst.
#[derive(Default)]
struct Seen {
    samples: f64,
    intact: f64,
    least_intact: f64,
    free: f64,
    most_free: f64,
    peak: u64,
}

impl Seen {
    fn sample(&mut self, now: &Statistics) {
        let in_use = now.in_use.max(1) as f64;
        let (intact, free) = (now.in_use_intact as f64 / in_use, now.free_backed as f64 / in_use);
        self.least_intact =
            if self.samples == 0.0 { intact } else { self.least_intact.min(intact) };
        self.most_free = self.most_free.max(free);
        self.intact += intact;
        self.free += free;
        self.samples += 1.0;
        self.peak = self.peak.max(now.in_use);
    }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// Runs each load and prints what was seen of it.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    let mut worse = Vec::new();
    for load in &LOADS {
        let mut churn = Churn::new(load);
        let mut seen = Seen::default();
        let end = Duration::from_secs(options.seconds);
        let warm_up = WARM_UP.min(end / 4);
        while churn.machine.now() < end {
            churn.tick(load)?;
            if churn.machine.now() > warm_up {
                seen.sample(&churn.machine.heap.statistics());
            }
        }
        let scavenged = churn.machine.scavenged.as_secs_f64() / end.as_secs_f64();
        let steady = churn.machine.heap.statistics();
        churn.drop_to_a_tenth()?;
        churn.machine.pass(Duration::from_secs(1));
        churn.machine.heap.verify()?;
        let dropped = churn.machine.heap.statistics();
        let (intact, free) = (seen.intact / seen.samples, seen.free / seen.samples);
        let left = dropped.free_backed as f64 / seen.peak as f64;
        for (what, figure, bound, is_worse) in [
            ("in whole huge pages", intact, INTACT, intact < INTACT),
            ("free and backed", free, FREE, free > FREE),
            ("free and backed after the drop", left, AFTER_DROP, left > AFTER_DROP),
        ] {
            if is_worse {
                let (figure, bound) = (percent(figure), percent(bound));
                worse.push(format!("{}: {what} {figure}, the bound is {bound}", load.name));
            }
        }
        rows.push(vec![
            load.name.to_string(),
            format!("{} MiB", steady.in_use >> 20),
            churn.count.to_string(),
            percent(intact),
            percent(seen.least_intact),
            percent(free),
            percent(seen.most_free),
            percent(left),
            format!("{:.2} %", scavenged * 100.0),
        ]);
    }
    println!(
        "{} s of each load; parts of what is in use, on the average and at worst",
        options.seconds
    );
    let head = [
        "load",
        "in use",
        "runs",
        "intact",
        "worst",
        "free, backed",
        "worst",
        "after the drop",
        "CPU",
    ];
    table::print(&head, &rows);
    println!(
        "bounds: intact at least {}, free and backed at most {}, of the peak after the drop at most {}",
        percent(INTACT),
        percent(FREE),
        percent(AFTER_DROP)
    );
    verdict(options.check, &worse, "every figure is within its bound")
}
