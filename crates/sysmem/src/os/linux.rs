//! Linux.
//!
//! What is peculiar to it:
//!
//! - `MADV_DONTNEED` drops private anonymous pages before it returns and leaves zeros; `MADV_FREE`
//!   (4.5) leaves them until memory is wanted, and the resident set does not fall until then
//!   (madvise(2)). Neither takes locked memory; `MADV_DONTNEED_LOCKED` (5.18) does.
//! - A reservation is `PROT_NONE | MAP_NORESERVE`; committing is `mprotect`, which costs a quarter
//!   of a fixed mapping and cannot leave a hole when it fails. Where the system does not overcommit
//!   (`vm.overcommit_memory` = 2), a page that was ever writable stays charged through
//!   `PROT_NONE`: there `fault` maps the range anew.
//! - `process_madvise` on the calling process (6.13; one TLB flush for all ranges since 6.16)
//!   batches advice. It is asked for through `PIDFD_SELF`, which needs no descriptor that a fork
//!   would turn into the parent's.
//! - `MAP_FIXED_NOREPLACE` is only a hint before 4.17: the address is compared.
//! - What a forked child gets, and whether a dump has a range in it, is advice that can be taken
//!   back: `MADV_DONTFORK` (2.6.16), `MADV_DONTDUMP` (3.4), `MADV_WIPEONFORK` (4.14). No advice
//!   makes private memory shared.

pub(crate) mod capabilities;
pub(crate) mod huge;
pub(crate) mod proc;

use core::ffi::CStr;
use core::num::NonZeroU64;

use crate::calls::{Feature, Files, Kernel, Mincore, NameMapping, ProcessMadvise, UnixCalls};
use crate::os::{
    BatchError, Contents, GiveBack, Inheritance, Os, PageRange, PageResidency, Policy,
    ResidentFalls, UnusedContract,
};
use crate::usage::files::number_in;
use crate::{Errno, Error, ErrorKind, Limit, Operation, Protection};

use crate::os::unix::{
    EBADF, EEXIST, EINVAL, EPERM, Leaves, MAP_PRIVATE, PROT_NONE, RLIMIT_DATA, Unix, UnixRules,
    mincore_residency,
};

// Linux's numbers, the same on x86_64 and aarch64; `native` holds them against the libc crate.
pub(crate) const MAP_ANONYMOUS: i32 = 0x20;
pub(crate) const MAP_NORESERVE: i32 = 0x4000;
pub(crate) const MAP_FIXED_NOREPLACE: i32 = 0x10_0000;
pub(crate) const MAP_HUGETLB: i32 = 0x4_0000;
pub(crate) const MADV_NORMAL: i32 = 0;
pub(crate) const MADV_RANDOM: i32 = 1;
pub(crate) const MADV_DONTNEED: i32 = 4;
pub(crate) const MADV_FREE: i32 = 8;
pub(crate) const MADV_DONTFORK: i32 = 10;
pub(crate) const MADV_DOFORK: i32 = 11;
pub(crate) const MADV_HUGEPAGE: i32 = 14;
pub(crate) const MADV_NOHUGEPAGE: i32 = 15;
pub(crate) const MADV_DONTDUMP: i32 = 16;
pub(crate) const MADV_DODUMP: i32 = 17;
pub(crate) const MADV_WIPEONFORK: i32 = 18;
pub(crate) const MADV_KEEPONFORK: i32 = 19;
pub(crate) const MADV_DONTNEED_LOCKED: i32 = 24;
pub(crate) const MADV_COLLAPSE: i32 = 25;
pub(crate) const RLIMIT_AS: i32 = 9;
pub(crate) const ENOSYS: Errno = Errno(38);

/// The ranges that one `process_madvise` takes (`UIO_MAXIOV`, uio(7)).
const BATCH: usize = 1024;

/// The flag of `MADV_RANDOM` in smaps.
const MARK: &[u8] = b"rr";

/// Linux over a table of calls.
pub type Linux<K> = Unix<K, LinuxRules>;

/// The calls that the Linux backend is written against.
pub trait LinuxCalls: UnixCalls + Files + Mincore + ProcessMadvise + NameMapping {}
impl<K: UnixCalls + Files + Mincore + ProcessMadvise + NameMapping> LinuxCalls for K {}

/// What Linux does in its own way.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxRules;

/// The advice that gives memory back in that way, and what may do if it is unknown here or not for
/// such memory, the better first. Locked memory takes neither of the usual two.
const fn giving_back(how: GiveBack) -> (i32, &'static [i32]) {
    match how {
        GiveBack::Lazy => (MADV_FREE, &[MADV_DONTNEED, MADV_DONTNEED_LOCKED]),
        GiveBack::Eager => (MADV_DONTNEED, &[MADV_DONTNEED_LOCKED]),
    }
}

