//! Caches and the heap below them on a simulated kernel that refuses, held against a plain model:
//! the runs that are held, and what was written to them.

mod properties;

use std::collections::BTreeMap;
use std::ptr::NonNull;

use properties::config;
use proptest::prelude::*;
use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, Faulty, LazilyFreed, Settings, Simulated};
use sysmem::{Errno, ErrorKind, GiveBack};
use sysmem_pages::{
    Accounts, MapCell, Options, PageCache, PageHeap, ReleaseOnFree, Run, Scavenger, Statistics,
};

type Kernel = Faulty<Simulated>;
type Heap = PageHeap<Linux<Kernel>>;

const MIB: usize = 1 << 20;
const ENOMEM: Errno = Errno(12);
const CACHES: usize = 3;

/// Where a run is asked for or freed: a cache, or the heap itself.
type Place = Option<usize>;

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        place: Place,
        npages: usize,
        align_pages: usize,
    },
    Free {
        place: Place,
        which: usize,
    },
    /// Many of one length in a row, so that caches are refilled and flushed.
    AllocateMany {
        place: Place,
        npages: usize,
        count: usize,
    },
    FreeMany {
        place: Place,
        count: usize,
    },
    Drain {
        cache: usize,
    },
    Renew {
        cache: usize,
    },
    DrainAll,
    Release {
        npages: usize,
    },
    ReleaseAll,
    Scavenge {
        steps: usize,
    },
    /// The given call from here fails, and so many after it.
    FailSoon {
        calls: usize,
        failures: usize,
    },
    /// What is mapped may grow by so much.
    LimitMapped {
        bytes: usize,
    },
    /// What is in use may grow by so much.
    LimitHeap {
        npages: usize,
    },
    NoLimits,
}

struct Model<'heap> {
    heap: &'heap Heap,
    kernel: Kernel,
    caches: Vec<PageCache<'heap, Linux<Kernel>>>,
    scavenger: Scavenger,
    page_size: usize,
    /// By address: pages, and what was written to each.
    held: BTreeMap<usize, (Run, u64)>,
    in_use: usize,
    stamps: u64,
    allocations: u64,
    frees: u64,
    refusals: bool,
}

