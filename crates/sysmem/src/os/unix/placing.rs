//! Where a reservation lies: alignment without excess, and placement that clobbers nothing.

use core::ops::RangeInclusive;
use core::ptr::{self, NonNull};

use super::{EINVAL, ENOMEM, NotPlaced, PROT_NONE, Unix, UnixRules};
use crate::calls::UnixCalls;
use crate::os::nearest::{ADDRESS_END, NearestPlace};
use crate::os::{Os, PageRange, Placement, Policy, ReserveOptions};
use crate::{Errno, Error, ErrorKind, Operation};

impl<K: UnixCalls, R: UnixRules<K>> Unix<K, R> {
    /// Maps reserved memory; with MAP_FIXED among the flags, over what is there.
    ///
    /// # Safety
    ///
    /// As for [`UnixCalls::mmap`].
    #[inline]
    pub(crate) unsafe fn map_reserved(
        &self,
        address: usize,
        len: usize,
        flags: i32,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        let (policy_flags, maximum) = R::policy_bits(policy);
        let flags = R::RESERVED | policy_flags | flags;
        let address = ptr::with_exposed_provenance_mut(address);
        // SAFETY: the caller's promise.
        unsafe { self.kernel.mmap(address, len, PROT_NONE | maximum, flags) }
    }

    /// Unmaps what was just mapped here.
    ///
    /// # Safety
    ///
    /// Nobody else knows of the range.
    unsafe fn unmap(&self, start: *mut u8, len: usize) {
        // SAFETY: the caller's promise. A refusal cannot be helped: the range stays reserved.
        let _ = unsafe { self.kernel.munmap(start, len) };
    }

    /// Reserves `len` bytes at exactly `address` with mmap(2), if nothing is there.
    pub(crate) fn map_at(
        &self,
        address: usize,
        len: usize,
        policy: Policy,
    ) -> Result<*mut u8, NotPlaced> {
        // SAFETY: nothing is replaced, so nothing of anybody's is touched.
        match unsafe { self.map_reserved(address, len, R::NO_REPLACE, policy) } {
            Ok(start) if start.addr() == address => Ok(start),
            Ok(start) => {
                // SAFETY: mapped two lines above.
                unsafe { self.unmap(start, len) };
                Err(NotPlaced::Taken)
            }
            Err(errno) if R::TAKEN != Some(errno) => Err(NotPlaced::Refused(errno)),
            Err(ENOMEM) => Err(NotPlaced::Unclear(ENOMEM)),
            Err(_) => Err(NotPlaced::Taken),
        }
    }

    /// Tells a taken address from exhaustion: as much space elsewhere is either to be had, or not.
    fn second_look(&self, why: NotPlaced, len: usize, policy: Policy) -> ErrorKind {
        match why {
            NotPlaced::Taken => ErrorKind::Taken,
            NotPlaced::Refused(errno) => ErrorKind::System(errno),
            // SAFETY: nothing is replaced.
            NotPlaced::Unclear(errno) => match unsafe { self.map_reserved(0, len, 0, policy) } {
                Ok(start) => {
                    // SAFETY: just mapped.
                    unsafe { self.unmap(start, len) };
                    ErrorKind::Taken
                }
                Err(_) => ErrorKind::System(errno),
            },
        }
    }

    /// Reserves `len` bytes aligned to `align` with mmap(2), leaving nothing else reserved.
    #[inline]
    pub(crate) fn reserve_and_trim(
        &self,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        if align <= self.kernel.page_size() {
            // SAFETY: nothing is replaced.
            return unsafe { self.map_reserved(hint, len, 0, policy) };
        }
        self.reserve_more_aligned(hint, len, align, policy)
    }

