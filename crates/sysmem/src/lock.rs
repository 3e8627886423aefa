use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering::*};

use crate::Os;

const FREE: u32 = 0;
const HELD: u32 = 1;
const HELD_WITH_WAITERS: u32 = 2;

/// How often a thread looks again before it parks. The sections that this lock guards are some
/// hundred instructions long, and parking costs two system calls.
const SPINS: u32 = 100;

/// Mutual exclusion for the layers below an allocator: never allocates, spins briefly, then parks
/// through the operating system.
///
/// `std::sync::Mutex` is not an option there: on some BSDs `pthread_mutex_lock` allocates at the
/// first use. The lock is not reentrant, and does not survive a panic of its holder as free (a
/// holder that unwinds releases it).
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
        for _ in 0..SPINS {
            if self.word.load(Relaxed) == FREE
                && self.word.compare_exchange(FREE, HELD, Acquire, Relaxed).is_ok()
            {
                return;
            }
            core::hint::spin_loop();
        }
        // From here on the word says that somebody waits: whoever unlocks must wake one.
        while self.word.swap(HELD_WITH_WAITERS, Acquire) != FREE {
            os.park(&self.word, HELD_WITH_WAITERS, None);
        }
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
        self.unlock(os);
    }

    #[inline]
    fn unlock<O: Os>(&self, os: &O) {
        if self.word.swap(FREE, Release) == HELD_WITH_WAITERS {
            os.wake(&self.word, 1);
        }
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
    fn a_holder_keeps_others_out_until_it_lets_go() {
        let lock = Lock::new(());
        let held = lock.lock(&Native::NEW);
        assert!(lock.try_lock(&Native::NEW).is_none());
        drop(held);
        assert!(lock.try_lock(&Native::NEW).is_some());
    }
}
