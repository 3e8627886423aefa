use sysmem::Os;

use crate::heap::Pages;

/// What a page heap says at one moment. The first group is in bytes, the second counts events
/// since the heap was made.
///
/// `reserved` is the sum of `in_use`, `free_backed`, `given_back`, `releasing` and `unmapped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Handed out.
    pub in_use: u64,
    /// What of that was given back by its owner, who has the pages still.
    pub in_use_given_back: u64,
    /// The most that was handed out at one moment.
    pub peak_in_use: u64,
    /// Free, and as far as the heap knows in memory.
    pub free_backed: u64,
    /// Free and not in memory: given back, or mapped in the last step of growth and not used yet.
    pub given_back: u64,
    /// Being given back at this moment, by a call outside the lock.
    pub releasing: u64,
    /// Address space that was never mapped.
    pub unmapped: u64,
    /// Address space.
    pub reserved: u64,
    /// The heap's own records, beside all of these.
    pub metadata: u64,
    /// The soft limit on memory in use and free, `u64::MAX` for none.
    pub soft_limit: u64,
    /// The hard limit on the same.
    pub hard_limit: u64,

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
    /// Bytes given back in all.
    pub released: u64,
}

impl<O: Os + Clone> Pages<O> {
    pub(crate) fn statistics(&self, shift: u32) -> Statistics {
        let bytes = |npages: usize| (npages as u64) << shift;
        let npages: usize = self.regions.iter().map(|region| region.pages.npages()).sum();
        let mapped: usize = self.regions.iter().map(|region| region.pages.mapped()).sum();
        let counts = &self.counts;
        let (soft_limit, hard_limit) = self.limit_bytes(shift);
        Statistics {
            in_use: bytes(self.in_use),
            in_use_given_back: self.given_back_in_use as u64,
            peak_in_use: bytes(counts.peak_in_use),
            free_backed: bytes(self.idle),
            given_back: bytes(mapped - self.in_use - self.idle - self.leaving),
            releasing: bytes(self.leaving),
            unmapped: bytes(npages - mapped),
            reserved: bytes(npages),
            metadata: self.metadata.bytes() as u64,
            soft_limit,
            hard_limit,
            allocations: counts.allocations,
            frees: counts.frees,
            extensions: counts.extensions,
            shrinks: counts.shrinks,
            grows: counts.grows,
            reservations: counts.reservations,
            returned_reservations: counts.returned_reservations,
            releases: counts.releases,
            failed_releases: counts.failed_releases,
            released: (counts.released_pages << shift) + counts.released_in_use,
        }
    }
}
