//! The simulated kernel does what a kernel does, on both of its backings.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use sysmem::calls::{Calls, Files, Mincore, UnixCalls};
use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, LazilyFreed, Overcommit, Settings, Simulated};
use sysmem::{
    Account, Errno, GiveBack, Lock, Os, PageRange, Protection, Reservation, ReserveOptions, State,
};

const PAGE: usize = 4096;
const NONE: i32 = 0;
const READ_WRITE: i32 = 3;
const PRIVATE: i32 = 0x22;
const NORESERVE: i32 = 0x4000;
const FIXED: i32 = 0x10;
const FIXED_NOREPLACE: i32 = 0x10_0000;
const DONTNEED: i32 = 4;
const FREE: i32 = 8;
const EAGAIN: Errno = Errno(11);
const ENOMEM: Errno = Errno(12);
const EEXIST: Errno = Errno(17);
const EINVAL: Errno = Errno(22);

static ACCOUNT: Account = Account::new("simulated");

fn kernels() -> [Simulated; 2] {
    [Settings::heap(4 << 20), Settings::real(1 << 36)].map(Simulated::new)
}

fn kernel(change: impl FnOnce(&mut Settings)) -> Simulated {
    let mut settings = Settings { scattered: false, ..Settings::heap(1 << 20) };
    change(&mut settings);
    Simulated::new(settings)
}

// SAFETY of what follows: the memory belongs to the simulated process, which is the test.

fn mmap(kernel: &Simulated, npages: usize, protection: i32) -> *mut u8 {
    // SAFETY: nothing is replaced.
    unsafe { kernel.mmap(std::ptr::null_mut(), npages * PAGE, protection, PRIVATE) }.unwrap()
}

fn mmap_at(kernel: &Simulated, at: *mut u8, npages: usize, flags: i32) -> Result<*mut u8, Errno> {
    // SAFETY: the test owns what it replaces.
    unsafe { kernel.mmap(at, npages * PAGE, READ_WRITE, PRIVATE | flags) }
}

fn mprotect(kernel: &Simulated, at: *mut u8, npages: usize, bits: i32) -> Result<(), Errno> {
    // SAFETY: the test owns the range.
    unsafe { kernel.mprotect(at, npages * PAGE, bits) }
}

fn madvise(kernel: &Simulated, at: *mut u8, npages: usize, advice: i32) -> Result<(), Errno> {
    // SAFETY: the test owns the range.
    unsafe { kernel.madvise(at, npages * PAGE, advice) }
}

fn munmap(kernel: &Simulated, at: *mut u8, npages: usize) -> Result<(), Errno> {
    // SAFETY: the test owns the range.
    unsafe { kernel.munmap(at, npages * PAGE) }
}

fn page(start: *mut u8, index: usize) -> *mut u8 {
    start.wrapping_add(index * PAGE)
}

fn protections(kernel: &Simulated, start: *mut u8, npages: usize) -> Vec<Option<Protection>> {
    (0..npages).map(|index| kernel.protection_at(page(start, index).addr())).collect()
}

#[test]
fn memory_of_a_simulated_process_is_used_given_back_and_zero_again() {
    for kernel in kernels() {
        let os = Linux::new(kernel.clone());
        let mut memory =
            Reservation::reserve_in(&os, ReserveOptions::new(1 << 20), &ACCOUNT).unwrap();
        memory.map(0, 64 << 10, Protection::ReadWrite).unwrap();
        memory.used(0, 64 << 10).unwrap();
        for offset in (0..64 << 10).step_by(4096) {
            // SAFETY: Ready.
            let page = unsafe { memory.as_mut_ptr().add(offset).cast::<u64>() };
            // SAFETY: Ready.
            unsafe {
                assert_eq!(page.read(), 0);
                page.write(offset as u64 + 1);
            }
        }
        let metadata = os.registry().metadata_bytes();
        assert!(kernel.resident_bytes() >= 64 << 10);
        assert!(kernel.resident_bytes() <= (64 << 10) + metadata);
        memory.unused(0, 32 << 10, GiveBack::Eager).unwrap();
        memory.used(0, 32 << 10).unwrap();
        // SAFETY: Ready.
        unsafe {
            assert_eq!(memory.as_mut_ptr().cast::<u64>().read(), 0);
            assert_eq!(memory.as_mut_ptr().add(32 << 10).cast::<u64>().read(), (32 << 10) + 1);
        }
        assert_eq!(memory.resident_bytes(0, 1 << 20), Ok(32 << 10));
        memory.fault(0, 1 << 20).unwrap();
        assert_eq!(memory.state(0), Some((State::Reserved, Protection::NoAccess, 1 << 20)));
        assert_eq!(memory.resident_bytes(0, 1 << 20), Ok(0));
        drop(memory);
        assert_eq!(kernel.totals().mapped, metadata);
    }
}

