//! The signal handler.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::fmt::{self, Write};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};

use sysmem::{Errno, Lock, Native};

use super::{Access, FaultReport};

const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
type Plain = extern "C" fn(c_int);

/// Reports faults in our memory, as long as it lives.
///
/// The handler for SIGSEGV and SIGBUS looks whether the address lies in a reservation. If so it
/// hands a [`FaultReport`] to the function it was given; in any case it then hands the signal on
/// to whatever was there before: another handler, with its mask, or the system's way, which ends
/// the process and leaves a core at the instruction that faulted. Handlers that are installed
/// later, and hand on what is not theirs, work as well.
///
/// On Unix; Windows, whose faults are exceptions, has no handler here yet.
///
/// It asks to run on the thread's alternate stack, without which an overflow of the stack leaves
/// no room to run on. Threads of Rust's standard library have one; others call
/// [`AlternateStack::for_this_thread`](super::AlternateStack::for_this_thread).
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
static CHAINS: [Chain; SIGNALS.len()] = [const { Chain::new() }; SIGNALS.len()];

/// What one signal is handed on to.
struct Chain {
    /// Whether our handler is where the signal comes by. It stays there if another handler lies
    /// over it when it should go: that one hands on to it.
    linked: AtomicBool,
    /// Which of the two is valid. A handler that runs may still read the other one.
    current: AtomicUsize,
    previous: [UnsafeCell<MaybeUninit<libc::sigaction>>; 2],
    /// The previous handler was to be called once (`SA_RESETHAND`), and was.
    spent: AtomicBool,
}

// SAFETY: `previous` is written to only under `CHANGING`, the part that is not current.
unsafe impl Sync for Chain {}

impl Chain {
    const fn new() -> Chain {
        Chain {
            linked: AtomicBool::new(false),
            current: AtomicUsize::new(0),
            previous: [const { UnsafeCell::new(MaybeUninit::uninit()) }; 2],
            spent: AtomicBool::new(false),
        }
    }

    fn of(signal: c_int) -> Option<&'static Chain> {
        let index = SIGNALS.iter().position(|&known| known == signal)?;
        Some(&CHAINS[index])
    }

    fn previous(&self) -> libc::sigaction {
        // SAFETY: written before `linked` was first set, and our handler installed.
        unsafe { (*self.previous[self.current.load(Acquire)].get()).assume_init() }
    }

    /// Puts our handler before what is there. The caller holds `CHANGING`.
    fn link(&self, signal: c_int) -> Result<(), Errno> {
        if self.linked.load(Relaxed) {
            return Ok(());
        }
        let next = 1 - self.current.load(Relaxed);
        let before = action(signal)?;
        // SAFETY: not the current one, and nobody else writes.
        unsafe { (*self.previous[next].get()).write(before) };
        self.current.store(next, Release);
        self.spent.store(false, Relaxed);
        // SAFETY: a sigaction of all zeros is valid.
        let mut ours: libc::sigaction = unsafe { core::mem::zeroed() };
        let handler: WithInfo = handle;
        ours.sa_sigaction = handler as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        set_action(signal, &ours)?;
        self.linked.store(true, Relaxed);
        Ok(())
    }

    /// Takes our handler out, if nobody lies over it. The caller holds `CHANGING`.
    fn unlink(&self, signal: c_int) {
        let handler: WithInfo = handle;
        let ours = action(signal).is_ok_and(|now| now.sa_sigaction == handler as usize);
        if self.linked.load(Relaxed) && ours && set_action(signal, &self.previous()).is_ok() {
            self.linked.store(false, Relaxed);
        }
    }
}

/// What a signal leads to now.
fn action(signal: c_int) -> Result<libc::sigaction, Errno> {
    let mut now = MaybeUninit::uninit();
    // SAFETY: there is room for one.
    match unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) } {
        // SAFETY: the system filled it in.
        0 => Ok(unsafe { now.assume_init() }),
        _ => Err(Errno(libc::EINVAL)),
    }
}

