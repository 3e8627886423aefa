//! Uses the layers with no std and no allocator: a vector, a page heap and a cache of it, guards, code,
//! reports.
#![no_std]
#![no_main]

use core::ffi::{c_char, c_int};
use core::fmt::Write;

use sysmem::{Account, Error, Native, Protection, Reservation, ReserveOptions};
use sysmem_pages::{Accounts, Options, PAGE, PageHeap};
use sysmem_runtime::{
    AlternateStack, CodeOptions, CodeRegion, FaultHandler, FaultReport, Guard, VmVec,
    write_to_stderr,
};

// The C library is linked for its system calls.
#[link(name = "c")]
unsafe extern "C" {}

static STACK: Account = Account::new("stack");
static RECORDS: Accounts = Accounts::new("records", "records: metadata");
static HEAP: PageHeap<Native> = PageHeap::new(Native::NEW, &RECORDS, Options::new());

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say(format_args!("{info}\n"));
    // SAFETY: ends the process.
    unsafe { libc::_exit(101) }
}

/// Named by the precompiled core library; never called where panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

fn say(text: core::fmt::Arguments<'_>) {
    struct Stdout;
    impl Write for Stdout {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            // SAFETY: the text is as long as said.
            unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
            Ok(())
        }
    }
    let _ = Stdout.write_fmt(text);
}

#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    match work() {
        Ok(()) => 0,
        Err(error) => {
            say(format_args!("{error}\n"));
            1
        }
    }
}

fn work() -> Result<(), Error> {
    let _alternate = AlternateStack::for_this_thread()?;
    let _handler = FaultHandler::install(write_to_stderr).ok();

    let mut squares = VmVec::with_capacity(1 << 30)?;
    squares.extend((0..100_000u64).map(|number| number * number))?;
    assert_eq!(squares[99_999], 99_999 * 99_999);

    let run = HEAP.allocate(16, PAGE)?;
    // SAFETY: the run is 16 pages of Ready memory, ours alone, and freed once.
    unsafe {
        run.start.write_bytes(7, 16 * HEAP.page_size());
        assert!(HEAP.free(run.start, run.npages).is_ok());
    }

    let mut cache = HEAP.cache()?;
    for npages in (1..=16).cycle().take(1000) {
        let run = cache.allocate(npages, PAGE)?;
        // SAFETY: the run is Ready memory, ours alone, and freed once.
        unsafe {
            run.start.write(7);
            assert!(cache.free(run.start, run.npages).is_ok());
        }
    }
    assert!(HEAP.statistics().cached > 0 && HEAP.statistics().in_use == 0);
    drop(cache);
    assert_eq!(HEAP.statistics().cached, 0);

    let page = sysmem::page_size();
    let mut stack = Reservation::reserve(ReserveOptions::new(16 * page), &STACK)?;
    stack.map(0, 16 * page, Protection::ReadWrite)?;
    stack.used(0, 16 * page)?;
    let guard = Guard::install(&mut stack, 0, page)?;
    let hit = FaultReport::of(stack.as_mut_ptr().addr() + 8, &Native::NEW);
    assert!(hit.is_some_and(|report| report.guard));
    guard.remove(&mut stack).map_err(|(_, error)| error)?;

    match CodeRegion::reserve(CodeOptions::new(1 << 20)) {
        Ok(region) => say(format_args!("code by {}\n", region.mechanism())),
        Err(error) => say(format_args!("no code: {error}\n")),
    }
    say(format_args!("{} squares, all well\n", squares.len()));
    Ok(())
}
