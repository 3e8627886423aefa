//! Simulated crashes of processes on simulated kernels, each of which lists its mappings in its own
//! way.

use sysmem::os::freebsd::FreeBsd;
use sysmem::os::netbsd::NetBsd;
use sysmem::os::openbsd::OpenBsd;
use sysmem::sim::{self, Faulty, Settings, Simulated, System};
use sysmem::usage::Usage;
use sysmem::{
    Account, Errno, ErrorKind, MemoryObjects, Operation, PageRange, Protection, Reservation,
    ReserveOptions,
};
use sysmem_runtime::{FaultAll, fault_all};

static POOL: Account = Account::new("simulated pool");
const MIB: usize = 1 << 20;

/// More mappings than the first buffer has room for on NetBSD (1,128 bytes each).
const MAPPINGS: usize = 300;

/// Takes a process away that has memory of ours in some states, memory of others, and, where the
/// system has that, a view of an object.
fn crash<S: System, O: Usage + MemoryObjects + Clone>(
    os: impl Fn(Simulated<S>) -> O,
    tells_shared: bool,
) {
    let kernel = Simulated::<S>::start(Settings::real(256 * MIB));
    let os = os(kernel.clone());
    let page = os.page_size();
    let options = ReserveOptions::new(MAPPINGS * 2 * page);
    let mut striped = Reservation::reserve_in(os.clone(), options, &POOL).unwrap();
    for index in 0..MAPPINGS {
        let offset = index * 2 * page;
        striped.map(offset, page, Protection::ReadWrite).unwrap();
        striped.used(offset, page).unwrap();
        // SAFETY: Ready.
        unsafe { striped.as_mut_ptr().add(offset).write(7) };
    }
    let other = os.alloc(MIB).unwrap();
    let reserved = os.reserve(&ReserveOptions::new(MIB)).unwrap();
    // There is memory to be seen twice where the host has it.
    let object = os.create_object(MIB).ok().filter(|_| cfg!(target_os = "linux"));
    let view = object.as_ref().map(|object| {
        let options = ReserveOptions::new(MIB);
        let mut view = Reservation::reserve_view_in(os.clone(), options, &POOL, object).unwrap();
        view.map_object(0, MIB, Protection::ReadWrite, object).unwrap();
        // SAFETY: Ready.
        unsafe { view.as_mut_ptr().write(9) };
        view
    });
    let accessible = kernel.totals().accessible;
    let shared = view.as_ref().map_or(0, |view| if tells_shared { view.len() } else { 0 });

    // SAFETY: the simulated process is not used any more.
    let outcome = unsafe { fault_all(&os, FaultAll::Process) }.unwrap();
    assert_eq!(outcome.refusal, None);
    assert_eq!(outcome.left_shared, shared);
    assert_eq!(outcome.faulted, accessible - shared);
    assert_eq!(kernel.totals().accessible, shared, "the buffer for the list is gone, too");
    let at = |pointer: *mut u8| kernel.protection_at(pointer.addr());
    for pointer in [striped.as_mut_ptr(), other.as_ptr(), reserved.as_ptr()] {
        assert_eq!(at(pointer), Some(Protection::NoAccess));
    }
    if let (Some(view), Some(object)) = (&view, object) {
        let expected = if tells_shared { Protection::ReadWrite } else { Protection::NoAccess };
        assert_eq!(at(view.as_mut_ptr()), Some(expected));
        // What others see of the object is as it was.
        let options = ReserveOptions::new(MIB);
        let start = os.reserve_view(&options, &object).unwrap();
        let range = PageRange::new(start.as_ptr(), MIB);
        // SAFETY: just reserved.
        unsafe { os.map_object(range, Protection::ReadOnly, &object, 0) }.unwrap();
        // SAFETY: Ready.
        assert_eq!(unsafe { start.read() }, 9);
        os.close_object(object);
    }
    // The registry is gone with the rest.
    std::mem::forget((striped, view));
}

#[test]
fn every_private_mapping_of_the_process_faults() {
    crash(FreeBsd::<Simulated<sim::FreeBsd>>::new, true);
    crash(OpenBsd::<Simulated<sim::OpenBsd>>::new, true);
    // Shared memory cannot be told there; the object keeps what it held.
    crash(NetBsd::<Simulated<sim::NetBsd>>::new, false);
}

#[test]
fn a_list_that_cannot_be_had_is_the_error_and_nothing_faults() {
    let kernel = Simulated::<sim::OpenBsd>::start(Settings::real(64 * MIB));
    let faulty = Faulty::new(kernel.clone());
    let os = OpenBsd::new(faulty.clone());
    let memory = Reservation::alloc_in(os.clone(), MIB, &POOL).unwrap();
    let accessible = kernel.totals().accessible;
    // EPERM: a sandbox (pledge(2), unveil(2)) may refuse the list.
    faulty.fail_when(|_, call| matches!(call, sim::Call::Sysctl { .. }).then_some(Errno(1)));
    // SAFETY: nothing is taken away.
    let error = unsafe { fault_all(&os, FaultAll::Process) }.unwrap_err();
    assert_eq!((error.operation(), error.kind()), (Operation::Usage, ErrorKind::Denied));
    assert_eq!(kernel.totals().accessible, accessible);
    // SAFETY: Ready.
    unsafe { memory.as_mut_ptr().write_bytes(1, MIB) };
}
