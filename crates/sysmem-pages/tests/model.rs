//! The page heap on a simulated kernel, held against a plain model: a list of pages for each
//! reservation.

mod properties;
#[path = "model/systems.rs"]
mod systems;

use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use properties::config;
use proptest::prelude::*;
use sysmem::sim::{self, Backing, Call, Faulty, LazilyFreed, Settings, Simulated};
use sysmem::{Errno, ErrorKind, GiveBack, Operation, Os, State};
use sysmem_pages::{
    Accounts, HugePages, MapCell, Options, PageHeap, ReleaseOnFree, Run, Statistics,
};
use systems::{Kernel, System};

const MIB: usize = 1 << 20;
const ENOMEM: Errno = Errno(12);
/// Pages of a huge page, as the heap has them.
const WHOLE: usize = 256;
/// The lengths of free runs that the heap tells apart.
const LENGTHS: [usize; 32] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96,
    112, 128, 160, 192, 224, 256,
];

/// What the model knows of a page.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Unmapped,
    InUse,
    Free {
        backed: bool,
        dirty: bool,
    },
    /// Of a reservation that the system lost a part of, and out of the heap for good.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    start: NonNull<u8>,
    npages: usize,
    stamp: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        npages: usize,
        align_pages: usize,
    },
    Free {
        which: usize,
    },
    Extend {
        which: usize,
        more: usize,
    },
    Shrink {
        which: usize,
        less: usize,
    },
    Release {
        npages: usize,
    },
    ReleaseAll,
    /// The given call from here fails, and so many after it.
    FailSoon {
        calls: usize,
        more: usize,
    },
    /// So many bytes beyond what is mapped may be, and be writable.
    Limit {
        address_space: usize,
        data: usize,
    },
    Pressure,
}

#[derive(Clone, Debug)]
struct Setting {
    settings: Settings,
    options: Options,
    /// Calls fail or limits refuse: what happened is then read from the states.
    refusals: bool,
}

struct Model<S: System> {
    heap: PageHeap<S::Os>,
    os: S::Os,
    kernel: Kernel<S>,
    accounts: &'static Accounts,
    setting: Setting,
    page_size: usize,
    regions: BTreeMap<usize, Vec<Page>>,
    /// Those of them that the system lost a part of.
    lost: BTreeSet<usize>,
    /// Huge pages of which a part was given back while others stayed.
    broken: BTreeSet<usize>,
    held: Vec<Held>,
    stamps: u64,
    before: Statistics,
    peak: u64,
    /// Bytes that the kernel was to unmap and did not. Below the heap an aligned reservation cuts
    /// off what is too much, and where it must not, that stays mapped.
    not_unmapped: Arc<AtomicUsize>,
}

impl<S: System> Model<S> {
    fn new(setting: Setting) -> Model<S> {
        let kernel = Faulty::new(Simulated::start(setting.settings.clone()));
        let os = S::os(kernel.clone());
        let accounts: &'static Accounts = Box::leak(Box::new(Accounts::new("model", "records")));
        let heap = PageHeap::new(os.clone(), accounts, setting.options);
        let page_size = heap.page_size();
        assert_eq!(page_size, setting.settings.page_size.max(8192));
        let (before, regions) = (heap.statistics(), BTreeMap::new());
        Model {
            heap,
            os,
            kernel,
            accounts,
            setting,
            page_size,
            regions,
            lost: BTreeSet::new(),
            broken: BTreeSet::new(),
            held: Vec::new(),
            stamps: 0,
            before,
            peak: 0,
            not_unmapped: Arc::default(),
        }
    }

    /// The reservations as the registry has them.
    fn registered(&self) -> BTreeMap<usize, usize> {
        let ours = |found: &sysmem::Registered| std::ptr::eq(found.account(), &self.accounts.heap);
        let registry = self.os.registry();
        registry.reservations().filter(ours).map(|found| (found.address(), found.len())).collect()
    }

    fn state(&self, address: usize) -> State {
        self.os.registry().find(address).unwrap().state_at(address, &self.os).unwrap().0
    }

