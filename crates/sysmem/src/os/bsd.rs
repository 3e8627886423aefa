//! What the BSDs share.
//!
//! Seen on real kernels (FreeBSD 15-CURRENT, OpenBSD 7.6, NetBSD 7.0), where no source is named:
//!
//! - `MADV_DONTNEED` frees nothing and keeps the contents, on all of them.
//! - `MADV_FREE` is lazy on FreeBSD: pages read as before until memory is wanted, then as zeros.
//!   On NetBSD and OpenBSD it drops them at once, but neither pages that a fork still shares nor
//!   wired ones; so its contract is the lazy one there too.
//! - What gives back at once on all is a fresh fixed mapping over the range: the resident set
//!   falls before it returns, whatever shares or wires the old pages, and what is read is zeros.
//! - Kernels round unaligned ranges outward, into memory that was not meant, and disagree about
//!   holes: neither is ever passed.
//! - mprotect(2) over part of a reservation succeeds, or fails with nothing changed.

use core::ffi::CStr;
use core::ops::Range;

use super::unix::MAP_PRIVATE;
use super::{Contents, GiveBack, Inheritance, PageRange, ResidentFalls, UnusedContract};
use crate::ErrorKind;
use crate::calls::{Minherit, Sysctl, SysctlByName, UnixCalls};

// Numbers of every BSD and of Darwin: <sys/mman.h> of FreeBSD 14, NetBSD 10, OpenBSD 7.8,
// DragonFly 6.4, macOS 15.
pub(crate) const MAP_ANON: i32 = 0x1000;
pub(crate) const ANONYMOUS: i32 = MAP_PRIVATE | MAP_ANON;
pub(crate) const INHERIT_SHARE: i32 = 0;
pub(crate) const INHERIT_COPY: i32 = 1;
pub(crate) const INHERIT_NONE: i32 = 2;
pub(crate) const MINCORE_INCORE: u8 = 1;
/// `RLIMIT_AS`, also called `RLIMIT_VMEM`: FreeBSD, NetBSD, DragonFly.
pub(crate) const RLIMIT_AS: i32 = 10;
pub(crate) const CTL_KERN: i32 = 1;
pub(crate) const KERN_PROC_PID: i32 = 1;

/// `MAP_ALIGNED(n)` of FreeBSD and NetBSD: aligned to two to the power of n.
pub(crate) const fn map_aligned(align: usize) -> i32 {
    (align.trailing_zeros() << 24) as i32
}

/// What giving back promises.
pub(crate) const fn contract(how: GiveBack, used_is_a_call: bool) -> UnusedContract {
    match how {
        GiveBack::Lazy => UnusedContract {
            resident_falls: ResidentFalls::UnderPressure,
            contents: Contents::Unspecified,
            used_is_a_call,
        },
        GiveBack::Eager => UnusedContract {
            resident_falls: ResidentFalls::AtOnce,
            contents: Contents::Zero,
            used_is_a_call,
        },
    }
}

/// Sets what a forked child gets of a range. `zero` is the system's number for that, if it has
/// one.
///
/// # Safety
///
/// As for [`Minherit::minherit`].
pub(crate) unsafe fn set_inheritance(
    kernel: &impl Minherit,
    range: PageRange,
    inheritance: Inheritance,
    zero: Option<i32>,
) -> Result<(), ErrorKind> {
    let number = match inheritance {
        Inheritance::Copy => Some(INHERIT_COPY),
        Inheritance::Share => Some(INHERIT_SHARE),
        Inheritance::Nothing => Some(INHERIT_NONE),
        Inheritance::Zeros => zero,
    };
    let number = number.ok_or(ErrorKind::NotSupported)?;
    // SAFETY: the caller's promise.
    unsafe { kernel.minherit(range.start, range.len, number) }.map_err(ErrorKind::System)
}

/// The integer in `bytes`: sysctls hold four bytes or eight.
pub(crate) fn integer(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        4 => Some(u64::from(u32::from_ne_bytes(bytes.try_into().ok()?))),
        8 => Some(u64::from_ne_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

/// The integer in `field` of a structure of at most `LEN` bytes that a sysctl holds.
pub(crate) fn number_in<const LEN: usize>(
    kernel: &impl Sysctl,
    mib: &[i32],
    field: Range<usize>,
) -> Option<u64> {
    let mut value = [0; LEN];
    let len = kernel.sysctl(mib, &mut value).ok()?;
    integer(value.get(..len)?.get(field)?)
}

/// The integer that a sysctl holds.
pub(crate) fn number(kernel: &impl SysctlByName, name: &CStr) -> Option<u64> {
    let mut value = [0; 8];
    let len = kernel.sysctl_by_name(name, &mut value).ok()?;
    integer(value.get(..len)?)
}

/// The soft limit on a resource, if `len` bytes more than `used` are beyond it.
pub(crate) fn limit_met(
    kernel: &impl UnixCalls,
    resource: i32,
    used: Option<u64>,
    len: usize,
) -> Option<u64> {
    let limit = kernel.resource_limit(resource).ok()?;
    (used.unwrap_or(0).saturating_add(len as u64) > limit).then_some(limit)
}
