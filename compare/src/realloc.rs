//! Blocks that grow by `realloc`: how often they move, how much moves with them, and what that costs.

use std::error::Error;

use crate::allocators;
use crate::measure::{self, median};
use crate::table;

#[derive(clap::Args)]
pub struct Options {
    /// How often each allocator is measured.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only the allocators whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

#[derive(clap::Args)]
pub struct Load {
    load: usize,
}

/// Blocks that take turns growing by a hundredth part as said, from one size to another.
struct Growth {
    name: &'static str,
    blocks: usize,
    percent: usize,
    from: usize,
    to: usize,
}

const LOADS: [Growth; 3] = [
    Growth { name: "one to 400 MB by 2 %", blocks: 1, percent: 2, from: 64 << 10, to: 400_000_000 },
    Growth { name: "16 to 16 MB by 10 %", blocks: 16, percent: 10, from: 1000, to: 16_000_000 },
    Growth { name: "one doubled to 512 MiB", blocks: 1, percent: 100, from: 64, to: 512 << 20 },
];

/// What a load says: moves, bytes in blocks that moved, nanoseconds of CPU.
type Figures = [f64; 3];

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut allocators = allocators::all()?;
    allocators.retain(|it| measure::is_wanted(&options.only, &it.name));
    let mut rows = Vec::new();
    for (number, load) in LOADS.iter().enumerate() {
        eprintln!("{} ...", load.name);
        let mut figures: Vec<Vec<Figures>> = allocators.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.runs {
            for (allocator, figures) in allocators.iter().zip(&mut figures) {
                figures.push(allocator.figures(&["realloc-load", &number.to_string()])?);
            }
        }
        let first = figures[0].clone();
        for (index, (allocator, figures)) in allocators.iter().zip(&figures).enumerate() {
            let pairs: Vec<_> = figures.iter().zip(&first).collect();
            rows.push(vec![
                if index == 0 { load.name.to_string() } else { String::new() },
                allocator.name.clone(),
                format!("{:.0}", median(figures, |it| it[0])),
                format!("{:.2}", median(figures, |it| it[1]) / (load.blocks * load.to) as f64),
                format!("{:.0} ms", median(figures, |it| it[2] / 1e6)),
                format!("{:.2}", median(&pairs, |(it, first)| it[2] / first[2])),
            ]);
        }
    }
    println!(
        "Medians of {} runs in turn; moved: bytes in blocks that moved, times what they grew to; \
         ratios to {}.\n",
        options.runs,
        allocators.first().map_or("none", |it| it.name.as_str())
    );
    table::print(&["blocks", "allocator", "moves", "moved", "CPU", "ratio"], &rows);
    Ok(())
}

/// The program that is measured.
pub fn load(load: &Load) -> Result<(), Box<dyn Error>> {
    let load = LOADS.get(load.load).ok_or("there is no such load")?;
    let mut blocks = vec![(std::ptr::null_mut::<u8>(), 0); load.blocks];
    let (mut moves, mut moved) = (0, 0);
    let mut size = load.from;
    while size <= load.to {
        for (block, len) in &mut blocks {
            // SAFETY: the block is ours, or null, which realloc takes too.
            let grown: *mut u8 = unsafe { libc::realloc((*block).cast(), size) }.cast();
            assert!(!grown.is_null(), "out of memory");
            if !block.is_null() && grown != *block {
                moves += 1;
                moved += *len;
            }
            // SAFETY: the block is `size` bytes long and ours; as many as before were written.
            unsafe {
                assert!(*len == 0 || *grown.add(*len - 1) == 0x5A, "a byte was lost");
                grown.add(*len).write_bytes(0x5A, size - *len);
            }
            (*block, *len) = (grown, size);
        }
        size += (size * load.percent / 100).max(1);
    }
    for (block, _) in blocks {
        // SAFETY: the block is ours.
        unsafe { libc::free(block.cast()) };
    }
    println!("{moves} {moved} {}", crate::measure::cpu_time());
    Ok(())
}
