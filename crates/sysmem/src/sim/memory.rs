//! What the pages of a simulated process hold: on the heap, in real address space, or nowhere.
//!
//! The backings differ in what a stray access does. Real memory has real protection: it faults.
//! Heap memory has none: what may not be written to is filled with poison, or copied, and looked
//! at again whenever it changes and at the end.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use super::ranges::Ranges;
use crate::os::{GiveBack, Os, PageRange, PageResidency, Placement, Policy, ReserveOptions};
use crate::{Native, Protection};

/// What memory of the heap backing holds while it may not be accessed.
const POISON: u8 = 0xdb;

/// The largest page that is simulated.
pub(crate) const LARGEST_PAGE: usize = 64 << 10;

/// Bytes that are compared with zeros at once.
const LOOKED_AT: usize = 256;

static ZEROS: [u8; LARGEST_PAGE] = [0; LARGEST_PAGE];
static POISONED: [u8; LARGEST_PAGE] = [POISON; LARGEST_PAGE];

/// The memory of a simulated process. Addresses outside [`range`](Memory::range) do not exist.
pub(crate) struct Memory {
    start: NonNull<u8>,
    len: usize,
    page_size: usize,
    backing: Backing,
}

enum Backing {
    /// A block of the heap. Keeps what pages hold that may not be written to, where it is not
    /// zeros.
    Heap { layout: Layout, kept: BTreeMap<usize, Box<[u8]>> },
    /// A reservation of the running system.
    Real {
        /// Where pages may hold something other than zeros.
        populated: Ranges,
    },
    /// Addresses that nothing lies at, which nobody touches.
    Addresses,
}

// SAFETY: the block is owned; access to it is what the owner of a `Memory` passes on.
unsafe impl Send for Memory {}

fn readable(protection: Protection) -> bool {
    protection != Protection::NoAccess
}

fn writable(protection: Protection) -> bool {
    protection == Protection::ReadWrite
}

impl Memory {
    /// `len` bytes of the heap, aligned to `align`.
    pub(crate) fn heap(len: usize, align: usize, page_size: usize) -> Memory {
        let layout = Layout::from_size_align(len, align).expect("the heap backing is too large");
        // SAFETY: the layout is not empty: a process has at least a page.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        // SAFETY: just allocated with that length.
        unsafe { start.write_bytes(POISON, len) };
        Memory { start, len, page_size, backing: Backing::Heap { layout, kept: BTreeMap::new() } }
    }

    /// `len` bytes of address space of the running system.
    pub(crate) fn real(len: usize, align: usize, page_size: usize) -> Memory {
        assert!(page_size >= Native::NEW.page_size(), "smaller pages cannot be protected");
        // Above what a 32-bit address reaches, where the systems that are simulated map.
        let options = ReserveOptions::new(len).align(align).placement(Placement::High);
        let start = Native::NEW.reserve(&options).expect("address space for the simulated process");
        Memory { start, len, page_size, backing: Backing::Real { populated: Ranges::default() } }
    }

    /// `len` addresses from one on, without memory.
    pub(crate) fn addresses(start: usize, len: usize, page_size: usize) -> Memory {
        let start = NonNull::new(ptr::without_provenance_mut(start)).expect("not from zero on");
        Memory { start, len, page_size, backing: Backing::Addresses }
    }

    pub(crate) fn range(&self) -> Range<usize> {
        let start = self.start.addr().get();
        start..start + self.len
    }

    /// The pointer to an address inside.
    pub(crate) fn pointer(&self, address: usize) -> *mut u8 {
        self.start.as_ptr().wrapping_add(address - self.start.addr().get())
    }

    fn real_range(&self, range: &Range<usize>) -> PageRange {
        PageRange::new(self.pointer(range.start), range.len())
    }

    fn pages(&self, range: Range<usize>) -> impl Iterator<Item = usize> + use<> {
        range.step_by(self.page_size)
    }

    /// What a page shows to the program.
    ///
    /// # Safety
    ///
    /// The page may be read, and nobody writes to it now.
    unsafe fn visible(&self, page: usize) -> &[u8] {
        // SAFETY: a page inside the block; the rest is the caller's promise.
        unsafe { slice::from_raw_parts(self.pointer(page), self.page_size) }
    }

