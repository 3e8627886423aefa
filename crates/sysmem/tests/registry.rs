//! The registry of reservations: readers without a lock, while threads reserve and free.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use sysmem::os::linux::Linux;
use sysmem::os::netbsd::NetBsd;
use sysmem::sim::{self, Faulty, LazilyFreed, Settings, Simulated};
use sysmem::{
    Account, Errno, ErrorKind, GiveBack, Os, Placement, Protection, Reservation, ReserveOptions,
    State, accounts,
};

const PAGE: usize = 4096;

static ACCOUNT: Account = Account::new("registry");

fn reserve(os: &Linux<Simulated>, npages: usize) -> Reservation<Linux<Simulated>> {
    Reservation::reserve_in(os.clone(), ReserveOptions::new(npages * PAGE), &ACCOUNT).unwrap()
}

#[test]
fn every_reservation_is_found_by_each_of_its_addresses_until_it_is_freed() {
    let os = Linux::new(Simulated::new(Settings::real(1 << 30)));
    let registry = os.registry();
    // More than fit into a page of entries.
    let mut kept: Vec<_> = (0..100).map(|index| reserve(&os, 1 + index % 5)).collect();
    kept[7].map(0, PAGE, Protection::ReadOnly).unwrap();
    let mut listed = BTreeMap::new();
    for found in registry.reservations() {
        assert!(listed.insert(found.address(), found.len()).is_none());
    }
    assert_eq!(listed.len(), 100);
    for memory in &kept {
        let start = memory.as_mut_ptr().addr();
        assert_eq!(listed[&start], memory.len());
        for address in [start, start + memory.len() / 2, start + memory.len() - 1] {
            let found = registry.find(address).unwrap();
            assert_eq!((found.address(), found.len()), (start, memory.len()));
            assert!(std::ptr::eq(found.account(), &ACCOUNT));
        }
    }
    let start = kept[7].as_mut_ptr().addr();
    let found = registry.find(start).unwrap();
    assert_eq!(found.state_at(start + PAGE - 1, &os), {
        Some((State::Prepared, Protection::ReadOnly))
    });
    assert_eq!(found.state_at(start + PAGE, &os), Some((State::Reserved, Protection::NoAccess)));
    assert_eq!(found.state_at(start - 1, &os), None);
    assert_eq!(found.state_at(start + found.len(), &os), None);
    let metadata = registry.metadata_bytes();
    kept.clear();
    assert_eq!(registry.reservations().count(), 0);
    assert!(registry.find(start).is_none());
    kept.extend((0..100).map(|_| reserve(&os, 1)));
    assert_eq!(registry.metadata_bytes(), metadata, "freed entries are used again");
    assert_eq!(os.kernel().totals().mapped, metadata + 100 * PAGE);
}

#[test]
fn nodes_of_large_reservations_are_used_again() {
    let os = Linux::new(Simulated::new(Settings::real(1 << 40)));
    let mut metadata = 0;
    for round in 0..10 {
        let mut memory = reserve(&os, 1 << 26);
        for step in 0..20 {
            let at = step * ((1 << 26) / 20) * PAGE;
            memory.map(at, 3 * PAGE, Protection::ReadWrite).unwrap();
        }
        if round == 0 {
            metadata = os.registry().metadata_bytes();
        }
        assert_eq!(os.registry().metadata_bytes(), metadata);
    }
    assert!(metadata < 64 * PAGE, "{metadata} bytes for 20 places in 256 GiB");
}

