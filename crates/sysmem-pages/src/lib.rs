//! A page heap over [`sysmem`]: runs of pages, coalescing by construction, memory that goes back
//! to the system.
//!
//! [`PageHeap`] hands out runs of 8 KiB pages of any length and alignment, knows which of its free
//! pages are zero, and gives free memory back on demand or as its [`Options`] say. A [`PageCache`]
//! hands out short runs to one owner without a lock. The crate is `no_std`, needs no allocator, keeps
//! its records in memory that it takes from the system itself, and works over any [`sysmem::Os`].
//!
//! The crate, from the bottom up: sets of 256 pages (`bits`); a huge page of them (`block`); which
//! huge page a short run should come from (`standing`), where a long run fits (`free_runs`); all huge
//! pages by address (`tree`); memory for records (`metadata`); reservations (`region`); the heap
//! (`heap`), how it grows (`grow`), how it gives back (`release`, `returning`) when (`scavenger`),
//! also of what stays in use (`in_use`), what becomes of huge pages then (`advice`, `collapse`), how
//! large it may be (`limit`), short runs without its lock (`page_cache`), a picture of it (`heap_map`),
//! and checks of its records (`verify`) and of its memory (`residency`).
#![no_std]

#[cfg(test)]
extern crate std;

mod advice;
mod bits;
mod block;
mod collapse;
mod free_runs;
mod grow;
mod heap;
mod heap_map;
mod in_use;
mod limit;
mod lost;
mod metadata;
mod misuse;
mod options;
mod page_cache;
mod pages;
mod region;
mod release;
mod residency;
mod returning;
mod scavenger;
mod standing;
mod statistics;
mod tree;
mod verify;

pub use heap::{Accounts, PAGE, PageHeap, Run};
pub use heap_map::MapCell;
pub use misuse::{Misuse, MisuseKind};
pub use options::{HugePages, Options, ReleaseOnFree};
pub use page_cache::PageCache;
pub use residency::{Residency, ResidentBytes};
pub use scavenger::Scavenger;
pub use statistics::{ScavengerWork, Statistics};
pub use verify::Inconsistency;
