//! The `sysmem` command: runs any program on the sysmem allocator and shows where its memory went.

// A wrapper must hand its program the world as it found it. The start-up code of std opens
// /dev/null where a standard descriptor is closed and ignores SIGPIPE; so std's `main` is not used.
#![cfg_attr(not(test), no_main)]

mod elf;
mod figures;
mod library;
mod map;
mod measured;
mod openmetrics;
mod page;
mod picture;
mod preloadable;
mod probe;
mod profile;
mod refusal;
mod report;
mod run;
mod sample;
mod signals;
mod stat;
mod text;
mod timeline;
mod watch;
mod words;

use clap::{Args, Parser, Subcommand};
use refusal::{OWN_FAILURE, Refusal};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::exit;
use watch::End;

/// Run any program on the sysmem allocator and see where its memory went.
#[derive(Parser)]
#[command(name = "sysmem", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(RunArguments),
    Stat(StatArguments),
    Map(MapArguments),
    Probe(ProbeArguments),
}

/// Run a program on the sysmem allocator and report on its memory when it ends.
///
/// The program runs unmodified, with the allocator preloaded in place of the C library's. Its
/// standard input and output, its exit status and the signals sent to it are its own. When it ends,
/// a report goes to standard error.
///
/// Exit status: the program's own; if a signal killed the program, the command dies of the same
/// signal; 125 if the command itself failed, 126 if the program was found and cannot be run on the
/// allocator (not executable, statically linked, setuid, made for another machine), 127 if it was
/// not found.
#[derive(Args)]
struct RunArguments {
    /// Also write the report as JSON to FILE (described in docs/json.md).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Also write the report as a page to look at in a browser to FILE (described in
    /// docs/report.md).
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// Also write a profile of who holds the memory to FILE: folded stacks where its name ends in
    /// .folded, else in the format of pprof (described in docs/profile.md). May be given twice.
    #[arg(long, value_name = "FILE")]
    profile: Vec<PathBuf>,

    /// The mean number of bytes from one sampled allocation to the next, with K or M for KiB or MiB
    /// [default: 512K, and more while there would be over 500 samples a second].
    #[arg(long, value_name = "BYTES", value_parser = interval)]
    #[arg(requires = "profile")]
    profile_interval: Option<u64>,

    /// The allocator as a library to preload [default: looked for beside this command].
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,

    /// No report on standard error.
    #[arg(short, long)]
    quiet: bool,

    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true)]
    #[arg(value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Show what a process, its control group and the machine use.
///
/// Without a PID, the machine and the control group of the command itself.
///
/// Exit status: 0, also when the process ends under --watch; 1 if there is no such process or its
/// figures cannot be read.
#[derive(Args)]
struct StatArguments {
    /// The process.
    #[arg(value_parser = process)]
    pid: Option<u32>,

    /// As one JSON object (described in docs/stat.md).
    #[arg(long)]
    json: bool,

    /// In the OpenMetrics text format, for a monitoring system to collect.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    openmetrics: bool,

    /// Again every so many seconds, until the process ends.
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    #[arg(value_parser = seconds, require_equals = true)]
    watch: Option<std::time::Duration>,
}

/// Show what the address space of a process is made of, largest first.
///
/// Exit status: 0; 1 if there is no such process or this user may not look at it.
#[derive(Args)]
struct MapArguments {
    /// The process.
    #[arg(value_parser = process)]
    pid: u32,

    /// As one JSON object (described in docs/stat.md).
    #[arg(long)]
    json: bool,

    /// Draw the page heap by huge page to FILE instead; for programs that `sysmem run` started.
    #[arg(long, value_name = "FILE.svg", conflicts_with = "json")]
    picture: Option<PathBuf>,
}

/// Perform every operation of the memory layer on this system and say which promises the kernel
/// kept.
///
/// Exit status: 0 if every promise was kept, 1 if one was broken.
#[derive(Args)]
struct ProbeArguments {
    /// As JSON, an object a line.
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=86_400.0).contains(seconds));
    seconds
        .map(std::time::Duration::from_secs_f64)
        .ok_or_else(|| "give a number of seconds from 0.01 to 86400".to_owned())
}

/// The number of a process.
fn process(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=i32::MAX as u32).contains(number));
    number.ok_or_else(|| "give the number of a process, as ps and pgrep tell it".to_owned())
}

/// A number of bytes from 1 to 2^40, with K, M or G for powers of 1024.
fn interval(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| (1..=1 << 40).contains(bytes))
        .ok_or_else(|| "give a number of bytes, as 65536, 512K or 4M".to_owned())
}

/// Where the C library starts the command.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(_count: libc::c_int, _arguments: *const *const libc::c_char) -> libc::c_int {
    command()
}

#[cfg_attr(test, allow(dead_code))]
fn command() -> i32 {
    run::hold_standard_descriptors();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            // Help and version are answers; they go to standard output.
            let status = if message.use_stderr() { OWN_FAILURE } else { 0 };
            let _ = message.print();
            exit(status);
        }
    };
    let end = match &arguments.command {
        Command::Run(run) => run::run(run),
        Command::Stat(stat) => stat::stat(stat).map(|()| End::Exited { status: 0 }),
        Command::Map(map) => map::map(map).map(|()| End::Exited { status: 0 }),
        Command::Probe(arguments) => Ok(End::Exited { status: probe::probe(arguments.json) }),
    };
    match end {
        Ok(End::Exited { status }) => status,
        Ok(End::Killed { signal, .. }) => signals::die_of(signal),
        Err(Refusal { status, reason }) => {
            // Nobody may be there to read it; the status says it too.
            let _ = writeln!(std::io::stderr(), "sysmem: {reason}");
            status
        }
    }
}
