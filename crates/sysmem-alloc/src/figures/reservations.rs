//! Which address space is whose: the reservations of a process, with the names of their accounts.
//!
//! The kernel knows memory without names, unless it is built to keep some
//! (`CONFIG_ANON_VMA_NAME`): so the process says which subsystem has what.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{load_text, store_text};

/// How many reservations are told: a heap of 100 GiB has some forty.
pub const RESERVATIONS: usize = 96;

/// How many accounts can be told by name.
const ACCOUNTS: usize = 8;

/// The longest name of an account that is kept, in bytes.
const NAME_BYTES: usize = 32;

/// The reservations of a process.
#[repr(C)]
pub struct Reservations {
    count: AtomicU64,
    /// Address, length, number of the account.
    entries: [[AtomicU64; 3]; RESERVATIONS],
    names: [[AtomicU64; NAME_BYTES / 8]; ACCOUNTS],
}

impl Reservations {
    /// Tells these, as far as there is room.
    pub fn store(&self, reservations: impl Iterator<Item = (Range<usize>, &'static str)>) {
        let mut names = [""; ACCOUNTS];
        let mut count = 0;
        for (range, name) in reservations {
            let is_its = |known: &str| known == name || known.is_empty();
            let (Some(account), Some(entry)) =
                (names.iter().position(|known| is_its(known)), self.entries.get(count))
            else {
                continue;
            };
            if names[account].is_empty() {
                names[account] = name;
                store_text(&self.names[account], name.as_bytes());
            }
            let words = [range.start as u64, range.len() as u64, account as u64];
            for (word, value) in entry.iter().zip(words) {
                word.store(value, Ordering::Relaxed);
            }
            count += 1;
        }
        self.count.store(count as u64, Ordering::Release);
    }

    /// Hands each to `each`. Of one that was being stored meanwhile, it may be another's address.
    pub fn each(&self, mut each: impl FnMut(Range<usize>, &[u8])) {
        let count = self.count.load(Ordering::Acquire) as usize;
        for entry in self.entries.iter().take(count) {
            let [start, len, account] = [0, 1, 2].map(|word| entry[word].load(Ordering::Relaxed));
            let (start, end) = (start as usize, start.saturating_add(len) as usize);
            let mut name = [0; NAME_BYTES];
            if let Some(words) = self.names.get(account as usize) {
                each(start..end, load_text(words, &mut name));
            }
        }
    }

    /// Tells none.
    pub fn clear(&self) {
        self.count.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::boxed::Box;
    use std::string::String;
    use std::vec::Vec;

    fn told(reservations: &Reservations) -> Vec<(Range<usize>, String)> {
        let mut told = Vec::new();
        reservations.each(|range, name| {
            told.push((range, String::from_utf8(name.to_vec()).unwrap()));
        });
        told
    }

    #[test]
    fn what_is_told_has_the_names_of_its_accounts_and_what_has_no_room_is_left_out() {
        // SAFETY: words only, for which all zeros are valid.
        let reservations: Box<Reservations> = unsafe { Box::new_zeroed().assume_init() };
        let long = "an account whose name is far longer than there is room for it";
        let few = [(0x1000..0x3000, "page heap"), (0x8000..0x9000, long), (0..0x10, "page heap")];
        reservations.store(few.iter().cloned());
        let names: Vec<_> = told(&reservations).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["page heap", &long[..NAME_BYTES], "page heap"]);
        assert_eq!(told(&reservations)[1].0, 0x8000..0x9000);
        reservations.store((0..1000).map(|n| (n * 16..n * 16 + 8, "page heap")));
        assert_eq!(told(&reservations).len(), RESERVATIONS);
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "a"];
        reservations.store(names.into_iter().map(|name| (0..1, name)));
        assert_eq!(told(&reservations).len(), 9, "eight accounts, and one of them again");
        reservations.clear();
        assert!(told(&reservations).is_empty());
    }
}
