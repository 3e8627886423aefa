//! More free pages: mapping more of a reservation, and making reservations.
//!
//! Address space is limited too (`ulimit -v`), so a reservation is made when there is no room in
//! the others, the first of 4 MiB, each twice as long as the one before up to 32 MiB, in very large
//! heaps up to a 256th of what there is; and half as long where the system refuses, down to what is
//! needed. A reservation is mapped from its start in steps of a huge page: writable mappings are
//! limited too (`ulimit -d` on Linux since 4.7).
//!
//! A run that is going to grow can have a reservation with room behind it. The room is mapped only as
//! far as the run reaches, so that nobody else gets pages in its way, unless nothing else can be had.
//!
//! Where mapping is refused in one reservation, it may succeed in a new one: a refusal can be about the
//! one alone (its reservation is lost, or with strict accounting of swap it is charged whole).

use core::sync::atomic::Ordering::Relaxed;

use sysmem::{Error, ErrorKind, Operation, Os, Reservation, ReserveOptions};

use crate::block::Advice;
use crate::heap::PageHeap;
use crate::lost::is_loss;
use crate::pages::{Pages, parts};
use crate::region::Region;
use crate::standing::WHOLE;

/// The first reservation in bytes.
const FIRST: usize = 4 << 20;

/// The longest reservation in bytes, unless a run needs more or the heap is very large.
pub(crate) const LONGEST: usize = 32 << 20;

/// The part of the address space that a reservation may be.
const DIVISOR: usize = 256;

/// What is mapped at once, in bytes.
const MAP_STEP: usize = 2 << 20;

/// Reservations that may be found to lie in lost ones before no more is tried.
const LOST_HOLES: usize = 8;

/// Pages that may be unused where two reservations meet inside a huge page.
const SEPARATORS: usize = 2;

impl<O: Os + Clone> PageHeap<O> {
    /// Whether the heap's huge pages are the system's, and it is to make them.
    #[inline]
    pub(crate) fn makes_huge_pages(&self) -> bool {
        self.advises.load(Relaxed) && self.has_system_size()
    }

    /// Whether the heap's huge pages are as large as the system's.
    #[inline]
    pub(crate) fn has_system_size(&self) -> bool {
        self.os.huge_page_size() == Some(WHOLE << self.page_shift())
    }
}

/// A refusal that no system and no limit is behind.
pub(crate) fn out_of_memory(len: usize) -> Error {
    let kind = ErrorKind::OutOfMemory { errno: None, limit: None };
    Error::new(Operation::AllocatePages, 0, len, kind)
}

/// Where in free pages from `from` on a run lies best: in one huge page, or from the start of one.
fn place(from: usize, npages: usize, align_pages: usize) -> usize {
    let first = from.next_multiple_of(align_pages);
    let whole = align_pages.max(WHOLE);
    if first / WHOLE == (first + npages - 1) / WHOLE { first } else { from.next_multiple_of(whole) }
}

impl<O: Os + Clone> Pages<O> {
    /// Makes room for a run that fits nowhere; returns its first page.
    #[cold]
    pub(crate) fn grow(
        &mut self,
        heap: &PageHeap<O>,
        npages: usize,
        align_pages: usize,
    ) -> Result<usize, Error> {
        self.counts.grows += 1;
        let mut error = None;
        for index in 0..self.regions.len() {
            if !self.regions[index].has_room() || self.regions[index].kept {
                continue;
            }
            let (from, end) = (self.tail(index), self.regions[index].end);
            let first = place(from, npages, align_pages);
            if first + npages <= end {
                match self.map_region(heap, index, first + npages) {
                    Ok(()) => return Ok(first),
                    Err(refusal) => error = Some(refusal),
                }
            }
        }
        let error = match self.grow_by_region(heap, npages, align_pages, 0) {
            Ok(first) => return Ok(first),
            Err(refusal) => error.filter(|error| !is_loss(error)).unwrap_or(refusal),
        };
        self.search_all(heap, npages, align_pages).ok_or(match error {
            error if is_loss(&error) => out_of_memory(npages << heap.page_shift()),
            error => error,
        })
    }

