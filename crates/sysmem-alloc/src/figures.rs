//! The layout of the figures that a process publishes while it runs on this allocator.
//!
//! `sysmem run` makes one memory file, seals its size and names it to the program in the
//! environment variable [`VARIABLE`]. Every process image that is loaded with the allocator maps
//! the file shared, claims one slot and stores its figures there; the command, and any later view
//! that finds the file, reads them while the program runs. Nothing here makes a system call.
//!
//! The file is a [`Figures`]: a header, slots, then pictures of page heaps. Everything is a 64-bit word in the byte order
//! of the machine, stored and loaded atomically. Words are independent: a reader may see one word
//! from the latest publication and its neighbour from the one before it, never half a word.
//!
//! The layout is named by [`MAGIC`] and [`VERSION`]. A reader and a writer that disagree about
//! either leave each other alone; any change to the order or the meaning of a word is a new
//! version.

mod heap_picture;
mod reservations;

pub use heap_picture::{Drawn, Moment, PICTURE_CELLS, PICTURES, Picture};
pub use reservations::{RESERVATIONS, Reservations};
pub use sysmem_pages::MapCell;

use crate::statistics::{ClassStatistics, SIZE_CLASSES};
use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that names the file: `/proc/<pid of the command>/fd/<number>`.
///
/// A path and not a descriptor, so that a program that closes every descriptor it did not open
/// changes nothing.
pub const VARIABLE: &CStr = c"SYSMEM_FIGURES";

/// The name given to the memory file, as `/proc/<pid>/fd` shows it.
pub const FILE_NAME: &str = "sysmem-figures";

/// The first word of the file: "sysmemfg" as bytes.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"sysmemfg");

/// The version of the layout, raised with every change to the order or meaning of a word.
pub const VERSION: u64 = 3;

/// How many process images can publish at once. Slots that were never claimed cost no memory.
pub const SLOTS: usize = 1024;

/// The longest program name that is kept, in bytes.
pub const NAME_BYTES: usize = 64;

/// The slot belongs to nobody.
pub const FREE: u64 = 0;
/// The slot belongs to a process that has not said that it ended. It may have been killed since.
pub const LIVE: u64 = 1;
/// The process ended in order; its figures are its last.
pub const EXITED: u64 = 2;

/// The whole file.
#[repr(C)]
pub struct Figures {
    /// What the file is and how far its slots are taken.
    pub header: Header,
    /// One slot for each process image.
    pub slots: [Slot; SLOTS],
    /// Pictures of page heaps, for the images that claimed one.
    pub pictures: [Picture; PICTURES],
}

/// What the file is and how far its slots are taken; one page of its own.
#[repr(C, align(4096))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU64,
    /// The size of one slot in bytes.
    pub slot_bytes: AtomicU64,
    /// The number of slots in the file.
    pub slot_count: AtomicU64,
    /// How many claims were begun; claims walk the slots in this order, round and round.
    pub claims: AtomicU64,
    /// How many process images found no free slot and published nothing.
    pub turned_away: AtomicU64,
}

/// What one process image says about itself; pages of its own.
#[repr(C, align(4096))]
pub struct Slot {
    /// [`FREE`], [`LIVE`] or [`EXITED`].
    pub state: AtomicU64,
    /// The process, as it sees itself; 0 while the slot is being filled.
    pub pid: AtomicU64,
    /// Its parent at the time of the claim.
    pub parent_pid: AtomicU64,
    /// When the process began, in clock ticks since boot (field 22 of `/proc/<pid>/stat`). Kept
    /// across exec: two slots with the same process and the same beginning are two images of one
    /// process. 0 where /proc cannot be read.
    pub process_began_ticks: AtomicU64,
    /// When the slot was claimed, in nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: AtomicU64,
    /// When figures were last stored, in nanoseconds of `CLOCK_MONOTONIC`.
    pub updated_ns: AtomicU64,
    /// The program's name, zero padded.
    pub name: [AtomicU64; NAME_BYTES / 8],
    /// What the kernel says, in the order of [`KernelFigures::NAMES`].
    pub kernel: [AtomicU64; KernelFigures::COUNT],
    /// What the allocator says, in the order of [`HeapFigures::NAMES`].
    pub heap: [AtomicU64; HeapFigures::COUNT],
    /// Which of the pictures is this image's, counted from 1; 0 for none.
    pub picture: AtomicU64,
    /// What the allocator did with blocks of each size, smallest first, and with large allocations
    /// at the end.
    pub classes: [[AtomicU64; ClassFigures::COUNT]; SIZE_CLASSES + 1],
    /// Which address space is whose.
    pub reservations: Reservations,
}

