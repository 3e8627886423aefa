use core::slice;

use sysmem::{Error, ErrorKind, Native, Os, Protection, Reservation, Sealing, State};

/// Memory that nobody can unmap, move or make accessible in another way until the process ends:
/// `mseal` on Linux from 6.10 on, on 64-bit kernels; `mimmutable` on OpenBSD from 7.3 on.
///
/// For what an attacker would want to change: tables of functions, compiled code, settings. Where
/// the system has no such call the reservation comes back, with
/// [`ErrorKind::NotSupported`](sysmem::ErrorKind::NotSupported).
///
/// ```
/// # use sysmem::{Account, ErrorKind, Protection, Reservation};
/// use sysmem_runtime::Sealed;
/// # static TABLES: Account = Account::new("tables");
///
/// let mut table = Reservation::alloc(sysmem::page_size(), &TABLES)?;
/// // SAFETY: allocated memory is Ready, and nobody else uses it.
/// unsafe { table.as_mut_ptr().write(42) };
/// table.protect(0, sysmem::page_size(), Protection::ReadOnly)?;
/// match Sealed::new(table) {
///     Ok(table) => assert_eq!(table.bytes()[0], 42),
///     Err((_, error)) => assert_eq!(error.kind(), ErrorKind::NotSupported),
/// }
/// # Ok::<(), sysmem::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Sealed {
    bytes: &'static [u8],
}

impl Sealed {
    /// Seals a reservation all of which is Ready and ReadOnly or ReadExecute, for good. If it is
    /// not, or the system refuses, the reservation comes back.
    pub fn new<O: Sealing>(reservation: Reservation<O>) -> Result<Sealed, (Reservation<O>, Error)> {
        let mut at = 0;
        while let Some((state, protection, end)) = reservation.state(at) {
            let kind = match (state, protection) {
                (State::Ready, Protection::ReadOnly | Protection::ReadExecute) => {
                    at = end;
                    continue;
                }
                (State::Ready, found) => ErrorKind::WrongProtection { found },
                (found, _) => ErrorKind::WrongState { found },
            };
            let address = reservation.as_mut_ptr().addr() + at;
            let error = Error::new(sysmem::Operation::Seal, address, end - at, kind);
            return Err((reservation, error));
        }
        let range = reservation.seal()?;
        // SAFETY: Ready, readable, never written to again, mapped as long as the process lives.
        Ok(Sealed { bytes: unsafe { slice::from_raw_parts(range.start, range.len) } })
    }

    /// The memory.
    pub fn bytes(self) -> &'static [u8] {
        self.bytes
    }

    /// What the running system calls sealing, if this kernel has it: it is asked, with a page that
    /// stays sealed, once in the life of the process.
    pub fn supported() -> Option<&'static str> {
        use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
        static KNOWN: AtomicU8 = AtomicU8::new(0);
        static PROBE: sysmem::Account = sysmem::Account::new("sealing probe");
        if KNOWN.load(Relaxed) == 0 {
            let probed =
                Reservation::alloc(Native::NEW.page_size(), &PROBE).is_ok_and(|mut page| {
                    let len = page.len();
                    page.protect(0, len, Protection::ReadOnly).is_ok() && Sealed::new(page).is_ok()
                });
            KNOWN.store(1 + u8::from(probed), Relaxed);
        }
        (KNOWN.load(Relaxed) == 2).then(|| Native::NEW.sealing_name())
    }
}
