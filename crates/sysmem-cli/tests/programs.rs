//! Real programs run on the allocator as they do without: the same output, the same status.

mod harness;

use harness::*;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a program plain and under `sysmem run`; both must do the same, and the allocator must
/// really have been used.
fn same_on_sysmem<S: AsRef<OsStr>>(program: &[S], input: &[u8]) -> Ran {
    let mut plain = Command::new(&program[0]);
    plain.args(&program[1..]);
    let plain = output(plain, input);
    let ran = run_with_input(program, input);
    assert_eq!(ran.status, plain.status, "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(
        ran.stdout == plain.stdout,
        "standard output differs:\n{}\n{}",
        String::from_utf8_lossy(&plain.stdout[..plain.stdout.len().min(2000)]),
        String::from_utf8_lossy(&ran.stdout[..ran.stdout.len().min(2000)]),
    );
    let [plain, with] = [&plain.stderr, &ran.stderr].map(|text| String::from_utf8_lossy(text));
    assert_eq!(with, plain, "standard error");
    assert_in_use(&ran);
    ran
}

/// The allocator served the program, and its figures fit together.
fn assert_in_use(ran: &Ran) {
    let heap = |name: &str| ran.figure(&format!("/program/heap/{name}"));
    let report = &ran.report;
    assert!(heap("allocations") > 0, "the C library's malloc was used: {report:#}");
    assert!(heap("requested_bytes") > 0, "{report:#}");
    assert!(heap("allocated_bytes") >= heap("requested_bytes"), "{report:#}");
    assert!(heap("frees") <= heap("allocations"), "{report:#}");
    assert!(heap("freed_bytes") <= heap("allocated_bytes"), "{report:#}");
    let pages = heap("in_use_bytes") + heap("free_bytes") + heap("given_back_bytes");
    assert!(pages <= heap("heap_reserved_bytes"), "{report:#}");
    assert!(heap("in_use_bytes") <= heap("ready_bytes"), "{report:#}");
    assert!(heap("ready_bytes") <= heap("peak_ready_bytes"), "{report:#}");
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// Compiles a C program and holds it against itself without the allocator.
fn same_in_c(name: &str) -> Ran {
    same_on_sysmem(&[compile(name, &[])], b"")
}

#[test]
fn sort_of_a_million_shuffled_lines() {
    // A full cycle of a linear congruence: every number below 2^20 once, in no order.
    let mut number: u32 = 1;
    let mut lines = String::new();
    for _ in 0..1 << 20 {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & 0xf_ffff;
        lines.push_str(&format!("{number:x} line\n"));
    }
    for options in [&["sort"][..], &["sort", "--parallel=4", "-S", "20M"]] {
        let ran = same_on_sysmem(options, lines.as_bytes());
        assert_eq!(ran.stdout.iter().filter(|&&byte| byte == b'\n').count(), 1 << 20);
    }
}

#[test]
fn python_with_threads_fork_and_multiprocessing() {
    let Some(python) = installed("python3") else { return };
    let ran = same_on_sysmem(&[python, source("busy.py")], b"");
    assert_eq!(ran.status.code(), Some(6));
    assert!(ran.descendants().len() >= 15, "{:#}", ran.report);
    assert!(ran.figure("/program/peak_resident/bytes") > 0);
}

#[test]
fn python_with_every_object_from_malloc() {
    let Some(python) = installed("python3") else { return };
    // Past Python's own small object allocator; the variable reaches its children too.
    let env = PathBuf::from("env");
    let malloc = PathBuf::from("PYTHONMALLOC=malloc");
    let ran = same_on_sysmem(&[env, malloc, python, source("busy.py")], b"");
    assert!(ran.figure("/program/heap/allocations") > 1_000_000);
}

#[test]
fn git_on_a_repository_of_many_files() {
    let Some(git) = installed("git") else { return };
    let script = script(
        "git-work",
        r#"#!/bin/sh
set -e
cd "$2"
export GIT_CONFIG_NOSYSTEM=1 HOME="$2" GIT_PAGER=cat
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@b GIT_AUTHOR_DATE='2020-01-01T00:00:00Z'
export GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@b GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git="$1"
"$git" init -q -b trunk .
i=0
while [ $i -lt 20 ]; do
    mkdir -p d$i
    j=0
    while [ $j -lt 20 ]; do
        seq $i $((i * 20 + j * 50 + 10)) > d$i/f$j
        j=$((j + 1))
    done
    "$git" add . && "$git" commit -q -m "commit $i"
    i=$((i + 1))
done
"$git" gc -q
"$git" log --stat
"$git" grep -c 77 | head -50
"$git" diff HEAD~10 HEAD
"$git" clone -q . copy
"$git" -C copy fsck --full 2>&1
"$git" blame d3/f3 | tail -3
"$git" rev-parse HEAD
"#,
    );
    let run_in = |directory: &str| {
        let directory = scratch_directory(directory);
        [script.clone(), git.clone(), directory]
    };
    let [plain, with] = [run_in("plain"), run_in("sysmem")];
    let repositories = [plain[2].clone(), with[2].clone()];
    let mut command = Command::new(&plain[0]);
    let plain = output(
        {
            command.args(&plain[1..]);
            command
        },
        b"",
    );
    let ran = run(&with);
    assert_eq!(ran.status, plain.status, "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    assert!(ran.stdout == plain.stdout && plain.stdout.len() > 100_000);
    assert_eq!(String::from_utf8_lossy(&ran.stderr), String::from_utf8_lossy(&plain.stderr));
    let of_git: Vec<u64> = ran
        .descendants()
        .iter()
        .filter(|process| process["name"] == "git" && process["ending"] == "exited")
        .map(|process| process["heap"]["allocations"].as_u64().unwrap())
        .collect();
    assert!(of_git.len() >= 20, "{}", of_git.len());
    assert!(of_git.iter().all(|&allocations| allocations > 0), "{of_git:?}");
    for repository in repositories {
        std::fs::remove_dir_all(repository).unwrap();
    }
}

#[test]
fn node_with_workers() {
    let Some(node) = installed("node") else { return };
    let ran = same_on_sysmem(&[node, source("busy.js")], b"");
    assert_eq!(ran.status.code(), Some(6));
}

#[test]
fn sqlite_with_an_index_and_a_vacuum() {
    let Some(sqlite) = installed("sqlite3") else { return };
    let script = std::fs::read(source("busy.sql")).unwrap();
    let ran = same_on_sysmem(&[sqlite.as_os_str(), OsStr::new(":memory:")], &script);
    assert!(ran.stdout.ends_with(b"ok\n"));
}

#[test]
fn the_c_compiler() {
    let object = scratch("object.o");
    let [program, option] = ["cc", "-O2"];
    let words = [
        PathBuf::from(program),
        PathBuf::from(option),
        PathBuf::from("-c"),
        PathBuf::from("-o"),
        object.clone(),
        source("frees_elsewhere.c"),
    ];
    let mut plain = Command::new(&words[0]);
    plain.args(&words[1..]);
    assert!(output(plain, b"").status.success());
    let expected = std::fs::read(&object).unwrap();
    let ran = same_on_sysmem(&words, b"");
    assert!(std::fs::read(&object).unwrap() == expected, "the object file differs");
    assert!(ran.descendants().iter().any(|process| process["name"] == "cc1"), "{:#}", ran.report);
}

#[test]
fn perl_with_hashes_and_fork() {
    let Some(perl) = installed("perl") else { return };
    let program = r#"
        my %h; $h{$_ * 7919 % 100003} = "x" x ($_ % 300) for 1 .. 200000;
        my $sum = 0; $sum += $_ * length $h{$_} for sort keys %h; print "$sum\n";
        $| = 1;
        for my $n (1 .. 5) { my $p = fork; if (!$p) { my @a = map { "$n$_" } 1 .. 10000; exit @a % 7 + $n }
            waitpid $p, 0; print $? >> 8, "\n" }
    "#;
    same_on_sysmem(&[perl.as_os_str(), OsStr::new("-e"), OsStr::new(program)], b"");
}

#[test]
fn a_c_program_that_frees_in_other_threads() {
    let ran = same_in_c("frees_elsewhere.c");
    assert!(ran.figure("/program/heap/allocations") >= 160_000);
}

#[test]
fn a_c_program_that_forks_while_threads_allocate() {
    let ran = same_in_c("forks_amid.c");
    assert_eq!(ran.descendants().len(), 60);
    for child in ran.descendants() {
        assert_eq!(child["ending"], "exited", "{child:#}");
        assert!(child["heap"]["allocations"].as_u64().unwrap() >= 2000, "{child:#}");
        // What its parent had counted is not the child's.
        assert!(child["heap"]["allocations"].as_u64().unwrap() < 3000, "{child:#}");
    }
}

#[test]
fn a_c_program_that_runs_into_a_limit_and_goes_on() {
    let program = compile("runs_out.c", &[]);
    let line = format!("ulimit -v 250000; exec {}", program.display());
    let ran = same_on_sysmem(&["sh", "-c", &line], b"");
    assert_eq!(ran.stdout, b"went on\n");
}

#[test]
fn a_c_program_with_ten_thousand_short_threads() {
    let ran = same_in_c("short_threads.c");
    // Heaps are used again: memory for twenty threads at once, not for ten thousand.
    assert!(ran.figure("/program/peak_resident/bytes") < 100 << 20, "{:#}", ran.report);
}

#[test]
fn a_c_program_that_allocates_in_destructors_and_exit_handlers() {
    same_in_c("allocates_late.c");
}

#[test]
fn a_c_program_that_ends_in_a_signal_handler() {
    same_in_c("exits_in_handler.c");
}

#[test]
fn figures_count_what_a_program_asked_for() {
    let ran = same_in_c("counts.c");
    let heap = |name: &str| ran.figure(&format!("/program/heap/{name}"));
    // The start of any program allocates a little too.
    assert!((10_000..10_200).contains(&heap("allocations")), "{:#}", ran.report);
    assert!((5_000..5_200).contains(&heap("frees")), "{:#}", ran.report);
    assert!((10_000_000..10_400_000).contains(&heap("requested_bytes")), "{:#}", ran.report);
    let held = heap("allocated_bytes") - heap("freed_bytes");
    assert!((5_000_000..6_000_000).contains(&held), "{held}");
    assert!(heap("in_use_bytes") >= held, "{:#}", ran.report);
}

#[test]
fn memory_that_was_freed_goes_back_to_the_system() {
    let program = compile("gives_back.c", &[]);
    for size in ["100", "5000", "100000", "10000000"] {
        let ran = same_on_sysmem(&[program.as_os_str(), OsStr::new(size)], b"");
        let figure = |path: &str| ran.figure(path) >> 20;
        assert!(figure("/program/peak_resident/bytes") >= 240, "{size}: {:#}", ran.report);
        assert!(figure("/program/final_resident/bytes") < 32, "{size}: {:#}", ran.report);
    }
}
