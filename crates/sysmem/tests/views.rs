//! Views of memory objects, on the running system and on simulated ones.
#![cfg(target_os = "linux")]

use sysmem::os::freebsd::FreeBsd;
use sysmem::os::linux::Linux;
use sysmem::os::netbsd::NetBsd;
use sysmem::os::windows::Windows;
use sysmem::sim::{self, Overcommit, Settings, Simulated};
use sysmem::{
    Account, ErrorKind, GiveBack, MemoryObjects, Native, Os, PageRange, Protection, Reservation,
    ReserveOptions, State,
};

const RW: Protection = Protection::ReadWrite;
const LEN: usize = 64 << 10;

static VIEWS: Account = Account::new("views");

fn views_agree<O: MemoryObjects + Clone>(os: O) {
    let page = os.page_size();
    let object = os.create_object(LEN).unwrap();
    assert_eq!((object.len(), object.is_empty()), (LEN, false));
    let options = ReserveOptions::new(LEN);
    let mut one = Reservation::reserve_view_in(os.clone(), options, &VIEWS, &object).unwrap();
    let mut two = Reservation::reserve_view_in(os.clone(), options, &VIEWS, &object).unwrap();
    assert_eq!(one.state(0), Some((State::Reserved, Protection::NoAccess, LEN)));
    one.map_object(page, 2 * page, RW, &object).unwrap();
    two.map_object(0, 2 * page, Protection::ReadOnly, &object).unwrap();
    let (left, right) = (one.as_mut_ptr(), two.as_mut_ptr());
    // SAFETY: what is touched was just made Ready.
    unsafe {
        left.add(page).write(7);
        assert_eq!((right.read(), right.add(page).read()), (0, 7));
        left.add(2 * page).write(8);
    }
    // What is out of sight stays in the object.
    one.fault(page, 2 * page).unwrap();
    assert_eq!(one.state(page).unwrap().0, State::Reserved);
    two.map_object(2 * page, page, Protection::ReadOnly, &object).unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { (right.add(page).read(), right.add(2 * page).read()) }, (7, 8));
    two.fault(0, LEN).unwrap();
    // SAFETY: no view shows it.
    unsafe { os.discard_object(&object, page, page) }.unwrap();
    two.map_object(page, 2 * page, RW, &object).unwrap();
    // SAFETY: as above; these systems give zeros.
    assert_eq!(unsafe { (right.add(page).read(), right.add(2 * page).read()) }, (0, 8));
    // Views outlive what they are of.
    os.close_object(object);
    // SAFETY: as above.
    unsafe {
        right.add(page).write(9);
        assert_eq!(right.add(page).read(), 9);
    }
}

fn views_have_no_other_states<O: MemoryObjects + Clone>(os: O) {
    let page = os.page_size();
    let object = os.create_object(LEN).unwrap();
    let options = ReserveOptions::new(LEN);
    let mut view = Reservation::reserve_view_in(os.clone(), options, &VIEWS, &object).unwrap();
    let refused = |result: Result<(), sysmem::Error>, kind| {
        assert_eq!(result.unwrap_err().kind(), kind);
    };
    refused(view.map(0, page, RW), ErrorKind::View);
    view.map_object(0, page, RW, &object).unwrap();
    refused(view.unused(0, page, GiveBack::Eager), ErrorKind::View);
    refused(view.unused(0, page, GiveBack::Lazy), ErrorKind::View);
    let range = PageRange::new(view.as_mut_ptr(), page);
    // SAFETY: the range is refused.
    let batch = unsafe { view.unused_batch_shared(&[range], GiveBack::Eager) };
    assert_eq!(batch.unwrap_err().error.kind(), ErrorKind::View);
    refused(view.map_object(0, page, RW, &object), ErrorKind::WrongState { found: State::Ready });
    let execute = Protection::ReadExecute;
    refused(view.map_object(page, page, execute, &object), ErrorKind::NotExecutable);
    // SAFETY: Ready.
    unsafe { view.as_mut_ptr().write(1) };
    let mut plain = Reservation::reserve_in(os.clone(), options, &VIEWS).unwrap();
    refused(plain.map_object(0, page, RW, &object), ErrorKind::NotSupported);
    let long = ReserveOptions::new(LEN + page);
    let longer = Reservation::reserve_view_in(os.clone(), long, &VIEWS, &object).unwrap_err();
    assert_eq!(longer.kind(), ErrorKind::OutOfBounds { len: LEN });
    os.close_object(object);
}

#[test]
fn views_of_one_object_show_the_same_bytes_until_they_are_discarded() {
    views_agree(Native::NEW);
    views_agree(Linux::new(Simulated::new(Settings::real(1 << 30))));
    views_agree(FreeBsd::new(Simulated::<sim::FreeBsd>::start(Settings::real(1 << 30))));
    views_agree(NetBsd::new(Simulated::<sim::NetBsd>::start(Settings::real(1 << 30))));
    views_agree(Windows::new(Simulated::<sim::Windows>::start(windows())));
}

#[test]
fn a_view_is_shown_and_hidden_and_nothing_else() {
    views_have_no_other_states(Native::NEW);
    views_have_no_other_states(Linux::new(Simulated::new(Settings::real(1 << 30))));
    let freebsd = Simulated::<sim::FreeBsd>::start(Settings::real(1 << 30));
    views_have_no_other_states(FreeBsd::new(freebsd));
    views_have_no_other_states(NetBsd::new(Simulated::<sim::NetBsd>::start(Settings::real(
        1 << 30,
    ))));
    views_have_no_other_states(Windows::new(Simulated::<sim::Windows>::start(windows())));
}

/// With VirtualAlloc2.
fn windows() -> Settings {
    Settings { version: (10, 1803), ..Settings::real(1 << 30) }
}

/// Committed pages are charged once, and show in the other views with what those were mapped with.
#[test]
fn sections_of_windows_are_committed_for_all_views_at_once() {
    let kernel = Simulated::<sim::Windows>::start(windows());
    let os = Windows::new(kernel.clone());
    let object = os.create_object(LEN).unwrap();
    let view = |executable| {
        let options = ReserveOptions::new(LEN).executable(executable);
        Reservation::reserve_view_in(os.clone(), options, &VIEWS, &object).unwrap()
    };
    let (mut one, two) = (view(false), view(true));
    let page = os.page_size();
    // Beside the registry's own pages.
    let may_commit = |npages: usize| {
        let limit = (os.registry().metadata_bytes() + npages * page) as u64;
        kernel.set(|settings| settings.overcommit = Overcommit::Never { limit });
    };
    may_commit(3);
    one.map_object(0, 2 * page, RW, &object).unwrap();
    let shown =
        |view: &Reservation<_>, at| kernel.protection_at(view.as_mut_ptr().addr() + at * page);
    assert_eq!(shown(&one, 1), Some(RW));
    assert_eq!(shown(&two, 1), Some(Protection::ReadExecute));
    assert_eq!(shown(&two, 2), Some(Protection::NoAccess));
    // One more fits, two do not.
    let error = one.map_object(2 * page, 2 * page, RW, &object).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
    one.map_object(2 * page, page, RW, &object).unwrap();
    os.close_object(object);
    drop((one, two));
    assert_eq!(kernel.totals().mapped, os.registry().metadata_bytes());
    // What nobody sees any more is charged no more.
    may_commit(3);
    assert!(Reservation::alloc_in(os, 3 * page, &VIEWS).is_ok());
}
