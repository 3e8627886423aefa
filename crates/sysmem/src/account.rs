use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::*};

use crate::State;

/// The books of one subsystem: how many bytes it has in each state, the most it ever had, and
/// how many it ever obtained.
///
/// An account is a `static` that its owner names. It enters the list of [`accounts`] with the
/// first byte it is charged for. All figures are bytes.
///
/// ```
/// static STACKS: sysmem::Account = sysmem::Account::new("stacks");
/// assert_eq!(STACKS.figures().reserved, 0);
/// ```
pub struct Account {
    name: &'static str,
    states: [Gauge; 3],
    obtained: AtomicU64,
    listed: AtomicBool,
    next: AtomicPtr<Account>,
}

/// A figure that goes up and down, and the highest it was.
struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Gauge {
    const fn new() -> Gauge {
        Gauge { now: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    fn add(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Relaxed) + bytes;
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
    }

    fn subtract(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Relaxed);
    }
}

/// What an [`Account`] says at one moment, in bytes. Read without a lock: while other threads
/// move memory, two figures may be a moment apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountFigures {
    /// Bytes in state Reserved.
    pub reserved: u64,
    /// Bytes in state Prepared.
    pub prepared: u64,
    /// Bytes in state Ready.
    pub ready: u64,
    /// The most bytes that were Reserved at one moment.
    pub peak_reserved: u64,
    /// The most bytes that were Prepared at one moment.
    pub peak_prepared: u64,
    /// The most bytes that were Ready at one moment.
    pub peak_ready: u64,
    /// Bytes of address space ever obtained from the system; never falls.
    pub obtained: u64,
}

impl Account {
    /// An empty account called `name`.
    pub const fn new(name: &'static str) -> Account {
        Account {
            name,
            states: [Gauge::new(), Gauge::new(), Gauge::new()],
            obtained: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The name its owner gave it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The figures at this moment.
    pub fn figures(&self) -> AccountFigures {
        let [reserved, prepared, ready] = &self.states;
        AccountFigures {
            reserved: reserved.now.load(Relaxed),
            prepared: prepared.now.load(Relaxed),
            ready: ready.now.load(Relaxed),
            peak_reserved: reserved.peak.load(Relaxed),
            peak_prepared: prepared.peak.load(Relaxed),
            peak_ready: ready.peak.load(Relaxed),
            obtained: self.obtained.load(Relaxed),
        }
    }

    /// The bytes in state Ready at this moment: one of the [`figures`](Account::figures).
    #[inline]
    pub fn ready(&self) -> u64 {
        self.states[State::Ready as usize].now.load(Relaxed)
    }

    /// Books `bytes` that came from the system in state `state`.
    pub(crate) fn obtain(&'static self, state: State, bytes: usize) {
        if !self.listed.load(Relaxed) {
            self.enter_list();
        }
        self.obtained.fetch_add(bytes as u64, Relaxed);
        self.states[state as usize].add(bytes as u64);
    }

    /// Books `bytes` that went back to the system from state `state`.
    pub(crate) fn release(&self, state: State, bytes: usize) {
        self.states[state as usize].subtract(bytes as u64);
    }

    /// Books `bytes` that went from state `from` to state `to`.
    pub(crate) fn transfer(&self, from: State, to: State, bytes: usize) {
        if from != to {
            self.states[from as usize].subtract(bytes as u64);
            self.states[to as usize].add(bytes as u64);
        }
    }

    fn enter_list(&'static self) {
        if self.listed.swap(true, AcqRel) {
            return;
        }
        let this = ptr::from_ref(self).cast_mut();
        let mut first = FIRST.load(Relaxed);
        loop {
            self.next.store(first, Relaxed);
            match FIRST.compare_exchange_weak(first, this, Release, Relaxed) {
                Ok(_) => return,
                Err(newer) => first = newer,
            }
        }
    }
}

static FIRST: AtomicPtr<Account> = AtomicPtr::new(ptr::null_mut());

/// Every account that was ever charged, the newest first. Takes no lock and may be called in a
/// signal handler.
pub fn accounts() -> impl Iterator<Item = &'static Account> {
    let mut at = FIRST.load(Acquire);
    core::iter::from_fn(move || {
        // SAFETY: the list holds only `&'static Account`s, entered by `enter_list` with Release
        // and never taken out.
        let account: &'static Account = unsafe { at.as_ref() }?;
        at = account.next.load(Relaxed);
        Some(account)
    })
}
