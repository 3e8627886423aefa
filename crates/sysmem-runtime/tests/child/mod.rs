//! Runs a part of a test in a process of its own, which may die.
#![allow(dead_code)] // Not every test looks at everything.

use std::path::Path;
use std::process::{Command, ExitStatus};

/// How a child ended, and what it had to say.
pub struct Ended {
    /// By which signal, if by one. On Windows, a process that an access violation ended is told as
    /// by SIGSEGV.
    pub signal: Option<i32>,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// SIGSEGV, on every system.
pub const SIGSEGV: i32 = 11;

/// SIGABRT, on every system.
pub const SIGABRT: i32 = 6;

/// Runs `work` in a new process, which then exits with status 0, and returns how it ended.
///
/// `test` is the full name of the calling test: the child is this program again, told to run that
/// test alone, and comes here to do the work. `which` tells apart the children of one test: in one
/// of them, `None` is the answer to what another is to do.
pub fn run(test: &str, which: &str, work: impl FnOnce()) -> Option<Ended> {
    if let Some(wanted) = std::env::var_os("SYSMEM_TEST_CHILD") {
        if wanted == which {
            work();
            leave();
        }
        return None;
    }
    let output = command(&std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("SYSMEM_TEST_CHILD", which)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    Some(Ended {
        signal: signal(output.status),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Ends the process, without running what the test harness left to run.
#[cfg(unix)]
fn leave() {
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) };
}

#[cfg(windows)]
fn leave() {
    std::process::exit(0);
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(windows)]
fn signal(status: ExitStatus) -> Option<i32> {
    const STATUS_ACCESS_VIOLATION: i32 = 0xc000_0005_u32 as i32;
    match status.code() {
        Some(STATUS_ACCESS_VIOLATION) => Some(SIGSEGV),
        Some(0) => None,
        code => Some(code.unwrap_or(-1)),
    }
}

/// Runs a program that was built with these tests. A process that qemu emulates cannot execute it as
/// it is, but with the runner that cargo was given for the tests.
pub fn command(program: &Path) -> Command {
    if !emulated() {
        return Command::new(program);
    }
    let runner = std::env::vars().find_map(|(name, value)| {
        (name.starts_with("CARGO_TARGET_") && name.ends_with("_RUNNER")).then_some(value)
    });
    let runner = runner.expect("cargo says by CARGO_TARGET_…_RUNNER how emulated tests are run");
    let mut words = runner.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg(program);
    command
}

/// Whether qemu emulates this process: it then sees the processor of its host.
pub fn emulated() -> bool {
    let processor = || std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cfg!(target_arch = "aarch64") && processor().contains("vendor_id")
}
