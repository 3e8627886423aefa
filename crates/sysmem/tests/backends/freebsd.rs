//! FreeBSD.

use sysmem::calls::Kernel;
use sysmem::os::freebsd::FreeBsd;
use sysmem::os::{Inheritance, Os, PageResidency, Placement, Policy};
use sysmem::{Contents, ErrorKind, GiveBack, Limit, ReserveOptions, ResidentFalls};

use super::bsds::{ANON, EINVAL, ENOMEM, FIXED, is_fixed};
use super::scripted::{ANYWHERE, Asked::*, Scripted, Speaks};
use super::{AT, LEN, Operate, PLAIN, RW, range};

pub(super) struct SpeaksFreeBsd;
impl Speaks for SpeaksFreeBsd {
    const KERNEL: Kernel = Kernel::FreeBsd;
}

/// `PROT_MAX(PROT_READ | PROT_WRITE)` of FreeBSD, and with reading and writing.
const DATA: i32 = 3 << 16;
const WRITABLE: i32 = 3 | DATA;

/// FreeBSD with this `vm.overcommit`, 1 GiB of swap, and superpages.
fn freebsd_kernel(overcommit: u32) -> Scripted<SpeaksFreeBsd> {
    let mut kernel = Scripted::new();
    let sizes: Vec<u8> =
        [4096u64, 2 << 20, 1 << 30].iter().flat_map(|size| size.to_ne_bytes()).collect();
    kernel.values = vec![
        (c"vm.overcommit", overcommit.to_ne_bytes().into()),
        (c"vm.swap_total", (1u64 << 30).to_ne_bytes().into()),
        (c"hw.usermem", (1u64 << 29).to_ne_bytes().into()),
        (c"hw.pagesizes", sizes),
    ];
    kernel.process = vec![0; 1088];
    kernel.process[256..264].copy_from_slice(&(1u64 << 20).to_ne_bytes());
    kernel
}

pub(super) fn freebsd(overcommit: u32) -> FreeBsd<Scripted<SpeaksFreeBsd>> {
    FreeBsd::new(freebsd_kernel(overcommit))
}

#[test]
fn freebsd_commits_by_protection_while_it_overcommits() {
    let os = freebsd(0);
    os.do_map(RW, PLAIN).unwrap();
    os.do_used().unwrap();
    os.do_unused(GiveBack::Lazy, PLAIN).unwrap();
    os.do_unused(GiveBack::Eager, PLAIN).unwrap();
    os.do_fault(PLAIN).unwrap();
    os.do_free().unwrap();
    assert_eq!(
        os.kernel().asked(),
        [
            Mprotect(AT, LEN, 3),
            Madvise(AT, LEN, 5),
            Mmap(AT, LEN, WRITABLE, FIXED),
            Mmap(AT, LEN, DATA, FIXED),
            Munmap(AT, LEN),
        ]
    );
    let lazy = os.unused_contract(GiveBack::Lazy);
    assert_eq!(lazy.contents, Contents::Unspecified);
    assert_eq!(lazy.resident_falls, ResidentFalls::UnderPressure);
    let eager = os.unused_contract(GiveBack::Eager);
    assert_eq!((eager.contents, eager.used_is_a_call), (Contents::Zero, false));
}

#[test]
fn freebsd_commits_by_mapping_where_swap_or_its_limit_is_enforced() {
    for (overcommit, strict) in [(0, false), (1, true), (2, true), (4, false), (5, true)] {
        let os = freebsd(overcommit);
        os.do_map(RW, PLAIN).unwrap();
        os.do_used().unwrap();
        let expected = match strict {
            true => vec![Mmap(AT, LEN, WRITABLE, FIXED), Mprotect(AT, LEN, 3)],
            false => vec![Mprotect(AT, LEN, 3)],
        };
        assert_eq!(os.kernel().asked(), expected, "vm.overcommit={overcommit}");
        assert_eq!(os.unused_contract(GiveBack::Eager).used_is_a_call, strict);
    }
}

