//! Samples what the kernel and the allocator say while the program runs.
//!
//! One `/proc/<pid>/status` ten times a second, some 15 µs each: for a program that is killed, ends
//! without its exit handlers or publishes nothing, it is all there is. More often at the beginning,
//! so that a short run has a course too.
//!
//! For a report to look at, also `/proc/<pid>/statm` of every process of the run, and rarely the
//! whole address space of the program.

use crate::figures::FiguresFile;
use crate::map::{self, Group, Map, Sizes};
use crate::timeline::{Point, Timeline};
use rustix::process::Pid;
use serde::Serialize;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use sysmem_alloc::figures::{HeapFigures, KernelFigures};

/// The time from one sample to the next.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// The time from one sample to the next at the beginning, when courses are wanted.
const FIRST_INTERVAL: Duration = Duration::from_millis(1);

/// A sample comes when the run is longer by this part: a run of any length has some two hundred.
const GROWTH: u32 = 40;

/// The address space is looked at once a second at most, unless the program grows.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_SPACE_INTERVAL: Duration = Duration::from_millis(20);

/// Looking at a large address space takes milliseconds: at most one part of the time in so many, and
/// three while the program grows.
const SPACE_SHARE: u32 = 100;

/// How many processes are sampled at once.
const PROCESSES: usize = 64;

/// What was seen of the program from outside.
#[derive(Default)]
pub struct Sampled {
    /// How many samples were taken.
    pub count: u64,
    /// The greatest peak of resident memory in any sample; the kernel's own peak begins anew with
    /// each exec.
    pub peak_resident_bytes: u64,
    /// The latest sample.
    pub last: KernelFigures,
    /// The course of each process, by its number and the time when it began.
    pub courses: HashMap<(u64, u64), Timeline>,
    /// The course of the program before it published anything, or if it never does.
    pub program: Timeline,
    /// The program's address space when it was largest, and when it was last looked at.
    pub space_at_peak: Option<Space>,
    pub space_at_end: Option<Space>,
}

/// The address space at one moment.
#[derive(Clone, Serialize)]
pub struct Space {
    /// Since the start of the run.
    pub time_ns: u64,
    pub total: Sizes,
    /// Largest first.
    pub groups: Vec<Group>,
}

/// Takes samples of one run.
pub struct Sampler {
    pid: u64,
    /// When the run began.
    pub began: Instant,
    status: Option<File>,
    courses: Option<Courses>,
    pub sampled: Sampled,
}

/// What is needed to follow courses.
#[derive(Default)]
struct Courses {
    /// `/proc/<pid>/statm` of each process, or none where that is another one.
    processes: HashMap<(u64, u64), Option<File>>,
    next_space: Duration,
    next_space_if_grown: Duration,
    resident_at_peak: u64,
}

impl Sampler {
    pub fn new(process: Pid, began: Instant, courses: bool) -> Self {
        let pid = process.as_raw_nonzero();
        Self {
            pid: pid.get() as u64,
            began,
            status: File::open(format!("/proc/{pid}/status")).ok(),
            courses: courses.then(Courses::default),
            sampled: Sampled::default(),
        }
    }

    /// How long to wait for the next sample.
    pub fn interval(&self) -> Duration {
        match self.courses {
            Some(_) => (self.began.elapsed() / GROWTH).clamp(FIRST_INTERVAL, INTERVAL),
            None => INTERVAL,
        }
    }

    /// Takes one sample; does nothing when the process has no memory any more.
    pub fn take(&mut self, figures: &FiguresFile) {
        let Some(status) = &self.status else { return };
        let mut buffer = [0; 4096];
        let Ok(length) = status.read_at(&mut buffer, 0) else { return };
        let mut now = KernelFigures::default();
        now.read_status(&buffer[..length]);
        if now.peak_resident_bytes > 0 {
            let sampled = &mut self.sampled;
            sampled.count += 1;
            sampled.peak_resident_bytes = sampled.peak_resident_bytes.max(now.peak_resident_bytes);
            sampled.last = now;
        }
        if self.courses.is_some() {
            self.follow(figures, now.resident_bytes);
        }
    }

