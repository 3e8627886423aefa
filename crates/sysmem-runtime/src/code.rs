//! Memory for machine code that is made at run time.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::*};

use sysmem::{
    Account, Error, ErrorKind, MemoryObject, MemoryObjects, Native, Placement, Protection,
    Reservation, ReserveOptions, State,
};

mod coherence;

static CODE: Account = Account::new("code");
static VIEWS: Account = Account::new("code: writable views");

/// How memory becomes writable at one moment and executable at another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodeMechanism {
    /// One memory object, seen executable at one address and writable at another: code can be
    /// changed while it runs. On Linux (`memfd_create`).
    TwoViews,
    /// One view that is switched between writable and executable, by `mprotect` and its kin:
    /// where the system lets memory that was writable be executed. (Apple's hardened runtime does
    /// for `MAP_JIT` only, which is not used yet.)
    Switch,
}

impl fmt::Display for CodeMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CodeMechanism::TwoViews => "two views of one memory object",
            CodeMechanism::Switch => "switching by protection",
        })
    }
}

/// What to reserve for code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct CodeOptions {
    len: usize,
    placement: Placement,
    mechanism: Option<CodeMechanism>,
}

impl CodeOptions {
    /// `len` bytes, above 4 GiB, by the first mechanism that the system allows.
    pub const fn new(len: usize) -> CodeOptions {
        CodeOptions { len, placement: Placement::High, mechanism: None }
    }

    /// Placed as `placement` says: near what the code calls, say.
    pub const fn placement(self, placement: Placement) -> CodeOptions {
        CodeOptions { placement, ..self }
    }

    /// By this mechanism or not at all.
    pub const fn mechanism(self, mechanism: CodeMechanism) -> CodeOptions {
        CodeOptions { mechanism: Some(mechanism), ..self }
    }
}

/// What stands in the way of an operation on code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeError {
    /// The system refused.
    Memory(Error),
    /// The system allows none of the mechanisms that were tried; why not, in their order.
    NoMechanism([Option<(CodeMechanism, Error)>; 2]),
    /// The page at this offset is published.
    Published(usize),
    /// The page at this offset is not published.
    NotPublished(usize),
    /// Nothing was ever written to the page at this offset.
    NotWritten(usize),
    /// Only [`CodeMechanism::TwoViews`] can change code while it runs.
    NotWhileRunning,
    /// A patch has to lie in one word of eight bytes, aligned.
    NotOneWord,
}

impl From<Error> for CodeError {
    fn from(error: Error) -> CodeError {
        CodeError::Memory(error)
    }
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            CodeError::Memory(error) => error.fmt(f),
            CodeError::NoMechanism(refusals) => {
                f.write_str("the system allows no memory for code")?;
                for (mechanism, error) in refusals.into_iter().flatten() {
                    write!(f, "; {mechanism}: {error}")?;
                }
                Ok(())
            }
            CodeError::Published(offset) => {
                write!(f, "the page at offset {offset:#x} is published; unpublish it, or patch it")
            }
            CodeError::NotPublished(offset) => {
                write!(f, "the page at offset {offset:#x} is not published; publish it first")
            }
            CodeError::NotWritten(offset) => {
                write!(f, "nothing was written to the page at offset {offset:#x}; write it first")
            }
            CodeError::NotWhileRunning => f.write_str(
                "this region is switched by protection and cannot be changed while it runs; stop \
                 the threads that run it, then unpublish, write and publish",
            ),
            CodeError::NotOneWord => f.write_str(
                "a patch must lie in one aligned word of eight bytes; align the instruction",
            ),
        }
    }
}

impl core::error::Error for CodeError {}

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
pub struct CodeRegion<O: MemoryObjects = Native> {
    /// Where code is executed; with one view, also where it is written.
    code: Reservation<O>,
    view: Option<View<O>>,
    refusals: [Option<(CodeMechanism, Error)>; 2],
}

/// The writable view and the object that both views are of.
struct View<O: MemoryObjects> {
    memory: Reservation<O>,
    /// Taken out only when the view is dropped.
    object: Option<MemoryObject>,
}

impl<O: MemoryObjects> Drop for View<O> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.memory.os().close_object(object);
        }
    }
}

impl CodeRegion {
    /// Reserves memory for code on the running system.
    pub fn reserve(options: CodeOptions) -> Result<CodeRegion, CodeError> {
        CodeRegion::reserve_in(Native::NEW, options, &CODE)
    }
}

