//! FreeBSD.
//!
//! What is peculiar to it, beside what [`bsd`] says (seen on 15-CURRENT where no source is named):
//!
//! - The first `mprotect` that makes a byte of a `PROT_NONE` mapping writable charges the *whole*
//!   mapping against swap, and nothing but `munmap` gives that back; a fixed mapping inside it
//!   charges its own length. Where `vm.overcommit` (tuning(7), a bit mask) enforces no limit,
//!   neither is ever refused, and `mprotect` is cheaper. Where bit 0 (swap) or bit 1
//!   (`RLIMIT_SWAP`) is set, memory is committed by fixed mappings, and `used` sets the protection
//!   again: a renewal that was refused has left the range without. The mask is read once for this,
//!   so that the contract stays what it was; where it is set later and `mprotect` refused, a fixed
//!   mapping is tried.
//! - A fixed mapping refused by swap accounting answers EINVAL and has removed what was there.
//!   Refused by `RLIMIT_AS` it answers ENOMEM and has not; what another answer leaves is found out
//!   with mincore(2), which refuses unmapped ranges.
//! - `RLIMIT_AS` counts a fixed mapping in full, even over what is there.
//! - `MAP_EXCL` answers ENOMEM for a taken address, as for exhaustion.
//! - With `vm.imply_prot_max` set, a mapping never allows more than it was made with, unless it
//!   was made `PROT_NONE`; memory that was renewed read only could never be written to again. So
//!   every mapping says what it may come to allow (`PROT_MAX`: mmap(2), FreeBSD 13; ignored
//!   before): reading and writing, and execution where the reservation is to be executable.
//! - Superpages are built unasked where a reservation is aligned to them: large ones are made
//!   with `MAP_ALIGNED_SUPER`. Whether the kernel builds them is set at boot
//!   (`vm.pmap.pg_ps_enabled`, on arm64 `vm.pmap.superpages_enabled`), and `hw.pagesizes` has
//!   their size only then.

use super::bsd::{self, ANONYMOUS, CTL_KERN, KERN_PROC_PID, MINCORE_INCORE, RLIMIT_AS};
use super::capabilities::CodeMemory;
use super::unix::objects::ObjectsByDescriptor;
use super::unix::{
    EINVAL, ENOMEM, Leaves, MAP_FIXED, PROT_EXEC, PROT_READ, PROT_WRITE, Unix, UnixRules, bits,
    mincore_residency,
};
use super::{GiveBack, Inheritance, PageRange, PageResidency, Policy, UnusedContract};
use crate::calls::{Kernel, Mincore, Minherit, SharedMemory, Sysctl, SysctlByName, UnixCalls};
use crate::huge::{HugePageControl, HugePages, Mode, Scope};
use crate::{Errno, Error, ErrorKind, Limit, Operation, Os, Protection};

// <sys/mman.h>, <sys/resource.h>, <sys/sysctl.h> of FreeBSD 14.5.
pub(crate) const MAP_EXCL: i32 = 0x4000;
pub(crate) const MAP_NOCORE: i32 = 0x2_0000;
pub(crate) const MAP_ALIGNED_SUPER: i32 = 1 << 24;
pub(crate) const MADV_FREE: i32 = 5;
pub(crate) const MADV_NOCORE: i32 = 8;
pub(crate) const MADV_CORE: i32 = 9;
pub(crate) const INHERIT_ZERO: i32 = 3;
/// The size of the superpage that a page is in, as an index into `hw.pagesizes`.
pub(crate) const MINCORE_SUPER: u8 = 0x60;
pub(crate) const RLIMIT_SWAP: i32 = 12;
pub(crate) const KERN_PROC: i32 = 14;
/// <sys/errno.h>.
pub(crate) const ENOSYS: Errno = Errno(78);
pub(crate) const ECAPMODE: Errno = Errno(94);
/// Offsets in `struct kinfo_proc`: <sys/user.h>, the same on amd64 and arm64.
pub(crate) mod kinfo_proc {
    /// `struct kinfo_proc` of FreeBSD has 1088 bytes.
    pub(crate) const LEN: usize = 1088;
    /// In bytes.
    pub(crate) const KI_SIZE: usize = 256;
    /// In pages, as are the next two.
    pub(crate) const KI_RSSIZE: usize = 264;
    pub(crate) const KI_DSIZE: usize = 288;
    pub(crate) const KI_SSIZE: usize = 296;
    pub(crate) const KI_STAT: usize = 388;
    pub(crate) const KI_RUSAGE: usize = 608;
}

/// `PROT_MAX(PROT_READ | PROT_WRITE)`.
pub(crate) const PROT_MAX_DATA: i32 = (PROT_READ | PROT_WRITE) << 16;
/// `PROT_MAX(PROT_READ | PROT_WRITE | PROT_EXEC)`.
pub(crate) const PROT_MAX_ALL: i32 = (PROT_READ | PROT_WRITE | PROT_EXEC) << 16;

