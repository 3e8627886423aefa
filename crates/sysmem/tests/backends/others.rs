use sysmem::calls::Kernel;
use sysmem::huge::{HugePageControl, Scope};
use sysmem::os::darwin::Darwin;
use sysmem::os::illumos::Illumos;
use sysmem::os::windows::Windows;
use sysmem::os::{Inheritance, Os, PageRange, PageResidency, Placement, Policy};
use sysmem::{ErrorKind, GiveBack, Limit, ReserveOptions};

use super::scripted::{ANYWHERE, Asked::*, PAGE, Scripted, Speaks};
use super::{AT, EXECUTABLE, LEN, Operate, PLAIN, RW, SECRET, range};

pub(super) struct SpeaksIllumos;
impl Speaks for SpeaksIllumos {
    const KERNEL: Kernel = Kernel::Illumos;
}

pub(super) struct SpeaksDarwin;
impl Speaks for SpeaksDarwin {
    const KERNEL: Kernel = Kernel::Darwin;
}

pub(super) struct SpeaksWindows;
impl Speaks for SpeaksWindows {
    const KERNEL: Kernel = Kernel::Windows;
}

pub(super) fn illumos() -> Illumos<Scripted<SpeaksIllumos>> {
    Illumos::new(Scripted::new())
}

pub(super) fn darwin() -> Darwin<Scripted<SpeaksDarwin>> {
    Darwin::new(Scripted::new())
}

pub(super) fn windows() -> Windows<Scripted<SpeaksWindows>> {
    Windows::new(Scripted::new())
}

#[test]
fn illumos_takes_swap_when_it_commits() {
    let os = illumos();
    os.reserve(&ReserveOptions::new(LEN)).unwrap();
    os.reserve(&ReserveOptions::new(LEN).align(1 << 21)).unwrap();
    os.do_map(RW, PLAIN).unwrap();
    os.do_used().unwrap();
    os.do_unused(GiveBack::Lazy, PLAIN).unwrap();
    os.do_unused(GiveBack::Eager, PLAIN).unwrap();
    os.do_fault(PLAIN).unwrap();
    assert_eq!(
        os.kernel().asked(),
        [
            Mmap(0, LEN, 0, 0x142),
            // MAP_ALIGN: the alignment in place of the address. The answer is aligned.
            Mmap(1 << 21, LEN, 0, 0x342),
            Mmap(AT, LEN, 3, 0x112),
            Madvise(AT, LEN, 5),
            Mmap(AT, LEN, 3, 0x112),
            Mmap(AT, LEN, 0, 0x152),
        ]
    );
}

#[test]
fn illumos_is_out_of_memory_at_eagain_and_still_has_the_reservation() {
    let os = illumos();
    os.kernel().answer(|asked| matches!(asked, Mmap(_, _, 3, _)).then_some(Err(11)));
    let error = os.do_map(RW, PLAIN).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
    assert_eq!(os.kernel().asked(), [Mmap(AT, LEN, 3, 0x112), Mmap(AT, LEN, 0, 0x142)]);
}

#[test]
fn illumos_names_the_address_space_limit_and_the_swap_that_there_is() {
    let mut kernel = Scripted::<SpeaksIllumos>::new();
    kernel.limits = vec![(6, 1 << 28)];
    // `psinfo_t`: `pr_nlwp` 4, `pr_size` 48 in KiB.
    kernel.process = vec![0; 416];
    kernel.process[4] = 1;
    let used = (1u64 << 18) - 15 * 4;
    kernel.process[48..56].copy_from_slice(&used.to_ne_bytes());
    kernel.swap = [100, 8, 92];
    let os = Illumos::new(kernel);
    os.kernel().answer(|asked| matches!(asked, Mmap(..)).then_some(Err(12)));
    let limit = |error: sysmem::Error| match error.kind() {
        ErrorKind::OutOfMemory { limit, .. } => limit,
        kind => panic!("{kind:?}"),
    };
    let reserve = |npages| limit(os.reserve(&ReserveOptions::new(npages * PAGE)).unwrap_err());
    assert_eq!(reserve(16), Some(Limit::AddressSpace(1 << 28)));
    assert_eq!(reserve(15), None);
    let alloc = |npages| limit(os.alloc(npages * PAGE).unwrap_err());
    assert_eq!(alloc(16), Some(Limit::AddressSpace(1 << 28)));
    assert_eq!(alloc(9), Some(Limit::Commit(100 * PAGE as u64)));
    assert_eq!(alloc(8), None);
    // What is committed is no address space more.
    os.kernel().answer(|asked| matches!(asked, Mmap(_, _, 3, _)).then_some(Err(11)));
    assert_eq!(limit(os.do_map(RW, PLAIN).unwrap_err()), Some(Limit::Commit(100 * PAGE as u64)));
}

