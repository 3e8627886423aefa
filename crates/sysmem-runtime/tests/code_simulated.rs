//! Code memory on the simulated kernels of other systems and on hardened ones: the code is really
//! run, and what a system refuses is said.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod machine_code;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use machine_code::{call, jump, returns};
use sysmem::os::darwin::Darwin;
use sysmem::os::dragonfly::DragonFly;
use sysmem::os::freebsd::FreeBsd;
use sysmem::os::illumos::Illumos;
use sysmem::os::linux::Linux;
use sysmem::os::netbsd::NetBsd;
use sysmem::os::openbsd::OpenBsd;
use sysmem::os::windows::Windows;
use sysmem::sim::{self, Call, Faulty, Settings, Simulated, System};
use sysmem::{Account, CodeMemory, Errno, ErrorKind, Operation};
use sysmem_runtime::CodeMechanism::{PerThread, Switch, TwoViews};
use sysmem_runtime::{CodeError, CodeMechanism, CodeOptions, CodeRegion};

const MIB: usize = 1 << 20;
const EACCES: Errno = Errno(13);

static CODE: Account = Account::new("simulated code");

fn settings() -> Settings {
    Settings::real(64 * MIB)
}

fn reserve<O: CodeMemory + Clone>(os: O) -> Result<CodeRegion<O>, CodeError> {
    CodeRegion::reserve_in(os, CodeOptions::new(MIB), &CODE)
}

/// Writes, publishes, runs, changes and discards code, by the mechanism that is expected.
fn code_works<O: CodeMemory + Clone>(os: O, mechanism: CodeMechanism) -> CodeRegion<O> {
    let page = os.page_size();
    let mut region = reserve(os).unwrap();
    assert_eq!(region.mechanism(), mechanism);
    region.write(0, &jump(64)).unwrap();
    region.write(64, &returns(1)).unwrap();
    region.write(128, &returns(2)).unwrap();
    region.write(5 * page, &returns(3)).unwrap();
    assert_eq!(region.publish(4 * page, page), Err(CodeError::NotWritten(4 * page)));
    region.publish(0, page).unwrap();
    assert_eq!(region.write(64, &returns(4)), Err(CodeError::Published(0)));
    region.publish(5 * page, page).unwrap();
    assert_eq!((call(&region, 0), call(&region, 5 * page)), (1, 3));
    // SAFETY: an aligned jump becomes another one.
    match unsafe { region.patch(0, &jump(128)) } {
        // qemu before 8.1 keeps its translation of code that is changed through another address.
        Ok(()) if cfg!(target_arch = "x86_64") => assert_eq!(call(&region, 0), 2),
        Ok(()) => {}
        Err(error) => assert_eq!((error, mechanism), (CodeError::NotWhileRunning, Switch)),
    }
    // SAFETY: nobody runs it, here and below.
    match unsafe { region.write_published(256, &returns(7)) } {
        Ok(()) => assert_eq!(call(&region, 256), 7),
        Err(error) => assert_eq!((error, mechanism), (CodeError::NotWhileRunning, Switch)),
    }
    // SAFETY: as above.
    unsafe { region.unpublish(0, page) }.unwrap();
    region.write(0, &returns(5)).unwrap();
    region.publish(0, page).unwrap();
    assert_eq!(call(&region, 0), 5);
    // SAFETY: as above.
    unsafe { region.discard(0, 6 * page) }.unwrap();
    assert_eq!(region.publish(0, page), Err(CodeError::NotWritten(0)));
    region.write(0, &returns(6)).unwrap();
    region.publish(0, page).unwrap();
    assert_eq!(call(&region, 0), 6);
    region
}

/// And leaves nothing behind when it goes.
fn works_and_goes<S: System, O: CodeMemory + Clone>(
    settings: Settings,
    os: impl Fn(Simulated<S>) -> O,
    mechanism: CodeMechanism,
    refused: &[(CodeMechanism, Operation, ErrorKind)],
) {
    let kernel = Simulated::<S>::start(settings);
    let region = code_works(os(kernel.clone()), mechanism);
    let refusals: Vec<_> = region
        .refusals()
        .map(|refusal| (refusal.mechanism, refusal.operation, refusal.kind))
        .collect();
    assert_eq!(refusals, refused);
    drop(region);
    assert_eq!(kernel.open_objects(), 0);
    // The registry keeps its pages.
    let kept = os(kernel.clone()).registry().metadata_bytes();
    assert_eq!(kernel.totals().mapped, kept);
}

const NO_OBJECTS: (CodeMechanism, Operation, ErrorKind) =
    (TwoViews, Operation::CreateObject, ErrorKind::NotSupported);
const NO_SWITCH: (CodeMechanism, Operation, ErrorKind) =
    (PerThread, Operation::Reserve, ErrorKind::NotSupported);

#[test]
fn linux_and_freebsd_and_netbsd_show_an_object_twice() {
    works_and_goes(settings(), Linux::new, TwoViews, &[]);
    works_and_goes(settings(), FreeBsd::<Simulated<sim::FreeBsd>>::new, TwoViews, &[]);
    works_and_goes(settings(), NetBsd::<Simulated<sim::NetBsd>>::new, TwoViews, &[]);
}

