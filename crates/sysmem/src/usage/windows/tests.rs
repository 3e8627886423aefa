use super::*;
use crate::usage::answers::{Answers, WindowsKernel, ask_everything, damages, reconciled};
use crate::usage::bytes::put;
use proptest::prelude::*;
use std::vec::Vec;

/// Composed from psapi.h.
fn counters() -> Vec<u8> {
    let mut bytes = std::vec![0xee; COUNTERS];
    put(&mut bytes, 4, &4711u32.to_ne_bytes());
    for (offset, value) in [(8, 60u64), (16, 50), (64, 90), (72, 80)] {
        put(&mut bytes, offset, &(value << 20).to_ne_bytes());
    }
    bytes
}

fn performance() -> Vec<u8> {
    let mut bytes = std::vec![0xee; PERFORMANCE];
    for (offset, value) in [(8, 10u64), (16, 30), (32, 20), (40, 7), (80, 4096)] {
        put(&mut bytes, offset, &value.to_ne_bytes());
    }
    bytes
}

/// Composed from winnt.h.
fn job(flags: u32) -> Vec<u8> {
    let mut bytes = std::vec![0xee; LIMITS];
    put(&mut bytes, 16, &flags.to_ne_bytes());
    for (offset, value) in [(112, 1u64), (120, 2), (136, 3)] {
        put(&mut bytes, offset, &(value << 30).to_ne_bytes());
    }
    bytes
}

fn region(start: u64, npages: u64, state: u32, protection: u32, kind: u32) -> Vec<u8> {
    let mut bytes = std::vec![0; REGION];
    put(&mut bytes, 0, &start.to_ne_bytes());
    put(&mut bytes, 8, &(start & !0xffff).to_ne_bytes());
    put(&mut bytes, 24, &(npages * 4096).to_ne_bytes());
    put(&mut bytes, 32, &state.to_ne_bytes());
    put(&mut bytes, 36, &protection.to_ne_bytes());
    put(&mut bytes, 40, &kind.to_ne_bytes());
    bytes
}

const COMMIT: u32 = 0x1000;
const RESERVE: u32 = 0x2000;
const FREE: u32 = 0x1_0000;
const PRIVATE: u32 = 0x2_0000;
const MAPPED: u32 = 0x4_0000;
const IMAGE: u32 = 0x100_0000;

fn regions() -> Vec<Vec<u8>> {
    std::vec![
        region(0, 16, FREE, 1, 0),
        region(0x1_0000, 4, COMMIT, 4, PRIVATE),
        region(0x1_4000, 12, RESERVE, 0, PRIVATE),
        region(0x2_0000, 3, COMMIT, 0x104, PRIVATE),
        region(0x2_3000, 13, FREE, 1, 0),
        region(0x3_0000, 8, COMMIT, 0x20, IMAGE),
        region(0x3_8000, 8, COMMIT, 4, IMAGE),
        region(0x4_0000, 8, COMMIT, 0x80, IMAGE),
        region(0x4_8000, 8, FREE, 1, 0),
        region(0x5_0000, 16, COMMIT, 4, MAPPED),
        region(0x6_0000, 16, COMMIT, 2, MAPPED),
    ]
}

const PROGRAM: &str = "\\Device\\HarddiskVolume2\\cat.exe";
const LIBRARY: &str = "\\Device\\HarddiskVolume2\\Übung.dll";
const DATA: &str = "\\Device\\HarddiskVolume2\\data";

fn answers() -> Answers<WindowsKernel> {
    Answers::new().windows(
        [counters(), performance(), job(0x200)],
        regions(),
        0x3_0000,
        &[(0x3_0000, PROGRAM), (0x3_8000, PROGRAM), (0x4_0000, LIBRARY), (0x6_0000, DATA)],
    )
}

#[test]
fn a_process_is_told_with_its_commit_charge() {
    let os = Windows::new(answers());
    let told = os.process_usage(Process::Own, Detail::Counters).unwrap();
    let expected = ProcessUsage {
        page_faults: Some(4711),
        peak_resident: Some(60 << 20),
        resident: Some(50 << 20),
        commit_charge: Some(80 << 20),
        peak_commit_charge: Some(90 << 20),
        user_time: Some(Duration::from_millis(3)),
        system_time: Some(Duration::from_millis(2)),
        ..ProcessUsage::default()
    };
    assert_eq!(told, expected);
    let gone = os.process_usage(Process::Id(18), Detail::Counters);
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::Gone);
    let denied = os.process_usage(Process::Id(4), Detail::Counters);
    assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
}

