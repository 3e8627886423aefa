//! Huge pages that the heap gets and that go again.

use core::ops::Range;
use core::ptr::{self, NonNull};

use sysmem::{Account, Error, Os};

use crate::free_runs::FreeRuns;
use crate::metadata::Metadata;
use crate::standing::CLASSES;
use crate::tree::{BITS, FANOUT, Head, Leaf, Node, Tree, child_len};

impl Tree {
    /// Makes room for huge pages, so that [`map`](Tree::map) needs no memory.
    pub(crate) fn make_room<O: Os + Clone>(
        &mut self,
        blocks: Range<usize>,
        metadata: &mut Metadata<O>,
        os: &O,
        account: &'static Account,
    ) -> Result<(), Error> {
        for leaf in blocks.start / FANOUT..blocks.end.div_ceil(FANOUT) {
            if self.root.is_null() {
                // All zeros: a leaf that has no pages.
                let new: NonNull<Leaf> = metadata.take(1, os, account)?;
                (self.root, self.height, self.prefix) = (new.as_ptr().cast(), 0, leaf);
            }
            while !self.covers(leaf) {
                // All zeros: a node without children.
                let new: NonNull<Node> = metadata.take(1, os, account)?;
                self.raise_root(new);
            }
            let mut at = self.root;
            for height in (1..=self.height).rev() {
                let (above, slot): (*mut Node, _) = (at.cast(), Self::slot(leaf, height));
                // SAFETY: a node of this tree, which is borrowed mutably.
                let child = unsafe { &mut (*above).children[slot] };
                if child.is_null() {
                    let new: NonNull<Head> = if height > 1 {
                        metadata.take::<Node>(1, os, account)?.cast()
                    } else {
                        metadata.take::<Leaf>(1, os, account)?.cast()
                    };
                    *child = new.as_ptr();
                    // SAFETY: room for a node or leaf.
                    unsafe { ((*new.as_ptr()).above, (*new.as_ptr()).slot) = (above, slot) };
                }
                at = *child;
            }
        }
        Ok(())
    }

    /// Puts a node above the root.
    fn raise_root(&mut self, mut new: NonNull<Node>) {
        // SAFETY: room for a node, all zeros.
        let node = unsafe { new.as_mut() };
        let slot = self.prefix % FANOUT;
        // SAFETY: the root of this tree, which is borrowed mutably; it is not null.
        let root = unsafe { &mut *self.root };
        (root.above, root.slot) = (new.as_ptr(), slot);
        for (word, below) in node.head.sets.iter_mut().zip(&root.sets) {
            *word = u64::from(*below != 0) << slot;
        }
        (node.children[slot], node.runs[slot]) = (self.root, self.runs);
        (self.height, self.prefix) = (self.height + 1, self.prefix >> BITS);
        self.runs = FreeRuns::of_row(&node.runs, child_len(self.height));
        self.root = new.as_ptr().cast();
    }

    /// Notes that pages of a huge page, for which there is room, are mapped: free, not backed, and
    /// zero or not. `joined` says whether a run may reach them from the huge page before.
    pub(crate) fn map(
        &mut self,
        block: usize,
        (at, len): (usize, usize),
        zero: bool,
        joined: bool,
    ) {
        let Some(place) = self.place(block) else { return };
        // SAFETY: a leaf of this tree, which is borrowed mutably.
        let leaf = unsafe { &mut *place.leaf };
        leaf.joined |= u64::from(joined) << place.slot();
        leaf.present |= 1 << place.slot();
        self.change_at(place, |block| block.map(at, len, zero));
        // SAFETY: as above.
        self.runs_changed(unsafe { &*place.leaf });
    }

    /// Takes out pages of a huge page, all of them free, whose reservation is to go. Until it went
    /// or not there is room for them.
    pub(crate) fn withdraw(&mut self, block: usize, at: usize, len: usize) {
        let Some(place) = self.place(block) else { return };
        self.change_at(place, |block| block.unmap(at, len));
        // SAFETY: a leaf of this tree, which is borrowed mutably.
        let leaf = unsafe { &mut *place.leaf };
        leaf.withdrawn += 1;
        leaf.joined &= !(u64::from(at == 0) << place.slot());
        let page = &leaf.blocks[place.slot()];
        if page.in_use() + page.count_free() == 0 {
            leaf.present &= !(1 << place.slot());
        }
        self.runs_changed(leaf);
    }

    /// Enters pages again that were withdrawn, as [`map`](Tree::map) does: none known to be zero.
    pub(crate) fn restore(&mut self, block: usize, (at, len): (usize, usize), joined: bool) {
        self.map(block, (at, len), false, joined);
        if let Some(place) = self.place(block) {
            // SAFETY: as above.
            unsafe { (*place.leaf).withdrawn -= 1 };
        }
    }

    /// Ends pages that were withdrawn. Lets go of the leaf if none of its huge pages has a page, and
    /// of the nodes above it that have no other.
    pub(crate) fn forget<O: Os + Clone>(&mut self, block: usize, metadata: &mut Metadata<O>) {
        let Some(place) = self.place(block) else { return };
        // SAFETY: as above.
        let leaf = unsafe { &mut *place.leaf };
        leaf.withdrawn -= 1;
        if leaf.present != 0 || leaf.withdrawn != 0 {
            return;
        }
        let (mut above, mut slot) = (leaf.head.above, leaf.head.slot);
        // SAFETY: `make_room` took it, and nothing leads to it after this.
        unsafe { metadata.give(NonNull::from(leaf), 1) };
        loop {
            // SAFETY: as above.
            let Some(node) = (unsafe { above.as_mut() }) else {
                // The root is gone.
                self.root = ptr::null_mut();
                (self.ranks, self.classes, self.runs) = ([0; CLASSES], 0, FreeRuns::NONE);
                return;
            };
            node.children[slot] = ptr::null_mut();
            if node.children.iter().any(|child| !child.is_null()) {
                break;
            }
            let next = (node.head.above, node.head.slot);
            // SAFETY: as above.
            unsafe { metadata.give(NonNull::from(node), 1) };
            (above, slot) = next;
        }
        self.lower_root(metadata);
    }

    /// Lets go of nodes above the one below which everything is.
    fn lower_root<O: Os + Clone>(&mut self, metadata: &mut Metadata<O>) {
        while self.height > 0 {
            // SAFETY: the root of this tree, which is borrowed mutably.
            let root = unsafe { &mut *self.root.cast::<Node>() };
            let mut children = root.children.iter().enumerate().filter(|child| !child.1.is_null());
            let (Some((slot, &child)), None) = (children.next(), children.next()) else { return };
            // SAFETY: a child of this tree.
            unsafe { (*child).above = ptr::null_mut() };
            self.runs = root.runs[slot];
            (self.height, self.prefix) = (self.height - 1, self.prefix << BITS | slot);
            // SAFETY: as above.
            unsafe { metadata.give(NonNull::from(root), 1) };
            self.root = child;
        }
    }
}