const _: () = assert!(size_of::<Header>() == 4096 && size_of::<Slot>() == 8192);

/// Defines a group of figures as a plain struct, with its stored form beside it.
macro_rules! group {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$doc])* pub $field: u64,)* }

        impl $name {
            /// The names of the figures in the order in which they are stored.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];
            /// How many words the group takes.
            pub const COUNT: usize = Self::NAMES.len();

            /// Stores every figure, each in one piece.
            pub fn store(&self, words: &[AtomicU64; Self::COUNT]) {
                for (word, value) in words.iter().zip([$(self.$field),*]) {
                    word.store(value, Ordering::Relaxed);
                }
            }

            /// Loads every figure, each in one piece.
            pub fn load(words: &[AtomicU64; Self::COUNT]) -> Self {
                let mut words = words.iter().map(|word| word.load(Ordering::Relaxed));
                Self { $($field: words.next().unwrap_or(0),)* }
            }
        }
    };
}

group! {
    /// What the kernel says about a process, in bytes. 0 where it says nothing.
    KernelFigures {
        /// Address space in use (`VmSize`).
        virtual_bytes,
        /// The most address space there ever was (`VmPeak`).
        peak_virtual_bytes,
        /// Physical memory in use (`VmRSS`).
        resident_bytes,
        /// The most physical memory there ever was (`VmHWM`).
        peak_resident_bytes,
        /// The part of the resident memory that no file backs (`RssAnon`).
        resident_anonymous_bytes,
        /// The part of the resident memory that is pages of files: program and libraries (`RssFile`).
        resident_file_bytes,
        /// The part of the resident memory that is shared memory (`RssShmem`).
        resident_shared_bytes,
        /// Swapped out (`VmSwap`).
        swapped_bytes,
        /// The main thread's stack as mapped (`VmStk`).
        stack_bytes,
        /// Page tables (`VmPTE`).
        page_table_bytes,
        /// Anonymous memory in huge pages (`AnonHugePages` of smaps_rollup); stored at exit only.
        huge_page_bytes,
        /// Given back lazily, still counted as resident (`LazyFree` of smaps_rollup); stored at
        /// exit only.
        lazily_freed_bytes,
    }
}

group! {
    /// What the allocator says about itself.
    HeapFigures {
        /// Blocks handed out since the process began.
        allocations,
        /// Blocks taken back since the process began.
        frees,
        /// Bytes that the program asked for, all calls added.
        requested_bytes,
        /// Bytes of the blocks that the program got, which are at least what it asked for.
        allocated_bytes,
        /// Bytes of the blocks that the program freed; what it holds is `allocated_bytes` less this.
        freed_bytes,
        /// Pages of the page heap that hold objects or wait in caches for them, and are in memory.
        in_use_bytes,
        /// Pages of the page heap that are free and still backed by memory, those that threads keep for
        /// themselves among them.
        free_bytes,
        /// Pages that hold nothing and were given back to the system: free pages of the page heap, and
        /// such between objects.
        given_back_bytes,
        /// Address space that the page heap holds.
        heap_reserved_bytes,
        /// What the allocator needs to know where everything is.
        metadata_bytes,
        /// Our accounts together: address space in state Reserved.
        reserved_bytes,
        /// Our accounts together: memory in state Prepared.
        prepared_bytes,
        /// Our accounts together: memory in state Ready.
        ready_bytes,
        /// The most memory that was ever in state Ready.
        peak_ready_bytes,
        /// All memory ever obtained from the system, added up.
        obtained_bytes,
        /// From where on allocations give back what is free; 0 for no limit.
        soft_limit_bytes,
        /// Where allocations fail; 0 for no limit.
        hard_limit_bytes,
    }
}

