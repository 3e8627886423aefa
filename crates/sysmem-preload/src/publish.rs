//! Publishes this process's figures in the file that `sysmem run` made.
//!
//! Everything here may be called from a malloc path, from any thread, in a signal handler or in
//! the child of a fork: nothing allocates, nothing waits, errno stays as it was. Files are opened
//! by plain system calls, because the C library's wrappers are cancellation points and a thread
//! must not be cancelled inside malloc. Where anything fails the program goes on unpublished; the
//! command says so in its report.

mod picture;
mod samples;

use core::ffi::{CStr, c_int};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use sysmem::native::keeping_errno;
use sysmem::{Native, Os};
use sysmem_alloc::figures::{
    self, ClassFigures, Figures, HeapFigures, KernelFigures, NAME_BYTES, Slot,
};
use sysmem_alloc::samples::Samples;
use sysmem_alloc::{Occasion, SIZE_CLASSES};

/// How often the allocator's figures are published at most.
const HEAP_EVERY_NS: u64 = 10_000_000;

/// The same when memory stays as it is for a while, so that what is published is what stays.
const SETTLED_EVERY_NS: u64 = 1_000_000;

/// What publishing more often than that may take: one part of the time in so many, four tenths of a
/// millisecond at once where little was taken before. No publication counts for more than what the
/// usual pause pays for: its thread may have lost the processor meanwhile.
const SHARE: u64 = 500;
const AT_ONCE_NS: u64 = 400_000;
const MOST_NS: u64 = HEAP_EVERY_NS / SHARE;

/// How often the kernel's figures are read at most, and those of each size. Rarely: while the file
/// is open it takes up the lowest free descriptor, which another thread may be about to count on.
const KERNEL_EVERY_NS: u64 = 1_000_000_000;

/// How often the allocator is asked for its last figures, should it be at work.
const LAST_TRIES: u32 = 100;

static FIGURES: AtomicPtr<Figures> = AtomicPtr::new(ptr::null_mut());
static SLOT: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
static HEAP_DUE_NS: AtomicU64 = AtomicU64::new(0);
static KERNEL_DUE_NS: AtomicU64 = AtomicU64::new(0);
/// When what was spent on publishing is its share of the time.
static PAID_NS: AtomicU64 = AtomicU64::new(0);
/// What was reserved in all when it was last told whose it is.
static TOLD_RESERVED: AtomicU64 = AtomicU64::new(0);
/// What had been counted when this process was forked: it belongs to the parent.
static BEFORE_FORK: [AtomicU64; HeapFigures::COUNT] =
    [const { AtomicU64::new(0) }; HeapFigures::COUNT];
/// The same for each size of blocks.
static CLASSES_BEFORE_FORK: [[AtomicU64; ClassFigures::COUNT]; SIZE_CLASSES + 1] =
    [const { [const { AtomicU64::new(0) }; ClassFigures::COUNT] }; SIZE_CLASSES + 1];

/// Maps the files that the environment names and claims a slot in them; for the library's
/// constructor.
pub fn open_from_environment() {
    keeping_errno(|| {
        let Some(path) = variable(figures::VARIABLE, figures::FILE_NAME) else { return };
        let Some(figures) = map::<Figures>(path, |figures| figures.header.is_ours()) else {
            return;
        };
        FIGURES.store(ptr::from_ref(figures).cast_mut(), Ordering::Release);
        claim_slot(figures);
        samples::open_from_environment();
    });
}

/// The path in a variable, if it leads to a memory file of the command's. In a setuid program there
/// is none, because its environment is not to be trusted.
fn variable(name: &CStr, file_name: &str) -> Option<&'static CStr> {
    // SAFETY: getauxval takes no pointers.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return None;
    }
    // SAFETY: the name is a C string; constructors run before the program has threads that could
    // change the environment.
    let path = unsafe { libc::getenv(name.as_ptr()) };
    if path.is_null() {
        return None;
    }
    // SAFETY: getenv returned a C string, which stays until the environment changes.
    Some(unsafe { CStr::from_ptr(path) }).filter(|path| names_a_file(path, file_name))
}

