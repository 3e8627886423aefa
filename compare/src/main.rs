//! Measurements of sysmem against its peers, each a subcommand:
//!
//! ```sh
//! cargo run --release -p compare -- programs
//! ```
//!
//! Machines are noisy: contestants run in turn, and what is printed is the median of each and the
//! median of the ratios of runs that were neighbours in time.

mod allocators;
mod burst;
mod callgrind;
mod calls;
mod churn;
mod guards;
mod hold_back;
mod limit;
mod measure;
mod os;
mod overhead;
mod pages;
mod programs;
mod realloc;
mod table;
mod threads;
mod vec;

use clap::Parser;

/// Measures sysmem against its peers.
#[derive(Parser)]
enum Measurement {
    /// Real programs: plain, under `sysmem run`, and on other allocators.
    Programs(programs::Options),
    /// A burst of mixed sizes, nine tenths of it freed: what stays resident, on each allocator.
    Burst(burst::Options),
    /// The program that `burst` measures.
    #[command(hide = true)]
    BurstLoad(burst::Load),
    /// What holding back for the next peak saves, and what it keeps.
    HoldBack(hold_back::Options),
    /// A soft limit under a load that churns: how long the resident set stays above it.
    Limit(limit::Options),
    /// The program that `limit` measures.
    #[command(hide = true)]
    LimitLoad(limit::Load),
    /// An hour of runs that come and go, simulated: huge pages kept whole, memory kept and given back.
    Churn(churn::Options),
    /// Instructions of `malloc`, `free` and their family, on each allocator.
    Calls(calls::Options),
    /// The program that `calls` measures.
    #[command(hide = true)]
    CallsLoad(calls::Load),
    /// Guards in populated memory against `mprotect`.
    Guards(guards::Options),
    /// Reserving, committing and giving back: sysmem's lowest layers against other crates.
    Os(os::Options),
    /// What publishing statistics, sampling and profiling cost.
    Overhead(overhead::Options),
    /// The program that `overhead` measures.
    #[command(hide = true)]
    OverheadLoad(overhead::Load),
    /// Runs of pages out of heaps that are half full: sysmem's page heap against its peers.
    Pages(pages::Options),
    /// The program that `pages` measures.
    #[command(hide = true)]
    PagesLoad(pages::Load),
    /// Blocks that grow by `realloc`: how often they move, and what that costs.
    Realloc(realloc::Options),
    /// The program that `realloc` measures.
    #[command(hide = true)]
    ReallocLoad(realloc::Load),
    /// Threads that free each other's blocks, come and go, on each allocator.
    Threads(threads::Options),
    /// The program that `threads` measures.
    #[command(hide = true)]
    ThreadsLoad(threads::Load),
    /// Pushing bytes: a vector that never moves against `Vec`.
    Vec(vec::Options),
}

fn main() {
    let result = match Measurement::parse() {
        Measurement::Programs(options) => programs::run(&options),
        Measurement::Burst(options) => burst::run(&options),
        Measurement::BurstLoad(load) => burst::load(&load),
        Measurement::Churn(options) => churn::run(&options),
        Measurement::Calls(options) => calls::run(&options),
        Measurement::CallsLoad(load) => calls::load(&load),
        Measurement::Guards(options) => guards::run(&options),
        Measurement::HoldBack(options) => hold_back::run(&options),
        Measurement::Limit(options) => limit::run(&options),
        Measurement::LimitLoad(load) => limit::load(&load),
        Measurement::Os(options) => os::run(&options),
        Measurement::Overhead(options) => overhead::run(&options),
        Measurement::OverheadLoad(load) => overhead::load(&load),
        Measurement::Pages(options) => pages::run(&options),
        Measurement::PagesLoad(load) => pages::load(&load),
        Measurement::Realloc(options) => realloc::run(&options),
        Measurement::ReallocLoad(load) => realloc::load(&load),
        Measurement::Threads(options) => threads::run(&options),
        Measurement::ThreadsLoad(load) => threads::load(&load),
        Measurement::Vec(options) => vec::run(&options),
    };
    if let Err(error) = result {
        eprintln!("compare: {error}");
        std::process::exit(1);
    }
}
