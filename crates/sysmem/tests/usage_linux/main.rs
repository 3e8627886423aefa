//! What the running Linux says of processes and of itself, seen to move.
#![cfg(target_os = "linux")]

mod others;
mod pages;

use std::fs;
use std::sync::{Barrier, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use sysmem::native::Kernel;
use sysmem::os::linux::Linux;
use sysmem::sim::{Call, Faulty, Traced};
use sysmem::usage::{self, Detail, Group, MappingKind, Process, ProcessUsage, Usage};
use sysmem::{
    Account, Errno, ErrorKind, GiveBack, Os, PageRange, Protection, Reservation, ReserveOptions,
    page_size,
};

static ACCOUNT: Account = Account::new("usage");

const MIB: u64 = 1 << 20;
const SIZE: usize = 64 << 20;

/// Figures are of the whole process, so tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    static ARENAS: Once = Once::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    ARENAS.call_once(make_arenas);
    turn
}

/// glibc reserves 64 MiB when a thread first allocates, unless a thread that ended has left its
/// arena. The threads of tests that wait for their turn are not to do so in the middle of another.
fn make_arenas() {
    let threads = 2 * std::thread::available_parallelism().unwrap().get();
    let all_have_one = Barrier::new(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                drop(std::hint::black_box(Box::new(1)));
                all_have_one.wait();
            });
        }
    });
}

fn own() -> ProcessUsage {
    usage::process(Process::Own, Detail::Pages).unwrap()
}

/// Asserts that a figure rose (or fell, where negative) by a number of bytes, give or take what
/// the test itself and its libraries use.
#[track_caller]
fn moved(name: &str, before: Option<u64>, after: Option<u64>, by: i64) {
    let (before, after) = (before.expect(name) as i64, after.expect(name) as i64);
    let off = (after - before - by).unsigned_abs();
    assert!(off <= 2 * MIB, "{name} went from {before} to {after}, not by {by}");
}

fn ready(len: usize) -> Reservation {
    let mut memory = Reservation::reserve(ReserveOptions::new(len), &ACCOUNT).unwrap();
    memory.map(0, len, Protection::ReadWrite).unwrap();
    memory.used(0, len).unwrap();
    memory
}

/// So many huge pages of address space to be used, and the size of one; `None`, and a line that says
/// so, where there are no huge pages.
fn ready_in_huge_pages(count: usize) -> Option<(Reservation, usize)> {
    let Some(huge) = usage::machine().unwrap().huge_page_size else {
        println!("skipped: no huge pages");
        return None;
    };
    let huge = huge as usize;
    let options = ReserveOptions::new(count * huge).align(huge);
    let mut memory = Reservation::reserve(options, &ACCOUNT).unwrap();
    memory.map(0, count * huge, Protection::ReadWrite).unwrap();
    memory.used(0, count * huge).unwrap();
    Some((memory, huge))
}

fn touch(memory: &Reservation, len: usize) {
    for offset in (0..len).step_by(page_size()) {
        // SAFETY: the tests touch only what is Ready.
        unsafe { memory.as_mut_ptr().add(offset).write_volatile(1) };
    }
}

