//! Replacing a range by a fixed mapping.
//!
//! What a refused `mmap(MAP_FIXED)` leaves differs between kernels, and between reasons on one
//! kernel: the range as it was, or free address space that another thread may take at any moment.
//! Where it may be free, it is taken back without replacing anything; where that fails, the range
//! is [`ErrorKind::Lost`].

use super::{Leaves, MAP_FIXED, Unix, UnixRules, bits, stack_flags};
use crate::calls::UnixCalls;
use crate::os::{PageRange, Policy};
use crate::{Errno, Error, ErrorKind, Operation, Protection};

/// What came of replacing a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// It is fresh memory with the protection asked for.
    Fresh,
    /// The kernel refused and left a hole, which was taken back: the range is reserved.
    Reserved(Errno),
    /// The kernel refused, and the range is as it was.
    Kept(Errno),
    /// The range is not ours any more, or not what it has to be.
    Lost,
}

impl<K: UnixCalls, R: UnixRules<K>> Unix<K, R> {
    /// Replaces a range by fresh memory with that protection: charged for and accessible, or with
    /// `NoAccess` reserved.
    ///
    /// # Safety
    ///
    /// The caller owns the range; nothing relies on its contents.
    pub(crate) unsafe fn replace(
        &self,
        range: PageRange,
        protection: Protection,
        policy: Policy,
    ) -> Replaced {
        let PageRange { start, len } = range;
        if let Err(errno) = R::limits_allow(&self.kernel, len) {
            return Replaced::Kept(errno);
        }
        let (flags, maximum) = R::policy_bits(policy);
        let kind = match protection {
            Protection::NoAccess => R::RESERVED,
            _ => R::ANONYMOUS,
        };
        let flags = kind | flags | stack_flags::<K, R>(protection, policy) | MAP_FIXED;
        // SAFETY: the caller owns the range and gives its contents up.
        let mapped = unsafe { self.kernel.mmap(start, len, bits(protection) | maximum, flags) };
        let replaced = match mapped {
            Ok(_) => Replaced::Fresh,
            Err(errno) => match R::refusal_leaves(errno) {
                Leaves::Kept => return Replaced::Kept(errno),
                // If the place is free, taking it again makes it reserved. Where that fails, the
                // place may be taken by what was there, or by another thread; a limit may have
                // refused the second call as it did the first.
                leaves => match R::reserve_at(self, start.addr(), len, policy) {
                    Ok(_) if protection == Protection::NoAccess => Replaced::Fresh,
                    Ok(_) => Replaced::Reserved(errno),
                    Err(_) if leaves == Leaves::Unknown && R::still_mapped(&self.kernel, range) => {
                        return Replaced::Kept(errno);
                    }
                    Err(_) => return Replaced::Lost,
                },
            },
        };
        // SAFETY: the range is the caller's again.
        match unsafe { R::apply_policy(&self.kernel, range, policy) } {
            Ok(()) => replaced,
            Err(_) => Replaced::Lost,
        }
    }

    /// Replaces a range for an operation that starts from Reserved or ends there: a refusal leaves
    /// the range as it was, or reserved.
    ///
    /// # Safety
    ///
    /// As for `replace`.
    pub(crate) unsafe fn replace_by(
        &self,
        operation: Operation,
        range: PageRange,
        protection: Protection,
        policy: Policy,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        match unsafe { self.replace(range, protection, policy) } {
            Replaced::Fresh => Ok(()),
            Replaced::Reserved(errno) | Replaced::Kept(errno) => {
                Err(self.refused(operation, range, errno))
            }
            Replaced::Lost => Err(range.error(operation, ErrorKind::Lost)),
        }
    }

    /// The halves of a range, in whole pages; `None` for a page.
    fn halves(&self, range: PageRange) -> Option<[PageRange; 2]> {
        let PageRange { start, len } = range;
        let half = (len / 2) & !(self.kernel.page_size() - 1);
        let rest = PageRange::new(start.wrapping_add(half), len - half);
        (half != 0).then_some([PageRange::new(start, half), rest])
    }

    /// Gives a range back at once by replacing it with fresh memory of the same protection. Where
    /// that is refused, contents may be gone from a part of it.
    ///
    /// # Safety
    ///
    /// As for [`Os::unused`].
    pub(crate) unsafe fn renew(
        &self,
        range: PageRange,
        protection: Protection,
        policy: Policy,
    ) -> Result<(), Error> {
        let lost = range.error(Operation::Unused, ErrorKind::Lost);
        // SAFETY: the range is the caller's and its contents are forfeit.
        match unsafe { self.replace(range, protection, policy) } {
            Replaced::Fresh => return Ok(()),
            Replaced::Reserved(_) => {}
            Replaced::Lost => return Err(lost),
            Replaced::Kept(errno) => {
                // Close to a limit a kernel may count the range twice: as it is, and as it shall
                // be (OpenBSD, RLIMIT_DATA: read in sys_mmap). Reserved, it is not counted.
                // SAFETY: as above.
                match unsafe { self.replace(range, Protection::NoAccess, policy) } {
                    Replaced::Fresh | Replaced::Reserved(_) => {}
                    // Reserved, it may be counted, too (RLIMIT_AS: seen on FreeBSD). A part of it
                    // may still be had twice.
                    Replaced::Kept(_) => match self.halves(range) {
                        Some(halves) => {
                            return halves.into_iter().try_for_each(|half| {
                                // SAFETY: the caller's promise.
                                unsafe { self.renew(half, protection, policy) }
                            });
                        }
                        None => return Err(self.refused(Operation::Unused, range, errno)),
                    },
                    Replaced::Lost => return Err(lost),
                }
            }
        }
        if stack_flags::<K, R>(protection, policy) != 0 {
            // SAFETY: as above; the range is reserved.
            return match unsafe { self.replace(range, protection, policy) } {
                Replaced::Fresh => Ok(()),
                _ => Err(lost),
            };
        }
        // SAFETY: as above; the range is reserved.
        match unsafe { self.kernel.mprotect(range.start, range.len, bits(protection)) } {
            Err(_) if !R::used_protects(&self.kernel) => Err(lost),
            _ => Ok(()),
        }
    }
}
