//! The suite can fail: on systems that break a promise, the check of that promise fails, and
//! every check fails on one of them.

#[path = "../harness/mod.rs"]
mod harness;

mod capabilities;
mod liar;

use std::collections::BTreeSet;

use harness::{alone, run};
use liar::Liar;
use sysmem::Native;
use sysmem_probe::Running;

const NATIVE: Native = Native::NEW;

/// A promise that is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    AllocIsDirty,
    AllocHasNoEnd,
    FreeDoesNothing,
    ReservedIsReadable,
    ReserveOverlaps,
    ReserveTakesMemory,
    AlignmentIsIgnored,
    AlignmentLeavesTheRest,
    HintIsIgnored,
    HintReplaces,
    AtReplaces,
    NearIsFar,
    HighIsLow,
    MapIgnoresProtection,
    MapIsDirty,
    MapTakesNeighbours,
    NothingIsExecutable,
    ProtectDoesNothing,
    ProtectDropsContents,
    UnusedDoesNothing,
    UnusedIsRefused,
    UnusedTakesAccess,
    UnusedTakesNeighbours,
    UnusedMakesWritable,
    UnusedOfThreePagesDoesNothing,
    LazyIsEager,
    BatchIsRefused,
    BatchSkipsTheLast,
    BatchTakesAnything,
    FaultDoesNothing,
    FaultKeepsContents,
    FaultTakesNeighbours,
    NothingIsSupported,
    InheritanceIsIgnored,
    InheritanceIsForgotten,
    ChildrenGetNothing,
    DumpedIsIgnored,
    ExecutableIsForgotten,
    HintsDropContents,
    ResidencyIsWrong,
    ResidentBytesAreWrong,
    MisuseIsTaken,
    RegistryChanges,
    TimeGoesBack,
    WakeDoesNothing,
    StacksAreNotWritable,
    GuardsDoNothing,
    GuardsTakeNeighbours,
    ViewsAreApart,
    ViewsAreReadable,
    ViewsStayInSight,
    ViewsAreWritable,
    SealsDoNothing,
    SwitchDoesNothing,
    HugeMemoryIsDirty,
}

