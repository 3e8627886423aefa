//! The running system, but for one promise.

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use sysmem::os::{BatchError, PageResidency, Source};
use sysmem::{
    Contents, Error, GiveBack, Inheritance, Os, PageRange, Placement, Policy, Protection, Registry,
    ReserveOptions, ResidentFalls, UnusedContract,
};

use super::{Lie, NATIVE};

/// The running system, but for one promise.
pub(crate) struct Liar {
    pub(crate) lie: Lie,
    /// The last reservation: what neighbours a range has.
    last: Mutex<(usize, usize)>,
    /// What was not freed in time.
    kept: Mutex<Vec<PageRange>>,
    registries: [Registry; 16],
    ticks: AtomicU64,
}

impl Liar {
    pub(crate) fn new(lie: Lie) -> Liar {
        Liar {
            lie,
            last: Mutex::new((0, 0)),
            kept: Mutex::new(Vec::new()),
            registries: [const { Registry::new() }; 16],
            ticks: AtomicU64::new(1 << 40),
        }
    }

    /// The range with a page more at both ends, inside the last reservation.
    pub(crate) fn wider(&self, range: PageRange) -> PageRange {
        if !Liar::proper(range) {
            return range;
        }
        let page = NATIVE.page_size();
        let (start, len) = *self.last.lock().unwrap();
        let inside = |address: usize| (start..start + len).contains(&address);
        let below = inside(range.start.addr().wrapping_sub(1));
        let above = inside(range.start.addr() + range.len);
        let first = range.start.wrapping_sub(if below { page } else { 0 });
        let more = page * (usize::from(below) + usize::from(above));
        PageRange::new(first, range.len + more)
    }

    fn proper(range: PageRange) -> bool {
        let page = NATIVE.page_size();
        let (start, len) = (range.start.addr(), range.len);
        start % page == 0 && len % page == 0 && len > 0 && start.checked_add(len).is_some()
    }

    /// Whether to say that a range was taken that no system may take.
    fn takes(&self, range: PageRange) -> bool {
        self.lie == Lie::MisuseIsTaken && !Liar::proper(range)
    }

    pub(crate) fn drop_contents(&self, range: PageRange) {
        // SAFETY: memory of the suite's, whose contents a lie drops; misuse is refused.
        let _ = unsafe {
            NATIVE.unused(range, Protection::ReadWrite, GiveBack::Eager, Policy::DEFAULT)
        };
    }

    pub(crate) fn protect_quietly(&self, range: PageRange, protection: Protection) {
        // SAFETY: memory of the suite's, whose protection a lie changes.
        let _ = unsafe { NATIVE.protect(range, protection) };
    }

    fn hint(&self, range: PageRange, honest: Result<(), Error>) -> Result<(), Error> {
        if self.takes(range) {
            return Ok(());
        }
        if self.lie == Lie::HintsDropContents {
            self.drop_contents(range);
        }
        honest
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        for &range in self.kept.lock().unwrap().iter().filter(|&&range| Liar::proper(range)) {
            // SAFETY: the suite gave it up.
            let _ = unsafe { NATIVE.free(range) };
        }
    }
}

// SAFETY: none. This is for a suite that looks before it touches.
unsafe impl Os for Liar {
    fn page_size(&self) -> usize {
        NATIVE.page_size()
    }

    fn huge_page_size(&self) -> Option<usize> {
        NATIVE.huge_page_size()
    }

    fn unused_contract(&self, how: GiveBack) -> UnusedContract {
        if self.lie == Lie::LazyIsEager {
            return UnusedContract {
                resident_falls: ResidentFalls::AtOnce,
                contents: Contents::Zero,
                used_is_a_call: false,
            };
        }
        NATIVE.unused_contract(how)
    }

    fn supports(&self, policy: Policy) -> bool {
        match self.lie {
            Lie::NothingIsSupported => false,
            Lie::InheritanceIsIgnored => true,
            _ => NATIVE.supports(policy),
        }
    }

