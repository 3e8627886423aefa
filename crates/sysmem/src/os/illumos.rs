//! illumos and Solaris.
//!
//! Nothing here was seen: it is read in mmap(2), memcntl(2), madvise(3C), getpagesizes(3C) and in
//! illumos-gate.
//!
//! - Memory is not overcommitted: a private mapping takes its swap when it is made, and EAGAIN
//!   says that there is none. `MAP_NORESERVE` takes none, and then a write may meet SIGBUS. So
//!   reservations are made with it, and memory is committed by a fixed mapping without it, which
//!   is refused in time.
//! - A fixed mapping removes what was there first (`zmap`, `as_unmap`): refused, it leaves a hole.
//!   A renewal whose swap another process took in that moment goes on without: the pages are
//!   accessible, and are the only ones that a write may find no swap for.
//! - There is no flag that fails over a taken address; a free hint is honoured (`choose_addr`).
//! - `MAP_ALIGN` takes the alignment in place of the address.
//! - Larger pages are advised per range (`memcntl`, `MC_HAT_ADVISE`), on their own boundaries.
//! - A forked child can be given zeros for good (`MC_INHERIT_ZERO`, illumos); nothing else.

use super::bsd::{self, MINCORE_INCORE};
use super::unix::{EINVAL, ENOMEM, Leaves, MAP_PRIVATE, Unix, UnixRules, mincore_residency};
use super::{GiveBack, Inheritance, PageRange, PageResidency, Policy, UnusedContract};
use crate::calls::{Files, Kernel, Memcntl, Mincore, PageSizes, SystemPages, UnixCalls};
use crate::usage::files::read;
use crate::{Errno, ErrorKind, Limit, Operation};

// <sys/mman.h> and <sys/resource.h> of illumos.
pub(crate) const MAP_NORESERVE: i32 = 0x40;
pub(crate) const MAP_ANON: i32 = 0x100;
pub(crate) const MAP_ALIGN: i32 = 0x200;
pub(crate) const MADV_FREE: i32 = 5;
pub(crate) const MC_HAT_ADVISE: i32 = 7;
pub(crate) const MC_INHERIT_ZERO: i32 = 8;
pub(crate) const RLIMIT_AS: i32 = 6;
pub(crate) const EAGAIN: Errno = Errno(11);

/// Offsets in `psinfo_t` of 64-bit programs: <sys/procfs.h> of illumos.
pub(crate) mod psinfo {
    pub(crate) const LEN: usize = 416;
    /// Threads; a zombie has none.
    pub(crate) const NLWP: usize = 4;
    /// In KiB.
    pub(crate) const SIZE: usize = 48;
    /// In KiB.
    pub(crate) const RSSIZE: usize = 56;
}

/// illumos or Solaris over a table of calls.
pub type Illumos<K> = Unix<K, IllumosRules>;

/// The calls that the illumos backend is written against.
pub trait IllumosCalls: UnixCalls + Mincore + Memcntl + PageSizes + Files + SystemPages {}
impl<K: UnixCalls + Mincore + Memcntl + PageSizes + Files + SystemPages> IllumosCalls for K {}

/// What illumos does in its own way.
#[derive(Clone, Copy, Debug, Default)]
pub struct IllumosRules;

/// What of anonymous memory is and can be reserved in swap, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct AnonymousMemory {
    pub(crate) most: u64,
    pub(crate) reserved: u64,
}

/// `struct anoninfo` (<vm/anon.h>): `ani_max` 0, `ani_free` 8, `ani_resv` 16, in pages.
pub(crate) fn anonymous_memory(kernel: &impl SystemPages) -> Option<AnonymousMemory> {
    let mut info = [0; 24];
    kernel.anonymous_memory(&mut info).ok()?;
    let bytes = |offset| {
        bsd::integer(info.get(offset..)?.get(..8)?)?.checked_mul(kernel.page_size() as u64)
    };
    Some(AnonymousMemory { most: bytes(0)?, reserved: bytes(16)? })
}

