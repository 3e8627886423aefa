//! The address space of a simulated process: which ranges are mapped, and how.
//!
//! A mapping is what Linux calls a VMA and the BSDs a map entry. Neighbours that agree in every
//! attribute are one mapping; changing a part of one splits it. How many there may be is the
//! kernel's rule.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ops::Range;
use std::sync::Arc;
use std::vec::Vec;

use crate::os::unix::{PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::{Inheritance, Protection};

/// Whether a mapping is memory that threads switch between writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jit {
    /// No.
    No,
    /// It will be, and allows nothing yet.
    Reserved,
    /// It is, for good.
    Switched,
}

/// Everything about a mapping but where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What the pages allow.
    pub protection: Protection,
    /// Charged against the commit limit.
    pub charged: bool,
    /// Never to be charged (`MAP_NORESERVE` where the system overcommits).
    pub uncharged: bool,
    /// Wired in memory (mlock(2)).
    pub locked: bool,
    /// Advised to be built out of huge pages, or not to be.
    pub huge: Option<bool>,
    /// Advised to be read at random.
    pub random: bool,
    /// The name it was given.
    pub name: Option<Arc<CString>>,
    /// The most that it may ever allow, in the bits of mprotect(2).
    pub maximum: i32,
    /// What a forked child gets of it.
    pub inheritance: Inheritance,
    /// Whether a core dump has it in it.
    pub dumped: bool,
    /// A FreeBSD guard (`MAP_GUARD`), which nothing makes accessible.
    pub guard: bool,
    /// Memory for a JIT on Darwin (`MAP_JIT`).
    pub jit: Jit,
    /// The number of the memory object that is seen here, zero for none.
    pub view: i32,
    /// Sealed: neither its protection nor that it is mapped can be changed.
    pub immutable: bool,
    /// What was mapped by one call, where the kernel charges it as one.
    pub object: u64,
    /// Another part of the process made it: whoever changes it through the table of calls has
    /// changed what is not his.
    pub foreign: bool,
}

impl Attributes {
    /// A plain mapping with that protection.
    pub(crate) const fn new(protection: Protection) -> Attributes {
        Attributes {
            protection,
            charged: false,
            uncharged: false,
            locked: false,
            huge: None,
            random: false,
            name: None,
            maximum: PROT_READ | PROT_WRITE | PROT_EXEC,
            inheritance: Inheritance::Copy,
            dumped: true,
            guard: false,
            immutable: false,
            jit: Jit::No,
            view: 0,
            object: 0,
            foreign: false,
        }
    }

    /// Whether the pages can be written to.
    pub fn writable(&self) -> bool {
        self.protection == Protection::ReadWrite
    }
}

/// A range of a simulated address space and its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: usize,
    /// The address after the last.
    pub end: usize,
    /// How it is mapped.
    pub attributes: Attributes,
}

impl Mapping {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Never: no mapping is empty.
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }
}

/// A change would need one mapping more than there may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Bytes that are mapped, and how: what limits are held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Mapped in any way.
    pub mapped: usize,
    /// Mapped to be a guard.
    pub guards: usize,
    /// Allowing any access.
    pub accessible: usize,
    /// Wired.
    pub locked: usize,
    /// Writable.
    pub writable: usize,
    /// Charged against the commit limit.
    pub charged: usize,
}

impl Totals {
    /// Counts `len` bytes in or out.
    fn count(&mut self, attributes: &Attributes, len: usize, into: bool) {
        let count = |total: &mut usize, counts: bool| match (counts, into) {
            (true, true) => *total += len,
            (true, false) => *total -= len,
            (false, _) => {}
        };
        count(&mut self.mapped, true);
        count(&mut self.guards, attributes.guard);
        count(&mut self.accessible, attributes.protection != Protection::NoAccess);
        count(&mut self.locked, attributes.locked);
        count(&mut self.writable, attributes.writable());
        // What is seen of an object is charged with the object.
        count(&mut self.charged, attributes.charged && attributes.view == 0);
    }
}

