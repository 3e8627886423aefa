//! Runs a part of a test in a process of its own, which may die.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// How a child ended: by which signal, if by one, and what it had to say.
pub struct Ended {
    pub signal: Option<i32>,
    pub stderr: String,
}

/// Runs `work` in a new process, which then exits with status 0, and returns how it ended.
///
/// `test` is the full name of the calling test: the child is this program again, told to run that
/// test alone, and comes here to do the work. `which` tells apart the children of one test: in one
/// of them, `None` is the answer to what another is to do.
pub fn run(test: &str, which: &str, work: impl FnOnce()) -> Option<Ended> {
    if let Some(wanted) = std::env::var_os("SYSMEM_TEST_CHILD") {
        if wanted == which {
            work();
            // SAFETY: ends the process without running what the test harness left to run.
            unsafe { libc::_exit(0) };
        }
        return None;
    }
    if emulated() {
        return Some(forked(work));
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("SYSMEM_TEST_CHILD", which)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    Some(Ended {
        signal: output.status.signal(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Whether qemu emulates this process: then it cannot execute itself, and sees the processor of
/// its host.
pub fn emulated() -> bool {
    let processor = || std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cfg!(target_arch = "aarch64") && processor().contains("vendor_id")
}

/// Runs `work` in a copy of this process, whose standard error is not looked at.
fn forked(work: impl FnOnce()) -> Ended {
    // SAFETY: the child does the work and ends.
    match unsafe { libc::fork() } {
        0 => {
            work();
            // SAFETY: as above.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for the child just made.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
            Ended { signal, stderr: String::new() }
        }
    }
}
