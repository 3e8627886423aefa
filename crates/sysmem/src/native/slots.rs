//! Parking on a word where the kernel only puts threads to sleep and wakes them by name: a table
//! of who sleeps on which word, of fixed size because nothing here may allocate.
//!
//! A slot is free, busy (its owner enters, or a waker acts on it), woken, or holds the address of
//! a word. Its owner alone takes it and frees it, and does not free it under a waker's hands.
//!
//! All that sleep on a word are woken: after a fork, a slot may belong to a thread that the child
//! has not got, and must not stand for one that the child has. Such slots stay taken.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*, fence};
use core::time::Duration;

/// What puts a thread to sleep and wakes it. A wake that comes before the sleep ends it.
pub(super) trait Sleeper: Sync {
    /// Nobody's.
    const NEW: Self;
    /// Makes it the calling thread's.
    fn claim(&self);
    /// Sleeps until woken, for a time at most, or until it likes.
    fn sleep(&self, timeout: Option<Duration>);
    /// Wakes its thread.
    fn wake(&self);
}

const FREE: usize = 0;
const BUSY: usize = 1;
const WOKEN: usize = 2;

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
            nap(timeout);
            return;
        };
        slot.sleeper.claim();
        slot.word.store(address, Release);
        // Either the word is seen changed here, or who changed it sees the slot.
        fence(SeqCst);
        if word.load(Relaxed) == while_equal {
            slot.sleeper.sleep(timeout);
        }
        if slot.word.compare_exchange(address, FREE, AcqRel, Relaxed).is_err() {
            while slot.word.load(Acquire) != WOKEN {
                core::hint::spin_loop();
            }
            slot.word.store(FREE, Release);
        }
    }

    pub(super) fn wake_all(&self, word: &AtomicU32) {
        let address = word.as_ptr().addr();
        fence(SeqCst);
        for slot in &self.0 {
            if slot.word.compare_exchange(address, BUSY, AcqRel, Relaxed).is_ok() {
                slot.sleeper.wake();
                slot.word.store(WOKEN, Release);
            }
        }
    }
}

fn nap(timeout: Option<Duration>) {
    let millisecond = Duration::from_millis(1);
    let time = super::unix::timespec(timeout.unwrap_or(millisecond).min(millisecond));
    // SAFETY: `time` is a timespec to read; what is left is not asked for.
    unsafe { libc::nanosleep(&time, core::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};
    use std::thread;
    use std::vec::Vec;

    /// Remembers a wake that comes first, as the kernels do.
    struct Bell(Mutex<bool>, Condvar);

    impl Sleeper for Bell {
        const NEW: Bell = Bell(Mutex::new(false), Condvar::new());

        fn claim(&self) {}

        fn sleep(&self, timeout: Option<Duration>) {
            let mut rung = self.0.lock().unwrap();
            while !*rung && timeout.is_none() {
                rung = self.1.wait(rung).unwrap();
            }
            if let Some(timeout) = timeout.filter(|_| !*rung) {
                rung = self.1.wait_timeout(rung, timeout).unwrap().0;
            }
            *rung = false;
        }

        fn wake(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_all();
        }
    }

    /// More threads than there are slots hand a turn round: a wake that is lost ends in silence.
    #[test]
    fn no_wake_is_lost_among_more_threads_than_slots() {
        const THREADS: u32 = COUNT as u32 + 8;
        static SLOTS: Slots<Bell> = Slots::new();
        static TURN: AtomicU32 = AtomicU32::new(0);
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                thread::spawn(move || {
                    for round in 0..2 {
                        loop {
                            let turn = TURN.load(Acquire);
                            if turn == round * THREADS + number {
                                break;
                            }
                            SLOTS.park(&TURN, turn, None);
                        }
                        TURN.fetch_add(1, Release);
                        SLOTS.wake_all(&TURN);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(TURN.load(Relaxed), 2 * THREADS);
        assert!(SLOTS.0.iter().all(|slot| slot.word.load(Relaxed) == FREE));
    }

    #[test]
    fn a_changed_word_and_a_timeout_do_not_sleep() {
        static SLOTS: Slots<Bell> = Slots::new();
        let word = AtomicU32::new(1);
        SLOTS.park(&word, 0, None);
        SLOTS.park(&word, 1, Some(Duration::from_millis(1)));
        SLOTS.wake_all(&word);
    }
}
