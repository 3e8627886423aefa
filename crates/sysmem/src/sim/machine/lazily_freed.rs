//! Pages that are next to go: given back lazily, or inactive.

use std::boxed::Box;
use std::ops::Range;
use std::vec::Vec;

use super::Machine;
use crate::sim::mappings::Mapping;
use crate::sim::settings::LazilyFreed;

/// A page given back lazily that still has its contents.
pub(super) struct Freed {
    bytes: Box<[u8]>,
    due: Option<u64>,
}

impl Machine {
    /// A call begins: lazily freed pages whose time has come are dropped.
    pub(crate) fn tick(&mut self) {
        self.now += 1;
        while let Some(&(due, page)) = self.due.first() {
            if due > self.now {
                break;
            }
            self.drop_freed(page);
        }
    }

    fn drop_freed(&mut self, page: usize) {
        let Some(freed) = self.forget_freed(page) else { return };
        if let Some(mapping) = self.mappings.at(page) {
            let protection = mapping.attributes.protection;
            self.memory.discard_unchanged(page, protection, &freed.bytes);
        }
    }

    fn forget_freed(&mut self, page: usize) -> Option<Freed> {
        let freed = self.freed.remove(&page)?;
        if let Some(due) = freed.due {
            self.due.remove(&(due, page));
        }
        Some(freed)
    }

    pub(super) fn forget_freed_in(&mut self, range: Range<usize>) {
        let inactive: Vec<usize> =
            self.inactive.range(range.clone()).map(|(&page, _)| page).collect();
        inactive.iter().for_each(|page| drop(self.inactive.remove(page)));
        let pages: Vec<usize> = self.freed.range(range).map(|(&page, _)| page).collect();
        for page in pages {
            self.forget_freed(page);
        }
    }

    /// Drops every lazily freed page that was not written to since.
    pub(crate) fn pressure(&mut self) {
        while let Some((&page, _)) = self.freed.first_key_value() {
            self.drop_freed(page);
        }
    }

    /// Whether a page was given back lazily and still has what it held then.
    pub(crate) fn is_freed(&self, page: usize) -> bool {
        self.freed.get(&page).is_some_and(|freed| self.holds(page, &freed.bytes))
    }

    /// Whether a page was made inactive and not written to since.
    pub(crate) fn is_inactive(&self, page: usize) -> bool {
        self.inactive.get(&page).is_some_and(|bytes| self.holds(page, bytes))
    }

    pub(super) fn holds(&self, page: usize, expected: &[u8]) -> bool {
        let Some(mapping) = self.mappings.at(page) else { return false };
        let mut unchanged = false;
        let range = page..page + self.page_size();
        self.memory.contents(range, mapping.attributes.protection, &mut |_, bytes| {
            unchanged = *bytes == *expected;
        });
        unchanged
    }

    /// Makes what a part of one mapping holds inactive: next to go, with contents that stay.
    pub(crate) fn deactivate(&mut self, part: &Mapping) {
        let (range, inactive) = (part.start..part.end, &mut self.inactive);
        self.memory.contents(range, part.attributes.protection, &mut |page, bytes| {
            inactive.insert(page, bytes.into());
        });
    }

    /// Lets go of what a part of one mapping holds, now or later.
    pub(crate) fn discard_lazily(&mut self, part: &Mapping) {
        // What may be seen at another address stays (vm/vm_object.c, `vm_object_advice_applies`).
        if part.attributes.view != 0 {
            return;
        }
        self.forget_freed_in(part.start..part.end);
        let range = part.start..part.end;
        let mut pages = Vec::new();
        self.memory.contents(range, part.attributes.protection, &mut |page, bytes| {
            pages.push((page, Box::<[u8]>::from(bytes)));
        });
        for (page, bytes) in pages {
            let due = match self.settings.lazily_freed {
                LazilyFreed::Dropped => Some(0),
                LazilyFreed::Kept => None,
                LazilyFreed::Adversarial => match self.random.below(3) {
                    0 => Some(0),
                    1 => Some(self.now + 1 + self.random.below(20) as u64),
                    _ => None,
                },
            };
            self.freed.insert(page, Freed { bytes, due });
            match due {
                Some(0) => self.drop_freed(page),
                Some(due) => {
                    self.due.insert((due, page));
                }
                None => {}
            }
        }
    }
}