#[test]
#[should_panic(expected = "stray write")]
fn a_stray_write_to_reserved_heap_memory_is_found() {
    let kernel = Simulated::new(Settings::heap(1 << 20));
    let os = Linux::new(kernel.clone());
    let memory = Reservation::reserve_in(&os, ReserveOptions::new(1 << 16), &ACCOUNT).unwrap();
    // SAFETY: a bug on purpose; the memory is a heap block that the simulator owns.
    unsafe { memory.as_mut_ptr().add(12345).write(1) };
    kernel.verify();
}

#[test]
fn pressure_takes_lazily_freed_pages_that_were_not_written_to() {
    for backing in [Backing::Heap, Backing::Real] {
        let kernel = Simulated::new(Settings {
            backing,
            lazily_freed: LazilyFreed::Kept,
            ..Settings::heap(1 << 20)
        });
        let os = Linux::new(kernel.clone());
        let mut memory = Reservation::alloc_in(&os, 8192, &ACCOUNT).unwrap();
        let first = memory.as_mut_ptr().cast::<u64>();
        // SAFETY: Ready.
        unsafe {
            first.write(1);
            first.add(512).write(2);
        }
        memory.unused(0, 8192, GiveBack::Lazy).unwrap();
        memory.used(0, 8192).unwrap();
        // SAFETY: Ready.
        unsafe {
            assert_eq!((first.read(), first.add(512).read()), (1, 2));
            first.add(512).write(3);
            kernel.pressure();
            assert_eq!((first.read(), first.add(512).read()), (0, 3));
        }
    }
}

#[test]
#[should_panic(expected = "stray write")]
fn a_write_to_read_only_heap_memory_is_found_when_it_becomes_writable() {
    let kernel = Simulated::new(Settings::heap(1 << 20));
    let memory = mmap(&kernel, 1, READ_WRITE);
    // SAFETY: writable.
    unsafe { memory.write(7) };
    mprotect(&kernel, memory, 1, 1).unwrap();
    // SAFETY: a bug on purpose; the memory is a heap block that the simulator owns.
    unsafe { memory.add(100).write(1) };
    let _ = mprotect(&kernel, memory, 1, READ_WRITE);
}

#[test]
#[should_panic(expected = "stray write")]
fn a_write_after_free_is_found_when_the_process_ends() {
    let kernel = Simulated::new(Settings::heap(1 << 20));
    let memory = mmap(&kernel, 1, READ_WRITE);
    munmap(&kernel, memory, 1).unwrap();
    // SAFETY: a bug on purpose, as above.
    unsafe { memory.write(1) };
    drop(kernel);
}

#[test]
#[should_panic(expected = "another's")]
fn unmapping_what_is_anothers_is_found() {
    let kernel = Simulated::new(Settings::heap(1 << 20));
    let start = kernel.space().start;
    kernel.occupy(start + PAGE..start + 2 * PAGE);
    let memory = mmap_at(&kernel, std::ptr::without_provenance_mut(start), 1, 0).unwrap();
    let _ = munmap(&kernel, memory, 2);
}