group! {
    /// What the allocator did with the blocks of one size
    /// ([`class_statistics`](crate::class_statistics) says which).
    ClassFigures {
        /// Blocks handed out.
        allocations,
        /// Blocks taken back.
        frees,
        /// Bytes that the program asked for.
        requested_bytes,
        /// Bytes of the blocks that it got.
        allocated_bytes,
        /// Bytes of the blocks that it freed.
        freed_bytes,
    }
}

impl From<ClassStatistics> for ClassFigures {
    fn from(class: ClassStatistics) -> Self {
        Self {
            allocations: class.allocations,
            frees: class.frees,
            requested_bytes: class.requested_bytes,
            allocated_bytes: class.allocated_bytes,
            freed_bytes: class.freed_bytes,
        }
    }
}

impl ClassFigures {
    /// Takes away what an earlier process had counted, as [`HeapFigures::since`] does.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            allocations: self.allocations.saturating_sub(before.allocations),
            frees: self.frees.saturating_sub(before.frees),
            requested_bytes: self.requested_bytes.saturating_sub(before.requested_bytes),
            allocated_bytes: self.allocated_bytes.saturating_sub(before.allocated_bytes),
            freed_bytes: self.freed_bytes.saturating_sub(before.freed_bytes),
        }
    }
}

impl HeapFigures {
    /// Takes away what an earlier process had counted: the growing counts of `self` since `before`,
    /// the present sizes as they are. For the child of a fork, which begins with its parent's counts.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            allocations: self.allocations.saturating_sub(before.allocations),
            frees: self.frees.saturating_sub(before.frees),
            requested_bytes: self.requested_bytes.saturating_sub(before.requested_bytes),
            allocated_bytes: self.allocated_bytes.saturating_sub(before.allocated_bytes),
            freed_bytes: self.freed_bytes.saturating_sub(before.freed_bytes),
            obtained_bytes: self.obtained_bytes.saturating_sub(before.obtained_bytes),
            ..*self
        }
    }
}

impl KernelFigures {
    /// Takes over the figures that a `/proc/<pid>/status` holds; lines that are missing leave
    /// their figure alone.
    pub fn read_status(&mut self, text: &[u8]) {
        for line in text.split(|&byte| byte == b'\n') {
            let figure = match label(line) {
                b"VmSize" => &mut self.virtual_bytes,
                b"VmPeak" => &mut self.peak_virtual_bytes,
                b"VmRSS" => &mut self.resident_bytes,
                b"VmHWM" => &mut self.peak_resident_bytes,
                b"RssAnon" => &mut self.resident_anonymous_bytes,
                b"RssFile" => &mut self.resident_file_bytes,
                b"RssShmem" => &mut self.resident_shared_bytes,
                b"VmSwap" => &mut self.swapped_bytes,
                b"VmStk" => &mut self.stack_bytes,
                b"VmPTE" => &mut self.page_table_bytes,
                _ => continue,
            };
            *figure = kibibytes(line).unwrap_or(*figure);
        }
    }

    /// Takes over the figures that a `/proc/<pid>/smaps_rollup` holds.
    pub fn read_smaps_rollup(&mut self, text: &[u8]) {
        for line in text.split(|&byte| byte == b'\n') {
            let figure = match label(line) {
                b"AnonHugePages" => &mut self.huge_page_bytes,
                b"LazyFree" => &mut self.lazily_freed_bytes,
                _ => continue,
            };
            *figure = kibibytes(line).unwrap_or(*figure);
        }
    }
}

/// Stores text in words, cut to their length, with zeros behind it.
fn store_text(words: &[AtomicU64], text: &[u8]) {
    for (number, word) in words.iter().enumerate() {
        let rest = text.get(number * 8..).unwrap_or_default();
        let mut eight = [0; 8];
        let kept = rest.len().min(8);
        eight[..kept].copy_from_slice(&rest[..kept]);
        word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
    }
}

/// Loads text into a buffer and returns the part that is used.
fn load_text<'a>(words: &[AtomicU64], buffer: &'a mut [u8]) -> &'a [u8] {
    for (word, bytes) in words.iter().zip(buffer.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    let length = buffer.iter().position(|&byte| byte == 0).unwrap_or(buffer.len());
    &buffer[..length]
}

