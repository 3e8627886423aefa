//! When free memory goes back, where somebody can see to it while nobody allocates.
//!
//! Giving back too early costs a page fault for every page that is wanted again, and breaks huge
//! pages; too late, and the process is large for nothing. Freeing cannot decide this, because the
//! answer lies in what does not happen afterwards. So a scavenger looks at the heap ten times a
//! second while there is something to give back, and sleeps while there is not:
//!
//! - What was in use at the peaks of the last half second is held back: a load that goes up and
//!   down faster than that keeps its memory. 9 % of what is in use and in memory, or 1 MiB, always
//!   stays. Where others wait for memory, nothing is held back.
//! - Whole free huge pages go first. A huge page that is partly in use is broken only when nothing
//!   was handed out from it or freed to it for two looks.
//! - It takes at most a hundredth of one CPU over any minute, measured: a bucket of 250 ms that
//!   fills by 350 ms a minute. A call that cost more than was left is paid back before the next.
//! - What is left goes to broken huge pages that are mostly in use again: they are made whole, one a
//!   step (`collapse.rs`). The heap calls when one comes to be so while the scavenger sleeps.
//! - A cache that nobody used between two looks is drained, every cache where others wait for memory.
//!
//! The policy is an object without a thread: [`Scavenger::step`] does a few milliseconds' work and
//! says when it wants to be called again.

use core::sync::atomic::Ordering::*;
use core::time::Duration;

use sysmem::Os;
use sysmem::huge::HugePageControl;

use crate::collapse::{Pass, Progress};
use crate::heap::PageHeap;
use crate::pages::Pages;
use crate::release::Search;

/// How often the heap is looked at while there is something to give back.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks over which the peak of what is in use is held back.
const LOOKS_HELD: usize = 5;

/// Looks during which a huge page must be left alone before it is broken.
pub(crate) const QUIET_LOOKS: u32 = 2;

/// The most that one step gives back, in bytes: what the system does in some milliseconds.
const STEP: usize = 32 << 20;

/// How long after a refusal the system is asked again.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// How often broken huge pages are looked for that can be made whole.
const COLLAPSE_EVERY: Duration = Duration::from_secs(1);

/// As much stays free and backed whatever is in use, in bytes.
const LEAST_KEPT: usize = 1 << 20;

/// The part of what is in use and in memory that stays free and backed, in a hundred. With more, more
/// huge pages stay whole (`compare -- churn`) and more is kept after a burst (`compare -- burst`).
const KEPT_PERCENT: usize = 9;

/// The part of it by which more may be free and backed while the scavenger sleeps. Where this is
/// wider, more is kept on the average and no more huge pages stay whole (`compare -- churn`).
const SLACK: usize = 5;

/// CPU time that may be used at once, and what is added in a minute: together a hundredth of it.
const BURST: Duration = Duration::from_millis(250);
const ADDED_A_MINUTE: Duration = Duration::from_millis(350);

/// What is left of that for giving back, whatever is made whole.
const LEFT_BY_COLLAPSES: Duration = Duration::from_millis(100);

/// Who gives free memory back by itself.
pub(crate) enum Keeper {
    /// Whoever frees, as the options say.
    Freeing,
    /// A scavenger, which wants to be called when more pages than this are idle, or may be in caches,
    /// or a broken huge page becomes dense.
    Asleep { call_above: usize },
    /// A scavenger, which is going to look.
    Awake,
}

/// Gives back what is free and not soon needed, within its share of a CPU.
///
/// One at a time for a heap: a thread that does nothing else, or an owner's loop.
///
/// ```
/// # use std::time::Duration;
/// # use sysmem::Native;
/// # use sysmem_pages::{Accounts, Options, PAGE, PageHeap, Scavenger};
/// # static ACCOUNTS: Accounts = Accounts::new("buffers", "buffers: records");
/// static HEAP: PageHeap<Native> = PageHeap::new(Native::NEW, &ACCOUNTS, Options::new());
///
/// let run = HEAP.allocate(4096, PAGE)?;
/// // SAFETY: the whole run, which nobody uses.
/// unsafe { HEAP.free(run.start, run.npages) }?;
/// let mut scavenger = Scavenger::new();
/// // For a thread of its own this would be `loop`.
/// while let Some(wait) = scavenger.step(&HEAP) {
///     HEAP.wait_for_call(Some(wait));
/// }
/// assert!(HEAP.statistics().free_backed <= 2 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Scavenger {
    budget: Budget,
    /// What was in use at most, in pages, between looks; the last ones, in a ring.
    peaks: [usize; LOOKS_HELD],
    looks: usize,
    next_look: Duration,
    search: Search,
    pass: Pass,
    next_pass: Duration,
    /// A huge page may be made whole soon.
    awaits_pass: bool,
    under_pressure: bool,
}

