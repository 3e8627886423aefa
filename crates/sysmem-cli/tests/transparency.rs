//! A program under `sysmem run` sees and shows what it does without: descriptors, signals, status.

mod harness;

use harness::*;
use libc::c_int;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The command with a program that has said "ready". Whatever a test finds, both end with it.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command");
        read_until(child.stdout.as_mut().unwrap(), "ready\n");
        Self(child)
    }

    /// In a process group of its own, as a shell starts a job.
    fn as_job(program: &[&OsStr]) -> Self {
        let mut command = sysmem_run();
        command.arg("-q").arg("--").args(program).process_group(0).stdin(Stdio::null());
        Self::start(command)
    }

    fn command(&self) -> u32 {
        self.0.id()
    }

    fn program(&self) -> u32 {
        child_of(self.0.id()).expect("the program")
    }

    /// Waits until the program says that a signal came.
    fn got(&mut self) {
        read_until(self.0.stdout.as_mut().unwrap(), "got\n");
    }

    /// Ends the program, and tells its status and what it counted.
    fn counted(mut self) -> (Option<i32>, String) {
        // Time for what should not come.
        std::thread::sleep(Duration::from_millis(50));
        kill(self.command(), libc::SIGTERM);
        let mut said = String::new();
        self.0.stdout.as_mut().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The program goes with the command, see `a_killed_command_…`.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kill(pid: u32, signal: c_int) {
    // SAFETY: the call takes numbers; the processes are the test's own and not reaped yet.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0, "kill {pid} {signal}");
}

#[test]
fn the_exit_status_is_the_programs() {
    for status in [0, 1, 7, 125, 255] {
        let ran = run(&["sh", "-c", &format!("exit {status}")]);
        assert_eq!(ran.status.code(), Some(status));
        assert_eq!(ran.text("/end/kind"), "exited");
        assert_eq!(ran.figure("/end/status"), status as u64);
    }
}

#[test]
fn a_signal_that_killed_the_program_kills_the_command_and_leaves_no_core() {
    let directory = scratch_directory("core");
    for signal in [libc::SIGKILL, libc::SIGSEGV, libc::SIGTERM, libc::SIGABRT, libc::SIGPIPE, 40] {
        let mut command = sysmem_run();
        command.args(["-q", "--", "sh", "-c", &format!("ulimit -c 0; kill -{signal} $$")]);
        let status = command.current_dir(&directory).status().unwrap();
        assert_eq!(status.signal(), Some(signal), "{status}");
        assert!(!status.core_dumped());
    }
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn standard_input_and_output_are_the_programs() {
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let ran = run_with_input(&["cat"], &bytes);
    assert!(ran.stdout == bytes);
    assert_eq!(ran.stderr, b"");
}

#[test]
fn the_programs_arguments_are_its_own_with_and_without_two_dashes() {
    for dashes in [&["--"][..], &[]] {
        let mut command = sysmem_run();
        command.arg("-q").args(dashes).args(["echo", "-q", "--json", "--", "-n"]);
        assert_eq!(output(command, b"").stdout, b"-q --json -- -n\n");
    }
}

#[test]
fn the_report_goes_to_standard_error_and_only_there() {
    let mut command = sysmem_run();
    command.args(["--", "sh", "-c", "echo out; echo err >&2"]);
    let output = output(command, b"");
    assert_eq!(output.stdout, b"out\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("err\nsysmem: sh -c "), "{stderr}");
    assert!(stderr.contains("peak resident"), "{stderr}");
    assert!(!stderr.contains('\x1b'), "{stderr}");
}

#[test]
fn open_and_closed_descriptors_stay_as_they_were() {
    let sysmem = env!("CARGO_BIN_EXE_sysmem");
    for closed in ["", "0<&-", "1>&-", "2>&-", "0<&- 2>&-", "0<&- 1>&- 2>&- 5</dev/null"] {
        let list = |prefix: &str| {
            let listing = scratch("descriptors");
            // The shell's own list of what it inherited, told through a file.
            let tell = r#"for n in 0 1 2 3 4 5 6 7 8 9; do
                [ -e /proc/$$/fd/$n ] && echo $n $(readlink /proc/$$/fd/$n); done > "$0"; true"#;
            let line = format!("{prefix} sh -c '{tell}' \"$0\" {closed}");
            let status = Command::new("sh")
                .args(["-c", &line])
                .arg(&listing)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success(), "{status} {closed}");
            std::fs::read_to_string(&listing).unwrap().replace(listing.to_str().unwrap(), "")
        };
        assert_eq!(list(&format!("{sysmem} run -q --")), list(""), "with {closed:?}");
    }
}

#[test]
fn blocked_and_ignored_signals_are_inherited() {
    let show = ["grep", "^Sig[BI]", "/proc/self/status"];
    let inherit = |mut command: Command| {
        // SAFETY: only async-signal-safe calls are made, on values of the closure's own.
        unsafe {
            command.pre_exec(|| {
                for signal in [libc::SIGHUP, libc::SIGPIPE, libc::SIGCHLD, libc::SIGTSTP] {
                    libc::signal(signal, libc::SIG_IGN);
                }
                let mut some = std::mem::zeroed();
                libc::sigemptyset(&mut some);
                libc::sigaddset(&mut some, libc::SIGUSR2);
                libc::sigaddset(&mut some, libc::SIGRTMIN() + 3);
                libc::sigprocmask(libc::SIG_SETMASK, &some, std::ptr::null_mut());
                Ok(())
            });
        }
        String::from_utf8(output(command, b"").stdout).unwrap()
    };
    let wrapped = |options: &[&str]| {
        let mut command = sysmem_run();
        command.args(options).args(show);
        command
    };
    let plain = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments);
        command
    };
    assert_eq!(inherit(wrapped(&["-q", "--"])), inherit(plain(show[0], &show[1..])));
    let untouched = output(plain(show[0], &show[1..]), b"").stdout;
    assert_eq!(output(wrapped(&["-q", "--"]), b"").stdout, untouched);
}

