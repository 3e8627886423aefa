//! Guards against `mprotect`, on memory that is populated.

use std::error::Error;
use std::time::Duration;

use sysmem::{
    Account, GiveBack, GuardMechanism, Native, Os, Protection, Reservation, ReserveOptions,
};
use sysmem_runtime::Guard;

use crate::measure::median;
use crate::table;

#[derive(clap::Args)]
pub struct Options {
    /// How often each contestant installs and removes its guards.
    #[arg(long, default_value_t = 41)]
    runs: usize,
    /// How many guards, one page each, 64 KiB apart.
    #[arg(long, default_value_t = 1000)]
    guards: usize,
}

const APART: usize = 64 << 10;

static GUARDED: Account = Account::new("guarded");

/// What a guard costs in one round, in seconds of processor time, and mappings all of them added.
struct Round {
    install: f64,
    remove: f64,
    mappings: f64,
}

#[derive(Clone, Copy)]
enum Contestant {
    /// PROT_NONE, the page kept.
    Protect,
    /// PROT_NONE and MADV_DONTNEED: the page given back, as the light guard does.
    ProtectAndGiveBack,
    /// MADV_GUARD_INSTALL, the bare call.
    Bare,
    Guard,
    /// All of them in one row.
    Row,
}

const CONTESTANTS: [Contestant; 5] = [
    Contestant::Protect,
    Contestant::ProtectAndGiveBack,
    Contestant::Bare,
    Contestant::Guard,
    Contestant::Row,
];

const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let page = sysmem::page_size();
    let len = options.guards * APART;
    let mut memory = Reservation::reserve(ReserveOptions::new(len), &GUARDED)?;
    memory.map(0, len, Protection::ReadWrite)?;
    memory.used(0, len)?;
    // Pages are what is guarded: a huge page would have to be split first.
    let _ = memory.no_huge_page(0, len);
    let guard = Guard::install(&mut memory, 0, page)?;
    let mechanism = guard.mechanism();
    guard.remove(&mut memory).map_err(|(_, error)| error)?;
    if mechanism != GuardMechanism::Marker {
        return Err(format!("this kernel has no light guards, but {mechanism}").into());
    }
    println!(
        "{} guards of one page, {} KiB apart in populated memory, one thread; processor time, \
         medians of {} runs in turn.\n",
        options.guards,
        APART >> 10,
        options.runs
    );
    for touched in [true, false] {
        let mut rounds = [const { Vec::new() }; CONTESTANTS.len()];
        for round in 0..=options.runs {
            for (contestant, rounds) in CONTESTANTS.into_iter().zip(&mut rounds) {
                populate(&mut memory, touched)?;
                let run = match contestant {
                    Contestant::Guard => install(&mut memory, options.guards, 1)?,
                    Contestant::Row => install(&mut memory, options.guards, options.guards)?,
                    Contestant::Protect | Contestant::ProtectAndGiveBack | Contestant::Bare => {
                        bare(&memory, options.guards, contestant)?
                    }
                };
                if round > 0 {
                    rounds.push(run);
                }
            }
        }
        let name = |contestant| match contestant {
            Contestant::Protect => "mprotect".into(),
            Contestant::ProtectAndGiveBack => "mprotect and MADV_DONTNEED".into(),
            Contestant::Bare => mechanism.to_string(),
            Contestant::Guard => "Guard".into(),
            Contestant::Row => "a row of Guards".into(),
        };
        let rows: Vec<Vec<String>> = CONTESTANTS
            .into_iter()
            .zip(&rounds)
            .map(|(contestant, runs)| row(name(contestant), runs, &rounds))
            .collect();
        let pages = if touched { "guarded pages touched" } else { "guarded pages untouched" };
        let head = [
            pages,
            "install",
            "remove",
            "cheaper than mprotect",
            "than giving back too",
            "mappings added",
        ];
        table::print(&head, &rows);
        println!();
    }
    Ok(())
}

