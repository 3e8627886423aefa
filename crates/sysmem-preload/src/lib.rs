//! malloc, free and their family on sysmem, as a library to preload into any program.
//!
//! ```sh
//! LD_PRELOAD=libsysmem_preload.so program
//! ```
//!
//! [`c_abi`] holds the functions that C programs call; [`publish`] lets `sysmem run` see what they
//! did. The library links std, whose allocator is this one, and uses none of it on the way of an
//! allocation.

use core::ffi::CStr;

pub mod c_abi;
pub mod publish;

/// What std allocates in this library comes from the heap that it serves.
#[global_allocator]
static ALLOCATOR: sysmem_alloc::SysMem = sysmem_alloc::SysMem;

extern "C" fn start() {
    // The first allocation registers the allocator's fork handlers. Handlers in the child run in
    // the order of registration, and publishing needs an allocator whose locks are free again.
    // SAFETY: frees what was allocated.
    unsafe { sysmem_alloc::free(sysmem_alloc::allocate(1, 1)) };
    publish::open_from_environment();
    sysmem_alloc::set_slow_path_hook(publish::publish_if_due);
    if !scavenger_is_off() {
        sysmem_alloc::start_scavenger();
    }
    // SAFETY: the handler may run in the child of a fork: it takes no lock and allocates nothing.
    unsafe { libc::pthread_atfork(None, None, Some(after_fork_in_child)) };
}

/// Whether the environment switches the scavenger off. That of a setuid program is not to be
/// trusted.
fn scavenger_is_off() -> bool {
    // SAFETY: getauxval takes no pointers.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return false;
    }
    // SAFETY: the name is a C string; constructors run before the program has threads that could
    // change the environment, and what getenv returns is a C string until then.
    unsafe {
        let value = libc::getenv(c"SYSMEM_SCAVENGER".as_ptr());
        !value.is_null() && CStr::from_ptr(value) == c"off"
    }
}

unsafe extern "C" fn after_fork_in_child() {
    publish::after_fork_in_child();
}

extern "C" fn end() {
    publish::at_exit();
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;
