//! `sysmem probe`: the conformance suite, from the command.

use std::process::Command;

fn probe(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sysmem"))
        .arg("probe")
        .args(arguments)
        .output()
        .expect("the command runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_running_kernel_keeps_every_promise_and_the_last_line_counts_them() {
    let (success, text) = probe(&[]);
    let last = text.lines().last().unwrap_or_default();
    assert!(success, "{text}");
    let counts: Vec<&str> = last.split(", ").collect();
    assert!(
        matches!(counts[..], [passed, "0 failed", unsupported]
            if passed.ends_with(" passed") && unsupported.ends_with(" not supported")),
        "{last:?}"
    );
    assert!(text.lines().filter(|line| line.starts_with("pass ")).count() > 50, "{text}");
}

#[test]
fn every_line_of_the_json_is_an_object() {
    let (success, text) = probe(&["--json"]);
    assert!(success, "{text}");
    assert!(text.lines().count() > 50);
    for line in text.lines() {
        let parsed: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(parsed.is_object(), "{line}");
    }
}