/// Publishes the allocator's figures if the last time is long enough ago, or so much has changed that
/// it is worth it now; cheap enough for the allocator's slow paths.
pub fn publish_if_due(occasion: Occasion) {
    if SLOT.load(Ordering::Relaxed).is_null() {
        return;
    }
    let now = clock_ns(libc::CLOCK_MONOTONIC_COARSE);
    let early = match occasion {
        Occasion::Busy => false,
        Occasion::Moved => now >= PAID_NS.load(Ordering::Relaxed),
        Occasion::Settled => is_settled(now),
    };
    if !falls_due(&HEAP_DUE_NS, now, HEAP_EVERY_NS) && !early {
        return;
    }
    keeping_errno(|| {
        let Some(slot) = own_slot() else { return };
        let began = clock_ns(libc::CLOCK_MONOTONIC);
        let heap = store_heap(slot);
        // The scavenger opens no files: its rights may be others than the program's by now.
        let rarely =
            occasion != Occasion::Settled && falls_due(&KERNEL_DUE_NS, now, KERNEL_EVERY_NS);
        if rarely {
            store_kernel(slot, false);
        }
        if rarely || early {
            store_classes(slot);
        }
        if let (Some(heap), Some(figures)) = (heap, figures_file()) {
            picture::draw_if_due(figures, slot, &heap, rarely || early);
        }
        pay(clock_ns(libc::CLOCK_MONOTONIC), began);
    });
}

/// Claims a slot for the child of a fork, which otherwise would write into its parent's; for the
/// last of the child's fork handlers, when the allocator works again.
pub fn after_fork_in_child() {
    SLOT.store(ptr::null_mut(), Ordering::Relaxed);
    let Some(figures) = figures_file() else { return };
    keeping_errno(|| {
        heap_figures().unwrap_or_default().store(&BEFORE_FORK);
        for (class, words) in CLASSES_BEFORE_FORK.iter().enumerate() {
            class_figures(class).store(words);
        }
        picture::begin();
        TOLD_RESERVED.store(0, Ordering::Relaxed);
        claim_slot(figures);
        samples::after_fork_in_child();
    });
}

/// Publishes the last figures and says that the process ended in order; for the library's
/// destructor.
pub fn at_exit() {
    keeping_errno(|| {
        let Some(slot) = own_slot() else { return };
        samples::tell_mappings();
        SLOT.store(ptr::null_mut(), Ordering::Relaxed);
        // Another thread is soon done; one that a signal handler interrupted never is.
        for _ in 0..LAST_TRIES {
            if let Some(heap) = store_heap(slot) {
                if let Some(figures) = figures_file() {
                    picture::draw_last(figures, slot, &heap);
                }
                break;
            }
            // SAFETY: the call takes nothing.
            unsafe { libc::sched_yield() };
        }
        store_classes(slot);
        store_kernel(slot, true);
        slot.state.store(figures::EXITED, Ordering::Release);
    });
}

