//! A simulated crash: memory that is gone under a program that still wants it.

use sysmem::os::Policy;
use sysmem::{Error, MappingKind, Mappings, Os, PageRange};

/// What [`fault_all`] takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultAll {
    /// Every reservation made through the system.
    Ours,
    /// Every private anonymous mapping of the process, whoever made it, but those that code needs
    /// to run: the stack and the thread variables of the thread that does it, and the variables
    /// that programs and libraries begin with. On Linux, whose list of mappings can be read
    /// without a heap; `NotSupported` elsewhere.
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

/// How many mappings are looked at before they are taken away: the list must not change while it
/// is read.
const AT_ONCE: usize = 64;

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
pub unsafe fn fault_all<O: Os + Mappings>(
    os: &O,
    what: FaultAll,
) -> Result<FaultAllOutcome, Error> {
    match what {
        // SAFETY: the caller's promise.
        FaultAll::Ours => Ok(unsafe { fault_ours(os) }),
        // SAFETY: the caller's promise.
        FaultAll::Process => unsafe { fault_process(os) },
    }
}

/// # Safety
///
/// As for [`fault_all`].
unsafe fn fault_ours(os: &impl Os) -> FaultAllOutcome {
    let mut outcome = FaultAllOutcome::default();
    let needed = needed();
    for found in os.registry().reservations() {
        if holds_any(found.address(), found.len(), &needed) {
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

/// # Safety
///
/// As for [`fault_all`].
unsafe fn fault_process<O: Os + Mappings>(os: &O) -> Result<FaultAllOutcome, Error> {
    let mut outcome = FaultAllOutcome::default();
    let needed = needed();
    let (mut from, mut file_end) = (0, 0);
    loop {
        let mut found = [(0, 0); AT_ONCE];
        let (mut count, mut end) = (0, None);
        os.each_mapping(&mut |mapping| {
            if mapping.start < from || end.is_some() {
                return;
            }
            match mapping.kind {
                MappingKind::File => {
                    outcome.left_files += mapping.len;
                    file_end = mapping.start + mapping.len;
                }
                MappingKind::Shared => outcome.left_shared += mapping.len,
                MappingKind::Kernel => outcome.left_kernel += mapping.len,
                MappingKind::FirstStack => outcome.left_needed += mapping.len,
                // Variables that begin as zero lie behind those of the file (elf(5), .bss).
                _ if mapping.start == file_end
                    || holds_any(mapping.start, mapping.len, &needed) =>
                {
                    outcome.left_needed += mapping.len;
                }
                MappingKind::PrivateAnonymous if mapping.accessible => {
                    found[count] = (mapping.start, mapping.len);
                    count += 1;
                    if count == AT_ONCE {
                        end = Some(mapping.start + mapping.len);
                    }
                }
                MappingKind::PrivateAnonymous => {}
            }
        })?;
        for &(start, len) in &found[..count] {
            let range = PageRange::new(core::ptr::with_exposed_provenance_mut(start), len);
            // SAFETY: the caller's promise; what this code needs is left out above.
            match unsafe { os.fault(range, Policy::DEFAULT) } {
                Ok(()) => outcome.faulted += len,
                Err(error) => {
                    outcome.left_refused += len;
                    outcome.refusal.get_or_insert(error);
                }
            }
        }
        match end {
            Some(end) => from = end,
            None => return Ok(outcome),
        }
    }
}

/// Addresses whose mappings the calling thread needs: its stack, and its variables, of which
/// `errno` is one.
fn needed() -> [usize; 2] {
    let on_stack = 0u8;
    [core::hint::black_box(&raw const on_stack).addr(), thread_variable()]
}

fn holds_any(start: usize, len: usize, addresses: &[usize]) -> bool {
    addresses.iter().any(|address| address.checked_sub(start).is_some_and(|offset| offset < len))
}

#[cfg(target_os = "linux")]
fn thread_variable() -> usize {
    // SAFETY: the address of the calling thread's own.
    unsafe { libc::__errno_location() }.addr()
}

/// On other systems thread variables lie on the heap, and are left to be lost.
#[cfg(not(target_os = "linux"))]
fn thread_variable() -> usize {
    0
}
