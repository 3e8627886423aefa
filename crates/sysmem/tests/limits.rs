//! Limits really refuse, the error names the one that did, and nothing has changed.

use sysmem::os::darwin::Darwin;
use sysmem::os::dragonfly::DragonFly;
use sysmem::os::freebsd::FreeBsd;
use sysmem::os::illumos::Illumos;
use sysmem::os::linux::Linux;
use sysmem::os::netbsd::NetBsd;
use sysmem::sim::{self, Backing, Call, Faulty, Overcommit, Settings, Simulated, Traced};
use sysmem::{
    Account, Errno, Error, ErrorKind, GiveBack, Limit, Os, PageRange, Placement, Protection,
    Reservation, ReserveOptions, State,
};

const PAGE: usize = 4096;
const MADV_DONTNEED: i32 = 4;
const MADV_DONTNEED_LOCKED: i32 = 24;
const ENOMEM: Errno = Errno(12);

static ACCOUNT: Account = Account::new("limits");

fn reserve(kernel: &Simulated, npages: usize) -> Result<Reservation<Linux<Simulated>>, Error> {
    let options = ReserveOptions::new(npages * PAGE);
    Reservation::reserve_in(Linux::new(kernel.clone()), options, &ACCOUNT)
}

/// Reserves `npages` and makes them Ready, writable, with a word of its number in each.
fn ready(kernel: &Simulated, npages: usize) -> Reservation<Linux<Simulated>> {
    let mut memory = reserve(kernel, npages).unwrap();
    memory.map(0, npages * PAGE, Protection::ReadWrite).unwrap();
    memory.used(0, npages * PAGE).unwrap();
    for page in 0..npages {
        write(&memory, page, page as u64 + 1);
    }
    memory
}

fn write<O: Os>(memory: &Reservation<O>, page: usize, word: u64) {
    assert_eq!(memory.state(page * PAGE).unwrap().0, State::Ready);
    // SAFETY: the page is Ready and mapped writable by these tests.
    unsafe { memory.as_mut_ptr().add(page * PAGE).cast::<u64>().write(word) };
}

fn read<O: Os>(memory: &Reservation<O>, page: usize) -> u64 {
    assert_eq!(memory.state(page * PAGE).unwrap().0, State::Ready);
    // SAFETY: the page is Ready and mapped readable by these tests.
    unsafe { memory.as_mut_ptr().add(page * PAGE).cast::<u64>().read() }
}

fn limit_of(error: Error) -> Option<Limit> {
    match error.kind() {
        ErrorKind::OutOfMemory { errno: Some(ENOMEM), limit } => limit,
        kind => panic!("{kind:?} is not out of memory"),
    }
}

#[test]
fn the_limit_on_address_space_is_named() {
    let limit = 32 * PAGE as u64;
    let kernel =
        Simulated::new(Settings { address_space_limit: limit, ..Settings::heap(256 * PAGE) });
    let kept = reserve(&kernel, 16).unwrap();
    let before = kernel.mappings();
    let error = reserve(&kernel, 16).unwrap_err();
    assert_eq!(limit_of(error), Some(Limit::AddressSpace(limit)), "{error}");
    assert!(error.to_string().contains("RLIMIT_AS is 128.0 KiB (raise it with ulimit -v)"));
    assert_eq!(kernel.mappings(), before);
    let os = Linux::new(kernel.clone());
    let error = Reservation::alloc_in(os, 20 * PAGE, &ACCOUNT).unwrap_err();
    assert_eq!(limit_of(error), Some(Limit::AddressSpace(limit)), "{error}");
    drop(kept);
    reserve(&kernel, 16).unwrap();
}

