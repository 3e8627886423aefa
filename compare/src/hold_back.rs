//! What the scavenger's holding back saves and what it keeps: a load that comes and goes, on a page
//! heap of its own, with a scavenger that holds back what recent peaks needed and with one that does
//! not.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use sysmem::Native;
use sysmem_pages::{Accounts, Options as HeapOptions, PAGE, PageHeap, Scavenger};

use crate::measure::{cpu_time, usage};
use crate::table;

#[derive(clap::Args)]
pub struct Options {
    /// How long each load runs, in seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// What comes and goes, in MiB.
    #[arg(long, default_value_t = 128)]
    mib: usize,
}

/// From one peak to the next; half of the time it is there. Half a second is held back.
const PERIODS: [u64; 5] = [100, 300, 700, 1500, 3000];

/// The pages of a run of the load.
const RUN: usize = 16;

const SAMPLE_EVERY: Duration = Duration::from_millis(5);

/// A second's worth of a run.
struct Figures {
    faults: f64,
    cpu: Duration,
    /// What is free and backed while the load is away, in bytes, on average.
    kept: f64,
    released: f64,
}

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for period in PERIODS.map(Duration::from_millis) {
        eprintln!("every {} ms ...", period.as_millis());
        let with = swing(options, period, true)?;
        let without = swing(options, period, false)?;
        for (name, it) in [("held back", &with), ("not", &without)] {
            rows.push(vec![
                if name == "not" { String::new() } else { format!("{} ms", period.as_millis()) },
                name.into(),
                format!("{:.0}", it.faults),
                format!("{:.0} MiB", it.released / (1 << 20) as f64),
                format!("{:.0} ms", it.cpu.as_secs_f64() * 1e3),
                format!("{:.0} MiB", it.kept / (1 << 20) as f64),
            ]);
        }
        rows.push(vec![
            String::new(),
            "ratio".into(),
            format!("{:.2}", with.faults / without.faults),
            format!("{:.2}", with.released / without.released),
            format!("{:.2}", with.cpu.as_secs_f64() / without.cpu.as_secs_f64()),
            format!("{:.2}", with.kept / without.kept),
        ]);
    }
    println!(
        "{} MiB come and go on a page heap, {} s each. A second: page faults, bytes given back, CPU of \
         all; and what is kept on average while the load is away.\n",
        options.mib, options.seconds
    );
    let head = ["every", "recent peaks", "faults", "given back", "CPU", "kept while away"];
    table::print(&head, &rows);
    Ok(())
}

fn swing(options: &Options, period: Duration, holds: bool) -> Result<Figures, Box<dyn Error>> {
    let accounts = Box::leak(Box::new(Accounts::new("swing", "swing: records")));
    let heap = PageHeap::new(Native::NEW, accounts, HeapOptions::new());
    heap.expect_scavenger(0);
    let ended = AtomicBool::new(false);
    let begin = Instant::now();
    let (faults, cpu) = (minor_faults(), cpu_time());
    let mut kept = (0.0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut scavenger = Scavenger::new();
            // What is said while others wait for memory: nothing is held back then.
            scavenger.set_pressure(!holds);
            while !ended.load(Relaxed) {
                let wait = scavenger.step(&heap);
                heap.wait_for_call(wait);
            }
        });
        let outcome = (|| {
            while begin.elapsed() < Duration::from_secs(options.seconds) {
                let mut runs = Vec::new();
                for _ in 0..(options.mib << 20) / (RUN * PAGE) {
                    let run = heap.allocate(RUN, PAGE)?;
                    // SAFETY: the run is Ready memory, and ours.
                    unsafe { run.start.write_bytes(1, RUN * PAGE) };
                    runs.push(run);
                }
                thread::sleep(period / 2);
                for run in runs {
                    // SAFETY: the whole run, which is not used any more.
                    unsafe { heap.free(run.start, run.npages) }?;
                }
                let away = Instant::now();
                while away.elapsed() < period / 2 {
                    kept.0 += heap.statistics().free_backed as f64;
                    kept.1 += 1;
                    thread::sleep(SAMPLE_EVERY.min(period / 4));
                }
            }
            Ok(())
        })();
        ended.store(true, Relaxed);
        heap.call_scavenger();
        outcome
    })
    .map_err(|error: Box<dyn Error>| error)?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Figures {
        faults: (minor_faults() - faults) as f64 / seconds,
        cpu: Duration::from_nanos(cpu_time() - cpu).div_f64(seconds),
        kept: kept.0 / f64::from(kept.1),
        released: heap.statistics().released as f64 / seconds,
    })
}

fn minor_faults() -> i64 {
    usage(libc::RUSAGE_SELF).ru_minflt
}
