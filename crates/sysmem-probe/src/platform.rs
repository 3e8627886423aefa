//! What only the system around the memory can tell.

use core::fmt;

use sysmem::PageRange;

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads a byte.
    Read,
    /// Writes a byte.
    Write,
    /// Calls a function there that takes nothing and returns a number below 256.
    Execute,
}

impl Access {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Access::Read => "reading",
            Access::Write => "writing",
            Access::Execute => "executing",
        }
    }
}

/// What reports a bad access: a signal, or what Windows has instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGSEGV.
    Segv,
    /// SIGBUS.
    Bus,
    /// SIGILL, when what was executed is not code.
    Ill,
    /// The exception EXCEPTION_ACCESS_VIOLATION of Windows.
    AccessViolation,
}

/// What an access met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It succeeded: the byte that was read, 0 for a write, what the function returned.
    Value(u8),
    /// The kernel refused it with a signal.
    Fault {
        /// The signal.
        signal: Signal,
        /// Its `si_code`; of an access violation 0 for reading, 1 for writing, 8 for executing.
        code: i32,
        /// Its `si_addr`.
        address: usize,
    },
    /// The child died without a word, of this wait status.
    Died(i32),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Seen::Value(value) => write!(f, "no fault, {value}"),
            Seen::Fault { signal, code, address } => {
                let signal = match signal {
                    Signal::Segv => "SIGSEGV",
                    Signal::Bus => "SIGBUS",
                    Signal::Ill => "SIGILL",
                    Signal::AccessViolation => "access violation",
                };
                write!(f, "{signal} code {code} at {address:#x}")
            }
            Seen::Died(status) => write!(f, "the child died of wait status {status:#x}"),
        }
    }
}

/// What only the system around the memory can tell. What a platform leaves out is reported as not
/// supported.
pub trait Platform {
    /// Hands name and value of each fact about the system to `fact`.
    fn facts(&self, fact: &mut dyn FnMut(&str, fmt::Arguments<'_>));

    /// The longest reservation that makes sense, in bytes.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Bytes of the process that are in physical memory.
    fn resident(&self) -> Option<u64> {
        None
    }

    /// Bytes of address space that the process has.
    fn size(&self) -> Option<u64> {
        None
    }

    /// What an access meets. It is made in a copy of the process, or so that it changes nothing:
    /// the contents of memory stay as they are.
    ///
    /// # Safety
    ///
    /// For [`Access::Execute`]: if the memory is executable, such a function begins there.
    unsafe fn access(&self, address: *mut u8, access: Access) -> Option<Seen> {
        let _ = (address, access);
        None
    }

    /// What an access by a forked child meets, with what the child gets of the memory.
    ///
    /// # Safety
    ///
    /// As for [`access`](Platform::access), and the memory is nobody else's: the child may share it.
    unsafe fn access_by_child(&self, address: *mut u8, access: Access) -> Option<Seen> {
        let _ = (address, access);
        None
    }

    /// Has a forked child call the kernel with its stack in this memory: [`Seen::Value`] if it could.
    ///
    /// # Safety
    ///
    /// The memory is nobody else's.
    unsafe fn stand_on(&self, stack: PageRange) -> Option<Seen> {
        let _ = stack;
        None
    }

    /// Whether a core dump would have this page in it.
    fn dumped(&self, address: *mut u8) -> Option<bool> {
        let _ = address;
        None
    }

    /// Runs `work` while a forked child, which does nothing, shares all pages. Says whether there
    /// was one; without, `work` is not run.
    fn while_forked(&self, work: &mut dyn FnMut()) -> bool {
        let _ = work;
        false
    }

    /// Locks a range in memory, as mlock(2), and says whether it could. The lock goes with the
    /// mapping.
    fn lock(&self, range: PageRange) -> bool {
        let _ = range;
        false
    }
}