    /// Takes over from the registry what the heap was free to decide: reservations made and
    /// returned, pages mapped, pages given back.
    fn take_over(&mut self) {
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
    fn lose_freed(&mut self) {
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
    fn mend(&mut self) {
        let blocks = self.blocks();
        self.broken.retain(|number| {
            let pages = blocks.get(number).map_or(&[][..], |pages| &pages[..]);
            pages.iter().any(|page| is_backed(page.1))
        });
    }

    /// The pages of every huge page: the place in it, and what it is. Pages that may not be in one
    /// run are not neighbours.
    fn blocks(&self) -> BTreeMap<usize, Vec<(usize, Page)>> {
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

    fn page(&mut self, address: usize) -> &mut Page {
        let (start, pages) = self.regions.range_mut(..=address).next_back().unwrap();
        &mut pages[(address - start) / self.page_size]
    }

    /// Where a run should come from; `None` if it fits nowhere, or where several rules meet.
    fn best_place(&self, npages: usize, align: usize) -> Option<usize> {
        let align_pages = align / self.page_size;
        match npages {
            ..=16 if align_pages == 1 => self.best_short(npages, 1),
            ..=WHOLE if align_pages <= WHOLE => None,
            _ => self.first_long(npages, align_pages),
        }
    }

    /// The first place in the huge page whose longest free run is the shortest that suffices. Among
    /// equals the fullest by eighths; rather an intact one than a broken one; of the free ones rather
    /// one with memory; and the first of those.
    fn best_short(&self, npages: usize, step: usize) -> Option<usize> {
        let mut best = None;
        for (number, pages) in self.blocks() {
            let (mut run, mut longest) = (0, 0);
            let mut place = None;
            for (index, &(at, page)) in pages.iter().enumerate() {
                let follows = index > 0 && pages[index - 1].0 + 1 == at;
                run = match page {
                    Page::Free { .. } if follows => run + 1,
                    Page::Free { .. } => 1,
                    _ => 0,
                };
                longest = longest.max(run);
                if place.is_none() && run >= npages {
                    place = Some(at + 1 - npages).filter(|place| place % step == 0);
                }
            }
            let in_use = pages.iter().filter(|page| page.1 == Page::InUse).count();
            let backed = pages.iter().any(|page| is_backed(page.1));
            let rank = match in_use {
                0 if longest < WHOLE => (0, false),
                0 => (0, backed),
                _ => (1 + (in_use - 1) / 32, !self.broken.contains(&number)),
            };
            let class = LENGTHS.partition_point(|&length| length <= longest);
            let rank = (usize::MAX - class, rank);
            if let Some(place) = place.filter(|_| best.is_none_or(|(than, _)| rank > than)) {
                best = Some((rank, number * WHOLE + place));
            }
        }
        best.map(|(_, page)| page * self.page_size)
    }

    /// The first wholly free huge pages that such a run touches.
    fn first_long(&self, npages: usize, align_pages: usize) -> Option<usize> {
        let slack = align_pages.max(WHOLE) - WHOLE;
        for (start, pages) in &self.regions {
            let first = start / self.page_size;
            let is_free = |page: &Page| matches!(page, Page::Free { .. });
            for from in (first.next_multiple_of(WHOLE)..first + pages.len()).step_by(WHOLE) {
                let free = pages[from - first..].iter().take_while(|page| is_free(page)).count();
                if free >= npages.next_multiple_of(WHOLE) + slack {
                    return Some(from.next_multiple_of(align_pages.max(WHOLE)) * self.page_size);
                }
            }
        }
        None
    }

    /// Pages of a run go into use; whether all were clean.
    fn use_pages(&mut self, start: usize, npages: usize) -> bool {
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

    fn free_pages(&mut self, start: usize, npages: usize) {
        for index in 0..npages {
            let page = self.page(start + index * self.page_size);
            assert_eq!(*page, Page::InUse);
            *page = Page::Free { backed: true, dirty: true };
        }
    }

    fn words(&self, start: NonNull<u8>, npages: usize) -> &'static mut [u64] {
        let len = npages * self.page_size / 8;
        // SAFETY: the pages belong to a run that the model holds, and one slice is used at a time.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), len) }
    }

    fn assert_zero(&self, start: NonNull<u8>, npages: usize) {
        // What was ever written is at the stamps; short runs are looked at whole.
        let words = self.words(start, npages);
        let step = if npages <= 32 { 1 } else { 127 };
        assert!(words.iter().step_by(step).all(|&word| word == 0), "{npages} pages called zero");
        let per_page = self.page_size / 8;
        assert!(words.iter().skip(per_page - 1).step_by(per_page).all(|&word| word == 0));
        assert!(words.iter().step_by(per_page).all(|&word| word == 0));
    }

    fn stamp(&self, held: Held) {
        let per_page = self.page_size / 8;
        let words = self.words(held.start, held.npages);
        for (index, page) in words.chunks_exact_mut(per_page).enumerate() {
            page[0] = held.stamp << 20 | index as u64;
            page[per_page / 2] = !held.stamp;
            page[per_page - 1] = held.stamp << 40 | index as u64;
        }
    }

    fn check_stamps(&self, held: Held) {
        let per_page = self.page_size / 8;
        for (index, page) in self.words(held.start, held.npages).chunks_exact(per_page).enumerate()
        {
            assert_eq!(page[0], held.stamp << 20 | index as u64);
            assert_eq!(page[per_page / 2], !held.stamp);
            assert_eq!(page[per_page - 1], held.stamp << 40 | index as u64);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Allocate { npages, align_pages } => self.allocate(npages, align_pages),
            Step::Free { which } if !self.held.is_empty() => {
                let held = self.held.swap_remove(which % self.held.len());
                self.check_stamps(held);
                // SAFETY: a run that the model holds, and holds no more.
                unsafe { self.heap.free(held.start, held.npages) }.unwrap();
                self.free_pages(held.start.addr().get(), held.npages);
                self.take_over();
            }
            Step::Extend { which, more } if !self.held.is_empty() => {
                let which = which % self.held.len();
                self.extend(which, more);
            }
            Step::Shrink { which, less } if !self.held.is_empty() => {
                let which = which % self.held.len();
                let held = self.held[which];
                let npages = held.npages - less.min(held.npages - 1);
                // SAFETY: a run that the model holds, whose tail it does not use any more.
                unsafe { self.heap.shrink(held.start, held.npages, npages) }.unwrap();
                self.held[which].npages = npages;
                let tail = held.start.addr().get() + npages * self.page_size;
                self.free_pages(tail, held.npages - npages);
                self.take_over();
                self.check_stamps(self.held[which]);
            }
            Step::Release { npages } => {
                let released = self.heap.release(npages * self.page_size);
                let wanted = (npages * self.page_size).min(self.before.free_backed as usize);
                assert!(released >= wanted || self.setting.refusals);
                self.released(released);
            }
            Step::ReleaseAll => {
                let released = self.heap.release_all();
                let all = self.before.free_backed as usize;
                assert!(released == all || self.setting.refusals);
                self.released(released);
            }
            Step::FailSoon { calls, more } if self.setting.refusals => {
                let not_unmapped = self.not_unmapped.clone();
                self.kernel.fail_when(move |index, call| {
                    if !(calls..=calls + more).contains(&index) {
                        return None;
                    }
                    if let Call::Munmap { len, .. } = call {
                        not_unmapped.fetch_add(*len, Relaxed);
                    }
                    S::exhausted(call)
                });
            }
            Step::Limit { address_space, data } if self.setting.refusals => {
                let totals = self.kernel.kernel().totals();
                self.kernel.kernel().set(|settings| {
                    settings.address_space_limit = (totals.mapped + address_space) as u64;
                    settings.data_limit = (totals.writable + data) as u64;
                });
            }
            Step::Pressure => self.kernel.kernel().pressure(),
            _ => {}
        }
        self.check();
    }

    fn released(&mut self, released: usize) {
        let now = self.heap.statistics();
        assert_eq!(now.released - self.before.released, released as u64);
        let gone = self.before.free_backed - now.free_backed;
        assert!(gone == released as u64 || gone > released as u64 && now.lost > self.before.lost);
        self.take_over();
    }

    fn allocate(&mut self, npages: usize, align_pages: usize) {
        let align = align_pages * self.page_size;
        let expected = self.best_place(npages, align);
        let run = self.heap.allocate(npages, align);
        self.take_over();
        let Run { start, npages: got, zeroed } = match run {
            Ok(run) => run,
            Err(error) => {
                let is_nearly_full =
                    self.kernel.kernel().totals().mapped > self.setting.settings.space / 2;
                assert!(self.setting.refusals || is_nearly_full, "nothing refuses, but: {error}");
                // Where a reservation's pages begin to differ, their states need a page of memory.
                // Where `used` is a call, it may be refused.
                let needed = matches!(error.operation(), Operation::Alloc | Operation::Used);
                let free_pages_suffice = !needed;
                let none_fits = expected.is_none()
                    || self.heap.statistics().lost > self.before.lost
                    || !free_pages_suffice;
                assert!(none_fits, "a run would fit: {error}");
                assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
                return;
            }
        };
        let address = start.addr().get();
        assert_eq!(got, npages);
        assert_eq!(address % align, 0);
        if let Some(expected) = expected {
            assert!(address == expected || self.setting.refusals, "{address:#x} {expected:#x}");
        }
        let clean = self.use_pages(address, npages);
        assert!(zeroed == clean || self.setting.refusals, "zeroed {zeroed}, in the model {clean}");
        if zeroed {
            self.assert_zero(start, npages);
        }
        self.stamps += 1;
        let held = Held { start, npages, stamp: self.stamps };
        self.stamp(held);
        self.held.push(held);
    }

    fn extend(&mut self, which: usize, more: usize) {
        let held = self.held[which];
        let npages = held.npages + more;
        let end = held.start.addr().get() + held.npages * self.page_size;
        let (start, pages) = self.regions.range(..end).next_back().unwrap();
        let from = (end - start) / self.page_size;
        let after = pages.get(from..from + more);
        let possible = more > 0 && after.is_some_and(|after| !after.contains(&Page::InUse));
        // SAFETY: a run that the model holds.
        let zeroed = unsafe { self.heap.extend(held.start, held.npages, npages) };
        self.take_over();
        let Some(zeroed) = zeroed else {
            assert!(!possible || self.setting.refusals, "nothing was in the way");
            return;
        };
        assert!(possible, "extended over pages that are not free");
        let clean = self.use_pages(end, more);
        assert!(zeroed == clean || self.setting.refusals, "zeroed {zeroed}, in the model {clean}");
        self.held[which].npages = npages;
        if zeroed {
            // SAFETY: not null, being inside a run.
            let added = unsafe { held.start.add(held.npages * self.page_size) };
            self.assert_zero(added, more);
        }
        self.check_stamps(held);
        // A new stamp, because the kernel may lose a write that changes nothing.
        self.stamps += 1;
        self.held[which].stamp = self.stamps;
        self.stamp(self.held[which]);
    }

    /// Holds the heap's figures and the accounts against the model, and the heap against itself.
    fn check(&mut self) {
        self.heap.verify().unwrap_or_else(|error| panic!("{error}"));
        self.lose_freed();
        self.mend();
        let now = self.heap.statistics();
        let mut model = Statistics { in_use: 0, ..now };
        (model.free_backed, model.given_back, model.unmapped, model.reserved) = (0, 0, 0, 0);
        model.lost = 0;
        let page_size = self.page_size as u64;
        for page in self.regions.values().flatten() {
            model.reserved += page_size;
            match page {
                Page::Unmapped => model.unmapped += page_size,
                Page::Lost => model.lost += page_size,
                Page::InUse => model.in_use += page_size,
                Page::Free { backed: true, .. } => model.free_backed += page_size,
                Page::Free { backed: false, .. } => model.given_back += page_size,
            }
        }
        self.peak = self.peak.max(model.in_use);
        model.peak_in_use = self.peak;
        assert_eq!(now, model);
        self.check_map(&model);
        let figures = self.accounts.heap.figures();
        let states = [figures.ready, figures.prepared, figures.reserved];
        // What is lost keeps the states that it had.
        let known = [model.in_use + model.free_backed, model.given_back, model.unmapped];
        assert_eq!(states.iter().sum::<u64>(), known.iter().sum::<u64>() + model.lost);
        assert!(states.iter().zip(known).all(|(&booked, known)| booked >= known));
        assert_eq!(self.accounts.metadata.figures().ready, now.metadata);
        self.before = now;
    }

    /// The map's cells add up to the statistics, and cover the reservations in order.
    fn check_map(&self, model: &Statistics) {
        let mut cells = vec![MapCell::default(); self.heap.map(&mut [])];
        assert_eq!(self.heap.try_map(&mut cells), Some(cells.len()));
        assert!(cells.is_sorted_by(|a, b| a.address < b.address));
        let bytes = |count: fn(&MapCell) -> u16| {
            let pages: usize = cells.iter().map(|cell| count(cell) as usize).sum();
            (pages * self.page_size) as u64
        };
        assert_eq!(bytes(|cell| cell.in_use), model.in_use);
        assert_eq!(bytes(|cell| cell.free_backed), model.free_backed);
        assert_eq!(bytes(|cell| cell.given_back), model.given_back);
        assert_eq!(bytes(|cell| cell.unmapped), model.unmapped + model.lost);
        for cell in &cells {
            let end = cell.address + WHOLE * self.page_size;
            let (start, len) =
                self.registered().range(..end).next_back().map(|it| (*it.0, *it.1)).unwrap();
            assert!(start + len > cell.address);
        }
        // What there is no room for is left out, and nothing else changes.
        let mut first = [MapCell::default(); 2];
        assert_eq!(self.heap.map(&mut first), cells.len());
        assert!(first.iter().zip(&cells).all(|(one, other)| one == other));
    }

    /// Frees everything, ends the heap, and sees that nothing stays behind.
    fn finish(mut self) {
        self.kernel.fail_nothing();
        self.kernel.kernel().set(|settings| {
            settings.address_space_limit = u64::MAX;
            settings.data_limit = u64::MAX;
        });
        for index in 0..self.held.len() {
            self.check_stamps(self.held[index]);
        }
        while !self.held.is_empty() {
            self.step(&Step::Free { which: 0 });
        }
        // The heap still works, whatever was refused before.
        self.heap.allocate(3, self.page_size).unwrap();
        self.heap.verify().unwrap();
        drop(self.heap);
        let left = self.kernel.kernel().totals().mapped - self.os.registry().metadata_bytes();
        let lost: usize =
            self.lost.iter().map(|start| self.regions[start].len() * self.page_size).sum();
        let may_stay = self.not_unmapped.load(Relaxed) + lost;
        assert!(left <= may_stay, "{left} bytes stay mapped");
        for (account, stays) in [(&self.accounts.heap, lost), (&self.accounts.metadata, 0)] {
            let figures = account.figures();
            assert_eq!(figures.reserved + figures.prepared + figures.ready, stays as u64);
        }
        self.kernel.kernel().verify();
    }
}

fn is_backed(page: Page) -> bool {
    matches!(page, Page::InUse | Page::Free { backed: true, .. })
}

fn steps(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let npages = prop_oneof![
        12 => 1usize..=16,
        4 => 1usize..=300,
        2 => 1..=longest,
    ];
    let align = prop_oneof![6 => Just(0u32), 3 => 0u32..=4, 1 => 0u32..=10];
    let step = prop_oneof![
        10 => (npages, align).prop_map(|(npages, align)| Step::Allocate {
            npages,
            align_pages: 1 << align,
        }),
        7 => any::<usize>().prop_map(|which| Step::Free { which }),
        3 => (any::<usize>(), 0usize..=40).prop_map(|(which, more)| Step::Extend { which, more }),
        2 => (any::<usize>(), 0usize..=400).prop_map(|(which, less)| Step::Shrink { which, less }),
        2 => (1usize..=600).prop_map(|npages| Step::Release { npages }),
        1 => Just(Step::ReleaseAll),
        2 => (0usize..=6, 0usize..=2).prop_map(|(calls, more)| Step::FailSoon { calls, more }),
        1 => (0..=8 * MIB, 0..=4 * MIB)
            .prop_map(|(address_space, data)| Step::Limit { address_space, data }),
        1 => Just(Step::Pressure),
    ];
    prop::collection::vec(step, 1..120)
}

fn setting(space: usize, backing: Backing, refusals: bool) -> impl Strategy<Value = Setting> {
    let page_size = prop_oneof![5 => Just(4usize << 10), 1 => Just(16 << 10), 1 => Just(64 << 10)];
    let give_back = prop_oneof![Just(GiveBack::Eager), Just(GiveBack::Lazy)];
    let huge_pages = prop_oneof![Just(HugePages::System), Just(HugePages::Advise)];
    let release_on_free = prop_oneof![
        Just(ReleaseOnFree::Never),
        (0..4 * MIB, 1usize..8)
            .prop_map(|(bytes, divisor)| ReleaseOnFree::Above { bytes, divisor }),
    ];
    let options = (give_back, huge_pages, release_on_free);
    (any::<u64>(), page_size, options, any::<bool>()).prop_map(
        move |(seed, page_size, (give_back, huge_pages, release_on_free), batches)| Setting {
            settings: Settings {
                seed,
                backing,
                page_size,
                version: if batches { (6, 18) } else { (5, 10) },
                short_counts: seed % 3 == 0,
                huge_page_size: (seed % 5 != 0).then_some(2 * MIB),
                lazily_freed: LazilyFreed::Adversarial,
                ..Settings::heap(space)
            },
            options: Options::new()
                .give_back(give_back)
                .huge_pages(huge_pages)
                .release_on_free(release_on_free),
            refusals,
        },
    )
}

fn run<S: System>(setting: Setting, steps: &[Step]) {
    let mut model = Model::<S>::new(setting);
    for step in steps {
        model.step(step);
    }
    model.finish();
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn every_step_does_what_the_model_does(
        setting in setting(2048 * MIB, Backing::Real, false),
        steps in steps(5000),
    ) {
        run::<sim::Linux>(setting, &steps);
    }

    #[test]
    fn refusals_change_nothing_and_leak_nothing(
        setting in setting(2048 * MIB, Backing::Real, true),
        steps in steps(5000),
    ) {
        run::<sim::Linux>(setting, &steps);
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn no_page_is_written_to_that_is_not_handed_out(
        setting in setting(192 * MIB, Backing::Heap, false),
        steps in steps(300),
    ) {
        run::<sim::Linux>(setting, &steps);
    }
}

/// A few cases of each kind on every other system.
macro_rules! on_other_systems {
    ($($module:ident: $name:ident,)*) => {$(
        mod $module {
            use super::*;

            proptest! {
                #![proptest_config(config(4))]

                #[test]
                fn every_step_does_what_the_model_does(
                    setting in setting(2048 * MIB, Backing::Real, false),
                    steps in steps(5000),
                ) {
                    run::<sim::$name>(setting, &steps);
                }

                #[test]
                fn refusals_change_nothing_and_leak_nothing(
                    setting in setting(2048 * MIB, Backing::Real, true),
                    steps in steps(5000),
                ) {
                    run::<sim::$name>(setting, &steps);
                }
            }
        }
    )*};
}

on_other_systems! {
    freebsd_: FreeBsd,
    netbsd_: NetBsd,
    openbsd_: OpenBsd,
    dragonfly_: DragonFly,
    illumos_: Illumos,
    darwin_: Darwin,
    windows_: Windows,
}
