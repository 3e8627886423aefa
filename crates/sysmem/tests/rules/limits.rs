use sysmem::sim::{Overcommit, Settings};

use super::process::{ANON, FIXED, GUARD, NONE, PAGE, READ, RW, SHARED};
use super::{Row, UNASKED, plain};

fn sixteen_pages_of_data(settings: &mut Settings) {
    settings.data_limit = 16 * PAGE as u64;
}

fn sixty_four_pages_of_space(settings: &mut Settings) {
    settings.address_space_limit = 64 * PAGE as u64;
}

fn no_swap(settings: &mut Settings) {
    settings.overcommit = Overcommit::Never { limit: 0 };
}

pub(crate) const ROWS: &[Row] = &[
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
        dragonfly: &[0, 0, 0, 0, 0],
        darwin: &[12, 12, 12, 12, 0],
        illumos: &[0, 0, 0, 0, 0],
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
        dragonfly: &[0, 3, 0],
        illumos: &[0, 3, 0],
        ..UNASKED
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
        dragonfly: &[0, 0, 0, 0, 0, 0],
        illumos: &[0, 0, 0, 0, 0, 0],
        ..UNASKED
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
        dragonfly: &[12, 12, 12],
        darwin: &[12, 12, 12],
        illumos: &[12, 12, 12],
    },
    Row {
        question: "1e: RLIMIT_AS on a guard",
        settings: sixty_four_pages_of_space,
        ask: |process| vec![process.try_map(0, 65 * PAGE, NONE, GUARD)],
        freebsd: &[12],
        ..UNASKED
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
        dragonfly: &[0, 12, 7, 7],
        darwin: &[0, 0, 0, 7],
        illumos: &[0, 0, 0, 7],
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
        dragonfly: &[0],
        darwin: &[0],
        illumos: &[0],
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
        ..UNASKED
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
        ..UNASKED
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
        dragonfly: &[0, 0, 0, 0],
        darwin: &[0, 0, 0, 0],
        ..UNASKED
    },
    Row {
        question: "1i: the same: a guard",
        settings: no_swap,
        ask: |process| vec![process.try_map(0, PAGE, NONE, GUARD)],
        freebsd: &[0],
        ..UNASKED
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
        ..UNASKED
    },
    Row {
        question: "1i: vm.overcommit=2, RLIMIT_SWAP of 16 pages: 17 RW; NONE to RW",
        settings: |settings| settings.swap_limit = 16 * PAGE as u64,
        ask: |process| {
            let start = process.map(17, NONE);
            vec![process.try_map(0, 17 * PAGE, RW, ANON), process.mprotect(start, PAGE, RW)]
        },
        freebsd: &[22, 12],
        ..UNASKED
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
        ..UNASKED
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
        ..UNASKED
    },
    Row {
        question: "1j: a guard",
        settings: plain,
        ask: |process| vec![process.try_map(0, 16 * PAGE, NONE, GUARD), process.size()],
        freebsd: &[0, 0],
        ..UNASKED
    },
    Row {
        question: "1i: where nothing can be promised: RW; NONE; RW and NONE with MAP_NORESERVE; \
            5d: FIXED that is refused: is what was there still there",
        settings: |settings| {
            settings.overcommit = Overcommit::Never { limit: 4 * PAGE as u64 };
        },
        ask: |process| {
            const MAP_NORESERVE: i32 = 0x40;
            let start = process.mmap(0, 8 * PAGE, NONE, ANON | MAP_NORESERVE).unwrap();
            process.mmap(start, 4 * PAGE, RW, ANON | FIXED).unwrap();
            let mut answers = vec![
                process.try_map(0, PAGE, RW, ANON),
                process.try_map(0, PAGE, NONE, ANON),
                process.try_map(0, PAGE, RW, ANON | MAP_NORESERVE),
                process.try_map(0, PAGE, NONE, ANON | MAP_NORESERVE),
                process.try_map(start, 5 * PAGE, RW, ANON | FIXED),
            ];
            answers.extend(process.protections(start, 1));
            answers
        },
        // EAGAIN.
        illumos: &[11, 11, 0, 0, 11, -1],
        ..UNASKED
    },
];