/// Each lie, and checks that must fail on it: the beginnings of their names.
const LIES: &[(Lie, &[&str])] = &[
    (
        Lie::AllocIsDirty,
        &["alloc: memory is zero and", "alloc: memory is zero after", "Reservation: alloc"],
    ),
    (Lie::AllocHasNoEnd, &["alloc: more than"]),
    (
        Lie::FreeDoesNothing,
        &[
            "free: freed memory faults",
            "free: no address space",
            "free: the place",
            "alloc, free: the resident set",
            "Reservation: free",
        ],
    ),
    (
        Lie::ReservedIsReadable,
        &[
            "reserve: reading and writing fault",
            "map: the pages around",
            "Reservation: what the states forbid",
        ],
    ),
    (Lie::ReserveOverlaps, &["reserve: no two"]),
    (Lie::ReserveTakesMemory, &["reserve: address space costs"]),
    (
        Lie::AlignmentIsIgnored,
        &[
            "reserve: aligned to 64 KiB",
            "reserve: aligned to 2 MiB",
            "reserve: aligned to 32 MiB",
            "reserve: aligned to 1 GiB",
        ],
    ),
    (Lie::AlignmentLeavesTheRest, &["reserve: alignment leaves"]),
    (Lie::HintIsIgnored, &["reserve: a hint at a free"]),
    (Lie::HintReplaces, &["reserve: a hint at a taken"]),
    (Lie::AtReplaces, &["reserve: a taken address"]),
    (Lie::NearIsFar, &["reserve: near an", "reserve: nothing free near"]),
    (Lie::HighIsLow, &["reserve: high"]),
    (
        Lie::MapIgnoresProtection,
        &["map, used: no access", "map, used: read only", "map, used: read and execute"],
    ),
    (
        Lie::MapIsDirty,
        &["map, used: read and write", "fault: contents are gone when mapped", "fault: of a whole"],
    ),
    (Lie::MapTakesNeighbours, &["map: the pages around"]),
    (Lie::NothingIsExecutable, &["protect: code"]),
    (Lie::ProtectDoesNothing, &["protect: access that is taken away"]),
    (Lie::ProtectDropsContents, &["protect: contents stay", "protect: the pages around"]),
    (
        Lie::UnusedDoesNothing,
        &[
            "unused eagerly: contents",
            "unused eagerly: memory that is read only",
            "unused eagerly: the resident set",
            "unused eagerly: no page",
            "unused: eagerly after lazily",
            "unused eagerly: pages that a forked child",
            "unused eagerly: pages that are locked",
        ],
    ),
    (Lie::UnusedIsRefused, &["Account: figures", "Reservation: states", "unused lazily: contents"]),
    (
        Lie::UnusedTakesAccess,
        &[
            "unused lazily: what is written",
            "unused eagerly: what is written",
            "unused lazily: contents",
        ],
    ),
    (
        Lie::UnusedTakesNeighbours,
        &["unused lazily: the pages around", "unused eagerly: the pages around"],
    ),
    (
        Lie::UnusedMakesWritable,
        &["unused lazily: memory that is read", "unused eagerly: memory that is read"],
    ),
    (Lie::UnusedOfThreePagesDoesNothing, &["Reservation: random operations"]),
    (
        Lie::LazyIsEager,
        &["unused lazily: contents", "unused lazily: the resident set", "unused lazily: no page"],
    ),
    (Lie::BatchIsRefused, &["unused_batch: no ranges", "Reservation: given back in a batch"]),
    (Lie::BatchSkipsTheLast, &["unused_batch: every range", "unused_batch: more ranges"]),
    (Lie::BatchTakesAnything, &["unused_batch: a bad range"]),
    (
        Lie::FaultDoesNothing,
        &["fault: Ready memory", "fault: Prepared memory", "Reservation: states"],
    ),
    (
        Lie::FaultKeepsContents,
        &[
            "fault: contents are gone when mapped",
            "fault: contents are gone that could only",
            "fault: the resident set",
            "fault: no page",
            "fault: of a whole",
            "fault: pages that a forked child",
            "fault: pages that are locked",
        ],
    ),
    (Lie::FaultTakesNeighbours, &["fault: the pages around"]),
    (Lie::NothingIsSupported, &["policy: reserve takes"]),
    (
        Lie::InheritanceIsIgnored,
        &[
            "inheritance: a forked child shares",
            "inheritance: a forked child gets nothing",
            "inheritance: a forked child gets zeros",
            "inheritance: stays through",
            "set_inheritance: what",
        ],
    ),
    (Lie::InheritanceIsForgotten, &["inheritance: stays through"]),
    (Lie::ChildrenGetNothing, &["inheritance: a forked child gets a copy"]),
    (Lie::DumpedIsIgnored, &["dumped: memory that is left out", "set_dumped: contents"]),
    (Lie::ExecutableIsForgotten, &["executable: stays through"]),
    (
        Lie::HintsDropContents,
        &["huge_page: contents", "no_huge_page: contents", "collapse: contents", "name: contents"],
    ),
    (Lie::ResidencyIsWrong, &["residency: pages that were touched", "residency: room for another"]),
    (Lie::ResidentBytesAreWrong, &["residency: the bytes"]),
    (
        Lie::MisuseIsTaken,
        &[
            "misuse: an unaligned address",
            "misuse: an unaligned length",
            "misuse: an empty range",
            "misuse: a range past the end",
            "misuse: no length, and half a page, are refused by alloc",
            "misuse: no length, and half a page, are refused by reserve",
            "misuse: an alignment",
            "misuse: more than there can be",
        ],
    ),
    (Lie::RegistryChanges, &["Registry: finds"]),
    (Lie::TimeGoesBack, &["monotonic_time: never", "thread_cpu_time: grows"]),
    (Lie::WakeDoesNothing, &["park, wake: a thread"]),
    (Lie::StacksAreNotWritable, &["stacks: threads may have"]),
    (Lie::GuardsDoNothing, &["guard: reading and writing", "guards: a row"]),
    (Lie::GuardsTakeNeighbours, &["guard: the pages around"]),
    (Lie::ViewsAreApart, &["object: its views"]),
    (Lie::ViewsAreReadable, &["object: a view faults"]),
    (Lie::ViewsStayInSight, &["object: what is taken"]),
    (Lie::ViewsAreWritable, &["object: a view that is read only"]),
    (Lie::SealsDoNothing, &["seal: protection"]),
    (Lie::SwitchDoesNothing, &["switch_huge_pages: what is set"]),
    (Lie::HugeMemoryIsDirty, &["alloc_huge: memory is zero"]),
];

/// Checks that no system above fails: a lock that does not exclude is no system's doing, and one
/// whose park never ends would never be heard of again.
const NEVER_FAIL: &[&str] = &["Lock: threads that contend", "park: ends when"];

#[test]
fn every_check_fails_on_a_system_that_breaks_its_promise() {
    let turn = alone();
    let mut failed_somewhere = BTreeSet::new();
    for &(lie, expected) in LIES {
        let run = run(&turn, &Liar::new(lie), &Running::NEW);
        let failed = run.names("fail");
        assert_eq!(run.summary.failed, failed.len());
        for beginning in expected {
            let found = failed.iter().any(|name| name.starts_with(beginning));
            assert!(found, "on {lie:?}, {beginning:?} did not fail:\n{}", run.text);
        }
        failed_somewhere.extend(failed.into_iter().map(str::to_owned));
    }
    let honest = run(&turn, &NATIVE, &Running::NEW);
    let never: Vec<_> = honest
        .checks
        .keys()
        .filter(|name| !failed_somewhere.contains(*name))
        .filter(|name| !NEVER_FAIL.iter().any(|beginning| name.starts_with(beginning)))
        .collect();
    assert!(never.is_empty(), "these failed on no lie: {never:#?}");
}
