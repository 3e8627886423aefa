//! Runs the program: prepares what it inherits, starts it, watches it to its end.

use crate::RunArguments;
use crate::figures::FiguresFile;
use crate::library::Library;
use crate::page;
use crate::preloadable;
use crate::profile::Profiler;
use crate::refusal::{Refusal, cannot_write, why};
use crate::report::{Published, Report};
use crate::sample::{Sampled, Sampler};
use crate::signals::{self, Signals};
use crate::text;
use libc::c_int;
use rustix::process::Pid;
use serde::Serialize;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use sysmem_alloc::figures::VARIABLE;
use sysmem_alloc::samples;

/// How the program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum End {
    /// It exited with a status.
    Exited { status: i32 },
    /// A signal killed it.
    Killed { signal: i32, name: String },
}

/// What was seen of a program from its start to its end.
pub struct Watched {
    pub pid: Pid,
    pub end: End,
    pub wall: Duration,
    /// CPU time of the program and of the children that it waited for.
    pub user: Duration,
    pub system: Duration,
    pub sampled: Sampled,
}

/// Runs a program to its end and reports on it.
pub fn run(arguments: &RunArguments) -> Result<End, Refusal> {
    let search = std::env::var_os("PATH");
    let search = search.as_deref();
    let name = &arguments.program[0];
    let library = Library::find(arguments.library.as_deref())?;
    let path = preloadable::find(name, search)?;
    preloadable::check(&path, library.elf.target, search)?;
    distinct(arguments)?;
    // Made before the program runs, so that a wrong name does not cost a long run.
    let json = arguments.json.as_deref().map(create).transpose()?;
    let page = arguments.report.as_deref().map(create).transpose()?;
    let mut figures = FiguresFile::create().map_err(|error| {
        Refusal::own(format!("cannot make the file for figures: {}", why(&error)))
    })?;

    let mut profiler = match &arguments.profile[..] {
        [] => None,
        out => Some(Profiler::create(arguments.profile_interval, out, &library.path)?),
    };

    let signals = Signals::hold();
    let began_ns = monotonic_ns();
    let began = Instant::now();
    let program = start(&path, arguments, &library, &figures, profiler.as_ref(), &signals)?;
    let courses = json.is_some() || page.is_some();
    let sampler = Sampler::new(program, began, courses);
    let watched = watch(program, sampler, &signals, &mut figures, &mut profiler)?;
    let (images, turned_away) = (figures.images(), figures.turned_away());
    let profiled = profiler.map(|profiler| profiler.finish(&images, watched.wall));
    let published = Published { images, turned_away, began_ns };
    let mut report = Report::new(arguments, &path, &library.path, watched, published);
    report.notes.extend(profiled.unwrap_or_default());
    if !arguments.quiet {
        // The program's status matters more than whether anyone reads this.
        let _ = io::stderr().write_all(text::render(&report, text::Style::of_stderr()).as_bytes());
    }
    if let Some((file, path)) = json {
        let text = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
        write_out(file, path, text.as_bytes());
    }
    if let Some((file, path)) = page {
        write_out(file, path, page::render(&report).as_bytes());
    }
    Ok(report.end)
}

/// Opens /dev/null for each standard descriptor that is closed, to be closed again at exec: so no
/// file of the command's can take its place, and the program finds it closed as it was.
pub fn hold_standard_descriptors() {
    for descriptor in 0..3 {
        // SAFETY: the calls take numbers and a C string.
        unsafe {
            if libc::fcntl(descriptor, libc::F_GETFD) == -1 {
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            }
        }
    }
}

fn start(
    path: &Path,
    arguments: &RunArguments,
    library: &Library,
    figures: &FiguresFile,
    profiler: Option<&Profiler>,
    signals: &Signals,
) -> Result<Pid, Refusal> {
    let others = std::env::var_os("LD_PRELOAD");
    let mut command = Command::new(path);
    command
        .arg0(&arguments.program[0])
        .args(&arguments.program[1..])
        .env("LD_PRELOAD", library.preload_before(others.as_deref()))
        .env(OsStr::from_bytes(VARIABLE.to_bytes()), figures.path());
    // One of another run around this one would lead to the samples of that run.
    let samples = OsStr::from_bytes(samples::VARIABLE.to_bytes());
    match profiler {
        Some(profiler) => command.env(samples, profiler.path()),
        None => command.env_remove(samples),
    };
    let (own, inherited) = (rustix::process::getpid(), signals.inherited);
    // SAFETY: between fork and exec only async-signal-safe calls are made, on copies.
    unsafe {
        command.pre_exec(move || {
            inherited.restore();
            signals::die_with_parent(own)
        });
    }
    let child = command.spawn().map_err(|error| {
        let reason = format!("cannot run {}: {}", path.display(), why(&error));
        match error.kind() {
            io::ErrorKind::NotFound => Refusal::not_found(reason),
            _ => Refusal::cannot_run(reason),
        }
    })?;
    Pid::from_raw(child.id() as c_int)
        .ok_or_else(|| Refusal::own("the system gave the program no process number".to_owned()))
}