    /// Reserves in the way that takes fewer calls first, and in the other if that is refused.
    ///
    /// Whole multiples of `align` are often aligned without doing anything for it: they lie beside
    /// another reservation that is, and Linux aligns whole huge pages (since 6.7,
    /// `thp_get_unmapped_area`). Others hardly ever are, but reserving more than `len` bytes may
    /// meet a limit that `len` bytes do not.
    #[inline(never)]
    fn reserve_more_aligned(
        &self,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        if len & (align - 1) == 0 {
            self.reserve_and_move(hint, len, align, policy)
                .or_else(|_| self.reserve_longer(hint, len, align, policy))
        } else {
            self.reserve_longer(hint, len, align, policy)
                .or_else(|_| self.reserve_and_move(hint, len, align, policy))
        }
    }

    /// Reserves `len` bytes, and if they are not aligned instead those at the aligned address
    /// below, which is often free: most kernels place mappings downward.
    fn reserve_and_move(
        &self,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        // SAFETY: nothing is replaced.
        let start = unsafe { self.map_reserved(hint, len, 0, policy) }?;
        if start.addr() & (align - 1) == 0 {
            return Ok(start);
        }
        // SAFETY: just reserved and known to nobody.
        unsafe { self.kernel.munmap(start, len) }?;
        match start.addr() & !(align - 1) {
            0 => Err(ENOMEM),
            below => R::reserve_at(self, below, len, policy).map_err(|_| ENOMEM),
        }
    }