#[test]
fn the_limit_on_data_is_named_and_giving_back_makes_room_below_it() {
    let limit = 16 * PAGE as u64;
    let kernel = Simulated::new(Settings { data_limit: limit, ..Settings::heap(256 * PAGE) });
    // One page is the registry's.
    let mut memory = reserve(&kernel, 64).unwrap();
    memory.map(0, 15 * PAGE, Protection::ReadWrite).unwrap();
    let error = memory.map(15 * PAGE, PAGE, Protection::ReadWrite).unwrap_err();
    assert_eq!(limit_of(error), Some(Limit::Data(limit)), "{error}");
    assert_eq!(memory.state(15 * PAGE), Some((State::Reserved, Protection::NoAccess, 64 * PAGE)));
    // Memory that is only read is no data.
    memory.map(20 * PAGE, 30 * PAGE, Protection::ReadOnly).unwrap();
    let error = Reservation::alloc_in(Linux::new(kernel.clone()), PAGE, &ACCOUNT).unwrap_err();
    assert_eq!(limit_of(error), Some(Limit::Data(limit)), "{error}");
    memory.fault(0, PAGE).unwrap();
    memory.map(15 * PAGE, PAGE, Protection::ReadWrite).unwrap();
}

#[test]
fn the_limit_on_mappings_is_named_and_borders_still_move_at_it() {
    let most = 10;
    let kernel = Simulated::new(Settings {
        max_map_count: most,
        scattered: false,
        ..Settings::heap(256 * PAGE)
    });
    let mut memory = reserve(&kernel, 64).unwrap();
    let mut page = 1;
    let error = loop {
        match memory.map(page * PAGE, PAGE, Protection::ReadWrite) {
            Ok(()) => page += 2,
            Err(error) => break error,
        }
    };
    // Two mappings outside the space, one of the registry, and one that a split would have made.
    assert_eq!(kernel.mappings().len() + 2, most);
    assert_eq!(limit_of(error), Some(Limit::Mappings(most as u64)), "{error}");
    assert_eq!(memory.state(page * PAGE).unwrap().0, State::Reserved);
    assert_eq!(kernel.protection_at(memory.as_mut_ptr().addr() + page * PAGE), {
        Some(Protection::NoAccess)
    });
    memory.map((page - 1) * PAGE, PAGE, Protection::ReadWrite).unwrap();
    // A hint that needs a mapping more is refused as well, and says so.
    memory.used((page - 1) * PAGE, PAGE).unwrap();
    assert!(memory.huge_page(40 * PAGE, PAGE).is_err());
}

#[test]
fn a_protection_that_fails_half_way_is_taken_back() {
    let kernel = Simulated::new(Settings { scattered: false, ..Settings::heap(256 * PAGE) });
    let mut memory = ready(&kernel, 32);
    // Two mappings with the same protection, so that one call goes over both.
    memory.huge_page(0, 16 * PAGE).unwrap();
    // From here on nothing can be split.
    let most = kernel.mappings().len() + 2;
    kernel.set(|settings| settings.max_map_count = most);
    let states = |memory: &Reservation<_>| memory.state(0);
    let before = (states(&memory), kernel.mappings());
    // The first mapping can change, at its border nothing splits; the second would be split.
    let error = memory.protect(0, 24 * PAGE, Protection::ReadOnly).unwrap_err();
    assert!(matches!(limit_of(error), Some(Limit::Mappings(_))), "{error}");
    assert_eq!((states(&memory), kernel.mappings()), before);
    let error = memory.fault(0, 24 * PAGE).unwrap_err();
    assert!(matches!(limit_of(error), Some(Limit::Mappings(_))), "{error}");
    assert_eq!((states(&memory), kernel.mappings()), before);
    for page in 0..32 {
        assert_eq!(read(&memory, page), page as u64 + 1);
        write(&memory, page, 100);
    }
}

#[test]
fn a_map_that_fails_half_way_leaves_everything_reserved() {
    let kernel = Simulated::new(Settings { scattered: false, ..Settings::heap(256 * PAGE) });
    let mut memory = reserve(&kernel, 32).unwrap();
    memory.huge_page(0, 16 * PAGE).unwrap();
    let most = kernel.mappings().len() + 2;
    kernel.set(|settings| settings.max_map_count = most);
    let before = kernel.mappings();
    // The first mapping becomes writable whole; the second would have to be split.
    let error = memory.map(0, 24 * PAGE, Protection::ReadWrite).unwrap_err();
    assert!(matches!(limit_of(error), Some(Limit::Mappings(_))), "{error}");
    assert_eq!(memory.state(0), Some((State::Reserved, Protection::NoAccess, 32 * PAGE)));
    assert_eq!(kernel.mappings(), before);
}

