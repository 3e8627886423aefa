//! Somebody else's signal handlers.
#![allow(dead_code)] // Not every test installs all.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use libc::{SIGSEGV, siginfo_t};
use sysmem::page_size;

/// One for each fault that was repaired, a hundred for each that was handed on.
pub static REPAIRS: AtomicUsize = AtomicUsize::new(0);

/// Makes the page writable and lets the program go on.
extern "C" fn repair(_: i32, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: a fault has an address, and these tests fault in pages of their own.
    unsafe {
        let page = (*info).si_addr().map_addr(|address| address & !(page_size() - 1));
        libc::mprotect(page.cast(), page_size(), libc::PROT_READ | libc::PROT_WRITE);
    }
    REPAIRS.fetch_add(1, SeqCst);
}

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Counts, and hands on to whoever was there before it.
extern "C" fn count(signal: i32, info: *mut siginfo_t, context: *mut c_void) {
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
        for signal in [SIGSEGV, libc::SIGBUS] {
            assert_eq!(libc::sigaction(signal, &action, &mut before), 0);
        }
        NEXT.store(before.sa_sigaction, SeqCst);
    }
}

/// From now on faults are repaired.
pub fn install_repair() {
    install(repair);
}

/// From now on faults are counted, then handed on to whoever is there now.
pub fn install_count() {
    install(count);
}

/// What a signal leads to.
pub fn now() -> usize {
    // SAFETY: reads it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(SIGSEGV, ptr::null(), &mut action);
        action.sa_sigaction
    }
}
