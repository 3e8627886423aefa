//! What looking costs: publishing statistics, sampling from outside, profiling.
//!
//! Instructions are counted by callgrind over a fixed number of allocations. What is published goes by
//! the time, and a program takes some fifty times as long there: so the count is of fifty times as
//! many publications as there are in truth, and a bound from above. Processor time is told with its
//! uncertainty, because a machine may have other work; `--check` fails where the bound lies below
//! all that chance explains.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{self, Random, median, verdict};
use crate::programs::{self, Program};
use crate::{allocators, callgrind, table};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(clap::Args)]
pub struct Options {
    /// How often each program runs in each way.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// How long a program is watched, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Only the programs whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Fail if a figure is above its bound.
    #[arg(long)]
    check: bool,
}

/// What publishing may cost, of the time or the instructions without it.
const PUBLISHING: f64 = 0.01;
/// What sampling from outside may take of one processor.
const SAMPLING: f64 = 0.01;
/// What a profile may cost, of the time without one.
const PROFILING: f64 = 0.02;

/// The real programs that are profiled.
const PROGRAMS: [&str; 3] = ["sort", "python3", "cc1"];

#[derive(clap::Args)]
pub struct Load {
    /// Allocate as often as that.
    #[arg(long, default_value_t = 0)]
    operations: u64,
    /// One of 16 blocks has up to 64 KiB, two up to 4 KiB.
    #[arg(long)]
    mixed: bool,
    /// Or for so many seconds, with a pause now and then.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
}

/// A figure, how sure it is, and what it may be.
struct Row {
    what: String,
    how: &'static str,
    value: f64,
    /// A standard error; 0 of a count.
    error: f64,
    bound: Option<f64>,
}

pub fn run(options: &Options) -> Outcome<()> {
    let folder = std::env::temp_dir().join(format!("sysmem-overhead-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let rows = measure_all(options, &folder);
    fs::remove_dir_all(&folder)?;
    let rows = rows?;
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let error = if row.error == 0.0 { String::new() } else { percent(row.error) };
            let bound = row.bound.map_or_else(String::new, percent);
            vec![row.what.clone(), row.how.into(), percent(row.value), error, bound]
        })
        .collect();
    table::print(&["", "counted as", "costs", "give or take", "bound"], &cells);
    let above = |row: &&Row| row.bound.is_some_and(|bound| row.value - 2.0 * row.error > bound);
    let worse: Vec<String> = rows
        .iter()
        .filter(above)
        .map(|row| format!("{}: {}", row.what, percent(row.value)))
        .collect();
    println!();
    verdict(options.check, &worse, "No figure is above its bound.")
}

fn measure_all(options: &Options, folder: &Path) -> Outcome<Vec<Row>> {
    let ways = Ways::new(folder)?;
    let mut rows = Vec::new();
    if options.only.is_none() {
        rows.extend(instructions(&ways, "small blocks", &["--operations=2000000"])?);
        rows.extend(instructions(
            &ways,
            "blocks of all sizes",
            &["--operations=300000", "--mixed"],
        )?);
        rows.push(sampling(&ways, options.seconds)?);
    }
    for program in programs::all().iter().filter(|program| {
        PROGRAMS.iter().any(|name| program.name.starts_with(name))
            && measure::is_wanted(&options.only, program.name)
    }) {
        if program.prepare(folder)? {
            rows.extend(real(&ways, program, options.runs)?);
        }
    }
    Ok(rows)
}

/// The ways to run a program.
struct Ways<'a> {
    sysmem: PathBuf,
    /// What the command preloads.
    preload_library: PathBuf,
    folder: &'a Path,
}

/// On the allocator, which publishes nothing; under `sysmem run`; with a profile, too.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Silent,
    Published,
    Profiled,
}

