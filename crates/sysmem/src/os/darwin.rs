//! macOS and its kin.
//!
//! Nothing here was seen: it is read in the headers of macOS 15, in XNU (`vm_map.c`,
//! `kern_mman.c`) and in what Go, mimalloc and snmalloc do.
//!
//! - `MADV_FREE_REUSABLE` gives pages back, `MADV_FREE_REUSE` says that they are used again; they
//!   are a pair, by which the process's `phys_footprint` (what the system judges it by) falls and
//!   rises. The resident set falls only when memory is wanted. Pages that cannot be written to are
//!   refused; those are renewed, which gives back more than was asked for.
//! - Reservations are made by `mach_vm_map`: its mask aligns without excess, and without
//!   `VM_FLAGS_OVERWRITE` nothing is replaced.
//! - A refused fixed mapping leaves what was there: `vm_map_enter` puts it back.
//! - Memory is overcommitted. `RLIMIT_AS` and `RLIMIT_DATA` are both held against the size of the
//!   whole address space since macOS 12, and met like a taken address (KERN_NO_SPACE); before, they
//!   were not enforced.
//! - Superpages exist on Intel only, at allocation only (`VM_FLAGS_SUPERPAGE_SIZE_2MB`), and are
//!   wired: no range is ever built out of them later ([`HugeMemory`](crate::huge::HugeMemory)).
//! - On Apple silicon, memory mapped with `MAP_JIT` is writable or executable for each thread as
//!   the thread says (`pthread_jit_write_protect_np`). It is reserved without access, made writable
//!   and executable with the first `map`, and cannot be taken back to no access from then on; nor
//!   is it ever mapped at an address of our choice, or in the place of another mapping. The
//!   hardened runtime wants the entitlement `com.apple.security.cs.allow-jit` for it, and allows
//!   other memory to become executable only with `allow-unsigned-executable-memory`.
//! - No range can be left out of core dumps, and no forked child given zeros.

pub(crate) mod superpages;

use super::bsd::{self, ANONYMOUS, MINCORE_INCORE};
use super::capabilities::CodeMemory;
use super::unix::{
    EINVAL, ENOMEM, Leaves, NotPlaced, PROT_EXEC, PROT_READ, PROT_WRITE, RLIMIT_DATA, Unix,
    UnixRules, bits, mincore_residency,
};
use super::{GiveBack, Inheritance, PageRange, PageResidency, Policy, Source, UnusedContract};
use crate::calls::{Kernel, MachVm, Mincore, Minherit, SwitchPerThread, UnixCalls};
use crate::{Errno, Error, ErrorKind, Limit, Operation, Protection};

// <sys/mman.h>, <mach/vm_statistics.h>, <mach/kern_return.h> of macOS 15.
pub(crate) const MAP_JIT: i32 = 0x0800;
pub(crate) const MADV_FREE_REUSABLE: i32 = 7;
pub(crate) const MADV_FREE_REUSE: i32 = 8;
pub(crate) const MINCORE_PAGED_OUT: u8 = 0x20;
pub(crate) const VM_FLAGS_FIXED: i32 = 0;
pub(crate) const VM_FLAGS_ANYWHERE: i32 = 1;
/// <sys/resource.h>; it is also the number of `RLIMIT_RSS`.
pub(crate) const RLIMIT_AS: i32 = 5;
pub(crate) const KERN_NO_SPACE: i32 = 3;
pub(crate) const KERN_RESOURCE_SHORTAGE: i32 = 6;

/// Darwin over a table of calls.
pub type Darwin<K> = Unix<K, DarwinRules>;

/// The calls that the Darwin backend is written against.
pub trait DarwinCalls: UnixCalls + Mincore + Minherit + MachVm + SwitchPerThread {}
impl<K: UnixCalls + Mincore + Minherit + MachVm + SwitchPerThread> DarwinCalls for K {}

/// What Darwin does in its own way.
#[derive(Clone, Copy, Debug, Default)]
pub struct DarwinRules;

/// What reserved memory may come to allow.
const fn maximum(policy: Policy) -> i32 {
    PROT_READ | PROT_WRITE | if policy.executable { PROT_EXEC } else { 0 }
}

impl<K: DarwinCalls> UnixRules<K> for DarwinRules {
    const KERNEL: Kernel = Kernel::Darwin;
    const ANONYMOUS: i32 = ANONYMOUS;
    const RESERVED: i32 = ANONYMOUS;
    const NO_REPLACE: i32 = 0;
    const TAKEN: Option<Errno> = None;
    const LAZY: i32 = MADV_FREE_REUSABLE;

    fn policy_bits(policy: Policy) -> (i32, i32) {
        (if policy.source == Source::PerThread { MAP_JIT } else { 0 }, 0)
    }

    fn switches_per_thread(kernel: &K) -> bool {
        kernel.switches_per_thread()
    }

    fn access_bits(protection: Protection, policy: Policy) -> i32 {
        match policy.source {
            Source::PerThread => PROT_READ | PROT_WRITE | PROT_EXEC,
            _ => bits(protection),
        }
    }

    fn supports(_kernel: &K, policy: Policy) -> bool {
        policy.dumped && policy.inheritance != Inheritance::Zeros
    }

