//! What a heap counts: written by its thread alone, read by any.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::ThreadHeap;
use crate::size_class::{self, CLASSES};

/// A count that one thread adds to and any thread reads.
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(super) const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    #[inline(always)]
    pub(crate) fn add(&self, count: u64) {
        // One writer: a plain addition, without the lock prefix of a read-modify-write.
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What the counters of a heap say.
#[derive(Default)]
pub(crate) struct Counts {
    pub allocations: u64,
    pub frees: u64,
    pub requested_bytes: u64,
    pub allocated_bytes: u64,
    pub freed_bytes: u64,
}

impl core::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.allocations += other.allocations;
        self.frees += other.frees;
        self.requested_bytes += other.requested_bytes;
        self.allocated_bytes += other.allocated_bytes;
        self.freed_bytes += other.freed_bytes;
    }
}

impl ThreadHeap {
    /// What the counters say; while the thread runs, a moment ago.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.large_counts();
        for class in 0..size_class::COUNT {
            counts += self.class_counts(class);
        }
        counts
    }

    /// What the counters of one class say.
    pub(crate) fn class_counts(&self, class: usize) -> Counts {
        let bin = self.bin(class);
        let block_size = u64::from(CLASSES[class].block_size);
        let (allocations, frees) = (bin.allocations(&self.shelves[class]), bin.frees.get());
        Counts {
            allocations,
            frees,
            requested_bytes: bin.requested.get(),
            allocated_bytes: allocations * block_size,
            freed_bytes: frees * block_size,
        }
    }

    /// What the counters of large allocations say.
    pub(crate) fn large_counts(&self) -> Counts {
        Counts {
            allocations: self.large_allocations.get(),
            frees: self.large_frees.get(),
            requested_bytes: self.large_requested.get(),
            allocated_bytes: self.large_allocated_bytes.get(),
            freed_bytes: self.large_freed_bytes.get(),
        }
    }
}
