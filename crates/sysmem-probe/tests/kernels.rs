//! The suite passes on the running kernel, and on simulated ones of all kinds.

#[path = "harness/mod.rs"]
mod harness;

use std::collections::BTreeSet;
use std::fmt;

use harness::{alone, run};
use sysmem::os::{darwin::Darwin, dragonfly::DragonFly, freebsd::FreeBsd, illumos::Illumos};
use sysmem::os::{linux::Linux, netbsd::NetBsd, openbsd::OpenBsd, windows::Windows};
use sysmem::sim::{self, Backing, LazilyFreed, Mapping, Overcommit, Settings, Simulated, System};
use sysmem::{Errno, Inheritance, Os, PageRange, Protection};
use sysmem_probe::{Access, Capable, Options, Platform, Running, Seen, Signal, Summary};

#[test]
fn every_promise_is_kept_by_the_running_kernel() {
    let run = run(&alone(), &sysmem::Native::NEW, &Running::NEW);
    assert_eq!(run.names("fail"), [""; 0], "{}", run.text);
    // Names of mappings are a kernel's option, not every one has private memory that is shared, and
    // not every one has guards, seals, or huge pages that were set aside.
    assert!(run.summary.not_supported <= 4, "{}", run.text);
    assert!(run.summary.passed >= 101, "{}", run.text);
}

#[test]
fn lines_facts_and_the_closing_line_are_for_people() {
    let _turn = alone();
    let mut text = String::new();
    let summary = sysmem_probe::run_native(&mut text, Options::default());
    let Summary { passed, failed, not_supported } = summary;
    let closing = format!("{passed} passed, {failed} failed, {not_supported} not supported");
    assert_eq!(text.lines().last(), Some(closing.as_str()));
    let begins = |beginning| text.lines().filter(|line| line.starts_with(beginning)).count();
    assert_eq!(begins("pass  "), passed);
    assert_eq!(begins("fail  "), failed);
    assert_eq!(begins("not supported  "), not_supported);
    for fact in ["system ", "release ", "page size ", "RLIMIT_AS ", "unused eagerly "] {
        assert_eq!(begins(fact), 1, "{fact} in {text}");
    }
}

/// A signal of any of the systems by its number: SIGBUS is 7 on Linux, 10 elsewhere.
fn named(number: i32) -> Signal {
    if number == 11 { Signal::Segv } else { Signal::Bus }
}

#[cfg(unix)]
#[test]
fn the_running_kernel_sends_the_signals_that_the_simulated_one_tells_of() {
    use sim::{Stray, Told};
    use sysmem::calls::{Calls, Kernel};
    let signal = match <sysmem::native::Kernel as Calls>::KERNEL {
        Kernel::Linux => sim::Linux::signal,
        Kernel::FreeBsd => sim::FreeBsd::signal,
        Kernel::NetBsd => sim::NetBsd::signal,
        Kernel::OpenBsd => sim::OpenBsd::signal,
        Kernel::DragonFly => sim::DragonFly::signal,
        Kernel::Illumos => sim::Illumos::signal,
        Kernel::Darwin => sim::Darwin::signal,
        Kernel::Windows => return,
    };
    let _turn = alone();
    let os = sysmem::Native::NEW;
    let len = os.page_size();
    let reserved = os.reserve(&sysmem::ReserveOptions::new(len)).unwrap().as_ptr();
    let mut strays = vec![
        (Stray::Refused, reserved.wrapping_add(5)),
        // The first page is no program's.
        (Stray::Unmapped, std::ptr::without_provenance_mut(8)),
    ];
    if cfg!(target_arch = "x86_64") {
        strays.push((Stray::NotCanonical, std::ptr::without_provenance_mut(1 << 62)));
    }
    for (stray, place) in strays {
        // SAFETY: it faults, in a child.
        let seen = unsafe { Running.access(place, Access::Read) }.unwrap();
        let Some(told) = signal(stray) else { continue };
        let Seen::Fault { signal, code, address } = seen else { panic!("{stray:?}: {seen}") };
        assert_eq!((signal, code), (named(told.number), told.code), "{stray:?}: {seen}");
        assert_eq!(address == place.addr(), told.told == Told::Access, "{stray:?}: {seen}");
    }
    // SAFETY: the whole reservation, to which there is no reference.
    unsafe { os.free(PageRange::new(reserved, len)) }.unwrap();
}

/// What a simulated process looks like from outside.
struct Around<S: System> {
    kernel: Simulated<S>,
    backing: Backing,
}

