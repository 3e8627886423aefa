//! Where the pages of a range are.

use std::ops::Range;

use super::*;

/// The runs of a range that are in memory, as offsets in pages.
fn resident_runs(memory: &Reservation, os: &impl Usage) -> Vec<Range<usize>> {
    let range = PageRange::new(memory.as_mut_ptr(), memory.len());
    let (start, page) = (memory.as_mut_ptr().addr(), page_size());
    let mut runs = Vec::new();
    os.page_runs(Process::Own, range, &mut |run| {
        if run.state.resident {
            runs.push((run.start - start) / page..(run.end - start) / page);
        }
    })
    .unwrap();
    runs
}

#[test]
fn a_range_is_told_in_runs_with_and_without_the_scan() {
    let _turn = alone();
    let page = page_size();
    let memory = ready(1024 * page);
    memory.no_huge_page(0, memory.len()).unwrap();
    // More runs than are told at once, and a long one.
    let mut expected: Vec<Range<usize>> = (0..200).map(|n| 2 * n..2 * n + 1).collect();
    expected.push(500..900);
    for run in &expected {
        for index in run.clone() {
            // SAFETY: Ready.
            unsafe { memory.as_mut_ptr().add(index * page).write_volatile(1) };
        }
    }
    assert_eq!(resident_runs(&memory, &sysmem::Native::NEW), expected);
    // As kernels before 6.7 answer it.
    let kernel = Faulty::new(Kernel);
    kernel.fail_every(|call| matches!(call, Call::PagemapScan { .. }), Errno(libc::ENOTTY));
    assert_eq!(resident_runs(&memory, &Linux::new(kernel)), expected);
    let range = PageRange::new(memory.as_mut_ptr(), memory.len());
    assert_eq!(sysmem::Native::NEW.resident_bytes(range).unwrap(), 600 * page);
    let part = PageRange::new(memory.as_mut_ptr().wrapping_add(1), page);
    let refused = usage::residency(Process::Own, part, &mut |_| {});
    assert!(matches!(refused.unwrap_err().kind(), ErrorKind::Unaligned { .. }));
}

#[test]
fn what_pages_are_is_told() {
    let _turn = alone();
    let page = page_size();
    let memory = ready(8 * page);
    // Reading maps the page of zeros that costs nothing.
    // SAFETY: Ready.
    unsafe { memory.as_mut_ptr().read_volatile() };
    touch_page(&memory, 1);
    let mut states = Vec::new();
    let range = PageRange::new(memory.as_mut_ptr(), 2 * page);
    usage::residency(Process::Own, range, &mut |run| states.push((run.len(), run.state))).unwrap();
    let [(_, zero), (_, own)] = states[..] else { panic!("{states:?}") };
    assert!(zero.resident && own.resident);
    if zero.zero.is_some() {
        assert_eq!((zero.zero, own.zero), (Some(true), Some(false)), "{states:?}");
    }
    assert_eq!((own.file, own.swapped), (Some(false), Some(false)));
    // The program's own code is of a file, and another process may look at it too.
    let code = (what_pages_are_is_told as fn() as usize) & !(page - 1);
    let range = PageRange::new(std::ptr::without_provenance_mut(code), page);
    for process in [Process::Own, Process::Id(std::process::id())] {
        let mut seen = Vec::new();
        usage::residency(process, range, &mut |run| seen.push(run.state)).unwrap();
        assert!(seen.iter().all(|it| it.resident && it.file == Some(true)), "{seen:?}");
        assert_eq!(seen.len(), 1);
    }
}

fn touch_page(memory: &Reservation, index: usize) {
    // SAFETY: the tests touch only what is Ready.
    unsafe { memory.as_mut_ptr().add(index * page_size()).write_volatile(1) };
}

#[test]
fn huge_pages_are_told_by_the_scan() {
    let _turn = alone();
    let Some((memory, huge)) = ready_in_huge_pages(2) else { return };
    memory.no_huge_page(huge, huge).unwrap();
    touch(&memory, 2 * huge);
    if let Err(error) = memory.collapse(0, huge) {
        println!("skipped: {error}");
        return;
    }
    let mut runs = Vec::new();
    let range = PageRange::new(memory.as_mut_ptr(), 2 * huge);
    usage::residency(Process::Own, range, &mut |run| runs.push((run.len(), run.state.huge)))
        .unwrap();
    if runs[0].1.is_some() {
        assert_eq!(runs, [(huge, Some(true)), (huge, Some(false))]);
    }
}

#[test]
fn address_space_costs_a_scan_nothing() {
    let _turn = alone();
    let memory = Reservation::reserve(ReserveOptions::new(1 << 40), &ACCOUNT).unwrap();
    let kernel = Traced::new(Kernel);
    let os = Linux::new(kernel.clone());
    assert_eq!(resident_runs(&memory, &os), Vec::<Range<usize>>::new());
    let scans = kernel.count(|call| matches!(call, Call::PagemapScan { .. }));
    let read = kernel.count(|call| matches!(call, Call::ReadAt { .. }));
    assert!(scans == 1 && read < 10, "{scans} scans, {read} reads");
}

#[test]
fn one_range_is_told_page_by_page() {
    let _turn = alone();
    let memory = ready(16 * page_size());
    memory.no_huge_page(0, memory.len()).unwrap();
    touch(&memory, 5 * page_size());
    let range = PageRange::new(memory.as_mut_ptr(), memory.len());
    let resident = sysmem::Native::NEW.resident_bytes(range).unwrap();
    assert_eq!(resident, 5 * page_size());
}
