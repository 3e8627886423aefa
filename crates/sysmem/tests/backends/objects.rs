//! Memory that is seen at more than one address, and memory that threads switch for themselves.

use sysmem::os::{Os, Placement, Policy, Source};
use sysmem::{CodeMemory, ErrorKind, GiveBack, MemoryObjects, Protection, ReserveOptions};

use super::bsds::netbsd;
use super::others::{darwin, windows};
use super::scripted::{ANYWHERE, Asked::*, PAGE};
use super::{AT, LEN, Operate, RW, range};

const RX: Protection = Protection::ReadExecute;
const VIEW: Policy = Policy { executable: true, source: Source::Object, ..Policy::DEFAULT };
const PER_THREAD: Policy =
    Policy { executable: true, source: Source::PerThread, ..Policy::DEFAULT };

fn view() -> ReserveOptions {
    ReserveOptions::new(LEN).executable(true)
}

#[test]
fn netbsd_maps_shared_memory_once_more_where_it_found_a_place() {
    let os = netbsd();
    let object = os.create_object(LEN).unwrap();
    // PROT_MPROTECT(7); MAP_SHARED | MAP_ANON.
    assert_eq!(os.kernel().asked(), [Mmap(0, LEN, 0o70, 0x1001)]);
    let place = os.reserve_view(&view(), &object).unwrap();
    assert_eq!(place.addr().get(), ANYWHERE);
    let [Mmap(0, LEN, 0o70, _), Munmap(ANYWHERE, LEN), MapAgain(ANYWHERE, ANYWHERE, LEN)] =
        os.kernel().asked()[..]
    else {
        panic!("another way to a view");
    };
    // SAFETY: there is no memory.
    unsafe { os.map_object(range(), RX, &object, 0) }.unwrap();
    os.do_fault(VIEW).unwrap();
    // SAFETY: there is no memory.
    unsafe { os.discard_object(&object, PAGE, PAGE) }.unwrap();
    os.close_object(object);
    assert_eq!(
        os.kernel().asked(),
        [
            Mprotect(AT, LEN, 5),
            // Not replaced by what would no longer be the object.
            Mprotect(AT, LEN, 0),
            Madvise(ANYWHERE + PAGE, PAGE, 6),
            Munmap(ANYWHERE, LEN),
        ]
    );
}

#[test]
fn netbsd_before_8_has_no_views_and_a_place_that_was_lost_is_looked_for_again() {
    let os = netbsd();
    let object = os.create_object(LEN).unwrap();
    os.kernel().answer(|asked| matches!(asked, MapAgain(..)).then_some(Err(22)));
    let error = os.reserve_view(&view(), &object).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
    let mut tries = 0;
    os.kernel().answer(move |asked| {
        tries += usize::from(matches!(asked, MapAgain(..)));
        (tries < 3 && matches!(asked, MapAgain(..))).then_some(Err(12))
    });
    os.reserve_view(&view(), &object).unwrap();
    let asked = os.kernel().asked();
    assert_eq!(asked.iter().filter(|asked| matches!(asked, MapAgain(..))).count(), 3);
    // Nothing but the last is still mapped.
    let mapped = asked.iter().filter(|asked| matches!(asked, Mmap(..))).count();
    assert_eq!(asked.iter().filter(|asked| matches!(asked, Munmap(..))).count(), mapped);
    os.kernel().answer(|asked| matches!(asked, MapAgain(..)).then_some(Err(12)));
    assert_eq!(os.reserve_view(&view(), &object).unwrap_err().kind(), ErrorKind::Taken);
}

#[test]
fn windows_maps_whole_sections_and_commits_what_is_shown() {
    const READ_EXECUTE: u32 = 0x24;
    let os = windows();
    let object = os.create_object(LEN).unwrap();
    os.reserve_view(&view().placement(Placement::At(1 << 32)), &object).unwrap();
    os.reserve_view(&ReserveOptions::new(LEN), &object).unwrap();
    // SAFETY: there is no memory.
    unsafe { os.map_object(range(), RX, &object, 0) }.unwrap();
    os.do_fault(VIEW).unwrap();
    assert_eq!(
        os.kernel().asked(),
        [
            CreateSection(LEN),
            MapSection(0x5ec, 0, LEN, 1 << 32, READ_EXECUTE),
            // One that cannot be executed.
            MapSection(0x5ec, 0, LEN, 0, 6),
            VirtualAlloc(AT, LEN, 0x1000, 0x20),
            VirtualProtect(AT, LEN, 0x20),
            VirtualProtect(AT, LEN, 1),
        ]
    );
    // SAFETY: there is no memory.
    unsafe { os.discard_object(&object, 3 * PAGE, PAGE) }.unwrap();
    os.kernel().answer(|asked| matches!(asked, VirtualFree(..)).then_some(Err(87)));
    os.do_free().unwrap();
    os.close_object(object);
    assert_eq!(
        os.kernel().asked(),
        [VirtualFree(AT, 0, 0x8000), UnmapView(AT), CloseSection(0x5ec)]
    );
}

