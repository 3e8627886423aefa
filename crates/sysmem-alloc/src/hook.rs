//! A function that is called now and then: whoever publishes figures needs no thread for it.

use core::sync::atomic::{AtomicPtr, Ordering::*};
use core::{mem, ptr};

static HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Has `hook` called after allocations that had to go to the page heap, in the thread that made
/// them and without a lock held. It must be quick and may not allocate.
pub fn set_slow_path_hook(hook: fn()) {
    HOOK.store(hook as *mut (), Release);
}

#[inline]
pub(crate) fn call() {
    let hook = HOOK.load(Acquire);
    if !hook.is_null() {
        // SAFETY: only `set_slow_path_hook` stores here, and what it stores is a `fn()`.
        let hook: fn() = unsafe { mem::transmute(hook) };
        hook();
    }
}
