//! `sysmem stat`: what a process, its control group and the machine use.

use crate::figures::{monotonic_ns, published};
use crate::measured::{self, Section, Unit};
use crate::refusal::{Refusal, why};
use crate::{StatArguments, openmetrics, words};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;
use sysmem::usage::{self, Detail, NO_LIMIT, Process};
use sysmem::{Error, ErrorKind};

/// The version of the JSON, raised when a field changes its meaning or goes away; see docs/stat.md.
pub const VERSION: u32 = 1;

pub fn stat(arguments: &StatArguments) -> Result<(), Refusal> {
    let mut shown = false;
    loop {
        let sections = match measure(arguments.pid) {
            // It was there, and its end is what the watch was to last for.
            Err(error) if shown && error.kind() == ErrorKind::Gone && ended(arguments.pid) => {
                return Ok(());
            }
            // It executed another program while it was looked at: that is no reason to stop.
            Err(error) if shown && error.kind() == ErrorKind::Gone => continue,
            answer => answer.map_err(|error| refused(arguments.pid, &error))?,
        };
        let page = match arguments {
            StatArguments { json: true, watch, .. } => json(&sections, watch.is_some()),
            StatArguments { openmetrics: true, .. } => openmetrics::render(&sections),
            _ => human(&sections),
        };
        show(&page, arguments.watch.is_some() && !arguments.json, shown).map_err(|error| {
            Refusal::unseen(format!("cannot write the figures: {}", why(&error)))
        })?;
        shown = true;
        let Some(interval) = arguments.watch else { return Ok(()) };
        thread::sleep(interval);
    }
}

/// What `stat` and `map` say of a process that they cannot look at.
pub fn refused(pid: Option<u32>, error: &Error) -> Refusal {
    match (pid, error.kind()) {
        (Some(pid), ErrorKind::Gone) => gone(pid),
        (Some(pid), ErrorKind::Denied) => denied(pid),
        _ => Refusal::unseen(error.to_string()),
    }
}

pub fn gone(pid: u32) -> Refusal {
    Refusal::unseen(format!("there is no process {pid}, or it has ended"))
}

pub fn denied(pid: u32) -> Refusal {
    if has_no_memory(pid) {
        return memoryless(pid);
    }
    Refusal::unseen(match rustix::process::geteuid().is_root() {
        true => format!(
            "process {pid} may not be looked at by root as it is here (in a container, or without \
             CAP_SYS_PTRACE); look from outside"
        ),
        false => format!("process {pid} is not yours to look at; run as its user or as root"),
    })
}

pub fn memoryless(pid: u32) -> Refusal {
    Refusal::unseen(format!("process {pid} has no memory of its own: {WITHOUT_MEMORY}"))
}

/// What a process is of which the kernel tells no memory.
const WITHOUT_MEMORY: &str = "a kernel thread, or ended and not yet waited for";

pub fn has_no_memory(pid: u32) -> bool {
    let told = usage::process(Process::Id(pid), Detail::Counters);
    told.is_ok_and(|usage| usage.resident.is_none())
}

fn ended(pid: Option<u32>) -> bool {
    pid.is_some_and(|pid| usage::process(Process::Id(pid), Detail::Counters).is_err())
}

/// The name of a process: of its program, cut at 15 bytes.
pub fn name_of(pid: u32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned()
}

fn measure(pid: Option<u32>) -> Result<Vec<Section>, Error> {
    let mut sections = Vec::new();
    let mut labels = Vec::new();
    if let Some(pid) = pid {
        let process = usage::process(Process::Id(pid), Detail::Pages)?;
        let section = measured::process(pid, name_of(pid), &process);
        labels.clone_from(&section.labels);
        sections.push(section);
        if let Ok(image) = published(pid) {
            let age = monotonic_ns().saturating_sub(image.updated_ns);
            let age = Duration::from_nanos(age);
            sections.push(measured::heap(labels.clone(), age, &image.heap));
        }
    }
    let group = usage::control_group(pid.map_or(Process::Own, Process::Id))?;
    sections.extend(measured::control_group(labels, &group));
    sections.push(measured::machine(&usage::machine()?));
    Ok(sections)
}

/// Writes a page; over the one before on a terminal, below it elsewhere.
fn show(page: &str, again: bool, below: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if again && out.is_terminal() {
        out.write_all(b"\x1b[H\x1b[2J")?;
    } else if again && below {
        out.write_all(b"\n")?;
    }
    out.write_all(page.as_bytes())?;
    out.flush()
}

/// The sections as one object.
struct Object<'a>(&'a [Section]);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("version", &VERSION)?;
        for section in self.0 {
            map.serialize_entry(section.key, section)?;
        }
        map.end()
    }
}

/// One object; on one line where more follow.
fn json(sections: &[Section], line: bool) -> String {
    let text = match line {
        true => serde_json::to_string(&Object(sections)),
        false => serde_json::to_string_pretty(&Object(sections)),
    };
    // Words and numbers under names are always JSON.
    text.unwrap_or_default() + "\n"
}

fn human(sections: &[Section]) -> String {
    let mut page = String::new();
    for section in sections {
        let labels: HashMap<_, _> = section.labels.iter().cloned().collect();
        let title = match (section.key, labels.get("pid"), labels.get("name")) {
            ("process", Some(pid), Some(name)) => {
                format!("process {pid}, {}", words::printable(name))
            }
            ("heap", ..) => "its heap, as it says itself".to_owned(),
            ("control_group", Some(_), _) => "its control group".to_owned(),
            (key, ..) => key.replace('_', " "),
        };
        if !page.is_empty() {
            page.push('\n');
        }
        page += &format!("{title}\n");
        let mut whole = None;
        for figure in &section.figures {
            // A part says nothing without what it is part of.
            if !figure.label.starts_with(' ') {
                whole = figure.value;
            }
            let (Some(value), Some(_)) = (figure.value, whole) else { continue };
            let value = match (figure.unit, value) {
                (Unit::Bytes, NO_LIMIT) => "no limit".to_owned(),
                (Unit::Bytes, value) => words::bytes(value),
                (Unit::Count, value) => words::grouped(value),
                (Unit::Nanoseconds, value) => words::duration(value),
                (Unit::Share, value) => format!("{}.{:02} %", value / 100, value % 100),
            };
            row(&mut page, figure.label, &value, figure.remark);
        }
        let told = |name| section.figures.iter().any(|it| it.name == name && it.value.is_some());
        if told("resident") && !told("mappings") {
            page += match rustix::process::geteuid().is_root() {
                true => "  (what is found page by page is not for root as it is here)\n",
                false => "  (what is found page by page is for the user of the process and root)\n",
            };
        }
        if section.key == "process" && !told("resident") {
            page += &format!("  (no memory of its own: {WITHOUT_MEMORY})\n");
        }
        for word in &section.words {
            if let Some(value) = word.value {
                row(&mut page, word.label, value, word.remark);
            }
        }
    }
    page
}

fn row(page: &mut String, label: &str, value: &str, remark: &str) {
    *page += format!("  {label:<24}{value:>11}   {remark}").trim_end();
    page.push('\n');
}