#[test]
fn contents_come_back_with_the_access() {
    for kernel in kernels() {
        let memory = mmap(&kernel, 3, READ_WRITE);
        // SAFETY: writable.
        unsafe { page(memory, 1).write(9) };
        mprotect(&kernel, memory, 3, NONE).unwrap();
        assert_eq!(kernel.resident_bytes(), PAGE);
        mprotect(&kernel, memory, 3, 1).unwrap();
        // SAFETY: readable.
        assert_eq!(unsafe { (page(memory, 1).read(), memory.read()) }, (9, 0));
        mprotect(&kernel, memory, 3, NONE).unwrap();
        madvise(&kernel, memory, 3, DONTNEED).unwrap();
        assert_eq!(kernel.resident_bytes(), 0);
        mprotect(&kernel, memory, 3, READ_WRITE).unwrap();
        // SAFETY: readable.
        assert_eq!(unsafe { page(memory, 1).read() }, 0);
    }
}

#[test]
fn lazily_freed_pages_go_at_some_later_call_or_never_and_writes_always_stay() {
    for backing in [Backing::Heap, Backing::Real] {
        let (mut gone_at_once, mut gone_later, mut kept) = (0, 0, 0);
        for seed in 0..20 {
            let kernel = Simulated::new(Settings { seed, backing, ..Settings::heap(1 << 20) });
            let memory = mmap(&kernel, 20, READ_WRITE);
            // SAFETY: writable.
            let read = |index| unsafe { page(memory, index).cast::<u64>().read_volatile() };
            let write = |index: usize, value| {
                // SAFETY: writable.
                unsafe { page(memory, index).cast::<u64>().write_volatile(value) };
            };
            (0..20).for_each(|index| write(index, index as u64 + 1));
            madvise(&kernel, memory, 20, FREE).unwrap();
            gone_at_once += (0..20).filter(|&index| read(index) == 0).count();
            // What is written now stays, whatever the kernel had in mind.
            (0..20).step_by(2).for_each(|index| write(index, index as u64 + 100));
            for _ in 0..60 {
                kernel.resource_limit(9).unwrap();
            }
            for index in 0..20 {
                match (index % 2, read(index)) {
                    (0, found) => assert_eq!(found, index as u64 + 100),
                    (_, 0) => gone_later += 1,
                    (_, found) => {
                        assert_eq!(found, index as u64 + 1);
                        kept += 1;
                    }
                }
            }
        }
        assert!(gone_at_once > 20 && gone_later > gone_at_once / 2 + 20 && kept > 20);
    }
}

#[test]
fn a_fixed_mapping_that_fails_leaves_a_hole_up_to_6_11() {
    for (version, hole) in [((5, 4), true), ((6, 11), true), ((6, 12), false)] {
        let limit = 8 * PAGE as u64;
        let kernel = kernel(|settings| {
            settings.version = version;
            settings.overcommit = Overcommit::Never { limit };
        });
        let memory = mmap(&kernel, 4, READ_WRITE);
        let reserved = mmap(&kernel, 4, NONE);
        assert_eq!(mmap_at(&kernel, reserved, 4, FIXED), Err(ENOMEM));
        assert_eq!(kernel.protection_at(reserved.addr()).is_none(), hole, "{version:?}");
        // What is replaced counts for what replaces it only where it is set aside.
        let replaced = mmap_at(&kernel, memory, 4, FIXED);
        assert!(replaced.is_ok(), "{version:?}");
    }
}

#[test]
fn a_rival_takes_the_hole_that_a_failed_replacement_leaves() {
    let kernel = kernel(|settings| {
        settings.version = (6, 1);
        settings.rival = true;
    });
    let memory = mmap(&kernel, 4, READ_WRITE);
    kernel.starve_next_replacement();
    assert_eq!(mmap_at(&kernel, memory, 4, FIXED), Err(ENOMEM));
    assert_eq!(mmap_at(&kernel, memory, 4, FIXED_NOREPLACE), Err(EEXIST));
    let rival = &kernel.mappings()[0];
    assert!(rival.attributes.foreign);
    kernel.vacate(rival.start..rival.end);
    assert_eq!(mmap_at(&kernel, memory, 4, FIXED_NOREPLACE), Ok(memory));
}

