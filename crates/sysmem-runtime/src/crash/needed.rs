//! What a thread cannot go on without, whatever else is gone.

use core::hint::black_box;

/// Addresses in the mappings that the calling thread needs.
#[derive(Clone, Copy)]
pub(super) struct Needed {
    /// On its stack; of its control block, beside which its variables lie; of what else there is.
    known: [usize; 3],
    /// Where the system notes down what it knows of the thread, pointers among it, and how many
    /// words that is.
    notes: (*const usize, usize),
}

impl Needed {
    /// What the calling thread needs.
    pub(super) fn now() -> Needed {
        let on_stack = 0u8;
        let stack = black_box(&raw const on_stack).addr();
        let thread = thread();
        Needed { known: [stack, thread, elsewhere()], notes: notes(thread) }
    }

    /// What a thread would need that these addresses are known of.
    #[cfg(test)]
    pub(super) const fn of(known: [usize; 3]) -> Needed {
        Needed { known, notes: (core::ptr::null(), 0) }
    }

    /// Whether something of it lies in a range.
    pub(super) fn lies_in(&self, start: usize, len: usize) -> bool {
        let inside = |address: usize| address.checked_sub(start).is_some_and(|at| at < len);
        let (first, count) = self.notes;
        self.known.into_iter().any(inside)
            // SAFETY: so many words of the calling thread's own.
            || (0..count).any(|index| inside(unsafe { first.add(index).read_volatile() }))
    }
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

/// The thread environment block, which points to the thread's variables, to what the system keeps
/// for it, and to the process's block: whatever one of its words may point to is left. (The variables
/// lie on the process's heap, the first part of which so stays.)
#[cfg(all(windows, target_pointer_width = "64"))]
fn notes(thread: usize) -> (*const usize, usize) {
    /// Of `struct _TEB`, which has grown at its end: 0x1838 bytes since Windows 8.
    const LEN: usize = 0x1800;
    (core::ptr::with_exposed_provenance(thread), LEN / size_of::<usize>())
}

/// There are none, or not known.
#[cfg(not(all(windows, target_pointer_width = "64")))]
fn notes(_thread: usize) -> (*const usize, usize) {
    (core::ptr::null(), 0)
}

/// `errno`, which some systems keep apart from the control block.
#[cfg(unix)]
fn elsewhere() -> usize {
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

/// `KUSER_SHARED_DATA`, the kernel's page, which is at the same place in every process: each system
/// call looks there how it is made.
#[cfg(windows)]
fn elsewhere() -> usize {
    0x7ffe_0000
}

#[cfg(not(any(unix, windows)))]
fn elsewhere() -> usize {
    0
}
