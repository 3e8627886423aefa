//! The layout of the file in which a process leaves sampled allocations for `sysmem run --profile`.
//!
//! A second memory file beside [`figures`](crate::figures), made and named in the same way. A sample
//! is a [`Cell`]: what was allocated, the registers, and a copy of the upper end of the stack, from
//! which the command finds out who called. A free is one [`Freed`] word. Whoever leaves something
//! takes a free place with one atomic step, writes, and says that it is ready; the command takes it
//! away within milliseconds. Where there is no place, it is counted as lost. Nobody waits, and a
//! process that is killed in the middle leaves no more than a place that is not ready.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::figures::SLOTS;

/// The environment variable that names the file: `/proc/<pid of the command>/fd/<number>`.
pub const VARIABLE: &CStr = c"SYSMEM_SAMPLES";

/// The name given to the memory file.
pub const FILE_NAME: &str = "sysmem-samples";

/// The first word of the file: "sysmemsa" as bytes.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"sysmemsa");

/// The version of the layout, raised with every change to it.
pub const VERSION: u64 = 2;

/// How many samples can wait for the command.
pub const CELLS: usize = 4096;

/// How much of the stack is kept with a sample, in bytes.
pub const STACK: usize = 16_384 - 88;

/// How many frees can wait for the command.
pub const FREES: usize = 1 << 16;

/// How much of its list of mappings a process leaves, in bytes.
pub const MAPPINGS: usize = 12_288 - 8;

/// The whole file. What was never used of it costs no memory.
#[repr(C)]
pub struct Samples {
    /// What the file is, and what is in it.
    pub header: Header,
    /// Samples that wait.
    pub cells: [Cell; CELLS],
    /// Frees that wait.
    pub frees: [Freed; FREES],
    /// Where code lies in each process image, by its slot in the figures.
    pub mappings: [Mappings; SLOTS],
}

/// What the file is, and what is in it.
#[repr(C, align(4096))]
pub struct Header {
    magic: AtomicU64,
    version: AtomicU64,
    bytes: AtomicU64,
    /// The mean number of bytes from one sample to the next that is wanted.
    pub interval: AtomicU64,
    /// Processor time of a process that is to pass from one sample to the next at least, on the
    /// average, in nanoseconds: where samples come faster, the process makes its interval greater.
    pub least_time_ns: AtomicU64,
    /// How many samples were named.
    pub named: AtomicU64,
    /// Samples for which there was no place.
    pub lost: AtomicU64,
    /// Frees of samples for which there was no place.
    pub lost_frees: AtomicU64,
    /// How many frees were left; places are taken in this order, round and round.
    pub freed: AtomicU64,
    /// Cells that are taken, a bit for each.
    taken: [AtomicU64; CELLS / 64],
    /// Cells that are ready for the command.
    ready: [AtomicU64; CELLS / 64],
}

/// A sampled allocation.
#[repr(C, align(64))]
pub struct Cell(UnsafeCell<Sample>);

// SAFETY: a cell is written by whoever took it and read by the command once it is ready.
unsafe impl Sync for Cell {}

/// What is known of a sampled allocation.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Sample {
    /// Its name in this run, from 1.
    pub name: u64,
    /// When it was allocated, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The slot of the process image in the figures.
    pub slot: u32,
    /// The process, as it sees itself.
    pub pid: u32,
    /// What was asked for, in bytes.
    pub requested: u64,
    /// The block handed out, in bytes.
    pub block: u64,
    /// The mean number of bytes from one sample to the next when this one was chosen.
    pub interval: u64,
    /// Where the program was, and its registers.
    pub registers: Registers,
    /// How much of the stack was copied.
    pub stack_bytes: u64,
    /// The stack from the stack pointer up.
    pub stack: [u8; STACK],
}

/// The registers from which a stack is walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// The instruction pointer.
    pub instruction: u64,
    /// The stack pointer.
    pub stack: u64,
    /// The frame pointer: of a frame or not, as the code there uses it.
    pub frame: u64,
}

impl Registers {
    /// The registers of the function that this is inlined into: so they are those of a frame that
    /// is still there when its stack is copied. All zero on other processors than x86_64 and aarch64.
    #[inline(always)]
    pub fn here() -> Registers {
        #[allow(unused_mut)]
        let mut registers = Registers::default();
        #[allow(unused_macros)]
        macro_rules! read {
            ($instruction:literal, $stack:literal, $frame:literal) => {
                // SAFETY: reads registers.
                unsafe {
                    core::arch::asm!(
                        $instruction,
                        $stack,
                        $frame,
                        instruction = out(reg) registers.instruction,
                        stack = out(reg) registers.stack,
                        frame = out(reg) registers.frame,
                        options(nomem, nostack, preserves_flags),
                    );
                }
            };
        }
        #[cfg(target_arch = "x86_64")]
        read!("lea {instruction}, [rip]", "mov {stack}, rsp", "mov {frame}, rbp");
        #[cfg(target_arch = "aarch64")]
        read!("adr {instruction}, .", "mov {stack}, sp", "mov {frame}, x29");
        registers
    }
}