    unsafe fn set_inheritance(
        kernel: &K,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), ErrorKind> {
        // SAFETY: the caller's promise.
        unsafe { bsd::set_inheritance(kernel, range, inheritance, None) }
    }

    fn refusal_leaves(_errno: Errno) -> Leaves {
        Leaves::Kept
    }

    fn limit_behind(kernel: &K, operation: Operation, len: usize) -> Option<Limit> {
        // mprotect(2) is never refused by a limit.
        if matches!(operation, Operation::Map | Operation::Protect) {
            return None;
        }
        let mut size = 0;
        Self::mappings(kernel, &mut |start, end| size += (end - start) as u64)?;
        let met = |resource| bsd::limit_met(kernel, resource, Some(size), len);
        met(RLIMIT_AS).map(Limit::AddressSpace).or_else(|| met(RLIMIT_DATA).map(Limit::Data))
    }

    fn reserve_anywhere(
        os: &Darwin<K>,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        if policy.source == Source::PerThread {
            return os.reserve_and_trim(hint, len, align, policy);
        }
        // The first free place from the hint upward, or from the lowest address.
        let reserve =
            |hint| os.kernel.mach_vm_map(hint, len, align - 1, VM_FLAGS_ANYWHERE, maximum(policy));
        let reserved = match reserve(hint) {
            Err(KERN_NO_SPACE) if hint != 0 => reserve(0),
            answer => answer,
        };
        reserved.map_err(|answer| match answer {
            KERN_NO_SPACE | KERN_RESOURCE_SHORTAGE => ENOMEM,
            _ => EINVAL,
        })
    }

    fn reserve_at(
        os: &Darwin<K>,
        address: usize,
        len: usize,
        policy: Policy,
    ) -> Result<*mut u8, NotPlaced> {
        if policy.source == Source::PerThread {
            // With MAP_JIT, MAP_FIXED is refused (kern_mman.c): the address is a hint.
            return os.map_at(address, len, policy);
        }
        os.kernel.mach_vm_map(address, len, 0, VM_FLAGS_FIXED, maximum(policy)).map_err(|answer| {
            match answer {
                KERN_NO_SPACE => NotPlaced::Unclear(ENOMEM),
                KERN_RESOURCE_SHORTAGE => NotPlaced::Refused(ENOMEM),
                _ => NotPlaced::Refused(EINVAL),
            }
        })
    }

    fn mappings(kernel: &K, each: &mut dyn FnMut(usize, usize)) -> Option<()> {
        let mut at = 0;
        while let Some((start, len)) = kernel.mach_vm_region(at) {
            at = start.checked_add(len).filter(|&end| end > at)?;
            each(start, at);
        }
        Some(())
    }

    fn unused_contract(_kernel: &K, how: GiveBack) -> UnusedContract {
        bsd::contract(how, true)
    }

    unsafe fn used(os: &Darwin<K>, range: PageRange) {
        // Pages that were never given back are counted already, and a refusal only leaves the
        // footprint too small: the pages are there at the first touch in any case.
        // SAFETY: the caller's promise; contents stay.
        let _ = unsafe { os.kernel.madvise(range.start, range.len, MADV_FREE_REUSE) };
    }

    unsafe fn unused(
        os: &Darwin<K>,
        range: PageRange,
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), Error> {
        if how == GiveBack::Lazy {
            // SAFETY: the range is the caller's and its contents are forfeit.
            let given = unsafe { os.kernel.madvise(range.start, range.len, MADV_FREE_REUSABLE) };
            match given {
                Ok(()) => return Ok(()),
                // Mapped anew it would be plain memory.
                Err(errno) if policy.source == Source::PerThread => {
                    return Err(os.refused(Operation::Unused, range, errno));
                }
                Err(_) => {}
            }
        } else if policy.source == Source::PerThread {
            return Err(range.error(Operation::Unused, ErrorKind::NotSupported));
        }
        // SAFETY: as above.
        unsafe { os.renew(range, protection, policy) }
    }

    unsafe fn fault(os: &Darwin<K>, range: PageRange, policy: Policy) -> Result<(), Error> {
        if policy.source == Source::PerThread {
            // What was once writable and executable keeps that (vm_map.c, `vm_map_protect`), and
            // what is mapped in its place is plain memory.
            return Err(range.error(Operation::Fault, ErrorKind::NotSupported));
        }
        // SAFETY: the caller owns the range and gives its contents up.
        unsafe { os.replace_by(Operation::Fault, range, Protection::NoAccess, policy) }
    }

    fn residency(
        kernel: &K,
        range: PageRange,
        pages: &mut [PageResidency],
    ) -> Result<(), ErrorKind> {
        mincore_residency(kernel, range, pages, |byte| PageResidency {
            resident: byte & MINCORE_INCORE != 0,
            swapped: byte & MINCORE_PAGED_OUT != 0,
            ..PageResidency::default()
        })
    }
}

impl<K: DarwinCalls> CodeMemory for Darwin<K> {
    fn let_thread_write(&self, writable: bool) {
        self.kernel.let_thread_write(writable);
    }
}
