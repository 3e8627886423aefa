//! Instructions of a call: allocating and freeing on each allocator, counted by callgrind.

use std::error::Error;
use std::ffi::c_void;
use std::hint::black_box;
use std::process::Command;
use std::ptr;

use crate::allocators::{self, How};
use crate::{callgrind, measure, table};

#[derive(clap::Args)]
pub struct Options {
    /// The size of the blocks, in bytes.
    #[arg(long, default_value_t = 100)]
    size: usize,
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
const KINDS: [(&str, &str); 5] = [
    ("loop", ""),
    ("pair", "malloc, free"),
    ("calloc", "calloc, free"),
    ("realloc", "realloc in place"),
    ("elsewhere", "malloc, freed elsewhere"),
];

const FEW: usize = 1_000;
const MANY: usize = 6_000;

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut allocators = allocators::all()?;
    allocators.retain(|it| measure::is_wanted(&options.only, &it.name));
    let mut rows = Vec::new();
    for allocator in &allocators {
        eprintln!("{} ...", allocator.name);
        let mut row = vec![allocator.name.clone()];
        let mut of_loop = 0;
        for (kind, _) in KINDS {
            let count = |count: usize| {
                let mut valgrind = Command::new("valgrind");
                match &allocator.how {
                    How::Plain => {}
                    How::SysmemRun(sysmem) => {
                        let library = sysmem.with_file_name("libsysmem_preload.so");
                        valgrind.env("LD_PRELOAD", library).env("SYSMEM_SCAVENGER", "off");
                    }
                    How::Preload { library, environment } => {
                        valgrind.env("LD_PRELOAD", library).envs(*environment);
                    }
                }
                let (count, size) = (count.to_string(), options.size.to_string());
                let load = ["calls-load", kind, count.as_str(), size.as_str()];
                callgrind::count_by(valgrind, "*calls*collected*", &load)
            };
            // What happens once, and rarely, falls out of the difference.
            let each = count(MANY)
                .and_then(|many| Ok(many.saturating_sub(count(FEW)?) / (MANY - FEW) as u64));
            match (kind, each) {
                ("loop", each) => of_loop = each.unwrap_or(0),
                (_, Ok(each)) => row.push(each.saturating_sub(of_loop).to_string()),
                // snmalloc ends itself where valgrind gives it fewer address bits than it wants.
                (_, Err(_)) => row.push("-".into()),
            }
        }
        rows.push(row);
    }
    println!(
        "Instructions of each, blocks of {} bytes (callgrind), the loop around them subtracted.\n",
        options.size
    );
    let mut head = vec![""];
    head.extend(KINDS.iter().skip(1).map(|(_, says)| says));
    table::print(&head, &rows);
    Ok(())
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