impl Scavenger {
    /// A scavenger with a full budget that has seen nothing yet.
    pub const fn new() -> Scavenger {
        Scavenger {
            budget: Budget { left: BURST.as_nanos() as i64, filled: None },
            peaks: [0; LOOKS_HELD],
            looks: 0,
            next_look: Duration::ZERO,
            search: Search::DONE,
            pass: Pass::NEW,
            next_pass: Duration::ZERO,
            awaits_pass: false,
            under_pressure: false,
        }
    }

    /// Gives back a part of what should go now, and says when to be called again: zero if there is
    /// more to do at once, `None` if there is nothing to do before the heap calls
    /// ([`PageHeap::wait_for_call`]). May be called earlier, too. From the first step on, freeing
    /// gives nothing back by itself.
    pub fn step<O: HugePageControl + Clone>(&mut self, heap: &PageHeap<O>) -> Option<Duration> {
        let (now, began) = (heap.os.monotonic_time(), heap.os.thread_cpu_time());
        let next = self.step_at(now, heap);
        self.charge(heap, began);
        next
    }

    /// Says whether memory is short for others, who wait for it: from then on nothing is held back.
    pub fn set_pressure(&mut self, under_pressure: bool) {
        self.under_pressure = under_pressure;
    }

    /// Has the owner do work of its own that gives memory back, and charges it to the same budget. If
    /// nothing is left of that, the work is not done: how long to wait.
    pub fn share_budget<O: Os + Clone, R>(
        &mut self,
        heap: &PageHeap<O>,
        work: impl FnOnce() -> R,
    ) -> Result<R, Duration> {
        if let Some(wait) = self.budget.wait(heap.os.monotonic_time()) {
            return Err(wait);
        }
        let began = heap.os.thread_cpu_time();
        let result = work();
        self.charge(heap, began);
        Ok(result)
    }

    /// Charges the processor time since `began` to the budget, and books it on the heap.
    fn charge<O: Os + Clone>(&mut self, heap: &PageHeap<O>, began: Duration) {
        let time = heap.os.thread_cpu_time().saturating_sub(began);
        self.budget.spend(time);
        heap.lock().counts.scavenger.cpu_time += time;
    }

    fn step_at<O: HugePageControl + Clone>(
        &mut self,
        now: Duration,
        heap: &PageHeap<O>,
    ) -> Option<Duration> {
        if let Some(wait) = self.budget.wait(now) {
            return Some(wait);
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_EVERY;
            let (peak, look) = heap.lock().look();
            self.peaks[self.looks % LOOKS_HELD] = peak;
            self.looks += 1;
            self.search = Search::quiet_at(look);
            heap.sweep_caches(self.under_pressure);
        }
        let needed = self.peaks.into_iter().max().unwrap_or(0);
        let under_pressure = self.under_pressure;
        if !self.search.done {
            heap.scavenge(&mut self.search, |pages| {
                if under_pressure {
                    return pages.idle.min(STEP >> heap.page_shift());
                }
                let kept = pages.kept(heap.page_shift());
                let held = needed.saturating_sub(pages.in_use).max(kept).min(pages.room_for_idle());
                pages.idle.saturating_sub(held).min(STEP >> heap.page_shift())
            });
            if !self.search.done {
                return Some(Duration::ZERO);
            }
        }
        if self.search.refused {
            self.next_look = now + AFTER_REFUSAL;
            self.search.refused = false;
        }
        // Where others wait for memory, none is taken to make huge pages of.
        if now >= self.next_pass && !under_pressure && self.budget.has(LEFT_BY_COLLAPSES) {
            let most_idle = |pages: &Pages<O>| pages.most_rested(heap.page_shift());
            let (next, waits) = match heap.collapse(&mut self.pass, most_idle) {
                Progress::More => return Some(Duration::ZERO),
                Progress::Refused => (AFTER_REFUSAL, false),
                Progress::End { waits } => (COLLAPSE_EVERY, waits),
            };
            (self.next_pass, self.awaits_pass) = (now + next, waits);
        }
        let mut pages = heap.lock();
        let cached = heap.depot.lock(&heap.os).most();
        if pages.rest(cached, heap.page_shift(), self.awaits_pass, under_pressure) {
            return None;
        }
        Some(self.next_look.saturating_sub(now))
    }
}

impl Default for Scavenger {
    fn default() -> Scavenger {
        Scavenger::new()
    }
}

/// CPU time that may be used: a bucket that fills slowly.
struct Budget {
    /// In nanoseconds; negative after a call that cost more than there was.
    left: i64,
    filled: Option<Duration>,
}

impl Budget {
    /// How many nanoseconds fill the bucket by one, rounded up so that a minute is never too much.
    const SLOWNESS: i64 = 60_000_u64.div_ceil(ADDED_A_MINUTE.as_millis() as u64) as i64;

