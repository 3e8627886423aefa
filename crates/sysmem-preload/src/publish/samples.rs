//! Leaves sampled allocations in the file that `sysmem run --profile` made.
//!
//! All that is done in the middle of an allocation is to copy: registers and the upper end of the
//! stack. Who called whom is found out by the command, which may allocate and read files. Where
//! the first thread's stack ends is known. Of others nobody knows, which may be a coroutine's or a
//! signal handler's, and the page behind it may not be there: those the kernel copies
//! (process_vm_readv(2)), which takes it two microseconds for each page.
//!
//! With the command's part a sample costs up to 20 µs. The command says how much processor
//! time of the program is to pass between two of them, and where they come faster the interval
//! grows ([`keep_pace`]): so sampling costs the same part of the time, whatever the program does.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use sysmem_alloc::Recorder;
use sysmem_alloc::samples::{self, MAPPINGS, Registers, STACK, Sample, Samples};

use super::{clock_ns, own_slot_number};

/// Pages end where the kernel's copy may have to stop.
const PAGE: usize = 4096;

/// The first thread's stack has at least this much room, and around it nothing else lies: the kernel
/// keeps 128 MiB free below it (arch/x86/mm/mmap.c, mm/util.c).
const FIRST_STACK: usize = 1 << 20;

/// An address on the first thread's stack above all that its functions use.
static FIRST_STACK_END: AtomicUsize = AtomicUsize::new(0);

static SAMPLES: AtomicPtr<Samples> = AtomicPtr::new(ptr::null_mut());
/// Samples up to this name were taken by the process of which this one is a fork.
static BEFORE_FORK: AtomicU64 = AtomicU64::new(0);

/// After so many samples it is seen how long they took.
const PACE_SAMPLES: u64 = 16;

/// The interval grows by this much at a time at most.
const MOST_GROWTH: f64 = 16.0;

/// The mean number of bytes from one sample to the next: what the command wants, and more while
/// samples come too fast.
static INTERVAL: AtomicU64 = AtomicU64::new(u64::MAX);
/// Samples since the start.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// The processor time when the pace was last looked at.
static PACE_SEEN_NS: AtomicU64 = AtomicU64::new(0);

static RECORDER: Recorder =
    Recorder { interval: || INTERVAL.load(Ordering::Relaxed), allocated, freed };

/// Maps the file that the environment names, and begins to sample.
pub(super) fn open_from_environment() {
    let Some(path) = super::variable(samples::VARIABLE, samples::FILE_NAME) else { return };
    let Some(file) = super::map::<Samples>(path, |samples| samples.header.is_ours()) else {
        return;
    };
    // The 16 random bytes that the kernel gives a program lie above its arguments.
    // SAFETY: getauxval takes no pointers.
    FIRST_STACK_END.store(unsafe { libc::getauxval(libc::AT_RANDOM) } as usize, Ordering::Relaxed);
    SAMPLES.store(ptr::from_ref(file).cast_mut(), Ordering::Release);
    tell_mappings();
    begin_pace(file);
    sysmem_alloc::start_sampling(&RECORDER);
}

/// Begins with the interval that the command wants.
fn begin_pace(file: &Samples) {
    INTERVAL.store(file.header.interval.load(Ordering::Relaxed).max(1), Ordering::Relaxed);
    COUNT.store(0, Ordering::Relaxed);
    PACE_SEEN_NS.store(clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID), Ordering::Relaxed);
}

/// Makes the interval such that samples come no faster than they may.
fn keep_pace(file: &Samples) {
    // One thread comes to each multiple.
    if (COUNT.fetch_add(1, Ordering::Relaxed) + 1) % PACE_SAMPLES != 0 {
        return;
    }
    let now = clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID);
    let took = now.saturating_sub(PACE_SEEN_NS.swap(now, Ordering::Relaxed));
    let may_take = PACE_SAMPLES * file.header.least_time_ns.load(Ordering::Relaxed);
    let paced = paced(INTERVAL.load(Ordering::Relaxed), took, may_take);
    let wanted = file.header.interval.load(Ordering::Relaxed).max(1);
    INTERVAL.store(paced.max(wanted), Ordering::Relaxed);
}

/// The interval by which samples come as fast as they may, of one by which some took so long.
fn paced(interval: u64, took_ns: u64, may_take_ns: u64) -> u64 {
    let growth = (may_take_ns as f64 / took_ns.max(1) as f64).min(MOST_GROWTH);
    (interval as f64 * growth) as u64
}

/// In the child of a fork, once it has a slot of its own.
pub(super) fn after_fork_in_child() {
    if let Some(samples) = file() {
        let named = samples.header.named.load(Ordering::Relaxed);
        BEFORE_FORK.store(named, Ordering::Relaxed);
        begin_pace(samples);
        tell_mappings();
    }
}

