//! Forked children: what they have, and what they share with the process.

use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::vec::Vec;

use super::Machine;
use crate::sim::mappings::{Attributes, Mapping};
use crate::{Inheritance, Protection};

/// What a forked child has.
pub(super) struct Child {
    pub(super) charged: usize,
    mappings: Vec<Mapping>,
    /// The pages it has a copy of, where they hold anything but zeros.
    pages: BTreeMap<usize, Box<[u8]>>,
}

impl Machine {
    /// Forks a child that is charged with so much. What it shares with the process is shared until
    /// one of them writes to it.
    pub(crate) fn fork(&mut self, charged: usize) -> u64 {
        let mut child = Child { charged, mappings: Vec::new(), pages: BTreeMap::new() };
        for mapping in self.mappings.iter() {
            let range = mapping.start..mapping.end;
            if mapping.attributes.inheritance == Inheritance::Copy {
                let protection = mapping.attributes.protection;
                self.memory.contents(range, protection, &mut |page, bytes| {
                    child.pages.insert(page, bytes.into());
                });
            }
            child.mappings.push(mapping.clone());
        }
        let number = self.object();
        self.children.insert(number, child);
        number
    }

    /// A child goes, and no longer shares anything.
    pub(crate) fn reap(&mut self, child: u64) {
        self.children.remove(&child);
    }

    /// What a child sees of a page: nothing where an access faults.
    pub(crate) fn seen_by_child(&self, child: u64, page: usize) -> Option<Vec<u8>> {
        let child = self.children.get(&child)?;
        let mapping =
            child.mappings.iter().find(|found| (found.start..found.end).contains(&page))?;
        let Attributes { protection, inheritance, .. } = mapping.attributes;
        let mut bytes = std::vec![0; self.page_size()];
        match inheritance {
            _ if protection == Protection::NoAccess => return None,
            Inheritance::Nothing => return None,
            Inheritance::Zeros => {}
            Inheritance::Copy => {
                if let Some(copied) = child.pages.get(&page) {
                    bytes.copy_from_slice(copied);
                }
            }
            Inheritance::Share => {
                let protection = self.mappings.at(page)?.attributes.protection;
                let range = page..page + self.page_size();
                self.memory.contents(range, protection, &mut |_, held| bytes.copy_from_slice(held));
            }
        }
        Some(bytes)
    }

    /// The runs of pages in a part of one mapping that no child shares.
    pub(crate) fn unshared(&self, part: &Mapping) -> Vec<Mapping> {
        let range = part.start..part.end;
        let mut shared = BTreeSet::new();
        self.memory.contents(range.clone(), part.attributes.protection, &mut |page, bytes| {
            let mut children = self.children.values();
            if children.any(|child| child.pages.get(&page).is_some_and(|had| **had == *bytes)) {
                shared.insert(page);
            }
        });
        let mut runs = Vec::new();
        let mut start = range.start;
        for page in shared.into_iter().chain([range.end]) {
            if start < page {
                runs.push(Mapping { start, end: page, attributes: part.attributes.clone() });
            }
            start = page + self.page_size();
        }
        runs
    }

    /// Whether a page is as a child has it, who got a copy.
    pub(crate) fn is_shared(&self, page: usize) -> bool {
        let copies = self.children.values().filter_map(|child| child.pages.get(&page));
        copies.into_iter().any(|copy| self.holds(page, copy))
    }

    /// A child gives a range back: only what it shares with nobody is dropped.
    pub(crate) fn discard_of_child(&mut self, child: u64, range: Range<usize>) {
        let Some(has) = self.children.get(&child) else { return };
        let held: Vec<usize> = has.pages.range(range).map(|(&page, _)| page).collect();
        for page in held {
            let alone = !self.is_shared(page);
            if let Some(child) = self.children.get_mut(&child).filter(|_| alone) {
                child.pages.remove(&page);
            }
        }
    }
}
