//! Random operations on reservations over simulated kernels, held against a plain model of the
//! four states: with every kernel there is to be met, and with every call failing in turn.

mod model;
mod operations;

use model::World;
use operations::{Operation, operations};
use proptest::prelude::*;
use sysmem::Errno;
use sysmem::sim::{Backing, Overcommit, Settings, Simulated};

/// Kernels with and without each feature that the backend looks for.
const VERSIONS: [(u32, u32); 7] = [(4, 4), (4, 9), (4, 18), (5, 12), (6, 5), (6, 12), (6, 18)];

fn settings() -> impl Strategy<Value = Settings> {
    let overcommit = prop_oneof![
        Just(Overcommit::Heuristic { memory: 1 << 34 }),
        Just(Overcommit::Always),
        Just(Overcommit::Never { limit: 1 << 34 }),
    ];
    let backing = prop_oneof![
        3 => Just((Backing::Heap, 4096)),
        1 => Just((Backing::Heap, 16384)),
        1 => Just((Backing::Real, 4096)),
        1 => Just((Backing::Real, 16384)),
        1 => Just((Backing::Real, 65536)),
    ];
    let toggles = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (any::<u64>(), backing, prop::sample::select(&VERSIONS), overcommit, toggles).prop_map(
        |(seed, (backing, page_size), version, overcommit, toggles)| {
            let (huge, proc_mounted, short_counts, names, locked) = toggles;
            Settings {
                seed,
                backing,
                page_size,
                version,
                overcommit,
                huge_page_size: huge.then_some(2 << 20),
                proc_mounted,
                short_counts,
                mapping_names: names,
                // Before 5.18 locked memory cannot be given back: see tests/limits.rs.
                lock_new_mappings: locked && version >= (5, 18),
                ..match backing {
                    Backing::Heap => Settings::heap(2048 * page_size),
                    Backing::Real => Settings::real(1 << 34),
                }
            }
        },
    )
}

fn world(settings: &Settings) -> World {
    World::new(Simulated::new(settings.clone()), settings.overcommit, settings.proc_mounted)
}

fn run(world: &mut World, operations: &[Operation]) {
    let mut reservations = 0;
    for operation in operations {
        // At most three at a time, so that the address space suffices.
        match operation {
            Operation::Reserve { .. } | Operation::Alloc { .. } if reservations == 3 => continue,
            Operation::Reserve { .. } | Operation::Alloc { .. } => reservations += 1,
            Operation::Free { .. } if reservations > 0 => reservations -= 1,
            _ => {}
        }
        world.perform(operation);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reservations_do_what_the_model_of_four_states_says(
        settings in settings(),
        operations in operations(60),
    ) {
        let mut world = world(&settings);
        run(&mut world, &operations);
        world.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_reported_state_is_true_under_tight_limits(
        settings in settings(),
        operations in operations(60),
        max_map_count in 5..12usize,
        data_pages in 5..200u64,
        space_pages in 30..1000u64,
        commit_pages in 5..200u64,
    ) {
        let bytes = |pages: u64| pages * settings.page_size as u64;
        let mut world = world(&settings);
        world.expect_limits();
        world.kernel.set(|settings| {
            settings.max_map_count = max_map_count;
            settings.data_limit = bytes(data_pages);
            settings.address_space_limit = bytes(space_pages);
            if let Overcommit::Never { limit } = &mut settings.overcommit {
                *limit = bytes(commit_pages);
            }
        });
        run(&mut world, &operations);
        world.kernel.set(|settings| settings.max_map_count = 1000);
        world.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_reported_state_is_true_whichever_calls_fail(
        settings in settings(),
        operations in operations(24),
        errno in prop::sample::select(&[12, 22, 11, 1]),
    ) {
        let mut trial = world(&settings);
        run(&mut trial, &operations);
        let calls = trial.faulty.calls();
        trial.finish();
        prop_assert!(calls > 0);
        for in_a_row in [1, 2, 4] {
            for first in 0..calls {
                let mut world = world(&settings);
                world.inject(first..first + in_a_row, Errno(errno));
                run(&mut world, &operations);
                world.finish();
            }
        }
    }
}