#[test]
fn the_commit_limit_is_named_and_faulting_gives_the_charge_back() {
    let limit = 64 * PAGE as u64;
    for backing in [Backing::Heap, Backing::Real] {
        let kernel = Simulated::new(Settings {
            backing,
            overcommit: Overcommit::Never { limit },
            ..Settings::heap(1024 * PAGE)
        });
        let mut memory = reserve(&kernel, 512).unwrap();
        assert_eq!(kernel.totals().charged, PAGE, "a reservation is not charged");
        memory.map(0, 40 * PAGE, Protection::ReadWrite).unwrap();
        let registry = memory.os().registry().metadata_bytes();
        assert_eq!(kernel.totals().charged, registry + 40 * PAGE);
        let error = memory.map(100 * PAGE, 40 * PAGE, Protection::ReadWrite).unwrap_err();
        assert_eq!(limit_of(error), Some(Limit::Commit(limit)), "{error}");
        assert!(error.to_string().contains("commit limit is 256.0 KiB"), "{error}");
        // Taking access away alone would leave the charge.
        memory.fault(0, 40 * PAGE).unwrap();
        assert_eq!(kernel.totals().charged, registry);
        memory.map(100 * PAGE, 40 * PAGE, Protection::ReadWrite).unwrap();
        drop(memory);
        assert_eq!(kernel.totals().charged, registry);
    }
}

#[test]
fn a_promise_larger_than_the_machine_is_refused() {
    let overcommit = Overcommit::Heuristic { memory: 1 << 20 };
    let kernel = Simulated::new(Settings { overcommit, ..Settings::heap(4 << 20) });
    let error = Reservation::alloc_in(Linux::new(kernel.clone()), 2 << 20, &ACCOUNT).unwrap_err();
    assert_eq!(limit_of(error), None);
    // Address space promises nothing, and neither does what is reserved without a charge.
    let mut memory = reserve(&kernel, 512).unwrap();
    memory.map(0, 2 << 20, Protection::ReadWrite).unwrap();
}

#[test]
fn locked_memory_is_given_back_where_the_kernel_can() {
    let kernel = Simulated::new(Settings { lock_new_mappings: true, ..Settings::heap(1 << 20) });
    let mut memory = ready(&kernel, 8);
    for how in [GiveBack::Eager, GiveBack::Lazy] {
        memory.unused(0, 4 * PAGE, how).unwrap();
        memory.used(0, 4 * PAGE).unwrap();
        // Locked memory takes no lazy giving back: what is given back is gone.
        assert_eq!((read(&memory, 0), read(&memory, 4)), (0, 5));
        write(&memory, 0, 1);
    }
    memory.fault(0, 8 * PAGE).unwrap();
    assert_eq!(memory.resident_bytes(0, 8 * PAGE), Ok(0));
}

#[test]
fn before_5_18_locked_memory_stays_but_faulting_still_gives_it_back() {
    let kernel = Simulated::new(Settings { version: (5, 15), ..Settings::heap(1 << 20) });
    let mut memory = ready(&kernel, 8);
    let range = PageRange::new(memory.as_mut_ptr(), 8 * PAGE);
    kernel.lock_memory(range, true).unwrap();
    let error = memory.unused(0, 8 * PAGE, GiveBack::Eager).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System(Errno(22)));
    assert_eq!(memory.state(0), Some((State::Ready, Protection::ReadWrite, 8 * PAGE)));
    assert_eq!(read(&memory, 7), 8);
    memory.fault(0, 8 * PAGE).unwrap();
    memory.map(0, 8 * PAGE, Protection::ReadWrite).unwrap();
    memory.used(0, 8 * PAGE).unwrap();
    assert_eq!(read(&memory, 7), 0);
}

