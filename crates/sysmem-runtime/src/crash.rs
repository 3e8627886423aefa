//! A simulated crash: memory that is gone under a program that still wants it.

use core::ptr::with_exposed_provenance_mut;
use core::slice;

use sysmem::os::Policy;
use sysmem::usage::{Detail, Mapping, MappingKind, Process, Usage};
use sysmem::{Error, ErrorKind, Os, PageRange};

mod needed;
#[cfg(test)]
mod tests;

use needed::Needed;

/// What [`fault_all`] takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultAll {
    /// Every reservation made through the system.
    Ours,
    /// Every private anonymous mapping of the process, whoever made it, but those that code needs
    /// to run: stacks that the system marks, the stack and the variables of the thread that does
    /// it, and the variables that programs and libraries begin with.
    ///
    /// On Windows the variables of a thread lie on the process's heap, the first part of which is
    /// left.
    ///
    /// The list of mappings is the system's ([`usage::mappings`](sysmem::usage::mappings) says how
    /// it is had), and where that cannot be read the answer is its error. FreeBSD, NetBSD and
    /// DragonFly do not tell shared anonymous memory (`MAP_SHARED`) from private: it is taken from
    /// this process, and left to those it is shared with.
    Process,
}

/// What [`fault_all`] did, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultAllOutcome {
    /// What faults now, and did not before.
    pub faulted: usize,
    /// Left: files, code and constants among them.
    pub left_files: usize,
    /// Left: shared with other processes, or seen at more than one address.
    pub left_shared: usize,
    /// Left: stacks and variables, without which the calling code could not go on.
    pub left_needed: usize,
    /// Left: the kernel's own pages in the process.
    pub left_kernel: usize,
    /// Left: what the system refused to take, sealed memory for one.
    pub left_refused: usize,
    /// The first of those refusals.
    pub refusal: Option<Error>,
}

/// Makes memory fault as if the machine had lost it, contents dropped and given back: to see what
/// a crash at this moment leaves behind, in files and in other processes. Says what it left.
///
/// The calling thread can go on with what is on its stack, and should end the process. Whatever
/// else it touches faults.
///
/// # Safety
///
/// No thread relies on memory that this takes away: other threads may die of it at once, and the
/// calling one whenever it uses the heap, say. Do it in a forked child.
#[doc(alias = "sysFaultOS")]
#[track_caller]
pub unsafe fn fault_all<O: Usage>(os: &O, what: FaultAll) -> Result<FaultAllOutcome, Error> {
    match what {
        // SAFETY: the caller's promise.
        FaultAll::Ours => Ok(unsafe { fault_ours(os) }),
        FaultAll::Process => {
            let list = |buffer: &mut [u8], each: &mut dyn FnMut(&Mapping<'_>)| {
                os.mappings(Process::Own, Detail::Counters, buffer, each)
            };
            // SAFETY: the caller's promise.
            unsafe { fault_process(os, list) }
        }
    }
}

/// # Safety
///
/// As for [`fault_all`].
#[track_caller]
unsafe fn fault_ours(os: &impl Os) -> FaultAllOutcome {
    let mut outcome = FaultAllOutcome::default();
    let needed = Needed::now();
    for found in os.registry().reservations() {
        if needed.lies_in(found.address(), found.len()) {
            outcome.left_needed += found.len();
            continue;
        }
        // SAFETY: the caller's promise; the registry's own pages are no reservation.
        match unsafe { found.fault(os) } {
            Ok(faulted) => outcome.faulted += faulted,
            Err(error) => {
                outcome.left_refused += found.len();
                outcome.refusal.get_or_insert(error);
            }
        }
    }
    outcome
}

/// The first buffer, in bytes: enough for some hundred mappings on every system.
const FIRST_BUFFER: usize = 256 << 10;