#[test]
fn signals_sent_to_the_command_reach_the_program_once() {
    let program = compile("counts_signals.c", &[]);
    let mut running = Running::as_job(&[program.as_os_str()]);
    for signal in [libc::SIGUSR1, libc::SIGINT, libc::SIGHUP] {
        kill(running.command(), signal);
        running.got();
    }
    let expected = "USR1 1 INT 1 HUP 1 RT 0 value 0\n".to_owned();
    assert_eq!(running.counted(), (Some(9), expected));
}

#[test]
fn queued_signals_carry_their_value() {
    let program = compile("counts_signals.c", &[]);
    let mut running = Running::as_job(&[program.as_os_str()]);
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(4711) };
    // SAFETY: the call takes numbers; the value is not used as a pointer.
    unsafe { libc::sigqueue(running.command() as i32, libc::SIGRTMIN(), value) };
    running.got();
    let expected = "USR1 0 INT 0 HUP 0 RT 1 value 4711\n".to_owned();
    assert_eq!(running.counted(), (Some(9), expected));
}

#[test]
fn a_signal_of_the_program_to_its_group_reaches_it_once() {
    let program = compile("counts_signals.c", &[]);
    let mut running = Running::as_job(&[program.as_os_str(), "group".as_ref()]);
    running.got();
    let expected = "USR1 1 INT 0 HUP 0 RT 0 value 0\n".to_owned();
    assert_eq!(running.counted(), (Some(9), expected));
}

#[test]
fn the_command_stops_and_goes_on_with_the_program() {
    let program = compile("counts_signals.c", &[]);
    let running = Running::as_job(&[program.as_os_str()]);
    let both = [running.command(), running.program()];
    for _ in 0..3 {
        kill(running.command(), libc::SIGTSTP);
        wait_until("the stop", || both.iter().all(|&pid| state_of(pid) == Some('T')));
        kill(running.command(), libc::SIGCONT);
        wait_until("going on", || both.iter().all(|&pid| state_of(pid) == Some('S')));
    }
    assert_eq!(running.counted().0, Some(9));
}

/// The command as the leader of a session, with the terminal that its standard input is, if any.
fn leading_a_session(program: &Path, stdin: Stdio) -> Running {
    let mut command = sysmem_run();
    command.arg("-q").arg("--").arg(program).stdin(stdin).stderr(Stdio::null());
    // SAFETY: only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    Running::start(command)
}

