//! What processes and the machine really use, as the system tells it; held against our own count.
//!
//! Every figure is an `Option`: `None` where the system has no such figure or does not show it to
//! the caller, never a guess. Sizes are bytes. Each figure says where it comes from.
//!
//! Nothing here allocates. [`process`], [`machine`] and [`control_group`] keep what they read on
//! the stack, some 10 KiB; [`mappings`] and [`reconcile`] work in a buffer of the caller's.
//!
//! ```
//! use sysmem::usage::{self, Detail, Process};
//!
//! let used = usage::process(Process::Own, Detail::Counters)?;
//! if let (Some(resident), Some(peak)) = (used.resident, used.peak_resident) {
//!     assert!(resident > 0 && peak > 0);
//! }
//! # Ok::<(), sysmem::Error>(())
//! ```

use core::time::Duration;

use crate::calls::VirtualMemory;
use crate::{Error, ErrorKind, Native, Operation, Os, os};

mod bsd;
mod lines;
pub mod linux;
mod reconcile;

pub use reconcile::{Part, Reconciliation, Subsystem};

/// A limit that does not limit: what a figure that is a limit holds where there is none.
pub const NO_LIMIT: u64 = u64::MAX;

/// The smallest buffer that [`mappings`] and [`reconcile`] take, in bytes. A name longer than half
/// of the buffer is cut; paths can have 4 KiB.
pub const LEAST_BUFFER: usize = 512;

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// The calling one.
    Own,
    /// The one with this number.
    Id(u32),
}

/// How much trouble the system is to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What the system counts as it goes: on Linux some 60 µs whatever the size of the process.
    Counters,
    /// Also what it must look for, page by page: on Linux some 15 ms for each GiB resident in
    /// small pages. The process cannot map memory meanwhile.
    Pages,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// The size of the address space. Linux: `VmSize` of /proc/PID/status. FreeBSD: `ki_size`.
    /// NetBSD: `p_vm_vsize`.
    pub virtual_size: Option<u64>,
    /// The largest it ever was. Linux: `VmPeak`.
    pub peak_virtual_size: Option<u64>,
    /// In physical memory. Linux: `VmRSS`, which may be some MiB old on machines with many
    /// processors (proc_pid_status(5)); [`PageFigures::resident`] is exact. FreeBSD: `ki_rssize`.
    /// NetBSD, OpenBSD: `p_vm_rssize`.
    #[doc(alias = "rss")]
    pub resident: Option<u64>,
    /// The most that ever was in physical memory, since the program was executed. Linux: `VmHWM`.
    /// FreeBSD, OpenBSD: `ru_maxrss`, which the clock samples on FreeBSD. NetBSD has none.
    pub peak_resident: Option<u64>,
    /// Resident and of no file. Linux: `RssAnon`, since 4.5.
    pub resident_anonymous: Option<u64>,
    /// Resident pages of files. Linux: `RssFile`, since 4.5.
    pub resident_files: Option<u64>,
    /// Resident shared memory. Linux: `RssShmem`, since 4.5.
    pub resident_shared: Option<u64>,
    /// In swap. Linux: `VmSwap`, without shared memory.
    pub swapped: Option<u64>,
    /// Locked into memory (mlock(2)). Linux: `VmLck`.
    pub locked: Option<u64>,
    /// Private writable mappings, which `RLIMIT_DATA` limits. Linux: `VmData`.
    pub data: Option<u64>,
    /// The first thread's stack. Linux: `VmStk`.
    pub stack: Option<u64>,
    /// Page tables, which come on top of the resident pages. Linux: `VmPTE`.
    pub page_tables: Option<u64>,
    /// What Darwin holds a process to account for. `None` elsewhere.
    pub phys_footprint: Option<u64>,
    /// Memory promised to the process on Windows. `None` on Linux, which keeps that sum for the
    /// machine only: [`MachineUsage::committed`].
    pub commit_charge: Option<u64>,
    /// Processor time in user mode. Linux: getrusage(2) for the calling process, `utime` of
    /// /proc/PID/stat for another, in steps of 10 ms.
    pub user_time: Option<Duration>,
    /// Processor time in the kernel. Linux: as above, and `stime`.
    pub system_time: Option<Duration>,
    /// Page faults that needed no input or output. Linux: getrusage(2), or `minflt`.
    pub minor_faults: Option<u64>,
    /// Page faults that waited for input or output. Linux: getrusage(2), or `majflt`.
    pub major_faults: Option<u64>,
    /// The most address space it may have, [`NO_LIMIT`] for any. Linux: /proc/PID/limits.
    #[doc(alias = "RLIMIT_AS")]
    pub virtual_size_limit: Option<u64>,
    /// The most [`data`](ProcessUsage::data) it may have, [`NO_LIMIT`] for any. Linux:
    /// /proc/PID/limits.
    #[doc(alias = "RLIMIT_DATA")]
    pub data_limit: Option<u64>,
    /// The most it may lock, [`NO_LIMIT`] for any. Linux: /proc/PID/limits.
    #[doc(alias = "RLIMIT_MEMLOCK")]
    pub locked_limit: Option<u64>,
    /// How many mappings it may have. Linux: /proc/sys/vm/max_map_count.
    pub mappings_limit: Option<u64>,
    /// How many mappings it has; with [`Detail::Pages`] only. Linux: the lines of /proc/PID/maps.
    pub mappings: Option<u64>,
    /// What was found page by page; with [`Detail::Pages`] only. Linux: /proc/PID/smaps_rollup,
    /// since 4.14, for those who may trace the process.
    pub pages: PageFigures,
}

