//! A mark-sweep collector: objects in blocks of a page heap, the stack for marking in a
//! reservation. Builds trees, drops most of them, and shows that the resident set falls with each
//! collection.
//!
//! ```sh
//! cargo run --release -p sysmem-runtime --example gc
//! ```

use std::ptr::{self, NonNull};

use sysmem::usage::{self, Detail, Process};
use sysmem::{Account, Error, Native, Protection, Reservation, ReserveOptions};
use sysmem_pages::{Accounts, Options, PAGE, PageHeap, ReleaseOnFree};
use sysmem_runtime::VmVec;

static OBJECTS: Accounts = Accounts::new("objects", "objects: records");
static MARKING: Account = Account::new("mark stack");
static HEAP: PageHeap<Native> =
    PageHeap::new(Native::NEW, &OBJECTS, Options::new().release_on_free(ReleaseOnFree::Never));

/// What the program allocates: a node of a tree.
#[repr(C, align(64))]
struct Node {
    children: [*mut Node; 2],
    value: u64,
}

/// A block is aligned to its length, so that a node's address tells its block.
const BLOCK_PAGES: usize = 8;
const BLOCK: usize = BLOCK_PAGES * PAGE;
const NODES: usize = BLOCK / size_of::<Node>();
/// The header takes the place of the first nodes.
const FIRST: usize = size_of::<Header>().div_ceil(size_of::<Node>());

#[repr(C)]
struct Header {
    marks: [u64; NODES / 64],
}

/// A stack of nodes to look at, as deep as the heap is large if it must be: 4 GiB of address
/// space, committed in steps and given back when marking ends.
struct MarkStack {
    memory: Reservation,
    ready: usize,
    len: usize,
}

impl MarkStack {
    const STEP: usize = 256 << 10;

    fn push(&mut self, node: *mut Node) -> Result<(), Error> {
        let end = (self.len + 1) * size_of::<*mut Node>();
        if end > self.ready {
            self.memory.map(self.ready, Self::STEP, Protection::ReadWrite)?;
            self.memory.used(self.ready, Self::STEP)?;
            self.ready += Self::STEP;
        }
        // SAFETY: there is Ready memory for one more.
        unsafe { self.memory.as_mut_ptr().cast::<*mut Node>().add(self.len).write(node) };
        self.len += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<*mut Node> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: it was pushed.
        Some(unsafe { self.memory.as_mut_ptr().cast::<*mut Node>().add(self.len).read() })
    }
}

struct Collector {
    blocks: VmVec<NonNull<u8>>,
    /// Free nodes, linked through their first child.
    free: *mut Node,
    stack: MarkStack,
}

impl Collector {
    fn new() -> Result<Collector, Error> {
        let memory = Reservation::reserve(ReserveOptions::new(4 << 30), &MARKING)?;
        let stack = MarkStack { memory, ready: 0, len: 0 };
        Ok(Collector { blocks: VmVec::with_capacity(1 << 24)?, free: ptr::null_mut(), stack })
    }

    fn node(block: NonNull<u8>, index: usize) -> *mut Node {
        block.as_ptr().cast::<Node>().wrapping_add(index)
    }

    /// A new node. Nothing is collected here: the program says when.
    fn allocate(&mut self, children: [*mut Node; 2], value: u64) -> Result<*mut Node, Error> {
        if self.free.is_null() {
            let block = HEAP.allocate(BLOCK_PAGES, BLOCK)?.start;
            self.blocks.push(block)?;
            // SAFETY: a new block, which begins with its header.
            unsafe { block.cast::<Header>().as_ptr().write_bytes(0, 1) };
            for index in (FIRST..NODES).rev() {
                self.link(Self::node(block, index));
            }
        }
        let node = self.free;
        // SAFETY: a free node, linked through its first child.
        unsafe {
            self.free = (*node).children[0];
            node.write(Node { children, value });
        }
        Ok(node)
    }

    fn link(&mut self, node: *mut Node) {
        // SAFETY: a node of a block that nobody uses.
        unsafe { node.write(Node { children: [self.free, ptr::null_mut()], value: 0 }) };
        self.free = node;
    }

    /// The word that holds the mark of a node, and its bit.
    fn mark_of(node: *mut Node) -> (*mut u64, u64) {
        let index = (node.addr() & (BLOCK - 1)) / size_of::<Node>();
        let header: *mut u64 = node.map_addr(|address| address & !(BLOCK - 1)).cast();
        (header.wrapping_add(index / 64), 1 << (index % 64))
    }

    /// Frees what cannot be reached from `roots`; returns how many nodes live.
    fn collect(&mut self, roots: &[*mut Node]) -> Result<usize, Error> {
        for &root in roots {
            self.stack.push(root)?;
        }
        let mut live = 0;
        while let Some(node) = self.stack.pop() {
            let (word, bit) = Self::mark_of(node);
            // SAFETY: reachable nodes are in blocks, which begin with their marks.
            unsafe {
                if *word & bit == 0 {
                    *word |= bit;
                    live += 1;
                    for child in (*node).children.into_iter().filter(|child| !child.is_null()) {
                        self.stack.push(child)?;
                    }
                }
            }
        }
        self.stack.memory.fault(0, self.stack.ready.max(MarkStack::STEP))?;
        self.stack.ready = 0;
        self.free = ptr::null_mut();
        let mut index = 0;
        while index < self.blocks.len() {
            let block = self.blocks[index];
            // SAFETY: every block begins with its header.
            let marks = unsafe { &mut block.cast::<Header>().as_mut().marks };
            let marks = std::mem::replace(marks, [0; NODES / 64]);
            if marks.iter().all(|&word| word == 0) {
                // SAFETY: nobody reaches a node of it. A block that was handed out is no misuse.
                let _ = unsafe { HEAP.free(block, BLOCK_PAGES) };
                self.blocks.swap_remove(index);
                continue;
            }
            for node in FIRST..NODES {
                if marks[node / 64] & 1 << (node % 64) == 0 {
                    self.link(Self::node(block, node));
                }
            }
            index += 1;
        }
        HEAP.release_all();
        Ok(live)
    }

    fn tree(&mut self, depth: u32, value: u64) -> Result<*mut Node, Error> {
        let children = match depth {
            0 => [ptr::null_mut(); 2],
            _ => [self.tree(depth - 1, 2 * value)?, self.tree(depth - 1, 2 * value + 1)?],
        };
        self.allocate(children, value)
    }
}

/// MiB in memory.
fn resident() -> Result<u64, Error> {
    let used = usage::process(Process::Own, Detail::Counters)?;
    Ok(used.resident.unwrap_or(0) >> 20)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut collector = Collector::new()?;
    let mut kept = Vec::new();
    for round in 1..=4 {
        // 16 trees of 32,767 nodes, of which one stays.
        let trees = (0..16).map(|_| collector.tree(14, 1)).collect::<Result<Vec<_>, _>>()?;
        kept.push(trees[0]);
        let before = resident()?;
        let live = collector.collect(&kept)?;
        let after = resident()?;
        println!(
            "round {round}: {live} nodes live, resident {before} MiB before, {after} MiB after"
        );
    }
    // SAFETY: the trees that were kept were not freed.
    assert!(kept.iter().all(|&tree| unsafe { (*(*tree).children[1]).value } == 3));
    Ok(())
}
