//! A memory barrier on every thread: the dear half of a lock whose other half costs its owner a
//! store and a load.

use crate::Os;
use crate::calls::{Membarrier, VirtualMemory};
use crate::os::linux::{Linux, LinuxCalls};
use crate::os::unix::Unix;
use crate::os::windows::Windows;
use crate::os::{darwin, dragonfly, freebsd, illumos, netbsd, openbsd};

/// A system that may be able to send every running thread of the process through a memory barrier.
/// Linux only.
///
/// FreeBSD 14.1 has membarrier(2) with the same commands and numbers (sys/sys/membarrier.h), and
/// `MEMBARRIER_CMD_PRIVATE_EXPEDITED` interrupts the processors on which the process is active
/// (sys/kern/kern_membarrier.c). But its manual promises a barrier to "each running thread" and says
/// nothing of those that just stopped running, which this trait promises too; there is no word on
/// that from a system it was tried on; and an older kernel kills the process for the call (SIGSYS).
/// The other systems have no such call. Windows has `FlushProcessWriteBuffers`, which has not been
/// tried either.
///
/// # Safety
///
/// When [`barrier_on_all_threads`](ThreadBarrier::barrier_on_all_threads) returns true, every thread
/// of the process has passed a full memory barrier between the call and its return.
pub unsafe trait ThreadBarrier: Os {
    /// Says that the process will want barriers; whether the running system has them.
    fn register_thread_barrier(&self) -> bool {
        false
    }

    /// Sends every thread through a memory barrier; whether it did. False before
    /// [`register_thread_barrier`](ThreadBarrier::register_thread_barrier).
    fn barrier_on_all_threads(&self) -> bool {
        false
    }
}

// <linux/membarrier.h>
const MEMBARRIER_CMD_PRIVATE_EXPEDITED: i32 = 1 << 3;
const MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;

// SAFETY: membarrier(2), MEMBARRIER_CMD_PRIVATE_EXPEDITED (Linux 4.14): "all running thread siblings
// have passed through a state where all memory accesses to user-space addresses match program order".
// Those that do not run pass one when they are scheduled.
unsafe impl<K: LinuxCalls + Membarrier> ThreadBarrier for Linux<K> {
    fn register_thread_barrier(&self) -> bool {
        // ENOSYS before 4.3 and under a sandbox's EPERM, EINVAL before 4.14.
        self.kernel.membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED).is_ok()
    }

    fn barrier_on_all_threads(&self) -> bool {
        self.kernel.membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED).is_ok()
    }
}

macro_rules! without_barrier {
    ($([$($generics:tt)*] $system:ty;)*) => {$(
        // SAFETY: it never says that there was a barrier.
        unsafe impl<$($generics)*> ThreadBarrier for $system {}
    )*};
}

without_barrier! {
    [K: freebsd::FreeBsdCalls] Unix<K, freebsd::FreeBsdRules>;
    [K: netbsd::NetBsdCalls] Unix<K, netbsd::NetBsdRules>;
    [K: openbsd::OpenBsdCalls] Unix<K, openbsd::OpenBsdRules>;
    [K: dragonfly::DragonFlyCalls] Unix<K, dragonfly::DragonFlyRules>;
    [K: illumos::IllumosCalls] Unix<K, illumos::IllumosRules>;
    [K: darwin::DarwinCalls] Unix<K, darwin::DarwinRules>;
    [K: VirtualMemory] Windows<K>;
}
