//! The virtual memory of one simulated process, without the rules of any one kernel: mappings,
//! what their pages hold, and what has been promised of them.

mod children;
mod lazily_freed;
mod placing;

use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::vec::Vec;

use super::mappings::{Attributes, Mapping, Mappings, TooMany};
use super::memory::{LARGEST_PAGE, Memory};
use super::random::Random;
use super::ranges::Ranges;
use super::settings::{Backing, Settings};
use super::views::Views;
use crate::{Errno, Protection};
use children::Child;
use lazily_freed::Freed;

/// Mappings of the process that lie outside the simulated address space: one below, one above.
pub(crate) const OUTSIDE: usize = 2;

pub struct Machine {
    pub(crate) settings: Settings,
    pub(crate) mappings: Mappings,
    pub(crate) random: Random,
    /// The next fixed mapping runs out of kernel memory on its way.
    pub(crate) starve_replacement: bool,
    /// Whether huge pages are switched off for the process, and when the machine builds them.
    pub(crate) huge_pages_off: bool,
    pub(crate) huge_page_mode: &'static str,
    /// Whether the process has switched on the privilege to lock memory, if its user has it.
    pub(crate) may_lock_memory: bool,
    /// What the process is not judged by, however resident it is: reusable memory of Darwin.
    pub(crate) reusable: Ranges,
    /// Whether the thread of a Darwin process writes to memory for a JIT now.
    pub(crate) jit_writable: bool,
    memory: Memory,
    /// What the process sees at more than one address.
    pub(crate) views: Views,
    /// The last that [`object`](Machine::object) gave out.
    objects: u64,
    /// Calls so far, which is the time by which lazily freed pages are dropped.
    now: u64,
    freed: BTreeMap<usize, Freed>,
    /// Pages that are next to go and keep their contents, with those.
    inactive: BTreeMap<usize, Box<[u8]>>,
    /// The forked children that live, and what they have.
    children: BTreeMap<u64, Child>,
    due: BTreeSet<(u64, usize)>,
}

