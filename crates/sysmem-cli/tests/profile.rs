//! `sysmem run --profile`: who holds the memory, for programs of which that is known.

mod harness;

use harness::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MIB: f64 = 1048576.0;

/// Blocks of 500 bytes are of 512.
const GROWN: f64 = 512.0 / 500.0;

/// Runs a program with a profile in both formats; the smaller the interval, the less is left to
/// chance.
fn profile<S: AsRef<std::ffi::OsStr>>(program: &[S], interval: &str) -> (PathBuf, String, Output) {
    let (proto, folded) = (scratch("profile.pb.gz"), scratch("profile.folded"));
    let mut command = sysmem_run();
    command.arg("--profile").arg(&proto).arg("--profile").arg(&folded);
    command.args(["--profile-interval", interval, "--"]).args(program);
    let output = output(command, b"");
    let text = std::fs::read_to_string(&folded).unwrap();
    (proto, text, output)
}

/// Bytes held at the peak under a function.
fn under(folded: &str, function: &str) -> f64 {
    let lines = folded.lines().filter(|line| {
        let stack = line.rsplit_once(' ').unwrap().0;
        stack.split(';').any(|name| name == function)
    });
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Chance is a twentieth at most in what is asked here: five times that is a mistake.
fn assert_near(what: &str, estimate: f64, truth: f64) {
    assert!((estimate - truth).abs() < truth * 0.25 + 0.5 * MIB, "{what}: {estimate} of {truth}");
}

#[test]
fn folded_stacks_tell_who_held_the_memory_at_the_peak_without_frame_pointers() {
    let program = compile("holders.c", &["-fomit-frame-pointer", "-O2"]);
    let (_, folded, output) = profile(&[&program], "64K");
    assert!(output.status.success());
    assert_near("keeps", under(&folded, "keeps"), 48.0 * MIB * GROWN);
    assert_near("drops", under(&folded, "drops"), 96.0 * MIB * (GROWN + 8.0 / 500.0));
    assert_near("block", under(&folded, "block"), 144.0 * MIB * GROWN);
    assert!(under(&folded, "churns") < 2.0 * MIB, "{folded}");
    assert!(under(&folded, "shares") < 2.0 * MIB, "{folded}");
    // Nothing of the allocator, and every stack begins where the program does.
    for line in folded.lines() {
        assert!(!line.contains("malloc") && !line.contains("sysmem_alloc"), "{line}");
    }
    let whole: f64 = under(&folded, "main") + under(&folded, "shares");
    assert!(under(&folded, "block") <= whole * 1.001, "{folded}");
}

/// What Go's pprof reads: the value of each function, cumulated, by sample type.
fn read_by_go(go: &Path, proto: &Path, sample_type: &str, unit: &str) -> HashMap<String, f64> {
    let mut command = Command::new(go);
    command.args(["tool", "pprof", "-top", "-nodecount=1000", "-nodefraction=0"]);
    command.arg(format!("-unit={unit}")).arg(format!("-sample_index={sample_type}")).arg(proto);
    command.env("HOME", scratch_directory("home"));
    let output = output(command, b"");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("Type: {sample_type}")), "{text}");
    let mut table = HashMap::new();
    for line in text.lines().skip_while(|line| !line.trim_start().starts_with("flat ")).skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = words[3].trim_end_matches(|sign: char| sign.is_ascii_alphabetic());
        table.insert(words[5..].join(" "), number.parse().unwrap());
    }
    table
}

#[test]
fn go_reads_the_profile_and_finds_what_was_allocated_held_and_freed() {
    let Some(go) = installed("go") else { return };
    let program = compile("holders.c", &["-fomit-frame-pointer", "-O2"]);
    let (proto, ..) = profile(&[&program], "64K");
    let space = |sample_type| read_by_go(&go, &proto, sample_type, "B");
    let of = |table: &HashMap<String, f64>, name: &str| table.get(name).copied().unwrap_or(0.0);

    let allocated = space("alloc_space");
    for (name, mebibytes) in [("keeps", 48.0), ("drops", 96.0), ("churns", 64.0), ("shares", 24.0)]
    {
        let more = if name == "drops" { 8.0 / 500.0 } else { 0.0 };
        assert_near(name, of(&allocated, name), mebibytes * MIB * (GROWN + more));
    }
    let in_use = space("inuse_space");
    assert_near("keeps in use", of(&in_use, "keeps"), 48.0 * MIB * GROWN);
    for name in ["drops", "churns", "shares"] {
        assert!(of(&in_use, name) < 1.0 * MIB, "{name}: {in_use:?}");
    }
    assert_near("drops at the peak", of(&space("peak_space"), "drops"), 96.0 * MIB * 1.04);
    let objects = read_by_go(&go, &proto, "alloc_objects", "count");
    assert_near("objects", of(&objects, "churns"), 64.0 * MIB / 500.0);
}

/// A folder from which node finds pprof-format, which npm brings on the first time.
fn folder_with_reader() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pprof-format");
    let npm = installed("npm")?;
    let is_there = || folder.join("node_modules/pprof-format").is_dir();
    if !is_there() {
        std::fs::create_dir_all(&folder).unwrap();
        let mut install = Command::new(npm);
        install.args(["install", "--silent", "--no-fund", "--no-audit", "pprof-format@2.2.1"]);
        let _ = install.arg("--prefix").arg(&folder).output();
    }
    is_there().then_some(folder)
}

