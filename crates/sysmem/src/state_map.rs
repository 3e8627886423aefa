//! Which state each page of a reservation is in: four bits a page, in a tree that grows only
//! where states differ.
//!
//! A reservation may be terabytes long and mostly untouched, so a page costs nothing until it
//! leaves the state that the whole reservation began in. Small reservations keep their pages in
//! the map itself; larger ones in a tree whose nodes are one page each, taken from the registry
//! and returned to it, never unmapped: a signal handler may be reading them.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering::*};

use crate::{Error, Os, Protection};

/// The state of a page that is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Faults on access, costs no memory.
    Reserved = 0,
    /// Contents forfeit, not to be touched until `used`.
    Prepared = 1,
    /// Accessible with its protection.
    Ready = 2,
}

/// State and protection of one page, in four bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page(u8);

/// In the place of a state: Reserved, on purpose, inside memory that is Ready around it.
const GUARD: u8 = 3;

impl Page {
    pub(crate) const RESERVED: Page = Page::new(State::Reserved, Protection::NoAccess);

    pub(crate) const fn new(state: State, protection: Protection) -> Page {
        Page((state as u8) << 2 | protection as u8)
    }

    pub(crate) const fn state(self) -> State {
        match self.0 >> 2 {
            1 => State::Prepared,
            2 => State::Ready,
            _ => State::Reserved,
        }
    }

    /// A guard in the place of a Ready page that has this protection without it.
    pub(crate) const fn guard(protection: Protection) -> Page {
        Page(GUARD << 2 | protection as u8)
    }

    pub(crate) const fn is_guard(self) -> bool {
        self.0 >> 2 == GUARD
    }

    pub(crate) const fn protection(self) -> Protection {
        Protection::from_bits(self.0)
    }

    /// A word of sixteen such pages.
    const fn word(self) -> u64 {
        self.0 as u64 * 0x1111_1111_1111_1111
    }
}

const PAGES_IN_WORD: usize = 16;
const INLINE_WORDS: usize = 8;
const INLINE_PAGES: usize = INLINE_WORDS * PAGES_IN_WORD;

/// One page of the tree: words of page states in a leaf, pointers to nodes above.
pub(crate) type Node = AtomicU64;

/// Where nodes come from and go to.
pub(crate) trait NodePool {
    /// A node of one page, contents unspecified.
    fn take(&self) -> Result<*mut Node, Error>;
    /// Takes back a node that nobody changes any more; readers may still look at it.
    fn give(&self, node: *mut Node);
    /// Runs `change` while no other thread changes any tree.
    fn alone<R>(&self, change: impl FnOnce() -> R) -> R;
}

/// How large the pieces of a tree are.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    npages: usize,
    node_bytes: usize,
}

impl Shape {
    pub(crate) fn new(npages: usize, os: &impl Os) -> Shape {
        Shape { npages, node_bytes: os.page_size() }
    }

    fn fanout_bits(self) -> u32 {
        (self.node_bytes / size_of::<Node>()).ilog2()
    }

    fn words(self) -> usize {
        self.node_bytes / size_of::<Node>()
    }

    /// Pages that a node covers, `height` levels above the leaves.
    fn reach(self, height: u32) -> usize {
        let bits = (self.fanout_bits() * (height + 1) + PAGES_IN_WORD.ilog2()).min(63);
        1 << bits
    }

    fn root_height(self) -> u32 {
        (0..).find(|&height| self.reach(height) >= self.npages).unwrap_or(0)
    }
}

/// The states of a reservation's pages.
///
/// Distinct ranges may be changed by different threads at the same time; whoever changes a range
/// owns it.
pub(crate) struct StateMap {
    /// What every page is that no node speaks of.
    base: AtomicU8,
    root: AtomicPtr<Node>,
    inline: [AtomicU64; INLINE_WORDS],
}

impl StateMap {
    pub(crate) const fn new() -> StateMap {
        StateMap {
            base: AtomicU8::new(0),
            root: AtomicPtr::new(ptr::null_mut()),
            inline: [const { AtomicU64::new(0) }; INLINE_WORDS],
        }
    }