#[test]
fn illumos_advises_whole_large_pages_only() {
    let os = illumos();
    let huge = 2 << 20;
    assert_eq!(os.huge_page_size(), Some(huge));
    let range = |start, len| PageRange::new(std::ptr::without_provenance_mut(start), len);
    // SAFETY: there is no memory.
    unsafe {
        os.huge_page(range(AT + PAGE, 3 * huge)).unwrap();
        os.huge_page(range(AT + PAGE, huge)).unwrap();
        os.no_huge_page(range(AT + PAGE, huge)).unwrap();
    }
    assert_eq!(
        os.kernel().asked(),
        [Memcntl(AT + huge, 2 * huge, 7, huge), Memcntl(AT + PAGE, huge, 7, PAGE)]
    );
}

#[test]
fn illumos_gives_a_child_zeros_after_every_mapping() {
    let os = illumos();
    let policy = Policy { inheritance: Inheritance::Zeros, ..PLAIN };
    os.do_fault(policy).unwrap();
    assert_eq!(os.kernel().asked(), [Mmap(AT, LEN, 0, 0x152), Memcntl(AT, LEN, 8, 0)]);
    // What was promised for the child must not be broken in silence.
    os.kernel().answer(|asked| matches!(asked, Memcntl(..)).then_some(Err(12)));
    assert_eq!(os.do_fault(policy).unwrap_err().kind(), ErrorKind::Lost);
    assert!(!os.supports(Policy { inheritance: Inheritance::Nothing, ..PLAIN }));
}

#[test]
fn darwin_reserves_by_mach_and_pairs_reusable_with_reuse() {
    let os = darwin();
    os.reserve(&ReserveOptions::new(LEN).align(1 << 21)).unwrap();
    os.reserve(&ReserveOptions::new(LEN).executable(true)).unwrap();
    os.do_map(RW, PLAIN).unwrap();
    os.do_used().unwrap();
    os.do_unused(GiveBack::Lazy, PLAIN).unwrap();
    os.do_unused(GiveBack::Eager, EXECUTABLE).unwrap();
    os.do_fault(PLAIN).unwrap();
    assert_eq!(
        os.kernel().asked(),
        [
            MachMap(0, LEN, (1 << 21) - 1, 1, 3),
            MachMap(0, LEN, PAGE - 1, 1, 7),
            Mprotect(AT, LEN, 3),
            Madvise(AT, LEN, 8),
            Madvise(AT, LEN, 7),
            Mmap(AT, LEN, 3, 0x1012),
            Mmap(AT, LEN, 0, 0x1012),
        ]
    );
    assert!(os.unused_contract(GiveBack::Lazy).used_is_a_call);
    assert!(!os.supports(SECRET));
}

#[test]
fn darwin_renews_what_cannot_be_reusable() {
    let os = darwin();
    os.kernel().answer(|asked| matches!(asked, Madvise(..)).then_some(Err(1)));
    os.do_unused(GiveBack::Lazy, PLAIN).unwrap();
    assert_eq!(os.kernel().asked(), [Madvise(AT, LEN, 7), Mmap(AT, LEN, 3, 0x1012)]);
    // And is used all the same.
    os.do_used().unwrap();
}

