//! What looking costs: publishing statistics, sampling from outside, profiling.
//!
//! In processor time, of programs that run side by side in all ways (`measure::run_side_by_side`), with
//! its uncertainty; `--check` fails where an aim lies below all that chance explains. What goes by the
//! clock, as publishing and the command's looks, counts three times there, because three programs share
//! one processor: the figures are bounds from above.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{self, Random, median, verdict};
use crate::programs;
use crate::{allocators, table};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(clap::Args)]
pub struct Options {
    /// How often each program runs in each way.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long a program is watched, in seconds.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Only the programs whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Fail if a figure misses its aim.
    #[arg(long)]
    check: bool,
}

/// What publishing may cost, of the time or the instructions without it.
const PUBLISHING: f64 = 0.01;
/// What sampling from outside may take of one processor.
const SAMPLING: f64 = 0.01;
/// What a profile may cost, of the time without one.
const PROFILING: f64 = 0.02;

/// Loops that do nothing but allocate and free.
const LOOPS: [(&str, &[&str]); 2] = [
    ("small blocks", &["--operations=100000000"]),
    ("blocks of all sizes", &["--operations=40000000", "--mixed"]),
];

/// The real programs.
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
    aim: f64,
}

impl Row {
    /// Whether chance explains all that the figure is above its aim.
    fn is_met(&self) -> bool {
        self.value - 2.0 * self.error <= self.aim
    }
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
            let met = if row.is_met() { "met" } else { "missed" };
            let figures = [percent(row.value), error, percent(row.aim), met.into()];
            [vec![row.what.clone(), row.how.into()], figures.into()].concat()
        })
        .collect();
    table::print(&["", "counted as", "costs", "give or take", "aim", ""], &cells);
    let missed: Vec<String> = rows
        .iter()
        .filter(|row| !row.is_met())
        .map(|row| format!("{}: {}, not {}", row.what, percent(row.value), percent(row.aim)))
        .collect();
    println!();
    verdict(options.check, &missed, "All aims are met.")
}

fn measure_all(options: &Options, folder: &Path) -> Outcome<Vec<Row>> {
    let ways = Ways::new(folder)?;
    let mut rows = Vec::new();
    let wanted = |name: &str| measure::is_wanted(&options.only, name);
    if wanted("sampling") {
        rows.push(sampling(&ways, options.seconds)?);
    }
    let this = std::env::current_exe()?;
    let this = this.to_str().ok_or("the path of this program is not text")?;
    for (name, load) in LOOPS.iter().filter(|(name, _)| wanted(name)) {
        let words = [&[this, "overhead-load"], *load].concat();
        rows.extend(side_by_side(&ways, name, &words, options.runs)?);
    }
    for program in programs::all().iter().filter(|program| {
        PROGRAMS.iter().any(|name| program.name.starts_with(name)) && wanted(program.name)
    }) {
        // In a folder for each way, because all write what they make at once.
        let mut prepared = true;
        for way in Way::ALL {
            prepared = prepared && program.prepare(&ways.folder(way)?)?;
        }
        if prepared {
            let words: Vec<&str> = program.command.split_whitespace().collect();
            rows.extend(side_by_side(&ways, program.name, &words, options.runs)?);
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
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Silent,
    Published,
    Profiled,
}

impl Way {
    const ALL: [Way; 3] = [Way::Silent, Way::Published, Way::Profiled];
}

impl<'a> Ways<'a> {
    fn new(folder: &'a Path) -> Outcome<Ways<'a>> {
        let mut ways =
            Ways { sysmem: allocators::sysmem()?, preload_library: PathBuf::new(), folder };
        measure::run(&mut ways.command(Way::Published, &["true"])?)?;
        let report = ways.report(Way::Published)?;
        ways.preload_library = report["library"].as_str().ok_or("no library in the report")?.into();
        Ok(ways)
    }

    /// What is run in some way works in a folder of its own.
    fn folder(&self, way: Way) -> Outcome<PathBuf> {
        let folder = self.folder.join(format!("{way:?}"));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn command(&self, way: Way, words: &[&str]) -> Outcome<Command> {
        let folder = self.folder(way)?;
        let mut command = match way {
            Way::Silent => {
                let mut command = Command::new(words[0]);
                command.env("LD_PRELOAD", &self.preload_library);
                command
            }
            Way::Published | Way::Profiled => {
                let mut command = Command::new(&self.sysmem);
                command.args(["run", "--quiet", "--json", "figures.json"]);
                if way == Way::Profiled {
                    command.args(["--profile", "profile.pb.gz"]);
                }
                command.arg("--").arg(words[0]);
                command
            }
        };
        command.args(&words[1..]).current_dir(folder).stdin(Stdio::null());
        command.stderr(Stdio::null());
        Ok(command)
    }

    /// The report of the last run in some way.
    fn report(&self, way: Way) -> Outcome<serde_json::Value> {
        Ok(serde_json::from_slice(&fs::read(self.folder(way)?.join("figures.json"))?)?)
    }

    /// Processor time of the program itself in that run, in seconds.
    fn program_time(&self, way: Way) -> Outcome<f64> {
        let time = &self.report(way)?["time"];
        let of = |name: &str| time[name].as_f64().ok_or("no time in the report");
        Ok((of("user_ns")? + of("system_ns")?) / 1e9)
    }
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
        let all = measure::run(&mut ways.command(Way::Published, &words)?)?;
        Ok(all.cpu.as_secs_f64() - ways.program_time(Way::Published)?)
    };
    let (short, long) = (own(SHORT)?, own(SHORT + seconds)?);
    Ok(Row {
        what: "sampling from outside".into(),
        how: "share of one processor",
        value: (long - short) / seconds as f64,
        error: 0.0,
        aim: SAMPLING,
    })
}

/// What publishing takes of a program's own processor time; and a profile of its time and the
/// command's, which walks the stacks and reads the names.
fn side_by_side(ways: &Ways<'_>, name: &str, words: &[&str], runs: usize) -> Outcome<[Row; 2]> {
    eprintln!("side by side, {name} ...");
    let (mut publishing, mut profiling) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let mut commands =
            Way::ALL.iter().map(|&way| ways.command(way, words)).collect::<Outcome<Vec<_>>>()?;
        let runs = measure::run_side_by_side(&mut commands)?;
        let [silent, published, profiled] = [0, 1, 2].map(|way: usize| runs[way].cpu.as_secs_f64());
        publishing.push(ways.program_time(Way::Published)? / silent - 1.0);
        profiling.push(profiled / published - 1.0);
    }
    let row = |what: &str, costs: &[f64], aim| Row {
        what: format!("{what}: {name}"),
        how: "processor time",
        value: median(costs, |cost| *cost),
        error: error_of_median(costs),
        aim,
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
