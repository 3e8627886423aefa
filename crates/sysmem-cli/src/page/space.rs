//! What the address space is made of, at the peak and at the end.

use super::chart::{self, RIGHT, Scale, WIDTH, short};
use super::{legend, titled};
use crate::map::{Group, Kind};
use crate::report::Report;
use crate::sample::Space;
use crate::words::{bytes, duration, printable};
use maud::{Markup, html};
use std::collections::BTreeMap;

const LEFT: f64 = 120.0;

/// How many parts of a group the table shows.
const PARTS: usize = 5;

pub fn section(report: &Report) -> Option<Markup> {
    let space = &report.address_space;
    let (peak, end) = (space.at_peak.as_ref()?, space.at_end.as_ref()?);
    let missed = report.program.peak_resident.bytes.saturating_sub(peak.total.resident_bytes);
    let before_end = report.time.wall_ns.saturating_sub(end.time_ns);
    let reading = html! {
        "Resident memory by what it is mapped as. The program was looked at from outside now and "
        "then; it was largest " (duration(peak.time_ns)) " after its start, "
        @if end.time_ns == peak.time_ns { "when" } @else { "and" }
        " it was last seen, " (duration(before_end)) " before its end."
        @if missed > peak.total.resident_bytes / 10 {
            " Its peak, " (bytes(missed)) " more, was between two looks."
        }
    };
    let moments: Vec<(&str, &Space)> = match end.time_ns == peak.time_ns {
        true => vec![("last seen", end)],
        false => vec![("at its largest", peak), ("last seen", end)],
    };
    let content = html! { (bars(&moments)) (table(&moments)) };
    Some(titled("space", "Address space", reading, content))
}

/// The class by which a group is coloured.
fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Named => "space-named",
        Kind::Unnamed | Kind::NoAccess => "space-unnamed",
        Kind::ProgramBreak => "space-break",
        Kind::Stacks => "space-stacks",
        Kind::Program => "space-program",
        Kind::Files => "space-files",
        Kind::SharedMemory => "space-shared",
        Kind::System => "space-system",
    }
}

/// Groups with resident memory, in an order that is the same for every moment.
fn groups(space: &Space) -> BTreeMap<Kind, &Group> {
    let resident = |group: &&Group| group.sizes.resident_bytes > 0;
    space.groups.iter().filter(resident).map(|group| (group.kind, group)).collect()
}

fn bars(moments: &[(&str, &Space)]) -> Markup {
    let most = moments.iter().map(|(_, space)| space.total.resident_bytes).max().unwrap_or(0);
    let ticks = chart::byte_ticks(most);
    let scale = Scale { most: *ticks.last().unwrap_or(&1), from: LEFT, to: RIGHT };
    let bottom = moments.len() as f64 * 40.0 + 6.0;
    let mut kinds: BTreeMap<Kind, u64> = BTreeMap::new();
    for (_, space) in moments {
        for (kind, group) in groups(space) {
            let most = kinds.entry(kind).or_default();
            *most = group.sizes.resident_bytes.max(*most);
        }
    }
    let entries: Vec<_> =
        kinds.keys().map(|&kind| (class(kind), kind.title(), String::new())).collect();
    html! {
        figure {
            svg.chart #spaces viewBox={ "0 0 " (WIDTH) " " (bottom + 26.0) } role="img"
                aria-labelledby="spaces-title" {
                title #spaces-title { "Resident memory by kind of mapping" }
                g.axis {
                    @for tick in ticks {
                        @let x = short(scale.place(tick));
                        path.grid d={ "M" (x) " 0V" (bottom) } {}
                        text x=(x) y=(bottom + 18.0) text-anchor="middle" {
                            (chart::byte_label(tick))
                        }
                    }
                }
                @for (row, (when, space)) in moments.iter().enumerate() {
                    @let top = row as f64 * 40.0 + 8.0;
                    text.label x=(LEFT - 10.0) y=(top + 19.0) text-anchor="end" { (when) }
                    @for (from, group) in stacked(space) {
                        @let (x, end) = (
                            scale.place(from),
                            scale.place(from + group.sizes.resident_bytes),
                        );
                        rect class={ "part " (class(group.kind)) } x=(short(x)) y=(top)
                            width=(short((end - x).max(0.5))) height="28" {
                            title {
                                (when) ": " (group.kind.title()) ", "
                                (bytes(group.sizes.resident_bytes))
                            }
                        }
                    }
                }
            }
            figcaption { (legend(&entries)) }
        }
    }
}

/// Each group and where it begins on the bar.
fn stacked(space: &Space) -> Vec<(u64, &Group)> {
    let mut from = 0;
    groups(space)
        .into_values()
        .map(|group| {
            let begins = from;
            from += group.sizes.resident_bytes;
            (begins, group)
        })
        .collect()
}

fn table(moments: &[(&str, &Space)]) -> Markup {
    let spaces: Vec<_> = moments.iter().map(|(_, space)| groups(space)).collect();
    let mut kinds: Vec<Kind> = spaces.iter().flat_map(|groups| groups.keys().copied()).collect();
    kinds.sort();
    kinds.dedup();
    let largest = |kind: &Kind| {
        let sizes = spaces.iter().filter_map(|groups| Some(groups.get(kind)?.sizes.resident_bytes));
        std::cmp::Reverse(sizes.max().unwrap_or(0))
    };
    kinds.sort_by_key(largest);
    let part = |groups: &BTreeMap<Kind, &Group>, kind: &Kind, name: &str| {
        let group = groups.get(kind)?;
        let part = group.parts.iter().find(|part| part.name == name)?;
        Some(part.sizes.resident_bytes)
    };
    let cell = |size: Option<u64>| match size {
        None | Some(0) => "–".to_owned(),
        Some(size) => bytes(size),
    };
    html! {
        table {
            thead {
                tr {
                    th scope="col" { "mapped as" }
                    @for (when, _) in moments { th.figure scope="col" { (when) } }
                }
            }
            tbody {
                @for kind in &kinds {
                    tr.group {
                        th scope="row" { (kind.title()) }
                        @for groups in &spaces {
                            td.figure {
                                (cell(groups.get(kind).map(|group| group.sizes.resident_bytes)))
                            }
                        }
                    }
                    @for name in names(&spaces, *kind) {
                        tr.part {
                            th scope="row" { (printable(&name)) }
                            @for groups in &spaces { td.figure { (cell(part(groups, kind, &name))) } }
                        }
                    }
                }
                tr.total {
                    th scope="row" { "all" }
                    @for (_, space) in moments {
                        td.figure { (bytes(space.total.resident_bytes)) }
                    }
                }
            }
        }
    }
}

/// The largest parts of a group at any moment; none where a group is one part.
fn names(spaces: &[BTreeMap<Kind, &Group>], kind: Kind) -> Vec<String> {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for part in spaces.iter().filter_map(|groups| groups.get(&kind)).flat_map(|group| &group.parts)
    {
        let size = sizes.entry(&part.name).or_default();
        *size = part.sizes.resident_bytes.max(*size);
    }
    let mut names: Vec<(&str, u64)> = sizes.into_iter().filter(|&(_, size)| size > 0).collect();
    names.sort_by_key(|&(_, size)| std::cmp::Reverse(size));
    match &names[..] {
        [(name, _)] if name.starts_with('[') => Vec::new(),
        names => names.iter().take(PARTS).map(|&(name, _)| name.to_owned()).collect(),
    }
}
