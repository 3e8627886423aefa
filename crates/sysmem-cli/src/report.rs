//! What the report says, as data: the text on standard error and the JSON are two views of it.

mod process;

use self::process::by_process;
use crate::RunArguments;
use crate::figures::{HeapPicture, Image};
use crate::sample::{INTERVAL, Space};
use crate::timeline::Timeline;
use crate::watch::{End, Watched};
use crate::words::duration;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;
use sysmem::usage::{self, NO_LIMIT};
use sysmem_alloc::figures::{HeapFigures, KernelFigures, SLOTS};

/// How many descendants are told with their courses, the greatest.
const COURSES: usize = 12;

/// The version of the JSON, raised when a field changes its meaning or goes away; see docs/json.md.
const VERSION: u32 = 1;

/// One run of a program.
#[derive(Serialize)]
pub struct Report {
    pub version: u32,
    /// The program and its arguments as typed.
    pub arguments: Vec<String>,
    /// The file that was run.
    pub path: String,
    /// The allocator that was preloaded.
    pub library: String,
    pub end: End,
    pub time: Time,
    /// The program itself, across exec.
    pub program: Process,
    /// The program's address space, by what it is made of; where courses were wanted.
    pub address_space: AddressSpace,
    /// The least limit of the control groups that the run is charged to; none where there is none.
    pub control_group_limit_bytes: Option<u64>,
    /// Every other process that published figures, greatest peak first.
    pub descendants: Vec<Process>,
    /// How many process images found no room to publish.
    pub turned_away: u64,
    /// What a reader must know to judge the figures.
    pub notes: Vec<String>,
}

/// Times in nanoseconds.
#[derive(Serialize)]
pub struct Time {
    pub wall_ns: u64,
    /// CPU time of the program and of the children that it waited for.
    pub user_ns: u64,
    pub system_ns: u64,
}

/// An address space at two moments.
#[derive(Default, Serialize)]
pub struct AddressSpace {
    pub at_peak: Option<Space>,
    pub at_end: Option<Space>,
}

/// One process, across exec.
#[derive(Serialize)]
pub struct Process {
    pub pid: u64,
    pub parent_pid: Option<u64>,
    pub name: String,
    pub ending: Ending,
    pub peak_resident: Resident,
    pub final_resident: Resident,
    /// What the kernel said last.
    pub kernel: Option<Kernel>,
    /// What the allocator said last; what it counted, added over all images.
    pub heap: Option<Heap>,
    /// When it said so, since the start of the run.
    pub heap_published_ns: Option<u64>,
    /// The programs that the process was, one after the other.
    pub images: Vec<ImageSummary>,
    /// What was done with blocks of each size, over all images; sizes that were never used are left
    /// out.
    pub size_classes: Vec<SizeClass>,
    /// How its memory went; empty where that was not wanted, and for most descendants of many.
    pub course: Timeline,
    pub page_heap: PageHeap,
    /// Its number and when it began, in clock ticks.
    #[serde(skip)]
    identity: Option<(u64, u64)>,
}

/// The blocks of one size.
#[derive(Clone, Serialize)]
pub struct SizeClass {
    /// 0 for large allocations, which are whole pages.
    pub block_bytes: u64,
    pub allocations: u64,
    pub frees: u64,
    pub requested_bytes: u64,
    pub allocated_bytes: u64,
    pub freed_bytes: u64,
}

/// The page heap of the last image at two moments.
#[derive(Default, Serialize)]
pub struct PageHeap {
    pub at_peak: Option<HeapMap>,
    pub at_end: Option<HeapMap>,
}

/// The page heap by huge page.
#[derive(Serialize)]
pub struct HeapMap {
    /// Since the start of the run.
    pub time_ns: u64,
    pub page_bytes: u64,
    /// How many huge pages the heap has; of a large one, not all are told.
    pub huge_pages: u64,
    pub cells: Vec<HeapCell>,
}

/// Pages of the heap in one huge page.
#[derive(Clone, Copy, Serialize)]
pub struct HeapCell {
    pub address: u64,
    pub in_use: u16,
    pub free: u16,
    pub given_back: u16,
    pub unmapped: u16,
}

/// How a process was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It published its last figures when it exited.
    Exited,
    /// It was killed, it ended without its exit handlers, or it is running still.
    Unknown,
}

/// Resident memory and where the figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resident {
    pub bytes: u64,
    pub source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The process read its own figure and published it.
    Published,
    /// The command read it from outside, ten times a second.
    Sampled,
    /// Nobody could read it.
    None,
}

