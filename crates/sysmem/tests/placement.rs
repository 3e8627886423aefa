//! Reservations lie where they were asked to, aligned, and nothing else stays reserved.

use proptest::prelude::*;
use sysmem::os::linux::Linux;
use sysmem::os::{darwin, dragonfly, freebsd, illumos, linux, netbsd, openbsd, windows};
use sysmem::sim::{self, Call, Faulty, Settings, Simulated, Traced};
use sysmem::{
    Account, Errno, Error, ErrorKind, Os, Placement, Protection, Reservation, ReserveOptions,
};

const PAGE: usize = 4096;

static ACCOUNT: Account = Account::new("placement");

type Memory = Reservation<Linux<Simulated>>;

fn reserve(kernel: &Simulated, options: ReserveOptions) -> Result<Memory, Error> {
    Reservation::reserve_in(Linux::new(kernel.clone()), options, &ACCOUNT)
}

fn place(kernel: &Simulated, placement: Placement) -> Result<Memory, Error> {
    reserve(kernel, ReserveOptions::new(16 * PAGE).placement(placement))
}

/// Bytes mapped beyond the registry's own.
fn reserved(kernel: &Simulated) -> usize {
    kernel.totals().mapped - Linux::new(kernel.clone()).registry().metadata_bytes()
}

/// Kernels before and after `MAP_FIXED_NOREPLACE`, with one page of the registry's in place.
fn kernels(settings: Settings) -> impl Iterator<Item = Simulated> {
    [(4, 16), (4, 17), (6, 18)].into_iter().map(move |version| {
        let kernel = Simulated::new(Settings { version, ..settings.clone() });
        drop(reserve(&kernel, ReserveOptions::new(PAGE)).unwrap());
        kernel
    })
}

#[test]
fn a_free_address_is_taken_and_a_taken_one_is_refused() {
    for kernel in kernels(Settings::heap(1 << 20)) {
        let address = kernel.space().start + 64 * PAGE;
        let memory = place(&kernel, Placement::At(address)).unwrap();
        assert_eq!(memory.as_mut_ptr().addr(), address);
        for taken in [address, address + 15 * PAGE, address - 15 * PAGE] {
            let before = kernel.mappings();
            let error = place(&kernel, Placement::At(taken)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Taken, "{error}");
            assert_eq!(kernel.mappings(), before);
        }
        place(&kernel, Placement::At(address + 16 * PAGE)).unwrap();
        let error = place(&kernel, Placement::At(address + 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unaligned { multiple: PAGE });
        let aligned = ReserveOptions::new(PAGE).align(1 << 16);
        let options = aligned.placement(Placement::At(kernel.space().start + PAGE));
        let error = reserve(&kernel, options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unaligned { multiple: 1 << 16 });
    }
}

#[test]
fn a_hint_is_followed_where_it_is_free() {
    for kernel in kernels(Settings::heap(1 << 20)) {
        let address = kernel.space().start + 64 * PAGE;
        let first = place(&kernel, Placement::Hint(address + 5)).unwrap();
        assert_eq!(first.as_mut_ptr().addr(), address);
        let second = place(&kernel, Placement::Hint(address)).unwrap();
        assert_ne!(second.as_mut_ptr().addr(), address);
    }
}

#[test]
fn a_hint_with_nothing_free_above_it_is_passed_over_on_every_system() {
    fn reserve<O: Os + Clone>(os: O, hint: usize) {
        let options = ReserveOptions::new(4 * PAGE).placement(Placement::Hint(hint));
        let memory = Reservation::reserve_in(os, options, &ACCOUNT).unwrap();
        assert_ne!(memory.as_mut_ptr().addr(), hint);
    }
    fn kernel<S: sim::System>(hint: impl Fn(&Simulated<S>) -> usize) -> (Simulated<S>, usize) {
        let kernel = Simulated::start(Settings::heap(1 << 20));
        let hint = hint(&kernel);
        (kernel, hint)
    }
    // The last page of the process, where four do not fit; a kernel's address.
    macro_rules! on {
        ($($system:ident: $backend:ident,)*) => {$(
            let (system, hint) = kernel::<sim::$system>(|kernel| kernel.space().end - PAGE);
            reserve($backend::$system::new(system), hint);
            let (system, hint) = kernel::<sim::$system>(|_| 0xffff_8000 << 32);
            reserve($backend::$system::new(system), hint);
        )*};
    }
    on! {
        Linux: linux, FreeBsd: freebsd, NetBsd: netbsd, OpenBsd: openbsd, DragonFly: dragonfly,
        Illumos: illumos, Darwin: darwin, Windows: windows,
    }
}

#[test]
fn near_finds_a_gap_within_the_distance_and_says_when_there_is_none() {
    for kernel in kernels(Settings::heap(1 << 20)) {
        let start = kernel.space().start;
        let page = |page: usize| start + page * PAGE;
        // Occupied but for three gaps: 20 pages at 10, 16 at 100, 4 at 120.
        let free = kernel.mappings()[0].start..kernel.mappings()[0].end;
        kernel.occupy(start..page(10));
        kernel.occupy(page(30)..page(100));
        kernel.occupy(page(116)..page(120));
        kernel.occupy(page(124)..free.start);
        if free.end < kernel.space().end {
            kernel.occupy(free.end..kernel.space().end);
        }
        let near = |at: usize, pages: usize| {
            let distance = pages * PAGE;
            place(&kernel, Placement::Near { address: page(at), distance })
        };
        // The farthest byte counts: the upper end of the first gap is 46 pages away.
        let error = near(60, 45).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoPlace, "{error}");
        let lower = near(60, 46).unwrap();
        assert_eq!(lower.as_mut_ptr().addr(), page(14));
        // Now only the gap at 100 is left.
        let error = near(60, 55).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoPlace, "{error}");
        let memory = near(60, 56).unwrap();
        assert_eq!(memory.as_mut_ptr().addr(), page(100));
        let error = near(60, 1000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoPlace, "{error}");
        drop(memory);
        near(110, 12).unwrap();
    }
}

