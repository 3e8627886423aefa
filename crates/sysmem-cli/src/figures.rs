//! The command's side of the figures: makes the memory file and reads what programs published.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use sysmem_alloc::figures::{
    self, ClassFigures, Figures, HeapFigures, KernelFigures, MapCell, Moment, NAME_BYTES,
    PICTURE_CELLS, PICTURES, SLOTS, Slot,
};

/// The time by the clock that programs stamp their figures with.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The file and what was kept from it.
pub struct FiguresFile {
    file: OwnedFd,
    figures: &'static Figures,
    /// Images that ended in order and whose slots were made free again.
    kept: Vec<Image>,
    /// How far claims had come when slots were last made free.
    claims_collected: u64,
}

/// What one process image published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub pid: u64,
    pub parent_pid: u64,
    pub process_began_ticks: u64,
    pub began_ns: u64,
    pub updated_ns: u64,
    pub name: String,
    /// Whether it ended in order, so that these are its last figures.
    pub exited: bool,
    pub kernel: KernelFigures,
    pub heap: HeapFigures,
    /// What was done with blocks of each size; large allocations at the end.
    pub classes: Vec<ClassFigures>,
    /// Which address space is whose: the name of each account, lowest address first.
    pub reservations: Vec<(Range<usize>, String)>,
    /// The page heap when it was largest.
    pub peak_picture: Option<HeapPicture>,
    /// The page heap when it was last drawn.
    pub last_picture: Option<HeapPicture>,
}

/// The page heap of a process at one moment, by huge page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeapPicture {
    /// When it was drawn, by the clock that programs stamp their figures with.
    pub time_ns: u64,
    /// Bytes of a page of the heap.
    pub page_bytes: u64,
    /// How many huge pages the heap had; of a large one not all are in the picture.
    pub huge_pages: u64,
    pub cells: Vec<MapCell>,
}

/// What changes from moment to moment in a process image.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    pub pid: u64,
    pub process_began_ticks: u64,
    pub began_ns: u64,
    pub live: bool,
    pub heap: HeapFigures,
}

impl FiguresFile {
    /// Makes an empty file that exists only in memory and cannot change its size.
    pub fn create() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create(figures::FILE_NAME, flags)?;
        let length = size_of::<Figures>();
        ftruncate(&file, length as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let figures = mapped(&file, ProtFlags::READ | ProtFlags::WRITE)?;
        figures.header.initialize();
        Ok(Self { file, figures, kept: Vec::new(), claims_collected: 0 })
    }

    /// The path by which programs open the file.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// How many process images found no slot.
    pub fn turned_away(&self) -> u64 {
        load(&self.figures.header.turned_away)
    }

    /// Keeps what exited images published and makes their slots free, once half of the slots have
    /// been claimed since the last time or half of the pictures are taken; so a build may start
    /// more processes than there are slots.
    pub fn collect(&mut self) {
        let claims = load(&self.figures.header.claims);
        let drawn = self.figures.pictures.iter().filter(|picture| load(&picture.owner) != 0);
        if claims.wrapping_sub(self.claims_collected) < SLOTS as u64 / 2
            && drawn.count() < PICTURES / 2
        {
            return;
        }
        self.claims_collected = claims;
        // Of a process that executed another program, the image before says nothing more either.
        let mut newest = HashMap::new();
        for glance in self.glances() {
            let began = newest.entry((glance.pid, glance.process_began_ticks)).or_insert(0);
            *began = glance.began_ns.max(*began);
        }
        for slot in &self.figures.slots {
            let Some(image) = Image::read(self.figures, slot) else { continue };
            let newest = newest.get(&(image.pid, image.process_began_ticks));
            if image.exited || newest.is_some_and(|&newest| image.began_ns < newest) {
                self.kept.push(image);
                if let Some(picture) = self.figures.picture_of(slot) {
                    picture.clear();
                }
                slot.clear();
            }
        }
    }

    /// What the processes say at this moment.
    pub fn glances(&self) -> impl Iterator<Item = Glance> {
        self.claimed().iter().filter_map(|slot| {
            let state = slot.state.load(Ordering::Acquire);
            let pid = slot.pid.load(Ordering::Acquire);
            (state != figures::FREE && pid != 0).then(|| Glance {
                pid,
                process_began_ticks: load(&slot.process_began_ticks),
                began_ns: load(&slot.began_ns),
                live: state == figures::LIVE,
                heap: HeapFigures::load(&slot.heap),
            })
        })
    }

    fn claimed(&self) -> &'static [Slot] {
        let figures: &'static Figures = self.figures;
        &figures.slots[..(load(&figures.header.claims) as usize).min(SLOTS)]
    }

    /// Everything published so far, in the order in which the images began.
    pub fn images(&self) -> Vec<Image> {
        let live = self.claimed().iter().filter_map(|slot| Image::read(self.figures, slot));
        let mut images: Vec<Image> = self.kept.iter().cloned().chain(live).collect();
        images.sort_by_key(|image| image.began_ns);
        images
    }
}

/// Maps the file for good.
fn mapped(file: &OwnedFd, access: ProtFlags) -> io::Result<&'static Figures> {
    let length = size_of::<Figures>();
    // SAFETY: a new mapping at an address that the kernel chooses.
    let mapping = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, file, 0)? };
    // SAFETY: the mapping has the length of `Figures`, is page aligned, sealed against shrinking,
    // never unmapped, and holds words for which any bytes are valid.
    Ok(unsafe { &*mapping.cast::<Figures>() })
}

