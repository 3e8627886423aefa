use core::time::Duration;

use sysmem::Os;

use crate::page_cache::Depot;
use crate::pages::Pages;

/// What a page heap says at one moment. The first group is in bytes, the second tells how
/// dense huge pages are, the third counts events since the heap was made.
///
/// `reserved` is the sum of `in_use`, `cached`, `free_backed`, `given_back`, `releasing`, `unmapped`
/// and `lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Handed out.
    pub in_use: u64,
    /// What of that was given back by its owner, who has the pages still.
    pub in_use_given_back: u64,
    /// Held by [page caches](crate::PageCache): free for their owners, not for the heap. What is
    /// just on its way into a cache or out of it may count as the other.
    pub cached: u64,
    /// The most that was handed out and cached at one moment.
    pub peak_in_use: u64,
    /// Free, and as far as the heap knows in memory.
    pub free_backed: u64,
    /// Free and not in memory: given back, or mapped in the last step of growth and not used yet.
    pub given_back: u64,
    /// Being given back at this moment, by a call outside the lock.
    pub releasing: u64,
    /// Address space that was never mapped.
    pub unmapped: u64,
    /// Address space that the heap hands out no more, nor returns, because the system lost a part of
    /// the reservation while memory of it was given back or mapped
    /// ([`ErrorKind::Lost`](sysmem::ErrorKind::Lost)).
    pub lost: u64,
    /// Address space.
    pub reserved: u64,
    /// The heap's own records, beside all of these.
    pub metadata: u64,
    /// The soft limit on memory in use and free, `u64::MAX` for none.
    pub soft_limit: u64,
    /// The hard limit on the same.
    pub hard_limit: u64,

    /// Handed out from huge pages that are intact: no part was given back while others stayed, or a
    /// scavenger had the system make them whole since.
    pub in_use_intact: u64,
    /// Huge pages that are wholly free and in memory.
    pub free_huge_pages: u64,
    /// Huge pages that are wholly free and not in memory.
    pub given_back_huge_pages: u64,
    /// Intact huge pages of which up to an eighth, two eighths, … all is in use.
    pub intact_huge_pages: [u64; 8],
    /// The same of broken huge pages.
    pub broken_huge_pages: [u64; 8],

    /// Runs handed out.
    pub allocations: u64,
    /// Runs taken back.
    pub frees: u64,
    /// Runs made longer where they were.
    pub extensions: u64,
    /// Runs made shorter.
    pub shrinks: u64,
    /// Times that free pages did not suffice and more were asked for.
    pub grows: u64,
    /// Reservations made.
    pub reservations: u64,
    /// Reservations returned to the system.
    pub returned_reservations: u64,
    /// Calls that gave memory back.
    pub releases: u64,
    /// Calls that were to give memory back and that the system refused.
    pub failed_releases: u64,
    /// Broken huge pages that the system made whole again.
    pub collapses: u64,
    /// Times that it was to and refused.
    pub failed_collapses: u64,
    /// Bytes given back in all.
    pub released: u64,
    /// What of these three a scavenger did.
    pub scavenger: ScavengerWork,

    /// Mappings that the reservations need of the system: stretches of one protection, and of one
    /// advice on huge pages. A system that joins neighbours has no more of them for the heap, and
    /// Linux no more than `vm.max_map_count` for the whole process.
    pub mappings: u64,
}

/// What the [`Scavenger`](crate::Scavenger)s of a heap did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScavengerWork {
    /// Calls that gave memory back.
    pub releases: u64,
    /// Calls that were to give memory back and that the system refused.
    pub failed_releases: u64,
    /// Bytes given back.
    pub released: u64,
    /// Processor time of all steps, and of what its owner did
    /// [on its budget](crate::Scavenger::share_budget).
    pub cpu_time: Duration,
}

impl Statistics {
    /// The part of free memory that is not in whole huge pages of `huge_page` bytes, from 0 to 1: 0
    /// where all of it could be had or given back in huge pages.
    pub fn fragmentation(&self, huge_page: u64) -> f64 {
        let free = self.free_backed + self.given_back;
        let whole = (self.free_huge_pages + self.given_back_huge_pages) * huge_page;
        if free == 0 { 0.0 } else { 1.0 - whole as f64 / free as f64 }
    }
}

impl<O: Os + Clone> Pages<O> {
    pub(crate) fn statistics(&self, depot: &Depot, shift: u32) -> Statistics {
        let bytes = |npages: usize| (npages as u64) << shift;
        let (soft_limit, hard_limit) = self.limit_bytes(shift);
        let (npages, mapped) = (self.reserved, self.mapped);
        let (counts, tree) = (&self.counts, &self.tree);
        let cached = (self.caches.npages() + depot.npages()).min(self.in_use);
        let (allocations, frees) = self.caches.counts();
        Statistics {
            in_use: bytes(self.in_use - cached),
            in_use_given_back: self.given_back_in_use as u64,
            cached: bytes(cached),
            peak_in_use: bytes(counts.peak_in_use),
            free_backed: bytes(self.idle),
            given_back: bytes(mapped - self.in_use - self.idle - self.leaving),
            releasing: bytes(self.leaving),
            unmapped: bytes(npages - mapped),
            lost: bytes(self.lost),
            reserved: bytes(npages + self.lost),
            metadata: self.metadata.bytes() as u64,
            soft_limit,
            hard_limit,
            in_use_intact: bytes(self.in_use - tree.in_use_broken()),
            free_huge_pages: tree.free_backed() as u64,
            given_back_huge_pages: tree.given_back() as u64,
            intact_huge_pages: tree.intact().map(|count| count as u64),
            broken_huge_pages: tree.broken().map(|count| count as u64),
            allocations: counts.allocations + allocations,
            frees: counts.frees + frees,
            extensions: counts.extensions,
            shrinks: counts.shrinks,
            grows: counts.grows,
            reservations: counts.reservations,
            returned_reservations: counts.returned_reservations,
            releases: counts.releases,
            failed_releases: counts.failed_releases,
            collapses: counts.collapses,
            failed_collapses: counts.failed_collapses,
            released: (counts.released_pages << shift) + counts.released_in_use,
            scavenger: counts.scavenger,
            mappings: self.mappings() as u64,
        }
    }
}
