//! `sysmem stat` and `sysmem map`: what they say of processes whose memory is known.

mod harness;

use harness::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

const MIB: u64 = 1 << 20;

/// A program that holds memory of each kind until it is killed.
struct Holder(Child);

impl Holder {
    fn start() -> Holder {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        Holder::of(PROGRAM.get_or_init(|| compile("holds.c", &[])))
    }

    fn of(program: &Path) -> Holder {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was compiled");
        read_until(child.stdout.as_mut().unwrap(), "ready\n");
        Holder(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn told(name: &str, arguments: &[&str]) -> String {
    let mut command = sysmem(name);
    command.args(arguments);
    let Output { status, stdout, stderr } = output(command, b"");
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

fn json(name: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&told(name, arguments)).expect("JSON")
}

/// Whether a figure is what the program holds: with its libraries, and without the last few lazily
/// freed pages, which each processor counts only in batches.
fn about(value: &Value, mib: u64) -> bool {
    value.as_u64().is_some_and(|bytes| (mib * MIB - MIB / 2..(mib + 6) * MIB).contains(&bytes))
}

#[test]
fn stat_tells_what_a_process_holds() {
    let holder = Holder::start();
    let figures = json("stat", &["--json", &holder.pid()]);
    let process = &figures["process"];
    assert_eq!(figures["version"], 1);
    assert_eq!(process["pid"].to_string(), holder.pid());
    assert!(process["name"].as_str().unwrap().len() <= 15);
    for (name, mib) in [
        ("resident_bytes", 40),
        ("resident_anonymous_bytes", 40),
        ("resident_in_use_bytes", 32),
        ("lazily_freed_bytes", 8),
        ("peak_resident_bytes", 40),
        ("private_bytes", 40),
        ("virtual_bytes", 120),
        ("data_bytes", 56),
    ] {
        assert!(about(&process[name], mib), "{name} in {process:#}");
    }
    assert_eq!(process["phys_footprint_bytes"], Value::Null, "Linux has none");
    assert!(process["minor_faults"].as_u64().unwrap() >= 40 * MIB / 65536);
    assert!(process["user_ns"].is_u64() && process["system_ns"].is_u64());
    let machine = &figures["machine"];
    assert!(machine["total_bytes"].as_u64() > machine["free_bytes"].as_u64());
    assert!(["heuristic", "always", "never"].contains(&machine["overcommit"].as_str().unwrap()));
}

#[test]
fn stat_is_aligned_and_plain_in_a_pipe() {
    let holder = Holder::start();
    let text = told("stat", &[&holder.pid()]);
    assert!(text.starts_with(&format!("process {}, ", holder.pid())), "{text}");
    assert!(!text.contains('\x1b') && text.is_ascii(), "{text:?}");
    assert!(!text.lines().any(|line| line.ends_with(' ')), "{text:?}");
    // Values end in one column.
    for line in text.lines().filter(|line| line.starts_with("  ")) {
        let value = &line[26..37.min(line.len())];
        assert!(!value.ends_with(' ') && value.starts_with(' '), "{line:?}");
    }
    for part in ["resident", "lazily freed", "machine", "page size"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn without_a_process_stat_tells_of_the_machine() {
    let figures = json("stat", &["--json"]);
    assert_eq!(figures["process"], Value::Null);
    assert!(figures["machine"]["page_size_bytes"].as_u64().unwrap() >= 4096);
    assert!(told("stat", &[]).contains("\nmachine\n") || told("stat", &[]).starts_with("machine"));
}

#[test]
fn a_watch_lasts_until_the_process_ends() {
    let holder = Holder::start();
    let mut command = sysmem("stat");
    command.args(["--json", "--watch=0.05", &holder.pid()]).stdout(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let figures: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert!(about(&figures["process"]["resident_bytes"], 40), "{figures:#}");
    }
    drop(holder);
    for line in &mut lines {
        serde_json::from_str::<Value>(&line.unwrap()).expect("every line is an object");
    }
    assert!(watch.wait().unwrap().success());
}

#[test]
fn what_is_not_there_is_said_in_one_line() {
    let mut holder = Holder::start();
    let pid = holder.pid();
    holder.0.kill().unwrap();
    holder.0.wait().unwrap();
    for name in ["stat", "map"] {
        let mut command = sysmem(name);
        command.arg(&pid);
        let Output { status, stdout, stderr } = output(command, b"");
        assert_eq!(status.code(), Some(1), "{name}");
        assert!(stdout.is_empty());
        let expected = format!("sysmem: there is no process {pid}, or it has ended\n");
        assert_eq!(String::from_utf8_lossy(&stderr), expected);
    }
    let mut command = sysmem("stat");
    command.args(["--watch=0", "1"]);
    assert_eq!(output(command, b"").status.code(), Some(125));
    for name in ["0", "python3", "-1", "4294967296"] {
        let mut command = sysmem("map");
        command.args(["--", name]);
        let Output { status, stderr, .. } = output(command, b"");
        assert_eq!(status.code(), Some(125), "{name}");
        let told = String::from_utf8_lossy(&stderr).into_owned();
        assert!(told.contains("give the number of a process"), "{told}");
    }
}

/// The Python that can import prometheus_client: the usual one, or one in a directory of its own
/// that is made for this test where packages can be had.
fn python_with_parser() -> Option<PathBuf> {
    let python = installed("python3")?;
    let has_parser = |python: &Path| {
        let import = ["-c", "import prometheus_client.openmetrics.parser"];
        let status = Command::new(python).args(import).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if has_parser(&python) {
        return Some(python);
    }
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus_client");
    let own_python = own.join("bin/python3");
    if !has_parser(&own_python) {
        let quietly = |command: &mut Command| {
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        };
        quietly(Command::new(&python).args(["-m", "venv"]).arg(&own));
        let pip = ["-m", "pip", "install", "prometheus_client==0.21.0"];
        quietly(Command::new(&own_python).args(pip));
    }
    has_parser(&own_python).then_some(own_python)
}

#[test]
fn openmetrics_is_read_by_the_parser_of_prometheus() {
    let Some(python) = python_with_parser() else {
        println!("skipped: prometheus_client cannot be installed");
        return;
    };
    let holder = Holder::start();
    let text = told("stat", &["--openmetrics", &holder.pid()]);
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/openmetrics.py"));
    let Output { status, stdout, stderr } = output(command, text.as_bytes());
    assert!(status.success(), "{}\n{text}", String::from_utf8_lossy(&stderr));
    let samples: Vec<Value> = stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let sample = |name: &str| {
        let found = samples.iter().find(|sample| sample[1] == name);
        found.unwrap_or_else(|| panic!("no {name} in {samples:#?}"))
    };
    let resident = sample("sysmem_process_resident_bytes");
    assert_eq!(resident[0], "gauge");
    assert_eq!(resident[2]["pid"], holder.pid());
    let bytes = resident[3].as_str().unwrap().parse::<f64>().unwrap() as u64;
    assert!((40 * MIB..46 * MIB).contains(&bytes), "{bytes}");
    assert_eq!(sample("sysmem_process_user_seconds_total")[0], "counter");
    assert_eq!(sample("sysmem_process_minor_faults_total")[0], "counter");
    assert_eq!(sample("sysmem_machine_info")[0], "info");
    // What the JSON leaves null is left out; everything else is there.
    let json = json("stat", &["--json", &holder.pid()]);
    let figures = |section: &str| {
        let all =
            json[section].as_object().map(|all| all.iter().collect::<Vec<_>>()).unwrap_or_default();
        let told = all.iter().filter(|(name, value)| {
            !value.is_null() && !["pid", "name", "overcommit", "huge_pages"].contains(&&name[..])
        });
        told.count()
    };
    let expected = figures("process") + figures("control_group") + figures("machine") + 1;
    assert_eq!(samples.len(), expected);
}

/// A name may hold any bytes; it is the program's, and the reader must not be confused.
#[test]
fn openmetrics_carries_any_name() {
    let Some(python) = python_with_parser() else {
        println!("skipped: prometheus_client cannot be installed");
        return;
    };
    let name = "a\"b\\c\nd";
    let path = scratch_directory("names").join(name);
    std::fs::copy(installed("sleep").unwrap(), &path).unwrap();
    let mut child = Command::new(&path).arg("100").spawn().unwrap();
    wait_until("the name", || {
        std::fs::read(format!("/proc/{}/comm", child.id())).unwrap().starts_with(b"a\"b")
    });
    let text = told("stat", &["--openmetrics", &child.id().to_string()]);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/openmetrics.py"));
    let Output { status, stdout, stderr } = output(command, text.as_bytes());
    assert!(status.success(), "{}\n{text}", String::from_utf8_lossy(&stderr));
    let first: Value =
        serde_json::from_slice(stdout.split(|&b| b == b'\n').next().unwrap()).unwrap();
    assert_eq!(first[2]["name"], name);
}

fn group<'m>(map: &'m Value, kind: &str) -> &'m Value {
    let mut groups = map["groups"].as_array().unwrap().iter();
    groups.find(|group| group["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {map:#}"))
}

#[test]
fn map_tells_what_the_address_space_is_made_of() {
    let holder = Holder::start();
    let map = json("map", &["--json", &holder.pid()]);
    let unnamed = group(&map, "unnamed");
    assert!(about(&unnamed["resident_bytes"], 40), "{unnamed:#}");
    assert!(about(&unnamed["without_memory_bytes"], 16), "{unnamed:#}");
    assert!(about(&unnamed["lazily_freed_bytes"], 8), "{unnamed:#}");
    let reserved = group(&map, "no_access");
    assert!(about(&reserved["virtual_bytes"], 64), "{reserved:#}");
    assert_eq!(reserved["resident_bytes"], 0);
    assert!(group(&map, "program")["parts"][0]["name"].as_str().unwrap().contains("holds"));
    let libraries = group(&map, "files")["parts"].as_array().unwrap();
    assert!(libraries.iter().any(|part| part["name"].as_str().unwrap().contains("libc")));
    for kind in ["stacks", "system"] {
        group(&map, kind);
    }
    // Largest first, and nothing is told twice or left out.
    let groups = map["groups"].as_array().unwrap();
    let resident: Vec<u64> =
        groups.iter().map(|group| group["resident_bytes"].as_u64().unwrap()).collect();
    assert!(resident.is_sorted_by(|a, b| a >= b), "{resident:?}");
    for figure in ["mappings", "virtual_bytes", "resident_bytes", "private_bytes"] {
        let sum: u64 = groups.iter().map(|group| group[figure].as_u64().unwrap()).sum();
        assert_eq!(Some(sum), map["total"][figure].as_u64(), "{figure}");
    }
    let stat = json("stat", &["--json", &holder.pid()]);
    assert_eq!(map["total"]["mappings"], stat["process"]["mappings"]);
    assert_eq!(
        map["total"]["proportional_bytes"].as_u64().unwrap() / MIB,
        stat["process"]["proportional_bytes"].as_u64().unwrap() / MIB
    );
}

#[test]
fn map_names_the_page_heap_of_a_program_that_publishes_it() {
    let program = compile("drops.c", &[]);
    let mut command = sysmem_run();
    command.args(["--quiet", "--"]).arg(program).stdin(Stdio::null()).stdout(Stdio::piped());
    // The program ends with the command.
    let mut run = Holder(command.spawn().unwrap());
    read_until(run.0.stdout.as_mut().unwrap(), "ready\n");
    let pid = child_of(run.0.id()).expect("the program runs").to_string();
    // The heap is drawn from time to time, and given back within a second or two.
    let mut map = Value::Null;
    wait_until("the drop", || {
        map = json("map", &["--json", &pid]);
        map["page_heap"]["given_back_bytes"].as_u64().is_some_and(|bytes| bytes >= 40 * MIB)
    });
    let parts = group(&map, "named")["parts"].as_array().unwrap();
    // The kernel may have made one mapping of one and of its neighbour.
    let has =
        |part: &&Value, name| part["name"].as_str().unwrap().split(" and ").any(|n| n == name);
    assert!(parts.iter().any(|part| has(&part, "allocator metadata")), "{parts:#?}");
    let heap = |size: &str| -> u64 {
        let parts = parts.iter().filter(|part| has(part, "page heap"));
        parts.map(|part| part[size].as_u64().unwrap()).sum()
    };
    let other = |part: &Value| has(&part, "page heap") && part["name"] != "page heap";
    let is_alone = !parts.iter().any(other);
    let told = &map["page_heap"];
    let sum =
        |names: &[&str]| -> u64 { names.iter().map(|name| told[*name].as_u64().unwrap()).sum() };
    let backed = sum(&["in_use_bytes", "free_bytes"]);
    let resident = heap("resident_bytes");
    assert!(resident >= 8 * MIB && (resident <= backed + 4 * MIB || !is_alone), "{map:#}");
    let all = backed + sum(&["given_back_bytes", "unmapped_bytes"]);
    let virtual_bytes = heap("virtual_bytes");
    assert!(virtual_bytes >= all / 2 && (virtual_bytes <= all || !is_alone), "{map:#}");
    let text = self::told("map", &[&pid]);
    assert!(text.contains("page heap, as the program counted it "), "{text}");
    for part in ["in use, small blocks", "in use, free between blocks", "given back"] {
        let figure = text.lines().find_map(|line| line.trim_end().strip_suffix(part));
        let figure = figure.unwrap_or_else(|| panic!("no {part}: {text}")).trim();
        assert!(figure == "-" || figure.ends_with('B'), "{part}: {text}");
    }
    stat_tells_of_the_heap(&pid);
}

/// Of a program that has given 40 MiB back while it slept, all of them free pages.
fn stat_tells_of_the_heap(pid: &str) {
    let mut stat = Value::Null;
    // Figures are published after the work that they tell of.
    wait_until("the figures of it", || {
        stat = json("stat", &["--json", pid]);
        stat["heap"]["scavenger_released_bytes"].as_u64().is_some_and(|bytes| bytes >= 40 * MIB)
    });
    let told = |name: &str| stat["heap"][name].as_u64().unwrap_or_else(|| panic!("{stat:#}"));
    assert!(told("released_bytes") >= told("scavenger_released_bytes"));
    assert!(told("given_back_bytes") >= 40 * MIB);
    assert!(told("releases") >= told("scavenger_releases") && told("scavenger_releases") > 0);
    assert!(told("scavenger_cpu_ns") > 0);
    let mappings = stat["process"]["mappings"].as_u64().unwrap();
    assert!((1..=mappings).contains(&told("mappings")), "{stat:#}");
    let text = self::told("stat", &[pid]);
    assert!(text.contains("its heap, as it says itself\n"), "{text}");
    let metrics = self::told("stat", &["--openmetrics", pid]);
    for metric in ["sysmem_heap_scavenger_cpu_seconds_total{", "sysmem_heap_released_bytes_total{"]
    {
        assert!(metrics.contains(metric), "{metrics}");
    }
}

#[test]
fn what_a_small_heap_frees_at_once_is_seen_though_the_program_does_nothing_after() {
    let mut command = sysmem_run();
    command.args(["--quiet", "--"]).arg(compile("frees_at_once.c", &[]));
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    read_until(run.stdout.as_mut().unwrap(), "ready\n");
    let pid = child_of(run.id()).expect("the program runs").to_string();
    let stat = json("stat", &["--json", &pid]);
    let map = json("map", &["--json", &pid]);
    drop(run.stdin.take());
    assert!(run.wait().unwrap().success());
    for heap in [&stat["heap"], &map["page_heap"]] {
        let told = |name: &str| heap[name].as_u64().unwrap_or_else(|| panic!("{heap:#}"));
        assert!(told("in_use_bytes") < 4 * MIB && told("free_bytes") > 20 * MIB, "{heap:#}");
    }
}

/// A command of sysmem as a user who may do nothing; `None` if this user may not become another.
fn as_nobody(name: &str, arguments: &[&str]) -> Option<Output> {
    use std::os::unix::process::CommandExt;
    let mut command = sysmem(name);
    command.args(arguments);
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(65534).gid(65534);
    }
    // A folder on the way may be closed to them.
    command.stdin(Stdio::null()).output().ok()
}

#[test]
fn of_another_users_process_the_map_is_denied_and_stat_tells_what_is_for_everybody() {
    // Process 1 is root's.
    let Some(Output { status, stdout, stderr }) = as_nobody("map", &["1"]) else {
        println!("skipped: the command lies where others may not go");
        return;
    };
    assert_eq!((status.code(), &stdout[..]), (Some(1), &b""[..]));
    let expected = "sysmem: process 1 is not yours to look at; run as its user or as root\n";
    assert_eq!(String::from_utf8_lossy(&stderr), expected);
    let Output { status, stdout, .. } = as_nobody("stat", &["1"]).unwrap();
    let text = String::from_utf8(stdout).unwrap();
    assert!(status.success() && text.contains("resident"), "{text}");
    assert!(text.contains("is for the user of the process and root"), "{text}");
    let Output { stdout, .. } = as_nobody("stat", &["--json", "1"]).unwrap();
    let figures: Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(figures["process"]["proportional_bytes"], Value::Null);
    assert!(figures["process"]["resident_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
}

/// Many mappings and much memory: neither makes the figures slow, nor are they told mapping by
/// mapping.
#[test]
fn stat_of_a_large_process_reads_its_sums() {
    let holder = Holder::start();
    let trace = installed("strace");
    let Some(strace) = trace else { return };
    let mut command = Command::new(strace);
    command.args(["-f", "-e", "trace=openat,open", env!("CARGO_BIN_EXE_sysmem"), "stat"]);
    command.arg(holder.pid());
    let Output { status, stderr, .. } = output(command, b"");
    let said = String::from_utf8_lossy(&stderr);
    if !status.success() {
        println!("skipped: strace may not trace here");
        return;
    }
    assert!(said.contains("/smaps_rollup\"") && !said.contains("/smaps\""), "{said}");
}

/// 60,000 mappings are some 3 MB of text, which the kernel tells by the page, and some 50 MB with
/// their figures.
#[test]
fn sixty_thousand_mappings_take_no_more_calls_than_there_are_pages_of_text() {
    let Some(strace) = installed("strace") else { return };
    let holder = Holder::of(&compile("many_mappings.c", &[]));
    let figures = json("stat", &["--json", &holder.pid()]);
    assert!(figures["process"]["mappings"].as_u64().is_some_and(|n| n > 60_000), "{figures:#}");
    for (name, most) in [("stat", 1200), ("map", 16_000)] {
        let calls = scratch("calls");
        let mut command = Command::new(&strace);
        command.args(["-f", "-c", "-o"]).arg(&calls);
        command.args([env!("CARGO_BIN_EXE_sysmem"), name, &holder.pid()]);
        if !output(command, b"").status.success() {
            println!("skipped: strace may not trace here");
            return;
        }
        let table = std::fs::read_to_string(calls).unwrap();
        let total = table.lines().last().unwrap().split_whitespace().nth(3).unwrap();
        let total: u32 = total.parse().unwrap_or_else(|_| panic!("{table}"));
        assert!(total < most, "{name}: {table}");
    }
}

#[test]
fn the_map_as_text_is_plain_and_starts_with_the_largest() {
    let holder = Holder::start();
    let text = told("map", &[&holder.pid()]);
    assert!(!text.contains('\x1b'), "{text}");
    let titles = ["all", "memory without a name", "libraries and files", "reserved, no access"];
    let places: Vec<Option<usize>> = titles.iter().map(|title| text.find(title)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {text}");
    assert!(!text.contains("swapped") || !text.contains(" huge pages"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_trouble() {
    let mut command = sysmem("stat");
    command.args(["--watch=0.01"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let mut first = [0; 10];
    watch.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(watch.stdout.take());
    let Output { stderr, .. } = watch.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&stderr).contains("panicked"));
}
