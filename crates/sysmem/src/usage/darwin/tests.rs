use super::*;
use crate::usage::answers::{Answers, DarwinKernel, ask_everything, damages, reconciled};
use crate::usage::bytes::put;
use proptest::prelude::*;
use std::vec::Vec;

/// Composed from <sys/proc_info.h>.
fn task() -> Vec<u8> {
    let mut bytes = std::vec![0xee; TASK_INFO];
    put(&mut bytes, 0, &(400u64 << 30).to_ne_bytes());
    put(&mut bytes, 8, &(50u64 << 20).to_ne_bytes());
    put(&mut bytes, 52, &4711u32.to_ne_bytes());
    bytes
}

fn rusage() -> Vec<u8> {
    let mut bytes = std::vec![0xee; RUSAGE_INFO];
    for (offset, value) in [(16, 24u64), (24, 48), (56, 1 << 14), (72, 9 << 20), (240, 11 << 20)] {
        put(&mut bytes, offset, &value.to_ne_bytes());
    }
    bytes
}

fn vm_info() -> Vec<u8> {
    let mut bytes = std::vec![0xee; VM_INFO];
    put(&mut bytes, 8, &321u32.to_ne_bytes());
    for (offset, value) in [(16, 50u64), (24, 60), (48, 30), (64, 20), (80, 7), (120, 3)] {
        put(&mut bytes, offset, &(value << 20).to_ne_bytes());
    }
    bytes
}

struct Region {
    start: u64,
    npages: u64,
    protection: u32,
    flags: u32,
    tag: u32,
    mode: u32,
    path: &'static str,
}

fn region(region: &Region) -> Vec<u8> {
    let mut bytes = std::vec![0; REGION];
    for (offset, value) in [
        (0, region.protection),
        (12, region.flags),
        (32, region.tag),
        (36, 5),
        (44, 2),
        (60, region.mode),
        (64, 4),
    ] {
        put(&mut bytes, offset, &value.to_ne_bytes());
    }
    put(&mut bytes, 80, &region.start.to_ne_bytes());
    put(&mut bytes, 88, &(region.npages * 4096).to_ne_bytes());
    put(&mut bytes, 248, region.path.as_bytes());
    bytes
}

fn regions() -> Vec<(u64, Vec<u8>)> {
    let plain = Region { start: 0, npages: 8, protection: 3, flags: 0, tag: 0, mode: 2, path: "" };
    [
        Region { start: 0x1_0000, protection: 5, mode: 1, path: "/bin/cat", ..plain },
        Region { start: 0x10_0000, tag: 2, ..plain },
        Region { start: 0x20_0000, ..plain },
        Region { start: 0x30_0000, mode: 5, ..plain },
        Region { start: 0x40_0000, tag: 30, ..plain },
        Region { start: 0x50_0000, protection: 1, flags: 1, ..plain },
        Region { start: 0x60_0000, protection: 5, path: "/usr/lib/dyld", ..plain },
    ]
    .iter()
    .map(|it| (it.start + it.npages * 4096, region(it)))
    .collect()
}

fn answers() -> Answers<DarwinKernel> {
    let mut statistics = std::vec![0xee; VM_STATISTICS];
    put(&mut statistics, 0, &100u32.to_ne_bytes());
    put(&mut statistics, 128, &9u32.to_ne_bytes());
    let swap: Vec<u8> =
        [5u64 << 30, 3 << 30, 2 << 30, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    Answers::new()
        .mach(task(), rusage(), vm_info(), statistics, regions(), "/bin/cat")
        .name(c"hw.memsize", 16u64 << 30)
        .name(c"kern.memorystatus_vm_pressure_level", 2u32)
        .named_bytes(c"vm.swapusage", swap)
}

#[test]
fn the_own_process_is_told_in_full() {
    let os = Darwin::new(answers());
    let told = os.process_usage(Process::Own, Detail::Counters).unwrap();
    let expected = ProcessUsage {
        virtual_size: Some(400 << 30),
        resident: Some(50 << 20),
        peak_resident: Some(60 << 20),
        resident_anonymous: Some(30 << 20),
        resident_files: Some(20 << 20),
        swapped: Some(3 << 20),
        locked: Some(1 << 14),
        phys_footprint: Some(9 << 20),
        peak_phys_footprint: Some(11 << 20),
        mappings: Some(321),
        user_time: Some(Duration::from_millis(5)),
        system_time: Some(Duration::from_millis(6)),
        minor_faults: Some(7),
        major_faults: Some(8),
        pages: PageFigures {
            resident: Some(50 << 20),
            lazily_freed: Some(7 << 20),
            ..PageFigures::default()
        },
        ..ProcessUsage::default()
    };
    assert_eq!(told, expected);
    assert_eq!(told.pages.resident_in_use(), Some(43 << 20));
}

#[test]
fn another_process_is_told_without_its_port() {
    let os = Darwin::new(answers());
    let told = os.process_usage(Process::Id(17), Detail::Counters).unwrap();
    // 24 and 48 ticks of 125/3 ns.
    assert_eq!(told.user_time, Some(Duration::from_nanos(1000)));
    assert_eq!(told.system_time, Some(Duration::from_nanos(2000)));
    assert_eq!((told.page_faults, told.minor_faults), (Some(4711), None));
    assert_eq!((told.mappings, told.pages), (None, PageFigures::default()));
    let gone = os.process_usage(Process::Id(18), Detail::Counters);
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::Gone);
}