#[test]
fn windows_shows_a_section_twice() {
    let windows = Windows::<Simulated<sim::Windows>>::new;
    for version in [(6, 1), (10, 1803)] {
        let settings = Settings { version, ..settings() };
        works_and_goes(settings, windows, TwoViews, &[]);
    }
}

#[test]
fn openbsd_and_dragonfly_and_illumos_switch() {
    let refused = &[NO_OBJECTS, NO_SWITCH];
    works_and_goes(settings(), OpenBsd::<Simulated<sim::OpenBsd>>::new, Switch, refused);
    works_and_goes(settings(), DragonFly::<Simulated<sim::DragonFly>>::new, Switch, refused);
    works_and_goes(settings(), Illumos::<Simulated<sim::Illumos>>::new, Switch, refused);
}

#[test]
fn freebsd_without_writable_executable_pages_and_with_implied_maxima_changes_nothing() {
    for (allow_wx, imply_prot_max) in [(false, true), (false, false), (true, false)] {
        let settings = Settings { allow_wx, imply_prot_max, ..settings() };
        works_and_goes(settings, FreeBsd::<Simulated<sim::FreeBsd>>::new, TwoViews, &[]);
    }
}

#[test]
fn freebsd_in_capability_mode_switches_also_with_implied_maxima() {
    for imply_prot_max in [true, false] {
        // The heap backing has no objects, and runs no code.
        let settings = Settings { imply_prot_max, ..Settings::heap(8 * MIB) };
        let os = FreeBsd::new(Simulated::<sim::FreeBsd>::start(settings));
        let mut region = reserve(os).unwrap();
        assert_eq!(region.mechanism(), Switch);
        region.write(10, &[1; 10_000]).unwrap();
        region.publish(0, 3 * 4096).unwrap();
        // SAFETY: nobody runs it.
        unsafe { region.discard(0, MIB) }.unwrap();
    }
}

#[test]
fn netbsd_with_and_without_pax_mprotect_and_before_8() {
    for pax_mprotect in [true, false] {
        let settings = Settings { pax_mprotect, ..settings() };
        works_and_goes(settings, NetBsd::<Simulated<sim::NetBsd>>::new, TwoViews, &[]);
        let old = Settings { pax_mprotect, ..Settings::heap(8 * MIB) };
        let mut region = reserve(NetBsd::new(Simulated::<sim::NetBsd>::start(old))).unwrap();
        assert_eq!(region.mechanism(), Switch);
        let first = region.refusals().next().unwrap();
        assert_eq!((first.mechanism, first.kind), (TwoViews, ErrorKind::NotSupported));
        region.write(0, &[1; 100]).unwrap();
        region.publish(0, 4096).unwrap();
    }
}

#[test]
fn selinux_is_served_by_what_it_allows_or_told_what_it_forbids() {
    let no_execmem = Settings { executable_anonymous: false, ..settings() };
    works_and_goes(no_execmem.clone(), Linux::new, TwoViews, &[]);
    let denied = ErrorKind::System(EACCES);
    let no_tmpfs = Settings { executable_objects: false, ..settings() };
    let refused = &[(TwoViews, Operation::MapObject, denied), NO_SWITCH];
    works_and_goes(no_tmpfs, Linux::new, Switch, refused);

    let kernel = Simulated::new(Settings { executable_objects: false, ..no_execmem });
    let error = reserve(Linux::new(kernel.clone())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the system allows no memory for code; two views of one memory object: map object: the \
         system refused (EACCES); switching per thread: reserve: this system does not have it; \
         switching by protection: protect: the system refused (EACCES)"
    );
    assert_eq!(kernel.open_objects(), 0, "an object stayed open");
}

#[test]
fn darwin_lets_threads_switch_memory_for_a_jit() {
    let darwin = Darwin::<Simulated<sim::Darwin>>::new;
    works_and_goes(settings(), darwin, PerThread, &[NO_OBJECTS]);
    // The hardened runtime: the entitlement for a JIT, none, the one for unsigned memory.
    let hardened = Settings { executable_anonymous: false, ..settings() };
    works_and_goes(hardened.clone(), darwin, PerThread, &[NO_OBJECTS]);
    let refused = (PerThread, Operation::Reserve, ErrorKind::System(Errno(1)));
    let no_jit = Settings { allow_jit: false, ..settings() };
    works_and_goes(no_jit, darwin, Switch, &[NO_OBJECTS, refused]);
    let neither = Settings { allow_jit: false, ..hardened };
    let error = reserve(darwin(Simulated::start(neither))).unwrap_err();
    assert!(matches!(error, CodeError::NoMechanism([Some(_), Some(_), Some(_)])), "{error}");
}