impl<S: System> Platform for Around<S> {
    fn facts(&self, fact: &mut dyn FnMut(&str, fmt::Arguments<'_>)) {
        fact("system", format_args!("simulated {:?}, {:?}", S::KERNEL, self.backing));
    }

    fn room(&self) -> usize {
        self.kernel.space().len() / 2
    }

    fn resident(&self) -> Option<u64> {
        Some(self.kernel.resident_bytes() as u64)
    }

    fn size(&self) -> Option<u64> {
        Some(self.kernel.totals().mapped as u64)
    }

    unsafe fn access(&self, address: *mut u8, access: Access) -> Option<Seen> {
        if self.backing == Backing::Real {
            // SAFETY: the caller's promise.
            return unsafe { Running.access(address, access) };
        }
        let (needed, kind) = match access {
            Access::Read => (Protection::ReadOnly, 0),
            Access::Write => (Protection::ReadWrite, 1),
            // Code on the heap does not run.
            Access::Execute => return None,
        };
        let fault = |signal, code| Seen::Fault { signal, code, address: address.addr() };
        Some(match self.kernel.protection_at(address.addr()) {
            Some(Protection::ReadWrite) => Seen::Value(0),
            Some(Protection::ReadOnly | Protection::ReadExecute) if access == Access::Read => {
                Seen::Value(0)
            }
            _ => match self.kernel.signal_at(address.addr(), needed) {
                Some(told) => fault(named(told.number), told.code),
                None => fault(Signal::AccessViolation, kind),
            },
        })
    }

    unsafe fn access_by_child(&self, address: *mut u8, access: Access) -> Option<Seen> {
        let mappings = self.kernel.mappings();
        let place = address.addr();
        let inside = |mapping: &&Mapping| (mapping.start..mapping.end).contains(&place);
        let mapping = mappings.iter().find(inside);
        let fault = Seen::Fault { signal: Signal::Segv, code: 1, address: place };
        let Some(mapping) = mapping else { return Some(fault) };
        // SAFETY: the suite's own memory, which is readable and writable.
        let found = unsafe { address.read_volatile() };
        Some(match (mapping.attributes.inheritance, access) {
            (Inheritance::Nothing, _) => fault,
            (Inheritance::Zeros, Access::Read) => Seen::Value(0),
            (_, Access::Read) => Seen::Value(found),
            (Inheritance::Share, _) => {
                // SAFETY: as above.
                unsafe { address.write_volatile(!found) };
                Seen::Value(0)
            }
            (_, _) => Seen::Value(0),
        })
    }

    fn dumped(&self, address: *mut u8) -> Option<bool> {
        let place = address.addr();
        let inside = |mapping: &&Mapping| (mapping.start..mapping.end).contains(&place);
        Some(self.kernel.mappings().iter().find(inside)?.attributes.dumped)
    }

    fn lock(&self, range: PageRange) -> bool {
        self.kernel.lock_memory(range, true).is_ok()
    }
}

/// Runs the suite on a simulated Linux; what is not supported is returned.
fn passes_on(settings: Settings) -> Vec<String> {
    passes_as(Linux::new, settings)
}

/// Runs the suite on a backend over its simulated kernel; what is not supported is returned.
fn passes_as<S: System, O: Capable>(new: fn(Simulated<S>) -> O, settings: Settings) -> Vec<String> {
    let turn = alone();
    let kernel = Simulated::<S>::start(settings.clone());
    let os = new(kernel.clone());
    let run = run(&turn, &os, &Around { kernel: kernel.clone(), backing: settings.backing });
    assert_eq!(run.names("fail"), [""; 0], "{settings:?}\n{}", run.text);
    assert!(run.summary.passed >= 65, "{settings:?}\n{}", run.text);
    kernel.verify();
    run.names("not supported").into_iter().map(str::to_owned).collect()
}

const HEAP: Settings = Settings::heap(64 << 20);
const REAL: Settings = Settings::real(1 << 36);

#[test]
fn every_promise_is_kept_by_simulated_linux_on_real_memory() {
    let not_supported = passes_on(REAL);
    assert_eq!(
        not_supported,
        [
            "alloc_huge: memory is zero, readable and writable",
            "fault: pages that a forked child shares",
            "inheritance: a forked child shares",
            "unused eagerly: pages that a forked child shares"
        ]
    );
}

/// Runs the suite on a backend over its simulated kernel: on both backings, with pages of each
/// size that the system has; lazily freed pages are dropped early, late, or as the seed says.
fn passes_everywhere<S: System, O: Capable>(
    new: fn(Simulated<S>) -> O,
    page_sizes: &[usize],
    version: (u32, u32),
) {
    let mut lazily_freed =
        [LazilyFreed::Dropped, LazilyFreed::Kept, LazilyFreed::Adversarial].into_iter().cycle();
    for backing in [HEAP, REAL] {
        for &page_size in page_sizes {
            let real = backing.backing == Backing::Real;
            let page_size = if real { page_size.max(sysmem::page_size()) } else { page_size };
            let lazily_freed = lazily_freed.next().unwrap();
            passes_as(new, Settings { version, page_size, lazily_freed, ..backing.clone() });
        }
    }
}

const KIB: usize = 1 << 10;

#[test]
fn every_promise_is_kept_by_the_simulated_bsds() {
    // FreeBSD and NetBSD have larger pages on some machines (PAGE_SIZE of <machine/param.h>: 16 KiB
    // on arm64 by option, 8 KiB on sparc64), OpenBSD has 8 KiB and 16 KiB ones.
    passes_everywhere::<sim::FreeBsd, _>(FreeBsd::new, &[4 * KIB, 16 * KIB], (1, 0));
    passes_everywhere::<sim::NetBsd, _>(NetBsd::new, &[4 * KIB, 8 * KIB], (1, 0));
    passes_everywhere::<sim::OpenBsd, _>(OpenBsd::new, &[4 * KIB, 8 * KIB], (1, 0));
    passes_everywhere::<sim::DragonFly, _>(DragonFly::new, &[4 * KIB], (1, 0));
}

#[test]
fn every_promise_is_kept_by_simulated_illumos() {
    // 8 KiB on sparc.
    passes_everywhere::<sim::Illumos, _>(Illumos::new, &[4 * KIB, 8 * KIB], (1, 0));
}

#[test]
fn every_promise_is_kept_by_simulated_darwin() {
    // 16 KiB on arm64.
    passes_everywhere::<sim::Darwin, _>(Darwin::new, &[4 * KIB, 16 * KIB], (1, 0));
}

#[test]
fn every_promise_is_kept_by_simulated_windows_with_virtual_alloc_2_and_without() {
    for version in [(6, 1), (10, 1803)] {
        passes_everywhere::<sim::Windows, _>(Windows::new, &[4 * KIB], version);
    }
}

#[test]
fn large_pages_of_simulated_windows_are_checked_where_the_user_may_have_them() {
    for (lock_memory_privilege, base) in [(false, HEAP), (true, HEAP), (true, REAL)] {
        let settings = Settings { lock_memory_privilege, version: (10, 1803), ..base };
        let not_supported = passes_as::<sim::Windows, _>(Windows::new, settings);
        for check in ["alloc_huge", "switch_huge_pages"] {
            let skipped = not_supported.iter().any(|name| name.starts_with(check));
            assert_eq!(skipped, !lock_memory_privilege, "{check}: {not_supported:?}");
        }
    }
}

#[test]
fn every_promise_is_kept_by_simulated_linux_on_the_heap() {
    for page_size in [4 << 10, 16 << 10, 64 << 10] {
        passes_on(Settings { page_size, ..HEAP });
    }
}

#[test]
fn every_promise_is_kept_whenever_lazily_freed_pages_go() {
    for base in [HEAP, REAL] {
        for lazily_freed in [LazilyFreed::Dropped, LazilyFreed::Kept] {
            passes_on(Settings { lazily_freed, ..base.clone() });
        }
        for seed in 1..4 {
            passes_on(Settings { seed, ..base.clone() });
        }
    }
}

#[test]
fn every_promise_is_kept_by_old_and_restricted_kernels() {
    let strict = Overcommit::Never { limit: 1 << 30 };
    for settings in [
        Settings { version: (4, 4), ..REAL },
        Settings { version: (5, 10), ..HEAP },
        Settings { overcommit: strict, ..REAL },
        Settings { overcommit: Overcommit::Always, ..HEAP },
        Settings { huge_page_size: None, mapping_names: false, ..HEAP },
        Settings { proc_mounted: false, ..REAL },
        Settings { process_madvise_refused: Some(Errno(1)), ..REAL },
        Settings { short_counts: true, ..HEAP },
    ] {
        passes_on(settings);
    }
}

#[test]
fn a_kernel_without_room_is_no_broken_promise() {
    let small = Settings { address_space_limit: 1 << 30, ..REAL };
    let not_supported = passes_on(small);
    let refused = "reserve: aligned to 1 GiB";
    assert!(not_supported.iter().any(|name| name == refused), "{not_supported:?}");
}

#[test]
fn the_checklist_for_a_port_has_every_check() {
    let checklist =
        include_str!("../../../docs/porting.md").split("## The checklist").nth(1).unwrap();
    let listed: BTreeSet<_> = checklist
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.trim_end_matches('`').split("`, `"))
        .collect();
    let turn = alone();
    let kernel = Simulated::new(HEAP);
    let run = run(&turn, &Linux::new(kernel.clone()), &Around { kernel, backing: HEAP.backing });
    let made: BTreeSet<_> = run.checks.keys().filter_map(|name| name.split(':').next()).collect();
    assert_eq!(listed, made);
}
