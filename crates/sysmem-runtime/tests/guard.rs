//! Guards on the running kernel and where the kernel has no light ones.

#[cfg(unix)]
mod child;

use sysmem::os::linux::Linux;
use sysmem::sim::{Faulty, Settings, Simulated};
use sysmem::{
    Account, Errno, ErrorKind, GiveBack, GuardMechanism, Guards, Os, Protection, Reservation,
    ReserveOptions, State,
};
use sysmem_runtime::Guard;

fn ready<O: Os>(os: O, npages: usize) -> Reservation<O> {
    let account: &'static Account = Box::leak(Box::new(Account::new("guarded")));
    let len = npages * os.page_size();
    let mut memory = Reservation::reserve_in(os, ReserveOptions::new(len), account).unwrap();
    memory.map(0, len, Protection::ReadWrite).unwrap();
    memory.used(0, len).unwrap();
    // SAFETY: all of it is Ready.
    unsafe { memory.as_mut_ptr().write_bytes(7, len) };
    memory
}

fn native(npages: usize) -> Reservation {
    ready(sysmem::Native::NEW, npages)
}

#[cfg(target_os = "linux")]
/// The mappings of this process that overlap a reservation.
fn mappings_of(memory: &Reservation) -> usize {
    let start = memory.as_mut_ptr().addr();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let hexadecimal = |text| usize::from_str_radix(text, 16).unwrap();
    maps.lines()
        .filter(|line| {
            let (from, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            hexadecimal(from) < start + memory.len() && hexadecimal(end) > start
        })
        .count()
}

#[cfg(target_os = "linux")]
#[test]
fn light_guards_split_no_mapping() {
    let page = sysmem::page_size();
    let mut memory = native(256);
    let before = mappings_of(&memory);
    let guards: Vec<Guard> = (0..100)
        .map(|index| Guard::install(&mut memory, 2 * index * page, page).unwrap())
        .collect();
    match guards[0].mechanism() {
        GuardMechanism::Marker => assert_eq!(mappings_of(&memory), before),
        mechanism => {
            eprintln!("this kernel has no light guards, but {mechanism}");
            assert!(mappings_of(&memory) > before);
        }
    }
    for guard in guards {
        guard.remove(&mut memory).map_err(|(_, error)| error).unwrap();
    }
    assert_eq!(mappings_of(&memory), before);
}

/// What holds for every mechanism.
fn guards_keep_their_promises<O: Guards>(mut memory: Reservation<O>) {
    let page = memory.os().page_size();
    let ready = memory.account().figures().ready as usize;
    let guard = Guard::install(&mut memory, page, 2 * page).unwrap();
    assert!(memory.is_guard(page) && memory.is_guard(2 * page));
    assert!(!memory.is_guard(0) && !memory.is_guard(3 * page));
    assert_eq!(memory.state(page).unwrap().0, State::Reserved);
    assert_eq!(memory.account().figures().ready as usize, ready - 2 * page);
    let found = memory.os().registry().find(memory.as_mut_ptr().addr()).unwrap();
    assert!(found.is_guard(found.address() + page, memory.os()));
    assert_eq!(
        found.nearest_ready(found.address() + page + 10, memory.os()),
        (Some(found.address() + page - 1), Some(found.address() + 3 * page))
    );

    let refused = |result: Result<(), sysmem::Error>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Guard);
    };
    let whole = memory.len();
    refused(memory.fault(0, whole));
    refused(memory.unused(0, whole, GiveBack::Eager));
    refused(memory.protect(page, page, Protection::ReadOnly));
    refused(memory.map(page, page, Protection::ReadWrite));
    refused(memory.used(2 * page, 2 * page));
    refused(memory.install_guard(2 * page, 2 * page).map(drop));
    refused(memory.install_guard(0, 2 * page).map(drop));
    // What was refused changed nothing.
    assert_eq!(memory.account().figures().ready as usize, ready - 2 * page);

    guard.remove(&mut memory).map_err(|(_, error)| error).unwrap();
    assert_eq!(memory.account().figures().ready as usize, ready);
    for offset in 0..4 * page {
        let expected = if (page..3 * page).contains(&offset) { 0 } else { 7 };
        // Elsewhere what was guarded is unspecified.
        if expected == 0 && !cfg!(target_os = "linux") {
            continue;
        }
        // SAFETY: all of it is Ready again.
        assert_eq!(unsafe { memory.as_mut_ptr().add(offset).read() }, expected, "at {offset}");
    }
    // A guard keeps the protection of what it stands in.
    memory.protect(0, page, Protection::ReadOnly).unwrap();
    let guard = Guard::install(&mut memory, 0, page).unwrap();
    guard.remove(&mut memory).map_err(|(_, error)| error).unwrap();
    assert_eq!(memory.state(0).unwrap().1, Protection::ReadOnly);
    // SAFETY: Ready, to be read.
    let byte = unsafe { memory.as_mut_ptr().read_volatile() };
    assert!(byte == 0 || !cfg!(target_os = "linux"));
    assert_eq!(
        memory.install_guard(0, 2 * page).unwrap_err().kind(),
        ErrorKind::WrongProtection { found: Protection::ReadWrite }
    );
}

