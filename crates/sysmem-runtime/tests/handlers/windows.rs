//! Somebody else's exception handlers.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use windows_sys::Win32::Foundation::EXCEPTION_ACCESS_VIOLATION;
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, EXCEPTION_CONTINUE_EXECUTION, EXCEPTION_CONTINUE_SEARCH,
    EXCEPTION_POINTERS,
};
use windows_sys::Win32::System::Memory::{PAGE_READWRITE, VirtualProtect};

/// One for each fault that was repaired, a hundred for each that was handed on.
pub static REPAIRS: AtomicUsize = AtomicUsize::new(0);

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

/// From now on faults are repaired.
pub fn install_repair() {
    // SAFETY: a function of that type.
    unsafe { AddVectoredExceptionHandler(1, Some(repair)) };
}

/// From now on faults are counted, then handed on to whoever is there now.
pub fn install_count() {
    // SAFETY: a function of that type.
    unsafe { AddVectoredExceptionHandler(1, Some(count)) };
}