/// What the system finds by looking at pages, of a mapping or of a process. On Linux each is the
/// field of /proc/PID/smaps named (proc_pid_smaps(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFigures {
    /// In physical memory: `Rss`. Without [`reserved_huge`](PageFigures::reserved_huge) pages.
    pub resident: Option<u64>,
    /// Resident, each page divided by the number of processes that share it: `Pss`.
    pub proportional: Option<u64>,
    /// Resident and mapped by no other process: `Private_Clean` and `Private_Dirty`.
    pub private: Option<u64>,
    /// Resident and of no file: `Anonymous`.
    pub anonymous: Option<u64>,
    /// Given back lazily (`MADV_FREE`) and not taken yet, counted as resident: `LazyFree`.
    pub lazily_freed: Option<u64>,
    /// Mapped by transparent huge pages: `AnonHugePages`, `ShmemPmdMapped`, `FilePmdMapped`.
    pub huge: Option<u64>,
    /// In huge pages set aside by the administrator (hugetlb): `Shared_Hugetlb`,
    /// `Private_Hugetlb`.
    pub reserved_huge: Option<u64>,
    /// In swap: `Swap`.
    pub swapped: Option<u64>,
    /// Locked into memory: `Locked`.
    pub locked: Option<u64>,
}

impl PageFigures {
    /// Resident, without what was given back lazily and not been taken yet.
    pub fn resident_in_use(&self) -> Option<u64> {
        self.resident?.checked_sub(self.lazily_freed?)
    }
}

/// What the machine has and uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineUsage {
    /// The size of a page.
    pub page_size: Option<u64>,
    /// Physical memory. Linux: `MemTotal` of /proc/meminfo.
    pub total: Option<u64>,
    /// Of that, used for nothing. Linux: `MemFree`.
    pub free: Option<u64>,
    /// What programs could get without swapping. Linux: `MemAvailable`, since 3.14.
    pub available: Option<u64>,
    /// Swap space. Linux: `SwapTotal`.
    pub swap_total: Option<u64>,
    /// Of that, unused. Linux: `SwapFree`.
    pub swap_free: Option<u64>,
    /// Memory promised to programs. Linux: `Committed_AS`.
    pub committed: Option<u64>,
    /// The most that may be promised under [`Overcommit::Never`]. Linux: `CommitLimit`.
    pub commit_limit: Option<u64>,
    /// How the system promises memory. Linux: /proc/sys/vm/overcommit_memory.
    pub overcommit: Option<Overcommit>,
    /// Page tables. Linux: `PageTables`.
    pub page_tables: Option<u64>,
    /// The size of a huge page that the system may build out of pages. Linux:
    /// /sys/kernel/mm/transparent_hugepage/hpage_pmd_size.
    pub huge_page_size: Option<u64>,
    /// Whether it builds them. Linux: /sys/kernel/mm/transparent_hugepage/enabled.
    pub huge_pages: Option<HugePages>,
    /// Anonymous memory in huge pages. Linux: `AnonHugePages`.
    pub anonymous_huge: Option<u64>,
    /// The usual size of huge pages that the administrator set aside. Linux: `Hugepagesize`.
    pub reserved_huge_page_size: Option<u64>,
    /// Memory set aside for huge pages of all sizes. Linux: `Hugetlb`, since 4.18.
    pub reserved_huge: Option<u64>,
    /// Of those of the usual size, unused. Linux: `HugePages_Free`.
    pub reserved_huge_free: Option<u64>,
    /// How long work has waited for memory. Linux: /proc/pressure/memory, since 4.20, where it is
    /// not turned off.
    pub pressure: Option<Pressure>,
}

