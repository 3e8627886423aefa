//! What /proc tells of memory that hints were given for, and residency.

use std::collections::BTreeSet;
use std::fs;

use sysmem::native::Kernel;
use sysmem::os::PageResidency;
use sysmem::os::linux::Linux;
use sysmem::sim::{Call, Faulty};
use sysmem::{
    Errno, ErrorKind, GiveBack, Native, Os, PageRange, Protection, ReserveOptions, page_size,
};

use super::{read, ready, reserve, word};

/// The lines of /proc/self/smaps about the mapping that holds `address`.
fn smaps(address: usize) -> String {
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = range.and_then(|(a, b)| Some((number(a)?, number(b)?))) {
            inside = start <= address && address < end;
        }
        inside
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn has_flag(address: usize, flag: &str) -> bool {
    let smaps = smaps(address);
    let flags = smaps.lines().find(|line| line.starts_with("VmFlags")).expect("CONFIG_PROC_FS");
    flags.split(' ').any(|found| found == flag)
}

#[test]
fn huge_page_hints_reach_the_mapping() {
    let Some(huge) = Native::NEW.huge_page_size() else {
        return eprintln!("skipped: this kernel has no transparent huge pages");
    };
    let mut memory = reserve(ReserveOptions::new(4 * huge).align(huge));
    memory.map(0, 4 * huge, Protection::ReadWrite).unwrap();
    memory.huge_page(0, huge).unwrap();
    memory.no_huge_page(2 * huge, huge).unwrap();
    let at = |index: usize| memory.as_mut_ptr().addr() + index * huge;
    assert!(has_flag(at(0), "hg") && !has_flag(at(0), "nh"));
    assert!(has_flag(at(2), "nh") && !has_flag(at(2), "hg"));
    assert!(!has_flag(at(1), "hg") && !has_flag(at(1), "nh"));
}

#[test]
fn collapsing_makes_huge_pages_and_keeps_contents() {
    let Some(huge) = Native::NEW.huge_page_size() else {
        return eprintln!("skipped: this kernel has no transparent huge pages");
    };
    let mut memory = reserve(ReserveOptions::new(huge).align(huge));
    let (half, len) = (huge / 2, huge);
    // Page by page, so that no huge page is there before.
    memory.map(0, half, Protection::ReadWrite).unwrap();
    memory.used(0, half).unwrap();
    for page in 0..half / page_size() {
        // SAFETY: Ready.
        unsafe { word(&memory, page).write_volatile(page as u64 + 1) };
    }
    memory.map(half, half, Protection::ReadWrite).unwrap();
    memory.used(0, len).unwrap();
    match memory.collapse(0, len) {
        Err(error) if error.kind() == ErrorKind::NotSupported => {
            return eprintln!("skipped: this kernel does not collapse (before 6.1)");
        }
        // No free huge page at this moment (madvise(2): EAGAIN, ENOMEM, EBUSY).
        Err(error) => return eprintln!("skipped: {error}"),
        Ok(()) => {}
    }
    let smaps = smaps(memory.as_mut_ptr().addr());
    let line = smaps.lines().find(|line| line.starts_with("AnonHugePages")).unwrap();
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes * 1024 >= huge, "{line}");
    for page in 0..half / page_size() {
        assert_eq!(read(&memory, page), page as u64 + 1);
    }
    assert_eq!(memory.resident_bytes(0, len), Ok(len));
}

#[test]
fn names_are_shown_in_the_listing_of_mappings() {
    let memory = ready(4);
    match memory.name(c"sysmem test name") {
        Err(error) if error.kind() == ErrorKind::NotSupported => {
            return eprintln!("skipped: this kernel does not name mappings");
        }
        result => result.unwrap(),
    }
    let line = smaps(memory.as_mut_ptr().addr());
    assert!(line.lines().next().unwrap().ends_with("[anon:sysmem test name]"), "{line}");
}

#[test]
fn residency_tells_frames_to_those_who_may_know() {
    let mut memory = ready(200);
    memory.unused(3 * page_size(), page_size(), GiveBack::Eager).unwrap();
    let mut pages = [PageResidency::default(); 200];
    memory.residency(0, &mut pages).unwrap();
    for (index, page) in pages.iter().enumerate() {
        assert_eq!(page.resident || page.swapped, index != 3, "page {index}");
    }
    let frames: BTreeSet<_> = pages.iter().filter_map(|page| page.frame).collect();
    if frames.is_empty() {
        // SAFETY: takes no memory.
        assert_ne!(unsafe { libc::geteuid() }, 0, "root may see frames, unless in a namespace");
        return eprintln!("skipped in part: frames are for root");
    }
    let resident = pages.iter().filter(|page| page.resident).count();
    assert_eq!(frames.len(), resident, "two pages cannot lie in one frame");
}

#[test]
fn without_pagemap_mincore_tells_the_same() {
    let faulty = Faulty::new(Kernel);
    faulty.fail_every(|call| matches!(call, Call::Open { .. }), Errno(libc::ENOENT));
    let mut memory = ready(300);
    memory.unused(7 * page_size(), 90 * page_size(), GiveBack::Eager).unwrap();
    let range = PageRange::new(memory.as_mut_ptr(), memory.len());
    let os = Linux::new(faulty);
    let mut by_mincore = [PageResidency::default(); 300];
    os.residency(range, &mut by_mincore).unwrap();
    for (index, page) in by_mincore.iter().enumerate() {
        assert_eq!(page.resident, !(7..97).contains(&index), "page {index}");
        assert_eq!(page.frame, None);
    }
    assert_eq!(os.resident_bytes(range), memory.resident_bytes(0, memory.len()));
}