/// The mappings of a process, lowest address first.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    by_start: BTreeMap<usize, Mapping>,
    totals: Totals,
}

impl Mappings {
    pub(crate) fn count(&self) -> usize {
        self.by_start.len()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.by_start.values()
    }

    /// The mapping that holds `address`.
    pub(crate) fn at(&self, address: usize) -> Option<&Mapping> {
        let (_, mapping) = self.by_start.range(..=address).next_back()?;
        (address < mapping.end).then_some(mapping)
    }

    /// The parts of mappings that lie inside `range`.
    pub(crate) fn inside(&self, range: Range<usize>) -> Vec<Mapping> {
        let first = self.at(range.start).map_or(range.start, |mapping| mapping.start);
        self.by_start
            .range(first..range.end.max(first))
            .map(|(_, mapping)| Mapping {
                start: mapping.start.max(range.start),
                end: mapping.end.min(range.end),
                attributes: mapping.attributes.clone(),
            })
            .collect()
    }

    pub(crate) fn is_free(&self, range: Range<usize>) -> bool {
        self.inside(range).is_empty()
    }

    /// The ranges between mappings inside `range`.
    pub(crate) fn gaps(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for mapping in self.inside(range.clone()) {
            if at < mapping.start {
                gaps.push(at..mapping.start);
            }
            at = mapping.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    fn split(&mut self, address: usize) {
        let Some(mapping) = self.at(address).filter(|mapping| mapping.start < address) else {
            return;
        };
        let (start, upper) = (mapping.start, Mapping { start: address, ..mapping.clone() });
        if let Some(lower) = self.by_start.get_mut(&start) {
            lower.end = address;
        }
        self.by_start.insert(address, upper);
    }

    /// Joins what meets at `address`, if both sides agree.
    fn join(&mut self, address: usize) {
        let Some(upper) = self.by_start.get(&address).cloned() else { return };
        let Some((_, lower)) = self.by_start.range_mut(..address).next_back() else { return };
        if lower.end == address && lower.attributes == upper.attributes {
            lower.end = upper.end;
            self.by_start.remove(&address);
        }
    }

    /// Maps a range that is free.
    pub(crate) fn insert(&mut self, range: Range<usize>, attributes: Attributes) {
        let Range { start, end } = range;
        self.totals.count(&attributes, end - start, true);
        self.by_start.insert(start, Mapping { start, end, attributes });
        self.join(start);
        self.join(end);
    }

    /// Unmaps whatever lies in a range.
    pub(crate) fn remove(&mut self, range: Range<usize>) {
        self.split(range.start);
        self.split(range.end);
        while let Some((&start, mapping)) = self.by_start.range(range.clone()).next() {
            self.totals.count(&mapping.attributes, mapping.len(), false);
            self.by_start.remove(&start);
        }
    }

    /// Whether removing the range leaves a mapping more than there is now.
    pub(crate) fn removing_splits(&self, range: Range<usize>) -> bool {
        self.at(range.start)
            .is_some_and(|mapping| mapping.start < range.start && range.end < mapping.end)
    }

    /// Gives a range that lies inside one mapping other attributes. Where a neighbour already has
    /// them, the border moves; otherwise the mapping is split, while there are fewer mappings
    /// than `most`.
    pub(crate) fn change(
        &mut self,
        range: Range<usize>,
        attributes: Attributes,
        most: usize,
    ) -> Result<(), TooMany> {
        let Some(mapping) = self.at(range.start).cloned() else { return Ok(()) };
        if mapping.attributes == attributes {
            return Ok(());
        }
        let agrees = |neighbour: Option<&Mapping>| {
            neighbour.is_some_and(|neighbour| neighbour.attributes == attributes)
        };
        let below = range.start == mapping.start
            && agrees(range.start.checked_sub(1).and_then(|last| self.at(last)));
        let above = range.end == mapping.end && agrees(self.at(range.end));
        if !below && !above {
            for border in [range.start, range.end] {
                if mapping.start < border && border < mapping.end {
                    if self.count() >= most {
                        return Err(TooMany);
                    }
                    self.split(border);
                }
            }
        }
        self.split(range.start);
        self.split(range.end);
        if let Some(mapping) = self.by_start.get_mut(&range.start) {
            self.totals.count(&mapping.attributes, mapping.len(), false);
            self.totals.count(&attributes, mapping.len(), true);
            mapping.attributes = attributes;
        }
        self.join(range.end);
        self.join(range.start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved() -> Attributes {
        Attributes::new(Protection::NoAccess)
    }

    fn writable() -> Attributes {
        Attributes::new(Protection::ReadWrite)
    }

    fn ranges(mappings: &Mappings) -> Vec<(usize, usize, Protection)> {
        mappings
            .iter()
            .map(|mapping| (mapping.start, mapping.end, mapping.attributes.protection))
            .collect()
    }

    #[test]
    fn neighbours_that_agree_are_one_mapping() {
        let mut mappings = Mappings::default();
        mappings.insert(10..20, reserved());
        mappings.insert(30..40, reserved());
        assert_eq!(mappings.count(), 2);
        mappings.insert(20..30, reserved());
        assert_eq!(ranges(&mappings), [(10, 40, Protection::NoAccess)]);
        mappings.insert(40..50, writable());
        assert_eq!(mappings.count(), 2);
    }

    #[test]
    fn a_change_splits_moves_a_border_or_joins() {
        let mut mappings = Mappings::default();
        mappings.insert(0..100, reserved());
        mappings.change(40..60, writable(), 100).unwrap();
        assert_eq!(mappings.count(), 3);
        // The border moves: no mapping more is needed.
        mappings.change(60..70, writable(), 0).unwrap();
        assert_eq!(
            ranges(&mappings),
            [
                (0, 40, Protection::NoAccess),
                (40, 70, Protection::ReadWrite),
                (70, 100, Protection::NoAccess)
            ]
        );
        mappings.change(40..70, reserved(), 0).unwrap();
        assert_eq!(mappings.count(), 1);
    }

    #[test]
    fn a_change_that_needs_too_many_mappings_is_refused() {
        let mut mappings = Mappings::default();
        mappings.insert(0..100, reserved());
        assert_eq!(mappings.change(40..60, writable(), 1), Err(TooMany));
        assert_eq!(mappings.change(0..60, writable(), 1), Err(TooMany));
        assert_eq!(mappings.change(0..100, writable(), 1), Ok(()));
        assert_eq!(ranges(&mappings), [(0, 100, Protection::ReadWrite)]);
    }

    #[test]
    fn removing_leaves_what_is_outside() {
        let mut mappings = Mappings::default();
        mappings.insert(0..100, reserved());
        assert!(mappings.removing_splits(10..20));
        assert!(!mappings.removing_splits(0..20) && !mappings.removing_splits(90..110));
        mappings.remove(10..20);
        mappings.remove(90..200);
        assert_eq!(mappings.gaps(0..120), [10..20, 90..120]);
        assert!(mappings.is_free(10..20) && !mappings.is_free(9..20));
        assert_eq!(mappings.at(9).map(|mapping| mapping.end), Some(10));
        assert_eq!(mappings.at(10), None);
    }

    #[test]
    fn totals_follow_every_change() {
        let counted = |mapped, accessible, charged| Totals {
            mapped,
            accessible,
            writable: accessible,
            charged,
            ..Totals::default()
        };
        let mut mappings = Mappings::default();
        mappings.insert(0..100, reserved());
        let charged = Attributes { charged: true, ..writable() };
        mappings.change(10..30, charged, 100).unwrap();
        assert_eq!(mappings.totals(), counted(100, 20, 20));
        let protected = Attributes { charged: true, ..reserved() };
        mappings.change(20..30, protected, 100).unwrap();
        assert_eq!(mappings.totals(), counted(100, 10, 20));
        mappings.remove(15..60);
        assert_eq!(mappings.totals(), counted(55, 5, 5));
    }
}
