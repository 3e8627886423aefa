//! What happened to the memory, in words, for those who read nothing else.

use crate::report::{Ending, Process, Report};
use crate::timeline::Point;
use crate::watch::End;
use crate::words::{bytes, counted, duration, grouped, printable};
use maud::{Markup, html};

/// Less than this is not worth a sentence.
const WORTH_SAYING: u64 = 4 << 20;

pub fn section(report: &Report) -> Markup {
    let program = &report.program;
    html! {
        section #summary {
            p.lead {
                (peak(program))
                (given_back(program))
                (remains(report))
                (larger(report))
            }
            (facts(report))
        }
    }
}

fn peak(program: &Process) -> Markup {
    let name = printable(&program.name);
    let peak = program.peak_resident.bytes;
    if peak == 0 {
        return html! { "How much memory " (name) " held could not be seen. " };
    }
    let course = program.course.peak().filter(|point| point.resident_bytes * 10 >= peak * 9);
    html! {
        (name) " held at most " b #peak { (bytes(peak)) }
        @if let Some(point) = course { ", " (duration(point.time_ns)) " after its start" }
        ". "
    }
}

/// How much resident memory fell after its peak, and how long after it was freed.
pub struct Fall {
    pub bytes: u64,
    /// From when nine tenths were free to when nine tenths had gone, as near as samples tell.
    pub within_ns: Option<u64>,
}

/// The fall after the peak, if there was one worth the word.
pub fn fall(points: &[Point]) -> Option<Fall> {
    let peak = (0..points.len()).rev().max_by_key(|&at| points[at].resident_bytes)?;
    let (top, last) = (points[peak], points[points.len() - 1]);
    let fell = top.resident_bytes.saturating_sub(last.resident_bytes);
    if fell < WORTH_SAYING || fell < top.resident_bytes / 4 {
        return None;
    }
    let after = &points[peak..];
    let used = after.iter().map(|point| point.in_use_bytes).max().unwrap_or(0);
    let freed = used.saturating_sub(last.in_use_bytes);
    // The first point from which on it stays below.
    let settles = |value: fn(&Point) -> u64, bound: u64| {
        let above = after.iter().rposition(|point| value(point) > bound)?;
        after.get(above + 1).map(|point| (point.time_ns, point.time_ns - after[above].time_ns))
    };
    let free = settles(|point| point.in_use_bytes, last.in_use_bytes + freed / 10);
    let gone = settles(|point| point.resident_bytes, last.resident_bytes + fell / 10);
    let within_ns = match (free, gone) {
        // What was freed must be what went.
        (Some((free, _)), Some((gone, step))) if freed >= fell / 2 => {
            Some(gone.saturating_sub(free) + step)
        }
        _ => None,
    };
    Some(Fall { bytes: fell, within_ns })
}

fn given_back(program: &Process) -> Markup {
    match fall(&program.course.points) {
        Some(Fall { bytes: fell, within_ns: Some(within) }) => html! {
            b { (bytes(fell)) } " went back to the system, within " b { (roughly(within)) }
            " of being freed. "
        },
        Some(Fall { bytes: fell, within_ns: None }) => html! {
            b { (bytes(fell)) } " of that went back to the system. "
        },
        None => html! {},
    }
}

/// A time that samples bound from above, to one or two digits.
fn roughly(ns: u64) -> String {
    match ns {
        0..10_000_000 => format!("{} ms", ns.div_ceil(1_000_000)),
        10_000_000..1_000_000_000 => format!("{} ms", ns.div_ceil(10_000_000) * 10),
        1_000_000_000..10_000_000_000 => format!("{:.1} s", ns.div_ceil(100_000_000) as f64 / 10.0),
        _ => duration(ns),
    }
}