#[test]
fn the_listing_of_many_mappings_is_read_once_from_front_to_back() {
    let traced = Traced::new(Simulated::new(Settings::real(1 << 30)));
    let os = Linux::new(traced.clone());
    let options = ReserveOptions::new(1000 * PAGE);
    let mut many = Reservation::reserve_in(os.clone(), options, &ACCOUNT).unwrap();
    (0..500).for_each(|page| many.map(2 * page * PAGE, PAGE, Protection::ReadWrite).unwrap());
    traced.clear();
    let placement = Placement::Near { address: many.as_mut_ptr().addr(), distance: 1 << 30 };
    let options = ReserveOptions::new(PAGE).placement(placement);
    let near = Reservation::reserve_in(os, options, &ACCOUNT).unwrap();
    assert!(near.as_mut_ptr().addr().abs_diff(many.as_mut_ptr().addr()) <= 1000 * PAGE);
    let mut expected = 0;
    for record in traced.records() {
        if let Call::ReadAt { offset, .. } = record.call {
            assert_eq!(offset, expected);
            expected += record.result.unwrap() as u64;
        }
    }
    assert!(expected > 500 * 40);
}

#[test]
fn near_without_proc_is_found_by_trying() {
    let kernel = Simulated::new(Settings { proc_mounted: false, ..Settings::heap(1 << 20) });
    let (space, distance) = (kernel.space(), 1 << 19);
    let address = space.start + distance;
    let near = || place(&kernel, Placement::Near { address, distance });
    let first = near().unwrap();
    let second = near().unwrap();
    for memory in [&first, &second] {
        let start = memory.as_mut_ptr().addr();
        assert!(start.abs_diff(address) <= distance);
        assert!((start + memory.len()).abs_diff(address) <= distance);
    }
    kernel.occupy(space.start..space.start + PAGE);
    let gone = Placement::Near { address: space.start, distance: PAGE };
    assert_eq!(place(&kernel, gone).unwrap_err().kind(), ErrorKind::NoPlace);
}

#[test]
fn high_memory_lies_above_four_gibibytes() {
    let kernel = Simulated::new(Settings::real(1 << 30));
    let memory = place(&kernel, Placement::High).unwrap();
    assert!(memory.as_mut_ptr().addr() >= 1 << 32);
}

#[test]
fn alignment_up_to_a_gibibyte_leaves_no_excess() {
    for seed in 0..40 {
        let settings = Settings { seed, alignment: 1 << 30, ..Settings::real(16 << 30) };
        for kernel in kernels(settings) {
            let mut kept = Vec::new();
            for shift in [12, 13, 16, 21, 22, 25, 29, 30] {
                let len = 16 * PAGE + (shift % 3) * PAGE;
                let memory = reserve(&kernel, ReserveOptions::new(len).align(1 << shift)).unwrap();
                assert_eq!(memory.as_mut_ptr().addr() % (1 << shift), 0);
                kept.push(memory);
                assert_eq!(reserved(&kernel), kept.iter().map(Memory::len).sum::<usize>());
            }
            drop(kept);
            assert_eq!(reserved(&kernel), 0);
        }
    }
}