    /// Where the free pages at the end of what is mapped of a region begin.
    fn tail(&self, index: usize) -> usize {
        let region = &self.regions[index];
        let mut at = region.mapped;
        while at > region.first {
            let base = (at - 1) / WHOLE * WHOLE;
            let Some(block) = self.tree.block(base / WHOLE) else { break };
            at -= block.free_before(at - base).min(at - region.first);
            if at > base {
                break;
            }
        }
        at
    }

    /// Any place at all, page by page: the last resort where the heap cannot grow. Finds what the
    /// ordinary search passes over: runs that cross from one huge page into the next, exact ones
    /// of lengths between two classes, aligned ones by chance.
    fn search_all(
        &mut self,
        heap: &PageHeap<O>,
        npages: usize,
        align_pages: usize,
    ) -> Option<usize> {
        for index in 0..self.regions.len() {
            let (start, end) = (self.regions[index].first, self.regions[index].mapped);
            let mut begin = start;
            let mut at = start;
            while at < end {
                let Some(block) = self.tree.block(at / WHOLE) else { break };
                let stop = (at / WHOLE + 1) * WHOLE;
                if block.is_free() {
                    at = stop.min(end);
                } else {
                    let is_free = block.are_free(at % WHOLE, 1);
                    at += 1;
                    if !is_free {
                        begin = at;
                    }
                }
                let first = begin.next_multiple_of(align_pages);
                if first + npages <= at {
                    return Some(first);
                }
            }
            // At the end of what is mapped, exactly as much as is missing.
            let first = begin.next_multiple_of(align_pages);
            let region = &self.regions[index];
            if region.has_room()
                && first + npages <= region.end
                && self.map_region(heap, index, first + npages).is_ok()
            {
                return Some(first);
            }
        }
        None
    }

    /// Maps a region up to `end` at least.
    pub(crate) fn map_region(
        &mut self,
        heap: &PageHeap<O>,
        index: usize,
        end: usize,
    ) -> Result<(), Error> {
        let region = &self.regions[index];
        let (from, first) = (region.mapped, region.first);
        if end <= from {
            return Ok(());
        }
        // Large steps keep calls rare, and end where huge pages do. Where a refusal has cost a
        // reservation, nothing is tried that need not be.
        let is_exact = region.kept || self.lost > 0;
        let step = if is_exact { 1 } else { (MAP_STEP >> heap.page_shift()).max(1) };
        let wide = end.next_multiple_of(step).min(region.end);
        let account = &heap.accounts.metadata;
        let blocks = from / WHOLE..wide.div_ceil(WHOLE);
        self.tree.make_room(blocks, &mut self.metadata, &heap.os, account)?;
        let mapped = self.regions[index].map(end, wide, heap.advises.load(Relaxed));
        let (end, advised) = mapped.inspect_err(|error| self.note_refusal(index, error))?;
        self.regions[index].mapped = end;
        self.mapped += end - from;
        for (block, at, len) in parts(from, end - from) {
            self.tree.map(block, (at, len), true, first < block * WHOLE);
        }
        for block in advised {
            self.has_advised = true;
            self.set_advice(block, Advice::Huge);
        }
        Ok(())
    }