/// The figures of a contestant, and how many times cheaper it is, installed and removed, than the
/// first and the second.
fn row(name: String, runs: &[Round], rounds: &[Vec<Round>]) -> Vec<String> {
    let cheaper = |other: usize| {
        let pairs: Vec<(&Round, &Round)> = runs.iter().zip(&rounds[other]).collect();
        let both = |round: &Round| round.install + round.remove;
        format!("{:.2}", median(&pairs, |(run, other)| both(other) / both(run)))
    };
    vec![
        name,
        format!("{:.2} µs", median(runs, |round| round.install) * 1e6),
        format!("{:.2} µs", median(runs, |round| round.remove) * 1e6),
        cheaper(0),
        cheaper(1),
        format!("{:.0}", median(runs, |round| round.mappings)),
    ]
}

/// Touches every page, or every page but those that will be guarded.
fn populate(memory: &mut Reservation, touched: bool) -> Result<(), sysmem::Error> {
    let page = sysmem::page_size();
    for offset in (0..memory.len()).step_by(page) {
        if offset % APART != 0 || touched {
            // SAFETY: all of it is Ready between the rounds, and used by nobody else.
            unsafe { memory.as_mut_ptr().add(offset).write_volatile(1) };
        } else {
            memory.unused(offset, page, GiveBack::Eager)?;
            memory.used(offset, page)?;
        }
    }
    Ok(())
}

/// In rows of so many.
fn install(memory: &mut Reservation, count: usize, row: usize) -> Result<Round, Box<dyn Error>> {
    let page = sysmem::page_size();
    let mut guards = Vec::with_capacity(count);
    let before = mappings()?;
    let begin = Native::NEW.thread_cpu_time();
    for first in (0..count).step_by(row) {
        let count = row.min(count - first);
        guards.push(Guard::install_row(memory, first * APART, page, APART, count)?);
    }
    let install = seconds_since(begin) / count as f64;
    let mappings = mappings()? - before;
    let begin = Native::NEW.thread_cpu_time();
    for guard in guards {
        guard.remove(memory).map_err(|(_, error)| error)?;
    }
    Ok(Round { install, remove: seconds_since(begin) / count as f64, mappings })
}

/// By the calls themselves.
fn bare(memory: &Reservation, count: usize, contestant: Contestant) -> std::io::Result<Round> {
    let page = sysmem::page_size();
    let at = |index: usize| memory.as_mut_ptr().wrapping_add(index * APART).cast();
    // SAFETY: one page of the reservation, which nobody uses meanwhile; it becomes what the
    // reservation believes it to be before the round ends.
    let protect = |index, bits| done(unsafe { libc::mprotect(at(index), page, bits) });
    // SAFETY: as above.
    let advise = |index, advice| done(unsafe { libc::madvise(at(index), page, advice) });
    let before = mappings()?;
    let begin = Native::NEW.thread_cpu_time();
    for index in 0..count {
        match contestant {
            Contestant::Bare => advise(index, MADV_GUARD_INSTALL)?,
            _ => protect(index, libc::PROT_NONE)?,
        }
        if let Contestant::ProtectAndGiveBack = contestant {
            advise(index, libc::MADV_DONTNEED)?;
        }
    }
    let install = seconds_since(begin) / count as f64;
    let mappings = mappings()? - before;
    let begin = Native::NEW.thread_cpu_time();
    for index in 0..count {
        match contestant {
            Contestant::Bare => advise(index, MADV_GUARD_REMOVE)?,
            _ => protect(index, libc::PROT_READ | libc::PROT_WRITE)?,
        }
    }
    Ok(Round { install, remove: seconds_since(begin) / count as f64, mappings })
}

fn done(answer: i32) -> std::io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn seconds_since(begin: Duration) -> f64 {
    (Native::NEW.thread_cpu_time() - begin).as_secs_f64()
}

/// How many mappings the process has.
fn mappings() -> std::io::Result<f64> {
    Ok(std::fs::read_to_string("/proc/self/maps")?.lines().count() as f64)
}
