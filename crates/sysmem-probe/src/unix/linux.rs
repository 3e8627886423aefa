//! What Linux tells about a process and itself, in /proc and /sys where they are mounted.

use core::ffi::{CStr, c_int};

use super::Fact;

pub(super) const LIMITS: &[(&str, c_int)] = &[
    ("RLIMIT_AS", libc::RLIMIT_AS as c_int),
    ("RLIMIT_DATA", libc::RLIMIT_DATA as c_int),
    ("RLIMIT_STACK", libc::RLIMIT_STACK as c_int),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK as c_int),
];

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::__errno_location() }
}

pub(super) fn power_off() {
    // SAFETY: returns if the caller may not (reboot(2)); in a PID namespace it ends its init.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

/// The beginning of a file.
fn read<'b>(path: &CStr, buffer: &'b mut [u8]) -> Option<&'b str> {
    // SAFETY: the path ends in zero.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    let mut len = 0;
    while len < buffer.len() {
        let rest = &mut buffer[len..];
        // SAFETY: `rest` is as long as said.
        let read = unsafe { libc::read(file, rest.as_mut_ptr().cast(), rest.len()) };
        match usize::try_from(read) {
            Ok(read) if read > 0 => len += read,
            _ => break,
        }
    }
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(file) };
    core::str::from_utf8(&buffer[..len]).ok()
}

/// Hands the lines of a file, none longer than 512 bytes, to `find` until it has found something.
fn find_in_lines<T>(path: &CStr, mut find: impl FnMut(&str) -> Option<T>) -> Option<T> {
    // SAFETY: the path ends in zero.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    let (mut line, mut len) = ([0; 512], 0);
    let mut found = None;
    while found.is_none() {
        let mut buffer = [0u8; 1024];
        // SAFETY: `buffer` is as long as said.
        let read = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Some(bytes) = usize::try_from(read).ok().filter(|&read| read > 0) else { break };
        for &byte in &buffer[..bytes] {
            if byte == b'\n' {
                let text = core::str::from_utf8(&line[..len]).unwrap_or("");
                found = found.or_else(|| find(text));
                len = 0;
            } else if len < line.len() {
                line[len] = byte;
                len += 1;
            }
        }
    }
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(file) };
    found
}

/// Whether the mapping at an address is without the flag "dd", do not dump (proc_pid_smaps(5)).
pub(super) fn dumped(address: usize) -> Option<bool> {
    let mut inside = false;
    find_in_lines(c"/proc/self/smaps", |line| {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            return inside.then(|| !flags.split_ascii_whitespace().any(|flag| flag == "dd"));
        }
        let (start, rest) = line.split_once('-')?;
        let end = rest.split(' ').next()?;
        let bounds = usize::from_str_radix(start, 16).ok().zip(usize::from_str_radix(end, 16).ok());
        if let Some((start, end)) = bounds {
            inside = (start..end).contains(&address);
        }
        None
    })
}

/// The value of a line `Key:   123 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// A figure of /proc/self/statm in bytes (proc_pid_statm(5)).
fn statm(field: usize) -> Option<u64> {
    let mut buffer = [0; 256];
    let text = read(c"/proc/self/statm", &mut buffer)?;
    let pages = text.split_ascii_whitespace().nth(field)?.parse::<u64>().ok()?;
    Some(pages * sysmem::page_size() as u64)
}

pub(super) fn resident() -> Option<u64> {
    // Counted in the page tables. What statm says is inexact since 2.6.34, more so since 6.2
    // (proc_pid_statm(5)), but there where smaps_rollup (4.14) is not.
    let mut buffer = [0; 512];
    let exact = read(c"/proc/self/smaps_rollup", &mut buffer);
    exact.and_then(|text| kilobytes(text, "Rss")).or_else(|| statm(1))
}

pub(super) fn size() -> Option<u64> {
    statm(0)
}

pub(super) fn facts(fact: Fact<'_>) {
    let mut buffer = [0; 2048];
    if let Some(text) = read(c"/proc/meminfo", &mut buffer) {
        for key in ["MemTotal", "MemAvailable", "SwapTotal", "CommitLimit", "Committed_AS"] {
            if let Some(bytes) = kilobytes(text, key) {
                fact(key, format_args!("{bytes}"));
            }
        }
    }
    for (name, path) in [
        ("vm.overcommit_memory", c"/proc/sys/vm/overcommit_memory"),
        ("vm.max_map_count", c"/proc/sys/vm/max_map_count"),
        ("transparent huge pages", c"/sys/kernel/mm/transparent_hugepage/enabled"),
    ] {
        if let Some(text) = read(path, &mut buffer) {
            fact(name, format_args!("{}", text.trim()));
        }
    }
}
