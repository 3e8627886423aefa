//! Fault reports, and that everybody else's signal handlers work as they did. Each fault happens
//! in a process of its own.
#![cfg(unix)]

mod child;

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use libc::{SIGABRT, SIGBUS, SIGSEGV, siginfo_t};
use sysmem::{Account, GiveBack, Native, Os, Protection, Reservation, ReserveOptions, page_size};
use sysmem_runtime::{AlternateStack, Checked, FaultHandler, Guard, InstallError, write_to_stderr};

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
        ("guard", "writing", "a guard of \"stacks\"", "1 below and 4096 above", "install_guard()"),
        ("reserved", "writing", "\"stacks\", Reserved", "last Ready byte is 101 below", "fault()"),
        ("unused", "reading", "\"stacks\", after unused()", "1 below and 4096 above", "unused()"),
        ("before used", "writing", "Prepared, before used()", "nothing of it is Ready", "map()"),
        ("read only", "writing", "\"stacks\", Ready and ReadOnly", "", "protect()"),
        ("execute", "executing", "\"stacks\", Ready and ReadWrite", "", "used()"),
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
        if cfg!(target_arch = "x86_64") {
            assert!(reports[0].starts_with(&format!("sysmem: {access} 0x")), "{which}: {text}");
        }
        for part in [what, distance, &format!("; by {call} at {}", file!())] {
            assert!(reports[0].contains(part), "{which}, {part}: {text}");
        }
    }
}

#[test]
fn foreign_faults_end_the_process_as_if_we_were_not_there() {
    let test = "foreign_faults_end_the_process_as_if_we_were_not_there";
    for (which, signal) in
        [("null", SIGSEGV), ("past the end of a file", SIGBUS), ("sent", SIGSEGV)]
    {
        let ended = child::run(test, which, || {
            if which == "sent" {
                // SAFETY: the standard library's handler lets a signal that was sent go by.
                unsafe { libc::signal(SIGSEGV, libc::SIG_DFL) };
            }
            report_faults();
            match which {
                "null" => write(ptr::without_provenance_mut(8)),
                "sent" => {
                    // SAFETY: sends a signal to this thread.
                    unsafe { libc::raise(SIGSEGV) };
                }
                _ => {
                    let path = std::env::current_exe().unwrap();
                    let file = std::fs::File::open(path).unwrap();
                    let len = file.metadata().unwrap().len() as usize + 64 * page_size();
                    let file = std::os::fd::AsRawFd::as_raw_fd(&file);
                    // SAFETY: a mapping of its own.
                    let start = unsafe {
                        libc::mmap(
                            ptr::null_mut(),
                            len,
                            libc::PROT_READ,
                            libc::MAP_PRIVATE,
                            file,
                            0,
                        )
                    };
                    // SAFETY: faults, which is what is looked for.
                    unsafe { start.cast::<u8>().add(len - 1).read_volatile() };
                }
            }
        });
        let Some(ended) = ended else { continue };
        assert_eq!(ended.signal, Some(signal), "{which}: {}", ended.stderr);
        assert!(!ended.stderr.contains("sysmem:"), "{which}: {}", ended.stderr);
    }
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
    assert_eq!(ended.signal, Some(SIGABRT), "{}", ended.stderr);
    assert!(ended.stderr.contains("has overflowed its stack"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("sysmem:"), "{}", ended.stderr);
}

/// A thread without the standard library, whose stack is ours, with a guard below it.
#[test]
fn an_overflow_of_a_stack_of_ours_is_reported_from_the_alternate_stack() {
    extern "C" fn overflow(_: *mut c_void) -> *mut c_void {
        let _stack = AlternateStack::for_this_thread().unwrap();
        #[allow(unconditional_recursion)]
        fn descend(depth: usize) -> usize {
            let room = std::hint::black_box([depth; 64]);
            descend(depth + 1) + room[depth % 64]
        }
        std::hint::black_box(descend(0));
        ptr::null_mut()
    }
    let test = "an_overflow_of_a_stack_of_ours_is_reported_from_the_alternate_stack";
    let ended = child::run(test, "overflow", || {
        report_faults();
        let mut memory = ready(Native::NEW, 64);
        let _guard = Guard::install(&mut memory, 0, page_size()).unwrap();
        let len = memory.len() - page_size();
        // SAFETY: the attributes and the thread live in this function; the stack is ours.
        unsafe {
            let mut attributes = std::mem::zeroed();
            libc::pthread_attr_init(&mut attributes);
            let stack = memory.as_mut_ptr().add(page_size()).cast();
            assert_eq!(libc::pthread_attr_setstack(&mut attributes, stack, len), 0);
            let mut thread = std::mem::zeroed();
            let made = libc::pthread_create(&mut thread, &attributes, overflow, ptr::null_mut());
            assert_eq!(made, 0);
            libc::pthread_join(thread, ptr::null_mut());
        }
    });
    let Some(ended) = ended else { return };
    assert_eq!(ended.signal, Some(SIGSEGV), "{}", ended.stderr);
    assert!(ended.stderr.contains("a guard of \"stacks\""), "{}", ended.stderr);
}

static REPAIRS: AtomicUsize = AtomicUsize::new(0);

/// Makes the page writable and lets the program go on.
extern "C" fn repair(_: i32, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: a fault has an address, and these tests fault in pages of their own.
    unsafe {
        let page = (*info).si_addr().map_addr(|address| address & !(page_size() - 1));
        libc::mprotect(page, page_size(), libc::PROT_READ | libc::PROT_WRITE);
        *libc::__errno_location() = 77;
    }
    REPAIRS.fetch_add(1, SeqCst);
}

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Counts, and hands on to whoever was there before it.
extern "C" fn count_and_hand_on(signal: i32, info: *mut siginfo_t, context: *mut c_void) {
    REPAIRS.fetch_add(100, SeqCst);
    // SAFETY: the handler that was there, which takes three arguments.
    let next: extern "C" fn(i32, *mut siginfo_t, *mut c_void) =
        unsafe { std::mem::transmute(NEXT.load(SeqCst)) };
    next(signal, info, context);
}

fn install(handler: extern "C" fn(i32, *mut siginfo_t, *mut c_void)) {
    // SAFETY: handlers of this test, with the flags they are written for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let mut before: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(SIGSEGV, &action, &mut before), 0);
        NEXT.store(before.sa_sigaction, SeqCst);
    }
}

