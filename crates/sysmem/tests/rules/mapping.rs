use super::process::{ANON, FIXED, GUARD, NONE, PAGE, Process, RW};
use super::{Row, UNASKED, plain};

/// Whether a mapping is made where it is asked for: in free space, in a hole inside a mapping.
fn free_hints(process: &dyn Process) -> Vec<i64> {
    let place = process.free_place();
    let start = process.with_hole(9);
    [place, start + 4 * PAGE]
        .map(|hint| (process.mmap(hint, PAGE, RW, ANON) == Ok(hint)) as i64)
        .into()
}

pub(crate) const MAKING: &[Row] = &[
    Row {
        question: "8a: length 0; -1; -4096; 1 << 63",
        settings: plain,
        ask: |process| {
            [0, usize::MAX, usize::MAX - PAGE + 1, 1 << 63]
                .map(|len| process.try_map(0, len, RW, ANON))
                .into()
        },
        freebsd: &[22, 12, 12, 12],
        openbsd: &[22, 22, 12, 12],
        netbsd: &[0, 0, 12, 12],
        dragonfly: &[22, 22, 12, 12],
        darwin: &[22, 22, 12, 12],
        ..UNASKED
    },
    Row {
        question: "8c: neither shared nor private; both",
        settings: plain,
        ask: |process| [0x1000, 0x1003].map(|flags| process.try_map(0, PAGE, RW, flags)).into(),
        freebsd: &[0, 22],
        openbsd: &[0, 22],
        netbsd: &[0, 22],
        dragonfly: &[0, 0],
        darwin: &[22, 0],
        illumos: &[22, 22],
    },
    Row {
        question: "8d: protection 0x40; flag 0x100; flag 0x10000",
        settings: plain,
        ask: |process| {
            [(0x41, ANON), (RW, ANON | 0x100), (RW, ANON | 0x1_0000)]
                .map(|(bits, flags)| process.try_map(0, PAGE, bits, flags))
                .into()
        },
        freebsd: &[22, 22, 22],
        openbsd: &[22, 0, 22],
        netbsd: &[0, 0, 0],
        darwin: &[0, 0, 22],
        ..UNASKED
    },
    Row {
        question: "8e: a hint that is taken: pages between it and the mapping",
        settings: plain,
        ask: |process| {
            let place = process.free_place();
            assert_eq!(process.mmap(place, 4 * PAGE, RW, ANON), Ok(place));
            let moved = process.mmap(place, 4 * PAGE, RW, ANON).unwrap();
            vec![(moved as i64 - place as i64) / PAGE as i64]
        },
        // Elsewhere; next above; next below.
        freebsd: &[4],
        openbsd: &[4],
        netbsd: &[-4],
        dragonfly: &[4],
        darwin: &[4],
        ..UNASKED
    },
    Row {
        question: "8f: without randomized addresses: a free hint; a free hole inside a mapping",
        settings: plain,
        ask: free_hints,
        freebsd: &[1, 1],
        openbsd: &[1, 1],
        netbsd: &[1, 1],
        dragonfly: &[1, 1],
        darwin: &[1, 1],
        illumos: &[1, 1],
    },
    Row {
        question: "8f: with randomized addresses: a free hint; a free hole inside a mapping",
        settings: |settings| settings.aslr = true,
        ask: free_hints,
        freebsd: &[0, 0],
        ..UNASKED
    },
    Row {
        question: "8g: an unaligned hint is rounded up; a hint among the kernel's addresses",
        settings: plain,
        ask: |process| {
            let place = process.free_place();
            let rounded = process.mmap(place + 1, PAGE, RW, ANON) == Ok(place + PAGE);
            vec![rounded as i64, process.try_map(1 << 63, PAGE, RW, ANON)]
        },
        freebsd: &[1, 0],
        openbsd: &[1, 12],
        netbsd: &[1, 0],
        dragonfly: &[1, 12],
        darwin: &[1, 0],
        illumos: &[0, 0],
    },
    Row {
        question: "8j: 'do not replace' over a mapping; on free space: is it there",
        settings: plain,
        ask: |process| {
            let (taken, free) = (process.map(4, RW), process.free_place());
            let map = |at| process.mmap(at, PAGE, RW, ANON | process.no_replace());
            let moved = map(taken);
            vec![moved.map_or_else(|errno| errno, |at| (at == taken) as i64), {
                (map(free) == Ok(free)) as i64
            }]
        },
        freebsd: &[12, 1],
        openbsd: &[12, 1],
        // It goes elsewhere.
        netbsd: &[0, 1],
        dragonfly: &[12, 1],
        ..UNASKED
    },
    Row {
        question: "8j: the same without FIXED",
        settings: plain,
        ask: |process| vec![process.try_map(0, PAGE, RW, ANON | process.no_replace() & !FIXED)],
        freebsd: &[22],
        openbsd: &[22],
        ..UNASKED
    },
    Row {
        question: "8j: 'do not replace' over a guard",
        settings: plain,
        ask: |process| {
            let guard = process.mmap(0, 4 * PAGE, NONE, GUARD).unwrap();
            vec![process.try_map(guard, PAGE, RW, ANON | process.no_replace())]
        },
        freebsd: &[12],
        ..UNASKED
    },
    Row {
        question: "9a: MAP_ALIGNED(n) for 12, 16, 21, 47, 48, 63, 2, 11",
        settings: plain,
        ask: |process| {
            [12, 16, 21, 47, 48, 63, 2, 11]
                .map(|shift: u32| {
                    match process.mmap(0, 2 * PAGE, RW, ANON | (shift << 24) as i32) {
                        Ok(start) => (start % (1 << shift)) as i64,
                        Err(errno) => errno,
                    }
                })
                .into()
        },
        freebsd: &[0, 0, 0, 12, 12, 12, 22, 22],
        netbsd: &[0, 0, 0, 12, 12, 12, 22, 22],
        ..UNASKED
    },
    Row {
        question: "9a: MAP_ALIGNED(1)",
        settings: plain,
        ask: |process| vec![process.try_map(0, 2 * PAGE, RW, ANON | 1 << 24)],
        // MAP_ALIGNED_SUPER.
        freebsd: &[0],
        netbsd: &[22],
        ..UNASKED
    },
    Row {
        question: "9b: MAP_ALIGNED(21) with a misaligned hint: aligned, and on which side of it; \
            with FIXED, misaligned",
        settings: |settings| settings.alignment = 2 << 20,
        ask: |process| {
            let hint = process.free_place() + PAGE;
            let start = process.mmap(hint, PAGE, RW, ANON | 21 << 24).unwrap();
            vec![
                (start % (2 << 20)) as i64,
                if start > hint { 1 } else { -1 },
                process.try_map(hint, PAGE, RW, ANON | FIXED | 21 << 24),
            ]
        },
        freebsd: &[0, 1, 0],
        netbsd: &[0, -1, 22],
        ..UNASKED
    },
    Row {
        question: "9c: MAP_ALIGNED_SUPER: 4 MiB aligned to 2 MiB; 1 MiB, below what is there, not",
        settings: |settings| settings.alignment = 2 << 20,
        ask: |process| {
            process.map(3, RW);
            [4 << 20, 1 << 20]
                .map(|len| {
                    let start = process.mmap(0, len, RW, ANON | 1 << 24).unwrap();
                    (start % (2 << 20) == 0) as i64
                })
                .into()
        },
        freebsd: &[1, 0],
        ..UNASKED
    },
    Row {
        question: "9d: a guard: mprotect RW, and does it do anything; advice; mincore; mlock",
        settings: plain,
        ask: |process| {
            let guard = process.mmap(0, 4 * PAGE, NONE, GUARD).unwrap();
            let mut answers = vec![process.mprotect(guard, PAGE, RW)];
            answers.push(process.read(guard));
            answers.extend([5, 4, 3].map(|advice| process.madvise(guard, PAGE, advice)));
            answers.extend(process.mincore(guard, 1));
            answers.push(process.lock(guard, PAGE, true));
            answers.push(process.minherit(guard, PAGE, 2));
            answers
        },
        freebsd: &[0, -1, 0, 0, 0, 0, 12, 0],
        ..UNASKED
    },
    Row {
        question: "9d: FIXED RW over part of a guard, and what is beside it; a guard over RW; with \
            ANON and PRIVATE; with a protection; aligned",
        settings: plain,
        ask: |process| {
            let guard = process.mmap(0, 4 * PAGE, NONE, GUARD).unwrap();
            let over = process.try_map(guard, PAGE, RW, ANON | FIXED);
            let mut answers = vec![over, process.mprotect(guard + PAGE, PAGE, RW)];
            answers.extend(process.protections(guard, 2));
            answers.extend([
                process.try_map(guard, PAGE, NONE, GUARD | FIXED),
                process.read(guard),
                process.try_map(0, PAGE, NONE, GUARD | ANON),
                process.try_map(0, PAGE, RW, GUARD),
                (process.mmap(0, PAGE, NONE, GUARD | 21 << 24).unwrap() % (2 << 20)) as i64,
            ]);
            answers
        },
        freebsd: &[0, 0, 3, 0, 0, -1, 22, 22, 0],
        ..UNASKED
    },
    Row {
        question: "8b: anonymous memory at offset 4096; at offset 1 (error or bytes added); with \
            descriptor 0; 99",
        settings: plain,
        ask: |process| {
            [(-1, PAGE), (-1, 1), (0, 0), (99, 0)]
                .map(|(file, offset)| match process.mmap_of(PAGE, RW, ANON, file, offset) {
                    Ok(start) => (start % PAGE) as i64,
                    Err(errno) => errno,
                })
                .into()
        },
        freebsd: &[22, 22, 22, 22],
        openbsd: &[0, 1, 22, 22],
        netbsd: &[0, 1, 22, 22],
        dragonfly: &[22, 22, 22, 22],
        ..UNASKED
    },
    Row {
        question: "8k: MAP_STACK of 64 KiB",
        settings: plain,
        ask: |process| vec![process.try_map(0, 16 * PAGE, RW, ANON | process.stack())],
        freebsd: &[0],
        openbsd: &[0],
        netbsd: &[0],
        dragonfly: &[0],
        ..UNASKED
    },
    Row {
        question: "8k: mquery: is what it names free; of a taken address; of a free one",
        settings: plain,
        ask: |process| {
            let taken = process.map(1, RW);
            let named = process.query(0, 4 * PAGE, false).unwrap();
            let free = process.try_map(named, 4 * PAGE, RW, ANON | process.no_replace());
            let fixed = |at| process.query(at, PAGE, true).map_or_else(|errno| errno, |_| 0);
            vec![free, fixed(taken), fixed(process.free_place())]
        },
        openbsd: &[0, 22, 0],
        ..UNASKED
    },
];

