//! What the report says of programs whose use of memory is known.

mod harness;

use harness::*;
use std::ffi::OsStr;
use std::process::Command;

const MIB: u64 = 1 << 20;

#[test]
fn the_json_has_its_version_and_the_run() {
    let ran = run(&["sh", "-c", "exit 0"]);
    assert_eq!(ran.figure("/version"), 1);
    assert_eq!(ran.report["arguments"], serde_json::json!(["sh", "-c", "exit 0"]));
    assert!(ran.text("/library").ends_with("/libsysmem_preload.so"));
    assert!(ran.text("/path").ends_with("/sh"));
    assert!(ran.figure("/time/wall_ns") > 0);
    assert!(ran.figure("/program/kernel/virtual_bytes") > MIB);
    assert_eq!(ran.report["notes"], serde_json::json!([]), "{:#}", ran.report);
    assert_eq!(ran.figure("/turned_away"), 0);
}

#[test]
fn the_peak_is_the_programs_own_however_it_ends() {
    let program = compile("peaks.c", &[]);
    for (way, ending) in [("return", "exited"), ("_exit", "exited"), ("kill", "unknown")] {
        let ran = run(&[program.as_os_str(), OsStr::new("64"), OsStr::new(way)]);
        let peak = ran.figure("/program/peak_resident/bytes");
        assert!((64 * MIB..80 * MIB).contains(&peak), "{way}: {peak}");
        assert!(ran.figure("/program/final_resident/bytes") < 16 * MIB, "{way}");
        assert_eq!(ran.text("/program/ending"), ending, "{way}");
        // The greater of what it published and what was seen: counters that the kernel keeps for
        // each processor let a sample see some pages more.
        let source = ran.text("/program/peak_resident/source");
        assert!(source == "sampled" || source == "published" && ending == "exited", "{way}");
        if ending == "exited" {
            let published = ran.figure("/program/kernel/peak_resident_bytes");
            assert!((64 * MIB..80 * MIB).contains(&published), "{way}: {published}");
        }
    }
}

#[test]
fn the_peak_is_not_the_launchers() {
    // wait4 would tell this program the peak of the one that started it.
    let program = compile("peaks.c", &[]);
    let line = format!("sh -c '{} 1 return; true'", program.display());
    let big = vec![1_u8; 128 << 20];
    let ran = run(&["sh", "-c", &line]);
    assert!(big.iter().all(|&byte| byte == 1));
    assert!(ran.figure("/program/peak_resident/bytes") < 32 * MIB);
}

#[test]
fn a_program_that_closes_every_descriptor_is_told_of() {
    let ran = run(&[compile("closes.c", &[])]);
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(ran.stdout, b"closed\n");
    assert_eq!(ran.text("/program/ending"), "exited");
}

#[test]
fn exec_keeps_the_process_and_adds_images() {
    let peaks = compile("peaks.c", &[]);
    let line = format!("exec env -u NOTHING {} 32 return", peaks.display());
    let ran = run(&["sh", "-c", &line]);
    assert_eq!(ran.status.code(), Some(3));
    let images = ran.images("/program");
    assert_eq!(images.len(), 3, "{images:?}");
    assert_eq!(images[1], "env");
    assert_eq!(images[2], peaks.file_name().unwrap().to_str().unwrap());
    assert_eq!(ran.text("/program/name"), images[2]);
    assert!(ran.figure("/program/peak_resident/bytes") > 32 * MIB);
    assert_eq!(ran.descendants().len(), 0);
}

#[test]
fn a_peak_before_exec_counts() {
    let program = compile("peaks.c", &[]);
    // The first image is sampled while it sleeps; exec itself publishes nothing.
    let line = format!(
        "x=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 0.4; exec {} 1 return",
        program.display()
    );
    let ran = run(&["bash", "-c", &line]);
    assert_eq!(ran.status.code(), Some(3));
    let peak = ran.figure("/program/peak_resident/bytes");
    assert!(peak > 30_000_000, "{peak}");
}

