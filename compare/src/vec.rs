//! A vector that never moves against `Vec`: pushing a billion bytes.

use std::error::Error;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::Instant;

use sysmem_runtime::VmVec;

use crate::measure::median;
use crate::table;

#[derive(clap::Args)]
pub struct Options {
    /// How often each vector is filled.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// How many bytes are pushed, one by one.
    #[arg(long, default_value_t = 1_000_000_000)]
    bytes: usize,
    /// Fill one vector, in this process, and print seconds, peak resident bytes and moves.
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
    let rows: Vec<Vec<String>> = contestants
        .iter()
        .zip(&filled)
        .enumerate()
        .map(|(index, ((name, _), runs))| {
            let ratio = match index {
                0 => 1.0,
                _ => median(&pairs, |(run, plain)| run.seconds / plain.seconds),
            };
            vec![
                name.to_string(),
                format!("{:.3} s", median(runs, |run| run.seconds)),
                format!("{ratio:.3}"),
                format!("{:.4}", median(runs, |run| run.peak / options.bytes as f64)),
                format!("{:.0}", median(runs, |run| run.moves)),
            ]
        })
        .collect();
    println!(
        "{} bytes pushed one by one; medians of {} runs in turn, a process each.\n",
        options.bytes, options.runs
    );
    table::print(&["vector", "time", "ratio", "peak / length", "moves"], &rows);
    Ok(())
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
    let begin = Instant::now();
    let moves = match contestant {
        Contestant::Vec => fill_vec(bytes),
        Contestant::VmVec => fill_vm_vec(bytes)?,
    };
    let seconds = begin.elapsed().as_secs_f64();
    println!("{seconds} {} {moves}", peak()?);
    Ok(())
}

/// Returns how often the bytes changed their address.
#[inline(never)]
fn fill_vec(bytes: usize) -> usize {
    let (mut vector, mut moves) = (Vec::new(), 0);
    let mut start = vector.as_ptr();
    for index in 0..bytes {
        if vector.len() == vector.capacity() {
            vector.reserve(1);
            moves += usize::from(vector.as_ptr() != start && index > 0);
            start = vector.as_ptr();
        }
        vector.push(index as u8);
    }
    black_box(&vector);
    moves
}

#[inline(never)]
fn fill_vm_vec(bytes: usize) -> Result<usize, sysmem::Error> {
    let mut vector = VmVec::with_capacity(1 << 40)?;
    let start = vector.as_ptr();
    let mut moves = 0;
    for index in 0..bytes {
        if vector.len() == vector.committed() {
            vector.reserve(1)?;
            moves += usize::from(vector.as_ptr() != start);
        }
        vector.push(index as u8)?;
    }
    black_box(&vector);
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