#[test]
fn darwin_tells_a_taken_address_by_a_second_look_and_finds_the_nearest_gap() {
    let mut kernel = Scripted::<SpeaksDarwin>::new();
    kernel.mapped = vec![(AT - (1 << 20), AT + LEN), (AT + 3 * LEN, AT + 9 * LEN)];
    let os = Darwin::new(kernel);
    os.kernel().answer(|asked| match asked {
        MachMap(address, ..) if *address < AT + LEN => Some(Err(3)),
        _ => None,
    });
    let reserve = |placement| os.reserve(&ReserveOptions::new(LEN).placement(placement));
    let error = reserve(Placement::At(AT)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Taken);
    let second_look = [Mmap(0, LEN, 0, 0x1002), Munmap(ANYWHERE, LEN)];
    assert_eq!(os.kernel().asked()[..], [&[MachMap(AT, LEN, 0, 0, 3)], &second_look[..]].concat());
    let near = reserve(Placement::Near { address: AT, distance: 8 * LEN }).unwrap();
    assert_eq!(near.addr().get(), AT + LEN);
    let error = reserve(Placement::Near { address: AT, distance: LEN }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoPlace);
}

#[test]
fn darwin_has_superpages_where_the_processor_has_them() {
    const HUGE: usize = 2 << 20;
    let os = darwin();
    assert_eq!(os.alloc_huge(2 * HUGE).unwrap().addr().get(), ANYWHERE);
    let asked = MachMap(0, 2 * HUGE, HUGE - 1, 1 | 2 << 16, 3);
    assert_eq!(os.kernel().asked(), [asked, Mprotect(ANYWHERE, 2 * HUGE, 3)]);
    // KERN_INVALID_ARGUMENT.
    os.kernel().answer(|asked| matches!(asked, MachMap(..)).then_some(Err(4)));
    assert_eq!(os.alloc_huge(HUGE).unwrap_err().kind(), ErrorKind::NotSupported);
    // What cannot be opened does not stay.
    os.kernel().answer(|asked| matches!(asked, Mprotect(..)).then_some(Err(12)));
    os.alloc_huge(HUGE).unwrap_err();
    assert_eq!(os.kernel().asked().last(), Some(&Munmap(ANYWHERE, HUGE)));
    let kind = os.alloc_huge(HUGE + PAGE).unwrap_err().kind();
    assert_eq!(kind, ErrorKind::Unaligned { multiple: HUGE });
}

#[test]
fn windows_has_large_pages_for_who_may_lock_memory_and_names_the_privilege_otherwise() {
    const HUGE: usize = 2 << 20;
    let os = windows();
    assert_eq!(os.huge_pages().on_for_process, Some(false));
    let error = os.alloc_huge(HUGE).unwrap_err();
    assert!(error.to_string().contains("SeLockMemoryPrivilege (secpol.msc"), "{error}");
    os.switch_huge_pages(Scope::Process, true).unwrap();
    os.alloc_huge(2 * HUGE).unwrap();
    assert_eq!(os.kernel().asked(), [VirtualAlloc(0, 2 * HUGE, 0x2000_3000, 4)]);
    let error = os.switch_huge_pages(Scope::System, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);

    let mut kernel = Scripted::<SpeaksWindows>::new();
    kernel.may_lock.1 = false;
    let error = Windows::new(kernel).switch_huge_pages(Scope::Process, true).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NoPrivilege { .. }), "{error}");
}

const COMMIT: u32 = 0x1000;
const RESERVE: u32 = 0x2000;
const DECOMMIT: u32 = 0x4000;
const RELEASE: u32 = 0x8000;

#[test]
fn windows_commits_what_is_used_and_decommits_what_is_not() {
    let os = windows();
    os.alloc(LEN).unwrap();
    os.reserve(&ReserveOptions::new(LEN)).unwrap();
    os.do_map(RW, PLAIN).unwrap();
    os.do_used().unwrap();
    os.do_unused(GiveBack::Lazy, PLAIN).unwrap();
    os.do_unused(GiveBack::Eager, PLAIN).unwrap();
    os.do_fault(PLAIN).unwrap();
    os.do_free().unwrap();
    assert_eq!(
        os.kernel().asked(),
        [
            VirtualAlloc(0, LEN, RESERVE | COMMIT, 4),
            VirtualAlloc(0, LEN, RESERVE, 1),
            VirtualAlloc(AT, LEN, COMMIT, 4),
            VirtualAlloc(AT, LEN, 0x8_0000, 1),
            VirtualFree(AT, LEN, DECOMMIT),
            VirtualFree(AT, LEN, DECOMMIT),
            VirtualFree(AT, 0, RELEASE),
        ]
    );
}

