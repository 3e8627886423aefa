//! Instructions of the raw layer against those of the bare calls, counted by callgrind.

use std::hint::black_box;
use std::ptr;

use sysmem::{GiveBack, Native, Os, PageRange, Policy, Protection, ReserveOptions};

use super::Outcome;
use crate::callgrind;
use crate::measure::verdict;
use crate::table;

/// How many instructions more than the bare calls an operation may take.
const MOST: i64 = 40;
const LEN: usize = 1 << 20;
/// Averaged over as many, what is done only once in a process does not show.
const ROUNDS: u64 = 1000;

/// An operation on a range; `reserve` says in it where. Whether it succeeded.
type Step = fn(&mut PageRange) -> bool;

struct Pair {
    name: &'static str,
    /// What has to be done before, and after.
    before: &'static [Step],
    after: &'static [Step],
    native: Step,
    bare: Step,
}

const PAIRS: [Pair; 6] = [
    Pair { name: "reserve", before: &[], after: &[free], native: reserve, bare: bare_reserve },
    Pair { name: "map", before: &[reserve], after: &[free], native: map, bare: bare_map },
    Pair { name: "used", before: &[reserve, map], after: &[free], native: used, bare: bare_used },
    Pair {
        name: "unused, eager",
        before: &[reserve, map, used, write],
        after: &[free],
        native: unused_eager,
        bare: bare_unused_eager,
    },
    Pair {
        name: "unused, lazy",
        before: &[reserve, map, used, write],
        after: &[free],
        native: unused_lazy,
        bare: bare_unused_lazy,
    },
    Pair { name: "free", before: &[reserve], after: &[], native: free, bare: bare_free },
];

/// Counts each operation in a process of its own under valgrind.
pub fn run(check: bool) -> Outcome<()> {
    println!(
        "Instructions of one operation, the C library's included, means of {ROUNDS} (callgrind).\n"
    );
    let mut rows = Vec::new();
    let mut worse = Vec::new();
    for pair in &PAIRS {
        let native = counted(&format!("native {}", pair.name))?;
        let bare = counted(&format!("bare {}", pair.name))?;
        let more = native as i64 - bare as i64;
        if more > MOST {
            worse.push(format!("{}: {more} instructions more than the bare calls", pair.name));
        }
        let figures = [bare.to_string(), native.to_string(), more.to_string()];
        rows.push([pair.name.to_string()].into_iter().chain(figures).collect());
    }
    table::print(&["operation", "bare calls", "Native", "more"], &rows);
    println!();
    let good = format!("No operation takes more than {MOST} more than the bare calls.");
    verdict(check, &worse, &good)
}

/// Instructions of one operation. What [`collected`] itself takes is in every figure.
fn counted(name: &str) -> Outcome<u64> {
    match callgrind::count("*instructions*collected*", &["os", "--one", name])? / ROUNDS {
        0 => Err(format!("callgrind collected nothing of {name:?}").into()),
        instructions => Ok(instructions),
    }
}

/// Carries out one operation many times: what runs under valgrind.
pub fn one(name: &str) -> Outcome<()> {
    let operation = PAIRS.iter().find_map(|pair| match name.split_once(' ') {
        Some(("native", rest)) if rest == pair.name => Some((pair, pair.native)),
        Some(("bare", rest)) if rest == pair.name => Some((pair, pair.bare)),
        _ => None,
    });
    let (pair, step) = operation.ok_or("no such operation")?;
    for _ in 0..ROUNDS {
        let mut range = PageRange::new(ptr::null_mut(), LEN);
        let done = pair.before.iter().all(|step| step(&mut range))
            && collected(step, &mut range)
            && pair.after.iter().all(|step| step(&mut range));
        if !done {
            return Err(format!("{name}: refused").into());
        }
    }
    Ok(())
}

/// What callgrind collects.
#[inline(never)]
fn collected(step: Step, range: &mut PageRange) -> bool {
    // Looked at, so that the call is not the last thing done here, which a jump could do.
    black_box(step(range))
}

fn reserve(range: &mut PageRange) -> bool {
    match Native::NEW.reserve(&ReserveOptions::new(range.len)) {
        Ok(start) => range.start = start.as_ptr(),
        Err(_) => return false,
    }
    true
}

fn map(range: &mut PageRange) -> bool {
    // SAFETY: reserved by the step before, and known to nobody else; so below.
    unsafe { Native::NEW.map(*range, Protection::ReadWrite, Policy::DEFAULT) }.is_ok()
}

fn used(range: &mut PageRange) -> bool {
    // SAFETY: Prepared by `map`.
    unsafe { Native::NEW.used(*range, Protection::ReadWrite) }.is_ok()
}

fn write(range: &mut PageRange) -> bool {
    // SAFETY: Ready since `used`.
    unsafe { range.start.write_volatile(1) };
    true
}

fn unused(range: PageRange, how: GiveBack) -> bool {
    // SAFETY: Ready since `used`; nobody needs the contents.
    unsafe { Native::NEW.unused(range, Protection::ReadWrite, how, Policy::DEFAULT) }.is_ok()
}

fn unused_eager(range: &mut PageRange) -> bool {
    unused(*range, GiveBack::Eager)
}

fn unused_lazy(range: &mut PageRange) -> bool {
    unused(*range, GiveBack::Lazy)
}

fn free(range: &mut PageRange) -> bool {
    // SAFETY: the whole reservation, not used again.
    unsafe { Native::NEW.free(*range) }.is_ok()
}

fn bare_reserve(range: &mut PageRange) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: without MAP_FIXED nothing is replaced.
    let start = unsafe { libc::mmap(ptr::null_mut(), range.len, libc::PROT_NONE, flags, -1, 0) };
    range.start = start.cast();
    start != libc::MAP_FAILED
}

fn bare_map(range: &mut PageRange) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: as in `map`.
    unsafe { libc::mprotect(range.start.cast(), range.len, protection) == 0 }
}

/// Nothing has to be called here.
fn bare_used(_range: &mut PageRange) -> bool {
    true
}

fn bare_unused_eager(range: &mut PageRange) -> bool {
    // SAFETY: as in `unused`.
    unsafe { libc::madvise(range.start.cast(), range.len, libc::MADV_DONTNEED) == 0 }
}

fn bare_unused_lazy(range: &mut PageRange) -> bool {
    // SAFETY: as in `unused`.
    unsafe { libc::madvise(range.start.cast(), range.len, libc::MADV_FREE) == 0 }
}

fn bare_free(range: &mut PageRange) -> bool {
    // SAFETY: as in `free`.
    unsafe { libc::munmap(range.start.cast(), range.len) == 0 }
}
