//! `sysmem map --picture`: the heap of a running program, and why there is none of others.

mod harness;

use harness::*;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn picture(pid: u32, file: &Path) -> Output {
    let mut command = sysmem("map");
    command.arg(pid.to_string()).arg("--picture").arg(file);
    output(command, b"")
}

/// A program that holds half of what it had, under `sysmem run`; and the process of the program.
fn start_sparse() -> (Child, u32) {
    let program = compile("sparse.c", &[]);
    let mut command = sysmem_run();
    command.args(["--quiet", "--"]).arg(program);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the command");
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    let program = child_of(child.id()).expect("the program");
    (child, program)
}

/// How many squares a path of the picture has.
fn squares(picture: &roxmltree::Document<'_>, class: &str) -> usize {
    let path = picture.descendants().find(|node| {
        node.has_tag_name(("http://www.w3.org/2000/svg", "path"))
            && node.attribute("class") == Some(class)
    });
    path.unwrap_or_else(|| panic!("no {class}")).attribute("d").unwrap().matches('M').count()
}

#[test]
fn the_heap_of_a_running_program_is_drawn_with_its_figures() {
    let (mut child, program) = start_sparse();
    let file = scratch("heap.svg");
    // The scavenger settles within a second or two, and draws what then stays.
    let mut text = String::new();
    wait_until("a picture with free or given back memory", || {
        let output = picture(program, &file);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        text = std::fs::read_to_string(&file).unwrap();
        let picture = roxmltree::Document::parse(&text).expect("XML");
        let empty = squares(&picture, "free") + squares(&picture, "given-back");
        empty >= 12
    });
    let picture = roxmltree::Document::parse(&text).unwrap();
    let all = squares(&picture, "unmapped");
    assert!((64..200).contains(&all), "{all} huge pages");
    let in_use = squares(&picture, "in-use");
    assert!(in_use >= 32 && in_use <= all, "{in_use} of {all}");
    let words: Vec<&str> = picture.descendants().filter_map(|node| node.text()).collect();
    for word in ["in use", "free", "given back", "never mapped"] {
        assert!(words.contains(&word), "no {word:?} in {words:?}");
    }
    assert!(words.iter().any(|text| text.starts_with("Page heap of ")), "{words:?}");
    assert!(words.iter().any(|text| text.contains("MiB in use")), "no description: {words:?}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_process_that_does_not_run_on_the_allocator_is_told_why_and_what_to_do() {
    let mut child = Command::new("sleep").arg("100").spawn().unwrap();
    let output = picture(child.id(), &scratch("none.svg"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("not started by `sysmem run`"), "{told}");
    assert!(told.contains("sysmem run -- PROGRAM"), "{told}");
    let output = picture(child.id(), &scratch("gone.svg"));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("there is no process"), "{told}");
}

#[test]
fn a_kernel_thread_is_told_for_what_it_is_also_to_root() {
    if std::fs::read_to_string("/proc/2/comm").ok().as_deref() != Some("kthreadd\n") {
        println!("skipped: no kernel thread is seen from here");
        return;
    }
    let mut map = sysmem("map");
    map.arg("2");
    for Output { status, stdout, stderr } in [output(map, b""), picture(2, &scratch("none.svg"))] {
        assert_eq!((status.code(), &stdout[..]), (Some(1), &b""[..]));
        let told = String::from_utf8(stderr).unwrap();
        assert!(told.starts_with("sysmem: process 2 has no memory of its own: "), "{told}");
    }
    let mut stat = sysmem("stat");
    stat.arg("2");
    let Output { status, stdout, .. } = output(stat, b"");
    let text = String::from_utf8(stdout).unwrap();
    assert!(status.success() && text.contains("(no memory of its own: "), "{text}");
    assert!(!text.contains("RLIMIT"), "a limit on nothing: {text}");
}