/// One program that a process was.
#[derive(Serialize)]
pub struct ImageSummary {
    pub name: String,
    /// When it began, since the start of the run.
    pub began_ns: u64,
    pub peak_resident_bytes: u64,
    pub allocations: u64,
    pub requested_bytes: u64,
}

/// Gives a group of figures its fields in JSON: the same names, in the same order.
macro_rules! serialized {
    ($name:ident from $group:ident { $($field:ident,)* }) => {
        #[derive(Clone, Serialize)]
        pub struct $name { $(pub $field: u64,)* }

        impl From<&$group> for $name {
            fn from(figures: &$group) -> Self {
                let $group { $($field),* } = *figures;
                Self { $($field),* }
            }
        }
    };
}

serialized! { Kernel from KernelFigures {
    virtual_bytes, peak_virtual_bytes, resident_bytes, peak_resident_bytes,
    resident_anonymous_bytes, resident_file_bytes, resident_shared_bytes, swapped_bytes,
    stack_bytes, page_table_bytes, huge_page_bytes, lazily_freed_bytes,
} }

serialized! { Heap from HeapFigures {
    allocations, frees, requested_bytes, allocated_bytes, freed_bytes, in_use_bytes, free_bytes, given_back_bytes,
    heap_reserved_bytes, metadata_bytes, reserved_bytes, prepared_bytes, ready_bytes,
    peak_ready_bytes, obtained_bytes, soft_limit_bytes, hard_limit_bytes, releases,
    failed_releases, released_bytes, scavenger_releases, scavenger_released_bytes,
    scavenger_cpu_ns, collapses, mappings,
} }

/// What programs published in one run.
pub struct Published {
    pub images: Vec<Image>,
    pub turned_away: u64,
    /// When the run began, by the clock that programs stamp their figures with.
    pub began_ns: u64,
}

impl Report {
    /// Puts together what was published and what was seen from outside.
    pub fn new(
        arguments: &RunArguments,
        path: &Path,
        library: &Path,
        watched: Watched,
        published: Published,
    ) -> Self {
        let Published { images, turned_away, began_ns } = published;
        let pid = watched.pid.as_raw_nonzero().get() as u64;
        let mut processes = by_process(images);
        let program = processes
            .iter()
            .position(|images| images[0].pid == pid)
            .map(|place| processes.remove(place))
            .unwrap_or_default();
        let mut descendants: Vec<Process> =
            processes.iter().map(|images| Process::published(images, began_ns)).collect();
        descendants.sort_by_key(|process| std::cmp::Reverse(process.peak_resident.bytes));
        let notes = notes(&program, &watched, turned_away, began_ns);
        let mut sampled = watched.sampled;
        let mut program = match program.is_empty() {
            true => Process::silent(pid, path),
            false => Process::published(&program, began_ns),
        };
        program.add_samples(&sampled);
        let begun = std::mem::take(&mut sampled.program);
        program.add_course(&mut sampled, begun, watched.wall);
        for process in descendants.iter_mut().take(COURSES) {
            process.add_course(&mut sampled, Timeline::default(), watched.wall);
        }
        Self {
            version: VERSION,
            arguments: arguments
                .program
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            path: path.display().to_string(),
            library: library.display().to_string(),
            time: Time {
                wall_ns: nanoseconds(watched.wall),
                user_ns: nanoseconds(watched.user),
                system_ns: nanoseconds(watched.system),
            },
            end: watched.end,
            program,
            address_space: AddressSpace {
                at_peak: sampled.space_at_peak,
                at_end: sampled.space_at_end,
            },
            control_group_limit_bytes: usage::control_group(usage::Process::Own)
                .ok()
                .and_then(|group| group.limit)
                .filter(|&limit| limit != NO_LIMIT),
            descendants,
            turned_away,
            notes,
        }
    }
}

impl HeapMap {
    /// A picture as published, with its time since the start of the run.
    pub fn new(picture: Option<&HeapPicture>, run_began_ns: u64) -> Option<Self> {
        let picture = picture?;
        let cells = picture.cells.iter().map(|cell| HeapCell {
            address: cell.address as u64,
            in_use: cell.in_use,
            free: cell.free_backed,
            given_back: cell.given_back,
            unmapped: cell.unmapped,
        });
        Some(Self {
            time_ns: picture.time_ns.saturating_sub(run_began_ns),
            page_bytes: picture.page_bytes,
            huge_pages: picture.huge_pages,
            cells: cells.collect(),
        })
    }
}

