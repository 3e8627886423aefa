//! Which allocations are sampled, for a profile of who holds the memory.
//!
//! Every byte of the blocks that are handed out is chosen with the same small chance, one in
//! `interval`, and an allocation is sampled that has a chosen byte: a block of `n` bytes with
//! probability `1 - exp(-n / interval)`. One over that probability is how many allocations a sample
//! stands for, so that sums over samples are estimates without bias, whatever the sizes.
//!
//! The bytes between chosen ones are exponentially distributed, which has no memory: each class of
//! each heap may count down on its own, and a large allocation may draw anew.
//!
//! The recorder may change the interval at any time, to keep down what sampling costs. What was
//! drawn stays drawn: each sample is told with the interval by which it was chosen.
//!
//! A block that is sampled moves to pages of its own before the program gets it. So its free comes
//! by the way of large allocations, its span says which sample it was, and no other free has to ask.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::*};

use crate::lifecycle;
use crate::thread_heap::ThreadHeap;

/// Keeps samples. Its functions are called in the middle of allocations and frees, without a lock
/// held: they may neither allocate nor wait.
pub struct Recorder {
    /// The mean number of bytes from one sample to the next, at least 1, as it is now.
    pub interval: fn() -> u64,
    /// An allocation of so many bytes, in a block of so many, is sampled; it was chosen with this
    /// interval. What is returned names the sample; 0 where there is no room for it.
    pub allocated: fn(requested: usize, block: usize, interval: u64) -> u64,
    /// The allocation of a sample was freed.
    pub freed: fn(sample: u64),
}

/// Null where nothing is sampled.
static RECORDER: AtomicPtr<Recorder> = AtomicPtr::new(ptr::null_mut());

/// Samples allocations from now on. For the start of a process, while it has one thread; a second
/// call changes nothing.
pub fn start_sampling(recorder: &'static Recorder) {
    if is_on() || lifecycle::with_heap(|_| ()).is_none() {
        return;
    }
    RECORDER.store(ptr::from_ref(recorder).cast_mut(), Release);
    for heap in lifecycle::heaps() {
        heap.begin_sampling();
    }
}

#[inline]
pub(crate) fn is_on() -> bool {
    !RECORDER.load(Relaxed).is_null()
}

fn recorder() -> Option<&'static Recorder> {
    // SAFETY: null, or what `start_sampling` was given, which lives forever.
    unsafe { RECORDER.load(Acquire).as_ref() }
}

/// The mean number of bytes from one sample to the next, as it is now.
pub(crate) fn interval() -> u64 {
    recorder().map_or(u64::MAX, |recorder| (recorder.interval)())
}

/// Samples a large allocation or not; the sample, or 0.
#[inline]
pub(crate) fn large(heap: &ThreadHeap, requested: usize, len: usize) -> u64 {
    if is_on() { large_or_not(heap, requested, len) } else { 0 }
}

#[cold]
fn large_or_not(heap: &ThreadHeap, requested: usize, len: usize) -> u64 {
    let interval = interval();
    if heap.bytes_to_sample(interval) >= len as f64 {
        return 0;
    }
    record(requested, len, interval)
}

pub(crate) fn record(requested: usize, block: usize, interval: u64) -> u64 {
    recorder().map_or(0, |recorder| (recorder.allocated)(requested, block, interval))
}

/// Tells that the allocation of a sample was freed; of no sample, nothing.
#[inline]
pub(crate) fn freed(sample: u64) {
    if sample != 0 {
        if let Some(recorder) = recorder() {
            (recorder.freed)(sample);
        }
    }
}

/// An exponentially distributed number with the mean 1.
pub(crate) fn exponential(state: &Cell<u64>) -> f64 {
    // SplitMix64 (Steele, Lea, Flood 2014): any seed will do, and a state of one word.
    let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    state.set(next);
    let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    negative_ln((mixed ^ (mixed >> 31)) | 1)
}

/// -ln(x / 2^64) for x > 0. There is no logarithm without std.
fn negative_ln(x: u64) -> f64 {
    let zeros = x.leading_zeros();
    // x / 2^64 = m / 2^zeros with m from 1/2 to 1, and ln m = 2 artanh((m - 1) / (m + 1)).
    let m = (x << zeros) as f64 / 18_446_744_073_709_551_616.0;
    let z = (m - 1.0) / (m + 1.0);
    let square = z * z;
    let mut sum = 0.0;
    // |z| is at most 1/3: ten terms are exact to nine places.
    for odd in (0..10).rev() {
        sum = sum * square + 1.0 / f64::from(2 * odd + 1);
    }
    f64::from(zeros) * core::f64::consts::LN_2 - 2.0 * z * sum
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn the_logarithm_is_that_of_std() {
        for x in [1, 2, 3, 1 << 32, u64::MAX / 3, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX] {
            let expected = -(x as f64 / 2_f64.powi(64)).ln();
            assert!((negative_ln(x) - expected).abs() < 1e-9, "{x}: {expected}");
        }
    }

    #[test]
    fn random_numbers_have_the_distribution_that_estimates_rest_on() {
        let state = Cell::new(7);
        let count = 200_000;
        let numbers: std::vec::Vec<f64> = (0..count).map(|_| exponential(&state)).collect();
        let mean = numbers.iter().sum::<f64>() / f64::from(count);
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        for at in [0.01, 0.1, 1.0, 3.0_f64] {
            let above = numbers.iter().filter(|&&n| n > at).count() as f64 / f64::from(count);
            assert!((above - (-at).exp()).abs() < 0.005, "{at}: {above}");
        }
    }
}