#[test]
fn guards_keep_their_promises_on_the_running_kernel() {
    guards_keep_their_promises(native(8));
    guards_keep_their_promises(native(1000));
}

#[test]
fn guards_keep_their_promises_where_only_protection_is_left() {
    for settings in [Settings::heap(1 << 22), Settings::real(1 << 30)] {
        let kernel = Simulated::new(settings);
        let mut memory = ready(Linux::new(kernel.clone()), 8);
        let page = memory.os().page_size();
        let guard = Guard::install(&mut memory, 0, page).unwrap();
        assert_eq!(guard.mechanism(), GuardMechanism::NoAccess);
        assert_eq!(kernel.protection_at(memory.as_mut_ptr().addr()), Some(Protection::NoAccess));
        guard.remove(&mut memory).map_err(|(_, error)| error).unwrap();
        guards_keep_their_promises(ready(Linux::new(kernel), 8));
    }
}

#[test]
fn a_guard_is_not_removed_from_another_reservation() {
    let (mut one, mut other) = (native(4), native(4));
    let guard = Guard::install(&mut one, 0, sysmem::page_size()).unwrap();
    let (guard, error) = guard.remove(&mut other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfBounds { len: other.len() });
    guard.remove(&mut one).map_err(|(_, error)| error).unwrap();
}

#[cfg(unix)]
#[test]
fn reads_and_writes_of_a_guard_fault_also_in_a_forked_child() {
    let test = "reads_and_writes_of_a_guard_fault_also_in_a_forked_child";
    for which in ["read", "write", "forked"] {
        let ended = child::run(test, which, || {
            let mut memory = native(4);
            let page = sysmem::page_size();
            let _guard = Guard::install(&mut memory, page, page).unwrap();
            let guarded = memory.as_mut_ptr().wrapping_add(page);
            match which {
                // SAFETY: faults, which is what is looked for.
                "read" => drop(unsafe { guarded.add(page - 1).read_volatile() }),
                // SAFETY: as above.
                "write" => unsafe { guarded.write_volatile(1) },
                // SAFETY: the child does nothing but touch memory.
                _ => match unsafe { libc::fork() } {
                    // SAFETY: as above.
                    0 => unsafe { guarded.write_volatile(1) },
                    child => {
                        let mut status = 0;
                        // SAFETY: waits for the child just made.
                        unsafe { libc::waitpid(child, &mut status, 0) };
                        assert!(libc::WIFSIGNALED(status));
                        // SAFETY: the signal that the child died of, without the handler that the
                        // standard library has for it.
                        unsafe {
                            libc::signal(libc::WTERMSIG(status), libc::SIG_DFL);
                            libc::raise(libc::WTERMSIG(status));
                        }
                    }
                },
            }
        });
        let Some(ended) = ended else { continue };
        assert_eq!(ended.signal, Some(libc::SIGSEGV), "{which}: {}", ended.stderr);
    }
}

/// While any one call to the kernel fails, a guard is there or it is not, and the books say so.
#[test]
fn a_failure_at_any_call_leaves_a_guard_or_none() {
    let mut failures = 0;
    for n in 0.. {
        let faulty = Faulty::new(Simulated::new(Settings::heap(1 << 22)));
        let mut memory = ready(Linux::new(faulty.clone()), 8);
        let page = memory.os().page_size();
        let whole = memory.account().figures().ready as usize;
        faulty.fail_nth(n, Errno(12));
        let installed = Guard::install(&mut memory, page, 2 * page);
        let guarded = installed.is_ok();
        assert_eq!((memory.is_guard(page), memory.is_guard(2 * page)), (guarded, guarded));
        let left = if guarded { whole - 2 * page } else { whole };
        assert_eq!(memory.account().figures().ready as usize, left, "call {n} failed");
        let mut guard = installed.map_err(|_| failures += 1).ok();
        if let Some(installed) = guard.take() {
            if let Err((again, _)) = installed.remove(&mut memory) {
                failures += 1;
                assert!(memory.is_guard(page));
                guard = Some(again);
            }
        }
        let calls = faulty.calls();
        faulty.fail_nothing();
        if let Some(guard) = guard {
            guard.remove(&mut memory).map_err(|(_, error)| error).unwrap();
        }
        assert_eq!(memory.account().figures().ready as usize, whole, "call {n} failed");
        // SAFETY: all of it is Ready.
        unsafe { memory.as_mut_ptr().write_bytes(1, memory.len()) };
        if calls <= n {
            assert!(failures >= 2, "install and remove are refused at least once each");
            return;
        }
    }
}
