//! A vector that never moves against `Vec`: pushing a billion bytes.

use std::error::Error;
use std::hint::black_box;
use std::process::{Command, Stdio};

use sysmem::{Native, Os};
use sysmem_runtime::VmVec;

use crate::measure::median;
use crate::{callgrind, table};

#[derive(clap::Args)]
pub struct Options {
    /// How often each vector is filled.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// How many bytes are pushed, one by one.
    #[arg(long, default_value_t = 1_000_000_000)]
    bytes: usize,
    /// Fill one vector, in this process, and print processor seconds and peak resident bytes.
    #[arg(long, hide = true)]
    one: Option<Contestant>,
    /// Print how often the bytes were moved instead.
    #[arg(long, hide = true)]
    moves: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Contestant {
    Vec,
    VmVec,
}

/// What one process said of the vector it filled.
struct Filled {
    seconds: f64,
    peak: f64,
}

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if let Some(contestant) = options.one {
        return match options.moves {
            true => count_moves(contestant, options.bytes),
            false => fill(contestant, options.bytes),
        };
    }
    let contestants = [("Vec", "vec"), ("VmVec", "vm-vec")];
    let mut filled = [Vec::new(), Vec::new()];
    for round in 0..=options.runs {
        for (index, (_, name)) in contestants.iter().enumerate() {
            // A process each: the peak is the process's.
            let run = fill_in_process(name, options.bytes)?;
            if round > 0 {
                filled[index].push(run);
            }
        }
    }
    let pairs: Vec<_> = filled[1].iter().zip(&filled[0]).collect();
    let mut rows = Vec::new();
    for (index, ((name, argument), runs)) in contestants.iter().zip(&filled).enumerate() {
        let ratio = match index {
            0 => 1.0,
            _ => median(&pairs, |(run, plain)| run.seconds / plain.seconds),
        };
        let instructions = match instructions_a_push(argument) {
            Ok(count) => format!("{count:.2}"),
            Err(error) => {
                eprintln!("compare: no instructions of {name}: {error}");
                "?".into()
            }
        };
        rows.push(vec![
            name.to_string(),
            format!("{:.3} s", median(runs, |run| run.seconds)),
            format!("{ratio:.3}"),
            instructions,
            format!("{:.4}", median(runs, |run| run.peak / options.bytes as f64)),
            format!("{:.0}", in_process(argument, options.bytes, &["--moves"])?[0]),
        ]);
    }
    println!(
        "{} bytes pushed one by one; processor time, medians of {} runs in turn, a process each; \
         instructions by callgrind.\n",
        options.bytes, options.runs
    );
    let head = ["vector", "time", "ratio", "instructions a push", "peak / length", "moves"];
    table::print(&head, &rows);
    Ok(())
}

/// What the kernel does is not in it, nor what is done once.
fn instructions_a_push(contestant: &str) -> Result<f64, Box<dyn Error>> {
    const PUSHES: u64 = 1 << 24;
    let count = |pushes: u64| {
        let bytes = pushes.to_string();
        callgrind::count("*compare*vec*fill_v*", &["vec", "--one", contestant, "--bytes", &bytes])
    };
    Ok((count(2 * PUSHES)? - count(PUSHES)?) as f64 / PUSHES as f64)
}

fn fill_in_process(name: &str, bytes: usize) -> Result<Filled, Box<dyn Error>> {
    match in_process(name, bytes, &[])?.as_slice() {
        &[seconds, peak] => Ok(Filled { seconds, peak }),
        numbers => Err(format!("filling {name} printed {numbers:?}").into()),
    }
}

/// The numbers that a process prints which fills one vector.
fn in_process(name: &str, bytes: usize, more: &[&str]) -> Result<Vec<f64>, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["vec", "--one", name, "--bytes", &bytes.to_string()])
        .args(more)
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    if numbers.is_empty() { Err(format!("filling {name} failed").into()) } else { Ok(numbers) }
}

/// There is room for 16 GiB: valgrind, too, has so many addresses.
const ROOM: usize = 16 << 30;

fn fill(contestant: Contestant, bytes: usize) -> Result<(), Box<dyn Error>> {
    let begin = Native::NEW.thread_cpu_time();
    match contestant {
        Contestant::Vec => fill_vec(bytes),
        Contestant::VmVec => fill_vm_vec(bytes)?,
    }
    let seconds = (Native::NEW.thread_cpu_time() - begin).as_secs_f64();
    println!("{seconds} {}", peak()?);
    Ok(())
}

#[inline(never)]
fn fill_vec(bytes: usize) {
    let mut vector = Vec::new();
    for index in 0..bytes {
        vector.push(index as u8);
    }
    black_box(vector);
}

#[inline(never)]
fn fill_vm_vec(bytes: usize) -> Result<(), sysmem::Error> {
    let mut vector = VmVec::with_capacity(ROOM)?;
    for index in 0..bytes {
        vector.push(index as u8)?;
    }
    black_box(vector);
    Ok(())
}

/// How often the bytes change their address.
fn count_moves(contestant: Contestant, bytes: usize) -> Result<(), Box<dyn Error>> {
    let mut moves = 0;
    let mut count = |before: *const u8, after: *const u8, index: usize| {
        moves += usize::from(before != after && index > 0);
    };
    match contestant {
        Contestant::Vec => {
            let mut vector = Vec::new();
            for index in 0..bytes {
                let start = vector.as_ptr();
                vector.push(index as u8);
                count(start, vector.as_ptr(), index);
            }
        }
        Contestant::VmVec => {
            let mut vector = VmVec::with_capacity(ROOM)?;
            for index in 0..bytes {
                let start = vector.as_ptr();
                vector.push(index as u8)?;
                count(start, vector.as_ptr(), index);
            }
        }
    }
    println!("{moves}");
    Ok(())
}

/// The largest resident set this process had, in bytes, since it was executed (VmHWM; wait4(2)
/// would tell what its launcher had as well).
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmHWM")?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}
