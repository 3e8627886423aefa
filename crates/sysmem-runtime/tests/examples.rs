//! The examples do what they say.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod child;

use std::process::Command;

/// Runs an example, which `cargo test` builds, and returns what it printed.
fn run(name: &str, arguments: &[&str]) -> String {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().with_file_name("examples").join(name);
    if !program.exists() {
        // `cargo test --test examples` builds no example.
        let cargo = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "sysmem-runtime", "--example", name])
            .status();
        assert!(cargo.unwrap().success());
    }
    let output = child::command(&program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_jit_computes_what_arithmetic_says() {
    for (text, x, result) in [
        ("(1 + x) * -7 / 2", 41, -147i64),
        ("2 + 3 * 4 - 5", 0, 9),
        ("-(x - 10) / (3 - 1)", 4, 3),
        ("x * x * x", -11, -1331),
        ("9000000000 * 1000000000 + x", 1, 9_000_000_000_000_000_001),
    ] {
        let printed = run("jit", &[text, &x.to_string()]);
        assert!(printed.contains(&format!("x = {x}: {result}\n")), "{text}: {printed}");
    }
}

#[test]
fn the_resident_set_of_the_collector_falls_with_each_collection() {
    let printed = run("gc", &[]);
    let numbers = |line: &str| -> Vec<u64> {
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
    };
    let rounds: Vec<Vec<u64>> = printed.lines().map(numbers).collect();
    assert_eq!(rounds.len(), 4, "{printed}");
    for (index, round) in rounds.iter().enumerate() {
        let &[number, live, before, after] = &round[..] else { panic!("{printed}") };
        assert_eq!(number as usize, index + 1);
        // One tree a round stays: 32,767 nodes, 2 MiB. Fifteen go: 30 MiB.
        assert_eq!(live, 32_767 * number, "{printed}");
        assert!(after + 25 <= before, "{printed}");
    }
}
