//! Sets of pages: one bit for each of the 256 pages of a chunk.
//!
//! Runs are found for all positions at once: shifting a set over itself leaves the pages at which
//! a run of two begins, shifting the result by two those of four, and so on.

use core::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Not};

/// The pages in a set.
pub(crate) const PAGES: usize = WORDS * 64;
const WORDS: usize = 4;

/// A set of the pages of one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits([u64; WORDS]);

impl Bits {
    /// The pages from `at` on.
    #[inline]
    fn from(at: usize) -> Bits {
        let mut words = [0; WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            let shift = at.saturating_sub(index * 64);
            *word = if shift < 64 { u64::MAX << shift } else { 0 };
        }
        Bits(words)
    }

    /// The `len` pages from `at` on.
    #[inline]
    pub(crate) fn range(at: usize, len: usize) -> Bits {
        Bits::from(at) & !Bits::from(at + len)
    }

    /// Every `step`th page, a power of two, from `first` on, which is less than `step`.
    pub(crate) fn every(step: usize, first: usize) -> Bits {
        let mut bits = Bits::default();
        if step < 64 {
            let mut pattern = 1 << first;
            let mut period = step;
            while period < 64 {
                pattern |= pattern << period;
                period *= 2;
            }
            return Bits([pattern; WORDS]);
        }
        for at in (first..PAGES).step_by(step) {
            bits.0[at / 64] |= 1 << (at % 64);
        }
        bits
    }

    /// The set with every page `by` (less than 256) places further down; pages that fall below the
    /// first are gone.
    #[inline]
    fn down(self, by: usize) -> Bits {
        let mut words = self.0;
        if by >= 64 {
            words = [0; WORDS];
            words[..WORDS - by / 64].copy_from_slice(&self.0[by / 64..]);
        }
        let part = by % 64;
        for index in 0..WORDS {
            // In two shifts, because a shift by 64 is not one by nothing left.
            let above = words.get(index + 1).copied().unwrap_or(0) << 1 << (63 - part);
            words[index] = words[index] >> part | above;
        }
        Bits(words)
    }

    /// The pages at which `len` (1 to 256) pages in a row are in the set.
    #[inline]
    pub(crate) fn run_starts(self, len: usize) -> Bits {
        let mut starts = self;
        let mut reached = 1;
        while reached < len {
            let step = reached.min(len - reached);
            starts &= starts.down(step);
            reached += step;
        }
        starts
    }

    /// The most pages in a row that are in the set.
    #[inline]
    pub(crate) fn longest_run(self) -> usize {
        if self.is_empty() {
            return 0;
        }
        // `starts[power]`: where runs of 2^power pages begin.
        let mut starts = [self; PAGES.ilog2() as usize + 1];
        let mut power = 0;
        while power + 1 < starts.len() {
            let twice = starts[power] & starts[power].down(1 << power);
            if twice.is_empty() {
                break;
            }
            power += 1;
            starts[power] = twice;
        }
        let mut longest = 1 << power;
        if longest == PAGES {
            return longest;
        }
        let mut reached = starts[power];
        for power in (0..power).rev() {
            let more = reached & starts[power].down(longest);
            if !more.is_empty() {
                reached = more;
                longest += 1 << power;
            }
        }
        longest
    }

    /// The maximal run that page `at`, which is in the set, lies in: where it begins and ends.
    #[inline]
    pub(crate) fn run_around(self, at: usize) -> (usize, usize) {
        let gaps = !self;
        let (word, bit) = (at / 64, at % 64);
        let mut begin = 0;
        let mut below = gaps.0[word] & ((1 << bit) - 1);
        for index in (0..=word).rev() {
            if below != 0 {
                begin = index * 64 + 64 - below.leading_zeros() as usize;
                break;
            }
            below = if index > 0 { gaps.0[index - 1] } else { 0 };
        }
        let mut end = PAGES;
        let mut above = gaps.0[word] & u64::MAX << bit;
        for index in word..WORDS {
            if above != 0 {
                end = index * 64 + above.trailing_zeros() as usize;
                break;
            }
            above = gaps.0.get(index + 1).copied().unwrap_or(0);
        }
        (begin, end)
    }

    /// How many pages from the first on are in the set without a gap.
    #[inline]
    pub(crate) fn leading(self) -> usize {
        (!self).first().unwrap_or(PAGES)
    }

    /// How many pages before the end are in the set without a gap.
    #[inline]
    pub(crate) fn trailing(self) -> usize {
        for (index, &word) in self.0.iter().enumerate().rev() {
            if word != u64::MAX {
                return (WORDS - 1 - index) * 64 + word.leading_ones() as usize;
            }
        }
        PAGES
    }

