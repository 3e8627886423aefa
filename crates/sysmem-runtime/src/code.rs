//! Memory for machine code that is made at run time.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use sysmem::{
    Account, CodeMemory, Error, ErrorKind, GiveBack, MemoryObject, Native, Protection, Reservation,
    ReserveOptions, Sealing, State,
};

use crate::Sealed;

mod changing;
mod coherence;
mod error;
mod mechanism;

pub use error::CodeError;
use mechanism::Refusals;
pub use mechanism::{CodeMechanism, CodeOptions, Refusal};

static CODE: Account = Account::new("code");
static VIEWS: Account = Account::new("code: writable views");

/// Memory for machine code, never writable and executable through one address at one moment.
///
/// Pages are written, then published; published pages execute, and fault when they are written
/// to. At run time the region chooses the mechanism that the system allows, and
/// [`refusals`](CodeRegion::refusals) says why the others were refused.
///
/// Ranges are offsets and lengths in bytes. What is published, unpublished and discarded is whole
/// pages.
///
/// After a fork, two views are of the same memory in parent and child: code that the child writes
/// is changed in the parent too. A child that makes code needs a region of its own.
///
/// ```no_run
/// use sysmem_runtime::{CodeOptions, CodeRegion};
///
/// let page = sysmem::page_size();
/// let mut region = CodeRegion::reserve(CodeOptions::new(64 << 20))?;
/// region.write(0, &[0xb8, 42, 0, 0, 0, 0xc3])?; // x86_64: mov eax, 42; ret
/// region.publish(0, page)?;
/// // SAFETY: the bytes are a function that takes nothing and returns an i32.
/// let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(region.address(0)) };
/// assert_eq!(function(), 42);
/// # Ok::<(), sysmem_runtime::CodeError>(())
/// ```
pub struct CodeRegion<O: CodeMemory = Native> {
    /// Where code is executed; with one view, also where it is written.
    code: Reservation<O>,
    writing: Writing<O>,
    refusals: Refusals,
}

/// How code is written.
enum Writing<O: CodeMemory> {
    View(View<O>),
    PerThread,
    Switch,
}

/// The writable view and the object that both views are of.
struct View<O: CodeMemory> {
    memory: Reservation<O>,
    object: OwnedObject<O>,
}

/// An object that is closed when it is dropped.
struct OwnedObject<O: CodeMemory> {
    os: O,
    object: ManuallyDrop<MemoryObject>,
}

impl<O: CodeMemory> Deref for OwnedObject<O> {
    type Target = MemoryObject;

    fn deref(&self) -> &MemoryObject {
        &self.object
    }
}

impl<O: CodeMemory> Drop for OwnedObject<O> {
    fn drop(&mut self) {
        // SAFETY: taken once, here.
        self.os.close_object(unsafe { ManuallyDrop::take(&mut self.object) });
    }
}

/// Why there is no region by one mechanism.
enum Refused {
    /// The system does not allow the mechanism.
    Mechanism(Error),
    /// There is no place for code, which no other mechanism would find.
    Place(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Mechanism(error)
    }
}

impl Refused {
    /// What a refusal to reserve the place for code means.
    fn place(error: Error) -> Refused {
        use ErrorKind::*;
        match error.kind() {
            NoPlace | Taken | Unaligned { .. } | Empty | TooLong | BadAlignment => {
                Refused::Place(error)
            }
            _ => Refused::Mechanism(error),
        }
    }
}

impl CodeRegion {
    /// Reserves memory for code on the running system.
    pub fn reserve(options: CodeOptions) -> Result<CodeRegion, CodeError> {
        CodeRegion::reserve_in(Native::NEW, options, &CODE)
    }
}