/// What stands before the colon.
fn label(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b':').next().unwrap_or(&[])
}

/// The bytes that a line `Label:   123 kB` means; the kernel's kB are 1,024 bytes (proc_pid_status(5)).
fn kibibytes(line: &[u8]) -> Option<u64> {
    let number = line.get(label(line).len() + 1..)?.strip_suffix(b" kB")?;
    core::str::from_utf8(number.trim_ascii()).ok()?.parse::<u64>().ok()?.checked_mul(1024)
}

impl Header {
    /// Writes what the file is; for the one who made it, before anyone else sees it.
    pub fn initialize(&self) {
        self.slot_bytes.store(size_of::<Slot>() as u64, Ordering::Relaxed);
        self.slot_count.store(SLOTS as u64, Ordering::Relaxed);
        self.version.store(VERSION, Ordering::Relaxed);
        self.magic.store(MAGIC, Ordering::Release);
    }

    /// Whether the file has the layout that this module describes.
    pub fn is_ours(&self) -> bool {
        self.magic.load(Ordering::Acquire) == MAGIC
            && self.version.load(Ordering::Relaxed) == VERSION
            && self.slot_bytes.load(Ordering::Relaxed) == size_of::<Slot>() as u64
            && self.slot_count.load(Ordering::Relaxed) == SLOTS as u64
    }
}

impl Figures {
    /// Claims a slot: free → live, with its process still 0. `None` when every slot is taken,
    /// which the header counts.
    pub fn claim(&self) -> Option<&Slot> {
        for _ in 0..SLOTS {
            let turn = self.header.claims.fetch_add(1, Ordering::Relaxed) as usize;
            let slot = &self.slots[turn % SLOTS];
            let claimed =
                slot.state.compare_exchange(FREE, LIVE, Ordering::Acquire, Ordering::Relaxed);
            if claimed.is_ok() {
                return Some(slot);
            }
        }
        self.header.turned_away.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Slot {
    /// Stores a name, cut to [`NAME_BYTES`].
    pub fn store_name(&self, name: &[u8]) {
        store_text(&self.name, name);
    }

    /// Loads the name into the buffer and returns the part that is used.
    pub fn load_name<'a>(&self, buffer: &'a mut [u8; NAME_BYTES]) -> &'a [u8] {
        load_text(&self.name, buffer)
    }