#[test]
fn a_service_that_is_stopped_by_its_own_number_does_not_keep_the_command_stopped() {
    let running = leading_a_session(&compile("counts_signals.c", &[]), Stdio::null());
    kill(running.program(), libc::SIGSTOP);
    wait_until("the stop", || state_of(running.program()) == Some('T'));
    std::thread::sleep(Duration::from_millis(300));
    assert!(matches!(state_of(running.command()), Some('S' | 'R')), "the command goes on");
    kill(running.program(), libc::SIGCONT);
    assert_eq!(running.counted().0, Some(9));
}

/// A program on a terminal of its own, and the end into which a person types.
fn on_terminal(program: &Path) -> (Running, File) {
    let (mut person, mut side) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: openpty writes two descriptors, which nobody else owns.
    let (person, side) = unsafe {
        assert_eq!(libc::openpty(&mut person, &mut side, null, null.cast(), null.cast()), 0);
        libc::fcntl(person, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(person), File::from_raw_fd(side))
    };
    (leading_a_session(program, side.into()), person)
}

#[test]
fn an_interrupt_typed_at_the_terminal_reaches_the_program_once() {
    let (mut running, mut person) = on_terminal(&compile("counts_signals.c", &[]));
    person.write_all(b"\x03").unwrap();
    running.got();
    let expected = "USR1 0 INT 1 HUP 0 RT 0 value 0\n".to_owned();
    assert_eq!(running.counted(), (Some(9), expected));
}

#[test]
fn a_terminal_that_hangs_up_tells_the_program_even_when_the_command_leads_the_session() {
    let (mut running, person) = on_terminal(&compile("counts_signals.c", &[]));
    drop(person);
    running.got();
    let expected = "USR1 0 INT 0 HUP 1 RT 0 value 0\n".to_owned();
    assert_eq!(running.counted(), (Some(9), expected));
}

#[test]
fn a_killed_command_does_not_leave_the_program_behind() {
    let program = compile("counts_signals.c", &[]);
    let running = Running::as_job(&[program.as_os_str()]);
    let program = running.program();
    kill(running.command(), libc::SIGKILL);
    wait_until("the program's end", || matches!(state_of(program), None | Some('Z')));
}

#[test]
fn an_alarm_set_before_the_command_rings_in_the_program() {
    let mut command = sysmem_run();
    command.args(["-q", "--", "sleep", "100"]);
    // SAFETY: alarm takes a number and is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::alarm(1);
            Ok(())
        });
    }
    assert_eq!(command.status().unwrap().signal(), Some(libc::SIGALRM));
}

/// A file that a daemon looks for and ends without.
struct Flag(PathBuf);

impl Flag {
    fn new() -> Self {
        let path = scratch("flag");
        std::fs::write(&path, "").unwrap();
        Self(path)
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_command_ends_with_the_program_and_not_with_its_daemon() {
    let program = compile("leaves_daemon.c", &[]);
    let up = Flag::new();
    let ran = run(&[program.as_os_str(), up.0.as_os_str()]);
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(ran.text("/program/ending"), "exited");
    let daemon = &ran.descendants()[0];
    assert_eq!(daemon["ending"], "unknown");
    let daemon = daemon["pid"].as_u64().unwrap() as u32;
    assert!(matches!(state_of(daemon), Some('S' | 'R')));
    drop(up);
    wait_until("the daemon's end", || matches!(state_of(daemon), None | Some('Z')));
}

#[test]
fn what_was_preloaded_before_stays_preloaded() {
    let mut command = sysmem_run();
    command.args([
        "-q",
        "--",
        "sh",
        "-c",
        "echo $LD_PRELOAD; exec /proc/self/exe -c 'echo $0' a b",
    ]);
    let libc = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc =
        libc.lines().find_map(|line| line.split_whitespace().find(|w| w.contains("/libc.so")));
    let libc = libc.expect("the C library's path");
    let output = output_with(command.env("LD_PRELOAD", libc));
    let mut lines = output.lines();
    let preload = lines.next().unwrap();
    let (ours, others) = preload.split_once(':').expect("two libraries");
    assert!(ours.ends_with("/libsysmem_preload.so"), "{preload}");
    assert_eq!(others, libc);
}

fn output_with(command: &mut Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}
