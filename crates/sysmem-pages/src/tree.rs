//! Every huge page of the heap, in a tree by address, and the sets they are in.
//!
//! A leaf is 64 huge pages in a row, a node 64 leaves or nodes. Both keep a word for each set (of
//! each [`Standing`], and of those with idle pages): in a leaf the huge pages that are in the set,
//! in a node the children that have one. So the first of a set is found by a word a level, and a
//! huge page goes from one set into another by two bits, and further up only where a word becomes
//! empty or stops being so. Where free huge pages lie in a row is kept apart ([`FreeRuns`]) and
//! changes when a huge page becomes wholly free or stops being so.
//!
//! A node a level serves 64 times as many huge pages: 8 GiB with one level of nodes, 32 TiB with
//! three.
//!
//! Pages are numbered by address: page 7 is at 7 times the page size.

use core::ptr;

use crate::block::Block;
use crate::free_runs::FreeRuns;
use crate::standing::{
    BROKEN, CLASSES, DENSE, DENSE_BROKEN_SET, EIGHTHS, FREE, FREE_SET, GIVEN_BACK, GIVEN_BACK_SET,
    IDLE_SET, INTACT, RANKS, SETS, Standing, class_and_rank, set_of,
};

mod check;
mod growth;
mod search;

const FANOUT: usize = 64;
const BITS: u32 = FANOUT.ilog2();

/// What leaves and nodes begin with.
#[repr(C)]
struct Head {
    /// The node above, null for the root, and the place there.
    above: *mut Node,
    slot: usize,
    /// For each set the places that are in it.
    sets: [u64; SETS],
}

/// 64 huge pages in a row.
#[repr(C)]
struct Leaf {
    head: Head,
    /// The huge pages of which a page is mapped.
    present: u64,
    /// The huge pages that a run may reach from the one before.
    joined: u64,
    /// Calls of `withdraw` whose end is not known.
    withdrawn: usize,
    blocks: [Block; FANOUT],
}

/// 64 leaves or nodes in a row.
#[repr(C)]
struct Node {
    head: Head,
    /// Leaves or nodes, as the height says.
    children: [*mut Head; FANOUT],
    runs: [FreeRuns; FANOUT],
}

/// Huge pages by address.
pub(crate) struct Tree {
    root: *mut Head,
    /// Nodes between the root and a leaf, the root counted: zero if the root is a leaf.
    height: u32,
    /// What the numbers of all leaves have in common above `height` digits.
    prefix: usize,
    /// The sets that are not empty: for each class of which ranks, and of which classes any.
    ranks: [u32; CLASSES],
    classes: u32,
    runs: FreeRuns,
    /// Huge pages of each rank.
    counts: [usize; RANKS],
    /// Pages in use in broken huge pages.
    in_use_broken: usize,
}

/// A huge page of the tree, as long as nothing is pruned.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    leaf: *mut Leaf,
    /// Of all huge pages.
    pub(crate) number: usize,
}

impl Place {
    #[inline]
    fn slot(self) -> usize {
        self.number % FANOUT
    }
}

impl Leaf {
    /// The huge pages that are wholly free.
    fn free(&self) -> u64 {
        self.head.sets[FREE_SET] | self.head.sets[GIVEN_BACK_SET]
    }

    fn runs(&self) -> FreeRuns {
        FreeRuns::of_word(self.free(), self.joined)
    }
}

/// The huge pages that a child of a node at this height covers.
fn child_len(height: u32) -> u32 {
    1u32.checked_shl(BITS * height).unwrap_or(u32::MAX)
}

impl Tree {
    pub(crate) const fn new() -> Tree {
        Tree {
            root: ptr::null_mut(),
            height: 0,
            prefix: 0,
            ranks: [0; CLASSES],
            classes: 0,
            runs: FreeRuns::NONE,
            counts: [0; RANKS],
            in_use_broken: 0,
        }
    }

    /// The place of a leaf in its ancestor `height` levels up.
    #[inline]
    fn slot(leaf: usize, height: u32) -> usize {
        (leaf >> (BITS * (height - 1))) % FANOUT
    }

    #[inline]
    fn covers(&self, leaf: usize) -> bool {
        !self.root.is_null() && leaf.checked_shr(BITS * self.height).unwrap_or(0) == self.prefix
    }

    /// Where a huge page is, if the heap has it or one near it.
    #[inline]
    pub(crate) fn place(&self, block: usize) -> Option<Place> {
        let leaf = block / FANOUT;
        if !self.covers(leaf) {
            return None;
        }
        let mut at = self.root;
        for height in (1..=self.height).rev() {
            // SAFETY: what is not null above height zero is a node of this tree.
            let node = unsafe { at.cast::<Node>().as_ref() }?;
            at = node.children[Self::slot(leaf, height)];
        }
        (!at.is_null()).then_some(Place { leaf: at.cast(), number: block })
    }

    /// The huge page at a place.
    #[inline]
    pub(crate) fn at(&self, place: Place) -> &Block {
        // SAFETY: a leaf of this tree; nothing changes it while the tree is borrowed.
        unsafe { &(*place.leaf).blocks[place.slot()] }
    }

