//! A soft limit on memory: how long the resident set stays above it under a load that churns.
//!
//! Two threads keep a constant number of live bytes, four fifths of the limit, and replace all of
//! them again and again. What is replaced is always the oldest, as in a cache or a server that
//! answers: a sixteenth at a time, in random order. One object of 512 lives three times as long and keeps
//! its neighbours' memory from being one piece. The sizes change from phase to phase, so that memory
//! that was cut for one size has to go back before it is cut for another, and once half of it is freed
//! and idle for a moment. Nothing in the load knows of the limit. The resident set is read from
//! outside.

use std::alloc::{GlobalAlloc, System};
use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{ptr, thread};

use crate::allocators::{self, How};
use crate::measure::{self, Random, layout};
use crate::table;

#[derive(clap::Args)]
pub struct Options {
    /// The limit, in MiB.
    #[arg(long, default_value_t = 640)]
    mib: usize,
    /// Only the contestants whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

#[derive(clap::Args)]
pub struct Load {
    /// What lives, in bytes.
    live: usize,
}

const THREADS: usize = 2;

/// How often the resident set is read.
const SAMPLE_EVERY: Duration = Duration::from_millis(2);

/// The same load in Go, whose runtime has a soft limit.
const GO: &str = include_str!("limit/load.go");

struct Contestant {
    name: String,
    command: Command,
    limited: bool,
}

/// What was seen of one run.
#[derive(Default)]
struct Seen {
    peak: usize,
    /// The longest time above the limit without a sample below it, and all time above it.
    longest: Duration,
    above: Duration,
    /// The longest time between two samples.
    blind: Duration,
    wall: Duration,
}

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let limit = options.mib << 20;
    let live = limit / 5 * 4;
    let folder = std::env::temp_dir().join(format!("sysmem-limit-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = contestants(options, limit, live, &folder).and_then(|contestants| {
        let mut rows = Vec::new();
        for mut contestant in contestants {
            eprintln!("{} ...", contestant.name);
            let seen = watch(&mut contestant.command, limit)?;
            let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
            rows.push(vec![
                contestant.name,
                if contestant.limited { "soft" } else { "none" }.into(),
                format!("{:.0} MiB", seen.peak as f64 / (1 << 20) as f64),
                format!("{:.2}", seen.peak as f64 / limit as f64),
                ms(seen.longest),
                ms(seen.above),
                ms(seen.blind),
                format!("{:.1} s", seen.wall.as_secs_f64()),
            ]);
        }
        println!(
            "Two threads replace {} MiB of live memory six times; the limit is {} MiB. Resident set \
             read from outside every {} ms or so.\n",
            live >> 20,
            options.mib,
            SAMPLE_EVERY.as_millis()
        );
        let head =
            ["", "limit", "peak", "of limit", "longest above", "all above", "blind", "wall"];
        table::print(&head, &rows);
        Ok(())
    });
    fs::remove_dir_all(&folder)?;
    outcome
}

fn contestants(
    options: &Options,
    limit: usize,
    live: usize,
    folder: &Path,
) -> Result<Vec<Contestant>, Box<dyn Error>> {
    let mut all = Vec::new();
    for allocator in allocators::all()? {
        let limited = matches!(allocator.how, How::SysmemRun(_));
        let mut command = match &allocator.how {
            // The program itself has to be watched, not the command that runs it.
            How::SysmemRun(sysmem) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.env("LD_PRELOAD", allocators::library(sysmem));
                command.env("SYSMEM_MEMORY_LIMIT", limit.to_string());
                command
            }
            _ => allocator.command(std::env::current_exe()?, [""; 0]),
        };
        command.arg("limit-load").arg(live.to_string());
        let name = if limited { "sysmem".into() } else { allocator.name };
        all.push(Contestant { name, command, limited });
    }
    match build_go(folder) {
        Ok(program) => {
            let mut command = Command::new(program);
            command.arg(live.to_string()).env("GOMEMLIMIT", limit.to_string());
            all.push(Contestant { name: "Go".into(), command, limited: true });
        }
        Err(why) => eprintln!("Go: left out, {why}"),
    }
    all.retain(|it| measure::is_wanted(&options.only, &it.name));
    Ok(all)
}

fn build_go(folder: &Path) -> Result<PathBuf, String> {
    let (source, program) = (folder.join("load.go"), folder.join("load"));
    fs::write(&source, GO).map_err(|error| error.to_string())?;
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&program, &source])
        .env("GOCACHE", folder.join("cache"))
        .output()
        .map_err(|error| format!("go cannot be run: {error}"))?;
    match built.status.success() {
        true => Ok(program),
        false => Err(String::from_utf8_lossy(&built.stderr).trim().into()),
    }
}

