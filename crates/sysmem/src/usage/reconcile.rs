//! Our accounts held against the kernel's figures.

use super::{Detail, LEAST_BUFFER, Mapping, MappingKind, Process, ProcessUsage, Usage, refusal};
use crate::{Account, AccountFigures, Error, ErrorKind, PageRange, Registered, accounts};

/// A part of the address space of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its address space in bytes.
    pub virtual_size: u64,
    /// What of that is in physical memory, in bytes.
    pub resident: u64,
}

impl Part {
    fn add(&mut self, virtual_size: u64, resident: u64) {
        self.virtual_size += virtual_size;
        self.resident += resident;
    }

    fn subtract(&mut self, other: Part) {
        self.virtual_size = self.virtual_size.saturating_sub(other.virtual_size);
        self.resident = self.resident.saturating_sub(other.resident);
    }
}

/// One of our subsystems: what its account says, and what the kernel says of its reservations.
#[derive(Clone, Copy)]
pub struct Subsystem {
    /// The account.
    pub account: &'static Account,
    /// What it says.
    pub figures: AccountFigures,
    /// What the kernel says.
    pub part: Part,
}

/// The memory of this process: what is ours, and what is not, named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// All accounts together. Peaks are sums of peaks, which need not have been at one moment.
    pub booked: AccountFigures,
    /// Our reservations, as the kernel sees them. Their address space is what is booked as
    /// Reserved, Prepared and Ready.
    pub ours: Part,
    /// What the record of our reservations itself takes: booked on no account, and part of
    /// [`other`](Reconciliation::other).
    pub registry: u64,
    /// The program's file.
    pub program: Part,
    /// Libraries and other files.
    pub files: Part,
    /// Shared memory without a file on disk.
    pub shared_memory: Part,
    /// Stacks, as far as the system or the C library marks them: the first thread's at least.
    pub stacks: Part,
    /// The C library's heap behind the program.
    pub program_break: Part,
    /// The kernel's own mappings: vdso, devices.
    pub system: Part,
    /// The rest: memory that the C library, other allocators or the program mapped.
    pub other: Part,
    /// What the kernel says of the whole process.
    pub process: ProcessUsage,
}

impl Reconciliation {
    /// All parts together: what [`process`](Reconciliation::process) says, but for what changed
    /// in between and for the page that Linux lists and does not count (vsyscall).
    pub fn sum(&self) -> Part {
        let mut sum = self.ours;
        for part in self.not_ours() {
            sum.add(part.1.virtual_size, part.1.resident);
        }
        sum
    }

    /// What is not ours, with its name.
    pub fn not_ours(&self) -> [(&'static str, Part); 7] {
        [
            ("program", self.program),
            ("libraries and other files", self.files),
            ("shared memory", self.shared_memory),
            ("stacks", self.stacks),
            ("the C library's heap", self.program_break),
            ("system", self.system),
            ("other mappings", self.other),
        ]
    }
}

pub(super) fn reconcile<O: Usage>(
    os: &O,
    subsystems: &mut [Option<Subsystem>],
    buffer: &mut [u8],
) -> Result<Reconciliation, Error> {
    if buffer.len() < LEAST_BUFFER {
        return Err(refusal(ErrorKind::SmallBuffer { least: LEAST_BUFFER }));
    }
    let mut whole = Reconciliation {
        registry: os.registry().metadata_bytes() as u64,
        ..Reconciliation::default()
    };
    subsystems.fill(None);
    let mut room = subsystems.iter_mut();
    for account in accounts() {
        let figures = account.figures();
        add_figures(&mut whole.booked, &figures);
        if let Some(room) = room.next() {
            *room = Some(Subsystem { account, figures, part: Part::default() });
        }
    }
    let mut failed = None;
    os.mappings(Process::Own, Detail::Pages, buffer, &mut |mapping| {
        let ours = split(os, mapping, &mut whole, subsystems);
        failed = failed.or(ours.err());
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    whole.process = os.process_usage(Process::Own, Detail::Counters)?;
    Ok(whole)
}

fn add_figures(sum: &mut AccountFigures, figures: &AccountFigures) {
    let AccountFigures {
        reserved,
        prepared,
        ready,
        peak_reserved,
        peak_prepared,
        peak_ready,
        obtained,
    } = figures;
    sum.reserved += reserved;
    sum.prepared += prepared;
    sum.ready += ready;
    sum.peak_reserved += peak_reserved;
    sum.peak_prepared += peak_prepared;
    sum.peak_ready += peak_ready;
    sum.obtained += obtained;
}

/// Books a mapping on the subsystems whose reservations lie in it, and the rest by its kind.
fn split<O: Usage>(
    os: &O,
    mapping: &Mapping<'_>,
    whole: &mut Reconciliation,
    subsystems: &mut [Option<Subsystem>],
) -> Result<(), Error> {
    let mut rest =
        Part { virtual_size: mapping.len() as u64, resident: mapping.pages.resident.unwrap_or(0) };
    // The kernel makes one mapping of neighbours that are alike, ours or not, and many of a
    // reservation whose parts are not.
    let private_memory = matches!(mapping.kind, MappingKind::Anonymous | MappingKind::Named);
    let overlaps = os.registry().reservations().filter_map(|ours| {
        let overlap = overlap(&ours, mapping)?;
        Some((ours.account(), overlap))
    });
    for (account, (start, len)) in overlaps.filter(|_| private_memory) {
        let resident = match (rest.resident, len == mapping.len()) {
            (0, _) => 0,
            (all, true) => all,
            _ => os.resident_bytes(PageRange::new(core::ptr::without_provenance_mut(start), len))?
                as u64,
        };
        let part = Part { virtual_size: len as u64, resident };
        whole.ours.add(part.virtual_size, part.resident);
        rest.subtract(part);
        let mut subsystems = subsystems.iter_mut().flatten();
        if let Some(subsystem) = subsystems.find(|it| core::ptr::eq(it.account, account)) {
            subsystem.part.add(part.virtual_size, part.resident);
        }
    }
    let part = match mapping.kind {
        MappingKind::Program => &mut whole.program,
        MappingKind::File => &mut whole.files,
        MappingKind::SharedMemory => &mut whole.shared_memory,
        MappingKind::Stack => &mut whole.stacks,
        MappingKind::ProgramBreak => &mut whole.program_break,
        MappingKind::System => &mut whole.system,
        MappingKind::Named | MappingKind::Anonymous => &mut whole.other,
    };
    part.add(rest.virtual_size, rest.resident);
    Ok(())
}

/// The first address and the length of what a reservation and a mapping share.
fn overlap(ours: &Registered<'_>, mapping: &Mapping<'_>) -> Option<(usize, usize)> {
    let start = ours.address().max(mapping.start);
    let end = (ours.address() + ours.len()).min(mapping.end);
    (start < end).then(|| (start, end - start))
}
