//! The page heap by huge page: a square for each, filled from below with what its pages are.

use super::chart::{WIDTH, short};
use super::{legend, titled};
use crate::report::{Ending, HeapCell, HeapMap, Report};
use crate::words::{bytes, duration, printable};
use maud::{Markup, PreEscaped, html};

const LEFT: f64 = 136.0;
const RIGHT: f64 = 944.0;

/// A heap of more huge pages than this has smaller squares.
const LARGE: usize = 512;

pub fn section(report: &Report) -> Markup {
    let heap = &report.program.page_heap;
    let Some(end) = &heap.at_end else { return html! {} };
    let peak = heap.at_peak.as_ref().filter(|peak| peak.time_ns < end.time_ns);
    let reading = html! {
        "Each square is one huge page of address space, " (bytes(huge_page(end)))
        ", lowest address first, filled from below with what its pages are. Memory goes back to the \
         system fastest where whole squares are free. What threads keep at hand counts as in use."
    };
    // Whoever exits draws its heap after it published its last figures.
    let exited = report.program.ending == Ending::Exited;
    let is_last = report.program.heap_published_ns.is_some_and(|told| end.time_ns >= told);
    let at_end = if exited && is_last { "At the end" } else { "When it was last drawn" };
    let content = html! {
        @if let Some(peak) = peak { (figure(peak, "peak", "When the heap was largest")) }
        (figure(end, "end", at_end))
    };
    titled("heap", "Page heap", reading, content)
}

fn figure(map: &HeapMap, id: &str, when: &str) -> Markup {
    let squares = Squares::of(map);
    html! {
        figure {
            h3 { (when) ", at " (duration(map.time_ns)) }
            svg.chart.heat id={ "heap-" (id) } data-moment={ "at_" (id) } role="img" tabindex="0"
                data-left=(LEFT) data-side=(squares.side) data-columns=(squares.columns)
                viewBox={ "0 0 " (WIDTH) " " (short(squares.height() + 4.0)) }
                aria-labelledby={ "heap-" (id) "-title" } {
                title id={ "heap-" (id) "-title" } { (describe(map)) }
                (squares.draw(map))
                path.cursor d="" {}
            }
            figcaption {
                (legend(&totals(map)))
                @if let Some(words) = missing(map) { p.aside { (words) } }
            }
        }
    }
}

/// A picture that stands alone, drawn so long ago.
pub fn standalone(map: &HeapMap, name: &str, pid: u32, age_ns: u64) -> String {
    const TOP: f64 = 78.0;
    let squares = Squares::of(map);
    let foot = TOP + squares.height() + 26.0;
    let heading = format!("Page heap of {}, process {pid}", printable(name));
    let picture = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(short(foot + 44.0))
            viewBox={ "0 0 " (WIDTH) " " (short(foot + 44.0)) } role="img" {
            title { (heading) }
            desc { (describe(map)) }
            style { (PreEscaped(super::COLORS)) (PreEscaped(STANDALONE)) }
            rect.paper width="100%" height="100%" {}
            text.heading x="24" y="34" { (heading) }
            text.soft x="24" y="56" {
                (map.huge_pages) " huge pages of " (bytes(huge_page(map)))
                " each, lowest address first, filled from below; drawn "
                (duration(age_ns)) " ago"
            }
            g transform={ "translate(0 " (TOP) ")" } { (squares.draw(map)) }
            @for (place, (class, name, size)) in totals(map).into_iter().enumerate() {
                g transform={
                    "translate(" (short(LEFT + place as f64 * 200.0)) " " (short(foot)) ")"
                } {
                    rect class=(class) width="12" height="12" {}
                    text.soft x="19" y="10.5" { (name) tspan.figure dx="6" { (size) } }
                }
            }
            @if let Some(words) = missing(map) {
                text.soft x=(LEFT) y=(short(foot + 34.0)) { (words) }
            }
        }
    };
    picture.into_string()
}

const STANDALONE: &str = ".paper { fill: var(--paper); } \
    text { fill: var(--ink); font-size: 13px; } .heading { font-size: 18px; font-weight: 600; } \
    .soft { fill: var(--soft); } .figure { fill: var(--ink); font-weight: 600; }";

