use sysmem::sim::Overcommit;

use super::process::{DONTNEED, NONE, PAGE, RW};
use super::{Row, UNASKED, plain};

pub(crate) const ROWS: &[Row] = &[
    Row {
        question: "11a: what a child finds after a write: shared, copied, nothing, zeros; the process",
        settings: plain,
        ask: |process| {
            let zeros = if process.name() == "NetBSD" { 4 } else { 3 };
            let start = process.touched(4);
            let pages: Vec<usize> = (0..4).map(|page| start + page * PAGE).collect();
            for (&page, inherit) in pages.iter().zip([0, 1, 2, zeros]) {
                assert_eq!(process.minherit(page, PAGE, inherit), 0);
            }
            let write = || pages.iter().for_each(|&page| process.write(page, 9));
            [process.fork(&write, &pages), process.contents(start, 4)].concat()
        },
        freebsd: &[9, 7, -1, 0, 9, 9, 9, 9],
        openbsd: &[9, 7, -1, 0, 9, 9, 9, 9],
        netbsd: &[9, 7, -1, 0, 9, 9, 9, 9],
        ..UNASKED
    },
    Row {
        question: "16a: fork after MADV_FREE: what the child finds, and the process",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            process.madvise(start, PAGE, process.free_advice());
            [process.fork(&|| (), &[start]), process.contents(start, 1)].concat()
        },
        freebsd: &[7, 7],
        openbsd: &[0, 0],
        netbsd: &[0, 0],
        dragonfly: &[7, 7],
        darwin: &[7, 7],
        illumos: &[7, 7],
    },
    Row {
        question: "MADV_FREE of what a child shares keeps contents; of what was written to since, \
            as ever (os/bsd.rs; uvm_map_clean); the child keeps its own",
        settings: plain,
        ask: |process| {
            let start = process.touched(2);
            let free = || {
                process.write(start, 9);
                process.madvise(start, 2 * PAGE, process.free_advice());
            };
            let child = process.fork(&free, &[start, start + PAGE]);
            [child, process.contents(start, 2)].concat()
        },
        freebsd: &[7, 7, 9, 7],
        openbsd: &[7, 7, 0, 7],
        netbsd: &[7, 7, 0, 7],
        dragonfly: &[7, 7, 9, 7],
        darwin: &[7, 7, 9, 7],
        illumos: &[7, 7, 9, 7],
    },
    Row {
        question: "16c: fork with a large reservation and some RW",
        settings: plain,
        ask: |process| {
            let start = process.map(2048, NONE);
            process.mprotect(start, PAGE, RW);
            process.fork(&|| (), &[start])
        },
        freebsd: &[0],
        openbsd: &[0],
        netbsd: &[0],
        dragonfly: &[0],
        darwin: &[0],
        illumos: &[0],
    },
    Row {
        question: "1i, 16c: fork where swap is enforced: 4 of 7 pages charged; 3",
        settings: |settings| {
            settings.overcommit = Overcommit::Never { limit: 7 * PAGE as u64 };
        },
        ask: |process| {
            let start = process.touched(4);
            let refused = process.fork(&|| (), &[start]);
            process.munmap(start + 3 * PAGE, PAGE);
            [refused, process.fork(&|| (), &[start])].concat()
        },
        freebsd: &[12, 7],
        dragonfly: &[7, 7],
        darwin: &[7, 7],
        illumos: &[12, 7],
        ..UNASKED
    },
    Row {
        question: "16b: what the process finds after the child's MADV_FREE; MADV_DONTNEED; the \
            child itself",
        settings: plain,
        ask: |process| {
            let start = process.touched(2);
            let advice = [(start, process.free_advice()), (start + PAGE, DONTNEED)];
            let child = process.fork_advised(&advice);
            [process.contents(start, 2), child].concat()
        },
        freebsd: &[7, 7, 7, 7],
        openbsd: &[7, 7, 7, 7],
        netbsd: &[7, 7, 7, 7],
        dragonfly: &[7, 7, 7, 7],
        ..UNASKED
    },
];
