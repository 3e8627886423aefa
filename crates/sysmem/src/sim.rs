//! Simulated kernels, and wrappers that record calls or make them fail.
//!
//! [`Simulated`] is a kernel with one process whose memory can be used: the backend for its system
//! runs on it as it does on the running kernel. `Simulated::new(settings)` is a Linux,
//! `Simulated::<FreeBsd>::start(settings)` another [`System`]. It refuses what that kernel refuses,
//! limits included, and where a kernel is free to choose it chooses, by a seed, what a program is
//! least prepared for. [`Settings`] says which limits.
//!
//! [`Traced`] and [`Faulty`] stand before any table of calls, the running kernel's too: one keeps a
//! record, the other makes calls fail.
//!
//! Inside, one model of virtual memory (`machine`, with `mappings` and `memory`) knows of no
//! kernel; the rules of each are a module over it (`linux`, `freebsd`, …).
//!
//! ```
//! use sysmem::os::linux::Linux;
//! use sysmem::sim::{Settings, Simulated};
//! use sysmem::{Account, Protection, Reservation, ReserveOptions};
//!
//! static POOL: Account = Account::new("pool");
//!
//! let kernel = Simulated::new(Settings { data_limit: 1 << 20, ..Settings::heap(16 << 20) });
//! let os = Linux::new(kernel.clone());
//! let mut pool = Reservation::reserve_in(os, ReserveOptions::new(8 << 20), &POOL)?;
//! pool.map(0, 512 << 10, Protection::ReadWrite)?;
//! let error = pool.map(512 << 10, 1 << 20, Protection::ReadWrite).unwrap_err();
//! assert!(error.to_string().contains("RLIMIT_DATA is 1.0 MiB"));
//! # Ok::<(), sysmem::Error>(())
//! ```

mod bsd;
mod darwin;
mod dragonfly;
mod freebsd;
mod illumos;
mod linux;
mod listed;
mod machine;
mod mappings;
mod memory;
mod netbsd;
mod openbsd;
mod parking;
mod random;
mod ranges;
mod settings;
mod shared;
mod signals;
mod unix;
mod views;
mod watched;
mod windows;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::vec::Vec;

use crate::calls::{
    Calls, Files, Findings, Kernel, Mincore, NameMapping, ProcessControl, ProcessMadvise,
    UnixCalls, WriteFiles,
};
use crate::{Errno, PageRange, Protection};
use machine::Machine;
use parking::{Clock, Parking};

pub use bsd::Bsd;
pub use darwin::Darwin;
pub use dragonfly::DragonFly;
pub use freebsd::FreeBsd;
pub use illumos::Illumos;
pub use linux::Linux;
pub use mappings::{Attributes, Jit, Mapping, Totals};
pub use netbsd::NetBsd;
pub use openbsd::OpenBsd;
pub use settings::{Backing, LazilyFreed, Overcommit, Settings};
pub use signals::{Signal, Stray, Told};
pub use watched::{Call, Faults, Faulty, Record, Trace, Traced, Watch, Watched};
pub use windows::Windows;

/// The rules of a simulated kernel, which are methods of [`UnixSystem`] where it is a Unix. The
/// calls that only some have are implemented for the [`Simulated`] kernel of each that has them.
pub trait System: Copy + fmt::Debug + Send + Sync + 'static {
    /// Whose rules they are.
    const KERNEL: Kernel;

    /// mlock(2) and munlock(2), or what comes closest.
    #[doc(hidden)]
    fn lock(machine: &mut Machine, address: usize, len: usize, locked: bool) -> Result<(), Errno>;

    /// The signal for an access that memory does not allow; `None` where the system has no signals,
    /// or no such addresses.
    fn signal(stray: Stray) -> Option<Signal>;
}

/// The rules of a simulated Unix for the calls that every Unix has.
pub trait UnixSystem: System {
    /// mmap(2) of anonymous memory.
    #[doc(hidden)]
    fn mmap(
        machine: &mut Machine,
        address: usize,
        len: usize,
        bits: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno>;

    /// munmap(2).
    #[doc(hidden)]
    fn munmap(machine: &mut Machine, address: usize, len: usize) -> Result<(), Errno>;

    /// mprotect(2).
    #[doc(hidden)]
    fn mprotect(machine: &mut Machine, address: usize, len: usize, bits: i32) -> Result<(), Errno>;

    /// madvise(2).
    #[doc(hidden)]
    fn madvise(machine: &mut Machine, address: usize, len: usize, advice: i32)
    -> Result<(), Errno>;

    /// fork(2): what a child is charged with, which is nothing where memory is overcommitted.
    #[doc(hidden)]
    fn fork(_machine: &Machine) -> Result<usize, Errno> {
        Ok(0)
    }

    /// getrlimit(2).
    #[doc(hidden)]
    fn resource_limit(machine: &Machine, resource: i32) -> Result<u64, Errno>;
}

/// A simulated kernel and the memory of the one process on it. Clones are the same kernel.
///
/// When the last clone goes, memory that may not be written to is looked at once more: a stray
/// write panics.
pub struct Simulated<S = Linux> {
    inner: Arc<Inner>,
    system: PhantomData<S>,
}

impl<S> Clone for Simulated<S> {
    fn clone(&self) -> Simulated<S> {
        Simulated { inner: self.inner.clone(), system: PhantomData }
    }
}

struct Inner {
    page_size: usize,
    machine: Mutex<Machine>,
    files: Mutex<BTreeMap<i32, Vec<u8>>>,
    environment: Vec<(CString, CString)>,
    parking: Parking,
    clock: Clock,
    findings: Findings,
}

/// A simulated system whose processes read files of the kernel's.
pub trait ProcFiles: UnixSystem {
    /// What a file of /proc or /sys holds.
    #[doc(hidden)]
    fn file(machine: &Machine, path: &CStr) -> Result<Vec<u8>, Errno>;
}

impl Simulated {
    /// Starts a Linux kernel.
    pub fn new(settings: Settings) -> Simulated {
        Simulated::start(settings)
    }

