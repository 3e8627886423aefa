use sysmem::os::BatchError;
use sysmem::{Error, ErrorKind, GuardMechanism, Guards, Operation, Reservation};

/// Pages inside Ready memory that fault on every access, until the guard is removed: behind a
/// stack, a buffer, or an object that is not to be used any more.
///
/// The kernel's cheapest means is chosen, for each guard anew: `MADV_GUARD_INSTALL` on Linux from
/// 6.13 on, where the mapping takes such marks, which neither splits a mapping nor uses one up;
/// `PROT_NONE` otherwise. [`mechanism`](Guard::mechanism) says which it was, and
/// [`GuardMechanism::destroyed_by`] what would take it away behind the reservation's back. The
/// reservation itself refuses operations on ranges with a guard in them, and fault reports say
/// whose guard was hit.
///
/// A guard is not removed when it is dropped: most stay as long as their reservation.
///
/// ```
/// # use sysmem::{Account, ErrorKind, Protection, Reservation, ReserveOptions};
/// use sysmem_runtime::Guard;
/// # static STACKS: Account = Account::new("stacks");
/// # let page = sysmem::page_size();
/// # let mut stacks = Reservation::reserve(ReserveOptions::new(64 * page), &STACKS)?;
/// # stacks.map(0, 64 * page, Protection::ReadWrite)?;
/// # stacks.used(0, 64 * page)?;
///
/// let guard = Guard::install(&mut stacks, 0, page)?;
/// assert!(stacks.is_guard(0));
/// assert_eq!(stacks.fault(0, 2 * page).unwrap_err().kind(), ErrorKind::Guard);
/// guard.remove(&mut stacks).map_err(|(_, error)| error)?;
/// # Ok::<(), sysmem::Error>(())
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "without it the guard cannot be removed"]
pub struct Guard {
    /// The reservation's first address, to know it again.
    reservation: usize,
    offset: usize,
    len: usize,
    stride: usize,
    count: usize,
    mechanism: GuardMechanism,
}

impl Guard {
    /// Ready → Reserved, as a guard: the range's contents are forfeit and every access to it
    /// faults. All of the range is Ready with one protection.
    #[track_caller]
    pub fn install<O: Guards>(
        reservation: &mut Reservation<O>,
        offset: usize,
        len: usize,
    ) -> Result<Guard, Error> {
        // SAFETY: `&mut` keeps others out of every range.
        unsafe { Guard::install_shared(reservation, offset, len) }
    }

    /// [`install`](Guard::install) while other threads work on other ranges.
    ///
    /// # Safety
    ///
    /// As for [`Reservation::map_shared`].
    #[track_caller]
    pub unsafe fn install_shared<O: Guards>(
        reservation: &Reservation<O>,
        offset: usize,
        len: usize,
    ) -> Result<Guard, Error> {
        // SAFETY: the caller's promise.
        let mechanism = unsafe { reservation.install_guard_shared(offset, len) }?;
        let reservation = reservation.as_mut_ptr().addr();
        Ok(Guard { reservation, offset, len, stride: len, count: 1, mechanism })
    }

    /// A row of guards: `count` of `len` bytes that begin `stride` bytes apart, the first of them
    /// at `offset`, such as one below each stack of a pool. They are installed and removed together
    /// and by one mechanism, with one system call for many where the system has that
    /// (`process_madvise`, Linux 6.14). On failure there is none of them.
    #[track_caller]
    pub fn install_row<O: Guards>(
        reservation: &mut Reservation<O>,
        offset: usize,
        len: usize,
        stride: usize,
        count: usize,
    ) -> Result<Guard, Error> {
        // SAFETY: `&mut` keeps others out of every range.
        unsafe { Guard::install_row_shared(reservation, offset, len, stride, count) }
    }

    /// [`install_row`](Guard::install_row) while other threads work on other ranges.
    ///
    /// # Safety
    ///
    /// As for [`Reservation::map_shared`].
    #[track_caller]
    pub unsafe fn install_row_shared<O: Guards>(
        reservation: &Reservation<O>,
        offset: usize,
        len: usize,
        stride: usize,
        count: usize,
    ) -> Result<Guard, Error> {
        // SAFETY: the caller's promise.
        let mechanism = unsafe { reservation.install_guards_shared((offset, len), stride, count) }?;
        let reservation = reservation.as_mut_ptr().addr();
        Ok(Guard { reservation, offset, len, stride, count, mechanism })
    }

    /// Reserved → Ready: the range is accessible as it was before; zeroed on Linux, elsewhere
    /// with contents that are unspecified. On failure the guard comes back with the error, of a row
    /// what is left of it.
    #[track_caller]
    pub fn remove<O: Guards>(self, reservation: &mut Reservation<O>) -> Result<(), (Guard, Error)> {
        // SAFETY: `&mut` keeps others out of every range.
        unsafe { self.remove_shared(reservation) }
    }

    /// [`remove`](Guard::remove) while other threads work on other ranges.
    ///
    /// # Safety
    ///
    /// As for [`Reservation::map_shared`].
    #[track_caller]
    pub unsafe fn remove_shared<O: Guards>(
        self,
        reservation: &Reservation<O>,
    ) -> Result<(), (Guard, Error)> {
        if reservation.as_mut_ptr().addr() != self.reservation {
            let kind = ErrorKind::OutOfBounds { len: reservation.len() };
            let address = self.reservation + self.offset;
            let error = Error::new(Operation::RemoveGuard, address, self.len, kind);
            return Err((self, error));
        }
        if self.count == 1 {
            // SAFETY: the caller's promise.
            return unsafe {
                reservation.remove_guard_shared(self.offset, self.len, self.mechanism)
            }
            .map_err(|error| (self, error));
        }
        let part = (self.offset, self.len);
        // SAFETY: the caller's promise.
        unsafe { reservation.remove_guards_shared(part, self.stride, self.count, self.mechanism) }
            .map_err(|BatchError { done, error }| {
                let offset = self.offset + done * self.stride;
                (Guard { offset, count: self.count - done, ..self }, error)
            })
    }

    /// How the guard is made.
    pub fn mechanism(&self) -> GuardMechanism {
        self.mechanism
    }

    /// Where it begins in its reservation, in bytes.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// How many guards it is: one, or a row.
    pub fn count(&self) -> usize {
        self.count
    }

    /// From the beginning of one guard of a row to that of the next, in bytes.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The length of each guard in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: no guard is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
