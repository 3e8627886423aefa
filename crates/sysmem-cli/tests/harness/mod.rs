//! What the tests of the command share: run it, read its JSON, compile a C program.
#![allow(dead_code, missing_docs)] // Each test file uses its own part.

use serde_json::Value;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// `sysmem run`, to be given options and a program.
pub fn sysmem_run() -> Command {
    sysmem("run")
}

/// A command of `sysmem`, to be given arguments.
pub fn sysmem(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sysmem"));
    command.arg(name);
    command
}

/// A path for a file that no other test uses, in cargo's directory for such.
pub fn scratch(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{number}-{name}", std::process::id());
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A directory of its own, made, with the name given in it.
pub fn scratch_directory(name: &str) -> PathBuf {
    let path = scratch(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A program that ended under `sysmem run`.
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The JSON report.
    pub report: Value,
}

impl Ran {
    /// A figure by its path, as in `/program/heap/allocations`.
    pub fn figure(&self, path: &str) -> u64 {
        let value = self.report.pointer(path);
        value.and_then(Value::as_u64).unwrap_or_else(|| panic!("no {path} in {:#}", self.report))
    }

    pub fn text(&self, path: &str) -> &str {
        let value = self.report.pointer(path);
        value.and_then(Value::as_str).unwrap_or_else(|| panic!("no {path} in {:#}", self.report))
    }

    /// The names of the programs that the process was.
    pub fn images(&self, process: &str) -> Vec<String> {
        let images = self.report.pointer(&format!("{process}/images")).unwrap().as_array().unwrap();
        images.iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
    }

    pub fn descendants(&self) -> &[Value] {
        self.report["descendants"].as_array().unwrap()
    }
}

/// Runs a program quietly under `sysmem run` and reads the report.
pub fn run<S: AsRef<OsStr>>(program: &[S]) -> Ran {
    run_with_input(program, b"")
}

/// As [`run`], with standard input.
pub fn run_with_input<S: AsRef<OsStr>>(program: &[S], input: &[u8]) -> Ran {
    let json = scratch("report.json");
    let mut command = sysmem_run();
    command.args(["--quiet", "--json"]).arg(&json).arg("--").args(program);
    let Output { status, stdout, stderr } = output(command, input);
    let report = std::fs::read(&json).unwrap_or_else(|error| {
        panic!("no report ({error}): {status}: {}", String::from_utf8_lossy(&stderr))
    });
    std::fs::remove_file(&json).unwrap();
    let report = serde_json::from_slice(&report).expect("the report is JSON");
    Ran { status, stdout, stderr, report }
}

/// Runs a command to its end with what it is to read.
pub fn output(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read all of it closes the pipe.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

/// Compiles a C program that lies beside the tests.
pub fn compile(source: &str, options: &[&str]) -> PathBuf {
    let program = scratch(source.strip_suffix(".c").unwrap());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(source);
    let output = Command::new("cc")
        .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&program)
        .arg(&source)
        .args(options)
        .output()
        .expect("cc, the C compiler");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", source.display());
    program
}

/// Writes an executable script.
pub fn script(name: &str, text: &str) -> PathBuf {
    let path = scratch(name);
    put_executable(&path, text.as_bytes(), 0o755);
    path
}

pub fn put_executable(path: &Path, bytes: &[u8], mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Reads until the text has come; for a program that says when it is ready.
pub fn read_until(from: &mut impl Read, text: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(text.as_bytes()) {
        let read = from.read(&mut byte).unwrap();
        assert_eq!(read, 1, "ended before {text:?}: {:?}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
}

/// Waits until something holds, which must not take longer than a slow machine needs.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The state of a process as the kernel shows it: `R`, `S`, `T`, `Z` …
pub fn state_of(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit(')').next()?.trim_start().chars().next()
}

/// The first child of a process.
pub fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Where a program lies, if it is installed; otherwise says that the test is skipped.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join(program)).find(|path| path.is_file());
    if found.is_none() {
        static SKIPPED: AtomicU32 = AtomicU32::new(0);
        let skipped = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        println!("skipped, as {program} is not installed ({skipped} so far)");
    }
    found
}
