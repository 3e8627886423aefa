//! What becomes of each page: as the model says, or as the registry does where the heap was free to
//! decide.

use super::*;

pub(super) fn is_backed(page: Page) -> bool {
    matches!(page, Page::InUse | Page::Free { backed: true, .. })
}

impl<S: System> Model<S> {
    /// The reservations as the registry has them.
    pub(super) fn registered(&self) -> BTreeMap<usize, usize> {
        let ours = |found: &sysmem::Registered| std::ptr::eq(found.account(), &self.accounts.heap);
        let registry = self.os.registry();
        registry.reservations().filter(ours).map(|found| (found.address(), found.len())).collect()
    }

    fn state(&self, address: usize) -> State {
        self.os.registry().find(address).unwrap().state_at(address, &self.os).unwrap().0
    }

    /// Takes over from the registry what the heap was free to decide: reservations made and
    /// returned, pages mapped, pages given back.
    pub(super) fn take_over(&mut self) {
        let now = self.heap.statistics();
        let registered = self.registered();
        let returned = now.returned_reservations != self.before.returned_reservations;
        if returned && self.setting.refusals {
            // An allocation that is refused address space returns all that is free and may get
            // the same place again.
            let lost = &self.lost;
            self.regions
                .retain(|start, pages| pages.contains(&Page::InUse) || lost.contains(start));
        } else if returned {
            self.regions.retain(|start, pages| {
                let stays = registered.contains_key(start);
                assert!(stays || !pages.contains(&Page::InUse));
                stays
            });
        }
        for (start, pages) in &self.regions {
            assert_eq!(registered.get(start), Some(&(pages.len() * self.page_size)));
        }
        let grown = now.grows != self.before.grows || returned;
        let released = now.releases + now.failed_releases
            != self.before.releases + self.before.failed_releases;
        let lazy = self.setting.options == self.setting.options.give_back(GiveBack::Lazy);
        let mut regions = std::mem::take(&mut self.regions);
        for (&start, &len) in &registered {
            let pages =
                regions.entry(start).or_insert_with(|| vec![Page::Unmapped; len / self.page_size]);
            if self.lost.contains(&start) {
                continue;
            }
            if self.os.registry().find(start).unwrap().is_lost() {
                self.lost.insert(start);
                let others = pages.iter_mut().filter(|page| **page != Page::InUse);
                others.for_each(|page| *page = Page::Lost);
                continue;
            }
            for (index, page) in pages.iter_mut().enumerate() {
                let address = start + index * self.page_size;
                match *page {
                    Page::Unmapped if grown => match self.state(address) {
                        // The first page may be what keeps two reservations apart.
                        State::Reserved if index == 0 => {}
                        State::Reserved => break,
                        State::Prepared => *page = Page::Free { backed: false, dirty: false },
                        // A page that was Ready for a run, or in a reservation that was to be
                        // returned and could not be.
                        State::Ready => {
                            *page = Page::Free { backed: true, dirty: self.setting.refusals }
                        }
                    },
                    Page::Free { backed: true, .. }
                        if released && self.state(address) == State::Prepared =>
                    {
                        *page = Page::Free { backed: false, dirty: lazy };
                        self.broken.insert(address / (WHOLE * self.page_size));
                    }
                    // All of a huge page is backed where one of its pages is; and what was before a
                    // refusal (where `used` is a call) stays so.
                    Page::Free { backed: false, dirty }
                        if (self.makes_huge_pages() || self.setting.refusals)
                            && self.state(address) == State::Ready =>
                    {
                        *page = Page::Free { backed: true, dirty };
                    }
                    _ => {}
                }
            }
        }
        self.regions = regions;
        self.mend();
    }

    fn makes_huge_pages(&self) -> bool {
        let options = self.setting.options;
        options == options.huge_pages(HugePages::Advise)
            && self.setting.settings.huge_page_size == Some(WHOLE * self.page_size)
    }

    /// What was freed in a lost reservation is out of the heap too when it would be given back.
    pub(super) fn lose_freed(&mut self) {
        if self.lost.is_empty() {
            return;
        }
        let mut cells = vec![MapCell::default(); self.heap.map(&mut [])];
        self.heap.map(&mut cells);
        let free = |cell: &MapCell| (cell.address / (WHOLE * self.page_size), cell.free_backed);
        let told: BTreeMap<usize, u16> = cells.iter().map(free).collect();
        let is_idle = |page: &Page| matches!(page, Page::Free { backed: true, .. });
        for (number, pages) in self.blocks() {
            let idle = pages.iter().filter(|page| is_idle(&page.1)).count();
            if idle == told[&number] as usize {
                continue;
            }
            for start in &self.lost {
                let first = start / self.page_size;
                let pages = self.regions.get_mut(start).unwrap();
                let from = (number * WHOLE).saturating_sub(first).min(pages.len());
                let end = ((number + 1) * WHOLE).saturating_sub(first).min(pages.len());
                let freed = pages[from..end].iter_mut().filter(|page| is_idle(page));
                freed.for_each(|page| *page = Page::Lost);
            }
        }
    }

    /// A huge page of which nothing is backed is not broken.
    pub(super) fn mend(&mut self) {
        let blocks = self.blocks();
        self.broken.retain(|number| {
            let pages = blocks.get(number).map_or(&[][..], |pages| &pages[..]);
            pages.iter().any(|page| is_backed(page.1))
        });
    }

    /// The pages of every huge page: the place in it, and what it is. Pages that may not be in one
    /// run are not neighbours.
    pub(super) fn blocks(&self) -> BTreeMap<usize, Vec<(usize, Page)>> {
        let mut blocks: BTreeMap<usize, Vec<(usize, Page)>> = BTreeMap::new();
        for (start, pages) in &self.regions {
            for (index, page) in pages.iter().enumerate() {
                let page_number = start / self.page_size + index;
                let block = blocks.entry(page_number / WHOLE).or_default();
                block.push((page_number % WHOLE, *page));
            }
        }
        blocks
    }

    pub(super) fn page(&mut self, address: usize) -> &mut Page {
        let (start, pages) = self.regions.range_mut(..=address).next_back().unwrap();
        &mut pages[(address - start) / self.page_size]
    }

    /// Pages of a run go into use; whether all were clean.
    pub(super) fn use_pages(&mut self, start: usize, npages: usize) -> bool {
        let mut clean = true;
        for index in 0..npages {
            let page = self.page(start + index * self.page_size);
            match *page {
                Page::Free { dirty, .. } => clean &= !dirty,
                other => panic!("page {index} of a run at {start:#x} was {other:?}"),
            }
            *page = Page::InUse;
        }
        clean
    }

    pub(super) fn free_pages(&mut self, start: usize, npages: usize) {
        for index in 0..npages {
            let page = self.page(start + index * self.page_size);
            assert_eq!(*page, Page::InUse);
            *page = Page::Free { backed: true, dirty: true };
        }
    }
}