/// How a system promises memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overcommit {
    /// What is obviously too much is refused.
    Heuristic,
    /// Everything is promised.
    Always,
    /// No more is promised than there is.
    Never,
}

/// Whether a system builds huge pages out of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Wherever it can.
    Always,
    /// Where a program advises it.
    Advised,
    /// Nowhere.
    Never,
}

/// How long work has waited for memory (PSI).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Some task waited.
    pub some: Stall,
    /// All tasks that were not idle waited.
    pub full: Stall,
}

/// A share of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// The share of the last ten seconds, in hundredths of a percent.
    pub ten_seconds: u32,
    /// The share of the last minute, in hundredths of a percent.
    pub minute: u32,
    /// The share of the last five minutes, in hundredths of a percent.
    pub five_minutes: u32,
    /// All of it since the start.
    pub total: Duration,
}

/// What the control group that a process is charged to uses, and what it may use. A group is also
/// held to the limits of those around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlGroup {
    /// Memory charged, caches of files included. Linux: memory.current, or in version 1
    /// memory.usage_in_bytes.
    pub used: Option<u64>,
    /// The most that ever was charged. Linux: memory.peak, since 5.19, or
    /// memory.max_usage_in_bytes.
    pub peak: Option<u64>,
    /// The least of the limits of the group and those around it, [`NO_LIMIT`] for none. Linux:
    /// memory.max, or memory.limit_in_bytes.
    pub limit: Option<u64>,
    /// The least size from which the group is slowed down and reclaimed, [`NO_LIMIT`] for none.
    /// Linux: memory.high; `None` in version 1.
    pub slowed_from: Option<u64>,
    /// Swap charged. Linux: memory.swap.current; `None` in version 1.
    pub swap_used: Option<u64>,
    /// The least of the limits on swap, [`NO_LIMIT`] for none. Linux: memory.swap.max; `None` in
    /// version 1.
    pub swap_limit: Option<u64>,
    /// How long the group's work has waited for memory. Linux: memory.pressure; `None` in
    /// version 1.
    pub pressure: Option<Pressure>,
}

/// What a mapping is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MappingKind {
    /// The program's own file.
    Program,
    /// Another file: libraries, mapped data.
    File,
    /// Memory that processes may share, without a file on disk.
    SharedMemory,
    /// Memory with a name that the program gave it.
    Named,
    /// Memory without a name.
    Anonymous,
    /// The C library's heap behind the program (brk(2)).
    ProgramBreak,
    /// A thread's stack; of threads other than the first, where the C library names them.
    Stack,
    /// The kernel's: vdso, devices.
    System,
}

/// One mapping of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// The first address.
    pub start: usize,
    /// The address after the last.
    pub end: usize,
    /// Whether it may be read.
    pub readable: bool,
    /// Whether it may be written to.
    pub writable: bool,
    /// Whether it may be executed.
    pub executable: bool,
    /// Whether writes are seen by others that map the same; `false` on FreeBSD, which does not tell.
    pub shared: bool,
    /// Where in its file it begins.
    pub offset: u64,
    /// What it is made of.
    pub kind: MappingKind,
    /// The path of its file, or the name it was given; as the system writes it, cut where the
    /// caller's buffer had no room. Empty for memory without a name.
    pub name: &'a [u8],
    /// What was found page by page; with [`Detail::Pages`] only.
    pub pages: PageFigures,
}

impl Mapping<'_> {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Never: no mapping is empty.
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }
}

/// A system that tells what processes and the machine use.
///
/// What a system cannot tell as a whole is refused as [`ErrorKind::NotSupported`].
pub trait Usage: Os {
    /// See [`process`].
    fn process_usage(&self, process: Process, detail: Detail) -> Result<ProcessUsage, Error> {
        let _ = (process, detail);
        Err(refusal(ErrorKind::NotSupported))
    }