impl Model<'_> {
    fn words(&self, run: Run, page: usize) -> [NonNull<u64>; 2] {
        // SAFETY: both words lie in the page of the run.
        unsafe {
            let start = run.start.add(page * self.page_size).cast();
            [start, start.add(self.page_size / 8 - 1)]
        }
    }

    fn allocate(&mut self, place: Place, npages: usize, align_pages: usize) {
        let align = align_pages * self.page_size;
        let answer = match place {
            Some(cache) => self.caches[cache].allocate(npages, align),
            None => self.heap.allocate(npages, align),
        };
        let run = match answer {
            Ok(run) => run,
            Err(error) => {
                assert!(self.refusals, "nothing refuses, but: {error}");
                assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
                // What was in caches was of no use either.
                assert_eq!(self.heap.statistics().cached, 0);
                return;
            }
        };
        let address = run.start.addr().get();
        assert_eq!((run.npages, address % align), (npages, 0));
        let end = address + npages * self.page_size;
        let before = self.held.range(..end).next_back();
        let overlaps =
            before.is_some_and(|(start, (run, _))| start + run.npages * self.page_size > address);
        assert!(!overlaps, "pages of a run at {address:#x} are held already");
        self.stamps += 1;
        for page in 0..npages {
            for word in self.words(run, page) {
                // SAFETY: the run is Ready memory and the model's alone.
                unsafe {
                    assert!(!run.zeroed || word.read() == 0, "page {page} called zero");
                    word.write(self.stamps << 20 | page as u64);
                }
            }
        }
        self.held.insert(address, (run, self.stamps));
        self.in_use += npages;
        self.allocations += 1;
    }

    fn free(&mut self, place: Place, which: usize) {
        let Some(&address) = self.held.keys().nth(which % self.held.len().max(1)) else { return };
        let Some((run, stamp)) = self.held.remove(&address) else { return };
        for page in 0..run.npages {
            for word in self.words(run, page) {
                // SAFETY: as in `allocate`.
                assert_eq!(unsafe { word.read() }, stamp << 20 | page as u64);
            }
        }
        // SAFETY: a run that the model held, and holds no more.
        unsafe {
            match place {
                Some(cache) => self.caches[cache].free(run.start, run.npages),
                None => self.heap.free(run.start, run.npages),
            }
        }
        .unwrap();
        self.in_use -= run.npages;
        self.frees += 1;
    }

    fn step(&mut self, step: &Step) {
        let settings = self.kernel.kernel();
        match *step {
            Step::Allocate { place, npages, align_pages } => {
                self.allocate(place, npages, align_pages)
            }
            Step::Free { place, which } => self.free(place, which),
            Step::AllocateMany { place, npages, count } => {
                (0..count).for_each(|_| self.allocate(place, npages, 1));
            }
            Step::FreeMany { place, count } => {
                (0..count).for_each(|which| self.free(place, which * 7));
            }
            Step::Drain { cache } => {
                let before = self.heap.statistics().cached;
                self.caches[cache].drain().unwrap();
                assert!(self.heap.statistics().cached <= before);
            }
            Step::Renew { cache } => {
                // One more for a moment: its records may be refused.
                if let Ok(renewed) = self.heap.cache() {
                    self.caches[cache] = renewed;
                }
            }
            Step::DrainAll => {
                let before = self.heap.statistics();
                assert_eq!(self.heap.drain_caches() as u64, before.cached);
                let after = self.heap.statistics();
                assert_eq!((after.cached, after.in_use), (0, before.in_use));
            }
            Step::Release { npages } => drop(self.heap.release(npages * self.page_size)),
            Step::ReleaseAll => {
                self.heap.release_all();
                let after = self.heap.statistics();
                assert!(after.cached == 0 && (after.free_backed == 0 || self.refusals));
            }
            Step::Scavenge { steps } => {
                for _ in 0..steps {
                    let wait = self.scavenger.step(self.heap);
                    settings.advance(wait.unwrap_or_default());
                }
            }
            Step::FailSoon { calls, failures } if self.refusals => {
                self.kernel.fail_when(move |index, _| {
                    (calls..calls + failures).contains(&index).then_some(ENOMEM)
                })
            }
            Step::LimitMapped { bytes } if self.refusals => {
                let mapped = settings.totals().mapped;
                settings.set(|settings| settings.address_space_limit = (mapped + bytes) as u64);
            }
            Step::LimitHeap { npages } if self.refusals => {
                let limit = (self.in_use + npages) * self.page_size;
                self.heap.set_limit(limit, limit);
            }
            Step::NoLimits => self.no_limits(),
            _ => {}
        }
        self.check();
    }

    fn no_limits(&self) {
        self.kernel.fail_nothing();
        self.kernel.kernel().set(|settings| settings.address_space_limit = u64::MAX);
        self.heap.set_limit(usize::MAX, usize::MAX);
    }

    /// Holds figures and the map against the model, and the heap against itself.
    fn check(&self) {
        self.heap.verify().unwrap_or_else(|error| panic!("{error}"));
        let now = self.heap.statistics();
        assert_eq!(now.in_use, (self.in_use * self.page_size) as u64);
        let Statistics { in_use, cached, free_backed, given_back, unmapped, .. } = now;
        assert_eq!(now.reserved, in_use + cached + free_backed + given_back + unmapped);
        assert!(cached <= (CACHES * PageCache::<Linux<Kernel>>::LONGEST * 2 * MIB) as u64);
        assert_eq!((now.allocations, now.frees), (self.allocations, self.frees));
        let mut cells = vec![MapCell::default(); self.heap.map(&mut [])];
        self.heap.map(&mut cells);
        let pages: u64 = cells.iter().map(|cell| cell.in_use as u64).sum();
        assert_eq!(pages * self.page_size as u64, in_use + cached);
    }
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![1 => Just(None), 4 => (0..CACHES).prop_map(Some)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cache = 0..CACHES;
    let npages = prop_oneof![12 => 1usize..=16, 1 => 17usize..=300];
    let step = prop_oneof![
        8 => (place(), npages, 0u32..=1).prop_map(|(place, npages, align)| Step::Allocate {
            place,
            npages,
            align_pages: 1 << align,
        }),
        8 => (place(), any::<usize>()).prop_map(|(place, which)| Step::Free { place, which }),
        5 => (place(), 1usize..=16, 1usize..=40)
            .prop_map(|(place, npages, count)| Step::AllocateMany { place, npages, count }),
        5 => (place(), 1usize..=60).prop_map(|(place, count)| Step::FreeMany { place, count }),
        1 => cache.clone().prop_map(|cache| Step::Drain { cache }),
        1 => cache.prop_map(|cache| Step::Renew { cache }),
        1 => Just(Step::DrainAll),
        1 => (1usize..=600).prop_map(|npages| Step::Release { npages }),
        1 => Just(Step::ReleaseAll),
        2 => (1usize..=8).prop_map(|steps| Step::Scavenge { steps }),
        3 => (0usize..=4, 1usize..=4)
            .prop_map(|(calls, failures)| Step::FailSoon { calls, failures }),
        1 => (0..=4 * MIB).prop_map(|bytes| Step::LimitMapped { bytes }),
        1 => (0usize..=200).prop_map(|npages| Step::LimitHeap { npages }),
        1 => Just(Step::NoLimits),
    ];
    prop::collection::vec(step, 1..80)
}

