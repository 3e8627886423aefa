//! Huge pages of the running Linux.
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use sysmem::Native;
use sysmem::huge::{self, Mode};
use sysmem_pages::{Accounts, HugePages, Options, PAGE, PageHeap, Run, Scavenger};

const PART: usize = 16;

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