#[test]
fn each_figure_moves_with_the_memory() {
    let _turn = alone();
    let by = SIZE as i64;
    let first = own();
    let mut memory = Reservation::reserve(ReserveOptions::new(SIZE), &ACCOUNT).unwrap();
    let reserved = own();
    moved("virtual_size", first.virtual_size, reserved.virtual_size, by);
    moved("data", first.data, reserved.data, 0);
    moved("resident", first.pages.resident, reserved.pages.resident, 0);

    memory.map(0, SIZE, Protection::ReadWrite).unwrap();
    memory.used(0, SIZE).unwrap();
    memory.no_huge_page(0, SIZE).unwrap();
    touch(&memory, SIZE);
    let used = own();
    moved("virtual_size", reserved.virtual_size, used.virtual_size, 0);
    moved("data", reserved.data, used.data, by);
    moved("resident", first.resident, used.resident, by);
    moved("resident_anonymous", first.resident_anonymous, used.resident_anonymous, by);
    moved("resident_files", first.resident_files, used.resident_files, 0);
    moved("pages.resident", first.pages.resident, used.pages.resident, by);
    moved("pages.proportional", first.pages.proportional, used.pages.proportional, by);
    moved("pages.private", first.pages.private, used.pages.private, by);
    moved("pages.anonymous", first.pages.anonymous, used.pages.anonymous, by);
    let tables = used.page_tables.unwrap() - reserved.page_tables.unwrap();
    let entries = (SIZE / page_size() * 8) as u64;
    assert!((entries..entries + MIB).contains(&tables), "{tables} bytes of page tables");
    let faults = used.minor_faults.unwrap() - first.minor_faults.unwrap();
    assert!(faults >= (SIZE / page_size()) as u64, "{faults} faults");
    assert!(used.major_faults >= first.major_faults);
    assert!(used.peak_resident.unwrap() >= used.resident.unwrap() - 2 * MIB);

    memory.unused(0, SIZE / 2, GiveBack::Lazy).unwrap();
    let lazily = own();
    moved("lazily_freed", used.pages.lazily_freed, lazily.pages.lazily_freed, by / 2);
    moved("pages.resident", used.pages.resident, lazily.pages.resident, 0);
    moved("in use", used.pages.resident_in_use(), lazily.pages.resident_in_use(), -by / 2);

    memory.unused(SIZE / 2, SIZE / 2, GiveBack::Eager).unwrap();
    let eagerly = own();
    moved("pages.resident", lazily.pages.resident, eagerly.pages.resident, -by / 2);

    drop(memory);
    let last = own();
    moved("virtual_size", first.virtual_size, last.virtual_size, 0);
    moved("pages.resident", first.pages.resident, last.pages.resident, 0);
    moved("lazily_freed", first.pages.lazily_freed, last.pages.lazily_freed, 0);
    assert!(last.peak_resident.unwrap() >= used.pages.resident.unwrap() - 2 * MIB, "a peak stays");
    assert!(last.peak_virtual_size >= used.virtual_size);
    // Linux has neither.
    assert_eq!((last.phys_footprint, last.commit_charge), (None, None));
}

#[test]
fn locked_memory_is_counted() {
    let _turn = alone();
    let memory = ready(4 << 20);
    let before = own();
    // SAFETY: locks our own memory.
    if unsafe { libc::mlock(memory.as_mut_ptr().cast(), memory.len()) } != 0 {
        println!("skipped: locking 4 MiB is refused");
        return;
    }
    let after = own();
    for (name, before, after) in [
        ("locked", before.locked, after.locked),
        ("pages.locked", before.pages.locked, after.pages.locked),
    ] {
        assert_eq!(after.unwrap() - before.unwrap(), 4 * MIB, "{name}");
    }
    let limit = after.locked_limit.unwrap();
    let mut expected = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `expected` is an rlimit to write to.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut expected) }, 0);
    assert_eq!(limit, expected.rlim_cur);
}

#[test]
fn huge_pages_are_counted_once_there_are_some() {
    let _turn = alone();
    let Some((memory, huge)) = ready_in_huge_pages(4) else { return };
    touch(&memory, 4 * huge);
    let before = own().pages.huge.unwrap();
    if let Err(error) = memory.collapse(0, 4 * huge) {
        println!("skipped: {error}");
        return;
    }
    let after = own().pages.huge.unwrap();
    assert!(after >= before.max(4 * huge as u64), "{before} then {after}");
    let machine = usage::machine().unwrap().anonymous_huge.unwrap();
    // Each processor keeps a part of the sum to itself: 125 pages (mm/vmstat.c).
    let processors = std::thread::available_parallelism().unwrap().get();
    assert!(machine + (processors * 125 * page_size()) as u64 >= 4 * huge as u64, "{machine}");
}