#[test]
fn noreplace_is_a_hint_before_4_17() {
    let kernel = kernel(|settings| settings.version = (4, 16));
    let memory = mmap(&kernel, 4, READ_WRITE);
    let other = mmap_at(&kernel, memory, 4, FIXED_NOREPLACE).unwrap();
    assert_ne!(memory, other);
}

#[test]
fn a_hole_stops_a_protection_half_way_and_is_told_after_advice() {
    let kernel = kernel(|_| {});
    let memory = mmap(&kernel, 6, READ_WRITE);
    munmap(&kernel, page(memory, 2), 1).unwrap();
    // Removing a hole is no error.
    munmap(&kernel, page(memory, 2), 1).unwrap();
    assert_eq!(mprotect(&kernel, memory, 6, NONE), Err(ENOMEM));
    let (none, both) = (Some(Protection::NoAccess), Some(Protection::ReadWrite));
    assert_eq!(protections(&kernel, memory, 6), [none, none, None, both, both, both]);
    // SAFETY: writable.
    unsafe { page(memory, 5).write(1) };
    assert_eq!(madvise(&kernel, memory, 6, DONTNEED), Err(ENOMEM));
    // SAFETY: readable.
    assert_eq!(unsafe { page(memory, 5).read() }, 0, "what lies behind the hole was done");
    assert_eq!(kernel.mincore(memory, 6 * PAGE, &mut [0; 6]), Err(ENOMEM));
    assert_eq!(madvise(&kernel, memory.wrapping_add(1), 1, DONTNEED), Err(EINVAL));
    // SAFETY: nothing is unmapped.
    assert_eq!(unsafe { kernel.munmap(memory, 0) }, Err(EINVAL));
}

#[test]
fn mapping_may_exceed_the_limit_on_mappings_by_one_and_splitting_may_not() {
    // Two mappings lie outside the space.
    let kernel = kernel(|settings| settings.max_map_count = 5);
    let memory = mmap(&kernel, 9, READ_WRITE);
    mprotect(&kernel, page(memory, 4), 1, NONE).unwrap();
    assert_eq!(kernel.mappings().len(), 3);
    assert_eq!(mprotect(&kernel, page(memory, 1), 1, NONE), Err(ENOMEM));
    assert_eq!(munmap(&kernel, page(memory, 1), 1), Err(ENOMEM));
    assert_eq!(madvise(&kernel, page(memory, 1), 1, 14), Err(EAGAIN));
    let other = kernel.space().start as *mut u8;
    assert_eq!(mmap_at(&kernel, other, 1, FIXED), Ok(other));
    assert_eq!(mmap_at(&kernel, page(other, 9), 1, FIXED), Err(ENOMEM));
    // The edge of a mapping can always go.
    munmap(&kernel, memory, 1).unwrap();
}

#[test]
fn reservations_are_charged_only_where_the_system_never_overcommits() {
    for (overcommit, charged) in
        [(Overcommit::Always, 0), (Overcommit::Never { limit: 1 << 30 }, 4 * PAGE)]
    {
        let kernel = kernel(|settings| settings.overcommit = overcommit);
        // SAFETY: nothing is replaced.
        let memory = unsafe {
            kernel.mmap(std::ptr::null_mut(), 8 * PAGE, NONE, PRIVATE | NORESERVE).unwrap()
        };
        assert_eq!(kernel.totals().charged, 0);
        mprotect(&kernel, memory, 4, READ_WRITE).unwrap();
        assert_eq!(kernel.totals().charged, charged);
        // SAFETY: writable.
        (0..4).for_each(|index| unsafe { page(memory, index).write(1) });
        // Once written to, it stays charged whatever it allows.
        mprotect(&kernel, memory, 4, NONE).unwrap();
        assert_eq!(kernel.totals().charged, charged);
        assert_eq!(kernel.totals().writable, 0);
        munmap(&kernel, memory, 8).unwrap();
        assert_eq!(kernel.totals(), Default::default());
    }
}

