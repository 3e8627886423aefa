//! Which huge page a short run should come from.
//!
//! Every huge page has a [`Standing`]: the class of its longest free run, and a rank, which says how
//! good it is that a run comes from it. Huge pages of one standing are one set. A run comes from the
//! class that is just long enough, so that long free runs stay for long runs (as in TCMalloc's
//! huge_page_filler.h); there from the best rank, which is the fullest; and there from the first by
//! address. The other way round, fullness first, an hour of churn left 62 to 74 % of what is in use in
//! whole huge pages instead of 72 to 83 % (`compare -- churn`).
//!
//! Ranks and classes are coarse, so most runs that come and go change no standing.

/// The pages of a huge page.
pub(crate) const WHOLE: usize = 256;

/// Classes of lengths: exact up to 16 pages, then within an eighth to a quarter.
pub(crate) const CLASSES: usize = 32;

/// The class of runs that are a whole huge page.
pub(crate) const WHOLE_CLASS: usize = CLASSES - 1;

const LENGTHS: [u16; CLASSES] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96,
    112, 128, 160, 192, 224, 256,
];

/// How many classes a free run of this many pages is long enough for.
static SUFFICES_FOR: [u8; WHOLE + 1] = {
    let mut classes = [0; WHOLE + 1];
    let mut npages = 0;
    while npages <= WHOLE {
        let mut class = 0;
        while class < CLASSES && LENGTHS[class] as usize <= npages {
            class += 1;
        }
        classes[npages] = class as u8;
        npages += 1;
    }
    classes
};

/// The first class whose free runs all hold `npages` pages, 1 to 256.
#[inline]
pub(crate) fn class_of(npages: usize) -> usize {
    SUFFICES_FOR[npages - 1] as usize
}

/// Steps of fullness that are told apart.
pub(crate) const EIGHTHS: usize = 8;

/// Ranks of huge pages that are partly in use, the best first: by eighths in use, the fuller the
/// better, so that others empty; and of equals rather one that is intact than one of which a part was
/// given back.
const fn rank_of(eighth: usize, is_broken: bool) -> usize {
    2 * (EIGHTHS - 1 - eighth) + is_broken as usize
}

/// The intact ones of an eighth in use, the first the sparsest.
pub(crate) static INTACT: [usize; EIGHTHS] = ranks(false);
/// The same, broken.
pub(crate) static BROKEN: [usize; EIGHTHS] = ranks(true);

const fn ranks(is_broken: bool) -> [usize; EIGHTHS] {
    let mut ranks = [0; EIGHTHS];
    let mut eighth = 0;
    while eighth < EIGHTHS {
        ranks[eighth] = rank_of(eighth, is_broken);
        eighth += 1;
    }
    ranks
}

/// Nothing is in use, but not all of it is free: a reservation ends in it.
const UNUSED: usize = 2 * EIGHTHS;
/// Ranks of huge pages that are not wholly free.
pub(crate) const PARTIAL_RANKS: usize = UNUSED + 1;
/// Free as a whole, with memory and without.
pub(crate) const FREE: usize = PARTIAL_RANKS;
pub(crate) const GIVEN_BACK: usize = FREE + 1;
pub(crate) const RANKS: usize = GIVEN_BACK + 1;

/// Partial ranks in the order in which their idle pages go back: broken ones, then intact ones, sparse
/// before full.
pub(crate) static RELEASE_ORDER: [usize; PARTIAL_RANKS] = {
    let mut order = [UNUSED; PARTIAL_RANKS];
    let mut eighth = 0;
    while eighth < EIGHTHS {
        order[1 + eighth] = rank_of(eighth, true);
        order[1 + EIGHTHS + eighth] = rank_of(eighth, false);
        eighth += 1;
    }
    order
};

/// The sets: for each rank those of its classes, for the last class instead the free ones; then those
/// of huge pages with idle pages, and of broken ones that are dense. What runs come and go by changes
/// a class rather than a rank, and so words that lie together.
pub(crate) const FREE_SET: usize = set_of(WHOLE_CLASS, 0);
pub(crate) const GIVEN_BACK_SET: usize = set_of(WHOLE_CLASS, 1);
pub(crate) const IDLE_SET: usize = PARTIAL_RANKS * CLASSES;
pub(crate) const DENSE_BROKEN_SET: usize = IDLE_SET + 1;
pub(crate) const SETS: usize = DENSE_BROKEN_SET + 1;

