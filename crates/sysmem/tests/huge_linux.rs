//! Huge pages are asked about and switched, on the simulated and on the running Linux.
#![cfg(target_os = "linux")]

use sysmem::huge::{self, HugePageControl, Mode, Scope};
use sysmem::os::linux::Linux;
use sysmem::sim::{Call, Faulty, Settings, Simulated};
use sysmem::{Account, Errno, ErrorKind, Os, Protection, Reservation, ReserveOptions};

static ACCOUNT: Account = Account::new("huge");

#[test]
fn switching_is_seen_by_asking() {
    let os = Linux::new(Simulated::new(Settings::heap(1 << 20)));
    let before = os.huge_pages();
    assert_eq!((before.mode, before.on_for_process), (Some(Mode::Advised), Some(true)));
    assert_eq!(before.size, os.huge_page_size());
    os.switch_huge_pages(Scope::Process, false).unwrap();
    assert_eq!(os.huge_pages().on_for_process, Some(false));
    os.switch_huge_pages(Scope::Process, true).unwrap();
    assert_eq!(os.huge_pages(), before);
    for (on, mode) in [(false, Mode::Never), (true, Mode::Always)] {
        os.switch_huge_pages(Scope::System, on).unwrap();
        assert_eq!(os.huge_pages().mode, Some(mode));
        assert_eq!(os.huge_pages().on_for_process, Some(true));
    }
}

#[test]
fn a_kernel_without_huge_pages_says_so() {
    let settings = Settings { huge_page_size: None, ..Settings::heap(1 << 20) };
    let os = Linux::new(Simulated::new(settings));
    assert_eq!((os.huge_pages().size, os.huge_pages().mode), (None, None));
    let error = os.switch_huge_pages(Scope::System, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
}

#[test]
fn a_refusal_names_its_reason_and_changes_nothing() {
    // EPERM, EACCES, EROFS; EINVAL; EIO.
    for (errno, kind) in [
        (1, ErrorKind::Denied),
        (13, ErrorKind::Denied),
        (30, ErrorKind::Denied),
        (22, ErrorKind::NotSupported),
        (5, ErrorKind::System(Errno(5))),
    ] {
        let faulty = Faulty::new(Simulated::new(Settings::heap(1 << 20)));
        let os = Linux::new(faulty.clone());
        let before = os.huge_pages();
        faulty.fail_when(move |_, call| {
            let sets = matches!(call, Call::WriteFile { .. } | Call::ProcessControl { .. });
            sets.then_some(Errno(errno))
        });
        for scope in [Scope::Process, Scope::System] {
            assert_eq!(os.switch_huge_pages(scope, false).unwrap_err().kind(), kind);
        }
        assert_eq!(os.huge_pages().on_for_process, None);
        faulty.fail_nothing();
        assert_eq!(os.huge_pages(), before);
    }
}

#[test]
fn the_running_system_is_told_of_as_it_is() {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let Ok(text) = std::fs::read_to_string(path) else {
        assert_eq!(huge::query().mode, None);
        return;
    };
    let word = text.split(['[', ']']).nth(1).unwrap();
    let mode = huge::query().mode.unwrap();
    assert_eq!(format!("{mode:?}").to_lowercase(), word.replace("madvise", "advised"));
    // Written as it is, so that nobody else notices.
    let on = match mode {
        Mode::Always => true,
        Mode::Never => false,
        Mode::Advised => return eprintln!("not switched: neither on nor off is what it is"),
    };
    match huge::set(Scope::System, on) {
        Ok(()) => assert_eq!(huge::query().mode, Some(mode)),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Denied),
    }
}

#[test]
fn a_process_that_switched_them_off_gets_none() {
    let Some(size) = huge::query().size.filter(|_| huge::query().mode != Some(Mode::Never)) else {
        return eprintln!("skipped: this system builds no huge pages");
    };
    // SAFETY: the child makes system calls only, and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: leaves the child without running anything of the parent's.
        unsafe { libc::_exit(in_child(size)) };
    }
    let mut status = 0;
    // SAFETY: `status` may be written to.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "{status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0, "the step that failed");
    assert_eq!(huge::query().on_for_process, Some(true));
}

/// The number of the step that failed, 0 for none. Without a heap, as after fork of many threads.
fn in_child(size: usize) -> i32 {
    // Pages that became resident by one write: more than one where a huge page was built.
    let pages_by_one_write = || {
        let options = ReserveOptions::new(size).align(size);
        let mut memory = Reservation::reserve(options, &ACCOUNT).ok()?;
        memory.map(0, size, Protection::ReadWrite).ok()?;
        memory.huge_page(0, size).ok()?;
        memory.used(0, size).ok()?;
        // SAFETY: just made Ready.
        unsafe { memory.as_mut_ptr().write_volatile(1) };
        Some(memory.resident_bytes(0, size).ok()? / sysmem::page_size())
    };
    if huge::query().on_for_process != Some(true) || huge::set(Scope::Process, false).is_err() {
        return 1;
    }
    if huge::query().on_for_process != Some(false) || pages_by_one_write() != Some(1) {
        return 2;
    }
    if huge::set(Scope::Process, true).is_err() || huge::query().on_for_process != Some(true) {
        return 3;
    }
    // Whether there is a huge page to be had is up to the machine.
    if pages_by_one_write().is_none() {
        return 4;
    }
    0
}