impl<O: MemoryObjects + Clone> CodeRegion<O> {
    /// Reserves memory for code from `os`, booked on `account`; a writable view of it is booked on
    /// an account of its own.
    pub fn reserve_in(
        os: O,
        options: CodeOptions,
        account: &'static Account,
    ) -> Result<CodeRegion<O>, CodeError> {
        let mut refusals = [None; 2];
        let mechanisms = [CodeMechanism::TwoViews, CodeMechanism::Switch];
        for (mechanism, refusal) in mechanisms.into_iter().zip(&mut refusals) {
            if options.mechanism.is_some_and(|only| only != mechanism) {
                continue;
            }
            // The place first: where there is none, no mechanism helps.
            let place =
                ReserveOptions::new(options.len).placement(options.placement).executable(true);
            let code = Reservation::reserve_in(os.clone(), place, account)?;
            let region = match mechanism {
                CodeMechanism::TwoViews => CodeRegion::with_two_views(code),
                CodeMechanism::Switch => CodeRegion::with_one_view(code),
            };
            match region {
                Ok(region) => return Ok(CodeRegion { refusals, ..region }),
                Err(error) => *refusal = Some((mechanism, error)),
            }
        }
        Err(CodeError::NoMechanism(refusals))
    }

    /// Two views of one object, if the system lets it be executed.
    fn with_two_views(mut code: Reservation<O>) -> Result<CodeRegion<O>, Error> {
        let os = code.os().clone();
        let page = os.page_size();
        let object = os.create_object(code.len())?;
        let mut view = match Reservation::reserve_in(os, ReserveOptions::new(code.len()), &VIEWS) {
            Ok(memory) => View { memory, object: Some(object) },
            Err(error) => {
                code.os().close_object(object);
                return Err(error);
            }
        };
        // A system may refuse what was writable, or is from no file, to be executed: SELinux
        // (execmod, execmem), PaX.
        if let Some(object) = &view.object {
            view.memory.map_object(0, page, Protection::ReadWrite, object, 0)?;
            code.map_object(0, page, Protection::ReadExecute, object, 0)?;
        }
        view.memory.fault(0, page)?;
        code.fault(0, page)?;
        Ok(CodeRegion { code, view: Some(view), refusals: [None; 2] })
    }

    /// One view, if the system lets memory that was written to be executed.
    fn with_one_view(mut code: Reservation<O>) -> Result<CodeRegion<O>, Error> {
        let page = code.os().page_size();
        code.map(0, page, Protection::ReadWrite)?;
        code.used(0, page)?;
        // A page that was never touched is no test: SELinux asks whether there is a page.
        // SAFETY: the page was just made Ready.
        unsafe { code.as_mut_ptr().write_volatile(0) };
        code.protect(0, page, Protection::ReadExecute)?;
        code.fault(0, page)?;
        Ok(CodeRegion { code, view: None, refusals: [None; 2] })
    }
}

impl<O: MemoryObjects> CodeRegion<O> {
    /// How memory becomes writable and executable here.
    pub fn mechanism(&self) -> CodeMechanism {
        match self.view {
            Some(_) => CodeMechanism::TwoViews,
            None => CodeMechanism::Switch,
        }
    }

    /// The mechanisms that were tried before, and why the system refused them.
    pub fn refusals(&self) -> impl Iterator<Item = (CodeMechanism, Error)> {
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
        if bytes.is_empty() {
            return Ok(());
        }
        let page = self.code.os().page_size();
        let first = offset & !(page - 1);
        let end = offset.saturating_add(bytes.len()).saturating_add(page - 1) & !(page - 1);
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
        // SAFETY: the pages are Ready and writable here, and `&mut self` keeps other writers out.
        unsafe { self.writable(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
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
            match &region.view {
                None => {
                    let start = region.address(at);
                    // SAFETY: pages of the region, still readable and writable.
                    unsafe { coherence::make_coherent(start, start, len) };
                    region.code.protect(at, len, Protection::ReadExecute)?;
                }
                Some(View { object, .. }) => {
                    let Some(object) = object else { return Err(CodeError::NotWritten(at)) };
                    region.code.map_object(at, len, Protection::ReadExecute, object, at)?;
                    let (written, executed) = (region.writable(at), region.address(at));
                    // SAFETY: the same pages of the object, readable in both views.
                    unsafe { coherence::make_coherent(written, executed, len) };
                }
            }
            Ok(())
        })
    }