/// What a square of full length is.
fn huge_page(map: &HeapMap) -> u64 {
    map.cells.iter().map(pages).max().unwrap_or(0) * map.page_bytes
}

fn pages(cell: &HeapCell) -> u64 {
    [cell.in_use, cell.free, cell.given_back, cell.unmapped].map(u64::from).iter().sum()
}

/// What the pages in the picture are, together: class, name and size.
pub fn totals(map: &HeapMap) -> Vec<(&'static str, &'static str, String)> {
    let sum = |pages: fn(&HeapCell) -> u16| -> u64 {
        map.cells.iter().map(|cell| u64::from(pages(cell)) * map.page_bytes).sum()
    };
    let parts = [
        ("in-use", "in use", sum(|cell| cell.in_use)),
        ("free", "free", sum(|cell| cell.free)),
        ("given-back", "given back", sum(|cell| cell.given_back)),
        ("unmapped", "never mapped", sum(|cell| cell.unmapped)),
    ];
    parts.map(|(class, name, size)| (class, name, bytes(size))).to_vec()
}

/// The picture in words.
pub fn describe(map: &HeapMap) -> String {
    let totals: Vec<String> =
        totals(map).into_iter().map(|(_, name, size)| format!("{size} {name}")).collect();
    format!("The page heap, {} huge pages: {}.", map.huge_pages, totals.join(", "))
}

/// Says so where not all of the heap is in the picture.
pub fn missing(map: &HeapMap) -> Option<String> {
    let drawn = map.cells.len() as u64;
    (drawn < map.huge_pages).then(|| {
        format!("The picture has room for the first {drawn} of {} huge pages.", map.huge_pages)
    })
}

/// Where squares lie.
pub struct Squares {
    columns: usize,
    side: f64,
    rows: usize,
}

impl Squares {
    pub fn of(map: &HeapMap) -> Self {
        // A row is a round number of MiB.
        let columns = if map.cells.len() > LARGE { 64 } else { 32 };
        let side = (RIGHT - LEFT) / columns as f64;
        Self { columns, side, rows: map.cells.len().div_ceil(columns).max(1) }
    }

    pub fn height(&self) -> f64 {
        self.rows as f64 * self.side
    }

    /// The squares and the addresses of their rows, from (0, 0) down.
    pub fn draw(&self, map: &HeapMap) -> Markup {
        let gap = self.side / 12.0;
        let inner = self.side - gap;
        let full = map.cells.iter().map(pages).max().unwrap_or(1).max(1) as f64;
        let [mut frames, mut in_use, mut free, mut given_back] = [const { String::new() }; 4];
        for (place, cell) in map.cells.iter().enumerate() {
            let (row, column) = (place / self.columns, place % self.columns);
            let x = short(LEFT + column as f64 * self.side);
            let bottom = row as f64 * self.side + inner;
            let height = inner * pages(cell) as f64 / full;
            let width = short(inner);
            frames += &format!("M{x} {}h{width}v{}h-{width}z", short(bottom), short(-height));
            let mut from = bottom;
            let parts = [
                (&mut in_use, cell.in_use),
                (&mut free, cell.free),
                (&mut given_back, cell.given_back),
            ];
            for (path, pages) in parts {
                if pages > 0 {
                    // What is there is seen, however little it is.
                    let height = (inner * f64::from(pages) / full).max(0.4);
                    *path += &format!("M{x} {}h{width}v{}h-{width}z", short(from), short(-height));
                    from -= height;
                }
            }
        }
        let every = if self.rows > 24 { 4 } else { 1 };
        html! {
            path.unmapped d=(frames) {}
            path.in-use d=(in_use) {}
            path.free d=(free) {}
            path.given-back d=(given_back) {}
            g.axis {
                @for row in (0..self.rows).step_by(every) {
                    @if let Some(cell) = map.cells.get(row * self.columns) {
                        text.address x=(LEFT - 10.0) text-anchor="end"
                            y=(short(row as f64 * self.side + (inner / 2.0).max(7.0) + 4.0)) {
                            (format!("{:#x}", cell.address))
                        }
                    }
                }
            }
        }
    }
}
