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
    /// Fill one vector, in this process, and print processor seconds, peak resident bytes and
    /// moves.
    #[arg(long, hide = true)]
    one: Option<Contestant>,
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
    moves: f64,
}

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if let Some(contestant) = options.one {
        return fill(contestant, options.bytes);
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
            format!("{:.0}", median(runs, |run| run.moves)),
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
    let output = Command::new(std::env::current_exe()?)
        .args(["vec", "--one", name, "--bytes", &bytes.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let numbers: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
    match numbers?.as_slice() {
        &[seconds, peak, moves] => Ok(Filled { seconds, peak, moves }),
        _ => Err(format!("filling {name} printed {text:?}").into()),
    }
}

fn fill(contestant: Contestant, bytes: usize) -> Result<(), Box<dyn Error>> {
    let begin = Native::NEW.thread_cpu_time();
    let moves = match contestant {
        Contestant::Vec => fill_vec(bytes),
        Contestant::VmVec => fill_vm_vec(bytes)?,
    };
    let seconds = (Native::NEW.thread_cpu_time() - begin).as_secs_f64();
    println!("{seconds} {} {moves}", peak()?);
    Ok(())
}

/// Returns how often the bytes changed their address.
#[inline(never)]
fn fill_vec(bytes: usize) -> usize {
    let (mut vector, mut moves) = (Vec::new(), 0);
    for index in 0..bytes {
        if vector.len() == vector.capacity() {
            let start = vector.as_ptr();
            vector.reserve(1);
            moves += usize::from(vector.as_ptr() != start && index > 0);
        }
        vector.push(index as u8);
    }
    black_box(vector);
    moves
}

/// As above. There is room for 16 GiB: valgrind, too, has so many addresses.
#[inline(never)]
fn fill_vm_vec(bytes: usize) -> Result<usize, sysmem::Error> {
    let (mut vector, mut moves) = (VmVec::with_capacity(16 << 30)?, 0);
    for index in 0..bytes {
        if vector.len() == vector.committed() {
            let start = vector.as_ptr();
            vector.reserve(1)?;
            moves += usize::from(vector.as_ptr() != start);
        }
        vector.push(index as u8)?;
    }
    black_box(vector);
    Ok(moves)
}

/// The largest resident set this process had, in bytes, since it was executed (VmHWM; wait4(2)
/// would tell what its launcher had as well).
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmHWM")?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}