    fn registry(&self) -> &Registry {
        let which = match self.lie {
            // Another one each time, in no order that anybody could rely on.
            Lie::RegistryChanges => {
                let tick = self.ticks.fetch_add(1, SeqCst);
                (tick.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize
            }
            _ => 0,
        };
        &self.registries[which]
    }

    fn alloc(&self, len: usize) -> Result<NonNull<u8>, Error> {
        let proper = len % NATIVE.page_size() == 0 && len > 0;
        if self.lie == Lie::MisuseIsTaken && !proper {
            return NATIVE.alloc(NATIVE.page_size());
        }
        let start = match self.lie {
            Lie::AllocHasNoEnd if len > 1 << 46 => NATIVE.alloc(NATIVE.page_size()),
            _ => NATIVE.alloc(len),
        }?;
        if self.lie == Lie::AllocIsDirty {
            // SAFETY: just allocated.
            unsafe { start.write(1) };
        }
        Ok(start)
    }

    fn reserve(&self, options: &ReserveOptions) -> Result<NonNull<u8>, Error> {
        let (len, page) = (options.len(), NATIVE.page_size());
        let options = &match self.lie {
            Lie::InheritanceIsIgnored => options.inheritance(Inheritance::Copy),
            Lie::ChildrenGetNothing => options.inheritance(Inheritance::Nothing),
            Lie::DumpedIsIgnored => options.dumped(true),
            _ => *options,
        };
        let at = |placement| NATIVE.reserve(&options.placement(placement));
        let somewhere = |address: usize| {
            Ok(NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("an address"))
        };
        let start = match (self.lie, options.place()) {
            (Lie::MisuseIsTaken, _) if NATIVE.reserve(options).is_err() => {
                NATIVE.reserve(&ReserveOptions::new(page))
            }
            (Lie::ReserveOverlaps, _) if len == 4 * page => {
                let (start, last_len) = *self.last.lock().unwrap();
                if last_len == len { somewhere(start) } else { NATIVE.reserve(options) }
            }
            (Lie::AlignmentIsIgnored, _) => NATIVE.reserve(&options.align(1)),
            (Lie::AlignmentLeavesTheRest, _)
                if (page + 1..1 << 40).contains(&options.alignment()) =>
            {
                let align = options.alignment();
                let wider = len.checked_add(align).unwrap_or(len);
                let start = NATIVE.reserve(&ReserveOptions::new(wider))?;
                let head = start.addr().get().wrapping_neg() % align;
                // SAFETY: inside what was reserved.
                Ok(unsafe { start.add(head) })
            }
            (Lie::HintIsIgnored, Placement::Hint(_)) | (Lie::NearIsFar, Placement::Near { .. }) => {
                at(Placement::Hint(1 << 40))
            }
            (Lie::HintReplaces, Placement::Hint(address))
            | (Lie::AtReplaces, Placement::At(address)) => somewhere(address),
            (Lie::HighIsLow, Placement::High) => at(Placement::Hint(1 << 30)),
            _ => NATIVE.reserve(options),
        }?;
        let range = PageRange::new(start.as_ptr(), len);
        if self.lie == Lie::ReservedIsReadable {
            self.protect_quietly(range, Protection::ReadOnly);
        }
        if self.lie == Lie::ReserveTakesMemory && len == 1 << 30 {
            let part = PageRange::new(start.as_ptr(), 32 << 20);
            self.protect_quietly(part, Protection::ReadWrite);
            // SAFETY: reserved and writable.
            unsafe { start.write_bytes(1, part.len) };
            self.protect_quietly(part, Protection::NoAccess);
        }
        *self.last.lock().unwrap() = (start.as_ptr().expose_provenance(), len);
        Ok(start)
    }

    unsafe fn map(
        &self,
        range: PageRange,
        protection: Protection,
        policy: Policy,
    ) -> Result<(), Error> {
        if self.takes(range) {
            return Ok(());
        }
        let protection = match self.lie {
            Lie::MapIgnoresProtection => Protection::ReadWrite,
            Lie::StacksAreNotWritable if policy.stacks => Protection::ReadOnly,
            _ => protection,
        };
        // SAFETY: the caller's promise.
        unsafe { NATIVE.map(range, protection, policy) }?;
        if self.lie == Lie::MapIsDirty && protection == Protection::ReadWrite {
            // SAFETY: mapped and writable.
            unsafe { range.start.write(1) };
        }
        if self.lie == Lie::MapTakesNeighbours {
            self.protect_quietly(self.wider(range), protection);
        }
        Ok(())
    }

    unsafe fn used(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        if self.takes(range) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { NATIVE.used(range, protection) }
    }

    unsafe fn unused(
        &self,
        range: PageRange,
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), Error> {
        if self.takes(range) {
            return Ok(());
        }
        let range = match self.lie {
            Lie::UnusedDoesNothing => return Ok(()),
            Lie::UnusedOfThreePagesDoesNothing if range.len == 3 * NATIVE.page_size() => {
                return Ok(());
            }
            // Half of the address space is refused, with an error that is not for misuse.
            Lie::UnusedIsRefused if Liar::proper(range) => {
                return NATIVE.alloc(1 << 63).map(|_| ());
            }
            Lie::UnusedTakesNeighbours => {
                self.drop_contents(self.wider(range));
                range
            }
            _ => range,
        };
        // SAFETY: the caller's promise.
        unsafe { NATIVE.unused(range, protection, how, policy) }?;
        match self.lie {
            Lie::UnusedTakesAccess => self.protect_quietly(range, Protection::NoAccess),
            Lie::UnusedMakesWritable => self.protect_quietly(range, Protection::ReadWrite),
            Lie::InheritanceIsForgotten => {
                // SAFETY: the caller's promise.
                return unsafe { NATIVE.set_inheritance(range, Inheritance::Copy) };
            }
            _ => {}
        }
        Ok(())
    }

    unsafe fn unused_batch(
        &self,
        ranges: &[PageRange],
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), BatchError> {
        let ranges = match (self.lie, ranges) {
            (Lie::BatchSkipsTheLast, [but_the_last @ .., _]) => but_the_last,
            (Lie::BatchTakesAnything, _) => return Ok(()),
            (Lie::BatchIsRefused, _) => {
                let error = NATIVE.alloc(0).unwrap_err();
                return Err(BatchError { done: 0, error });
            }
            _ => ranges,
        };
        // SAFETY: the caller's promise.
        unsafe { NATIVE.unused_batch(ranges, protection, how, policy) }
    }

    unsafe fn fault(&self, range: PageRange, policy: Policy) -> Result<(), Error> {
        if self.takes(range) {
            return Ok(());
        }
        match self.lie {
            Lie::FaultDoesNothing => return Ok(()),
            Lie::ViewsStayInSight if policy.source == Source::Object => return Ok(()),
            // SAFETY: the caller's promise.
            Lie::FaultKeepsContents => unsafe {
                return NATIVE.protect(range, Protection::NoAccess);
            },
            Lie::FaultTakesNeighbours => self.drop_contents(self.wider(range)),
            _ => {}
        }
        // SAFETY: the caller's promise.
        unsafe { NATIVE.fault(range, policy) }
    }

    unsafe fn set_inheritance(
        &self,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), Error> {
        if self.takes(range) || self.lie == Lie::InheritanceIsIgnored && Liar::proper(range) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { NATIVE.set_inheritance(range, inheritance) }
    }

    unsafe fn set_dumped(&self, range: PageRange, dumped: bool) -> Result<(), Error> {
        if self.takes(range) || self.lie == Lie::DumpedIsIgnored && Liar::proper(range) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { NATIVE.set_dumped(range, dumped) }
    }

    unsafe fn free(&self, range: PageRange) -> Result<(), Error> {
        if self.takes(range) {
            return Ok(());
        }
        if self.lie == Lie::FreeDoesNothing && range.len < 1 << 30 {
            self.kept.lock().unwrap().push(range);
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { NATIVE.free(range) }
    }

    unsafe fn protect(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        if self.takes(range) || self.lie == Lie::ProtectDoesNothing {
            return Ok(());
        }
        if self.lie == Lie::ProtectDropsContents {
            self.drop_contents(range);
        }
        if self.lie == Lie::ExecutableIsForgotten && protection == Protection::ReadExecute {
            // As a kernel that was not told: NetBSD's `PROT_MPROTECT`.
            return NATIVE.alloc(1 << 63).map(|_| ());
        }
        let protection = match (self.lie, protection) {
            (Lie::NothingIsExecutable, Protection::ReadExecute) => Protection::ReadOnly,
            _ => protection,
        };
        // SAFETY: the caller's promise.
        unsafe { NATIVE.protect(range, protection) }
    }

    unsafe fn huge_page(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.hint(range, unsafe { NATIVE.huge_page(range) })
    }

    unsafe fn no_huge_page(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.hint(range, unsafe { NATIVE.no_huge_page(range) })
    }

    unsafe fn collapse(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.hint(range, unsafe { NATIVE.collapse(range) })
    }

    unsafe fn name(&self, range: PageRange, name: &CStr) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.hint(range, unsafe { NATIVE.name(range, name) })
    }

    fn residency(&self, range: PageRange, pages: &mut [PageResidency]) -> Result<(), Error> {
        if self.takes(range) {
            return Ok(());
        }
        if self.lie == Lie::ResidencyIsWrong && Liar::proper(range) {
            pages.fill(PageResidency { resident: true, ..PageResidency::default() });
            return Ok(());
        }
        NATIVE.residency(range, pages)
    }

    fn resident_bytes(&self, range: PageRange) -> Result<usize, Error> {
        match self.lie {
            Lie::ResidentBytesAreWrong => Ok(range.len),
            _ if self.takes(range) => Ok(0),
            _ => NATIVE.resident_bytes(range),
        }
    }

    fn monotonic_time(&self) -> Duration {
        match self.lie {
            Lie::TimeGoesBack => Duration::from_nanos(self.ticks.fetch_sub(1, SeqCst)),
            _ => NATIVE.monotonic_time(),
        }
    }

    fn thread_cpu_time(&self) -> Duration {
        match self.lie {
            Lie::TimeGoesBack => Duration::ZERO,
            _ => NATIVE.thread_cpu_time(),
        }
    }

    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
        NATIVE.park(word, while_equal, timeout);
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        if self.lie != Lie::WakeDoesNothing {
            NATIVE.wake(word, count);
        }
    }
}