#[test]
fn descendants_are_told_by_peak() {
    let program = compile("peaks.c", &[]);
    let program = program.display();
    let line = format!("{program} 8 return; {program} 48 _exit; ({program} 24 return); exit 0");
    let ran = run(&["sh", "-c", &line]);
    assert_eq!(ran.status.code(), Some(0));
    let peaks: Vec<u64> = ran
        .descendants()
        .iter()
        .map(|process| process["peak_resident"]["bytes"].as_u64().unwrap() / MIB)
        .collect();
    assert!(peaks.len() >= 3, "{:#}", ran.report);
    assert!(peaks.is_sorted_by(|a, b| a >= b), "{peaks:?}");
    for (peak, least) in peaks.iter().zip([48, 24, 8]) {
        assert!((least..least + 8).contains(peak), "{peaks:?}");
    }
    let main = ran.figure("/program/pid");
    let parents = ran.descendants().iter().map(|process| process["parent_pid"].as_u64().unwrap());
    assert!(parents.into_iter().any(|parent| parent == main));
}

#[test]
fn a_run_inside_a_run_reports_on_its_own() {
    let json = scratch("inner.json");
    let sysmem = env!("CARGO_BIN_EXE_sysmem");
    let json_text = json.to_str().unwrap();
    let ran = run(&[sysmem, "run", "-q", "--json", json_text, "--", "sh", "-c", "exit 4"]);
    assert_eq!(ran.status.code(), Some(4));
    assert_eq!(ran.text("/program/name"), "sysmem");
    let inner: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(inner["program"]["ending"], "exited");
    assert_eq!(inner["end"]["status"], 4);
}

#[test]
fn more_processes_than_there_is_room_for_are_all_told() {
    let ran = run(&["sh", "-c", "i=0; while [ $i -lt 5000 ]; do (exit 0); i=$((i+1)); done"]);
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(ran.descendants().len(), 5000);
    assert_eq!(ran.figure("/turned_away"), 0);
}

#[test]
fn a_program_that_publishes_nothing_is_said_so_and_sampled() {
    // Another process's file cannot be opened when the variable is gone.
    let ran = run(&["env", "-u", "SYSMEM_FIGURES", "sleep", "0.5"]);
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(ran.text("/program/ending"), "unknown");
    assert_eq!(ran.text("/program/peak_resident/source"), "sampled");
    assert!(ran.text("/notes/0").contains("ended without its exit handlers"), "{:#}", ran.report);
}

#[test]
fn the_text_fits_the_figures_and_the_terminal() {
    let mut command = sysmem_run();
    command.args(["--", "sh", "-c", "sleep 0.01; exit 5"]);
    let text = String::from_utf8(output(command, b"").stderr).unwrap();
    for part in
        ["exited with status 5", "wall time", "page heap in use", "given back", "1 other process"]
    {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

/// What a command writes on a terminal, by script(1).
fn on_a_terminal(line: &str) -> Option<String> {
    let mut command = Command::new(installed("script")?);
    command.args(["-q", "-e", "-c", line, "/dev/null"]);
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR").env("LC_ALL", "C.UTF-8");
    Some(String::from_utf8_lossy(&output(command, b"").stdout).into_owned())
}

#[test]
fn colours_and_progress_are_for_terminals_and_no_color_is_honoured() {
    let program = compile("gives_back.c", &[]);
    let command = format!("{} run", env!("CARGO_BIN_EXE_sysmem"));
    let run = format!("{command} -- {} 4000", program.display());
    let Some(colourful) = on_a_terminal(&run) else { return };
    assert!(colourful.contains("\x1b["), "{colourful}");
    let plain = on_a_terminal(&format!("NO_COLOR=1 {run}")).unwrap();
    assert!(plain.contains("peak resident") && !plain.contains('\x1b'), "{plain}");
    let run = format!("{command} -q --profile {} -- {}", scratch("p").display(), program.display());
    let progress = on_a_terminal(&format!("{run} 4000")).unwrap();
    assert!(progress.contains("sysmem: reading symbols 1/"), "{progress}");
    let piped = on_a_terminal(&format!("{run} 4000 2>&1 | cat")).unwrap();
    assert_eq!(piped, "");
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_the_program_runs() {
    for option in ["--report", "--json"] {
        let mut command = sysmem_run();
        command.args([option, "/nowhere/at/all", "--", "echo", "ran"]);
        let output = output(command, b"");
        assert_eq!(output.status.code(), Some(125), "{option}");
        assert!(output.stdout.is_empty(), "{option}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            told.contains(
                "cannot write the report to /nowhere/at/all: there is no folder /nowhere/at"
            ),
            "{told}"
        );
    }
}
