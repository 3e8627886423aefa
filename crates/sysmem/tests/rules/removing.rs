use super::process::{NONE, PAGE, READ, RW};
use super::{Row, UNASKED, plain};

pub(crate) const ROWS: &[Row] = &[
    Row {
        question: "2a: RW, NONE, RW: contents are kept",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            let answers = [NONE, RW].map(|bits| process.mprotect(start, PAGE, bits));
            [answers.to_vec(), process.contents(start, 1)].concat()
        },
        freebsd: &[0, 0, 7],
        openbsd: &[0, 0, 7],
        netbsd: &[0, 0, 7],
        dragonfly: &[0, 0, 7],
        darwin: &[0, 0, 7],
        illumos: &[0, 0, 7],
    },
    Row {
        question: "2a: mincore of what allows nothing",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            process.mprotect(start, PAGE, NONE);
            process.mincore(start, 1)
        },
        freebsd: &[0],
        netbsd: &[1],
        ..UNASKED
    },
    Row {
        question: "2b: mprotect of nothing; from an unaligned address; of 100 bytes",
        settings: plain,
        ask: |process| {
            let start = process.map(6, RW);
            let at = |page: usize| start + page * PAGE;
            let mut answers = vec![
                process.mprotect(at(0), 0, NONE),
                process.mprotect(at(1) + 1, PAGE, READ),
                process.mprotect(at(4), 100, READ),
            ];
            answers.extend(process.protections(start, 6));
            answers
        },
        freebsd: &[0, 0, 0, 3, 1, 1, 3, 1, 3],
        openbsd: &[0, 0, 0, 3, 1, 1, 3, 1, 3],
        netbsd: &[0, 0, 0, 3, 1, 1, 3, 1, 3],
        dragonfly: &[0, 0, 0, 3, 1, 1, 3, 1, 3],
        darwin: &[0, 22, 0, 3, 3, 3, 3, 1, 3],
        illumos: &[22, 22, 0, 3, 3, 3, 3, 1, 3],
    },
    Row {
        question: "2c: mprotect over a hole: both sides; of nothing mapped; protection 0x40",
        settings: plain,
        ask: |process| {
            let start = process.with_hole(3);
            let over = process.mprotect(start, 3 * PAGE, READ);
            let mut answers = process.protections(start, 3);
            answers.insert(0, over);
            answers.push(process.mprotect(process.free_place(), PAGE, READ));
            answers.push(process.mprotect(start, PAGE, 0x41));
            answers
        },
        freebsd: &[0, 1, -1, 1, 0, 22],
        openbsd: &[0, 1, -1, 1, 0, 22],
        netbsd: &[0, 1, -1, 1, 0, 0],
        dragonfly: &[0, 1, -1, 1, 0, 0],
        darwin: &[12, 3, -1, 3, 12, 0],
        illumos: &[12, 1, -1, 3, 12, 48],
    },
    Row {
        question: "7a: munmap of a part: the rest is kept",
        settings: plain,
        ask: |process| {
            let start = process.touched(3);
            let answer = process.munmap(start + PAGE, PAGE);
            [vec![answer], process.contents(start, 3)].concat()
        },
        freebsd: &[0, 7, -1, 7],
        openbsd: &[0, 7, -1, 7],
        netbsd: &[0, 7, -1, 7],
        dragonfly: &[0, 7, -1, 7],
        darwin: &[0, 7, -1, 7],
        illumos: &[0, 7, -1, 7],
    },
    Row {
        question: "7b: munmap of the same hole again; of what was never mapped; over a hole",
        settings: plain,
        ask: |process| {
            let start = process.with_hole(3);
            vec![
                process.munmap(start + PAGE, PAGE),
                process.munmap(process.free_place(), PAGE),
                process.munmap(start, 3 * PAGE),
            ]
        },
        freebsd: &[0, 0, 0],
        openbsd: &[22, 22, 22],
        netbsd: &[0, 0, 0],
        dragonfly: &[22, 22, 22],
        darwin: &[0, 0, 0],
        illumos: &[0, 0, 0],
    },
    Row {
        question: "7c: pages removed by munmap(p+1, 4096); (p+1, 4095); (p, 100)",
        settings: plain,
        ask: |process| {
            [(1, PAGE), (1, PAGE - 1), (0, 100)]
                .map(|(offset, len)| {
                    let start = process.touched(4);
                    assert_eq!(process.munmap(start + offset, len), 0);
                    process.contents(start, 4).iter().filter(|&&byte| byte == -1).count() as i64
                })
                .into()
        },
        freebsd: &[2, 1, 1],
        openbsd: &[2, 1, 1],
        netbsd: &[2, 1, 1],
        dragonfly: &[2, 1, 1],
        ..UNASKED
    },
    Row {
        question: "7d: munmap of nothing, aligned; unaligned; is anything gone",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            let answers = vec![process.munmap(start, 0), process.munmap(start + 1, 0)];
            [answers, process.contents(start, 1)].concat()
        },
        freebsd: &[22, 22, 7],
        openbsd: &[0, 22, 7],
        netbsd: &[0, 0, 7],
        dragonfly: &[0, 0, 7],
        darwin: &[22, 22, 7],
        illumos: &[22, 22, 7],
    },
    Row {
        question: "7e: munmap at 0; at a kernel address; at 1 << 47; past the end of all addresses",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            vec![
                process.munmap(0, PAGE),
                process.munmap(0xffff_8000 << 32, PAGE),
                process.munmap(1 << 47, PAGE),
                process.munmap(start, usize::MAX - PAGE + 1),
            ]
        },
        freebsd: &[22, 22, 22, 22],
        openbsd: &[22, 22, 22, 22],
        netbsd: &[0, 22, 22, 22],
        ..UNASKED
    },
    Row {
        question: "14f: mincore over a hole; of nothing mapped",
        settings: plain,
        ask: |process| {
            let start = process.with_hole(3);
            [process.mincore(start, 3), process.mincore(process.free_place(), 1)].concat()
        },
        freebsd: &[12, 12],
        netbsd: &[12, 12],
        dragonfly: &[12, 12],
        darwin: &[0x87, 0x80, 0x87, 0x80],
        illumos: &[12, 12],
        ..UNASKED
    },
    Row {
        question: "11b: minherit with a bad number; unaligned; over a hole",
        settings: plain,
        ask: |process| {
            let start = process.with_hole(3);
            vec![
                process.minherit(start, PAGE, 77),
                process.minherit(start + 1, 100, 1),
                process.minherit(start, 3 * PAGE, 1),
            ]
        },
        freebsd: &[22, 0, 0],
        openbsd: &[22, 0, 0],
        netbsd: &[22, 0, 0],
        dragonfly: &[22, 0, 0],
        darwin: &[22, 0, 0],
        ..UNASKED
    },
    Row {
        question: "11a, 11b: minherit to zeros, of RW; of NONE; by the other systems' number",
        settings: plain,
        ask: |process| {
            let (zero, other) = if process.name() == "NetBSD" { (4, 3) } else { (3, 4) };
            let (rw, none) = (process.map(1, RW), process.map(1, NONE));
            vec![
                process.minherit(rw, PAGE, zero),
                process.minherit(none, PAGE, zero),
                process.minherit(rw, PAGE, other),
            ]
        },
        freebsd: &[0, 0, 22],
        openbsd: &[0, 1, 22],
        netbsd: &[0, 0, 22],
        dragonfly: &[22, 22, 22],
        darwin: &[22, 22, 22],
        ..UNASKED
    },
    Row {
        question: "12b: mlock of NONE; over a hole; of nothing; unaligned",
        settings: plain,
        ask: |process| {
            let (none, hole) = (process.map(1, NONE), process.with_hole(3));
            vec![
                process.lock(none, PAGE, true),
                process.lock(hole, 3 * PAGE, true),
                process.lock(hole, 0, true),
                process.lock(hole + 1, 100, true),
            ]
        },
        freebsd: &[12, 12, 0, 0],
        openbsd: &[0, 12, 0, 0],
        netbsd: &[22, 22, 0, 0],
        dragonfly: &[12, 12, 0, 0],
        ..UNASKED
    },
    Row {
        question: "12c: munlock of what is not locked; over a hole",
        settings: plain,
        ask: |process| {
            let hole = process.with_hole(3);
            vec![process.lock(hole, PAGE, false), process.lock(hole, 3 * PAGE, false)]
        },
        freebsd: &[0, 12],
        openbsd: &[0, 12],
        netbsd: &[22, 22],
        dragonfly: &[12, 12],
        darwin: &[12, 12],
        illumos: &[0, 12],
    },
    Row {
        question: "12d: mlock beyond RLIMIT_MEMLOCK",
        settings: |settings| settings.locked_limit = 4 * PAGE as u64,
        ask: |process| {
            let start = process.map(5, RW);
            vec![process.lock(start, 5 * PAGE, true), process.lock(start, 4 * PAGE, true)]
        },
        freebsd: &[12, 0],
        openbsd: &[35, 0],
        netbsd: &[35, 0],
        dragonfly: &[12, 0],
        darwin: &[35, 0],
        illumos: &[11, 0],
    },
    Row {
        question: "12a: untouched pages are resident once they are locked",
        settings: plain,
        ask: |process| {
            let start = process.map(2, RW);
            process.lock(start, 2 * PAGE, true);
            process.mincore(start, 2).into_iter().map(|byte| byte & 1).collect()
        },
        freebsd: &[1, 1],
        netbsd: &[1, 1],
        dragonfly: &[1, 1],
        illumos: &[1, 1],
        ..UNASKED
    },
    Row {
        question: "12e: of locked memory: mprotect NONE; munmap",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            process.lock(start, PAGE, true);
            vec![process.mprotect(start, PAGE, NONE), process.munmap(start, PAGE)]
        },
        freebsd: &[0, 0],
        openbsd: &[0, 0],
        netbsd: &[0, 0],
        dragonfly: &[0, 0],
        darwin: &[0, 0],
        illumos: &[0, 0],
    },
];