/// Ends the process as the C library's `_exit` does, after publishing: workers that were forked
/// end this way (Python's multiprocessing), and no destructor runs for them.
///
/// Safe in the child of a vfork: the slot there is the parent's, and is left alone.
#[unsafe(no_mangle)]
pub extern "C" fn _exit(status: c_int) -> ! {
    at_exit();
    loop {
        // SAFETY: exit_group takes a number and does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// The C99 name of [`_exit`].
#[unsafe(no_mangle)]
pub extern "C" fn _Exit(status: c_int) -> ! {
    _exit(status)
}

/// What the allocator says about itself now; `None` while somebody is at work on it, who may be the
/// thread that a signal handler interrupted to end the process here.
fn heap_figures() -> Option<HeapFigures> {
    let heap = sysmem_alloc::try_statistics()?;
    let limit = |bytes| if bytes == u64::MAX { 0 } else { bytes };
    let mut figures = HeapFigures {
        allocations: heap.allocations,
        frees: heap.frees,
        requested_bytes: heap.requested_bytes,
        allocated_bytes: heap.allocated_bytes,
        freed_bytes: heap.freed_bytes,
        in_use_bytes: heap.pages.in_use - heap.pages.in_use_given_back,
        free_bytes: heap.pages.free_backed + heap.pages.cached + heap.pages.releasing,
        given_back_bytes: heap.pages.given_back + heap.pages.in_use_given_back,
        heap_reserved_bytes: heap.pages.reserved,
        metadata_bytes: heap.metadata_bytes + heap.pages.metadata,
        soft_limit_bytes: limit(heap.pages.soft_limit),
        hard_limit_bytes: limit(heap.pages.hard_limit),
        releases: heap.pages.releases,
        failed_releases: heap.pages.failed_releases,
        released_bytes: heap.pages.released,
        scavenger_releases: heap.pages.scavenger.releases,
        scavenger_released_bytes: heap.pages.scavenger.released,
        scavenger_cpu_ns: heap.pages.scavenger.cpu_time.as_nanos() as u64,
        collapses: heap.pages.collapses,
        mappings: heap.pages.mappings,
        ..HeapFigures::default()
    };
    for account in sysmem::accounts() {
        let account = account.figures();
        figures.reserved_bytes += account.reserved;
        figures.prepared_bytes += account.prepared;
        figures.ready_bytes += account.ready;
        figures.peak_ready_bytes += account.peak_ready;
        figures.obtained_bytes += account.obtained;
    }
    Some(figures)
}

/// Whether the path leads to a memory file of that name. Looked at before it is opened: the command
/// may be gone and its number may name any file of another process by now.
fn names_a_file(path: &CStr, file_name: &str) -> bool {
    let mut target = [0; 64];
    // SAFETY: readlink writes at most the length given into the buffer.
    let length = unsafe { libc::readlink(path.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    let target = target.get(..usize::try_from(length).unwrap_or(0)).unwrap_or(&[]);
    target.strip_prefix(b"/memfd:").is_some_and(|name| name.starts_with(file_name.as_bytes()))
}

/// A memory file as a whole, for which any bytes are valid.
trait Layout {}
impl Layout for Figures {}
impl Layout for Samples {}

/// Maps a file shared and for good, and closes it.
fn map<T: Layout>(path: &CStr, is_ours: impl FnOnce(&T) -> bool) -> Option<&'static T> {
    let file = open(path, libc::O_RDWR)?;
    let length = size_of::<T>();
    let mut about = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `about` is a stat to write to, and all zeros are a valid one.
    let fits = unsafe {
        libc::fstat(file, about.as_mut_ptr()) == 0
            && usize::try_from(about.assume_init().st_size).is_ok_and(|size| size == length)
    };
    let mut mapping = libc::MAP_FAILED;
    if fits {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        mapping =
            unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, file, 0) };
    }
    close(file);
    if mapping == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping has the length of the layout, page aligned, of words for which any bytes
    // are valid; the file was sealed against shrinking by the command that made it.
    let layout = unsafe { &*mapping.cast::<T>() };
    if !is_ours(layout) {
        // SAFETY: the mapping is ours and the reference to it ends here.
        unsafe { libc::munmap(mapping, length) };
        return None;
    }
    // SAFETY: the range is the mapping; the advice keeps other processes' figures out of core dumps.
    unsafe { libc::madvise(mapping, length, libc::MADV_DONTDUMP) };
    Some(layout)
}

/// Claims a slot, fills it and makes it this process's own.
fn claim_slot(figures: &'static Figures) {
    let Some(slot) = figures.claim() else { return };
    let now = clock_ns(libc::CLOCK_MONOTONIC);
    // SAFETY: these calls take nothing and cannot fail.
    let (pid, parent) = unsafe { (libc::getpid(), libc::getppid()) };
    slot.parent_pid.store(parent as u64, Ordering::Relaxed);
    slot.process_began_ticks.store(process_began_ticks().unwrap_or(0), Ordering::Relaxed);
    slot.began_ns.store(now, Ordering::Relaxed);
    store_program_name(slot);
    store_heap(slot);
    store_kernel(slot, false);
    HEAP_DUE_NS.store(now + HEAP_EVERY_NS, Ordering::Relaxed);
    KERNEL_DUE_NS.store(now + KERNEL_EVERY_NS, Ordering::Relaxed);
    slot.pid.store(pid as u64, Ordering::Release);
    SLOT.store(ptr::from_ref(slot).cast_mut(), Ordering::Release);
}

fn figures_file() -> Option<&'static Figures> {
    // SAFETY: the pointer is null or the mapping that `map` made, which is never unmapped.
    unsafe { FIGURES.load(Ordering::Acquire).as_ref() }
}

