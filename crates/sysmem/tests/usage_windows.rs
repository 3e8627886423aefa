//! What the running Windows says of processes and of itself, seen to move.
#![cfg(windows)]

use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sysmem::usage::{self, Detail, Group, MappingKind, PageRun, Process};
use sysmem::{
    Account, ErrorKind, GiveBack, PageRange, Protection, Reservation, ReserveOptions, page_size,
};

static ACCOUNT: Account = Account::new("usage");

const MIB: u64 = 1 << 20;
const SIZE: usize = 64 << 20;

/// Figures are of the whole process, so tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ready(len: usize) -> Reservation {
    let mut memory = Reservation::reserve(ReserveOptions::new(len), &ACCOUNT).unwrap();
    memory.map(0, len, Protection::ReadWrite).unwrap();
    memory.used(0, len).unwrap();
    memory
}

fn touch(memory: &Reservation, len: usize) {
    for offset in (0..len).step_by(page_size()) {
        // SAFETY: the tests touch only what is Ready.
        unsafe { memory.as_mut_ptr().add(offset).write_volatile(1) };
    }
}

fn under_wine() -> bool {
    std::env::var_os("WINEPREFIX").is_some()
}

#[test]
fn the_working_set_moves_with_the_memory() {
    let _turn = alone();
    let before = usage::process(Process::Own, Detail::Counters).unwrap();
    let mut memory = ready(SIZE);
    touch(&memory, SIZE);
    let after = usage::process(Process::Own, Detail::Counters).unwrap();
    let rose = after.resident.unwrap() - before.resident.unwrap();
    assert!((SIZE as u64 - 2 * MIB..SIZE as u64 + 8 * MIB).contains(&rose), "{rose}");
    assert!(after.peak_resident.unwrap() >= SIZE as u64);
    assert!(after.commit_charge.is_some() && after.peak_commit_charge.is_some());
    // Wine makes both up out of the size of the address space.
    if !under_wine() {
        let charged = after.commit_charge.unwrap() - before.commit_charge.unwrap();
        assert!((SIZE as u64..SIZE as u64 + 8 * MIB).contains(&charged), "{charged}");
    }
    assert!(after.user_time >= before.user_time && after.system_time >= before.system_time);
    assert_eq!((after.phys_footprint, after.page_tables), (None, None));
    memory.unused(0, SIZE, GiveBack::Eager).unwrap();
    let last = usage::process(Process::Own, Detail::Counters).unwrap();
    assert!(last.resident.unwrap() + SIZE as u64 / 2 < after.resident.unwrap(), "{last:?}");
}

#[test]
fn mappings_are_listed_with_their_names_and_pages() {
    let _turn = alone();
    let memory = ready(SIZE);
    touch(&memory, SIZE / 4);
    let ours = memory.as_mut_ptr().addr()..memory.as_mut_ptr().addr() + SIZE;
    let (mut end, mut kinds, mut within, mut resident) = (0, Vec::new(), 0, 0);
    let mut buffer = vec![0; 16 << 10];
    usage::mappings(Process::Own, Detail::Pages, &mut buffer, &mut |mapping| {
        assert!(mapping.start >= end, "in order");
        end = mapping.end;
        kinds.push(mapping.kind);
        let name = String::from_utf8_lossy(mapping.name).into_owned();
        if mapping.kind == MappingKind::Program {
            assert!(name.contains("usage_windows"), "{name}");
        }
        if mapping.start < ours.end && ours.start < mapping.end {
            within += mapping.end.min(ours.end) - mapping.start.max(ours.start);
            resident += mapping.pages.resident.unwrap();
            assert!(mapping.writable && !mapping.executable && mapping.shared == Some(false));
        }
    })
    .unwrap();
    assert_eq!(within, SIZE);
    let touched = SIZE as u64 / 4;
    assert!((touched..touched + 2 * MIB).contains(&resident), "{resident}");
    for kind in [MappingKind::Program, MappingKind::File, MappingKind::Anonymous] {
        assert!(kinds.contains(&kind), "{kind:?} is missing in {kinds:?}");
    }
}

