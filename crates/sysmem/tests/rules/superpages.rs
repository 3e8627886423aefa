//! Superpages of FreeBSD: seen with 2 MiB, asked here with 64 KiB.

use sysmem::sim::Settings;

use super::process::{DONTNEED, PAGE, Process, READ, RW};
use super::{Row, UNASKED};

const NPAGES: usize = 16;
const LEN: usize = NPAGES * PAGE;
/// The page that is treated in its own way.
const ODD: usize = 5;

fn superpages(settings: &mut Settings) {
    settings.huge_page_size = Some(LEN);
}

fn no_superpages(settings: &mut Settings) {
    settings.huge_page_size = None;
}

/// An aligned range the size of a superpage, with every page written to.
fn touched(process: &dyn Process) -> usize {
    let start = process.mmap(0, LEN, RW, 0x1002 | 16 << 24).unwrap();
    (0..NPAGES).for_each(|page| process.write(start + page * PAGE, 7));
    start
}

/// What mincore says of all pages but the odd one, if it is the same, and of that.
fn told(process: &dyn Process, start: usize) -> [i64; 2] {
    let bytes = process.mincore(start, NPAGES);
    assert_eq!(bytes.len(), NPAGES, "{bytes:?}");
    let first = bytes[0];
    let alike = bytes.iter().enumerate().all(|(page, &byte)| page == ODD || byte == first);
    [if alike { first } else { -1 }, bytes[ODD]]
}

fn odd(start: usize) -> usize {
    start + ODD * PAGE
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        question: "13a: vm.pmap.pg_ps_enabled: length, value; superpages_enabled; hw.pagesizes",
        settings: superpages,
        ask: |process| {
            vec![
                process.fact(c"vm.pmap.pg_ps_enabled", 0),
                process.fact(c"vm.pmap.superpages_enabled", 0),
                process.fact(c"hw.pagesizes", 0),
                process.fact(c"hw.pagesizes", 8),
            ]
        },
        freebsd: &[1, -2, PAGE as i64, LEN as i64],
        ..UNASKED
    },
    Row {
        question: "13b: fully touched; committed page by page; first byte only",
        settings: superpages,
        ask: |process| {
            let whole = told(process, touched(process));
            let start = process.mmap(0, LEN, 0, 0x1002 | 16 << 24).unwrap();
            for page in 0..NPAGES {
                process.mprotect(start + page * PAGE, PAGE, RW);
                process.write(start + page * PAGE, 7);
            }
            let pages = told(process, start);
            let start = process.mmap(0, LEN, RW, 0x1002 | 16 << 24).unwrap();
            process.write(start, 7);
            let bytes = process.mincore(start, NPAGES);
            let resident = bytes.iter().filter(|&&byte| byte != 0).count() as i64;
            [whole.to_vec(), pages.to_vec(), vec![resident]].concat()
        },
        freebsd: &[0x3f, 0x3f, 0x3f, 0x3f, 1],
        ..UNASKED
    },
    Row {
        question: "13b: fully touched, superpages off",
        settings: no_superpages,
        ask: |process| told(process, touched(process)).to_vec(),
        freebsd: &[0x1f, 0x1f],
        ..UNASKED
    },
    Row {
        question: "13c: one page read-only; RW again and touched",
        settings: superpages,
        ask: |process| {
            let start = touched(process);
            process.mprotect(odd(start), PAGE, READ);
            let broken = told(process, start);
            process.mprotect(odd(start), PAGE, RW);
            process.write(odd(start), 9);
            [broken, told(process, start)].concat()
        },
        freebsd: &[0x1f, 0xb, 0x3f, 0x3f],
        ..UNASKED
    },
    Row {
        question: "13c: MADV_FREE of one page, contents; written to",
        settings: superpages,
        ask: |process| {
            let start = touched(process);
            process.madvise(odd(start), PAGE, process.free_advice());
            let broken = [told(process, start).to_vec(), vec![process.read(odd(start))]].concat();
            process.write(odd(start), 9);
            [broken, told(process, start).to_vec()].concat()
        },
        freebsd: &[0x1f, 0, 7, 0x3f, 0x3f],
        ..UNASKED
    },
    Row {
        question: "13c: MADV_FREE of one page, superpages off",
        settings: no_superpages,
        ask: |process| {
            let start = touched(process);
            process.madvise(odd(start), PAGE, process.free_advice());
            told(process, start).to_vec()
        },
        freebsd: &[0x1f, 1],
        ..UNASKED
    },
    Row {
        question: "13c: munmap of one page: the rest",
        settings: superpages,
        ask: |process| {
            let start = touched(process);
            process.munmap(odd(start), PAGE);
            [process.mincore(start, ODD), process.mincore(odd(start) + PAGE, 1)].concat()
        },
        freebsd: &[0x1f; ODD + 1],
        ..UNASKED
    },
    Row {
        question: "13c: MADV_FREE, MADV_DONTNEED of the whole: mincore, contents, the resident set",
        settings: superpages,
        ask: |process| {
            let mut answers = Vec::new();
            for advice in [process.free_advice(), DONTNEED] {
                let start = touched(process);
                let resident = process.resident();
                process.madvise(start, LEN, advice);
                answers.extend(told(process, start));
                answers.extend([process.read(start), process.resident() - resident]);
            }
            answers
        },
        freebsd: &[1, 1, 7, 0, 1, 1, 7, 0],
        ..UNASKED
    },
    Row {
        question: "13c: the process while a child lives; after it has written to all pages again",
        settings: superpages,
        ask: |process| {
            let start = touched(process);
            let told_now = std::cell::RefCell::new(Vec::new());
            let look = || {
                told_now.borrow_mut().extend(told(process, start));
                (0..NPAGES).for_each(|page| process.write(start + page * PAGE, 9));
                told_now.borrow_mut().extend(told(process, start));
            };
            process.fork(&look, &[start]);
            told_now.into_inner()
        },
        freebsd: &[0x2b, 0x2b, 0x3f, 0x3f],
        ..UNASKED
    },
];
