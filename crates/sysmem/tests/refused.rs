//! Whatever a caller asks that cannot be done is refused with an error a person can act on, and
//! nothing has changed: not the kernel's mappings, not the books.

use sysmem::os::linux::Linux;
use sysmem::os::{PageRange, PageResidency, Policy};
use sysmem::sim::{Call, Settings, Simulated, Traced};
use sysmem::{
    Account, Error, ErrorKind, GiveBack, Os, Protection, Reservation, ReserveOptions, State,
};

const PAGE: usize = 4096;
const LEN: usize = 16 * PAGE;

type Table = Traced<Simulated>;
type Memory = Reservation<Linux<Table>>;
type Operate = fn(&mut Memory, usize, usize) -> Result<(), Error>;

fn memory(account: &'static Account) -> (Memory, Table) {
    let traced = Traced::new(Simulated::new(Settings::heap(1 << 20)));
    let os = Linux::new(traced.clone());
    let mut memory = Reservation::reserve_in(os, ReserveOptions::new(LEN), account).unwrap();
    // Three kinds of pages: Ready at 0, Prepared at 4, Reserved from 8 on.
    memory.map(0, 8 * PAGE, Protection::ReadWrite).unwrap();
    memory.used(0, 4 * PAGE).unwrap();
    (memory, traced)
}

const OPERATIONS: [(&str, Operate); 9] = [
    ("map", |memory, at, len| memory.map(at, len, Protection::ReadWrite)),
    ("used", |memory, at, len| memory.used(at, len)),
    ("unused", |memory, at, len| memory.unused(at, len, GiveBack::Eager)),
    ("fault", |memory, at, len| memory.fault(at, len)),
    ("protect", |memory, at, len| memory.protect(at, len, Protection::ReadOnly)),
    ("huge_page", |memory, at, len| memory.huge_page(at, len)),
    ("no_huge_page", |memory, at, len| memory.no_huge_page(at, len)),
    ("collapse", |memory, at, len| memory.collapse(at, len)),
    ("residency", |memory, at, len| memory.resident_bytes(at, len).map(drop)),
];

#[test]
fn ranges_that_are_no_ranges_are_refused_by_every_operation_before_the_kernel_is_asked() {
    static ACCOUNT: Account = Account::new("refused ranges");
    let (mut memory, table) = memory(&ACCOUNT);
    let figures = ACCOUNT.figures();
    table.clear();
    let outside = ErrorKind::OutOfBounds { len: LEN };
    let unaligned = ErrorKind::Unaligned { multiple: PAGE };
    let cases = [
        (0, 0, ErrorKind::Empty),
        (1, PAGE, unaligned),
        (0, PAGE - 1, unaligned),
        (PAGE / 2, PAGE / 2, unaligned),
        (0, LEN + PAGE, outside),
        (LEN, PAGE, outside),
        (LEN - PAGE, 2 * PAGE, outside),
        (usize::MAX - PAGE + 1, PAGE, outside),
        (PAGE, usize::MAX - PAGE + 1, ErrorKind::TooLong),
    ];
    for (name, operate) in OPERATIONS {
        for (at, len, kind) in cases {
            let error = operate(&mut memory, at, len).unwrap_err();
            assert_eq!(error.kind(), kind, "{name} at {at:#x} of {len:#x}: {error}");
            let text = error.to_string();
            assert!(text.starts_with(name), "{text}");
        }
    }
    let pages = &mut [PageResidency::default(); 20];
    assert_eq!(memory.residency(0, pages).unwrap_err().kind(), outside);
    assert_eq!(memory.residency(0, &mut []).unwrap_err().kind(), ErrorKind::Empty);
    assert_eq!(table.records(), []);
    assert_eq!(ACCOUNT.figures(), figures);
}

#[test]
fn states_that_forbid_an_operation_are_named_with_a_way_out() {
    static ACCOUNT: Account = Account::new("refused states");
    let (mut memory, table) = memory(&ACCOUNT);
    let figures = ACCOUNT.figures();
    table.clear();
    let (ready, prepared, reserved) = (0, 4 * PAGE, 8 * PAGE);
    let cases: [(&str, usize, State, &str); 6] = [
        ("map", ready, State::Ready, "fault it first"),
        ("map", prepared, State::Prepared, "call used first"),
        ("used", reserved, State::Reserved, "map it first"),
        ("unused", reserved, State::Reserved, "map it first"),
        ("protect", prepared, State::Prepared, "call used first"),
        ("protect", reserved, State::Reserved, "map it first"),
    ];
    for (name, at, found, way_out) in cases {
        let (_, operate) = OPERATIONS.into_iter().find(|(known, _)| *known == name).unwrap();
        let error = operate(&mut memory, at, PAGE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState { found }, "{name}: {error}");
        assert!(error.to_string().ends_with(way_out), "{error}");
    }
    // One page in a wrong state refuses the whole range, and the pages before it are left alone.
    let error = memory.unused(0, 9 * PAGE, GiveBack::Eager).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState { found: State::Reserved });
    assert_eq!(error.address(), memory.as_mut_ptr().addr() + 8 * PAGE);
    assert_eq!(memory.state(0), Some((State::Ready, Protection::ReadWrite, 4 * PAGE)));
    assert_eq!(memory.state(LEN), None);
    assert_eq!(table.records(), []);
    assert_eq!(ACCOUNT.figures(), figures);
}

