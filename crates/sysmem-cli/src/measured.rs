//! What `sysmem stat` tells, as data: text, JSON and OpenMetrics are three views of it.

use serde::ser::{Serialize, SerializeMap, Serializer};
use std::time::Duration;
use sysmem::huge::Mode;
use sysmem::usage::{
    ControlGroup, MachineUsage, NO_LIMIT, Overcommit, Pressure, ProcessUsage, Stall,
};
use sysmem_alloc::figures::HeapFigures;

/// Figures of one thing.
pub struct Section {
    /// What the figures are of: the key in JSON, part of the name in OpenMetrics.
    pub key: &'static str,
    /// What tells this one from others of its kind.
    pub labels: Vec<(&'static str, String)>,
    /// What is told in words.
    pub words: Vec<Word>,
    pub figures: Vec<Figure>,
}

/// Something told in words.
pub struct Word {
    pub name: &'static str,
    pub label: &'static str,
    pub remark: &'static str,
    pub value: Option<&'static str>,
}

/// One figure.
pub struct Figure {
    /// The name without its unit.
    pub name: &'static str,
    /// The name for people, indented below what it is part of.
    pub label: &'static str,
    /// What it says, in a few words.
    pub remark: &'static str,
    pub unit: Unit,
    /// Whether it only ever grows.
    pub counter: bool,
    /// `None` where the system does not tell.
    pub value: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Count,
    Nanoseconds,
    /// Hundredths of a percent.
    Share,
}

impl Unit {
    /// The end of a figure's name in JSON.
    pub fn suffix(self) -> &'static str {
        match self {
            Unit::Bytes => "_bytes",
            Unit::Count => "",
            Unit::Nanoseconds => "_ns",
            Unit::Share => "_percent",
        }
    }
}

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.labels {
            match value.parse::<u64>() {
                Ok(number) if *name == "pid" => map.serialize_entry(name, &number)?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        for word in &self.words {
            map.serialize_entry(word.name, &word.value)?;
        }
        for figure in &self.figures {
            let name = format!("{}{}", figure.name, figure.unit.suffix());
            match figure.value {
                Some(NO_LIMIT) => map.serialize_entry(&name, "unlimited")?,
                Some(value) if figure.unit == Unit::Share => {
                    map.serialize_entry(&name, &(value as f64 / 100.0))?;
                }
                value => map.serialize_entry(&name, &value)?,
            }
        }
        map.end()
    }
}

fn bytes(
    name: &'static str,
    label: &'static str,
    remark: &'static str,
    value: Option<u64>,
) -> Figure {
    Figure { name, label, remark, unit: Unit::Bytes, counter: false, value }
}

fn count(
    name: &'static str,
    label: &'static str,
    remark: &'static str,
    value: Option<u64>,
) -> Figure {
    Figure { unit: Unit::Count, ..bytes(name, label, remark, value) }
}

/// In hundredths of a percent.
fn share(
    name: &'static str,
    label: &'static str,
    remark: &'static str,
    value: Option<u32>,
) -> Figure {
    Figure { unit: Unit::Share, ..bytes(name, label, remark, value.map(u64::from)) }
}

fn counter(
    name: &'static str,
    label: &'static str,
    remark: &'static str,
    value: Option<u64>,
) -> Figure {
    Figure { counter: true, ..count(name, label, remark, value) }
}

fn time(
    name: &'static str,
    label: &'static str,
    remark: &'static str,
    value: Option<Duration>,
) -> Figure {
    let value = value.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1));
    Figure { unit: Unit::Nanoseconds, ..counter(name, label, remark, value) }
}

