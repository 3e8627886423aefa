//! Watches the program to its end: passes signals on, follows its stops, takes samples.

use crate::figures::FiguresFile;
use crate::profile::Profiler;
use crate::refusal::{Refusal, why};
use crate::sample::{Sampled, Sampler};
use crate::signals::{self, Signals};
use libc::c_int;
use rustix::process::Pid;
use serde::Serialize;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// How the program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum End {
    /// It exited with a status.
    Exited { status: i32 },
    /// A signal killed it.
    Killed { signal: i32, name: String },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited { status } => write!(f, "exited with status {status}"),
            End::Killed { signal, name } => write!(f, "killed by {name} (signal {signal})"),
        }
    }
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

/// Waits until the program ends.
pub fn watch(
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
