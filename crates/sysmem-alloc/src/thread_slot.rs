//! One word of the calling thread, reached without a call: where its heap is. It leads to a gate
//! from the beginning, so that nobody has to ask whether there is one.
//!
//! `thread_local!` in a shared library calls `__tls_get_addr`, which costs more than the rest of an
//! allocation. A symbol of our own in `.tdata`, read through the initial-exec model, costs one load
//! of its offset and one of the word; a linker that builds an executable turns the first into a
//! constant. The model needs the library to be loaded when the program starts, which preloading
//! is, or to fit in the room that the C library keeps for late comers (glibc keeps 1,664 bytes;
//! this is eight). Its initial value is an address, which the loader knows before it makes the
//! thread-local variables of the first thread.

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
mod initial_exec {
    use core::arch::{asm, global_asm};
    use core::ptr;

    use crate::gate::{Gate, UNBORN};

    #[cfg(target_arch = "x86_64")]
    macro_rules! object_type {
        () => {
            "@object"
        };
    }
    #[cfg(target_arch = "aarch64")]
    macro_rules! object_type {
        () => {
            "%object"
        };
    }
    #[cfg(target_arch = "x86_64")]
    macro_rules! address {
        () => {
            ".quad {unborn}"
        };
    }
    #[cfg(target_arch = "aarch64")]
    macro_rules! address {
        () => {
            ".xword {unborn}"
        };
    }

    global_asm!(
        ".pushsection .tdata.sysmem_thread_slot, \"awT\", %progbits",
        ".globl sysmem_thread_slot",
        ".hidden sysmem_thread_slot",
        concat!(".type sysmem_thread_slot, ", object_type!()),
        ".size sysmem_thread_slot, 8",
        ".p2align 3",
        "sysmem_thread_slot:",
        address!(),
        ".popsection",
        unborn = sym UNBORN,
    );

    #[inline(always)]
    pub(crate) fn get() -> &'static Gate {
        let word: *const Gate;
        // SAFETY: reads the thread's own word, through its offset from the thread pointer. (In this
        // register, and not in the one in which a function returns what it was looking for.)
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!(
                "mov rcx, qword ptr [rip + sysmem_thread_slot@GOTTPOFF]",
                "mov rcx, qword ptr fs:[rcx]",
                out("rcx") word,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!(
                "mrs {base}, tpidr_el0",
                "adrp {word}, :gottprel:sysmem_thread_slot",
                "ldr {word}, [{word}, :gottprel_lo12:sysmem_thread_slot]",
                "ldr {word}, [{base}, {word}]",
                word = out(reg) word,
                base = out(reg) _,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        // SAFETY: the initial value and every one that is set is a gate that lives forever.
        unsafe { &*word }
    }

    pub(crate) fn set(gate: &'static Gate) {
        let word = ptr::from_ref(gate);
        // SAFETY: writes the thread's own word, through its offset from the thread pointer.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!(
                "mov {offset}, qword ptr [rip + sysmem_thread_slot@GOTTPOFF]",
                "mov qword ptr fs:[{offset}], {word}",
                word = in(reg) word,
                offset = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!(
                "mrs {base}, tpidr_el0",
                "adrp {offset}, :gottprel:sysmem_thread_slot",
                "ldr {offset}, [{offset}, :gottprel_lo12:sysmem_thread_slot]",
                "str {word}, [{base}, {offset}]",
                word = in(reg) word,
                base = out(reg) _,
                offset = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(miri)
))]
pub(crate) use initial_exec::{get, set};

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(miri)
)))]
// Clippy 1.96 does not see the `const` where the target has no native thread-locals.
#[allow(clippy::missing_const_for_thread_local)]
mod portable {
    extern crate std;

    use crate::gate::{Gate, UNBORN};

    std::thread_local! {
        // Without a destructor, so that reading it registers nothing and allocates nothing.
        static WORD: core::cell::Cell<&'static Gate> = const { core::cell::Cell::new(&UNBORN) };
    }

    #[inline]
    pub(crate) fn get() -> &'static Gate {
        WORD.with(|word| word.get())
    }

    pub(crate) fn set(gate: &'static Gate) {
        WORD.with(|slot| slot.set(gate));
    }
}

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(miri)
)))]
pub(crate) use portable::{get, set};
