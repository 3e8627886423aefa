//! The page heap's books against what the system says is in memory: simulated systems, and the
//! running one.

use sysmem::sim::{self, Backing, LazilyFreed, Settings, Simulated};
use sysmem::{ErrorKind, GiveBack, Native, Os, PageRange, Protection, ResidentFalls, huge};
use sysmem_pages::{
    Accounts, Options, PAGE, PageHeap, ReleaseOnFree, Residency, ResidentBytes, Run,
};

/// Pages in a huge page, as the heap has them.
const WHOLE: usize = 256;

fn heap<O: Os + Clone>(os: O, options: Options) -> PageHeap<O> {
    let accounts = Box::leak(Box::new(Accounts::new("residency", "records")));
    PageHeap::new(os, accounts, options.release_on_free(ReleaseOnFree::Never))
}

/// A run of which every page was written to.
fn written<O: Os + Clone>(heap: &PageHeap<O>, npages: usize) -> Run {
    let run = heap.allocate(npages, PAGE).unwrap();
    // SAFETY: the run is Ready and ours.
    unsafe { run.start.write_bytes(0x5A, npages * heap.page_size()) };
    run
}

fn free<O: Os + Clone>(heap: &PageHeap<O>, run: Run) {
    // SAFETY: each test frees a run once and does not use it afterwards.
    unsafe { heap.free(run.start, run.npages) }.unwrap();
}

fn range_of<O: Os + Clone>(heap: &PageHeap<O>, run: Run) -> PageRange {
    PageRange::new(run.start.as_ptr(), run.npages * heap.page_size())
}

/// What is in memory; `None` on a system that does not tell.
fn resident<O: Os + Clone>(heap: &PageHeap<O>) -> Option<ResidentBytes> {
    match heap.verify_residency().unwrap() {
        Residency::Told(bytes) => Some(bytes),
        Residency::NotTold(error) => {
            assert_eq!(error.kind(), ErrorKind::NotSupported);
            None
        }
    }
}

/// What is in memory is what the books say is backed, if all of that was written to.
fn memory_is_what_the_books_say<O: Os + Clone>(os: O) {
    let heap = heap(os, Options::new());
    let runs: Vec<Run> = (0..64).map(|_| written(&heap, 16)).collect();
    let exact = || {
        let Some(resident) = resident(&heap) else { return };
        let books = heap.statistics();
        let backed =
            ResidentBytes { in_use: books.in_use, free_backed: books.free_backed, given_back: 0 };
        assert_eq!(resident, backed);
    };
    exact();
    runs.iter().step_by(2).for_each(|&run| free(&heap, run));
    assert_eq!(heap.statistics().free_backed, 32 * 16 * heap.page_size() as u64);
    exact();
    heap.release(8 * 16 * heap.page_size());
    exact();
    heap.release_all();
    assert_eq!(heap.statistics().free_backed, 0);
    exact();
    let half = PageRange::new(runs[1].start.as_ptr(), 8 * heap.page_size());
    // SAFETY: half of a run of ours, which is not touched any more.
    unsafe { heap.give_back_in_use(&[half], |_| unreachable!()) }.unwrap();
    heap.verify().unwrap();
    let (books, told) = (heap.statistics(), resident(&heap));
    assert!(told.is_none_or(|bytes| bytes.in_use + books.in_use_given_back == books.in_use));
    assert!(told.is_none_or(|bytes| bytes.given_back == 0));
}

/// Memory that goes or comes behind the heap's back.
fn memory_that_the_books_do_not_know_of_is_found<O: Os + Clone>(os: O) {
    let heap = heap(os.clone(), Options::new());
    // Keeps the reservation, and has the next run begin at a huge page.
    let small = written(&heap, 1);
    let whole = written(&heap, WHOLE);
    let Some(before) = resident(&heap) else { return };

    let lost = range_of(&heap, small);
    let policy = sysmem::Policy::DEFAULT;
    // SAFETY: a run of ours that nobody uses.
    unsafe { os.unused(lost, Protection::ReadWrite, GiveBack::Eager, policy) }.unwrap();
    let after = resident(&heap).unwrap();
    assert_eq!(after.in_use, before.in_use - lost.len as u64, "a page in use that is gone");
    // SAFETY: as above.
    unsafe { os.used(lost, Protection::ReadWrite) }.unwrap();

    free(&heap, whole);
    heap.release_all();
    assert_eq!(resident(&heap), Some(ResidentBytes::default()));
    let back = range_of(&heap, whole);
    // SAFETY: free pages of a heap that only this test uses.
    unsafe {
        os.used(back, Protection::ReadWrite).unwrap();
        whole.start.add(back.len - 1).write(1);
    }
    let found = heap.verify_residency().unwrap_err();
    assert_eq!(found.address, back.start.addr());
    assert!((1..=back.len as u64).contains(&found.counted), "{found}");
    heap.verify().unwrap();
}