/// A free of a sampled allocation.
#[repr(C)]
pub struct Freed {
    name: AtomicU64,
    time_ns: AtomicU64,
}

/// Where code lies in a process image: lines of `/proc/self/maps`.
#[repr(C, align(4096))]
pub struct Mappings {
    length: AtomicU32,
    _padding: u32,
    text: UnsafeCell<[u8; MAPPINGS]>,
}

// SAFETY: written by the one process whose slot it is, read by the command.
unsafe impl Sync for Mappings {}

const _: () = assert!(size_of::<Cell>() == 16_384 && size_of::<Mappings>() == 12_288);

impl Header {
    /// Writes what the file is; for the one who made it, before anyone else sees it.
    pub fn initialize(&self, interval: u64, least_time_ns: u64) {
        self.interval.store(interval, Ordering::Relaxed);
        self.least_time_ns.store(least_time_ns, Ordering::Relaxed);
        self.bytes.store(size_of::<Samples>() as u64, Ordering::Relaxed);
        self.version.store(VERSION, Ordering::Relaxed);
        self.magic.store(MAGIC, Ordering::Release);
    }

    /// Whether the file has the layout that this module describes.
    pub fn is_ours(&self) -> bool {
        self.magic.load(Ordering::Acquire) == MAGIC
            && self.version.load(Ordering::Relaxed) == VERSION
            && self.bytes.load(Ordering::Relaxed) == size_of::<Samples>() as u64
    }
}

impl Samples {
    /// Leaves a sample, which `fill` writes; its name. 0 where there is no place for it.
    pub fn leave(&self, fill: impl FnOnce(&mut Sample)) -> u64 {
        let Some(place) = self.take() else {
            self.header.lost.fetch_add(1, Ordering::Relaxed);
            return 0;
        };
        let name = self.header.named.fetch_add(1, Ordering::Relaxed) + 1;
        // SAFETY: the cell was taken above, so that it is nobody else's until it is ready.
        let sample = unsafe { &mut *self.cells[place].0.get() };
        sample.name = name;
        fill(sample);
        self.header.ready[place / 64].fetch_or(1 << (place % 64), Ordering::Release);
        name
    }

    /// Takes the first free cell: the same few again and again while the command keeps up.
    fn take(&self) -> Option<usize> {
        for (number, word) in self.header.taken.iter().enumerate() {
            let mut taken = word.load(Ordering::Relaxed);
            while taken != u64::MAX {
                let bit = taken.trailing_ones();
                let with = taken | 1 << bit;
                match word.compare_exchange_weak(taken, with, Ordering::Acquire, Ordering::Relaxed)
                {
                    Ok(_) => return Some(number * 64 + bit as usize),
                    Err(newer) => taken = newer,
                }
            }
        }
        None
    }

    /// Leaves the free of a sample.
    pub fn leave_free(&self, name: u64, time_ns: u64) {
        for _ in 0..16 {
            let turn = self.header.freed.fetch_add(1, Ordering::Relaxed) as usize;
            let place = &self.frees[turn % FREES];
            if place.name.load(Ordering::Relaxed) == 0 {
                place.time_ns.store(time_ns, Ordering::Relaxed);
                let taken =
                    place.name.compare_exchange(0, name, Ordering::Release, Ordering::Relaxed);
                if taken.is_ok() {
                    return;
                }
            }
        }
        self.header.lost_frees.fetch_add(1, Ordering::Relaxed);
    }

