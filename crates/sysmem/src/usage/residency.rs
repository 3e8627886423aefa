//! Where the pages of a range are.

use super::{Process, refusal};
use crate::os::PageResidency;
use crate::{Error, ErrorKind, Operation, Os, PageRange};

/// What is known of pages that are alike. `None` is what the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageState {
    /// In physical memory.
    pub resident: bool,
    /// In swap.
    pub swapped: Option<bool>,
    /// Mapped by a huge page. Linux: `PAGE_IS_HUGE`. FreeBSD: `MINCORE_SUPER`. Windows:
    /// `LargePage`.
    pub huge: Option<bool>,
    /// The page of zeros that all processes share: read and never written to. It costs no memory.
    /// Linux: `PAGE_IS_PFNZERO`.
    pub zero: Option<bool>,
    /// Of a file, or of shared memory. Linux: `PAGE_IS_FILE`.
    pub file: Option<bool>,
    /// Mapped by another process too. Windows: `Shared`.
    pub shared: Option<bool>,
}

/// Pages next to each other that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// The first address.
    pub start: usize,
    /// The address after the last.
    pub end: usize,
    /// What is known of them.
    pub state: PageState,
}

impl PageRun {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Never: no run is empty.
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }
}

/// Puts pages that come in order together to runs.
pub(crate) struct Runs<'f> {
    each: &'f mut dyn FnMut(&PageRun),
    run: Option<PageRun>,
}

impl<'f> Runs<'f> {
    pub fn new(each: &'f mut dyn FnMut(&PageRun)) -> Runs<'f> {
        Runs { each, run: None }
    }

    /// The pages from `start` to `end` are in a state; they come after all before.
    pub fn add(&mut self, start: usize, end: usize, state: PageState) {
        match &mut self.run {
            _ if start >= end => {}
            Some(run) if run.end == start && run.state == state => run.end = end,
            run => {
                if let Some(run) = run.replace(PageRun { start, end, state }) {
                    (self.each)(&run);
                }
            }
        }
    }

    pub fn finish(mut self) {
        if let Some(run) = self.run.take() {
            (self.each)(&run);
        }
    }
}

/// Tells the pages of the calling process as [`Os::residency`] does, which is mincore(2) or what
/// the system has in its place; of another process it tells nothing.
pub(super) fn own_pages<O: Os>(
    os: &O,
    process: Process,
    range: PageRange,
    state: impl Fn(&PageResidency) -> PageState,
    each: &mut dyn FnMut(&PageRun),
) -> Result<(), Error> {
    if process != Process::Own {
        return Err(refusal(ErrorKind::NotSupported));
    }
    let page_size = os.page_size();
    range.check(Operation::Residency, page_size)?;
    let mut runs = Runs::new(each);
    let mut pages = [PageResidency::default(); 64];
    let mut at = 0;
    while at < range.len {
        let len = (range.len - at).min(pages.len() * page_size);
        let part = PageRange::new(range.start.wrapping_add(at), len);
        let pages = &mut pages[..len / page_size];
        os.residency(part, pages)?;
        let start = part.start.addr();
        for (index, page) in pages.iter().enumerate() {
            runs.add(start + index * page_size, start + (index + 1) * page_size, state(page));
        }
        at += len;
    }
    runs.finish();
    Ok(())
}

/// What is known of a page where only that is told.
pub(super) fn resident(page: &PageResidency) -> PageState {
    PageState { resident: page.resident, ..PageState::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn runs_are_whole_and_no_longer_than_what_is_alike(
            pages in proptest::collection::vec((0usize..3, any::<bool>()), 0..60),
        ) {
            let mut found = Vec::new();
            let mut each = |run: &PageRun| found.push(*run);
            let mut runs = Runs::new(&mut each);
            let mut at = 0;
            let mut states = Vec::new();
            for &(gap, resident) in &pages {
                at += gap;
                runs.add(at, at + 1, PageState { resident, ..PageState::default() });
                states.push((at, resident));
                at += 1;
            }
            runs.finish();
            let told: Vec<(usize, bool)> = found
                .iter()
                .flat_map(|run| (run.start..run.end).map(|page| (page, run.state.resident)))
                .collect();
            prop_assert_eq!(told, states);
            for pair in found.windows(2) {
                prop_assert!(pair[0].end < pair[1].start || pair[0].state != pair[1].state);
            }
        }
    }
}