fn remains(report: &Report) -> Markup {
    let program = &report.program;
    let last = program.final_resident.bytes;
    if last == 0 {
        return html! {};
    }
    let when = match (&report.end, program.ending) {
        (End::Killed { .. }, _) => "when it was killed",
        (_, Ending::Exited) => "when it ended",
        (_, Ending::Unknown) => "when it was last seen",
    };
    let parts = program.kernel.as_ref().map(|kernel| {
        let anonymous = kernel.resident_anonymous_bytes;
        let shared = kernel.resident_shared_bytes;
        html! {
            ": " (bytes(anonymous)) " of its own (heap, stacks, data), "
            (bytes(kernel.resident_file_bytes)) " of files"
            @if shared >= WORTH_SAYING { ", " (bytes(shared)) " of shared memory" }
        }
    });
    html! {
        b #remains { (bytes(last)) } " remained " (when)
        @if let Some(parts) = parts { (parts) }
        "."
    }
}

/// Whom to look at where it is not the program: the greatest of what it started.
fn larger(report: &Report) -> Markup {
    let greatest = report.descendants.first();
    let Some(other) = greatest.filter(|other| {
        let (peak, own) = (other.peak_resident.bytes, report.program.peak_resident.bytes);
        peak > own + WORTH_SAYING
    }) else {
        return html! {};
    };
    html! {
        " Of the processes that it started, " (printable(&other.name)) " (" (other.pid)
        ") held most: " b { (bytes(other.peak_resident.bytes)) } "."
    }
}

/// The figures that most people come for.
fn facts(report: &Report) -> Markup {
    let program = &report.program;
    let mut facts = vec![
        ("peak resident", bytes(program.peak_resident.bytes), String::new()),
        ("resident at the end", bytes(program.final_resident.bytes), String::new()),
    ];
    if let Some(heap) = &program.heap {
        let held = heap.allocated_bytes.saturating_sub(heap.freed_bytes);
        let wasted = heap.allocated_bytes.saturating_sub(heap.requested_bytes);
        let percent = wasted as f64 * 100.0 / heap.allocated_bytes.max(1) as f64;
        let allocations = format!("in {}", counted(heap.allocations, "allocation"));
        let objects = heap.allocations.saturating_sub(heap.frees);
        facts.extend([
            ("asked for in all", bytes(heap.requested_bytes), allocations),
            ("lost to rounding", format!("{percent:.1} %"), format!("{} of blocks", bytes(wasted))),
            ("still held by objects", bytes(held), format!("in {}", grouped(objects))),
            ("given back, free", bytes(heap.given_back_bytes), "of the page heap".to_owned()),
        ]);
    }
    html! {
        dl.facts {
            @for (name, figure, remark) in &facts {
                div {
                    dt { (name) }
                    dd { b { (figure) } @if !remark.is_empty() { span { (remark) } } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn points(course: &[(u64, u64, u64)]) -> Vec<Point> {
        let point = |&(ms, resident, in_use): &(u64, u64, u64)| Point {
            time_ns: ms * 1_000_000,
            resident_bytes: resident * MIB,
            in_use_bytes: in_use * MIB,
            ..Point::default()
        };
        course.iter().map(point).collect()
    }

    #[test]
    fn the_time_of_a_fall_is_from_free_to_gone_and_never_too_short() {
        let course =
            [(0, 10, 5), (100, 300, 290), (200, 300, 4), (300, 200, 4), (400, 12, 4), (500, 11, 4)];
        let fall = fall(&points(&course)).unwrap();
        assert_eq!(fall.bytes, 289 * MIB);
        // Free at 200, gone at 400, which may have been seen a sample late.
        assert_eq!(fall.within_ns, Some(300_000_000));
    }

    #[test]
    fn memory_that_stays_is_not_said_to_have_gone() {
        assert!(fall(&points(&[(0, 10, 5), (100, 300, 290), (200, 290, 280)])).is_none());
        assert!(fall(&points(&[(0, 3, 1), (100, 1, 1)])).is_none());
        assert!(fall(&[]).is_none());
        // It was not the heap's: nothing is known of when it was freed.
        let fall = fall(&points(&[(0, 300, 5), (100, 10, 5)])).unwrap();
        assert_eq!(fall.within_ns, None);
    }

    #[test]
    fn times_are_rounded_up() {
        assert_eq!(roughly(1_200_000), "2 ms");
        assert_eq!(roughly(301_000_000), "310 ms");
        assert_eq!(roughly(1_010_000_000), "1.1 s");
    }
}
