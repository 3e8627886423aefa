//! What Windows answers to the same questions, in its own calls: read in Microsoft's reference and
//! in ReactOS (see the simulator), none seen.

use std::ptr::with_exposed_provenance_mut;

use sysmem::calls::{AddressRequirements, LargePages, VirtualMemory, WorkingSetPage};
use sysmem::sim::{self, LazilyFreed, Overcommit, Settings, Simulated};
use sysmem::{Errno, PageRange, Protection};

use super::plain;
use super::process::PAGE;

const COMMIT: u32 = 0x1000;
const RESERVE: u32 = 0x2000;
const DECOMMIT: u32 = 0x4000;
const RELEASE: u32 = 0x8000;
const RESET: u32 = 0x8_0000;
const NOACCESS: u32 = 1;
const READONLY: u32 = 2;
const READWRITE: u32 = 4;
const EXECUTE_READ: u32 = 0x20;

const LARGE_PAGES: u32 = 0x2000_0000;

const TIB: usize = 1 << 40;

type Kernel = Simulated<sim::Windows>;

pub(crate) struct WindowsRow {
    pub(crate) question: &'static str,
    settings: fn(&mut Settings),
    ask: fn(&Kernel) -> Vec<i64>,
    answers: &'static [i64],
}

pub(crate) fn check() {
    for row in ROWS {
        let mut settings = Settings {
            scattered: false,
            lazily_freed: LazilyFreed::Kept,
            version: (10, 1803),
            ..Settings::heap(16 << 20)
        };
        (row.settings)(&mut settings);
        let found = (row.ask)(&Simulated::start(settings));
        assert_eq!(found, row.answers, "Windows: {}", row.question);
    }
}

fn code<T>(result: Result<T, Errno>) -> i64 {
    result.map_or_else(|errno| errno.0.into(), |_| 0)
}

fn alloc(kernel: &Kernel, at: usize, len: usize, kind: u32, allows: u32) -> Result<usize, Errno> {
    // SAFETY: the memory is the simulated process's, and this test is the process.
    unsafe { kernel.virtual_alloc(with_exposed_provenance_mut(at), len, kind, allows) }
        .map(|start| start.expose_provenance())
}

fn free(kernel: &Kernel, at: usize, len: usize, kind: u32) -> i64 {
    // SAFETY: see `alloc`.
    code(unsafe { kernel.virtual_free(with_exposed_provenance_mut(at), len, kind) })
}

fn protect(kernel: &Kernel, at: usize, len: usize, allows: u32) -> i64 {
    // SAFETY: see `alloc`.
    code(unsafe { kernel.virtual_protect(with_exposed_provenance_mut(at), len, allows) })
}

fn lock(kernel: &Kernel, at: usize, len: usize, locked: bool) -> i64 {
    code(kernel.lock_memory(PageRange::new(with_exposed_provenance_mut(at), len), locked))
}

/// Reserved and committed pages, in a reservation of their own.
fn committed(kernel: &Kernel, npages: usize) -> usize {
    alloc(kernel, 0, npages * PAGE, RESERVE | COMMIT, READWRITE).unwrap()
}

/// The same, with 7 in each.
fn touched(kernel: &Kernel, npages: usize) -> usize {
    let start = committed(kernel, npages);
    (0..npages).for_each(|page| write(kernel, start + page * PAGE, 7));
    start
}

fn write(kernel: &Kernel, at: usize, value: u8) {
    assert_eq!(kernel.protection_at(at), Some(Protection::ReadWrite));
    // SAFETY: writable.
    unsafe { with_exposed_provenance_mut::<u8>(at).write_volatile(value) };
}

/// What each page holds; -1 where reading faults.
fn contents(kernel: &Kernel, start: usize, npages: usize) -> Vec<i64> {
    let pages = (0..npages).map(|page| start + page * PAGE);
    pages
        .map(|at| match kernel.protection_at(at) {
            None | Some(Protection::NoAccess) => -1,
            // SAFETY: readable.
            Some(_) => unsafe { with_exposed_provenance_mut::<u8>(at).read_volatile() }.into(),
        })
        .collect()
}

fn charged(kernel: &Kernel) -> i64 {
    (kernel.totals().charged / PAGE) as i64
}

fn in_working_set(kernel: &Kernel, start: usize, npages: usize) -> Vec<i64> {
    let page = |page| WorkingSetPage { address: start + page * PAGE, attributes: 0 };
    let mut pages: Vec<_> = (0..npages).map(page).collect();
    kernel.working_set(&mut pages).unwrap();
    pages.iter().map(|page| (page.attributes & 1) as i64).collect()
}

