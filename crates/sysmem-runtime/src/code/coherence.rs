//! What a processor must be told before it runs bytes that were just written.

/// Makes `len` bytes that were written at `written` be what is fetched at `executed`.
///
/// # Safety
///
/// Both ranges are mapped, and readable; they are of the same memory.
#[cfg(all(target_arch = "aarch64", not(any(target_vendor = "apple", windows))))]
pub(super) unsafe fn make_coherent(written: *const u8, executed: *const u8, len: usize) {
    use core::arch::asm;
    let types: u64;
    // SAFETY: reads what kinds of cache there are, which every system lets programs do.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) types, options(nomem, nostack, preserves_flags)) };
    // CTR_EL0 (Arm ARM, D24.2.34): log2 of words in the smallest line of each cache, and whether
    // caches are coherent already (IDC, DIC).
    let data_line = 4usize << (types >> 16 & 15);
    let instruction_line = 4usize << (types & 15);
    let lines = |start: *const u8, line: usize| {
        let first = start.addr() & !(line - 1);
        (first..start.addr() + len).step_by(line)
    };
    if types >> 28 & 1 == 0 {
        for line in lines(written, data_line) {
            // SAFETY: cleans a line of mapped memory; nothing changes that a program can see.
            unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    if types >> 29 & 1 == 0 {
        for line in lines(executed, instruction_line) {
            // SAFETY: as above.
            unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// The same, by the system's own call.
///
/// # Safety
///
/// As above.
#[cfg(all(target_arch = "aarch64", target_vendor = "apple"))]
pub(super) unsafe fn make_coherent(_written: *const u8, executed: *const u8, len: usize) {
    unsafe extern "C" {
        fn sys_icache_invalidate(start: *const core::ffi::c_void, len: usize);
    }
    // SAFETY: the caller's promise.
    unsafe { sys_icache_invalidate(executed.cast(), len) };
}

/// The same, by the system's own call.
///
/// # Safety
///
/// As above.
#[cfg(all(target_arch = "aarch64", windows))]
pub(super) unsafe fn make_coherent(_written: *const u8, executed: *const u8, len: usize) {
    use windows_sys::Win32::System::Diagnostics::Debug::FlushInstructionCache;
    use windows_sys::Win32::System::Threading::GetCurrentProcess;
    // SAFETY: the caller's promise.
    unsafe { FlushInstructionCache(GetCurrentProcess(), executed.cast(), len) };
}

/// Nothing: x86 keeps its instruction cache coherent, also when memory is written through another
/// address (Intel SDM volume 3, 8.1.3; there must be a serializing instruction, or a jump, before
/// the new bytes are run).
///
/// # Safety
///
/// None is needed.
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
pub(super) unsafe fn make_coherent(_written: *const u8, _executed: *const u8, _len: usize) {}

/// Whether a thread that jumps to new code may run what it fetched from there before, though its
/// caches are coherent: on aarch64, until it synchronizes its context (Arm ARM, B2.2.5), which
/// nothing makes it do between reading where the new code is and jumping there.
pub(super) const FETCHES_AHEAD: bool = cfg!(target_arch = "aarch64");

/// Makes every thread of the process fetch instructions anew: membarrier(2), since Linux 4.16.
/// Without it a thread does so at its next interrupt or system call.
#[cfg(target_os = "linux")]
pub(super) fn synchronize_threads() {
    const REGISTER: i32 = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE;
    const SYNCHRONIZE: i32 = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE;
    // SAFETY: takes no memory. A process that has not registered is told so, and registering
    // twice does nothing.
    unsafe {
        if libc::syscall(libc::SYS_membarrier, SYNCHRONIZE, 0, 0) != 0 {
            libc::syscall(libc::SYS_membarrier, REGISTER, 0, 0);
            libc::syscall(libc::SYS_membarrier, SYNCHRONIZE, 0, 0);
        }
    }
}

/// Makes every thread of the process fetch instructions anew: interrupts every processor that runs
/// one of them, and returning from an interrupt does that (Intel SDM volume 3, 8.3; Arm ARM,
/// D1.4.4).
#[cfg(windows)]
pub(super) fn synchronize_threads() {
    // SAFETY: takes no memory.
    unsafe { windows_sys::Win32::System::Threading::FlushProcessWriteBuffers() };
}

/// Nothing: the system has no such call for every version that we run on. Threads see the change
/// at their next interrupt. (FreeBSD has membarrier(2) since 14.1, and kills a process for a call
/// that is not there.)
#[cfg(not(any(target_os = "linux", windows)))]
pub(super) fn synchronize_threads() {}