    /// How long it takes until something is left; `None` if something is.
    fn wait(&mut self, now: Duration) -> Option<Duration> {
        let elapsed = now.saturating_sub(self.filled.unwrap_or(now)).as_nanos() as i64;
        let added = elapsed / Self::SLOWNESS;
        // What is too little to add one stays for the next time.
        let counted = Duration::from_nanos((added * Self::SLOWNESS) as u64);
        self.filled = Some(self.filled.map_or(now, |filled| filled + counted));
        self.left = (self.left + added).min(BURST.as_nanos() as i64);
        (self.left <= 0)
            .then(|| Duration::from_nanos((1 - self.left) as u64 * Self::SLOWNESS as u64))
    }

    /// Whether as much is left, as of the last time it was filled.
    fn has(&self, time: Duration) -> bool {
        self.left >= time.as_nanos() as i64
    }

    fn spend(&mut self, time: Duration) {
        self.left -= time.as_nanos() as i64;
    }
}

impl<O: Os + Clone> PageHeap<O> {
    /// Says that a [`Scavenger`] will give memory back: from now on freeing does not, but calls for
    /// the scavenger when more than `bytes` are free and backed or may be in caches.
    pub fn expect_scavenger(&self, bytes: usize) {
        self.call.store(0, Relaxed);
        self.lock().keeper = Keeper::Asleep { call_above: bytes >> self.page_shift() };
    }

    /// Says that no scavenger will come any more: freeing gives back again as [`Options`] say.
    ///
    /// [`Options`]: crate::Options
    pub fn dismiss_scavenger(&self) {
        self.lock().keeper = Keeper::Freeing;
    }

    /// Waits until the heap calls for its scavenger, or until `timeout`; now and then returns
    /// earlier. Calls that came before count.
    pub fn wait_for_call(&self, timeout: Option<Duration>) {
        if self.call.load(Acquire) == 0 {
            self.os.park(&self.call, 0, timeout);
        }
        self.call.store(0, Relaxed);
    }

    /// Whether the heap called for its scavenger, which has not come yet.
    #[inline]
    pub fn calls_for_scavenger(&self) -> bool {
        self.call.load(Relaxed) != 0
    }

    /// Ends a [`wait_for_call`](PageHeap::wait_for_call), as if there were something to give back.
    pub fn call_scavenger(&self) {
        self.call.store(1, Release);
        self.os.wake(&self.call, 1);
    }
}

impl<O: Os + Clone> Pages<O> {
    /// Begins a new look: the most pages that were in use since the last one, and its number.
    fn look(&mut self) -> (usize, u32) {
        self.keeper = Keeper::Awake;
        self.look = self.look.wrapping_add(1);
        (core::mem::replace(&mut self.peak_since_look, self.in_use), self.look)
    }

    /// The pages that stay idle whatever was needed before.
    fn kept(&self, shift: u32) -> usize {
        (LEAST_KEPT >> shift).max(self.in_use_in_memory(shift) * KEPT_PERCENT / 100)
    }

    /// As many pages may be idle while the scavenger sleeps: not much more than what stays anyway.
    fn most_rested(&self, shift: u32) -> usize {
        let kept = self.kept(shift);
        (kept + (kept / SLACK).max((LEAST_KEPT >> shift) / 2)).min(self.room_for_idle())
    }

    /// Lets the scavenger sleep if there is no more than that, with what may be `cached`, and no huge
    /// page may be made whole soon.
    fn rest(&mut self, cached: usize, shift: u32, awaits_pass: bool, under_pressure: bool) -> bool {
        let call_above = self.most_rested(shift);
        let awaited = (awaits_pass || self.newly_dense) && !under_pressure;
        let rests = self.idle + cached <= call_above && !awaited;
        if rests {
            self.keeper = Keeper::Asleep { call_above };
            self.newly_dense = false;
        }
        rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Works a millisecond at a time, as often as the budget lets it, from a full bucket on.
    fn work(until: Duration) -> (Duration, Duration) {
        let mut budget = Budget { left: BURST.as_nanos() as i64, filled: None };
        let (mut now, mut spent, mut first_wait) = (Duration::ZERO, Duration::ZERO, None);
        while now < until {
            match budget.wait(now) {
                Some(wait) => {
                    first_wait.get_or_insert(now);
                    now += wait;
                }
                None => {
                    budget.spend(MS);
                    spent += MS;
                    now += MS;
                }
            }
        }
        (first_wait.unwrap_or(now), spent)
    }

    #[test]
    fn a_full_bucket_lasts_for_250_ms_and_a_minute_for_a_hundredth_of_it() {
        // While 250 ms are spent, 1.5 ms come.
        assert_eq!(work(MS * 1000).0, MS * 252);
        // 250 ms, and a little less than 350 in 60 s.
        let spent = work(MS * 60_000).1;
        assert!((MS * 598..=MS * 600).contains(&spent), "{spent:?}");
        let spent = work(MS * 600_000).1;
        assert!((MS * 3735..=MS * 3750).contains(&spent), "{spent:?}");
    }
}
