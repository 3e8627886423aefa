//! Everything that can be seen, held against the model.

use std::sync::atomic::Ordering::Relaxed;

use sysmem::{Os, Protection, State};

use super::{World, read};
use crate::systems::System;

impl<S: System> World<S> {
    /// Holds everything that can be seen against the model.
    pub(super) fn check(&mut self) {
        self.check_states();
        self.check_contents();
        self.check_child();
        self.check_figures();
        let len_of = |lost: bool| {
            let entries = self.entries.iter().filter(|entry| entry.lost == lost);
            entries.map(|entry| entry.reservation.len()).sum::<usize>()
        };
        let mapped = self.kernel.totals().mapped - self.os.registry().metadata_bytes();
        let (ours, lost) =
            (len_of(false), len_of(true) + self.left_behind.iter().sum::<u64>() as usize);
        // Of what is lost, a part may be no longer mapped.
        assert!(mapped >= ours, "memory went away");
        // What the kernel does not take back stays.
        assert!(mapped <= ours + lost || self.munmap_refused.load(Relaxed), "memory leaked");
        assert_eq!(self.kernel.open_files(), 0);
    }

    fn check_states(&self) {
        let page_size = self.page_size();
        let mappings = self.kernel.mappings();
        for entry in self.entries.iter().filter(|entry| !entry.lost) {
            let start = entry.reservation.as_mut_ptr().addr();
            let mut run = (State::Reserved, Protection::NoAccess, 0);
            let mut mapping = mappings.partition_point(|mapping| mapping.end <= start);
            for (index, page) in entry.pages.iter().enumerate() {
                if run.2 <= index * page_size {
                    run = entry.reservation.state(index * page_size).expect("inside");
                }
                assert_eq!((run.0, run.1), (page.state, page.protection), "page {index}");
                let address = start + index * page_size;
                mapping += usize::from(mappings[mapping].end <= address);
                let real = &mappings[mapping];
                assert!(real.start <= address && !real.attributes.foreign, "{address:#x} is gone");
                if page.state != State::Prepared {
                    assert_eq!(real.attributes.protection, page.protection, "page {index}");
                }
                // A failure may hide from the backend that the system does not overcommit.
                if self.strict && !self.injecting && page.state == State::Reserved {
                    assert!(!real.attributes.charged, "page {index} stays charged");
                }
                let attributes = &real.attributes;
                assert_eq!(attributes.dumped, entry.policy.dumped, "page {index}");
                assert_eq!(attributes.inheritance, entry.policy.inheritance, "page {index}");
                let found = self.os.registry().find(address).expect("it is registered");
                assert_eq!(found.state_at(address, &self.os), Some((page.state, page.protection)));
            }
        }
    }

    /// What a child got stays its own, whatever the process does.
    fn check_child(&self) {
        let Some(child) = &self.child else { return };
        for &(address, byte) in &self.child_finds {
            assert_eq!(child.read(address), byte, "what the child finds at {address:#x}");
        }
    }

    fn check_contents(&self) {
        let page_size = self.page_size();
        for entry in self.entries.iter().filter(|entry| !entry.lost) {
            let base = entry.reservation.as_mut_ptr();
            for (index, page) in entry.pages.iter().enumerate() {
                if page.state == State::Ready && page.protection != Protection::NoAccess {
                    let now = read(base.wrapping_add(index * page_size), page_size);
                    let right = now == page.words || page.unstable && now == [0; 3];
                    assert!(right, "page {index} holds {now:x?}, should be {page:x?}");
                }
            }
        }
    }

    fn check_figures(&mut self) {
        let mut bytes = self.left_behind;
        for entry in &self.entries {
            for page in &entry.pages {
                bytes[page.state as usize] += self.os.page_size() as u64;
            }
        }
        let found = self.account.figures();
        let model = &mut self.figures;
        [model.reserved, model.prepared, model.ready] = bytes;
        model.peak_reserved = model.peak_reserved.max(model.reserved);
        model.peak_prepared = model.peak_prepared.max(model.prepared);
        model.peak_ready = model.peak_ready.max(model.ready);
        assert_eq!(found, *model);
    }
}
