use super::process::{ANON, FIXED, NONE, PAGE, READ, RW, SHARED};
use super::{Row, UNASKED, plain};

const RX: i32 = 5;

pub(crate) const ROWS: &[Row] = &[
    Row {
        question: "10a: writable and executable, by mmap and by mprotect",
        settings: plain,
        ask: |process| {
            let start = process.map(1, RW);
            vec![process.try_map(0, PAGE, 7, ANON), process.mprotect(start, PAGE, 7)]
        },
        openbsd: &[91, 91],
        darwin: &[13, 13],
        ..UNASKED
    },
    Row {
        question: "10d: PROT_MAX(RW): RW; RX; more than the maximum in one call; raising it; \
            lowering it; FIXED over it",
        settings: plain,
        ask: |process| {
            let max = |bits: i32| bits << 16;
            let start = process.map(2, RW | max(RW));
            vec![
                process.mprotect(start, PAGE, RW),
                process.mprotect(start, PAGE, 5),
                process.try_map(0, PAGE, RW | max(READ), ANON),
                process.mprotect(start, PAGE, RW | max(READ)),
                process.mprotect(start, PAGE, RW | max(7)),
                process.mprotect(start, PAGE, READ | max(READ)),
                process.mprotect(start, PAGE, RW),
                process.try_map(start, PAGE, 5, ANON | FIXED),
            ]
        },
        freebsd: &[0, 13, 45, 45, 13, 0, 13, 0],
        ..UNASKED
    },
    Row {
        question: "note A3: vm.imply_prot_max=1: RW to RX; a reservation to RX, and to RW",
        settings: |settings| settings.imply_prot_max = true,
        ask: |process| {
            let (rw, none) = (process.map(1, RW), process.map(1, NONE));
            vec![
                process.mprotect(rw, PAGE, 5),
                process.mprotect(none, PAGE, 5),
                process.mprotect(none, PAGE, RW),
            ]
        },
        freebsd: &[13, 0, 0],
        ..UNASKED
    },
    Row {
        question: "mmap(2) of NetBSD 10.1, PaX MPROTECT: NONE to RW; with PROT_MPROTECT(RW): to \
            RW, to RX",
        settings: |settings| settings.pax_mprotect = true,
        ask: |process| {
            let (none, asked) = (process.map(1, NONE), process.map(1, NONE | RW << 3));
            vec![
                process.mprotect(none, PAGE, RW),
                process.mprotect(asked, PAGE, RW),
                process.mprotect(asked, PAGE, 5),
            ]
        },
        netbsd: &[13, 0, 13],
        ..UNASKED
    },
    Row {
        question: "10a: the same with allow_wx=0: RWX; WX; mprotect to RWX",
        settings: |settings| settings.allow_wx = false,
        ask: |process| {
            let start = process.map(1, RW);
            vec![
                process.try_map(0, PAGE, 7, ANON),
                process.try_map(0, PAGE, 6, ANON),
                process.mprotect(start, PAGE, 7),
            ]
        },
        freebsd: &[13, 13, 13],
        ..UNASKED
    },
    Row {
        question: "10b: RW, RX, RW, RX: answers, what is allowed each time, contents",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            let mut answers = Vec::new();
            for bits in [RX, RW, RX] {
                answers.push(process.mprotect(start, PAGE, bits));
                answers.extend(process.protections(start, 1));
            }
            answers.push(process.read(start));
            answers
        },
        freebsd: &[0, 5, 0, 3, 0, 5, 7],
        openbsd: &[0, 5, 0, 3, 0, 5, 7],
        netbsd: &[0, 5, 0, 3, 0, 5, 7],
        dragonfly: &[0, 5, 0, 3, 0, 5, 7],
        darwin: &[0, 5, 0, 3, 0, 5, 7],
        illumos: &[0, 5, 0, 3, 0, 5, 7],
    },
    Row {
        question: "10c: a reservation to RX; to X only",
        settings: plain,
        ask: |process| {
            let start = process.map(2, NONE);
            vec![process.mprotect(start, PAGE, RX), process.mprotect(start + PAGE, PAGE, 4)]
        },
        freebsd: &[0, 0],
        openbsd: &[0, 0],
        netbsd: &[0, 0],
        dragonfly: &[0, 0],
        darwin: &[0, 0],
        illumos: &[0, 0],
    },
    Row {
        question: "10f: after mimmutable: mprotect as it is; munmap; FIXED over it; MADV_FREE of \
            RW; of NONE; contents",
        settings: plain,
        ask: |process| {
            let (rw, none) = (process.touched(1), process.map(1, NONE));
            assert_eq!([process.seal(rw, PAGE), process.seal(none, PAGE)], [0, 0]);
            vec![
                process.mprotect(rw, PAGE, RW),
                process.munmap(rw, PAGE),
                process.try_map(rw, PAGE, RW, ANON | FIXED),
                process.madvise(rw, PAGE, process.free_advice()),
                process.madvise(none, PAGE, process.free_advice()),
                process.read(rw),
            ]
        },
        openbsd: &[1, 1, 1, 1, 0, 7],
        ..UNASKED
    },
    Row {
        question: "10e: shared anonymous memory RW to RX",
        settings: plain,
        ask: |process| {
            let start = process.mmap(0, PAGE, RW, SHARED).unwrap();
            vec![process.mprotect(start, PAGE, RX)]
        },
        openbsd: &[0],
        ..UNASKED
    },
];
