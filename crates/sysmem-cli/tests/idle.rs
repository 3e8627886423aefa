//! Memory leaves threads that sleep, and threads that ended, although each span of theirs still holds
//! something; and programs keep within their control group.

mod harness;

use harness::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How many MiB were resident after the threads of `sleepers.c` had freed most of 200, which they do
/// in some way. What they keep is checked by the program.
fn resident(mode: &str) -> u64 {
    let program = compile("sleepers.c", &["-pthread"]);
    let mut command = Command::new("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_sysmem"), "run", "-q", "--"]).arg(program).arg(mode);
    let output = output(command, b"");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{mode}: {}: {said}", output.status);
    said.trim().strip_prefix("resident ").unwrap().parse().unwrap()
}

#[test]
fn free_pages_between_objects_leave_threads_that_sleep_and_come_again() {
    // A sixteenth is kept, one block to four pages: a quarter of them.
    assert!(resident("between") <= 80);
}

#[test]
fn free_pages_between_objects_leave_threads_that_ended() {
    assert!(resident("ended") <= 80);
}

#[test]
fn what_others_free_leaves_threads_that_sleep() {
    assert!(resident("elsewhere") <= 20);
}

/// A memory group of version 1 that ends with the value.
struct Group(PathBuf);

impl Group {
    fn new(below: &Path, name: &str, limit: Option<u64>) -> Option<Group> {
        let group = Group(below.join(format!("{name}-{}", std::process::id())));
        fs::create_dir(&group.0).ok()?;
        if let Some(limit) = limit {
            fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
        }
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn malloc_fails_before_the_control_group_kills_the_program() {
    let root = Path::new("/sys/fs/cgroup/memory");
    let outer = Group::new(root, "sysmem-test", Some(100 << 20));
    // The limit is that of the group around it.
    let inner = outer.as_ref().and_then(|outer| Group::new(&outer.0, "inner", None));
    let Some(inner) = inner else {
        eprintln!("skipped: no memory group of version 1 can be made here");
        return;
    };
    let program = compile("fills.c", &[]);
    let filled = |limit: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&inner.0)
            .args([env!("CARGO_BIN_EXE_sysmem"), "run", "-q", "--"])
            .arg(&program)
            .env("SYSMEM_MEMORY_LIMIT_HARD", limit);
        let output = output(command, b"");
        let said = String::from_utf8(output.stdout).unwrap();
        said.trim().strip_prefix("filled ").map(|count| count.parse::<u64>().unwrap())
    };
    let within = filled("cgroup").expect("killed within its limit");
    assert!((90..=95).contains(&within), "{within}");
    let with_room = filled("cgroup-40M").expect("killed within its limit");
    assert!((55..=60).contains(&with_room), "{with_room}");
}
