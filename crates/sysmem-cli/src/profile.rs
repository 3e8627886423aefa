//! Who holds the memory: takes in the samples that programs leave, walks their stacks, and adds up
//! what they stand for.
//!
//! A sample of a block of `n` bytes that was chosen by an interval stands for
//! `1 / (1 - exp(-n / interval))` allocations
//! (`sysmem_alloc`'s `sampling`): sums are estimates without bias.

mod folded;
mod modules;
mod pprof;
mod symbols;

use crate::figures::Image;
use crate::refusal::{Refusal, cannot_write, why};
use modules::{Files, Walker};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use sysmem_alloc::samples::{self, CELLS, Sample, Samples};

/// The interval where none is asked for. It grows while samples come faster than
/// [`LEAST_TIME_NS`] says; one that was asked for is kept.
const USUAL_INTERVAL: u64 = 512 << 10;

/// Processor time of a process from one sample to the next at least. A sample costs some 20 µs, the
/// walk of its stack included: that is a hundredth.
const LEAST_TIME_NS: u64 = 2_000_000;

/// How often samples are taken in: at the pace of the last ones, so that an eighth of the room is
/// taken at most, and a program that begins to allocate much has time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
const TAKEN: f64 = CELLS as f64 / 8.0;

/// A picture of what is held is taken when a hundredth more is held than at the last one.
const PEAK_STEP: f64 = 1.01;

/// One frame of a stack: a place in a file of code, as its own addresses count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The number of the file; [`Files::UNKNOWN`] for code that lies in none.
    pub file: usize,
    /// An address inside the instruction that was executed or that called.
    pub address: u64,
}

/// A sum of allocations, estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    pub objects: f64,
    pub bytes: f64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }

    fn take(&mut self, other: Sum) {
        self.objects -= other.objects;
        self.bytes -= other.bytes;
    }
}

/// What was allocated from one place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// Over the whole run.
    pub allocated: Sum,
    /// Not freed, at the end of its process or of the run.
    pub in_use: Sum,
    /// Not freed when the run held the most.
    pub at_peak: Sum,
}

/// A place: who called, from the innermost out, and in which process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    frames: Vec<Frame>,
    pid: u32,
}

/// Takes in what programs leave in the file of samples.
pub struct Profiler {
    file: OwnedFd,
    samples: &'static Samples,
    interval: f64,
    frees_collected: u64,
    files: Files,
    walkers: HashMap<(u32, u32), Walker>,
    places: HashMap<Place, usize>,
    held: Vec<Held>,
    /// Samples that were not freed, by name: their place and what they stand for.
    live: HashMap<u64, (usize, Sum)>,
    in_use: f64,
    peak: f64,
    drawn_peak: f64,
    out: Vec<(PathBuf, File)>,
    collected: Instant,
    /// How long to wait before the next samples are taken in.
    pub pause: Duration,
}

/// Something that happened to a sample.
enum Event {
    Allocated { name: u64, place: usize, sum: Sum },
    Freed { name: u64 },
}

impl Profiler {
    /// Makes the file of samples, and those in which the profile is to be written.
    pub fn create(interval: Option<u64>, out: &[PathBuf], library: &Path) -> Result<Self, Refusal> {
        let cannot =
            |error| Refusal::own(format!("cannot make the file for samples: {}", why(&error)));
        let out = out
            .iter()
            .map(|path| match File::create(path) {
                Ok(file) => Ok((path.clone(), file)),
                Err(error) => Err(Refusal::own(cannot_write("the profile", path, &error))),
            })
            .collect::<Result<_, _>>()?;
        let (interval, least_time_ns) = match interval {
            Some(interval) => (interval, 0),
            None => (USUAL_INTERVAL, LEAST_TIME_NS),
        };
        let (file, samples) = create(interval, least_time_ns).map_err(cannot)?;
        Ok(Self {
            file,
            samples,
            interval: interval as f64,
            frees_collected: 0,
            files: Files::new(library),
            walkers: HashMap::new(),
            places: HashMap::new(),
            held: Vec::new(),
            live: HashMap::new(),
            in_use: 0.0,
            peak: 0.0,
            drawn_peak: 0.0,
            out,
            collected: Instant::now(),
            pause: SHORTEST_PAUSE,
        })
    }

