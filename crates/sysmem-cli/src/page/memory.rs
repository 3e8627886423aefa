//! The memory of the program over time.

use super::chart::{self, RIGHT, Scale, WIDTH, short};
use super::{legend, titled};
use crate::report::Report;
use crate::timeline::Point;
use crate::words::{bytes, duration};
use maud::{Markup, PreEscaped, html};

const HEIGHT: f64 = 340.0;
const LEFT: f64 = 72.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 300.0;

/// A limit that is more than this many times as much as there ever was is off the scale.
const FAR: u64 = 2;

pub fn section(report: &Report) -> Markup {
    let points = &report.program.course.points;
    if points.len() < 2 {
        return section_without(report);
    }
    let reading = html! {
        "What the kernel counts as resident, and what the page heap is made of: pages in use by the \
         program's objects, free pages that still have memory, and pages that were given back, which \
         have none."
    };
    titled("memory", "Memory over time", reading, picture(report, points))
}

fn section_without(report: &Report) -> Markup {
    let words = html! {
        p.absent {
            "The program ran for " (duration(report.time.wall_ns))
            ", too short to be seen twice: there is no course to draw."
        }
    };
    titled("memory", "Memory over time", html! {}, words)
}

/// A limit, and what to call it.
fn limits(report: &Report) -> Vec<(&'static str, u64)> {
    let heap = report.program.heap.as_ref();
    let limits = [
        ("soft limit", heap.map_or(0, |heap| heap.soft_limit_bytes)),
        ("hard limit", heap.map_or(0, |heap| heap.hard_limit_bytes)),
        ("limit of the control group", report.control_group_limit_bytes.unwrap_or(0)),
    ];
    limits.into_iter().filter(|&(_, limit)| limit > 0).collect()
}

fn picture(report: &Report, points: &[Point]) -> Markup {
    let stacked = |point: &Point| point.in_use_bytes + point.free_bytes + point.given_back_bytes;
    let highest = points.iter().map(|p| p.resident_bytes.max(stacked(p))).max().unwrap_or(0);
    let (near, far): (Vec<_>, Vec<_>) =
        limits(report).into_iter().partition(|&(_, limit)| limit <= highest * FAR);
    let most = near.iter().map(|&(_, limit)| limit).max().unwrap_or(0).max(highest);
    let most = *chart::byte_ticks(most).last().unwrap_or(&most);
    let end = report.time.wall_ns.max(points[points.len() - 1].time_ns);
    let (x, y) =
        (Scale { most: end, from: LEFT, to: RIGHT }, Scale { most, from: BOTTOM, to: TOP });
    let area = |from: fn(&Point) -> u64, to: fn(&Point) -> u64| {
        let place = |point: &Point, value| {
            format!("{} {}", short(x.place(point.time_ns)), short(y.place(value)))
        };
        let above: Vec<String> = points.iter().map(|point| place(point, to(point))).collect();
        let below: Vec<String> =
            points.iter().rev().map(|point| place(point, from(point))).collect();
        format!("M{}L{}Z", above.join("L"), below.join("L"))
    };
    let line: Vec<String> = points
        .iter()
        .map(|p| format!("{} {}", short(x.place(p.time_ns)), short(y.place(p.resident_bytes))))
        .collect();
    let peak = report.program.course.peak().copied().unwrap_or_default();
    let (peak_x, peak_y) = (x.place(peak.time_ns), y.place(peak.resident_bytes));
    let before = peak_x > (LEFT + RIGHT) / 2.0;
    let last = points[points.len() - 1];
    let last_of = |value: fn(&Point) -> u64| bytes(value(&last));
    let description = format!(
        "Resident memory rises to {} after {} and is {} at the end, after {}.",
        bytes(peak.resident_bytes),
        duration(peak.time_ns),
        bytes(last.resident_bytes),
        duration(last.time_ns)
    );
    let mut entries = vec![
        ("line resident", "resident, at the end", last_of(|point| point.resident_bytes)),
        ("given-back", "given back", last_of(|point| point.given_back_bytes)),
        ("free", "free", last_of(|point| point.free_bytes)),
        ("in-use", "in use", last_of(|point| point.in_use_bytes)),
    ];
    entries.extend(near.iter().map(|&(name, limit)| ("line limit", name, bytes(limit))));
    html! {
        figure {
            svg.chart #timeline viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" tabindex="0"
                aria-labelledby="timeline-title timeline-description"
                data-end=(end) data-most=(most) data-left=(LEFT) data-right=(RIGHT)
                data-top=(TOP) data-bottom=(BOTTOM) {
                title #timeline-title { "Memory over time" }
                desc #timeline-description { (description) }
                (chart::byte_axis(y, LEFT, RIGHT))
                path.in-use d=(area(|_| 0, |point| point.in_use_bytes)) {}
                path.free d=(area(
                    |point| point.in_use_bytes,
                    |point| point.in_use_bytes + point.free_bytes,
                )) {}
                path.given-back d=(area(
                    |point| point.in_use_bytes + point.free_bytes,
                    |point| point.in_use_bytes + point.free_bytes + point.given_back_bytes,
                )) {}
                g.axis {
                    @for tick in chart::time_ticks(end) {
                        @let at = x.place(tick);
                        path.tick d={ "M" (short(at)) " " (BOTTOM) "v5" } {}
                        text x=(short(at)) y=(BOTTOM + 20.0) text-anchor="middle" {
                            (chart::time_label(tick, end))
                        }
                    }
                    text x=(RIGHT) y=(BOTTOM + 37.0) text-anchor="end" { "time since the start" }
                    path.base d={ "M" (LEFT) " " (BOTTOM) "H" (RIGHT) } {}
                }
                @for &(name, limit) in &near {
                    @let at = y.place(limit);
                    path.line.limit d={ "M" (LEFT) " " (short(at)) "H" (RIGHT) } {}
                    text.label x=(RIGHT - 4.0) y=(short(at - 5.0)) text-anchor="end" { (name) }
                }
                path.line.resident d={ "M" (line.join("L")) } {}
                circle.mark cx=(short(peak_x)) cy=(short(peak_y)) r="3.5" {}
                text.label.strong x=(short(if before { peak_x - 9.0 } else { peak_x + 9.0 }))
                    y=(short((peak_y - 6.0).max(TOP - 4.0)))
                    text-anchor=(if before { "end" } else { "start" }) {
                    "peak " (bytes(peak.resident_bytes))
                }
                path.cursor d="" {}
            }
            figcaption {
                (legend(&entries))
                @for (name, limit) in far {
                    p.aside { "The " (name) ", " (bytes(limit)) ", is off the scale." }
                }
            }
        }
    }
}

/// The resident memory of a process as a small line, on the scale of the greatest.
pub fn small(points: &[Point], end_ns: u64, most: u64) -> Markup {
    let (x, y) =
        (Scale { most: end_ns, from: 1.0, to: 159.0 }, Scale { most, from: 25.0, to: 2.0 });
    let places: Vec<String> = points
        .iter()
        .map(|p| format!("{} {}", short(x.place(p.time_ns)), short(y.place(p.resident_bytes))))
        .collect();
    if places.is_empty() {
        return PreEscaped(String::new());
    }
    let only = if places.len() == 1 { "h1" } else { "" };
    html! {
        svg.small width="160" height="27" viewBox="0 0 160 27" aria-hidden="true" {
            path.base d="M0 26H160" {}
            path.line.resident d={ "M" (places.join("L")) (only) } {}
        }
    }
}