#[test]
fn windows_decommits_where_some_pages_were_never_committed() {
    let os = windows();
    os.kernel().answer(|asked| matches!(asked, VirtualAlloc(..)).then_some(Err(487)));
    os.do_unused(GiveBack::Lazy, PLAIN).unwrap();
    assert_eq!(os.kernel().asked().last(), Some(&VirtualFree(AT, LEN, DECOMMIT)));
}

#[test]
fn windows_names_the_commit_limit() {
    let os = windows();
    os.kernel().answer(|asked| matches!(asked, VirtualAlloc(..)).then_some(Err(1455)));
    let error = os.do_used().unwrap_err();
    let limit = Some(Limit::Commit(3 << 30));
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { limit: l, .. } if l == limit));
}

#[test]
fn windows_aligns_by_the_new_call_and_by_trying_again_without_it() {
    let mut kernel = Scripted::<SpeaksWindows>::new();
    let align = 1 << 21;
    let options = ReserveOptions::new(LEN).align(align);
    let os = Windows::new(Scripted::<SpeaksWindows>::new());
    os.reserve(&options).unwrap();
    assert_eq!(os.kernel().asked(), [ReserveWhere(0, align, LEN)]);
    kernel.modern = false;
    let os = Windows::new(kernel);
    let mut tries = 0;
    os.kernel().answer(move |asked| match asked {
        VirtualAlloc(0, ..) => Some(Ok(AT + 0x1_0000)),
        VirtualAlloc(..) => {
            tries += 1;
            (tries == 1).then_some(Err(487))
        }
        _ => None,
    });
    assert_eq!(os.reserve(&options).unwrap().addr().get(), AT + align);
    let round = [
        VirtualAlloc(0, LEN + align, RESERVE, 1),
        VirtualFree(AT + 0x1_0000, 0, RELEASE),
        VirtualAlloc(AT + align, LEN, RESERVE, 1),
    ];
    assert_eq!(os.kernel().asked(), [round.clone(), round].concat());
}

#[test]
fn windows_places_near_high_and_at() {
    for modern in [true, false] {
        let mut kernel = Scripted::<SpeaksWindows>::new();
        kernel.modern = modern;
        kernel.mapped = vec![(0x1_0000, AT + LEN)];
        let os = Windows::new(kernel);
        os.kernel().answer(|asked| match asked {
            VirtualAlloc(address, ..) if (1..AT + LEN).contains(address) => Some(Err(487)),
            _ => None,
        });
        let reserve = |placement| os.reserve(&ReserveOptions::new(LEN).placement(placement));
        assert_eq!(reserve(Placement::At(AT)).unwrap_err().kind(), ErrorKind::Taken);
        let kind = reserve(Placement::At(AT + PAGE)).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Unaligned { multiple: 64 << 10 });
        let near = reserve(Placement::Near { address: AT, distance: 4 * LEN }).unwrap();
        assert_eq!(near.addr().get(), AT + LEN);
        assert!(reserve(Placement::High).unwrap().addr().get() >= 1 << 32);
        let hint = reserve(Placement::Hint(AT)).unwrap();
        assert_eq!(hint.addr().get(), ANYWHERE);
    }
}

#[test]
fn windows_places_high_where_the_new_call_takes_no_notice_of_the_lowest_address() {
    let (os, low) = (windows(), 0x100_0000);
    os.kernel().answer(move |asked| matches!(asked, ReserveWhere(..)).then_some(Ok(low)));
    let options = ReserveOptions::new(LEN).placement(Placement::High);
    assert!(os.reserve(&options).unwrap().addr().get() >= 1 << 32);
    assert_eq!(os.kernel().asked()[1], VirtualFree(low, 0, RELEASE));
}

#[test]
fn windows_is_not_asked_for_more_than_an_address_space() {
    let os = windows();
    assert_eq!(os.alloc(1 << 48).unwrap_err().kind(), ErrorKind::TooLong);
    let error = os.reserve(&ReserveOptions::new(1 << 48)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLong);
    assert_eq!(os.kernel().asked(), []);
}

#[test]
fn windows_tells_what_is_in_memory() {
    let os = windows();
    let mut pages = [PageResidency::default(); 16];
    os.residency(range(), &mut pages).unwrap();
    let resident: Vec<_> = pages.iter().map(|page| page.resident).collect();
    assert_eq!(resident, [true, false].repeat(8));
    assert_eq!(os.resident_bytes(range()), Ok(LEN / 2));
}
