use core::ffi::CStr;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

use sysmem::os::{Inheritance, PageResidency, Policy};
use sysmem::{
    Error, GiveBack, GuardMechanism, Guards, Os, PageRange, Protection, Registry, ReserveOptions,
    UnusedContract,
};

/// A system on which Prepared memory faults, to find those who use memory before `used` or after
/// `unused`.
///
/// Most systems leave such memory accessible, and a stray write is lost or, worse, kept. Over
/// `Checked` each `map`, `used` and `unused` costs a change of protection more, and every stray
/// access faults; with a [`FaultHandler`](crate::FaultHandler) it is reported as 'after unused()'.
///
/// ```
/// # use sysmem::{Account, Native, Protection, Reservation, ReserveOptions};
/// # use sysmem_runtime::Checked;
/// # static POOL: Account = Account::new("pool");
/// let options = ReserveOptions::new(1 << 20);
/// let pool = Reservation::reserve_in(Checked::new(Native::NEW), options, &POOL)?;
/// # Ok::<(), sysmem::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked<O> {
    os: O,
}

impl<O: Os> Checked<O> {
    /// `os`, checked.
    pub const fn new(os: O) -> Checked<O> {
        Checked { os }
    }
}

// SAFETY: memory is accessible only where `os` makes it so, and Ready memory is: `used` gives it
// its protection back.
unsafe impl<O: Os> Os for Checked<O> {
    fn page_size(&self) -> usize {
        self.os.page_size()
    }

    fn huge_page_size(&self) -> Option<usize> {
        self.os.huge_page_size()
    }

    fn unused_contract(&self, how: GiveBack) -> UnusedContract {
        UnusedContract { used_is_a_call: true, ..self.os.unused_contract(how) }
    }

    fn used_commits(&self) -> bool {
        self.os.used_commits()
    }

    fn supports(&self, policy: Policy) -> bool {
        self.os.supports(policy)
    }

    fn registry(&self) -> &Registry {
        self.os.registry()
    }

    fn alloc(&self, len: usize) -> Result<NonNull<u8>, Error> {
        self.os.alloc(len)
    }

    fn reserve(&self, options: &ReserveOptions) -> Result<NonNull<u8>, Error> {
        self.os.reserve(options)
    }

    unsafe fn map(
        &self,
        range: PageRange,
        protection: Protection,
        policy: Policy,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise. Between the two calls the memory is accessible, which is
        // what it is without checks.
        unsafe {
            self.os.map(range, protection, policy)?;
            if self.os.used_commits() {
                return Ok(());
            }
            self.os.protect(range, Protection::NoAccess).inspect_err(|_| {
                let _ = self.os.fault(range, policy);
            })
        }
    }

    unsafe fn used(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe {
            self.os.used(range, protection)?;
            self.os.protect(range, protection)
        }
    }

    unsafe fn unused(
        &self,
        range: PageRange,
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe {
            if self.os.used_commits() {
                // At once, so that it faults.
                return self.os.unused(range, protection, GiveBack::Eager, policy);
            }
            self.os.unused(range, protection, how, policy)?;
            self.os.protect(range, Protection::NoAccess)
        }
    }

    unsafe fn fault(&self, range: PageRange, policy: Policy) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.fault(range, policy) }
    }

    unsafe fn free(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.free(range) }
    }

    unsafe fn protect(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.protect(range, protection) }
    }

    unsafe fn huge_page(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.huge_page(range) }
    }

    unsafe fn no_huge_page(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.no_huge_page(range) }
    }

    unsafe fn collapse(&self, range: PageRange) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.collapse(range) }
    }

    unsafe fn name(&self, range: PageRange, name: &CStr) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.name(range, name) }
    }

    unsafe fn set_inheritance(
        &self,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.set_inheritance(range, inheritance) }
    }

    unsafe fn set_dumped(&self, range: PageRange, dumped: bool) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.set_dumped(range, dumped) }
    }

    fn residency(&self, range: PageRange, pages: &mut [PageResidency]) -> Result<(), Error> {
        self.os.residency(range, pages)
    }

    fn monotonic_time(&self) -> Duration {
        self.os.monotonic_time()
    }

    fn thread_cpu_time(&self) -> Duration {
        self.os.thread_cpu_time()
    }

    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
        self.os.park(word, while_equal, timeout);
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        self.os.wake(word, count);
    }
}

// SAFETY: the guards are those of `os`.
unsafe impl<O: Guards> Guards for Checked<O> {
    unsafe fn install_guard(&self, range: PageRange) -> Result<GuardMechanism, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.install_guard(range) }
    }

    unsafe fn remove_guard(
        &self,
        range: PageRange,
        protection: Protection,
        mechanism: GuardMechanism,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.remove_guard(range, protection, mechanism) }
    }
}
