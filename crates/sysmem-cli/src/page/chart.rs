//! Axes: where a figure lies on the paper, and which figures are written beside it.

use maud::{Markup, html};

/// How wide a picture is, in pixels of its own.
pub const WIDTH: f64 = 960.0;
/// Where axes end: what is written below the end has room on the paper.
pub const RIGHT: f64 = 924.0;

/// A step of an axis in bytes: a power of two, so that its multiples are round in KiB, MiB, GiB.
pub fn byte_ticks(most: u64) -> Vec<u64> {
    let step = (most.max(1) / 4).max(1).next_power_of_two();
    (0..).map(|n| n * step).take_while(|&tick| tick < most.max(1) + step).collect()
}

/// Round times from 0 on, about eight of them, up to the last one that is not after `most`.
pub fn time_ticks(most: u64) -> Vec<u64> {
    const SECOND: u64 = 1_000_000_000;
    let steps = [1, 2, 5].into_iter();
    let below: Vec<u64> =
        (0..10).flat_map(|tens| steps.clone().map(move |n| n * 10_u64.pow(tens))).collect();
    let above = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 43_200];
    let days = (1..).map(|days| days * 86_400 * SECOND);
    let step = below
        .into_iter()
        .filter(|&step| step < SECOND)
        .chain(above.map(|seconds| seconds * SECOND))
        .chain(days)
        .find(|step| most / step <= 8)
        .unwrap_or(u64::MAX);
    (0..=most / step).map(|n| n * step).collect()
}

/// A multiple of a power of two in its unit, without digits that say nothing.
pub fn byte_label(size: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (size.max(1).ilog2() / 10) as usize;
    let value = size as f64 / (1_u64 << (10 * unit)) as f64;
    format!("{} {}", (value * 100.0).round() / 100.0, units[unit.min(units.len() - 1)])
}

/// A time on an axis that ends at `most`.
pub fn time_label(ns: u64, most: u64) -> String {
    let short = |value: f64, unit| format!("{} {unit}", (value * 1000.0).round() / 1000.0);
    match (ns, most) {
        (0, _) => "0".to_owned(),
        (_, 0..2_000_000) => short(ns as f64 / 1e3, "µs"),
        (_, 2_000_000..2_000_000_000) => short(ns as f64 / 1e6, "ms"),
        (_, 2_000_000_000..300_000_000_000) => short(ns as f64 / 1e9, "s"),
        (_, 300_000_000_000..14_400_000_000_000) => short(ns as f64 / 60e9, "min"),
        _ => short(ns as f64 / 3600e9, "h"),
    }
}

/// From figures to places on the paper.
#[derive(Clone, Copy)]
pub struct Scale {
    pub most: u64,
    pub from: f64,
    pub to: f64,
}

impl Scale {
    pub fn place(&self, value: u64) -> f64 {
        self.from + (self.to - self.from) * value as f64 / self.most.max(1) as f64
    }
}

/// A number of a path, in tenths of a pixel.
pub fn short(value: f64) -> String {
    let tenths = (value * 10.0).round() as i64;
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        _ => format!("{}", tenths as f64 / 10.0),
    }
}

/// The horizontal lines of a grid, with their sizes on the left.
pub fn byte_axis(scale: Scale, left: f64, right: f64) -> Markup {
    html! {
        g.axis {
            @for tick in byte_ticks(scale.most) {
                @let y = scale.place(tick);
                path.grid d={ "M" (short(left)) " " (short(y)) "H" (short(right)) } {}
                text x=(short(left - 8.0)) y=(short(y + 4.0)) text-anchor="end" {
                    (byte_label(tick))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_bytes_have_few_round_steps_and_room_for_the_most() {
        for most in [0, 1, 1000, 4096, 348 << 20, 3 << 30, (5 << 40) + 1] {
            let ticks = byte_ticks(most);
            assert!((2..=6).contains(&ticks.len()), "{most}: {ticks:?}");
            assert!(*ticks.last().unwrap() >= most, "{most}: {ticks:?}");
        }
        assert_eq!(
            byte_ticks(348 << 20).iter().map(|&t| byte_label(t)).collect::<Vec<_>>(),
            ["0 B", "128 MiB", "256 MiB", "384 MiB"]
        );
    }

    #[test]
    fn axes_of_time_are_round_from_microseconds_to_days() {
        for most in [1, 900, 50_000_000, 1_670_000_000, 61_000_000_000, 4_000_000_000_000_000] {
            let ticks = time_ticks(most);
            assert!((2..=9).contains(&ticks.len()) || most < 2, "{most}: {ticks:?}");
            assert!(*ticks.last().unwrap() <= most);
        }
        let labels = |most| -> Vec<String> {
            time_ticks(most).iter().map(|&tick| time_label(tick, most)).collect()
        };
        assert_eq!(labels(50_000_000), ["0", "10 ms", "20 ms", "30 ms", "40 ms", "50 ms"]);
        assert_eq!(labels(4_800_000_000), ["0", "1 s", "2 s", "3 s", "4 s"]);
    }
}
