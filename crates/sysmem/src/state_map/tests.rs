use super::*;
use crate::{ErrorKind, Operation};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::vec::Vec;
use std::{boxed::Box, vec};

/// Nodes on the heap, counted; refuses to give more than `most`.
struct Heap {
    node_bytes: usize,
    most: usize,
    taken: Mutex<BTreeSet<usize>>,
    spare: Mutex<Vec<usize>>,
    alone: Mutex<()>,
}

impl Heap {
    fn new(node_bytes: usize, most: usize) -> Heap {
        Heap {
            node_bytes,
            most,
            taken: Mutex::default(),
            spare: Mutex::default(),
            alone: Mutex::default(),
        }
    }

    fn in_use(&self) -> usize {
        self.taken.lock().unwrap().len()
    }
}

impl NodePool for Heap {
    fn take(&self) -> Result<*mut Node, Error> {
        let mut taken = self.taken.lock().unwrap();
        if taken.len() == self.most {
            let kind = ErrorKind::OutOfMemory { errno: None, limit: None };
            return Err(Error::new(Operation::Alloc, 0, self.node_bytes, kind));
        }
        let words = self.node_bytes / size_of::<Node>();
        // What a node held before must not matter.
        let node = self.spare.lock().unwrap().pop().unwrap_or_else(|| {
            let node: Vec<Node> = (0..words).map(|_| Node::new(0x5a5a_5a5a_5a5a_5a5a)).collect();
            Box::into_raw(node.into_boxed_slice()).cast::<Node>().expose_provenance()
        });
        assert!(taken.insert(node));
        Ok(ptr::with_exposed_provenance_mut(node))
    }

    fn give(&self, node: *mut Node) {
        assert!(self.taken.lock().unwrap().remove(&node.addr()), "a node was given back twice");
        self.spare.lock().unwrap().push(node.addr());
    }

    fn alone<R>(&self, change: impl FnOnce() -> R) -> R {
        let _alone = self.alone.lock().unwrap();
        change()
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        let words = self.node_bytes / size_of::<Node>();
        for node in self.spare.get_mut().unwrap().drain(..) {
            let node: *mut Node = ptr::with_exposed_provenance_mut(node);
            // SAFETY: made from a box of that many words in `take`.
            drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(node, words)) });
        }
    }
}

const PREPARED: Page = Page::new(State::Prepared, Protection::ReadWrite);
const READY: Page = Page::new(State::Ready, Protection::ReadWrite);
const PAGES: [Page; 5] = [
    Page::RESERVED,
    PREPARED,
    READY,
    Page::new(State::Ready, Protection::ReadExecute),
    Page::new(State::Prepared, Protection::NoAccess),
];

fn page() -> impl Strategy<Value = Page> {
    prop::sample::select(&PAGES)
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::write!(f, "{:?} {:?}", self.state(), self.protection())
    }
}