    /// Hands every sample that is ready to `each`, and makes its place free.
    pub fn collect(&self, mut each: impl FnMut(&Sample)) {
        for (number, word) in self.header.ready.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let ready = word.swap(0, Ordering::Acquire);
            let mut left = ready;
            while left != 0 {
                let place = number * 64 + left.trailing_zeros() as usize;
                // SAFETY: a ready cell is written no more, until it is free.
                each(unsafe { &*self.cells[place].0.get() });
                left &= left - 1;
            }
            self.header.taken[number].fetch_and(!ready, Ordering::Release);
        }
    }

    /// Hands the name and the time of every free to `each`, from the one numbered `from` on, and
    /// makes its place free. Returns the number to go on from.
    pub fn collect_frees(&self, from: u64, mut each: impl FnMut(u64, u64)) -> u64 {
        let end = self.header.freed.load(Ordering::Acquire);
        let first = from.max(end.saturating_sub(FREES as u64));
        for turn in first..end {
            let place = &self.frees[turn as usize % FREES];
            let name = place.name.load(Ordering::Acquire);
            if name != 0 {
                let time_ns = place.time_ns.load(Ordering::Relaxed);
                place.name.store(0, Ordering::Release);
                each(name, time_ns);
            }
        }
        // A place that was taken and not yet written is looked at again.
        end.saturating_sub(64)
    }

    /// The list of mappings of a process image; for the process that has its slot.
    pub fn write_mappings(&self, slot: usize, write: impl FnOnce(&mut [u8; MAPPINGS]) -> usize) {
        let Some(mappings) = self.mappings.get(slot) else { return };
        // SAFETY: the slot is this process's, which writes at its start and at its end only.
        let length = write(unsafe { &mut *mappings.text.get() });
        mappings.length.store(length.min(MAPPINGS) as u32, Ordering::Release);
    }

    /// Copies the list of mappings of a process image.
    pub fn read_mappings<'a>(&self, slot: usize, buffer: &'a mut [u8; MAPPINGS]) -> &'a [u8] {
        let Some(mappings) = self.mappings.get(slot) else { return &[] };
        let length = (mappings.length.load(Ordering::Acquire) as usize).min(MAPPINGS);
        let first = mappings.text.get().cast::<u8>();
        for (place, byte) in buffer[..length].iter_mut().enumerate() {
            // SAFETY: inside the array; bytes that change meanwhile are a line that names nothing.
            *byte = unsafe { first.add(place).read_volatile() };
        }
        &buffer[..length]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    fn empty() -> Box<Samples> {
        // SAFETY: the struct is numbers only, for which all zeros are valid values.
        let samples: Box<Samples> = unsafe { Box::new_zeroed().assume_init() };
        samples.header.initialize(512, 0);
        samples
    }

    #[test]
    fn what_is_left_is_collected_once_and_its_place_used_again() {
        let samples = empty();
        assert!(samples.header.is_ours());
        for round in 0..3_u64 {
            let names: Vec<u64> =
                (0..CELLS).map(|n| samples.leave(|sample| sample.block = n as u64)).collect();
            assert!(names.iter().all(|&name| name > round * CELLS as u64));
            assert_eq!(samples.leave(|_| ()), 0);
            assert_eq!(samples.header.lost.load(Ordering::Relaxed), round + 1);
            let mut seen: Vec<(u64, u64)> = Vec::new();
            samples.collect(|sample| seen.push((sample.name, sample.block)));
            seen.sort_unstable();
            let expected: Vec<(u64, u64)> = names.into_iter().zip(0..).collect();
            assert_eq!(seen, expected);
            samples.collect(|_| panic!("collected twice"));
        }
    }

    #[test]
    fn frees_come_in_their_order_or_are_counted_as_lost() {
        let samples = empty();
        let many = FREES as u64 + 100;
        for name in 1..=many {
            samples.leave_free(name, name * 2);
        }
        let lost = samples.header.lost_frees.load(Ordering::Relaxed);
        assert_eq!(lost, 100);
        let mut seen = Vec::new();
        let mut from = samples.collect_frees(0, |name, time| seen.push((name, time)));
        seen.sort_unstable();
        assert!(seen.iter().all(|&(name, time)| time == name * 2));
        assert_eq!(seen.len(), FREES);
        samples.leave_free(7, 1);
        from = samples.collect_frees(from, |name, time| seen.push((name, time)));
        assert_eq!(seen.last(), Some(&(7, 1)));
        samples.collect_frees(from, |_, _| panic!("collected twice"));
    }

    #[test]
    fn threads_leave_samples_while_they_are_collected() {
        let samples = empty();
        let seen = std::thread::scope(|scope| {
            let leavers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        (0..5000).filter(|_| samples.leave(|sample| sample.block = 9) != 0).count()
                    })
                })
                .collect();
            let mut seen = Vec::new();
            while leavers.iter().any(|leaver| !leaver.is_finished()) {
                samples.collect(|sample| seen.push((sample.name, sample.block)));
            }
            samples.collect(|sample| seen.push((sample.name, sample.block)));
            let left: usize = leavers.into_iter().map(|leaver| leaver.join().unwrap()).sum();
            assert_eq!(seen.len(), left);
            seen
        });
        let mut names: Vec<u64> = seen.iter().map(|sample| sample.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), seen.len());
        assert!(seen.iter().all(|sample| sample.1 == 9));
    }
}