#[test]
fn the_machine_is_told_in_pages_and_the_job_by_its_limits() {
    let os = Windows::new(answers());
    let machine = os.machine_usage().unwrap();
    assert_eq!((machine.total, machine.available), (Some(20 << 12), Some(7 << 12)));
    assert_eq!((machine.committed, machine.commit_limit), (Some(10 << 12), Some(30 << 12)));
    assert_eq!((machine.swap_total, machine.swap_free), (Some(9 << 12), Some(5 << 12)));
    assert_eq!(machine.huge_page_size, Some(2 << 20));
    assert_eq!(machine.memory_is_short, Some(false));
    let group = os.control_group(Process::Own).unwrap();
    assert_eq!((group.limit, group.peak), (Some(2 << 30), Some(3 << 30)));
    assert_eq!(group.process_limit, Some(NO_LIMIT));
    let none = os.control_group(Process::Id(17)).unwrap();
    assert_eq!(none, ControlGroup::default());
}

#[test]
fn regions_are_told_with_kind_name_and_pages() {
    let os = Windows::new(answers());
    let mut seen = Vec::new();
    let mut buffer = std::vec![0; 4096];
    os.mappings(Process::Id(17), Detail::Pages, &mut buffer, &mut |mapping| {
        let access = (mapping.readable, mapping.writable, mapping.executable);
        let name = std::string::String::from_utf8(mapping.name.to_vec()).unwrap();
        let resident = mapping.pages.resident.unwrap() / 4096;
        seen.push((mapping.kind, name, access, mapping.shared.unwrap(), resident));
    })
    .unwrap();
    use MappingKind::*;
    // Every third page is resident.
    let expected = [
        (Anonymous, "", (true, true, false), false, 1),
        (Anonymous, "", (false, false, false), false, 0),
        (Anonymous, "", (false, false, false), false, 1),
        (Program, PROGRAM, (true, false, true), false, 3),
        (Program, PROGRAM, (true, true, false), false, 3),
        (File, LIBRARY, (true, true, true), false, 2),
        (SharedMemory, "", (true, true, false), true, 5),
        (File, DATA, (true, false, false), true, 6),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(kind, name, access, shared, n)| (kind, name.into(), access, shared, n))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn pages_are_told_in_runs() {
    let os = Windows::new(answers());
    let range = PageRange::new(core::ptr::without_provenance_mut(0x3_0000), 6 * 4096);
    let mut seen = Vec::new();
    os.page_runs(Process::Own, range, &mut |run| {
        seen.push((run.start, run.len() / 4096, run.state.resident));
    })
    .unwrap();
    let page = |n: usize| 0x3_0000 + n * 4096;
    let expected =
        [(page(0), 1, true), (page(1), 2, false), (page(3), 1, true), (page(4), 2, false)];
    assert_eq!(seen, expected);
}

#[test]
fn names_are_cut_at_whole_characters() {
    let wide: Vec<u16> = "aÜ€😀z".encode_utf16().collect();
    for (room, text) in [(0, ""), (2, "a"), (3, "aÜ"), (6, "aÜ€"), (9, "aÜ€"), (11, "aÜ€😀z")]
    {
        let mut buffer = std::vec![0; room];
        assert_eq!(utf8(&wide, &mut buffer), text.as_bytes(), "{room}");
    }
    assert_eq!(utf8(&[0xd800, 0x61], &mut [0; 8]), "\u{fffd}a".as_bytes());
}

#[test]
fn a_reservation_in_the_listing_is_ours_and_the_rest_is_named() {
    let os = Windows::new(answers());
    let (size, resident, whole) = reconciled(&os, 0x1_0000, 16 << 12);
    assert_eq!((size, resident), (16 << 12, Some(1 << 12)));
    let rest = whole.not_ours(crate::usage::Group::Program);
    assert_eq!((rest.virtual_size, rest.resident), (16 << 12, Some(6 << 12)));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..160),
        wide in proptest::collection::vec(any::<u16>(), 0..40),
        room in 0usize..60,
    ) {
        let _ = decode(&bytes);
        let _ = decode_machine(&bytes);
        let _ = decode_job(&bytes);
        if let Some(region) = Region::decode(Bytes(&bytes)) {
            prop_assert!(region.start < region.end);
        }
        let mut buffer = std::vec![0; room];
        prop_assert!(core::str::from_utf8(utf8(&wide, &mut buffer)).is_ok());
    }

    #[test]
    fn a_walk_over_damaged_regions_ends(
        region in 0usize..11,
        place in 0usize..40,
        damage in proptest::collection::vec(any::<u8>(), 1..9),
    ) {
        let mut regions = regions();
        put(&mut regions[region], place, &damage);
        let os = Windows::new(answers().windows_regions(regions));
        let mut buffer = std::vec![0; 4096];
        let _ = os.mappings(Process::Own, Detail::Counters, &mut buffer, &mut |_| {});
    }

    #[test]
    fn damaged_answers_are_told_or_refused(damage in damages()) {
        ask_everything(&Windows::new(answers().damaged(&damage)), Detail::Counters);
    }
}