#[test]
fn freebsd_commits_by_mapping_what_it_is_refused_since_swap_is_enforced() {
    // `vm.overcommit` was 0 when it was read. Since then mprotect charges the whole reservation.
    let os = freebsd(0);
    os.do_map(RW, PLAIN).unwrap();
    os.kernel().answer(|asked| matches!(asked, Mprotect(_, _, 3)).then_some(Err(ENOMEM)));
    os.do_map(RW, PLAIN).unwrap();
    os.do_used().unwrap();
    assert_eq!(
        os.kernel().asked(),
        [Mprotect(AT, LEN, 3), Mprotect(AT, LEN, 0), Mmap(AT, LEN, WRITABLE, FIXED)]
    );
    assert!(!os.unused_contract(GiveBack::Eager).used_is_a_call, "the contract changes");
}

#[test]
fn freebsd_takes_back_what_a_refused_commit_has_removed() {
    let os = freebsd(1);
    os.kernel().answer(|asked| match asked {
        Mmap(_, _, WRITABLE, _) => Some(Err(EINVAL)),
        _ => None,
    });
    let error = os.do_map(RW, PLAIN).unwrap_err();
    let limit = Some(Limit::Commit(1 << 30));
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { limit: l, .. } if l == limit));
    let taken_back = Mmap(AT, LEN, DATA, FIXED | 0x4000);
    assert_eq!(os.kernel().asked(), [Mmap(AT, LEN, WRITABLE, FIXED), taken_back]);
    // Another thread was faster.
    os.kernel().answer(|asked| is_fixed(asked).then_some(Err(EINVAL)));
    assert_eq!(os.do_map(RW, PLAIN).unwrap_err().kind(), ErrorKind::Lost);
    os.kernel().answer(|asked| match asked {
        Mmap(_, _, WRITABLE, _) => Some(Err(EINVAL)),
        Mmap(..) => Some(Err(ENOMEM)),
        _ => None,
    });
    assert_eq!(os.do_map(RW, PLAIN).unwrap_err().kind(), ErrorKind::Lost);
}

#[test]
fn freebsd_keeps_what_an_address_space_limit_has_not_removed() {
    let mut kernel = freebsd_kernel(0);
    kernel.limits = vec![(10, 1 << 20)];
    let os = FreeBsd::new(kernel);
    os.kernel().answer(|asked| matches!(asked, Mmap(..)).then_some(Err(ENOMEM)));
    let error = os.do_fault(PLAIN).unwrap_err();
    let limit = Some(Limit::AddressSpace(1 << 20));
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { limit: l, .. } if l == limit));
    // mincore says that something is there; without it, nothing is known.
    os.kernel().answer(|asked| match asked {
        Mmap(..) | Mincore(..) => Some(Err(ENOMEM)),
        _ => None,
    });
    assert_eq!(os.do_fault(PLAIN).unwrap_err().kind(), ErrorKind::Lost);
}

#[test]
fn freebsd_renews_by_way_of_reserved_memory_and_lets_used_finish() {
    let os = freebsd(1);
    // Swap accounting refuses everything accessible.
    os.kernel().answer(|asked| match asked {
        Mmap(_, _, WRITABLE, _) => Some(Err(EINVAL)),
        Mprotect(..) => Some(Err(ENOMEM)),
        _ => None,
    });
    os.do_unused(GiveBack::Eager, PLAIN).unwrap();
    let error = os.do_used().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
}

#[test]
fn freebsd_aligns_by_flag_and_asks_for_superpages() {
    let os = freebsd(0);
    os.reserve(&ReserveOptions::new(LEN)).unwrap();
    os.reserve(&ReserveOptions::new(LEN).align(1 << 21)).unwrap();
    assert_eq!(
        os.kernel().asked(),
        [Mmap(0, LEN, DATA, ANON | 1 << 24), Mmap(0, LEN, DATA, ANON | 21 << 24)]
    );
    // No room that is aligned: some that is not.
    os.kernel().answer(|asked| match asked {
        Mmap(_, _, _, flags) if flags >> 24 == 1 => Some(Err(ENOMEM)),
        _ => None,
    });
    os.reserve(&ReserveOptions::new(LEN)).unwrap();
    let asked = [Mmap(0, LEN, DATA, ANON | 1 << 24), Mmap(0, LEN, DATA, ANON)];
    assert_eq!(os.kernel().asked(), asked);
    assert_eq!(os.huge_page_size(), Some(2 << 20));
    os.kernel().answer(|asked| matches!(asked, Mincore(..)).then_some(Ok(0x3f)));
    let mut pages = [PageResidency::default(); 16];
    os.residency(range(), &mut pages).unwrap();
    assert!(pages.iter().all(|page| page.resident && page.huge));
    os.kernel().answer(|asked| matches!(asked, Mincore(..)).then_some(Ok(0x1f)));
    os.residency(range(), &mut pages).unwrap();
    assert!(pages.iter().all(|page| page.resident && !page.huge));
}

