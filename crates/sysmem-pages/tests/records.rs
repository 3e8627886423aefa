//! What the page heap remembers of its pages: a five hundredth of what is mapped, and 128 KiB, in heaps
//! of all sizes, what the layer below remembers of the heap's reservations included.

use sysmem::Os;
use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, Settings, Simulated};
use sysmem_pages::{Accounts, Options, PAGE, PageHeap, ReleaseOnFree, Run};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

type Heap = PageHeap<Linux<Simulated>>;

fn kernel(space: u64) -> Simulated {
    Simulated::new(Settings { backing: Backing::Real, ..Settings::heap(space as usize) })
}

fn heap(kernel: &Simulated) -> Heap {
    let accounts = Box::leak(Box::new(Accounts::new("records", "records of records")));
    let options = Options::new().release_on_free(ReleaseOnFree::Never);
    PageHeap::new(Linux::new(kernel.clone()), accounts, options)
}

/// Holds the records against what is mapped, which it returns.
fn check(kernel: &Simulated, heap: &Heap) -> u64 {
    let now = heap.statistics();
    let mapped = now.reserved - now.unmapped;
    let below = Linux::new(kernel.clone()).registry().metadata_bytes() as u64;
    let records = now.metadata + below;
    assert!(records <= mapped / 500 + 128 * KIB, "{records} bytes of records for {mapped}");
    mapped
}

/// Allocates runs of up to 16 pages until as much is mapped, and looks after each MiB of them.
fn grow(kernel: &Simulated, heap: &Heap, until: u64, runs: &mut Vec<Run>) {
    const PAGES_OF_A_MIB: usize = MIB as usize / PAGE;
    loop {
        let mut npages = 0;
        while npages < PAGES_OF_A_MIB {
            let run = heap.allocate(1 + runs.len() % 16, PAGE).unwrap();
            npages += run.npages;
            runs.push(run);
        }
        if check(kernel, heap) >= until {
            return;
        }
    }
}

#[test]
fn from_1_mib_to_16_gib_they_are_a_five_hundredth_and_128_kib_at_every_step() {
    let kernel = kernel(64 * GIB);
    let (heap, mut runs) = (heap(&kernel), Vec::new());
    for size in [MIB, 64 * MIB, GIB, 16 * GIB] {
        grow(&kernel, &heap, size, &mut runs);
    }
    heap.verify().unwrap();
}

#[test]
fn where_every_other_run_was_given_back_they_are_no_more_than_that() {
    let kernel = kernel(GIB);
    let heap = heap(&kernel);
    for size in [MIB, 64 * MIB, 256 * MIB] {
        let runs: Vec<Run> =
            (0..size / PAGE as u64).map(|_| heap.allocate(1, PAGE).unwrap()).collect();
        for run in runs.iter().skip(1).step_by(2) {
            // SAFETY: a run of this test, which does not use it any more.
            unsafe { heap.free(run.start, run.npages) }.unwrap();
        }
        assert!(heap.release_all() > 0);
        check(&kernel, &heap);
    }
    heap.verify().unwrap();
}

#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn over_64_tib_of_address_space_they_are_no_more_than_that() {
    use sysmem::{Account, Reservation, ReserveOptions};
    static OTHERS: Account = Account::new("others");
    const TIB: usize = 1 << 40;
    let kernel = kernel(64 << 40);
    let (heap, mut runs) = (heap(&kernel), Vec::new());
    // Others have most of the address space, so that the heap's reservations lie far apart.
    let mut others = Vec::new();
    let (mut low, mut high) = (usize::MAX, 0);
    for part in 1..=15 {
        grow(&kernel, &heap, part * 128 * MIB, &mut runs);
        let at = runs[runs.len() - 1].start.addr().get();
        (low, high) = (low.min(at), high.max(at));
        let os = Linux::new(kernel.clone());
        others.push(Reservation::reserve_in(os, ReserveOptions::new(4 * TIB), &OTHERS).unwrap());
    }
    assert!(high - low > 32 * TIB, "all of it lies in {} bytes", high - low);
    // One long run, in address space of its own.
    heap.allocate(TIB / 16 / PAGE, PAGE).unwrap();
    check(&kernel, &heap);
    heap.verify().unwrap();
}
