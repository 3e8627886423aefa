//! The thread that gives memory back while the program does not allocate.
//!
//! It is made in the middle of a `malloc` or `free` of the program, because there is no better
//! moment, and only where that is safe. `pthread_create` calls the allocator, so the heap is whole
//! and no lock is held where [`start_if_due`] is called. In glibc it also takes the lock on the
//! list of stacks, under which glibc itself calls `free` (`__nptl_free_stacks`) but not `malloc`.
//! So a free starts the thread only in a program that never had another thread, in which that lock
//! is not held; in other programs the thread is started by an allocation, as soon as the heap is
//! so large that there may be something to give back.
//!
//! A child of `vfork` shares this memory and is another process: it starts nothing. In the child of
//! a fork all begins anew.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering::*};
use core::time::Duration;

use sysmem::Os;
use sysmem::native::keeping_errno;
use sysmem_pages::Scavenger;

use crate::hook::{self, Occasion};
use crate::limit::Besides;
use crate::pressure::Gauge;
use crate::visitor::{self, Visitor};
use crate::{ACCOUNTS, NATIVE, PAGES, lifecycle};

/// The thread is started when more than this is free and backed.
const START_ABOVE: usize = 32 << 20;

/// The stack is at least this long. What a program has in thread-local variables comes out of it.
const STACK: usize = 128 << 10;

/// There is no thread and none is wanted.
const OFF: u32 = 0;
/// There is none yet.
const WANTED: u32 = 1;
const RUNNING: u32 = 2;
static THREAD: AtomicU32 = AtomicU32::new(OFF);

/// The process in which the thread runs or is to run.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// The thread with which the process ends unless it ends by `pthread_exit`.
static MAIN: AtomicUsize = AtomicUsize::new(0);
static MAIN_ENDED: AtomicBool = AtomicBool::new(false);

/// `__libc_single_threaded` (glibc 2.32, <sys/single_threaded.h>), where it exists.
static SINGLE_THREADED: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// Goes up while memory is being given back, for heaps to see that they should help.
static ROUND: AtomicU32 = AtomicU32::new(0);

/// What the thread that asks for a start is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Allocation,
    Free,
}

/// Has memory given back by a thread of its own, within a second of its being free, as a
/// [`Scavenger`] decides. The thread is started when 32 MiB are free, or by a program that has
/// threads already when its heap reaches 32 MiB.
///
/// Without it, memory goes back when more of it is freed. To be called by the main thread; the
/// library that the allocator is part of must stay loaded.
///
/// The thread blocks all signals, is not there in the child of a fork until it is needed again, and
/// does not keep the process when the main thread ends by `pthread_exit`. A program that must have
/// one thread only (to enter a user namespace, say) does not call this.
pub fn start_scavenger() {
    // The handlers for forks come with the first heap.
    if THREAD.load(Relaxed) != OFF || lifecycle::with_heap(|_| ()).is_none() {
        return;
    }
    // SAFETY: the name is a C string; what is found is a variable of the C library.
    let single = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
    SINGLE_THREADED.store(single.cast(), Relaxed);
    begin();
}

fn begin() {
    // SAFETY: these calls take nothing and cannot fail.
    let (process, thread) = unsafe { (libc::getpid(), libc::pthread_self()) };
    PROCESS.store(process, Relaxed);
    #[allow(clippy::unnecessary_cast)] // A usize on the BSDs.
    MAIN.store(thread as usize, Relaxed);
    PAGES.expect_scavenger(START_ABOVE);
    THREAD.store(WANTED, Release);
}

/// Starts the thread if it is time to, which it is not before there is as much memory in the heap as
/// may be free. The caller holds no lock and has finished its work on its
/// heap.
#[inline]
pub(crate) fn start_if_due(after: After) {
    if THREAD.load(Relaxed) == WANTED && ACCOUNTS.heap.ready() >= START_ABOVE as u64 {
        consider_start(after);
    }
}

