//! The pages of one reservation: which are free, which are backed by memory, which are zero.
//!
//! A map is made of chunks of 256 pages, a huge page on most systems, each with three bits a page
//! and a summary of eight bytes. A free run is nothing but bits in a row, so freeing neighbours
//! joins them without any work. A search walks the summaries and looks into one chunk at most; a
//! bound on the longest free run lets it pass over the whole map.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::bits::{Bits, PAGES as CHUNK_PAGES};
use crate::heap_map::MapCell;
use crate::scavenger::QUIET_LOOKS;

/// What is known of each page of a chunk. All zeros: no page is mapped yet.
#[repr(align(32))]
#[derive(Default)]
pub(crate) struct Chunk {
    /// Pages that can be handed out.
    free: Bits,
    /// Pages that the system was told are used: Ready. Pages that are mapped and not free are.
    backed: Bits,
    /// Free pages that will be found zero.
    zero: Bits,
    /// The number of the scavenger's look before which a page was last handed out or freed.
    touched: u32,
}

/// The free pages of one chunk, as a search wants to know them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Free pages in a row from the first on.
    leading: u16,
    /// The most free pages in a row.
    longest: u16,
    /// Free pages in a row before the end.
    trailing: u16,
    /// Pages that are free and backed.
    idle: u16,
}

impl Summary {
    fn of(chunk: &Chunk) -> Summary {
        Summary {
            leading: chunk.free.leading() as u16,
            longest: chunk.free.longest_run() as u16,
            trailing: chunk.free.trailing() as u16,
            idle: (chunk.free & chunk.backed).count() as u16,
        }
    }

    fn is_all_free(self) -> bool {
        self.leading as usize == CHUNK_PAGES
    }
}

/// Which pages a run may begin at.
#[derive(Clone, Copy)]
pub(crate) struct Alignment {
    /// A multiple of this many pages, a power of two, ...
    pub(crate) npages: usize,
    /// ... when this is added to the number of the page.
    pub(crate) offset: usize,
}

impl Alignment {
    /// The first page at or after `at` that a run may begin at.
    #[inline]
    fn next(self, at: usize) -> usize {
        at + ((at + self.offset).wrapping_neg() & (self.npages - 1))
    }

    /// Where in a run of free pages the first `npages` fit.
    #[inline]
    pub(crate) fn place(self, at: usize, len: usize, npages: usize) -> Option<usize> {
        let first = self.next(at);
        (first + npages <= at + len).then_some(first)
    }
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
    },
}

/// The pages of one reservation, in the order of their addresses.
pub(crate) struct PageMap {
    npages: usize,
    /// Pages that are mapped: those before this one.
    mapped: usize,
    /// No free run is longer.
    longest: usize,
    /// Pages that are mapped and not free.
    busy: usize,
    /// Pages that are free and backed.
    idle: usize,
    summaries: NonNull<Summary>,
    chunks: NonNull<Chunk>,
    owns: PhantomData<(Summary, Chunk)>,
}

impl PageMap {
    /// The chunks, and as many summaries, that a map of `npages` needs.
    pub(crate) fn chunks_for(npages: usize) -> usize {
        npages.div_ceil(CHUNK_PAGES)
    }

    /// A map of `npages` none of which is mapped.
    ///
    /// # Safety
    ///
    /// `summaries` and `chunks` point to [`chunks_for`](PageMap::chunks_for) values each, all
    /// zero, that are the map's alone as long as it is used.
    pub(crate) unsafe fn new(
        npages: usize,
        summaries: NonNull<Summary>,
        chunks: NonNull<Chunk>,
    ) -> PageMap {
        PageMap {
            npages,
            mapped: 0,
            longest: 0,
            busy: 0,
            idle: 0,
            summaries,
            chunks,
            owns: PhantomData,
        }
    }

    /// What [`new`](PageMap::new) was given, for use elsewhere.
    pub(crate) fn storage(&self) -> (NonNull<Summary>, NonNull<Chunk>) {
        (self.summaries, self.chunks)
    }

    #[inline]
    pub(crate) fn npages(&self) -> usize {
        self.npages
    }

    #[inline]
    pub(crate) fn mapped(&self) -> usize {
        self.mapped
    }

    #[inline]
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    #[inline]
    pub(crate) fn busy(&self) -> usize {
        self.busy
    }

    #[inline]
    pub(crate) fn idle(&self) -> usize {
        self.idle
    }

    #[inline]
    fn summaries(&self) -> &[Summary] {
        // SAFETY: `new` was promised as many, the map's alone.
        unsafe {
            core::slice::from_raw_parts(self.summaries.as_ptr(), Self::chunks_for(self.npages))
        }
    }

