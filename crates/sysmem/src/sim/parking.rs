//! Parked threads and the time of a simulated machine.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Native;
use crate::os::Os;

/// Time that passes by itself, if it does, and is moved on by hand.
pub(crate) struct Clock {
    started: Option<Instant>,
    moved_on: AtomicU64,
}

impl Clock {
    pub(crate) fn new(stands: bool) -> Clock {
        Clock { started: (!stands).then(Instant::now), moved_on: AtomicU64::new(0) }
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.moved_on.fetch_add(time.as_nanos() as u64, SeqCst);
    }

    fn moved_on(&self) -> Duration {
        Duration::from_nanos(self.moved_on.load(SeqCst))
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.map_or(Duration::ZERO, |started| started.elapsed()) + self.moved_on()
    }

    pub(crate) fn thread_cpu_time(&self) -> Duration {
        let real = self.started.map_or(Duration::ZERO, |_| Native::NEW.thread_cpu_time());
        real + self.moved_on()
    }
}

/// Where threads wait. There is one queue: whoever is woken for another's word returns early,
/// which `park` may.
pub(crate) struct Parking {
    queue: Mutex<()>,
    woken: Condvar,
}

impl Parking {
    pub(crate) fn new() -> Parking {
        Parking { queue: Mutex::new(()), woken: Condvar::new() }
    }

    pub(crate) fn park(
        &self,
        clock: &Clock,
        word: &AtomicU32,
        while_equal: u32,
        timeout: Option<Duration>,
    ) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if word.load(SeqCst) != while_equal {
            return;
        }
        match timeout.filter(|_| clock.started.is_some()) {
            Some(timeout) => drop(self.woken.wait_timeout(queue, timeout)),
            // Where time stands, only `advance` ends a timeout.
            None if timeout != Some(Duration::ZERO) => drop(self.woken.wait(queue)),
            None => {}
        }
    }

    pub(crate) fn wake_all(&self) {
        // A thread between its look at the word and its wait holds the queue.
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        self.woken.notify_all();
    }
}
