//! Runs of pages out of heaps that are half full: a free of a random run and an allocation a step,
//! runs of 1 to 16 pages of 8 KiB. The page heap beside allocators asked for blocks of the same
//! sizes, none of which anybody touches.
//!
//! Every contestant fills its heap in a process of its own and keeps it; then all do some steps in
//! turn. Time is processor time of the thread, which other programs do not add to.

mod load;
mod scattered;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::allocators::{self, Allocator, How};
use crate::callgrind;
use crate::measure::{median, verdict};
use crate::table;
pub use load::{Load, load};
use load::{Source, Took};

#[derive(clap::Args)]
pub struct Options {
    /// How often each contestant is measured.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Steps of one round.
    #[arg(long, default_value_t = 200_000)]
    steps: usize,
    /// Count the instructions of a step instead, under valgrind, which snmalloc does not bear.
    #[arg(long)]
    instructions: bool,
    /// Only what it costs to give scattered runs back.
    #[arg(long)]
    scattered: bool,
    /// Fail if a figure is above its bound.
    #[arg(long)]
    check: bool,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The most nanoseconds of a step at the page heap itself, ...
const SHARED: f64 = 250.0;
/// ... and in a heap of this size as many times more.
const LARGE: usize = 16 << 10;
const LARGE_TIMES: f64 = 1.3;

/// The records of a page heap are at most this part of what is mapped, ...
const RECORDS: f64 = 0.002;
/// ... and as many bytes more.
const RECORDS_MORE: f64 = (128 << 10) as f64;

/// What is quoted of Go 1.27's page allocator on a machine like the one the bounds are for, by the
/// size of the heap in MiB.
const GO: [(usize, f64); 2] = [(256, 1100.0), (1024, 1300.0)];

/// The most nanoseconds of a step through a cache, ...
const CACHED: f64 = 60.0;
/// ... as many times what these allocators take, ...
const PEERS: [&str; 3] = ["mimalloc", "snmalloc", "jemalloc"];
const PEER_TIMES: f64 = 0.8;
/// ... and what two threads do at least for each step that one does alone.
const TWO_THREADS: f64 = 1.6;

const BELOW: &str = "No figure is above its bound.";

/// The sizes at which allocators are compared.
const SIZES: [usize; 2] = [256, 1024];

/// A child that has filled its heap.
struct Contestant {
    name: String,
    source: Source,
    mib: usize,
    threads: usize,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Of a page heap: its records and what is mapped, in bytes.
    records: Option<(u64, u64)>,
    took: Vec<Took>,
}

impl Contestant {
    fn start(
        name: &str,
        mut command: Command,
        source: Source,
        mib: usize,
        threads: usize,
    ) -> Outcome<Contestant> {
        command.arg("pages-load").args(arguments(source, mib));
        command.args(["--threads", &threads.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a child without pipes".into());
        };
        let (name, output) = (name.to_string(), BufReader::new(output));
        let (records, took) = (None, Vec::new());
        let mut this =
            Contestant { name, source, mib, threads, child, input, output, records, took };
        let line = this.line()?;
        if let Some((records, mapped)) = line.trim().split_once(' ') {
            this.records = Some((records.parse()?, mapped.parse()?));
        }
        Ok(this)
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err(format!("{}: the load ended with {}", self.name, self.child.wait()?).into()),
            _ => Ok(line),
        }
    }

    fn steps(&mut self, count: usize) -> Outcome<Took> {
        writeln!(self.input, "{count}")?;
        Took::parse(&self.line()?)
    }

    fn cpu(&self) -> f64 {
        median(&self.took, |took| took.cpu)
    }