#[test]
fn a_replacement_that_fails_half_way_is_finished_when_the_place_is_still_free() {
    let overcommit = Overcommit::Never { limit: 1 << 30 };
    for version in [(6, 11), (6, 12)] {
        let kernel = Simulated::new(Settings { version, overcommit, ..Settings::heap(1 << 20) });
        let mut memory = ready(&kernel, 8);
        kernel.starve_next_replacement();
        let before = kernel.mappings();
        let result = memory.fault(0, 8 * PAGE);
        if version < (6, 12) {
            // What was there was gone; the backend took the place again.
            result.unwrap();
            assert_eq!(memory.state(0), Some((State::Reserved, Protection::NoAccess, 8 * PAGE)));
            assert_eq!(kernel.protection_at(memory.as_mut_ptr().addr()), {
                Some(Protection::NoAccess)
            });
        } else {
            result.unwrap_err();
            assert_eq!(kernel.mappings(), before);
            assert_eq!(read(&memory, 7), 8);
        }
    }
}

#[test]
fn a_range_that_is_lost_is_never_touched_again() {
    let kernel = Simulated::new(Settings {
        version: (6, 1),
        overcommit: Overcommit::Never { limit: 1 << 30 },
        ..Settings::heap(1 << 20)
    });
    let faulty = Faulty::new(kernel.clone());
    let options = ReserveOptions::new(8 * PAGE);
    let os = Linux::new(faulty.clone());
    let mut memory = Reservation::reserve_in(os, options, &ACCOUNT).unwrap();
    memory.map(0, 8 * PAGE, Protection::ReadWrite).unwrap();
    kernel.starve_next_replacement();
    // The replacement leaves a hole, and taking the place again finds no memory either.
    faulty.fail_every(
        |call| matches!(call, Call::Mmap { flags, .. } if flags & 0x10_0000 != 0),
        ENOMEM,
    );
    assert_eq!(memory.fault(0, 8 * PAGE).unwrap_err().kind(), ErrorKind::Lost);
    faulty.fail_nothing();
    let start = memory.as_mut_ptr().addr();
    assert_eq!(kernel.protection_at(start), None);
    // Somebody else takes the place: if the reservation touched it, the simulator would panic.
    kernel.occupy(start..start + 8 * PAGE);
    let lost = |result: Result<(), Error>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Lost);
    lost(memory.map(0, PAGE, Protection::ReadWrite));
    lost(memory.used(0, PAGE));
    lost(memory.unused(0, PAGE, GiveBack::Eager));
    lost(memory.fault(0, PAGE));
    lost(memory.protect(0, PAGE, Protection::ReadOnly));
    lost(memory.huge_page(0, PAGE));
    lost(memory.name(c"lost"));
    lost(memory.resident_bytes(0, PAGE).map(drop));
    let (memory, error) = memory.free().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.to_string().contains("forget the reservation"));
    let before = kernel.mappings();
    drop(memory);
    assert_eq!(kernel.mappings(), before);
}

#[test]
fn a_free_that_is_refused_gives_the_reservation_back() {
    let faulty = Faulty::new(Simulated::new(Settings::heap(1 << 20)));
    static FREED: Account = Account::new("freed");
    let os = Linux::new(faulty.clone());
    let memory = Reservation::alloc_in(os, 4 * PAGE, &FREED).unwrap();
    let figures = FREED.figures();
    faulty.fail_nth(0, ENOMEM);
    let (memory, error) = memory.free().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
    assert_eq!(FREED.figures(), figures);
    memory.free().unwrap();
    assert_eq!(FREED.figures().ready, 0);
    assert_eq!(FREED.figures().obtained, 4 * PAGE as u64);
}

