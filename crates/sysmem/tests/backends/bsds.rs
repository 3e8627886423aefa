//! NetBSD, OpenBSD and DragonFly.

use sysmem::Protection;
use sysmem::calls::Kernel;
use sysmem::os::dragonfly::DragonFly;
use sysmem::os::netbsd::NetBsd;
use sysmem::os::openbsd::OpenBsd;
use sysmem::os::{Inheritance, Os, Placement, Policy};
use sysmem::{ErrorKind, GiveBack, Limit, ReserveOptions};

use super::freebsd::freebsd;
use super::scripted::{ANYWHERE, Asked, Asked::*, PAGE, Scripted, Speaks};
use super::{AT, EXECUTABLE, LEN, Operate, PLAIN, RW, SECRET, range};

pub(super) struct SpeaksNetBsd;
impl Speaks for SpeaksNetBsd {
    const KERNEL: Kernel = Kernel::NetBsd;
}

pub(super) struct SpeaksOpenBsd;
impl Speaks for SpeaksOpenBsd {
    const KERNEL: Kernel = Kernel::OpenBsd;
}

pub(super) struct SpeaksDragonFly;
impl Speaks for SpeaksDragonFly {
    const KERNEL: Kernel = Kernel::DragonFly;
}

/// MAP_ANON | MAP_PRIVATE, and with MAP_FIXED.
pub(super) const ANON: i32 = 0x1002;
pub(super) const FIXED: i32 = 0x1012;

pub(super) const ENOMEM: i32 = 12;
pub(super) const EINVAL: i32 = 22;

pub(super) fn netbsd() -> NetBsd<Scripted<SpeaksNetBsd>> {
    NetBsd::new(Scripted::new())
}

pub(super) fn openbsd() -> OpenBsd<Scripted<SpeaksOpenBsd>> {
    OpenBsd::new(Scripted::new())
}

pub(super) fn dragonfly() -> DragonFly<Scripted<SpeaksDragonFly>> {
    DragonFly::new(Scripted::new())
}

pub(super) fn is_fixed(asked: &Asked) -> bool {
    matches!(asked, Mmap(_, _, _, flags) if flags & 0x10 != 0)
}

#[test]
fn netbsd_asks_for_the_protection_that_memory_will_need() {
    let os = netbsd();
    os.reserve(&ReserveOptions::new(LEN)).unwrap();
    os.reserve(&ReserveOptions::new(LEN).executable(true).align(1 << 21)).unwrap();
    os.do_map(RW, PLAIN).unwrap();
    os.do_unused(GiveBack::Lazy, PLAIN).unwrap();
    os.do_unused(GiveBack::Eager, EXECUTABLE).unwrap();
    os.do_fault(PLAIN).unwrap();
    let reserved = ANON | 0x40;
    assert_eq!(
        os.kernel().asked(),
        [
            Mmap(0, LEN, 3 << 3, reserved),
            Mmap(0, LEN, 7 << 3, reserved | 21 << 24),
            Mprotect(AT, LEN, 3),
            Madvise(AT, LEN, 6),
            Mmap(AT, LEN, 3 | 7 << 3, FIXED),
            Mmap(AT, LEN, 3 << 3, reserved | 0x10),
        ]
    );
    assert!(!os.supports(SECRET));
    let secret = ReserveOptions::new(LEN).dumped(false);
    assert_eq!(os.reserve(&secret).unwrap_err().kind(), ErrorKind::NotSupported);
}

#[test]
fn netbsd_takes_back_the_hole_and_makes_it_accessible_again() {
    let os = netbsd();
    os.kernel().answer(|asked| is_fixed(asked).then_some(Err(ENOMEM)));
    os.do_unused(GiveBack::Eager, PLAIN).unwrap();
    os.do_fault(PLAIN).unwrap();
    let taken_back = Mmap(AT, LEN, 3 << 3, ANON | 0x440);
    assert_eq!(
        os.kernel().asked(),
        [
            Mmap(AT, LEN, 3 | 3 << 3, FIXED),
            taken_back.clone(),
            Mprotect(AT, LEN, 3),
            Mmap(AT, LEN, 3 << 3, FIXED | 0x40),
            taken_back,
        ]
    );
    // The kernel puts it elsewhere: another thread has the place.
    os.kernel().answer(|asked| match asked {
        Mmap(_, _, _, flags) if flags & 0x400 != 0 => Some(Ok(ANYWHERE)),
        asked => is_fixed(asked).then_some(Err(ENOMEM)),
    });
    assert_eq!(os.do_fault(PLAIN).unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(os.kernel().asked().last(), Some(&Munmap(ANYWHERE, LEN)));
}

#[test]
fn netbsd_passes_on_that_wired_pages_stay() {
    let os = netbsd();
    os.kernel().answer(|asked| matches!(asked, Madvise(..)).then_some(Err(16)));
    let error = os.do_unused(GiveBack::Lazy, PLAIN).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System(sysmem::Errno(16)));
}

