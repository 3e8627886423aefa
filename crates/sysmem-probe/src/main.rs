//! Runs the conformance suite of sysmem on the running system, also where there is nothing else:
//! as the first process of a machine, without open descriptors, threads, files or a heap.

// The start-up code of std wants descriptors 0 to 2 and a /dev/null. Nothing of std is used: it is
// linked for the panic handler, which stable Rust has no other way to give to a program that
// `cargo test` and clippy are to accept.
#![no_main]

mod console;

use core::ffi::{CStr, c_char, c_int};
use core::fmt::Write;

use console::Console;
use sysmem_probe::Options;

const USAGE: &str = "usage: sysmem-probe [--json]\n\
    Performs every operation of sysmem on this system and says which promises the kernel kept.\n\
    Exit status: 0 if all were kept, 1 if one was broken, 2 if called wrongly.\n";

/// Whether the kernel started this program and nothing else, and must not see it end.
fn is_first_process() -> bool {
    #[cfg(unix)]
    // SAFETY: getpid(2) cannot fail.
    return unsafe { libc::getpid() } == 1;
    #[cfg(not(unix))]
    false
}

/// Where the C library starts the program.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    let first_process = is_first_process();
    let mut console = Console::open();
    let mut options = Options::default();
    for index in 1..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the C library hands over `count` strings that end in zero.
        let argument = unsafe { CStr::from_ptr(*arguments.add(index)) };
        match argument.to_bytes() {
            b"--json" => options.json = true,
            b"--help" | b"-h" => {
                let _ = console.write_str(USAGE);
                return 0;
            }
            // A kernel hands its first process words of its own command line.
            _ if first_process => {}
            _ => {
                let _ = console.write_str(USAGE);
                return 2;
            }
        }
    }
    let summary = sysmem_probe::run_native(&mut console, options);
    drop(console);
    #[cfg(unix)]
    if first_process {
        sysmem_probe::switch_off();
    }
    c_int::from(summary.failed != 0)
}
