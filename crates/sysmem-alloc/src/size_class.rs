//! Size classes: which block sizes there are, and how large a span of each is.
//!
//! Blocks are 8 bytes, then every multiple of 16 up to 128, then eight sizes in each doubling, so
//! that a block is at most an eighth larger than the request (beyond 128 bytes; below, alignment
//! decides). Above [`LARGEST`] a request is whole pages, where rounding costs less than an eighth
//! again.

use core::ops::Range;

use sysmem_pages::PAGE;

/// How many size classes there are.
pub(crate) const COUNT: usize = 9 + 9 * 8;

/// What stands for the class of a large allocation.
pub(crate) const NO_CLASS: u8 = COUNT as u8;

/// The largest block in bytes.
pub(crate) const LARGEST: usize = 64 << 10;

/// The length of the longest span in bytes, where pages are [`PAGE`] long.
pub(crate) const LONGEST_SPAN: usize = {
    let (mut longest, mut class) = (0, 0);
    while class < COUNT {
        let len = describe(class).npages as usize * PAGE;
        longest = if len > longest { len } else { longest };
        class += 1;
    }
    longest
};

/// What every block of a class has in common.
#[derive(Clone, Copy)]
pub(crate) struct SizeClass {
    /// The size of a block in bytes.
    pub block_size: u32,
    /// The length of a span in pages of the heap.
    pub npages: u16,
    /// The number of blocks in a span.
    pub blocks: u16,
}

pub(crate) static CLASSES: [SizeClass; COUNT] = {
    let mut classes = [SizeClass { block_size: 0, npages: 0, blocks: 0 }; COUNT];
    let mut class = 0;
    while class < COUNT {
        classes[class] = describe(class);
        class += 1;
    }
    classes
};

const fn describe(class: usize) -> SizeClass {
    let block_size = match class {
        0 => 8,
        1..=8 => class * 16,
        _ => {
            let doubling = (class - 9) / 8;
            let eighth = (class - 9) % 8 + 1;
            (128 << doubling) + eighth * (16 << doubling)
        }
    };
    // The fewest pages with at least 32 blocks or 64 KiB, at least 4 blocks, and a tail that is at
    // most an eighth: spans long enough that the page heap is asked rarely, short enough that a
    // program with one block of each size stays small.
    let mut npages = 1;
    loop {
        let bytes = npages * PAGE;
        let blocks = bytes / block_size;
        let tail = bytes - blocks * block_size;
        if blocks >= 4 && (blocks >= 32 || bytes >= 64 << 10) && tail * 8 <= bytes {
            return SizeClass {
                block_size: block_size as u32,
                npages: npages as u16,
                blocks: blocks as u16,
            };
        }
        npages += 1;
    }
}

/// The largest size whose class is looked up, which is faster than computing it.
pub(crate) const LARGEST_SMALL: usize = 1024;

/// How many sizes up to that are told apart: multiples of 8, zero among them.
pub(crate) const SMALL_SIZES: usize = LARGEST_SMALL / 8 + 1;

/// The classes of those.
static SMALL: [u8; SMALL_SIZES] = {
    let mut small = [0; SMALL_SIZES];
    let mut eights = 0;
    while eights < small.len() {
        small[eights] = compute(eights * 8) as u8;
        eights += 1;
    }
    small
};

#[inline(always)]
const fn compute(size: usize) -> usize {
    if size <= 8 {
        0
    } else if size <= 128 {
        size.div_ceil(16)
    } else {
        let last = size - 1;
        let doubling = last.ilog2() as usize - 7;
        9 + doubling * 8 + (last >> (doubling + 4)) - 8
    }
}

/// The index of a size that is at most [`LARGEST_SMALL`] among the [`SMALL_SIZES`].
#[inline(always)]
pub(crate) fn index_of_small(size: usize) -> usize {
    debug_assert!(size <= LARGEST_SMALL);
    size.div_ceil(8)
}

/// The indexes of the small sizes that are of a class.
pub(crate) fn small_indexes(class: usize) -> Range<usize> {
    let after = |class: usize| (CLASSES[class].block_size as usize / 8 + 1).min(SMALL_SIZES);
    (if class == 0 { 0 } else { after(class - 1) })..after(class)
}

/// The class of the smallest block that holds `size` bytes, which are at most [`LARGEST_SMALL`].
#[inline(always)]
fn of_small(size: usize) -> usize {
    SMALL[index_of_small(size)] as usize
}

/// The class of the smallest block that holds `size` bytes, which are at most [`LARGEST`].
#[inline(always)]
pub(crate) fn of_size(size: usize) -> usize {
    debug_assert!(size <= LARGEST);
    if size <= LARGEST_SMALL { of_small(size) } else { compute(size) }
}

/// The class of the smallest block that holds `size` bytes at a multiple of `align`, which is at
/// most a page. `None` where only whole pages will do.
#[inline]
pub(crate) fn of_layout(size: usize, align: usize) -> Option<usize> {
    let size = size.max(align);
    if size > LARGEST || align > PAGE {
        return None;
    }
    // Every eighth class is a power of two, so a multiple is found within eight steps.
    (of_size(size)..COUNT).find(|&class| CLASSES[class].block_size as usize % align == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_block_that_holds_it() {
        for size in 0..=LARGEST {
            let class = of_size(size);
            assert!(CLASSES[class].block_size as usize >= size, "{size}");
            assert!(class == 0 || (CLASSES[class - 1].block_size as usize) < size, "{size}");
        }
        assert_eq!(CLASSES[COUNT - 1].block_size as usize, LARGEST);
    }

    #[test]
    fn every_small_size_is_among_the_indexes_of_its_class_alone() {
        for size in 0..=LARGEST_SMALL {
            for class in 0..COUNT {
                let is_among = small_indexes(class).contains(&index_of_small(size));
                assert_eq!(is_among, class == of_size(size), "{size} {class}");
            }
        }
    }

    #[test]
    fn a_block_wastes_at_most_an_eighth_beyond_128_bytes() {
        for size in 129..=LARGEST {
            let block = CLASSES[of_size(size)].block_size as usize;
            assert!((block - size) * 8 <= block, "{size} in {block}");
        }
        for size in LARGEST + 1..LARGEST + 3 * PAGE {
            let pages = size.next_multiple_of(PAGE);
            assert!((pages - size) * 8 <= pages, "{size} in {pages}");
        }
    }

    #[test]
    fn a_span_wastes_at_most_an_eighth_on_its_tail() {
        for class in CLASSES {
            let bytes = class.npages as usize * PAGE;
            let used = class.blocks as usize * class.block_size as usize;
            assert!(used <= bytes && (bytes - used) * 8 <= bytes);
        }
    }

    #[test]
    fn every_alignment_up_to_a_page_finds_a_block_that_keeps_it() {
        for shift in 0..=PAGE.ilog2() {
            let align = 1 << shift;
            for size in [0, 1, align - 1, align, align + 1, 3 * align, 1000, LARGEST] {
                if let Some(class) = of_layout(size, align) {
                    let block = CLASSES[class].block_size as usize;
                    assert!(block >= size && block % align == 0);
                } else {
                    assert!(size > LARGEST, "{size} {align}");
                }
            }
        }
    }
}
