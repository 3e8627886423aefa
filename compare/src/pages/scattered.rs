//! Runs that lie scattered between others, given back: by the page heap, which hands many of them
//! to the system at once, and by one `madvise` each. All in this process, in turn, on memory that was
//! written just before.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use sysmem::{Account, GiveBack, Native, Os, PageRange, Reservation, ReserveOptions};
use sysmem_pages::{Accounts, PAGE, PageHeap, ReleaseOnFree};

use super::Outcome;
use crate::measure::median;
use crate::os::calls;
use crate::table;

/// The runs that are given back, as the table says; between two of them lies one that stays.
const RUNS: usize = 4096;

/// The runs of one call where no heap decides, as many as the heap takes.
const AT_ONCE: usize = 64;

/// The most time for a run in a batch, as a part of what one `madvise` takes.
const BATCH_TIMES: f64 = 0.5;

static ACCOUNT: Account = Account::new("scattered, one by one");
static HEAP: Accounts = Accounts::new("scattered", "scattered: records");

/// Memory of which every second run is given back.
enum Runs {
    /// By the page heap; with those that are to go and were not freed yet.
    Heap { heap: Box<PageHeap<Native>>, taken: Vec<NonNull<u8>> },
    /// By one `madvise` each, without records.
    OneByOne(Reservation),
    /// Many with one call, without records: what the system allows at best.
    Bare(Reservation),
    /// Many with one call, without a heap.
    Batch(Reservation),
}

/// As many ranges as one call takes (`UIO_MAXIOV`).
const MOST_AT_ONCE: usize = 1024;