#[test]
fn readers_see_whole_entries_while_threads_reserve_and_free() {
    static SHORT: Account = Account::new("short");
    static LONG: Account = Account::new("long");
    let settings = Settings { lazily_freed: LazilyFreed::Dropped, ..Settings::real(1 << 30) };
    let os = Linux::new(Simulated::new(settings));
    let done = AtomicBool::new(false);
    let anchor = reserve(&os, 3);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|thread| {
                let os = &os;
                scope.spawn(move || {
                    for round in 0..1500 {
                        // The account tells the length: a torn entry would mix them up.
                        let (account, npages) = match (thread + round) % 2 {
                            0 => (&SHORT, 1),
                            _ => (&LONG, 200),
                        };
                        let options = ReserveOptions::new(npages * PAGE);
                        let mut memory =
                            Reservation::reserve_in(os.clone(), options, account).unwrap();
                        let start = memory.as_mut_ptr().addr();
                        memory.map(0, PAGE, Protection::ReadWrite).unwrap();
                        memory.used(0, PAGE).unwrap();
                        let found = os.registry().find(start).expect("ours");
                        assert_eq!((found.address(), found.len()), (start, npages * PAGE));
                        let ready = (State::Ready, Protection::ReadWrite);
                        assert_eq!(found.state_at(start, os), Some(ready));
                        memory.unused(0, PAGE, GiveBack::Lazy).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Relaxed) {
                for found in os.registry().reservations() {
                    let expected = match found.account().name() {
                        "short" => PAGE,
                        "long" => 200 * PAGE,
                        _ => 3 * PAGE,
                    };
                    assert_eq!(found.len(), expected);
                    assert_eq!(found.address() % PAGE, 0);
                }
                let address = anchor.as_mut_ptr().addr();
                assert_eq!(os.registry().find(address + 5000).unwrap().address(), address);
            }
        });
        for writer in writers {
            let finished = writer.join();
            done.store(finished.is_err(), Relaxed);
            finished.unwrap();
        }
        done.store(true, Relaxed);
    });
    assert_eq!(os.registry().reservations().count(), 1);
    for account in [&SHORT, &LONG] {
        let figures = account.figures();
        assert_eq!((figures.reserved, figures.prepared, figures.ready), (0, 0, 0));
        let each = if account.name() == "short" { PAGE } else { 200 * PAGE };
        assert_eq!(figures.obtained, (2250 * each) as u64);
    }
}

#[test]
fn an_account_is_listed_once_however_many_threads_charge_it_first() {
    static FIRST: Account = Account::new("first charge");
    let os = Linux::new(Simulated::new(Settings::real(1 << 30)));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let options = ReserveOptions::new(PAGE);
                drop(Reservation::reserve_in(os.clone(), options, &FIRST).unwrap());
            });
        }
    });
    let listed = accounts().filter(|account| std::ptr::eq(*account, &FIRST));
    assert_eq!(listed.count(), 1);
    assert_eq!(FIRST.figures().obtained, 4 * PAGE as u64);
}

#[test]
fn a_failed_reservation_leaves_no_entry() {
    let os = Linux::new(Simulated::new(Settings::heap(1 << 20)));
    let taken = os.kernel().space().start;
    os.kernel().occupy(taken..taken + PAGE);
    for _ in 0..100 {
        let options = ReserveOptions::new(PAGE).placement(Placement::At(taken));
        Reservation::reserve_in(os.clone(), options, &ACCOUNT).unwrap_err();
    }
    assert_eq!(os.registry().reservations().count(), 0);
    assert_eq!(os.registry().metadata_bytes(), PAGE);
}

#[test]
fn the_registry_can_be_held_across_a_fork() {
    let os = Linux::new(Simulated::new(Settings::heap(1 << 20)));
    let _kept = reserve(&os, 1);
    os.registry().lock_for_fork(&os);
    // Readers take no lock.
    assert_eq!(os.registry().reservations().count(), 1);
    // SAFETY: this thread holds it.
    unsafe { os.registry().unlock_after_fork(&os) };
    assert_eq!(reserve(&os, 1).len(), PAGE);
}

#[test]
fn where_a_lost_reservation_was_the_one_that_lies_there_now_is_found() {
    let kernel = Faulty::new(Simulated::<sim::NetBsd>::start(Settings::heap(1 << 20)));
    let os = NetBsd::new(kernel.clone());
    let mut lost = Reservation::alloc_in(os.clone(), 4 * PAGE, &ACCOUNT).unwrap();
    // The fixed mapping leaves a hole, which is not to be had again.
    kernel.kernel().starve_next_replacement();
    kernel.fail_nth(1, Errno(12));
    let error = lost.unused(0, 4 * PAGE, GiveBack::Eager).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    let start = lost.as_mut_ptr().addr();
    assert!(os.registry().find(start).is_some());
    kernel.fail_nothing();
    let options = ReserveOptions::new(2 * PAGE).placement(Placement::At(start + PAGE));
    let memory = Reservation::reserve_in(os.clone(), options, &ACCOUNT).unwrap();
    let found = |address| os.registry().find(address).unwrap().address();
    assert_eq!(found(start + PAGE), memory.as_mut_ptr().addr());
    assert_eq!(found(start + 3 * PAGE), start);
}
