//! Runs the program: prepares what it inherits, starts it, has it watched, reports on it.

use crate::RunArguments;
use crate::figures::{FiguresFile, monotonic_ns};
use crate::library::Library;
use crate::page;
use crate::preloadable;
use crate::profile::Profiler;
use crate::refusal::{Refusal, cannot_write, why};
use crate::report::{Published, Report};
use crate::sample::Sampler;
use crate::signals::{self, Signals};
use crate::text;
use crate::watch::{End, watch};
use libc::c_int;
use rustix::process::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use sysmem_alloc::figures::VARIABLE;
use sysmem_alloc::samples;

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