/// Gives memory back in that way.
///
/// # Safety
///
/// As for [`UnixCalls::madvise`].
#[inline]
unsafe fn give_back(kernel: &impl UnixCalls, range: PageRange, how: GiveBack) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    match unsafe { kernel.madvise(range.start, range.len, giving_back(how).0) } {
        // SAFETY: as above.
        Err(EINVAL) => unsafe { give_back_otherwise(kernel, range, how) },
        answer => answer,
    }
}

/// Advises with the first of the other kinds that does not answer EINVAL, which is how the kernel
/// says that this advice is unknown or not for such memory.
///
/// # Safety
///
/// As for [`UnixCalls::madvise`].
#[cold]
#[inline(never)]
unsafe fn give_back_otherwise(
    kernel: &impl UnixCalls,
    range: PageRange,
    how: GiveBack,
) -> Result<(), Errno> {
    let mut answer = Err(EINVAL);
    for &advice in giving_back(how).1 {
        // SAFETY: the caller's promise.
        answer = unsafe { kernel.madvise(range.start, range.len, advice) };
        if answer != Err(EINVAL) {
            break;
        }
    }
    answer
}

/// # Safety
///
/// As for [`UnixCalls::madvise`].
unsafe fn hint(kernel: &impl UnixCalls, range: PageRange, advice: i32) -> Result<(), ErrorKind> {
    // SAFETY: the caller's promise.
    unsafe { kernel.madvise(range.start, range.len, advice) }.map_err(|errno| match errno {
        // A kernel that is too old or built without it.
        EINVAL => ErrorKind::NotSupported,
        errno => ErrorKind::System(errno),
    })
}

fn strict_commit(kernel: &impl Files) -> bool {
    let known = &kernel.findings().strict_commit;
    known.known().unwrap_or_else(|| {
        // Kept only if it was told: a process may be out of descriptors for a moment.
        let mode = number_in(kernel, c"/proc/sys/vm/overcommit_memory");
        mode.inspect(|&mode| known.set(mode == 2)) == Some(2)
    })
}

impl<K: LinuxCalls> UnixRules<K> for LinuxRules {
    const KERNEL: Kernel = Kernel::Linux;
    const ANONYMOUS: i32 = MAP_PRIVATE | MAP_ANONYMOUS;
    const RESERVED: i32 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const NO_REPLACE: i32 = MAP_FIXED_NOREPLACE;
    const TAKEN: Option<Errno> = Some(EEXIST);
    const LAZY: i32 = MADV_FREE;

    fn supports(kernel: &K, policy: Policy) -> bool {
        match policy.inheritance {
            Inheritance::Copy | Inheritance::Nothing => true,
            Inheritance::Share => false,
            // Whether this is advice at all is asked with a range of no length (madvise(2)).
            // SAFETY: it reaches no memory.
            Inheritance::Zeros => unsafe {
                kernel.madvise(core::ptr::null_mut(), 0, MADV_WIPEONFORK).is_ok()
            },
        }
    }

    #[inline]
    unsafe fn apply_policy(kernel: &K, range: PageRange, policy: Policy) -> Result<(), ErrorKind> {
        if policy.inheritance != Inheritance::Copy {
            // SAFETY: the caller's promise.
            unsafe { Self::set_inheritance(kernel, range, policy.inheritance) }?;
        }
        match policy.dumped {
            true => Ok(()),
            // SAFETY: the caller's promise.
            false => unsafe { Self::set_dumped(kernel, range, false) },
        }
    }

    unsafe fn set_inheritance(
        kernel: &K,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), ErrorKind> {
        // Two attributes of a mapping, each set and taken back by advice of its own.
        let advice = match inheritance {
            Inheritance::Copy => [MADV_DOFORK, MADV_KEEPONFORK],
            Inheritance::Nothing => [MADV_DONTFORK, MADV_KEEPONFORK],
            Inheritance::Zeros => [MADV_DOFORK, MADV_WIPEONFORK],
            Inheritance::Share => return Err(ErrorKind::NotSupported),
        };
        for advice in advice {
            // SAFETY: advice that keeps contents.
            match unsafe { hint(kernel, range, advice) } {
                // Before 4.14 there is nothing to take back.
                Err(ErrorKind::NotSupported) if advice == MADV_KEEPONFORK => {}
                answer => answer?,
            }
        }
        Ok(())
    }

