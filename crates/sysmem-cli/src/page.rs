//! The report as a page to look at: one file, nothing fetched, pictures that need no script.
//!
//! Every picture is inline SVG with a title and a description; the script adds what a pointer or the
//! arrow keys ask for, from the same JSON that `--json` writes. Colours differ in lightness as well
//! as in hue, so that they hold for every eye and on paper.

mod chart;
pub mod heat_map;
mod memory;
mod sizes;
mod space;
mod summary;
mod tables;

use crate::report::Report;
use crate::words::{duration, printable};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("page/style.css");
const COLORS: &str = include_str!("page/colors.css");
const SCRIPT: &str = include_str!("page/script.js");

/// Nothing may be fetched, whatever a name or an argument contains.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      img-src data:";

/// The whole page.
pub fn render(report: &Report) -> String {
    let command = printable(&report.arguments.join(" "));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Memory of " (command) }
                link rel="icon" href="data:,";
                style { (PreEscaped(COLORS)) (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.kind { "Memory report" }
                    h1 { code { (command) } }
                    p.about { (about(report)) }
                }
                main {
                    (summary::section(report))
                    (memory::section(report))
                    @if let Some(space) = space::section(report) { (space) }
                    (heat_map::section(report))
                    @if let Some(sizes) = sizes::section(report) { (sizes) }
                    (tables::kernel(report))
                    (tables::processes(report))
                    (tables::notes(report))
                }
                div #tip role="status" aria-live="polite" hidden {}
                script type="application/json" id="report" { (PreEscaped(json(report))) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn about(report: &Report) -> Markup {
    let time = &report.time;
    html! {
        "Process " (report.program.pid) ", " (report.end) " after " (duration(time.wall_ns)) "; CPU time "
        (duration(time.user_ns + time.system_ns)) " (user " (duration(time.user_ns)) ", system "
        (duration(time.system_ns)) ")."
    }
}

/// The report for the script, with as many processes as the page tells of: a build has thousands.
fn json(report: &Report) -> String {
    let mut report = serde_json::to_value(report).unwrap_or_default();
    if let Some(others) = report.get_mut("descendants").and_then(|others| others.as_array_mut()) {
        others.truncate(tables::PROCESSES);
    }
    // A `<` inside JSON text could end the element.
    report.to_string().replace('<', "\\u003c")
}

/// A section with a heading, and a sentence that says how to read what follows.
fn titled(id: &str, heading: &str, reading: Markup, content: Markup) -> Markup {
    html! {
        section id=(id) aria-labelledby={ (id) "-heading" } {
            h2 id={ (id) "-heading" } { (heading) }
            @if !reading.0.is_empty() { p.reading { (reading) } }
            (content)
        }
    }
}

/// A table that is moved sideways where the window is narrower than it.
fn wide(table: Markup) -> Markup {
    html! { div.wide { (table) } }
}

/// A legend: what each colour is, and how much of it there is.
fn legend(entries: &[(&str, &str, String)]) -> Markup {
    html! {
        ul.legend {
            @for (class, name, figure) in entries {
                li {
                    svg.key width="14" height="14" viewBox="0 0 14 14" aria-hidden="true" {
                        @if class.starts_with("line") {
                            path class=(class) d="M0 7H14" {}
                        } @else {
                            rect class=(class) width="14" height="14" {}
                        }
                    }
                    " " (name)
                    @if !figure.is_empty() { " " b { (figure) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{image, report};
    use crate::report::{HeapCell, HeapMap, PageHeap};
    use crate::timeline::Point;
    use sysmem_alloc::figures::PICTURE_CELLS;

    #[test]
    fn the_page_of_a_very_long_run_of_very_many_processes_is_bounded() {
        let images = (0..20_000).map(|n| image(n + 1, 1, "a-process", 1_000_000 + n)).collect();
        let mut report = report(images);
        for time_ns in 0..1_000_000 {
            let resident_bytes = (time_ns % 977) << 20;
            let point = Point { time_ns: time_ns << 30, resident_bytes, ..Point::default() };
            report.program.course.push(point);
        }
        let page = render(&report);
        assert!(page.len() < 512 << 10, "{} bytes", page.len());
        // The largest pictures of a heap that there are.
        let cell = |n| HeapCell {
            address: 0x7f00_0000_0000 + n * (2 << 20),
            in_use: 100,
            free: 100,
            given_back: 56,
            unmapped: 0,
        };
        let map = |time_ns| HeapMap {
            time_ns,
            page_bytes: 8192,
            huge_pages: 100_000,
            cells: (0..PICTURE_CELLS as u64).map(cell).collect(),
        };
        let (at_peak, at_end) = (Some(map(1)), Some(map(2)));
        report.program.page_heap = PageHeap { at_peak, at_end };
        let page = render(&report);
        assert!(page.len() < 3 << 20, "{} bytes", page.len());
        assert!(page.contains("And 19,959 more."));
    }
}
