use proptest::prelude::*;
use sysmem::{GiveBack, Inheritance, Policy, Protection};

/// Some pages of some reservation, wrapped around to what there is.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub which: usize,
    pub at: usize,
    pub npages: usize,
}

#[derive(Clone, Debug)]
pub enum Operation {
    Reserve {
        npages: usize,
        align: usize,
        policy: Policy,
    },
    Alloc {
        npages: usize,
    },
    Free {
        which: usize,
    },
    Map(Part, Protection),
    Used(Part),
    Unused(Part, GiveBack),
    Fault(Part),
    Protect(Part, Protection),
    Batch(Vec<Part>, GiveBack),
    Write(Part, usize),
    Hint(Part, usize),
    Pressure,
    /// Forks a child, or lets the last one go.
    Fork,
    /// Another part of the program wires pages, or no longer needs them wired.
    Wire(Part, bool),
}

/// Lengths in pages: mostly few, at times more than a state map holds without a tree.
fn npages() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..24usize, 1 => 120..300usize]
}

fn part() -> impl Strategy<Value = Part> {
    let lens = prop_oneof![4 => 0..4usize, 2 => 0..24usize, 1 => 0..300usize];
    // Offset zero often, so that operations meet.
    let offsets = prop_oneof![2 => Just(0), 3 => 0..24usize, 1 => 0..300usize];
    (0..3usize, offsets, lens).prop_map(|(which, at, npages)| Part { which, at, npages })
}

fn protection() -> impl Strategy<Value = Protection> {
    prop_oneof![
        5 => Just(Protection::ReadWrite),
        2 => Just(Protection::ReadOnly),
        1 => Just(Protection::NoAccess),
        1 => Just(Protection::ReadExecute),
    ]
}

fn how() -> impl Strategy<Value = GiveBack> {
    prop_oneof![Just(GiveBack::Lazy), Just(GiveBack::Eager)]
}

fn policy() -> impl Strategy<Value = Policy> {
    let inheritance = prop_oneof![
        3 => Just(Inheritance::Copy),
        1 => Just(Inheritance::Share),
        1 => Just(Inheritance::Nothing),
        1 => Just(Inheritance::Zeros),
    ];
    (any::<bool>(), prop::bool::weighted(0.7), inheritance, prop::bool::weighted(0.2)).prop_map(
        |(executable, dumped, inheritance, stacks)| Policy {
            executable,
            dumped,
            inheritance,
            stacks,
            ..Policy::DEFAULT
        },
    )
}

pub fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        2 => (npages(), 0..7u32, policy()).prop_map(|(npages, align, policy)| {
            Operation::Reserve { npages, align: 1 << align, policy }
        }),
        1 => npages().prop_map(|npages| Operation::Alloc { npages }),
        1 => (0..3usize).prop_map(|which| Operation::Free { which }),
        6 => (part(), protection()).prop_map(|(part, protection)| Operation::Map(part, protection)),
        6 => part().prop_map(Operation::Used),
        4 => (part(), how()).prop_map(|(part, how)| Operation::Unused(part, how)),
        3 => part().prop_map(Operation::Fault),
        3 => (part(), protection())
            .prop_map(|(part, protection)| Operation::Protect(part, protection)),
        2 => (prop::collection::vec(part(), 1..6), how())
            .prop_map(|(parts, how)| Operation::Batch(parts, how)),
        12 => (part(), 0..3usize).prop_map(|(part, word)| Operation::Write(part, word)),
        2 => (part(), 0..4usize).prop_map(|(part, which)| Operation::Hint(part, which)),
        1 => Just(Operation::Pressure),
        1 => Just(Operation::Fork),
        2 => (part(), prop::bool::weighted(0.7))
            .prop_map(|(part, wired)| Operation::Wire(part, wired)),
    ]
}

/// A run of operations that begins with something to work on.
pub fn operations(most: usize) -> impl Strategy<Value = Vec<Operation>> {
    let policy = Policy { executable: true, ..Policy::DEFAULT };
    let first = Operation::Reserve { npages: 20, align: 1, policy };
    let part = Part { which: 0, at: 0, npages: 15 };
    let map = Operation::Map(part, Protection::ReadWrite);
    let used = Operation::Used(part);
    prop::collection::vec(operation(), 1..most).prop_map(move |rest| {
        let mut all = vec![first.clone(), map.clone(), used.clone()];
        all.extend(rest);
        all
    })
}
