//! What processes and the machine really use, as the system tells it; held against our own count.
//!
//! Every figure is an `Option`: `None` where the system has no such figure or does not show it to
//! the caller, never a guess. Sizes are bytes. Each figure says where it comes from; what no system
//! is named for, the named ones alone have.
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

use crate::{Error, ErrorKind, Native, Operation, Os, PageRange};

#[cfg(test)]
mod answers;
mod bsd;
mod bytes;
mod darwin;
mod dragonfly;
mod figures;
pub(crate) mod files;
mod freebsd;
mod illumos;
pub(crate) mod lines;
mod linux;
mod mapping;
mod netbsd;
mod openbsd;
mod reconcile;
mod residency;
mod windows;

pub use figures::{
    ControlGroup, MachineUsage, NO_LIMIT, Overcommit, PageFigures, Pressure, ProcessUsage, Stall,
};
pub use mapping::{Group, Mapping, MappingKind};
pub use reconcile::{Part, Reconciliation, Subsystem};
pub use residency::{PageRun, PageState};

/// The smallest buffer that [`mappings`] and [`reconcile`] take, in bytes. A name longer than half
/// of the buffer is cut; paths can have 4 KiB. Some systems want more, and say how much.
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

/// A system that tells what processes and the machine use.
///
/// What a system cannot tell as a whole is refused as [`ErrorKind::NotSupported`].
pub trait Usage: Os {
    /// See [`process`].
    fn process_usage(&self, process: Process, detail: Detail) -> Result<ProcessUsage, Error>;

    /// See [`machine`].
    fn machine_usage(&self) -> Result<MachineUsage, Error>;

    /// See [`control_group`]. Most systems have none.
    fn control_group(&self, _process: Process) -> Result<ControlGroup, Error> {
        Ok(ControlGroup::default())
    }

    /// See [`mappings`].
    fn mappings(
        &self,
        process: Process,
        detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error>;

    /// See [`residency()`].
    fn page_runs(
        &self,
        process: Process,
        range: PageRange,
        each: &mut dyn FnMut(&PageRun),
    ) -> Result<(), Error>;
}

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
/// FreeBSD, NetBSD and DragonFly tell the whole list at once: it must fit into the buffer
/// ([`SmallBuffer`](ErrorKind::SmallBuffer) says that it did not), some 200 bytes a mapping on
/// FreeBSD and DragonFly, 1,128 on NetBSD. OpenBSD tells root of processes not its own, and no
/// names. DragonFly's are in /proc, which must be mounted.
///
/// A process that maps memory meanwhile may be told with some of it and without the rest. One that
/// ends, or executes another program, is [`ErrorKind::Gone`]: what was handed out is then not all.
///
/// ```
/// use sysmem::usage::{self, Detail, MappingKind, Process};
///
/// let mut libraries = 0;
/// usage::mappings(Process::Own, Detail::Counters, &mut vec![0; 1 << 20], &mut |mapping| {
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

/// Hands the pages of a range to `each`, in order and in runs that are alike; pages that are in
/// neither memory nor swap are left out, or told as not resident.
///
/// Linux 6.7 and later: `PAGEMAP_SCAN`, which passes over what is not there, so that address space
/// costs nothing; before, /proc/PID/pagemap, eight bytes a page. Windows: `QueryWorkingSetEx`.
/// Elsewhere the calling process only, by mincore(2), which OpenBSD has not.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use sysmem::{Account, PageRange, Reservation, usage::{self, Process}};
///
/// static POOL: Account = Account::new("pool");
/// let pool = Reservation::alloc(1 << 20, &POOL)?;
/// let (mut resident, range) = (0, PageRange::new(pool.as_mut_ptr(), pool.len()));
/// usage::residency(Process::Own, range, &mut |run| {
///     resident += if run.state.resident { run.len() } else { 0 };
/// })?;
/// assert_eq!(resident, 0, "nothing was touched");
/// # }
/// # Ok::<(), sysmem::Error>(())
/// ```
#[doc(alias = "mincore")]
pub fn residency(
    process: Process,
    range: PageRange,
    each: &mut dyn FnMut(&PageRun),
) -> Result<(), Error> {
    Native::NEW.page_runs(process, range, each)
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
/// let whole = usage::reconcile(&mut subsystems, &mut vec![0; 1 << 20])?;
/// assert_eq!(whole.ours.virtual_size, whole.booked.ready + whole.booked.reserved);
/// for subsystem in subsystems.iter().flatten() {
///     println!("{}: {:?} bytes resident", subsystem.account.name(), subsystem.part.resident);
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

/// Refuses a buffer that is too small to work in.
fn check_buffer(buffer: &[u8]) -> Result<(), Error> {
    match buffer.len() < LEAST_BUFFER {
        true => Err(refusal(ErrorKind::SmallBuffer { least: LEAST_BUFFER })),
        false => Ok(()),
    }
}
