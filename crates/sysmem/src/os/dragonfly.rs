//! DragonFly BSD.
//!
//! Nothing here was seen: it is read in the manual pages, headers and sources of 6.4.
//!
//! - `MAP_TRYFIXED` maps at the address if nothing is there, and answers ENOMEM otherwise
//!   (`vm_mmap`).
//! - `MAP_SIZEALIGN` aligns a mapping to its own size (mmap(2)); other alignments are trimmed.
//! - A fixed mapping removes what was there before the new one is entered, and where removing blocks,
//!   another thread may take the place; the limits (`vm.max_proc_mmap`, `RLIMIT_VMEM`) are looked at
//!   before. Both are ENOMEM, and nothing tells afterwards whose the place is: so the limits are tried
//!   first.
//! - There is no accounting of promised memory: `mprotect` is never refused.
//! - A forked child cannot be given zeros. `MADV_FREE` is lazy, as on FreeBSD.
//! - Anonymous memory is not built out of superpages.

use core::ptr;

use super::bsd::{self, ANONYMOUS, CTL_KERN, KERN_PROC_PID, MINCORE_INCORE, RLIMIT_AS};
use super::unix::{ENOMEM, Leaves, PROT_NONE, Unix, UnixRules, mincore_residency};
use super::{GiveBack, Inheritance, PageRange, PageResidency, Policy, UnusedContract};
use crate::calls::{Kernel, Mincore, Minherit, Sysctl, SysctlByName, UnixCalls};
use crate::{Errno, ErrorKind, Limit, Operation};

// <sys/mman.h> of DragonFly 6.4.
pub(crate) const MAP_TRYFIXED: i32 = 0x1_0000;
pub(crate) const MAP_NOCORE: i32 = 0x2_0000;
pub(crate) const MAP_SIZEALIGN: i32 = 0x4_0000;
pub(crate) const MADV_FREE: i32 = 5;
pub(crate) const MADV_NOCORE: i32 = 8;
pub(crate) const MADV_CORE: i32 = 9;

// <sys/sysctl.h>.
pub(crate) const KERN_PROC: i32 = 14;

/// Offsets in `struct kinfo_proc`: <sys/kinfo.h> of 6.4.
pub(crate) mod kinfo_proc {
    /// What is asked for of it, with room for what may be added at its end.
    pub(crate) const ROOM: usize = 2048;
    pub(crate) const STAT: usize = 12;
    pub(crate) const MAP_SIZE: usize = 312;
    pub(crate) const RSSIZE: usize = 320;
    pub(crate) const DSIZE: usize = 344;
    pub(crate) const SSIZE: usize = 352;
    pub(crate) const PRSSIZE: usize = 360;
    pub(crate) const RUSAGE: usize = 368;
}

/// DragonFly BSD over a table of calls.
pub type DragonFly<K> = Unix<K, DragonFlyRules>;

/// The calls that the DragonFly backend is written against.
pub trait DragonFlyCalls: UnixCalls + Mincore + Minherit + Sysctl + SysctlByName {}
impl<K: UnixCalls + Mincore + Minherit + Sysctl + SysctlByName> DragonFlyCalls for K {}

/// What DragonFly BSD does in its own way.
#[derive(Clone, Copy, Debug, Default)]
pub struct DragonFlyRules;

/// The size of this process's address space, in bytes.
fn address_space(kernel: &impl Sysctl) -> Option<u64> {
    use kinfo_proc::{MAP_SIZE, ROOM};
    let mib = [CTL_KERN, KERN_PROC, KERN_PROC_PID, kernel.process_id()];
    bsd::number_in::<ROOM>(kernel, &mib, MAP_SIZE..MAP_SIZE + 8)
}

impl<K: DragonFlyCalls> UnixRules<K> for DragonFlyRules {
    const KERNEL: Kernel = Kernel::DragonFly;
    const ANONYMOUS: i32 = ANONYMOUS;
    const RESERVED: i32 = ANONYMOUS;
    const NO_REPLACE: i32 = MAP_TRYFIXED;
    const TAKEN: Option<Errno> = Some(ENOMEM);
    const LAZY: i32 = MADV_FREE;

    fn policy_bits(policy: Policy) -> (i32, i32) {
        (if policy.dumped { 0 } else { MAP_NOCORE }, 0)
    }

    fn supports(_kernel: &K, policy: Policy) -> bool {
        policy.inheritance != Inheritance::Zeros
    }

    unsafe fn set_inheritance(
        kernel: &K,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), ErrorKind> {
        // SAFETY: the caller's promise.
        unsafe { bsd::set_inheritance(kernel, range, inheritance, None) }
    }

    unsafe fn set_dumped(kernel: &K, range: PageRange, dumped: bool) -> Result<(), ErrorKind> {
        let advice = if dumped { MADV_CORE } else { MADV_NOCORE };
        // SAFETY: advice that keeps contents.
        unsafe { kernel.madvise(range.start, range.len, advice) }.map_err(ErrorKind::System)
    }

    fn limits_allow(kernel: &K, len: usize) -> Result<(), Errno> {
        // They count a fixed mapping in full, as they count one that is anywhere (`vm_mmap`).
        // SAFETY: nothing is replaced.
        let start = unsafe { kernel.mmap(ptr::null_mut(), len, PROT_NONE, ANONYMOUS) }?;
        // SAFETY: just mapped. If that is refused, the space stays taken.
        let _ = unsafe { kernel.munmap(start, len) };
        Ok(())
    }

    fn refusal_leaves(_errno: Errno) -> Leaves {
        Leaves::Hole
    }

    fn limit_behind(kernel: &K, operation: Operation, len: usize) -> Option<Limit> {
        if matches!(operation, Operation::Map | Operation::Protect) {
            return None;
        }
        let used = address_space(kernel)?;
        if let Some(limit) = bsd::limit_met(kernel, RLIMIT_AS, Some(used), len) {
            return Some(Limit::AddressSpace(limit));
        }
        // Nobody tells how many mappings there are; where there are too many, not a page more is
        // mapped.
        match Self::limits_allow(kernel, kernel.page_size()) {
            Ok(()) => None,
            Err(_) => bsd::number(kernel, c"vm.max_proc_mmap").map(Limit::Mappings),
        }
    }

    fn reserve_anywhere(
        os: &DragonFly<K>,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        if len == align {
            // SAFETY: nothing is replaced.
            return unsafe { os.map_reserved(hint, len, MAP_SIZEALIGN, policy) };
        }
        os.reserve_and_trim(hint, len, align, policy)
    }

    fn unused_contract(_kernel: &K, how: GiveBack) -> UnusedContract {
        bsd::contract(how, false)
    }

    fn residency(
        kernel: &K,
        range: PageRange,
        pages: &mut [PageResidency],
    ) -> Result<(), ErrorKind> {
        mincore_residency(kernel, range, pages, |byte| PageResidency {
            resident: byte & MINCORE_INCORE != 0,
            ..PageResidency::default()
        })
    }
}
