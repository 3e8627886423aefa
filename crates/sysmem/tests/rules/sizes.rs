//! Questions about lengths and places that no process of a test has: asked where there are
//! addresses and no memory.

use sysmem::sim::{Overcommit, Settings};

use super::process::{ANON, FIXED, GUARD, NONE, PAGE, Process, RW};
use super::{Row, UNASKED};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
const TIB: usize = 1 << 40;
/// 1 GiB, 1 TiB, 64 TiB, 127 TiB.
const LENGTHS: [usize; 4] = [GIB, TIB, 64 * TIB, 127 * TIB];

/// All addresses of a program, and 1 GiB of memory without swap where that is looked at.
fn all_addresses(settings: &mut Settings) {
    let Settings { scattered, aslr, imply_prot_max, pax_mprotect, lazily_freed, .. } = *settings;
    *settings = Settings {
        scattered,
        aslr,
        imply_prot_max,
        pax_mprotect,
        lazily_freed,
        overcommit: Overcommit::Heuristic { memory: GIB as u64 },
        ..Settings::addresses(PAGE, 1 << 47)
    };
}

/// What mmap answers to each length where only the program is.
fn lengths(process: &dyn Process, lens: &[usize], bits: i32) -> Vec<i64> {
    process.occupy(process.program(), 1);
    let ask = |&len: &usize| match process.mmap(0, len, bits, ANON) {
        Ok(start) => process.munmap(start, len),
        Err(errno) => errno,
    };
    lens.iter().map(ask).collect()
}

