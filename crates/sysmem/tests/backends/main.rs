//! Which calls, with which numbers, each backend makes for each operation, and what it makes of
//! the answers that its kernel was seen, or is documented, to give. The numbers are those of the
//! systems' headers, said a second time.

mod bsds;
mod contracts;
mod freebsd;
mod objects;
mod others;
mod scripted;

use sysmem::os::{Os, PageRange, Policy};
use sysmem::{GiveBack, Protection};

pub(crate) const RW: Protection = Protection::ReadWrite;
pub(crate) const PLAIN: Policy = Policy::DEFAULT;
pub(crate) const EXECUTABLE: Policy = Policy { executable: true, ..Policy::DEFAULT };
pub(crate) const SECRET: Policy = Policy { dumped: false, ..Policy::DEFAULT };

/// Where ranges lie that operations are tried on.
pub(crate) const AT: usize = 0x20_0000_0000;
pub(crate) const LEN: usize = 16 * scripted::PAGE;

pub(crate) fn range() -> PageRange {
    PageRange::new(std::ptr::without_provenance_mut(AT), LEN)
}

/// The operations on [`range`], by which nothing is touched.
trait Operate: Os {
    fn do_map(&self, protection: Protection, policy: Policy) -> Result<(), sysmem::Error> {
        // SAFETY: there is no memory.
        unsafe { self.map(range(), protection, policy) }
    }

    fn do_used(&self) -> Result<(), sysmem::Error> {
        // SAFETY: there is no memory.
        unsafe { self.used(range(), RW) }
    }

    fn do_unused(&self, how: GiveBack, policy: Policy) -> Result<(), sysmem::Error> {
        // SAFETY: there is no memory.
        unsafe { self.unused(range(), RW, how, policy) }
    }

    fn do_fault(&self, policy: Policy) -> Result<(), sysmem::Error> {
        // SAFETY: there is no memory.
        unsafe { self.fault(range(), policy) }
    }

    fn do_free(&self) -> Result<(), sysmem::Error> {
        // SAFETY: there is no memory.
        unsafe { self.free(range()) }
    }
}

impl<O: Os> Operate for O {}
