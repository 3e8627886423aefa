//! The plain model: pages with a state, a protection and three words that were written.

mod checks;
mod transitions;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sysmem::sim::{Call, Child, Faulty, Simulated};
use sysmem::{
    Account, AccountFigures, Errno, Error, ErrorKind, GiveBack, Inheritance, Os, PageRange,
    Placement, Policy, Protection, Reservation, ReserveOptions, State,
};

use crate::operations::{Operation, Part};
use crate::systems::System;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    state: State,
    protection: Protection,
    words: [u64; 3],
    /// Given back lazily and not written to since: the words, or zeros.
    unstable: bool,
}

const RESERVED: Page = Page {
    state: State::Reserved,
    protection: Protection::NoAccess,
    words: [0; 3],
    unstable: false,
};

struct Entry<O: Os + Clone> {
    reservation: Reservation<O>,
    pages: Vec<Page>,
    policy: Policy,
    lost: bool,
}

/// Reservations on a simulated kernel, and what they should be.
pub struct World<S: System> {
    pub kernel: Simulated<S>,
    pub faulty: Faulty<Simulated<S>>,
    os: S::Os,
    /// No promise of memory is made that the system cannot keep, and the backend can see that.
    strict: bool,
    /// What the kernel answers if wired pages are given back, in such ways as it does not.
    refuses_wired: fn(GiveBack) -> Option<Errno>,
    account: &'static Account,
    entries: Vec<Entry<S::Os>>,
    figures: AccountFigures,
    stamp: u64,
    child: Option<Child<S>>,
    /// The addresses of pages that were Ready and readable at the fork, with the byte that the child
    /// is to find there, `None` where it is to fault. Of memory that it shares, nothing.
    child_finds: Vec<(usize, Option<u8>)>,
    /// Bytes in each state of reservations that were lost and dropped.
    left_behind: [u64; 3],
    /// Failures are injected: refusals that the model does not know of may happen.
    injecting: bool,
    /// Nothing but limits refuses, and what is said to be lost is.
    honest: bool,
    munmap_refused: Arc<AtomicBool>,
}

impl<S: System> World<S> {
    pub fn new(
        kernel: Simulated<S>,
        strict: bool,
        refuses_wired: fn(GiveBack) -> Option<Errno>,
    ) -> World<S> {
        let faulty = Faulty::new(kernel.clone());
        World {
            os: S::os(faulty.clone()),
            strict,
            refuses_wired,
            kernel,
            faulty,
            account: Box::leak(Box::new(Account::new("model"))),
            entries: Vec::new(),
            figures: AccountFigures::default(),
            stamp: 0,
            child: None,
            child_finds: Vec::new(),
            left_behind: [0; 3],
            injecting: false,
            honest: true,
            munmap_refused: Arc::default(),
        }
    }

    /// Limits may refuse from now on, removing what is mapped too.
    pub fn expect_limits(&mut self) {
        self.injecting = true;
        self.munmap_refused.store(true, Relaxed);
    }

    /// Fails some calls in a row, counted from now.
    pub fn inject(&mut self, calls: Range<usize>, errno: Errno) {
        self.injecting = true;
        self.honest = false;
        let munmap_refused = self.munmap_refused.clone();
        self.faulty.fail_when(move |index, call| {
            let fail = calls.contains(&index);
            munmap_refused.fetch_or(fail && removes(call), Relaxed);
            fail.then_some(errno)
        });
    }

    /// The fixed mapping that is the given call from now, or the next, runs out of memory on its way:
    /// what was there is gone where the kernel removes it first. Of the calls after it one fails.
    pub fn starve(&mut self, call: usize, then_fails: Option<usize>, errno: Errno) {
        self.injecting = true;
        self.honest = then_fails.is_none();
        let (munmap_refused, kernel) = (self.munmap_refused.clone(), self.kernel.clone());
        self.faulty.fail_when(move |index, asked| {
            if index == call {
                kernel.starve_next_replacement();
            }
            let fail = then_fails.is_some_and(|later| index == call + later);
            munmap_refused.fetch_or(fail && removes(asked), Relaxed);
            fail.then_some(errno)
        });
    }

    fn page_size(&self) -> usize {
        self.os.page_size()
    }