fn file() -> Option<&'static Samples> {
    // SAFETY: the pointer is null or a mapping that is never unmapped.
    unsafe { SAMPLES.load(Ordering::Acquire).as_ref() }
}

/// Writes down where code lies in this process: the lines of executable files.
pub(super) fn tell_mappings() {
    let (Some(samples), Some(slot)) = (file(), own_slot_number()) else { return };
    samples.write_mappings(slot, |text| {
        let mut length = 0;
        super::lines(c"/proc/self/maps", &mut |line| {
            let mut fields = line.split(|&byte| byte == b' ');
            let executable = fields.nth(1).is_some_and(|rights| rights.get(2) == Some(&b'x'));
            let end = length + line.len() + 1;
            if executable && line.contains(&b'/') && end <= MAPPINGS {
                text[length..end - 1].copy_from_slice(line);
                text[end - 1] = b'\n';
                length = end;
            }
        });
        length
    });
}

#[inline(never)]
fn allocated(requested: usize, block: usize, interval: u64) -> u64 {
    let (Some(samples), Some(slot)) = (file(), own_slot_number()) else { return 0 };
    keep_pace(samples);
    let registers = Registers::here();
    samples.leave(|sample| {
        // SAFETY: getpid takes nothing and cannot fail.
        sample.pid = unsafe { libc::getpid() } as u32;
        sample.slot = slot as u32;
        sample.interval = interval;
        sample.time_ns = clock_ns(libc::CLOCK_MONOTONIC);
        sample.requested = requested as u64;
        sample.block = block as u64;
        sample.registers = registers;
        sample.stack_bytes = copy_stack(sample) as u64;
    })
}

fn freed(name: u64) {
    // What the parent allocated before the fork is the parent's to free.
    if name <= BEFORE_FORK.load(Ordering::Relaxed) {
        return;
    }
    if let Some(samples) = file() {
        samples.leave_free(name, clock_ns(libc::CLOCK_MONOTONIC));
    }
}

/// Copies the stack from the stack pointer up, as far as it goes; how many bytes that were.
fn copy_stack(sample: &mut Sample) -> usize {
    let from = sample.registers.stack as usize;
    let above = FIRST_STACK_END.load(Ordering::Relaxed).saturating_sub(from);
    if (1..=FIRST_STACK).contains(&above) {
        let length = above.min(STACK);
        let first = ptr::with_exposed_provenance::<u8>(from);
        // SAFETY: from the stack pointer of the first thread up, its stack is in use to the end. The
        // sample lies in a mapping of its own.
        unsafe { first.copy_to_nonoverlapping(sample.stack.as_mut_ptr(), length) };
        return length;
    }
    // The kernel copies whole pieces or none of them (process_vm_readv(2)): a piece for each page.
    let mut pieces =
        [const { libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 } }; STACK / PAGE + 2];
    let (mut at, mut count) = (from, 0);
    while at < from + STACK && count < pieces.len() {
        let end = ((at / PAGE + 1) * PAGE).min(from + STACK);
        pieces[count].iov_base = ptr::with_exposed_provenance_mut(at);
        pieces[count].iov_len = end - at;
        at = end;
        count += 1;
    }
    let into = libc::iovec { iov_base: sample.stack.as_mut_ptr().cast(), iov_len: STACK };
    // SAFETY: writes at most the length of the buffer; what cannot be read ends the copy.
    let copied = unsafe {
        let own = sample.pid as libc::pid_t;
        let (pieces, count) = (pieces.as_ptr(), count as libc::c_ulong);
        libc::syscall(libc::SYS_process_vm_readv, own, &into, 1_usize, pieces, count, 0_usize)
    };
    usize::try_from(copied).unwrap_or(0).min(STACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_follows_the_time_that_samples_take() {
        let may_take = PACE_SAMPLES * 1_000_000;
        assert_eq!(paced(1 << 20, may_take, may_take), 1 << 20);
        assert_eq!(paced(1 << 20, may_take / 4, may_take), 4 << 20);
        assert_eq!(paced(8 << 20, may_take * 16, may_take), 1 << 19);
        // The clock may stand still.
        assert_eq!(paced(1 << 20, 0, may_take), 16 << 20);
        // Where samples may take no time, the interval is what is wanted, which is the least.
        assert_eq!((paced(1 << 20, 0, 0), paced(1 << 20, 7, 0)), (0, 0));
        // It stops at the end of numbers.
        assert_eq!(paced(u64::MAX, 0, may_take), u64::MAX);
    }
}