    /// Makes pages inexecutable; what they hold stays, and can be written to again. Pages that are
    /// not published stay as they are.
    ///
    /// # Safety
    ///
    /// No thread executes these pages, or is going to return into them.
    pub unsafe fn unpublish(&mut self, offset: usize, len: usize) -> Result<(), CodeError> {
        self.each_run(offset, len, |region, at, len| {
            if region.published(at) {
                match region.view {
                    // The object keeps the contents.
                    Some(_) => region.code.fault(at, len)?,
                    None => region.code.protect(at, len, Protection::ReadWrite)?,
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
        self.code.fault(offset, len)?;
        if let Some(View { memory, object: Some(object) }) = &mut self.view {
            memory.fault(offset, len)?;
            // SAFETY: no view of these bytes is left.
            unsafe { memory.os().discard_object(object, offset, len) }?;
        }
        Ok(())
    }

    /// Changes at most eight bytes of published code in one piece, while other threads may be
    /// running it: they run the old bytes or the new ones, and when this returns, no thread runs
    /// the old ones any more (on Linux from 4.16 on; elsewhere some may, a little longer).
    ///
    /// # Safety
    ///
    /// The processor allows this change under a thread that runs the code, whichever instruction
    /// it is at: on x86_64, the bytes begin an instruction or are its immediate or displacement,
    /// and instructions stay as long as they were; on aarch64, each instruction that changes is
    /// and was one of B, BL, BRK, HVC, ISB, NOP, SMC, SVC (Arm ARM, B2.2.5).
    pub unsafe fn patch(&self, offset: usize, bytes: &[u8]) -> Result<(), CodeError> {
        let end = offset.saturating_add(bytes.len());
        let word = offset & !7;
        if bytes.is_empty() || end > word + 8 || end > self.len() {
            return Err(CodeError::NotOneWord);
        }
        if self.view.is_none() {
            return Err(CodeError::NotWhileRunning);
        }
        if !self.published(offset) {
            return Err(CodeError::NotPublished(offset & !(self.code.os().page_size() - 1)));
        }
        let writable = self.writable(word);
        // SAFETY: eight aligned bytes of a page that is Ready in the writable view, which is
        // written to through atomics only while it is published.
        let place = unsafe { AtomicU64::from_ptr(writable.cast()) };
        let change = |old: u64| {
            let mut new = old.to_ne_bytes();
            new[offset - word..end - word].copy_from_slice(bytes);
            Some(u64::from_ne_bytes(new))
        };
        let _ = place.fetch_update(AcqRel, Relaxed, change);
        // SAFETY: the same eight bytes at both addresses, readable.
        unsafe { coherence::make_coherent(writable, self.address(word), 8) };
        coherence::synchronize_threads();
        Ok(())
    }

    /// Where the byte at `offset` is written.
    fn writable(&self, offset: usize) -> *mut u8 {
        let memory = self.view.as_ref().map_or(&self.code, |view| &view.memory);
        memory.as_mut_ptr().wrapping_add(offset)
    }

    fn published(&self, offset: usize) -> bool {
        matches!(self.code.state(offset), Some((State::Ready, Protection::ReadExecute, _)))
    }

    fn written(&self, offset: usize) -> bool {
        let memory = self.view.as_ref().map_or(&self.code, |view| &view.memory);
        matches!(memory.state(offset), Some((State::Ready, _, _)))
    }

    fn make_writable(&mut self, offset: usize, len: usize) -> Result<(), Error> {
        match &mut self.view {
            Some(View { memory, object: Some(object) }) => {
                memory.map_object(offset, len, Protection::ReadWrite, object, offset)
            }
            _ => {
                self.code.map(offset, len, Protection::ReadWrite)?;
                self.code.used(offset, len)
            }
        }
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
            let runs = |memory: &Reservation<O>| memory.state(at).map_or(end, |(_, _, run)| run);
            let view = self.view.as_ref().map_or(end, |view| runs(&view.memory));
            let run_end = runs(&self.code).min(view).min(end);
            work(self, at, run_end - at)?;
            at = run_end;
        }
        Ok(())
    }
}

impl<O: MemoryObjects> fmt::Debug for CodeRegion<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeRegion")
            .field("code", &self.code)
            .field("mechanism", &self.mechanism())
            .finish()
    }
}
