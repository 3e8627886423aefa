//! Threads that work on distinct ranges of one reservation.

use std::sync::Barrier;
use std::thread;

use sysmem::os::linux::Linux;
use sysmem::sim::{LazilyFreed, Settings, Simulated};
use sysmem::{
    Account, GiveBack, Native, Os, PageRange, Protection, Reservation, ReserveOptions, State,
};

const THREADS: usize = 4;
/// Pages of a thread that lie side by side: fewer than share a word of a state map.
const PAGES: usize = 3;
const BLOCKS: usize = 100;

/// The first page of a thread's block.
fn page_of(thread: usize, block: usize) -> usize {
    (block * THREADS + thread) * PAGES
}

fn work<O: Os>(memory: &Reservation<O>, thread: usize, page_size: usize) {
    let len = PAGES * page_size;
    let word = |page: usize| memory.as_mut_ptr().wrapping_add(page * page_size).cast::<u64>();
    for round in 0..6 {
        for block in 0..BLOCKS {
            let first = page_of(thread, block);
            let at = first * page_size;
            // SAFETY: the block is this thread's alone.
            unsafe {
                if round == 0 {
                    memory.map_shared(at, len, Protection::ReadWrite).unwrap();
                }
                memory.used_shared(at, len).unwrap();
                for page in first..first + PAGES {
                    let found = word(page).read();
                    // Eager giving back came before the even rounds, lazy before the odd.
                    assert!(found == 0 || round % 2 == 1 && found >> 32 == page as u64);
                    word(page).write((page as u64) << 32 | (round + 1) as u64);
                }
            }
        }
        let how = if round % 2 == 0 { GiveBack::Lazy } else { GiveBack::Eager };
        let mut ranges = Vec::new();
        for block in 0..BLOCKS {
            let first = page_of(thread, block);
            for page in first..first + PAGES {
                // SAFETY: Ready, and this thread's alone.
                assert_eq!(unsafe { word(page).read() }, (page as u64) << 32 | (round + 1) as u64);
            }
            if block % 2 == 0 {
                ranges.push(PageRange::new(word(first).cast(), len));
            } else {
                // SAFETY: the block is this thread's alone.
                unsafe { memory.unused_shared(first * page_size, len, how) }.unwrap();
            }
        }
        // SAFETY: the blocks are this thread's alone.
        unsafe { memory.unused_batch_shared(&ranges, how) }.unwrap();
        for block in 0..BLOCKS {
            let first = page_of(thread, block);
            let expected = (State::Prepared, Protection::ReadWrite);
            for page in first..first + PAGES {
                let (state, protection, _) = memory.state(page * page_size).unwrap();
                assert_eq!((state, protection), expected);
            }
        }
    }
}

fn run<O: Os + Send + Clone>(os: O, account: &'static Account) {
    let page_size = os.page_size();
    let len = THREADS * PAGES * BLOCKS * page_size;
    let memory = Reservation::reserve_in(os, ReserveOptions::new(len), account).unwrap();
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (memory, start) = (&memory, &start);
            scope.spawn(move || {
                start.wait();
                work(memory, thread, page_size);
            });
        }
    });
    let figures = account.figures();
    assert_eq!((figures.reserved, figures.ready), (0, 0));
    assert_eq!(figures.prepared, len as u64);
    assert!(figures.peak_ready <= len as u64 && figures.peak_ready > 0);
    drop(memory);
    assert_eq!(account.figures().prepared, 0);
    assert_eq!(account.figures().obtained, len as u64);
}

#[test]
fn threads_do_not_disturb_each_other_on_a_simulated_kernel() {
    static HEAP: Account = Account::new("threads, heap");
    static REAL: Account = Account::new("threads, real");
    // A page that loses its contents at a later call does so in a call of any thread; that needs
    // the kernel's view of who wrote, so these kernels decide at once.
    let lazily_freed = LazilyFreed::Dropped;
    run(Linux::new(Simulated::new(Settings { lazily_freed, ..Settings::heap(16 << 20) })), &HEAP);
    let lazily_freed = LazilyFreed::Kept;
    run(Linux::new(Simulated::new(Settings { lazily_freed, ..Settings::real(1 << 30) })), &REAL);
}

#[test]
fn threads_do_not_disturb_each_other_on_the_running_system() {
    static NATIVE: Account = Account::new("threads, native");
    run(Native::NEW, &NATIVE);
}