    /// Performs an operation and holds the outcome against the model.
    pub fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Reserve { npages, align, policy } => self.reserve(*npages, *align, *policy),
            Operation::Alloc { npages } => self.alloc(*npages),
            Operation::Free { which } => self.free(*which),
            Operation::Pressure => self.kernel.pressure(),
            Operation::Fork => self.fork(),
            _ if self.entries.is_empty() => {}
            Operation::Map(part, protection) => self.map(*part, *protection),
            Operation::Used(part) => self.used(*part),
            Operation::Unused(part, how) => self.unused(*part, *how),
            Operation::Fault(part) => self.fault(*part),
            Operation::Protect(part, protection) => self.protect(*part, *protection),
            Operation::Batch(parts, how) => self.batch(parts, *how),
            Operation::Write(part, word) => self.write(*part, *word),
            Operation::Hint(part, which) => self.hint(*part, *which),
            Operation::Wire(part, wired) => self.wire(*part, *wired),
        }
        self.check();
    }

    fn reserve(&mut self, npages: usize, align: usize, policy: Policy) {
        let page_size = self.page_size();
        let options = ReserveOptions::new(npages * page_size)
            .align(align * page_size)
            .placement(Placement::Any)
            .executable(policy.executable)
            .dumped(policy.dumped)
            .inheritance(policy.inheritance)
            .stacks(policy.stacks);
        let result = Reservation::reserve_in(self.os.clone(), options, self.account);
        let unsupported =
            result.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotSupported);
        // Asking may be a call, and that may fail.
        if !self.injecting {
            assert_eq!(self.os.supports(policy), !unsupported, "{policy:?}");
        }
        if unsupported {
            return;
        }
        if let Some(reservation) = self.obtained(result) {
            assert_eq!(reservation.as_mut_ptr().addr() % (align * page_size), 0);
            self.enter(reservation, RESERVED, policy);
        }
    }

    fn alloc(&mut self, npages: usize) {
        let len = npages * self.page_size();
        let result = Reservation::alloc_in(self.os.clone(), len, self.account);
        if let Some(reservation) = self.obtained(result) {
            let page = Page { state: State::Ready, protection: Protection::ReadWrite, ..RESERVED };
            self.enter(reservation, page, Policy::DEFAULT);
        }
    }

    fn obtained(
        &mut self,
        result: Result<Reservation<S::Os>, Error>,
    ) -> Option<Reservation<S::Os>> {
        result.map_err(|error| assert!(self.injecting, "{error}")).ok()
    }

    fn enter(&mut self, reservation: Reservation<S::Os>, page: Page, policy: Policy) {
        let pages = vec![page; reservation.len() / self.page_size()];
        self.figures.obtained += reservation.len() as u64;
        self.entries.push(Entry { reservation, pages, policy, lost: false });
    }

    fn free(&mut self, which: usize) {
        if self.entries.is_empty() {
            return;
        }
        let entry = self.entries.remove(which % self.entries.len());
        match entry.reservation.free() {
            Ok(()) => assert!(!entry.lost, "a lost reservation was freed"),
            Err((reservation, error)) if entry.lost => {
                assert_eq!(error.kind(), ErrorKind::Lost);
                self.leave_behind(reservation, &entry.pages);
            }
            Err((reservation, error)) => {
                assert!(self.injecting, "{error}");
                // It came back whole.
                self.entries.push(Entry { reservation, ..entry });
            }
        }
    }

    /// Drops a reservation that stays mapped, and stays in the books.
    fn leave_behind(&mut self, reservation: Reservation<S::Os>, pages: &[Page]) {
        for page in pages {
            self.left_behind[page.state as usize] += self.page_size() as u64;
        }
        let before = self.kernel.mappings();
        drop(reservation);
        assert_eq!(self.kernel.mappings(), before, "a lost reservation was unmapped");
    }

    fn part(&self, part: Part) -> (usize, usize, usize) {
        let which = part.which % self.entries.len();
        let npages = self.entries[which].pages.len();
        let at = part.at % npages;
        (which, at, at + 1 + part.npages % (npages - at))
    }

    fn write(&mut self, part: Part, word: usize) {
        let (which, at, _) = self.part(part);
        let page_size = self.page_size();
        let entry = &mut self.entries[which];
        let page = &mut entry.pages[at];
        if entry.lost || page.state != State::Ready || page.protection != Protection::ReadWrite {
            return;
        }
        self.stamp += 1;
        let base = entry.reservation.as_mut_ptr().wrapping_add(at * page_size);
        // SAFETY: Ready with a protection that lets us write, and nobody else uses it.
        unsafe { place(base, word, page_size).write_volatile(self.stamp) };
        let mut now = read(base, page_size);
        if page.unstable {
            let mut zeros = [0; 3];
            zeros[word % 3] = self.stamp;
            page.words[word % 3] = self.stamp;
            assert!(now == page.words || now == zeros, "{now:x?} is neither old nor zero");
        } else {
            page.words[word % 3] = self.stamp;
            now = page.words;
        }
        page.words = now;
        page.unstable = false;
    }

    /// Forks a child, or lets the last one go. Whether there can be one is the kernel's alone.
    fn fork(&mut self) {
        self.child = match self.child.take() {
            None => S::fork(&self.kernel),
            Some(_) => None,
        };
        self.child_finds.clear();
        let page_size = self.page_size();
        for entry in self.entries.iter().filter(|entry| !entry.lost) {
            let start = entry.reservation.as_mut_ptr().addr();
            let (mut found, inheritance) = (Vec::new(), entry.policy.inheritance);
            for (index, page) in entry.pages.iter().enumerate() {
                let readable = page.protection != Protection::NoAccess;
                if page.state == State::Ready && readable && !page.unstable {
                    let byte = match inheritance {
                        Inheritance::Copy => Some(page.words[0].to_ne_bytes()[0]),
                        Inheritance::Zeros => Some(0),
                        Inheritance::Nothing => None,
                        Inheritance::Share => continue,
                    };
                    found.push((start + index * page_size, byte));
                }
            }
            self.child_finds.append(&mut found);
        }
    }

    /// Whether it succeeds is the kernel's alone, as for a fork: what matters is what is wired
    /// afterwards.
    fn wire(&mut self, part: Part, wired: bool) {
        let (which, at, end) = self.part(part);
        let page_size = self.page_size();
        let entry = &self.entries[which];
        if !entry.lost {
            let start = entry.reservation.as_mut_ptr().wrapping_add(at * page_size);
            let range = PageRange::new(start, (end - at) * page_size);
            let _ = self.kernel.lock_memory(range, wired);
        }
    }

    fn hint(&mut self, part: Part, which_hint: usize) {
        let (which, at, end) = self.part(part);
        let page_size = self.page_size();
        let entry = &self.entries[which];
        let (offset, len) = (at * page_size, (end - at) * page_size);
        let result = match which_hint % 4 {
            0 => entry.reservation.huge_page(offset, len),
            1 => entry.reservation.no_huge_page(offset, len),
            2 => entry.reservation.collapse(offset, len),
            _ => entry.reservation.name(c"model"),
        };
        if let Err(error) = result {
            match error.kind() {
                ErrorKind::Lost => assert!(entry.lost),
                ErrorKind::NotSupported => {}
                _ => assert!(self.injecting, "{error}"),
            }
        }
    }

    /// Frees everything; nothing may be left but the registry's own pages.
    pub fn finish(mut self) {
        self.faulty.fail_nothing();
        for _ in 0..self.entries.len() {
            self.free(0);
        }
        assert!(self.entries.is_empty(), "a reservation could not be freed");
        self.check();
        self.kernel.verify();
    }
}

/// Whether a call was to take memory away.
fn removes(call: &Call) -> bool {
    const MEM_RELEASE: u32 = 0x8000;
    matches!(call, Call::Munmap { .. } | Call::VirtualFree { kind: MEM_RELEASE, .. })
}

fn place(page: *mut u8, word: usize, page_size: usize) -> *mut u64 {
    page.wrapping_add([0, page_size / 2, page_size - 8][word % 3]).cast()
}

fn read(page: *mut u8, page_size: usize) -> [u64; 3] {
    // SAFETY: the model reads only what is Ready and readable.
    [0, 1, 2].map(|word| unsafe { place(page, word, page_size).read_volatile() })
}
