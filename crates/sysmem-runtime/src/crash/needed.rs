//! What a thread cannot go on without, whatever else is gone.

use core::hint::black_box;

/// Addresses in the mappings that the calling thread needs: its stack; its control block, behind
/// or before which its variables lie; `errno`, which some systems keep elsewhere; on Windows what
/// the system keeps of the process in its own memory.
pub(super) fn addresses() -> [usize; 4] {
    let on_stack = 0u8;
    let stack = black_box(&raw const on_stack).addr();
    let thread = thread();
    [stack, thread, errno(), process(thread)]
}

/// The control block begins with its own address (ELF Handling For Thread-Local Storage, 4.2), on
/// every Unix.
#[cfg(all(target_arch = "x86_64", not(any(windows, target_vendor = "apple"))))]
fn thread() -> usize {
    let thread;
    // SAFETY: reads the first word of the control block.
    unsafe {
        core::arch::asm!("mov {}, fs:[0]", out(reg) thread, options(nostack, readonly, preserves_flags));
    }
    thread
}

/// The first of a thread's slots is its own address (`TSD_INDEX`, <pthread/tsd_private.h>).
#[cfg(all(target_arch = "x86_64", target_vendor = "apple"))]
fn thread() -> usize {
    let thread;
    // SAFETY: reads a slot that every thread has.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) thread, options(nostack, readonly, preserves_flags));
    }
    thread
}

/// `NT_TIB::Self`, of the thread environment block.
#[cfg(all(target_arch = "x86_64", windows))]
fn thread() -> usize {
    let thread;
    // SAFETY: reads a field that every thread has.
    unsafe {
        core::arch::asm!("mov {}, gs:[0x30]", out(reg) thread, options(nostack, readonly, preserves_flags));
    }
    thread
}

#[cfg(all(target_arch = "aarch64", not(any(windows, target_vendor = "apple"))))]
fn thread() -> usize {
    let thread;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mrs {}, tpidr_el0", out(reg) thread, options(nomem, nostack, preserves_flags));
    }
    thread
}

/// The lowest bits may hold the number of the processor.
#[cfg(all(target_arch = "aarch64", target_vendor = "apple"))]
fn thread() -> usize {
    let thread: usize;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mrs {}, tpidrro_el0", out(reg) thread, options(nomem, nostack, preserves_flags));
    }
    thread & !7
}

/// The thread environment block.
#[cfg(all(target_arch = "aarch64", windows))]
fn thread() -> usize {
    let thread;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, x18", out(reg) thread, options(nomem, nostack, preserves_flags));
    }
    thread
}

/// Not known: variables may be lost.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn thread() -> usize {
    0
}

/// `TEB::ProcessEnvironmentBlock`.
#[cfg(all(windows, target_pointer_width = "64"))]
fn process(thread: usize) -> usize {
    const PROCESS_ENVIRONMENT_BLOCK: usize = 0x60;
    let field = core::ptr::with_exposed_provenance::<usize>(thread + PROCESS_ENVIRONMENT_BLOCK);
    // SAFETY: a field of the calling thread's block.
    unsafe { field.read() }
}

/// There is none.
#[cfg(not(all(windows, target_pointer_width = "64")))]
fn process(_thread: usize) -> usize {
    0
}

#[cfg(unix)]
fn errno() -> usize {
    #[cfg(any(target_os = "illumos", target_os = "solaris"))]
    use libc::___errno as errno;
    #[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
    use libc::__errno as errno;
    #[cfg(any(target_os = "linux", target_os = "dragonfly"))]
    use libc::__errno_location as errno;
    #[cfg(any(target_os = "freebsd", target_vendor = "apple"))]
    use libc::__error as errno;
    // SAFETY: the address of the calling thread's own.
    unsafe { errno() }.addr()
}

/// In the thread environment block.
#[cfg(not(unix))]
fn errno() -> usize {
    0
}