    /// The first page in the set.
    #[inline]
    pub(crate) fn first(self) -> Option<usize> {
        for (index, &word) in self.0.iter().enumerate() {
            if word != 0 {
                return Some(index * 64 + word.trailing_zeros() as usize);
            }
        }
        None
    }

    /// The number of pages in the set.
    #[inline]
    pub(crate) fn count(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.0.iter().fold(0, |all, word| all | word) == 0
    }

    /// Whether every page of `other` is in the set.
    #[inline]
    pub(crate) fn holds(self, other: Bits) -> bool {
        (other & !self).is_empty()
    }

    /// The maximal runs in the set, the first first: where each begins and how long it is.
    pub(crate) fn runs(self) -> impl Iterator<Item = (usize, usize)> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let from = (self & Bits::from(at)).first()?;
            at = (!self & Bits::from(from)).first().unwrap_or(PAGES);
            Some((from, at - from))
        })
    }
}

impl BitAnd for Bits {
    type Output = Bits;
    #[inline]
    fn bitand(mut self, other: Bits) -> Bits {
        self &= other;
        self
    }
}

impl BitAndAssign for Bits {
    #[inline]
    fn bitand_assign(&mut self, other: Bits) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word &= other;
        }
    }
}

impl BitOr for Bits {
    type Output = Bits;
    #[inline]
    fn bitor(mut self, other: Bits) -> Bits {
        self |= other;
        self
    }
}

impl BitOrAssign for Bits {
    #[inline]
    fn bitor_assign(&mut self, other: Bits) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
    }
}

impl Not for Bits {
    type Output = Bits;
    #[inline]
    fn not(self) -> Bits {
        Bits(self.0.map(|word| !word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn set(pages: &[bool]) -> Bits {
        let mut bits = Bits::default();
        for (at, _) in pages.iter().enumerate().filter(|(_, in_set)| **in_set) {
            bits |= Bits::range(at, 1);
        }
        bits
    }

    fn plain_runs(pages: &[bool]) -> Vec<(usize, usize)> {
        let mut runs = Vec::new();
        let mut at = 0;
        for run in pages.chunk_by(|a, b| a == b) {
            if run[0] {
                runs.push((at, run.len()));
            }
            at += run.len();
        }
        runs
    }

    /// Pages in runs of all lengths, from alternating ones to all alike.
    fn pages() -> impl Strategy<Value = Vec<bool>> {
        (1usize..=300).prop_flat_map(|longest| {
            prop::collection::vec(1..=longest, PAGES).prop_map(|lens| {
                let runs = lens.iter().enumerate();
                let mut pages: Vec<bool> =
                    runs.flat_map(|(index, &len)| (0..len).map(move |_| index % 2 == 0)).collect();
                pages.truncate(PAGES);
                pages
            })
        })
    }

    proptest! {
        #[test]
        fn every_question_is_answered_as_a_plain_list_of_pages_answers_it(
            pages in pages(),
            len in 1..=PAGES,
        ) {
            let (bits, runs) = (set(&pages), plain_runs(&pages));
            prop_assert_eq!(bits.runs().collect::<Vec<_>>(), runs.clone());
            for &(begin, len) in &runs {
                for at in begin..begin + len {
                    prop_assert_eq!(bits.run_around(at), (begin, begin + len));
                }
            }
            prop_assert_eq!(bits.count(), pages.iter().filter(|page| **page).count());
            prop_assert_eq!(bits.first(), runs.first().map(|run| run.0));
            prop_assert_eq!(bits.longest_run(), runs.iter().map(|run| run.1).max().unwrap_or(0));
            prop_assert_eq!(bits.leading(), pages.iter().take_while(|page| **page).count());
            prop_assert_eq!(bits.trailing(), pages.iter().rev().take_while(|page| **page).count());
            let starts: Vec<bool> = (0..PAGES)
                .map(|at| at + len <= PAGES && pages[at..at + len].iter().all(|page| *page))
                .collect();
            prop_assert_eq!(bits.run_starts(len), set(&starts));
        }

        #[test]
        fn every_nth_page_is_in_the_set(power in 0u32..=8, first in 0usize..256) {
            let step = 1 << power;
            let first = first % step;
            let pages: Vec<bool> = (0..PAGES).map(|at| at % step == first).collect();
            prop_assert_eq!(Bits::every(step, first), set(&pages));
        }
    }

    #[test]
    fn ranges_hold_their_pages_and_no_others() {
        for from in 0..=PAGES {
            for len in 0..=PAGES - from {
                let pages: Vec<bool> = (0..PAGES).map(|at| at >= from && at < from + len).collect();
                let range = Bits::range(from, len);
                assert_eq!(range.count(), len);
                assert_eq!(range.first(), pages.iter().position(|page| *page));
            }
        }
    }
}