    unsafe fn set_dumped(kernel: &K, range: PageRange, dumped: bool) -> Result<(), ErrorKind> {
        let advice = if dumped { MADV_DODUMP } else { MADV_DONTDUMP };
        // SAFETY: advice that keeps contents.
        unsafe { hint(kernel, range, advice) }
    }

    fn refusal_leaves(_errno: Errno) -> Leaves {
        // mm/mmap.c unmaps what was there before it allocates, up to 6.11; a limit on mappings is
        // met before that, with the same answer.
        Leaves::Unknown
    }

    fn still_mapped(kernel: &K, range: PageRange) -> bool {
        // What another thread has mapped there meanwhile is not marked.
        let addresses = range.start.addr()..range.start.addr() + range.len;
        proc::has_flag(kernel, addresses, MARK).unwrap_or(false)
    }

    /// Which limit an ENOMEM comes from, by looking how close each is. Address space and data are
    /// counted in whole pages, as the kernel counts them (mm/mmap.c, `may_expand_vm`).
    fn limit_behind(kernel: &K, operation: Operation, len: usize) -> Option<Limit> {
        let mut page = [0; 512];
        let statm = proc::statm(kernel, &mut page);
        let over = |used: Option<u64>, limit: u64| {
            used.is_some_and(|used| used.saturating_add(len as u64) > limit)
        };
        if matches!(operation, Operation::Alloc | Operation::Reserve) {
            let limit = kernel.resource_limit(RLIMIT_AS).unwrap_or(u64::MAX);
            if over(statm.map(|statm| statm.virtual_size), limit) {
                return Some(Limit::AddressSpace(limit));
            }
        }
        let limit = kernel.resource_limit(RLIMIT_DATA).unwrap_or(u64::MAX);
        if operation != Operation::Reserve && over(statm.map(|statm| statm.data), limit) {
            return Some(Limit::Data(limit));
        }
        if let Some(most) = number_in(kernel, c"/proc/sys/vm/max_map_count") {
            let mut mappings = 0;
            let counted = proc::mappings(kernel, &mut |_, _| mappings += 1);
            // A change in the middle of a mapping makes two more.
            if counted.is_some() && mappings + 2 >= most {
                return Some(Limit::Mappings(most));
            }
        }
        if strict_commit(kernel) {
            return proc::meminfo(kernel, b"CommitLimit").map(Limit::Commit);
        }
        None
    }

    fn mappings(kernel: &K, each: &mut dyn FnMut(usize, usize)) -> Option<()> {
        proc::mappings(kernel, each)
    }

    fn huge_page_size(kernel: &K) -> Option<usize> {
        let path = c"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
        number_in(kernel, path).map(|size| size as usize)
    }

    fn unused_contract(_kernel: &K, how: GiveBack) -> UnusedContract {
        match how {
            GiveBack::Lazy => UnusedContract {
                resident_falls: ResidentFalls::UnderPressure,
                contents: Contents::Unspecified,
                used_is_a_call: false,
            },
            GiveBack::Eager => UnusedContract {
                resident_falls: ResidentFalls::AtOnce,
                contents: Contents::Zero,
                used_is_a_call: false,
            },
        }
    }

    #[inline]
    unsafe fn unused(
        os: &Linux<K>,
        range: PageRange,
        _protection: Protection,
        how: GiveBack,
        _policy: Policy,
    ) -> Result<(), Error> {
        // SAFETY: the range is the caller's and its contents are forfeit.
        unsafe { give_back(&os.kernel, range, how) }
            .map_err(|errno| os.refused(Operation::Unused, range, errno))
    }

    unsafe fn unused_batch(
        os: &Linux<K>,
        ranges: &[PageRange],
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), BatchError> {
        let batched: &Feature = &os.kernel.findings().batched_advice;
        let mut done = 0;
        while done < ranges.len() {
            let rest = &ranges[done..];
            if rest.len() > 1 && batched.known() != Some(false) {
                let batch = &rest[..rest.len().min(BATCH)];
                // SAFETY: the ranges are the caller's and their contents are forfeit.
                match unsafe { os.kernel.process_madvise(batch, giving_back(how).0) } {
                    Ok(mut bytes) => {
                        batched.set(true);
                        let before = done;
                        // A short count ends in the middle of a range that the kernel stumbled
                        // over; it is done again, which is harmless, by itself below.
                        for range in batch {
                            if bytes < range.len {
                                break;
                            }
                            bytes -= range.len;
                            done += 1;
                        }
                        if done > before {
                            continue;
                        }
                    }
                    // Before 6.13, under a sandbox, or without PIDFD_SELF. EINVAL may also come
                    // from locked memory, which the single calls below know how to take; a batch
                    // that has worked before is tried again.
                    Err(ENOSYS | EPERM | EBADF) => batched.set(false),
                    Err(EINVAL) if batched.known().is_none() => batched.set(false),
                    Err(_) => {}
                }
            }
            // SAFETY: the range is the caller's and its contents are forfeit.
            unsafe { os.unused(ranges[done], protection, how, policy) }
                .map_err(|error| BatchError { done, error })?;
            done += 1;
        }
        Ok(())
    }