    /// The huge page of this number, if the heap has it.
    #[inline]
    pub(crate) fn block(&self, block: usize) -> Option<&Block> {
        Some(self.at(self.place(block)?))
    }

    /// Whether a run may reach a huge page from the one before.
    pub(crate) fn is_joined(&self, block: usize) -> bool {
        // SAFETY: as in `at`.
        self.place(block)
            .is_some_and(|place| unsafe { (*place.leaf).joined } >> place.slot() & 1 != 0)
    }

    /// Changes a huge page, and what follows from it. `None` if the heap does not have it.
    #[inline]
    pub(crate) fn change<R>(
        &mut self,
        block: usize,
        change: impl FnOnce(&mut Block) -> R,
    ) -> Option<R> {
        let place = self.place(block)?;
        Some(self.change_at(place, change))
    }

    /// Changes the huge page at a place, and what follows from it.
    #[inline]
    pub(crate) fn change_at<R>(&mut self, place: Place, change: impl FnOnce(&mut Block) -> R) -> R {
        // SAFETY: a leaf of this tree, which is borrowed mutably.
        let leaf = unsafe { &mut *place.leaf };
        let slot = place.slot();
        let block = &mut leaf.blocks[slot];
        let before = (block.in_use_broken(), block.idle() > 0);
        let result = change(block);
        let after = (block.in_use_broken(), block.idle() > 0);
        self.in_use_broken = self.in_use_broken + after.0 - before.0;
        let (old, new) = (block.kept_standing, block.standing());
        block.kept_standing = new;
        if before.1 != after.1 {
            self.set(&mut leaf.head, slot, IDLE_SET, after.1);
        }
        if (before.0 >= DENSE) != (after.0 >= DENSE) {
            self.set(&mut leaf.head, slot, DENSE_BROKEN_SET, after.0 >= DENSE);
        }
        if old != new {
            self.stands(leaf, slot, old, new);
        }
        result
    }

    #[inline]
    fn stands(&mut self, leaf: &mut Leaf, slot: usize, old: Standing, new: Standing) {
        if let Some(rank) = old.rank() {
            self.counts[rank] -= 1;
        }
        if let Some(rank) = new.rank() {
            self.counts[rank] += 1;
        }
        if let Some(set) = old.set() {
            self.set(&mut leaf.head, slot, set, false);
        }
        if let Some(set) = new.set() {
            self.set(&mut leaf.head, slot, set, true);
        }
        if old.is_whole() != new.is_whole() {
            self.runs_changed(leaf);
        }
    }

    /// Enters a huge page in a set, or takes it out.
    #[inline]
    fn set(&mut self, head: &mut Head, slot: usize, set: usize, is_in: bool) {
        let had = head.sets[set];
        head.sets[set] = had & !(1 << slot) | u64::from(is_in) << slot;
        if (had == 0) != (head.sets[set] == 0) {
            self.set_above(head.above, head.slot, set, is_in);
        }
    }

    fn set_above(&mut self, mut above: *mut Node, mut slot: usize, set: usize, is_in: bool) {
        // SAFETY: nodes of this tree, which is borrowed mutably.
        while let Some(node) = unsafe { above.as_mut() } {
            let word = &mut node.head.sets[set];
            let had = *word;
            *word = had & !(1 << slot) | u64::from(is_in) << slot;
            if (had == 0) == (*word == 0) {
                return;
            }
            (above, slot) = (node.head.above, node.head.slot);
        }
        if set >= IDLE_SET {
            return;
        }
        let (class, rank) = class_and_rank(set);
        let ranks = self.ranks[class] & !(1 << rank) | u32::from(is_in) << rank;
        self.ranks[class] = ranks;
        self.classes = self.classes & !(1 << class) | u32::from(ranks != 0) << class;
    }

    /// Whether any huge page is in a set of a standing.
    fn has(&self, set: usize) -> bool {
        let (class, rank) = class_and_rank(set);
        self.ranks[class] >> rank & 1 != 0
    }

    /// Tells the nodes above where free huge pages of a leaf lie now.
    fn runs_changed(&mut self, leaf: &Leaf) {
        let mut runs = leaf.runs();
        let (mut above, mut slot) = (leaf.head.above, leaf.head.slot);
        let mut height = 1;
        // SAFETY: nodes of this tree, which is borrowed mutably.
        while let Some(node) = unsafe { above.as_mut() } {
            if node.runs[slot] == runs {
                return;
            }
            node.runs[slot] = runs;
            runs = FreeRuns::of_row(&node.runs, child_len(height));
            (above, slot) = (node.head.above, node.head.slot);
            height += 1;
        }
        self.runs = runs;
    }

    /// The best huge page with a free run of this class.
    #[inline]
    pub(crate) fn best(&self, class: usize) -> Option<Place> {
        let classes = self.classes & u32::MAX << class;
        if classes == 0 {
            return None;
        }
        let class = classes.trailing_zeros() as usize;
        self.first(set_of(class, self.ranks[class].trailing_zeros() as usize))
    }

