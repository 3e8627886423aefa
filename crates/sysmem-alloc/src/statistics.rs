use crate::size_class::{self, CLASSES};
use crate::thread_heap::{Counts, ThreadHeap};
use crate::{METADATA, PAGES, lifecycle};

/// What the allocator did and has, at one moment. While other threads allocate, the figures may be
/// a moment apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Blocks handed out since the process began. A `realloc` that moves or resizes a large block
    /// counts as one, and as one free.
    pub allocations: u64,
    /// Blocks taken back since the process began.
    pub frees: u64,
    /// Bytes that callers asked for, all allocations added.
    pub requested_bytes: u64,
    /// Bytes of the blocks they got, all allocations added.
    pub allocated_bytes: u64,
    /// Bytes of the blocks that were freed, all frees added: what is in use is
    /// [`allocated_bytes`](Statistics::allocated_bytes) less this.
    pub freed_bytes: u64,
    /// Bytes that the allocator itself needs for spans, thread heaps and the map from addresses to
    /// spans, without the page heap's.
    pub metadata_bytes: u64,
    /// The page heap below.
    pub pages: sysmem_pages::Statistics,
}

/// The figures at this moment.
pub fn statistics() -> Statistics {
    with_pages(PAGES.statistics())
}

/// The figures at this moment, for a signal handler: `None` while somebody is at work on the page
/// heap, who may be the thread that the handler interrupted.
pub fn try_statistics() -> Option<Statistics> {
    PAGES.try_statistics().map(with_pages)
}

fn with_pages(pages: sysmem_pages::Statistics) -> Statistics {
    let Counts { allocations, frees, requested_bytes, allocated_bytes, freed_bytes } =
        of_all_heaps(ThreadHeap::counts);
    Statistics {
        allocations,
        frees,
        requested_bytes,
        allocated_bytes,
        freed_bytes,
        metadata_bytes: METADATA.figures().ready,
        pages,
    }
}

/// How many sizes of blocks there are.
pub const SIZE_CLASSES: usize = size_class::COUNT;

/// What was done with the blocks of one size, since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStatistics {
    /// The size of a block in bytes; 0 for large allocations, which are whole pages.
    pub block_bytes: u64,
    /// Blocks handed out.
    pub allocations: u64,
    /// Blocks taken back.
    pub frees: u64,
    /// Bytes that callers asked for, which the blocks were to hold.
    pub requested_bytes: u64,
    /// Bytes of the blocks handed out.
    pub allocated_bytes: u64,
    /// Bytes of the blocks taken back.
    pub freed_bytes: u64,
}

/// The figures of a size class, of which there are [`SIZE_CLASSES`], smallest first. `None` beyond
/// the last.
pub fn class_statistics(class: usize) -> Option<ClassStatistics> {
    let block_bytes = u64::from(CLASSES.get(class)?.block_size);
    Some(of_blocks(block_bytes, |heap| heap.class_counts(class)))
}

/// The figures of large allocations, which are of no class.
pub fn large_statistics() -> ClassStatistics {
    of_blocks(0, ThreadHeap::large_counts)
}

fn of_blocks(block_bytes: u64, of_heap: impl Fn(&ThreadHeap) -> Counts) -> ClassStatistics {
    let Counts { allocations, frees, requested_bytes, allocated_bytes, freed_bytes } =
        of_all_heaps(of_heap);
    ClassStatistics {
        block_bytes,
        allocations,
        frees,
        requested_bytes,
        allocated_bytes,
        freed_bytes,
    }
}

fn of_all_heaps(of_heap: impl Fn(&ThreadHeap) -> Counts) -> Counts {
    let mut all = Counts::default();
    lifecycle::heaps().for_each(|heap| all += of_heap(heap));
    all
}
