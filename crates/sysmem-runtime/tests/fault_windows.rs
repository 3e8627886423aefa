//! Fault reports on Windows, where faults are exceptions, and that everybody else's handlers work as
//! they did. Each fault happens in a process of its own.
#![cfg(windows)]

mod child;

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use child::SIGSEGV;
use sysmem::{Account, GiveBack, Native, Os, Protection, Reservation, ReserveOptions, page_size};
use sysmem_runtime::{
    Checked, FaultAll, FaultHandler, Guard, InstallError, fault_all, write_to_stderr,
};
use windows_sys::Win32::Foundation::EXCEPTION_ACCESS_VIOLATION;
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, EXCEPTION_CONTINUE_EXECUTION, EXCEPTION_CONTINUE_SEARCH,
    EXCEPTION_POINTERS,
};
use windows_sys::Win32::System::Memory::{PAGE_READWRITE, VirtualProtect};

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
        ("guard", "writing", "a guard of \"stacks\"", "install_guard()"),
        ("reserved", "writing", "\"stacks\", Reserved", "fault()"),
        ("unused", "reading", "\"stacks\", after unused()", "unused()"),
        ("read only", "writing", "\"stacks\", Ready and ReadOnly", "protect()"),
        ("execute", "executing", "\"stacks\", Ready and ReadWrite", "used()"),
        ("crash", "reading", "\"stacks\", Reserved", ""),
    ];
    for (which, access, what, call) in cases {
        let ended = child::run(test, which, || {
            report_faults();
            let mut memory = ready(Native::NEW, 4);
            match which {
                "guard" => {
                    let _guard = Guard::install(&mut memory, page, page).unwrap();
                    write(memory.as_mut_ptr().wrapping_add(page));
                }
                "reserved" => {
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
                "read only" => {
                    memory.protect(0, page, Protection::ReadOnly).unwrap();
                    write(memory.as_mut_ptr());
                }
                "execute" => {
                    // SAFETY: faults, which is what is looked for.
                    let function: extern "C" fn() =
                        unsafe { std::mem::transmute(memory.as_mut_ptr()) };
                    function();
                }
                _ => {
                    // SAFETY: what is ours is not used any more.
                    let outcome = unsafe { fault_all(&Native::NEW, FaultAll::Ours) }.unwrap();
                    assert_eq!(outcome.faulted, 4 * page);
                    // SAFETY: faults, which is what is looked for.
                    unsafe { memory.as_mut_ptr().read_volatile() };
                }
            }
        });
        let Some(ended) = ended else { continue };
        let text = &ended.stderr;
        assert_eq!(ended.signal, Some(SIGSEGV), "{which}: {text}");
        let reports: Vec<&str> = text.lines().filter(|line| line.starts_with("sysmem: ")).collect();
        assert_eq!(reports.len(), 1, "{which}: {text}");
        assert!(reports[0].starts_with(&format!("sysmem: {access} 0x")), "{which}: {text}");
        assert!(reports[0].contains(what), "{which}: {text}");
        if !call.is_empty() {
            assert!(reports[0].contains(&format!("; by {call} at {}", file!())), "{which}: {text}");
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

static REPAIRS: AtomicUsize = AtomicUsize::new(0);

fn faulted_at(exception: *mut EXCEPTION_POINTERS) -> Option<*mut c_void> {
    // SAFETY: the system gives a valid one.
    let record = unsafe { &*(*exception).ExceptionRecord };
    (record.ExceptionCode == EXCEPTION_ACCESS_VIOLATION)
        .then(|| ptr::with_exposed_provenance_mut(record.ExceptionInformation[1]))
}

/// Makes the page writable and lets the program go on.
unsafe extern "system" fn repair(exception: *mut EXCEPTION_POINTERS) -> i32 {
    let Some(address) = faulted_at(exception) else { return EXCEPTION_CONTINUE_SEARCH };
    let mut before = 0;
    // SAFETY: these tests fault in pages of their own.
    unsafe { VirtualProtect(address, 1, PAGE_READWRITE, &mut before) };
    REPAIRS.fetch_add(1, SeqCst);
    EXCEPTION_CONTINUE_EXECUTION
}

/// Counts, and hands on.
unsafe extern "system" fn count(exception: *mut EXCEPTION_POINTERS) -> i32 {
    if faulted_at(exception).is_some() {
        REPAIRS.fetch_add(100, SeqCst);
    }
    EXCEPTION_CONTINUE_SEARCH
}

#[test]
fn handlers_installed_before_and_after_keep_working() {
    let test = "handlers_installed_before_and_after_keep_working";
    let ended = child::run(test, "chain", || {
        let page = page_size();
        let mut memory = ready(Native::NEW, 64);
        memory.protect(0, 64 * page, Protection::ReadOnly).unwrap();
        let start = memory.as_mut_ptr();
        // SAFETY: a function of that type.
        unsafe { AddVectoredExceptionHandler(1, Some(repair)) };
        let handler = FaultHandler::install(write_to_stderr).unwrap();
        assert_eq!(
            FaultHandler::install(write_to_stderr).unwrap_err(),
            InstallError::AlreadyInstalled
        );
        // Before: the fault is reported and repaired.
        write(start);
        assert_eq!(REPAIRS.load(SeqCst), 1);
        // After: all three in turn, in several threads at once.
        // SAFETY: a function of that type.
        unsafe { AddVectoredExceptionHandler(1, Some(count)) };
        let start = start.expose_provenance();
        std::thread::scope(|scope| {
            for thread in 1..9 {
                let address = start + thread * page;
                scope.spawn(move || write(ptr::with_exposed_provenance_mut(address)));
            }
        });
        assert_eq!(REPAIRS.load(SeqCst), 1 + 8 * 101);
        // Gone: nothing is reported, and the others work.
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

#[test]
fn an_overflow_of_a_thread_s_stack_is_still_told_by_the_standard_library() {
    #[allow(unconditional_recursion)]
    fn descend(depth: usize) -> usize {
        let room = std::hint::black_box([depth; 512]);
        descend(depth + 1) + room[depth % 512]
    }
    let test = "an_overflow_of_a_thread_s_stack_is_still_told_by_the_standard_library";
    let ended = child::run(test, "overflow", || {
        report_faults();
        let _ = std::thread::spawn(|| descend(0)).join();
    });
    let Some(ended) = ended else { return };
    assert!(ended.signal.is_some());
    assert!(!ended.stderr.contains("sysmem:"), "{}", ended.stderr);
}
