//! Other processes: of this user and of another, ending meanwhile.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

/// A shell that has started, and waits for a line: nothing of it moves any more.
fn shell(script: &str) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", &format!("echo; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    wait_for_state(child.id(), 'S');
    child
}

#[test]
fn another_process_is_told_as_proc_tells_it() {
    let _turn = alone();
    let mut child = shell("read line");
    let process = Process::Id(child.id());
    let told = usage::process(process, Detail::Pages).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let kilobytes = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    assert_eq!(told.virtual_size, Some(kilobytes("VmSize:")));
    assert_eq!(told.resident, Some(kilobytes("VmRSS:")));
    assert_eq!(told.peak_resident, Some(kilobytes("VmHWM:")));
    assert_eq!(told.page_tables, Some(kilobytes("VmPTE:")));
    let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
    assert_eq!(told.mappings, Some(maps.lines().count() as u64));
    let mut resident = 0;
    usage::mappings(process, Detail::Pages, &mut [0; 4096], &mut |mapping| {
        resident += mapping.pages.resident.unwrap();
    })
    .unwrap();
    assert_eq!(told.pages.resident, Some(resident));

    child.kill().unwrap();
    wait_for_state(child.id(), 'Z');
    let kind = |result: Result<ProcessUsage, sysmem::Error>| result.unwrap_err().kind();
    assert_eq!(kind(usage::process(process, Detail::Counters)), ErrorKind::Gone, "a zombie");
    child.wait().unwrap();
    assert_eq!(kind(usage::process(process, Detail::Counters)), ErrorKind::Gone);
    assert_eq!(usage::control_group(process).unwrap_err().kind(), ErrorKind::Gone);
}

/// Waits until a process is in a state of proc(5): `S` asleep, `Z` a zombie.
fn wait_for_state(pid: u32, state: char) {
    let began = Instant::now();
    let wanted = format!(") {state} ");
    while !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(&wanted) {
        assert!(began.elapsed() < Duration::from_secs(60), "not in state {state}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_process_that_ends_in_the_middle_is_an_error() {
    let _turn = alone();
    for detail in [Detail::Counters, Detail::Pages] {
        let mut child = shell("read line");
        let process = Process::Id(child.id());
        let mut seen = 0;
        let ended = usage::mappings(process, detail, &mut [0; 512], &mut |_| {
            seen += 1;
            if seen == 1 {
                child.kill().unwrap();
                wait_for_state(child.id(), 'Z');
            }
        });
        child.wait().unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Gone, "{detail:?} after {seen}");
    }
}

#[test]
fn a_process_that_executes_another_program_in_the_middle_is_an_error() {
    let _turn = alone();
    let mut child = shell("read line; exec sleep 1000");
    let process = Process::Id(child.id());
    let mut seen = 0;
    let changed = usage::mappings(process, Detail::Pages, &mut [0; 512], &mut |_| {
        seen += 1;
        if seen == 1 {
            child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
            let began = Instant::now();
            while fs::read(format!("/proc/{}/comm", child.id())).unwrap() != b"sleep\n" {
                assert!(began.elapsed() < Duration::from_secs(60), "sleep was not executed");
            }
        }
    });
    assert_eq!(changed.unwrap_err().kind(), ErrorKind::Gone);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Looks at a process in each way, and kills it before the n-th call that the kernel gets; returns
/// how many calls it got, and what came of it.
fn killed_before(n: usize) -> (usize, Vec<Result<(), ErrorKind>>) {
    let mut child = shell("read line");
    let id = child.id();
    let process = Process::Id(id);
    let kernel = Faulty::new(Kernel);
    let os = Linux::new(kernel.clone());
    kernel.fail_when(move |index, _| {
        if index == n {
            // SAFETY: a signal to a child that nobody has waited for.
            assert_eq!(unsafe { libc::kill(id as i32, libc::SIGKILL) }, 0);
            wait_for_state(id, 'Z');
        }
        None
    });
    // The whole address space of the shell.
    let all = PageRange::new(std::ptr::without_provenance_mut(page_size()), (1 << 47) - (1 << 20));
    let mut buffer = [0; 512];
    let kind = |error: sysmem::Error| error.kind();
    let results = vec![
        os.process_usage(process, Detail::Pages).map(drop).map_err(kind),
        os.mappings(process, Detail::Counters, &mut buffer, &mut |_| {}).map_err(kind),
        os.mappings(process, Detail::Pages, &mut buffer, &mut |_| {}).map_err(kind),
        os.page_runs(process, all, &mut |_| {}).map_err(kind),
        os.control_group(process).map(drop).map_err(kind),
    ];
    let calls = kernel.calls();
    let _ = child.kill();
    child.wait().unwrap();
    (calls, results)
}

/// Every figure before the end is whole; from then on the process is gone. (What its control group
/// is, is told of a zombie too: as of none.)
#[test]
fn a_process_that_dies_before_any_call_is_an_error() {
    let _turn = alone();
    let (calls, alive) = killed_before(usize::MAX);
    assert!(alive.iter().all(Result::is_ok), "{alive:?}");
    assert!(calls > 60, "{calls} calls");
    for n in 0..calls {
        let (_, results) = killed_before(n);
        let first_error = results[..4].iter().position(Result::is_err);
        let ended = first_error.unwrap_or(4);
        assert!(results[..ended].iter().all(Result::is_ok), "{n}: {results:?}");
        for result in &results[ended..4] {
            assert_eq!(*result, Err(ErrorKind::Gone), "killed before call {n}: {results:?}");
        }
    }
}

/// Runs a test of this program once more, as a user who may do nothing. `None` if this user may not
/// become another.
fn as_nobody(test: &str) -> Option<std::process::Output> {
    use std::os::unix::process::CommandExt;
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can become another user");
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env("SYSMEM_TEST_NOBODY", "1");
    Some(command.uid(65534).gid(65534).output().unwrap())
}

#[test]
fn another_users_process_is_denied_and_its_counters_are_not() {
    let _turn = alone();
    if std::env::var_os("SYSMEM_TEST_NOBODY").is_none() {
        let test = "others::another_users_process_is_denied_and_its_counters_are_not";
        let Some(output) = as_nobody(test) else { return };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    // Process 1 is root's.
    let process = Process::Id(1);
    let told = usage::process(process, Detail::Pages).unwrap();
    assert!(told.resident.is_some() && told.minor_faults.is_some());
    assert_eq!((told.pages.resident, told.mappings), (None, None));
    let mut buffer = [0; 512];
    for detail in [Detail::Counters, Detail::Pages] {
        let denied = usage::mappings(process, detail, &mut buffer, &mut |_| {}).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::Denied);
        assert!(denied.to_string().contains("run as the user of the process or root"), "{denied}");
    }
    let range = PageRange::new(std::ptr::without_provenance_mut(1 << 32), page_size());
    let denied = usage::residency(process, range, &mut |_| {}).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
}