fn fixed(process: &dyn Process, at: usize, len: usize) -> i64 {
    process.try_map(at, len, RW, ANON | FIXED)
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        question: "1a: NONE of 1 GiB; 1 TiB; 64 TiB",
        settings: all_addresses,
        ask: |process| lengths(process, &LENGTHS[..3], NONE),
        freebsd: &[0, 0, 0],
        openbsd: &[0, 0, 0],
        netbsd: &[0, 0, 0],
        dragonfly: &[0, 0, 0],
        darwin: &[0, 0, 0],
        // All of private memory is reserved in swap, whatever it allows.
        illumos: &[0, 11, 11],
    },
    Row {
        question: "1b: NONE of 127 TiB; 1 << 47",
        settings: all_addresses,
        ask: |process| lengths(process, &[127 * TIB, 1 << 47], NONE),
        freebsd: &[12, 12],
        openbsd: &[12, 12],
        netbsd: &[0, 12],
        dragonfly: &[0, 12],
        ..UNASKED
    },
    Row {
        question: "1c: RW of 1 GiB; 1 TiB; 64 TiB; 127 TiB with the limits that are the default",
        settings: |settings| {
            all_addresses(settings);
            settings.data_limit = 128 << 20;
        },
        ask: |process| lengths(process, &LENGTHS, RW),
        freebsd: &[0, 0, 0, 12],
        openbsd: &[12, 12, 12, 12],
        netbsd: &[0, 0, 0, 0],
        dragonfly: &[0, 0, 0, 0],
        // The place is looked for first.
        illumos: &[0, 11, 11, 12],
        ..UNASKED
    },
    Row {
        question: "1f: mprotect RW in the middle of 1 TiB",
        settings: all_addresses,
        ask: |process| {
            let start = process.mmap(0, TIB, NONE, ANON).unwrap();
            vec![process.mprotect(start + TIB / 2, 64 * MIB, RW)]
        },
        freebsd: &[0],
        openbsd: &[0],
        netbsd: &[0],
        dragonfly: &[0],
        darwin: &[0],
        ..UNASKED
    },
    Row {
        question: "1i: vm.overcommit=5 with 1 GiB of memory: RW of 256 MiB; 16 GiB; one page RW in \
            1 GiB reserved; in 256 MiB",
        settings: |settings| {
            all_addresses(settings);
            settings.overcommit = Overcommit::Never { limit: 900 << 20 };
        },
        ask: |process| {
            let (more, fits) = (process.map(GIB / PAGE, NONE), process.map(65536, NONE));
            vec![
                process.try_map(0, 256 * MIB, RW, ANON),
                process.try_map(0, 16 * GIB, RW, ANON),
                process.mprotect(more, PAGE, RW),
                process.mprotect(fits, PAGE, RW),
            ]
        },
        freebsd: &[0, 22, 12, 0],
        ..UNASKED
    },
    Row {
        question: "8f, 8g: hints: free at 0x200000000000; unaligned; 0x10000; among the kernel's",
        settings: all_addresses,
        ask: |process| {
            let place = |hint, expected| match process.mmap(hint, PAGE, RW, ANON) {
                Ok(start) => (start == expected) as i64,
                Err(errno) => errno,
            };
            vec![
                place(0x2000_0000_0000, 0x2000_0000_0000),
                place(0x2100_0000_0001, 0x2100_0000_1000),
                place(0x1_0000, 0x1_0000),
                place(0xffff_8000 << 32, 0),
            ]
        },
        // It is there; it is there, rounded up; it is there; it went elsewhere.
        freebsd: &[1, 1, 1, 0],
        openbsd: &[1, 1, 1, 12],
        netbsd: &[1, 1, 1, 0],
        dragonfly: &[1, 1, 1, 12],
        ..UNASKED
    },
    Row {
        question: "8h: FIXED at 0; 0x1000; 0x10000; 1 << 46",
        settings: all_addresses,
        ask: |process| [0, 0x1000, 0x1_0000, 1 << 46].map(|at| fixed(process, at, PAGE)).into(),
        freebsd: &[22, 0, 0, 0],
        openbsd: &[22, 0, 0, 0],
        netbsd: &[13, 0, 0, 0],
        ..UNASKED
    },
    Row {
        question: "8i: FIXED at a kernel address; 1 << 47; one page, two pages before it; running \
            past the end",
        settings: all_addresses,
        ask: |process| {
            let end = 1 << 47;
            vec![
                fixed(process, 0xffff_8000 << 32, PAGE),
                fixed(process, end, PAGE),
                fixed(process, end - PAGE, PAGE),
                fixed(process, end - 2 * PAGE, PAGE),
                fixed(process, end - PAGE, 2 * PAGE),
            ]
        },
        freebsd: &[22, 22, 0, 0, 22],
        openbsd: &[22, 22, 22, 22, 22],
        netbsd: &[27, 27, 27, 27, 27],
        dragonfly: &[22, 22, 0, 0, 22],
        // KERN_INVALID_ADDRESS.
        darwin: &[12, 12, 12, 12, 12],
        ..UNASKED
    },
    Row {
        question: "8k: MAP_32BIT: below 2 GiB; kern_mmap: with FIXED above it",
        settings: all_addresses,
        ask: |process| {
            const MAP_32BIT: i32 = 0x8_0000;
            let start = process.mmap(0, 16 * PAGE, RW, ANON | MAP_32BIT).unwrap();
            let above = process.try_map(1 << 31, PAGE, RW, ANON | FIXED | MAP_32BIT);
            vec![(start + 16 * PAGE <= 1 << 31) as i64, above]
        },
        freebsd: &[1, 22],
        ..UNASKED
    },
    Row {
        question: "9a, 9b: MAP_ALIGNED(n) for 30, 40, 46; 3 GiB aligned to 30",
        settings: all_addresses,
        ask: |process| {
            let aligned = |shift: i32, len| {
                let start = process.mmap(0, len, RW, ANON | shift << 24).unwrap();
                (start % (1 << shift)) as i64
            };
            let small = [30, 40, 46].map(|shift| aligned(shift, 2 * PAGE));
            [small.to_vec(), vec![aligned(30, 3 * GIB)]].concat()
        },
        freebsd: &[0, 0, 0, 0],
        netbsd: &[0, 0, 0, 0],
        ..UNASKED
    },
    Row {
        question: "9d: a guard of 1 TiB; 64 TiB, of which as much NONE is mapped",
        settings: all_addresses,
        ask: |process| {
            process.occupy(process.program(), 1);
            [TIB, 64 * TIB].map(|len| process.try_map(0, len, NONE, GUARD)).into()
        },
        freebsd: &[0, 12],
        ..UNASKED
    },
    Row {
        question: "16c: fork with 1 TiB reserved and 64 MiB of it RW; with 64 TiB more",
        settings: all_addresses,
        ask: |process| {
            process.occupy(process.program(), 1);
            let start = process.mmap(0, TIB, NONE, ANON).unwrap();
            process.mprotect(start, 64 * MIB, RW);
            let child = || process.fork(&|| (), &[0]);
            let first = child();
            process.mmap(0, 64 * TIB, NONE, ANON).unwrap();
            [first, child()].concat()
        },
        // The child lives; page 0 is not its.
        freebsd: &[-1, -1],
        openbsd: &[-1, -1],
        netbsd: &[-1, -1],
        dragonfly: &[-1, -1],
        darwin: &[-1, -1],
        ..UNASKED
    },
];
