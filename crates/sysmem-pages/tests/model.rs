//! The page heap on a simulated kernel, held against a plain model: a list of pages for each
//! reservation.

#[path = "model/checks.rs"]
mod checks;
#[path = "model/pages.rs"]
mod pages;
#[path = "model/places.rs"]
mod places;
mod properties;
#[path = "model/steps.rs"]
mod steps;
#[path = "model/systems.rs"]
mod systems;

use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use properties::config;
use proptest::prelude::*;
use sysmem::sim::{self, Backing, Call, Faulty, LazilyFreed, Settings, Simulated};
use sysmem::{Errno, ErrorKind, GiveBack, Operation, Os, State, huge};
use sysmem_pages::{
    Accounts, HugePages, MapCell, Options, PageHeap, ReleaseOnFree, Residency, Run, Statistics,
};
use systems::{Kernel, System};

const MIB: usize = 1 << 20;
const ENOMEM: Errno = Errno(12);
/// Pages of a huge page, as the heap has them.
const WHOLE: usize = 256;

/// What the model knows of a page.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Unmapped,
    InUse,
    Free {
        backed: bool,
        dirty: bool,
    },
    /// Of a reservation that the system lost a part of, and out of the heap for good.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    start: NonNull<u8>,
    npages: usize,
    stamp: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        npages: usize,
        align_pages: usize,
    },
    Free {
        which: usize,
    },
    Extend {
        which: usize,
        more: usize,
    },
    Shrink {
        which: usize,
        less: usize,
    },
    Release {
        npages: usize,
    },
    ReleaseAll,
    /// The given call from here fails, and so many after it.
    FailSoon {
        calls: usize,
        more: usize,
    },
    /// So many bytes beyond what is mapped may be, and be writable.
    Limit {
        address_space: usize,
        data: usize,
    },
    Pressure,
}

#[derive(Clone, Debug)]
struct Setting {
    settings: Settings,
    options: Options,
    /// Calls fail or limits refuse: what happened is then read from the states.
    refusals: bool,
}

struct Model<S: System> {
    heap: PageHeap<S::Os>,
    os: S::Os,
    kernel: Kernel<S>,
    accounts: &'static Accounts,
    setting: Setting,
    page_size: usize,
    regions: BTreeMap<usize, Vec<Page>>,
    /// Those of them that the system lost a part of.
    lost: BTreeSet<usize>,
    /// Huge pages of which a part was given back while others stayed.
    broken: BTreeSet<usize>,
    held: Vec<Held>,
    stamps: u64,
    before: Statistics,
    peak: u64,
    /// Bytes that the kernel was to unmap and did not. Below the heap an aligned reservation cuts
    /// off what is too much, and where it must not, that stays mapped.
    not_unmapped: Arc<AtomicUsize>,
}

impl<S: System> Model<S> {
    fn new(setting: Setting) -> Model<S> {
        let kernel = Faulty::new(Simulated::start(setting.settings.clone()));
        let os = S::os(kernel.clone());
        let accounts: &'static Accounts = Box::leak(Box::new(Accounts::new("model", "records")));
        let heap = PageHeap::new(os.clone(), accounts, setting.options);
        let page_size = heap.page_size();
        assert_eq!(page_size, setting.settings.page_size.max(8192));
        let (before, regions) = (heap.statistics(), BTreeMap::new());
        Model {
            heap,
            os,
            kernel,
            accounts,
            setting,
            page_size,
            regions,
            lost: BTreeSet::new(),
            broken: BTreeSet::new(),
            held: Vec::new(),
            stamps: 0,
            before,
            peak: 0,
            not_unmapped: Arc::default(),
        }
    }
}

