//! How the memory of a process went over time: samples, thinned so that a long run keeps its shape in
//! few points.

use serde::Serialize;

/// The memory of a process at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Since the start of the run.
    pub time_ns: u64,
    /// Resident, as the kernel counts it; 0 where it could not be read.
    pub resident_bytes: u64,
    /// What the allocator last published: pages in use, free and given back.
    pub in_use_bytes: u64,
    pub free_bytes: u64,
    pub given_back_bytes: u64,
}

/// The points of one process, in the order of time.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Timeline {
    pub points: Vec<Point>,
    #[serde(skip)]
    most: usize,
}

impl Default for Timeline {
    fn default() -> Self {
        Self::of_at_most(1200)
    }
}

impl Timeline {
    /// One that keeps so many points at most.
    pub fn of_at_most(most: usize) -> Self {
        Self { points: Vec::new(), most }
    }

    /// Adds the latest point. Of every two neighbours the one with less resident memory goes when
    /// there are too many: peaks stay.
    pub fn push(&mut self, point: Point) {
        if self.points.len() >= self.most {
            let thinned = self.points.chunks(2).filter_map(|pair| {
                pair.iter().copied().max_by_key(|point| (point.resident_bytes, point.in_use_bytes))
            });
            self.points = thinned.collect();
        }
        self.points.push(point);
    }

    /// The point with the most resident memory.
    pub fn peak(&self) -> Option<&Point> {
        // The first of several.
        self.points.iter().rev().max_by_key(|point| point.resident_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_peaks_and_its_order_in_few_points() {
        let mut timeline = Timeline::of_at_most(200);
        for time_ns in 0..100_000 {
            let resident_bytes = if time_ns == 54_321 { 9_000_000 } else { 1000 + time_ns % 7 };
            timeline.push(Point { time_ns, resident_bytes, ..Point::default() });
        }
        assert!((100..=200).contains(&timeline.points.len()));
        assert_eq!(timeline.peak().unwrap().time_ns, 54_321);
        assert!(timeline.points.is_sorted_by_key(|point| point.time_ns));
        assert_eq!(timeline.points.last().unwrap().time_ns, 99_999);
    }
}
