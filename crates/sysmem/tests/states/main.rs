//! Random operations on reservations over simulated kernels, held against a plain model of the
//! four states: with every kernel there is to be met, and with every call failing in turn.

mod model;
mod operations;
mod systems;

use model::World;
use operations::{Operation, operations};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use sysmem::sim::{self, Backing, Faulty, Overcommit, Settings, Simulated};
use sysmem::{Account, Errno, ErrorKind, Reservation};
use systems::System;

fn settings<S: System>() -> impl Strategy<Value = Settings> {
    let overcommit = prop_oneof![
        Just(Overcommit::Heuristic { memory: 1 << 34 }),
        Just(Overcommit::Always),
        Just(Overcommit::Never { limit: 1 << 34 }),
    ];
    let backing = prop_oneof![
        3 => Just((Backing::Heap, 4096)),
        1 => Just((Backing::Heap, 8192)),
        1 => Just((Backing::Heap, 16384)),
        1 => Just((Backing::Real, 4096)),
        1 => Just((Backing::Real, 8192)),
        1 => Just((Backing::Real, 16384)),
        1 => Just((Backing::Real, 65536)),
    ];
    // The machine that the tests run on cannot protect smaller pages than its own.
    let backing = backing.prop_map(|(backing, page_size)| {
        (
            backing,
            if backing == Backing::Real { sysmem::page_size().max(page_size) } else { page_size },
        )
    });
    let toggles = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let bsd_toggles = (any::<bool>(), any::<bool>(), any::<bool>());
    (any::<u64>(), backing, prop::sample::select(S::VERSIONS), overcommit, toggles, bsd_toggles)
        .prop_map(|(seed, (backing, page_size), version, overcommit, toggles, bsd_toggles)| {
            let (huge, proc_mounted, short_counts, names, locked) = toggles;
            let (imply_prot_max, pax_mprotect, aslr) = bsd_toggles;
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
                lock_new_mappings: locked,
                imply_prot_max,
                pax_mprotect,
                aslr,
                ..match backing {
                    Backing::Heap => Settings::heap(2048 * page_size),
                    _ => Settings::real(1 << 34),
                }
            }
        })
}

fn world<S: System>(settings: &Settings) -> World<S> {
    let kernel = Simulated::start(settings.clone());
    World::new(kernel, S::is_strict(settings), S::refuses_wired(settings.version))
}

