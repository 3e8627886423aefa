//! What is done to the heap, and to the model of it.

use super::*;

impl<S: System> Model<S> {
    pub(super) fn step(&mut self, step: &Step) {
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
        if !self.setting.refusals {
            self.check_residency();
        }
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

    /// Frees everything, ends the heap, and sees that nothing stays behind.
    pub(super) fn finish(mut self) {
        self.kernel.fail_nothing();
        self.kernel.kernel().set(|settings| {
            settings.address_space_limit = u64::MAX;
            settings.data_limit = u64::MAX;
        });
        self.check_residency();
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
}
