//! What Darwin judges a process by falls when memory is given back, and rises when it is used.

use sysmem::os::darwin::Darwin;
use sysmem::sim::{self, LazilyFreed, Settings, Simulated, Traced};
use sysmem::{Account, GiveBack, Protection, Reservation, ReserveOptions};

const PAGE: usize = 16 << 10;
const LEN: usize = 8 * PAGE;

static ACCOUNT: Account = Account::new("footprint");

/// Writes to every page, and says how large the footprint has become.
fn written<O: sysmem::Os>(kernel: &Simulated<sim::Darwin>, memory: &Reservation<O>) -> usize {
    for page in 0..LEN / PAGE {
        // SAFETY: Ready and writable.
        unsafe { memory.as_mut_ptr().add(page * PAGE).cast::<u64>().write(page as u64 + 1) };
    }
    kernel.footprint()
}

#[test]
fn the_footprint_of_darwin_falls_with_unused_and_rises_with_used() {
    for lazily_freed in [LazilyFreed::Kept, LazilyFreed::Dropped, LazilyFreed::Adversarial] {
        let settings = Settings { page_size: PAGE, lazily_freed, ..Settings::heap(64 * PAGE) };
        let kernel = Simulated::<sim::Darwin>::start(settings);
        let os = Darwin::new(Traced::new(kernel.clone()));
        let options = ReserveOptions::new(LEN);
        let mut memory = Reservation::reserve_in(&os, options, &ACCOUNT).unwrap();
        memory.map(0, LEN, Protection::ReadWrite).unwrap();
        memory.used(0, LEN).unwrap();
        let empty = kernel.footprint();
        for how in [GiveBack::Lazy, GiveBack::Eager] {
            assert_eq!(written(&kernel, &memory) - empty, LEN, "{how:?}");
            memory.unused(0, LEN, how).unwrap();
            assert_eq!(kernel.footprint(), empty, "{how:?}");
            memory.used(0, LEN).unwrap();
        }
        // The reservation is 16 KiB pages from its address on, though only a page was to be aligned.
        assert_eq!(memory.as_mut_ptr().addr() % PAGE, 0);
    }
}

#[test]
fn read_only_pages_of_darwin_are_given_back_too() {
    let settings = Settings { page_size: PAGE, ..Settings::heap(64 * PAGE) };
    let kernel = Simulated::<sim::Darwin>::start(settings);
    let os = Darwin::new(kernel.clone());
    let mut memory = Reservation::reserve_in(os, ReserveOptions::new(LEN), &ACCOUNT).unwrap();
    memory.map(0, LEN, Protection::ReadWrite).unwrap();
    memory.used(0, LEN).unwrap();
    let empty = kernel.footprint();
    written(&kernel, &memory);
    memory.protect(0, LEN, Protection::ReadOnly).unwrap();
    memory.unused(0, LEN, GiveBack::Lazy).unwrap();
    assert_eq!(kernel.footprint(), empty);
    memory.used(0, LEN).unwrap();
    // SAFETY: Ready and readable.
    assert_eq!(unsafe { memory.as_mut_ptr().cast::<u64>().read() }, 0, "it was mapped anew");
}
