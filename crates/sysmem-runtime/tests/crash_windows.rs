//! A simulated crash of the whole process on Windows.
#![cfg(windows)]

mod child;

use std::io::Write;
use std::mem::{size_of, zeroed};
use std::ptr;

use sysmem::{Account, Native, Protection, Reservation, ReserveOptions};
use sysmem_runtime::{FaultAll, fault_all};
use windows_sys::Win32::Storage::FileSystem::WriteFile;
use windows_sys::Win32::System::Console::{GetStdHandle, STD_ERROR_HANDLE};
use windows_sys::Win32::System::Memory::{MEM_COMMIT, MEMORY_BASIC_INFORMATION, VirtualQuery};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, TerminateProcess};

static POOL: Account = Account::new("pool");
const MIB: usize = 1 << 20;

fn is_committed(address: *const u8) -> bool {
    // SAFETY: numbers and a pointer, all zeros.
    let mut region: MEMORY_BASIC_INFORMATION = unsafe { zeroed() };
    // SAFETY: there is room for one.
    let len = unsafe { VirtualQuery(address.cast(), &mut region, size_of_val(&region)) };
    assert_eq!(len, size_of::<MEMORY_BASIC_INFORMATION>());
    region.State == MEM_COMMIT
}

/// Much of the heap is gone afterwards, and with it what the system needs to end a process in good
/// order: it is ended at once.
#[test]
fn the_whole_process_faults_but_for_what_does_it() {
    let test = "the_whole_process_faults_but_for_what_does_it";
    let ended = child::run(test, "crash", || {
        let heap = vec![7u8; 16 * MIB];
        let mut ours = Reservation::reserve(ReserveOptions::new(MIB), &POOL).unwrap();
        ours.map(0, MIB, Protection::ReadWrite).unwrap();
        ours.used(0, MIB).unwrap();
        let foreign = heap.as_ptr().wrapping_add(8 * MIB);
        let code = the_whole_process_faults_but_for_what_does_it as fn() as *const u8;
        assert!(is_committed(foreign) && is_committed(ours.as_mut_ptr()));
        // SAFETY: no memory.
        let stderr = unsafe { GetStdHandle(STD_ERROR_HANDLE) };
        // SAFETY: a process of its own, which uses no heap any more.
        let outcome = unsafe { fault_all(&Native::NEW, FaultAll::Process) };
        let mut line = [0u8; 512];
        let room = line.len();
        let mut rest = &mut line[..];
        let _ = match outcome {
            Ok(outcome) => writeln!(
                rest,
                "faulted {} MiB, left {} {}, there {} {} {}",
                outcome.faulted >> 20,
                outcome.left_files > MIB,
                outcome.left_needed > 0,
                is_committed(foreign),
                is_committed(ours.as_mut_ptr()),
                is_committed(code),
            ),
            Err(error) => writeln!(rest, "{error}"),
        };
        let (len, mut written) = (room - rest.len(), 0);
        // SAFETY: the line is as long as said; the process ends itself.
        unsafe {
            WriteFile(stderr, line.as_ptr(), len as u32, &mut written, ptr::null_mut());
            TerminateProcess(GetCurrentProcess(), 7);
        }
    });
    let Some(ended) = ended else { return };
    let text = &ended.stderr;
    assert_eq!(ended.signal, Some(7), "{text}");
    let line = text.lines().find(|line| line.starts_with("faulted ")).expect(text);
    let megabytes: usize = line.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(megabytes >= 17, "{text}");
    assert!(line.contains("left true true, there false false true"), "{text}");
}