#[test]
fn freebsd_tells_a_taken_address_from_exhaustion() {
    let os = freebsd(0);
    let at = ReserveOptions::new(LEN).placement(Placement::At(AT));
    os.kernel().answer(|asked| is_fixed(asked).then_some(Err(ENOMEM)));
    assert_eq!(os.reserve(&at).unwrap_err().kind(), ErrorKind::Taken);
    assert_eq!(
        os.kernel().asked(),
        [Mmap(AT, LEN, DATA, FIXED | 0x4000), Mmap(0, LEN, DATA, ANON), Munmap(ANYWHERE, LEN)]
    );
    os.kernel().answer(|asked| matches!(asked, Mmap(..)).then_some(Err(ENOMEM)));
    let error = os.reserve(&at).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
}

#[test]
fn freebsd_keeps_policies_through_every_mapping() {
    let os = freebsd(0);
    let policy =
        Policy { executable: true, dumped: false, inheritance: Inheritance::Zeros, ..PLAIN };
    let options =
        ReserveOptions::new(LEN).executable(true).dumped(false).inheritance(Inheritance::Zeros);
    os.reserve(&options).unwrap();
    os.do_unused(GiveBack::Eager, policy).unwrap();
    os.do_fault(policy).unwrap();
    let (most, nocore) = (7 << 16, 0x2_0000);
    assert_eq!(
        os.kernel().asked(),
        [
            Mmap(0, LEN, most, ANON | nocore | 1 << 24),
            Minherit(ANYWHERE, LEN, 3),
            Mmap(AT, LEN, 3 | most, FIXED | nocore),
            Minherit(AT, LEN, 3),
            Mmap(AT, LEN, most, FIXED | nocore),
            Minherit(AT, LEN, 3),
        ]
    );
    // SAFETY: there is no memory.
    unsafe {
        os.set_dumped(range(), false).unwrap();
        os.set_dumped(range(), true).unwrap();
    }
    assert_eq!(os.kernel().asked(), [Madvise(AT, LEN, 8), Madvise(AT, LEN, 9)]);
}

#[test]
fn freebsd_says_that_superpages_are_switched_at_boot() {
    use sysmem::huge::{HugePageControl, Mode, Scope};
    for tunable in [c"vm.pmap.pg_ps_enabled", c"vm.pmap.superpages_enabled"] {
        let mut kernel = Scripted::<SpeaksFreeBsd>::new();
        kernel.values.push((tunable, 1i32.to_ne_bytes().to_vec()));
        let os = FreeBsd::new(kernel);
        assert_eq!(os.huge_pages().mode, Some(Mode::Always));
        for scope in [Scope::Process, Scope::System] {
            let error = os.switch_huge_pages(scope, false).unwrap_err();
            let tunable = tunable.to_str().unwrap();
            assert_eq!(error.kind(), ErrorKind::SetAtBoot { tunable });
            assert!(error.to_string().contains(tunable), "{error}");
            assert!(error.to_string().contains("/boot/loader.conf"), "{error}");
        }
    }
    let mut kernel = Scripted::<SpeaksFreeBsd>::new();
    kernel.values.push((c"vm.pmap.pg_ps_enabled", 0i32.to_ne_bytes().to_vec()));
    assert_eq!(FreeBsd::new(kernel).huge_pages().mode, Some(Mode::Never));
}