pub(crate) const REPLACING: &[Row] = &[
    Row {
        question: "5a: FIXED RW over touched pages: contents",
        settings: plain,
        ask: |process| {
            let start = process.touched(4);
            let mapped = process.try_map(start + PAGE, 2 * PAGE, RW, ANON | FIXED);
            [vec![mapped], process.contents(start, 4)].concat()
        },
        freebsd: &[0, 7, 0, 0, 7],
        openbsd: &[0, 7, 0, 0, 7],
        netbsd: &[0, 7, 0, 0, 7],
        dragonfly: &[0, 7, 0, 0, 7],
        darwin: &[0, 7, 0, 0, 7],
        illumos: &[0, 7, 0, 0, 7],
    },
    Row {
        question: "5a: mincore after it",
        settings: plain,
        ask: |process| {
            let start = process.touched(4);
            process.try_map(start, 2 * PAGE, RW, ANON | FIXED);
            process.mincore(start, 4)
        },
        freebsd: &[0, 0, 0x1f, 0x1f],
        netbsd: &[0, 0, 1, 1],
        dragonfly: &[0, 0, 1, 1],
        darwin: &[0x80, 0x80, 0x87, 0x87],
        ..UNASKED
    },
    Row {
        question: "5b: FIXED NONE over touched pages, then mprotect RW",
        settings: plain,
        ask: |process| {
            let start = process.touched(2);
            let mapped = process.try_map(start, PAGE, NONE, ANON | FIXED);
            let closed = process.read(start);
            let opened = process.mprotect(start, PAGE, RW);
            vec![mapped, closed, opened, process.read(start), process.read(start + PAGE)]
        },
        freebsd: &[0, -1, 0, 0, 7],
        openbsd: &[0, -1, 0, 0, 7],
        netbsd: &[0, -1, 0, 0, 7],
        dragonfly: &[0, -1, 0, 0, 7],
        darwin: &[0, -1, 0, 0, 7],
        illumos: &[0, -1, 0, 0, 7],
    },
    Row {
        question: "5c: FIXED at an unaligned address; 100 bytes; half over a hole",
        settings: plain,
        ask: |process| {
            let start = process.touched(4);
            let map = |at, len| process.try_map(at, len, RW, ANON | FIXED);
            let answers = vec![map(start + 1, PAGE), map(start, 100)];
            let contents = process.contents(start, 2);
            process.munmap(start + 2 * PAGE, PAGE);
            [answers, contents, vec![map(start + 2 * PAGE, 2 * PAGE)]].concat()
        },
        freebsd: &[22, 0, 0, 7, 0],
        openbsd: &[22, 0, 0, 7, 0],
        netbsd: &[22, 0, 0, 7, 0],
        dragonfly: &[22, 0, 0, 7, 0],
        darwin: &[22, 0, 0, 7, 0],
        illumos: &[22, 0, 0, 7, 0],
    },
    Row {
        question: "5d: FIXED refused by RLIMIT_DATA: is what was there still there",
        settings: |settings| settings.data_limit = 6 * PAGE as u64,
        ask: |process| {
            let start = process.touched(4);
            vec![process.try_map(start, 4 * PAGE, RW, ANON | FIXED), process.read(start)]
        },
        openbsd: &[12, 7],
        ..UNASKED
    },
];