impl<O: CodeMemory + Clone> CodeRegion<O> {
    /// Reserves memory for code from `os`, booked on `account`; a writable view of it is booked on
    /// an account of its own.
    pub fn reserve_in(
        os: O,
        options: CodeOptions,
        account: &'static Account,
    ) -> Result<CodeRegion<O>, CodeError> {
        let mut refusals = [None; CodeMechanism::ALL.len()];
        let place = ReserveOptions::new(options.len).placement(options.placement).executable(true);
        for (mechanism, refusal) in CodeMechanism::ALL.into_iter().zip(&mut refusals) {
            if options.mechanism.is_some_and(|only| only != mechanism) {
                continue;
            }
            let region = match mechanism {
                CodeMechanism::TwoViews => CodeRegion::with_two_views(os.clone(), place, account),
                CodeMechanism::PerThread => CodeRegion::per_thread(os.clone(), place, account),
                CodeMechanism::Switch => CodeRegion::with_one_view(os.clone(), place, account),
            };
            match region {
                Ok(region) => return Ok(CodeRegion { refusals, ..region }),
                Err(Refused::Place(error)) => return Err(error.into()),
                Err(Refused::Mechanism(error)) => {
                    let (operation, kind) = (error.operation(), error.kind());
                    *refusal = Some(Refusal { mechanism, operation, kind });
                }
            }
        }
        Err(CodeError::NoMechanism(refusals))
    }

    /// Two views of one object, if the system lets it be executed.
    fn with_two_views(
        os: O,
        place: ReserveOptions,
        account: &'static Account,
    ) -> Result<CodeRegion<O>, Refused> {
        let (len, page) = (place.len(), os.page_size());
        let object =
            OwnedObject { object: ManuallyDrop::new(os.create_object(len)?), os: os.clone() };
        let mut code = Reservation::reserve_view_in(os.clone(), place, account, &object)
            .map_err(Refused::place)?;
        let anywhere = ReserveOptions::new(len);
        let mut memory = Reservation::reserve_view_in(os, anywhere, &VIEWS, &object)?;
        // A system may refuse what was writable, or is from no file, to be executed: SELinux
        // (execmod, execmem), PaX, Windows under "arbitrary code guard".
        memory.map_object(0, page, Protection::ReadWrite, &object)?;
        code.map_object(0, page, Protection::ReadExecute, &object)?;
        memory.fault(0, page)?;
        code.fault(0, page)?;
        let writing = Writing::View(View { memory, object });
        Ok(CodeRegion { code, writing, refusals: Refusals::default() })
    }

    /// One view that threads switch, if the processor has that and the system lets this program.
    fn per_thread(
        os: O,
        place: ReserveOptions,
        account: &'static Account,
    ) -> Result<CodeRegion<O>, Refused> {
        let page = os.page_size();
        let place = place.switched_per_thread();
        let mut code = Reservation::reserve_in(os, place, account).map_err(Refused::place)?;
        code.map(0, page, Protection::ReadWrite)?;
        code.used(0, page)?;
        code.unused(0, page, GiveBack::Lazy)?;
        Ok(CodeRegion { code, writing: Writing::PerThread, refusals: Refusals::default() })
    }

    /// One view, if the system lets memory that was written to be executed.
    fn with_one_view(
        os: O,
        place: ReserveOptions,
        account: &'static Account,
    ) -> Result<CodeRegion<O>, Refused> {
        let page = os.page_size();
        let mut code = Reservation::reserve_in(os, place, account).map_err(Refused::place)?;
        code.map(0, page, Protection::ReadWrite)?;
        code.used(0, page)?;
        // A page that was never touched is no test: SELinux asks whether there is a page.
        // SAFETY: the page was just made Ready.
        unsafe { code.as_mut_ptr().write_volatile(0) };
        code.protect(0, page, Protection::ReadExecute)?;
        code.fault(0, page)?;
        Ok(CodeRegion { code, writing: Writing::Switch, refusals: Refusals::default() })
    }
}

impl<O: CodeMemory> CodeRegion<O> {
    /// How memory becomes writable and executable here.
    pub fn mechanism(&self) -> CodeMechanism {
        match self.writing {
            Writing::View(_) => CodeMechanism::TwoViews,
            Writing::PerThread => CodeMechanism::PerThread,
            Writing::Switch => CodeMechanism::Switch,
        }
    }

    /// The mechanisms that were tried before, and why the system refused them.
    pub fn refusals(&self) -> impl Iterator<Item = Refusal> {
        self.refusals.into_iter().flatten()
    }