#[test]
fn processor_time_is_what_was_spent() {
    let _turn = alone();
    let before = own();
    let began = Instant::now();
    // The kernel shares out what it saw between user and system time, and may take some away again.
    let spent = |now: ProcessUsage| {
        now.user_time.unwrap() >= before.user_time.unwrap() + Duration::from_millis(50)
            && now.system_time.unwrap() > before.system_time.unwrap()
    };
    while !spent(own()) {
        let mut sum = 0u64;
        for number in 0..100_000 {
            sum = std::hint::black_box(sum + number);
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "50 ms, and some in the kernel, did not pass"
        );
    }
    // By its number a process is looked at from outside, in steps of 10 ms.
    let outside = usage::process(Process::Id(std::process::id()), Detail::Counters).unwrap();
    let inside = own();
    let apart = inside.user_time.unwrap().abs_diff(outside.user_time.unwrap());
    assert!(apart <= Duration::from_millis(200), "{apart:?}");
    let faults = inside.minor_faults.unwrap() - outside.minor_faults.unwrap();
    assert!(faults < 1000, "{faults}");
}

#[test]
fn mappings_are_counted_and_listed_with_their_names() {
    let _turn = alone();
    let before = own();
    // Every other page of another protection: none are one mapping.
    let mut memory = ready(2000 * page_size());
    for page in (0..2000).step_by(2) {
        memory.protect(page * page_size(), page_size(), Protection::ReadOnly).unwrap();
    }
    let after = own();
    let more = after.mappings.unwrap() - before.mappings.unwrap();
    // Threads of other tests come and go, some mappings each.
    assert!((1900..2400).contains(&more), "{more} more mappings");
    let limit: u64 =
        fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    assert_eq!(after.mappings_limit, Some(limit));

    let mut buffer = [0; 8192];
    for detail in [Detail::Counters, Detail::Pages] {
        let (mut count, mut ours, mut end, mut kinds) = (0, 0, 0, Vec::new());
        let program = std::env::current_exe().unwrap();
        usage::mappings(Process::Own, detail, &mut buffer, &mut |mapping| {
            assert!(mapping.start >= end, "in order");
            end = mapping.end;
            count += 1;
            let start = memory.as_mut_ptr().addr();
            ours += usize::from(mapping.start >= start && mapping.end <= start + memory.len());
            if mapping.kind == MappingKind::Program {
                assert_eq!(mapping.name, program.as_os_str().as_encoded_bytes());
            }
            kinds.push(mapping.kind);
            assert_eq!(mapping.pages.resident.is_some(), detail == Detail::Pages);
        })
        .unwrap();
        assert!(count >= 2000 && (1998..=2000).contains(&ours), "{count}, {ours}");
        for kind in [
            MappingKind::Program,
            MappingKind::File,
            MappingKind::Stack,
            MappingKind::Anonymous,
            MappingKind::System,
        ] {
            assert!(kinds.contains(&kind), "{kind:?} is missing");
        }
    }
}

#[test]
fn shared_memory_is_told_apart() {
    let _turn = alone();
    let before = own();
    // SAFETY: a new mapping at an address that the kernel chooses.
    let shared = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(shared, libc::MAP_FAILED);
    // SAFETY: the mapping just made.
    unsafe { shared.cast::<u8>().write_bytes(1, SIZE) };
    let after = own();
    moved("resident_shared", before.resident_shared, after.resident_shared, SIZE as i64);
    moved("resident_anonymous", before.resident_anonymous, after.resident_anonymous, 0);
    let mut found = 0;
    usage::mappings(Process::Own, Detail::Pages, &mut [0; 4096], &mut |mapping| {
        if mapping.kind == MappingKind::SharedMemory && mapping.shared == Some(true) {
            found += mapping.pages.resident.unwrap();
        }
    })
    .unwrap();
    assert!(found >= SIZE as u64, "{found}");
    // SAFETY: nothing uses the mapping any more.
    unsafe { libc::munmap(shared, SIZE) };
}

