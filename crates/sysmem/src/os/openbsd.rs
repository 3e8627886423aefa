//! OpenBSD.
//!
//! What is peculiar to it, beside what [`bsd`] says (seen on 7.6 where no source is named):
//!
//! - A `PROT_NONE` reservation is free. Memory that allows anything is counted against
//!   `RLIMIT_DATA`, whose default is small; `mprotect` to that end may fail, with nothing changed.
//!   Going back to `PROT_NONE` uncounts it. There is no limit on address space.
//! - A refused fixed mapping leaves what was there: limits are looked at first. Over accessible
//!   memory it is counted as if that stayed, so close to the limit a range is renewed by way of
//!   `PROT_NONE`.
//! - No page is ever writable and executable (ENOTSUP); no [`Protection`](crate::Protection) is.
//! - A range is left out of core dumps only when it is mapped (`MAP_CONCEAL`, mmap(2)).
//! - A forked child gets zeros of a range only if it is writable (minherit: EPERM), which a
//!   reservation is not: reservations do not have that policy.
//! - A stack pointer must point into memory mapped with `MAP_STACK` whenever the kernel is entered
//!   (mmap(2), since 6.4). The flag wants exactly reading and writing, and no other flag than those
//!   of a private, anonymous, fixed mapping (`sys_mmap` in uvm/uvm_mmap.c): reservations for stacks
//!   are committed by fixed mappings, and cannot be left out of core dumps.
//! - `munmap` and `madvise` refuse ranges with holes. There is no mincore(2) since 6.5, so nobody
//!   tells what is resident; there is no alignment flag, and there are no superpages.

mod sealing;

use super::bsd::{self, ANONYMOUS, CTL_KERN, KERN_PROC_PID};
use super::unix::{ENOMEM, Leaves, MAP_FIXED, RLIMIT_DATA, Unix, UnixRules};
use super::{GiveBack, Inheritance, PageRange, Policy, UnusedContract};
use crate::calls::{Kernel, Minherit, Sysctl, UnixCalls};
use crate::{Errno, ErrorKind, Limit, Operation};

// <sys/mman.h> and <sys/sysctl.h> of OpenBSD 7.8.
pub(crate) const MAP_NOREPLACE: i32 = 0x0800;
pub(crate) const MAP_STACK: i32 = 0x4000;
pub(crate) const MAP_CONCEAL: i32 = 0x8000;
pub(crate) const MADV_FREE: i32 = 6;
pub(crate) const MAP_INHERIT_ZERO: i32 = 3;
pub(crate) const KERN_PROC: i32 = 66;

/// Offsets in `struct kinfo_proc`, which grows at its end: <sys/sysctl.h>.
pub(crate) mod kinfo_proc {
    /// What is asked for of it: `struct kinfo_proc` of OpenBSD has 648 bytes or more.
    pub(crate) const LEN: usize = 648;
    pub(crate) const P_STAT: usize = 304;
    /// In pages, as are the next two.
    pub(crate) const P_VM_RSSIZE: usize = 384;
    pub(crate) const P_VM_DSIZE: usize = 392;
    pub(crate) const P_VM_SSIZE: usize = 396;
    pub(crate) const P_UUTIME_SEC: usize = 420;
    pub(crate) const P_USTIME_SEC: usize = 428;
    /// In KiB.
    pub(crate) const P_URU_MAXRSS: usize = 440;
    pub(crate) const P_URU_MINFLT: usize = 472;
    pub(crate) const P_URU_MAJFLT: usize = 480;
}

/// What of a process is asked for with KERN_PROC.
pub(crate) const fn process_mib(process: i32) -> [i32; 6] {
    [CTL_KERN, KERN_PROC, KERN_PROC_PID, process, kinfo_proc::LEN as i32, 1]
}

/// OpenBSD over a table of calls.
pub type OpenBsd<K> = Unix<K, OpenBsdRules>;

/// The calls that the OpenBSD backend is written against.
pub trait OpenBsdCalls: UnixCalls + Minherit + Sysctl {}
impl<K: UnixCalls + Minherit + Sysctl> OpenBsdCalls for K {}

/// What OpenBSD does in its own way.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenBsdRules;

/// What `RLIMIT_DATA` counts of this process, in bytes.
fn data_size(kernel: &impl Sysctl) -> Option<u64> {
    use kinfo_proc::{LEN, P_VM_DSIZE};
    let mib = process_mib(kernel.process_id());
    let pages = bsd::number_in::<LEN>(kernel, &mib, P_VM_DSIZE..P_VM_DSIZE + 4)?;
    pages.checked_mul(kernel.page_size() as u64)
}

impl<K: OpenBsdCalls> UnixRules<K> for OpenBsdRules {
    const KERNEL: Kernel = Kernel::OpenBsd;
    const ANONYMOUS: i32 = ANONYMOUS;
    const RESERVED: i32 = ANONYMOUS;
    const NO_REPLACE: i32 = MAP_FIXED | MAP_NOREPLACE;
    const TAKEN: Option<Errno> = Some(ENOMEM);
    const LAZY: i32 = MADV_FREE;
    const STACK: i32 = MAP_STACK;

    fn policy_bits(policy: Policy) -> (i32, i32) {
        (if policy.dumped { 0 } else { MAP_CONCEAL }, 0)
    }

    fn supports(_kernel: &K, policy: Policy) -> bool {
        policy.inheritance != Inheritance::Zeros && (policy.dumped || !policy.stacks)
    }

    unsafe fn set_inheritance(
        kernel: &K,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), ErrorKind> {
        // SAFETY: the caller's promise.
        unsafe { bsd::set_inheritance(kernel, range, inheritance, Some(MAP_INHERIT_ZERO)) }
    }

    fn refusal_leaves(_errno: Errno) -> Leaves {
        Leaves::Kept
    }

    fn limit_behind(kernel: &K, operation: Operation, len: usize) -> Option<Limit> {
        if operation == Operation::Reserve {
            return None;
        }
        bsd::limit_met(kernel, RLIMIT_DATA, data_size(kernel), len).map(Limit::Data)
    }

    fn unused_contract(_kernel: &K, how: GiveBack) -> UnusedContract {
        bsd::contract(how, false)
    }
}
