//! What only signals do: foreign ones of all kinds, stacks for their handlers, and the way back.
#![cfg(unix)]

mod child;
#[path = "handlers/unix.rs"]
mod handlers;

use std::ffi::{c_int, c_void};
use std::ptr;

use handlers::{install_repair, now};
use libc::{SIGBUS, SIGSEGV};
use sysmem::{Account, Native, Protection, Reservation, ReserveOptions, page_size};
use sysmem_runtime::{AlternateStack, FaultHandler, Guard, write_to_stderr};

unsafe extern "C" {
    // <pthread.h>; the libc crate has it not for every system.
    fn pthread_attr_setstack(
        attributes: *mut libc::pthread_attr_t,
        stack: *mut c_void,
        len: usize,
    ) -> c_int;
}

static STACKS: Account = Account::new("stacks");

fn report_faults() {
    std::mem::forget(FaultHandler::install(write_to_stderr).unwrap());
}

#[test]
fn signals_that_are_not_ours_end_the_process_as_if_we_were_not_there() {
    let test = "signals_that_are_not_ours_end_the_process_as_if_we_were_not_there";
    for (which, signal) in [("past the end of a file", SIGBUS), ("sent", SIGSEGV)] {
        let ended = child::run(test, which, || {
            if which == "sent" {
                // SAFETY: the standard library's handler lets a signal that was sent go by.
                unsafe { libc::signal(SIGSEGV, libc::SIG_DFL) };
            }
            report_faults();
            match which {
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
        let len = 64 * page_size();
        let options = ReserveOptions::new(len).stacks(true);
        let mut memory = Reservation::reserve_in(Native::NEW, options, &STACKS).unwrap();
        memory.map(0, len, Protection::ReadWrite).unwrap();
        memory.used(0, len).unwrap();
        let _guard = Guard::install(&mut memory, 0, page_size()).unwrap();
        let len = memory.len() - page_size();
        // SAFETY: the attributes and the thread live in this function; the stack is ours.
        unsafe {
            let mut attributes = std::mem::zeroed();
            libc::pthread_attr_init(&mut attributes);
            let stack = memory.as_mut_ptr().add(page_size()).cast();
            assert_eq!(pthread_attr_setstack(&mut attributes, stack, len), 0);
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

#[test]
fn leaves_no_trace_when_it_goes() {
    let test = "leaves_no_trace_when_it_goes";
    let ended = child::run(test, "uninstall", || {
        install_repair();
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
