//! Where mappings go that are not fixed.

use std::ops::Range;

use super::Machine;

impl Machine {
    /// A free range of that length, aligned: where the seed says.
    pub(crate) fn place(&mut self, len: usize, align: usize) -> Option<usize> {
        let last = |gap: &Range<usize>| {
            let last = gap.end.checked_sub(len)? & !(align - 1);
            (last >= gap.start).then_some(last)
        };
        let mut gaps = self.mappings.gaps(self.space());
        gaps.retain(|gap| last(gap).is_some());
        // Like Linux, the highest gap first, directly below what is there.
        let gap = match self.settings.scattered && self.random.once_in(4) {
            true if !gaps.is_empty() => &gaps[self.random.below(gaps.len())],
            _ => gaps.last()?,
        };
        let last = last(gap)?;
        let spare = (last - gap.start) / align;
        let skipped = match self.settings.scattered && self.random.once_in(3) {
            true => self.random.below(spare.min(32) + 1),
            false => 0,
        };
        Some(last - skipped * align)
    }

    /// The first free range of that length from `hint` upward, aligned.
    pub(crate) fn place_above(&self, hint: usize, len: usize, align: usize) -> Option<usize> {
        let gaps = self.mappings.gaps(self.space());
        gaps.iter().find_map(|gap| {
            let start = gap.start.max(hint).checked_next_multiple_of(align)?;
            (start.checked_add(len)? <= gap.end).then_some(start)
        })
    }

    /// The first free range of that length from `hint` downward, aligned.
    pub(crate) fn place_below(&self, hint: usize, len: usize, align: usize) -> Option<usize> {
        let gaps = self.mappings.gaps(self.space());
        gaps.iter().rev().find_map(|gap| {
            let start = gap.end.checked_sub(len)?.min(hint) & !(align - 1);
            (start >= gap.start).then_some(start)
        })
    }
}
