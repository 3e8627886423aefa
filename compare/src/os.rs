//! The operations on address space, side by side with other crates' and bare calls: time, system
//! calls, mappings left behind; and instructions against the bare calls.

pub mod calls;
mod contestants;
mod instructions;

use std::error::Error;
use std::time::Duration;

use sysmem::{Native, Os};

use crate::measure::{median, verdict};
use crate::table;
use contestants::{Bare, Contestant, MemMap2, MmapRs, Raw, Region, Reserved, Rustix};

#[derive(clap::Args)]
pub struct Options {
    /// How often each contestant's operations are timed.
    #[arg(long, default_value_t = 41)]
    runs: usize,
    /// How many operations are timed together.
    #[arg(long, default_value_t = 64)]
    operations: usize,
    /// Count the instructions of the raw layer and of the bare calls, under valgrind.
    #[arg(long)]
    instructions: bool,
    /// Fail if sysmem makes more system calls or leaves more mappings than the best of the
    /// others; with --instructions, if the raw layer takes more than 40 more than the bare calls.
    #[arg(long)]
    check: bool,
    /// Carry out one of the operations whose instructions are counted, in this process.
    #[arg(long, hide = true)]
    one: Option<String>,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// How many operations the counts of system calls and mappings are taken over: what goes well
/// only by luck, such as an address that happens to be aligned, is not to decide.
const COUNTED: usize = 32;

/// What is measured.
#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Reserve,
    ReserveAligned { len: usize, align: usize },
    Commit,
    DecommitEager,
    DecommitLazy,
    Release,
    WholeLife,
}

const OPERATIONS: [(Operation, &str); 9] = [
    (Operation::Reserve, "reserve 1 GiB"),
    (Operation::ReserveAligned { len: MIB, align: 2 * MIB }, "reserve 1 MiB aligned to 2 MiB"),
    (
        Operation::ReserveAligned { len: 64 * MIB, align: 2 * MIB },
        "reserve 64 MiB aligned to 2 MiB",
    ),
    (Operation::ReserveAligned { len: GIB, align: GIB }, "reserve 1 GiB aligned to 1 GiB"),
    (Operation::Commit, "commit 4 MiB of 1 GiB"),
    (Operation::DecommitEager, "decommit 64 KiB that were written, at once"),
    (Operation::DecommitLazy, "decommit 64 KiB that were written, lazily"),
    (Operation::Release, "release 1 GiB"),
    (Operation::WholeLife, "reserve, commit, write, decommit at once, release"),
];

/// A contestant by name: does `count` of an operation between two calls of `mark`; `false` if it
/// has not the operation.
struct Entry {
    name: &'static str,
    ours: bool,
    perform: fn(Operation, usize, &mut dyn FnMut()) -> Outcome<bool>,
}

/// The first is what the others' times are divided by.
const CONTESTANTS: [Entry; 7] = [
    Entry { name: "bare libc calls", ours: false, perform: perform::<Bare> },
    Entry { name: "rustix", ours: false, perform: perform::<Rustix> },
    Entry { name: "region", ours: false, perform: perform::<Region> },
    Entry { name: "mmap-rs", ours: false, perform: perform::<MmapRs> },
    Entry { name: "memmap2", ours: false, perform: perform::<MemMap2> },
    Entry { name: "sysmem, raw (Native)", ours: true, perform: perform::<Raw> },
    Entry { name: "sysmem, Reservation", ours: true, perform: perform::<Reserved> },
];

fn perform<C: Contestant>(
    operation: Operation,
    count: usize,
    mark: &mut dyn FnMut(),
) -> Outcome<bool> {
    let mut all: Vec<C> = Vec::with_capacity(count);
    let ready = |len: usize| -> Outcome<Option<Vec<C>>> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(mut one) = C::ready(len).transpose()? else { return Ok(None) };
            one.write(len);
            all.push(one);
        }
        Ok(Some(all))
    };
    match operation {
        Operation::Reserve | Operation::ReserveAligned { .. } => {
            let reserve = || match operation {
                Operation::ReserveAligned { len, align } => C::reserve_aligned(len, align),
                _ => C::reserve(GIB),
            };
            let Some(first) = reserve().transpose()? else { return Ok(false) };
            first.release()?;
            mark();
            for _ in 0..count {
                all.extend(reserve().transpose()?);
            }
            mark();
        }
        Operation::Commit => {
            for _ in 0..count {
                let Some(one) = C::reserve(GIB).transpose()? else { return Ok(false) };
                all.push(one);
            }
            mark();
            for one in &mut all {
                one.commit(4 * MIB)?;
            }
            mark();
        }
        Operation::DecommitEager | Operation::DecommitLazy => {
            let lazily = operation == Operation::DecommitLazy;
            let Some(mut ready) = ready(64 * KIB)? else { return Ok(false) };
            if ready[0].decommit(64 * KIB, lazily).transpose()?.is_none() {
                return Ok(false);
            }
            ready[0].recommit(64 * KIB)?;
            ready[0].write(64 * KIB);
            mark();
            for one in &mut ready {
                one.decommit(64 * KIB, lazily).transpose()?;
            }
            mark();
            all = ready;
        }
        Operation::Release => {
            for _ in 0..count {
                let one = C::reserve(GIB).or_else(|| C::ready(GIB)).transpose()?;
                all.extend(one);
            }
            mark();
            for one in all.drain(..) {
                one.release()?;
            }
            mark();
        }
        Operation::WholeLife => {
            for round in 0..=count {
                if round == 1 {
                    mark();
                }
                let Some(mut one) = C::reserve(GIB).transpose()? else { return Ok(false) };
                one.commit(64 * KIB)?;
                one.write(64 * KIB);
                if one.decommit(64 * KIB, false).transpose()?.is_none() {
                    return Ok(false);
                }
                one.release()?;
            }
            mark();
        }
    }
    for one in all {
        one.release()?;
    }
    Ok(true)
}

