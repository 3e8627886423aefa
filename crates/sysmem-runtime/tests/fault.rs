//! Fault reports, and that everybody else's handlers work as they did, of signals or of exceptions.
//! Each fault happens in a process of its own.
#![cfg(any(unix, windows))]

mod child;
#[cfg_attr(unix, path = "handlers/unix.rs")]
#[cfg_attr(windows, path = "handlers/windows.rs")]
mod handlers;

use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use child::SIGSEGV;
use handlers::{REPAIRS, install_count, install_repair};
use sysmem::{Account, GiveBack, Native, Os, Protection, Reservation, ReserveOptions, page_size};
use sysmem_runtime::{
    Checked, FaultAll, FaultHandler, Guard, InstallError, fault_all, write_to_stderr,
};

static STACKS: Account = Account::new("stacks");

fn report_faults() {
    std::mem::forget(FaultHandler::install(write_to_stderr).unwrap());
}

fn ready<O: Os>(os: O, npages: usize) -> Reservation<O> {
    let len = npages * page_size();
    let mut memory = Reservation::reserve_in(os, ReserveOptions::new(len), &STACKS).unwrap();
    memory.map(0, len, Protection::ReadWrite).unwrap();
    memory.used(0, len).unwrap();
    memory
}

fn write(address: *mut u8) {
    // SAFETY: faults, which is what is looked for.
    unsafe { address.write_volatile(1) };
}

#[test]
fn a_report_says_what_the_address_was_to_us_and_who_moved_it_there() {
    let test = "a_report_says_what_the_address_was_to_us_and_who_moved_it_there";
    let page = page_size();
    let cases = [
        (
            "guard",
            "writing",
            "a guard of \"stacks\"",
            "1 below and {page} above",
            "install_guard()",
        ),
        ("reserved", "writing", "\"stacks\", Reserved", "last Ready byte is 101 below", "fault()"),
        ("unused", "reading", "\"stacks\", after unused()", "1 below and {page} above", "unused()"),
        ("before used", "writing", "Prepared, before used()", "nothing of it is Ready", "map()"),
        ("read only", "writing", "\"stacks\", Ready and ReadOnly", "", "protect()"),
        ("execute", "executing", "\"stacks\", Ready and ReadWrite", "", "used()"),
        ("crash", "reading", "\"stacks\", Reserved", "nothing of it is Ready", "fault()"),
    ];
    for (which, access, what, distance, call) in cases {
        let ended = child::run(test, which, || {
            report_faults();
            match which {
                "guard" => {
                    let mut memory = ready(Native::NEW, 4);
                    let _guard = Guard::install(&mut memory, page, page).unwrap();
                    write(memory.as_mut_ptr().wrapping_add(page));
                }
                "reserved" => {
                    let mut memory = ready(Native::NEW, 4);
                    memory.fault(2 * page, 2 * page).unwrap();
                    write(memory.as_mut_ptr().wrapping_add(2 * page + 100));
                }
                "unused" => {
                    let mut memory = ready(Checked::new(Native::NEW), 4);
                    write(memory.as_mut_ptr().wrapping_add(page));
                    memory.unused(page, page, GiveBack::Lazy).unwrap();
                    // SAFETY: faults, which is what is looked for.
                    unsafe { memory.as_mut_ptr().wrapping_add(page).read_volatile() };
                }
                "before used" => {
                    let os = Checked::new(Native::NEW);
                    let options = ReserveOptions::new(page);
                    let mut memory = Reservation::reserve_in(os, options, &STACKS).unwrap();
                    memory.map(0, page, Protection::ReadWrite).unwrap();
                    write(memory.as_mut_ptr());
                }
                "read only" => {
                    let mut memory = ready(Native::NEW, 4);
                    memory.protect(0, page, Protection::ReadOnly).unwrap();
                    write(memory.as_mut_ptr());
                }
                "crash" => {
                    let memory = ready(Native::NEW, 4);
                    // SAFETY: what is ours is not used any more.
                    let outcome = unsafe { fault_all(&Native::NEW, FaultAll::Ours) }.unwrap();
                    assert_eq!(outcome.faulted, 4 * page);
                    // SAFETY: faults, which is what is looked for.
                    unsafe { memory.as_mut_ptr().read_volatile() };
                }
                _ => {
                    let memory = ready(Native::NEW, 1);
                    // SAFETY: faults, which is what is looked for.
                    let function: extern "C" fn() =
                        unsafe { std::mem::transmute(memory.as_mut_ptr()) };
                    function();
                }
            }
        });
        let Some(ended) = ended else { continue };
        let text = &ended.stderr;
        assert_eq!(ended.signal, Some(SIGSEGV), "{which}: {text}");
        let reports: Vec<&str> = text.lines().filter(|line| line.starts_with("sysmem: ")).collect();
        assert_eq!(reports.len(), 1, "{which}: {text}");
        if cfg!(any(target_arch = "x86_64", windows)) {
            assert!(reports[0].starts_with(&format!("sysmem: {access} 0x")), "{which}: {text}");
        }
        let distance = distance.replace("{page}", &page.to_string());
        for part in [what, &distance, &format!("; by {call} at {}", file!())] {
            assert!(reports[0].contains(part), "{which}, {part}: {text}");
        }
    }
}