    /// Reserves address space that begins where such a run may and holds it, with room for it to grow
    /// by so many pages if that can be had, and maps it.
    pub(crate) fn grow_by_region(
        &mut self,
        heap: &PageHeap<O>,
        npages: usize,
        align_pages: usize,
        room: usize,
    ) -> Result<usize, Error> {
        let (os, account, shift) = (&heap.os, &heap.accounts.metadata, heap.page_shift());
        let block = WHOLE << shift;
        let needed = npages << shift;
        let whole = needed.next_multiple_of(block);
        let longest = LONGEST.max((self.reserved << shift) / DIVISOR).next_multiple_of(block);
        let usual = self.next_reservation.max(FIRST).next_multiple_of(block).min(longest);
        let mut len = match room {
            0 if needed > LONGEST => whole,
            0 => usual.max(whole),
            room => needed.saturating_add(room << shift).next_multiple_of(block),
        };
        self.regions.make_room(1 + self.departing, &mut self.metadata, os, account)?;
        let align = align_pages << shift;
        let reservation = loop {
            let align = if len % block == 0 { align.max(block) } else { align };
            let options = ReserveOptions::new(len).align(align);
            let error = match self.reserve(heap, options, LOST_HOLES) {
                Ok(reservation) => break reservation,
                Err(error) => error,
            };
            if !matches!(error.kind(), ErrorKind::OutOfMemory { .. }) {
                return Err(error);
            }
            let least = needed + (SEPARATORS << shift);
            if len > whole {
                len = ((len / 2) & !(block - 1)).max(whole);
            } else if len > least {
                len = ((len / 2) >> shift << shift).max(least);
            } else if !self.return_free_regions() {
                return Err(error);
            }
        };
        let region = Region::new(reservation, room > 0, shift, &mut self.metadata, account)?;
        self.counts.reservations += 1;
        if room == 0 {
            self.next_reservation = (len * 2).min(longest);
        }
        let index = self.enter(region);
        let region = &self.regions[index];
        let first = region.first.next_multiple_of(align_pages);
        let mapped = if first + npages <= region.end {
            self.map_region(heap, index, first + npages)
        } else {
            Err(out_of_memory(needed))
        };
        match mapped {
            Ok(()) => Ok(first),
            Err(error) => {
                self.return_region(index);
                Err(error)
            }
        }
    }

    /// Makes a reservation that lies in no lost one: there, address space of ours may be anybody's. The
    /// system gets one back that does after another was made, so that it finds another place.
    fn reserve(
        &self,
        heap: &PageHeap<O>,
        options: ReserveOptions,
        tries: usize,
    ) -> Result<Reservation<O>, Error> {
        let found = Reservation::reserve_in(heap.os.clone(), options, &heap.accounts.heap)?;
        let (shift, len) = (heap.page_shift(), found.len());
        let start = found.as_mut_ptr().addr() >> shift;
        let end = start + (len >> shift);
        let is_in = |region: &Region<O>| {
            region.lost && start < region.start + region.npages && region.start < end
        };
        if !self.regions.iter().any(is_in) {
            return Ok(found);
        }
        if tries == 0 {
            return Err(out_of_memory(len));
        }
        self.reserve(heap, options, tries - 1)
    }

    /// Enters a region. Where it meets another inside a huge page, a page between them is used by
    /// neither: no run crosses it.
    fn enter(&mut self, region: Region<O>) -> usize {
        self.reserved += region.npages;
        let index = self.regions.insert(region);
        let (before, from) = self.regions.split_at_mut(index);
        let (region, after) = from.split_at_mut(1);
        let region = &mut region[0];
        let ends = before.last().map(|before| before.start + before.npages);
        if ends == Some(region.start) && region.start % WHOLE != 0 {
            region.first += 1;
            region.mapped = region.first;
        }
        let end = region.start + region.npages;
        if after.first().is_some_and(|after| after.start == end) && end % WHOLE != 0 {
            region.end -= 1;
        }
        index
    }

    /// Returns every reservation that is wholly free; whether there was one.
    fn return_free_regions(&mut self) -> bool {
        let mut returned = false;
        for index in (0..self.regions.len()).rev() {
            returned |= self.return_region(index);
        }
        returned
    }

    /// Returns a reservation if it is wholly free, with the lock held.
    fn return_region(&mut self, index: usize) -> bool {
        let Some(leaving) = self.withdraw(index) else { return false };
        let returned = leaving.to_system();
        self.finish_return(leaving, returned);
        returned
    }
}