#[test]
fn the_machine_has_its_compressor_swap_and_level() {
    let machine = Darwin::new(answers()).machine_usage().unwrap();
    assert_eq!((machine.total, machine.free), (Some(16 << 30), Some(100 << 12)));
    assert_eq!(machine.compressor, Some(9 << 12));
    assert_eq!((machine.swap_total, machine.swap_free), (Some(5 << 30), Some(3 << 30)));
    assert_eq!(machine.memory_is_short, Some(true));
}

#[test]
fn mappings_are_walked_to_the_end() {
    let os = Darwin::new(answers());
    let mut seen = Vec::new();
    let mut buffer = std::vec![0; 8192];
    os.mappings(Process::Own, Detail::Pages, &mut buffer, &mut |mapping| {
        assert_eq!(mapping.pages.resident, Some(5 << 12));
        assert_eq!(mapping.pages.swapped, Some(2 << 12));
        seen.push((mapping.kind, mapping.name.to_vec(), mapping.shared.unwrap()));
    })
    .unwrap();
    use MappingKind::*;
    let expected = [
        (Program, &b"/bin/cat"[..], false),
        (Named, b"MALLOC_SMALL", false),
        (Anonymous, b"", false),
        (SharedMemory, b"", true),
        (Stack, b"", false),
        (File, b"", false),
        (File, b"/usr/lib/dyld", false),
    ];
    let expected: Vec<_> =
        expected.into_iter().map(|(kind, name, shared)| (kind, name.to_vec(), shared)).collect();
    assert_eq!(seen, expected);
    let small = os.mappings(Process::Own, Detail::Pages, &mut [0; 1024], &mut |_| {});
    assert!(matches!(small.unwrap_err().kind(), ErrorKind::SmallBuffer { .. }));
}

#[test]
fn a_reservation_in_the_listing_is_ours_and_the_rest_is_named() {
    let os = Darwin::new(answers());
    let (size, resident, whole) = reconciled(&os, 0x20_0000, 8 << 12);
    assert_eq!((size, resident), (8 << 12, Some(5 << 12)));
    let rest = whole.not_ours(crate::usage::Group::Stacks);
    assert_eq!((rest.virtual_size, rest.resident), (8 << 12, Some(5 << 12)));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..1400),
        clock in any::<(u32, u32)>(),
    ) {
        let _ = decode_task(&bytes);
        let mut usage = ProcessUsage::default();
        put_rusage(&mut usage, Bytes(&bytes), clock);
        put_vm_info(&mut usage, Bytes(&bytes));
        if let Some((mapping, end)) = mapping(Bytes(&bytes), 4096, b"/bin/cat") {
            prop_assert!(mapping.start < mapping.end && end as usize == mapping.end);
        }
    }

    #[test]
    fn a_walk_over_damaged_regions_ends(
        region in 0usize..7,
        place in 0usize..100,
        damage in proptest::collection::vec(any::<u8>(), 1..9),
    ) {
        let mut regions = regions();
        put(&mut regions[region].1, place, &damage);
        let os = Darwin::new(answers().regions(regions));
        let mut buffer = std::vec![0; 8192];
        let _ = os.mappings(Process::Own, Detail::Pages, &mut buffer, &mut |_| {});
    }

    #[test]
    fn damaged_answers_are_told_or_refused(damage in damages()) {
        ask_everything(&Darwin::new(answers().damaged(&damage)), Detail::Pages);
    }
}