    /// Makes every page `page`. The map is not in use, and has no nodes.
    pub(crate) fn reset(&self, page: Page) {
        self.base.store(page.0, Relaxed);
        for word in &self.inline {
            word.store(page.word(), Relaxed);
        }
    }

    fn base(&self) -> Page {
        Page(self.base.load(Relaxed))
    }

    /// The words that hold page `at`, and the first page they hold; or, where no node speaks of
    /// it, the page after the last of which the same is true.
    fn look(&self, at: usize, shape: Shape) -> Result<(&[AtomicU64], usize), usize> {
        if shape.npages <= INLINE_PAGES {
            return Ok((&self.inline, 0));
        }
        let mut height = shape.root_height();
        let mut node = self.root.load(Acquire);
        loop {
            let reach = shape.reach(height);
            let first = at & !(reach - 1);
            // SAFETY: a node is `words` words long and never unmapped.
            let words = match unsafe { node.as_ref() } {
                // SAFETY: as above.
                Some(_) => unsafe { core::slice::from_raw_parts(node, shape.words()) },
                None => return Err((first + reach).min(shape.npages)),
            };
            if height == 0 {
                return Ok((words, first));
            }
            height -= 1;
            let child = (at - first) / shape.reach(height);
            node = ptr::with_exposed_provenance_mut(words[child].load(Acquire) as usize);
        }
    }

    /// The state of page `at`.
    pub(crate) fn get(&self, at: usize, shape: Shape) -> Page {
        match self.look(at, shape) {
            Err(_) => self.base(),
            Ok((words, first)) => {
                let index = at - first;
                let word = words[index / PAGES_IN_WORD].load(Relaxed);
                Page((word >> (index % PAGES_IN_WORD * 4)) as u8 & 15)
            }
        }
    }

    /// The state of page `at` and the end of the run of pages from `at`, up to `end`, that are
    /// in the same state.
    pub(crate) fn run(&self, at: usize, end: usize, shape: Shape) -> (Page, usize) {
        let page = self.get(at, shape);
        let mut run_end = at;
        while run_end < end {
            match self.look(run_end, shape) {
                Err(next) if page == self.base() => run_end = next.min(end),
                Err(_) => break,
                Ok((words, first)) => {
                    let last = end.min(first + words.len() * PAGES_IN_WORD);
                    run_end = first + run_in(words, run_end - first, last - first, page);
                    if run_end < last {
                        break;
                    }
                }
            }
        }
        (page, run_end)
    }

    /// How many of the pages are in each state.
    pub(crate) fn count(&self, at: usize, end: usize, shape: Shape) -> [usize; 3] {
        let mut counted = [0; 3];
        let mut at = at;
        while at < end {
            let (page, run_end) = self.run(at, end, shape);
            counted[page.state() as usize] += run_end - at;
            at = run_end;
        }
        counted
    }

    /// Makes sure that [`set`](StateMap::set) on these pages will need no memory.
    pub(crate) fn make_room(
        &self,
        at: usize,
        end: usize,
        shape: Shape,
        pool: &impl NodePool,
    ) -> Result<(), Error> {
        if at == 0 && end == shape.npages {
            return Ok(());
        }
        let mut at = at;
        while at < end {
            match self.look(at, shape) {
                Ok((words, first)) => at = first + words.len() * PAGES_IN_WORD,
                Err(_) => self.grow(at, shape, pool)?,
            }
        }
        Ok(())
    }

    /// Adds the nodes between the root and the leaf that holds page `at`.
    fn grow(&self, at: usize, shape: Shape, pool: &impl NodePool) -> Result<(), Error> {
        let mut height = shape.root_height();
        let node = pool.alone(|| match self.root.load(Acquire) {
            root if !root.is_null() => Ok(root),
            _ => {
                let root = self.blank(height, shape, pool)?;
                self.root.store(root, Release);
                Ok(root)
            }
        });
        let mut node = node?;
        while height > 0 {
            let first = at & !(shape.reach(height) - 1);
            height -= 1;
            // SAFETY: inner nodes are `words` words long.
            let slot = unsafe { &*node.add((at - first) / shape.reach(height)) };
            node = pool.alone(|| match slot.load(Acquire) {
                0 => {
                    let child = self.blank(height, shape, pool)?;
                    slot.store(child.expose_provenance() as u64, Release);
                    Ok(child)
                }
                child => Ok(ptr::with_exposed_provenance_mut(child as usize)),
            })?;
        }
        Ok(())
    }

