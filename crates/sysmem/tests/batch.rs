//! Giving many ranges back in few calls, on kernels that can, that cannot, and that stop half way.

use proptest::prelude::*;
use sysmem::os::linux::Linux;
use sysmem::sim::{Call, Faulty, Settings, Simulated, Traced};
use sysmem::{
    Account, Errno, ErrorKind, GiveBack, PageRange, Protection, Reservation, ReserveOptions, State,
};

const PAGE: usize = 4096;
/// The ranges that one call takes: `UIO_MAXIOV`, uio(7).
const MOST: usize = 1024;

static ACCOUNT: Account = Account::new("batch");

type Table = Traced<Faulty<Simulated>>;
type Memory = Reservation<Linux<Table>>;

/// Ready memory of which every page holds its number plus one.
fn memory(settings: Settings, npages: usize) -> (Memory, Table) {
    let traced = Traced::new(Faulty::new(Simulated::new(settings)));
    let os = Linux::new(traced.clone());
    let options = ReserveOptions::new(npages * PAGE);
    let mut memory = Reservation::reserve_in(os, options, &ACCOUNT).unwrap();
    memory.map(0, npages * PAGE, Protection::ReadWrite).unwrap();
    memory.used(0, npages * PAGE).unwrap();
    for page in 0..npages {
        // SAFETY: Ready and writable.
        unsafe { word(&memory, page).write(page as u64 + 1) };
    }
    (memory, traced)
}

fn word(memory: &Memory, page: usize) -> *mut u64 {
    memory.as_mut_ptr().wrapping_add(page * PAGE).cast()
}

/// Every other page, the highest first.
fn every_other_page(memory: &Memory, count: usize) -> Vec<PageRange> {
    (0..count).rev().map(|index| PageRange::new(word(memory, 2 * index).cast(), PAGE)).collect()
}

/// Gives every other page back and looks at every page.
fn give_back(memory: &mut Memory, count: usize) {
    let ranges = every_other_page(memory, count);
    // SAFETY: nobody else works on the reservation.
    unsafe { memory.unused_batch_shared(&ranges, GiveBack::Eager) }.unwrap();
    for page in 0..2 * count {
        let expected = if page % 2 == 0 { State::Prepared } else { State::Ready };
        assert_eq!(memory.state(page * PAGE).unwrap().0, expected, "page {page}");
    }
    memory.used(0, 2 * count * PAGE).unwrap();
    for page in 0..2 * count {
        let expected = if page % 2 == 0 { 0 } else { page as u64 + 1 };
        // SAFETY: Ready.
        assert_eq!(unsafe { word(memory, page).read() }, expected, "page {page}");
    }
}

fn batches(table: &Table) -> usize {
    table.count(|call| matches!(call, Call::ProcessMadvise { .. }))
}

fn singles(table: &Table) -> usize {
    table.count(|call| matches!(call, Call::Madvise { .. }))
}

#[test]
fn three_thousand_ranges_go_back_in_three_calls() {
    let (mut memory, table) = memory(Settings::real(1 << 30), 6000);
    table.clear();
    give_back(&mut memory, 3000);
    assert_eq!((batches(&table), singles(&table)), (3000usize.div_ceil(MOST), 0));
}

#[test]
fn a_kernel_without_batches_is_asked_once() {
    for version in [(4, 4), (5, 9), (5, 10), (6, 12), (6, 13)] {
        let (mut memory, table) = memory(Settings { version, ..Settings::real(1 << 30) }, 2400);
        table.clear();
        give_back(&mut memory, 1200);
        assert_eq!((batches(&table), singles(&table)), (1, 1200), "{version:?}");
        table.clear();
        give_back_again(&mut memory);
        assert_eq!((batches(&table), singles(&table)), (0, 1200), "{version:?}");
    }
}

fn give_back_again(memory: &mut Memory) {
    let ranges = every_other_page(memory, 1200);
    // SAFETY: nobody else works on the reservation.
    unsafe { memory.unused_batch_shared(&ranges, GiveBack::Eager) }.unwrap();
}

