use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering::*};

use crate::Os;

/// Nobody has the lock.
const FREE: u32 = 0;
/// One thread has it, and nobody waits.
const HELD: u32 = 1;
/// One thread has it; whoever lets it go wakes one that waits.
const HELD_WITH_WAITERS: u32 = 2;
/// As above, and one that waits has lost too often: the lock will be handed over.
const HELD_AND_OWED: u32 = 3;
/// Nobody has it, and only a thread that was woken may take it.
const HANDED_OVER: u32 = 4;

/// How often a thread looks again before it parks. The sections that this lock guards are some
/// hundred instructions long, and parking costs two system calls.
const SPINS: u32 = 100;

/// How often a thread that was woken finds the lock taken by one that came later, before it is owed
/// the lock. Taking it as one comes is what keeps the others running; without a bound, a thread that
/// takes and drops the lock in a loop would keep parked ones out forever.
const LOSSES: u32 = 4;

/// The word that a lock is, and how to wait for it: the running system, or a model of it.
trait Word {
    const SPINS: u32;
    const LOSSES: u32;

    fn load(&self) -> u32;
    /// With acquire and release order; `Err` says what was found instead.
    fn exchange(&self, from: u32, to: u32) -> Result<u32, u32>;
    fn park(&self, while_equal: u32);
    fn wake_one(&self);
    fn spin(&self);
}

/// Takes the lock, which was not free a moment ago.
fn acquire(word: &impl Word) {
    fn spinning<W: Word>(word: &W) -> bool {
        (0..W::SPINS).any(|_| {
            let taken = word.load() == FREE && word.exchange(FREE, HELD).is_ok();
            if !taken {
                word.spin();
            }
            taken
        })
    }
    fn waiting<W: Word>(word: &W) {
        let mut wakes = 0;
        loop {
            let seen = word.load();
            // Others may wait, now that this one did: whoever unlocks must wake one.
            let next = match seen {
                FREE => HELD_WITH_WAITERS,
                HANDED_OVER if wakes > 0 => HELD_WITH_WAITERS,
                HELD | HELD_WITH_WAITERS if wakes >= W::LOSSES => HELD_AND_OWED,
                HELD => HELD_WITH_WAITERS,
                unchanged => unchanged,
            };
            if next != seen && word.exchange(seen, next).is_err() {
                continue;
            }
            if seen == FREE || seen == HANDED_OVER && next == HELD_WITH_WAITERS {
                return;
            }
            word.park(next);
            wakes += 1;
        }
    }
    if !spinning(word) {
        waiting(word);
    }
}

/// Lets go of a lock for which somebody waits.
fn release(word: &impl Word) {
    let mut seen = word.load();
    loop {
        let next = if seen == HELD_AND_OWED { HANDED_OVER } else { FREE };
        match word.exchange(seen, next) {
            Ok(_) => break,
            Err(changed) => seen = changed,
        }
    }
    word.wake_one();
}

/// The word of a lock on a system.
struct On<'a, O>(&'a AtomicU32, &'a O);

impl<O: Os> Word for On<'_, O> {
    const SPINS: u32 = SPINS;
    const LOSSES: u32 = LOSSES;

    fn load(&self) -> u32 {
        self.0.load(Relaxed)
    }

    fn exchange(&self, from: u32, to: u32) -> Result<u32, u32> {
        self.0.compare_exchange(from, to, AcqRel, Relaxed)
    }

    fn park(&self, while_equal: u32) {
        self.1.park(self.0, while_equal, None);
    }

    fn wake_one(&self) {
        self.1.wake(self.0, 1);
    }

    fn spin(&self) {
        core::hint::spin_loop();
    }
}

/// Mutual exclusion for the layers below an allocator: never allocates, spins briefly, then parks
/// through the operating system.
///
/// `std::sync::Mutex` is not an option there: on some BSDs `pthread_mutex_lock` allocates at the
/// first use. The lock is not reentrant, and does not survive a panic of its holder as free (a
/// holder that unwinds releases it).
///
/// Taking it while it is free and letting it go takes six instructions more than using the value
/// without a lock, two of them atomic (x86_64, inlined, counted by callgrind).
///
/// A thread may take the lock before others that wait for it, but not forever: one that was woken
/// four times in vain is handed the lock.
pub struct Lock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands out the value to one thread at a time, which is sending it.
unsafe impl<T: Send> Send for Lock<T> {}
// SAFETY: as above; a shared lock gives no shared access to the value.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Lock<T> {
        Lock { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits until the lock is free and takes it. `os` parks and wakes the waiting threads.
    #[inline]
    pub fn lock<'a, O: Os>(&'a self, os: &'a O) -> LockGuard<'a, T, O> {
        if self.word.compare_exchange(FREE, HELD, Acquire, Relaxed).is_err() {
            self.lock_slow(os);
        }
        LockGuard { lock: self, os }
    }

    /// Takes the lock if it is free.
    pub fn try_lock<'a, O: Os>(&'a self, os: &'a O) -> Option<LockGuard<'a, T, O>> {
        self.word.compare_exchange(FREE, HELD, Acquire, Relaxed).ok()?;
        Some(LockGuard { lock: self, os })
    }

    #[cold]
    fn lock_slow<O: Os>(&self, os: &O) {
        acquire(&On(&self.word, os));
    }

    /// Takes the lock without a guard, to hold it across a fork.
    pub fn lock_for_fork<O: Os>(&self, os: &O) {
        core::mem::forget(self.lock(os));
    }

    /// Releases what [`lock_for_fork`](Lock::lock_for_fork) took, in the parent and in the child.
    ///
    /// # Safety
    ///
    /// The calling thread, or in a forked child the thread it is a copy of, holds the lock by
    /// `lock_for_fork`.
    pub unsafe fn unlock_after_fork<O: Os>(&self, os: &O) {
        // Handed over to nobody: in a child, those who wait are not there.
        if self.word.swap(FREE, Release) != HELD {
            os.wake(&self.word, 1);
        }
    }

    #[inline]
    fn unlock<O: Os>(&self, os: &O) {
        if self.word.compare_exchange(HELD, FREE, Release, Relaxed).is_err() {
            self.unlock_slow(os);
        }
    }

    #[cold]
    fn unlock_slow<O: Os>(&self, os: &O) {
        release(&On(&self.word, os));
    }
}