    fn follow(&mut self, figures: &FiguresFile, resident: u64) {
        let Some(courses) = &mut self.courses else { return };
        let now = self.began.elapsed();
        // Of the images of a process, only the latest speaks.
        let mut latest: HashMap<(u64, u64), (u64, HeapFigures)> = HashMap::new();
        for glance in figures.glances().filter(|glance| glance.live) {
            let entry = latest.entry((glance.pid, glance.process_began_ticks)).or_default();
            if glance.began_ns >= entry.0 {
                *entry = (glance.began_ns, glance.heap);
            }
        }
        courses.processes.retain(|process, _| latest.contains_key(process));
        let mut seen = false;
        for (process, (_, heap)) in latest {
            let is_program = process.0 == self.pid;
            let resident = match is_program {
                true => resident,
                false => courses.resident(process),
            };
            if resident == 0 {
                continue;
            }
            seen |= is_program;
            let point = point(now, resident, &heap);
            let course = self.sampled.courses.entry(process);
            course.or_insert_with(|| Timeline::of_at_most(most(is_program))).push(point);
        }
        if resident == 0 {
            return;
        }
        if !seen {
            self.sampled.program.push(point(now, resident, &HeapFigures::default()));
        }
        let grown = resident > courses.resident_at_peak + courses.resident_at_peak / 8;
        if now >= courses.next_space || grown && now >= courses.next_space_if_grown {
            let looked = Instant::now();
            let Ok(map) = map::look(self.pid as u32) else { return };
            let pause = looked.elapsed() * SPACE_SHARE;
            let least = (now / 8).clamp(FIRST_SPACE_INTERVAL, SPACE_INTERVAL);
            courses.next_space = now + pause.max(least);
            courses.next_space_if_grown = now + pause / 3;
            let Map { total, groups, .. } = map;
            let space = Space { time_ns: now.as_nanos() as u64, total, groups };
            let resident = space.total.resident_bytes;
            if resident > courses.resident_at_peak {
                courses.resident_at_peak = resident;
                self.sampled.space_at_peak = Some(space.clone());
            }
            self.sampled.space_at_end = Some(space);
        }
    }
}

/// How many points of a course are kept: of the program, more than a page has pixels for.
fn most(is_program: bool) -> usize {
    if is_program { 1200 } else { 240 }
}

fn point(now: Duration, resident_bytes: u64, heap: &HeapFigures) -> Point {
    Point {
        time_ns: now.as_nanos() as u64,
        resident_bytes,
        in_use_bytes: heap.in_use_bytes,
        free_bytes: heap.free_bytes,
        given_back_bytes: heap.given_back_bytes,
    }
}

impl Courses {
    /// The resident memory of a process; 0 where it cannot be read.
    fn resident(&mut self, process: (u64, u64)) -> u64 {
        let room = self.processes.len() < PROCESSES;
        let file = self.processes.entry(process).or_insert_with(|| {
            // A process in a container has another number here: that of nobody, or of a stranger.
            let ours = room && ticks(process.0) == Some(process.1);
            ours.then(|| File::open(format!("/proc/{}/statm", process.0)).ok()).flatten()
        });
        let mut buffer = [0; 128];
        let Some(length) = file.as_ref().and_then(|file| file.read_at(&mut buffer, 0).ok()) else {
            return 0;
        };
        let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
        let pages: u64 =
            text.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or_default();
        pages * sysmem::page_size() as u64
    }
}

/// When a process began, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
fn ticks(pid: u64) -> Option<u64> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let behind_name = text.rsplit(|&byte| byte == b')').next()?;
    let field = behind_name.split(|&byte| byte == b' ').nth(20)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_sampled_until_it_has_no_memory() {
        let figures = FiguresFile::create().unwrap();
        // It has answered: it is the program, not the child that is about to become it.
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let mut sampler = Sampler::new(pid, Instant::now(), true);
        sampler.take(&figures);
        assert_eq!(sampler.sampled.count, 1);
        let peak = sampler.sampled.peak_resident_bytes;
        assert!(peak >= sampler.sampled.last.resident_bytes && peak > 0);
        assert_eq!(sampler.sampled.program.points.len(), 1);
        let space = sampler.sampled.space_at_peak.as_ref().expect("its address space");
        assert!(space.total.resident_bytes > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        sampler.take(&figures);
        assert_eq!(sampler.sampled.count, 1);
        assert_eq!(sampler.sampled.peak_resident_bytes, peak);
        assert_eq!(sampler.sampled.program.points.len(), 1);
    }

    #[test]
    fn samples_are_close_at_the_beginning_and_ten_a_second_later() {
        let pid = rustix::process::getpid();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        assert!(Sampler::new(pid, Instant::now(), true).interval() < Duration::from_millis(20));
        assert_eq!(Sampler::new(pid, long_ago, true).interval(), INTERVAL);
        assert_eq!(Sampler::new(pid, Instant::now(), false).interval(), INTERVAL);
    }
}