/// Gives ranges of this process back with one call. Linux from 6.13 on.
fn process_madvise(ranges: &[libc::iovec]) -> std::io::Result<()> {
    /// From linux/pidfd.h.
    const PIDFD_SELF: libc::c_int = -10000;
    let len: usize = ranges.iter().map(|range| range.iov_len).sum();
    // SAFETY: the caller's own memory, whose contents nobody needs.
    let done = unsafe {
        let (call, advice) = (libc::SYS_process_madvise, libc::MADV_DONTNEED);
        libc::syscall(call, PIDFD_SELF, ranges.as_ptr(), ranges.len(), advice, 0)
    };
    if done == len as libc::c_long { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

impl Runs {
    fn heap() -> Outcome<Runs> {
        let options = sysmem_pages::Options::new().release_on_free(ReleaseOnFree::Never);
        let heap = Box::new(PageHeap::new(Native::NEW, &HEAP, options));
        let mut taken = Vec::with_capacity(RUNS);
        for number in 0..2 * RUNS {
            let run = heap.allocate(1, PAGE)?;
            if number % 2 == 1 {
                taken.push(run.start);
            }
        }
        let mut runs = Runs::Heap { heap, taken };
        runs.free()?;
        Ok(runs)
    }

    fn reservation() -> Outcome<Reservation> {
        let len = 2 * RUNS * PAGE;
        let mut reservation = Reservation::reserve(ReserveOptions::new(len), &ACCOUNT)?;
        reservation.map(0, len, sysmem::Protection::ReadWrite)?;
        reservation.used(0, len)?;
        Ok(reservation)
    }

    fn range(reservation: &Reservation, number: usize) -> PageRange {
        let start = reservation.as_mut_ptr().wrapping_add((2 * number + 1) * PAGE);
        PageRange::new(start, PAGE)
    }

    /// Takes every run that is to go into use, and writes to it if it is to be in memory.
    fn take(&mut self, write: bool) -> Outcome<()> {
        match self {
            Runs::Heap { heap, taken } => {
                for _ in 0..RUNS {
                    taken.push(heap.allocate(1, PAGE)?.start);
                }
                for start in taken.iter().filter(|_| write) {
                    // SAFETY: the run is Ready and ours.
                    unsafe { start.write_bytes(1, PAGE) };
                }
            }
            Runs::OneByOne(reservation) | Runs::Bare(reservation) | Runs::Batch(reservation) => {
                for number in 0..RUNS {
                    let range = Runs::range(reservation, number);
                    reservation.used(range.start.addr() - reservation.as_mut_ptr().addr(), PAGE)?;
                    if write {
                        // SAFETY: inside the reservation, and Ready.
                        unsafe { range.start.write_bytes(1, PAGE) };
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes them free, which is not measured.
    fn free(&mut self) -> Outcome<()> {
        if let Runs::Heap { heap, taken } = self {
            for start in taken.drain(..) {
                // SAFETY: a run of one page, out of the list.
                unsafe { heap.free(start, 1) }.map_err(|misuse| format!("{misuse:?}"))?;
            }
        }
        Ok(())
    }

    fn give_back(&mut self) -> Outcome<()> {
        match self {
            Runs::Heap { heap, .. } => {
                let released = heap.release_all();
                if released != RUNS * PAGE {
                    return Err(format!("{released} bytes were given back").into());
                }
            }
            Runs::OneByOne(reservation) => {
                for number in 0..RUNS {
                    let range = Runs::range(reservation, number);
                    // SAFETY: our own memory, whose contents nobody needs.
                    let answer = unsafe {
                        libc::madvise(range.start.cast(), range.len, libc::MADV_DONTNEED)
                    };
                    if answer != 0 {
                        return Err(std::io::Error::last_os_error().into());
                    }
                }
            }
            Runs::Bare(reservation) => {
                let mut ranges =
                    [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: PAGE }; MOST_AT_ONCE];
                for first in (0..RUNS).step_by(MOST_AT_ONCE) {
                    for (index, range) in ranges.iter_mut().enumerate() {
                        range.iov_base = Runs::range(reservation, first + index).start.cast();
                    }
                    process_madvise(&ranges)?;
                }
            }
            Runs::Batch(reservation) => {
                let mut ranges = [PageRange::new(std::ptr::null_mut(), 0); AT_ONCE];
                for first in (0..RUNS).step_by(AT_ONCE) {
                    for (index, range) in ranges.iter_mut().enumerate() {
                        *range = Runs::range(reservation, first + index);
                    }
                    // SAFETY: Ready, ours, and nobody needs the contents.
                    unsafe { reservation.unused_batch_shared(&ranges, GiveBack::Eager) }
                        .map_err(|stopped| stopped.error)?;
                }
            }
        }
        Ok(())
    }
}

/// What a contestant has, and the nanoseconds that a run took in each round.
struct Contestant {
    name: &'static str,
    make: fn() -> Outcome<Runs>,
    times: Vec<f64>,
}

/// Prints the table; what is above its bound.
pub fn run(rounds: usize) -> Outcome<Vec<String>> {
    let contestants = || {
        let entry = |name, make| Contestant { name, make, times: Vec::new() };
        let mut contestants = vec![
            entry("one madvise each", || Ok(Runs::OneByOne(Runs::reservation()?))),
            entry("bare call, 1024 at once", || Ok(Runs::Bare(Runs::reservation()?))),
            entry("Reservation, 64 at once", || Ok(Runs::Batch(Runs::reservation()?))),
            entry("page heap", Runs::heap),
        ];
        contestants.retain(|it| !it.name.starts_with("bare") || process_madvise(&[]).is_ok());
        contestants
    };
    let mut worse = Vec::new();
    let mut counts = Vec::new();
    for Contestant { make, .. } in contestants() {
        counts.push(calls::count(|mark| {
            let mut runs = make()?;
            for round in 0..2 {
                runs.take(true)?;
                runs.free()?;
                if round == 1 {
                    mark();
                }
                runs.give_back()?;
            }
            mark();
            Ok(true)
        })?);
    }
    for (title, write, beside) in [
        // A thread on another processor may have what goes in its translations.
        ("4096 scattered runs of 8 KiB given back", true, false),
        ("the same beside a thread that runs", true, true),
        ("nothing of them was written", false, false),
    ] {
        let mut contestants = contestants();
        let stop = &AtomicBool::new(false);
        thread::scope(|scope| -> Outcome<()> {
            if beside {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let measured = measure(&mut contestants, write, rounds);
            stop.store(true, Relaxed);
            measured
        })?;
        let mut rows = Vec::new();
        for (contestant, count) in contestants.iter().zip(&counts) {
            let pairs: Vec<(f64, f64)> = contestant
                .times
                .iter()
                .copied()
                .zip(contestants[0].times.iter().copied())
                .collect();
            let times = median(&pairs, |(this, single)| this / single);
            let bounded = write && contestant.name == "page heap";
            if bounded && times > BATCH_TIMES {
                worse.push(format!("{title}: {times:.2} of one madvise each"));
            }
            let mut row = vec![
                contestant.name.into(),
                format!("{:.0} ns", median(&contestant.times, |time| *time)),
                format!("{times:.2}"),
                if bounded { BATCH_TIMES.to_string() } else { String::new() },
            ];
            row.extend(count.iter().flat_map(|count| {
                let [_, _, which] = count.cells(1);
                [count.calls().to_string(), which]
            }));
            rows.push(row);
        }
        let head = [title, "time for a run", "of one each", "at most", "system calls", "which"];
        table::print(&head, &rows);
        println!();
    }
    Ok(worse)
}

fn measure(contestants: &mut [Contestant], write: bool, rounds: usize) -> Outcome<()> {
    let mut all = Vec::new();
    for contestant in &*contestants {
        all.push((contestant.make)()?);
    }
    // One round to warm caches.
    for round in 0..=rounds {
        for (contestant, runs) in contestants.iter_mut().zip(&mut all) {
            runs.take(write)?;
            runs.free()?;
            let begin = Native::NEW.thread_cpu_time();
            runs.give_back()?;
            let time = Native::NEW.thread_cpu_time() - begin;
            if round > 0 {
                contestant.times.push(time.as_nanos() as f64 / RUNS as f64);
            }
        }
    }
    Ok(())
}