#[test]
fn netbsd_names_the_address_space_limit() {
    let mut kernel = Scripted::new();
    kernel.limits = vec![(10, 1 << 28)];
    kernel.process = vec![0; 680];
    let pages = (1u64 << 28) / PAGE as u64 - 15;
    kernel.process[664..672].copy_from_slice(&pages.to_ne_bytes());
    let os = NetBsd::<Scripted<SpeaksNetBsd>>::new(kernel);
    os.kernel().answer(|asked| matches!(asked, Mmap(..)).then_some(Err(ENOMEM)));
    let kind = |len| os.reserve(&ReserveOptions::new(len)).unwrap_err().kind();
    let refused = |limit| ErrorKind::OutOfMemory { errno: Some(sysmem::Errno(ENOMEM)), limit };
    assert_eq!(kind(16 * PAGE), refused(Some(Limit::AddressSpace(1 << 28))));
    assert_eq!(kind(15 * PAGE), refused(None));
}

#[test]
fn openbsd_goes_through_reserved_memory_near_its_data_limit() {
    let os = openbsd();
    os.kernel().answer(|asked| match asked {
        Mmap(_, _, 3, _) => Some(Err(ENOMEM)),
        _ => None,
    });
    os.do_unused(GiveBack::Eager, PLAIN).unwrap();
    assert_eq!(
        os.kernel().asked(),
        [Mmap(AT, LEN, 3, FIXED), Mmap(AT, LEN, 0, FIXED), Mprotect(AT, LEN, 3)]
    );
    // What another thread was given meanwhile is missing now.
    os.kernel().answer(|asked| match asked {
        Mmap(_, _, 3, _) | Mprotect(..) => Some(Err(ENOMEM)),
        _ => None,
    });
    assert_eq!(os.do_unused(GiveBack::Eager, PLAIN).unwrap_err().kind(), ErrorKind::Lost);
}

#[test]
fn openbsd_names_the_data_limit_and_leaves_memory_reserved() {
    let mut kernel = Scripted::new();
    kernel.limits = vec![(2, 1 << 27)];
    kernel.process = vec![0; 648];
    let pages = (1u32 << 27) / PAGE as u32 - 15;
    kernel.process[392..396].copy_from_slice(&pages.to_ne_bytes());
    let os = OpenBsd::<Scripted<SpeaksOpenBsd>>::new(kernel);
    os.kernel().answer(|asked| matches!(asked, Mprotect(_, _, 3)).then_some(Err(ENOMEM)));
    let error = os.do_map(RW, PLAIN).unwrap_err();
    assert!(error.to_string().contains("RLIMIT_DATA is 128.0 MiB"), "{error}");
    assert_eq!(os.kernel().asked(), [Mprotect(AT, LEN, 3), Mprotect(AT, LEN, 0)]);
}

