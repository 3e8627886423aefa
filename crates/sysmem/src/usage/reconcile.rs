//! Our accounts held against the kernel's figures.

use super::{Detail, Group, Mapping, MappingKind, Process, ProcessUsage, Usage, check_buffer};
use crate::{Account, AccountFigures, Error, ErrorKind, PageRange, Registered, accounts};

/// A part of the address space of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// How many mappings it is made of.
    pub mappings: u64,
    /// Its address space in bytes.
    pub virtual_size: u64,
    /// What of that is in physical memory, in bytes; `None` where the system does not tell it of
    /// all of its mappings (OpenBSD tells it of none).
    pub resident: Option<u64>,
}

impl Part {
    const EMPTY: Part = Part { mappings: 0, virtual_size: 0, resident: Some(0) };

    fn add(&mut self, other: Part) {
        self.mappings += other.mappings;
        self.virtual_size += other.virtual_size;
        self.resident = self.resident.zip(other.resident).map(|(sum, more)| sum + more);
    }

    fn subtract(&mut self, other: Part) {
        self.virtual_size = self.virtual_size.saturating_sub(other.virtual_size);
        let resident = self.resident.zip(other.resident);
        self.resident = resident.map(|(all, part)| all.saturating_sub(part));
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconciliation {
    /// All accounts together. Peaks are sums of peaks, which need not have been at one moment.
    pub booked: AccountFigures,
    /// Our reservations, as the kernel sees them. Their address space is what is booked as
    /// Reserved, Prepared and Ready.
    pub ours: Part,
    /// What the record of our reservations itself takes: booked on no account, and part of
    /// [`Group::Unnamed`].
    pub registry: u64,
    /// What the kernel says of the whole process.
    pub process: ProcessUsage,
    /// By group.
    not_ours: [Part; Group::COUNT],
}

impl Reconciliation {
    /// All parts together: what [`process`](Reconciliation::process) says, but for what changed
    /// in between and for the page that Linux lists and does not count (vsyscall).
    pub fn sum(&self) -> Part {
        let mut sum = self.ours;
        self.not_ours.iter().for_each(|part| sum.add(*part));
        sum
    }

    /// What is not ours in a group: program, libraries, stacks, memory that the C library, other
    /// allocators or the program mapped.
    pub fn not_ours(&self, group: Group) -> Part {
        self.not_ours[group as usize]
    }
}

pub(super) fn reconcile<O: Usage>(
    os: &O,
    subsystems: &mut [Option<Subsystem>],
    buffer: &mut [u8],
) -> Result<Reconciliation, Error> {
    check_buffer(buffer)?;
    let mut whole = Reconciliation {
        booked: AccountFigures::default(),
        ours: Part::EMPTY,
        registry: os.registry().metadata_bytes() as u64,
        process: ProcessUsage::default(),
        not_ours: [Part::EMPTY; Group::COUNT],
    };
    subsystems.fill(None);
    let mut room = subsystems.iter_mut();
    for account in accounts() {
        let figures = account.figures();
        add_figures(&mut whole.booked, &figures);
        if let Some(room) = room.next() {
            *room = Some(Subsystem { account, figures, part: Part::EMPTY });
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

/// Books a mapping on the subsystems whose reservations lie in it, and the rest by its group.
fn split<O: Usage>(
    os: &O,
    mapping: &Mapping<'_>,
    whole: &mut Reconciliation,
    subsystems: &mut [Option<Subsystem>],
) -> Result<(), Error> {
    let resident = match mapping.pages.resident {
        None => resident_bytes(os, mapping.start, mapping.len())?,
        told => told,
    };
    let mut rest = Part { mappings: 1, virtual_size: mapping.len() as u64, resident };
    // The kernel makes one mapping of neighbours that are alike, ours or not, and many of a
    // reservation whose parts are not.
    let private_memory = matches!(mapping.kind, MappingKind::Anonymous | MappingKind::Named);
    let overlaps = os.registry().reservations().filter_map(|ours| {
        let overlap = overlap(&ours, mapping)?;
        Some((ours.account(), overlap))
    });
    for (account, (start, len)) in overlaps.filter(|_| private_memory) {
        let resident = match (rest.resident, len == mapping.len()) {
            (Some(0), _) => Some(0),
            (all, true) => all,
            _ => resident_bytes(os, start, len)?,
        };
        let part = Part { mappings: 1, virtual_size: len as u64, resident };
        whole.ours.add(part);
        rest.subtract(part);
        let mut subsystems = subsystems.iter_mut().flatten();
        if let Some(subsystem) = subsystems.find(|it| core::ptr::eq(it.account, account)) {
            subsystem.part.add(part);
        }
    }
    if rest.virtual_size > 0 {
        whole.not_ours[Group::of(mapping) as usize].add(rest);
    }
    Ok(())
}

/// The resident bytes of a range of this process; `None` on a system that does not tell.
fn resident_bytes<O: Usage>(os: &O, start: usize, len: usize) -> Result<Option<u64>, Error> {
    let range = PageRange::new(core::ptr::without_provenance_mut(start), len);
    let mut resident = 0;
    let told = os.page_runs(Process::Own, range, &mut |run| {
        let memory = run.state.resident && run.state.zero != Some(true);
        resident += if memory { run.len() as u64 } else { 0 };
    });
    match told {
        Ok(()) => Ok(Some(resident)),
        Err(error) if error.kind() == ErrorKind::NotSupported => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first address and the length of what a reservation and a mapping share.
fn overlap(ours: &Registered<'_>, mapping: &Mapping<'_>) -> Option<(usize, usize)> {
    let start = ours.address().max(mapping.start);
    let end = (ours.address() + ours.len()).min(mapping.end);
    (start < end).then(|| (start, end - start))
}
