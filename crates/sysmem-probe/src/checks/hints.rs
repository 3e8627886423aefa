//! Huge pages, names, residency and time.

use core::sync::atomic::AtomicU32;
use core::time::Duration;

use sysmem::os::PageResidency;
use sysmem::{Error, ErrorKind, Os, PageRange, Protection, ReserveOptions};

use super::Suite;
use crate::platform::Platform;
use crate::region::Region;
use crate::report::{Checked, Stop};

impl<'a, O: Os, P: Platform> Suite<'a, O, P> {
    pub(super) fn hints(&self) {
        self.check("huge_page: contents stay", |suite| {
            // SAFETY: the range is Ready and the region's.
            suite.advised(|range| unsafe { suite.os.huge_page(range) })
        });
        self.check("no_huge_page: contents stay", |suite| {
            // SAFETY: as above.
            suite.advised(|range| unsafe { suite.os.no_huge_page(range) })
        });
        self.check("collapse: contents stay", |suite| {
            // SAFETY: as above.
            suite.advised(|range| unsafe { suite.os.collapse(range) })
        });
        self.check("name: contents stay", |suite| {
            let region = suite.ready(16, Protection::ReadWrite)?;
            let seed = suite.fill(region.range())?;
            // SAFETY: as above.
            let answer = unsafe { suite.os.name(region.range(), c"sysmem-probe") };
            suite.holds(region.range(), seed, 0)?;
            suite.hint(answer)
        });
        self.check("residency: pages that were touched, and no others", Self::touched_pages);
        self.check("residency: the bytes are those of the pages", Self::resident_bytes);
        self.check("residency: room for another number of pages is refused", Self::wrong_room);
        self.check("monotonic_time: never goes back", |suite| {
            let mut before = suite.os.monotonic_time();
            for _ in 0..1000 {
                let now = suite.os.monotonic_time();
                suite.ensure(now >= before, format_args!("{before:?} and then {now:?}"))?;
                before = now;
            }
            Ok(())
        });
        self.check("thread_cpu_time: grows with work", Self::cpu_time);
        self.check("park: ends when the word differs or the time is up", |suite| {
            let word = AtomicU32::new(1);
            suite.os.park(&word, 0, None);
            suite.os.park(&word, 1, Some(Duration::from_millis(1)));
            suite.os.wake(&word, 1);
            Ok(())
        });
    }

    /// Two huge pages of Ready memory, aligned to one; sixteen pages where there are none, or too
    /// large ones.
    fn huge(&self) -> Result<Region<'_, 'a, O, P>, Stop> {
        let huge = self.os.huge_page_size().filter(|&size| 2 * size <= self.bulk());
        let options = match huge {
            Some(size) => ReserveOptions::new(2 * size).align(size),
            None => ReserveOptions::new(16 * self.page_size()),
        };
        let region = self.reserve_as(&options)?;
        region.make_ready(region.range(), Protection::ReadWrite)?;
        Ok(region)
    }

    /// Passes if advice keeps contents before it and lets new ones in after it; says what became
    /// resident when one byte of each half was touched.
    fn advised(&self, advise: impl Fn(PageRange) -> Result<(), Error>) -> Checked {
        let region = self.huge()?;
        let seed = self.fill(region.range())?;
        let answer = advise(region.range());
        self.holds(region.range(), seed, 0)?;
        drop(region);

        let region = self.huge()?;
        let second = advise(region.range());
        let half = region.len / self.page_size() / 2;
        self.touch(region.pages(0, 1))?;
        self.touch(region.pages(half, 1))?;
        if let (Ok(()), Ok(resident)) = (second, self.os.resident_bytes(region.range())) {
            self.note(format_args!(
                "a page of each half touched: {resident} of {} bytes resident",
                region.len
            ));
        }
        self.hint(answer)
    }

    fn touched_pages(&self) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        // SAFETY: the range is Ready and the region's. Where there are no huge pages, none can
        // bring in pages that were not touched.
        let _ = unsafe { self.os.no_huge_page(region.range()) };
        let touched = [1, 4, 5, 6, 15];
        for page in touched {
            self.touch(region.pages(page, 1))?;
        }
        let mut pages = [PageResidency::default(); 16];
        self.os.residency(region.range(), &mut pages)?;
        for (index, page) in pages.iter().enumerate() {
            // A page in swap was touched as well.
            self.ensure(
                (page.resident || page.swapped) == touched.contains(&index),
                format_args!("page {index} of 16: {page:?}"),
            )?;
        }
        match pages[1].frame {
            Some(frame) => self.note(format_args!("page 1 is in frame {frame:#x}")),
            None => self.note(format_args!("frames are not told")),
        }
        Ok(())
    }

    fn resident_bytes(&self) -> Checked {
        let region = self.ready(16, Protection::ReadWrite)?;
        self.touch(region.pages(3, 7))?;
        let mut pages = [PageResidency::default(); 16];
        self.os.residency(region.range(), &mut pages)?;
        let resident = pages.iter().filter(|page| page.resident).count() * self.page_size();
        let told = self.os.resident_bytes(region.range())?;
        self.ensure(told == resident, format_args!("{told} told, {resident} counted"))
    }

    fn wrong_room(&self) -> Checked {
        let region = self.ready(4, Protection::ReadWrite)?;
        let mut pages = [PageResidency::default(); 5];
        for len in [3, 5] {
            match self.os.residency(region.range(), &mut pages[..len]) {
                Ok(()) => return Err(self.failed(format_args!("{len} elements for 4 pages"))),
                Err(error) if error.kind() == ErrorKind::NotSupported => return Err(error.into()),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn cpu_time(&self) -> Checked {
        let before = self.os.thread_cpu_time();
        let mut after = before;
        let mut spins = 0u64;
        // Some clocks tick a hundred times a second.
        while after == before && spins < 1 << 22 {
            spins = core::hint::black_box(spins + 1);
            after = self.os.thread_cpu_time();
        }
        self.note(format_args!("{:?} after {spins} looks", after.saturating_sub(before)));
        self.ensure(after > before, format_args!("{before:?} and after {spins} looks {after:?}"))
    }
}