    /// The path by which programs open the file.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Takes in what was left since the last time.
    pub fn collect(&mut self) {
        let mut events: Vec<(u64, Event)> = Vec::new();
        // Frees first: what was freed by now was left as a sample before.
        self.frees_collected = self.samples.collect_frees(self.frees_collected, |name, time_ns| {
            events.push((time_ns, Event::Freed { name }));
        });
        let samples = self.samples;
        let mut count = 0_u32;
        samples.collect(|sample| {
            count += 1;
            let place = self.place(sample);
            let sum = stands_for(sample.block as f64, sample.interval as f64);
            let event = Event::Allocated { name: sample.name, place, sum };
            events.push((sample.time_ns, event));
        });
        let since = self.collected.elapsed().min(LONGEST_PAUSE);
        self.collected = Instant::now();
        self.pause = match count {
            0 => LONGEST_PAUSE,
            count => since.mul_f64(TAKEN / f64::from(count)).clamp(SHORTEST_PAUSE, LONGEST_PAUSE),
        };
        // In the order of time; a sample before its own free.
        events.sort_by_key(|(time_ns, event)| (*time_ns, matches!(event, Event::Freed { .. })));
        for (_, event) in events {
            self.apply(event);
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Allocated { name, place, sum } => {
                self.held[place].allocated.add(sum);
                self.held[place].in_use.add(sum);
                self.live.insert(name, (place, sum));
                self.in_use += sum.bytes;
                self.peak = self.peak.max(self.in_use);
            }
            Event::Freed { name } => {
                let Some((place, sum)) = self.live.remove(&name) else { return };
                self.draw_peak();
                self.held[place].in_use.take(sum);
                self.in_use -= sum.bytes;
            }
        }
    }

    /// Keeps what is held now as the peak, if it is.
    fn draw_peak(&mut self) {
        if self.in_use >= self.peak && self.in_use > self.drawn_peak * PEAK_STEP {
            self.drawn_peak = self.in_use;
            for held in &mut self.held {
                held.at_peak = held.in_use;
            }
        }
    }

    /// The number of the place where a sample was taken.
    fn place(&mut self, sample: &Sample) -> usize {
        let process = (sample.slot, sample.pid);
        let walker = self.walkers.entry(process).or_default();
        let frames = walker.frames(sample, self.samples, &mut self.files);
        let place = Place { frames, pid: sample.pid };
        let next = self.held.len();
        let number = *self.places.entry(place).or_insert(next);
        if number == next {
            self.held.push(Held::default());
        }
        number
    }

    /// Takes in the last samples and writes the profile; what a reader must know of it.
    pub fn finish(mut self, images: &[Image], wall: Duration) -> Vec<String> {
        self.collect();
        self.draw_peak();
        let mut notes = Vec::new();
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let header = &self.samples.header;
        let (lost, lost_frees) = (load(&header.lost), load(&header.lost_frees));
        if lost + lost_frees > 0 {
            notes.push(format!(
                "the profile lacks {lost} samples and {lost_frees} frees of samples, for which \
                 there was no room: it tells less than there was"
            ));
        }
        let names: HashMap<u32, &str> =
            images.iter().map(|image| (image.pid as u32, &image.name[..])).collect();
        let entries: Vec<Entry> = self
            .places
            .into_iter()
            .map(|(place, number)| {
                let process = names.get(&place.pid).map_or_else(String::new, |name| (*name).into());
                Entry { frames: place.frames, pid: place.pid, process, held: self.held[number] }
            })
            .collect();
        let named = symbols::name(&self.files, entries.iter().flat_map(|entry| &entry.frames));
        let profile = Profile { entries, files: self.files, named, interval: self.interval, wall };
        for (path, mut file) in self.out {
            let bytes = match path.extension().is_some_and(|extension| extension == "folded") {
                true => folded::render(&profile),
                false => pprof::render(&profile),
            };
            if let Err(error) = bytes.and_then(|bytes| file.write_all(&bytes)) {
                notes.push(cannot_write("the profile", &path, &error));
            }
        }
        notes
    }
}