/// Why the figures of a process cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub enum Unpublished {
    /// There is no such process.
    Gone,
    /// It belongs to somebody else.
    Denied,
    /// It was not started by `sysmem run`, nor by a program that was.
    NotRun,
    /// The `sysmem run` that started it has ended, and the file with it.
    Orphaned,
    /// It publishes nothing: it is linked statically, or closed to its environment.
    Silent,
}

/// What a running process that was started by `sysmem run` has published.
pub fn published(pid: u32) -> Result<Image, Unpublished> {
    let environment =
        std::fs::read(format!("/proc/{pid}/environ")).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Unpublished::Gone,
            _ => Unpublished::Denied,
        })?;
    let name = [figures::VARIABLE.to_bytes(), b"="].concat();
    let path = environment
        .split(|&byte| byte == 0)
        .find_map(|variable| variable.strip_prefix(&name[..]))
        .ok_or(Unpublished::NotRun)?;
    let path = OsString::from_vec(path.to_vec());
    // The command may be gone, and its number mean any file of another process by now.
    let target = std::fs::read_link(&path).map_err(|_| Unpublished::Orphaned)?;
    if !target.as_os_str().as_bytes().starts_with(b"/memfd:sysmem-figures") {
        return Err(Unpublished::Orphaned);
    }
    let file = OwnedFd::from(std::fs::File::open(&path).map_err(|_| Unpublished::Orphaned)?);
    let length = rustix::fs::fstat(&file).map_or(0, |about| about.st_size);
    if length != size_of::<Figures>() as i64 {
        return Err(Unpublished::Silent);
    }
    let figures = mapped(&file, ProtFlags::READ).map_err(|_| Unpublished::Denied)?;
    if !figures.header.is_ours() {
        return Err(Unpublished::Silent);
    }
    // A number may have been used before; the latest image speaks.
    let claimed = (load(&figures.header.claims) as usize).min(SLOTS);
    figures.slots[..claimed]
        .iter()
        .filter_map(|slot| Image::read(figures, slot))
        .filter(|image| image.pid == u64::from(pid) && !image.exited)
        .max_by_key(|image| image.began_ns)
        .ok_or(Unpublished::Silent)
}

impl Image {
    /// Reads a slot; `None` where nobody has published yet.
    fn read(file: &Figures, slot: &Slot) -> Option<Self> {
        let state = slot.state.load(Ordering::Acquire);
        let pid = slot.pid.load(Ordering::Acquire);
        if state == figures::FREE || pid == 0 {
            return None;
        }
        let mut name = [0; NAME_BYTES];
        let name = OsString::from_vec(slot.load_name(&mut name).to_vec());
        let picture = file.picture_of(slot);
        Some(Self {
            pid,
            parent_pid: load(&slot.parent_pid),
            process_began_ticks: load(&slot.process_began_ticks),
            began_ns: load(&slot.began_ns),
            updated_ns: load(&slot.updated_ns),
            name: name.to_string_lossy().into_owned(),
            exited: state == figures::EXITED,
            kernel: KernelFigures::load(&slot.kernel),
            heap: HeapFigures::load(&slot.heap),
            classes: slot.classes.iter().map(ClassFigures::load).collect(),
            reservations: {
                let mut all = Vec::new();
                slot.reservations.each(|range, name| {
                    all.push((range, String::from_utf8_lossy(name).into_owned()));
                });
                all.sort_by_key(|(range, _)| range.start);
                all
            },
            peak_picture: picture.and_then(|picture| HeapPicture::read(&picture.peak)),
            last_picture: picture.and_then(|picture| HeapPicture::read(&picture.latest)),
        })
    }
}

impl HeapPicture {
    fn read(moment: &Moment) -> Option<Self> {
        let mut cells = vec![MapCell::default(); PICTURE_CELLS];
        let drawn = moment.read(&mut cells)?;
        cells.truncate(usize::try_from(drawn.count).unwrap_or(usize::MAX));
        Some(Self {
            time_ns: drawn.time_ns,
            page_bytes: drawn.page_bytes,
            huge_pages: drawn.count,
            cells,
        })
    }
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(file: &FiguresFile, pid: u64, state: u64) {
        let slot = file.figures.claim().expect("a free slot");
        slot.store_name(b"worker");
        slot.began_ns.store(pid, Ordering::Relaxed);
        slot.pid.store(pid, Ordering::Release);
        slot.state.store(state, Ordering::Release);
    }

    #[test]
    fn the_file_cannot_be_shrunk_under_its_readers() {
        let file = FiguresFile::create().unwrap();
        assert!(ftruncate(&file.file, 0).is_err());
        assert!(file.path().ends_with(&format!("/fd/{}", file.file.as_raw_fd())));
    }

    #[test]
    fn slots_still_being_filled_are_not_read() {
        let file = FiguresFile::create().unwrap();
        file.figures.claim();
        publish(&file, 7, figures::LIVE);
        let pids: Vec<u64> = file.images().iter().map(|image| image.pid).collect();
        assert_eq!(pids, [7]);
    }

    #[test]
    fn more_processes_than_slots_are_all_told_when_they_exit() {
        let mut file = FiguresFile::create().unwrap();
        publish(&file, 1, figures::LIVE);
        let many = 3 * SLOTS as u64;
        for pid in 2..=many {
            publish(&file, pid, figures::EXITED);
            file.collect();
        }
        let pids: Vec<u64> = file.images().iter().map(|image| image.pid).collect();
        assert_eq!(pids, (1..=many).collect::<Vec<u64>>());
        assert_eq!(file.turned_away(), 0);
    }
}
