//! The program, as a user, a script and a kernel start it.
#![cfg(target_os = "linux")]

#[path = "harness/mod.rs"]
mod harness;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sysmem_probe::Summary;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sysmem-probe");

fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The figures of the closing line, which must be exactly as documented.
fn closing(text: &str) -> Summary {
    let line = text.lines().last().expect("lines");
    let figures: Vec<usize> = line
        .split(|other: char| !other.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect();
    let &[passed, failed, not_supported] = &figures[..] else { panic!("{line}") };
    let summary = Summary { passed, failed, not_supported };
    assert_eq!(line, summary.to_string());
    assert_eq!(line, format!("{passed} passed, {failed} failed, {not_supported} not supported"));
    summary
}

fn passes(output: &Output) {
    let text = text(&output.stdout);
    let summary = closing(text);
    assert_eq!(summary.failed, 0, "{text}");
    assert!(summary.passed >= 80, "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(output.stderr.is_empty());
}

#[test]
fn it_passes_in_an_empty_environment_and_directory() {
    passes(&output(Command::new(PROGRAM).env_clear().current_dir("/")));
}

#[test]
fn its_json_is_one_object_a_line_that_agree_with_the_last() {
    let output = output(Command::new(PROGRAM).arg("--json"));
    assert_eq!(output.status.code(), Some(0));
    let lines = text(&output.stdout);
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    let figure = |key: &str| last[key].as_u64().unwrap() as usize;
    let summary = Summary {
        passed: figure("passed"),
        failed: figure("failed"),
        not_supported: figure("not_supported"),
    };
    let run = harness::taken_apart(lines.to_owned(), summary);
    assert_eq!(run.names("pass").len(), summary.passed);
    assert_eq!(run.names("fail").len(), summary.failed);
    assert_eq!(run.names("not supported").len(), summary.not_supported);
    assert!(lines.contains("{\"fact\": \"page size\", \"value\": \""));
}

#[test]
fn it_refuses_what_it_does_not_know_and_explains_itself() {
    let output = output(Command::new(PROGRAM).arg("--jason"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).starts_with("usage: sysmem-probe [--json]\n"));
    let help = self::output(Command::new(PROGRAM).arg("--help"));
    assert_eq!((help.status.code(), help.stdout), (Some(0), output.stdout));
}

#[test]
fn it_needs_neither_standard_descriptors_nor_a_terminal() {
    let mut command = Command::new(PROGRAM);
    // SAFETY: setsid(2) and close(2) may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            for descriptor in 0..3 {
                libc::close(descriptor);
            }
            Ok(())
        });
    }
    let status = command.status().expect("the program starts");
    assert_eq!(status.code(), Some(0), "{status:?}");
}

#[test]
fn without_standard_output_the_console_is_written_to() {
    // A file takes the console's place, in a mount namespace that only the program sees.
    let console = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    std::fs::write(&console, "").unwrap();
    let script = "mount --bind \"$1\" /dev/console && exec \"$2\" <&- >&- 2>&-";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(&console).arg(PROGRAM);
    let output = output(command.stdin(Stdio::null()));
    if !output.stderr.is_empty() {
        eprintln!("skipped: {}", text(&output.stderr));
        return;
    }
    assert_eq!(output.status.code(), Some(0));
    let lines = std::fs::read_to_string(&console).unwrap();
    assert_eq!(closing(&lines).failed, 0, "{lines}");
}

#[test]
fn a_limit_is_named_and_is_no_broken_promise() {
    let mut command = Command::new(PROGRAM);
    // SAFETY: setrlimit(2) may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 512 << 20, rlim_max: 512 << 20 };
            libc::setrlimit(libc::RLIMIT_AS, &limit);
            Ok(())
        });
    }
    let output = output(&mut command);
    passes(&output);
    let text = text(&output.stdout);
    let refused = "not supported  reserve: address space costs no memory (reserve of 1.0 GiB: ";
    let line = text.lines().find(|line| line.starts_with(refused)).expect(text);
    assert!(line.contains("RLIMIT_AS is 512.0 MiB"), "{line}");
}

#[test]
fn as_process_1_it_runs_to_the_end_and_halts() {
    // The program becomes process 1 of a PID namespace, without /proc of its own. There reboot(2)
    // ends the namespace with SIGINT (pid_namespaces(7)); without the privilege, the program waits,
    // and `timeout` ends it.
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", "unshare", "--user", "--map-root-user", "--pid", "--fork"]);
    command.args(["--kill-child", PROGRAM, "-s", "single"]);
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    if output.stdout.is_empty() && text(&output.stderr).contains("unshare") {
        eprintln!("skipped: {}", text(&output.stderr));
        return;
    }
    let lines = text(&output.stdout);
    assert!(lines.contains("process and user               1, "), "{lines}");
    assert_eq!(closing(lines).failed, 0, "{lines}");
    // unshare dies of what its child died of.
    let signal = output.status.signal().or(output.status.code().map(|code| code - 128));
    assert!(matches!(signal, Some(libc::SIGINT | libc::SIGKILL)), "{:?}", output.status);
}

/// Builds the program once more, in its own directory, statically linked.
fn static_program() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = output(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--offline", "-p", "sysmem-probe", "--bin"])
            .args(["sysmem-probe", "--target", &target, "--target-dir"])
            .arg(&directory)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("RUSTFLAGS", "-Ctarget-feature=+crt-static"),
    );
    assert!(built.status.success(), "{}", text(&built.stderr));
    directory.join(target).join("release/sysmem-probe")
}

#[test]
#[cfg(target_env = "gnu")]
fn linked_statically_it_runs_where_there_is_nothing_else() {
    let program = static_program();
    // ELF: no program header says PT_INTERP (3), so no dynamic linker is needed (elf(5)).
    let bytes = std::fs::read(&program).unwrap();
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]) as usize;
    let headers = u64::from_le_bytes(bytes[32..40].try_into().unwrap()) as usize;
    let kinds = (0..half(56)).map(|index| bytes[headers + index * half(54)]);
    assert!(kinds.into_iter().all(|kind| kind != 3), "there is a dynamic linker");
    // Nothing in it could make a thread: the names of its functions are all in it.
    let has = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    assert!(has(b"\0fork\0") && !has(b"pthread_create"), "there are threads");

    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("root");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::copy(&program, root.join("init")).unwrap();
    // Alone in a directory that is the whole file system and cannot be written to: no /proc, no
    // /dev, no /sys.
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && cd \"$1\" && \
                  { ! touch written 2>&-; } && exec chroot . /init";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&root);
    let output = output(command.stdin(Stdio::null()));
    if output.stdout.is_empty() && text(&output.stderr).contains("unshare") {
        eprintln!("not run alone: {}", text(&output.stderr));
        passes(&self::output(&mut Command::new(&program)));
        return;
    }
    let lines = text(&output.stdout);
    let summary = closing(lines);
    assert_eq!(summary.failed, 0, "{lines}");
    assert!(summary.passed >= 70, "{lines}");
    assert_eq!(output.status.code(), Some(0));
}
