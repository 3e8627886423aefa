//! The conformance suite of [`sysmem`]: performs every operation of an [`Os`], looks at what the
//! kernel really did, and says whether the promises were kept.
//!
//! It runs on any `Os`: the running kernel, a simulated one, one that somebody is porting. What
//! only the system around the memory can tell (how large the process is, what an access meets) it
//! asks of a [`Platform`]. It needs no heap, no threads, no files and no terminal: a program of
//! its own, `sysmem-probe`, runs it as the first process of a bare machine.
//!
//! ```
//! let mut text = String::new();
//! let summary = sysmem_probe::run_native(&mut text, sysmem_probe::Options::default());
//! assert_eq!(summary.failed, 0, "{text}");
//! assert!(text.ends_with("not supported\n"));
//! ```
//!
//! # What it prints
//!
//! First the facts: the system, page sizes, limits, overcommit, what may be writable and
//! executable, what giving memory back promises. Then a line for each check, named for what it
//! shows, with what was seen in parentheses:
//!
//! ```text
//! pass           reserve: reading faults (SIGSEGV code 2 at the address)
//! pass           unused eagerly: contents are as promised (16 of 16 pages were zero)
//! not supported  name: contents stay (name of 64.0 KiB at 0x7f0c5a1d6000: this system does not have it)
//! fail           fault: contents are gone when mapped again (the word at 0x7f0c5a1d6000 is 0x1)
//! ```
//!
//! The last line is `N passed, N failed, N not supported`. With [`Options::json`] every line is a
//! JSON object: `{"fact": …, "value": …}`, `{"check": …, "result": "pass" | "fail" |
//! "not supported", "detail": …}` and at the end `{"passed": N, "failed": N, "not_supported": N}`.
//!
//! A check *fails* when a promise of [`Os`], [`UnusedContract`](sysmem::UnusedContract) or
//! [`Reservation`](sysmem::Reservation) was broken. It is *not supported* where the system says so
//! ([`ErrorKind::NotSupported`](sysmem::ErrorKind)), or where the platform cannot look.
//!
//! # How it looks
//!
//! - An access that may fault is made in a forked child, whose signal handler reports signal, code
//!   and address. Memory that should be accessible is tried there first as well: a broken promise
//!   is a failed check and not a crash. Windows has no fork: there the process itself makes the
//!   access, and an exception handler leads it past what faults.
//! - What a forked child gets is looked at by one, and the mapping in the system's listing says
//!   whether it is dumped, where that is told (Linux).
//! - The resident set and the size of the process are read by the platform's own means, not by
//!   those of the layer that is being checked.
//! - One run at a time in a process: it measures the process.
//!
//! # The program
//!
//! `sysmem-probe [--json]` exits with 0 when every promise was kept, 1 when one was broken, 2 when
//! it was called wrongly. It opens /dev/console where descriptor 1 is closed. As process 1 it
//! ignores arguments that it does not know (the kernel passes it its own) and at the end switches
//! the machine off, or waits where it may not. Link it statically for a machine that has nothing
//! else: `RUSTFLAGS=-Ctarget-feature=+crt-static cargo build --release -p sysmem-probe --target
//! x86_64-unknown-linux-gnu`.

#![no_std]

mod checks;
mod platform;
mod region;
mod report;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use core::fmt;

use sysmem::huge::HugePageControl;
use sysmem::{Guards, MemoryObjects, Os, Sealing};

pub use platform::{Access, Platform, Seen, Signal};
pub use report::Summary;
#[cfg(unix)]
pub use unix::{Running, switch_off};
#[cfg(windows)]
pub use windows::Running;

/// Runs a function on two threads at once, this one and another, and returns when both are done.
pub type Beside = fn(&(dyn Fn() + Sync));

/// How to run the suite.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print a JSON object a line.
    pub json: bool,
    /// How to have a second thread; without it, what needs one is not supported.
    pub beside: Option<Beside>,
}

/// A system with the traits of what only some systems have: guards, memory objects, seals, huge
/// pages. Every backend has them, and says where its system has not.
pub trait Capable: Os + Guards + MemoryObjects + Sealing + HugePageControl {}
impl<O: Os + Guards + MemoryObjects + Sealing + HugePageControl> Capable for O {}

/// Checks every operation of `os`, and prints facts, results and the closing line to `out`.
///
/// What `out` refuses to take is lost; the answer is not.
pub fn run<O: Capable, P: Platform>(
    os: &O,
    platform: &P,
    out: &mut dyn fmt::Write,
    options: Options,
) -> Summary {
    let suite = checks::Suite::new(os, platform, out, options);
    suite.run();
    suite.finish()
}

/// [`run`] on the running system.
#[cfg(any(unix, windows))]
pub fn run_native(out: &mut dyn fmt::Write, options: Options) -> Summary {
    run(&sysmem::Native::NEW, &Running::NEW, out, options)
}
