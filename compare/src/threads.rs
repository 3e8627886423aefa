//! Threads that allocate at the same time, free each other's blocks, come and go: on each allocator.
//!
//! The loads are those that allocators are compared by since Larson and Krishnan (1998) and Berger et
//! al. (2000), and that mimalloc-bench has: xmalloc-test, larson, sh6bench, cache-scratch. These are
//! small ones of the same shape.

use std::error::Error;
use std::ffi::c_void;
use std::ptr;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Instant;

use crate::allocators::{self, How};
use crate::measure::{self, Random, cpu_time, median};
use crate::table;

#[derive(clap::Args)]
pub struct Options {
    /// How often each load runs on each allocator.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Only the loads whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

#[derive(clap::Args)]
pub struct Load {
    name: String,
}

/// A name, and what it does.
const LOADS: [(&str, fn()); 7] = [
    ("handed over, 1 to 1", || handed_over(1)),
    ("handed over, 2 to 2", || handed_over(2)),
    ("replaced, 2 threads", || replaced(2, 1000, 20, 200_000)),
    ("replaced, 64 threads", || replaced(64, 200, 4, 30_000)),
    ("in groups, 2 threads", || in_groups(2)),
    ("written side by side", || written_side_by_side(2)),
    ("threads come and go", come_and_go),
];

/// What one run used: nanoseconds and bytes.
#[derive(Clone, Copy)]
struct Used {
    cpu: f64,
    wall: f64,
    peak: f64,
}

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut allocators = allocators::all()?;
    // What its thread does for jemalloc, it does for memory that nobody uses.
    allocators.retain(|it| !matches!(it.how, How::Preload { environment: Some(_), .. }));
    let ours = allocators.iter().position(|it| matches!(it.how, How::SysmemRun(_)));
    let ours = ours.ok_or("sysmem is not among the allocators")?;
    let mut rows = Vec::new();
    for (name, _) in LOADS.iter().filter(|(name, _)| measure::is_wanted(&options.only, name)) {
        eprintln!("{name} ...");
        let mut used: Vec<Vec<Used>> = allocators.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.runs {
            for (allocator, used) in allocators.iter().zip(&mut used) {
                let [cpu, wall, peak] = allocator.figures(&["threads-load", name])?;
                used.push(Used { cpu, wall, peak });
            }
        }
        for (index, (allocator, runs)) in allocators.iter().zip(&used).enumerate() {
            let pairs: Vec<_> = used[ours].iter().zip(runs).collect();
            let to_it = |of: fn(&Used) -> f64| match index == ours {
                true => String::new(),
                false => format!("{:.2}", median(&pairs, |(ours, it)| of(ours) / of(it))),
            };
            rows.push(vec![
                if index == 0 { name.to_string() } else { String::new() },
                allocator.name.clone(),
                format!("{:.0} ms", median(runs, |used| used.cpu) / 1e6),
                to_it(|used| used.cpu),
                format!("{:.0} ms", median(runs, |used| used.wall) / 1e6),
                to_it(|used| used.wall),
                format!("{:.1} MiB", median(runs, |used| used.peak) / (1 << 20) as f64),
                to_it(|used| used.peak),
            ]);
        }
    }
    println!(
        "Medians of {} runs in turn; sysmem to each of the others are medians of neighbouring pairs.\n",
        options.runs
    );
    let head = ["load", "allocator", "CPU", "sysmem to it", "wall", "to it", "peak", "to it"];
    table::print(&head, &rows);
    Ok(())
}

/// The program that is measured.
pub fn load(load: &Load) -> Result<(), Box<dyn Error>> {
    let (_, work) = LOADS.iter().find(|(name, _)| *name == load.name).ok_or("no such load")?;
    let (began, cpu) = (Instant::now(), cpu_time());
    work();
    let (wall, cpu) = (began.elapsed().as_nanos(), cpu_time() - cpu);
    println!("{cpu} {wall} {}", measure::usage(libc::RUSAGE_SELF).ru_maxrss as u64 * 1024);
    Ok(())
}

/// A block, written to so that its memory is there. It can go to another thread.
struct Block(*mut c_void);

// SAFETY: a block is whose variable it is in.
unsafe impl Send for Block {}