    fn zeros(&self) -> &'static [u8] {
        &ZEROS[..self.page_size]
    }

    /// Panics if a page of the heap backing was written to that may not be.
    fn check(&self, page: usize, protection: Protection) {
        let Backing::Heap { kept, .. } = &self.backing else { return };
        if writable(protection) {
            return;
        }
        let expected = match readable(protection) {
            false => &POISONED[..self.page_size],
            true => kept.get(&page).map_or(self.zeros(), |kept| &**kept),
        };
        // SAFETY: heap memory is readable, and a program that may not write here does not.
        let found = unsafe { self.visible(page) };
        // Whoever unwinds already has something to tell.
        if found != expected && !std::thread::panicking() {
            let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
            let address = page + at.unwrap_or(0);
            panic!("stray write to {address:#x}, where {protection:?} is allowed");
        }
    }

    /// Panics if the heap backing was written to in a range that has this protection (or, with
    /// `NoAccess`, is not mapped).
    pub(crate) fn verify(&self, range: Range<usize>, protection: Protection) {
        if matches!(self.backing, Backing::Heap { .. }) {
            self.pages(range).for_each(|page| self.check(page, protection));
        }
    }

    fn fill(&self, page: usize, byte: u8) {
        // SAFETY: a page inside the block, which the program may not write to now.
        unsafe { self.pointer(page).write_bytes(byte, self.page_size) };
    }

    /// Commits what is not yet, where the running system keeps a record of that (Windows).
    fn use_for_real(&self, range: PageRange, protection: Protection) {
        // SAFETY: the range is part of the reservation that backs this process; what is there
        // already stays.
        unsafe { Native::NEW.used(range, protection) }
            .expect("the running system commits the simulated memory");
    }

    /// Changes what a range allows; what it holds stays.
    pub(crate) fn protect(&mut self, range: Range<usize>, from: Protection, to: Protection) {
        if let Backing::Real { populated } = &mut self.backing {
            if writable(to) {
                populated.insert(range.clone());
            }
            if from != to {
                let range = self.real_range(&range);
                if from == Protection::NoAccess {
                    // Some of it may only be reserved.
                    self.use_for_real(range, to);
                }
                // SAFETY: the range is part of the reservation that backs this process.
                unsafe { Native::NEW.protect(range, to) }
                    .expect("the running system protects the simulated memory");
            }
            return;
        }
        if matches!(self.backing, Backing::Addresses) {
            return;
        }
        for page in self.pages(range) {
            self.check(page, from);
            if writable(from) && !writable(to) {
                // SAFETY: the page was writable, and is being protected: nobody writes to it.
                let bytes: Box<[u8]> = unsafe { self.visible(page) }.into();
                if *bytes != *self.zeros() {
                    self.keep(page, Some(bytes));
                }
            }
            match (readable(from), readable(to)) {
                (true, false) => self.fill(page, POISON),
                (false, true) => match self.kept(page) {
                    // SAFETY: a page inside the block, which nobody may access yet.
                    Some(kept) => unsafe {
                        self.pointer(page).copy_from_nonoverlapping(kept.as_ptr(), self.page_size);
                    },
                    None => self.fill(page, 0),
                },
                _ => {}
            }
            if writable(to) {
                self.keep(page, None);
            }
        }
    }

    fn kept(&self, page: usize) -> Option<&[u8]> {
        match &self.backing {
            Backing::Heap { kept, .. } => kept.get(&page).map(|kept| &**kept),
            Backing::Real { .. } | Backing::Addresses => None,
        }
    }

    fn keep(&mut self, page: usize, bytes: Option<Box<[u8]>>) {
        if let Backing::Heap { kept, .. } = &mut self.backing {
            match bytes {
                Some(bytes) => kept.insert(page, bytes),
                None => kept.remove(&page),
            };
        }
    }

    /// Makes zeros of what a range with this protection holds.
    pub(crate) fn discard(&mut self, range: Range<usize>, protection: Protection) {
        match &mut self.backing {
            Backing::Real { populated } => {
                if !writable(protection) {
                    populated.remove(range.clone());
                }
                let range = self.real_range(&range);
                // SAFETY: part of the reservation, and the contents are given up.
                unsafe { Native::NEW.unused(range, protection, GiveBack::Eager, Policy::DEFAULT) }
                    .expect("the running system drops the simulated pages");
                if protection != Protection::NoAccess {
                    self.use_for_real(range, protection);
                }
            }
            Backing::Addresses => {}
            Backing::Heap { .. } => {
                for page in self.pages(range) {
                    self.check(page, protection);
                    self.keep(page, None);
                    if readable(protection) {
                        self.fill(page, 0);
                    }
                }
            }
        }
    }

    /// Takes a range with this protection out of use.
    pub(crate) fn remove(&mut self, range: Range<usize>, protection: Protection) {
        if let Backing::Real { populated } = &mut self.backing {
            populated.remove(range.clone());
            // SAFETY: part of the reservation, and the contents are given up.
            unsafe { Native::NEW.fault(self.real_range(&range), Policy::DEFAULT) }
                .expect("the running system takes the simulated memory out of use");
            return;
        }
        self.discard(range.clone(), protection);
        self.protect(range, protection, Protection::NoAccess);
    }

    /// Takes a range out of use in which an object was seen: what shows through is no more.
    pub(crate) fn hide_object(&mut self, range: Range<usize>) {
        let Backing::Real { populated } = &mut self.backing else { return };
        populated.remove(range.clone());
        #[cfg(unix)]
        {
            use crate::os::unix::replacing::Replaced;
            let range = self.real_range(&range);
            // SAFETY: part of the reservation, and the contents are the object's.
            let hidden =
                unsafe { Native::NEW.replace(range, Protection::NoAccess, Policy::DEFAULT) };
            assert_eq!(hidden, Replaced::Fresh, "the running system hides the object");
        }
    }

    /// The pages of a range with this protection that hold anything but zeros, and what.
    pub(crate) fn contents(
        &self,
        range: Range<usize>,
        protection: Protection,
        each: &mut dyn FnMut(usize, &[u8]),
    ) {
        match &self.backing {
            Backing::Addresses => {}
            Backing::Heap { kept, .. } => {
                for page in self.pages(range) {
                    if !writable(protection) {
                        if let Some(kept) = kept.get(&page) {
                            each(page, kept);
                        }
                        continue;
                    }
                    // SAFETY: the page is readable; a thread that writes to it at this moment
                    // makes the answer out of date, as it would a kernel's.
                    let bytes = unsafe { self.visible(page) };
                    if bytes != self.zeros() {
                        each(page, bytes);
                    }
                }
            }
            Backing::Real { populated } => {
                for range in populated.inside(range) {
                    self.real_contents(range, protection, each);
                }
            }
        }
    }

    fn real_contents(
        &self,
        range: Range<usize>,
        protection: Protection,
        each: &mut dyn FnMut(usize, &[u8]),
    ) {
        // Only Linux says of every page where it is. Elsewhere pages that allow nothing are not told
        // (FreeBSD, Windows), nor those in swap, or nothing is (OpenBSD): each page is looked at.
        let pages = match cfg!(target_os = "linux") {
            true => self.pages_with_memory(range),
            false => self.pages(range).collect(),
        };
        for page in pages {
            self.with_access(page, protection, || {
                // SAFETY: readable now; see the heap backing about threads that write.
                let bytes = unsafe { self.visible(page) };
                if bytes != self.zeros() {
                    each(page, bytes);
                }
            });
        }
    }

    /// The pages of a range of real memory that the running system has given memory.
    fn pages_with_memory(&self, range: Range<usize>) -> Vec<usize> {
        let real_page = Native::NEW.page_size();
        let in_page = self.page_size / real_page;
        let mut residency = [PageResidency::default(); 64];
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let npages = (64 / in_page * in_page).max(in_page).min((range.end - at) / real_page);
            let part = at..at + npages.min(64) * real_page;
            let residency = &mut residency[..part.len() / real_page];
            Native::NEW
                .residency(self.real_range(&part), residency)
                .expect("the running system tells what is resident");
            let pages = residency.iter().enumerate();
            for (index, _) in pages.filter(|(_, page)| page.resident || page.swapped) {
                let page = (part.start + index * real_page) & !(self.page_size - 1);
                if found.last() != Some(&page) {
                    found.push(page);
                }
            }
            at = part.end;
        }
        found
    }

    /// Runs `look` while a real page can be read.
    fn with_access(&self, page: usize, protection: Protection, look: impl FnOnce()) {
        let range = self.real_range(&(page..page + self.page_size));
        let set = |protection| {
            // SAFETY: part of the reservation; the program's own access is not taken away.
            unsafe { Native::NEW.protect(range, protection) }
                .expect("the running system protects the simulated memory");
        };
        if !readable(protection) {
            set(Protection::ReadOnly);
        }
        look();
        if !readable(protection) {
            set(protection);
        }
    }

    /// Makes zeros of a page with this protection if it holds `bytes` still.
    ///
    /// A thread may be writing to the page at this moment. A kernel sees that in the page table;
    /// here each word is exchanged only while it is what it was, from the lowest up to the first
    /// that is not, so that no write is lost.
    pub(crate) fn discard_unchanged(&mut self, page: usize, protection: Protection, bytes: &[u8]) {
        if !writable(protection) {
            let mut unchanged = false;
            self.contents(page..page + self.page_size, protection, &mut |_, found| {
                unchanged = found == bytes;
            });
            if unchanged {
                self.discard(page..page + self.page_size, protection);
            }
            return;
        }
        // SAFETY: the page is readable.
        if unsafe { self.visible(page) } != bytes {
            return;
        }
        for (number, part) in bytes.chunks(LOOKED_AT).enumerate() {
            // What is zero need not become it.
            if part == &ZEROS[..part.len()] {
                continue;
            }
            for (index, word) in part.chunks_exact(8).enumerate() {
                let word = u64::from_ne_bytes(word.try_into().unwrap_or_default());
                let address = page + number * LOOKED_AT + index * 8;
                // SAFETY: an aligned word of a page that is readable and writable.
                let place = unsafe { AtomicU64::from_ptr(self.pointer(address).cast()) };
                if place.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                    return;
                }
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match &self.backing {
            Backing::Addresses => {}
            // SAFETY: allocated with this layout.
            Backing::Heap { layout, .. } => unsafe { dealloc(self.start.as_ptr(), *layout) },
            Backing::Real { .. } => {
                let range = PageRange::new(self.start.as_ptr(), self.len);
                // SAFETY: exactly what was reserved. If the system refuses, the space stays taken.
                let _ = unsafe { Native::NEW.free(range) };
            }
        }
    }
}