#[test]
fn a_sandbox_that_refuses_is_asked_once() {
    for errno in [1, 9, 22, 38] {
        let process_madvise_refused = Some(Errno(errno));
        let settings = Settings { process_madvise_refused, ..Settings::heap(4 << 20) };
        let (mut memory, table) = memory(settings, 200);
        table.clear();
        give_back(&mut memory, 100);
        assert_eq!((batches(&table), singles(&table)), (1, 100), "errno {errno}");
    }
}

#[test]
fn locked_memory_in_the_middle_of_a_batch_goes_back_too() {
    let (mut memory, table) = memory(Settings::heap(4 << 20), 200);
    let simulated = table.kernel().kernel();
    let locked = PageRange::new(word(&memory, 40).cast(), 3 * PAGE);
    simulated.lock_memory(locked, true).unwrap();
    give_back(&mut memory, 100);
    table.clear();
    give_back(&mut memory_again(memory), 100);
    assert!(batches(&table) > 1, "the batches go on after one that stopped");
}

/// The same memory, with a number in every page again.
fn memory_again(memory: Memory) -> Memory {
    for page in 0..memory.len() / PAGE {
        // SAFETY: Ready and writable.
        unsafe { word(&memory, page).write(page as u64 + 1) };
    }
    memory
}

#[test]
fn an_error_says_how_many_ranges_were_done() {
    let (memory, table) = memory(Settings { version: (5, 4), ..Settings::heap(4 << 20) }, 40);
    let ranges = every_other_page(&memory, 20);
    let mut singles = 0;
    table.kernel().fail_when(move |_, call| {
        singles += usize::from(matches!(call, Call::Madvise { .. }));
        (singles > 7).then_some(Errno(12))
    });
    // SAFETY: nobody else works on the reservation.
    let stopped = unsafe { memory.unused_batch_shared(&ranges, GiveBack::Eager) }.unwrap_err();
    assert_eq!(stopped.done, 7);
    assert!(matches!(stopped.error.kind(), ErrorKind::OutOfMemory { .. }));
    for (index, range) in ranges.iter().enumerate() {
        let expected = if index < 7 { State::Prepared } else { State::Ready };
        let offset = range.start.addr() - memory.as_mut_ptr().addr();
        assert_eq!(memory.state(offset).unwrap().0, expected);
    }
}

#[test]
fn ranges_that_may_not_be_given_back_are_refused_before_any_is() {
    let (mut memory, table) = memory(Settings::heap(4 << 20), 20);
    memory.fault(10 * PAGE, PAGE).unwrap();
    memory.protect(5 * PAGE, PAGE, Protection::ReadOnly).unwrap();
    table.clear();
    let good = PageRange::new(memory.as_mut_ptr(), PAGE);
    let page = |page, len| PageRange::new(word(&memory, page).cast(), len);
    let found = State::Reserved;
    let cases = [
        (page(10, PAGE), ErrorKind::WrongState { found }),
        (page(9, 2 * PAGE), ErrorKind::WrongState { found }),
        (page(5, PAGE), ErrorKind::WrongProtection { found: Protection::ReadOnly }),
        (page(1, 0), ErrorKind::Empty),
        (page(1, PAGE + 1), ErrorKind::Unaligned { multiple: PAGE }),
        (page(19, 2 * PAGE), ErrorKind::OutOfBounds { len: 20 * PAGE }),
        (PageRange::new(good.start.wrapping_sub(PAGE), PAGE), {
            ErrorKind::OutOfBounds { len: 20 * PAGE }
        }),
    ];
    for (bad, kind) in cases {
        // SAFETY: nobody else works on the reservation.
        let stopped = unsafe { memory.unused_batch_shared(&[good, bad], GiveBack::Lazy) };
        let stopped = stopped.unwrap_err();
        assert_eq!((stopped.done, stopped.error.kind()), (0, kind));
        assert_eq!(memory.state(0).unwrap().0, State::Ready);
    }
    // SAFETY: as above.
    unsafe { memory.unused_batch_shared(&[], GiveBack::Lazy) }.unwrap();
    assert_eq!((batches(&table), singles(&table)), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn short_counts_lose_no_range(seed in any::<u64>(), count in 1..400usize) {
        let settings = Settings { seed, short_counts: true, ..Settings::real(1 << 26) };
        let (mut memory, _) = memory(settings, 2 * count);
        give_back(&mut memory, count);
    }
}
