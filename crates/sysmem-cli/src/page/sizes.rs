//! Which sizes of blocks the program asked for, and what rounding cost.

use super::chart::{self, RIGHT, Scale, WIDTH, short};
use super::{legend, titled, wide};
use crate::report::{Report, SizeClass};
use crate::words::{bytes, grouped};
use maud::{Markup, html};

const LEFT: f64 = 72.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 210.0;

/// What was used at all is seen.
const LEAST: f64 = 0.8;

/// How many sizes the table shows before the rest is folded.
const SHOWN: usize = 10;

pub fn section(report: &Report) -> Option<Markup> {
    let classes = &report.program.size_classes;
    if classes.is_empty() {
        return None;
    }
    let reading = html! {
        "What was asked for over the whole run, by the size of the block that was handed out. A \
         block is larger than what was asked for by rounding; sizes that were never used are left \
         out."
    };
    let mut by_bytes: Vec<&SizeClass> = classes.iter().collect();
    by_bytes.sort_by_key(|class| std::cmp::Reverse(class.allocated_bytes));
    let (first, rest) = by_bytes.split_at(SHOWN.min(by_bytes.len()));
    let content = html! {
        (bars(classes))
        (table(first, Some(classes)))
        @if !rest.is_empty() {
            details {
                summary { (rest.len()) " more sizes" }
                (table(rest, None))
            }
        }
    };
    Some(titled("sizes", "Allocation sizes", reading, content))
}

fn waste(class: &SizeClass) -> u64 {
    class.allocated_bytes.saturating_sub(class.requested_bytes)
}

fn name(class: &SizeClass) -> String {
    match class.block_bytes {
        0 => "large".to_owned(),
        block if block % 1024 == 0 => format!("{} KiB", block / 1024),
        block => format!("{} B", grouped(block)),
    }
}

fn bars(classes: &[SizeClass]) -> Markup {
    // Large allocations come last.
    let (large, blocks): (Vec<_>, Vec<_>) =
        classes.iter().partition(|class| class.block_bytes == 0);
    let classes: Vec<&SizeClass> = blocks.into_iter().chain(large).collect();
    let most = classes.iter().map(|class| class.allocated_bytes).max().unwrap_or(0);
    let most = *chart::byte_ticks(most).last().unwrap_or(&most);
    let y = Scale { most, from: BOTTOM, to: TOP };
    let step = ((RIGHT - LEFT) / classes.len() as f64).min(48.0);
    // As many names as there is room for.
    let every = (62.0 / step).ceil().max(1.0) as usize;
    html! {
        figure {
            svg.chart #size-bars viewBox={ "0 0 " (WIDTH) " " (BOTTOM + 42.0) } role="img"
                tabindex="0" aria-labelledby="size-bars-title"
                data-left=(LEFT) data-step=(step) {
                title #size-bars-title { "Bytes allocated by size of block" }
                (chart::byte_axis(y, LEFT, RIGHT))
                @for (place, class) in classes.iter().enumerate() {
                    @let x = LEFT + place as f64 * step + step * 0.1;
                    @let asked = class.requested_bytes.min(class.allocated_bytes);
                    @let top = y.place(class.allocated_bytes).min(BOTTOM - LEAST);
                    @let middle = y.place(asked).clamp(top, BOTTOM - LEAST);
                    rect.asked x=(short(x)) y=(short(middle)) width=(short(step * 0.8))
                        height=(short(BOTTOM - middle)) {
                        title { (name(class)) ": " (bytes(asked)) " asked for" }
                    }
                    rect.rounding x=(short(x)) y=(short(top)) width=(short(step * 0.8))
                        height=(short(middle - top)) {
                        title { (name(class)) ": " (bytes(waste(class))) " lost to rounding" }
                    }
                    @if place % every == 0 {
                        text.axis x=(short(x + step * 0.4)) y=(BOTTOM + 18.0) text-anchor="middle" {
                            (name(class))
                        }
                    }
                }
                path.base d={ "M" (LEFT) " " (BOTTOM) "H" (RIGHT) } {}
                text.axis x=(RIGHT) y=(BOTTOM + 37.0) text-anchor="end" { "size of block" }
                path.cursor d="" {}
            }
            figcaption {
                (legend(&[
                    ("asked", "asked for", sum(&classes, |class| class.requested_bytes)),
                    ("rounding", "lost to rounding", sum(&classes, waste)),
                ]))
            }
        }
    }
}

fn sum(classes: &[&SizeClass], figure: fn(&SizeClass) -> u64) -> String {
    bytes(classes.iter().map(|class| figure(class)).sum())
}

fn table(classes: &[&SizeClass], all: Option<&[SizeClass]>) -> Markup {
    let held = |class: &SizeClass| class.allocated_bytes.saturating_sub(class.freed_bytes);
    let row = |class: &SizeClass| {
        let percent = waste(class) as f64 * 100.0 / class.allocated_bytes.max(1) as f64;
        [
            grouped(class.allocations),
            grouped(class.frees),
            bytes(class.requested_bytes),
            bytes(class.allocated_bytes),
            format!("{percent:.1} %"),
            bytes(held(class)),
        ]
    };
    wide(html! {
        table {
            thead {
                tr {
                    th scope="col" { "block" }
                    @for heading in
                        ["allocations", "frees", "asked for", "in blocks", "rounding", "still held"] {
                        th.figure scope="col" { (heading) }
                    }
                }
            }
            tbody {
                @for class in classes {
                    tr {
                        th scope="row" { (name(class)) }
                        @for figure in row(class) { td.figure { (figure) } }
                    }
                }
                @if let Some(all) = all {
                    tr.total {
                        th scope="row" { "all sizes" }
                        @for figure in row(&total(all)) { td.figure { (figure) } }
                    }
                }
            }
        }
    })
}

fn total(classes: &[SizeClass]) -> SizeClass {
    let sum = |figure: fn(&SizeClass) -> u64| classes.iter().map(figure).sum();
    SizeClass {
        block_bytes: 0,
        allocations: sum(|class| class.allocations),
        frees: sum(|class| class.frees),
        requested_bytes: sum(|class| class.requested_bytes),
        allocated_bytes: sum(|class| class.allocated_bytes),
        freed_bytes: sum(|class| class.freed_bytes),
    }
}