impl Block {
    fn new(size: usize) -> Block {
        let size = size.max(size_of::<usize>());
        // SAFETY: the block is at least a word long and aligned for one, if there is memory for it.
        unsafe {
            let block = libc::malloc(size);
            assert!(!block.is_null(), "no memory");
            block.cast::<usize>().write_volatile(size);
            Block(block)
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: from malloc, and freed here only. Whoever frees a block has used it.
        unsafe {
            self.0.cast::<usize>().read_volatile();
            libc::free(self.0);
        }
    }
}

/// Producers allocate, as many consumers free what they are handed (xmalloc-test).
fn handed_over(pairs: usize) {
    const BATCHES: usize = 12_000;
    let produce = |seed: usize, to: SyncSender<Vec<Block>>| {
        let mut random = Random(seed as u64 + 1);
        for _ in 0..BATCHES / pairs {
            let batch = (0..256).map(|_| Block::new(8 + random.below(500))).collect();
            to.send(batch).expect("the consumer is there");
        }
    };
    thread::scope(|scope| {
        for seed in 0..pairs {
            let (to, from) = mpsc::sync_channel(32);
            scope.spawn(move || produce(seed, to));
            scope.spawn(move || from.into_iter().for_each(drop));
        }
    });
}

/// Threads replace blocks of theirs at random; each then leaves them to a thread that is born
/// (larson).
fn replaced(threads: usize, blocks: usize, generations: usize, times: usize) {
    let mut random = Random(1);
    let mut all: Vec<Vec<Block>> = (0..threads)
        .map(|_| (0..blocks).map(|_| Block::new(8 + random.below(993))).collect())
        .collect();
    for generation in 0..generations {
        thread::scope(|scope| {
            for (thread, blocks) in all.iter_mut().enumerate() {
                scope.spawn(move || {
                    let mut random = Random((generation * threads + thread) as u64 + 1);
                    for _ in 0..times {
                        let place = random.below(blocks.len());
                        blocks[place] = Block::new(8 + random.below(993));
                    }
                });
            }
        });
    }
}

/// Threads allocate groups of blocks of the same size, and free a group when eight younger ones live,
/// half of it in the order of allocation and half in the opposite (sh6bench).
fn in_groups(threads: usize) {
    const GROUPS: usize = 50_000;
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut random = Random(thread as u64 + 1);
                let mut live: [Vec<Block>; 8] = std::array::from_fn(|_| Vec::with_capacity(64));
                for turn in 0..GROUPS {
                    let group = &mut live[turn % 8];
                    let reversed = group.len() / 2;
                    group.drain(..reversed);
                    while group.pop().is_some() {}
                    let size = 1 + random.below(1000);
                    group.extend((0..64).map(|_| Block::new(size)));
                }
            });
        }
    });
}

/// Each thread frees a small block that it was given, takes one, and writes to it again and again:
/// slow where blocks of two threads lie on one cache line (cache-scratch).
fn written_side_by_side(threads: usize) {
    let given: Vec<Block> = (0..threads).map(|_| Block::new(8)).collect();
    thread::scope(|scope| {
        for block in given {
            scope.spawn(move || {
                drop(block);
                for _ in 0..500_000 {
                    let block = Block::new(8);
                    let word: *mut u64 = block.0.cast();
                    for number in 0..1000 {
                        // SAFETY: the block is a word long.
                        unsafe { ptr::write_volatile(word, number) };
                    }
                }
            });
        }
    });
}

/// Threads are born, allocate, free half of it and end; who made them frees the rest.
fn come_and_go() {
    const THREADS: usize = 6_000;
    const AT_A_TIME: usize = 4;
    for round in 0..THREADS / AT_A_TIME {
        let threads: Vec<_> = (0..AT_A_TIME)
            .map(|thread| {
                thread::spawn(move || {
                    let mut random = Random((round * AT_A_TIME + thread) as u64 + 1);
                    let mut blocks: Vec<_> = (0..200).map(|_| Block::new(random.size())).collect();
                    blocks.truncate(100);
                    blocks
                })
            })
            .collect();
        for thread in threads {
            drop(thread.join().expect("it does not panic"));
        }
    }
}
