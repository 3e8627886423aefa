//! NetBSD.
//!
//! What is peculiar to it, beside what [`bsd`] says:
//!
//! - With PaX MPROTECT (on by default on several ports since 8.0), memory never allows more than
//!   it was mapped with, unless it was mapped with `PROT_MPROTECT` (mmap(2) of 10.1, not seen): a
//!   reservation asks for reading and writing, and for execution if it is to be executable.
//!   Execution is not asked for without need, so that PaX keeps its worth.
//! - A fixed mapping is made by removing what was there first; refused by `RLIMIT_AS`, it leaves a
//!   hole (seen on 7.0, and read in `uvm_mmap`).
//! - No flag fails over a taken address: `MAP_TRYFIXED` puts the mapping elsewhere (seen on 7.0).
//! - `MADV_FREE` answers EBUSY for wired pages, with nothing dropped (seen on 7.0). The error is
//!   passed on: an eager giving back takes wired pages.
//! - Memory is seen at more than one address by mapping it again, with mremap(2) and
//!   `MAP_REMAPDUP` (8.0).
//! - There are no superpages for programs, and no way out of a core dump but an `RLIMIT_CORE`.

mod objects;

use super::bsd::{self, ANONYMOUS, CTL_KERN, KERN_PROC_PID, MINCORE_INCORE, RLIMIT_AS};
use super::unix::{
    Leaves, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE, Unix, UnixRules, mincore_residency,
};
use super::{GiveBack, Inheritance, PageRange, PageResidency, Policy, Source, UnusedContract};
use crate::calls::{Kernel, Mincore, Minherit, Sysctl, UnixCalls};
use crate::{Errno, Error, ErrorKind, Limit, Operation, Protection};

// <sys/mman.h> and <sys/sysctl.h> of NetBSD 10.1.
pub(crate) const MAP_NORESERVE: i32 = 0x40;
pub(crate) const MAP_TRYFIXED: i32 = 0x400;
pub(crate) const MADV_FREE: i32 = 6;
pub(crate) const MAP_INHERIT_ZERO: i32 = 4;
pub(crate) const KERN_PROC2: i32 = 47;

/// Offsets in `struct kinfo_proc2`, which grows at its end: <sys/sysctl.h>.
pub(crate) mod kinfo_proc2 {
    /// What is asked for of it: `struct kinfo_proc2` of NetBSD has 680 bytes or more.
    pub(crate) const LEN: usize = 680;
    pub(crate) const P_STAT: usize = 360;
    /// In pages, as are the next two.
    pub(crate) const P_VM_RSSIZE: usize = 432;
    pub(crate) const P_VM_DSIZE: usize = 440;
    pub(crate) const P_VM_SSIZE: usize = 444;
    pub(crate) const P_UUTIME_SEC: usize = 464;
    pub(crate) const P_USTIME_SEC: usize = 472;
    pub(crate) const P_URU_MINFLT: usize = 512;
    pub(crate) const P_URU_MAJFLT: usize = 520;
    /// In pages.
    pub(crate) const P_VM_VSIZE: usize = 664;
}

/// What of a process is asked for with KERN_PROC2.
pub(crate) const fn process_mib(process: i32) -> [i32; 6] {
    [CTL_KERN, KERN_PROC2, KERN_PROC_PID, process, kinfo_proc2::LEN as i32, 1]
}

/// `PROT_MPROTECT(x)`.
pub(crate) const fn prot_mprotect(protection: i32) -> i32 {
    protection << 3
}

/// NetBSD over a table of calls.
pub type NetBsd<K> = Unix<K, NetBsdRules>;

/// The calls that the NetBSD backend is written against.
pub trait NetBsdCalls: UnixCalls + Mincore + Minherit + Sysctl {}
impl<K: UnixCalls + Mincore + Minherit + Sysctl> NetBsdCalls for K {}

/// What NetBSD does in its own way.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetBsdRules;

/// The size of this process's address space, in bytes.
fn address_space(kernel: &impl Sysctl) -> Option<u64> {
    use kinfo_proc2::{LEN, P_VM_VSIZE};
    let mib = process_mib(kernel.process_id());
    let pages = bsd::number_in::<LEN>(kernel, &mib, P_VM_VSIZE..P_VM_VSIZE + 8)?;
    pages.checked_mul(kernel.page_size() as u64)
}

impl<K: NetBsdCalls> UnixRules<K> for NetBsdRules {
    const KERNEL: Kernel = Kernel::NetBsd;
    const ANONYMOUS: i32 = ANONYMOUS;
    const RESERVED: i32 = ANONYMOUS | MAP_NORESERVE;
    const NO_REPLACE: i32 = MAP_TRYFIXED;
    const TAKEN: Option<Errno> = None;
    const LAZY: i32 = MADV_FREE;

    fn policy_bits(policy: Policy) -> (i32, i32) {
        let execution = if policy.executable { PROT_EXEC } else { 0 };
        (0, prot_mprotect(PROT_READ | PROT_WRITE | execution))
    }

    fn supports(_kernel: &K, policy: Policy) -> bool {
        policy.dumped
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
        Leaves::Hole
    }

    fn limit_behind(kernel: &K, operation: Operation, len: usize) -> Option<Limit> {
        // mprotect is never refused by a limit.
        if matches!(operation, Operation::Map | Operation::Protect) {
            return None;
        }
        bsd::limit_met(kernel, RLIMIT_AS, address_space(kernel), len).map(Limit::AddressSpace)
    }

    fn reserve_anywhere(
        os: &NetBsd<K>,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        let flags = match align > os.kernel.page_size() {
            true => bsd::map_aligned(align),
            false => 0,
        };
        // SAFETY: nothing is replaced.
        unsafe { os.map_reserved(hint, len, flags, policy) }
    }

    unsafe fn fault(os: &NetBsd<K>, range: PageRange, policy: Policy) -> Result<(), Error> {
        if policy.source == Source::Object {
            // A view stays a mapping of its object, out of sight.
            // SAFETY: the range is the caller's and nothing accesses it.
            return unsafe { os.kernel.mprotect(range.start, range.len, PROT_NONE) }
                .map_err(|errno| os.refused(Operation::Fault, range, errno));
        }
        // SAFETY: the caller owns the range and gives its contents up.
        unsafe { os.replace_by(Operation::Fault, range, Protection::NoAccess, policy) }
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
