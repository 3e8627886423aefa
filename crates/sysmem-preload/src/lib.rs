//! malloc, free and their family on sysmem, as a library to preload into any program.
//!
//! ```sh
//! LD_PRELOAD=libsysmem_preload.so program
//! ```
//!
//! [`c_abi`] holds the functions that C programs call; [`publish`] lets `sysmem run` see what they
//! did; `environment` reads what the
//! user decided. The library links std, whose allocator is this one, and uses none of it on the way of an
//! allocation.

pub mod c_abi;
mod environment;
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
    environment::apply();
    // SAFETY: the handler may run in the child of a fork: it takes no lock and allocates nothing.
    unsafe { libc::pthread_atfork(None, None, Some(after_fork_in_child)) };
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