impl Machine {
    pub(crate) fn new(settings: Settings) -> Machine {
        let Settings { space, alignment, page_size, .. } = settings;
        assert!(page_size.is_power_of_two() && (4096..=LARGEST_PAGE).contains(&page_size));
        assert!(alignment.is_power_of_two() && alignment >= page_size);
        assert!(space != 0 && space % alignment == 0, "the address space is whole alignments long");
        let memory = match settings.backing {
            Backing::Heap => Memory::heap(space, alignment, page_size),
            Backing::Real => Memory::real(space, alignment, page_size),
            Backing::Addresses { start } => Memory::addresses(start, space, page_size),
        };
        Machine {
            random: Random::new(settings.seed),
            settings,
            mappings: Mappings::default(),
            starve_replacement: false,
            huge_pages_off: false,
            huge_page_mode: "madvise",
            may_lock_memory: false,
            reusable: Ranges::default(),
            jit_writable: false,
            memory,
            views: Views::default(),
            objects: 0,
            now: 0,
            freed: BTreeMap::new(),
            inactive: BTreeMap::new(),
            children: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// The address space of the process.
    pub(crate) fn space(&self) -> Range<usize> {
        self.memory.range()
    }

    pub(crate) fn pointer(&self, address: usize) -> *mut u8 {
        self.memory.pointer(address)
    }

    pub(crate) fn page_size(&self) -> usize {
        self.settings.page_size
    }

    pub(crate) fn round_up(&self, len: usize) -> Option<usize> {
        len.checked_next_multiple_of(self.page_size())
    }

    pub(crate) fn is_aligned(&self, address: usize) -> bool {
        address % self.page_size() == 0
    }

    /// Panics if the program is about to change what is not its own.
    pub(crate) fn own(&self, call: &str, range: &Range<usize>) {
        let theirs = self.mappings.inside(range.clone());
        if let Some(theirs) = theirs.iter().find(|part| part.attributes.foreign) {
            panic!("{call} of {range:#x?} changes {:#x?}, another's", theirs.start..theirs.end);
        }
    }

    /// Whether a range lies in the address space of the process and is free.
    pub(crate) fn can_map(&self, range: &Range<usize>) -> bool {
        self.has(range) && self.mappings.is_free(range.clone())
    }

    /// Whether a range lies in the address space of the process. What is outside is taken.
    pub(crate) fn has(&self, range: &Range<usize>) -> bool {
        let space = self.space();
        space.start <= range.start && range.end <= space.end
    }

    /// Whether a range has no hole.
    pub(crate) fn is_mapped(&self, range: &Range<usize>) -> bool {
        let parts = self.mappings.inside(range.clone());
        parts.iter().map(Mapping::len).sum::<usize>() == range.len()
    }

    /// A number for what is mapped together, which nothing has yet.
    pub(crate) fn object(&mut self) -> u64 {
        self.objects += 1;
        self.objects
    }

    /// Bytes charged: for what is mapped, and for what children may come to write to.
    pub(crate) fn charged(&self) -> usize {
        let children: usize = self.children.values().map(|child| child.charged).sum();
        self.mappings.totals().charged + children + self.views.charged()
    }

    /// Maps a free range.
    pub(crate) fn map(&mut self, range: Range<usize>, attributes: Attributes) {
        self.memory.protect(range.clone(), Protection::NoAccess, attributes.protection);
        self.mappings.insert(range, attributes);
    }

    /// Unmaps whatever lies in a range.
    pub(crate) fn unmap(&mut self, range: Range<usize>) {
        self.forget_freed_in(range.clone());
        for (part, ..) in self.views.inside(&range) {
            self.memory.hide_object(part);
        }
        self.views.hide(&range);
        for part in self.mappings.inside(range.clone()) {
            if part.attributes.view == 0 {
                self.memory.remove(part.start..part.end, part.attributes.protection);
            }
        }
        self.reusable.remove(range.clone());
        self.mappings.remove(range);
    }

    /// A new object of zeros that can be seen at more than one address, if there can be one.
    pub(crate) fn create_object(&mut self, len: usize) -> Option<i32> {
        let len = self.round_up(len)?;
        (self.settings.backing == Backing::Real).then(|| self.views.create(len))?
    }

    /// Shows a part of an object in a range, in place of what was there.
    pub(crate) fn map_object(
        &mut self,
        range: Range<usize>,
        attributes: Attributes,
        object: i32,
        offset: usize,
    ) {
        self.unmap(range.clone());
        let start = self.memory.pointer(range.start);
        self.views.show(start, range.len(), attributes.protection, object, offset);
        self.mappings.insert(range, Attributes { view: object, ..attributes });
    }

    /// Removes what a range holds, then maps it as `attributes` says, or leaves it a hole, which a
    /// rival may take.
    pub(crate) fn replace(
        &mut self,
        range: Range<usize>,
        attributes: impl FnOnce(&mut Machine) -> Result<Attributes, Errno>,
    ) -> Result<(), Errno> {
        let was_mapped = !self.mappings.is_free(range.clone());
        self.unmap(range.clone());
        match attributes(self) {
            Ok(attributes) => {
                self.map(range, attributes);
                Ok(())
            }
            Err(errno) => {
                if self.settings.rival && was_mapped {
                    let rival = Attributes::new(Protection::NoAccess);
                    self.map(range, Attributes { foreign: true, ..rival });
                }
                Err(errno)
            }
        }
    }

    /// Gives a part of one mapping other attributes; what it holds stays.
    pub(crate) fn change(
        &mut self,
        part: &Mapping,
        attributes: Attributes,
        most: usize,
    ) -> Result<(), TooMany> {
        let range = part.start..part.end;
        let to = attributes.protection;
        self.mappings.change(range.clone(), attributes, most)?;
        self.memory.protect(range, part.attributes.protection, to);
        Ok(())
    }

    /// Gives a part of one mapping other attributes, where there is no limit on mappings.
    pub(crate) fn alter(&mut self, part: &Mapping, attributes: Attributes) {
        let changed = self.change(part, attributes, usize::MAX);
        changed.expect("there is no limit on mappings");
    }

    /// Drops what a part of one mapping holds.
    pub(crate) fn discard(&mut self, part: &Mapping) {
        self.forget_freed_in(part.start..part.end);
        if part.attributes.view == 0 {
            self.memory.discard(part.start..part.end, part.attributes.protection);
        }
        for (range, object, offset) in self.views.inside(&(part.start..part.end)) {
            self.views.discard(object, offset, range.len());
        }
    }

    /// The pages of a range that are in memory: those that hold anything but zeros, and those
    /// that are locked.
    pub(crate) fn resident_pages(&self, range: Range<usize>) -> Vec<usize> {
        let mut pages = Vec::new();
        for part in self.mappings.inside(range) {
            let range = part.start..part.end;
            let protection = part.attributes.protection;
            if part.attributes.locked && protection != Protection::NoAccess {
                pages.extend(range.step_by(self.page_size()));
            } else {
                self.memory.contents(range, protection, &mut |page, _| pages.push(page));
            }
        }
        pages
    }

    /// Fills in one byte a page of a range: `byte` for what is in memory, 0 for the rest.
    pub(crate) fn tell_resident(
        &self,
        range: Range<usize>,
        residency: &mut [u8],
        byte: impl Fn(usize) -> u8,
    ) {
        let start = range.start;
        residency[..range.len() / self.page_size()].fill(0);
        for page in self.resident_pages(range) {
            residency[(page - start) / self.page_size()] = byte(page);
        }
    }

    /// Pages of the process that are in memory.
    pub(crate) fn resident(&self) -> usize {
        self.resident_pages(self.space()).len()
    }

    /// Whether a part of a mapping holds anything but zeros.
    pub(crate) fn holds_anything(&self, part: &Mapping) -> bool {
        let mut holds = false;
        let range = part.start..part.end;
        self.memory.contents(range, part.attributes.protection, &mut |_, _| holds = true);
        holds
    }

    /// Panics if memory was written to that may not be.
    pub(crate) fn verify(&self) {
        for mapping in self.mappings.iter() {
            self.memory.verify(mapping.start..mapping.end, mapping.attributes.protection);
        }
        for gap in self.mappings.gaps(self.space()) {
            self.memory.verify(gap, Protection::NoAccess);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.verify();
    }
}
