//! Guards on the running kernel and where the kernel has no light ones.

#[cfg(unix)]
mod child;

use sysmem::os::linux::{Linux, LinuxCalls};
use sysmem::os::netbsd::NetBsd;
use sysmem::sim::{self, Faulty, Settings, Simulated};
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
fn survives_every_failure<K: LinuxCalls + Clone>(kernel: impl Fn() -> Faulty<K>) {
    let mut failures = 0;
    for n in 0.. {
        let faulty = kernel();
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
            break;
        }
    }
    assert!(failures > 0, "some call is needed to install or to remove");
}

#[test]
fn a_failure_at_any_call_leaves_a_guard_or_none() {
    survives_every_failure(|| Faulty::new(Simulated::new(Settings::heap(1 << 22))));
}

/// Light guards, where the running kernel has them.
#[cfg(target_os = "linux")]
#[test]
fn a_failure_at_any_call_to_the_running_kernel_leaves_a_guard_or_none() {
    survives_every_failure(|| Faulty::new(*sysmem::Native::NEW.kernel()));
}

/// A guard below each of 300 stacks: more than go to a kernel in one call.
fn a_row_keeps_its_promises<O: Guards>(mut memory: Reservation<O>) {
    let page = memory.os().page_size();
    let (stride, count) = (3 * page, memory.len() / (3 * page));
    let ready = memory.account().figures().ready as usize;
    let row = Guard::install_row(&mut memory, page, page, stride, count).unwrap();
    assert_eq!((row.count(), row.stride(), row.len(), row.offset()), (count, stride, page, page));
    assert_eq!(memory.account().figures().ready as usize, ready - count * page);
    for npage in 0..memory.len() / page {
        assert_eq!(memory.is_guard(npage * page), npage % 3 == 1 && npage / 3 < count, "{npage}");
    }
    let mut refused = |offset, len, stride, count, kind| {
        let error = Guard::install_row(&mut memory, offset, len, stride, count).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    };
    refused(0, page, stride, 0, ErrorKind::Empty);
    refused(0, page, page + 1, 2, ErrorKind::Unaligned { multiple: page });
    refused(0, page, page, 2, ErrorKind::Guard);
    refused(0, 2 * page, page, 2, ErrorKind::Guard);
    let whole = ErrorKind::OutOfBounds { len: count * stride };
    refused(0, page, stride, count + 1, whole);
    refused(0, page, usize::MAX & !(page - 1), 3, whole);
    // What was refused changed nothing.
    assert_eq!(memory.account().figures().ready as usize, ready - count * page);
    row.remove(&mut memory).map_err(|(_, error)| error).unwrap();
    assert_eq!(memory.account().figures().ready as usize, ready);
    // SAFETY: all of it is Ready again.
    unsafe { memory.as_mut_ptr().write_bytes(1, memory.len()) };
    memory.protect(0, page, Protection::ReadOnly).unwrap();
    let error = Guard::install_row(&mut memory, 0, page, stride, 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongProtection { found: Protection::ReadWrite });
}

#[test]
fn a_row_of_guards_is_installed_and_removed_together() {
    a_row_keeps_its_promises(native(900));
    for settings in [Settings::heap(1 << 23), Settings::real(1 << 30)] {
        a_row_keeps_its_promises(ready(Linux::new(Simulated::new(settings)), 900));
    }
    let netbsd = NetBsd::new(Simulated::<sim::NetBsd>::start(Settings::real(1 << 30)));
    a_row_keeps_its_promises(ready(netbsd, 900));
}

#[cfg(target_os = "linux")]
#[test]
fn a_row_of_light_guards_splits_no_mapping_and_faults_everywhere() {
    let test = "a_row_of_light_guards_splits_no_mapping_and_faults_everywhere";
    let page = sysmem::page_size();
    let mut memory = native(900);
    let before = mappings_of(&memory);
    let row = Guard::install_row(&mut memory, 0, page, 3 * page, 300).unwrap();
    match row.mechanism() {
        GuardMechanism::Marker => assert_eq!(mappings_of(&memory), before),
        _ => assert!(mappings_of(&memory) > before),
    }
    for which in ["first", "in the middle", "last"] {
        let ended = child::run(test, which, || {
            let index = match which {
                "first" => 0,
                "last" => 299,
                _ => 150,
            };
            // SAFETY: faults, which is what is looked for.
            unsafe { memory.as_mut_ptr().add(index * 3 * page).write_volatile(1) };
        });
        let Some(ended) = ended else { continue };
        assert_eq!(ended.signal, Some(libc::SIGSEGV), "{which}: {}", ended.stderr);
    }
    row.remove(&mut memory).map_err(|(_, error)| error).unwrap();
    assert_eq!(mappings_of(&memory), before);
}

/// While any one call to the kernel fails, all guards of a row are there or none, and what could
/// not be removed is handed back.
fn rows_survive_every_failure<K: LinuxCalls + Clone>(kernel: impl Fn() -> Faulty<K>, errno: Errno) {
    for n in 0.. {
        let faulty = kernel();
        let mut memory = ready(Linux::new(faulty.clone()), 12);
        let page = memory.os().page_size();
        let whole = memory.account().figures().ready as usize;
        faulty.fail_nth(n, errno);
        let installed = Guard::install_row(&mut memory, page, page, 3 * page, 4);
        let left = if installed.is_ok() { whole - 4 * page } else { whole };
        assert_eq!(memory.account().figures().ready as usize, left, "call {n} failed");
        let mut row = installed.ok();
        if let Some(installed) = row.take() {
            if let Err((rest, _)) = installed.remove(&mut memory) {
                let guards = (0..12).filter(|index| memory.is_guard(index * page)).count();
                assert_eq!(guards, rest.count());
                row = Some(rest);
            }
        }
        let calls = faulty.calls();
        faulty.fail_nothing();
        if let Some(rest) = row {
            rest.remove(&mut memory).map_err(|(_, error)| error).unwrap();
        }
        assert_eq!(memory.account().figures().ready as usize, whole, "call {n} failed");
        // SAFETY: all of it is Ready.
        unsafe { memory.as_mut_ptr().write_bytes(1, memory.len()) };
        if calls <= n {
            return;
        }
    }
}

#[test]
fn a_failure_at_any_call_leaves_a_row_or_none() {
    let kernel = || Faulty::new(Simulated::new(Settings::heap(1 << 22)));
    rows_survive_every_failure(kernel, Errno(12));
}

/// Light guards, where the running kernel has them: also when it takes no such advice of many
/// ranges, which it is not asked again then (EPERM).
#[cfg(target_os = "linux")]
#[test]
fn a_failure_at_any_call_to_the_running_kernel_leaves_a_row_or_none() {
    for errno in [12, 22, 1] {
        rows_survive_every_failure(|| Faulty::new(*sysmem::Native::NEW.kernel()), Errno(errno));
    }
}
