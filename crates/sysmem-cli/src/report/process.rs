//! A process in the report: what its images published, what was seen of it from outside.

use super::{
    Ending, Heap, HeapMap, ImageSummary, Kernel, PageHeap, Process, Resident, SizeClass, Source,
    nanoseconds,
};
use crate::figures::Image;
use crate::sample::Sampled;
use crate::timeline::{Point, Timeline};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use sysmem_alloc::class_statistics;
use sysmem_alloc::figures::ClassFigures;

impl Process {
    /// A process as its images told it, which are at least one.
    pub(super) fn published(images: &[Image], run_began_ns: u64) -> Self {
        let (first, last) = (&images[0], &images[images.len() - 1]);
        let peak = images.iter().map(|image| image.kernel.peak_resident_bytes).max().unwrap_or(0);
        let heap = images.iter().map(|image| image.heap).reduce(|sum, next| next.after(&sum));
        let heap = heap.unwrap_or_default();
        Self {
            pid: last.pid,
            parent_pid: Some(first.parent_pid),
            name: last.name.clone(),
            ending: if last.exited { Ending::Exited } else { Ending::Unknown },
            peak_resident: Resident::published(peak),
            final_resident: Resident::published(last.kernel.resident_bytes),
            kernel: Some(Kernel::from(&last.kernel)),
            heap: Some(Heap::from(&heap)),
            heap_published_ns: Some(last.updated_ns.saturating_sub(run_began_ns)),
            images: images.iter().map(|image| ImageSummary::new(image, run_began_ns)).collect(),
            size_classes: size_classes(images),
            course: Timeline::default(),
            page_heap: PageHeap {
                at_peak: HeapMap::new(last.peak_picture.as_ref(), run_began_ns),
                at_end: HeapMap::new(last.last_picture.as_ref(), run_began_ns),
            },
            identity: Some((last.pid, last.process_began_ticks)),
        }
    }

    /// A process that published nothing.
    pub(super) fn silent(pid: u64, path: &Path) -> Self {
        Self {
            pid,
            parent_pid: None,
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ending: Ending::Unknown,
            peak_resident: Resident { bytes: 0, source: Source::None },
            final_resident: Resident { bytes: 0, source: Source::None },
            kernel: None,
            heap: None,
            heap_published_ns: None,
            images: Vec::new(),
            size_classes: Vec::new(),
            course: Timeline::default(),
            page_heap: PageHeap::default(),
            identity: None,
        }
    }

    /// Takes the greater peak; and the latest sample as the last figures, where the process did not
    /// publish its own at its exit.
    pub(super) fn add_samples(&mut self, sampled: &Sampled) {
        if sampled.count == 0 {
            return;
        }
        if sampled.peak_resident_bytes > self.peak_resident.bytes {
            let bytes = sampled.peak_resident_bytes;
            self.peak_resident = Resident { bytes, source: Source::Sampled };
        }
        if self.ending != Ending::Exited {
            let bytes = sampled.last.resident_bytes;
            self.final_resident = Resident { bytes, source: Source::Sampled };
            self.kernel = Some(Kernel::from(&sampled.last));
        }
    }

    /// Takes its course out of the samples, after what was seen before it published anything; and
    /// ends it with the figures that it published as it exited.
    pub(super) fn add_course(&mut self, sampled: &mut Sampled, begun: Timeline, wall: Duration) {
        self.course = begun;
        let sampled = self.identity.and_then(|identity| sampled.courses.remove(&identity));
        for point in sampled.unwrap_or_default().points {
            self.course.push(point);
        }
        let (Some(heap), Some(ended)) = (&self.heap, self.heap_published_ns) else { return };
        if self.ending != Ending::Exited
            || self.course.points.is_empty() && self.final_resident.bytes == 0
        {
            return;
        }
        let last = self.course.points.last().map_or(0, |point| point.time_ns);
        self.course.push(Point {
            time_ns: ended.min(nanoseconds(wall)).max(last),
            resident_bytes: self.final_resident.bytes,
            in_use_bytes: heap.in_use_bytes,
            free_bytes: heap.free_bytes,
            given_back_bytes: heap.given_back_bytes,
        });
    }
}

/// What the images of a process did with blocks of each size, added.
fn size_classes(images: &[Image]) -> Vec<SizeClass> {
    let classes = images.iter().map(|image| image.classes.len()).max().unwrap_or(0);
    let class = |number: usize| {
        let of_class = || images.iter().filter_map(move |image| image.classes.get(number));
        let sum = |figure: fn(&ClassFigures) -> u64| of_class().map(figure).sum();
        SizeClass {
            block_bytes: class_statistics(number).map_or(0, |class| class.block_bytes),
            allocations: sum(|class| class.allocations),
            frees: sum(|class| class.frees),
            requested_bytes: sum(|class| class.requested_bytes),
            allocated_bytes: sum(|class| class.allocated_bytes),
            freed_bytes: sum(|class| class.freed_bytes),
        }
    };
    (0..classes).map(class).filter(|class| class.allocations + class.frees > 0).collect()
}

impl Resident {
    pub(super) fn published(bytes: u64) -> Self {
        Self { bytes, source: if bytes > 0 { Source::Published } else { Source::None } }
    }
}

impl ImageSummary {
    fn new(image: &Image, run_began_ns: u64) -> Self {
        Self {
            name: image.name.clone(),
            began_ns: image.began_ns.saturating_sub(run_began_ns),
            peak_resident_bytes: image.kernel.peak_resident_bytes,
            allocations: image.heap.allocations,
            requested_bytes: image.heap.requested_bytes,
        }
    }
}

/// Images in the order in which they began, by the process that they were.
pub(super) fn by_process(images: Vec<Image>) -> Vec<Vec<Image>> {
    let mut places = HashMap::new();
    let mut processes: Vec<Vec<Image>> = Vec::new();
    for image in images {
        let identity = (image.pid, image.process_began_ticks);
        let place = *places.entry(identity).or_insert(processes.len());
        match processes.get_mut(place) {
            Some(images) => images.push(image),
            None => processes.push(vec![image]),
        }
    }
    processes
}
