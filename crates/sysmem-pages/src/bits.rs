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

    /// For each word that some of `len` pages from `at` on are in: its index and those pages.
    ///
    /// Most runs are in one word or two, which is less work than four.
    #[inline]
    fn words(at: usize, len: usize) -> impl Iterator<Item = (usize, u64)> {
        let (mut at, end) = (at, at + len);
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (index, bit) = (at / 64 % WORDS, at % 64);
            let count = (end - at).min(64 - bit);
            at += count;
            Some((index, u64::MAX >> (64 - count) << bit))
        })
    }

    /// Adds `len` pages from `at` on.
    #[inline]
    pub(crate) fn add(&mut self, at: usize, len: usize) {
        Bits::words(at, len).for_each(|(index, pages)| self.0[index] |= pages);
    }

    /// Takes out `len` pages from `at` on.
    #[inline]
    pub(crate) fn remove(&mut self, at: usize, len: usize) {
        Bits::words(at, len).for_each(|(index, pages)| self.0[index] &= !pages);
    }

    /// Whether all of `len` pages from `at` on are in the set.
    #[inline]
    pub(crate) fn has(&self, at: usize, len: usize) -> bool {
        let missing = Bits::words(at, len).map(|(index, pages)| pages & !self.0[index]);
        missing.fold(0, |all, missing| all | missing) == 0
    }

    /// Whether none of `len` pages from `at` on is in the set.
    #[inline]
    pub(crate) fn lacks(&self, at: usize, len: usize) -> bool {
        let found = Bits::words(at, len).map(|(index, pages)| pages & self.0[index]);
        found.fold(0, |all, found| all | found) == 0
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

    /// The set with every page `by` (1 to 255) places further down; pages that fall below the first
    /// are gone.
    #[inline(always)]
    fn down(self, by: usize) -> Bits {
        if by < 64 { self.down_little(by as u32) } else { self.down_far(by) }
    }

    /// As [`down`](Bits::down), by 1 to 63 places: an instruction a word.
    #[inline(always)]
    fn down_little(self, by: u32) -> Bits {
        let [first, second, third, last] = self.0;
        let join =
            |low: u64, high: u64| ((u128::from(high) << 64 | u128::from(low)) >> (by & 63)) as u64;
        Bits([join(first, second), join(second, third), join(third, last), last >> (by & 63)])
    }

    /// As [`down`](Bits::down), by 64 or more: the long runs of sparse huge pages.
    #[inline(never)]
    fn down_far(self, by: usize) -> Bits {
        let mut words = [0; WORDS];
        words[..WORDS - by / 64].copy_from_slice(&self.0[by / 64..]);
        if by % 64 == 0 { Bits(words) } else { Bits(words).down_little(by as u32 % 64) }
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

    /// The most pages in a row that are in the set, which are known to be `limit` at most.
    ///
    /// Goes from run to run: a huge page that runs come from is nearly full and has few, and where
    /// there are many, one of the longest comes soon.
    #[inline]
    pub(crate) fn longest_run(self, limit: usize) -> usize {
        let mut longest = 0;
        // The pages before a word's first that are in a row with it.
        let mut before = 0;
        for word in self.0 {
            let head = word.trailing_ones();
            before += head;
            longest = longest.max(before);
            if head == 64 {
                continue;
            }
            before = word.leading_ones();
            let mut rest = word & u64::MAX >> before & u64::MAX << head;
            while rest != 0 && longest < limit as u32 {
                rest >>= rest.trailing_zeros();
                let len = rest.trailing_ones();
                longest = longest.max(len);
                // A run that fills the word begins with it.
                rest >>= len & 63;
            }
        }
        longest.max(before) as usize
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

    /// Where the pages in a row before page `at` (not the first) that are in the set begin.
    pub(crate) fn stretch_before(self, at: usize) -> usize {
        if self.has(at - 1, 1) { self.run_around(at - 1).0 } else { at }
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
            let longest = runs.iter().map(|run| run.1).max().unwrap_or(0);
            prop_assert_eq!(bits.longest_run(PAGES), longest);
            prop_assert_eq!(bits.longest_run(longest), longest);
            for at in 1..=PAGES {
                let before = pages[..at].iter().rev().take_while(|page| **page).count();
                prop_assert_eq!(bits.stretch_before(at), at - before);
            }
            let starts: Vec<bool> = (0..PAGES)
                .map(|at| at + len <= PAGES && pages[at..at + len].iter().all(|page| *page))
                .collect();
            prop_assert_eq!(bits.run_starts(len), set(&starts));
            for at in 0..=PAGES - len {
                let (range, part) = (Bits::range(at, len), &pages[at..at + len]);
                prop_assert_eq!(bits.has(at, len), part.iter().all(|page| *page));
                prop_assert_eq!(bits.lacks(at, len), part.iter().all(|page| !*page));
                let (mut more, mut fewer) = (bits, bits);
                more.add(at, len);
                fewer.remove(at, len);
                prop_assert_eq!((more, fewer), (bits | range, bits & !range));
            }
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
