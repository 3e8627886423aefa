//! The files of /proc and /sys, and prctl(2).

use std::ffi::CStr;
use std::format;
use std::string::String;
use std::vec::Vec;

use crate::os::linux::huge::{PR_GET_THP_DISABLE, PR_SET_THP_DISABLE};
use crate::os::unix::{EINVAL, ENOMEM};
use crate::sim::machine::Machine;
use crate::sim::settings::Overcommit;
use crate::{Errno, Protection};

const ENOENT: Errno = Errno(2);

/// Documentation/admin-guide/mm/transhuge.rst.
const HUGE_PAGE_MODES: [&str; 3] = ["always", "madvise", "never"];

/// mm/huge_memory.c, `enabled_store`: a word it knows, with or without a newline, or EINVAL.
pub(in crate::sim) fn write_file(
    machine: &mut Machine,
    path: &CStr,
    bytes: &[u8],
) -> Result<(), Errno> {
    match path.to_bytes() {
        b"/sys/kernel/mm/transparent_hugepage/enabled"
            if machine.settings.proc_mounted && machine.settings.huge_page_size.is_some() =>
        {
            let word = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            let known = HUGE_PAGE_MODES.into_iter().find(|mode| mode.as_bytes() == word);
            machine.huge_page_mode = known.ok_or(EINVAL)?;
            Ok(())
        }
        _ => Err(ENOENT),
    }
}

/// prctl(2), `PR_SET_THP_DISABLE` and `PR_GET_THP_DISABLE` (3.15).
pub(in crate::sim) fn process_control(
    machine: &mut Machine,
    option: i32,
    argument: usize,
) -> Result<i32, Errno> {
    match option {
        PR_SET_THP_DISABLE => machine.huge_pages_off = argument != 0,
        PR_GET_THP_DISABLE => return Ok(machine.huge_pages_off.into()),
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// What a file of /proc or /sys holds.
pub(in crate::sim) fn file(machine: &Machine, path: &CStr) -> Result<Vec<u8>, Errno> {
    use std::fmt::Write;
    let settings = &machine.settings;
    let mut text = String::new();
    let written = match path.to_bytes() {
        _ if !settings.proc_mounted => return Err(ENOENT),
        b"/proc/self/maps" => maps(machine, false, &mut text),
        b"/proc/self/smaps" => maps(machine, true, &mut text),
        b"/proc/self/statm" => {
            // proc_pid_statm(5): size, resident, shared, text, lib, data, dt, in pages.
            let pages = |bytes: usize| bytes / machine.page_size();
            let size = pages(machine.mappings.totals().mapped);
            let resident = machine.resident();
            let data = pages(machine.mappings.totals().writable);
            writeln!(text, "{size} {resident} 0 0 0 {data} 0")
        }
        b"/proc/meminfo" => {
            let limit = match settings.overcommit {
                Overcommit::Never { limit } => limit,
                Overcommit::Heuristic { memory } => memory / 2,
                Overcommit::Always => 1 << 40,
            };
            let committed = machine.charged();
            writeln!(text, "MemTotal:       16384000 kB\nCommitLimit:    {} kB", limit / 1024)
                .and_then(|()| writeln!(text, "Committed_AS:   {} kB", committed / 1024))
        }
        b"/proc/sys/vm/max_map_count" => writeln!(text, "{}", settings.max_map_count),
        b"/proc/sys/vm/overcommit_memory" => {
            let mode = match settings.overcommit {
                Overcommit::Heuristic { .. } => 0,
                Overcommit::Always => 1,
                Overcommit::Never { .. } => 2,
            };
            writeln!(text, "{mode}")
        }
        b"/sys/kernel/mm/transparent_hugepage/enabled" if settings.huge_page_size.is_some() => {
            let marked = HUGE_PAGE_MODES.map(|mode| match mode == machine.huge_page_mode {
                true => format!("[{mode}]"),
                false => mode.into(),
            });
            writeln!(text, "{}", marked.join(" "))
        }
        b"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size" => match settings.huge_page_size {
            Some(size) => writeln!(text, "{size}"),
            None => return Err(ENOENT),
        },
        _ => return Err(ENOENT),
    };
    written.map_err(|_| ENOMEM)?;
    Ok(text.into_bytes())
}

/// proc_pid_maps(5), and of proc_pid_smaps(5) the flags that are looked at.
fn maps(machine: &Machine, flags: bool, text: &mut String) -> std::fmt::Result {
    use std::fmt::Write;
    let space = machine.space();
    writeln!(text, "{:08x}-{:08x} ---p 00000000 00:00 0", 0, space.start)?;
    for mapping in machine.mappings.iter() {
        let allowed = match mapping.attributes.protection {
            Protection::NoAccess => "---p",
            Protection::ReadOnly => "r--p",
            Protection::ReadWrite => "rw-p",
            Protection::ReadExecute => "r-xp",
        };
        write!(text, "{:08x}-{:08x} {allowed} 00000000 00:00 0", mapping.start, mapping.end)?;
        match &mapping.attributes.name {
            Some(name) => writeln!(text, "                  [anon:{}]", name.to_string_lossy())?,
            None => writeln!(text)?,
        }
        if flags {
            let random = if mapping.attributes.random { "rr " } else { "" };
            writeln!(text, "VmFlags: mr mw me {random}ac ")?;
        }
    }
    writeln!(text, "{:08x}-7ffffffff000 ---p 00000000 00:00 0", space.end)
}
