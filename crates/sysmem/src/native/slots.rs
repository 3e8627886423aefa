//! Parking on a word where the kernel only puts threads to sleep and wakes them by name: a table
//! of who sleeps on which word, of fixed size because nothing here may allocate.
//!
//! A slot is free, busy (its owner enters or a waker has taken it), or holds the address of a
//! word. Only its owner makes a free slot busy and names the word; only who makes a named slot
//! busy or free again acts on it. So a waker that has taken a slot wakes its owner, who may have
//! gone on by then: that is an early return of its next sleep, which parking allows.
//!
//! All that sleep on a word are woken: after a fork, a slot may belong to a thread that the child
//! has not got, and it must not stand for one that the child has.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*, fence};
use core::time::Duration;

/// What puts a thread to sleep and wakes it. A wake that comes before the sleep ends it.
pub(super) trait Sleeper: Sync {
    /// Nobody's.
    const NEW: Self;
    /// Makes it the calling thread's.
    fn claim(&self);
    /// Sleeps until woken, or for a time; as nobody in particular, for a time only.
    fn sleep(timeout: Option<Duration>, sleeper: Option<&Self>);
    /// Wakes its thread.
    fn wake(&self);
}

const FREE: usize = 0;
const BUSY: usize = 1;

struct Slot<S> {
    word: AtomicUsize,
    sleeper: S,
}

/// How many threads can sleep. More look again every millisecond.
const COUNT: usize = 128;

pub(super) struct Slots<S>([Slot<S>; COUNT]);

impl<S: Sleeper> Slots<S> {
    pub(super) const fn new() -> Slots<S> {
        Slots([const { Slot { word: AtomicUsize::new(FREE), sleeper: S::NEW } }; COUNT])
    }

    pub(super) fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
        let address = word.as_ptr().addr();
        let mut slots = self.0.iter();
        let free =
            slots.find(|slot| slot.word.compare_exchange(FREE, BUSY, Acquire, Relaxed).is_ok());
        let Some(slot) = free else {
            let nap = Duration::from_millis(1);
            S::sleep(Some(timeout.unwrap_or(nap).min(nap)), None);
            return;
        };
        slot.sleeper.claim();
        slot.word.store(address, Release);
        // Either the word is seen changed here, or who changed it sees the slot.
        fence(SeqCst);
        if word.load(Relaxed) == while_equal {
            S::sleep(timeout, Some(&slot.sleeper));
        }
        // If this fails, a waker has taken the slot and frees it.
        let _ = slot.word.compare_exchange(address, FREE, AcqRel, Relaxed);
    }

    pub(super) fn wake_all(&self, word: &AtomicU32) {
        let address = word.as_ptr().addr();
        fence(SeqCst);
        for slot in &self.0 {
            if slot.word.compare_exchange(address, BUSY, AcqRel, Relaxed).is_ok() {
                slot.sleeper.wake();
                slot.word.store(FREE, Release);
            }
        }
    }
}
