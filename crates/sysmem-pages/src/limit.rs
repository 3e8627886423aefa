//! A limit on the memory of a heap.
//!
//! What counts is what is in memory as far as the heap knows: in use, free and backed, or just being
//! given back. Pages that are handed out again without having been given back cost nothing new, and
//! never meet the limit. Against the soft limit also counts what the owner says that the process has
//! in memory besides, up to an eighth of the limit: a heap cannot make room for everything.

use sysmem::{Error, ErrorKind, Limit, LockGuard, Operation, Os};

use crate::heap::PageHeap;
use crate::pages::{Pages, parts};

/// In pages, of the size that is 1 << `shift`.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    asked_soft: usize,
    hard: usize,
    /// What the process has in memory besides.
    besides: usize,
    shift: u32,
    /// What an error calls the hard one.
    name: fn(u64) -> Limit,
}

impl Limits {
    /// What the heap may have under the soft limit.
    fn soft(&self) -> usize {
        match self.asked_soft {
            // No limit is a number of pages that has no eighth worth speaking of.
            asked if asked >= usize::MAX >> self.shift => asked,
            asked => asked - self.besides.min(asked / BESIDES_DIVISOR),
        }
    }

    /// The pages that are in memory.
    fn in_memory<O: Os + Clone>(&self, pages: &Pages<O>) -> usize {
        pages.in_use_in_memory(self.shift) + pages.idle + pages.leaving
    }
}

/// The locked heap, and the first page of a place in it.
pub(crate) type Place<'a, O> = (LockGuard<'a, Pages<O>, O>, usize);

/// The part of the soft limit, as a divisor, that other memory of the process may take.
const BESIDES_DIVISOR: usize = 8;

/// How often an allocation gives back what others have freed meanwhile before it is refused.
const TRIES: usize = 8;

impl<O: Os + Clone> PageHeap<O> {
    /// Limits the memory of the heap to `soft` and `hard` bytes, `usize::MAX` for no limit.
    ///
    /// Above the soft limit an allocation first gives back free memory, and a scavenger holds nothing
    /// back; it never fails for it. Above the hard limit an allocation fails with
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) and [`Limit::Heap`]. What is in use already stays. The
    /// heap's own records do not count.
    pub fn set_limit(&self, soft: usize, hard: usize) {
        self.set_named_limit(soft, hard, Limit::Heap);
    }

    /// As [`set_limit`](PageHeap::set_limit), where the hard limit is another's: errors call it as
    /// `name` does, say [`Limit::ControlGroup`].
    pub fn set_named_limit(&self, soft: usize, hard: usize, name: fn(u64) -> Limit) {
        let shift = self.page_shift();
        let asked_soft = soft.min(hard) >> shift;
        let mut pages = self.lock();
        let besides = pages.limits.map_or(0, |limits| limits.besides);
        let limits = Limits { asked_soft, hard: hard >> shift, besides, shift, name };
        pages.limits = (soft.min(hard) != usize::MAX).then_some(limits);
    }

    /// Where there is a soft limit, what it is and what of the heap is in memory, in bytes: for an
    /// owner who then says what there is [`besides`](PageHeap::count_besides).
    pub fn soft_limit_and_memory(&self) -> Option<(u64, u64)> {
        let pages = self.lock();
        let limits = pages.limits.as_ref()?;
        let (soft, _) = pages.limit_bytes(limits.shift);
        (soft != u64::MAX).then(|| (soft, (limits.in_memory(&pages) as u64) << limits.shift))
    }

    /// Says how many bytes the process has in memory besides this heap: they count against the soft
    /// limit, up to an eighth of it. Forgotten when there is no limit any more.
    pub fn count_besides(&self, bytes: usize) {
        if let Some(limits) = &mut self.lock().limits {
            limits.besides = bytes >> limits.shift;
        }
    }

    /// The lock and a place for a run, after giving back what a limit asks for; with room for so many
    /// pages after it, if that can be had.
    #[inline]
    pub(crate) fn find_place(
        &self,
        npages: usize,
        align_pages: usize,
        room: usize,
    ) -> Result<Place<'_, O>, Error> {
        let mut tries = 0;
        loop {
            let mut pages = self.lock();
            if pages.limits.is_some_and(|limits| {
                npages > limits.hard.saturating_sub(pages.in_use_in_memory(limits.shift))
            }) {
                return Err(self.refusal(&pages, npages));
            }
            let mut place = None;
            if room > 0 && tries == 0 {
                place = pages.grow_by_region(self, npages, align_pages, room).ok();
            }
            let first = match place.or_else(|| pages.fit(npages, align_pages)) {
                Some(place) => place,
                None => pages.grow(self, npages, align_pages)?,
            };
            let Some(limits) = pages.limits else { return Ok((pages, first)) };
            let wanted = pages.wanted(limits, first, npages);
            // For the soft limit alone, once is enough.
            if wanted <= limits.soft() || wanted <= limits.hard && tries > 0 {
                return Ok((pages, first));
            }
            if tries == TRIES {
                return Err(self.refusal(&pages, npages));
            }
            drop(pages);
            self.release((wanted - limits.soft()) << self.page_shift());
            tries += 1;
        }
    }

    #[cold]
    pub(crate) fn refusal(&self, pages: &Pages<O>, npages: usize) -> Error {
        let hard =
            pages.limits.map(|limits| (limits.name)((limits.hard << self.page_shift()) as u64));
        let kind = ErrorKind::OutOfMemory { errno: None, limit: hard };
        Error::new(Operation::AllocatePages, 0, npages << self.page_shift(), kind)
    }
}

impl<O: Os + Clone> Pages<O> {
    /// The soft and the hard limit in bytes, `u64::MAX` for none.
    pub(crate) fn limit_bytes(&self, shift: u32) -> (u64, u64) {
        let bytes = |npages: usize| match npages {
            npages if npages >= usize::MAX >> shift => u64::MAX,
            npages => (npages as u64) << shift,
        };
        self.limits
            .map_or((u64::MAX, u64::MAX), |limits| (bytes(limits.asked_soft), bytes(limits.hard)))
    }

    /// The pages that would be in memory if these were handed out.
    fn wanted(&self, limits: Limits, first: usize, npages: usize) -> usize {
        let missing = |(block, at, len)| {
            self.tree.block(block).map_or(len, |block| block.count_unbacked(at, len))
        };
        let missing: usize = parts(first, npages).map(missing).sum();
        limits.in_memory(self) + missing
    }

    /// Whether these pages may be handed out, as far as the hard limit goes.
    pub(crate) fn is_allowed(&self, first: usize, npages: usize) -> bool {
        self.limits.is_none_or(|limits| self.wanted(limits, first, npages) <= limits.hard)
    }

    /// Whether these pages may be handed out before anybody asks for them: the soft limit allows it.
    pub(crate) fn is_within_soft_limit(&self, first: usize, npages: usize) -> bool {
        self.limits.is_none_or(|limits| self.wanted(limits, first, npages) <= limits.soft())
    }

    /// Whether the memory of as many bytes in use may come again, as far as the hard limit goes.
    pub(crate) fn may_use_again(&self, bytes: usize) -> bool {
        self.limits.is_none_or(|limits| {
            limits.in_memory(self) + bytes.div_ceil(1 << limits.shift) <= limits.hard
        })
    }

    /// The pages that may be idle under the soft limit.
    pub(crate) fn room_for_idle(&self) -> usize {
        self.limits.map_or(usize::MAX, |limits| {
            limits.soft().saturating_sub(self.in_use_in_memory(limits.shift) + self.leaving)
        })
    }
}
