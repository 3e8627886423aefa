//! Burst and idle: what stays resident when most of a heap was freed and nothing happens any more.
//!
//! Two threads fill memory with objects of mixed sizes, free nine tenths of them at random and go
//! quiet. No thread calls the allocator again; a second later the resident set is read.

use std::alloc::{GlobalAlloc, System};
use std::error::Error;
use std::fs;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::allocators::{self, How};
use crate::measure::{self, Random, cpu_time, layout, median};
use crate::table;

#[derive(clap::Args)]
pub struct Options {
    /// How often each allocator is measured.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// What the two threads fill, in MiB.
    #[arg(long, default_value_t = 1024)]
    mib: usize,
    /// Only the allocators whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Fail if sysmem keeps more than it may.
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
pub struct Load {
    mib: usize,
}

const THREADS: usize = 2;

/// How long after the last free the resident set is read.
const QUIET: Duration = Duration::from_secs(1);

/// As many times what lives sysmem keeps at most.
const MOST: f64 = 2.2;

/// What the load says, in bytes and nanoseconds.
#[derive(Clone, Copy)]
struct Figures {
    live: f64,
    full: f64,
    quiet: f64,
    cpu: f64,
}

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut allocators = allocators::all()?;
    allocators.retain(|it| measure::is_wanted(&options.only, &it.name));
    let mut figures: Vec<Vec<Figures>> = allocators.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.runs {
        for (allocator, figures) in allocators.iter().zip(&mut figures) {
            let load = ["burst-load", &options.mib.to_string()];
            let [live, full, quiet, cpu] = allocator.figures(&load)?;
            figures.push(Figures { live, full, quiet, cpu });
        }
    }
    println!(
        "Two threads fill {} MiB, free nine tenths at random and sleep. Resident one second later; \
         medians of {}.\n",
        options.mib, options.runs
    );
    let ours = allocators.iter().position(|it| matches!(it.how, How::SysmemRun(_)));
    let rows: Vec<_> = allocators
        .iter()
        .zip(&figures)
        .enumerate()
        .map(|(index, (allocator, runs))| {
            let mib =
                |of: fn(&Figures) -> f64| format!("{:.0} MiB", median(runs, of) / (1 << 20) as f64);
            let to_it = |of: fn(&Figures) -> f64| {
                let ours = ours.filter(|&ours| ours != index).map(|ours| &figures[ours]);
                ours.map_or(String::new(), |ours| {
                    let pairs: Vec<_> = ours.iter().zip(runs).collect();
                    format!("{:.2}", median(&pairs, |(ours, it)| of(ours) / of(it)))
                })
            };
            vec![
                allocator.name.clone(),
                mib(|figures| figures.live),
                mib(|figures| figures.full),
                mib(|figures| figures.quiet),
                to_it(|figures| figures.quiet),
                format!("{:.2}", median(runs, times_live)),
                if ours == Some(index) { format!("{MOST:.2}") } else { String::new() },
                format!("{:.2} s", median(runs, |figures| figures.cpu / 1e9)),
                to_it(|figures| figures.cpu),
            ]
        })
        .collect();
    let head = [
        "allocator",
        "live",
        "full",
        "1 s later",
        "sysmem to it",
        "times live",
        "at most",
        "CPU",
        "sysmem to it",
    ];
    table::print(&head, &rows);
    let kept = ours.map(|ours| median(&figures[ours], times_live));
    let worse = kept.filter(|&kept| kept > MOST);
    let worse = worse.map(|kept| format!("sysmem keeps {kept:.2} times what lives"));
    measure::verdict(options.check, worse.as_slice(), "No figure is above its bound.")
}

fn times_live(figures: &Figures) -> f64 {
    figures.quiet / figures.live
}

/// The program that is measured. Says the bytes that live, the resident bytes before and after,
/// and its CPU time.
pub fn load(load: &Load) -> Result<(), Box<dyn Error>> {
    let step = Arc::new(Barrier::new(THREADS + 1));
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (step, bytes) = (Arc::clone(&step), (load.mib << 20) / THREADS);
            thread::spawn(move || {
                let mut random = Random(number as u64 + 1);
                let mut objects = Vec::with_capacity(bytes / 1024);
                let mut filled = 0;
                while filled < bytes {
                    let object = Object::new(random.size());
                    filled += object.size();
                    objects.push(object);
                }
                step.wait();
                step.wait();
                objects.retain(|_| random.below(10) == 0);
                objects.shrink_to_fit();
                let live: usize = objects.iter().map(Object::size).sum();
                step.wait();
                // Asleep, until the figures are taken.
                step.wait();
                objects.iter().for_each(Object::check);
                live
            })
        })
        .collect();
    step.wait();
    let full = resident()?;
    step.wait();
    step.wait();
    thread::sleep(QUIET);
    let (quiet, cpu) = (resident()?, cpu_time());
    step.wait();
    let mut live = 0;
    for thread in threads {
        live += thread.join().map_err(|_| "an object is not what was written to it")?;
    }
    println!("{live} {full} {quiet} {cpu}");
    Ok(())
}

/// Memory from the C library's `malloc`, whoever that is, filled with a pattern.
struct Object(*mut u8, u32);

impl Object {
    fn new(size: usize) -> Object {
        // SAFETY: the size is not zero.
        let address = unsafe { System.alloc(layout(size)) };
        assert!(!address.is_null(), "out of memory");
        // SAFETY: the memory is ours and that long.
        unsafe { address.write_bytes(size as u8, size) };
        Object(address, size as u32)
    }

    fn size(&self) -> usize {
        self.1 as usize
    }

    fn check(&self) {
        // SAFETY: the memory is ours, that long, and was filled.
        let bytes = unsafe { std::slice::from_raw_parts(self.0, self.size()) };
        assert!(bytes.iter().all(|&byte| byte == self.1 as u8));
    }
}

// SAFETY: it is memory that belongs to the object.
unsafe impl Send for Object {}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`.
        unsafe { System.dealloc(self.0, layout(self.size())) };
    }
}

fn resident() -> Result<usize, Box<dyn Error>> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split(' ').nth(1).ok_or("no resident pages in statm")?.parse()?;
    Ok(pages * sysmem::page_size())
}