    /// The median of the ratios of rounds that were neighbours.
    fn ratio(&self, to: &Contestant) -> f64 {
        let pairs: Vec<(f64, f64)> =
            self.took.iter().zip(&to.took).map(|(this, that)| (this.cpu, that.cpu)).collect();
        median(&pairs, |(this, that)| this / that)
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        // Ours, and there is nothing it could lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arguments(source: Source, mib: usize) -> [String; 2] {
    [format!("{source:?}").to_lowercase(), mib.to_string()]
}

fn size(mib: usize) -> String {
    if mib < 1024 { format!("{mib} MiB") } else { format!("{} GiB", mib >> 10) }
}

/// Whether an allocator has no threads of its own: what they do is not in the figures.
fn is_alone(allocator: &Allocator) -> bool {
    !matches!(allocator.how, How::Preload { environment: Some(_), .. })
}

pub fn run(options: &Options) -> Outcome<()> {
    if options.instructions {
        return instructions();
    }
    // Before there are children: it counts system calls in one of its own.
    let mut worse = scattered::run(options.rounds)?;
    if options.scattered {
        return verdict(options.check, &worse, BELOW);
    }
    let mut allocators = allocators::others()?;
    allocators.retain(is_alone);
    let mut contestants = Vec::new();
    let ours = |source, mib, threads| {
        Contestant::start("", Command::new(std::env::current_exe()?), source, mib, threads)
    };
    for mib in SIZES {
        contestants.push(ours(Source::Shared, mib, 1)?);
        contestants.push(ours(Source::Cached, mib, 1)?);
        for allocator in &allocators {
            let command = allocator.command(std::env::current_exe()?, [""; 0]);
            let source = Source::Malloc;
            contestants.push(Contestant::start(&allocator.name, command, source, mib, 1)?);
        }
    }
    contestants.push(ours(Source::Cached, SIZES[1], 2)?);
    contestants.push(ours(Source::Simulated, SIZES[0], 1)?);
    contestants.push(ours(Source::Simulated, LARGE, 1)?);

    // One round to warm caches.
    for round in 0..=options.rounds {
        for contestant in &mut contestants {
            let took = contestant.steps(options.steps)?;
            if round > 0 {
                contestant.took.push(took);
            }
        }
    }
    println!(
        "Runs of 1 to 16 pages of 8 KiB, heaps half full; processor time of a free and an \
         allocation. Medians of {} rounds of {} steps in turn, after half as many to warm the \
         caches, ratios those of neighbouring rounds.\n",
        options.rounds, options.steps
    );
    worse.extend(shared(&contestants));
    worse.extend(cached(&contestants, &allocators));
    worse.extend(two_threads(&contestants));
    verdict(options.check, &worse, BELOW)
}

fn find<'a>(
    contestants: &'a [Contestant],
    name: &str,
    source: Source,
    mib: usize,
) -> Option<&'a Contestant> {
    let this = (name, source, mib, 1);
    contestants.iter().find(|it| (it.name.as_str(), it.source, it.mib, it.threads) == this)
}

/// The page heap itself. What is above its bound.
fn shared(contestants: &[Contestant]) -> Vec<String> {
    let mut worse = Vec::new();
    let mut rows = Vec::new();
    let simulated_small = find(contestants, "", Source::Simulated, SIZES[0]);
    for contestant in contestants {
        let (bound, kernel, growth) = match contestant.source {
            Source::Shared => (SHARED, "running", None),
            Source::Simulated if contestant.mib == LARGE => (
                SHARED * LARGE_TIMES,
                "simulated",
                simulated_small.map(|small| contestant.ratio(small)),
            ),
            Source::Simulated => (SHARED, "simulated", None),
            _ => continue,
        };
        let (cpu, size) = (contestant.cpu(), size(contestant.mib));
        if cpu > bound {
            worse.push(format!("the page heap, {size}, {kernel} kernel: {cpu:.0} ns"));
        }
        if let Some(times) = growth.filter(|&times| times > LARGE_TIMES) {
            worse.push(format!("the page heap, {size}: {times:.2} times what 256 MiB take"));
        }
        let (records, mapped) = contestant.records.unwrap_or_default();
        if records as f64 > RECORDS * mapped as f64 + RECORDS_MORE {
            worse.push(format!("the page heap, {size}: {records} bytes of records"));
        }
        let go = GO.iter().find(|(mib, _)| *mib == contestant.mib && kernel == "running");
        rows.push(vec![
            size,
            kernel.into(),
            format!("{cpu:.0} ns"),
            format!("{bound:.0} ns"),
            growth.map_or("".into(), |times| format!("{times:.2} (at most {LARGE_TIMES})")),
            go.map_or("".into(), |(_, ns)| format!("{ns:.0} ns")),
            format!("{} KiB, {:.3} %", records >> 10, records as f64 * 100.0 / mapped as f64),
        ]);
    }
    let head = [
        "the page heap",
        "kernel",
        "time",
        "at most",
        "times 256 MiB",
        "Go 1.27, quoted",
        "records, of what is mapped",
    ];
    table::print(&head, &rows);
    println!();
    worse
}