/// Waits until the program ends; meanwhile passes signals on, follows its stops, takes samples.
fn watch(
    program: Pid,
    mut sampler: Sampler,
    signals: &Signals,
    figures: &mut FiguresFile,
    profiler: &mut Option<Profiler>,
) -> Result<Watched, Refusal> {
    let mut next_sample = Instant::now() + sampler.interval();
    let mut stopped = false;
    loop {
        let mut wait = next_sample.saturating_duration_since(Instant::now());
        if let Some(profiler) = profiler {
            wait = wait.min(profiler.pause);
        }
        let taken = signals.take(wait);
        while let Some(change) = next_change() {
            let change = change.map_err(|error| {
                Refusal::own(format!("lost the program while waiting for it: {}", why(&error)))
            })?;
            // Other children are orphans that came to this command as process 1 of a container, or
            // children of the shell that it replaced.
            if change.pid != program.as_raw_nonzero().get() {
                continue;
            }
            match change.what {
                What::Stopped(signal) => {
                    stopped = true;
                    signals.stop_as(signal);
                }
                What::Continued => stopped = false,
                What::Ended(end) => {
                    let wall = sampler.began.elapsed();
                    let (user, system) = (change.user, change.system);
                    let sampled = sampler.sampled;
                    return Ok(Watched { pid: program, end, wall, user, system, sampled });
                }
            }
        }
        if let Some(taken) = taken {
            let wakes = stopped && taken.number() == libc::SIGCONT;
            if wakes || taken.is_for_program(program) {
                taken.send_to(program);
            }
        }
        if let Some(profiler) = profiler {
            profiler.collect();
        }
        if Instant::now() >= next_sample {
            sampler.take(figures);
            figures.collect();
            next_sample = Instant::now() + sampler.interval();
        }
    }
}

/// A child that stopped, went on or ended.
struct Change {
    pid: c_int,
    what: What,
    user: Duration,
    system: Duration,
}

enum What {
    Stopped(c_int),
    Continued,
    Ended(End),
}

/// The next change of a child that has not been told yet.
fn next_change() -> Option<io::Result<Change>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let options = libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED;
    // SAFETY: the pointers lead to whole values.
    let pid = unsafe { libc::wait4(-1, &mut status, options, usage.as_mut_ptr()) };
    // SAFETY: plain data for which zeros are valid too.
    let usage = unsafe { usage.assume_init() };
    let what = match pid {
        0 => return None,
        -1 => return Some(Err(io::Error::last_os_error())),
        _ if libc::WIFSTOPPED(status) => What::Stopped(libc::WSTOPSIG(status)),
        _ if libc::WIFCONTINUED(status) => What::Continued,
        _ if libc::WIFSIGNALED(status) => {
            let signal = libc::WTERMSIG(status);
            What::Ended(End::Killed { signal, name: signals::name(signal) })
        }
        _ => What::Ended(End::Exited { status: libc::WEXITSTATUS(status) }),
    };
    let (user, system) = (duration(usage.ru_utime), duration(usage.ru_stime));
    Some(Ok(Change { pid, what, user, system }))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

/// The time by the clock that programs stamp their figures with.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Refuses a file that is named twice: what is written first would be lost.
fn distinct(arguments: &RunArguments) -> Result<(), Refusal> {
    let RunArguments { json, report, profile, .. } = arguments;
    let files: Vec<&PathBuf> = json.iter().chain(report).chain(profile).collect();
    let twice = (1..files.len()).find(|&place| files[..place].contains(&files[place]));
    twice.map_or(Ok(()), |place| {
        let name = files[place].display();
        Err(Refusal::own(format!("two things are to be written to {name}: give each a name")))
    })
}

fn create(path: &Path) -> Result<(File, &Path), Refusal> {
    match File::create(path) {
        Ok(file) => Ok((file, path)),
        Err(error) => Err(Refusal::own(cannot_write("the report", path, &error))),
    }
}

/// A report that was asked for and could not be written is not worth the program's status.
fn write_out(mut file: File, path: &Path, text: &[u8]) {
    if let Err(error) = file.write_all(text) {
        let _ = writeln!(io::stderr(), "sysmem: {}", cannot_write("the report", path, &error));
    }
}
