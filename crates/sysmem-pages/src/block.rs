//! One huge page of address space: which of its 256 pages are free, backed by memory, zero.
//!
//! A free run is nothing but bits in a row, so freeing neighbours joins them without any work.
//!
//! In a large heap the records of a huge page are in no cache, so what runs come and go by is one
//! cache line: the free pages, the counts, and whether the other sets need to be looked at.

use crate::bits::{Bits, PAGES};
use crate::standing::{DENSE, Standing};

/// What is known of each page. All zeros: no page is mapped yet.
///
/// A page is unmapped or just being given back (neither free nor backed), in use (backed), idle
/// (free and backed) or given back (free).
#[repr(C, align(64))]
#[derive(Default)]
pub(crate) struct Block {
    /// Pages that can be handed out.
    free: Bits,
    /// The number of the scavenger's look before which a page was last handed out or freed.
    touched: u32,
    in_use: u16,
    idle: u16,
    /// Pages in the set `backed`.
    count_backed: u16,
    /// The most free pages in a row.
    longest: u16,
    /// Whether a page is in the set `zero`.
    has_zero: bool,
    /// A part was given back while others stayed, and the system has not made it whole since.
    broken: bool,
    /// The number of the scavenger's last look when it was broken, or could not be made whole.
    broken_at: u32,
    /// What the system was told of it as a whole.
    pub(crate) advice: Advice,
    /// The standing that the tree has it under.
    pub(crate) kept_standing: Standing,
    /// Pages that the system was told are used: Ready.
    backed: Bits,
    /// Pages that are not in use and will be found zero.
    zero: Bits,
}

const _: () = assert!(core::mem::offset_of!(Block, backed) <= 64);

/// What the system was told of a huge page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Advice {
    /// Nothing, or not of all of it at once.
    #[default]
    None,
    /// That it should be one.
    Huge,
    /// That it should not, because a part of it was given back.
    Small,
}

/// What became of pages that are free again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Now {
    /// Backed, with what their owner left in them.
    Dirty {
        /// The number of the scavenger's last look.
        look: u32,
    },
    /// Backed, with nothing changed: a release that did not happen.
    Unchanged,
    /// Given back to the system.
    GivenBack {
        /// Whether they will be found zero.
        zero: bool,
        /// The number of the scavenger's last look.
        look: u32,
    },
}

/// What a check wants to know of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    /// Not mapped, or just being given back.
    Absent,
    GivenBack,
    Idle,
    InUse,
}

impl Block {
    #[inline]
    pub(crate) fn in_use(&self) -> usize {
        self.in_use as usize
    }

    /// Pages that are free and backed.
    #[inline]
    pub(crate) fn idle(&self) -> usize {
        self.idle as usize
    }

    #[inline]
    pub(crate) fn longest(&self) -> usize {
        self.longest as usize
    }

    /// Pages in use, if it is broken.
    #[inline]
    pub(crate) fn in_use_broken(&self) -> usize {
        if self.broken { self.in_use() } else { 0 }
    }

    /// Whether it is broken, and dense since the last `taken` pages are in use.
    #[inline]
    pub(crate) fn is_newly_dense(&self, taken: usize) -> bool {
        self.broken && self.in_use() >= DENSE && self.in_use() - taken < DENSE
    }

    /// Whether no page is backed.
    pub(crate) fn is_given_back(&self) -> bool {
        self.count_backed == 0
    }

