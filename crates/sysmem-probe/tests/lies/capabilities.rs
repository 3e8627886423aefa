//! What the liar says of guards, memory objects, seals and huge pages.

use std::ptr::NonNull;

use sysmem::huge::{HugePageControl, HugePages, Scope};
use sysmem::{
    Error, GuardMechanism, Guards, MemoryObject, MemoryObjects, Os, PageRange, Policy, Protection,
    ReserveOptions, Sealing,
};

use super::liar::Liar;
use super::{Lie, NATIVE};

// SAFETY: none. This is for a suite that looks before it touches.
unsafe impl Guards for Liar {
    unsafe fn install_guard(&self, range: PageRange) -> Result<GuardMechanism, Error> {
        match self.lie {
            Lie::GuardsDoNothing => return Ok(GuardMechanism::NoAccess),
            Lie::GuardsTakeNeighbours => self.drop_contents(self.wider(range)),
            _ => {}
        }
        // SAFETY: the caller's promise.
        unsafe { NATIVE.install_guard(range) }
    }

    unsafe fn remove_guard(
        &self,
        range: PageRange,
        protection: Protection,
        mechanism: GuardMechanism,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { NATIVE.remove_guard(range, protection, mechanism) }
    }
}

// SAFETY: none, as above.
unsafe impl MemoryObjects for Liar {
    fn create_object(&self, len: usize) -> Result<MemoryObject, Error> {
        NATIVE.create_object(len)
    }

    fn close_object(&self, object: MemoryObject) {
        NATIVE.close_object(object);
    }

    unsafe fn discard_object(
        &self,
        object: &MemoryObject,
        offset: usize,
        len: usize,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { NATIVE.discard_object(object, offset, len) }
    }

    fn reserve_view(
        &self,
        options: &ReserveOptions,
        object: &MemoryObject,
    ) -> Result<NonNull<u8>, Error> {
        let start = NATIVE.reserve_view(options, object)?;
        if self.lie == Lie::ViewsAreReadable {
            self.protect_quietly(
                PageRange::new(start.as_ptr(), options.len()),
                Protection::ReadOnly,
            );
        }
        Ok(start)
    }

    unsafe fn map_object(
        &self,
        range: PageRange,
        protection: Protection,
        object: &MemoryObject,
        offset: usize,
    ) -> Result<(), Error> {
        let protection = match self.lie {
            Lie::ViewsAreWritable => Protection::ReadWrite,
            // Memory of nobody else's in the place of the view.
            // SAFETY: the caller's promise.
            Lie::ViewsAreApart => unsafe {
                NATIVE.fault(range, Policy::DEFAULT)?;
                return NATIVE.map(range, protection, Policy::DEFAULT);
            },
            _ => protection,
        };
        // SAFETY: the caller's promise.
        unsafe { NATIVE.map_object(range, protection, object, offset) }
    }
}

// SAFETY: none, as above.
unsafe impl Sealing for Liar {
    fn sealing_name(&self) -> &'static str {
        NATIVE.sealing_name()
    }

    unsafe fn seal(&self, range: PageRange) -> Result<(), Error> {
        match self.lie {
            Lie::SealsDoNothing => Ok(()),
            // SAFETY: the caller's promise.
            _ => unsafe { NATIVE.seal(range) },
        }
    }
}

impl HugePageControl for Liar {
    fn huge_pages(&self) -> HugePages {
        let honest = NATIVE.huge_pages();
        match self.lie {
            Lie::HugeMemoryIsDirty => HugePages { size: honest.size.or(Some(2 << 20)), ..honest },
            Lie::SwitchDoesNothing => {
                HugePages { on_for_process: honest.on_for_process.or(Some(true)), ..honest }
            }
            _ => honest,
        }
    }

    fn switch_huge_pages(&self, scope: Scope, on: bool) -> Result<(), Error> {
        if self.lie == Lie::SwitchDoesNothing {
            return Ok(());
        }
        NATIVE.switch_huge_pages(scope, on)
    }

    fn alloc_huge(&self, len: usize) -> Result<NonNull<u8>, Error> {
        if self.lie != Lie::HugeMemoryIsDirty {
            return NATIVE.alloc_huge(len);
        }
        let start = NATIVE.alloc(len)?;
        // SAFETY: just allocated.
        unsafe { start.write(1) };
        Ok(start)
    }
}
