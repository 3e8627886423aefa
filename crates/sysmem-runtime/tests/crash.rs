//! Simulated crashes in forked children, and sealed memory.
#![cfg(unix)]

mod child;

use std::io::Write;

use sysmem::usage::{self, Detail, Process};
use sysmem::{Account, ErrorKind, Native, Os, Protection, Reservation, ReserveOptions, State};
use sysmem_runtime::{FaultAll, FaultHandler, Sealed, fault_all, write_to_stderr};

static POOL: Account = Account::new("pool");
const MIB: usize = 1 << 20;

fn ready(len: usize) -> Reservation {
    let mut memory = Reservation::reserve(ReserveOptions::new(len), &POOL).unwrap();
    memory.map(0, len, Protection::ReadWrite).unwrap();
    memory.used(0, len).unwrap();
    // SAFETY: all of it is Ready.
    unsafe { memory.as_mut_ptr().write_bytes(1, len) };
    memory
}

/// Prints without a heap: after a crash there is none.
fn say(text: std::fmt::Arguments<'_>) {
    let mut line = [0u8; 512];
    let room = line.len();
    let mut rest = &mut line[..];
    let _ = rest.write_fmt(text);
    let len = room - rest.len();
    // SAFETY: the line is as long as said.
    unsafe { libc::write(2, line.as_ptr().cast(), len) };
}

#[test]
fn everything_that_is_ours_faults_and_is_given_back() {
    let test = "everything_that_is_ours_faults_and_is_given_back";
    let ended = child::run(test, "ours", || {
        std::mem::forget(FaultHandler::install(write_to_stderr).unwrap());
        let (first, second) = (ready(4 * MIB), ready(MIB));
        let reserved = Reservation::reserve(ReserveOptions::new(64 * MIB), &POOL).unwrap();
        let heap = vec![3u8; MIB];
        // SAFETY: what is ours is not used any more.
        let outcome = unsafe { fault_all(&Native::NEW, FaultAll::Ours) }.unwrap();
        assert_eq!(outcome.faulted, 5 * MIB);
        assert_eq!(outcome.refusal, None);
        for memory in [&first, &second, &reserved] {
            assert_eq!(
                memory.state(0).unwrap(),
                (State::Reserved, Protection::NoAccess, memory.len())
            );
            assert_eq!(memory.resident_bytes(0, memory.len()).unwrap(), 0);
        }
        assert_eq!(POOL.figures().ready, 0);
        assert_eq!(heap[MIB - 1], 3, "what is not ours is as it was");
        eprintln!("all as it should be");
        // SAFETY: faults, which is what is looked for.
        unsafe { second.as_mut_ptr().read_volatile() };
    });
    let Some(ended) = ended else { return };
    assert_eq!(ended.signal, Some(libc::SIGSEGV), "{}", ended.stderr);
    assert!(ended.stderr.contains("all as it should be"), "{}", ended.stderr);
    assert!(ended.stderr.contains("\"pool\", Reserved"), "{}", ended.stderr);
}

#[test]
fn the_whole_process_faults_but_for_what_does_it() {
    let test = "the_whole_process_faults_but_for_what_does_it";
    for which in ["first thread", "another thread"] {
        let ended = child::run(test, which, || {
            let crash = || {
                let heap = vec![7u8; 16 * MIB];
                let foreign = heap.as_ptr();
                let ours = ready(MIB);
                let address = ours.as_mut_ptr();
                let os = Native::NEW;
                // SAFETY: a process of its own, which uses no heap any more.
                let outcome = unsafe { fault_all(&os, FaultAll::Process) };
                let Ok(outcome) = outcome else {
                    say(format_args!("failed\n"));
                    // SAFETY: ends the process.
                    unsafe { libc::_exit(1) };
                };
                let (mut inaccessible, mut gone) = (0, 0);
                let mut buffer = [0; 64 << 10];
                let _ =
                    usage::mappings(Process::Own, Detail::Counters, &mut buffer, &mut |mapping| {
                        let holds = |address| (mapping.start..mapping.end).contains(&address);
                        if holds(foreign.addr()) || holds(address.addr()) {
                            gone += usize::from(!mapping.accessible());
                        }
                        inaccessible += usize::from(!mapping.accessible());
                    });
                say(format_args!(
                    "faulted {} MiB, gone {gone}, inaccessible {inaccessible}, left {} {}, {}\n",
                    outcome.faulted >> 20,
                    outcome.left_files > MIB,
                    outcome.left_needed > 0,
                    outcome.refusal.is_none(),
                ));
                // SAFETY: faults, which is what is looked for.
                unsafe { foreign.add(8 * MIB).read_volatile() };
            };
            match which {
                "first thread" => crash(),
                _ => std::thread::scope(|scope| drop(scope.spawn(crash).join())),
            }
        });
        let Some(ended) = ended else { continue };
        let text = &ended.stderr;
        assert_eq!(ended.signal, Some(libc::SIGSEGV), "{which}: {text}");
        let line = text.lines().find(|line| line.starts_with("faulted ")).expect(text);
        let megabytes: usize = line.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(megabytes >= 17, "{which}: {text}");
        assert!(line.contains("left true true, true"), "{which}: {text}");
        assert!(line.contains("gone 1,") || line.contains("gone 2,"), "{which}: {text}");
    }
}

#[test]
fn sealed_memory_can_be_read_and_neither_changed_nor_taken() {
    let mut memory = ready(4 * sysmem::page_size());
    let len = memory.len();
    let (again, error) = Sealed::new(memory).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::WrongProtection { found: Protection::ReadWrite },
        "only what cannot be written is sealed"
    );
    memory = again;
    memory.protect(0, len, Protection::ReadOnly).unwrap();
    match (Sealed::new(memory), Sealed::supported()) {
        (Ok(sealed), supported) => {
            assert_eq!(supported, Some("mseal"));
            assert!(sealed.bytes().iter().all(|&byte| byte == 1));
            let start = sealed.bytes().as_ptr().cast_mut().cast();
            // SAFETY: the kernel refuses all of them; that is what is looked for.
            unsafe {
                assert_eq!(libc::mprotect(start, len, libc::PROT_READ | libc::PROT_WRITE), -1);
                assert_eq!(libc::munmap(start, len), -1);
                assert_eq!(libc::madvise(start, len, libc::MADV_DONTNEED), -1);
            }
            assert!(sealed.bytes().iter().all(|&byte| byte == 1));
            // The registry still knows it, so a fault there is reported as ours.
            let found = Native::NEW.registry().find(start.addr()).unwrap();
            assert_eq!(found.len(), len);
        }
        (Err((memory, error)), supported) => {
            eprintln!("this kernel does not seal: {error}");
            assert_eq!((error.kind(), supported), (ErrorKind::NotSupported, None));
            assert_eq!(memory.len(), len);
        }
    }
}