fn set_action(signal: c_int, action: &libc::sigaction) -> Result<(), Errno> {
    // SAFETY: the action is valid: ours, or one that the system gave.
    match unsafe { libc::sigaction(signal, action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(Errno(libc::EINVAL)),
    }
}

impl FaultHandler {
    /// Reports faults to `report` from now on, which runs in a signal handler, on a stack of a few
    /// KiB: it may call only what is async-signal-safe (signal-safety(7)). [`write_to_stderr`] is.
    pub fn install(report: fn(&FaultReport)) -> Result<FaultHandler, InstallError> {
        let _changing = CHANGING.lock(&Native::NEW);
        if !SINK.load(Relaxed).is_null() {
            return Err(InstallError::AlreadyInstalled);
        }
        for (signal, chain) in SIGNALS.into_iter().zip(&CHAINS) {
            chain.link(signal).map_err(InstallError::System)?;
        }
        SINK.store(report as *mut (), Release);
        Ok(FaultHandler(()))
    }
}

impl Drop for FaultHandler {
    fn drop(&mut self) {
        let _changing = CHANGING.lock(&Native::NEW);
        SINK.store(ptr::null_mut(), Release);
        for (signal, chain) in SIGNALS.into_iter().zip(&CHAINS) {
            chain.unlink(signal);
        }
    }
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel, or who hands on to us, gives a valid one or null.
    let fault = unsafe { info.as_ref() }.filter(|info| info.si_code > 0);
    let sink = SINK.load(Acquire);
    if !sink.is_null() {
        if let Some(info) = fault {
            // The program goes on where the handler before us repairs the fault.
            sysmem::native::keeping_errno(|| {
                // SAFETY: a fault has an address.
                let address = unsafe { info.si_addr() }.addr();
                if let Some(found) = FaultReport::of(address, &Native::NEW) {
                    // SAFETY: only `install` stores there, what was such a function.
                    let report: fn(&FaultReport) = unsafe { transmute(sink) };
                    report(&FaultReport { access: access(context), ..found });
                }
            });
        }
    }
    hand_on(signal, info, context, fault.is_some());
}

/// Does what would have happened without us.
fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, fault: bool) {
    let Some(chain) = Chain::of(signal) else { return };
    let previous = chain.previous();
    let once = previous.sa_flags & libc::SA_RESETHAND != 0 && chain.spent.swap(true, Relaxed);
    match previous.sa_sigaction {
        // The system does not let a fault be ignored (signal(7)), but for those sent by kill(2).
        libc::SIG_IGN if !fault => {}
        libc::SIG_DFL | libc::SIG_IGN => end(signal, fault),
        _ if once => end(signal, fault),
        handler => {
            // The kernel restores the mask when the outermost handler returns.
            // SAFETY: sets of signals; no memory.
            unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, &previous.sa_mask, ptr::null_mut());
                if previous.sa_flags & libc::SA_NODEFER != 0 {
                    let mut this = MaybeUninit::uninit();
                    libc::sigemptyset(this.as_mut_ptr());
                    libc::sigaddset(this.as_mut_ptr(), signal);
                    libc::pthread_sigmask(libc::SIG_UNBLOCK, this.as_ptr(), ptr::null_mut());
                }
            }
            if previous.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: with this flag the handler takes three arguments.
                let handler: WithInfo = unsafe { transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: without it, one.
                let handler: Plain = unsafe { transmute(handler) };
                handler(signal);
            }
        }
    }
}

/// Lets the system have its way once the handler has returned: a fault happens again at the same
/// instruction; a signal that was sent is sent again.
fn end(signal: c_int, fault: bool) {
    // SAFETY: a sigaction of all zeros is SIG_DFL with no flags.
    let default: libc::sigaction = unsafe { core::mem::zeroed() };
    let _ = set_action(signal, &default);
    if !fault {
        // SAFETY: blocked until the handler returns.
        unsafe { libc::raise(signal) };
    }
}

/// What was tried, as the processor says it: bit 1 of the page fault's error code is set for
/// writes, bit 4 for instruction fetches (Intel SDM volume 3, 4.7).
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn access(context: *mut c_void) -> Option<Access> {
    // SAFETY: the third argument of a handler with SA_SIGINFO (sigaction(2)), or null.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_ref() }?;
    let error = context.uc_mcontext.gregs[libc::REG_ERR as usize];
    Some(match (error & 16 != 0, error & 2 != 0) {
        (true, _) => Access::Execute,
        (_, true) => Access::Write,
        _ => Access::Read,
    })
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn access(_context: *mut c_void) -> Option<Access> {
    None
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
        // SAFETY: the buffer is as long as said. What cannot be written is lost.
        unsafe { libc::write(2, self.buffer.as_ptr().cast(), self.len) };
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