/// The run that a plain list says begins at `at`.
fn plain_run(model: &[Page], at: usize, end: usize) -> (Page, usize) {
    let len = model[at..end].iter().take_while(|&&page| page == model[at]).count();
    (model[at], at + len)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nodes of 64 bytes make trees of three levels out of a few thousand pages.
    #[test]
    fn a_state_map_holds_what_a_plain_list_would(
        npages in prop_oneof![1..129usize, 129..3000usize],
        first in page(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..400usize, page()), 1..40),
        whole in prop::option::of((0..40usize, page())),
    ) {
        let shape = Shape { npages, node_bytes: 64 };
        let pool = Heap::new(64, usize::MAX);
        let map = StateMap::new();
        map.reset(first);
        let mut model = vec![first; npages];
        for (index, (at, len, page)) in changes.into_iter().enumerate() {
            let (mut at, mut page) = (at.index(npages), page);
            let mut end = (at + len).min(npages);
            if let Some((_, uniform)) = whole.filter(|&(when, _)| when == index) {
                (at, end, page) = (0, npages, uniform);
            }
            map.make_room(at, end, shape, &pool).unwrap();
            let nodes = pool.in_use();
            let mut counted = [0; 3];
            model[at..end].iter().for_each(|page| counted[page.state() as usize] += 1);
            prop_assert_eq!(map.count(at, end, shape), counted);
            map.set(at, end, page, shape, &pool);
            model[at..end].fill(page);
            if (at, end) == (0, npages) {
                prop_assert_eq!(pool.in_use(), 0, "a uniform map needs no nodes");
            } else {
                prop_assert_eq!(pool.in_use(), nodes, "set takes no memory");
            }
            let mut at = 0;
            while at < npages {
                let run = map.run(at, npages, shape);
                prop_assert_eq!(run, plain_run(&model, at, npages));
                at = run.1;
            }
            for at in (0..npages).step_by(7) {
                prop_assert_eq!(map.get(at, shape), model[at]);
                let end = (at + 50).min(npages);
                prop_assert_eq!(map.run(at, end, shape), plain_run(&model, at, end));
            }
        }
        map.clear(shape, &pool);
        prop_assert_eq!(pool.in_use(), 0);
    }

    /// What is refused for want of nodes changes no state, and works once there are some.
    #[test]
    fn a_map_that_gets_no_node_says_so_and_stays_as_it_was(
        most in 0..6usize,
        at in 0..900usize,
        len in 1..100usize,
    ) {
        let shape = Shape { npages: 1000, node_bytes: 64 };
        let mut pool = Heap::new(64, most);
        let map = StateMap::new();
        map.reset(READY);
        let end = at + len;
        if map.make_room(at, end, shape, &pool).is_err() {
            prop_assert_eq!(map.run(0, 1000, shape), (READY, 1000));
            pool.most = usize::MAX;
            map.make_room(at, end, shape, &pool).unwrap();
        }
        map.set(at, end, PREPARED, shape, &pool);
        prop_assert_eq!(map.run(at, 1000, shape), (PREPARED, end));
        map.clear(shape, &pool);
        prop_assert_eq!(pool.in_use(), 0);
    }

    /// A reservation of a tebibyte costs nodes only where its states differ.
    #[test]
    fn a_tebibyte_is_cheap_where_nothing_differs(
        changes in prop::collection::vec((0..1usize << 28, 1..100_000usize, page()), 1..12),
        looks in prop::collection::vec(0..1usize << 28, 40),
    ) {
        let npages = 1 << 28;
        let shape = Shape { npages, node_bytes: 4096 };
        let pool = Heap::new(4096, usize::MAX);
        let map = StateMap::new();
        map.reset(Page::RESERVED);
        prop_assert_eq!(map.run(0, npages, shape), (Page::RESERVED, npages));
        let mut done: Vec<(usize, usize, Page)> = Vec::new();
        for (at, len, page) in changes {
            let end = (at + len).min(npages);
            map.make_room(at, end, shape, &pool).unwrap();
            map.set(at, end, page, shape, &pool);
            done.push((at, end, page));
        }
        let expected = |at: usize| {
            let last = done.iter().rev().find(|&&(start, end, _)| start <= at && at < end);
            last.map_or(Page::RESERVED, |&(_, _, page)| page)
        };
        // A leaf covers 8,192 pages, and the two levels above it few more.
        let leaves: usize = done.iter().map(|&(at, end, _)| (end - at) / 8192 + 2).sum();
        prop_assert!(pool.in_use() <= leaves + 1 + done.len() * 2);
        let borders = done.iter().flat_map(|&(at, end, _)| [at, end - 1, end]);
        for at in looks.into_iter().chain(borders).filter(|&at| at < npages) {
            let (page, end) = map.run(at, npages, shape);
            prop_assert_eq!(page, expected(at));
            prop_assert_eq!(map.get(at, shape), page);
            prop_assert!(end == npages || expected(end) != page);
            prop_assert_eq!(expected(end - 1), page);
            prop_assert_eq!(expected(at + (end - at) / 2), page);
        }
        map.clear(shape, &pool);
        prop_assert_eq!(pool.in_use(), 0);
    }
}

#[test]
fn threads_that_change_neighbouring_pages_do_not_disturb_each_other() {
    let npages = 1200;
    let shape = Shape { npages, node_bytes: 64 };
    let pool = Heap::new(64, usize::MAX);
    let map = StateMap::new();
    map.reset(Page::RESERVED);
    thread::scope(|scope| {
        // Ranges of 5 pages share words of 16 with their neighbours.
        for thread in 0..4 {
            let (map, pool) = (&map, &pool);
            scope.spawn(move || {
                for round in 0..30 {
                    let page = PAGES[(thread + round) % PAGES.len()];
                    for at in (thread * 5..npages).step_by(20) {
                        map.make_room(at, at + 5, shape, pool).unwrap();
                        map.set(at, at + 5, page, shape, pool);
                        assert_eq!(map.run(at, at + 5, shape), (page, at + 5));
                    }
                }
            });
        }
    });
    for at in 0..npages {
        assert_eq!(map.get(at, shape), PAGES[(at / 5 % 4 + 29) % PAGES.len()]);
    }
    map.clear(shape, &pool);
    assert_eq!(pool.in_use(), 0);
}