/// What a process uses.
pub fn process(pid: u32, name: String, usage: &ProcessUsage) -> Section {
    let pages = &usage.pages;
    Section {
        key: "process",
        labels: vec![("pid", pid.to_string()), ("name", name)],
        words: Vec::new(),
        figures: vec![
            bytes("resident", "resident", "in physical memory", usage.resident),
            bytes("resident_anonymous", "  anonymous", "of no file", usage.resident_anonymous),
            bytes("resident_files", "  of files", "program, libraries, data", usage.resident_files),
            bytes("resident_shared", "  shared memory", "", usage.resident_shared),
            bytes("peak_resident", "  peak", "the most there ever was", usage.peak_resident),
            bytes(
                "resident_in_use",
                "  not given back",
                "without what was freed lazily",
                pages.resident_in_use(),
            ),
            bytes(
                "lazily_freed",
                "  lazily freed",
                "counted as resident until the system takes it",
                pages.lazily_freed,
            ),
            bytes("huge", "  in huge pages", "", pages.huge),
            share(
                "huge_cover",
                "    cover",
                "of its anonymous memory",
                pages.huge_cover().and_then(|share| u32::try_from(share).ok()),
            ),
            bytes(
                "proportional",
                "proportional",
                "each page divided among those who share it",
                pages.proportional,
            ),
            bytes("private", "private", "mapped by no other process", pages.private),
            bytes("swapped", "swapped out", "", usage.swapped),
            bytes("locked", "locked", "into memory", usage.locked),
            bytes("locked_limit", "  limit", "RLIMIT_MEMLOCK", usage.locked_limit),
            bytes("reserved_huge", "reserved huge pages", "hugetlb", pages.reserved_huge),
            bytes("page_tables", "page tables", "on top of resident", usage.page_tables),
            bytes("phys_footprint", "footprint", "phys_footprint", usage.phys_footprint),
            bytes("peak_phys_footprint", "  peak", "", usage.peak_phys_footprint),
            bytes("commit_charge", "commit charge", "", usage.commit_charge),
            bytes("peak_commit_charge", "  peak", "", usage.peak_commit_charge),
            bytes("virtual", "address space", "", usage.virtual_size),
            bytes("peak_virtual", "  peak", "", usage.peak_virtual_size),
            bytes("virtual_limit", "  limit", "RLIMIT_AS", usage.virtual_size_limit),
            bytes("data", "  private, writable", "", usage.data),
            bytes("data_limit", "    limit", "RLIMIT_DATA", usage.data_limit),
            bytes("stack", "  first stack", "", usage.stack),
            count("mappings", "mappings", "", usage.mappings),
            count("mappings_limit", "  limit", "vm.max_map_count", usage.mappings_limit),
            time("user", "CPU time, user", "", usage.user_time),
            time("system", "CPU time, system", "", usage.system_time),
            counter("minor_faults", "page faults, minor", "without I/O", usage.minor_faults),
            counter("major_faults", "page faults, major", "waited for I/O", usage.major_faults),
            counter("page_faults", "page faults", "of both kinds", usage.page_faults),
        ],
    }
}

