use super::process::{ANON, DONTNEED, FIXED, NONE, PAGE, Process, READ, RW, SHARED};
use super::{Row, UNASKED, plain};

fn advised(process: &dyn Process, at: usize, len: usize, npages: usize, advice: i32) -> Vec<i64> {
    let answer = process.madvise(at, len, advice);
    [vec![answer], process.contents(at & !(PAGE - 1), npages)].concat()
}

/// Pages with these bits after they were touched, and what advice on them makes of them.
fn closed(process: &dyn Process, bits: i32, advice: i32) -> Vec<i64> {
    let start = process.touched(1);
    process.mprotect(start, PAGE, bits);
    let answer = process.madvise(start, PAGE, advice);
    process.mprotect(start, PAGE, RW);
    vec![answer, process.read(start)]
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        question: "3a: MADV_FREE of touched pages, not under pressure; a write after it",
        settings: plain,
        ask: |process| {
            let start = process.touched(2);
            let mut answers = advised(process, start, 2 * PAGE, 2, process.free_advice());
            process.write(start, 9);
            answers.push(process.read(start));
            answers
        },
        freebsd: &[0, 7, 7, 9],
        openbsd: &[0, 0, 0, 9],
        netbsd: &[0, 0, 0, 9],
        dragonfly: &[0, 7, 7, 9],
        darwin: &[0, 7, 7, 9],
        illumos: &[0, 7, 7, 9],
    },
    Row {
        question: "3a: mincore before it, after it, after a write",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            let before = process.mincore(start, 1);
            process.madvise(start, PAGE, process.free_advice());
            let after = process.mincore(start, 1);
            process.write(start, 9);
            [before, after, process.mincore(start, 1)].concat()
        },
        freebsd: &[0x1f, 1, 0x1f],
        netbsd: &[1, 0, 1],
        ..UNASKED
    },
    Row {
        question: "3b: MADV_FREE through NONE, through read-only: contents",
        settings: plain,
        ask: |process| {
            let advice = process.free_advice();
            [closed(process, NONE, advice), closed(process, READ, advice)].concat()
        },
        freebsd: &[0, 7, 0, 7],
        openbsd: &[0, 0, 0, 0],
        netbsd: &[0, 0, 0, 0],
        dragonfly: &[0, 7, 0, 7],
        illumos: &[0, 7, 0, 7],
        ..UNASKED
    },
    Row {
        question: "3c: MADV_FREE of untouched RW, untouched NONE",
        settings: plain,
        ask: |process| {
            [RW, NONE]
                .map(|bits| process.madvise(process.map(2, bits), PAGE, process.free_advice()))
                .into()
        },
        freebsd: &[0, 0],
        openbsd: &[0, 0],
        netbsd: &[0, 0],
        dragonfly: &[0, 0],
        illumos: &[0, 0],
        ..UNASKED
    },
    Row {
        question: "3d: MADV_FREE over a hole; of what is not mapped at all",
        settings: plain,
        ask: |process| {
            let start = process.with_hole(3);
            let mut answers = advised(process, start, 3 * PAGE, 3, process.free_advice());
            answers.push(process.madvise(process.free_place(), PAGE, process.free_advice()));
            answers
        },
        freebsd: &[0, 7, -1, 7, 0],
        openbsd: &[14, 7, -1, 7, 14],
        netbsd: &[14, 7, -1, 7, 14],
        dragonfly: &[0, 7, -1, 7, 0],
        darwin: &[22, 7, -1, 7, 22],
        illumos: &[12, 7, -1, 7, 12],
    },
    Row {
        question: "3e: MADV_FREE from an unaligned address (two pages), of 1 byte, of 4097",
        settings: plain,
        ask: |process| {
            let free = process.free_advice();
            [(1, PAGE), (0, 1), (0, PAGE + 1)]
                .map(|(offset, len)| {
                    let start = process.touched(3);
                    advised(process, start + offset, len, 3, free)
                })
                .concat()
        },
        freebsd: &[0, 7, 7, 7, 0, 7, 7, 7, 0, 7, 7, 7],
        openbsd: &[0, 0, 0, 7, 0, 0, 7, 7, 0, 0, 0, 7],
        netbsd: &[0, 0, 0, 7, 0, 0, 7, 7, 0, 0, 0, 7],
        dragonfly: &[0, 7, 7, 7, 0, 7, 7, 7, 0, 7, 7, 7],
        darwin: &[0, 7, 7, 7, 0, 7, 7, 7, 0, 7, 7, 7],
        illumos: &[22, 7, 7, 7, 0, 7, 7, 7, 0, 7, 7, 7],
    },
    Row {
        question: "3e: the same by mincore",
        settings: plain,
        ask: |process| {
            [(1, PAGE), (0, 1), (0, PAGE + 1)]
                .map(|(offset, len)| {
                    let start = process.touched(3);
                    process.madvise(start + offset, len, process.free_advice());
                    process.mincore(start, 3)
                })
                .concat()
        },
        freebsd: &[1, 1, 0x1f, 1, 0x1f, 0x1f, 1, 1, 0x1f],
        netbsd: &[0, 0, 1, 0, 1, 1, 0, 0, 1],
        ..UNASKED
    },
    Row {
        question: "3f: MADV_FREE of nothing",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            advised(process, start, 0, 1, process.free_advice())
        },
        freebsd: &[0, 7],
        openbsd: &[0, 7],
        netbsd: &[0, 7],
        dragonfly: &[0, 7],
        darwin: &[0, 7],
        illumos: &[22, 7],
    },
    Row {
        question: "3g: MADV_FREE of shared memory",
        settings: plain,
        ask: |process| {
            let start = process.mmap(0, PAGE, RW, SHARED).unwrap();
            process.write(start, 7);
            advised(process, start, PAGE, 1, process.free_advice())
        },
        freebsd: &[0, 7],
        openbsd: &[0, 0],
        netbsd: &[0, 0],
        ..UNASKED
    },
    Row {
        question: "3h: MADV_FREE of wired memory; with pages beside it that are not",
        settings: plain,
        ask: |process| {
            let start = process.touched(2);
            assert_eq!(process.lock(start, PAGE, true), 0);
            advised(process, start, PAGE, 1, process.free_advice())
        },
        freebsd: &[0, 7],
        openbsd: &[0, 7],
        netbsd: &[16, 7],
        dragonfly: &[0, 7],
        darwin: &[0, 7],
        illumos: &[16, 7],
    },
    Row {
        question: "3h: mincore of wired memory before MADV_FREE; after it",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            process.lock(start, PAGE, true);
            let before = process.mincore(start, 1);
            process.madvise(start, PAGE, process.free_advice());
            [before, process.mincore(start, 1)].concat()
        },
        freebsd: &[0x1f, 1],
        ..UNASKED
    },
    Row {
        question: "4a: MADV_DONTNEED of touched pages: contents",
        settings: plain,
        ask: |process| advised(process, process.touched(2), 2 * PAGE, 2, DONTNEED),
        freebsd: &[0, 7, 7],
        openbsd: &[0, 7, 7],
        netbsd: &[0, 7, 7],
        dragonfly: &[0, 7, 7],
        darwin: &[0, 7, 7],
        illumos: &[0, 7, 7],
    },
    Row {
        question: "4b: MADV_DONTNEED through NONE, read-only; untouched; shared; wired",
        settings: plain,
        ask: |process| {
            let mut answers = closed(process, NONE, DONTNEED);
            answers.extend(closed(process, READ, DONTNEED));
            answers.extend(advised(process, process.map(1, RW), PAGE, 1, DONTNEED));
            let shared = process.mmap(0, PAGE, RW, SHARED).unwrap();
            process.write(shared, 7);
            answers.extend(advised(process, shared, PAGE, 1, DONTNEED));
            let wired = process.touched(1);
            process.lock(wired, PAGE, true);
            answers.extend(advised(process, wired, PAGE, 1, DONTNEED));
            answers
        },
        freebsd: &[0, 7, 0, 7, 0, 0, 0, 7, 0, 7],
        openbsd: &[0, 7, 0, 7, 0, 0, 0, 7, 0, 7],
        netbsd: &[0, 7, 0, 7, 0, 0, 0, 7, 0, 7],
        dragonfly: &[0, 7, 0, 7, 0, 0, 0, 7, 0, 7],
        darwin: &[0, 7, 0, 7, 0, 0, 0, 7, 0, 7],
        illumos: &[0, 7, 0, 7, 0, 0, 0, 7, 16, 7],
    },
    Row {
        question: "4c: MADV_DONTNEED over a hole; unmapped; unaligned; of nothing",
        settings: plain,
        ask: |process| {
            let (hole, start) = (process.with_hole(3), process.touched(2));
            vec![
                process.madvise(hole, 3 * PAGE, DONTNEED),
                process.madvise(process.free_place(), PAGE, DONTNEED),
                process.madvise(start + 1, PAGE, DONTNEED),
                process.madvise(start, 0, DONTNEED),
            ]
        },
        freebsd: &[0, 0, 0, 0],
        openbsd: &[14, 14, 0, 0],
        netbsd: &[14, 14, 0, 0],
        dragonfly: &[0, 0, 0, 0],
        darwin: &[22, 22, 0, 0],
        illumos: &[12, 12, 22, 22],
    },
    Row {
        question: "4d: posix_madvise, which is madvise but for where the error is: MADV_DONTNEED; \
            contents; of what is not mapped",
        settings: plain,
        ask: |process| {
            let mut answers = advised(process, process.touched(1), PAGE, 1, DONTNEED);
            answers.push(process.madvise(process.free_place(), PAGE, DONTNEED));
            answers
        },
        freebsd: &[0, 7, 0],
        openbsd: &[0, 7, 14],
        ..UNASKED
    },
    Row {
        question: "11c: MADV_PROTECT as root; MADV_NOSYNC on NONE and on what is not mapped",
        settings: plain,
        ask: |process| {
            let (start, none) = (process.touched(1), process.map(1, NONE));
            vec![
                process.madvise(start, PAGE, 10),
                process.madvise(none, PAGE, 6),
                process.madvise(process.free_place(), PAGE, 6),
            ]
        },
        freebsd: &[0, 0, 0],
        // MADV_INVAL; MADV_NOSYNC.
        dragonfly: &[0, 0, 0],
        ..UNASKED
    },
    Row {
        question: "11c: advice 5 where it is no MADV_FREE; 8; 11d: 0, 1, 2, 3; -1",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            let mut advice = vec![0, 1, 2, 3, -1];
            if process.free_advice() == 6 {
                advice.extend([5, 8]);
            }
            advice.into_iter().map(|advice| process.madvise(start, PAGE, advice)).collect()
        },
        freebsd: &[0, 0, 0, 0, 22],
        openbsd: &[0, 0, 0, 0, 22, 22, 22],
        netbsd: &[0, 0, 0, 0, 22, 22, 22],
        dragonfly: &[0, 0, 0, 0, 22],
        darwin: &[0, 0, 0, 0, 22],
        illumos: &[0, 0, 0, 0, 22],
    },
    Row {
        question: "11c: MADV_NOCORE and MADV_CORE on NONE and on nothing; MAP_NOCORE; flag 0x8000",
        settings: plain,
        ask: |process| {
            let start = process.map(1, NONE);
            vec![
                process.madvise(start, PAGE, 8),
                process.madvise(process.free_place(), PAGE, 9),
                process.try_map(0, PAGE, RW, ANON | 0x2_0000),
                process.try_map(0, PAGE, RW, ANON | 0x8000),
            ]
        },
        freebsd: &[0, 0, 0, 22],
        ..UNASKED
    },
    Row {
        question: "11c: MAP_CONCEAL, also with NONE",
        settings: plain,
        ask: |process| [RW, NONE].map(|bits| process.try_map(0, PAGE, bits, ANON | 0x8000)).into(),
        openbsd: &[0, 0],
        ..UNASKED
    },
    Row {
        question: "4a: mincore after MADV_DONTNEED; after a write",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            process.madvise(start, PAGE, DONTNEED);
            let after = process.mincore(start, 1);
            process.write(start, 9);
            [after, process.mincore(start, 1)].concat()
        },
        freebsd: &[1, 0x1f],
        ..UNASKED
    },
    Row {
        question: "6: under pressure: what was given back by MADV_FREE; by MADV_DONTNEED",
        settings: plain,
        ask: |process| {
            let start = process.touched(2);
            process.madvise(start, PAGE, process.free_advice());
            process.madvise(start + PAGE, PAGE, DONTNEED);
            process.pressure();
            process.contents(start, 2)
        },
        freebsd: &[0, 7],
        dragonfly: &[0, 7],
        darwin: &[0, 7],
        illumos: &[0, 7],
        ..UNASKED
    },
    Row {
        question: "12f: MADV_WILLNEED of untouched memory: the resident set",
        settings: plain,
        ask: |process| {
            let start = process.map(8, RW);
            vec![process.madvise(start, 8 * PAGE, 3), process.resident()]
        },
        freebsd: &[0, 0],
        openbsd: &[0, 0],
        netbsd: &[0, 0],
        ..UNASKED
    },
];

