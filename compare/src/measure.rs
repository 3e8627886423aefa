//! One run of a command: how long it took and what it used; what many runs say.

use std::alloc::Layout;
use std::error::Error;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What one run used.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub wall: Duration,
    /// User and system time of the command and the descendants it waited for.
    pub cpu: Duration,
    /// The largest resident set of any one process of them, in bytes.
    ///
    /// From wait4(2), where a process begins with what its launcher had: nothing smaller than
    /// this program can be told, which is a few MiB.
    pub peak: u64,
}

/// Runs a command to its end, its output thrown away. A status other than success is an error.
pub fn run(command: &mut Command) -> io::Result<Run> {
    let begin = Instant::now();
    let child = start(command)?;
    end(command, child, begin)
}

/// Runs commands at the same time and on one processor, which gives each its turn every few
/// milliseconds: so what slows the machine slows all of them alike, and their CPU times can be
/// compared to some thousandths however busy it is.
pub fn run_side_by_side(commands: &mut [Command]) -> io::Result<Vec<Run>> {
    let begin = Instant::now();
    let processor = any_processor()?;
    for command in &mut *commands {
        // SAFETY: between fork and exec one system call is made, on a copy.
        unsafe { command.pre_exec(move || keep_to(&processor)) };
    }
    let children: Vec<Child> = commands.iter_mut().map(start).collect::<io::Result<_>>()?;
    // All are waited for, also where one failed.
    let runs: Vec<io::Result<Run>> =
        commands.iter().zip(children).map(|(command, child)| end(command, child, begin)).collect();
    runs.into_iter().collect()
}

/// One of the processors that this process may use.
fn any_processor() -> io::Result<libc::cpu_set_t> {
    // SAFETY: all zeros are the empty set, sets are as long as said, and numbers are within them.
    unsafe {
        let (mut all, mut one): (libc::cpu_set_t, libc::cpu_set_t) = (mem::zeroed(), mem::zeroed());
        if libc::sched_getaffinity(0, size_of_val(&all), &mut all) != 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(number) = (0..libc::CPU_SETSIZE as usize).find(|&n| libc::CPU_ISSET(n, &all)) {
            libc::CPU_SET(number, &mut one);
        }
        Ok(one)
    }
}

fn keep_to(processors: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the set is as long as said.
    match unsafe { libc::sched_setaffinity(0, size_of_val(processors), processors) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn start(command: &mut Command) -> io::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()
}

fn end(command: &Command, child: Child, begin: Instant) -> io::Result<Run> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let pid = child.id() as libc::pid_t;
    // SAFETY: waits for the child just made; both places may be written to.
    if unsafe { libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()) } != pid {
        return Err(io::Error::last_os_error());
    }
    let wall = begin.elapsed();
    // SAFETY: wait4 filled it in, and all zeros are a valid one.
    let usage = unsafe { usage.assume_init() };
    if status != 0 {
        return Err(io::Error::other(format!("{command:?} ended with wait status {status:#x}")));
    }
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ok(Run {
        wall,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        peak: usage.ru_maxrss as u64 * 1024,
    })
}

/// The figures that a load printed.
pub fn figures<const N: usize>(said: &str) -> Result<[f64; N], Box<dyn Error>> {
    let figures: Result<Vec<f64>, _> = said.split_whitespace().map(str::parse).collect();
    figures?.try_into().map_err(|_| format!("the load said {said:?}, not {N} figures").into())
}

/// What this process has used so far, or with `RUSAGE_THREAD` this thread.
pub fn usage(of: libc::c_int) -> libc::rusage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: room for the answer, of which all zeros is a valid one.
    unsafe {
        libc::getrusage(of, usage.as_mut_ptr());
        usage.assume_init()
    }
}

/// The median of what `of` says of each run.
pub fn median<T>(runs: &[T], of: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// Prints what is worse than it may be, which is an error if the figures are being checked.
pub fn verdict(check: bool, worse: &[String], good: &str) -> Result<(), Box<dyn Error>> {
    match worse {
        [] => println!("{good}"),
        worse if check => return Err(worse.join("; ").into()),
        worse => println!("{}", worse.join("\n")),
    }
    Ok(())
}

/// How loads ask for memory.
pub fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a small size")
}

/// xorshift64*: fast, the same on every run.
pub struct Random(pub u64);

impl Random {
    /// A number of 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() >> 33) as usize % end
    }

    /// Of 16 sizes 13 are 16 to 512 bytes, two up to 4 KiB, one up to 64 KiB.
    pub fn size(&mut self) -> usize {
        let (least, most) = match self.below(16) {
            0..13 => (16, 512),
            13..15 => (512, 4 << 10),
            _ => (4 << 10, 64 << 10),
        };
        least + self.below(most - least + 1)
    }
}

/// Whether `--only` leaves this one in.
pub fn is_wanted(only: &Option<String>, name: &str) -> bool {
    only.as_ref().is_none_or(|only| name.contains(only.as_str()))
}

/// CPU time of the process in nanoseconds.
pub fn cpu_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` may be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