    /// A node that says of no page anything but `base`.
    fn blank(&self, height: u32, shape: Shape, pool: &impl NodePool) -> Result<*mut Node, Error> {
        let node = pool.take()?;
        let fill = if height == 0 { self.base().word() } else { 0 };
        for index in 0..shape.words() {
            // SAFETY: a node is `words` words long and this one is not in the tree yet.
            unsafe { &*node.add(index) }.store(fill, Relaxed);
        }
        Ok(node)
    }

    /// Makes the pages `page`, for which [`make_room`](StateMap::make_room) was called.
    pub(crate) fn set(
        &self,
        at: usize,
        end: usize,
        page: Page,
        shape: Shape,
        pool: &impl NodePool,
    ) {
        if shape.npages > INLINE_PAGES && at == 0 && end == shape.npages {
            // The whole reservation, which is the caller's alone: no page differs any more.
            self.base.store(page.0, Relaxed);
            self.clear(shape, pool);
            return;
        }
        let mut at = at;
        while at < end {
            let Ok((words, first)) = self.look(at, shape) else { break };
            let last = end.min(first + words.len() * PAGES_IN_WORD);
            set_in(words, at - first, last - first, page);
            at = last;
        }
    }

    /// Returns every node to the pool.
    pub(crate) fn clear(&self, shape: Shape, pool: &impl NodePool) {
        let root = self.root.swap(ptr::null_mut(), AcqRel);
        if !root.is_null() {
            Self::give_back(root, shape.root_height(), shape, pool);
        }
    }

    fn give_back(node: *mut Node, height: u32, shape: Shape, pool: &impl NodePool) {
        if height > 0 {
            for index in 0..shape.words() {
                // SAFETY: inner nodes are `words` words long, and the tree is not in use.
                let child = unsafe { &*node.add(index) }.load(Acquire);
                if child != 0 {
                    let child = ptr::with_exposed_provenance_mut(child as usize);
                    Self::give_back(child, height - 1, shape, pool);
                }
            }
        }
        pool.give(node);
    }
}

/// The end of the run of pages from `at`, up to `end`, that are `page`.
fn run_in(words: &[AtomicU64], at: usize, end: usize, page: Page) -> usize {
    let differ = |word: &AtomicU64| word.load(Relaxed) ^ page.word();
    let begun = at % PAGES_IN_WORD;
    // The pages before `at` are taken to be the same.
    let before = (1 << (begun * 4)) - 1;
    let index = at / PAGES_IN_WORD;
    let mut differing = differ(&words[index]) & !before;
    let mut at = at - begun;
    for word in &words[index + 1..end.div_ceil(PAGES_IN_WORD)] {
        if differing != 0 {
            break;
        }
        at += PAGES_IN_WORD;
        differing = differ(word);
    }
    (at + differing.trailing_zeros() as usize / 4).min(end)
}

/// Makes the pages `page`. Other pages of the first and the last word may be changed by other
/// threads.
fn set_in(words: &[AtomicU64], at: usize, end: usize, page: Page) {
    let some = |index: usize, from: usize, to: usize| {
        let mask = ((1 << ((to - from) * 4)) - 1) << (from * 4);
        let _ = words[index]
            .fetch_update(Relaxed, Relaxed, |word| Some(word & !mask | page.word() & mask));
    };
    let (first, last) = (at / PAGES_IN_WORD, end / PAGES_IN_WORD);
    let (begun, over) = (at % PAGES_IN_WORD, end % PAGES_IN_WORD);
    if first == last {
        return some(first, begun, over);
    }
    if begun != 0 {
        some(first, begun, PAGES_IN_WORD);
    }
    for word in &words[first + (begun != 0) as usize..last] {
        word.store(page.word(), Relaxed);
    }
    if over != 0 {
        some(last, 0, over);
    }
}

#[cfg(test)]
mod tests;