/// This process's slot; none where the process is the child of a vfork or of a bare clone, in
/// which no fork handler ran and the slot is another's.
fn own_slot() -> Option<&'static Slot> {
    // SAFETY: the pointer is null or leads into the mapping, which is never unmapped.
    let slot = unsafe { SLOT.load(Ordering::Acquire).as_ref() }?;
    // SAFETY: getpid takes nothing and cannot fail.
    let pid = unsafe { libc::getpid() } as u64;
    (slot.pid.load(Ordering::Relaxed) == pid).then_some(slot)
}

/// The place of this process's slot in the file.
fn own_slot_number() -> Option<usize> {
    let slot = ptr::from_ref(own_slot()?).addr();
    let first = ptr::from_ref(&figures_file()?.slots).addr();
    Some((slot - first) / size_of::<Slot>())
}

/// Stores what the allocator says, and returns it, if it can say it now.
fn store_heap(slot: &Slot) -> Option<HeapFigures> {
    let now = heap_figures()?;
    now.since(&HeapFigures::load(&BEFORE_FORK)).store(&slot.heap);
    let reserved = now.reserved_bytes + now.prepared_bytes + now.ready_bytes;
    if TOLD_RESERVED.swap(reserved, Ordering::Relaxed) != reserved {
        store_reservations(slot);
    }
    slot.updated_ns.store(clock_ns(libc::CLOCK_MONOTONIC), Ordering::Relaxed);
    Some(now)
}

/// Stores which address space is whose.
fn store_reservations(slot: &Slot) {
    let registered = Native::NEW.registry().reservations();
    slot.reservations.store(registered.map(|reservation| {
        let start = reservation.address();
        (start..start + reservation.len(), reservation.account().name())
    }));
}

/// Stores what was done with blocks of each size.
fn store_classes(slot: &Slot) {
    for (class, words) in slot.classes.iter().enumerate() {
        let before = ClassFigures::load(&CLASSES_BEFORE_FORK[class]);
        class_figures(class).since(&before).store(words);
    }
}

/// The figures of a size class; behind the last, those of large allocations.
fn class_figures(class: usize) -> ClassFigures {
    let figures = sysmem_alloc::class_statistics(class);
    ClassFigures::from(figures.unwrap_or_else(sysmem_alloc::large_statistics))
}

/// Whether the last publication is a little while ago.
fn is_settled(now: u64) -> bool {
    let published = HEAP_DUE_NS.load(Ordering::Relaxed).saturating_sub(HEAP_EVERY_NS);
    now >= published + SETTLED_EVERY_NS
}

/// Counts the time that a publication took. Of two at once one may be forgotten.
fn pay(now: u64, began: u64) {
    let cost = now.saturating_sub(began).min(MOST_NS);
    let paid = PAID_NS.load(Ordering::Relaxed).max(now.saturating_sub(AT_ONCE_NS * SHARE));
    PAID_NS.store(paid + cost * SHARE, Ordering::Relaxed);
}