#[cold]
fn consider_start(after: After) {
    let due = match after {
        After::Free => PAGES.calls_for_scavenger() && is_single_threaded(),
        After::Allocation => PAGES.calls_for_scavenger() || !is_single_threaded(),
    };
    // A thread without a heap of its own is not born yet or ends.
    if due && lifecycle::is_live() {
        keeping_errno(start);
    }
}

fn is_single_threaded() -> bool {
    let single = SINGLE_THREADED.load(Relaxed);
    // The C library may say so again when the other threads have ended; heaps are never fewer.
    // SAFETY: a variable of the C library, one byte long, which is never unloaded.
    !single.is_null() && unsafe { single.read_volatile() } != 0 && lifecycle::heaps().count() == 1
}

fn start() {
    // SAFETY: getpid takes nothing and cannot fail.
    if unsafe { libc::getpid() } != PROCESS.load(Relaxed)
        || THREAD.compare_exchange(WANTED, RUNNING, AcqRel, Relaxed).is_err()
    {
        return;
    }
    if !create(STACK) && !create(0) {
        THREAD.store(OFF, Relaxed);
        PAGES.dismiss_scavenger();
    }
}

/// Creates the thread, with a stack as long as said or as usual; whether that succeeded.
fn create(stack: usize) -> bool {
    let mut attributes = MaybeUninit::uninit();
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    let mut thread = MaybeUninit::uninit();
    // SAFETY: each is initialised before it is used. The thread inherits the mask that is set while
    // it is created; a signal that comes meanwhile waits.
    unsafe {
        if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 {
            return false;
        }
        let detached = libc::PTHREAD_CREATE_DETACHED;
        libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), detached);
        if stack != 0 {
            libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack);
        }
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let answer =
            libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), run, ptr::null_mut());
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        answer == 0
    }
}

/// The thread. It neither allocates nor frees.
extern "C" fn run(_: *mut c_void) -> *mut c_void {
    #[cfg(target_os = "linux")]
    // SAFETY: the name is a C string of at most 16 bytes.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"sysmem scavenge".as_ptr());
    }
    let mut scavenger = Scavenger::new();
    let mut visitor = Visitor::new();
    let mut gauge = Gauge::new();
    let mut besides = Besides::new();
    while !MAIN_ENDED.load(Acquire) {
        let heaps = scavenger.share_budget(&PAGES, || {
            let now = NATIVE.monotonic_time();
            gauge.read(now);
            visitor.step().min(besides.look(now))
        });
        let heaps = heaps.unwrap_or_else(|wait| wait);
        scavenger.set_pressure(gauge.short);
        let wait = scavenger.step(&PAGES).map_or(heaps, |pages| pages.min(heaps));
        if wait != Duration::ZERO {
            ROUND.fetch_add(1, Relaxed);
            hook::call(Occasion::Settled);
            PAGES.wait_for_call(Some(wait));
        }
    }
    PAGES.dismiss_scavenger();
    THREAD.store(OFF, Relaxed);
    ptr::null_mut()
}

/// A span has free blocks again: there may be something to give back, should nothing follow.
#[inline]
pub(crate) fn note_idle_memory() {
    if visitor::wakes_visitor() {
        keeping_errno(|| PAGES.call_scavenger());
    }
}

/// Goes up while memory is being given back.
pub(crate) fn round() -> u32 {
    ROUND.load(Relaxed)
}

/// The calling thread ends. When it is the main one, by `pthread_exit`, the process ends with its
/// last thread, which must not be ours.
pub(crate) fn thread_ends() {
    // SAFETY: the call takes nothing and cannot fail.
    if unsafe { libc::pthread_self() } as usize == MAIN.load(Relaxed)
        && THREAD.swap(OFF, AcqRel) != OFF
    {
        MAIN_ENDED.store(true, Release);
        PAGES.dismiss_scavenger();
        PAGES.call_scavenger();
    }
}

/// In the child of a fork, where only the thread that forked goes on and is the main one.
pub(crate) fn after_fork_in_child() {
    visitor::after_fork_in_child();
    if THREAD.load(Relaxed) != OFF {
        begin();
    }
}
