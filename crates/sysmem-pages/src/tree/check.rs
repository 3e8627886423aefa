//! Holding what the tree keeps against the huge pages it is about.

use crate::block::Block;
use crate::free_runs::FreeRuns;
use crate::standing::{DENSE, DENSE_BROKEN_SET, IDLE_SET, RANKS, SETS};
use crate::tree::{BITS, FANOUT, Head, Leaf, Node, Tree, child_len};

/// What differs, the huge page it was found at, what is kept and what was counted.
pub(crate) type Difference = (&'static str, usize, usize, usize);

/// What is counted of all huge pages.
struct Counted {
    ranks: [usize; RANKS],
    in_use_broken: usize,
}

impl Tree {
    /// Holds what nodes and leaves keep against what is below them.
    pub(crate) fn check(&self) -> Result<(), Difference> {
        let mut counted = Counted { ranks: [0; RANKS], in_use_broken: 0 };
        let mut runs = FreeRuns::NONE;
        // SAFETY: the root of this tree; nothing changes it while it is borrowed.
        if let Some(root) = unsafe { self.root.as_ref() } {
            // SAFETY: as above, with its height and number.
            runs = unsafe { check(root, self.height, self.prefix, &mut counted) }?;
            for (set, &word) in root.sets[..IDLE_SET].iter().enumerate() {
                equal("a set of all", set, self.has(set), word != 0)?;
            }
        } else if let Some(class) = self.ranks.iter().position(|&ranks| ranks != 0) {
            return Err(("sets of a heap without pages", class, 1, 0));
        }
        for (class, &ranks) in self.ranks.iter().enumerate() {
            equal("a class of all", class, self.classes >> class & 1 != 0, ranks != 0)?;
        }
        if runs != self.runs {
            let (kept, counted) = (self.runs.longest as usize, runs.longest as usize);
            return Err(("free huge pages in a row", 0, kept, counted));
        }
        for (kept, counted) in self.counts.into_iter().zip(counted.ranks) {
            if kept != counted {
                return Err(("huge pages of a rank", 0, kept, counted));
            }
        }
        match (self.in_use_broken, counted.in_use_broken) {
            (kept, counted) if kept == counted => Ok(()),
            (kept, counted) => Err(("pages in use in broken huge pages", 0, kept, counted)),
        }
    }
}

fn equal(what: &'static str, block: usize, kept: bool, counted: bool) -> Result<(), Difference> {
    match kept == counted {
        true => Ok(()),
        false => Err((what, block, usize::from(kept), usize::from(counted))),
    }
}

/// What a node or leaf says of its free huge pages, if all it keeps is what is below it.
///
/// # Safety
///
/// `at` is a node or leaf of a tree that does not change meanwhile, with its height and number.
unsafe fn check(
    at: &Head,
    height: u32,
    number: usize,
    counted: &mut Counted,
) -> Result<FreeRuns, Difference> {
    let (at, first) = (core::ptr::from_ref(at), number << BITS);
    if height == 0 {
        // SAFETY: the caller's promise.
        let leaf = unsafe { &*at.cast::<Leaf>() };
        let mut sets = [0; SETS];
        for (slot, block) in leaf.blocks.iter().enumerate() {
            check_block(block, first | slot, counted)?;
            if let Some(set) = block.standing().set() {
                sets[set] |= 1 << slot;
            }
            sets[IDLE_SET] |= u64::from(block.idle() > 0) << slot;
            sets[DENSE_BROKEN_SET] |= u64::from(block.in_use_broken() >= DENSE) << slot;
        }
        for (kept, counted) in leaf.head.sets.into_iter().zip(sets) {
            if kept != counted {
                return Err(("a set of huge pages", first, kept as usize, counted as usize));
            }
        }
        return Ok(leaf.runs());
    }
    // SAFETY: the caller's promise.
    let node = unsafe { &*at.cast::<Node>() };
    for slot in 0..FANOUT {
        let block = (first | slot) << (BITS * height);
        let mut runs = FreeRuns::NONE;
        // SAFETY: as above.
        if let Some(child) = unsafe { node.children[slot].as_ref() } {
            // SAFETY: as above.
            runs = unsafe { check(child, height - 1, first | slot, counted) }?;
            for (set, word) in node.head.sets.iter().enumerate() {
                equal("a set of a row", block, word >> slot & 1 != 0, child.sets[set] != 0)?;
            }
        }
        if node.runs[slot] != runs {
            let kept = node.runs[slot].longest as usize;
            return Err(("free huge pages in a row", block, kept, runs.longest as usize));
        }
    }
    Ok(FreeRuns::of_row(&node.runs, child_len(height)))
}

fn check_block(block: &Block, number: usize, counted: &mut Counted) -> Result<(), Difference> {
    block.check().map_err(|(what, kept, counted)| (what, number, kept, counted))?;
    let standing = block.standing();
    equal("the standing of a huge page", number, block.kept_standing == standing, true)?;
    if let Some(rank) = standing.rank() {
        counted.ranks[rank] += 1;
    }
    counted.in_use_broken += block.in_use_broken();
    Ok(())
}
