//! Groups of figures: which there are, in the order in which they are stored.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::statistics::ClassStatistics;

/// Defines a group of figures as a plain struct, with its stored form beside it.
macro_rules! group {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$doc])* pub $field: u64,)* }

        impl $name {
            /// The names of the figures in the order in which they are stored.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];
            /// How many words the group takes.
            pub const COUNT: usize = Self::NAMES.len();

            /// Stores every figure, each in one piece.
            pub fn store(&self, words: &[AtomicU64; Self::COUNT]) {
                for (word, value) in words.iter().zip([$(self.$field),*]) {
                    word.store(value, Ordering::Relaxed);
                }
            }

            /// Loads every figure, each in one piece.
            pub fn load(words: &[AtomicU64; Self::COUNT]) -> Self {
                let mut words = words.iter().map(|word| word.load(Ordering::Relaxed));
                Self { $($field: words.next().unwrap_or(0),)* }
            }
        }
    };
}

group! {
    /// What the kernel says about a process, in bytes. 0 where it says nothing.
    KernelFigures {
        /// Address space in use (`VmSize`).
        virtual_bytes,
        /// The most address space there ever was (`VmPeak`).
        peak_virtual_bytes,
        /// Physical memory in use (`VmRSS`).
        resident_bytes,
        /// The most physical memory there ever was (`VmHWM`).
        peak_resident_bytes,
        /// The part of the resident memory that no file backs (`RssAnon`).
        resident_anonymous_bytes,
        /// The part of the resident memory that is pages of files: program and libraries (`RssFile`).
        resident_file_bytes,
        /// The part of the resident memory that is shared memory (`RssShmem`).
        resident_shared_bytes,
        /// Swapped out (`VmSwap`).
        swapped_bytes,
        /// The main thread's stack as mapped (`VmStk`).
        stack_bytes,
        /// Page tables (`VmPTE`).
        page_table_bytes,
        /// Anonymous memory in huge pages (`AnonHugePages` of smaps_rollup); stored at exit only.
        huge_page_bytes,
        /// Given back lazily, still counted as resident (`LazyFree` of smaps_rollup); stored at
        /// exit only.
        lazily_freed_bytes,
    }
}

group! {
    /// What the allocator says about itself.
    HeapFigures {
        /// Blocks handed out since the process began.
        allocations,
        /// Blocks taken back since the process began.
        frees,
        /// Bytes that the program asked for, all calls added.
        requested_bytes,
        /// Bytes of the blocks that the program got, which are at least what it asked for.
        allocated_bytes,
        /// Bytes of the blocks that the program freed; what it holds is `allocated_bytes` less this.
        freed_bytes,
        /// Pages of the page heap that hold objects or wait in caches for them, and are in memory.
        in_use_bytes,
        /// Pages of the page heap that are free and still backed by memory, those that threads keep for
        /// themselves among them.
        free_bytes,
        /// Pages that hold nothing and were given back to the system: free pages of the page heap, and
        /// such between objects.
        given_back_bytes,
        /// Address space that the page heap holds.
        heap_reserved_bytes,
        /// What the allocator needs to know where everything is.
        metadata_bytes,
        /// Our accounts together: address space in state Reserved.
        reserved_bytes,
        /// Our accounts together: memory in state Prepared.
        prepared_bytes,
        /// Our accounts together: memory in state Ready.
        ready_bytes,
        /// The most memory that was ever in state Ready.
        peak_ready_bytes,
        /// All memory ever obtained from the system, added up.
        obtained_bytes,
        /// From where on allocations give back what is free; 0 for no limit.
        soft_limit_bytes,
        /// Where allocations fail; 0 for no limit.
        hard_limit_bytes,
        /// Calls that gave memory back to the system.
        releases,
        /// Calls that were to, and that the system refused.
        failed_releases,
        /// All memory ever given back, added up.
        released_bytes,
        /// Calls of these with which the scavenger gave back free pages.
        scavenger_releases,
        /// The free pages that it gave back; such between objects are in the sum only.
        scavenger_released_bytes,
        /// Its processor time in nanoseconds.
        scavenger_cpu_ns,
        /// Huge pages that it had the system make whole again.
        collapses,
        /// Mappings that the page heap needs of the system.
        mappings,
    }
}