fn settings() -> impl Strategy<Value = (Settings, Options)> {
    let page_size = prop_oneof![4 => Just(4usize << 10), 1 => Just(16 << 10), 1 => Just(64 << 10)];
    let give_back = prop_oneof![Just(GiveBack::Eager), Just(GiveBack::Lazy)];
    let release_on_free = prop_oneof![
        Just(ReleaseOnFree::Never),
        Just(ReleaseOnFree::Above { bytes: MIB, divisor: 4 }),
    ];
    (any::<u64>(), page_size, give_back, release_on_free).prop_map(
        |(seed, page_size, give_back, release_on_free)| {
            let settings = Settings {
                seed,
                backing: Backing::Real,
                page_size,
                huge_page_size: (seed % 5 != 0).then_some(2 * MIB),
                lazily_freed: LazilyFreed::Adversarial,
                clock_stands: true,
                ..Settings::heap(2048 * MIB)
            };
            (settings, Options::new().give_back(give_back).release_on_free(release_on_free))
        },
    )
}

fn run(settings: Settings, options: Options, steps: &[Step], refusals: bool) {
    let kernel = Faulty::new(Simulated::new(settings));
    let accounts: &'static Accounts = Box::leak(Box::new(Accounts::new("model", "records")));
    let heap = PageHeap::new(Linux::new(kernel.clone()), accounts, options);
    let mut model = Model {
        heap: &heap,
        caches: (0..CACHES).map(|_| heap.cache().unwrap()).collect(),
        scavenger: Scavenger::new(),
        page_size: heap.page_size(),
        held: BTreeMap::new(),
        in_use: 0,
        stamps: 0,
        allocations: 0,
        frees: 0,
        refusals,
        kernel,
    };
    steps.iter().for_each(|step| model.step(step));
    model.no_limits();
    while !model.held.is_empty() {
        model.free(Some(model.held.len() % CACHES), 0);
    }
    // Caches and heap still work, whatever was refused before.
    for cache in 0..CACHES {
        model.allocate(Some(cache), 3, 1);
        model.free(Some(cache), 0);
    }
    model.check();
    model.caches.clear();
    model.check();
    let now = heap.statistics();
    assert_eq!((now.in_use, now.cached), (0, 0));
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn caches_and_the_heap_agree_after_every_step(
        (settings, options) in settings(),
        steps in steps(),
    ) {
        run(settings, options, &steps, false);
    }

    #[test]
    fn refusals_while_caches_are_refilled_and_flushed_lose_nothing(
        (settings, options) in settings(),
        steps in steps(),
    ) {
        run(settings, options, &steps, true);
    }
}