    /// Empties the slot and makes it free for the next claim; for the reader that has kept what
    /// an exited process left.
    pub fn clear(&self) {
        self.pid.store(0, Ordering::Relaxed);
        let words = [
            &self.parent_pid,
            &self.process_began_ticks,
            &self.began_ns,
            &self.updated_ns,
            &self.picture,
        ];
        let words = words.into_iter().chain(&self.name).chain(&self.kernel).chain(&self.heap);
        for word in words.chain(self.classes.as_flattened()) {
            word.store(0, Ordering::Relaxed);
        }
        self.reservations.clear();
        self.state.store(FREE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    fn empty() -> Box<Figures> {
        // SAFETY: the struct is words only, for which all zeros are valid values.
        let figures: Box<Figures> = unsafe { Box::new_zeroed().assume_init() };
        figures.header.initialize();
        figures
    }

    #[test]
    fn a_file_of_another_version_is_not_ours() {
        let figures = empty();
        assert!(figures.header.is_ours());
        figures.header.version.store(VERSION + 1, Ordering::Relaxed);
        assert!(!figures.header.is_ours());
    }

    #[test]
    fn each_claim_gets_its_own_slot_until_there_are_none() {
        let figures = empty();
        let mut claimed: Vec<*const Slot> = Vec::new();
        for _ in 0..SLOTS {
            claimed.push(figures.claim().expect("a slot is left"));
        }
        claimed.sort();
        claimed.dedup();
        assert_eq!(claimed.len(), SLOTS);
        assert!(figures.claim().is_none());
        assert_eq!(figures.header.turned_away.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_cleared_slot_is_empty_and_claimed_again() {
        let figures = empty();
        for _ in 0..SLOTS {
            figures.claim();
        }
        let slot = &figures.slots[SLOTS / 2];
        slot.pid.store(7, Ordering::Relaxed);
        slot.store_name(b"sort");
        HeapFigures { allocations: 3, ..Default::default() }.store(&slot.heap);
        slot.clear();
        let again = figures.claim().expect("the cleared slot");
        assert!(core::ptr::eq(again, slot));
        assert_eq!(again.pid.load(Ordering::Relaxed), 0);
        assert_eq!(again.load_name(&mut [0; NAME_BYTES]), b"");
        assert_eq!(HeapFigures::load(&again.heap), HeapFigures::default());
    }

    #[test]
    fn names_come_back_cut_to_what_fits() {
        let figures = empty();
        let slot = &figures.slots[0];
        for name in [&b""[..], b"sort", &[b'x'; NAME_BYTES], &[b'y'; NAME_BYTES + 9]] {
            slot.store_name(name);
            let kept = &name[..name.len().min(NAME_BYTES)];
            assert_eq!(slot.load_name(&mut [0; NAME_BYTES]), kept);
        }
    }

    #[test]
    fn groups_come_back_word_for_word() {
        let figures = empty();
        let slot = &figures.slots[1];
        let kernel =
            KernelFigures { virtual_bytes: 1, lazily_freed_bytes: 12, ..Default::default() };
        let heap = HeapFigures { allocations: 13, obtained_bytes: 26, ..Default::default() };
        kernel.store(&slot.kernel);
        heap.store(&slot.heap);
        assert_eq!(KernelFigures::load(&slot.kernel), kernel);
        assert_eq!(HeapFigures::load(&slot.heap), heap);
        assert_eq!(slot.heap[0].load(Ordering::Relaxed), 13, "the order is part of the layout");
    }

    #[test]
    fn a_forked_child_counts_from_the_fork_and_keeps_present_sizes() {
        let before = HeapFigures { allocations: 10, in_use_bytes: 4096, ..Default::default() };
        let now = HeapFigures { allocations: 15, in_use_bytes: 8192, ..Default::default() };
        let since = now.since(&before);
        assert_eq!((since.allocations, since.in_use_bytes), (5, 8192));
    }

    #[test]
    fn status_and_smaps_are_read_as_the_kernel_writes_them() {
        let mut kernel = KernelFigures::default();
        kernel.read_status(
            b"Name:\tVmRSS: 9 kB\nVmPeak:\t    3060 kB\nVmSize:\t    3059 kB\nVmHWM:\t    1744 kB\n\
              VmRSS:\t    1743 kB\nRssAnon:\t     112 kB\nRssFile:\t    1632 kB\nRssShmem:\t       0 kB\n\
              VmStk:\t     132 kB\nVmPTE:\t      48 kB\nVmSwap:\t       4 kB\nThreads:\t1\nVmLib",
        );
        kernel.read_smaps_rollup(
            b"5557a81be000-7ffe73e4c000 ---p 00000000 00:00 0                          [rollup]\n\
              Rss:                1744 kB\nLazyFree:              8 kB\nAnonHugePages:      2048 kB\n",
        );
        let expected = KernelFigures {
            virtual_bytes: 3059 << 10,
            peak_virtual_bytes: 3060 << 10,
            resident_bytes: 1743 << 10,
            peak_resident_bytes: 1744 << 10,
            resident_anonymous_bytes: 112 << 10,
            resident_file_bytes: 1632 << 10,
            resident_shared_bytes: 0,
            swapped_bytes: 4 << 10,
            stack_bytes: 132 << 10,
            page_table_bytes: 48 << 10,
            huge_page_bytes: 2048 << 10,
            lazily_freed_bytes: 8 << 10,
        };
        assert_eq!(kernel, expected);
    }

    #[test]
    fn damaged_status_lines_leave_figures_alone() {
        let mut kernel = KernelFigures::default();
        kernel.read_status(
            b"VmRSS:\t kB\nVmHWM:\t12\nVmSize:\t99999999999999999999 kB\n\nVmPTE: -3 kB",
        );
        assert_eq!(kernel, KernelFigures::default());
    }
}
