//! What the operations really do, on the running Linux. What a kernel does not have is skipped
//! with a message.
#![cfg(target_os = "linux")]

mod limits;
mod told;

use sysmem::native::Kernel;
use sysmem::os::Policy;
use sysmem::os::linux::Linux;
use sysmem::sim::{Call, Faulty, Settings, Simulated, Traced};
use sysmem::usage::{self, Detail, Process};
use sysmem::{
    Account, Errno, Error, ErrorKind, GiveBack, Native, Os, PageRange, Placement, Protection,
    Reservation, ReserveOptions, page_size,
};

static ACCOUNT: Account = Account::new("native");

fn reserve(options: ReserveOptions) -> Reservation {
    Reservation::reserve(options, &ACCOUNT).unwrap()
}

/// Ready memory with a word of its number plus one in each page.
fn ready(npages: usize) -> Reservation {
    let mut memory = reserve(ReserveOptions::new(npages * page_size()));
    memory.map(0, memory.len(), Protection::ReadWrite).unwrap();
    memory.used(0, memory.len()).unwrap();
    fill(&memory);
    memory
}

fn fill<O: Os>(memory: &Reservation<O>) {
    for page in 0..memory.len() / page_size() {
        // SAFETY: Ready and writable.
        unsafe { word(memory, page).write_volatile(page as u64 + 1) };
    }
}

fn word<O: Os>(memory: &Reservation<O>, page: usize) -> *mut u64 {
    memory.as_mut_ptr().wrapping_add(page * page_size()).cast()
}

fn read<O: Os>(memory: &Reservation<O>, page: usize) -> u64 {
    // SAFETY: the tests read only what is Ready and readable.
    unsafe { word(memory, page).read_volatile() }
}

/// How a child ended.
#[derive(Debug, PartialEq)]
enum End {
    Exit(i32),
    Signal(i32),
}

/// Runs `act` in a forked child, whose other threads are gone: it may use what needs no lock of
/// the C library or of std, and this crate.
fn in_child(act: impl FnOnce() -> i32) -> End {
    let os = Native::NEW;
    os.registry().lock_for_fork(&os);
    // SAFETY: the child does only what is said above.
    let child = unsafe { libc::fork() };
    // SAFETY: this thread, or the one it is a copy of, holds the registry.
    unsafe { os.registry().unlock_after_fork(&os) };
    if child == 0 {
        // SAFETY: both are async-signal-safe; a child that hangs or panics dies.
        unsafe {
            libc::alarm(60);
            libc::_exit(act());
        }
    }
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: `status` is there to write to.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    match libc::WIFSIGNALED(status) {
        true => End::Signal(libc::WTERMSIG(status)),
        false => End::Exit(libc::WEXITSTATUS(status)),
    }
}

fn dies_of_access(act: impl FnOnce()) -> bool {
    let end = in_child(|| {
        act();
        0
    });
    end == End::Signal(libc::SIGSEGV)
}

#[test]
fn giving_back_eagerly_drops_the_pages_now_and_leaves_zeros() {
    let npages = (64 << 20) / page_size();
    let mut memory = ready(npages);
    assert_eq!(memory.resident_bytes(0, memory.len()), Ok(memory.len()));
    memory.unused(0, memory.len(), GiveBack::Eager).unwrap();
    assert_eq!(memory.resident_bytes(0, memory.len()), Ok(0));
    memory.used(0, memory.len()).unwrap();
    assert!((0..npages).all(|page| read(&memory, page) == 0));
}

#[test]
fn giving_back_eagerly_makes_the_process_smaller() {
    // In a child, because the tests beside this one move the figure too.
    let end = in_child(|| {
        let resident = || usage::process(Process::Own, Detail::Counters).unwrap().resident.unwrap();
        let mut memory = ready((64 << 20) / page_size());
        let before = resident();
        memory.unused(0, memory.len(), GiveBack::Eager).unwrap();
        i32::from(resident() + (48 << 20) > before)
    });
    assert_eq!(end, End::Exit(0));
}

#[test]
fn giving_back_lazily_leaves_old_contents_or_zeros_until_the_next_write() {
    let mut memory = ready(64);
    memory.unused(0, memory.len(), GiveBack::Lazy).unwrap();
    memory.used(0, memory.len()).unwrap();
    for page in 0..64 {
        let found = read(&memory, page);
        assert!(found == 0 || found == page as u64 + 1, "page {page} holds {found}");
    }
    fill(&memory);
    for page in 0..64 {
        assert_eq!(read(&memory, page), page as u64 + 1);
    }
    assert_eq!(memory.resident_bytes(0, memory.len()), Ok(memory.len()));
}