    /// Starts a Linux kernel whose process has these environment variables.
    pub fn with_environment(settings: Settings, variables: &[(&CStr, &CStr)]) -> Simulated {
        Simulated::start_with_environment(settings, variables)
    }
}

impl<S: System> Simulated<S> {
    /// Starts a kernel of this system.
    pub fn start(settings: Settings) -> Simulated<S> {
        Simulated::start_with_environment(settings, &[])
    }

    /// Starts a kernel of this system whose process has these environment variables.
    pub fn start_with_environment(
        settings: Settings,
        variables: &[(&CStr, &CStr)],
    ) -> Simulated<S> {
        let variables = variables.iter().map(|&(name, value)| (name.into(), value.into()));
        let inner = Arc::new(Inner {
            page_size: settings.page_size,
            files: Mutex::new(BTreeMap::new()),
            environment: variables.collect(),
            parking: Parking::new(),
            clock: Clock::new(settings.clock_stands),
            findings: Findings::new(),
            machine: Mutex::new(Machine::new(settings)),
        });
        Simulated { inner, system: PhantomData }
    }

    /// The machine, as it is after whatever call or stray panic came before.
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.inner.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<i32, Vec<u8>>> {
        self.inner.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files of /proc and /sys that are open.
    pub fn open_files(&self) -> usize {
        self.files().len()
    }

    /// The machine at the beginning of a call.
    fn call(&self) -> MutexGuard<'_, Machine> {
        let mut machine = self.machine();
        machine.tick();
        machine
    }

    /// Changes the settings of the running kernel. What the process is made of stays: backing,
    /// space, alignment, page size and clock.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.machine().settings);
    }

    /// The address space of the process.
    pub fn space(&self) -> Range<usize> {
        self.machine().space()
    }

    /// What is mapped, lowest address first.
    pub fn mappings(&self) -> Vec<Mapping> {
        self.machine().mappings.iter().cloned().collect()
    }

    /// Bytes that are mapped, writable, charged.
    pub fn totals(&self) -> Totals {
        self.machine().mappings.totals()
    }

    /// Bytes in memory: of pages that hold anything but zeros, or are locked.
    pub fn resident_bytes(&self) -> usize {
        self.machine().resident() * self.inner.page_size
    }

    /// What the page that holds `address` allows, `None` where nothing is mapped.
    pub fn protection_at(&self, address: usize) -> Option<Protection> {
        self.machine().mappings.at(address).map(|mapping| mapping.attributes.protection)
    }

    /// Wants memory: every lazily freed page that was not written to since loses its contents.
    pub fn pressure(&self) {
        self.machine().pressure();
    }

    /// Locks (mlock(2)) or unlocks a range of the process.
    pub fn lock_memory(&self, range: PageRange, locked: bool) -> Result<(), Errno> {
        S::lock(&mut self.machine(), range.start.addr(), range.len, locked)
    }

    /// Maps a free range for another part of the process, whose it is from then on.
    pub fn occupy(&self, range: Range<usize>) {
        let mut machine = self.machine();
        assert!(machine.mappings.is_free(range.clone()), "{range:#x?} is taken");
        let foreign = Attributes { foreign: true, ..Attributes::new(Protection::NoAccess) };
        machine.map(range, foreign);
    }

    /// Unmaps what [`occupy`](Simulated::occupy), or a rival, mapped.
    pub fn vacate(&self, range: Range<usize>) {
        self.machine().unmap(range);
    }

    /// The next fixed mapping runs out of kernel memory half way.
    pub fn starve_next_replacement(&self) {
        self.machine().starve_replacement = true;
    }

    /// Panics if memory was written to that may not be.
    pub fn verify(&self) {
        self.machine().verify();
    }

    /// Lets time pass, and processor time with it.
    pub fn advance(&self, time: Duration) {
        self.inner.clock.advance(time);
        self.inner.parking.wake_all();
    }
}