#[test]
fn foreign_faults_end_the_process_as_if_we_were_not_there() {
    let test = "foreign_faults_end_the_process_as_if_we_were_not_there";
    let ended = child::run(test, "null", || {
        report_faults();
        write(ptr::without_provenance_mut(8));
    });
    let Some(ended) = ended else { return };
    assert_eq!(ended.signal, Some(SIGSEGV), "{}", ended.stderr);
    assert!(!ended.stderr.contains("sysmem:"), "{}", ended.stderr);
}

#[test]
fn a_stack_overflow_in_a_thread_is_still_told_by_the_standard_library() {
    #[allow(unconditional_recursion)]
    fn descend(depth: usize) -> usize {
        let room = std::hint::black_box([depth; 512]);
        descend(depth + 1) + room[depth % 512]
    }
    let test = "a_stack_overflow_in_a_thread_is_still_told_by_the_standard_library";
    let ended = child::run(test, "overflow", || {
        report_faults();
        let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(|| descend(0))).collect();
        for thread in threads {
            let _ = thread.join();
        }
    });
    let Some(ended) = ended else { return };
    // On Windows, by the exception itself.
    let signal = ended.signal.expect("it went on");
    assert!(cfg!(windows) || signal == child::SIGABRT, "{signal}: {}", ended.stderr);
    assert!(ended.stderr.contains("has overflowed its stack"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("sysmem:"), "{}", ended.stderr);
}

#[test]
fn handlers_installed_before_and_after_keep_working() {
    let test = "handlers_installed_before_and_after_keep_working";
    let ended = child::run(test, "chain", || {
        let page = page_size();
        let mut memory = ready(Native::NEW, 64);
        memory.protect(0, 64 * page, Protection::ReadOnly).unwrap();
        let start = memory.as_mut_ptr();
        install_repair();
        let handler = FaultHandler::install(write_to_stderr).unwrap();
        assert_eq!(
            FaultHandler::install(write_to_stderr).unwrap_err(),
            InstallError::AlreadyInstalled
        );
        // Before: the fault is reported and repaired.
        write(start);
        assert_eq!(REPAIRS.load(SeqCst), 1);
        // After: all three in turn, in several threads at once.
        install_count();
        let start = start.expose_provenance();
        std::thread::scope(|scope| {
            for thread in 1..9 {
                let address = start + thread * page;
                scope.spawn(move || write(ptr::with_exposed_provenance_mut(address)));
            }
        });
        assert_eq!(REPAIRS.load(SeqCst), 1 + 8 * 101);
        // Gone, but not out of the chain: nothing is reported, and the chain holds.
        drop(handler);
        eprintln!("silent");
        write(ptr::with_exposed_provenance_mut(start + 20 * page));
        assert_eq!(REPAIRS.load(SeqCst), 1 + 9 * 101);
        eprintln!("again");
        let handler = FaultHandler::install(write_to_stderr).unwrap();
        write(ptr::with_exposed_provenance_mut(start + 21 * page));
        assert_eq!(REPAIRS.load(SeqCst), 1 + 10 * 101);
        drop(handler);
    });
    let Some(ended) = ended else { return };
    assert_eq!(ended.signal, None, "{}", ended.stderr);
    let (before, rest) = ended.stderr.split_once("silent").expect(&ended.stderr);
    let (silent, again) = rest.split_once("again").unwrap();
    assert_eq!(before.matches("sysmem: ").count(), 9, "{}", ended.stderr);
    assert_eq!(silent.matches("sysmem: ").count(), 0, "{}", ended.stderr);
    assert_eq!(again.matches("sysmem: ").count(), 1, "{}", ended.stderr);
}