fn now() -> usize {
    // SAFETY: reads what a signal leads to.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(SIGSEGV, ptr::null(), &mut action);
        action.sa_sigaction
    }
}

#[test]
fn handlers_installed_before_and_after_keep_working() {
    let test = "handlers_installed_before_and_after_keep_working";
    let ended = child::run(test, "chain", || {
        let page = page_size();
        let mut memory = ready(Native::NEW, 64);
        memory.protect(0, 64 * page, Protection::ReadOnly).unwrap();
        let start = memory.as_mut_ptr();
        install(repair);
        let handler = FaultHandler::install(write_to_stderr).unwrap();
        assert_eq!(
            FaultHandler::install(write_to_stderr).unwrap_err(),
            InstallError::AlreadyInstalled
        );
        // Before: the fault is reported and repaired.
        write(start);
        assert_eq!(REPAIRS.load(SeqCst), 1);
        // After: all three in turn, in several threads at once.
        install(count_and_hand_on);
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

#[test]
fn leaves_no_trace_when_it_goes() {
    let test = "leaves_no_trace_when_it_goes";
    let ended = child::run(test, "uninstall", || {
        install(repair);
        let before = now();
        let handler = FaultHandler::install(write_to_stderr).unwrap();
        assert_ne!(now(), before);
        drop(handler);
        assert_eq!(now(), before);
        let stack = AlternateStack::for_this_thread().unwrap();
        drop(stack);
    });
    let Some(ended) = ended else { return };
    assert_eq!(ended.signal, None, "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}