/// Stores what the kernel says. The walk over all pages that tells huge pages from small ones
/// takes milliseconds for each GiB of small pages: only at the end.
fn store_kernel(slot: &Slot, at_the_end: bool) {
    let mut kernel = KernelFigures::default();
    let mut buffer = [0; 4096];
    kernel.read_status(read(c"/proc/self/status", &mut buffer));
    if at_the_end {
        kernel.read_smaps_rollup(read(c"/proc/self/smaps_rollup", &mut buffer));
    }
    kernel.store(&slot.kernel);
}

/// The name of the running program: the kernel's, which it keeps to 15 bytes, or in full where the
/// executable's name begins with it. For a script the kernel's name is the script's.
fn store_program_name(slot: &Slot) {
    let mut short = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, short.as_mut_ptr()) };
    let short = short.split(|&byte| byte == 0).next().unwrap_or(&[]);
    let mut target = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: readlink writes at most the length given into the buffer.
    let length = unsafe {
        let link = c"/proc/self/exe";
        libc::readlink(link.as_ptr(), target.as_mut_ptr().cast(), target.len())
    };
    let target = target.get(..usize::try_from(length).unwrap_or(0)).unwrap_or(&[]);
    let full = target.rsplit(|&byte| byte == b'/').next().unwrap_or(&[]);
    slot.store_name(if full.starts_with(short) && full.len() <= NAME_BYTES { full } else { short });
}

/// Field 22 of `/proc/self/stat`, counted from behind the name, which may hold anything.
fn process_began_ticks() -> Option<u64> {
    let mut buffer = [0; 1024];
    let text = read(c"/proc/self/stat", &mut buffer);
    let behind_name = text.rsplit(|&byte| byte == b')').next()?;
    let field = behind_name.split(|&byte| byte == b' ').nth(20)?;
    core::str::from_utf8(field).ok()?.parse().ok()
}

/// Whether the time has come, for one of the callers that find it so at once.
fn falls_due(due: &AtomicU64, now: u64, every: u64) -> bool {
    let then = due.load(Ordering::Relaxed);
    now >= then
        && due.compare_exchange(then, now + every, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to write to.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What the file holds, as much as the buffer takes; nothing where it cannot be read.
fn read<'a>(path: &CStr, buffer: &'a mut [u8]) -> &'a [u8] {
    let Some(file) = open(path, libc::O_RDONLY) else { return &[] };
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        // SAFETY: read writes at most the length given into the rest of the buffer.
        let got = unsafe { libc::syscall(libc::SYS_read, file, rest.as_mut_ptr(), rest.len()) };
        match usize::try_from(got) {
            Ok(got) if got > 0 => filled += got,
            _ => break,
        }
    }
    close(file);
    &buffer[..filled]
}

/// Hands each line of a file to `each`, without its end; a line of more than the buffer is cut.
fn lines(path: &CStr, each: &mut dyn FnMut(&[u8])) {
    let Some(file) = open(path, libc::O_RDONLY) else { return };
    let mut buffer = [0_u8; 8192];
    let mut filled = 0;
    loop {
        let rest = &mut buffer[filled..];
        // SAFETY: read writes at most the length given into the rest of the buffer.
        let got = unsafe { libc::syscall(libc::SYS_read, file, rest.as_mut_ptr(), rest.len()) };
        let Some(got) = usize::try_from(got).ok().filter(|&got| got > 0) else { break };
        filled += got;
        let mut begins = 0;
        while let Some(end) = buffer[begins..filled].iter().position(|&byte| byte == b'\n') {
            each(&buffer[begins..begins + end]);
            begins += end + 1;
        }
        if begins == 0 && filled == buffer.len() {
            begins = filled;
        }
        buffer.copy_within(begins..filled, 0);
        filled -= begins;
    }
    close(file);
}

fn open(path: &CStr, access: c_int) -> Option<c_int> {
    let flags = access | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
    // SAFETY: the path is a C string.
    let file = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) };
    c_int::try_from(file).ok().filter(|&file| file >= 0)
}

fn close(file: c_int) {
    // SAFETY: the descriptor came from `open` and is used no more.
    unsafe { libc::syscall(libc::SYS_close, file) };
}