    /// Whether all 256 pages are free.
    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.longest as usize == PAGES
    }

    /// Free pages before page `at`.
    pub(crate) fn free_before(&self, at: usize) -> usize {
        if at == 0 { 0 } else { at - self.free.stretch_before(at) }
    }

    #[inline]
    pub(crate) fn standing(&self) -> Standing {
        Standing::new(self.in_use(), self.longest(), self.idle > 0, self.broken)
    }

    pub(crate) fn touched(&self) -> u32 {
        self.touched
    }

    /// What a page is, and the first page after it that is something else.
    pub(crate) fn alike(&self, page: usize) -> (PageKind, usize) {
        let (free, backed) = (self.free.has(page, 1), self.backed.has(page, 1));
        let kind = match (free, backed) {
            (false, false) => PageKind::Absent,
            (false, true) => PageKind::InUse,
            (true, false) => PageKind::GivenBack,
            (true, true) => PageKind::Idle,
        };
        let free_differs = if free { !self.free } else { self.free };
        let backed_differs = if backed { !self.backed } else { self.backed };
        let differs = (free_differs | backed_differs) & Bits::range(page, PAGES - page);
        (kind, differs.first().unwrap_or(PAGES))
    }

    /// How many pages of a range are in use, idle and given back.
    pub(crate) fn count(&self, at: usize, len: usize) -> [usize; 3] {
        let pages = Bits::range(at, len);
        [
            pages & self.backed & !self.free,
            pages & self.backed & self.free,
            pages & self.free & !self.backed,
        ]
        .map(Bits::count)
    }

    /// Runs of pages of a range that are in use.
    pub(crate) fn in_use_runs(
        &self,
        at: usize,
        len: usize,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        (self.backed & !self.free & Bits::range(at, len)).runs()
    }

    /// Free pages in all.
    pub(crate) fn count_free(&self) -> usize {
        self.free.count()
    }

    /// Whether every page of a range is free.
    #[inline]
    pub(crate) fn are_free(&self, at: usize, len: usize) -> bool {
        self.free.has(at, len)
    }

    /// Whether every page of a range is in use.
    #[inline]
    pub(crate) fn are_in_use(&self, at: usize, len: usize) -> bool {
        self.are_backed(at, len) && self.free.lacks(at, len)
    }

    /// Whether every page of a range is backed.
    #[inline]
    pub(crate) fn are_backed(&self, at: usize, len: usize) -> bool {
        self.count_backed as usize == PAGES || self.backed.has(at, len)
    }

    /// How many pages of a range are not backed.
    pub(crate) fn count_unbacked(&self, at: usize, len: usize) -> usize {
        (!self.backed & Bits::range(at, len)).count()
    }

    /// The first run of pages of a range that are not backed.
    pub(crate) fn unbacked(&self, at: usize, len: usize) -> Option<(usize, usize)> {
        (!self.backed & Bits::range(at, len)).runs().next()
    }

    /// The first place for `npages` pages (at most 256) at a multiple of `align` pages.
    #[inline]
    pub(crate) fn fit(&self, npages: usize, align: usize) -> Option<usize> {
        let mut starts = self.free.run_starts(npages);
        if align > 1 {
            starts &= Bits::every(align.min(PAGES), 0);
        }
        starts.first()
    }

    /// Runs of free and backed pages.
    pub(crate) fn idle_runs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        (self.free & self.backed).runs()
    }

    /// Runs of free pages that are not backed.
    pub(crate) fn given_back_runs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        (self.free & !self.backed).runs()
    }

    /// The number of the scavenger's last look when it was broken, or could not be made whole.
    pub(crate) fn broken_at(&self) -> u32 {
        self.broken_at
    }

    /// Notes that the system made one huge page of it.
    pub(crate) fn made_whole(&mut self) {
        self.broken = false;
    }

    /// Notes that the system refused to.
    pub(crate) fn stays_broken(&mut self, look: u32) {
        self.broken_at = look;
    }

    /// Notes that pages are mapped: free, not backed, zero or not.
    pub(crate) fn map(&mut self, at: usize, len: usize, zero: bool) {
        let pages = Bits::range(at, len);
        self.free |= pages;
        if zero {
            self.zero |= pages;
            self.has_zero = true;
        }
        self.longest = self.free.longest_run(PAGES) as u16;
    }

    /// Forgets the free pages of a range: their reservation goes. Returns how many they were, and how
    /// many of them were backed.
    pub(crate) fn unmap(&mut self, at: usize, len: usize) -> (usize, usize) {
        let pages = Bits::range(at, len) & self.free;
        let idle = (pages & self.backed).count();
        self.free &= !pages;
        self.backed &= !pages;
        self.zero &= !pages;
        self.count_backed = self.backed.count() as u16;
        self.has_zero = !self.zero.is_empty();
        self.idle = (self.free & self.backed).count() as u16;
        self.longest = self.free.longest_run(PAGES) as u16;
        self.broken &= self.count_backed > 0;
        (pages.count(), idle)
    }

    /// Notes that free pages are backed, and that they still are as zero as they were.
    pub(crate) fn back(&mut self, at: usize, len: usize) -> usize {
        let pages = Bits::range(at, len);
        let added = (pages & !self.backed).count();
        self.backed |= pages;
        self.count_backed += added as u16;
        self.idle += added as u16;
        added
    }

    /// Takes free and backed pages out for an owner; whether all of them are zero. `look` is the
    /// number of the scavenger's last look.
    #[inline]
    pub(crate) fn take(&mut self, at: usize, len: usize, look: u32) -> bool {
        debug_assert!(self.free.has(at, len) && self.backed.has(at, len));
        self.touched = look;
        self.in_use += len as u16;
        self.remove(at, len);
        self.has_zero && self.take_zero(at, len)
    }

    /// Whether all pages of a range are zero, which they stay for their owner alone.
    fn take_zero(&mut self, at: usize, len: usize) -> bool {
        let are_zero = self.zero.has(at, len);
        self.zero.remove(at, len);
        self.has_zero = !self.zero.is_empty();
        are_zero
    }

    /// Takes idle pages out to be given back.
    pub(crate) fn take_leaving(&mut self, at: usize, len: usize) {
        debug_assert!(self.free.has(at, len) && self.backed.has(at, len));
        self.backed.remove(at, len);
        self.count_backed -= len as u16;
        self.remove(at, len);
    }

    /// Takes idle pages out of the free ones.
    #[inline]
    fn remove(&mut self, at: usize, len: usize) {
        let (begin, end) = self.free.run_around(at);
        self.free.remove(at, len);
        self.idle -= len as u16;
        // Only what was the longest run may leave a shorter one as the longest: what is left of it,
        // if all others together are no longer.
        let longest = self.longest as usize;
        if end - begin == longest {
            let left = (at - begin).max(end - at - len);
            let others = self.free.count() - left;
            let longest = if left >= others { left } else { self.free.longest_run(longest) };
            self.longest = longest as u16;
        }
    }

    /// Takes pages back from their owner, or after they were to be given back.
    #[inline]
    pub(crate) fn put_back(&mut self, at: usize, len: usize, now: Now) {
        debug_assert!(self.free.lacks(at, len));
        self.free.add(at, len);
        match now {
            Now::Dirty { look } => {
                self.touched = look;
                self.in_use -= len as u16;
                self.idle += len as u16;
            }
            Now::Unchanged => {
                self.backed.add(at, len);
                self.count_backed += len as u16;
                self.idle += len as u16;
            }
            Now::GivenBack { zero, look } => {
                self.zero.remove(at, len);
                if zero {
                    self.zero.add(at, len);
                }
                self.has_zero = !self.zero.is_empty();
                self.broken = self.count_backed > 0;
                self.broken_at = look;
            }
        }
        let (begin, end) = self.free.run_around(at);
        self.longest = self.longest.max((end - begin) as u16);
    }

    /// Holds the counts against the bits; names what differs, what is kept, what was counted.
    pub(crate) fn check(&self) -> Result<(), (&'static str, usize, usize)> {
        for (what, kept, counted) in [
            ("pages in use", self.in_use(), (self.backed & !self.free).count()),
            ("free and backed pages", self.idle(), (self.free & self.backed).count()),
            ("the longest free run", self.longest(), self.free.longest_run(PAGES)),
            ("backed pages", self.count_backed.into(), self.backed.count()),
            ("sets of zero pages", self.has_zero.into(), usize::from(!self.zero.is_empty())),
        ] {
            if kept != counted {
                return Err((what, kept, counted));
            }
        }
        Ok(())
    }
}