impl<S: UnixSystem> Simulated<S> {
    /// Forks a child, which lives until it is dropped.
    pub fn fork(&self) -> Result<Child<S>, Errno> {
        let mut machine = self.call();
        let charged = S::fork(&machine)?;
        Ok(Child { kernel: self.clone(), number: machine.fork(charged) })
    }
}

/// A forked child of a simulated process. It runs nothing: it has memory, and shares it with the
/// process until that writes to it.
pub struct Child<S: System = Linux> {
    kernel: Simulated<S>,
    number: u64,
}

impl<S: System> Child<S> {
    /// The byte that the child finds at an address, `None` where it would fault.
    pub fn read(&self, address: usize) -> Option<u8> {
        let machine = self.kernel.machine();
        let offset = address & (machine.page_size() - 1);
        let page = machine.seen_by_child(self.number, address - offset)?;
        Some(page[offset])
    }
}

impl<B: Bsd> Child<B> {
    /// The child's own madvise(2): `MADV_FREE`, or advice that keeps contents.
    pub fn madvise(&self, address: usize, len: usize, advice: i32) {
        let machine = &mut *self.kernel.machine();
        if advice == B::ANSWERS.free {
            machine.discard_of_child(self.number, address..address + len);
        }
    }
}

impl<S: System> Drop for Child<S> {
    fn drop(&mut self) {
        self.kernel.machine().reap(self.number);
    }
}

// SAFETY: the memory of the simulated process is real, and mapped by nobody else; the rules keep
// mappings apart.
unsafe impl<S: System> Calls for Simulated<S> {
    const KERNEL: Kernel = S::KERNEL;

    fn page_size(&self) -> usize {
        self.inner.page_size
    }

    fn monotonic_time(&self) -> Duration {
        self.inner.clock.now()
    }

    fn thread_cpu_time(&self) -> Duration {
        self.inner.clock.thread_cpu_time()
    }

    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
        self.inner.parking.park(&self.inner.clock, word, while_equal, timeout);
    }

    fn wake(&self, _word: &AtomicU32, _count: u32) {
        // Whoever parks may return early: waking all is waking enough.
        self.inner.parking.wake_all();
    }

    fn environment(&self, name: &CStr) -> Option<&CStr> {
        let mut variables = self.inner.environment.iter();
        variables.find(|(key, _)| key.as_c_str() == name).map(|(_, value)| value.as_c_str())
    }

    fn findings(&self) -> &Findings {
        &self.inner.findings
    }
}

// SAFETY: as for `Calls`.
unsafe impl<S: UnixSystem> UnixCalls for Simulated<S> {
    unsafe fn mmap(
        &self,
        address: *mut u8,
        len: usize,
        protection: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        S::mmap(&mut self.call(), address.addr(), len, protection, flags)
    }

    unsafe fn munmap(&self, address: *mut u8, len: usize) -> Result<(), Errno> {
        S::munmap(&mut self.call(), address.addr(), len)
    }

    unsafe fn mprotect(&self, address: *mut u8, len: usize, protection: i32) -> Result<(), Errno> {
        S::mprotect(&mut self.call(), address.addr(), len, protection)
    }

    unsafe fn madvise(&self, address: *mut u8, len: usize, advice: i32) -> Result<(), Errno> {
        S::madvise(&mut self.call(), address.addr(), len, advice)
    }

    fn resource_limit(&self, resource: i32) -> Result<u64, Errno> {
        S::resource_limit(&self.call(), resource)
    }
}

impl<S: ProcFiles> Files for Simulated<S> {
    fn open(&self, path: &CStr) -> Result<i32, Errno> {
        let text = S::file(&self.call(), path)?;
        let mut files = self.files();
        let file = (3..).find(|file| !files.contains_key(file)).unwrap_or(i32::MAX);
        files.insert(file, text);
        Ok(file)
    }

    fn read_at(&self, file: i32, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let files = self.files();
        let text = files.get(&file).ok_or(crate::os::unix::EBADF)?;
        let rest = &text[(offset as usize).min(text.len())..];
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn close(&self, file: i32) {
        assert!(self.files().remove(&file).is_some(), "file {file} closed, but not open");
    }
}

impl WriteFiles for Simulated {
    fn write_file(&self, path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
        linux::write_file(&mut self.call(), path, bytes)
    }
}

impl ProcessControl for Simulated {
    fn process_control(&self, option: i32, argument: usize) -> Result<i32, Errno> {
        linux::process_control(&mut self.call(), option, argument)
    }
}

impl Mincore for Simulated {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        linux::mincore(&self.call(), address.addr(), len, residency)
    }
}

// SAFETY: as for `Calls`.
unsafe impl ProcessMadvise for Simulated {
    unsafe fn process_madvise(&self, ranges: &[PageRange], advice: i32) -> Result<usize, Errno> {
        linux::process_madvise(&mut self.call(), ranges, advice)
    }
}

// SAFETY: as for `Calls`.
unsafe impl NameMapping for Simulated {
    unsafe fn name_mapping(&self, address: *mut u8, len: usize, name: &CStr) -> Result<(), Errno> {
        linux::name_mapping(&mut self.call(), address.addr(), len, name)
    }
}
