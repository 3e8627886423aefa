//! Huge pages of the running Linux.
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use sysmem::huge::{self, Mode};
use sysmem::{Native, Os, PageRange};
use sysmem_pages::{
    Accounts, HugePages, Options, PAGE, PageHeap, Residency, ResidentBytes, Run, Scavenger,
};

const PART: usize = 16;

type Heap = PageHeap<Native>;

/// The bytes in huge pages of the mapping that an address lies in.
fn huge_bytes(address: usize) -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_inside = false;
    for line in smaps.lines() {
        let word = line.split_whitespace().next().unwrap_or("");
        if let Some((from, to)) = word.split_once('-') {
            let number = |text| usize::from_str_radix(text, 16);
            if let (Ok(from), Ok(to)) = (number(from), number(to)) {
                is_inside = (from..to).contains(&address);
            }
        } else if is_inside && word == "AnonHugePages:" {
            return line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10;
        }
    }
    0
}

#[test]
fn a_dense_broken_huge_page_becomes_whole_again() {
    static ACCOUNTS: Accounts = Accounts::new("huge pages", "huge pages: records");
    let heap = PageHeap::new(Native::NEW, &ACCOUNTS, Options::new().huge_pages(HugePages::Advise));
    heap.expect_scavenger(0);
    let huge_page = 256 * heap.page_size();
    let system = huge::query();
    let is_on = matches!(system.mode, Some(Mode::Always | Mode::Advised));
    if !is_on || system.size != Some(huge_page) || system.on_for_process == Some(false) {
        eprintln!("skipped: this system makes no huge pages of the heap's size: {system:?}");
        return;
    }
    // Nobody touches it; it makes room for idle memory.
    heap.allocate(32 * 256, PAGE).unwrap();
    let mut parts: Vec<Run> = (0..256 / PART).map(|_| heap.allocate(PART, PAGE).unwrap()).collect();
    let bytes = |run: &Run| {
        // SAFETY: the run is Ready memory of this test, which uses it only while it has the run.
        unsafe { std::slice::from_raw_parts_mut(run.start.as_ptr(), PART * heap.page_size()) }
    };
    parts.iter().for_each(|run| bytes(run).fill(0x5A));
    let address = parts[0].start.addr().get();
    let at_first = huge_bytes(address);
    for run in parts.split_off(12) {
        // SAFETY: the run is out of the list.
        unsafe { heap.free(run.start, run.npages) }.unwrap();
    }
    assert_eq!(heap.release_all(), 4 * PART * heap.page_size());
    let broken = huge_bytes(address);
    assert!(at_first == 0 || broken + huge_page == at_first, "{at_first}, then {broken}");

    let mut scavenger = Scavenger::new();
    let begin = Instant::now();
    while heap.statistics().collapses == 0 {
        if heap.statistics().failed_collapses > 0 {
            eprintln!("skipped: this system refuses to collapse (Linux before 6.1, or no memory)");
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(60));
        let wait = scavenger.step(&heap).unwrap_or(Duration::from_millis(100));
        std::thread::sleep(wait);
    }
    assert_eq!(huge_bytes(address), broken + huge_page);
    assert_eq!(heap.statistics().in_use_intact, heap.statistics().in_use);
    assert!(parts.iter().all(|run| bytes(run).iter().all(|&byte| byte == 0x5A)));
    heap.verify().unwrap();
}

/// A heap with one huge page of which a quarter was given back, and where that lies.
fn with_a_broken_huge_page(
    accounts: &'static Accounts,
    huge_pages: HugePages,
) -> (Heap, PageRange) {
    let heap = PageHeap::new(Native::NEW, accounts, Options::new().huge_pages(huge_pages));
    let run = heap.allocate(256, 256 * heap.page_size()).unwrap();
    // SAFETY: the run is Ready and ours; its first quarter is freed once, and used no more.
    unsafe {
        run.start.write_bytes(0x5A, 256 * heap.page_size());
        heap.free(run.start, 64).unwrap();
    }
    assert_eq!(heap.release_all(), 64 * heap.page_size());
    let range = PageRange::new(run.start.as_ptr(), 256 * heap.page_size());
    (heap, range)
}

fn resident(heap: &Heap) -> ResidentBytes {
    match heap.verify_residency().unwrap() {
        Residency::Told(bytes) => bytes,
        Residency::NotTold(error) => panic!("{error}"),
    }
}

/// What khugepaged of this machine says of itself.
fn khugepaged(what: &str) -> Option<u64> {
    let path = format!("/sys/kernel/mm/transparent_hugepage/khugepaged/{what}");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[test]
fn what_was_given_back_of_a_huge_page_does_not_come_again_unseen() {
    static ADVISED: Accounts = Accounts::new("advised", "advised: records");
    static OTHERS: Accounts = Accounts::new("others", "others: records");
    let system = huge::query();
    let is_on = matches!(system.mode, Some(Mode::Always | Mode::Advised));
    if !is_on || system.size != Some(256 * PAGE) || system.on_for_process == Some(false) {
        eprintln!("skipped: this system makes no huge pages of the heap's size: {system:?}");
        return;
    }
    let (other, range) = with_a_broken_huge_page(&OTHERS, HugePages::System);
    // SAFETY: memory of the heap above, whose contents this keeps.
    if let Err(error) = unsafe { Native::NEW.collapse(range) } {
        eprintln!("skipped: this system makes no huge pages when told to: {error}");
        return;
    }
    // This is what would come.
    assert_eq!(resident(&other).given_back, 64 * PAGE as u64);

    let (heap, range) = with_a_broken_huge_page(&ADVISED, HugePages::Advise);
    // SAFETY: as above.
    let refused = unsafe { Native::NEW.collapse(range) };
    assert!(refused.is_err(), "the system made a huge page of it all the same");
    assert_eq!(resident(&heap).given_back, 0);
    // The same, where khugepaged comes by often: not by default, but as root may have it.
    if khugepaged("scan_sleep_millisecs").is_some_and(|wait| wait <= 100) {
        let begin = Instant::now();
        let scans = || khugepaged("full_scans").unwrap_or(u64::MAX);
        let until = scans().saturating_add(3);
        while scans() < until && begin.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(resident(&heap).given_back, 0);
    }
    heap.verify().unwrap();
}