impl<'a> Ways<'a> {
    fn new(folder: &'a Path) -> Outcome<Ways<'a>> {
        let mut ways =
            Ways { sysmem: allocators::sysmem()?, preload_library: PathBuf::new(), folder };
        measure::run(&mut ways.command(Way::Published, &["true"]))?;
        ways.preload_library =
            ways.report()?["library"].as_str().ok_or("no library in the report")?.into();
        Ok(ways)
    }

    fn json(&self) -> PathBuf {
        self.folder.join("figures.json")
    }

    fn command(&self, way: Way, words: &[&str]) -> Command {
        let mut command = match way {
            Way::Silent => {
                let mut command = Command::new(words[0]);
                command.env("LD_PRELOAD", &self.preload_library);
                command
            }
            Way::Published | Way::Profiled => {
                let mut command = Command::new(&self.sysmem);
                command.args(["run", "--quiet", "--json"]).arg(self.json());
                if way == Way::Profiled {
                    command.arg("--profile").arg(self.folder.join("profile.pb.gz"));
                }
                command.arg("--").arg(words[0]);
                command
            }
        };
        command.args(&words[1..]).current_dir(self.folder).stdin(Stdio::null());
        command.stderr(Stdio::null());
        command
    }

    fn report(&self) -> Outcome<serde_json::Value> {
        Ok(serde_json::from_slice(&fs::read(self.json())?)?)
    }

    /// Processor time of the program itself in the last report, in seconds.
    fn program_time(&self) -> Outcome<f64> {
        let time = &self.report()?["time"];
        let of = |name: &str| time[name].as_f64().ok_or("no time in the report");
        Ok((of("user_ns")? + of("system_ns")?) / 1e9)
    }
}

/// Instructions of a loop that does nothing but allocate and free.
fn instructions(ways: &Ways<'_>, name: &str, load: &[&str]) -> Outcome<[Row; 2]> {
    eprintln!("instructions, {name} ...");
    let mut counted = [0.0; 3];
    for (way, count) in [Way::Silent, Way::Published, Way::Profiled].into_iter().zip(&mut counted) {
        *count = instructions_of(ways, way, load)?;
    }
    let [silent, published, profiled] = counted;
    let row = |what: &str, value, bound| Row {
        what: format!("{what}: {name}"),
        how: "instructions",
        value,
        error: 0.0,
        bound,
    };
    Ok([
        row("publishing", published / silent - 1.0, Some(PUBLISHING)),
        row("profiling", profiled / published - 1.0, None),
    ])
}

fn instructions_of(ways: &Ways<'_>, way: Way, load: &[&str]) -> Outcome<f64> {
    let arguments = [&["overhead-load"], load].concat();
    let valgrind = ways.command(way, &["valgrind"]);
    Ok(callgrind::count_by(valgrind, "*overhead*allocate_and_free*", &arguments)? as f64)
}

/// Processor time of the command itself while it watches a program: what a long run takes more than
/// a short one, so that its start and the writing of the report do not count.
fn sampling(ways: &Ways<'_>, seconds: u64) -> Outcome<Row> {
    const SHORT: u64 = 5;
    eprintln!("sampling ...");
    let this = std::env::current_exe()?;
    let this = this.to_str().ok_or("the path of this program is not text")?;
    let own = |seconds: u64| -> Outcome<f64> {
        let words = [this, "overhead-load", &format!("--seconds={seconds}")];
        let all = measure::run(&mut ways.command(Way::Published, &words))?;
        Ok(all.cpu.as_secs_f64() - ways.program_time()?)
    };
    let (short, long) = (own(SHORT)?, own(SHORT + seconds)?);
    Ok(Row {
        what: "sampling from outside".into(),
        how: "share of one processor",
        value: (long - short) / seconds as f64,
        error: 0.0,
        bound: Some(SAMPLING),
    })
}

/// Processor time of a real program: its own while it publishes; with a profile also the command's.
fn real(ways: &Ways<'_>, program: &Program, runs: usize) -> Outcome<[Row; 2]> {
    eprintln!("{} ...", program.name);
    let words: Vec<&str> = program.command.split_whitespace().collect();
    let (mut publishing, mut profiling) = (Vec::new(), Vec::new());
    // One round to warm caches.
    for round in 0..=runs {
        let time = |way| -> Outcome<f64> {
            Ok(measure::run(&mut ways.command(way, &words))?.cpu.as_secs_f64())
        };
        let mut order = [Way::Silent, Way::Published, Way::Profiled];
        // What comes first finds the machine in another state.
        order.rotate_left(round % 3);
        let (mut silent, mut all, mut own, mut profiled) = (0.0, 0.0, 0.0, 0.0);
        for way in order {
            match way {
                Way::Silent => silent = time(way)?,
                Way::Published => (all, own) = (time(way)?, ways.program_time()?),
                Way::Profiled => profiled = time(way)?,
            }
        }
        if round > 0 {
            publishing.push(own / silent - 1.0);
            profiling.push(profiled / all - 1.0);
        }
    }
    let row = |what: &str, costs: &[f64], bound| Row {
        what: format!("{what}: {}", program.name),
        how: "processor time",
        value: median(costs, |cost| *cost),
        error: error_of_median(costs),
        bound: Some(bound),
    };
    Ok([row("publishing", &publishing, PUBLISHING), row("profiling", &profiling, PROFILING)])
}

/// The standard error of a median, from the median of the distances to it, so that one run which
/// was disturbed does not count for all.
fn error_of_median(values: &[f64]) -> f64 {
    let middle = median(values, |value| *value);
    let distance = median(values, |value| (value - middle).abs());
    // Of a normal distribution: its deviation is 1.48 of those, and the error of a median 1.25 of
    // that of a mean.
    1.25 * 1.48 * distance / (values.len() as f64).sqrt()
}

/// The program that is measured.
pub fn load(load: &Load) -> Outcome<()> {
    let mut blocks = vec![std::ptr::null_mut(); 20_000];
    let mut random = Random(1);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(load.seconds) {
        allocate_and_free(&mut blocks, 200_000, || 16 + random.below(497));
        std::thread::sleep(Duration::from_millis(50));
    }
    match load.mixed {
        true => allocate_and_free(&mut blocks, load.operations, || random.size()),
        false => allocate_and_free(&mut blocks, load.operations, || 16 + random.below(497)),
    }
    Ok(())
}

/// Frees one block after the other and allocates another in its place; so often.
#[inline(never)]
fn allocate_and_free(
    blocks: &mut [*mut libc::c_void],
    operations: u64,
    mut size: impl FnMut() -> usize,
) {
    for place in (0..blocks.len()).cycle().take(operations as usize) {
        // SAFETY: what is freed was allocated here, or is null.
        unsafe {
            libc::free(blocks[place]);
            blocks[place] = black_box(libc::malloc(size()));
        }
    }
}