/// Runs a load to its end and looks at its resident set.
fn watch(command: &mut Command, limit: usize) -> Result<Seen, Box<dyn Error>> {
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let statm = format!("/proc/{}/statm", child.id());
    let page_size = sysmem::page_size();
    let mut seen = Seen::default();
    let (mut last, mut since) = (begin, None);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let text = fs::read_to_string(&statm)?;
        let now = Instant::now();
        let pages = text.split(' ').nth(1).and_then(|field| field.parse::<usize>().ok());
        let resident = pages.unwrap_or(0) * page_size;
        seen.peak = seen.peak.max(resident);
        if resident > limit {
            let first: &mut Instant = since.get_or_insert(now);
            seen.longest = seen.longest.max(now - *first);
            seen.above += if *first == now { Duration::ZERO } else { now - last };
        } else {
            since = None;
        }
        seen.blind = seen.blind.max(now - last);
        last = now;
        thread::sleep(SAMPLE_EVERY);
    };
    seen.wall = begin.elapsed();
    match status.success() {
        true => Ok(seen),
        false => Err(format!("{command:?} ended with {status}").into()),
    }
}

/// The sizes of a phase, from and to.
const PHASES: [(usize, usize); 6] = [
    (16, 512),
    (512, 8 << 10),
    (16, 256),
    (8 << 10, 256 << 10),
    (16, 4 << 10),
    (4 << 10, 64 << 10),
];

/// Into how many steps the replacement of everything is divided.
const GENERATIONS: usize = 16;

/// One object of so many lives on for so many generations.
const ONE_SURVIVES_OF: usize = 512;
const SURVIVED_GENERATIONS: usize = 3 * GENERATIONS;

/// After this phase half of everything is freed for a moment.
const DIP: usize = 2;
const DIP_LASTS: Duration = Duration::from_millis(300);

/// The program that is measured.
pub fn load(load: &Load) -> Result<(), Box<dyn Error>> {
    let bytes = load.live / THREADS;
    let threads: Vec<_> =
        (0..THREADS).map(|number| thread::spawn(move || churn(bytes, number as u64 + 1))).collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread of the load failed")?;
    }
    Ok(())
}

fn churn(bytes: usize, seed: u64) {
    let mut random = Random(seed);
    let (mut young, mut old) = (VecDeque::new(), VecDeque::new());
    let mut living = 0;
    let free_until = |below: usize, living: &mut usize, queues: [&mut VecDeque<Generation>; 2]| {
        for queue in queues {
            while let (true, Some(oldest)) = (*living > below, queue.front_mut()) {
                match oldest.free_one() {
                    0 => drop(queue.pop_front()),
                    freed => *living -= freed,
                }
            }
        }
    };
    for (phase, &(least, most)) in PHASES.iter().enumerate() {
        for _ in 0..GENERATIONS {
            let (mut new, mut survivors) = (Generation::new(), Generation::new());
            while new.bytes + survivors.bytes < bytes / GENERATIONS {
                let size = least + random.below(most - least + 1);
                // What comes is no more than what went.
                free_until(bytes - size, &mut living, [&mut young, &mut old]);
                let survives = random.below(ONE_SURVIVES_OF) == 0;
                let generation = if survives { &mut survivors } else { &mut new };
                generation.add(size, random.below(LISTS));
                living += size;
            }
            young.push_back(new);
            old.push_back(survivors);
            if old.len() > SURVIVED_GENERATIONS {
                living -= old.pop_front().map_or(0, |dead| dead.bytes);
            }
        }
        if phase == DIP {
            free_until(bytes / 2, &mut living, [&mut young, &mut old]);
            thread::sleep(DIP_LASTS);
        }
    }
}

/// In how many lists the objects of a generation are, each freed from its end.
const LISTS: usize = 64;

/// Objects that come and go at about the same time. They are linked through themselves, so that
/// nothing else needs memory.
struct Generation {
    lists: [*mut Object; LISTS],
    bytes: usize,
}

#[repr(C)]
struct Object {
    next: *mut Object,
    size: usize,
}

impl Generation {
    fn new() -> Generation {
        Generation { lists: [ptr::null_mut(); LISTS], bytes: 0 }
    }

    fn add(&mut self, size: usize, list: usize) {
        // SAFETY: the size is not zero.
        let object: *mut Object = unsafe { System.alloc(layout(size)) }.cast();
        assert!(!object.is_null(), "out of memory");
        // SAFETY: the memory is ours, that long, and no shorter than an object.
        unsafe {
            object.cast::<u8>().write_bytes(0x5A, size);
            object.write(Object { next: self.lists[list], size });
        }
        self.lists[list] = object;
        self.bytes += size;
    }

    /// Frees one object; how many bytes it had, 0 if there is none.
    fn free_one(&mut self) -> usize {
        let Some(list) = self.lists.iter_mut().find(|list| !list.is_null()) else { return 0 };
        // SAFETY: objects in lists were allocated with their size and are ours alone.
        unsafe {
            let Object { next, size } = list.read();
            System.dealloc(list.cast(), layout(size));
            *list = next;
            self.bytes -= size;
            size
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        while self.free_one() > 0 {}
    }
}