group! {
    /// What the allocator did with the blocks of one size
    /// ([`class_statistics`](crate::class_statistics) says which).
    ClassFigures {
        /// Blocks handed out.
        allocations,
        /// Blocks taken back.
        frees,
        /// Bytes that the program asked for.
        requested_bytes,
        /// Bytes of the blocks that it got.
        allocated_bytes,
        /// Bytes of the blocks that it freed.
        freed_bytes,
    }
}

impl From<ClassStatistics> for ClassFigures {
    fn from(class: ClassStatistics) -> Self {
        Self {
            allocations: class.allocations,
            frees: class.frees,
            requested_bytes: class.requested_bytes,
            allocated_bytes: class.allocated_bytes,
            freed_bytes: class.freed_bytes,
        }
    }
}

impl ClassFigures {
    /// Takes away what an earlier process had counted, as [`HeapFigures::since`] does.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            allocations: self.allocations.saturating_sub(before.allocations),
            frees: self.frees.saturating_sub(before.frees),
            requested_bytes: self.requested_bytes.saturating_sub(before.requested_bytes),
            allocated_bytes: self.allocated_bytes.saturating_sub(before.allocated_bytes),
            freed_bytes: self.freed_bytes.saturating_sub(before.freed_bytes),
        }
    }
}

impl HeapFigures {
    /// Takes away what an earlier process had counted: the growing counts of `self` since `before`,
    /// the present sizes as they are. For the child of a fork, which begins with its parent's counts.
    pub fn since(&self, before: &Self) -> Self {
        self.with_counts(before, u64::saturating_sub)
    }

    /// Adds what an earlier image of the process had counted to the growing counts; the present sizes
    /// stay as they are.
    pub fn after(&self, earlier: &Self) -> Self {
        self.with_counts(earlier, u64::saturating_add)
    }

    fn with_counts(&self, other: &Self, join: fn(u64, u64) -> u64) -> Self {
        let count = |of: fn(&Self) -> u64| join(of(self), of(other));
        Self {
            allocations: count(|figures| figures.allocations),
            frees: count(|figures| figures.frees),
            requested_bytes: count(|figures| figures.requested_bytes),
            allocated_bytes: count(|figures| figures.allocated_bytes),
            freed_bytes: count(|figures| figures.freed_bytes),
            obtained_bytes: count(|figures| figures.obtained_bytes),
            releases: count(|figures| figures.releases),
            failed_releases: count(|figures| figures.failed_releases),
            released_bytes: count(|figures| figures.released_bytes),
            scavenger_releases: count(|figures| figures.scavenger_releases),
            scavenger_released_bytes: count(|figures| figures.scavenger_released_bytes),
            scavenger_cpu_ns: count(|figures| figures.scavenger_cpu_ns),
            collapses: count(|figures| figures.collapses),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_back_word_for_word() {
        let kernel_words = [const { AtomicU64::new(0) }; KernelFigures::COUNT];
        let heap_words = [const { AtomicU64::new(0) }; HeapFigures::COUNT];
        let kernel =
            KernelFigures { virtual_bytes: 1, lazily_freed_bytes: 12, ..Default::default() };
        let heap = HeapFigures { allocations: 13, obtained_bytes: 26, ..Default::default() };
        kernel.store(&kernel_words);
        heap.store(&heap_words);
        assert_eq!(KernelFigures::load(&kernel_words), kernel);
        assert_eq!(HeapFigures::load(&heap_words), heap);
        assert_eq!(heap_words[0].load(Ordering::Relaxed), 13, "the order is part of the layout");
    }

    #[test]
    fn a_forked_child_counts_from_the_fork_and_keeps_present_sizes() {
        let before = HeapFigures { allocations: 10, in_use_bytes: 4096, ..Default::default() };
        let now = HeapFigures { allocations: 15, in_use_bytes: 8192, ..Default::default() };
        let since = now.since(&before);
        assert_eq!((since.allocations, since.in_use_bytes), (5, 8192));
        assert_eq!(since.after(&before), now);
    }
}
