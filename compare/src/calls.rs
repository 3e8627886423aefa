//! Instructions of a call: allocating and freeing on each allocator, counted by callgrind.

use std::error::Error;
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr;

use crate::allocators::{self, Allocator, How};
use crate::{callgrind, measure, table};

#[derive(clap::Args)]
pub struct Options {
    /// The sizes of the blocks, in bytes, with commas between them: a table for each.
    #[arg(long, default_value = "100", value_delimiter = ',')]
    size: Vec<usize>,
    /// Only the allocators whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

#[derive(clap::Args)]
pub struct Load {
    kind: String,
    count: usize,
    size: usize,
}

/// What is counted, and what it says in the table. The first is the loop alone.
const KINDS: [(&str, &str); 6] = [
    ("loop", ""),
    ("pair", "malloc, free"),
    ("burst", "64 malloc, 64 free"),
    ("calloc", "calloc, free"),
    ("realloc", "realloc in place"),
    ("elsewhere", "malloc, freed elsewhere"),
];

/// The blocks that live at once in a burst.
const BURST: usize = 64;

const FEW: usize = 1_024;
const MANY: usize = 6_144;

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut allocators = allocators::all()?;
    allocators.retain(|it| measure::is_wanted(&options.only, &it.name));
    // What threads of its own do is not in the figures.
    allocators.retain(|it| !matches!(it.how, How::Preload { environment: Some(_), .. }));
    println!("Instructions for each block (callgrind), the loop around them subtracted.");
    for &size in &options.size {
        let mut rows = Vec::new();
        for allocator in &allocators {
            eprintln!("{size} bytes, {} ...", allocator.name);
            rows.push(row(allocator, size));
        }
        let head: Vec<_> = [format!("{size} bytes")]
            .into_iter()
            .chain(KINDS[1..].iter().map(|(_, says)| says.to_string()))
            .collect();
        println!();
        table::print(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    }
    Ok(())
}

/// What each kind of call takes.
fn row(allocator: &Allocator, size: usize) -> Vec<String> {
    let each = |kind: &str| -> Result<u64, Box<dyn Error>> {
        let count = |count: usize| {
            let (count, size) = (count.to_string(), size.to_string());
            let load = ["calls-load", kind, count.as_str(), size.as_str()];
            callgrind::count_by(allocator.valgrind(), "*calls*collected*", &load)
        };
        // What happens once, and rarely, falls out of the difference.
        Ok(count(MANY)?.saturating_sub(count(FEW)?) / (MANY - FEW) as u64)
    };
    let of_loop = each(KINDS[0].0);
    let figures = KINDS[1..].iter().map(|(kind, _)| match (&of_loop, each(kind)) {
        (Ok(of_loop), Ok(each)) => each.saturating_sub(*of_loop).to_string(),
        // snmalloc ends itself where valgrind gives it fewer address bits than it wants.
        _ => "-".into(),
    });
    [allocator.name.clone()].into_iter().chain(figures).collect()
}

/// The program that is measured.
pub fn load(load: &Load) -> Result<(), Box<dyn Error>> {
    let mut blocks = vec![ptr::null_mut(); load.count];
    match load.kind.as_str() {
        "elsewhere" => {
            allocated_and_collected(&mut blocks, load.size);
            let addresses: Vec<usize> =
                blocks.iter().map(|block| block.expose_provenance()).collect();
            let freed = std::thread::spawn(move || freed_and_collected(&addresses)).join();
            freed.map_err(|_| "the other thread failed")?;
            // What was freed elsewhere is found again here.
            allocated_and_collected(&mut blocks, load.size);
        }
        kind => in_turn_and_collected(kind, load.count, load.size),
    }
    Ok(())
}

#[inline(never)]
fn allocated_and_collected(blocks: &mut [*mut c_void], size: usize) {
    for block in blocks {
        // SAFETY: any size may be asked for.
        *block = unsafe { libc::malloc(black_box(size)) };
    }
}

#[inline(never)]
fn freed_and_collected(addresses: &[usize]) {
    for &address in addresses {
        // SAFETY: allocated by `malloc`, and freed here only.
        unsafe { libc::free(ptr::with_exposed_provenance_mut(address)) };
    }
}

#[inline(never)]
fn in_turn_and_collected(kind: &str, count: usize, size: usize) {
    // Another block of the class lives, as in programs.
    // SAFETY: any size may be asked for.
    let mut kept = unsafe { libc::malloc(size) };
    match kind {
        "pair" => (0..count).for_each(|_| {
            // SAFETY: allocated and freed once.
            unsafe { libc::free(black_box(libc::malloc(black_box(size)))) }
        }),
        "burst" => (0..count / BURST).for_each(|_| {
            // SAFETY: any size may be asked for.
            let blocks = [(); BURST].map(|()| unsafe { libc::malloc(black_box(size)) });
            // SAFETY: allocated and freed once.
            blocks.into_iter().for_each(|block| unsafe { libc::free(black_box(block)) });
        }),
        "calloc" => (0..count).for_each(|_| {
            // SAFETY: allocated and freed once.
            unsafe { libc::free(black_box(libc::calloc(1, black_box(size)))) }
        }),
        "realloc" => (0..count).for_each(|turn| {
            // SAFETY: `kept` is a block of ours, and replaced by what it becomes.
            kept = unsafe { libc::realloc(kept, black_box(size) - turn % 2) };
        }),
        _ => (0..count).for_each(|turn| {
            black_box(turn);
        }),
    }
    // SAFETY: allocated above.
    unsafe { libc::free(kept) };
}
