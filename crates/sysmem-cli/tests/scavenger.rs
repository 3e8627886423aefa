//! Memory leaves a program that has freed it and does nothing more, and the thread that sees to it
//! is otherwise not noticed.

mod harness;

use harness::*;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("scavenged.c", &["-ldl"]))
}

/// What the program says in one of its modes. It ends with success, and ends.
fn scavenged(mode: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_sysmem"), "run", "-q", "--"]).arg(program()).arg(mode);
    command.envs(variables.iter().copied());
    let output = output(command, b"");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{mode}: {}: {said}", output.status);
    said
}

/// The number after a word that occurs once.
fn number(said: &str, word: &str) -> u64 {
    let mut words = said.split_whitespace().skip_while(|&found| found != word).skip(1);
    words
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{word} in {said}"))
}

#[test]
fn a_tenth_of_the_peak_is_left_a_second_after_all_was_freed() {
    for mode in ["small", "large", "huge", "threads"] {
        let said = scavenged(mode, &[]);
        assert!(number(&said, "down") <= 100, "{mode}: {said}");
        assert_eq!(number(&said, "threads"), if mode == "threads" { 3 } else { 2 }, "{mode}");
    }
}

#[test]
fn a_child_has_no_thread_before_it_needs_one() {
    let said = scavenged("fork", &[]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert_eq!(lines[1], "child threads 1");
    for line in [lines[0], lines[2], lines[3]] {
        assert!(number(line, "down") <= 100 && number(line, "threads") == 2, "{said}");
    }
}

#[test]
fn programs_that_fork_load_and_spawn_have_their_memory_given_back() {
    for mode in ["fork handlers", "vfork", "dlopen"] {
        let said = scavenged(mode, &[]);
        assert!(number(&said, "down") <= 100 && number(&said, "threads") == 2, "{mode}: {said}");
    }
}

#[test]
fn the_process_ends_with_its_own_last_thread() {
    assert!(scavenged("main ends", &[]).ends_with("last thread ends\n"));
    scavenged("only main ends", &[]);
}

#[test]
fn signals_go_to_the_threads_of_the_program() {
    assert!(scavenged("signals", &[]).ends_with("elsewhere 0 waited 1\n"));
}

#[test]
fn a_program_that_frees_little_has_no_other_thread() {
    assert_eq!(scavenged("little", &[]), "threads 1\n");
}

#[test]
fn it_can_be_switched_off_and_memory_goes_back_on_free() {
    let said = scavenged("small", &[("SYSMEM_SCAVENGER", "off")]);
    assert!(number(&said, "down") <= 100 && number(&said, "threads") == 1, "{said}");
}

#[test]
fn a_hard_limit_from_the_environment_makes_malloc_fail_and_a_soft_one_does_not() {
    let said = scavenged("limit", &[("SYSMEM_MEMORY_LIMIT_HARD", "100M")]);
    assert!((90..=100).contains(&number(&said, "round0")), "{said}");
    assert!((90..=100).contains(&number(&said, "round1")), "{said}");
    assert!(number(&said, "peak") <= 110, "{said}");
    for unlimited in ["100MB", "", "0"] {
        let said = scavenged("limit", &[("SYSMEM_MEMORY_LIMIT_HARD", unlimited)]);
        assert_eq!(number(&said, "round0"), 299, "{said}");
    }
    let said = scavenged("limit", &[("SYSMEM_MEMORY_LIMIT", "100M")]);
    assert_eq!(number(&said, "round1"), 299, "{said}");
}