/// Pages that were given back lazily may still be there.
fn lazily_given_back_memory_may_be_there<O: Os + Clone>(os: O) {
    let contract = os.unused_contract(GiveBack::Lazy);
    let heap = heap(os, Options::new().give_back(GiveBack::Lazy));
    let kept = written(&heap, 1);
    let whole = written(&heap, WHOLE);
    free(&heap, whole);
    heap.release_all();
    let Some(told) = resident(&heap) else { return };
    assert_eq!(told.in_use, range_of(&heap, kept).len as u64);
    assert_eq!(told.free_backed, 0);
    assert!(told.given_back <= range_of(&heap, whole).len as u64);
    assert!(told.given_back == 0 || contract.resident_falls == ResidentFalls::UnderPressure);
}

/// A kernel that makes no huge pages by itself, so that every page is where it was written.
#[cfg_attr(target_os = "openbsd", expect(dead_code, reason = "it cannot be asked, as below"))]
fn simulated<S: sim::System>() -> Simulated<S> {
    Simulated::start(Settings {
        backing: Backing::Real,
        huge_page_size: None,
        lazily_freed: LazilyFreed::Adversarial,
        ..Settings::heap(1 << 30)
    })
}

macro_rules! on_simulated_systems {
    ($($module:ident: $system:ident, $backend:ty;)*) => {$(
        // The simulator asks the running system what is in memory.
        #[cfg(not(target_os = "openbsd"))]
        mod $module {
            use super::*;

            fn os() -> $backend {
                <$backend>::new(simulated())
            }

            #[test]
            fn memory_is_what_the_books_say() {
                super::memory_is_what_the_books_say(os());
            }

            #[test]
            fn memory_that_the_books_do_not_know_of_is_found() {
                super::memory_that_the_books_do_not_know_of_is_found(os());
            }

            #[test]
            fn lazily_given_back_memory_may_be_there() {
                super::lazily_given_back_memory_may_be_there(os());
            }

            #[test]
            fn only_openbsd_does_not_tell() {
                let heap = heap(os(), Options::new());
                written(&heap, 1);
                assert_eq!(resident(&heap).is_none(), stringify!($system) == "OpenBsd");
            }
        }
    )*};
}

on_simulated_systems! {
    linux: Linux, sysmem::os::linux::Linux<Simulated<sim::Linux>>;
    freebsd: FreeBsd, sysmem::os::freebsd::FreeBsd<Simulated<sim::FreeBsd>>;
    netbsd: NetBsd, sysmem::os::netbsd::NetBsd<Simulated<sim::NetBsd>>;
    openbsd: OpenBsd, sysmem::os::openbsd::OpenBsd<Simulated<sim::OpenBsd>>;
    dragonfly: DragonFly, sysmem::os::dragonfly::DragonFly<Simulated<sim::DragonFly>>;
    illumos: Illumos, sysmem::os::illumos::Illumos<Simulated<sim::Illumos>>;
    darwin: Darwin, sysmem::os::darwin::Darwin<Simulated<sim::Darwin>>;
    windows: Windows, sysmem::os::windows::Windows<Simulated<sim::Windows>>;
}

mod running {
    use super::*;

    /// Whether a page may be in memory because its neighbour is.
    fn makes_huge_pages() -> bool {
        huge::query().mode == Some(huge::Mode::Always)
    }

    #[test]
    fn memory_is_what_the_books_say() {
        if !makes_huge_pages() {
            super::memory_is_what_the_books_say(Native::NEW);
        }
    }

    #[test]
    fn memory_that_the_books_do_not_know_of_is_found() {
        if !makes_huge_pages() {
            super::memory_that_the_books_do_not_know_of_is_found(Native::NEW);
        }
    }

    #[test]
    fn lazily_given_back_memory_may_be_there() {
        super::lazily_given_back_memory_may_be_there(Native::NEW);
    }
}