#[test]
fn a_range_is_told_in_runs() {
    let memory = ready(16 * page_size());
    touch(&memory, 5 * page_size());
    let start = memory.as_mut_ptr().addr();
    let mut resident = Vec::new();
    let range = PageRange::new(memory.as_mut_ptr(), memory.len());
    let mut each = |run: &PageRun| {
        if run.state.resident {
            resident.push(run.start - start..run.end - start);
        }
    };
    usage::residency(Process::Own, range, &mut each).unwrap();
    assert_eq!(resident, std::slice::from_ref(&(0..5 * page_size())));
}

/// A child of this program that waits for the end of its input.
struct Waiting(Child);

impl Waiting {
    fn start() -> Waiting {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "waits_where_it_is_told_to", "--nocapture"])
            .env("SYSMEM_TEST_WAITS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut waiting = Waiting(child);
        let mut seen = Vec::new();
        while !seen.ends_with(b"waits\r\n") && !seen.ends_with(b"waits\n") {
            let mut byte = [0];
            std::io::Read::read_exact(waiting.0.stdout.as_mut().unwrap(), &mut byte).unwrap();
            seen.push(byte[0]);
        }
        waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn waits_where_it_is_told_to() {
    if std::env::var_os("SYSMEM_TEST_WAITS").is_some() {
        let memory = ready(8 << 20);
        touch(&memory, 8 << 20);
        println!("waits");
        let _ = std::io::stdin().read_line(&mut String::new());
    }
}

#[test]
fn another_process_is_told_until_it_ends() {
    let mut waiting = Waiting::start();
    let process = Process::Id(waiting.0.id());
    let told = usage::process(process, Detail::Counters).unwrap();
    assert!(told.resident.unwrap() >= 8 * MIB, "{told:?}");
    let (mut anonymous, mut buffer) = (0, vec![0; 16 << 10]);
    usage::mappings(process, Detail::Counters, &mut buffer, &mut |mapping| {
        anonymous += if mapping.kind == MappingKind::Anonymous { mapping.len() } else { 0 };
    })
    .unwrap();
    assert!(anonymous >= 8 << 20, "{anonymous}");
    // Ends in the middle of the list.
    let mut seen = 0;
    let ended = usage::mappings(process, Detail::Counters, &mut buffer, &mut |_| {
        seen += 1;
        if seen == 1 {
            waiting.0.kill().unwrap();
            waiting.0.wait().unwrap();
        }
    });
    let kind = ended.unwrap_err().kind();
    // The system refuses to look at what has ended in more ways than one.
    assert!(matches!(kind, ErrorKind::Gone | ErrorKind::Denied), "{kind:?}");
    let gone = usage::process(process, Detail::Counters).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Gone);
}

#[test]
fn the_machine_and_the_job_are_told() {
    let machine = usage::machine().unwrap();
    assert_eq!(machine.page_size, Some(page_size() as u64));
    let (total, available) = (machine.total.unwrap(), machine.available.unwrap());
    assert!(available > 0 && available <= total, "{machine:?}");
    assert!(machine.commit_limit >= machine.committed);
    assert_eq!(machine.overcommit, Some(usage::Overcommit::Never));
    assert_eq!(machine.free, None, "only what is available is told");
    // All is a limit, or there is no job.
    let group = usage::control_group(Process::Own).unwrap();
    assert_eq!(group.limit.is_some(), group.process_limit.is_some(), "{group:?}");
}

#[test]
fn reconciling_finds_what_is_ours_and_names_the_rest() {
    let _turn = alone();
    static OURS: Account = Account::new("reconcile");
    let mut memory = Reservation::reserve(ReserveOptions::new(SIZE), &OURS).unwrap();
    memory.map(0, SIZE / 2, Protection::ReadWrite).unwrap();
    memory.used(0, SIZE / 2).unwrap();
    touch(&memory, SIZE / 4);
    let mut subsystems = [const { None }; 16];
    let whole = usage::reconcile(&mut subsystems, &mut vec![0; 16 << 10]).unwrap();
    let all = subsystems.iter().flatten();
    let ours = all.clone().find(|it| std::ptr::eq(it.account, &OURS)).unwrap();
    assert_eq!(ours.part.virtual_size, SIZE as u64);
    let resident = ours.part.resident.unwrap();
    assert!((SIZE as u64 / 4..SIZE as u64 / 4 + 2 * MIB).contains(&resident), "{resident}");
    assert_eq!(ours.figures.ready, SIZE as u64 / 2);
    for group in [Group::Program, Group::Files, Group::Unnamed] {
        assert!(whole.not_ours(group).virtual_size > 0, "{}", group.title());
    }
}
