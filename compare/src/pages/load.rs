//! The program that is measured: fills a heap, frees half of it at random, and then, as often as it
//! is asked, does steps of one free and one allocation.

use std::hint::black_box;
use std::io::{BufRead, stdin};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, Settings, Simulated};
use sysmem::{Error, Native, Os};
use sysmem_pages::{Accounts, PAGE, PageCache, PageHeap, ReleaseOnFree};

use crate::measure::{self, Random};

/// The longest run in pages.
const LONGEST: usize = 16;

#[derive(clap::Args)]
pub struct Load {
    source: Source,
    /// The heap is filled with as much, in MiB; half of it is in use afterwards.
    mib: usize,
    /// The threads that share the heap, each with runs of its own.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Do so many steps at once and end, for callgrind.
    #[arg(long)]
    once: Option<usize>,
}

/// Where runs come from.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Source {
    /// A page heap.
    Shared,
    /// A page cache for each thread, out of one page heap.
    Cached,
    /// A page heap on a simulated kernel, which has address space without end and memory for none
    /// of it.
    Simulated,
    /// The C library's `malloc`, whoever that is.
    Malloc,
}

/// What steps took, for each of them, in nanoseconds; and how often threads went to sleep over
/// them.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// The mean processor time of the threads for a step of theirs.
    pub cpu: f64,
    /// The wall time for the steps of all threads.
    pub wall: f64,
    pub sleeps: f64,
}

impl Took {
    /// What [`load`] printed.
    pub fn parse(line: &str) -> Result<Took, Box<dyn std::error::Error>> {
        let [cpu, wall, sleeps] = measure::figures(line)?;
        Ok(Took { cpu, wall, sleeps })
    }
}

pub fn load(load: &Load) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = load.mib << 20;
    match load.source {
        Source::Shared => measure(load, &heap(Native::NEW)),
        Source::Cached => measure(load, &Caches(heap(Native::NEW))),
        Source::Simulated => {
            let settings = Settings { backing: Backing::Real, ..Settings::heap(bytes * 4) };
            measure(load, &heap(Linux::new(Simulated::new(settings))))
        }
        Source::Malloc => measure(load, &Malloc),
    }
}

fn heap<O: Os + Clone>(os: O) -> PageHeap<O> {
    static ACCOUNTS: Accounts = Accounts::new("runs", "runs: records");
    let options = sysmem_pages::Options::new().release_on_free(ReleaseOnFree::Never);
    PageHeap::new(os, &ACCOUNTS, options)
}

/// What one thread takes runs from.
trait Runs {
    fn allocate(&mut self, npages: usize) -> Option<NonNull<u8>>;

    /// # Safety
    ///
    /// A run that was allocated here and that nobody uses.
    unsafe fn free(&mut self, start: NonNull<u8>, npages: usize) -> bool;
}

/// What threads share; each makes its [`Runs`] of it.
trait Shared: Sync {
    fn runs(&self) -> Result<impl Runs, Error>;

    /// Of a page heap: its records and what is mapped, in bytes.
    fn records(&self) -> Option<(u64, u64)> {
        None
    }
}

impl<O: Os + Clone + Send + Sync> Shared for PageHeap<O> {
    fn runs(&self) -> Result<impl Runs, Error> {
        Ok(self)
    }

    fn records(&self) -> Option<(u64, u64)> {
        let now = self.statistics();
        Some((now.metadata, now.reserved - now.unmapped))
    }
}

impl<O: Os + Clone> Runs for &PageHeap<O> {
    fn allocate(&mut self, npages: usize) -> Option<NonNull<u8>> {
        PageHeap::allocate(self, npages, PAGE).ok().map(|run| run.start)
    }

    unsafe fn free(&mut self, start: NonNull<u8>, npages: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe { PageHeap::free(self, start, npages) }.is_ok()
    }
}

/// A heap from which threads take through caches.
struct Caches(PageHeap<Native>);

impl Shared for Caches {
    fn runs(&self) -> Result<impl Runs, Error> {
        self.0.cache()
    }

    fn records(&self) -> Option<(u64, u64)> {
        self.0.records()
    }
}

impl Runs for PageCache<'_, Native> {
    fn allocate(&mut self, npages: usize) -> Option<NonNull<u8>> {
        PageCache::allocate(self, npages, PAGE).ok().map(|run| run.start)
    }

    unsafe fn free(&mut self, start: NonNull<u8>, npages: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe { PageCache::free(self, start, npages) }.is_ok()
    }
}

struct Malloc;

impl Shared for Malloc {
    fn runs(&self) -> Result<impl Runs, Error> {
        Ok(Malloc)
    }
}

impl Runs for Malloc {
    fn allocate(&mut self, npages: usize) -> Option<NonNull<u8>> {
        // SAFETY: any size may be asked for.
        NonNull::new(unsafe { libc::malloc(npages * PAGE) }.cast())
    }

    unsafe fn free(&mut self, start: NonNull<u8>, _npages: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe { libc::free(start.as_ptr().cast()) };
        true
    }
}

/// A number below `end`, without a division: that would be a good part of what a cache takes.
fn below(random: &mut Random, end: usize) -> usize {
    ((random.number() >> 32) as usize * end) >> 32
}

/// A run that is in use, in one word: its length is in the bits that are zero in every address, whoever
/// it is of. A list of runs that is read at random takes of the caches, and the heap is measured.
#[derive(Clone, Copy)]
struct InUse(NonNull<u8>);

impl InUse {
    fn new(start: NonNull<u8>, npages: usize) -> InUse {
        // SAFETY: a run is of more than 16 bytes.
        InUse(unsafe { start.byte_add(npages - 1) })
    }