/// Caches and the page heap beside allocators. What is above its bound.
fn cached(contestants: &[Contestant], allocators: &[Allocator]) -> Vec<String> {
    let mut worse = Vec::new();
    for mib in SIZES {
        let ours = |source| find(contestants, "", source, mib);
        let (Some(shared), Some(cached)) = (ours(Source::Shared), ours(Source::Cached)) else {
            continue;
        };
        let mut rows = Vec::new();
        let peers = allocators.iter().filter_map(|allocator| {
            Some((&*allocator.name, find(contestants, &allocator.name, Source::Malloc, mib)?))
        });
        for (name, peer) in [("page cache", cached), ("page heap", shared)].into_iter().chain(peers)
        {
            let (cache_to_it, bounded) = (cached.ratio(peer), PEERS.contains(&name));
            let bound = match name {
                "page cache" => format!("{CACHED:.0} ns"),
                _ if bounded => format!("{PEER_TIMES} of it"),
                _ => String::new(),
            };
            if bounded && cache_to_it > PEER_TIMES {
                worse.push(format!("a cache, {}: {cache_to_it:.2} of {name}", size(mib)));
            }
            rows.push(vec![
                name.into(),
                format!("{:.0} ns", peer.cpu()),
                format!("{cache_to_it:.2}"),
                bound,
                format!("{:.2}", shared.ratio(peer)),
            ]);
        }
        if cached.cpu() > CACHED {
            worse.push(format!("a cache, {}: {:.0} ns", size(mib), cached.cpu()));
        }
        let head = [&size(mib), "time", "cache to it", "cache at most", "page heap to it"];
        table::print(&head, &rows);
        println!();
    }
    worse
}

/// What two threads do with a cache each, together, for each step that one does alone. What is below
/// its bound.
fn two_threads(contestants: &[Contestant]) -> Vec<String> {
    let Some(two) = contestants.iter().find(|it| it.threads == 2) else { return Vec::new() };
    let Some(one) = find(contestants, "", two.source, two.mib) else { return Vec::new() };
    let rounds: Vec<(Took, Took)> =
        one.took.iter().copied().zip(two.took.iter().copied()).collect();
    // A thread's own time does not tell how long it slept for a lock: that is counted beside.
    let by_cpu = median(&rounds, |(one, two)| 2.0 * one.cpu / two.cpu);
    let by_wall = median(&rounds, |(one, two)| one.wall / two.wall);
    let sleeps = |of: &Contestant| format!("{:.1}", median(&of.took, |took| took.sleeps * 1e6));
    let row = |name: &str, it: &Contestant, times: [f64; 2]| {
        let [cpu, wall] = times.map(|times| format!("{times:.2}"));
        vec![name.into(), format!("{:.0} ns", it.cpu()), cpu, wall, sleeps(it)]
    };
    let rows = [row("one", one, [1.0; 2]), row("two", two, [by_cpu, by_wall])];
    let title = format!("threads with caches, {}", size(two.mib));
    let bound = format!("work together (at least {TWO_THREADS})");
    table::print(&[&title, "time", &bound, "by the clock", "sleeps in a million steps"], &rows);
    println!();
    if by_cpu < TWO_THREADS {
        return vec![format!("two threads with caches do {by_cpu:.2} times the work of one")];
    }
    Vec::new()
}

/// Instructions of a step, the driver's own (some 25) among them.
fn instructions() -> Outcome<()> {
    const STEPS: u64 = 20_000;
    let counted = |valgrind, source, mib| -> Outcome<u64> {
        let arguments = arguments(source, mib);
        let steps = STEPS.to_string();
        let arguments = ["pages-load", &arguments[0], &arguments[1], "--once", &steps];
        Ok(callgrind::count_by(valgrind, "*pages_steps*", &arguments)? / STEPS)
    };
    let ours = |source, mib| counted(Command::new("valgrind"), source, mib);
    let mut allocators = allocators::all()?;
    allocators.retain(is_alone);
    println!("Instructions of a free and an allocation, means of {STEPS} (callgrind).");
    for mib in SIZES {
        let mut rows = vec![
            ("page heap", Ok(ours(Source::Shared, mib)?)),
            ("page cache", Ok(ours(Source::Cached, mib)?)),
        ];
        rows.extend(allocators.iter().map(|allocator| {
            (allocator.name.as_str(), counted(allocator.valgrind(), Source::Malloc, mib))
        }));
        let rows: Vec<_> = rows
            .into_iter()
            // snmalloc ends itself where valgrind gives it fewer address bits than it wants.
            .map(|(name, each)| vec![name.into(), each.map_or("-".into(), |each| each.to_string())])
            .collect();
        println!();
        table::print(&[&size(mib), "instructions"], &rows);
    }
    Ok(())
}
