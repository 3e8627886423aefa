//! What the BSDs share: sysctl(3).
//!
//! Structures are decoded from bytes at the offsets that the headers of FreeBSD 14.5, NetBSD 10.1,
//! OpenBSD 7.8 and DragonFly 6.4 give them on 64-bit machines; they have grown at their ends only.
//! What the fields hold was seen on FreeBSD 15-CURRENT, NetBSD 7.0 and OpenBSD 7.6.

use super::bytes::{Bytes, unreadable};
use super::{NO_LIMIT, Process, ProcessUsage, refusal};
use crate::calls::{Calls, Sysctl, UnixCalls};
use crate::os::bsd::RLIMIT_AS;
use crate::os::unix::RLIMIT_DATA;
use crate::{Errno, Error, ErrorKind};

// <sys/sysctl.h> of all.
pub(super) const CTL_VM: i32 = 2;
pub(super) const CTL_HW: i32 = 6;

// <sys/resource.h> of all.
pub(super) const RLIMIT_MEMLOCK: i32 = 6;

const ENOMEM: Errno = Errno(12);
const ESRCH: Errno = Errno(3);
const EPERM: Errno = Errno(1);

/// The number of a process, as the kernel takes it.
pub(super) fn id(kernel: &impl Sysctl, process: Process) -> i32 {
    match process {
        Process::Own => kernel.process_id(),
        // No process has a number that does not fit.
        Process::Id(id) => i32::try_from(id).unwrap_or(i32::MAX),
    }
}

/// What a sysctl holds; nothing is what NetBSD and OpenBSD say of a process that is not there.
pub(super) fn ask<'b>(
    kernel: &(impl Sysctl + Calls),
    mib: &[i32],
    buffer: &'b mut [u8],
) -> Result<&'b [u8], Error> {
    let room = buffer.len();
    let len = kernel.sysctl(mib, buffer).map_err(|errno| {
        refusal(match errno {
            ESRCH => ErrorKind::Gone,
            EPERM => ErrorKind::Denied,
            ENOMEM => ErrorKind::SmallBuffer { least: room + 1 },
            errno => ErrorKind::System(errno),
        })
    })?;
    match len {
        0 => Err(refusal(ErrorKind::Gone)),
        _ => buffer.get(..len).ok_or(unreadable()),
    }
}

/// The 64-bit number that a sysctl holds.
pub(super) fn number(kernel: &(impl Sysctl + Calls), mib: &[i32]) -> Option<u64> {
    Bytes(ask(kernel, mib, &mut [0; 8]).ok()?).u64(0)
}

/// A structure of at least `len` bytes of a process that has not ended; `state_at` is where its
/// `p_stat` lies.
pub(super) fn alive(
    bytes: &[u8],
    len: usize,
    state_at: usize,
    ended: u8,
) -> Result<Bytes<'_>, Error> {
    let bytes = Bytes::of_at_least(bytes, len)?;
    match bytes.u8(state_at) == Some(ended) {
        true => Err(refusal(ErrorKind::Gone)),
        false => Ok(bytes),
    }
}

/// `struct rusage` as it is on FreeBSD and DragonFly: `ru_utime` 0, `ru_stime` 16, `ru_maxrss` 32 in
/// KiB, `ru_minflt` 64, `ru_majflt` 72.
pub(super) fn rusage(process: Bytes<'_>, at: usize) -> ProcessUsage {
    ProcessUsage {
        user_time: process.timeval(at),
        system_time: process.timeval(at + 16),
        peak_resident: process.counted_u64(at + 32, 1024),
        minor_faults: process.u64(at + 64),
        major_faults: process.u64(at + 72),
        ..ProcessUsage::default()
    }
}

/// Puts the limits of a process in, each as `ask` tells it: `RLIM_INFINITY` is the largest signed
/// number.
pub(super) fn put_limits(usage: &mut ProcessUsage, ask: impl Fn(i32) -> Option<u64>) {
    let limit = |resource| {
        let limit = ask(resource)?;
        Some(if limit >= i64::MAX as u64 { NO_LIMIT } else { limit })
    };
    usage.virtual_size_limit = limit(RLIMIT_AS);
    usage.data_limit = limit(RLIMIT_DATA);
    usage.locked_limit = limit(RLIMIT_MEMLOCK);
}

/// The calling process's soft limit on a resource.
pub(super) fn own_limit(kernel: &impl UnixCalls, process: Process, resource: i32) -> Option<u64> {
    match process {
        Process::Own => kernel.resource_limit(resource).ok(),
        Process::Id(_) => None,
    }
}

/// The bytes of swap that nothing is in.
pub(super) fn free_swap(total: Option<u64>, used: Option<u64>) -> Option<u64> {
    total?.checked_sub(used?)
}