#[test]
fn access_that_a_state_forbids_faults() {
    let page = page_size();
    let mut memory = ready(6);
    memory.fault(0, page).unwrap();
    memory.protect(page, page, Protection::ReadOnly).unwrap();
    memory.protect(2 * page, page, Protection::NoAccess).unwrap();
    // SAFETY: what faults kills the child, which is the point.
    let write = |index| unsafe { word(&memory, index).write_volatile(1) };
    assert!(dies_of_access(|| _ = read(&memory, 0)), "Reserved, read");
    assert!(dies_of_access(|| write(0)), "Reserved, written");
    assert!(dies_of_access(|| write(1)), "ReadOnly, written");
    assert!(!dies_of_access(|| assert_eq!(read(&memory, 1), 2)), "ReadOnly, read");
    assert!(dies_of_access(|| _ = read(&memory, 2)), "NoAccess, read");
    assert!(!dies_of_access(|| write(3)), "Ready");
    let start = memory.as_mut_ptr();
    assert_eq!(memory.resident_bytes(0, page), Ok(0));
    memory.protect(2 * page, page, Protection::ReadWrite).unwrap();
    assert_eq!(read(&memory, 2), 3, "contents outlive a protection");
    memory.map(0, page, Protection::ReadWrite).unwrap();
    memory.used(0, page).unwrap();
    assert_eq!(read(&memory, 0), 0, "contents do not outlive fault");
    let end = in_child(|| {
        if memory.free().is_err() {
            return 1;
        }
        // SAFETY: faults, which is the point.
        unsafe { start.read_volatile() };
        0
    });
    assert_eq!(end, End::Signal(libc::SIGSEGV), "freed");
}

#[test]
fn locked_memory_is_given_back() {
    let mut memory = ready(16);
    // SAFETY: locking changes no memory.
    if unsafe { libc::mlock(memory.as_mut_ptr().cast(), memory.len()) } != 0 {
        return eprintln!("skipped: may not lock 16 pages");
    }
    for how in [GiveBack::Eager, GiveBack::Lazy] {
        fill(&memory);
        if let Err(error) = memory.unused(0, memory.len(), how) {
            // Before 5.18.
            assert_eq!(error.kind(), ErrorKind::System(Errno(libc::EINVAL)));
            return eprintln!("skipped: this kernel has no MADV_DONTNEED_LOCKED");
        }
        assert_eq!(memory.resident_bytes(0, memory.len()), Ok(0), "{how:?}");
        memory.used(0, memory.len()).unwrap();
        assert!((0..16).all(|page| read(&memory, page) == 0));
    }
    fill(&memory);
    memory.fault(0, memory.len()).unwrap();
    assert_eq!(memory.resident_bytes(0, memory.len()), Ok(0));
}

#[test]
fn a_batch_gives_back_the_same_with_and_without_process_madvise() {
    let page = page_size();
    for refused in [false, true] {
        let faulty = Faulty::new(Kernel);
        if refused {
            let batched = |call: &Call| matches!(call, Call::ProcessMadvise { .. });
            faulty.fail_every(batched, Errno(libc::ENOSYS));
        }
        let traced = Traced::new(faulty);
        let os = Linux::new(traced.clone());
        let options = ReserveOptions::new(6000 * page);
        let mut memory = Reservation::reserve_in(os, options, &ACCOUNT).unwrap();
        memory.map(0, 6000 * page, Protection::ReadWrite).unwrap();
        memory.used(0, 6000 * page).unwrap();
        fill(&memory);
        traced.clear();
        let ranges = (0..3000).map(|index| PageRange::new(word(&memory, 2 * index).cast(), page));
        let ranges: Vec<_> = ranges.collect();
        // SAFETY: nobody else works on the reservation.
        unsafe { memory.unused_batch_shared(&ranges, GiveBack::Eager) }.unwrap();
        let batches = traced.count(|call| matches!(call, Call::ProcessMadvise { .. }));
        let singles = traced.count(|call| matches!(call, Call::Madvise { .. }));
        match singles {
            // Three calls of 1,024 ranges each; a kernel before 6.14 refuses the first.
            0 => assert!(batches == 3 && !refused),
            _ => assert_eq!((batches, singles), (1, 3000)),
        }
        eprintln!("batches {batches}, single calls {singles}");
        assert_eq!(memory.resident_bytes(0, 6000 * page), Ok(3000 * page));
        memory.used(0, 6000 * page).unwrap();
        for index in 0..6000 {
            let expected = if index % 2 == 0 { 0 } else { index as u64 + 1 };
            assert_eq!(read(&memory, index), expected);
        }
    }
}

