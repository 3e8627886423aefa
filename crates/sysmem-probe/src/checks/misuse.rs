//! What every operation refuses: kernels round such ranges outward, into memory that was not
//! meant (munmap(2), mprotect(2), madvise(2) of the BSDs), or take them for something else.

use sysmem::os::PageResidency;
use sysmem::{
    Error, ErrorKind, GiveBack, Inheritance, Os, PageRange, Policy, Protection, ReserveOptions,
};

use super::Suite;
use crate::platform::Platform;
use crate::report::Checked;

type Call<'a, O> = (&'a str, fn(&O, PageRange) -> Result<(), Error>);

/// The operations that take a range.
///
/// What they are given here is refused, so the promises that their callers make about the range
/// are never relied on.
fn calls<O: Os>() -> [Call<'static, O>; 14] {
    const RW: Protection = Protection::ReadWrite;
    [
        // SAFETY: see above.
        ("map", |os, range| unsafe { os.map(range, RW, Policy::DEFAULT) }),
        // SAFETY: see above.
        ("used", |os, range| unsafe { os.used(range, RW) }),
        // SAFETY: see above.
        ("unused lazily", |os, range| unsafe {
            os.unused(range, RW, GiveBack::Lazy, Policy::DEFAULT)
        }),
        // SAFETY: see above.
        ("unused eagerly", |os, range| unsafe {
            os.unused(range, RW, GiveBack::Eager, Policy::DEFAULT)
        }),
        // SAFETY: see above.
        ("fault", |os, range| unsafe { os.fault(range, Policy::DEFAULT) }),
        // SAFETY: see above.
        ("free", |os, range| unsafe { os.free(range) }),
        // SAFETY: see above.
        ("protect", |os, range| unsafe { os.protect(range, Protection::ReadOnly) }),
        // SAFETY: see above.
        ("huge_page", |os, range| unsafe { os.huge_page(range) }),
        // SAFETY: see above.
        ("no_huge_page", |os, range| unsafe { os.no_huge_page(range) }),
        // SAFETY: see above.
        ("collapse", |os, range| unsafe { os.collapse(range) }),
        // SAFETY: see above.
        ("name", |os, range| unsafe { os.name(range, c"misuse") }),
        // SAFETY: see above.
        ("set_inheritance", |os, range| unsafe { os.set_inheritance(range, Inheritance::Nothing) }),
        // SAFETY: see above.
        ("set_dumped", |os, range| unsafe { os.set_dumped(range, false) }),
        ("residency", |os, range| {
            os.residency(range, &mut [PageResidency::default()])?;
            os.resident_bytes(range).map(|_| ())
        }),
    ]
}

impl<O: Os, P: Platform> Suite<'_, O, P> {
    pub(super) fn misuse(&self) {
        self.check("misuse: an unaligned address is refused", |suite| {
            suite.all_refuse(
                |start, page_size| PageRange::new(start.wrapping_add(page_size / 2), page_size),
                |kind| matches!(kind, ErrorKind::Unaligned { .. }),
            )
        });
        self.check("misuse: an unaligned length is refused", |suite| {
            suite.all_refuse(
                |start, page_size| PageRange::new(start, page_size + 1),
                |kind| matches!(kind, ErrorKind::Unaligned { .. }),
            )
        });
        self.check("misuse: an empty range is refused", |suite| {
            suite.all_refuse(|start, _| PageRange::new(start, 0), |kind| kind == ErrorKind::Empty)
        });
        self.check("misuse: a range past the end of the address space is refused", |suite| {
            suite.all_refuse(
                |start, page_size| {
                    let end = 0usize.wrapping_sub(page_size);
                    PageRange::new(start.with_addr(end), 2 * page_size)
                },
                |kind| kind == ErrorKind::TooLong,
            )
        });
        self.check("misuse: no length, and half a page, are refused by alloc", |suite| {
            suite.refuses(suite.os.alloc(0), |kind| kind == ErrorKind::Empty)?;
            suite.refuses(suite.os.alloc(suite.page_size() / 2), |kind| {
                matches!(kind, ErrorKind::Unaligned { .. })
            })
        });
        self.check("misuse: no length, and half a page, are refused by reserve", |suite| {
            let reserve = |len| suite.os.reserve(&ReserveOptions::new(len));
            suite.refuses(reserve(0), |kind| kind == ErrorKind::Empty)?;
            suite.refuses(reserve(suite.page_size() / 2), |kind| {
                matches!(kind, ErrorKind::Unaligned { .. })
            })
        });
        self.check("misuse: an alignment that is no power of two is refused", |suite| {
            let options = ReserveOptions::new(suite.page_size());
            for align in [0, 3, 3 << 20, 1 << (usize::BITS - 1)] {
                suite.refuses(suite.os.reserve(&options.align(align)), |kind| {
                    kind == ErrorKind::BadAlignment
                })?;
            }
            Ok(())
        });
        self.check("misuse: more than there can be is refused by reserve", |suite| {
            let page_size = suite.page_size();
            for len in [1 << (usize::BITS - 1), 0usize.wrapping_sub(page_size)] {
                let options = ReserveOptions::new(len).align(4 * page_size);
                suite.refuses(suite.os.reserve(&options), |kind| {
                    matches!(kind, ErrorKind::OutOfMemory { .. } | ErrorKind::TooLong)
                })?;
            }
            Ok(())
        });
    }

    /// Passes if every operation refuses a range made of the start of some memory and the page
    /// size, for the right reason, and the memory is what it was.
    fn all_refuse(
        &self,
        range: impl Fn(*mut u8, usize) -> PageRange,
        reason: impl Fn(ErrorKind) -> bool,
    ) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        let seed = self.fill(region.range())?;
        let range = range(region.pages(4, 1).start, self.page_size());
        for (name, call) in calls::<O>() {
            match call(self.os, range) {
                Ok(()) => {
                    return Err(self.failed(format_args!(
                        "{name} took {} bytes at {:p}",
                        range.len, range.start
                    )));
                }
                // What is not there at all refuses everything.
                Err(error) if error.kind() == ErrorKind::NotSupported => {}
                Err(error) => self.ensure(
                    reason(error.kind()),
                    format_args!("refused for another reason: {error}"),
                )?,
            }
        }
        self.holds(region.range(), seed, 0)?;
        self.note(format_args!("{} operations", calls::<O>().len()));
        Ok(())
    }

    fn refuses<T>(
        &self,
        answer: Result<core::ptr::NonNull<T>, Error>,
        reason: impl Fn(ErrorKind) -> bool,
    ) -> Checked {
        match answer {
            Ok(start) => Err(self.failed(format_args!("given at {start:p}"))),
            Err(error) => self.told(error, reason),
        }
    }
}