    fn parts(self) -> (NonNull<u8>, usize) {
        let more = self.0.addr().get() % LONGEST;
        // SAFETY: as much was added.
        (unsafe { self.0.byte_sub(more) }, more + 1)
    }
}

const NO_MEMORY: &str = "a run was refused";

/// Fills `bytes` and frees half of it again. The steps that follow keep to half, because a run that
/// is allocated is on average as long as one that is freed.
fn half_full(
    runs: &mut impl Runs,
    random: &mut Random,
    bytes: usize,
) -> Result<Vec<InUse>, &'static str> {
    let mut in_use = Vec::new();
    let mut filled = 0;
    while filled * PAGE < bytes {
        let npages = 1 + below(random, LONGEST);
        in_use.push(InUse::new(runs.allocate(npages).ok_or(NO_MEMORY)?, npages));
        filled += npages;
    }
    while filled * PAGE > bytes / 2 {
        let (start, npages) = in_use.swap_remove(below(random, in_use.len())).parts();
        filled -= npages;
        // SAFETY: out of the list, so in use no more.
        if !unsafe { runs.free(start, npages) } {
            return Err("a free was refused");
        }
    }
    in_use.shrink_to_fit();
    Ok(in_use)
}

/// Frees a run and allocates one, as often as it says. What callgrind collects.
#[inline(never)]
fn pages_steps(
    runs: &mut impl Runs,
    random: &mut Random,
    in_use: &mut [InUse],
    count: usize,
) -> Result<(), &'static str> {
    let mut next = below(random, in_use.len());
    for _ in 0..count {
        let index = next;
        // A step ahead, so that where the list is in no cache it does not count as the heap's time.
        next = below(random, in_use.len());
        black_box(in_use[next]);
        let (start, npages) = in_use[index].parts();
        // SAFETY: the run's place in the list is taken by the next one.
        if !unsafe { runs.free(start, npages) } {
            return Err("a free was refused");
        }
        let npages = 1 + below(random, LONGEST);
        in_use[index] = InUse::new(runs.allocate(npages).ok_or(NO_MEMORY)?, npages);
    }
    Ok(())
}

/// Fills the heap, says so and what its records take, and then for each line of input, a number of steps, does them and says
/// what they took.
fn measure(load: &Load, shared: &impl Shared) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = (load.mib << 20) / load.threads;
    if let Some(steps) = load.once {
        let (mut runs, mut random) = (shared.runs()?, Random(1));
        let mut in_use = half_full(&mut runs, &mut random, bytes)?;
        return Ok(pages_steps(&mut runs, &mut random, &mut in_use, steps)?);
    }
    // Main and the threads are here together before the steps, when caches are warm, and after.
    let gate = &Barrier::new(load.threads + 1);
    let steps = &AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, took) = mpsc::channel();
        for number in 1..=load.threads {
            let sender = sender.clone();
            scope.spawn(move || {
                // What a thread filled it frees: allocators tell threads apart.
                let mut random = Random(number as u64);
                let mut filled = shared.runs().map_err(|_| NO_MEMORY).and_then(|mut runs| {
                    let in_use = half_full(&mut runs, &mut random, bytes)?;
                    Ok((runs, in_use))
                });
                loop {
                    gate.wait();
                    gate.wait();
                    let steps = steps.load(Relaxed);
                    if steps == 0 {
                        return;
                    }
                    let mut work = |count| match &mut filled {
                        Ok((runs, in_use)) => pages_steps(runs, &mut random, in_use, count),
                        Err(refused) => Err(*refused),
                    };
                    // Others came between, whose turn it was; what they left in the caches is not
                    // to count.
                    let warm = work(steps / 2);
                    gate.wait();
                    let (sleeps, cpu) = (sleeps(), Native::NEW.thread_cpu_time());
                    let done = warm.and_then(|()| work(steps));
                    let cpu = Native::NEW.thread_cpu_time() - cpu;
                    // Main holds the other end as long as it wants answers.
                    let _ = sender.send(done.map(|()| (cpu, self::sleeps() - sleeps)));
                }
            });
        }
        let timed = |count: usize| -> Result<Took, Box<dyn std::error::Error>> {
            steps.store(count, Relaxed);
            gate.wait();
            gate.wait();
            let (begin, mut cpu, mut sleeps) = (Instant::now(), Duration::ZERO, 0);
            for _ in 0..load.threads {
                let of_one = took.recv()??;
                (cpu, sleeps) = (cpu + of_one.0, sleeps + of_one.1);
            }
            let wall = begin.elapsed();
            gate.wait();
            let all = (count * load.threads) as f64;
            let each = |time: Duration| time.as_nanos() as f64 / all;
            Ok(Took { cpu: each(cpu), wall: each(wall), sleeps: sleeps as f64 / all })
        };
        let serve = || -> Result<(), Box<dyn std::error::Error>> {
            gate.wait();
            match shared.records() {
                Some((records, mapped)) => println!("{records} {mapped}"),
                None => println!(),
            }
            for line in stdin().lock().lines() {
                let Took { cpu, wall, sleeps } = timed(line?.trim().parse()?)?;
                println!("{cpu} {wall} {sleeps}");
            }
            Ok(())
        };
        let served = serve();
        steps.store(0, Relaxed);
        gate.wait();
        served
    })
}

/// How often the calling thread gave its processor away by itself.
fn sleeps() -> i64 {
    measure::usage(libc::RUSAGE_THREAD).ru_nvcsw
}
