//! Signals: ours is one in a chain of handlers.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

use sysmem::Errno;

use super::super::address::{Told, is_told};
use super::super::context::access;

const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
type Plain = extern "C" fn(c_int);

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

/// Puts our handlers before what is there. The caller holds the lock.
pub(super) fn link() -> Result<(), Errno> {
    SIGNALS.into_iter().zip(&CHAINS).try_for_each(|(signal, chain)| chain.link(signal))
}

/// Takes our handlers out where nobody lies over them. The caller holds the lock.
pub(super) fn unlink() {
    SIGNALS.into_iter().zip(&CHAINS).for_each(|(signal, chain)| chain.unlink(signal));
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel, or who hands on to us, gives a valid one or null.
    let fault = unsafe { info.as_ref() }.filter(|info| info.si_code > 0);
    if let Some(info) = fault {
        // The program goes on where the handler before us repairs the fault.
        sysmem::native::keeping_errno(|| {
            // SAFETY: a fault has an address.
            let address = unsafe { info.si_addr() }.addr();
            let told = Told { bus: signal == libc::SIGBUS, code: info.si_code };
            super::report(address, access(context), |state| is_told(told, state));
        });
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

/// Writes to standard error; what cannot be written is lost.
pub(super) fn write_to_stderr(bytes: &[u8]) {
    // SAFETY: the buffer is as long as said.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}
