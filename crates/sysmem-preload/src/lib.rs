//! malloc, free and their family on sysmem, as a library to preload into any program.

pub mod publish;

extern "C" fn start() {
    publish::open_from_environment();
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