    #[inline]
    fn chunks(&self) -> &[Chunk] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts(self.chunks.as_ptr(), Self::chunks_for(self.npages)) }
    }

    #[inline]
    fn both_mut(&mut self) -> (&mut [Summary], &mut [Chunk]) {
        let len = Self::chunks_for(self.npages);
        // SAFETY: as above, and two separate allocations.
        unsafe {
            (
                core::slice::from_raw_parts_mut(self.summaries.as_ptr(), len),
                core::slice::from_raw_parts_mut(self.chunks.as_ptr(), len),
            )
        }
    }

    /// The first `npages` free pages in a row that begin where `align` allows.
    #[inline]
    pub(crate) fn fit(&mut self, npages: usize, align: Alignment) -> Option<usize> {
        if npages > self.longest {
            return None;
        }
        let mut longest = 0;
        // Free pages in a row that end where the chunk at hand begins.
        let mut before = 0;
        for (index, summary) in self.summaries().iter().enumerate() {
            let base = index * CHUNK_PAGES;
            let joined = before + summary.leading as usize;
            if joined >= npages {
                if let Some(first) = align.place(base - before, joined, npages) {
                    return Some(first);
                }
            }
            longest = longest.max(joined);
            if summary.is_all_free() {
                before = joined;
                continue;
            }
            if summary.longest as usize >= npages {
                let offset = (align.offset + base) & (align.npages - 1);
                let mut starts = self.chunks()[index].free.run_starts(npages);
                if align.npages > 1 {
                    let first = offset.wrapping_neg() & (align.npages - 1);
                    starts &= Bits::every(align.npages, first);
                }
                if let Some(at) = starts.first() {
                    return Some(base + at);
                }
            }
            longest = longest.max(summary.longest as usize);
            before = summary.trailing as usize;
        }
        self.longest = longest;
        None
    }

    /// Free pages in a row before the first page that is not mapped.
    pub(crate) fn tail(&self) -> usize {
        let mut at = self.mapped;
        while at > 0 {
            let index = (at - 1) / CHUNK_PAGES;
            let base = index * CHUNK_PAGES;
            let busy = !self.chunks()[index].free & Bits::range(0, at - base);
            let free = match busy.runs().last() {
                Some((from, len)) => at - base - (from + len),
                None => at - base,
            };
            at -= free;
            if at > base {
                break;
            }
        }
        self.mapped - at
    }

    /// The parts of a range in each chunk it touches: the chunk, the first page in it, how many.
    #[inline]
    fn parts(first: usize, npages: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let (mut at, end) = (first, first + npages);
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (index, from) = (at / CHUNK_PAGES, at % CHUNK_PAGES);
            let len = (CHUNK_PAGES - from).min(end - at);
            at += len;
            Some((index, from, len))
        })
    }

    /// Whether every page of a mapped range is free.
    pub(crate) fn is_free(&self, first: usize, npages: usize) -> bool {
        Self::parts(first, npages)
            .all(|(index, from, len)| self.chunks()[index].free.holds(Bits::range(from, len)))
    }

    /// Whether no page of a mapped range is free.
    #[inline]
    pub(crate) fn is_busy(&self, first: usize, npages: usize) -> bool {
        Self::parts(first, npages)
            .all(|(index, from, len)| (!self.chunks()[index].free).holds(Bits::range(from, len)))
    }

    /// How many pages of a range are not backed.
    pub(crate) fn count_unbacked(&self, first: usize, npages: usize) -> usize {
        Self::parts(first, npages)
            .map(|(index, from, len)| {
                (!self.chunks()[index].backed & Bits::range(from, len)).count()
            })
            .sum()
    }

    /// The first run of pages of a range that are not backed.
    #[inline]
    pub(crate) fn unbacked(&self, first: usize, npages: usize) -> Option<(usize, usize)> {
        let mut found: Option<(usize, usize)> = None;
        for (index, from, len) in Self::parts(first, npages) {
            let missing = !self.chunks()[index].backed & Bits::range(from, len);
            let base = index * CHUNK_PAGES;
            match (found, missing.runs().next()) {
                (None, run) => found = run.map(|(at, len)| (base + at, len)),
                (Some((at, had)), Some((more, len))) if at + had == base + more => {
                    found = Some((at, had + len));
                }
                _ => break,
            }
            if found.is_some_and(|(at, len)| at + len < base + CHUNK_PAGES) {
                break;
            }
        }
        found
    }

    /// Notes that free pages are backed, and that they still are as zero as they were.
    pub(crate) fn back(&mut self, first: usize, npages: usize) {
        for (index, from, len) in Self::parts(first, npages) {
            let (summaries, chunks) = self.both_mut();
            let pages = Bits::range(from, len);
            let added = (pages & !chunks[index].backed).count();
            chunks[index].backed |= pages;
            summaries[index].idle += added as u16;
            self.idle += added;
        }
    }

    /// Notes that the pages up to `mapped` are mapped: free, not backed, zero.
    pub(crate) fn map(&mut self, mapped: usize) {
        let (first, added) = (self.mapped, mapped - self.mapped);
        self.mapped = mapped;
        for (index, from, len) in Self::parts(first, added) {
            let (summaries, chunks) = self.both_mut();
            let pages = Bits::range(from, len);
            chunks[index].free |= pages;
            chunks[index].zero |= pages;
            summaries[index] = Summary::of(&chunks[index]);
            self.raise_longest(index);
        }
    }

    /// Takes free and backed pages out; whether all of them are zero. `look` is the number of the
    /// scavenger's last look; `None` where pages are taken out to be given back.
    #[inline]
    pub(crate) fn take(&mut self, first: usize, npages: usize, look: Option<u32>) -> bool {
        let mut zero = true;
        for (index, from, len) in Self::parts(first, npages) {
            let (summaries, chunks) = self.both_mut();
            let (summary, chunk) = (&mut summaries[index], &mut chunks[index]);
            let pages = Bits::range(from, len);
            debug_assert!(chunk.free.holds(pages) && chunk.backed.holds(pages));
            zero &= chunk.zero.holds(pages);
            let (begin, end) = chunk.free.run_around(from);
            chunk.free &= !pages;
            chunk.touched = look.unwrap_or(chunk.touched);
            if begin == 0 {
                summary.leading = from as u16;
            }
            if end == CHUNK_PAGES {
                summary.trailing = (end - from - len) as u16;
            }
            // Only what was the longest run may leave a shorter one as the longest: what is left
            // of it, if all others together are no longer.
            if end - begin == summary.longest as usize {
                let left = (from - begin).max(end - from - len);
                let others = chunk.free.count() - left;
                let longest = if left >= others { left } else { chunk.free.longest_run() };
                summary.longest = longest as u16;
            }
            summary.idle -= len as u16;
        }
        self.idle -= npages;
        self.busy += npages;
        zero
    }

    /// Makes pages free that were taken.
    #[inline]
    pub(crate) fn put_back(&mut self, first: usize, npages: usize, now: Now) {
        let backed = !matches!(now, Now::GivenBack { .. });
        for (index, from, len) in Self::parts(first, npages) {
            let (summaries, chunks) = self.both_mut();
            let (summary, chunk) = (&mut summaries[index], &mut chunks[index]);
            let pages = Bits::range(from, len);
            debug_assert!((!chunk.free).holds(pages));
            chunk.free |= pages;
            match now {
                Now::Dirty { look } => {
                    chunk.zero &= !pages;
                    chunk.touched = look;
                }
                Now::GivenBack { zero: false } => chunk.zero &= !pages,
                Now::GivenBack { zero: true } => chunk.zero |= pages,
                Now::Unchanged => {}
            }
            if backed {
                summary.idle += len as u16;
            } else {
                chunk.backed &= !pages;
            }
            let (begin, end) = chunk.free.run_around(from);
            if begin == 0 {
                summary.leading = end as u16;
            }
            if end == CHUNK_PAGES {
                summary.trailing = (end - begin) as u16;
            }
            summary.longest = summary.longest.max((end - begin) as u16);
            self.raise_longest(index);
        }
        self.idle += if backed { npages } else { 0 };
        self.busy -= npages;
    }

    /// Raises the bound on the longest free run to what the chunk at `index` and its neighbours
    /// may have made of it. Where a run may go on beyond those, anything is possible; the next
    /// search in vain finds out.
    #[inline]
    fn raise_longest(&mut self, index: usize) {
        let summaries = self.summaries();
        let here = summaries[index];
        let before = index.checked_sub(1).map_or(Summary::default(), |index| summaries[index]);
        let after = summaries.get(index + 1).copied().unwrap_or_default();
        let joins_before = here.leading > 0 && before.trailing > 0;
        let joins_after = here.trailing > 0 && after.leading > 0;
        let bound = if (joins_before && before.is_all_free())
            || (joins_after && after.is_all_free())
            || here.is_all_free()
        {
            self.npages
        } else {
            let joined = (before.trailing + here.leading).max(here.trailing + after.leading);
            here.longest.max(joined) as usize
        };
        self.longest = self.longest.max(bound);
    }

    /// Calls `visit` with free and backed runs inside free runs of at least `least` (at most a
    /// chunk) pages, from the chunk that ends at or before page `below` down to the first, until
    /// it says that it has enough. Returns the page down to which all was visited. With `quiet_at`,
    /// the number of a look of the scavenger, chunks that are partly in use and were touched
    /// shortly before it are left out.
    pub(crate) fn idle_runs_below(
        &self,
        below: usize,
        least: usize,
        quiet_at: Option<u32>,
        mut visit: impl FnMut(usize, usize) -> bool,
    ) -> usize {
        for index in (0..below.div_ceil(CHUNK_PAGES)).rev() {
            let (summary, chunk) = (self.summaries()[index], &self.chunks()[index]);
            if summary.idle == 0 || (summary.longest as usize) < least {
                continue;
            }
            let untouched = quiet_at.map(|look| look.wrapping_sub(chunk.touched));
            if !summary.is_all_free() && untouched.is_some_and(|looks| looks < QUIET_LOOKS) {
                continue;
            }
            for (from, len) in chunk.free.runs().filter(|run| run.1 >= least) {
                let idle = chunk.free & chunk.backed & Bits::range(from, len);
                for (from, len) in idle.runs() {
                    if !visit(index * CHUNK_PAGES + from, len) {
                        return ((index + 1) * CHUNK_PAGES).min(self.npages);
                    }
                }
            }
        }
        0
    }

    /// What the pages of a chunk are; the address is left to the caller.
    pub(crate) fn counts(&self, index: usize) -> MapCell {
        let (chunk, base) = (&self.chunks()[index], index * CHUNK_PAGES);
        let npages = (self.npages - base).min(CHUNK_PAGES);
        let mapped = self.mapped.saturating_sub(base).min(npages);
        let free = chunk.free.count();
        let free_backed = (chunk.free & chunk.backed).count();
        MapCell {
            address: 0,
            in_use: (mapped - free) as u16,
            free_backed: free_backed as u16,
            given_back: (free - free_backed) as u16,
            unmapped: (npages - mapped) as u16,
        }
    }

    /// The first page from `at` on that differs in being mapped, backed or free from `at`, and
    /// what `at` is. For checks: it looks at every page.
    pub(crate) fn alike(&self, at: usize) -> (PageKind, usize) {
        let kind = self.kind(at);
        let end = (at..self.npages).find(|&page| self.kind(page) != kind);
        (kind, end.unwrap_or(self.npages))
    }

    fn kind(&self, page: usize) -> PageKind {
        let (chunk, bit) = (&self.chunks()[page / CHUNK_PAGES], Bits::range(page % CHUNK_PAGES, 1));
        PageKind {
            mapped: page < self.mapped,
            free: chunk.free.holds(bit),
            backed: chunk.backed.holds(bit),
        }
    }

    /// Holds summaries, counts and the bound against the bits; names what differs, the page it
    /// was found at, what is kept and what was counted.
    pub(crate) fn check(&self) -> Result<(), (&'static str, usize, usize, usize)> {
        let (mut free, mut idle) = (0, 0);
        let (mut run, mut longest) = (0, 0);
        for (index, (chunk, &kept)) in self.chunks().iter().zip(self.summaries()).enumerate() {
            let base = index * CHUNK_PAGES;
            let counted = Summary::of(chunk);
            for (what, kept, counted) in [
                ("free pages at the start of a chunk", kept.leading, counted.leading),
                ("the longest free run of a chunk", kept.longest, counted.longest),
                ("free pages at the end of a chunk", kept.trailing, counted.trailing),
                ("free and backed pages of a chunk", kept.idle, counted.idle),
            ] {
                if kept != counted {
                    return Err((what, base, kept as usize, counted as usize));
                }
            }
            let mapped = Bits::range(0, self.mapped.saturating_sub(base).min(CHUNK_PAGES));
            for (what, wrong) in [
                ("free pages that are not mapped", chunk.free & !mapped),
                ("backed pages that are not mapped", chunk.backed & !mapped),
                ("pages in use that are not backed", mapped & !chunk.free & !chunk.backed),
            ] {
                if let Some(at) = wrong.first() {
                    return Err((what, base + at, 0, wrong.count()));
                }
            }
            free += chunk.free.count();
            idle += counted.idle as usize;
            longest = longest.max(run + chunk.free.leading()).max(chunk.free.longest_run());
            run = if counted.is_all_free() { run + CHUNK_PAGES } else { chunk.free.trailing() };
        }
        for (what, kept, counted) in [
            ("pages in use of a reservation", self.busy, self.mapped - free),
            ("free and backed pages of a reservation", self.idle, idle),
        ] {
            if kept != counted {
                return Err((what, 0, kept, counted));
            }
        }
        if self.longest < longest {
            return Err(("the bound on free runs of a reservation", 0, self.longest, longest));
        }
        Ok(())
    }
}

/// What a check wants to know of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageKind {
    pub(crate) mapped: bool,
    pub(crate) free: bool,
    pub(crate) backed: bool,
}