/// Access to the value of a [`Lock`]; dropping it releases the lock.
pub struct LockGuard<'a, T, O: Os> {
    lock: &'a Lock<T>,
    os: &'a O,
}

impl<T, O: Os> Deref for LockGuard<'_, T, O> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while its thread holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, O: Os> DerefMut for LockGuard<'_, T, O> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists only while its thread holds the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, O: Os> Drop for LockGuard<'_, T, O> {
    #[inline]
    fn drop(&mut self) {
        self.lock.unlock(self.os);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::Native;
    use std::thread;
    use std::vec::Vec;

    #[test]
    fn threads_that_contend_lose_no_increment() {
        static COUNT: Lock<u64> = Lock::new(0);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(|| {
                    for _ in 0..20_000 {
                        *COUNT.lock(&Native::NEW) += 1;
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*COUNT.lock(&Native::NEW), 80_000);
    }

    #[test]
    fn a_thread_that_takes_and_drops_the_lock_in_a_loop_keeps_nobody_out() {
        static LOCK: Lock<u32> = Lock::new(0);
        let mut loops = 0_u64;
        let waiting = thread::spawn(|| {
            for _ in 0..1000 {
                *LOCK.lock(&Native::NEW) += 1;
            }
        });
        while !waiting.is_finished() {
            // Held long enough for the other to park, and free for an instant only.
            let held = LOCK.lock(&Native::NEW);
            (0..20_000).for_each(|_| core::hint::spin_loop());
            drop(held);
            loops += 1;
        }
        assert_eq!(*LOCK.lock(&Native::NEW), 1000);
        // Each wait may be lost four times, and some looks come to nothing.
        assert!(loops < 1_000_000, "{loops}");
    }

    /// A lock for [`loom`], which tries every order in which its threads can go on. It is owed after
    /// the first loss.
    struct Modelled {
        word: loom::sync::atomic::AtomicU32,
        parked: loom::sync::Mutex<()>,
        woken: loom::sync::Condvar,
        value: loom::cell::UnsafeCell<u32>,
    }

    impl Word for Modelled {
        const SPINS: u32 = 1;
        const LOSSES: u32 = 1;

        fn load(&self) -> u32 {
            self.word.load(Relaxed)
        }

        fn exchange(&self, from: u32, to: u32) -> Result<u32, u32> {
            self.word.compare_exchange(from, to, AcqRel, Relaxed)
        }

        fn park(&self, while_equal: u32) {
            let parked = self.parked.lock().unwrap();
            if self.word.load(Relaxed) == while_equal {
                drop(self.woken.wait(parked).unwrap());
            }
        }

        fn wake_one(&self) {
            let _parked = self.parked.lock().unwrap();
            self.woken.notify_one();
        }

        fn spin(&self) {}
    }

    /// What [`Lock::lock`] and [`Lock::unlock`] do.
    fn increment(lock: &Modelled) {
        if lock.word.compare_exchange(FREE, HELD, Acquire, Relaxed).is_err() {
            acquire(lock);
        }
        // SAFETY: loom tells if another thread is here too.
        lock.value.with_mut(|value| unsafe { *value += 1 });
        if lock.word.compare_exchange(HELD, FREE, Release, Relaxed).is_err() {
            release(lock);
        }
    }

    fn model(threads: usize, each: usize) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let lock = loom::sync::Arc::new(Modelled {
                word: loom::sync::atomic::AtomicU32::new(FREE),
                parked: loom::sync::Mutex::new(()),
                woken: loom::sync::Condvar::new(),
                value: loom::cell::UnsafeCell::new(0),
            });
            let others: Vec<_> = (1..threads)
                .map(|_| {
                    let lock = lock.clone();
                    loom::thread::spawn(move || (0..each).for_each(|_| increment(&lock)))
                })
                .collect();
            (0..each).for_each(|_| increment(&lock));
            for other in others {
                other.join().unwrap();
            }
            // SAFETY: the other threads have ended.
            lock.value.with(|value| unsafe { assert_eq!(*value as usize, threads * each) });
        });
    }

    #[test]
    fn no_order_of_steps_lets_two_in_or_leaves_one_parked() {
        model(2, 3);
        model(3, 1);
    }

    #[test]
    fn a_holder_keeps_others_out_until_it_lets_go() {
        let lock = Lock::new(());
        let held = lock.lock(&Native::NEW);
        assert!(lock.try_lock(&Native::NEW).is_none());
        drop(held);
        assert!(lock.try_lock(&Native::NEW).is_some());
    }
}