/// Bits of `vm.overcommit`: tuning(7).
const ENFORCE_SWAP: u64 = 1;
const ENFORCE_RLIMIT_SWAP: u64 = 2;
const COUNT_MEMORY: u64 = 4;

/// FreeBSD over a table of calls.
pub type FreeBsd<K> = Unix<K, FreeBsdRules>;

/// The calls that the FreeBSD backend is written against.
pub trait FreeBsdCalls: UnixCalls + Mincore + Minherit + Sysctl + SysctlByName {}
impl<K: UnixCalls + Mincore + Minherit + Sysctl + SysctlByName> FreeBsdCalls for K {}

/// What FreeBSD does in its own way.
#[derive(Clone, Copy, Debug, Default)]
pub struct FreeBsdRules;

/// Whether the system refuses promises of memory now.
fn enforces_swap(kernel: &impl SysctlByName) -> bool {
    let mask = bsd::number(kernel, c"vm.overcommit").unwrap_or(0);
    mask & (ENFORCE_SWAP | ENFORCE_RLIMIT_SWAP) != 0
}

/// Whether the system refused promises of memory when it was first asked, which decides the
/// contract for good.
fn strict_commit(kernel: &impl SysctlByName) -> bool {
    let known = &kernel.findings().strict_commit;
    known.known().unwrap_or_else(|| {
        let strict = enforces_swap(kernel);
        known.set(strict);
        strict
    })
}

/// The size of this process's address space, in bytes.
fn address_space(kernel: &impl Sysctl) -> Option<u64> {
    use kinfo_proc::{KI_SIZE, LEN};
    let mib = [CTL_KERN, KERN_PROC, KERN_PROC_PID, kernel.process_id()];
    bsd::number_in::<LEN>(kernel, &mib, KI_SIZE..KI_SIZE + 8)
}

impl<K: FreeBsdCalls> UnixRules<K> for FreeBsdRules {
    const KERNEL: Kernel = Kernel::FreeBsd;
    const ANONYMOUS: i32 = ANONYMOUS;
    const RESERVED: i32 = ANONYMOUS;
    const NO_REPLACE: i32 = MAP_FIXED | MAP_EXCL;
    const TAKEN: Option<Errno> = Some(ENOMEM);
    const LAZY: i32 = MADV_FREE;

    fn policy_bits(policy: Policy) -> (i32, i32) {
        let flags = if policy.dumped { 0 } else { MAP_NOCORE };
        (flags, if policy.executable { PROT_MAX_ALL } else { PROT_MAX_DATA })
    }

    fn supports(_kernel: &K, _policy: Policy) -> bool {
        true
    }

    unsafe fn set_inheritance(
        kernel: &K,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), ErrorKind> {
        // SAFETY: the caller's promise.
        unsafe { bsd::set_inheritance(kernel, range, inheritance, Some(INHERIT_ZERO)) }
    }

    unsafe fn set_dumped(kernel: &K, range: PageRange, dumped: bool) -> Result<(), ErrorKind> {
        let advice = if dumped { MADV_CORE } else { MADV_NOCORE };
        // SAFETY: advice that keeps contents.
        unsafe { kernel.madvise(range.start, range.len, advice) }.map_err(ErrorKind::System)
    }

    fn refusal_leaves(errno: Errno) -> Leaves {
        match errno {
            EINVAL => Leaves::Hole,
            _ => Leaves::Unknown,
        }
    }

    fn still_mapped(kernel: &K, range: PageRange) -> bool {
        // Removed as a whole or not at all: a page tells.
        kernel.mincore(range.start, kernel.page_size(), &mut [0]).is_ok()
    }

    fn commits_by_mapping(kernel: &K) -> bool {
        strict_commit(kernel)
    }

    fn mapping_may_commit(errno: Errno) -> bool {
        // Strict since it was last read: then a mapping charges less.
        errno == ENOMEM
    }

    fn used_protects(kernel: &K) -> bool {
        strict_commit(kernel)
    }

    fn is_exhaustion(kernel: &K, operation: Operation, errno: Errno) -> bool {
        // Swap accounting refuses mmap with EINVAL. The ranges asked for are checked, so that
        // nothing else is invalid about them; a reservation is not charged, and may be misplaced.
        errno == ENOMEM
            || errno == EINVAL && operation != Operation::Reserve && enforces_swap(kernel)
    }

