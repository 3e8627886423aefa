//! Pictures of page heaps in the file of figures: one cell for each huge page.
//!
//! A process that is large enough to be worth looking at claims a [`Picture`] and draws two
//! [`Moment`]s in it: the one in which its heap held the most memory so far, and the latest. It
//! draws them rarely, so that a picture costs nothing that could be measured.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use sysmem_pages::MapCell;

/// How many processes can have a picture at once.
pub const PICTURES: usize = 32;

/// How many huge pages a picture has room for: a heap of 8 GiB. Of a larger one it shows the
/// beginning.
pub const PICTURE_CELLS: usize = 4092;

/// The page heap of one process image.
#[repr(C, align(4096))]
pub struct Picture {
    /// When it held the most memory that was seen.
    pub peak: Moment,
    /// When it was last drawn.
    pub latest: Moment,
    /// The slot of the image that it belongs to, counted from 1; 0 for none.
    pub owner: AtomicU64,
}

/// The page heap at one moment.
#[repr(C, align(64))]
pub struct Moment {
    /// How often it was drawn, twice; odd while it is being drawn.
    generation: AtomicU64,
    time_ns: AtomicU64,
    page_bytes: AtomicU64,
    count: AtomicU64,
    cells: UnsafeCell<[MapCell; PICTURE_CELLS]>,
}

// SAFETY: cells are written by whoever made the generation odd, and copied out by readers that
// check it before and after.
unsafe impl Sync for Moment {}

const _: () = assert!(size_of::<Moment>() == 65_536);

/// A moment as read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// When it was drawn, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Bytes of a page of the heap.
    pub page_bytes: u64,
    /// How many huge pages the heap had, which may be more than there is room for.
    pub count: u64,
}

impl Moment {
    /// Draws the page heap as it is now. Does nothing, and says so, while somebody is at work on the
    /// heap or on the picture.
    pub fn draw(&self, time_ns: u64) -> bool {
        let generation = self.generation.load(Ordering::Relaxed);
        let drawing = generation.wrapping_add(1);
        let begun = generation % 2 == 0
            && self
                .generation
                .compare_exchange(generation, drawing, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if !begun {
            return false;
        }
        fence(Ordering::Release);
        // SAFETY: this thread made the generation odd, so it alone writes. Readers are another
        // process, and throw away what they copied meanwhile.
        let cells = unsafe { &mut *self.cells.get() };
        let count = crate::PAGES.try_map(cells);
        if let Some(count) = count {
            self.time_ns.store(time_ns, Ordering::Relaxed);
            self.page_bytes.store(crate::PAGES.page_size() as u64, Ordering::Relaxed);
            self.count.store(count as u64, Ordering::Relaxed);
        }
        self.generation.store(drawing.wrapping_add(1), Ordering::Release);
        count.is_some()
    }

    /// Copies the cells out, as many as there are and `cells` has room for. `None` where nothing was
    /// drawn, or it is being drawn.
    pub fn read(&self, cells: &mut [MapCell]) -> Option<Drawn> {
        for _ in 0..100 {
            let generation = self.generation.load(Ordering::Acquire);
            if generation % 2 == 0 {
                let drawn = Drawn {
                    time_ns: self.time_ns.load(Ordering::Relaxed),
                    page_bytes: self.page_bytes.load(Ordering::Relaxed),
                    count: self.count.load(Ordering::Relaxed),
                };
                let first = self.cells.get().cast::<MapCell>();
                let there = usize::try_from(drawn.count).unwrap_or(usize::MAX).min(PICTURE_CELLS);
                for (place, cell) in cells.iter_mut().take(there).enumerate() {
                    // SAFETY: the place is inside the array, and any bytes are a cell.
                    *cell = unsafe { first.add(place).read_volatile() };
                }
                fence(Ordering::Acquire);
                if self.generation.load(Ordering::Relaxed) == generation {
                    return (drawn.time_ns != 0).then_some(drawn);
                }
            }
            core::hint::spin_loop();
        }
        None
    }

    fn clear(&self) {
        // Even, also where its process was killed while it drew.
        self.time_ns.store(0, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
        self.generation.store(0, Ordering::Release);
    }
}

impl Picture {
    /// Makes the picture free for the next image that claims one.
    pub fn clear(&self) {
        self.peak.clear();
        self.latest.clear();
        self.owner.store(0, Ordering::Release);
    }
}

impl super::Figures {
    /// Claims a picture for the image in a slot, or finds the one it has; `None` when all are taken.
    pub fn claim_picture(&self, slot: &super::Slot) -> Option<&Picture> {
        let number = self.slots.iter().position(|other| core::ptr::eq(other, slot))? as u64 + 1;
        if let Some(own) = self.picture_of(slot) {
            return Some(own);
        }
        let (place, picture) = self.pictures.iter().enumerate().find(|(_, picture)| {
            let owner = &picture.owner;
            owner.compare_exchange(0, number, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })?;
        slot.picture.store(place as u64 + 1, Ordering::Release);
        Some(picture)
    }

    /// The picture of the image in a slot, if it has one.
    pub fn picture_of(&self, slot: &super::Slot) -> Option<&Picture> {
        let number = slot.picture.load(Ordering::Acquire) as usize;
        self.pictures.get(number.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::boxed::Box;
    use std::vec;

    fn empty() -> Box<super::super::Figures> {
        // SAFETY: the struct is words only, for which all zeros are valid values.
        unsafe { Box::new_zeroed().assume_init() }
    }

    #[test]
    fn what_was_drawn_is_read_and_nothing_before() {
        let figures = empty();
        let moment = &figures.pictures[0].latest;
        let mut cells = vec![MapCell::default(); PICTURE_CELLS];
        assert_eq!(moment.read(&mut cells), None);
        let block = crate::allocate(5 << 20, 8);
        // Another test may be at work on the heap.
        while !moment.draw(77) {
            std::thread::yield_now();
        }
        let drawn = moment.read(&mut cells).expect("a picture");
        assert_eq!((drawn.time_ns, drawn.page_bytes as usize), (77, crate::PAGES.page_size()));
        let in_use: u64 = cells.iter().map(|cell| u64::from(cell.in_use)).sum();
        assert!(in_use * drawn.page_bytes >= 5 << 20, "{in_use}");
        let around = cells[..drawn.count as usize].iter().filter(|cell| cell.in_use > 0);
        assert!(around.clone().any(|cell| cell.address <= block.addr() + (4 << 20)));
        // SAFETY: the block is ours.
        unsafe { crate::free(block) };
        figures.pictures[0].clear();
        assert_eq!(moment.read(&mut cells), None);
    }

    #[test]
    fn each_image_gets_one_picture_until_there_are_none() {
        let figures = empty();
        for slot in &figures.slots[..PICTURES] {
            let first: *const Picture = figures.claim_picture(slot).expect("one is left");
            let again: *const Picture = figures.claim_picture(slot).expect("its own");
            assert_eq!(first, again);
        }
        assert!(figures.claim_picture(&figures.slots[PICTURES]).is_none());
        figures.pictures[3].clear();
        assert!(figures.claim_picture(&figures.slots[PICTURES]).is_some());
    }
}
