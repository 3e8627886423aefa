//! Random sequences of allocations against a plain list of what should be there.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sysmem_alloc::{allocate, allocate_zeroed, free, reallocate, usable_size};

#[derive(Clone, Debug)]
enum Step {
    Allocate { size: usize, align: usize, zeroed: bool },
    Free { which: usize },
    Reallocate { which: usize, size: usize },
}

/// Sizes of all kinds: most small, some around the edges of the size classes, some of pages.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0usize..300,
        3 => 300usize..5_000,
        2 => 5_000usize..70_000,
        1 => 60_000usize..70_000,
        1 => 70_000usize..3_000_000,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (size(), 0u32..15, any::<bool>()).prop_map(|(size, shift, zeroed)| {
            // Most programs ask for no alignment beyond 16 bytes.
            let align = if shift < 8 { 1 << (shift % 5) } else { 1 << (2 * shift - 9) };
            Step::Allocate { size, align, zeroed }
        }),
        3 => any::<usize>().prop_map(|which| Step::Free { which }),
        1 => (any::<usize>(), size()).prop_map(|(which, size)| Step::Reallocate { which, size }),
    ]
}

/// What should be at an address.
struct Block {
    size: usize,
    align: usize,
    stamp: u8,
}

/// The bytes of a block that are looked at: the edges of its pages, where a neighbour would reach.
fn looked_at(size: usize) -> impl Iterator<Item = usize> {
    let every = if size > 100_000 { 4096 } else { 61 };
    (0..size).step_by(every).chain(size.checked_sub(1))
}

fn fill(address: *mut u8, block: &Block) {
    // SAFETY: the block is ours and that long.
    unsafe { address.write_bytes(block.stamp, block.size) };
}

fn check(address: *mut u8, size: usize, stamp: u8) {
    for at in looked_at(size) {
        // SAFETY: the block is ours and that long.
        assert_eq!(unsafe { address.add(at).read() }, stamp, "byte {at} of {size} at {address:p}");
    }
}

fn run(steps: &[Step]) {
    let mut blocks: BTreeMap<usize, Block> = BTreeMap::new();
    let mut stamp = 0u8;
    let at = |address: usize| std::ptr::with_exposed_provenance_mut::<u8>(address);
    let enter = |blocks: &mut BTreeMap<usize, Block>, address: *mut u8, block: Block| {
        assert_eq!(address.addr() % block.align, 0, "{} bytes at {address:p}", block.align);
        // SAFETY: just allocated.
        let usable = unsafe { usable_size(address) };
        assert!(usable >= block.size);
        let start = address.expose_provenance();
        if let Some((before, neighbour)) = blocks.range(..=start).next_back() {
            assert!(before + neighbour.size.max(1) <= start, "overlaps the block before it");
        }
        if let Some((after, _)) = blocks.range(start..).next() {
            assert!(start + usable <= *after, "reaches into the block after it");
        }
        fill(address, &block);
        blocks.insert(start, block);
    };
    let pick = |blocks: &BTreeMap<usize, Block>, which: usize| {
        blocks.keys().nth(which % blocks.len().max(1)).copied()
    };
    for step in steps {
        stamp = stamp.wrapping_add(1).max(1);
        match *step {
            Step::Allocate { size, align, zeroed } => {
                let address = match zeroed {
                    true => allocate_zeroed(size, align),
                    false => allocate(size, align),
                };
                assert!(!address.is_null());
                if zeroed {
                    check(address, size, 0);
                }
                enter(&mut blocks, address, Block { size, align, stamp });
            }
            Step::Free { which } => {
                let Some(start) = pick(&blocks, which) else { continue };
                let Some(block) = blocks.remove(&start) else { continue };
                check(at(start), block.size, block.stamp);
                // SAFETY: taken out of the list, so freed once.
                unsafe { free(at(start)) };
            }
            Step::Reallocate { which, size } => {
                let Some(start) = pick(&blocks, which) else { continue };
                let Some(block) = blocks.remove(&start) else { continue };
                // SAFETY: taken out of the list, so the old address is used no more.
                let address = unsafe { reallocate(at(start), size, block.align) };
                assert!(!address.is_null());
                check(address, size.min(block.size), block.stamp);
                enter(&mut blocks, address, Block { size, align: block.align, stamp });
            }
        }
    }
    for (start, block) in blocks {
        check(at(start), block.size, block.stamp);
        // SAFETY: each is freed once.
        unsafe { free(at(start)) };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn blocks_keep_their_bytes_and_alignment_and_never_overlap(
        steps in prop::collection::vec(step(), 1..400),
    ) {
        run(&steps);
    }

    #[test]
    fn the_same_holds_in_four_threads_at_once(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| run(&steps));
            }
        });
    }
}