    /// See [`machine`].
    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        Err(refusal(ErrorKind::NotSupported))
    }

    /// See [`control_group`].
    fn control_group(&self, process: Process) -> Result<ControlGroup, Error> {
        let _ = process;
        Err(refusal(ErrorKind::NotSupported))
    }

    /// See [`mappings`].
    fn mappings(
        &self,
        process: Process,
        detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error> {
        let _ = (process, detail, buffer, each);
        Err(refusal(ErrorKind::NotSupported))
    }
}

// Not told yet.
impl<K: os::dragonfly::DragonFlyCalls> Usage for os::dragonfly::DragonFly<K> {}
impl<K: os::illumos::IllumosCalls> Usage for os::illumos::Illumos<K> {}
impl<K: os::darwin::DarwinCalls> Usage for os::darwin::Darwin<K> {}
impl<K: VirtualMemory> Usage for os::windows::Windows<K> {}

/// What a process uses. A process that ends in the middle is [`ErrorKind::Gone`].
///
/// ```
/// use sysmem::usage::{self, Detail, Process};
///
/// let own = usage::process(Process::Own, Detail::Pages)?;
/// println!("{:?} proportional, {:?} in huge pages", own.pages.proportional, own.pages.huge);
/// # Ok::<(), sysmem::Error>(())
/// ```
#[doc(alias = "getrusage")]
pub fn process(process: Process, detail: Detail) -> Result<ProcessUsage, Error> {
    Native::NEW.process_usage(process, detail)
}

/// What the machine has and uses.
pub fn machine() -> Result<MachineUsage, Error> {
    Native::NEW.machine_usage()
}

/// What the control group that a process is charged to uses and may use. All `None` where it is
/// in none that this process can see.
pub fn control_group(process: Process) -> Result<ControlGroup, Error> {
    Native::NEW.control_group(process)
}

/// Hands each mapping of a process to `each`, lowest address first. The name lies in `buffer`,
/// which has at least [`LEAST_BUFFER`] bytes.
///
/// A process that maps memory meanwhile may be told with some of it and without the rest. One that
/// ends, or executes another program, is [`ErrorKind::Gone`]: what was handed out is then not all.
///
/// ```
/// use sysmem::usage::{self, Detail, MappingKind, Process};
///
/// let mut libraries = 0;
/// usage::mappings(Process::Own, Detail::Counters, &mut [0; 8192], &mut |mapping| {
///     libraries += u32::from(mapping.kind == MappingKind::File && mapping.executable);
/// })?;
/// # Ok::<(), sysmem::Error>(())
/// ```
pub fn mappings(
    process: Process,
    detail: Detail,
    buffer: &mut [u8],
    each: &mut dyn FnMut(&Mapping<'_>),
) -> Result<(), Error> {
    Native::NEW.mappings(process, detail, buffer, each)
}

/// Holds our accounts against what the kernel says of this process: what of its memory is ours, by
/// subsystem, and what the rest is.
///
/// `subsystems` is filled with one element for each account, as far as there is room. Works in
/// `buffer`, as [`mappings`] does. Mappings and accounts are read one after the other: while other
/// threads move memory, figures may be a moment apart.
///
/// ```
/// use sysmem::{Account, Reservation, usage};
///
/// static POOL: Account = Account::new("pool");
/// let pool = Reservation::alloc(1 << 20, &POOL)?;
///
/// let mut subsystems = [const { None }; 8];
/// let whole = usage::reconcile(&mut subsystems, &mut [0; 8192])?;
/// assert_eq!(whole.ours.virtual_size, whole.booked.ready + whole.booked.reserved);
/// for subsystem in subsystems.iter().flatten() {
///     println!("{}: {} bytes resident", subsystem.account.name(), subsystem.part.resident);
/// }
/// # Ok::<(), sysmem::Error>(())
/// ```
pub fn reconcile(
    subsystems: &mut [Option<Subsystem>],
    buffer: &mut [u8],
) -> Result<Reconciliation, Error> {
    reconcile::reconcile(&Native::NEW, subsystems, buffer)
}

/// An error about a whole process or machine.
pub(crate) fn refusal(kind: ErrorKind) -> Error {
    Error::new(Operation::Usage, 0, 0, kind)
}