#[test]
fn the_bare_operations_refuse_what_no_kernel_may_be_given() {
    let traced = Traced::new(Simulated::new(Settings::heap(1 << 20)));
    let os = Linux::new(traced.clone());
    let start = os.reserve(&ReserveOptions::new(LEN)).unwrap().as_ptr();
    traced.clear();
    let kinds = [
        (PageRange::new(start, 0), ErrorKind::Empty),
        (PageRange::new(start.wrapping_add(8), PAGE), ErrorKind::Unaligned { multiple: PAGE }),
        (PageRange::new(start, 100), ErrorKind::Unaligned { multiple: PAGE }),
        (PageRange::new(start, usize::MAX - PAGE + 1), ErrorKind::TooLong),
    ];
    let (protection, policy) = (Protection::ReadWrite, Policy::DEFAULT);
    for (range, kind) in kinds {
        // SAFETY: each call is refused before it reaches the kernel, which the trace shows.
        let results = unsafe {
            [
                os.map(range, protection, policy),
                os.used(range, protection),
                os.unused(range, protection, GiveBack::Lazy, policy),
                os.unused_batch(&[range], protection, GiveBack::Lazy, policy)
                    .map_err(|stop| stop.error),
                os.fault(range, policy),
                os.free(range),
                os.protect(range, protection),
                os.huge_page(range),
                os.no_huge_page(range),
                os.collapse(range),
                os.name(range, c"name"),
                os.set_inheritance(range, policy.inheritance),
                os.set_dumped(range, policy.dumped),
                os.residency(range, &mut []),
                os.resident_bytes(range).map(drop),
            ]
        };
        for result in results {
            assert_eq!(result.unwrap_err().kind(), kind);
        }
    }
    assert_eq!(os.alloc(0).unwrap_err().kind(), ErrorKind::Empty);
    assert_eq!(os.alloc(1).unwrap_err().kind(), ErrorKind::Unaligned { multiple: PAGE });
    let not_whole = os.residency(PageRange::new(start, LEN), &mut [PageResidency::default(); 3]);
    assert!(not_whole.is_err());
    assert_eq!(traced.records(), []);
}

#[test]
fn hints_say_when_a_kernel_does_not_have_them() {
    let none = Settings { huge_page_size: None, mapping_names: false, ..Settings::heap(1 << 20) };
    let old = Settings { version: (5, 10), ..Settings::heap(1 << 20) };
    static ACCOUNT: Account = Account::new("hints");
    for (settings, collapses_only) in [(none, false), (old, true)] {
        let kernel = Simulated::new(settings);
        let os = Linux::new(kernel.clone());
        assert_eq!(os.huge_page_size(), collapses_only.then_some(2 << 20));
        let memory = Reservation::alloc_in(os, LEN, &ACCOUNT).unwrap();
        let unsupported =
            |result: Result<(), Error>| result.unwrap_err().kind() == ErrorKind::NotSupported;
        assert!(unsupported(memory.collapse(0, LEN)));
        assert!(unsupported(memory.name(c"name")));
        assert_eq!(memory.huge_page(0, LEN).is_ok(), collapses_only);
        assert_eq!(memory.no_huge_page(0, LEN).is_ok(), collapses_only);
    }
    let kernel = Simulated::new(Settings::heap(1 << 20));
    let memory = Reservation::alloc_in(Linux::new(kernel.clone()), LEN, &ACCOUNT).unwrap();
    memory.name(c"a name").unwrap();
    memory.huge_page(0, PAGE).unwrap();
    let named = |mapping: &&sysmem::sim::Mapping| mapping.attributes.name.is_some();
    let huge = |mapping: &&sysmem::sim::Mapping| mapping.attributes.huge == Some(true);
    assert_eq!(kernel.mappings().iter().filter(named).count(), 2);
    assert_eq!(kernel.mappings().iter().filter(huge).count(), 1);
    // PR_SET_VMA(2const) takes no brackets.
    assert!(memory.name(c"[name]").is_err());
}

#[test]
fn a_findings_cache_asks_the_kernel_once() {
    let traced = Traced::new(Simulated::new(Settings::heap(1 << 20)));
    let os = Linux::new(traced.clone());
    for _ in 0..3 {
        assert_eq!(os.huge_page_size(), Some(2 << 20));
    }
    assert_eq!(traced.count(|call| matches!(call, Call::Open { .. })), 1);
}
