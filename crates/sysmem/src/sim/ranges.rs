use std::collections::BTreeMap;
use std::ops::Range;
use std::vec::Vec;

/// A set of addresses, kept as ranges.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// Start to end; ranges neither meet nor overlap.
    ends: BTreeMap<usize, usize>,
}

impl Ranges {
    /// The parts of the set inside `range`.
    pub(crate) fn inside(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let before = self.ends.range(..range.start).next_back();
        before
            .into_iter()
            .chain(self.ends.range(range.start..range.end.max(range.start)))
            .map(|(&start, &end)| start.max(range.start)..end.min(range.end))
            .filter(|part| part.start < part.end)
            .collect()
    }

    pub(crate) fn insert(&mut self, range: Range<usize>) {
        let Range { mut start, mut end } = range;
        while let Some((&from, &to)) = self.ends.range(..=end).next_back() {
            if to < start {
                break;
            }
            self.ends.remove(&from);
            start = start.min(from);
            end = end.max(to);
        }
        self.ends.insert(start, end);
    }

    pub(crate) fn remove(&mut self, range: Range<usize>) {
        while let Some((&from, &to)) = self.ends.range(..range.end).next_back() {
            if to <= range.start {
                break;
            }
            self.ends.remove(&from);
            if to > range.end {
                self.ends.insert(range.end, to);
            }
            if from < range.start {
                self.ends.insert(from, range.start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::random::Random;

    #[test]
    fn a_set_of_ranges_holds_what_a_set_of_numbers_would() {
        let mut random = Random::new(1);
        let mut set = Ranges::default();
        let mut model = [false; 64];
        for _ in 0..5_000 {
            let start = random.below(63);
            let end = start + 1 + random.below(64 - start);
            let present = random.once_in(2);
            match present {
                true => set.insert(start..end),
                false => set.remove(start..end),
            }
            model[start..end].fill(present);
            let (start, end) = (random.below(40), 40 + random.below(24));
            let inside = set.inside(start..end);
            for (number, &present) in model.iter().enumerate().take(end).skip(start) {
                let held = inside.iter().filter(|part| part.contains(&number)).count();
                assert_eq!(held, present as usize, "{number} in {inside:?}");
            }
            let numbers: usize = inside.iter().map(|part| part.len()).sum();
            assert_eq!(numbers, model[start..end].iter().filter(|&&held| held).count());
        }
    }
}