fn resident(process: &dyn Process, then: impl Fn(usize)) -> Vec<i64> {
    let start = process.touched(8);
    let before = process.resident();
    then(start);
    vec![before, process.resident()]
}

/// The resident set in pages, as the kernel tells it: 8 touched pages, and after something was done
/// to them.
pub(crate) const RESIDENT: &[Row] = &[
    Row {
        question: "2a: mprotect NONE",
        settings: plain,
        ask: |process| {
            resident(process, |start| assert_eq!(process.mprotect(start, 8 * PAGE, NONE), 0))
        },
        freebsd: &[8, 0],
        openbsd: &[8, 0],
        netbsd: &[8, 0],
        ..UNASKED
    },
    Row {
        question: "3a: MADV_FREE",
        settings: plain,
        ask: |process| {
            let free = process.free_advice();
            resident(process, |start| assert_eq!(process.madvise(start, 8 * PAGE, free), 0))
        },
        freebsd: &[8, 8],
        openbsd: &[8, 0],
        netbsd: &[8, 0],
        ..UNASKED
    },
    Row {
        question: "4a: MADV_DONTNEED",
        settings: plain,
        ask: |process| {
            resident(process, |start| assert_eq!(process.madvise(start, 8 * PAGE, DONTNEED), 0))
        },
        freebsd: &[8, 8],
        openbsd: &[8, 0],
        netbsd: &[8, 8],
        ..UNASKED
    },
    Row {
        question: "5a: FIXED RW",
        settings: plain,
        ask: |process| {
            resident(process, |start| {
                assert_eq!(process.try_map(start, 8 * PAGE, RW, ANON | FIXED), 0);
            })
        },
        freebsd: &[8, 0],
        openbsd: &[8, 0],
        netbsd: &[8, 0],
        ..UNASKED
    },
    Row {
        question: "5b: FIXED NONE",
        settings: plain,
        ask: |process| {
            resident(process, |start| {
                assert_eq!(process.try_map(start, 8 * PAGE, NONE, ANON | FIXED), 0);
            })
        },
        freebsd: &[8, 0],
        openbsd: &[8, 0],
        netbsd: &[8, 0],
        ..UNASKED
    },
    Row {
        question: "12a: mlock of 8 untouched pages besides",
        settings: plain,
        ask: |process| {
            resident(process, |_| {
                assert_eq!(process.lock(process.map(8, RW), 8 * PAGE, true), 0);
            })
        },
        freebsd: &[8, 16],
        openbsd: &[8, 16],
        netbsd: &[8, 16],
        ..UNASKED
    },
];