#[test]
fn windows_says_that_it_has_no_sections_where_the_call_is_not_implemented() {
    let os = windows();
    os.kernel().answer(|asked| matches!(asked, CreateSection(..)).then_some(Err(120)));
    assert_eq!(os.create_object(LEN).unwrap_err().kind(), ErrorKind::NotSupported);
}

#[test]
fn windows_gives_the_pages_of_a_section_back_through_a_view_of_their_own() {
    let os = windows();
    let object = os.create_object(64 * PAGE).unwrap();
    os.kernel().asked();
    // Views begin at multiples of 64 KiB.
    // SAFETY: there is no memory.
    unsafe { os.discard_object(&object, 17 * PAGE, PAGE) }.unwrap();
    assert_eq!(
        os.kernel().asked(),
        [
            MapSection(0x5ec, 16 * PAGE, 2 * PAGE, 0, 6),
            VirtualAlloc(ANYWHERE + PAGE, PAGE, 0x8_0000, 1),
            UnmapView(ANYWHERE),
        ]
    );
}

#[test]
fn windows_finds_the_nearest_place_for_a_view_and_tells_a_taken_one() {
    let os = windows();
    let object = os.create_object(LEN).unwrap();
    let near = Placement::Near { address: AT, distance: 1 << 20 };
    let place = os.reserve_view(&view().placement(near), &object).unwrap();
    assert!(place.addr().get().abs_diff(AT) <= 1 << 20);
    os.kernel().answer(|asked| matches!(asked, MapSection(..)).then_some(Err(487)));
    let at = os.reserve_view(&view().placement(Placement::At(AT)), &object).unwrap_err();
    assert_eq!(at.kind(), ErrorKind::Taken);
    let near = os.reserve_view(&view().placement(near), &object).unwrap_err();
    assert_eq!(near.kind(), ErrorKind::NoPlace);
}

#[test]
fn darwin_maps_memory_for_a_jit_once_and_never_anew() {
    let os = darwin();
    assert!(os.supports(PER_THREAD));
    os.reserve(&view().switched_per_thread()).unwrap();
    os.do_map(RW, PER_THREAD).unwrap();
    os.let_thread_write(true);
    os.let_thread_write(false);
    os.do_unused(GiveBack::Lazy, PER_THREAD).unwrap();
    assert_eq!(
        os.kernel().asked(),
        [
            // MAP_ANON | MAP_JIT | MAP_PRIVATE, not by Mach, which has no such flag.
            Mmap(0, LEN, 0, 0x1802),
            Mprotect(AT, LEN, 7),
            LetThreadWrite(true),
            LetThreadWrite(false),
            Madvise(AT, LEN, 7),
        ]
    );
    for refused in [os.do_unused(GiveBack::Eager, PER_THREAD), os.do_fault(PER_THREAD)] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotSupported);
    }
    assert_eq!(os.kernel().asked(), []);
}

#[test]
fn darwin_takes_a_jit_s_address_for_a_hint_and_looks_at_the_answer() {
    let os = darwin();
    let at = view().switched_per_thread().placement(Placement::At(AT));
    os.reserve(&at).unwrap();
    assert_eq!(os.kernel().asked(), [Mmap(AT, LEN, 0, 0x1802)]);
    os.kernel().answer(|asked| matches!(asked, Mmap(..)).then_some(Ok(ANYWHERE)));
    assert_eq!(os.reserve(&at).unwrap_err().kind(), ErrorKind::Taken);
    assert_eq!(os.kernel().asked(), [Mmap(AT, LEN, 0, 0x1802), Munmap(ANYWHERE, LEN)]);
}

#[test]
fn a_view_is_not_longer_than_its_object_and_made_with_it_only() {
    let os = netbsd();
    let object = os.create_object(LEN).unwrap();
    let long = ReserveOptions::new(LEN + PAGE);
    let error = os.reserve_view(&long, &object).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfBounds { len: LEN });
    assert!(!os.supports(VIEW) && !windows().supports(VIEW) && !darwin().supports(VIEW));
    assert!(!os.supports(PER_THREAD) && !windows().supports(PER_THREAD));
    let error = os.reserve(&view().switched_per_thread()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
}