/// All addresses of a program, and as much memory.
fn all_addresses(settings: &mut Settings) {
    let end = 0x7fff_ffff_0000;
    *settings = Settings {
        overcommit: Overcommit::Never { limit: 4 << 30 },
        version: settings.version,
        scattered: false,
        ..Settings::addresses(64 << 10, end)
    };
}

pub(crate) const ROWS: &[WindowsRow] = &[
    WindowsRow {
        question: "1a, 1b: MEM_RESERVE of 1 GiB; 1 TiB; 64 TiB; 1 << 47",
        settings: all_addresses,
        ask: |kernel| {
            [1 << 30, TIB, 64 * TIB, 1 << 47]
                .map(|len| match alloc(kernel, 0, len, RESERVE, NOACCESS) {
                    Ok(start) => free(kernel, start, 0, RELEASE),
                    Err(errno) => errno.0.into(),
                })
                .into()
        },
        // STATUS_INVALID_PARAMETER_4.
        answers: &[0, 0, 0, 87],
    },
    WindowsRow {
        question: "1c, 1f: MEM_COMMIT of 1 GiB; 1 TiB where 4 GiB can be; in the middle of 1 TiB",
        settings: all_addresses,
        ask: |kernel| {
            let reserved = alloc(kernel, 0, TIB, RESERVE, NOACCESS).unwrap();
            vec![
                code(alloc(kernel, 0, 1 << 30, RESERVE | COMMIT, READWRITE)),
                code(alloc(kernel, 0, TIB, RESERVE | COMMIT, READWRITE)),
                code(alloc(kernel, reserved + TIB / 2, PAGE, COMMIT, READWRITE)),
            ]
        },
        answers: &[0, 1455, 0],
    },
    WindowsRow {
        question: "1g: MEM_COMMIT refused: is any of it committed",
        settings: |settings| settings.overcommit = Overcommit::Never { limit: 4 * PAGE as u64 },
        ask: |kernel| {
            let start = alloc(kernel, 0, 16 * PAGE, RESERVE, NOACCESS).unwrap();
            let refused = code(alloc(kernel, start, 5 * PAGE, COMMIT, READWRITE));
            [vec![refused, charged(kernel)], contents(kernel, start, 1)].concat()
        },
        answers: &[1455, 0, -1],
    },
    WindowsRow {
        question: "1h: pages charged: reserved; one committed; committed again; NOACCESS; \
            decommitted; released",
        settings: plain,
        ask: |kernel| {
            let start = alloc(kernel, 0, 16 * PAGE, RESERVE, NOACCESS).unwrap();
            let mut told = vec![charged(kernel)];
            for _ in 0..2 {
                alloc(kernel, start, PAGE, COMMIT, READWRITE).unwrap();
                told.push(charged(kernel));
            }
            protect(kernel, start, PAGE, NOACCESS);
            told.push(charged(kernel));
            free(kernel, start, PAGE, DECOMMIT);
            told.push(charged(kernel));
            committed(kernel, 3);
            free(kernel, start, 0, RELEASE);
            told.push(charged(kernel));
            told
        },
        answers: &[0, 1, 1, 1, 0, 3],
    },
    WindowsRow {
        question: "2a: VirtualProtect RW, NOACCESS, RW: contents are kept",
        settings: plain,
        ask: |kernel| {
            let start = touched(kernel, 1);
            let answers = [NOACCESS, READWRITE].map(|allows| protect(kernel, start, PAGE, allows));
            [answers.to_vec(), contents(kernel, start, 1)].concat()
        },
        answers: &[0, 0, 7],
    },
    WindowsRow {
        question: "2b: VirtualProtect of nothing; from an unaligned address; of 100 bytes; pages \
            that are read-only then",
        settings: plain,
        ask: |kernel| {
            let start = committed(kernel, 6);
            let answers = [(0, 0), (PAGE + 1, PAGE), (4 * PAGE, 100)]
                .map(|(offset, len)| protect(kernel, start + offset, len, READONLY));
            let closed = |page| {
                let allows = kernel.protection_at(start + page * PAGE);
                i64::from(allows == Some(Protection::ReadOnly))
            };
            [answers.to_vec(), (0..6).map(closed).collect()].concat()
        },
        answers: &[87, 0, 0, 0, 1, 1, 0, 1, 0],
    },
    WindowsRow {
        question: "2c: VirtualProtect over what is only reserved; past a reservation; of nothing \
            mapped; protection 3; is anything changed",
        settings: plain,
        ask: |kernel| {
            let start = alloc(kernel, 0, 64 << 10, RESERVE, NOACCESS).unwrap();
            alloc(kernel, start, PAGE, COMMIT, READWRITE).unwrap();
            let free = kernel.space().start;
            let answers = [
                protect(kernel, start, 2 * PAGE, READONLY),
                protect(kernel, start, 65 << 10, READONLY),
                protect(kernel, free, PAGE, READONLY),
                protect(kernel, start, PAGE, 3),
            ];
            [answers.to_vec(), contents(kernel, start, 2)].concat()
        },
        answers: &[487, 487, 487, 87, 0, -1],
    },
    WindowsRow {
        question: "3a: MEM_RESET of touched pages, not under pressure; a write after it; 6: under \
            pressure",
        settings: plain,
        ask: |kernel| {
            let start = touched(kernel, 3);
            let mut told = vec![code(alloc(kernel, start, 3 * PAGE, RESET, READWRITE))];
            told.extend(contents(kernel, start, 1));
            write(kernel, start, 9);
            kernel.pressure();
            told.extend(contents(kernel, start, 3));
            told
        },
        answers: &[0, 7, 9, 0, 0],
    },
    WindowsRow {
        question: "5a, 5b: MEM_DECOMMIT of touched pages: an access; committed again: contents",
        settings: plain,
        ask: |kernel| {
            let start = touched(kernel, 3);
            let mut told = vec![free(kernel, start + PAGE, PAGE, DECOMMIT)];
            told.extend(contents(kernel, start, 3));
            told.push(code(alloc(kernel, start + PAGE, PAGE, COMMIT, READWRITE)));
            told.extend(contents(kernel, start, 3));
            told
        },
        answers: &[0, 7, -1, 7, 0, 7, 0, 7],
    },
    WindowsRow {
        question: "7a, 7b: MEM_RELEASE of a part; not at the beginning; of all; once more; of what \
            was never mapped",
        settings: plain,
        ask: |kernel| {
            let start = touched(kernel, 16);
            vec![
                free(kernel, start, PAGE, RELEASE),
                free(kernel, start + PAGE, 0, RELEASE),
                free(kernel, start, 0, RELEASE),
                free(kernel, start, 0, RELEASE),
                free(kernel, kernel.space().start, 0, RELEASE),
            ]
        },
        // STATUS_FREE_VM_NOT_AT_BASE, STATUS_MEMORY_NOT_ALLOCATED.
        answers: &[87, 487, 0, 487, 487],
    },
    WindowsRow {
        question: "7c, 7d: MEM_DECOMMIT of 100 bytes; of nothing in the middle; past the end; of \
            nothing at the beginning, which is all; pages left after each",
        settings: plain,
        ask: |kernel| {
            let start = committed(kernel, 16);
            [(0, 100), (PAGE, 0), (15 * PAGE, 2 * PAGE), (0, 0)]
                .map(|(offset, len)| {
                    vec![free(kernel, start + offset, len, DECOMMIT), charged(kernel)]
                })
                .concat()
        },
        // STATUS_FREE_VM_NOT_AT_BASE, STATUS_UNABLE_TO_FREE_VM.
        answers: &[0, 15, 487, 15, 87, 15, 0, 0],
    },
    WindowsRow {
        question: "8a: MEM_RESERVE of nothing; -1; 1 << 63; 8d: protection 3; no kind; an unknown one",
        settings: plain,
        ask: |kernel| {
            [
                (0, RESERVE, NOACCESS),
                (usize::MAX, RESERVE, NOACCESS),
                (1 << 63, RESERVE, NOACCESS),
                (PAGE, RESERVE | COMMIT, 3),
                (PAGE, 0, READWRITE),
                (PAGE, 0x800, READWRITE),
            ]
            .map(|(len, kind, allows)| code(alloc(kernel, 0, len, kind, allows)))
            .into()
        },
        answers: &[87; 6],
    },
    WindowsRow {
        question: "8e, 8j: MEM_RESERVE at an address that is taken; 8g: at one that is not a \
            multiple of 64 KiB; 8i: a kernel address",
        settings: plain,
        ask: |kernel| {
            let taken = committed(kernel, 1);
            let free = kernel.space().start;
            vec![
                code(alloc(kernel, taken, PAGE, RESERVE, NOACCESS)),
                alloc(kernel, free + 5000, PAGE, RESERVE, NOACCESS).unwrap() as i64 - free as i64,
                code(alloc(kernel, 0xffff_8000 << 32, PAGE, RESERVE, NOACCESS)),
            ]
        },
        // STATUS_CONFLICTING_ADDRESSES; rounded down; STATUS_INVALID_PARAMETER_2.
        answers: &[487, 0, 87],
    },
    WindowsRow {
        question: "9a: VirtualAlloc2 aligned to 64 KiB; 2 MiB; 4 KiB; 192 KiB",
        settings: |settings| settings.alignment = 2 << 20,
        ask: |kernel| {
            [64 << 10, 2 << 20, 4 << 10, 192 << 10]
                .map(|align| {
                    let requirements = AddressRequirements { lowest: 0, align };
                    match kernel.reserve_where(requirements, PAGE).unwrap() {
                        Ok(start) => (start.addr() % align) as i64,
                        Err(errno) => errno.0.into(),
                    }
                })
                .into()
        },
        answers: &[0, 0, 87, 87],
    },
    WindowsRow {
        question: "10b, 10c: RW to RX and back: contents; committed as RX",
        settings: plain,
        ask: |kernel| {
            let start = touched(kernel, 1);
            let mut told = Vec::new();
            for allows in [EXECUTE_READ, READWRITE, EXECUTE_READ] {
                told.push(protect(kernel, start, PAGE, allows));
            }
            told.extend(contents(kernel, start, 1));
            told.push(code(alloc(kernel, 0, PAGE, RESERVE | COMMIT, EXECUTE_READ)));
            told
        },
        answers: &[0, 0, 0, 7, 0],
    },
    WindowsRow {
        question: "12a, 14f: in the working set: touched; untouched; locked; NOACCESS",
        settings: plain,
        ask: |kernel| {
            let (start, untouched) = (touched(kernel, 1), committed(kernel, 1));
            let mut told = in_working_set(kernel, start, 1);
            told.extend(in_working_set(kernel, untouched, 1));
            lock(kernel, untouched, PAGE, true);
            told.extend(in_working_set(kernel, untouched, 1));
            protect(kernel, start, PAGE, NOACCESS);
            told.extend(in_working_set(kernel, start, 1));
            told
        },
        answers: &[1, 0, 1, 0],
    },
    WindowsRow {
        question: "12b, 12c: VirtualLock of NOACCESS; of what is only reserved; of nothing; \
            VirtualUnlock of what is not locked",
        settings: plain,
        ask: |kernel| {
            let start = committed(kernel, 2);
            protect(kernel, start, PAGE, NOACCESS);
            let reserved = alloc(kernel, 0, PAGE, RESERVE, NOACCESS).unwrap();
            vec![
                lock(kernel, start, PAGE, true),
                lock(kernel, reserved, PAGE, true),
                lock(kernel, start, 0, true),
                lock(kernel, start + PAGE, PAGE, false),
            ]
        },
        answers: &[998, 998, 87, 158],
    },
    WindowsRow {
        question: "12d: VirtualLock beyond the least working set; 12e: of locked memory: NOACCESS; \
            decommit",
        settings: |settings| settings.locked_limit = 4 * PAGE as u64,
        ask: |kernel| {
            let start = committed(kernel, 5);
            vec![
                lock(kernel, start, 5 * PAGE, true),
                lock(kernel, start, 4 * PAGE, true),
                protect(kernel, start, PAGE, NOACCESS),
                free(kernel, start, PAGE, DECOMMIT),
            ]
        },
        answers: &[1453, 0, 0, 0],
    },
    WindowsRow {
        question: "13a: the privilege for large pages switched on by who has not been given it; large \
            pages by who has, and did not switch it on; who did; half of one; only reserved; given \
            back in part; whole; switched off again",
        settings: |settings| settings.alignment = 2 << 20,
        ask: |kernel| {
            const LARGE: usize = 2 << 20;
            let ask = |len, kind| alloc(kernel, 0, len, kind | LARGE_PAGES, READWRITE);
            let mut told = vec![code(kernel.switch_lock_memory_privilege(true))];
            kernel.set(|settings| settings.lock_memory_privilege = true);
            told.push(code(ask(LARGE, RESERVE | COMMIT)));
            kernel.switch_lock_memory_privilege(true).unwrap();
            let large = ask(LARGE, RESERVE | COMMIT).unwrap();
            told.push((large % LARGE) as i64);
            told.push(code(ask(LARGE / 2, RESERVE | COMMIT)));
            told.push(code(ask(LARGE, RESERVE)));
            told.push(free(kernel, large, PAGE, DECOMMIT));
            told.push(free(kernel, large, 0, RELEASE));
            kernel.switch_lock_memory_privilege(false).unwrap();
            told.push(code(ask(LARGE, RESERVE | COMMIT)));
            told
        },
        answers: &[1300, 1314, 0, 87, 87, 487, 0, 1314],
    },
];