#[test]
fn alignment_leaves_no_excess() {
    let end = in_child(|| {
        let size = || {
            let mut text = [0u8; 64];
            // SAFETY: the path ends in zero, the buffer is as long as said.
            let read = unsafe {
                let file = libc::open(c"/proc/self/statm".as_ptr(), libc::O_RDONLY);
                let read = libc::read(file, text.as_mut_ptr().cast(), text.len());
                libc::close(file);
                read
            };
            let digits = text[..read as usize].iter().take_while(|byte| byte.is_ascii_digit());
            digits.fold(0, |size, digit| size * 10 + usize::from(digit - b'0'))
        };
        let page = page_size();
        // The registry's page is there before.
        let Ok(_first) = Reservation::reserve(ReserveOptions::new(page), &ACCOUNT) else {
            return 1;
        };
        for shift in [13, 16, 21, 24, 30] {
            let before = size();
            let options = ReserveOptions::new(3 * page).align(1 << shift);
            let Ok(memory) = Reservation::reserve(options, &ACCOUNT) else { return shift };
            if memory.as_mut_ptr().addr() % (1 << shift) != 0 || size() != before + 3 {
                return 100 + shift;
            }
            drop(memory);
            if size() != before {
                return 200 + shift;
            }
        }
        0
    });
    assert_eq!(end, End::Exit(0));
}

#[test]
fn placements_are_kept_on_the_running_kernel() {
    let page = page_size();
    let memory = reserve(ReserveOptions::new(4 * page));
    let address = memory.as_mut_ptr().addr();
    let at = ReserveOptions::new(page).placement(Placement::At(address + page));
    assert_eq!(Reservation::reserve(at, &ACCOUNT).unwrap_err().kind(), ErrorKind::Taken);
    let code = placements_are_kept_on_the_running_kernel as fn() as usize;
    let placement = Placement::Near { address: code, distance: 1 << 31 };
    let near = reserve(ReserveOptions::new(1 << 20).placement(placement));
    assert!(near.as_mut_ptr().addr().abs_diff(code) <= 1 << 31);
    assert!((near.as_mut_ptr().addr() + (1 << 20)).abs_diff(code) <= 1 << 31);
    let high = reserve(ReserveOptions::new(page).placement(Placement::High));
    assert!(high.as_mut_ptr().addr() as u64 >= 1 << 32);
    let nowhere = Placement::Near { address, distance: page };
    let options = ReserveOptions::new(4 * page).placement(nowhere);
    assert_eq!(Reservation::reserve(options, &ACCOUNT).unwrap_err().kind(), ErrorKind::NoPlace);
}

#[test]
fn each_operation_is_one_call() {
    let traced = Traced::new(Kernel);
    let os = Linux::new(traced.clone());
    let page = page_size();
    // SAFETY: the range is what `reserve` gave, and goes through the states in order.
    let counts = unsafe {
        let start = os.reserve(&ReserveOptions::new(4 * page)).unwrap();
        let range = PageRange::new(start.as_ptr(), 4 * page);
        let mut counts = vec![traced.records().len()];
        let mut count = |result: Result<(), Error>| {
            result.unwrap();
            counts.push(traced.records().len());
        };
        count(os.map(range, Protection::ReadWrite, Policy::DEFAULT));
        count(os.used(range, Protection::ReadWrite));
        count(os.unused(range, Protection::ReadWrite, GiveBack::Eager, Policy::DEFAULT));
        count(os.protect(range, Protection::ReadOnly));
        count(os.free(range));
        counts
    };
    assert_eq!(counts, [1, 2, 2, 3, 4, 5]);
}

#[test]
fn a_simulated_kernel_with_real_memory_faults_for_real() {
    let kernel = Simulated::new(Settings::real(1 << 36));
    let page = page_size();
    let os = Linux::new(kernel);
    let mut memory = Reservation::reserve_in(os, ReserveOptions::new(1 << 35), &ACCOUNT).unwrap();
    memory.map(0, 2 * page, Protection::ReadWrite).unwrap();
    memory.map(2 * page, page, Protection::ReadOnly).unwrap();
    memory.used(0, 3 * page).unwrap();
    // SAFETY: what faults kills the child, which is the point.
    let write = |index| unsafe { word(&memory, index).write_volatile(1) };
    assert!(!dies_of_access(|| write(1)));
    assert!(dies_of_access(|| write(2)), "ReadOnly, written");
    assert!(dies_of_access(|| _ = read(&memory, 3)), "Reserved, read");
    assert!(dies_of_access(|| _ = read(&memory, 1 << 20)), "Reserved, far away");
}

#[test]
fn a_forked_child_reserves_and_frees_as_its_parent_does() {
    let kept = ready(2);
    let end = in_child(|| {
        let Ok(memory) = Reservation::alloc(4 * page_size(), &ACCOUNT) else { return 1 };
        if read(&memory, 3) != 0 || read(&kept, 1) != 2 {
            return 2;
        }
        let found = Native::NEW.registry().find(kept.as_mut_ptr().addr()).is_some();
        i32::from(!found) * 3 + i32::from(memory.free().is_err()) * 4
    });
    assert_eq!(end, End::Exit(0));
    assert_eq!(read(&kept, 1), 2);
}
