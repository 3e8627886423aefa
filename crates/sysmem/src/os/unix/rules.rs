//! What a Unix does in a way of its own.

use core::ffi::CStr;
use core::fmt;

use super::{ENOMEM, Unix, bits};
use crate::calls::{Kernel, UnixCalls};
use crate::os::{
    BatchError, GiveBack, Inheritance, PageRange, PageResidency, Policy, UnusedContract,
    unused_one_by_one,
};
use crate::{Errno, Error, ErrorKind, Limit, Operation, Protection};

/// Why a range could not be mapped at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPlaced {
    /// Something is mapped there.
    Taken,
    /// Something is mapped there, or memory is exhausted: the kernel has one answer for both.
    Unclear(Errno),
    /// The kernel refuses for another reason.
    Refused(Errno),
}

/// What a refused fixed mapping leaves of the range it was to replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// The range as it was.
    Kept,
    /// Nothing: the range is free address space.
    Hole,
    /// One or the other.
    Unknown,
}

/// What one Unix does in a way of its own.
///
/// The hooks that do something have the promises of the [`Os`] method of the same name: the
/// caller has checked the range, and owns it where the method of `Os` demands it.
pub trait UnixRules<K: UnixCalls>:
    Copy + Default + fmt::Debug + Send + Sync + Sized + 'static
{
    /// The kernel whose numbers these are.
    const KERNEL: Kernel;

    /// The flags of private anonymous memory.
    const ANONYMOUS: i32;

    /// The flags of private anonymous memory that costs nothing until it is used.
    const RESERVED: i32;

    /// The flags that put a mapping at its address if nothing is there. A kernel that puts it
    /// elsewhere instead is understood too.
    const NO_REPLACE: i32;

    /// What the kernel answers when something is there; `ENOMEM` is looked at twice. `None` where
    /// it puts the mapping elsewhere.
    const TAKEN: Option<Errno>;

    /// The advice that gives pages back when the system wants memory.
    const LAZY: i32;

    /// The flags of readable and writable memory that threads may have their stacks in, where the
    /// system wants to know.
    const STACK: i32 = 0;

    /// Flags and protection bits that a mapping needs to keep this policy, beside
    /// [`STACK`](UnixRules::STACK).
    fn policy_bits(policy: Policy) -> (i32, i32) {
        let _ = policy;
        (0, 0)
    }

    /// Whether memory can have this policy.
    fn supports(kernel: &K, policy: Policy) -> bool;

    /// Whether threads switch memory between writable and executable for themselves.
    fn switches_per_thread(kernel: &K) -> bool {
        let _ = kernel;
        false
    }

    /// What mprotect(2) is told to make memory of this policy accessible.
    #[inline(always)]
    fn access_bits(protection: Protection, policy: Policy) -> i32 {
        let _ = policy;
        bits(protection)
    }

    /// Gives fresh memory what [`policy_bits`](UnixRules::policy_bits) could not.
    ///
    /// # Safety
    ///
    /// The caller owns the range.
    #[inline]
    unsafe fn apply_policy(kernel: &K, range: PageRange, policy: Policy) -> Result<(), ErrorKind> {
        if policy.inheritance == Inheritance::Copy {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { Self::set_inheritance(kernel, range, policy.inheritance) }
    }

    /// Sets what a forked child gets of a range.
    ///
    /// # Safety
    ///
    /// The caller owns the range.
    unsafe fn set_inheritance(
        kernel: &K,
        range: PageRange,
        inheritance: Inheritance,
    ) -> Result<(), ErrorKind>;

    /// Sets whether a core dump has a range in it.
    ///
    /// # Safety
    ///
    /// The caller owns the range.
    unsafe fn set_dumped(kernel: &K, range: PageRange, dumped: bool) -> Result<(), ErrorKind> {
        let _ = (kernel, range, dumped);
        Err(ErrorKind::NotSupported)
    }

    /// Asked before a fixed mapping: whether the limits let one of that length through, where a
    /// refusal by one of them could not be told from a hole afterwards.
    fn limits_allow(kernel: &K, len: usize) -> Result<(), Errno> {
        let _ = (kernel, len);
        Ok(())
    }

    /// What a fixed mapping refused for that reason leaves.
    fn refusal_leaves(errno: Errno) -> Leaves;

    /// Whether a range that a refused fixed mapping may have removed is still the caller's, and not
    /// another thread's. Asked only where the refusal does not say so, and the place is taken.
    fn still_mapped(kernel: &K, range: PageRange) -> bool {
        let _ = (kernel, range);
        false
    }

    /// Whether memory is made accessible by a fixed mapping instead of mprotect(2), also where it is
    /// not for stacks.
    fn commits_by_mapping(kernel: &K) -> bool {
        let _ = kernel;
        false
    }

    /// Whether a fixed mapping may commit what mprotect(2) was refused for that reason.
    fn mapping_may_commit(errno: Errno) -> bool {
        let _ = errno;
        false
    }

    /// Whether `used` has to set the protection, because `unused` may have left none.
    fn used_protects(kernel: &K) -> bool {
        let _ = kernel;
        false
    }

    /// Whether that error means that memory, address space or a limit is exhausted.
    fn is_exhaustion(kernel: &K, operation: Operation, errno: Errno) -> bool {
        let _ = (kernel, operation);
        errno == ENOMEM
    }

    /// Which limit refused `len` bytes, if it can be told.
    fn limit_behind(kernel: &K, operation: Operation, len: usize) -> Option<Limit>;

    /// Reserves `len` bytes aligned to `align` and a page, close to `hint` unless that is zero.
    #[inline]
    fn reserve_anywhere(
        os: &Unix<K, Self>,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        os.reserve_and_trim(hint, len, align, policy)
    }

    /// Reserves `len` bytes at exactly `address`, if nothing is there.
    fn reserve_at(
        os: &Unix<K, Self>,
        address: usize,
        len: usize,
        policy: Policy,
    ) -> Result<*mut u8, NotPlaced> {
        os.map_at(address, len, policy)
    }

    /// Calls `each` with the bounds of every mapping of the process, lowest first. `None` where
    /// the kernel does not tell.
    fn mappings(kernel: &K, each: &mut dyn FnMut(usize, usize)) -> Option<()> {
        let _ = (kernel, each);
        None
    }

    /// The size of a huge page that the kernel may build out of pages.
    fn huge_page_size(kernel: &K) -> Option<usize> {
        let _ = kernel;
        None
    }

    /// The method of [`Os`].
    fn unused_contract(kernel: &K, how: GiveBack) -> UnusedContract;

    /// The method of [`Os`], where it is more than setting the protection.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn used(os: &Unix<K, Self>, range: PageRange) {
        let _ = (os, range);
    }

    /// The method of [`Os`].
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn unused(
        os: &Unix<K, Self>,
        range: PageRange,
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), Error> {
        match how {
            // SAFETY: the range is the caller's and its contents are forfeit.
            GiveBack::Lazy => unsafe { os.kernel.madvise(range.start, range.len, Self::LAZY) }
                .map_err(|errno| os.refused(Operation::Unused, range, errno)),
            // SAFETY: as above.
            GiveBack::Eager => unsafe { os.renew(range, protection, policy) },
        }
    }

    /// The method of [`Os`].
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn unused_batch(
        os: &Unix<K, Self>,
        ranges: &[PageRange],
        protection: Protection,
        how: GiveBack,
        policy: Policy,
    ) -> Result<(), BatchError> {
        // SAFETY: the caller's promise.
        unsafe { unused_one_by_one(os, ranges, protection, how, policy) }
    }

    /// The method of [`Os`].
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn fault(os: &Unix<K, Self>, range: PageRange, policy: Policy) -> Result<(), Error> {
        // SAFETY: the caller owns the range and gives its contents up.
        unsafe { os.replace_by(Operation::Fault, range, Protection::NoAccess, policy) }
    }

    /// The methods `huge_page`, `no_huge_page` and `collapse` of [`Os`].
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn advise_huge(
        kernel: &K,
        operation: Operation,
        range: PageRange,
    ) -> Result<(), ErrorKind> {
        let _ = (kernel, operation, range);
        Err(ErrorKind::NotSupported)
    }

    /// The method of [`Os`].
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn name(kernel: &K, range: PageRange, name: &CStr) -> Result<(), ErrorKind> {
        let _ = (kernel, range, name);
        Err(ErrorKind::NotSupported)
    }

    /// The method of [`Os`].
    fn residency(
        kernel: &K,
        range: PageRange,
        pages: &mut [PageResidency],
    ) -> Result<(), ErrorKind> {
        let _ = (kernel, range, pages);
        Err(ErrorKind::NotSupported)
    }
}
