//! Sealed memory on simulated kernels: what refuses to change says so, and where there are no seals
//! the reservation comes back.
//!
//! The memory of a simulated process goes with its kernel, so what the seal promises for good holds
//! as long as the kernel lives.

use sysmem::os::darwin::Darwin;
use sysmem::os::dragonfly::DragonFly;
use sysmem::os::freebsd::FreeBsd;
use sysmem::os::illumos::Illumos;
use sysmem::os::linux::Linux;
use sysmem::os::netbsd::NetBsd;
use sysmem::os::openbsd::OpenBsd;
use sysmem::os::windows::Windows;
use sysmem::sim::{self, Settings, Simulated, System};
use sysmem::usage::Usage;
use sysmem::{
    Account, Errno, Error, ErrorKind, GiveBack, Guards, Operation, Os, PageRange, Policy,
    Protection, Reservation, Sealing, State,
};
use sysmem_runtime::{FaultAll, Sealed, fault_all};

static TABLES: Account = Account::new("tables");
const LEN: usize = 4 * 4096;
const EPERM: ErrorKind = ErrorKind::System(Errno(1));

/// Memory that holds sevens and can only be read.
fn table<O: Os>(os: O) -> Reservation<O> {
    let mut table = Reservation::alloc_in(os, LEN, &TABLES).unwrap();
    // SAFETY: allocated memory is Ready.
    unsafe { table.as_mut_ptr().write_bytes(7, LEN) };
    table.protect(0, LEN, Protection::ReadOnly).unwrap();
    table
}

type Try<'t> = &'t dyn Fn() -> Result<(), Error>;

/// Tries to change what is sealed in every way there is.
fn nothing_changes_it<S: System, O: Sealing + Guards + Clone>(kernel: &Simulated<S>, os: O) {
    let mapped = kernel.totals().mapped;
    let sealed = Sealed::new(table(os.clone())).map_err(|(_, error)| error).unwrap();
    let range = PageRange::new(sealed.bytes().as_ptr().cast_mut(), LEN);
    let page = PageRange::new(range.start, 4096);
    let policy = Policy::DEFAULT;
    // SAFETY: each is refused, which is what is looked for.
    let protect = |range, protection| unsafe { os.protect(range, protection) };
    // SAFETY: as above.
    let unused = || unsafe { os.unused(range, Protection::ReadOnly, GiveBack::Eager, policy) };
    // SAFETY: as above.
    let fault = || unsafe { os.fault(page, policy) };
    // SAFETY: as above.
    let free = || unsafe { os.free(range) };
    // SAFETY: as above.
    let guard = || unsafe { os.install_guard(page) }.map(drop);
    let tries: [(Operation, Try<'_>); 6] = [
        (Operation::Protect, &|| protect(range, Protection::ReadWrite)),
        (Operation::Protect, &|| protect(page, Protection::NoAccess)),
        (Operation::Unused, &unused),
        (Operation::Fault, &fault),
        (Operation::Free, &free),
        (Operation::Guard, &guard),
    ];
    for (operation, change) in tries {
        let error = change().unwrap_err();
        assert_eq!((error.operation(), error.kind()), (operation, EPERM), "{error}");
        assert!(error.to_string().contains("EPERM"), "{error}");
        assert!(sealed.bytes().iter().all(|&byte| byte == 7), "{operation:?}");
    }
    assert!(kernel.totals().mapped >= mapped + LEN);
    assert_eq!(kernel.protection_at(range.start.addr()), Some(Protection::ReadOnly));
    kernel.verify();
}

#[test]
fn sealed_memory_refuses_every_change_and_says_so() {
    for version in [(6, 10), (6, 18)] {
        let kernel = Simulated::new(Settings { version, ..Settings::real(1 << 24) });
        nothing_changes_it(&kernel, Linux::new(kernel.clone()));
    }
    let kernel = Simulated::<sim::OpenBsd>::start(Settings::real(1 << 24));
    nothing_changes_it(&kernel, OpenBsd::new(kernel.clone()));
}

/// A crash leaves what is sealed, and the books say of it what is true.
fn a_crash_leaves_it<O: Sealing + Usage + Clone>(os: O, what: FaultAll) {
    let sealed = Sealed::new(table(os.clone())).map_err(|(_, error)| error).unwrap();
    let address = sealed.bytes().as_ptr().addr();
    // SAFETY: the simulated process uses nothing else.
    let outcome = unsafe { fault_all(&os, what) }.unwrap();
    assert_eq!(outcome.left_refused, LEN);
    let refusal = outcome.refusal.unwrap();
    assert_eq!((refusal.operation(), refusal.kind()), (Operation::Fault, EPERM), "{refusal}");
    assert_eq!(refusal.address(), address);
    assert!(sealed.bytes().iter().all(|&byte| byte == 7));
    if what == FaultAll::Ours {
        let found = os.registry().find(address).unwrap();
        assert_eq!(found.state_at(address, &os), Some((State::Ready, Protection::ReadOnly)));
    }
}

#[test]
fn a_simulated_crash_leaves_what_is_sealed_and_says_so() {
    for what in [FaultAll::Ours, FaultAll::Process] {
        let openbsd = Simulated::<sim::OpenBsd>::start(Settings::real(1 << 24));
        a_crash_leaves_it(OpenBsd::new(openbsd), what);
    }
}

/// Gives the reservation back as it was.
fn is_not_here<O: Sealing>(os: O) {
    assert_eq!(os.sealing_name(), "not here");
    comes_back(os);
}

fn comes_back<O: Sealing>(os: O) {
    let (mut table, error) = Sealed::new(table(os)).unwrap_err();
    assert_eq!((error.operation(), error.kind()), (Operation::Seal, ErrorKind::NotSupported));
    assert_eq!(error.to_string().matches("does not have it").count(), 1, "{error}");
    table.protect(0, LEN, Protection::ReadWrite).unwrap();
    // SAFETY: Ready and writable again.
    unsafe { table.as_mut_ptr().write(8) };
}

#[test]
fn where_there_are_no_seals_the_reservation_comes_back() {
    let settings = || Settings::real(1 << 24);
    is_not_here(FreeBsd::new(Simulated::<sim::FreeBsd>::start(settings())));
    is_not_here(NetBsd::new(Simulated::<sim::NetBsd>::start(settings())));
    is_not_here(DragonFly::new(Simulated::<sim::DragonFly>::start(settings())));
    is_not_here(Illumos::new(Simulated::<sim::Illumos>::start(settings())));
    is_not_here(Darwin::new(Simulated::<sim::Darwin>::start(settings())));
    is_not_here(Windows::new(Simulated::<sim::Windows>::start(settings())));
    let old = Settings { version: (6, 9), ..settings() };
    comes_back(Linux::new(Simulated::new(old)));
}

#[test]
fn only_memory_that_is_ready_and_cannot_be_written_to_is_sealed() {
    let os = Linux::new(Simulated::new(Settings::real(1 << 24)));
    let mut memory = table(os);
    memory.protect(4096, 4096, Protection::ReadWrite).unwrap();
    let (mut memory, error) = Sealed::new(memory).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongProtection { found: Protection::ReadWrite });
    assert_eq!(error.address(), memory.as_mut_ptr().addr() + 4096);
    memory.fault(4096, 4096).unwrap();
    let (_, error) = Sealed::new(memory).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState { found: State::Reserved });
}