    /// The address at which the byte at `offset` is executed.
    pub fn address(&self, offset: usize) -> *const u8 {
        self.code.as_mut_ptr().wrapping_add(offset)
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.code.len()
    }

    /// Never: no system reserves nothing.
    pub fn is_empty(&self) -> bool {
        self.code.len() == 0
    }

    /// Writes code to pages that are not published. What they held stays where it is not
    /// overwritten.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), CodeError> {
        self.write_with(offset, bytes.len(), |place| {
            // SAFETY: as many bytes are writable there, and not part of what is written.
            unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        })
    }

    /// [`write`](CodeRegion::write) in place: `work` is given a pointer to `len` writable bytes,
    /// which are executed later as those at `offset`, and is what an assembler emits to or a linker
    /// relocates in. The pointer is good for that long only. What the bytes hold is what was
    /// written there before, or unspecified.
    pub fn write_with(
        &mut self,
        offset: usize,
        len: usize,
        work: impl FnOnce(*mut u8),
    ) -> Result<(), CodeError> {
        if len == 0 {
            return Ok(());
        }
        let page = self.code.os().page_size();
        let first = offset & !(page - 1);
        let end = offset.saturating_add(len).saturating_add(page - 1) & !(page - 1);
        self.each_run(first, end - first, |region, at, _| match region.published(at) {
            true => Err(CodeError::Published(at)),
            false => Ok(()),
        })?;
        self.each_run(first, end - first, |region, at, len| {
            if !region.written(at) {
                region.make_writable(at, len)?;
            }
            Ok(())
        })?;
        self.while_writable(|region| work(region.writable(offset)));
        Ok(())
    }

    /// Seals the region, all of which is published: its code can be executed and read until the
    /// process ends, and nobody can change it, take it away, or write to it at another address.
    /// Where the system has no seals, or refuses, the region comes back.
    // What comes back has no heap to be boxed on.
    #[allow(clippy::result_large_err)]
    pub fn seal(self) -> Result<Sealed, (CodeRegion<O>, CodeError)>
    where
        O: Sealing,
    {
        let CodeRegion { code, writing, refusals } = self;
        match Sealed::new(code) {
            // The writable view goes.
            Ok(sealed) => Ok(sealed),
            Err((code, error)) => {
                let error = match error.kind() {
                    ErrorKind::WrongState { .. } | ErrorKind::WrongProtection { .. } => {
                        CodeError::NotPublished(error.address() - code.as_mut_ptr().addr())
                    }
                    _ => error.into(),
                };
                Err((CodeRegion { code, writing, refusals }, error))
            }
        }
    }

    /// Makes pages executable that were written to, and no longer writable at that address. Pages
    /// that are published stay so.
    pub fn publish(&mut self, offset: usize, len: usize) -> Result<(), CodeError> {
        self.each_run(offset, len, |region, at, _| match region.written(at) {
            true => Ok(()),
            false => Err(CodeError::NotWritten(at)),
        })?;
        self.each_run(offset, len, |region, at, len| {
            if region.published(at) {
                return Ok(());
            }
            let (written, executed) = (region.writable(at), region.address(at));
            if let Writing::View(View { object, .. }) = &region.writing {
                region.code.map_object(at, len, Protection::ReadExecute, object)?;
            }
            // SAFETY: the same pages, readable at both addresses.
            unsafe { coherence::make_coherent(written, executed, len) };
            match region.writing {
                Writing::View(_) => {}
                Writing::PerThread => {
                    region.code.protect_per_thread(at, len, Protection::ReadExecute)?;
                }
                Writing::Switch => region.code.protect(at, len, Protection::ReadExecute)?,
            }
            Ok(())
        })?;
        if coherence::FETCHES_AHEAD {
            coherence::synchronize_threads();
        }
        Ok(())
    }

    /// Makes pages inexecutable (but see [`CodeMechanism::PerThread`]); what they hold stays, and
    /// can be written to again. Pages that are not published stay as they are.
    ///
    /// # Safety
    ///
    /// No thread executes these pages, or is going to return into them.
    pub unsafe fn unpublish(&mut self, offset: usize, len: usize) -> Result<(), CodeError> {
        self.each_run(offset, len, |region, at, len| {
            if region.published(at) {
                match region.writing {
                    // The object keeps the contents.
                    Writing::View(_) => region.code.fault(at, len)?,
                    Writing::PerThread => {
                        region.code.protect_per_thread(at, len, Protection::ReadWrite)?;
                    }
                    Writing::Switch => region.code.protect(at, len, Protection::ReadWrite)?,
                }
            }
            Ok(())
        })
    }

    /// Gives the memory of pages back, published or not, and forgets what they held.
    ///
    /// # Safety
    ///
    /// As for [`unpublish`](CodeRegion::unpublish).
    pub unsafe fn discard(&mut self, offset: usize, len: usize) -> Result<(), CodeError> {
        match &mut self.writing {
            Writing::Switch => self.code.fault(offset, len)?,
            Writing::View(View { memory, object }) => {
                self.code.fault(offset, len)?;
                memory.fault(offset, len)?;
                // SAFETY: no view of these bytes is left.
                unsafe { memory.os().discard_object(object, offset, len) }?;
            }
            Writing::PerThread => self.each_run(offset, len, |region, at, len| {
                if region.written(at) {
                    region.code.protect_per_thread(at, len, Protection::ReadWrite)?;
                    region.code.unused(at, len, GiveBack::Lazy)?;
                }
                Ok(())
            })?,
        }
        Ok(())
    }

    /// The reservation in which code is written.
    fn written_in(&self) -> &Reservation<O> {
        match &self.writing {
            Writing::View(view) => &view.memory,
            Writing::PerThread | Writing::Switch => &self.code,
        }
    }

    /// Where the byte at `offset` is written.
    fn writable(&self, offset: usize) -> *mut u8 {
        self.written_in().as_mut_ptr().wrapping_add(offset)
    }

    fn published(&self, offset: usize) -> bool {
        matches!(self.code.state(offset), Some((State::Ready, Protection::ReadExecute, _)))
    }

    fn written(&self, offset: usize) -> bool {
        matches!(self.written_in().state(offset), Some((State::Ready, _, _)))
    }

    /// Makes a run of pages writable that are not: all of them were discarded, or none.
    fn make_writable(&mut self, offset: usize, len: usize) -> Result<(), Error> {
        if let Writing::View(View { memory, object }) = &mut self.writing {
            return memory.map_object(offset, len, Protection::ReadWrite, object);
        }
        if matches!(self.code.state(offset), Some((State::Reserved, _, _))) {
            self.code.map(offset, len, Protection::ReadWrite)?;
        }
        self.code.used(offset, len)
    }

    /// Calls `work` for each run of pages of a range that are in one state.
    fn each_run(
        &mut self,
        offset: usize,
        len: usize,
        mut work: impl FnMut(&mut CodeRegion<O>, usize, usize) -> Result<(), CodeError>,
    ) -> Result<(), CodeError> {
        let page = self.code.os().page_size();
        let refuse = |kind| {
            let address = self.code.as_mut_ptr().addr().wrapping_add(offset);
            Err(Error::new(sysmem::Operation::Protect, address, len, kind).into())
        };
        if (offset | len) & (page - 1) != 0 {
            return refuse(ErrorKind::Unaligned { multiple: page });
        }
        let Some(end) = offset.checked_add(len).filter(|&end| end <= self.len()) else {
            return refuse(ErrorKind::OutOfBounds { len: self.len() });
        };
        let mut at = offset;
        while at < end {
            let run = |memory: &Reservation<O>| memory.state(at).map_or(end, |(_, _, end)| end);
            let run_end = run(&self.code).min(run(self.written_in())).min(end);
            work(self, at, run_end - at)?;
            at = run_end;
        }
        Ok(())
    }
}

impl<O: CodeMemory> fmt::Debug for CodeRegion<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeRegion")
            .field("code", &self.code)
            .field("mechanism", &self.mechanism())
            .finish()
    }
}
