//! An access that may fault, in a process that cannot fork: a vectored exception handler notes the
//! fault and goes on behind the access.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use windows_sys::Win32::Foundation::EXCEPTION_ACCESS_VIOLATION;
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, EXCEPTION_CONTINUE_EXECUTION, EXCEPTION_CONTINUE_SEARCH,
    EXCEPTION_POINTERS, RemoveVectoredExceptionHandler,
};
use windows_sys::Win32::System::Threading::GetCurrentThreadId;

use crate::platform::{Access, Seen, Signal};

/// The thread that makes an access, or 0.
static THREAD: AtomicU32 = AtomicU32::new(0);
/// Where it goes on, and with what stack pointer, when it faults.
static GO_ON_AT: AtomicUsize = AtomicUsize::new(0);
static STACK: AtomicUsize = AtomicUsize::new(0);
/// What the fault was.
static CODE: AtomicUsize = AtomicUsize::new(NO_FAULT);
static ADDRESS: AtomicUsize = AtomicUsize::new(0);

const NO_FAULT: usize = usize::MAX;

unsafe extern "system" fn go_on(exception: *mut EXCEPTION_POINTERS) -> i32 {
    // SAFETY: the system hands over both parts, to read and to change.
    let (record, context) =
        unsafe { (&*(*exception).ExceptionRecord, &mut *(*exception).ContextRecord) };
    // SAFETY: cannot fail.
    let thread = unsafe { GetCurrentThreadId() };
    // A second fault without an access in between is not ours: that would never end.
    if record.ExceptionCode != EXCEPTION_ACCESS_VIOLATION
        || thread != THREAD.load(Relaxed)
        || CODE.load(Relaxed) != NO_FAULT
    {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    // What it was for and where (winnt.h, EXCEPTION_RECORD).
    let [code, address, ..] = record.ExceptionInformation;
    ADDRESS.store(address, Relaxed);
    CODE.store(code, Relaxed);
    context.Rip = GO_ON_AT.load(Relaxed) as u64;
    context.Rsp = STACK.load(Relaxed) as u64;
    EXCEPTION_CONTINUE_EXECUTION
}

/// One access by these instructions, which find the address in a register and leave their answer in
/// `al`.
macro_rules! guarded {
    ($address:expr, $($instruction:literal),*) => {{
        let value: u64;
        asm!(
            "lea rax, [rip + 2f]",
            "mov [{go_on_at}], rax",
            "mov [{stack}], rsp",
            "xor eax, eax",
            $($instruction,)*
            "2:",
            address = in(reg) $address,
            go_on_at = in(reg) GO_ON_AT.as_ptr(),
            stack = in(reg) STACK.as_ptr(),
            out("rax") value,
            clobber_abi("C"),
        );
        value as u8
    }};
}

/// What an access meets. A write adds zero, so that it changes nothing.
///
/// # Safety
///
/// As for [`Platform::access`](crate::Platform::access).
pub(super) unsafe fn attempt(address: *mut u8, access: Access) -> Option<Seen> {
    // SAFETY: the handler is one, and leaves alone what it does not expect.
    let handler = unsafe { AddVectoredExceptionHandler(1, Some(go_on)) };
    if handler.is_null() {
        return None;
    }
    CODE.store(NO_FAULT, Relaxed);
    // SAFETY: cannot fail.
    THREAD.store(unsafe { GetCurrentThreadId() }, Relaxed);
    let value = match access {
        // SAFETY: reads a byte, or goes on behind that.
        Access::Read => unsafe { guarded!(address, "mov al, [{address}]") },
        // SAFETY: as above; nobody else writes there, and if somebody did, it would not be lost.
        Access::Write => unsafe { guarded!(address, "lock add byte ptr [{address}], 0") },
        // The caller of a function leaves it 32 bytes to store its arguments in.
        // SAFETY: the caller's promise, or goes on behind the call with the stack as it was.
        Access::Execute => unsafe {
            guarded!(address, "sub rsp, 32", "call {address}", "add rsp, 32")
        },
    };
    THREAD.store(0, Relaxed);
    // SAFETY: the handler that was added.
    unsafe { RemoveVectoredExceptionHandler(handler) };
    Some(match CODE.load(Relaxed) {
        NO_FAULT => Seen::Value(value),
        code => Seen::Fault {
            signal: Signal::AccessViolation,
            code: code as i32,
            address: ADDRESS.load(Relaxed),
        },
    })
}