/// Faults what `list` tells that can be spared. The list is complete before anything is taken
/// away: what makes it may need memory that will be gone (on Windows, the process's heap).
///
/// # Safety
///
/// As for [`fault_all`]; `list` tells the mappings of this process.
unsafe fn fault_process<O: Os>(
    os: &O,
    list: impl Fn(&mut [u8], &mut dyn FnMut(&Mapping<'_>)) -> Result<(), Error>,
) -> Result<FaultAllOutcome, Error> {
    let needed = Needed::now();
    let mut len = FIRST_BUFFER;
    loop {
        let mut notes = Notes::alloc(os, len)?;
        let (buffer, places) = notes.parts();
        let (mut outcome, mut count, mut file_end) = (FaultAllOutcome::default(), 0, 0);
        let listed = list(buffer, &mut |mapping| match fate_of(mapping, file_end, &needed) {
            Fate::Nothing => {}
            Fate::Faults => {
                if let Some(place) = places.get_mut(count) {
                    *place = (mapping.start, mapping.end);
                }
                count += 1;
            }
            Fate::File => {
                outcome.left_files += mapping.len();
                file_end = mapping.end;
            }
            Fate::Shared => outcome.left_shared += mapping.len(),
            Fate::Needed => outcome.left_needed += mapping.len(),
            Fate::Kernel => outcome.left_kernel += mapping.len(),
        });
        match listed {
            Err(error) if matches!(error.kind(), ErrorKind::SmallBuffer { .. }) => {}
            Err(error) => return Err(error),
            Ok(()) if count > places.len() => {}
            Ok(()) => {
                for index in 0..count {
                    let (start, end) = notes.parts().1[index];
                    let own = notes.range.start.addr()..notes.range.start.addr() + notes.range.len;
                    // The notes may have become part of a neighbour's mapping.
                    for (start, end) in [(start, end.min(own.start)), (start.max(own.end), end)] {
                        if start < end {
                            // SAFETY: the caller's promise; what this code needs is left out.
                            unsafe { fault_range(os, start, end - start, &mut outcome) };
                        }
                    }
                }
                return Ok(outcome);
            }
        }
        len *= 2;
    }
}

/// # Safety
///
/// As for [`fault_all`], of a range of whole pages.
unsafe fn fault_range(os: &impl Os, start: usize, len: usize, outcome: &mut FaultAllOutcome) {
    let range = PageRange::new(with_exposed_provenance_mut(start), len);
    // SAFETY: the caller's promise.
    match unsafe { os.fault(range, Policy::DEFAULT) } {
        Ok(()) => outcome.faulted += len,
        Err(error) => {
            outcome.left_refused += len;
            outcome.refusal.get_or_insert(error);
        }
    }
}

/// What becomes of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It faults already.
    Nothing,
    Faults,
    File,
    Shared,
    Needed,
    Kernel,
}

/// `file_end` is where the last mapping of a file before it ends.
fn fate_of(mapping: &Mapping<'_>, file_end: usize, needed: &Needed) -> Fate {
    match mapping.kind {
        MappingKind::System => Fate::Kernel,
        MappingKind::SharedMemory => Fate::Shared,
        _ if mapping.shared == Some(true) => Fate::Shared,
        MappingKind::Program | MappingKind::File => Fate::File,
        _ if !mapping.accessible() => Fate::Nothing,
        // The first thread's has the arguments and the environment in it.
        MappingKind::Stack => Fate::Needed,
        // Variables that begin as zero lie behind those of the file (elf(5), .bss).
        MappingKind::Anonymous if mapping.start == file_end => Fate::Needed,
        _ if needed.lies_in(mapping.start, mapping.len()) => Fate::Needed,
        MappingKind::Anonymous | MappingKind::Named | MappingKind::ProgramBreak => Fate::Faults,
    }
}

/// Memory to take the list down in, which goes when it is dropped.
struct Notes<'o, O: Os> {
    os: &'o O,
    range: PageRange,
}

impl<'o, O: Os> Notes<'o, O> {
    fn alloc(os: &'o O, len: usize) -> Result<Notes<'o, O>, Error> {
        let start = os.alloc(len)?;
        Ok(Notes { os, range: PageRange::new(start.as_ptr(), len) })
    }

    /// A buffer for the system, and room for the bounds of what will fault.
    fn parts(&mut self) -> (&mut [u8], &mut [(usize, usize)]) {
        let half = self.range.len / 2;
        let (start, places) = (self.range.start, self.range.start.wrapping_add(half).cast());
        // SAFETY: two halves of memory that is Ready, zeroed and nobody else's; page aligned.
        unsafe {
            let places = slice::from_raw_parts_mut(places, half / size_of::<(usize, usize)>());
            (slice::from_raw_parts_mut(start, half), places)
        }
    }
}

impl<O: Os> Drop for Notes<'_, O> {
    fn drop(&mut self) {
        // SAFETY: the whole of what was allocated, not used again. What cannot be freed stays.
        let _ = unsafe { self.os.free(self.range) };
    }
}