/// Pages in use from which on a huge page is dense.
pub(crate) const DENSE: usize = WHOLE / 2;

/// The set of a class and a partial rank.
#[inline]
pub(crate) const fn set_of(class: usize, rank: usize) -> usize {
    rank * CLASSES + class
}

/// The class and the partial rank of a set.
#[inline]
pub(crate) fn class_and_rank(set: usize) -> (usize, usize) {
    (set % CLASSES, set / CLASSES)
}

/// Rank and class in one: what a huge page is to those who search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing(u16);

impl Standing {
    /// Of a huge page of which no page is mapped: what metadata begins with.
    pub(crate) const NONE: Standing = Standing(0);

    /// Of a huge page with so many pages in use, and so many free ones in a row.
    #[inline]
    pub(crate) fn new(in_use: usize, longest: usize, is_backed: bool, is_broken: bool) -> Standing {
        let rank = if in_use > 0 {
            rank_of((in_use - 1) / (WHOLE / EIGHTHS), is_broken)
        } else if longest == 0 {
            return Standing::NONE;
        } else if longest < WHOLE {
            UNUSED
        } else if is_backed {
            FREE
        } else {
            GIVEN_BACK
        };
        Standing((rank as u16 + 1) << 6 | SUFFICES_FOR[longest] as u16)
    }

    /// The rank; `None` if no page is mapped.
    #[inline]
    pub(crate) fn rank(self) -> Option<usize> {
        (self.0 >> 6).checked_sub(1).map(usize::from)
    }

    /// The set of huge pages that stand so; `None` if they have nothing to give.
    #[inline]
    pub(crate) fn set(self) -> Option<usize> {
        let class = usize::from(self.0 & 0x3F).checked_sub(1)?;
        let rank = self.rank()?;
        Some(set_of(class, if class == WHOLE_CLASS { rank - FREE } else { rank }))
    }

    #[inline]
    pub(crate) fn is_whole(self) -> bool {
        self.rank() >= Some(FREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_class_holds_what_it_is_for_and_is_the_first_that_does() {
        for npages in 1..=WHOLE {
            let class = class_of(npages);
            assert!(LENGTHS[class] as usize >= npages);
            assert!(class == 0 || (LENGTHS[class - 1] as usize) < npages);
            assert!(SUFFICES_FOR[LENGTHS[class] as usize] as usize > class);
            assert!(SUFFICES_FOR[LENGTHS[class] as usize - 1] as usize <= class);
        }
        assert_eq!(class_of(WHOLE), WHOLE_CLASS);
    }

    #[test]
    fn ranks_prefer_full_to_sparse_intact_to_broken_and_backed_to_given_back() {
        let rank = |in_use, longest, backed, broken| {
            Standing::new(in_use, longest, backed, broken).rank().unwrap()
        };
        for in_use in 1..WHOLE {
            assert!(rank(in_use, 1, true, false) < rank(in_use, 1, true, true));
            assert!(rank(in_use, 1, true, true) < rank(0, 1, true, false));
            for fuller in in_use + 1..=WHOLE {
                let eighth = |in_use: usize| (in_use - 1) / 32;
                let equal = eighth(in_use) == eighth(fuller);
                assert!(rank(fuller, 1, true, true) < rank(in_use, 1, true, false) || equal);
            }
        }
        assert!(rank(0, WHOLE, true, false) < rank(0, WHOLE, false, false));
    }

    #[test]
    fn idle_pages_go_back_from_each_partial_rank_once_broken_before_intact_sparse_before_full() {
        let mut order = RELEASE_ORDER;
        assert_eq!(order[1..], [BROKEN, INTACT].concat());
        order.sort();
        assert!(order.into_iter().eq(0..PARTIAL_RANKS));
    }

    #[test]
    fn every_set_is_of_one_rank_and_one_class() {
        let mut sets = BTreeMap::new();
        for in_use in 0..=WHOLE {
            for longest in 1..=WHOLE - in_use {
                for flags in 0..4 {
                    let standing = Standing::new(in_use, longest, flags & 1 != 0, flags & 2 != 0);
                    let set = standing.set().unwrap();
                    assert!(set < IDLE_SET);
                    assert_eq!(*sets.entry(set).or_insert(standing), standing);
                    assert_eq!(standing.is_whole(), longest == WHOLE);
                }
            }
        }
        assert_eq!(Standing::new(WHOLE, 0, true, false).set(), None);
        assert_eq!((Standing::NONE.set(), Standing::NONE.rank()), (None, None));
    }
}
