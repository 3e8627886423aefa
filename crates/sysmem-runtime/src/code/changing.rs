//! Changing code that is published.

use core::sync::atomic::{AtomicU64, Ordering::*};

use sysmem::{CodeMemory, Error, ErrorKind, Operation};

use super::{CodeError, CodeRegion, Writing, coherence};

impl<O: CodeMemory> CodeRegion<O> {
    /// Writes to published pages where nobody executes: a function behind those that run already,
    /// or in the place of one that is dead. So code need not begin at a page of its own.
    /// [`NotWhileRunning`](CodeError::NotWhileRunning) where the region is switched by protection.
    ///
    /// # Safety
    ///
    /// No thread executes these bytes, is going to return into them, or writes to them, until this
    /// returns and that thread was told so (by a store with `Release`, say).
    pub unsafe fn write_published(&self, offset: usize, bytes: &[u8]) -> Result<(), CodeError> {
        let page = self.code.os().page_size();
        let end = offset.checked_add(bytes.len()).filter(|&end| end <= self.len());
        let Some(end) = end else {
            let kind = ErrorKind::OutOfBounds { len: self.len() };
            let address = self.address(offset).addr();
            return Err(Error::new(Operation::Protect, address, bytes.len(), kind).into());
        };
        if matches!(self.writing, Writing::Switch) {
            return Err(CodeError::NotWhileRunning);
        }
        let first = offset & !(page - 1);
        if let Some(at) = (first..end).step_by(page).find(|&at| !self.published(at)) {
            return Err(CodeError::NotPublished(at));
        }
        let writable = self.writable(offset);
        self.while_writable(|_| {
            // SAFETY: published pages, writable there now; nobody else reads or writes these bytes.
            unsafe { writable.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        });
        // SAFETY: the same bytes at both addresses, readable.
        unsafe { coherence::make_coherent(writable, self.address(offset), bytes.len()) };
        coherence::synchronize_threads();
        Ok(())
    }

    /// Changes at most eight bytes of published code in one piece, while other threads may be
    /// running it: they run the old bytes or the new ones. When this returns, no thread runs the
    /// old ones any more on Linux (from 4.16 on) and Windows; elsewhere some may, a little longer.
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
        if matches!(self.writing, Writing::Switch) {
            return Err(CodeError::NotWhileRunning);
        }
        if !self.published(offset) {
            return Err(CodeError::NotPublished(offset & !(self.code.os().page_size() - 1)));
        }
        let writable = self.writable(word);
        self.while_writable(|_| {
            // SAFETY: eight aligned bytes of a page that is Ready and writable here, which is
            // written to through atomics only while it is published.
            let place = unsafe { AtomicU64::from_ptr(writable.cast()) };
            let change = |old: u64| {
                let mut new = old.to_ne_bytes();
                new[offset - word..end - word].copy_from_slice(bytes);
                Some(u64::from_ne_bytes(new))
            };
            let _ = place.fetch_update(AcqRel, Relaxed, change);
        });
        // SAFETY: the same eight bytes at both addresses, readable.
        unsafe { coherence::make_coherent(writable, self.address(word), 8) };
        coherence::synchronize_threads();
        Ok(())
    }

    /// Runs `work` while the calling thread can write at [`writable`](CodeRegion::writable).
    pub(super) fn while_writable(&self, work: impl FnOnce(&CodeRegion<O>)) {
        /// Lets the thread execute again, also if `work` panics.
        struct Writes<'a, O: CodeMemory>(Option<&'a O>);
        impl<O: CodeMemory> Drop for Writes<'_, O> {
            fn drop(&mut self) {
                if let Some(os) = self.0 {
                    os.let_thread_write(false);
                }
            }
        }
        let writes = Writes(matches!(self.writing, Writing::PerThread).then(|| self.code.os()));
        if let Some(os) = writes.0 {
            os.let_thread_write(true);
        }
        work(self);
    }
}