/// What is known of one place.
pub struct Entry {
    /// Who called, from the innermost out.
    pub frames: Vec<Frame>,
    pub pid: u32,
    pub process: String,
    pub held: Held,
}

/// All that a profile tells.
pub struct Profile {
    pub entries: Vec<Entry>,
    pub files: Files,
    pub named: symbols::Named,
    pub interval: f64,
    pub wall: Duration,
}

/// How many allocations, and bytes in them, one sample of a block stands for.
fn stands_for(block: f64, interval: f64) -> Sum {
    let objects = 1.0 / -(-block / interval).exp_m1();
    Sum { objects, bytes: objects * block }
}

fn create(interval: u64, least_time_ns: u64) -> io::Result<(OwnedFd, &'static Samples)> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(samples::FILE_NAME, flags)?;
    let length = size_of::<Samples>();
    ftruncate(&file, length as u64)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let mapping = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, &file, 0)? };
    // SAFETY: the mapping has the length of `Samples`, is page aligned, sealed against shrinking,
    // never unmapped, and holds numbers for which any bytes are valid.
    let samples = unsafe { &*mapping.cast::<Samples>() };
    samples.header.initialize(interval, least_time_ns);
    Ok((file, samples))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    fn profiler() -> Profiler {
        Profiler::create(None, &[], Path::new("/nowhere")).unwrap()
    }

    fn sample(profiler: &Profiler, pid: u32, block: u64, time_ns: u64) -> u64 {
        profiler.samples.leave(|sample| {
            sample.pid = pid;
            sample.block = block;
            sample.interval = USUAL_INTERVAL;
            sample.time_ns = time_ns;
            sample.stack_bytes = 0;
        })
    }

    #[test]
    fn a_sample_stands_for_its_share() {
        let sum = stands_for(512.0 * 1024.0, 512.0 * 1024.0);
        assert!((sum.objects - 1.582).abs() < 0.001);
        let small = stands_for(64.0, 524_288.0);
        assert!((small.objects - 8192.5).abs() < 0.1, "{small:?}");
        assert!((stands_for(1e9, 524_288.0).objects - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_sample_counts_by_the_interval_that_chose_it() {
        let mut profiler = profiler();
        for interval in [USUAL_INTERVAL, 64 << 20] {
            profiler.samples.leave(|sample| (sample.block, sample.interval) = (64, interval));
        }
        profiler.collect();
        let bytes = profiler.held[0].allocated.bytes;
        assert!((bytes - (64.5 * MIB)).abs() < 100.0, "{bytes}");
    }

    #[test]
    fn what_is_held_at_the_peak_is_kept_apart_from_what_is_held_at_the_end() {
        let mut profiler = profiler();
        let big = 64 << 20;
        let first = sample(&profiler, 1, big, 10);
        sample(&profiler, 2, big, 20);
        profiler.samples.leave_free(first, 30);
        profiler.collect();
        sample(&profiler, 2, 1 << 20, 40);
        profiler.collect();
        profiler.draw_peak();
        let of = |pid: u32| {
            let (_, &number) = profiler.places.iter().find(|(place, _)| place.pid == pid).unwrap();
            profiler.held[number]
        };
        assert_eq!(of(1).in_use.bytes, 0.0);
        assert!((of(1).at_peak.bytes - big as f64).abs() < 1.0);
        assert!((of(2).at_peak.bytes - big as f64).abs() < 1.0);
        assert!(of(2).in_use.bytes > big as f64);
        assert!(of(2).allocated == of(2).in_use);
    }

    #[test]
    fn a_free_seen_together_with_its_sample_comes_behind_it() {
        let mut profiler = profiler();
        for time_ns in 0..100 {
            let name = sample(&profiler, 1, 1 << 20, time_ns);
            profiler.samples.leave_free(name, time_ns);
        }
        profiler.collect();
        assert!(profiler.live.is_empty());
        assert!(profiler.held[0].in_use.bytes.abs() < 1.0);
        assert!(profiler.held[0].allocated.bytes > 1e8);
        // The estimate of one at a time is the peak.
        assert!(profiler.peak < 3e6, "{}", profiler.peak);
    }
}
