//! A program outside the workspace uses the layers with no std and no allocator at all.
#![cfg(target_os = "linux")]

mod child;

use std::path::Path;
use std::process::Command;

#[test]
fn a_program_without_std_and_without_an_allocator_builds_and_runs() {
    if child::emulated() {
        eprintln!("skipped: what cargo builds here is for the machine below the emulator");
        return;
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/no-std-user");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-std-user");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--locked", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // What the tests of the workspace are built with is not for this program.
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let program = target.join("release/no-std-user");
    let ran = Command::new(&program).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{text}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(text.contains("100000 squares, all well"), "{text}");

    // It asks the C library for no memory either.
    let bytes = std::fs::read(&program).unwrap();
    for symbol in ["\0malloc\0", "\0calloc\0", "\0realloc\0", "\0posix_memalign\0", "__rust_alloc"]
    {
        let found = bytes.windows(symbol.len()).any(|window| window == symbol.as_bytes());
        assert!(!found, "the program has {symbol:?}");
    }
}
