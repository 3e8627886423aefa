//! mimmutable(2).

use super::OpenBsdRules;
use crate::calls::Seal;
use crate::os::capabilities::Sealing;
use crate::os::openbsd::OpenBsdCalls;
use crate::os::unix::Unix;
use crate::os::{Os, PageRange};
use crate::{Error, ErrorKind, Operation};

// SAFETY: mimmutable(2): neither the protection nor the mapping can be changed afterwards.
unsafe impl<K: OpenBsdCalls + Seal> Sealing for Unix<K, OpenBsdRules> {
    fn sealing_name(&self) -> &'static str {
        "mimmutable"
    }

    unsafe fn seal(&self, range: PageRange) -> Result<(), Error> {
        range.check(Operation::Seal, self.page_size())?;
        // SAFETY: the caller's promise.
        unsafe { self.kernel().seal(range.start, range.len) }
            .map_err(|errno| range.error(Operation::Seal, ErrorKind::System(errno)))
    }
}