#[test]
fn openbsd_conceals_at_every_mapping_and_has_no_residency() {
    let os = openbsd();
    os.reserve(&ReserveOptions::new(LEN).dumped(false)).unwrap();
    os.do_fault(SECRET).unwrap();
    let conceal = 0x8000;
    assert_eq!(
        os.kernel().asked(),
        [Mmap(0, LEN, 0, ANON | conceal), Mmap(AT, LEN, 0, FIXED | conceal)]
    );
    // SAFETY: there is no memory.
    let error = unsafe { os.set_dumped(range(), false) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
    assert!(!os.supports(Policy { inheritance: Inheritance::Zeros, ..PLAIN }));
    let error = os.resident_bytes(range()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
}

#[test]
fn openbsd_maps_what_threads_have_their_stacks_in() {
    let os = openbsd();
    let stacks = Policy { stacks: true, ..PLAIN };
    let stack = 0x4000;
    os.reserve(&ReserveOptions::new(LEN).stacks(true)).unwrap();
    os.do_map(RW, stacks).unwrap();
    os.do_unused(GiveBack::Lazy, stacks).unwrap();
    os.do_unused(GiveBack::Eager, stacks).unwrap();
    os.do_fault(stacks).unwrap();
    // The kernel takes the flag with reading and writing only.
    os.do_map(Protection::ReadOnly, stacks).unwrap();
    assert_eq!(
        os.kernel().asked(),
        [
            Mmap(0, LEN, 0, ANON),
            Mmap(AT, LEN, 3, FIXED | stack),
            Madvise(AT, LEN, 6),
            Mmap(AT, LEN, 3, FIXED | stack),
            Mmap(AT, LEN, 0, FIXED),
            Mprotect(AT, LEN, 1),
        ]
    );
    // And with no flag that leaves it out of core dumps.
    assert!(!os.supports(Policy { dumped: false, ..stacks }));
    assert!(freebsd(0).supports(Policy { dumped: false, ..stacks }));
}

#[test]
fn openbsd_renews_a_stack_as_one_when_it_has_to_go_through_no_access() {
    let os = openbsd();
    let stacks = Policy { stacks: true, ..PLAIN };
    let mut counted_twice = true;
    os.kernel().answer(move |asked| match asked {
        Mmap(_, _, 3, _) if core::mem::take(&mut counted_twice) => Some(Err(ENOMEM)),
        _ => None,
    });
    os.do_unused(GiveBack::Eager, stacks).unwrap();
    let stack = Mmap(AT, LEN, 3, FIXED | 0x4000);
    assert_eq!(os.kernel().asked(), [stack.clone(), Mmap(AT, LEN, 0, FIXED), stack]);
}

#[test]
fn openbsd_trims_to_an_alignment() {
    const ALIGN: usize = 1 << 20;
    let os = openbsd();
    os.kernel().answer(|asked| match asked {
        Mmap(0, ..) => Some(Ok(AT + ALIGN - PAGE)),
        _ => None,
    });
    let start = os.reserve(&ReserveOptions::new(LEN).align(ALIGN)).unwrap();
    assert_eq!(start.addr().get(), AT + ALIGN);
    let trimmed = |len: usize| {
        [
            Mmap(0, len + ALIGN - PAGE, 0, ANON),
            Munmap(AT + ALIGN + len, ALIGN - 2 * PAGE),
            Munmap(AT + ALIGN - PAGE, PAGE),
        ]
    };
    assert_eq!(os.kernel().asked(), trimmed(LEN));

    // Whole multiples are tried without excess; here they are misaligned by a page, and the place
    // below is taken.
    let os = openbsd();
    let len = 2 * ALIGN;
    os.kernel().answer(move |asked| match asked {
        Mmap(0, asked, ..) if *asked == len => Some(Ok(AT + PAGE)),
        Mmap(0, ..) => Some(Ok(AT + ALIGN - PAGE)),
        Mmap(..) => Some(Err(ENOMEM)),
        _ => None,
    });
    let start = os.reserve(&ReserveOptions::new(len).align(ALIGN)).unwrap();
    assert_eq!(start.addr().get(), AT + ALIGN);
    let moved = [Mmap(0, len, 0, ANON), Munmap(AT + PAGE, len), Mmap(AT, len, 0, FIXED | 0x800)];
    assert_eq!(os.kernel().asked(), [&moved[..], &trimmed(len)].concat());

    // More than there is: what is asked for is tried by itself.
    let os = openbsd();
    os.kernel().answer(|asked| match asked {
        Mmap(0, LEN, ..) => Some(Ok(AT)),
        Mmap(..) => Some(Err(ENOMEM)),
        _ => None,
    });
    let start = os.reserve(&ReserveOptions::new(LEN).align(ALIGN)).unwrap();
    assert_eq!(start.addr().get(), AT);
}

#[test]
fn openbsd_finds_a_near_place_by_trying() {
    let os = openbsd();
    // Everything below AT is taken, and 1 GiB above it.
    let free = AT + (1 << 30);
    os.kernel().answer(move |asked| match asked {
        Mmap(address, _, _, flags) if flags & 0x800 != 0 && *address < free => Some(Err(ENOMEM)),
        _ => None,
    });
    let near = |distance| {
        let placement = Placement::Near { address: AT, distance };
        os.reserve(&ReserveOptions::new(LEN).placement(placement))
    };
    let start = near(1 << 31).unwrap().addr().get();
    assert!(start >= free && start + LEN <= AT + (1 << 31));
    assert!(start < free + (1 << 26), "{:#x} away", start - free);
    assert_eq!(near(1 << 29).unwrap_err().kind(), ErrorKind::NoPlace);
}

#[test]
fn dragonfly_aligns_to_the_size_and_tells_a_taken_address() {
    let os = dragonfly();
    os.reserve(&ReserveOptions::new(1 << 20).align(1 << 20)).unwrap();
    assert_eq!(os.kernel().asked(), [Mmap(0, 1 << 20, 0, ANON | 0x4_0000)]);
    os.kernel().answer(|asked| {
        matches!(asked, Mmap(_, _, _, flags) if flags & 0x1_0000 != 0).then_some(Err(ENOMEM))
    });
    let at = ReserveOptions::new(LEN).placement(Placement::At(AT));
    assert_eq!(os.reserve(&at).unwrap_err().kind(), ErrorKind::Taken);
    let secret = ReserveOptions::new(LEN).dumped(false);
    os.kernel().asked();
    os.reserve(&secret).unwrap();
    assert_eq!(os.kernel().asked(), [Mmap(0, LEN, 0, ANON | 0x2_0000)]);
    assert!(!os.supports(Policy { inheritance: Inheritance::Zeros, ..PLAIN }));
}

#[test]
fn dragonfly_keeps_what_the_limit_on_mappings_refuses_to_replace() {
    let os = dragonfly();
    os.kernel().answer(|asked| matches!(asked, Mmap(..)).then_some(Err(ENOMEM)));
    let error = os.do_fault(PLAIN).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
}

#[test]
fn dragonfly_names_the_address_space_limit_and_the_limit_on_mappings() {
    let mut kernel = Scripted::new();
    kernel.values = vec![(c"vm.max_proc_mmap", 1000i32.to_ne_bytes().into())];
    kernel.limits = vec![(10, 1 << 28)];
    kernel.process = vec![0; 1024];
    let used = (1u64 << 28) - 15 * PAGE as u64;
    kernel.process[312..320].copy_from_slice(&used.to_ne_bytes());
    let os = DragonFly::<Scripted<SpeaksDragonFly>>::new(kernel);
    let long = |asked: &Asked| matches!(asked, Mmap(_, len, ..) if *len > PAGE);
    os.kernel().answer(move |asked| long(asked).then_some(Err(ENOMEM)));
    let kind = |len| os.reserve(&ReserveOptions::new(len)).unwrap_err().kind();
    let refused = |limit| ErrorKind::OutOfMemory { errno: Some(sysmem::Errno(ENOMEM)), limit };
    assert_eq!(kind(16 * PAGE), refused(Some(Limit::AddressSpace(1 << 28))));
    assert_eq!(kind(15 * PAGE), refused(None));
    os.kernel().answer(|asked| matches!(asked, Mmap(..)).then_some(Err(ENOMEM)));
    assert_eq!(kind(15 * PAGE), refused(Some(Limit::Mappings(1000))));
}

#[test]
fn dragonfly_never_calls_its_own_what_another_thread_may_have_taken() {
    let os = dragonfly();
    // The place is another thread's between its removal and the new mapping, and the process has met
    // a limit since: every mapping is refused from then on, as it is where nothing was removed.
    let mut removed = false;
    os.kernel().answer(move |asked| {
        removed |= is_fixed(asked);
        (removed && matches!(asked, Mmap(..))).then_some(Err(ENOMEM))
    });
    assert_eq!(os.do_fault(PLAIN).unwrap_err().kind(), ErrorKind::Lost);
    // Before anything is removed the limits are tried, which refuse the one as they do the other.
    let limits = [Mmap(0, LEN, 0, ANON), Munmap(ANYWHERE, LEN)];
    let replacing = [Mmap(AT, LEN, 0, FIXED), Mmap(AT, LEN, 0, ANON | 0x1_0000)];
    assert_eq!(os.kernel().asked(), [limits, replacing].concat());
}