    /// Reserves so much that `len` aligned bytes are in it, and releases the rest.
    fn reserve_longer(
        &self,
        hint: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, Errno> {
        let slack = align - self.kernel.page_size();
        let long = len.checked_add(slack).ok_or(ENOMEM)?;
        // SAFETY: nothing is replaced.
        let whole = unsafe { self.map_reserved(hint, long, 0, policy) }?;
        let head = whole.addr().wrapping_neg() & (align - 1);
        let start = whole.wrapping_add(head);
        let tail = slack - head;
        let trim = |from: *mut u8, len: usize| {
            if len == 0 {
                return Ok(());
            }
            // SAFETY: inside `whole`, outside the part that is kept.
            unsafe { self.kernel.munmap(from, len) }
        };
        let trimmed = trim(start.wrapping_add(len), tail).and_then(|()| trim(whole, head));
        if let Err(errno) = trimmed {
            // Trimming splits a mapping that the kernel joined to its neighbours, and that can
            // meet a limit on mappings. Nothing may stay behind.
            for (from, len) in [(whole, head), (start, len), (start.wrapping_add(len), tail)] {
                let _ = trim(from, len);
            }
            return Err(errno);
        }
        Ok(start)
    }

    /// Reserves as close to `address` as can be found.
    fn reserve_near(
        &self,
        address: usize,
        distance: usize,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, ErrorKind> {
        // Another thread may take the place between the look and the mapping; look again then.
        for _ in 0..8 {
            let mut nearest = NearestPlace::new(address, distance, len, align);
            let mut gap_start = 0;
            let looked = R::mappings(&self.kernel, &mut |start, end| {
                nearest.consider(gap_start, start);
                // A stack grows down into the gap below it: Linux keeps 1 MiB free there
                // (`stack_guard_gap`), and says so only by refusing.
                gap_start = end;
            });
            nearest.consider(gap_start, usize::MAX);
            let place = nearest.place().ok_or(ErrorKind::NoPlace)?;
            if looked.is_none() {
                return self.reserve_by_trying(place, nearest.within(), len, align, policy);
            }
            match R::reserve_at(self, place, len, policy) {
                Ok(start) => return Ok(start),
                Err(why) => match self.second_look(why, len, policy) {
                    ErrorKind::Taken => continue,
                    kind => return Err(kind),
                },
            }
        }
        Err(ErrorKind::NoPlace)
    }

    /// Reserves at the first free place, trying from `middle` outward in steps: for kernels that
    /// do not list mappings. Small gaps between two steps are not found.
    fn reserve_by_trying(
        &self,
        middle: usize,
        within: RangeInclusive<usize>,
        len: usize,
        align: usize,
        policy: Policy,
    ) -> Result<*mut u8, ErrorKind> {
        const STEPS: usize = 64;
        let reach = (middle - within.start()).max(within.end() - middle);
        let step = (reach / STEPS).max(len).checked_next_multiple_of(align).unwrap_or(usize::MAX);
        let mut why = NotPlaced::Taken;
        for index in 0..=STEPS {
            let away = step.saturating_mul(index);
            let (above, below) = (middle.checked_add(away), middle.checked_sub(away));
            for candidate in [above, below].into_iter().flatten() {
                if !within.contains(&candidate) {
                    continue;
                }
                match R::reserve_at(self, candidate, len, policy) {
                    Ok(start) => return Ok(start),
                    // Outside what this kernel maps for programs.
                    Err(NotPlaced::Refused(_)) => {}
                    Err(other) => why = other,
                }
            }
        }
        match self.second_look(why, len, policy) {
            ErrorKind::Taken => Err(ErrorKind::NoPlace),
            kind => Err(kind),
        }
    }

    /// Reserves aligned, in a place or with a policy of the caller's choice. Not inlined: it would
    /// make the plain reservation pay for the registers that this one needs.
    #[inline(never)]
    pub(super) fn reserve_specially(&self, options: &ReserveOptions) -> Result<NonNull<u8>, Error> {
        let &ReserveOptions { len, align, placement, policy } = options;
        let page_size = self.kernel.page_size();
        let address = match placement {
            Placement::At(address) | Placement::Near { address, .. } => address,
            _ => 0,
        };
        let range = PageRange::new(ptr::without_provenance_mut(address), len);
        PageRange::new(ptr::null_mut(), len).check(Operation::Reserve, page_size)?;
        if !align.is_power_of_two() || align > ADDRESS_END {
            return Err(range.error(Operation::Reserve, ErrorKind::BadAlignment));
        }
        if !self.supports(policy) {
            return Err(range.error(Operation::Reserve, ErrorKind::NotSupported));
        }
        let fail = |kind| self.failed(Operation::Reserve, range, kind);
        let start = self.place(options, align.max(page_size)).map_err(fail)?;
        let placed = PageRange::new(start, len);
        // SAFETY: just reserved and known to nobody.
        if let Err(kind) = unsafe { R::apply_policy(&self.kernel, placed, policy) } {
            // SAFETY: as above.
            unsafe { self.unmap(start, len) };
            return Err(fail(kind));
        }
        NonNull::new(start).ok_or_else(|| fail(ErrorKind::System(EINVAL)))
    }

    fn place(&self, options: &ReserveOptions, align: usize) -> Result<*mut u8, ErrorKind> {
        let &ReserveOptions { len, placement, policy, .. } = options;
        let anywhere = |hint: usize| {
            R::reserve_anywhere(self, hint, len, align, policy).map_err(ErrorKind::System)
        };
        match placement {
            Placement::Any => anywhere(0),
            Placement::Hint(hint) => {
                // A kernel that randomizes addresses does not honour a free hint (FreeBSD with
                // kern.elf64.aslr.enable=1: seen): asked for by address, it is honoured by all.
                // Beyond a hint some find nothing and do not look below it: OpenBSD among the
                // kernel's addresses (seen on 7.6), DragonFly (`vm_map_findspace`).
                let hint = hint & !(align - 1);
                match hint {
                    0 => anywhere(0),
                    _ => R::reserve_at(self, hint, len, policy)
                        .or_else(|_| anywhere(hint))
                        .or_else(|_| anywhere(0)),
                }
            }
            Placement::At(address) if address & (align - 1) != 0 => {
                Err(ErrorKind::Unaligned { multiple: align })
            }
            Placement::At(address) => R::reserve_at(self, address, len, policy)
                .map_err(|why| self.second_look(why, len, policy)),
            Placement::Near { address, distance } => {
                self.reserve_near(address, distance, len, align, policy)
            }
            Placement::High => {
                // Every kernel places 64-bit programs' mappings far above 4 GiB of its own accord;
                // what a personality or an emulation might do instead is checked.
                let start = anywhere(0)?;
                if start.addr() as u64 >= 1 << 32 {
                    return Ok(start);
                }
                // SAFETY: just reserved and known to nobody.
                unsafe { self.unmap(start, len) };
                Err(ErrorKind::NoPlace)
            }
        }
    }
}