#[test]
fn what_cannot_be_trimmed_at_once_does_not_stay_behind() {
    let mut failed = 0;
    for seed in 0..100 {
        let kernel = Simulated::new(Settings { seed, ..Settings::heap(4 << 20) });
        let faulty = Faulty::new(kernel.clone());
        let os = Linux::new(faulty.clone());
        drop(Reservation::reserve_in(os.clone(), ReserveOptions::new(PAGE), &ACCOUNT).unwrap());
        // The address below what is tried without excess is taken, so that trimming is all there is.
        let refuse_exact =
            |call: &Call| matches!(call, Call::Mmap { flags, .. } if flags & 0x10_0000 != 0);
        let mut munmaps = 0;
        faulty.fail_when(move |_, call| {
            munmaps += usize::from(matches!(call, Call::Munmap { .. }));
            // The first two trim.
            let trims = matches!(call, Call::Munmap { .. }) && munmaps == 1 + seed as usize % 2;
            (trims || refuse_exact(call)).then_some(Errno(12))
        });
        let options = ReserveOptions::new(3 * PAGE).align(1 << 18);
        let result = Reservation::reserve_in(os.clone(), options, &ACCOUNT);
        let kept = result.as_ref().map_or(0, |memory| memory.len());
        failed += usize::from(kept == 0);
        assert_eq!(kernel.totals().mapped, kept + os.registry().metadata_bytes());
        // What comes after is not refused.
        faulty.fail_nothing();
    }
    assert!(failed > 50, "trimming was refused {failed} times");
}

#[test]
fn alignment_that_does_not_fit_is_refused_and_leaves_nothing() {
    let kernel = Simulated::new(Settings::heap(1 << 20));
    let error = reserve(&kernel, ReserveOptions::new(PAGE).align(3 * PAGE)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadAlignment);
    let error = reserve(&kernel, ReserveOptions::new(PAGE).align(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadAlignment);
    let error = reserve(&kernel, ReserveOptions::new(PAGE).align(1 << 48)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadAlignment);
    assert_eq!(reserved(&kernel), 0);
    // Aligned to more than the space is long: only its start may do, if it is so aligned at all.
    match reserve(&kernel, ReserveOptions::new(PAGE).align(1 << 40)) {
        Ok(memory) => assert_eq!(memory.as_mut_ptr().addr() % (1 << 40), 0),
        Err(error) => assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}"),
    }
    assert_eq!(reserved(&kernel), 0);
    let error = reserve(&kernel, ReserveOptions::new(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Empty);
    let error = reserve(&kernel, ReserveOptions::new(PAGE + 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unaligned { multiple: PAGE });
    let huge = ReserveOptions::new(usize::MAX - PAGE + 1).align(1 << 30);
    assert!(reserve(&kernel, huge).is_err());
    assert_eq!(reserved(&kernel), 0);
}

#[test]
fn a_reservation_is_executable_only_if_asked_for() {
    let kernel = Simulated::new(Settings::heap(1 << 20));
    let mut plain = reserve(&kernel, ReserveOptions::new(PAGE)).unwrap();
    let error = plain.map(0, PAGE, Protection::ReadExecute).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotExecutable);
    assert!(error.to_string().contains("ReserveOptions::executable"));
    let options = ReserveOptions::new(PAGE).executable(true);
    let mut code = reserve(&kernel, options).unwrap();
    code.map(0, PAGE, Protection::ReadWrite).unwrap();
    code.used(0, PAGE).unwrap();
    code.protect(0, PAGE, Protection::ReadExecute).unwrap();
    let address = code.as_mut_ptr().addr();
    assert_eq!(kernel.protection_at(address), Some(Protection::ReadExecute));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn aligned_reservations_leave_no_excess_whatever_fails(
        seed in any::<u64>(),
        shifts in prop::collection::vec(12..19u32, 1..8),
        fail in 0..30usize,
        errno in prop::sample::select(&[12, 11]),
    ) {
        let kernel = Simulated::new(Settings { seed, ..Settings::heap(4 << 20) });
        let faulty = Faulty::new(kernel.clone());
        // A failing munmap leaves behind what it was to remove; nobody can help that.
        faulty.fail_when(move |index, call| {
            let fails = index == fail && !matches!(call, Call::Munmap { .. });
            fails.then_some(Errno(errno))
        });
        let os = Linux::new(faulty);
        let mut kept = Vec::new();
        for shift in shifts {
            let options = ReserveOptions::new(3 * PAGE).align(1 << shift);
            kept.extend(Reservation::reserve_in(os.clone(), options, &ACCOUNT));
            let metadata = os.registry().metadata_bytes();
            let expected = kept.len() * 3 * PAGE + metadata;
            prop_assert_eq!(kernel.totals().mapped, expected);
        }
    }
}