/// Sealed code runs, and is written to nowhere any more.
#[test]
fn sealed_code_runs_and_its_writable_view_is_gone() {
    let kernel = Simulated::new(settings());
    let options = CodeOptions::new(2 * 4096);
    for mechanism in [TwoViews, Switch] {
        let options = options.mechanism(mechanism);
        let mut region =
            CodeRegion::reserve_in(Linux::new(kernel.clone()), options, &CODE).unwrap();
        region.write(0, &returns(7)).unwrap();
        region.publish(0, 4096).unwrap();
        let (mut region, error) = region.seal().unwrap_err();
        assert_eq!(error, CodeError::NotPublished(4096));
        region.write(4096, &returns(8)).unwrap();
        region.publish(4096, 4096).unwrap();
        let sealed = region.seal().map_err(|(_, error)| error).unwrap();
        let address = sealed.bytes().as_ptr();
        // SAFETY: published above.
        let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(address.add(4096)) };
        assert_eq!(function(), 8);
        assert_eq!(kernel.open_objects(), 0);
        let writable =
            |mapping: &sim::Mapping| mapping.attributes.view != 0 && mapping.attributes.writable();
        assert!(!kernel.mappings().iter().any(writable));
    }
    let old = Simulated::new(Settings { version: (6, 9), ..settings() });
    let mut region = CodeRegion::reserve_in(Linux::new(old), options, &CODE).unwrap();
    region.write(0, &[0; 2 * 4096]).unwrap();
    region.publish(0, 2 * 4096).unwrap();
    let (mut region, error) = region.seal().unwrap_err();
    assert!(matches!(error, CodeError::Memory(error) if error.kind() == ErrorKind::NotSupported));
    // It came back as it was.
    // SAFETY: nobody runs it.
    unsafe { region.unpublish(0, 4096) }.unwrap();
    region.write(0, &returns(9)).unwrap();
    region.publish(0, 4096).unwrap();
    assert_eq!(call(&region, 0), 9);
}

/// Calls that change what is mapped.
fn is_change(call: &Call) -> bool {
    matches!(
        call,
        Call::Mmap { .. }
            | Call::Munmap { .. }
            | Call::Mprotect { .. }
            | Call::CreateMemory { .. }
            | Call::MmapMemory { .. }
            | Call::DiscardMemory { .. }
            | Call::MapAgain { .. }
            | Call::VirtualAlloc { .. }
            | Call::VirtualProtect { .. }
            | Call::CreateSection { .. }
            | Call::MapSection { .. }
            | Call::UnmapView { .. }
    )
}

/// While any one call to the kernel fails, code is published or it is not, and after another try
/// everything is as it should be. No object stays open.
fn survives_every_failure<S: System, O: CodeMemory + Clone>(
    os: impl Fn(Faulty<Simulated<S>>) -> O,
) {
    let refused = Cell::new(0);
    for n in 0.. {
        let kernel = Simulated::<S>::start(settings());
        let faulty = Faulty::new(kernel.clone());
        let changes = Arc::new(AtomicUsize::new(0));
        let counted = changes.clone();
        faulty.fail_when(move |_, call| {
            (is_change(call) && counted.fetch_add(1, SeqCst) == n).then_some(Errno(12))
        });
        let page = 4096;
        let mut region = match reserve(os(faulty.clone())) {
            Ok(region) => region,
            Err(_) => {
                refused.set(refused.get() + 1);
                reserve(os(faulty.clone())).unwrap()
            }
        };
        let lost = Cell::new(false);
        let mut step = |run: &dyn Fn(&mut CodeRegion<O>) -> Result<(), CodeError>| {
            for attempt in 0..2 {
                match run(&mut region) {
                    Ok(()) => return,
                    Err(CodeError::Memory(error)) if error.kind() == ErrorKind::Lost => {
                        lost.set(true);
                    }
                    Err(error) => assert!(attempt == 0 || lost.get(), "call {n}: {error}"),
                }
                refused.set(refused.get() + 1 - attempt);
            }
        };
        step(&|region| region.write(page, &returns(8)));
        step(&|region| region.publish(page, page));
        // SAFETY: nobody runs it, here and below.
        step(&|region| unsafe { region.unpublish(page, page) });
        step(&|region| region.write(page, &returns(9)));
        step(&|region| region.publish(page, page));
        step(&|region| {
            assert!(lost.get() || call(region, page) == 9, "call {n}");
            Ok(())
        });
        // SAFETY: as above.
        step(&|region| unsafe { region.discard(page, page) });
        faulty.fail_nothing();
        drop(region);
        assert_eq!(kernel.open_objects(), 0, "call {n}: an object stayed open");
        if changes.load(SeqCst) <= n {
            break;
        }
    }
    assert!(refused.get() > 5, "only {} calls could fail", refused.get());
}

#[test]
fn a_failure_at_any_call_leaves_code_as_it_was_or_as_it_is_to_be() {
    survives_every_failure(|kernel: Faulty<Simulated>| Linux::new(kernel));
    survives_every_failure(FreeBsd::<Faulty<Simulated<sim::FreeBsd>>>::new);
    survives_every_failure(NetBsd::<Faulty<Simulated<sim::NetBsd>>>::new);
    survives_every_failure(OpenBsd::<Faulty<Simulated<sim::OpenBsd>>>::new);
    survives_every_failure(Windows::<Faulty<Simulated<sim::Windows>>>::new);
}
