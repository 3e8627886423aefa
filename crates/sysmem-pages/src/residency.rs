//! The heap's books against what the system says is in memory.

use sysmem::{Error, Os, ResidentFalls, State};

use crate::block::PageKind;
use crate::heap::PageHeap;
use crate::pages::Pages;
use crate::region::Region;
use crate::standing::WHOLE;
use crate::verify::Inconsistency;

/// What the system says of a heap's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// What of it is in memory.
    Told(ResidentBytes),
    /// The system does not say where pages are (OpenBSD has no call for it), or would not now:
    /// nothing was checked.
    NotTold(Error),
}

/// Bytes that are in memory, by what the heap knows of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResidentBytes {
    /// Handed out or in caches, and not given back by their owners. All that was written is here,
    /// unless it is in swap.
    pub in_use: u64,
    /// Free and backed.
    pub free_backed: u64,
    /// Given back, or not used yet, and in memory all the same: lazily given back and not taken yet,
    /// or part of a huge page that the system made where other pages are in use.
    pub given_back: u64,
}

impl<O: Os + Clone> PageHeap<O> {
    /// Holds what the heap says is not in memory against the system: no page may be there that was
    /// given back where that takes it at once. A system that has huge pages may make one of a few pages
    /// in use, which brings given back ones beside them into memory: those are told, and are no
    /// contradiction.
    ///
    /// Reservations of which the system lost a part are left out. So are pages that are being given
    /// back at this moment: this is exact only while nobody else is at work on the heap. Asks the
    /// system for each stretch of pages that are alike, and holds the lock all the while: for tests
    /// and debugging.
    pub fn verify_residency(&self) -> Result<Residency, Inconsistency> {
        let at_once =
            self.os.unused_contract(self.options.give_back).resident_falls == ResidentFalls::AtOnce;
        let huge_page = self.os.huge_page_size().map(|len| len >> self.page_shift());
        let pages = self.lock();
        let mut resident = ResidentBytes::default();
        for region in pages.regions.iter().filter(|region| !region.lost) {
            let mut at = region.first;
            while at < region.mapped {
                let (kind, to) = pages.alike(at, region.mapped);
                // One huge page at a time, because of what the system may make of it.
                let to = to.min((at / WHOLE + 1) * WHOLE);
                let (from, end) = (region.offset_of(at), region.offset_of(to));
                let told = match kind {
                    PageKind::Absent => Ok((0, 0)),
                    PageKind::InUse => resident_in_use(region, from, end),
                    PageKind::Idle | PageKind::GivenBack => region
                        .reservation()
                        .resident_bytes(from, end - from)
                        .map(|bytes| if kind == PageKind::Idle { (bytes, 0) } else { (0, bytes) }),
                };
                let (backed, given_back) = match told {
                    Ok((backed, given_back)) => (backed as u64, given_back as u64),
                    Err(error) => return Ok(Residency::NotTold(error)),
                };
                match kind {
                    PageKind::InUse => resident.in_use += backed,
                    _ => resident.free_backed += backed,
                }
                resident.given_back += given_back;
                let explained = huge_page.is_some_and(|huge_page| pages.has_backed(at, huge_page));
                if at_once && given_back > 0 && !explained {
                    return Err(Inconsistency {
                        what: "bytes in memory of pages that were given back",
                        address: at << self.page_shift(),
                        kept: 0,
                        counted: given_back,
                    });
                }
                at = to;
            }
        }
        Ok(Residency::Told(resident))
    }
}

/// Bytes in memory from one offset to another in a run: of what its owner has, and of what it gave
/// back.
fn resident_in_use<O: Os + Clone>(
    region: &Region<O>,
    mut at: usize,
    end: usize,
) -> Result<(usize, usize), Error> {
    let (mut backed, mut given_back) = (0, 0);
    while let Some((state, _, to)) = region.reservation().state(at).filter(|_| at < end) {
        let to = to.min(end);
        let bytes = region.reservation().resident_bytes(at, to - at)?;
        match state {
            State::Prepared => given_back += bytes,
            _ => backed += bytes,
        }
        at = to;
    }
    Ok((backed, given_back))
}

impl<O: Os + Clone> Pages<O> {
    /// Whether a page is backed in the huge page of the system, of `len` pages, in which a page lies.
    fn has_backed(&self, page: usize, len: usize) -> bool {
        let len = len.max(WHOLE);
        let first = page / len * len;
        (first / WHOLE..(first + len) / WHOLE).any(|number| {
            self.tree.block(number).is_some_and(|block| block.count_unbacked(0, WHOLE) < WHOLE)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use sysmem::Native;

    use super::*;
    use crate::block::Now;
    use crate::{Accounts, Options, PAGE};

    #[test]
    fn books_that_call_written_pages_given_back_are_found_out() {
        let accounts = Box::leak(Box::new(Accounts::new("books", "books: records")));
        let heap = PageHeap::new(Native::NEW, accounts, Options::new());
        let run = heap.allocate(WHOLE, PAGE).unwrap();
        // SAFETY: the run is ours.
        unsafe { run.start.write_bytes(1, WHOLE * heap.page_size()) };
        let number = run.start.addr().get() / heap.page_size() / WHOLE;
        let told = match heap.verify_residency().unwrap() {
            Residency::Told(told) => told,
            Residency::NotTold(error) => {
                return assert_eq!(error.kind(), sysmem::ErrorKind::NotSupported);
            }
        };
        assert_eq!(told.in_use, (WHOLE * heap.page_size()) as u64);
        let change = |change: &dyn Fn(&mut crate::block::Block)| {
            heap.lock().tree.change(number, change);
        };
        change(&|block| block.put_back(0, WHOLE, Now::Dirty { look: 0 }));
        change(&|block| block.take_leaving(0, WHOLE));
        change(&|block| block.put_back(0, WHOLE, Now::GivenBack { zero: true, look: 0 }));
        let found = heap.verify_residency().unwrap_err();
        assert_eq!(found.address, run.start.addr().get());
        assert_eq!(found.counted, told.in_use);
        // Right again.
        change(&|block| _ = block.back(0, WHOLE));
        change(&|block| _ = block.take(0, WHOLE, 0));
        assert_eq!(heap.verify_residency(), Ok(Residency::Told(told)));
    }
}