#[test]
fn fault_takes_access_away_before_it_gives_memory_back() {
    let traced = Traced::new(Simulated::new(Settings::heap(1 << 20)));
    let memory = Reservation::alloc_in(Linux::new(traced.clone()), PAGE, &ACCOUNT);
    let mut memory = memory.unwrap();
    traced.clear();
    memory.fault(0, PAGE).unwrap();
    let calls: Vec<_> = traced.records().into_iter().map(|record| record.call).collect();
    let address = memory.as_mut_ptr().addr();
    let protect = Call::Mprotect { address, len: PAGE, protection: 0 };
    let advise = Call::Madvise { address, len: PAGE, advice: MADV_DONTNEED };
    let last = calls.len() - 2;
    assert_eq!(calls[last..], [protect, advise]);
    let locked = |call: &Call| matches!(call, Call::Madvise { advice: MADV_DONTNEED_LOCKED, .. });
    assert_eq!(traced.count(locked), 0);
}

/// With room for a few pages more, where a mapping in place of another counts in full.
fn gives_back_what_does_not_fit_below_the_limit_twice<S: sim::System, O: Os>(
    new: fn(Simulated<S>) -> O,
) {
    let kernel = Simulated::<S>::start(Settings::heap(256 * PAGE));
    let len = 64 * PAGE;
    let mut memory = Reservation::alloc_in(new(kernel.clone()), len, &ACCOUNT).unwrap();
    (0..64).for_each(|page| write(&memory, page, page as u64 + 1));
    let mapped = kernel.totals().mapped;
    let room = |npages: usize| {
        let limit = (mapped + npages * PAGE) as u64;
        kernel.set(|settings| settings.address_space_limit = limit);
        limit
    };
    room(5);
    memory.unused(0, len, GiveBack::Eager).unwrap();
    assert_eq!(memory.state(0), Some((State::Prepared, Protection::ReadWrite, len)));
    memory.used(0, len).unwrap();
    assert!((0..64).all(|page| read(&memory, page) == 0));
    let limit = room(0);
    if let Err(error) = memory.unused(0, len, GiveBack::Eager) {
        assert_eq!(limit_of(error), Some(Limit::AddressSpace(limit)), "{error}");
        assert_eq!(memory.state(0), Some((State::Ready, Protection::ReadWrite, len)));
    }
}

#[test]
fn memory_is_given_back_at_once_close_to_a_limit_on_address_space() {
    gives_back_what_does_not_fit_below_the_limit_twice(FreeBsd::<Simulated<sim::FreeBsd>>::new);
    gives_back_what_does_not_fit_below_the_limit_twice(NetBsd::<Simulated<sim::NetBsd>>::new);
    gives_back_what_does_not_fit_below_the_limit_twice(DragonFly::<Simulated<sim::DragonFly>>::new);
    gives_back_what_does_not_fit_below_the_limit_twice(Illumos::<Simulated<sim::Illumos>>::new);
    gives_back_what_does_not_fit_below_the_limit_twice(Darwin::<Simulated<sim::Darwin>>::new);
}

#[test]
fn a_limit_of_darwin_is_not_mistaken_for_a_taken_address() {
    let limit = 32 * PAGE as u64;
    for (settings, expected) in [
        (Settings { address_space_limit: limit, ..Settings::heap(256 * PAGE) }, {
            Limit::AddressSpace(limit)
        }),
        (Settings { data_limit: limit, ..Settings::heap(256 * PAGE) }, Limit::Data(limit)),
    ] {
        let kernel = Simulated::<sim::Darwin>::start(settings);
        let os = Darwin::new(kernel.clone());
        let kept = os.reserve(&ReserveOptions::new(16 * PAGE)).unwrap();
        let place = |at| ReserveOptions::new(17 * PAGE).placement(Placement::At(at));
        let free = kernel.space().start;
        assert!(free + 17 * PAGE <= kept.addr().get());
        assert_eq!(limit_of(os.reserve(&place(free)).unwrap_err()), Some(expected));
        kernel.set(|settings| {
            settings.address_space_limit = u64::MAX;
            settings.data_limit = u64::MAX;
        });
        let taken = os.reserve(&place(kept.addr().get())).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::Taken);
        assert_eq!(os.reserve(&place(free)).unwrap().addr().get(), free);
    }
}