pub fn run(options: &Options) -> Outcome<()> {
    if let Some(name) = &options.one {
        return instructions::one(name);
    }
    if options.instructions {
        return instructions::run(options.check);
    }
    println!(
        "One thread; processor time of one operation, medians of {} runs of {} operations in turn; \
         times the bare calls: the median of the ratios of neighbouring runs. System calls are for \
         one operation, mappings are what {COUNTED} operations add; both counted the second time \
         in a process of its own.\n",
        options.runs, options.operations
    );
    let mut worse = Vec::new();
    for (operation, title) in OPERATIONS {
        let times = time(operation, options)?;
        let mut counts = Vec::new();
        for contestant in &CONTESTANTS {
            counts.push(calls::count(|mark| {
                // Once before, so that what is kept for the next time is there: the records of
                // reservations, for one, lie in pages that are taken when they are first needed.
                (contestant.perform)(operation, COUNTED, &mut || {})?;
                (contestant.perform)(operation, COUNTED, mark)
            })?);
        }
        let rows: Vec<Vec<String>> = CONTESTANTS
            .iter()
            .zip(&times)
            .zip(&counts)
            .filter(|((_, times), _)| !times.is_empty())
            .map(|((contestant, times_here), count)| {
                let pairs: Vec<(f64, f64)> =
                    times_here.iter().copied().zip(times[0].iter().copied()).collect();
                let mut row = vec![
                    contestant.name.to_string(),
                    format!("{:.2} µs", median(times_here, |time| *time) * 1e6),
                    format!("{:.2}", median(&pairs, |(here, bare)| here / bare)),
                ];
                row.extend(count.iter().flat_map(|count| count.cells(COUNTED)));
                row
            })
            .collect();
        let head = [title, "time", "times bare", "system calls", "mappings", "which"];
        table::print(&head, &rows);
        println!();
        for (contestant, count) in CONTESTANTS.iter().zip(&counts) {
            let others = CONTESTANTS.iter().zip(&counts).filter(|(other, _)| !other.ours);
            let others = others.filter_map(|(_, count)| count.as_ref());
            let Some(count) = count.as_ref().filter(|_| contestant.ours) else { continue };
            let calls = others.clone().map(|count| count.calls()).min();
            let mappings = others.map(|count| count.mappings).min();
            if calls.is_some_and(|best| count.calls() > best) {
                worse
                    .push(format!("{}, {title}: more system calls than the best", contestant.name));
            }
            if mappings.is_some_and(|best| count.mappings > best) {
                worse.push(format!("{}, {title}: more mappings than the best", contestant.name));
            }
        }
    }
    verdict(
        options.check,
        &worse,
        "sysmem makes no more system calls and leaves no more mappings than the best of the others.",
    )
}

/// Seconds of processor time that one operation took each contestant in each run; none for those
/// that have not the operation.
fn time(operation: Operation, options: &Options) -> Outcome<[Vec<f64>; CONTESTANTS.len()]> {
    let mut times = [const { Vec::new() }; CONTESTANTS.len()];
    // One run to warm caches.
    for run in 0..=options.runs {
        for (contestant, times) in CONTESTANTS.iter().zip(&mut times) {
            let mut marks = [Duration::ZERO; 2];
            let mut mark = 0;
            let has = (contestant.perform)(operation, options.operations, &mut || {
                marks[mark] = Native::NEW.thread_cpu_time();
                mark += 1;
            })?;
            if has && run > 0 {
                times.push((marks[1] - marks[0]).as_secs_f64() / options.operations as f64);
            }
        }
    }
    Ok(times)
}
