//! The handler of faults.

use core::fmt::{self, Write};
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::*};

use sysmem::{Errno, Lock, Native, State};

use super::{Access, FaultReport};

#[cfg_attr(unix, path = "handler/unix.rs")]
#[cfg_attr(windows, path = "handler/windows.rs")]
mod system;

/// Reports faults in our memory, as long as it lives.
///
/// On Unix it is a handler for SIGSEGV and SIGBUS, on Windows a vectored exception handler. It looks
/// whether the address lies in a reservation. If so it hands a [`FaultReport`] to the function it
/// was given; in any case it then hands the fault on to whatever was there before: another handler,
/// with its mask, or the system's way, which ends the process and leaves a core at the instruction
/// that faulted. Handlers that are installed later, and hand on what is not theirs, work as well.
/// A fault that such a handler repairs (as collectors and databases do) is reported all the same.
///
/// On Unix it asks to run on the thread's alternate stack, without which an overflow of the stack
/// leaves no room to run on. Threads of Rust's standard library have one; others call
/// `AlternateStack::for_this_thread`. On Windows it runs on the thread's stack, which the system
/// keeps some room on; stacks that a program made itself must keep it themselves.
///
/// ```
/// let handler = sysmem_runtime::FaultHandler::install(sysmem_runtime::write_to_stderr)?;
/// # drop(handler);
/// # Ok::<(), sysmem_runtime::InstallError>(())
/// ```
#[derive(Debug)]
#[must_use = "faults are reported as long as it lives"]
pub struct FaultHandler(());

/// Why a handler was not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallError {
    /// Another [`FaultHandler`] lives; drop it first.
    AlreadyInstalled,
    /// The system refused.
    System(Errno),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstallError::AlreadyInstalled => {
                f.write_str("faults are reported already; drop the other FaultHandler first")
            }
            InstallError::System(errno) => {
                write!(f, "the system refused to install a signal handler ({errno})")
            }
        }
    }
}

impl core::error::Error for InstallError {}

/// Where reports go; null while nobody wants them.
static SINK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// Held while handlers are installed or removed.
static CHANGING: Lock<()> = Lock::new(());

impl FaultHandler {
    /// Reports faults to `report` from now on, which runs in a signal handler, on a stack of a few
    /// KiB: it may call only what is async-signal-safe (signal-safety(7)). [`write_to_stderr`] is.
    pub fn install(report: fn(&FaultReport)) -> Result<FaultHandler, InstallError> {
        let _changing = CHANGING.lock(&Native::NEW);
        if !SINK.load(Relaxed).is_null() {
            return Err(InstallError::AlreadyInstalled);
        }
        system::link().map_err(InstallError::System)?;
        SINK.store(report as *mut (), Release);
        Ok(FaultHandler(()))
    }
}

impl Drop for FaultHandler {
    fn drop(&mut self) {
        let _changing = CHANGING.lock(&Native::NEW);
        SINK.store(ptr::null_mut(), Release);
        system::unlink();
    }
}

/// Reports a fault at an address of ours, if somebody wants to know and the address is that of the
/// access, which `is_told` knows once it is told the state of the page. Called in a handler.
fn report(address: usize, access: Option<Access>, is_told: impl FnOnce(State) -> bool) {
    let sink = SINK.load(Acquire);
    if sink.is_null() {
        return;
    }
    let found = FaultReport::of(address, &Native::NEW).filter(|found| is_told(found.state));
    if let Some(found) = found {
        // SAFETY: only `install` stores there, what was such a function.
        let report: fn(&FaultReport) = unsafe { transmute(sink) };
        report(&FaultReport { access, ..found });
    }
}

/// Writes a report and a line feed to standard error, in pieces of at most 256 bytes.
pub fn write_to_stderr(report: &FaultReport) {
    let mut out = Stderr { buffer: [0; 256], len: 0 };
    let _ = writeln!(out, "{report}");
    out.flush();
}

struct Stderr {
    buffer: [u8; 256],
    len: usize,
}

impl Stderr {
    fn flush(&mut self) {
        system::write_to_stderr(&self.buffer[..self.len]);
        self.len = 0;
    }
}

impl Write for Stderr {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes() {
            if self.len == self.buffer.len() {
                self.flush();
            }
            self.buffer[self.len] = *piece;
            self.len += 1;
        }
        Ok(())
    }
}