    fn limit_behind(kernel: &K, operation: Operation, len: usize) -> Option<Limit> {
        let maps = !matches!(operation, Operation::Protect | Operation::Used);
        if maps {
            let limit = bsd::limit_met(kernel, RLIMIT_AS, address_space(kernel), len);
            if let Some(limit) = limit {
                return Some(Limit::AddressSpace(limit));
            }
        }
        let mask = bsd::number(kernel, c"vm.overcommit")?;
        if operation == Operation::Reserve || mask & (ENFORCE_SWAP | ENFORCE_RLIMIT_SWAP) == 0 {
            return None;
        }
        if mask & ENFORCE_RLIMIT_SWAP != 0 {
            let reserved = bsd::number(kernel, c"vm.swap_reserved");
            if let Some(limit) = bsd::limit_met(kernel, RLIMIT_SWAP, reserved, len) {
                return Some(Limit::Swap(limit));
            }
        }
        let memory = match mask & COUNT_MEMORY {
            0 => 0,
            _ => bsd::number(kernel, c"hw.usermem")?,
        };
        Some(Limit::Commit(bsd::number(kernel, c"vm.swap_total")?.saturating_add(memory)))
    }

    fn reserve_anywhere(
        os: &FreeBsd<K>,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        // SAFETY: nothing is replaced, here and below.
        let reserve = |flags| unsafe { os.map_reserved(hint, len, flags, policy) };
        if align > os.kernel.page_size() {
            return reserve(bsd::map_aligned(align));
        }
        match reserve(MAP_ALIGNED_SUPER) {
            // The alignment is a wish, for which there may be no room where there is some without:
            // the kernel looks for a place that is aligned only (vm_map.c, `vm_map_find`).
            Err(ENOMEM) => reserve(0),
            answer => answer,
        }
    }

    fn huge_page_size(kernel: &K) -> Option<usize> {
        let mut sizes = [0; 8 * 8];
        let len = kernel.sysctl_by_name(c"hw.pagesizes", &mut sizes).ok()?;
        let size = bsd::integer(sizes.get(..len)?.get(8..16)?)?;
        (size != 0).then_some(size as usize)
    }

    fn unused_contract(kernel: &K, how: GiveBack) -> UnusedContract {
        bsd::contract(how, strict_commit(kernel))
    }

    unsafe fn advise_huge(
        kernel: &K,
        operation: Operation,
        _range: PageRange,
    ) -> Result<(), ErrorKind> {
        // Superpages are built unasked, cannot be declined, and not be had at once.
        match operation {
            Operation::HugePage if Self::huge_page_size(kernel).is_some() => Ok(()),
            _ => Err(ErrorKind::NotSupported),
        }
    }

    fn residency(
        kernel: &K,
        range: PageRange,
        pages: &mut [PageResidency],
    ) -> Result<(), ErrorKind> {
        mincore_residency(kernel, range, pages, |byte| PageResidency {
            resident: byte & MINCORE_INCORE != 0,
            huge: byte & MINCORE_SUPER != 0,
            ..PageResidency::default()
        })
    }
}

impl ObjectsByDescriptor for FreeBsdRules {
    /// A jail or capability mode may forbid it; fspacectl(2) is there since 14.
    const WITHOUT: &'static [Errno] = &[ENOSYS, ECAPMODE];

    /// Each view says what it may ever allow: with `vm.imply_prot_max` it would be so in any case.
    fn maximum(protection: Protection) -> i32 {
        bits(protection) << 16
    }
}

impl<K: FreeBsdCalls + SharedMemory> CodeMemory for FreeBsd<K> {}

/// The boot loader's names of the switch: x86's, and that of arm64 (sys/arm64/arm64/pmap.c).
const SUPERPAGES: [(&core::ffi::CStr, &str); 2] = [
    (c"vm.pmap.pg_ps_enabled", "vm.pmap.pg_ps_enabled"),
    (c"vm.pmap.superpages_enabled", "vm.pmap.superpages_enabled"),
];

fn superpages(kernel: &impl SysctlByName) -> Option<(bool, &'static str)> {
    SUPERPAGES.iter().find_map(|&(name, tunable)| Some((bsd::number(kernel, name)? != 0, tunable)))
}

impl<K: FreeBsdCalls> HugePageControl for FreeBsd<K> {
    fn huge_pages(&self) -> HugePages {
        let mode = superpages(&self.kernel).map(|(on, _)| match on {
            true => Mode::Always,
            false => Mode::Never,
        });
        HugePages { size: self.huge_page_size(), mode, on_for_process: None }
    }

    /// Refused: the kernel reads the setting when it boots, and answers EPERM to root (seen).
    fn switch_huge_pages(&self, _scope: Scope, _on: bool) -> Result<(), Error> {
        let kind = match superpages(&self.kernel) {
            Some((_, tunable)) => ErrorKind::SetAtBoot { tunable },
            None => ErrorKind::NotSupported,
        };
        Err(Error::new(Operation::SwitchHugePages, 0, 0, kind))
    }
}