fn run<S: System>(world: &mut World<S>, operations: &[Operation]) {
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

/// Runs a property on that many cases, or by as much more as `PROPTEST_CASES` is above its default.
fn check<T: Strategy>(
    cases: u32,
    strategy: T,
    property: impl Fn(T::Value) -> Result<(), TestCaseError>,
) {
    let default = ProptestConfig::default();
    let cases = (u64::from(cases) * u64::from(default.cases)).div_ceil(256) as u32;
    let config = ProptestConfig { cases, failure_persistence: None, ..default };
    if let Err(failure) = TestRunner::new(config).run(&strategy, property) {
        panic!("{failure}");
    }
}

fn does_what_the_model_says<S: System>() {
    check(S::CASES, (settings::<S>(), operations(60)), |(settings, operations)| {
        let mut world = world::<S>(&settings);
        run(&mut world, &operations);
        world.finish();
        Ok(())
    });
}

fn the_reported_state_is_true_under_tight_limits<S: System>() {
    // Without a limit on address space others are met.
    let space = prop_oneof![30..1000u64, Just(1 << 40)];
    let limits = (5..12usize, 5..200u64, space, 5..200u64, 5..200u64, any::<bool>());
    let strategy = (settings::<S>(), operations(60), limits);
    check(S::CASES / 2, strategy, |(settings, operations, limits)| {
        let (max_map_count, data_pages, space_pages, commit_pages, wired_pages, rival) = limits;
        let bytes = |pages: u64| pages * settings.page_size as u64;
        let mut world = world::<S>(&settings);
        world.expect_limits();
        world.kernel.set(|settings| {
            settings.max_map_count = max_map_count;
            settings.data_limit = bytes(data_pages);
            settings.address_space_limit = bytes(space_pages);
            settings.locked_limit = bytes(wired_pages);
            settings.rival = rival;
            if let Overcommit::Never { limit } = &mut settings.overcommit {
                *limit = bytes(commit_pages);
            }
        });
        run(&mut world, &operations);
        world.kernel.set(|settings| settings.max_map_count = 1000);
        world.finish();
        Ok(())
    });
}

fn the_reported_state_is_true_whichever_calls_fail<S: System>() {
    let errnos = prop::sample::select(&[12, 22, 11, 1]);
    let strategy = (settings::<S>(), operations(24), errnos);
    check(S::CASES.div_ceil(17), strategy, |(settings, operations, errno)| {
        let mut trial = world::<S>(&settings);
        run(&mut trial, &operations);
        let calls = trial.faulty.calls();
        trial.finish();
        prop_assert!(calls > 0);
        for in_a_row in [1, 2, 4] {
            for first in 0..calls {
                let mut world = world::<S>(&settings);
                world.inject(first..first + in_a_row, Errno(errno));
                run(&mut world, &operations);
                world.finish();
            }
        }
        Ok(())
    });
}

/// A fixed mapping runs out of memory on its way, and a rival is quicker than the backend.
fn takes_no_rivals_memory_for_its_own<S: System>() {
    static ACCOUNT: Account = Account::new("rival");
    for version in S::VERSIONS {
        let settings = Settings {
            version: *version,
            rival: true,
            overcommit: Overcommit::Never { limit: 1 << 30 },
            ..Settings::heap(1 << 20)
        };
        let kernel = Simulated::<S>::start(settings);
        let os = S::os(Faulty::new(kernel.clone()));
        let mut memory = Reservation::alloc_in(os, 4 * 4096, &ACCOUNT).unwrap();
        kernel.starve_next_replacement();
        let result = memory.fault(0, 4 * 4096);
        let mappings = kernel.mappings();
        let taken = mappings.iter().any(|mapping| mapping.attributes.foreign);
        let lost = result.is_err_and(|error| error.kind() == ErrorKind::Lost);
        assert_eq!(lost, taken, "{version:?}");
    }
}

fn the_reported_state_is_true_whichever_replacement_stops_half_way<S: System>() {
    let strategy = (settings::<S>(), operations(24), any::<bool>());
    check(S::CASES.div_ceil(17), strategy, |(settings, operations, rival)| {
        let mut trial = world::<S>(&settings);
        run(&mut trial, &operations);
        let calls = trial.faulty.calls();
        trial.finish();
        for then_fails in [None, Some(1), Some(2)] {
            for first in 0..calls {
                let mut world = world::<S>(&settings);
                world.kernel.set(|settings| settings.rival = rival);
                world.starve(first, then_fails, Errno(12));
                run(&mut world, &operations);
                world.finish();
            }
        }
        Ok(())
    });
}

#[test]
fn what_a_rival_took_is_never_called_ours() {
    takes_no_rivals_memory_for_its_own::<sim::Linux>();
    takes_no_rivals_memory_for_its_own::<sim::FreeBsd>();
    takes_no_rivals_memory_for_its_own::<sim::NetBsd>();
    takes_no_rivals_memory_for_its_own::<sim::OpenBsd>();
    takes_no_rivals_memory_for_its_own::<sim::DragonFly>();
    takes_no_rivals_memory_for_its_own::<sim::Illumos>();
    takes_no_rivals_memory_for_its_own::<sim::Darwin>();
}

macro_rules! on_each_system {
    ($($module:ident: $system:ident,)*) => {$(
        mod $module {
            use super::*;

            #[test]
            fn reservations_do_what_the_model_of_four_states_says() {
                does_what_the_model_says::<sim::$system>();
            }

            #[test]
            fn the_reported_state_is_true_under_tight_limits() {
                super::the_reported_state_is_true_under_tight_limits::<sim::$system>();
            }

            #[test]
            fn the_reported_state_is_true_whichever_calls_fail() {
                super::the_reported_state_is_true_whichever_calls_fail::<sim::$system>();
            }
        }
    )*};
}

on_each_system! {
    linux: Linux,
    freebsd: FreeBsd,
    netbsd: NetBsd,
    openbsd: OpenBsd,
    dragonfly: DragonFly,
    illumos: Illumos,
    darwin: Darwin,
    windows: Windows,
}

macro_rules! on_each_unix {
    ($($test:ident: $system:ident,)*) => {$(
        #[test]
        fn $test() {
            super::the_reported_state_is_true_whichever_replacement_stops_half_way::<sim::$system>();
        }
    )*};
}

/// Windows has no fixed mappings.
mod the_reported_state_is_true_whichever_replacement_stops_half_way {
    use super::sim;

    on_each_unix! {
        linux: Linux,
        freebsd: FreeBsd,
        netbsd: NetBsd,
        openbsd: OpenBsd,
        dragonfly: DragonFly,
        illumos: Illumos,
        darwin: Darwin,
    }
}
