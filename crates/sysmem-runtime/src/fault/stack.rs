//! Stacks for signal handlers.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr;

use sysmem::{Account, Error, Native, Os, Protection, Reservation, ReserveOptions};

static STACKS: Account = Account::new("signal stacks");

/// Room for our handler, the one before it, and the registers that the kernel saves: 11 KiB with
/// AMX on x86_64.
const ROOM: usize = 64 << 10;

/// A stack of the calling thread for its signal handlers (sigaltstack(2)), with a guard below it,
/// as long as it lives.
#[derive(Debug)]
#[must_use = "the thread has the stack as long as it lives"]
pub struct AlternateStack {
    /// `None` where the thread had one already.
    memory: Option<Reservation>,
    /// A stack is its thread's.
    not_send: PhantomData<*mut ()>,
}

impl AlternateStack {
    /// Gives the calling thread a stack for its signal handlers, unless it has one.
    pub fn for_this_thread() -> Result<AlternateStack, Error> {
        if current().is_some_and(|stack| stack.ss_flags & libc::SS_DISABLE == 0) {
            return Ok(AlternateStack { memory: None, not_send: PhantomData });
        }
        let guard = Native::NEW.page_size();
        let room = ROOM.next_multiple_of(guard);
        let mut memory =
            Reservation::reserve(ReserveOptions::new(guard + room).stacks(true), &STACKS)?;
        memory.map(guard, room, Protection::ReadWrite)?;
        memory.used(guard, room)?;
        let stack = libc::stack_t {
            ss_sp: memory.as_mut_ptr().wrapping_add(guard).cast(),
            ss_flags: 0,
            ss_size: room,
        };
        // SAFETY: the memory is Ready, and nobody else's until the stack is taken off again.
        // The call fails only for a stack that is too small, or one that is in use.
        unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
        Ok(AlternateStack { memory: Some(memory), not_send: PhantomData })
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let below = memory.as_mut_ptr().addr()..memory.as_mut_ptr().addr() + memory.len();
        let ours = current().is_some_and(|stack| below.contains(&stack.ss_sp.addr()));
        if ours {
            let none =
                libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: ROOM };
            // SAFETY: takes the thread's stack away.
            if unsafe { libc::sigaltstack(&none, ptr::null_mut()) } != 0 {
                // It is in use: this is a signal handler. The memory has to stay.
                core::mem::forget(memory);
            }
        }
    }
}

/// The stack that the calling thread has for its handlers.
fn current() -> Option<libc::stack_t> {
    let mut stack = MaybeUninit::uninit();
    // SAFETY: there is room for one.
    match unsafe { libc::sigaltstack(ptr::null(), stack.as_mut_ptr()) } {
        // SAFETY: the system filled it in.
        0 => Some(unsafe { stack.assume_init() }),
        _ => None,
    }
}
