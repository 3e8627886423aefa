//! Questions about the signal for an access that memory does not allow, answered by its number, its
//! code and, where it does not tell the address of the access, what it tells instead.

use sysmem::Protection;
use sysmem::sim::Told;

use super::process::{ANON, FIXED, GUARD, NONE, PAGE, Process, READ, RW};
use super::{Row, UNASKED, plain};

const READING: Protection = Protection::ReadOnly;
const WRITING: Protection = Protection::ReadWrite;
const EXECUTING: Protection = Protection::ReadExecute;
/// The address that is told is that of the instruction, or another.
const INSTRUCTION: i64 = -1;
const OTHER: i64 = -2;

fn asked(process: &dyn Process, accesses: &[(usize, Protection)]) -> Vec<i64> {
    let answer = |&(address, needed): &(usize, Protection)| match process.signal(address, needed) {
        None => vec![0],
        Some(signal) => {
            let mut told = vec![signal.number.into(), signal.code.into()];
            match signal.told {
                Told::Access => {}
                Told::Instruction => told.push(INSTRUCTION),
                Told::Other => told.push(OTHER),
            }
            told
        }
    };
    accesses.iter().flat_map(answer).collect()
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        question: "15a: NONE read; read-only read, written, executed; RW executed",
        settings: plain,
        ask: |process| {
            let [none, read, rw] = [NONE, READ, RW].map(|bits| process.map(1, bits));
            let on_read = [READING, WRITING, EXECUTING].map(|needed| (read, needed));
            asked(process, &[&[(none, READING)], &on_read[..], &[(rw, EXECUTING)]].concat())
        },
        freebsd: &[11, 2, 0, 11, 2, 11, 2, 11, 2],
        openbsd: &[11, 2, 0, 11, 2, 11, 2, 11, 2],
        netbsd: &[11, 2, 0, 11, 2, 11, 2, 11, 2],
        dragonfly: &[11, 2, 0, 11, 2, 11, 2, 11, 2],
        darwin: &[10, 1, 0, 10, 1, 10, 1, 10, 1],
        illumos: &[11, 2, 0, 11, 2, 11, 2, 11, 2],
    },
    Row {
        question: "15b: what is unmapped read, written, executed; null; a kernel address",
        settings: plain,
        ask: |process| {
            let hole = process.map(1, RW);
            process.munmap(hole, PAGE);
            let on_hole = [READING, WRITING, EXECUTING].map(|needed| (hole, needed));
            let kernel = (0xffff_8000 << 32, READING);
            asked(process, &[&on_hole[..], &[(0, READING), kernel]].concat())
        },
        freebsd: &[11, 1, 11, 1, 11, 1, 11, 1, 11, 1],
        openbsd: &[11, 1, 11, 1, 11, 1, 11, 1, 11, 1],
        netbsd: &[11, 1, 11, 1, 11, 1, 11, 1, 11, 1],
        dragonfly: &[11, 1, 11, 1, 11, 1, 11, 1, 11, 1],
        darwin: &[11, 2, 11, 2, 11, 2, 11, 2, 11, 2],
        illumos: &[11, 1, 11, 1, 11, 1, 11, 1, 11, 1],
    },
    Row {
        question: "15c: a guard read, over what was RW; 7a: a hole in a mapping",
        settings: plain,
        ask: |process| {
            let start = process.touched(3);
            process.try_map(start, PAGE, NONE, GUARD | FIXED);
            process.munmap(start + PAGE, PAGE);
            asked(process, &[0, 1, 2].map(|page| (start + page * PAGE, READING)))
        },
        freebsd: &[11, 2, 11, 1, 0],
        ..UNASKED
    },
    Row {
        question: "5b: what FIXED NONE was mapped over, and after RW",
        settings: plain,
        ask: |process| {
            let start = process.touched(1);
            process.try_map(start, PAGE, NONE, ANON | FIXED);
            let mut told = asked(process, &[(start, READING)]);
            process.mprotect(start, PAGE, RW);
            told.extend(asked(process, &[(start, WRITING)]));
            told
        },
        freebsd: &[11, 2, 0],
        openbsd: &[11, 2, 0],
        netbsd: &[11, 2, 0],
        ..UNASKED
    },
    Row {
        question: "15d: an address between those of programs and those of the kernel",
        settings: plain,
        ask: |process| asked(process, &[(1 << 62, READING)]),
        freebsd: &[10, 3, INSTRUCTION],
        openbsd: &[11, 1, INSTRUCTION],
        netbsd: &[11, 2, OTHER],
        dragonfly: &[10, 3, OTHER],
        illumos: &[11, 1, INSTRUCTION],
        ..UNASKED
    },
];