#[test]
fn a_small_buffer_is_refused() {
    let _turn = alone();
    let refused = usage::mappings(Process::Own, Detail::Counters, &mut [0; 64], &mut |_| {});
    let least = usage::LEAST_BUFFER;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::SmallBuffer { least });
    let refused = usage::reconcile(&mut [], &mut [0; 64]);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::SmallBuffer { least });
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn whatever_call_fails_is_an_error_or_a_missing_figure() {
    let _turn = alone();
    let kernel = Faulty::new(Kernel);
    let os = Linux::new(kernel.clone());
    let files = open_files();
    let memory = ready(4 * page_size());
    let range = PageRange::new(memory.as_mut_ptr(), memory.len());
    for errno in [Errno(libc::EIO), Errno(libc::ESRCH), Errno(libc::EACCES)] {
        let mut n = 0;
        loop {
            kernel.fail_nth(n, errno);
            let mut buffer = [0; 8192];
            let _ = os.process_usage(Process::Own, Detail::Pages);
            let _ = os.machine_usage();
            let _ = os.control_group(Process::Own);
            let _ = os.mappings(Process::Own, Detail::Pages, &mut buffer, &mut |_| {});
            let _ = os.page_runs(Process::Own, range, &mut |_| {});
            if kernel.calls() <= n {
                break;
            }
            n += 1;
        }
        assert!(n > 30, "{n} calls");
    }
    kernel.fail_nothing();
    assert_eq!(open_files(), files, "every file is closed");
    os.process_usage(Process::Own, Detail::Pages).unwrap();
}

#[test]
fn what_another_user_may_not_see_is_denied_or_missing() {
    let _turn = alone();
    let kernel = Faulty::new(Kernel);
    let os = Linux::new(kernel.clone());
    let hidden = |call: &Call| match call {
        Call::Open { path } => {
            [c"/proc/self/smaps", c"/proc/self/smaps_rollup", c"/proc/self/maps"]
                .contains(&path.as_c_str())
        }
        _ => false,
    };
    kernel.fail_every(hidden, Errno(libc::EACCES));
    let told = os.process_usage(Process::Own, Detail::Pages).unwrap();
    assert!(told.resident.is_some());
    assert_eq!((told.pages.resident, told.mappings), (None, None));
    let refused = os.mappings(Process::Own, Detail::Pages, &mut [0; 4096], &mut |_| {});
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);
}

#[test]
fn the_machine_is_what_sysinfo_says() {
    let _turn = alone();
    let machine = usage::machine().unwrap();
    // SAFETY: sysinfo is plain data for which zeros are valid.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a sysinfo to write to.
    assert_eq!(unsafe { libc::sysinfo(&mut info) }, 0);
    let unit = u64::from(info.mem_unit);
    assert_eq!(machine.total, Some(info.totalram as u64 * unit));
    assert_eq!(machine.swap_total, Some(info.totalswap as u64 * unit));
    assert_eq!(machine.page_size, Some(page_size() as u64));
    let (total, free) = (machine.total.unwrap(), machine.free.unwrap());
    assert!(free > 0 && free < total);
    assert!(machine.available.unwrap() <= total);
    assert!(machine.overcommit.is_some());
    let has_huge_pages = fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap();
    assert_eq!(machine.huge_pages.is_some(), has_huge_pages);
    let pressure = fs::read_to_string("/proc/pressure/memory");
    assert_eq!(machine.pressure.is_some(), pressure.is_ok());
}