/// What a process that runs on the allocator says of its heap.
pub fn heap(labels: Vec<(&'static str, String)>, age: Duration, heap: &HeapFigures) -> Section {
    let grows = |figure: Figure| Figure { counter: true, ..figure };
    let cpu_time = Duration::from_nanos(heap.scavenger_cpu_ns);
    let figures = vec![
        Figure { counter: false, ..time("age", "published", "ago", Some(age)) },
        bytes("in_use", "in use", "objects, and caches for them", Some(heap.in_use_bytes)),
        bytes("free", "free", "backed by memory, ready for use", Some(heap.free_bytes)),
        bytes(
            "given_back",
            "given back",
            "address space without memory",
            Some(heap.given_back_bytes),
        ),
        bytes("metadata", "metadata", "", Some(heap.metadata_bytes)),
        bytes("heap_reserved", "address space", "", Some(heap.heap_reserved_bytes)),
        count("mappings", "  in mappings", "", Some(heap.mappings)),
        grows(bytes("released", "ever given back", "added up", Some(heap.released_bytes))),
        counter("releases", "  in calls", "", Some(heap.releases)),
        counter("failed_releases", "  refused", "by the system", Some(heap.failed_releases)),
        grows(bytes(
            "scavenger_released",
            "  by the scavenger",
            "free pages",
            Some(heap.scavenger_released_bytes),
        )),
        counter("scavenger_releases", "    in calls", "", Some(heap.scavenger_releases)),
        time("scavenger_cpu", "  its CPU time", "", Some(cpu_time)),
        counter("collapses", "made whole", "broken huge pages", Some(heap.collapses)),
    ];
    Section { key: "heap", labels, words: Vec::new(), figures }
}

/// What a control group uses; `None` where there is nothing to tell.
pub fn control_group(labels: Vec<(&'static str, String)>, group: &ControlGroup) -> Option<Section> {
    if *group == ControlGroup::default() {
        return None;
    }
    let mut figures = vec![
        bytes("used", "used", "with caches of files", group.used),
        bytes("peak", "  peak", "", group.peak),
        bytes("limit", "  limit", "of it and of the groups around it", group.limit),
        bytes("process_limit", "    of a process", "", group.process_limit),
        bytes("slowed_from", "  slowed from", "memory.high", group.slowed_from),
        bytes("swap_used", "swap used", "", group.swap_used),
        bytes("swap_limit", "  limit", "", group.swap_limit),
    ];
    figures.extend(pressure(group.pressure.as_ref()));
    Some(Section { key: "control_group", labels, words: Vec::new(), figures })
}

/// What the machine has and uses.
pub fn machine(machine: &MachineUsage) -> Section {
    let overcommit = machine.overcommit.map(|overcommit| match overcommit {
        Overcommit::Heuristic => "heuristic",
        Overcommit::Always => "always",
        Overcommit::Never => "never",
    });
    let huge_pages = machine.huge_pages.map(|huge_pages| match huge_pages {
        Mode::Always => "always",
        Mode::Advised => "advised",
        Mode::Never => "never",
    });
    let short = machine.memory_is_short.map(|short| if short { "yes" } else { "no" });
    let word = |name, label, remark, value| Word { name, label, remark, value };
    let mut figures = vec![
        bytes("total", "memory", "", machine.total),
        bytes("available", "  available", "without swapping", machine.available),
        bytes("free", "  free", "used for nothing", machine.free),
        bytes("swap_total", "swap", "", machine.swap_total),
        bytes("swap_free", "  free", "", machine.swap_free),
        bytes("committed", "committed", "promised to programs", machine.committed),
        bytes("commit_limit", "  limit", "holds with overcommit never", machine.commit_limit),
        bytes("compressor", "compressed memory", "what it takes", machine.compressor),
        bytes("page_tables", "page tables", "", machine.page_tables),
        bytes("page_size", "page size", "", machine.page_size),
        bytes("huge_page_size", "huge page size", "", machine.huge_page_size),
        bytes("anonymous_huge", "  in use", "anonymous memory", machine.anonymous_huge),
        bytes("reserved_huge", "reserved huge pages", "hugetlb", machine.reserved_huge),
        bytes("reserved_huge_free", "  free", "", machine.reserved_huge_free),
        bytes("reserved_huge_page_size", "  size", "", machine.reserved_huge_page_size),
    ];
    figures.extend(pressure(machine.pressure.as_ref()));
    Section {
        key: "machine",
        labels: Vec::new(),
        words: vec![
            word("overcommit", "overcommit", "how memory is promised", overcommit),
            word("memory_is_short", "memory is short", "as the system says", short),
            word("huge_pages", "huge pages", "whether they are built", huge_pages),
        ],
        figures,
    }
}

fn pressure(pressure: Option<&Pressure>) -> [Figure; 8] {
    let some = |figure: fn(&Stall) -> u32| pressure.map(|pressure| figure(&pressure.some));
    let full = |figure: fn(&Stall) -> u32| pressure.map(|pressure| figure(&pressure.full));
    [
        time(
            "pressure_some",
            "some waited for memory",
            "in all",
            pressure.map(|pressure| pressure.some.total),
        ),
        share("pressure_some_10s", "  last 10 s", "", some(|stall| stall.ten_seconds)),
        share("pressure_some_60s", "  last minute", "", some(|stall| stall.minute)),
        share("pressure_some_300s", "  last 5 minutes", "", some(|stall| stall.five_minutes)),
        time(
            "pressure_full",
            "all waited for memory",
            "in all",
            pressure.map(|pressure| pressure.full.total),
        ),
        share("pressure_full_10s", "  last 10 s", "", full(|stall| stall.ten_seconds)),
        share("pressure_full_60s", "  last minute", "", full(|stall| stall.minute)),
        share("pressure_full_300s", "  last 5 minutes", "", full(|stall| stall.five_minutes)),
    ]
}
