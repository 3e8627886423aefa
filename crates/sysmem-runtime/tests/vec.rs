//! The vector that never moves, against `Vec` and on kernels that refuse.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use proptest::prelude::*;
use sysmem::os::linux::Linux;
use sysmem::sim::{Faulty, Settings, Simulated};
use sysmem::{Account, Errno, ErrorKind};
use sysmem_runtime::VmVec;

const MIB: usize = 1 << 20;

fn account() -> &'static Account {
    Box::leak(Box::new(Account::new("test")))
}

#[derive(Clone, Debug)]
enum Step {
    Push(u32),
    Pop,
    Insert(usize, u32),
    Remove(usize),
    SwapRemove(usize),
    Truncate(usize),
    Extend(Vec<u32>),
    ExtendSlice(Vec<u32>),
    Resize(usize, u32),
    RetainMultiples(u32),
    Dedup,
    DedupByKey(u32),
    ExtendFromWithin(usize, usize),
    ShrinkTo(usize),
    /// A range, and how much of it is taken from the front and the back.
    Drain(usize, usize, usize, usize),
    Reserve(usize),
    ShrinkToFit,
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(0u32..8, 0..40_000);
    prop_oneof![
        any::<u32>().prop_map(Step::Push),
        Just(Step::Pop),
        (any::<usize>(), any::<u32>()).prop_map(|(at, value)| Step::Insert(at, value)),
        any::<usize>().prop_map(Step::Remove),
        any::<usize>().prop_map(Step::SwapRemove),
        any::<usize>().prop_map(Step::Truncate),
        some().prop_map(Step::Extend),
        some().prop_map(Step::ExtendSlice),
        (0..200_000usize, any::<u32>()).prop_map(|(len, value)| Step::Resize(len, value)),
        (1..4u32).prop_map(Step::RetainMultiples),
        Just(Step::Dedup),
        (1..5u32).prop_map(Step::DedupByKey),
        (any::<usize>(), any::<usize>())
            .prop_map(|(from, len)| Step::ExtendFromWithin(from, len % 5000)),
        (0..300_000usize).prop_map(Step::ShrinkTo),
        (any::<usize>(), any::<usize>(), 0..4usize, 0..4usize)
            .prop_map(|(from, end, front, back)| Step::Drain(from, end, front, back)),
        (0..100_000usize).prop_map(Step::Reserve),
        Just(Step::ShrinkToFit),
        Just(Step::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn does_what_vec_does_and_never_moves(steps in prop::collection::vec(step(), 1..40)) {
        let os = Linux::new(Simulated::new(Settings::heap(16 * MIB)));
        let account = account();
        let mut ours = VmVec::with_capacity_in(os, MIB, account).unwrap();
        let mut model: Vec<u32> = Vec::new();
        let start = ours.as_ptr();
        for step in steps {
            let len = model.len();
            match step {
                Step::Push(value) => {
                    ours.push(value).unwrap();
                    model.push(value);
                }
                Step::Pop => prop_assert_eq!(ours.pop(), model.pop()),
                Step::Insert(at, value) => {
                    ours.insert(at % (len + 1), value).unwrap();
                    model.insert(at % (len + 1), value);
                }
                Step::Remove(at) if len > 0 => {
                    prop_assert_eq!(ours.remove(at % len), model.remove(at % len));
                }
                Step::SwapRemove(at) if len > 0 => {
                    prop_assert_eq!(ours.swap_remove(at % len), model.swap_remove(at % len));
                }
                Step::Remove(_) | Step::SwapRemove(_) => {}
                Step::Truncate(to) => {
                    ours.truncate(to % (len + 2));
                    model.truncate(to % (len + 2));
                }
                Step::Extend(values) => {
                    ours.extend(values.iter().copied()).unwrap();
                    model.extend(values);
                }
                Step::ExtendSlice(values) => {
                    ours.extend_from_slice(&values).unwrap();
                    model.extend(values);
                }
                Step::Resize(to, value) => {
                    ours.resize(to, value).unwrap();
                    model.resize(to, value);
                }
                Step::RetainMultiples(of) => {
                    ours.retain(|value| value % of == 0);
                    model.retain(|value| value % of == 0);
                }
                Step::Dedup => {
                    ours.dedup();
                    model.dedup();
                }
                Step::DedupByKey(by) => {
                    ours.dedup_by_key(|value| *value / by);
                    model.dedup_by_key(|value| *value / by);
                }
                Step::ExtendFromWithin(from, more) => {
                    let from = from % (len + 1);
                    let range = from..len.min(from + more);
                    ours.extend_from_within(range.clone()).unwrap();
                    model.extend_from_within(range);
                }
                Step::ShrinkTo(committed) => {
                    ours.shrink_to(committed).unwrap();
                    prop_assert!(ours.committed() >= len);
                }
                Step::Drain(from, end, front, back) => {
                    let end = end % (len + 1);
                    let range = from % (end + 1)..end;
                    let (mut drain, mut expected) = (ours.drain(range.clone()), model.drain(range));
                    for _ in 0..front {
                        prop_assert_eq!(drain.next(), expected.next());
                    }
                    for _ in 0..back {
                        prop_assert_eq!(drain.next_back(), expected.next_back());
                    }
                    prop_assert_eq!(drain.len(), expected.len());
                }
                Step::Reserve(more) => {
                    ours.reserve(more).unwrap();
                    prop_assert!(ours.committed() >= len + more);
                }
                Step::ShrinkToFit => ours.shrink_to_fit().unwrap(),
                Step::Clear => {
                    ours.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(&ours, &model[..]);
            prop_assert_eq!(ours.as_ptr(), start);
            prop_assert!(ours.committed() <= ours.capacity());
            // Memory beyond what is in use stays in proportion: growing takes half as much again,
            // reserving what was asked for, and neither outlives a shrinking.
            let ready = account.figures().ready as usize;
            prop_assert!(ready >= ours.len() * 4);
        }
        let taken: Vec<u32> = ours.into_iter().collect();
        prop_assert_eq!(taken, model);
        prop_assert_eq!(account.figures().reserved + account.figures().ready, 0);
    }
}

#[test]
fn gives_memory_back_as_it_shrinks() {
    let account = account();
    let mut vector = VmVec::with_capacity_in(sysmem::Native::NEW, 1 << 30, account).unwrap();
    vector.resize(64 * MIB, 1u8).unwrap();
    let resident = |vector: &VmVec<u8>| {
        let reservation = vector.reservation().unwrap();
        reservation.resident_bytes(0, 128 * MIB).unwrap()
    };
    assert!(resident(&vector) >= 64 * MIB);
    vector.truncate(8 * MIB);
    assert!(resident(&vector) <= 11 * MIB, "{} resident", resident(&vector));
    while vector.len() > MIB {
        vector.pop();
    }
    assert!(resident(&vector) <= 3 * MIB, "{} resident", resident(&vector));
    vector.clear();
    assert!(resident(&vector) <= MIB / 4, "{} resident", resident(&vector));
    vector.shrink_to_fit().unwrap();
    assert_eq!(account.figures().ready, 0);
}

#[test]
fn a_length_that_goes_to_and_fro_asks_the_system_for_nothing() {
    let account = account();
    let mut vector = VmVec::with_capacity_in(sysmem::Native::NEW, MIB, account).unwrap();
    vector.extend(0..100_000u64).unwrap();
    let committed = vector.committed();
    for _ in 0..100 {
        vector.truncate(80_000);
        vector.extend(80_000..100_000).unwrap();
        assert_eq!(vector.committed(), committed);
    }
}

#[test]
fn an_element_that_finds_no_memory_comes_back_and_the_vector_goes_on() {
    let settings = Settings { data_limit: MIB as u64, ..Settings::heap(32 * MIB) };
    let mut vector =
        VmVec::with_capacity_in(Linux::new(Simulated::new(settings)), 2 * MIB, account()).unwrap();
    let refused = loop {
        if let Err(refused) = vector.push(Box::new(vector.len())) {
            break refused;
        }
    };
    let len = vector.len();
    assert_eq!(*refused.value, len);
    assert!(matches!(refused.error.kind(), ErrorKind::OutOfMemory { .. }), "{}", refused.error);
    // Not a page that the limit allows was left unused.
    assert!((len + 1) * size_of::<Box<usize>>() > MIB - 16 * 4096, "{len} elements");
    vector.truncate(10);
    vector.push(refused.value).unwrap();
    assert!(vector[..10].iter().enumerate().all(|(index, value)| **value == index));
    assert_eq!(*vector[10], len);
}

#[test]
fn a_full_vector_says_how_much_it_can_hold() {
    let mut vector = VmVec::with_capacity(3).unwrap();
    vector.extend([1u64, 2, 3]).unwrap();
    let refused = vector.push(4).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::OutOfBounds { len: 24 });
    assert_eq!(vector.insert(0, 4).unwrap_err().value, 4);
    assert_eq!(vector, [1, 2, 3]);
    assert!(VmVec::<u64>::with_capacity(usize::MAX).is_err());
    assert!(VmVec::<u8>::with_capacity(0).unwrap().push(1).is_err());
}

#[test]
fn elements_of_no_size_take_no_memory() {
    let account = account();
    let mut vector = VmVec::with_capacity_in(sysmem::Native::NEW, 0, account).unwrap();
    for _ in 0..1000 {
        vector.push(()).unwrap();
    }
    assert_eq!(vector.drain(10..900).count(), 890);
    assert_eq!(vector.pop(), Some(()));
    vector.remove(3);
    assert_eq!(vector.len(), 108);
    assert_eq!(vector.iter().count(), 108);
    assert_eq!(vector.into_iter().count(), 108);
    assert_eq!(account.figures().obtained, 0);
}

#[test]
fn elements_lie_where_their_alignment_says_even_above_a_page() {
    #[repr(align(65536))]
    #[derive(Clone, PartialEq, Debug)]
    struct Aligned(u8);
    let mut vector = VmVec::with_capacity(100).unwrap();
    for index in 0..50 {
        vector.push(Aligned(index)).unwrap();
    }
    assert!(vector.iter().all(|element| std::ptr::from_ref(element).addr() % 65536 == 0));
    vector.truncate(2);
    vector.push(Aligned(9)).unwrap();
    assert_eq!(vector, [Aligned(0), Aligned(1), Aligned(9)]);
}

#[test]
fn elements_longer_than_a_page_shrink_and_grow() {
    let mut vector = VmVec::with_capacity(1000).unwrap();
    for round in 0..3 {
        for index in 0..200 {
            vector.push([index as u8 + round; 10_000]).unwrap();
        }
        vector.truncate(3);
        vector.shrink_to_fit().unwrap();
        assert_eq!(vector.len(), 3);
        assert!(vector.iter().enumerate().all(|(index, bytes)| bytes[9_999] == index as u8));
    }
}

/// Counts the drops of its clones; the one with the unlucky number panics.
#[derive(Debug)]
struct Counted {
    number: usize,
    drops: Rc<Cell<usize>>,
    unlucky: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.set(self.drops.get() + 1);
        if self.number == self.unlucky {
            panic!("unlucky");
        }
    }
}

fn counted(unlucky: usize) -> (VmVec<Counted>, Rc<Cell<usize>>) {
    let drops = Rc::new(Cell::new(0));
    let mut vector = VmVec::with_capacity(1000).unwrap();
    vector
        .extend((0..100).map(|number| Counted { number, drops: drops.clone(), unlucky }))
        .unwrap();
    (vector, drops)
}

#[test]
fn a_panic_in_drop_drops_every_element_once_and_leaks_none() {
    let (vector, drops) = counted(5);
    catch_unwind(AssertUnwindSafe(|| drop(vector))).unwrap_err();
    assert_eq!(drops.get(), 100);

    let (mut vector, drops) = counted(50);
    catch_unwind(AssertUnwindSafe(|| vector.truncate(40))).unwrap_err();
    assert_eq!((vector.len(), drops.get()), (40, 60));
    drop(vector);
    assert_eq!(drops.get(), 100);

    let (mut vector, drops) = counted(50);
    catch_unwind(AssertUnwindSafe(|| drop(vector.drain(40..60)))).unwrap_err();
    assert_eq!((vector.len(), drops.get()), (80, 20));
    assert_eq!(vector[40].number, 60);
    drop(vector);
    assert_eq!(drops.get(), 100);

    let (mut vector, drops) = counted(50);
    catch_unwind(AssertUnwindSafe(|| vector.retain(|element| element.number % 2 == 1)))
        .unwrap_err();
    assert_eq!(drops.get(), 26);
    drop(vector);
    assert_eq!(drops.get(), 100);

    let (vector, drops) = counted(50);
    catch_unwind(AssertUnwindSafe(|| vector.into_iter().nth(70))).unwrap_err();
    assert_eq!(drops.get(), 100);
}

#[test]
fn a_panic_while_looking_keeps_what_was_not_looked_at() {
    let (mut vector, drops) = counted(usize::MAX);
    catch_unwind(AssertUnwindSafe(|| {
        vector.retain(|element| {
            assert!(element.number < 30);
            element.number % 3 == 0
        });
    }))
    .unwrap_err();
    assert_eq!((vector.len(), drops.get()), (80, 20));
    assert_eq!(vector[10].number, 30);
}

/// A vector goes to another thread if its elements may, and is shared if they may be.
#[test]
fn is_send_and_sync_exactly_where_its_elements_are() {
    fn sends<T: Send>() {}
    fn shares<T: Sync>() {}
    sends::<VmVec<Cell<u8>>>();
    shares::<VmVec<u8>>();
    shares::<VmVec<std::sync::MutexGuard<'static, u8>>>();
    // Where a type is not Send (or Sync), both impls fit and the call would be ambiguous.
    trait AmbiguousIfSend<A> {
        fn probe() {}
    }
    impl<T: ?Sized> AmbiguousIfSend<()> for T {}
    struct IsSend;
    impl<T: ?Sized + Send> AmbiguousIfSend<IsSend> for T {}
    <VmVec<Rc<u8>> as AmbiguousIfSend<_>>::probe();
    <VmVec<std::sync::MutexGuard<'static, u8>> as AmbiguousIfSend<_>>::probe();
    trait AmbiguousIfSync<A> {
        fn probe() {}
    }
    impl<T: ?Sized> AmbiguousIfSync<()> for T {}
    struct IsSync;
    impl<T: ?Sized + Sync> AmbiguousIfSync<IsSync> for T {}
    <VmVec<Cell<u8>> as AmbiguousIfSync<_>>::probe();
}

/// Grows, shrinks and grows again while the `n`-th call to the kernel fails, for every `n`: what
/// the vector holds is what the model holds, whatever was refused, and it goes on afterwards.
#[test]
fn a_failure_at_any_call_loses_no_element_and_no_memory() {
    for n in 0.. {
        let account = account();
        let faulty = Faulty::new(Simulated::new(Settings::heap(32 * MIB)));
        faulty.fail_nth(n, Errno(12));
        let os = Linux::new(faulty.clone());
        let mut model = Vec::new();
        if let Ok(mut vector) = VmVec::with_capacity_in(os, MIB, account) {
            for round in 0..3u64 {
                for value in 0..100_000 {
                    if vector.push(value + round).is_ok() {
                        model.push(value + round);
                    }
                }
                vector.truncate(10);
                model.truncate(10);
                let _ = vector.shrink_to_fit();
                assert_eq!(vector, model[..], "call {n} failed, round {round}");
            }
            let calls = faulty.calls();
            faulty.fail_nothing();
            vector.extend(0..200_000).unwrap();
            model.extend(0..200_000);
            assert_eq!(vector, model[..], "call {n} failed");
            if calls <= n {
                assert!(n > 10, "the test makes calls");
                return;
            }
        }
        assert_eq!(account.figures().reserved + account.figures().ready, 0, "call {n} failed");
    }
}

#[test]
fn what_is_leaked_stays_and_is_dropped_by_nobody() {
    let os = Linux::new(Simulated::new(Settings::heap(MIB)));
    let account = account();
    let dropped = Rc::new(());
    let mut vector = VmVec::with_capacity_in(os, 100, account).unwrap();
    vector.extend((0..10).map(|_| dropped.clone())).unwrap();
    let leaked = vector.leak();
    assert_eq!(leaked.len(), 10);
    assert_eq!(Rc::strong_count(&dropped), 11);
    assert!(account.figures().ready > 0);
    // What is forgotten can be dropped all the same.
    // SAFETY: initialized, and dropped once.
    unsafe { std::ptr::drop_in_place(leaked) };
    assert_eq!(Rc::strong_count(&dropped), 1);
}

#[test]
fn the_element_before_may_be_changed_while_duplicates_are_dropped() {
    let mut vector = VmVec::with_capacity(100).unwrap();
    vector.extend([1u32, 1, 1, 2, 3, 3]).unwrap();
    // Counts how many were the same.
    let mut counts = VmVec::with_capacity(100).unwrap();
    counts.extend(vector.iter().map(|&value| (value, 1))).unwrap();
    counts.dedup_by(|one, before| {
        let same = one.0 == before.0;
        before.1 += i32::from(same);
        same
    });
    assert_eq!(counts, [(1, 3), (2, 1), (3, 2)]);
}
