//! What cannot be run gets one line that says why, and a status in the tradition of the shell.

mod harness;

use harness::*;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Output;

/// Runs what must be refused; returns the status and the one line.
fn refused<S: AsRef<OsStr>>(arguments: &[S]) -> (i32, String) {
    let mut command = sysmem_run();
    command.args(arguments);
    let Output { status, stdout, stderr } = output(command, b"");
    assert_eq!(stdout, b"", "nothing was run");
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(stderr.starts_with("sysmem: ") && stderr.ends_with('\n'), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    (status.code().expect("an exit status"), stderr)
}

fn assert_refused(path: &Path, status: i32, why: &str) {
    let (actual, line) = refused(&[OsStr::new("--"), path.as_os_str()]);
    assert_eq!(actual, status, "{line}");
    assert!(line.contains(why), "{line}");
    assert!(line.contains(path.to_str().unwrap()), "{line}");
}

#[test]
fn a_program_that_is_not_there() {
    let (status, line) = refused(&["--", "no-such-program-anywhere"]);
    assert_eq!(status, 127);
    assert!(line.contains("no-such-program-anywhere: no such program on PATH"), "{line}");
    assert_refused(Path::new("/no/such/program"), 127, "no such file");
}

#[test]
fn a_file_that_is_not_executable_and_a_directory() {
    let path = scratch("data");
    std::fs::write(&path, "data").unwrap();
    assert_refused(&path, 126, "not executable");
    assert_refused(Path::new("/"), 126, "it is a directory");
}

#[test]
fn a_statically_linked_program() {
    for options in [&["-static"][..], &["-static-pie"]] {
        assert_refused(&compile("closes.c", options), 126, "statically linked");
    }
}

#[test]
fn a_script_for_a_statically_linked_interpreter() {
    let interpreter = compile("closes.c", &["-static"]);
    let script = script("static-script", &format!("#!{} x\n", interpreter.display()));
    assert_refused(&script, 126, "statically linked");
    assert_refused(&script, 126, interpreter.to_str().unwrap());
}

#[test]
fn a_script_whose_interpreter_is_missing() {
    let script = script("lost", "#!/no/such/interpreter\n");
    assert_refused(&script, 127, "its interpreter /no/such/interpreter does not exist");
}

/// A copy of a dynamic program in which bytes were exchanged.
fn altered(name: &str, alter: impl Fn(&mut Vec<u8>)) -> std::path::PathBuf {
    let mut bytes = std::fs::read(compile("closes.c", &[])).unwrap();
    alter(&mut bytes);
    let path = scratch(name);
    put_executable(&path, &bytes, 0o755);
    path
}

#[test]
fn a_program_for_another_machine() {
    const EM_S390: u8 = 22;
    let program = altered("s390", |bytes| bytes[18] = EM_S390);
    assert_refused(&program, 126, "it is made for ELF machine 22");
}

#[test]
fn a_program_linked_with_musl() {
    let program = altered("musl", |bytes| {
        let musl = b"/lib/ld-musl-x86_64.so.1\0";
        let old = b"/lib64/ld-linux-x86-64.so.2\0";
        let place = bytes.windows(old.len()).position(|bytes| bytes == old);
        if let Some(place) = place {
            bytes[place..place + musl.len()].copy_from_slice(musl);
        }
    });
    if cfg!(target_arch = "x86_64") {
        assert_refused(&program, 126, "linked with musl");
    }
}

#[test]
fn a_program_whose_loader_is_missing() {
    let program = compile("closes.c", &["-Wl,--dynamic-linker=/no/such/ld.so"]);
    assert_refused(&program, 126, "its dynamic loader /no/such/ld.so does not exist");
}

#[test]
fn a_setuid_program_of_another_user_and_not_one_of_the_own() {
    // SAFETY: the call takes nothing.
    let user = unsafe { libc::getuid() };
    let program = compile("closes.c", &[]);
    let bytes = std::fs::read(&program).unwrap();
    let own = scratch("own-setuid");
    put_executable(&own, &bytes, 0o4755);
    assert_eq!(run(&[&own]).status.code(), Some(0), "nothing is gained");
    if user == 0 {
        let other = scratch("setuid");
        put_executable(&other, &bytes, 0o755);
        std::os::unix::fs::chown(&other, Some(1), None).unwrap();
        std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o4755))
            .unwrap();
        assert_refused(&other, 126, "setuid to user 1");
    } else if let Some(su) = installed("su") {
        assert_refused(&su, 126, "setuid to user 0");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_the_program_runs() {
    let (status, line) = refused(&["--json", "/no/such/directory/report", "--", "echo", "ran"]);
    assert_eq!(status, 125);
    assert!(line.contains("/no/such/directory/report"), "{line}");
}

#[test]
fn a_library_that_is_not_one() {
    for path in ["/no/such/library.so", "/etc/passwd"] {
        let (status, line) = refused(&["--library", path, "--", "echo", "ran"]);
        assert_eq!(status, 125);
        assert!(line.contains(path), "{line}");
    }
}

#[test]
fn wrong_usage_is_the_commands_own_failure() {
    for arguments in [&["--no-such-option", "--", "true"][..], &[], &["--json"]] {
        let mut command = sysmem_run();
        command.args(arguments);
        let output = output(command, b"");
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_name_without_interpreter_line_runs_as_a_shell_script_as_execvp_does() {
    let script = script("bare", "echo bare $1\n");
    let ran = run(&[script.as_os_str(), OsStr::new("word")]);
    assert_eq!((ran.status.code(), &ran.stdout[..]), (Some(0), &b"bare word\n"[..]));
}

#[test]
fn one_file_for_two_things() {
    let file = scratch("both");
    let name = file.to_str().unwrap();
    for options in [["--json", name, "--report", name], ["--profile", name, "--profile", name]] {
        let (status, line) = refused(&[&options[..], &["--", "echo"]].concat());
        assert_eq!(status, 125);
        assert!(line.contains(&format!("two things are to be written to {name}")), "{line}");
    }
    assert!(!file.exists());
}