    /// The first huge page of a set that is not empty.
    #[inline]
    fn first(&self, set: usize) -> Option<Place> {
        self.find(set, |word| word.trailing_zeros())
    }

    /// A huge page of a set that is not empty, as `choose` chooses a place in each word.
    #[inline]
    fn find(&self, set: usize, choose: impl Fn(u64) -> u32) -> Option<Place> {
        let (mut at, mut number) = (self.root, self.prefix);
        for height in (0..=self.height).rev() {
            // SAFETY: where a set is not empty, there is a node or leaf.
            let slot = choose(unsafe { at.as_ref() }?.sets[set]) as usize;
            number = number << BITS | slot;
            if height > 0 {
                // SAFETY: above height zero it is a node.
                at = unsafe { (*at.cast::<Node>()).children[slot % FANOUT] };
            }
        }
        Some(Place { leaf: at.cast(), number })
    }

    /// The last huge page that is free and has memory.
    pub(crate) fn last_free_backed(&self) -> Option<usize> {
        if !self.has(FREE_SET) {
            return None;
        }
        Some(self.find(FREE_SET, |word| 63 - word.leading_zeros())?.number)
    }

    /// The last huge page before `end` that has idle pages.
    pub(crate) fn last_idle(&self, end: usize) -> Option<usize> {
        self.last_before(end, (IDLE_SET, IDLE_SET))
    }

    /// The last huge page before `end` that is broken and dense.
    pub(crate) fn last_dense_broken(&self, end: usize) -> Option<usize> {
        self.last_before(end, (DENSE_BROKEN_SET, DENSE_BROKEN_SET))
    }

    /// The last huge page before `end` that has idle pages, of this partial rank and class.
    pub(crate) fn last_idle_of(&self, rank: usize, class: usize, end: usize) -> Option<usize> {
        let set = set_of(class, rank);
        if self.has(set) { self.last_before(end, (set, IDLE_SET)) } else { None }
    }

    /// The first of `count` huge pages in a row that are free, at a multiple of `align` of them (a
    /// power of two). Of places that only chance aligns not all are looked at.
    pub(crate) fn free_run(&self, count: usize, align: usize) -> Option<usize> {
        /// A search for something rare ends.
        const TRIES: usize = 64;
        if let Some(first) = self.longer_run(count + align - 1) {
            return Some(first.next_multiple_of(align));
        }
        if align == 1 || self.runs.longest < u32::try_from(count).ok()? {
            return None;
        }
        let mut from = 0;
        for _ in 0..TRIES {
            let first = self.free_from(from)?;
            if first % align == 0 && self.is_free_run(first, count) {
                return Some(first);
            }
            from = (first + 1).next_multiple_of(align);
        }
        None
    }

    /// The first free huge page from this one on.
    fn free_from(&self, from: usize) -> Option<usize> {
        match (self.first_from(from, FREE_SET), self.first_from(from, GIVEN_BACK_SET)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn is_free_run(&self, first: usize, count: usize) -> bool {
        (first..first + count).all(|block| {
            self.block(block).is_some_and(Block::is_free)
                && (block == first || self.is_joined(block))
        })
    }

    /// The first of `count` huge pages in a row that are free.
    fn longer_run(&self, count: usize) -> Option<usize> {
        let count = u32::try_from(count).ok().filter(|&count| count <= self.runs.longest)?;
        let (mut at, mut number) = (self.root, self.prefix);
        'nodes: for height in (1..=self.height).rev() {
            // SAFETY: where there is a run, there is a node.
            let node = unsafe { &*at.cast::<Node>() };
            let len = child_len(height);
            let first = |slot: usize| (number << BITS | slot) << (BITS * height);
            let mut carry = 0;
            for (slot, runs) in node.runs.iter().enumerate() {
                if runs.joins && carry > 0 && carry + runs.start >= count {
                    return Some(first(slot) - carry as usize);
                }
                if runs.longest >= count {
                    number = number << BITS | slot;
                    at = node.children[slot];
                    continue 'nodes;
                }
                carry = runs.carry(carry, len);
            }
            return None;
        }
        // SAFETY: as above, a leaf.
        let leaf = unsafe { &*at.cast::<Leaf>() };
        let slot = FreeRuns::place_in_word(leaf.free(), leaf.joined, count as usize)?;
        Some(number << BITS | slot)
    }

    /// Huge pages that are free and have no memory.
    pub(crate) fn given_back(&self) -> usize {
        self.counts[GIVEN_BACK]
    }

    /// Huge pages that are free and have memory.
    pub(crate) fn free_backed(&self) -> usize {
        self.counts[FREE]
    }

    /// Huge pages that are partly or wholly in use and intact, by eighths in use.
    pub(crate) fn intact(&self) -> [usize; EIGHTHS] {
        INTACT.map(|rank| self.counts[rank])
    }

    /// The same, broken.
    pub(crate) fn broken(&self) -> [usize; EIGHTHS] {
        BROKEN.map(|rank| self.counts[rank])
    }

    pub(crate) fn in_use_broken(&self) -> usize {
        self.in_use_broken
    }
}
