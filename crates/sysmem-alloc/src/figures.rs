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

mod groups;
mod heap_picture;
mod kernel;
mod reservations;

pub use groups::{ClassFigures, HeapFigures, KernelFigures};
pub use heap_picture::{Drawn, Moment, PICTURE_CELLS, PICTURES, Picture};
pub use reservations::{RESERVATIONS, Reservations};
pub use sysmem_pages::MapCell;

use crate::statistics::SIZE_CLASSES;
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
pub const VERSION: u64 = 4;

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
}
