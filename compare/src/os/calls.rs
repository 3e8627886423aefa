//! Counting system calls and mappings: a forked child does the work, stopped by ptrace(2) at each
//! call.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;

use super::Outcome;

/// What was done between two marks.
pub struct Count {
    /// How often each system call was made, by number.
    by_number: BTreeMap<u64, usize>,
    /// How many mappings were added.
    pub mappings: i64,
}

impl Count {
    pub fn calls(&self) -> usize {
        self.by_number.values().sum()
    }

    /// System calls of one of `operations`, mappings of them all, and which calls those were.
    pub fn cells(&self, operations: usize) -> [String; 3] {
        let each = |count: usize| match count % operations {
            0 => (count / operations).to_string(),
            _ => format!("{:.2}", count as f64 / operations as f64),
        };
        let which = self.by_number.iter().map(|(&number, &count)| match count == operations {
            true => name(number),
            false => format!("{} {}", each(count), name(number)),
        });
        let which: Vec<String> = which.collect();
        [each(self.calls()), self.mappings.to_string(), which.join(", ")]
    }
}

fn name(number: u64) -> String {
    match number as libc::c_long {
        libc::SYS_mmap => "mmap".into(),
        libc::SYS_munmap => "munmap".into(),
        libc::SYS_mprotect => "mprotect".into(),
        libc::SYS_madvise => "madvise".into(),
        libc::SYS_process_madvise => "process_madvise".into(),
        _ => format!("call {number}"),
    }
}

/// The call that marks begin and end; nothing measured makes it.
const MARK: libc::c_long = libc::SYS_getppid;

/// Counts what `work` does between its two marks, in a forked child; `None` if it returns `false`,
/// for an operation that a contestant has not.
pub fn count(work: impl FnOnce(&mut dyn FnMut()) -> Outcome<bool>) -> Outcome<Option<Count>> {
    // SAFETY: this program has one thread, so the child may do whatever this one may.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error().into()),
        0 => {
            // SAFETY: no pointers are passed.
            let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } == 0;
            // SAFETY: as above; the parent wakes it.
            unsafe { libc::raise(libc::SIGSTOP) };
            let mut mark = || {
                // SAFETY: as above.
                unsafe { libc::syscall(MARK) };
            };
            let status = match work(&mut mark) {
                _ if !traced => 2,
                Ok(true) => 0,
                Ok(false) => 1,
                Err(error) => {
                    eprintln!("compare: {error}");
                    2
                }
            };
            // SAFETY: leaves without running what the parent will run.
            unsafe { libc::_exit(status) }
        }
        child => child,
    };
    let outcome = watch(child);
    // SAFETY: no pointers are passed; our own child, if it is still there.
    unsafe { libc::kill(child, libc::SIGKILL) };
    // SAFETY: as above.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    outcome
}

/// Follows a child that has stopped itself until it marks the end or exits.
fn watch(child: libc::pid_t) -> Outcome<Option<Count>> {
    wait(child)?;
    let good = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    // SAFETY: sets an option, writes nowhere.
    checked(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, good) })?;
    let mut counting: Option<Count> = None;
    loop {
        // SAFETY: lets the child run to the next call, writes nowhere.
        checked(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, child, 0, 0) })?;
        let status = wait(child)?;
        if libc::WIFEXITED(status) {
            return match libc::WEXITSTATUS(status) {
                1 => Ok(None),
                status => Err(format!("the counted process ended with status {status}").into()),
            };
        }
        if !libc::WIFSTOPPED(status) || libc::WSTOPSIG(status) != libc::SIGTRAP | 0x80 {
            return Err(format!("the counted process met wait status {status:#x}").into());
        }
        let Some(number) = entered(child)? else { continue };
        match (&mut counting, number as libc::c_long == MARK) {
            (None, true) => {
                counting = Some(Count { by_number: BTreeMap::new(), mappings: -mappings(child)? });
            }
            (Some(count), true) => {
                count.mappings += mappings(child)?;
                return Ok(counting);
            }
            (Some(count), false) => *count.by_number.entry(number).or_default() += 1,
            (None, false) => {}
        }
    }
}

/// The number of the call that the child is entering; `None` if it is leaving one.
fn entered(child: libc::pid_t) -> Outcome<Option<u64>> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let len = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `len` bytes to `info`.
    let answer =
        unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, child, len, info.as_mut_ptr()) };
    checked(answer.min(0))?;
    // SAFETY: all zeros are a valid one, and so is what the kernel wrote.
    let info = unsafe { info.assume_init() };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: this is the part that the kernel fills in at an entry.
    Ok(Some(unsafe { info.u.entry.nr }))
}

fn wait(child: libc::pid_t) -> io::Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: `status` may be written to.
    match unsafe { libc::waitpid(child, &mut status, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(status),
    }
}

fn checked(answer: libc::c_long) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn mappings(process: libc::pid_t) -> io::Result<i64> {
    Ok(std::fs::read_to_string(format!("/proc/{process}/maps"))?.lines().count() as i64)
}