/// What pprof-format reads: by sample type, the value of each function, cumulated.
fn read_by_node(proto: &Path) -> Option<HashMap<String, HashMap<String, f64>>> {
    let node = installed("node")?;
    let Some(folder) = folder_with_reader() else {
        println!("skipped: pprof-format cannot be installed");
        return None;
    };
    let mut command = Command::new(node);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/profile.js"));
    command.arg(proto).env("NODE_PATH", folder.join("node_modules"));
    let Output { status, stdout, stderr } = output(command, b"");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    Some(serde_json::from_slice(&stdout).unwrap())
}

#[test]
fn a_second_reader_finds_what_was_allocated_and_held() {
    let program = compile("holders.c", &["-fomit-frame-pointer", "-O2"]);
    let (proto, ..) = profile(&[&program], "64K");
    let Some(sums) = read_by_node(&proto) else { return };
    let of = |kind: &str, name: &str| sums[kind].get(name).copied().unwrap_or(0.0);
    assert_near("churns", of("alloc_space", "churns"), 64.0 * MIB * GROWN);
    assert_near("objects", of("alloc_objects", "churns"), 64.0 * MIB / 500.0);
    assert_near("keeps in use", of("inuse_space", "keeps"), 48.0 * MIB * GROWN);
    assert_near("drops at the peak", of("peak_space", "drops"), 96.0 * MIB * 1.04);
    assert!(of("inuse_space", "drops") < 1.0 * MIB, "{sums:?}");
}

#[test]
fn sums_are_true_where_allocations_come_too_fast_to_sample_them_as_often() {
    let program = compile("holders.c", &["-O2"]);
    let proto = scratch("profile.pb.gz");
    let mut command = sysmem_run();
    // At some ten GiB a second, the interval is twenty times the usual one.
    command.arg("--profile").arg(&proto).arg("--").arg(&program).arg("20000");
    assert!(output(command, b"").status.success());
    let Some(sums) = read_by_node(&proto) else { return };
    assert_near("churns", sums["alloc_space"]["churns"], 20_000.0 * MIB * GROWN);
}

#[test]
fn go_finds_the_lines_of_the_source() {
    let Some(go) = installed("go") else { return };
    let program = compile("holders.c", &["-O2"]);
    let (proto, ..) = profile(&[&program], "64K");
    let mut command = Command::new(go);
    command.args(["tool", "pprof", "-raw"]).arg(&proto).env("HOME", scratch_directory("home"));
    let raw = String::from_utf8(output(command, b"").stdout).unwrap();
    let line = raw.lines().find(|line| line.contains(" drops ")).unwrap_or_else(|| panic!("{raw}"));
    assert!(line.contains("holders.c:"), "{line}");
    assert!(raw.contains("process:["), "{raw}");
}

#[test]
fn every_process_of_the_run_is_in_the_profile_however_short_it_lived() {
    let program = compile("holders.c", &["-O2"]);
    let line = format!("cp {0} {0}.again; {0} & {0}.again; wait", program.display());
    let (_, folded, output) = profile(&["sh", "-c", &line], "64K");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let name = program.file_name().unwrap().to_str().unwrap();
    for process in [name.to_owned(), format!("{name}.again")] {
        let lines: Vec<&str> =
            folded.lines().filter(|line| line.starts_with(&format!("{process};"))).collect();
        assert!(lines.iter().any(|line| line.contains(";main;")), "{process}: {folded}");
    }
}

#[test]
fn a_forked_child_does_not_free_what_its_parent_holds() {
    let program = compile("forks_holding.c", &["-O2"]);
    let (_, folded, output) = profile(&[program], "64K");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Both are held when `second` is done; what the child freed is not the parent's.
    assert_near("first", under(&folded, "first"), 32.0 * MIB * 4096.0 / 4000.0);
    assert_near("second", under(&folded, "second"), 32.0 * MIB * 4096.0 / 4000.0);
}

#[test]
fn programs_do_the_same_when_almost_every_allocation_is_sampled() {
    let input = scratch("lines");
    let lines: String = (0..60_000_u64).map(|n| format!("{}\n", n * 7_919 % 60_013)).collect();
    std::fs::write(&input, lines).unwrap();
    let sorted = Command::new("sort").arg("-n").arg(&input).output().unwrap().stdout;
    let arguments = ["sort", "-n", input.to_str().unwrap()];
    let (_, folded, output) = profile(&arguments, "64");
    assert!(output.stdout == sorted, "sorted otherwise");
    assert!(!folded.is_empty());
    let Some(python) = installed("python3") else { return };
    let work = "d = {str(i): [i] * 9 for i in range(20000)}; print(sum(map(len, d.values())))";
    let (_, _, output) = profile(&[python.as_os_str(), "-c".as_ref(), work.as_ref()], "256");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "180000\n");
}

#[test]
fn a_run_inside_a_profiled_run_keeps_its_samples_to_itself() {
    let program = compile("holders.c", &["-O2"]);
    let sysmem = env!("CARGO_BIN_EXE_sysmem");
    let (_, folded, output) =
        profile(&[sysmem, "run", "-q", "--", program.to_str().unwrap()], "64K");
    assert!(output.status.success());
    assert!(!folded.contains("holders"), "{folded}");
}

#[test]
fn a_profile_that_cannot_be_written_and_an_interval_of_nothing_are_refused_at_once() {
    for options in [
        &["--profile", "/nowhere/at/all"][..],
        &["--profile", "/dev/null", "--profile-interval", "0"],
        &["--profile", "/dev/null", "--profile-interval", "many"],
    ] {
        let mut command = sysmem_run();
        command.args(options).args(["--", "echo", "ran"]);
        let output = output(command, b"");
        assert_eq!(output.status.code(), Some(125), "{options:?}");
        assert!(output.stdout.is_empty());
    }
}