fn steps(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let npages = prop_oneof![
        12 => 1usize..=16,
        4 => 1usize..=300,
        2 => 1..=longest,
    ];
    let align = prop_oneof![6 => Just(0u32), 3 => 0u32..=4, 1 => 0u32..=10];
    let step = prop_oneof![
        10 => (npages, align).prop_map(|(npages, align)| Step::Allocate {
            npages,
            align_pages: 1 << align,
        }),
        7 => any::<usize>().prop_map(|which| Step::Free { which }),
        3 => (any::<usize>(), 0usize..=40).prop_map(|(which, more)| Step::Extend { which, more }),
        2 => (any::<usize>(), 0usize..=400).prop_map(|(which, less)| Step::Shrink { which, less }),
        2 => (1usize..=600).prop_map(|npages| Step::Release { npages }),
        1 => Just(Step::ReleaseAll),
        2 => (0usize..=6, 0usize..=2).prop_map(|(calls, more)| Step::FailSoon { calls, more }),
        1 => (0..=8 * MIB, 0..=4 * MIB)
            .prop_map(|(address_space, data)| Step::Limit { address_space, data }),
        1 => Just(Step::Pressure),
    ];
    prop::collection::vec(step, 1..120)
}

fn setting(space: usize, backing: Backing, refusals: bool) -> impl Strategy<Value = Setting> {
    let page_size = prop_oneof![5 => Just(4usize << 10), 1 => Just(16 << 10), 1 => Just(64 << 10)];
    let give_back = prop_oneof![Just(GiveBack::Eager), Just(GiveBack::Lazy)];
    let huge_pages = prop_oneof![Just(HugePages::System), Just(HugePages::Advise)];
    let release_on_free = prop_oneof![
        Just(ReleaseOnFree::Never),
        (0..4 * MIB, 1usize..8)
            .prop_map(|(bytes, divisor)| ReleaseOnFree::Above { bytes, divisor }),
    ];
    let options = (give_back, huge_pages, release_on_free);
    (any::<u64>(), page_size, options, any::<bool>()).prop_map(
        move |(seed, page_size, (give_back, huge_pages, release_on_free), batches)| Setting {
            settings: Settings {
                seed,
                backing,
                page_size,
                version: if batches { (6, 18) } else { (5, 10) },
                short_counts: seed % 3 == 0,
                huge_page_size: (seed % 5 != 0).then_some(2 * MIB),
                lazily_freed: LazilyFreed::Adversarial,
                ..Settings::heap(space)
            },
            options: Options::new()
                .give_back(give_back)
                .huge_pages(huge_pages)
                .release_on_free(release_on_free),
            refusals,
        },
    )
}

fn run<S: System>(setting: Setting, steps: &[Step]) {
    let mut model = Model::<S>::new(setting);
    for step in steps {
        model.step(step);
    }
    model.finish();
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn every_step_does_what_the_model_does(
        setting in setting(2048 * MIB, Backing::Real, false),
        steps in steps(5000),
    ) {
        run::<sim::Linux>(setting, &steps);
    }

    #[test]
    fn refusals_change_nothing_and_leak_nothing(
        setting in setting(2048 * MIB, Backing::Real, true),
        steps in steps(5000),
    ) {
        run::<sim::Linux>(setting, &steps);
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn no_page_is_written_to_that_is_not_handed_out(
        setting in setting(192 * MIB, Backing::Heap, false),
        steps in steps(300),
    ) {
        run::<sim::Linux>(setting, &steps);
    }
}

/// A few cases of each kind on every other system.
macro_rules! on_other_systems {
    ($($module:ident: $name:ident,)*) => {$(
        mod $module {
            use super::*;

            proptest! {
                #![proptest_config(config(4))]

                #[test]
                fn every_step_does_what_the_model_does(
                    setting in setting(2048 * MIB, Backing::Real, false),
                    steps in steps(5000),
                ) {
                    run::<sim::$name>(setting, &steps);
                }

                #[test]
                fn refusals_change_nothing_and_leak_nothing(
                    setting in setting(2048 * MIB, Backing::Real, true),
                    steps in steps(5000),
                ) {
                    run::<sim::$name>(setting, &steps);
                }
            }
        }
    )*};
}

on_other_systems! {
    freebsd_: FreeBsd,
    netbsd_: NetBsd,
    openbsd_: OpenBsd,
    dragonfly_: DragonFly,
    illumos_: Illumos,
    darwin_: Darwin,
    windows_: Windows,
}
