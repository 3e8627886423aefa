//! A program under `sysmem run` sees and shows what it does without: descriptors, signals, status.

mod harness;

use harness::*;
use libc::c_int;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

/// A program under `sysmem run` in a process group of its own, that has said "ready".
fn start(program: &[&str]) -> Child {
    let mut command = sysmem_run();
    command.arg("-q").arg("--").args(program).process_group(0);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the command");
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    child
}

fn kill(pid: u32, signal: c_int) {
    // SAFETY: the call takes numbers; the processes are the test's own and not reaped yet.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0, "kill {pid} {signal}");
}

fn rest_of_output(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
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
    let child = start(&[program.to_str().unwrap()]);
    for signal in [libc::SIGUSR1, libc::SIGINT, libc::SIGHUP] {
        kill(child.id(), signal);
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    kill(child.id(), libc::SIGTERM);
    let expected = "USR1 1 INT 1 HUP 1 RT 0 value 0\n".to_owned();
    assert_eq!(rest_of_output(child), (Some(9), expected));
}

#[test]
fn queued_signals_carry_their_value() {
    let program = compile("counts_signals.c", &[]);
    let child = start(&[program.to_str().unwrap()]);
    let value = libc::sigval { sival_ptr: 4711 as *mut _ };
    // SAFETY: the call takes numbers; the value is not used as a pointer.
    unsafe { libc::sigqueue(child.id() as i32, libc::SIGRTMIN(), value) };
    std::thread::sleep(std::time::Duration::from_millis(100));
    kill(child.id(), libc::SIGTERM);
    let expected = "USR1 0 INT 0 HUP 0 RT 1 value 4711\n".to_owned();
    assert_eq!(rest_of_output(child), (Some(9), expected));
}

#[test]
fn a_signal_of_the_program_to_its_group_reaches_it_once() {
    let program = compile("counts_signals.c", &[]);
    let child = start(&[program.to_str().unwrap(), "group"]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    kill(child.id(), libc::SIGTERM);
    let expected = "USR1 1 INT 0 HUP 0 RT 0 value 0\n".to_owned();
    assert_eq!(rest_of_output(child), (Some(9), expected));
}

#[test]
fn the_command_stops_and_goes_on_with_the_program() {
    let program = compile("counts_signals.c", &[]);
    let child = start(&[program.to_str().unwrap()]);
    let (command, program) = (child.id(), child_of(child.id()).expect("the program"));
    for _ in 0..3 {
        kill(command, libc::SIGTSTP);
        wait_until("the stop", || state_of(command) == Some('T') && state_of(program) == Some('T'));
        kill(command, libc::SIGCONT);
        wait_until("going on", || state_of(command) == Some('S') && state_of(program) == Some('S'));
    }
    kill(command, libc::SIGTERM);
    assert_eq!(rest_of_output(child).0, Some(9));
}

#[test]
fn a_service_that_is_stopped_by_its_own_number_does_not_keep_the_command_stopped() {
    let program = compile("counts_signals.c", &[]);
    let mut command = sysmem_run();
    command.arg("-q").arg("--").arg(program).stdin(Stdio::null()).stdout(Stdio::piped());
    // A session of its own has no terminal.
    // SAFETY: setsid takes nothing and is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    let program = child_of(child.id()).expect("the program");
    kill(program, libc::SIGSTOP);
    wait_until("the stop", || state_of(program) == Some('T'));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(matches!(state_of(child.id()), Some('S' | 'R')), "the command goes on");
    kill(program, libc::SIGCONT);
    kill(program, libc::SIGTERM);
    assert_eq!(rest_of_output(child).0, Some(9));
}

/// A pseudo terminal: what a person types into, and what the program sees.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut person, mut program) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: openpty writes two descriptors, which nobody else owns.
    unsafe {
        assert_eq!(libc::openpty(&mut person, &mut program, null, null.cast(), null.cast()), 0);
        libc::fcntl(person, libc::F_SETFD, libc::FD_CLOEXEC);
        (OwnedFd::from_raw_fd(person), OwnedFd::from_raw_fd(program))
    }
}

/// The program under `sysmem run` as the leader of a session on a terminal of its own.
fn start_on_terminal(program: &std::path::Path) -> (Child, std::fs::File) {
    let (person, side) = terminal();
    let mut command = sysmem_run();
    command.arg("-q").arg("--").arg(program);
    command.stdin(side.try_clone().unwrap()).stdout(Stdio::piped()).stderr(Stdio::null());
    // SAFETY: only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    (child, std::fs::File::from(person))
}

#[test]
fn an_interrupt_typed_at_the_terminal_reaches_the_program_once() {
    let (child, mut person) = start_on_terminal(&compile("counts_signals.c", &[]));
    person.write_all(b"\x03").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    kill(child.id(), libc::SIGTERM);
    let expected = "USR1 0 INT 1 HUP 0 RT 0 value 0\n".to_owned();
    assert_eq!(rest_of_output(child), (Some(9), expected));
}

#[test]
fn a_terminal_that_hangs_up_tells_the_program_even_when_the_command_leads_the_session() {
    let (child, person) = start_on_terminal(&compile("counts_signals.c", &[]));
    drop(person);
    std::thread::sleep(std::time::Duration::from_millis(200));
    kill(child.id(), libc::SIGTERM);
    let expected = "USR1 0 INT 0 HUP 1 RT 0 value 0\n".to_owned();
    assert_eq!(rest_of_output(child), (Some(9), expected));
}

#[test]
fn a_killed_command_does_not_leave_the_program_behind() {
    let program = compile("counts_signals.c", &[]);
    let mut child = start(&[program.to_str().unwrap()]);
    let program = child_of(child.id()).expect("the program");
    kill(child.id(), libc::SIGKILL);
    child.wait().unwrap();
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

#[test]
fn the_command_ends_with_the_program_and_not_with_its_daemon() {
    let program = compile("leaves_daemon.c", &[]);
    let flag = scratch("flag");
    std::fs::write(&flag, "").unwrap();
    let ran = run(&[program.as_os_str(), flag.as_os_str()]);
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(ran.text("/program/ending"), "exited");
    let daemon = &ran.descendants()[0];
    assert_eq!(daemon["ending"], "unknown");
    let daemon = daemon["pid"].as_u64().unwrap() as u32;
    assert!(matches!(state_of(daemon), Some('S' | 'R')));
    std::fs::remove_file(&flag).unwrap();
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