fn notes(program: &[Image], watched: &Watched, turned_away: u64, began_ns: u64) -> Vec<String> {
    let mut notes = Vec::new();
    // How old the last figures are at the end.
    let age = |last: &Image| {
        let ended = began_ns.saturating_add(nanoseconds(watched.wall));
        duration(ended.saturating_sub(last.updated_ns))
    };
    match program.last() {
        None => notes.push(
            "the program published no figures: the dynamic loader did not preload the allocator \
             (a message of its own says why), or the program could not open the command's file"
                .to_owned(),
        ),
        Some(last) if !last.exited => {
            let why = match watched.end {
                End::Exited { .. } => {
                    "ended without its exit handlers, or executed a program that published nothing"
                }
                End::Killed { .. } => "was killed",
            };
            notes.push(format!(
                "{} {why}; the allocator's figures are the last that were published, {} before the \
                 end, the kernel's were sampled {} times a second",
                last.name,
                age(last),
                1000 / INTERVAL.as_millis()
            ));
        }
        Some(_) => {}
    }
    if turned_away > 0 {
        notes.push(format!(
            "{turned_away} process images found all {SLOTS} places taken and published nothing"
        ));
    }
    notes
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sample::Sampled;
    use rustix::process::Pid;

    /// The report of a program of which the first image is, that exited with status 0.
    pub fn report(images: Vec<Image>) -> Report {
        let arguments = RunArguments {
            json: None,
            report: None,
            profile: Vec::new(),
            profile_interval: None,
            library: None,
            quiet: false,
            program: vec!["sort".into(), "-n".into()],
        };
        let watched = Watched {
            pid: Pid::from_raw(images[0].pid as i32).unwrap(),
            end: End::Exited { status: 0 },
            wall: Duration::from_secs(1),
            user: Duration::from_millis(500),
            system: Duration::from_millis(20),
            sampled: Sampled::default(),
        };
        let published = Published { images, turned_away: 0, began_ns: 0 };
        let path = Path::new("/usr/bin/sort");
        Report::new(&arguments, path, Path::new("/lib/ours.so"), watched, published)
    }

    pub fn image(pid: u64, ticks: u64, name: &str, peak: u64) -> Image {
        Image {
            pid,
            parent_pid: 1,
            process_began_ticks: ticks,
            began_ns: 1_000,
            updated_ns: 2_000,
            name: name.to_owned(),
            exited: true,
            kernel: KernelFigures {
                peak_resident_bytes: peak,
                resident_bytes: peak / 2,
                ..Default::default()
            },
            heap: HeapFigures {
                allocations: 10,
                requested_bytes: 100,
                in_use_bytes: peak / 4,
                ..Default::default()
            },
            classes: Vec::new(),
            reservations: Vec::new(),
            peak_picture: None,
            last_picture: None,
        }
    }

    #[test]
    fn images_of_one_process_are_one_process_and_a_reused_number_is_another() {
        let images = vec![
            image(5, 1, "sh", 100),
            image(6, 1, "sort", 100),
            image(5, 1, "sed", 100),
            image(5, 2, "later", 100),
        ];
        let names: Vec<Vec<String>> = by_process(images)
            .into_iter()
            .map(|images| images.into_iter().map(|image| image.name).collect())
            .collect();
        assert_eq!(names, [vec!["sh", "sed"], vec!["sort"], vec!["later"]]);
    }

    #[test]
    fn exec_adds_what_was_counted_and_keeps_the_greatest_peak() {
        let images = [image(5, 1, "big", 4096), image(5, 1, "small", 400)];
        let process = Process::published(&images, 500);
        assert_eq!(process.name, "small");
        assert_eq!(process.peak_resident, Resident::published(4096));
        assert_eq!(process.final_resident, Resident::published(200));
        let heap = process.heap.unwrap();
        assert_eq!((heap.allocations, heap.requested_bytes, heap.in_use_bytes), (20, 200, 100));
        assert_eq!(process.images.len(), 2);
        assert_eq!(process.images[0].began_ns, 500);
    }

    #[test]
    fn samples_count_where_they_know_more() {
        let last = KernelFigures { resident_bytes: 77, ..Default::default() };
        let sampled = Sampled { count: 1, peak_resident_bytes: 5000, last, ..Sampled::default() };
        let mut exited = Process::published(&[image(5, 1, "a", 4096)], 0);
        exited.add_samples(&sampled);
        let peak = Resident { bytes: 5000, source: Source::Sampled };
        assert_eq!(exited.peak_resident, peak);
        assert_eq!(exited.final_resident, Resident::published(2048));
        let mut killed = image(5, 1, "a", 9000);
        killed.exited = false;
        let mut killed = Process::published(&[killed], 0);
        killed.add_samples(&sampled);
        assert_eq!(killed.peak_resident, Resident::published(9000));
        assert_eq!(killed.final_resident, Resident { bytes: 77, source: Source::Sampled });
    }
}