#[test]
fn mincore_and_proc_tell_what_is_there() {
    for kernel in kernels() {
        let memory = mmap(&kernel, 4, READ_WRITE);
        // SAFETY: writable.
        unsafe { page(memory, 2).write(1) };
        let mut residency = [7; 4];
        kernel.mincore(memory, 4 * PAGE, &mut residency).unwrap();
        assert_eq!(residency, [0, 0, 1, 0]);
        let text = |path| {
            let file = kernel.open(path).unwrap();
            let mut buffer = [0; 2000];
            let len = kernel.read_at(file, &mut buffer, 0).unwrap();
            assert_eq!(kernel.read_at(file, &mut [0; 8], len as u64), Ok(0));
            kernel.close(file);
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        };
        assert_eq!(text(c"/proc/self/statm"), "4 1 0 0 0 4 0\n");
        let line = format!("{:08x}-{:08x} rw-p", memory.addr(), memory.addr() + 4 * PAGE);
        assert_eq!(
            text(c"/proc/self/maps").lines().filter(|text| text.starts_with(&line)).count(),
            1
        );
        assert_eq!(kernel.open(c"/proc/self/pagemap"), Err(Errno(2)));
        assert_eq!(kernel.open_files(), 0);
    }
}

#[test]
fn the_same_seed_is_the_same_kernel() {
    let places = |seed| {
        let kernel = Simulated::new(Settings { seed, ..Settings::heap(1 << 20) });
        let start = kernel.space().start;
        let places = (1..20).map(|npages| mmap(&kernel, npages, NONE).addr() - start);
        places.collect::<Vec<_>>()
    };
    assert_eq!(places(1), places(1));
    assert_ne!(places(1), places(2));
}

#[test]
fn parked_threads_are_woken_and_time_can_stand() {
    let kernel = kernel(|settings| settings.clock_stands = true);
    let os = Linux::new(kernel.clone());
    assert_eq!(os.monotonic_time(), Duration::ZERO);
    let word = AtomicU32::new(0);
    // A word that is something else does not park.
    os.park(&word, 1, None);
    thread::scope(|scope| {
        let parked = scope.spawn(|| {
            while word.load(SeqCst) == 0 {
                os.park(&word, 0, None);
            }
        });
        let timed = scope.spawn(|| {
            while os.monotonic_time() < Duration::from_secs(3600) {
                os.park(&word, word.load(SeqCst), Some(Duration::from_secs(3600)));
            }
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!parked.is_finished() && !timed.is_finished());
        word.store(1, SeqCst);
        os.wake(&word, 1);
        parked.join().unwrap();
        kernel.advance(Duration::from_secs(3600));
        timed.join().unwrap();
    });
    assert_eq!(os.thread_cpu_time(), Duration::from_secs(3600));
    let running = Linux::new(Simulated::new(Settings::heap(1 << 20)));
    let before = running.monotonic_time();
    running.park(&word, 1, Some(Duration::from_millis(5)));
    assert!(running.monotonic_time() > before);
}

#[test]
fn the_lock_works_on_simulated_parking() {
    let os = Linux::new(Simulated::new(Settings::heap(1 << 20)));
    let count = Lock::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5_000).for_each(|_| *count.lock(&os) += 1));
        }
    });
    assert_eq!(*count.lock(&os), 20_000);
}

#[test]
fn variables_are_those_of_the_simulated_process() {
    let kernel = Simulated::with_environment(Settings::heap(1 << 20), &[(c"NAME", c"value")]);
    assert_eq!(kernel.environment(c"NAME"), Some(c"value"));
    assert_eq!(kernel.environment(c"PATH"), None);
}

#[test]
fn locked_memory_is_resident_and_can_be_unlocked() {
    let kernel = kernel(|_| {});
    let memory = mmap(&kernel, 4, READ_WRITE);
    let range = PageRange::new(memory, 2 * PAGE);
    kernel.lock_memory(range, true).unwrap();
    assert_eq!(kernel.resident_bytes(), 2 * PAGE);
    assert_eq!(madvise(&kernel, memory, 4, DONTNEED), Err(EINVAL));
    kernel.lock_memory(range, false).unwrap();
    assert_eq!(madvise(&kernel, memory, 4, DONTNEED), Ok(()));
    assert_eq!(kernel.resident_bytes(), 0);
}