/// The size of this process's address space, in bytes.
fn own_size(kernel: &impl Files) -> Option<u64> {
    let mut bytes = [0; psinfo::LEN];
    let told = read(kernel, c"/proc/self/psinfo", &mut bytes)?;
    bsd::integer(told.get(psinfo::SIZE..)?.get(..8)?)?.checked_mul(1024)
}

impl<K: IllumosCalls> UnixRules<K> for IllumosRules {
    const KERNEL: Kernel = Kernel::Illumos;
    const ANONYMOUS: i32 = MAP_PRIVATE | MAP_ANON;
    const RESERVED: i32 = MAP_PRIVATE | MAP_ANON | MAP_NORESERVE;
    const NO_REPLACE: i32 = 0;
    const TAKEN: Option<Errno> = None;
    const LAZY: i32 = MADV_FREE;

    fn supports(_kernel: &K, policy: Policy) -> bool {
        policy.dumped && matches!(policy.inheritance, Inheritance::Copy | Inheritance::Zeros)
    }

    unsafe fn set_inheritance(
        kernel: &K,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), ErrorKind> {
        if inheritance != Inheritance::Zeros {
            return Err(ErrorKind::NotSupported);
        }
        // SAFETY: the caller's promise.
        let set = unsafe { kernel.memcntl(range.start, range.len, MC_INHERIT_ZERO, 0) };
        set.map_err(|errno| match errno {
            // Solaris.
            EINVAL => ErrorKind::NotSupported,
            errno => ErrorKind::System(errno),
        })
    }

    fn refusal_leaves(_errno: Errno) -> Leaves {
        Leaves::Hole
    }

    fn commits_by_mapping(_kernel: &K) -> bool {
        true
    }

    fn is_exhaustion(_kernel: &K, _operation: Operation, errno: Errno) -> bool {
        matches!(errno, ENOMEM | EAGAIN)
    }

    fn limit_behind(kernel: &K, operation: Operation, len: usize) -> Option<Limit> {
        // A fixed mapping does not count what it replaces (`as_map` after `as_unmap`).
        if matches!(operation, Operation::Alloc | Operation::Reserve) {
            let limit = bsd::limit_met(kernel, RLIMIT_AS, own_size(kernel), len);
            if let Some(limit) = limit {
                return Some(Limit::AddressSpace(limit));
            }
        }
        // Reservations take no swap.
        let AnonymousMemory { most, reserved } = anonymous_memory(kernel)?;
        let met = operation != Operation::Reserve && reserved.saturating_add(len as u64) > most;
        met.then_some(Limit::Commit(most))
    }

    fn reserve_anywhere(
        os: &Illumos<K>,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        if hint == 0 && align > os.kernel.page_size() {
            // SAFETY: nothing is replaced.
            return unsafe { os.map_reserved(align, len, MAP_ALIGN, policy) };
        }
        os.reserve_and_trim(hint, len, align, policy)
    }

    fn huge_page_size(kernel: &K) -> Option<usize> {
        let mut sizes = [0; 16];
        let count = kernel.page_sizes(&mut sizes).ok()?;
        sizes.get(..count)?.iter().copied().find(|&size| size > kernel.page_size())
    }

    fn unused_contract(_kernel: &K, how: GiveBack) -> UnusedContract {
        bsd::contract(how, false)
    }

    unsafe fn advise_huge(
        kernel: &K,
        operation: Operation,
        range: PageRange,
    ) -> Result<(), ErrorKind> {
        let huge = Self::huge_page_size(kernel).ok_or(ErrorKind::NotSupported)?;
        let size = match operation {
            Operation::HugePage => huge,
            Operation::NoHugePage => kernel.page_size(),
            _ => return Err(ErrorKind::NotSupported),
        };
        // The advice is taken for whole pages of that size only.
        let head = range.start.addr().wrapping_neg() & (size - 1);
        let len = range.len.saturating_sub(head) & !(size - 1);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: part of the caller's range.
        unsafe { kernel.memcntl(range.start.wrapping_add(head), len, MC_HAT_ADVISE, size) }
            .map_err(ErrorKind::System)
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
