use sysmem::sim::{Overcommit, Settings};

use super::process::{ANON, FIXED, GUARD, NONE, PAGE, READ, RW, SHARED};
use super::{Row, plain};

fn sixteen_pages_of_data(settings: &mut Settings) {
    settings.data_limit = 16 * PAGE as u64;
}

fn sixty_four_pages_of_space(settings: &mut Settings) {
    settings.address_space_limit = 64 * PAGE as u64;
}

fn no_swap(settings: &mut Settings) {
    settings.overcommit = Overcommit::Never { limit: 0 };
}

pub(crate) const LIMITS: &[Row] = &[
    Row {
        question: "1c, 1d: RLIMIT_DATA on mmap: nothing, RW, read-only, shared; within it",
        settings: sixteen_pages_of_data,
        ask: |process| {
            let map = |npages, bits, flags| process.try_map(0, npages * PAGE, bits, flags);
            vec![
                map(64, NONE, ANON),
                map(17, RW, ANON),
                map(17, READ, ANON),
                map(17, RW, SHARED),
                map(16, RW, ANON),
            ]
        },
        freebsd: &[0, 0, 0, 0, 0],
        openbsd: &[0, 12, 12, 12, 0],
        netbsd: &[0, 0, 0, 0, 0],
    },
    Row {
        question: "1d: RLIMIT_DATA on mprotect: NONE to RW, to read-only; 1g: is any of it changed",
        settings: sixteen_pages_of_data,
        ask: |process| {
            let start = process.map(64, NONE);
            let rw = process.mprotect(start, 17 * PAGE, RW);
            let changed = process.protections(start, 1);
            vec![rw, changed[0], process.mprotect(start + 20 * PAGE, 17 * PAGE, READ)]
        },
        freebsd: &[0, 3, 0],
        openbsd: &[12, 0, 12],
        netbsd: &[0, 3, 0],
    },
    Row {
        question: "1d: what gives back under RLIMIT_DATA: MADV_FREE; RW to NONE; FIXED NONE; munmap",
        settings: sixteen_pages_of_data,
        ask: |process| {
            let start = process.map(64, NONE);
            let full = process.mprotect(start, 16 * PAGE, RW);
            let more = |page: usize| process.mprotect(start + page * PAGE, PAGE, RW);
            process.madvise(start, PAGE, process.free_advice());
            let freed = more(20);
            process.mprotect(start, PAGE, NONE);
            let closed = more(21);
            process.try_map(start + PAGE, PAGE, NONE, ANON | FIXED);
            let replaced = more(22);
            process.munmap(start + 2 * PAGE, PAGE);
            vec![full, freed, closed, replaced, more(23), more(24)]
        },
        freebsd: &[0, 0, 0, 0, 0, 0],
        openbsd: &[0, 12, 0, 0, 0, 12],
        netbsd: &[0, 0, 0, 0, 0, 0],
    },
    Row {
        question: "1e: RLIMIT_AS on NONE, RW, shared",
        settings: sixty_four_pages_of_space,
        ask: |process| {
            [(NONE, ANON), (RW, ANON), (RW, SHARED)]
                .map(|(bits, flags)| process.try_map(0, 65 * PAGE, bits, flags))
                .into()
        },
        freebsd: &[12, 12, 12],
        openbsd: &[0, 0, 0],
        netbsd: &[12, 12, 12],
    },
    Row {
        question: "1e: RLIMIT_AS on a guard",
        settings: sixty_four_pages_of_space,
        ask: |process| vec![process.try_map(0, 65 * PAGE, NONE, GUARD)],
        freebsd: &[12],
        openbsd: &[],
        netbsd: &[],
    },
    Row {
        question: "1e: RLIMIT_AS: mprotect; FIXED over one's own; 5d: is what was there still there",
        settings: sixty_four_pages_of_space,
        ask: |process| {
            let start = process.touched(40);
            vec![
                process.mprotect(start, 40 * PAGE, RW),
                process.try_map(start, 25 * PAGE, RW, ANON | FIXED),
                process.read(start),
                process.read(start + 25 * PAGE),
            ]
        },
        freebsd: &[0, 12, 7, 7],
        openbsd: &[0, 0, 0, 7],
        netbsd: &[0, 12, -1, 7],
    },
    Row {
        question: "1f: mprotect RW in the middle of a reservation",
        settings: plain,
        ask: |process| {
            let start = process.map(1024, NONE);
            vec![process.mprotect(start + 500 * PAGE, PAGE, RW)]
        },
        freebsd: &[0],
        openbsd: &[0],
        netbsd: &[0],
    },
    Row {
        question: "1h: pages charged: reserved; one made RW; NONE again; unmapped",
        settings: plain,
        ask: |process| {
            let charged = || process.charged() / PAGE as i64;
            let start = process.map(256, NONE);
            let reserved = charged();
            process.mprotect(start, PAGE, RW);
            let writable = charged();
            process.mprotect(start, PAGE, NONE);
            let closed = charged();
            process.munmap(start, 256 * PAGE);
            vec![reserved, writable, closed, charged()]
        },
        freebsd: &[0, 256, 256, 0],
        openbsd: &[],
        netbsd: &[],
    },
    Row {
        question: "1h: pages charged: read-only; a guard; RW fixed in a guard, in a reservation; \
            NONE fixed over it",
        settings: plain,
        ask: |process| {
            let charged = || process.charged() / PAGE as i64;
            process.map(16, READ);
            let read_only = charged();
            let guard = process.mmap(0, 16 * PAGE, NONE, GUARD).unwrap();
            let guarded = charged();
            process.try_map(guard, PAGE, RW, ANON | FIXED);
            let in_guard = charged();
            let reserved = process.map(16, NONE);
            process.try_map(reserved, 2 * PAGE, RW, ANON | FIXED);
            let in_reservation = charged();
            process.try_map(guard, PAGE, NONE, ANON | FIXED);
            vec![read_only, guarded, in_guard, in_reservation, charged()]
        },
        freebsd: &[0, 0, 1, 3, 2],
        openbsd: &[],
        netbsd: &[],
    },
    Row {
        question: "1i: vm.overcommit=1 without swap: RW; NONE to RW; NONE; read-only",
        settings: no_swap,
        ask: |process| {
            let rw = process.try_map(0, PAGE, RW, ANON);
            let start = process.map(4, NONE);
            vec![
                rw,
                process.mprotect(start, PAGE, RW),
                process.try_map(0, PAGE, NONE, ANON),
                process.try_map(0, PAGE, READ, ANON),
            ]
        },
        freebsd: &[22, 12, 0, 0],
        openbsd: &[0, 0, 0, 0],
        netbsd: &[0, 0, 0, 0],
    },
    Row {
        question: "1i: the same: a guard",
        settings: no_swap,
        ask: |process| vec![process.try_map(0, PAGE, NONE, GUARD)],
        freebsd: &[0],
        openbsd: &[],
        netbsd: &[],
    },
    Row {
        question: "1i: vm.overcommit=1, 64 pages of swap: 65 RW; one page RW in 65 reserved; in 64",
        settings: |settings| {
            settings.overcommit = Overcommit::Never { limit: 64 * PAGE as u64 };
        },
        ask: |process| {
            let (more, fits) = (process.map(65, NONE), process.map(64, NONE));
            vec![
                process.try_map(0, 65 * PAGE, RW, ANON),
                process.mprotect(more, PAGE, RW),
                process.mprotect(fits, PAGE, RW),
            ]
        },
        freebsd: &[22, 12, 0],
        openbsd: &[],
        netbsd: &[],
    },
    Row {
        question: "1i: vm.overcommit=2, RLIMIT_SWAP of 16 pages: 17 RW; NONE to RW",
        settings: |settings| settings.swap_limit = 16 * PAGE as u64,
        ask: |process| {
            let start = process.map(17, NONE);
            vec![process.try_map(0, 17 * PAGE, RW, ANON), process.mprotect(start, PAGE, RW)]
        },
        freebsd: &[22, 12],
        openbsd: &[],
        netbsd: &[],
    },
    Row {
        question: "5d: FIXED refused by swap accounting: over RW, NONE, a guard: what is there",
        settings: |settings| {
            settings.overcommit = Overcommit::Never { limit: 4 * PAGE as u64 };
        },
        ask: |process| {
            let (rw, none) = (process.touched(4), process.map(8, NONE));
            let guard = process.mmap(0, 8 * PAGE, NONE, GUARD).unwrap();
            let mut answers = Vec::new();
            // Over what is charged, as much again fits: what was there is gone by then.
            answers.push(process.try_map(rw, 4 * PAGE, RW, ANON | FIXED));
            for start in [none, guard] {
                answers.push(process.try_map(start, 8 * PAGE, RW, ANON | FIXED));
                answers.extend(process.protections(start, 1));
            }
            process.munmap(rw, 4 * PAGE);
            let mixed = process.map(8, NONE);
            process.mmap(mixed, 4 * PAGE, RW, ANON | FIXED).unwrap();
            process.write(mixed, 7);
            answers.push(process.try_map(mixed, 8 * PAGE, RW, ANON | FIXED));
            answers.extend(process.protections(mixed, 1));
            answers
        },
        freebsd: &[0, 22, -1, 22, -1, 22, -1],
        openbsd: &[],
        netbsd: &[],
    },
    Row {
        question: "1j: what counts as size, in pages: 16 NONE, then 4 RW",
        settings: plain,
        ask: |process| {
            process.map(16, NONE);
            let reserved = process.size();
            process.map(4, RW);
            vec![reserved, process.size()]
        },
        freebsd: &[16, 20],
        openbsd: &[0, 4],
        netbsd: &[16, 20],
    },
    Row {
        question: "1j: a guard",
        settings: plain,
        ask: |process| vec![process.try_map(0, 16 * PAGE, NONE, GUARD), process.size()],
        freebsd: &[0, 0],
        openbsd: &[],
        netbsd: &[],
    },
];

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
    },
    Row {
        question: "8c: neither shared nor private; both",
        settings: plain,
        ask: |process| [0x1000, 0x1003].map(|flags| process.try_map(0, PAGE, RW, flags)).into(),
        freebsd: &[0, 22],
        openbsd: &[0, 22],
        netbsd: &[0, 22],
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
    },
    Row {
        question: "8f: without randomized addresses: a free hint; a free hole inside a mapping",
        settings: plain,
        ask: |process| {
            let place = process.free_place();
            let start = process.with_hole(9);
            [place, start + 4 * PAGE]
                .map(|hint| (process.mmap(hint, PAGE, RW, ANON) == Ok(hint)) as i64)
                .into()
        },
        freebsd: &[1, 1],
        openbsd: &[1, 1],
        netbsd: &[1, 1],
    },
    Row {
        question: "8f: with randomized addresses: a free hint; a free hole inside a mapping",
        settings: |settings| settings.aslr = true,
        ask: |process| {
            let place = process.free_place();
            let start = process.with_hole(9);
            [place, start + 4 * PAGE]
                .map(|hint| (process.mmap(hint, PAGE, RW, ANON) == Ok(hint)) as i64)
                .into()
        },
        freebsd: &[0, 0],
        openbsd: &[],
        netbsd: &[],
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
    },
    Row {
        question: "8h, 8i: FIXED at 0; a kernel address; 1 << 47; running past the end",
        settings: plain,
        ask: |process| {
            let end = 1usize << 47;
            [(0, PAGE), (1 << 63, PAGE), (end, PAGE), (end - PAGE, 2 * PAGE)]
                .map(|(address, len)| process.try_map(address, len, RW, ANON | FIXED))
                .into()
        },
        freebsd: &[22, 22, 22, 22],
        openbsd: &[22, 22, 22, 22],
        netbsd: &[13, 27, 27, 27],
    },
    Row {
        question: "8i: FIXED at the last pages below 1 << 47",
        settings: plain,
        ask: |process| {
            let last = (1usize << 47) - PAGE;
            [last, last - PAGE].map(|at| process.try_map(at, PAGE, RW, ANON | FIXED)).into()
        },
        // FreeBSD maps them; here they are outside the space of the process, and taken.
        freebsd: &[12, 12],
        openbsd: &[22, 22],
        netbsd: &[27, 27],
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
    },
    Row {
        question: "8j: the same without FIXED",
        settings: plain,
        ask: |process| vec![process.try_map(0, PAGE, RW, ANON | process.no_replace() & !FIXED)],
        freebsd: &[22],
        openbsd: &[22],
        netbsd: &[],
    },
    Row {
        question: "8j: 'do not replace' over a guard",
        settings: plain,
        ask: |process| {
            let guard = process.mmap(0, 4 * PAGE, NONE, GUARD).unwrap();
            vec![process.try_map(guard, PAGE, RW, ANON | process.no_replace())]
        },
        freebsd: &[12],
        openbsd: &[],
        netbsd: &[],
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
        openbsd: &[],
        netbsd: &[0, 0, 0, 12, 12, 12, 22, 22],
    },
    Row {
        question: "9a: MAP_ALIGNED(1)",
        settings: plain,
        ask: |process| vec![process.try_map(0, 2 * PAGE, RW, ANON | 1 << 24)],
        // MAP_ALIGNED_SUPER.
        freebsd: &[0],
        openbsd: &[],
        netbsd: &[22],
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
        openbsd: &[],
        netbsd: &[0, -1, 22],
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
        openbsd: &[],
        netbsd: &[],
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
        openbsd: &[],
        netbsd: &[],
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
        openbsd: &[],
        netbsd: &[],
    },
    Row {
        question: "10a: writable and executable, by mmap and by mprotect",
        settings: plain,
        ask: |process| {
            let start = process.map(1, RW);
            vec![process.try_map(0, PAGE, 7, ANON), process.mprotect(start, PAGE, 7)]
        },
        freebsd: &[],
        openbsd: &[91, 91],
        netbsd: &[],
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
        openbsd: &[],
        netbsd: &[],
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
        openbsd: &[],
        netbsd: &[],
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
        freebsd: &[],
        openbsd: &[],
        netbsd: &[13, 0, 13],
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
        openbsd: &[],
        netbsd: &[0, 0, 1, 1],
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
    },
    Row {
        question: "5d: FIXED refused by RLIMIT_DATA: is what was there still there",
        settings: |settings| settings.data_limit = 6 * PAGE as u64,
        ask: |process| {
            let start = process.touched(4);
            vec![process.try_map(start, 4 * PAGE, RW, ANON | FIXED), process.read(start)]
        },
        freebsd: &[],
        openbsd: &[12, 7],
        netbsd: &[],
    },
];