    unsafe fn fault(os: &Linux<K>, range: PageRange, policy: Policy) -> Result<(), Error> {
        let replace = || {
            // A mark by which the range is known again if it is refused, and which changes nothing
            // for memory that is no file's. A limit on mappings is met here, with nothing lost.
            // SAFETY: advice that keeps contents.
            unsafe { os.kernel.madvise(range.start, range.len, MADV_RANDOM) }
                .map_err(|errno| os.refused(Operation::Fault, range, errno))?;
            // SAFETY: the caller's promise.
            let replaced =
                unsafe { os.replace_by(Operation::Fault, range, Protection::NoAccess, policy) };
            if replaced.is_err_and(|error| error.kind() != ErrorKind::Lost) {
                // SAFETY: as above; the range is the caller's still.
                let _ = unsafe { os.kernel.madvise(range.start, range.len, MADV_NORMAL) };
            }
            replaced
        };
        if strict_commit(&os.kernel) {
            return replace();
        }
        // The protection first: it is what can fail, and nothing is lost by then.
        // SAFETY: the range is the caller's and nothing accesses it.
        unsafe { os.kernel.mprotect(range.start, range.len, PROT_NONE) }
            .map_err(|errno| os.refused(Operation::Fault, range, errno))?;
        // SAFETY: the contents are given up.
        unsafe { give_back(&os.kernel, range, GiveBack::Eager) }
            // Locked memory before 5.18.
            .or_else(|_| replace())
    }

    unsafe fn advise_huge(
        kernel: &K,
        operation: Operation,
        range: PageRange,
    ) -> Result<(), ErrorKind> {
        let advice = match operation {
            Operation::HugePage => MADV_HUGEPAGE,
            Operation::NoHugePage => MADV_NOHUGEPAGE,
            // 6.1.
            _ => MADV_COLLAPSE,
        };
        // SAFETY: advice that keeps contents.
        unsafe { hint(kernel, range, advice) }
    }

    unsafe fn name(kernel: &K, range: PageRange, name: &CStr) -> Result<(), ErrorKind> {
        // SAFETY: the caller's promise.
        let named = unsafe { kernel.name_mapping(range.start, range.len, name) };
        named.map_err(|errno| match errno {
            // Before 5.17, or built without CONFIG_ANON_VMA_NAME.
            EINVAL | ENOSYS => ErrorKind::NotSupported,
            errno => ErrorKind::System(errno),
        })
    }

    fn residency(
        kernel: &K,
        range: PageRange,
        pages: &mut [PageResidency],
    ) -> Result<(), ErrorKind> {
        let first_page = range.start.addr() / kernel.page_size();
        if pagemap(kernel, first_page, pages).is_some() {
            return Ok(());
        }
        // Without /proc. mincore calls a page resident that is only in the swap cache.
        mincore_residency(kernel, range, pages, |byte| PageResidency {
            resident: byte & 1 != 0,
            ..PageResidency::default()
        })
    }
}

/// Reads /proc/self/pagemap (proc_pid_pagemap(5)): 8 bytes a page; bit 63 present, bit 62 swapped,
/// bits 0 to 54 the frame, zero for those who may not see it.
fn pagemap(kernel: &impl Files, first_page: usize, pages: &mut [PageResidency]) -> Option<()> {
    let file = kernel.open(c"/proc/self/pagemap").ok()?;
    let mut at = first_page as u64 * 8;
    let mut whole = Some(());
    for chunk in pages.chunks_mut(64) {
        let mut bytes = [0u8; 64 * 8];
        let bytes = &mut bytes[..chunk.len() * 8];
        if kernel.read_at(file, bytes, at) != Ok(bytes.len()) {
            whole = None;
            break;
        }
        at += bytes.len() as u64;
        for (page, entry) in chunk.iter_mut().zip(bytes.chunks_exact(8)) {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            let resident = entry >> 63 != 0;
            *page = PageResidency {
                resident,
                swapped: entry >> 62 & 1 != 0,
                huge: false,
                frame: NonZeroU64::new(entry & ((1 << 55) - 1)).filter(|_| resident),
            };
        }
    }
    kernel.close(file);
    whole
}