#[test]
fn every_alignment_up_to_a_gibibyte_is_kept() {
    for shift in 0..=30 {
        for size in [1, 100, 100_000] {
            let address = allocate(size, 1 << shift);
            assert!(!address.is_null() && address.addr() % (1 << shift) == 0);
            // SAFETY: the block is ours and that long.
            unsafe {
                address.write_bytes(1, size);
                free(address);
            }
        }
    }
}

#[test]
fn sizes_that_no_memory_can_hold_are_null() {
    for size in [usize::MAX, usize::MAX - 8191, isize::MAX as usize, 1 << 60] {
        assert!(allocate(size, 8).is_null());
        assert!(allocate_zeroed(size, 1 << 21).is_null());
    }
    let address = allocate(100, 8);
    // SAFETY: the block is ours; a failed realloc leaves it alone.
    unsafe {
        address.write_bytes(7, 100);
        assert!(reallocate(address, usize::MAX - 100, 8).is_null());
        check(address, 100, 7);
        free(address);
    }
}

#[test]
fn a_large_block_shrinks_in_place() {
    let address = allocate(1 << 20, 8);
    // SAFETY: the block is ours throughout.
    unsafe {
        address.write_bytes(3, 1 << 20);
        let smaller = reallocate(address, 200_000, 8);
        assert_eq!(smaller, address);
        check(smaller, 200_000, 3);
        assert!(usable_size(smaller) < 220_000);
        free(smaller);
    }
}

#[test]
fn fresh_memory_is_not_cleared_to_be_zero() {
    use sysmem::{ErrorKind, Native, Os, PageRange};

    let len = 64 << 20;
    let address = allocate_zeroed(len, 4096);
    assert!(!address.is_null());
    // Memory that was cleared would be in physical memory.
    match Native::NEW.resident_bytes(PageRange::new(address, len)) {
        Ok(resident) => assert!(resident < len / 16, "{resident} bytes resident"),
        // OpenBSD does not tell.
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotSupported),
    }
    check(address, 1 << 20, 0);
    // SAFETY: the block is ours.
    unsafe { free(address) };
}

#[test]
fn a_large_block_that_grows_in_small_steps_among_others_moves_seldom() {
    let mut size = 2 << 20;
    let mut block = allocate(size, 8);
    let mut others = Vec::new();
    let (mut moves, mut written) = (0, 0);
    while size < 200 << 20 {
        assert!(!block.is_null());
        // SAFETY: the block is `size` bytes long; the first `written` of them were written.
        unsafe {
            assert!(written == 0 || *block == 1 && *block.add(written - 1) == 1);
            block.add(written).write_bytes(1, (64 << 10).min(size - written));
            *block.add(size - 1) = 1;
        }
        written = size;
        others.push(allocate(100_000, 8));
        size += size / 50;
        // SAFETY: the block is ours, and the old address is not used again.
        let grown = unsafe { reallocate(block, size, 8) };
        moves += u32::from(grown != block);
        block = grown;
    }
    // At 2 and 32 MiB or so.
    assert!(moves <= 2, "{moves} moves");
    // SAFETY: each is freed once.
    unsafe {
        free(block);
        others.into_iter().for_each(|other| free(other));
    }
}
