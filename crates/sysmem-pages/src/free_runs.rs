//! Where runs of more than a huge page fit.
//!
//! Such a run takes whole free huge pages, as many as it touches; what is left of the last one is
//! for short runs. A [`FreeRuns`] says of a row of huge pages how many free ones are in a row in it,
//! and at either end. What it says of two rows in a row follows from what it says of each.

/// Free huge pages in a row, in a row of huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FreeRuns {
    /// Free ones from the first on.
    pub(crate) start: u32,
    /// The most in a row.
    pub(crate) longest: u32,
    /// Free ones before the end.
    pub(crate) end: u32,
    /// Whether a run may come here from the row before: not where another reservation begins.
    pub(crate) joins: bool,
}

impl FreeRuns {
    pub(crate) const NONE: FreeRuns = FreeRuns { start: 0, longest: 0, end: 0, joins: false };

    /// 64 huge pages, a bit each: which are free, and which a run may reach from the one before.
    pub(crate) fn of_word(free: u64, joined: u64) -> FreeRuns {
        let joins = joined & 1 != 0;
        if free == 0 {
            return FreeRuns { joins, ..FreeRuns::NONE };
        }
        let pairs = pairs(free, joined);
        let mut longest = 1;
        let mut left = pairs;
        while left != 0 {
            left &= left << 1;
            longest += 1;
        }
        let start = if free & 1 != 0 { 1 + (pairs >> 1).trailing_ones() } else { 0 };
        let end = if free >> 63 != 0 { 1 + pairs.leading_ones() } else { 0 };
        FreeRuns { start, longest, end, joins }
    }

    /// The first of `count` free ones in a row (1 to 64) of 64, as above.
    pub(crate) fn place_in_word(free: u64, joined: u64, count: usize) -> Option<usize> {
        let pairs = pairs(free, joined);
        let mut ends = free;
        for _ in 1..count {
            ends = ends << 1 & pairs;
        }
        (ends != 0).then(|| ends.trailing_zeros() as usize + 1 - count)
    }

    /// Rows of `len` huge pages each, in the order of their addresses.
    pub(crate) fn of_row(parts: &[FreeRuns], len: u32) -> FreeRuns {
        let mut row = FreeRuns::NONE;
        for (index, part) in parts.iter().enumerate() {
            let carry = if part.joins { row.end } else { 0 };
            row.longest = row.longest.max(part.longest).max(carry + part.start);
            if index == 0 {
                (row.start, row.joins) = (part.start, part.joins);
            } else if part.joins && row.start == index as u32 * len {
                row.start += part.start;
            }
            row.end = part.carry(row.end, len);
        }
        row
    }

    /// The free ones before the end of this row, with `carry` of them before it.
    #[inline]
    pub(crate) fn carry(&self, carry: u32, len: u32) -> u32 {
        if self.end == len && self.joins { carry + len } else { self.end }
    }
}

/// The huge pages that are free and may be reached from the one before, which is free too.
fn pairs(free: u64, joined: u64) -> u64 {
    free & free << 1 & joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The maximal runs, one by one: where each begins and how long it is.
    fn plain_runs(pages: &[(bool, bool)]) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (index, &(free, joined)) in pages.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if free && joined && run.0 + run.1 == index => run.1 += 1,
                _ if free => runs.push((index, 1)),
                _ => {}
            }
        }
        runs
    }

    fn plain(pages: &[(bool, bool)]) -> FreeRuns {
        let runs = plain_runs(pages);
        let longest = runs.iter().map(|run| run.1 as u32).max().unwrap_or(0);
        let start = runs.first().filter(|run| run.0 == 0).map_or(0, |run| run.1 as u32);
        let ends = |run: &&(usize, usize)| run.0 + run.1 == pages.len();
        let end = runs.last().filter(ends).map_or(0, |run| run.1 as u32);
        FreeRuns { start, longest, end, joins: pages[0].1 }
    }

    fn words(pages: &[(bool, bool)]) -> (u64, u64) {
        pages.iter().enumerate().fold((0, 0), |(free, joined), (index, page)| {
            (free | u64::from(page.0) << index, joined | u64::from(page.1) << index)
        })
    }

    proptest! {
        #[test]
        fn a_row_of_rows_is_what_its_huge_pages_are(
            rows in prop::collection::vec(
                prop_oneof![
                    2 => prop::collection::vec(
                        (prop::bool::weighted(0.9), prop::bool::weighted(0.95)), 64,
                    ),
                    2 => prop::bool::weighted(0.7).prop_map(|joins| {
                        (0..64).map(|index| (true, index > 0 || joins)).collect()
                    }),
                    1 => Just(std::vec![(false, false); 64]),
                ],
                64,
            ),
            count in 1usize..=64,
        ) {
            let of_words: Vec<FreeRuns> = rows
                .iter()
                .map(|row| {
                    let (free, joined) = words(row);
                    FreeRuns::of_word(free, joined)
                })
                .collect();
            for (of_word, row) in of_words.iter().zip(&rows) {
                prop_assert_eq!(*of_word, plain(row));
                let (free, joined) = words(row);
                let runs = plain_runs(row);
                let place = runs.iter().find(|run| run.1 >= count).map(|run| run.0);
                prop_assert_eq!(FreeRuns::place_in_word(free, joined, count), place);
            }
            prop_assert_eq!(FreeRuns::of_row(&of_words, 64), plain(&rows.concat()));
        }
    }
}
