//! A function that is called now and then: whoever publishes figures needs no thread for it.

use core::sync::atomic::{AtomicPtr, Ordering::*};
use core::{mem, ptr};

/// When a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Pages were taken from the page heap or returned to it, or there were many allocations that
    /// had to look for another span. More of that is to be expected.
    Busy,
    /// As `Busy`, and what the calling thread took and returned differs by 1 MiB or more since it
    /// last said so.
    Moved,
    /// The scavenger has given back what it wanted to: memory stays as it is for a while.
    Settled,
}

static HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Has `hook` called after allocations and frees that had to go to the page heap, in the thread
/// that made them and without a lock held, and by the scavenger. It must be quick and may not
/// allocate.
pub fn set_slow_path_hook(hook: fn(Occasion)) {
    HOOK.store(hook as *mut (), Release);
}

#[inline]
pub(crate) fn call(occasion: Occasion) {
    let hook = HOOK.load(Acquire);
    if !hook.is_null() {
        // SAFETY: only `set_slow_path_hook` stores here, and what it stores is a `fn(Occasion)`.
        let hook: fn(Occasion) = unsafe { mem::transmute(hook) };
        hook(occasion);
    }
}
