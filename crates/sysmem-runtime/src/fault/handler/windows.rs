//! A vectored exception handler, which the system calls before any other kind.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::*};

use sysmem::Errno;
use windows_sys::Win32::Foundation::{EXCEPTION_ACCESS_VIOLATION, EXCEPTION_IN_PAGE_ERROR};
use windows_sys::Win32::Storage::FileSystem::WriteFile;
use windows_sys::Win32::System::Console::{GetStdHandle, STD_ERROR_HANDLE};
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, EXCEPTION_CONTINUE_SEARCH, EXCEPTION_POINTERS,
    RemoveVectoredExceptionHandler,
};

use super::super::Access;

/// What the system knows our handler by; null while it is not there.
static HANDLER: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Puts our handler before what is there. The caller holds the lock.
pub(super) fn link() -> Result<(), Errno> {
    // SAFETY: a function of that type, which stays.
    let handler = unsafe { AddVectoredExceptionHandler(1, Some(handle)) };
    if handler.is_null() {
        // The call sets no error; it wants memory.
        const ERROR_NOT_ENOUGH_MEMORY: Errno = Errno(8);
        return Err(ERROR_NOT_ENOUGH_MEMORY);
    }
    HANDLER.store(handler, Relaxed);
    Ok(())
}

/// Takes our handler out. The caller holds the lock.
pub(super) fn unlink() {
    let handler = HANDLER.swap(ptr::null_mut(), Relaxed);
    if !handler.is_null() {
        // SAFETY: what `link` got, once.
        unsafe { RemoveVectoredExceptionHandler(handler) };
    }
}

unsafe extern "system" fn handle(exception: *mut EXCEPTION_POINTERS) -> i32 {
    // SAFETY: the system gives a valid one.
    let record = unsafe { &*(*exception).ExceptionRecord };
    let code = record.ExceptionCode;
    if [EXCEPTION_ACCESS_VIOLATION, EXCEPTION_IN_PAGE_ERROR].contains(&code)
        && record.NumberParameters >= 2
    {
        // EXCEPTION_RECORD: what was tried, and where. A non-canonical address is told as all ones.
        let access = match record.ExceptionInformation[0] {
            0 => Some(Access::Read),
            1 => Some(Access::Write),
            8 => Some(Access::Execute),
            _ => None,
        };
        let address = record.ExceptionInformation[1];
        // The program goes on where somebody repairs the fault.
        sysmem::native::keeping_errno(|| super::report(address, access, |_| true));
    }
    // To the handler after this one.
    EXCEPTION_CONTINUE_SEARCH
}

/// Writes to standard error; what cannot be written is lost.
pub(super) fn write_to_stderr(bytes: &[u8]) {
    let mut written = 0;
    // SAFETY: the buffer is as long as said; a handle that is none is refused.
    unsafe {
        let handle = GetStdHandle(STD_ERROR_HANDLE);
        WriteFile(handle, bytes.as_ptr(), bytes.len() as u32, &mut written, ptr::null_mut());
    }
}