#[test]
fn the_control_group_is_the_one_that_memory_is_charged_to() {
    let _turn = alone();
    let group = usage::control_group(Process::Own).unwrap();
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = |wanted: &str| {
        membership.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|name| name == wanted).then(|| path.to_owned())
        })
    };
    // The usual places; elsewhere there is nothing to hold it against.
    let file = match (path("memory"), path("")) {
        (Some(path), _) => format!("/sys/fs/cgroup/memory{path}/memory.usage_in_bytes"),
        (None, Some(path)) => format!("/sys/fs/cgroup{path}/memory.current"),
        (None, None) => return,
    };
    let Ok(text) = fs::read_to_string(&file) else {
        println!("skipped: no {file}");
        return;
    };
    let used: u64 = text.trim().parse().unwrap();
    let off = group.used.unwrap().abs_diff(used);
    // Other processes may be in the group.
    assert!(off < used / 2 + (256 << 20), "{group:?} against {used}");
    assert!(group.limit.unwrap() > 0);

    let memory = ready(SIZE);
    touch(&memory, SIZE);
    let after = usage::control_group(Process::Own).unwrap();
    if let (Some(peak), Some(used)) = (after.peak, after.used) {
        assert!(peak >= used || peak >= group.used.unwrap(), "{after:?}");
    }
}

#[test]
fn reconciling_finds_what_is_ours_and_names_the_rest() {
    let _turn = alone();
    static FIRST: Account = Account::new("reconcile first");
    static SECOND: Account = Account::new("reconcile second");
    let page = page_size();
    let first = Reservation::alloc(SIZE, &FIRST).unwrap();
    touch(&first, SIZE / 4);
    let mut second = Reservation::reserve(ReserveOptions::new(1 << 36), &SECOND).unwrap();
    second.map(0, 16 * page, Protection::ReadWrite).unwrap();
    second.used(0, 16 * page).unwrap();
    touch(&second, 16 * page);
    // A neighbour that is not ours and that the kernel makes one mapping with ours.
    let after = first.as_mut_ptr().wrapping_add(SIZE);
    // SAFETY: replaces nothing.
    let neighbour = unsafe {
        libc::mmap(
            after.cast(),
            4 << 20,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if neighbour == after.cast() {
        // SAFETY: the mapping just made.
        unsafe { neighbour.cast::<u8>().write_bytes(1, 4 << 20) };
    }

    let mut subsystems = [const { None }; 16];
    let whole = usage::reconcile(&mut subsystems, &mut [0; 8192]).unwrap();
    let of = |account: &'static Account| {
        let mut all = subsystems.iter().flatten();
        all.find(|subsystem| std::ptr::eq(subsystem.account, account)).unwrap()
    };
    assert_eq!(of(&FIRST).part.virtual_size, SIZE as u64);
    assert_eq!(of(&FIRST).figures.ready, SIZE as u64);
    // A huge page may cover more than was touched.
    let resident = of(&FIRST).part.resident.unwrap();
    assert!((SIZE as u64 / 4..SIZE as u64 / 4 + 2 * MIB).contains(&resident), "{resident}");
    assert_eq!(of(&SECOND).part.virtual_size, 1 << 36);
    assert_eq!(of(&SECOND).part.resident, Some(16 * page as u64));
    assert_eq!(of(&SECOND).figures.reserved, (1 << 36) - 16 * page as u64);

    let booked = whole.booked.reserved + whole.booked.prepared + whole.booked.ready;
    assert_eq!(whole.ours.virtual_size, booked);
    assert!(whole.booked.obtained >= booked);
    assert!(whole.registry >= page as u64);
    for group in [Group::Program, Group::Files, Group::Stacks, Group::Unnamed, Group::System] {
        let part = whole.not_ours(group);
        assert!(part.virtual_size > 0 && part.mappings > 0, "{} is empty", group.title());
        println!("{}: {part:?}", group.title());
    }
    if neighbour == after.cast() {
        let unnamed = whole.not_ours(Group::Unnamed);
        assert!(unnamed.resident.unwrap() >= 4 * MIB, "{unnamed:?}");
        // SAFETY: nothing uses it any more.
        unsafe { libc::munmap(neighbour, 4 << 20) };
    }
    let (sum, process) = (whole.sum(), whole.process);
    // vsyscall is listed, not counted.
    assert!(sum.virtual_size.abs_diff(process.virtual_size.unwrap()) <= MIB, "{whole:?}");
    let resident = sum.resident.unwrap();
    assert!(resident.abs_diff(process.resident.unwrap()) <= 2 * MIB, "{whole:?}");
}
