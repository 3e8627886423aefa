//! What only some systems have: guards, memory objects, seals, memory in huge pages.

use sysmem::huge::Scope;
use sysmem::os::capabilities::{MemoryObject, PageRow};
use sysmem::os::{Policy, Source};
use sysmem::{Error, ErrorKind, Protection, ReserveOptions};

use super::Suite;
use crate::Capable;
use crate::platform::{Access, Platform};
use crate::region::Region;
use crate::report::{Checked, Stop};

const RW: Protection = Protection::ReadWrite;

impl<'a, O: Capable, P: Platform> Suite<'a, O, P> {
    pub(super) fn capability_facts(&self) {
        match self.ready(1, RW) {
            // SAFETY: the page is Ready and the region's, which is released after this.
            Ok(region) => match unsafe { self.os.install_guard(region.range()) } {
                Ok(mechanism) => self.fact("guards", format_args!("{mechanism}")),
                Err(error) => self.fact("guards", format_args!("refused: {error}")),
            },
            Err(_) => self.fact("guards", format_args!("not tried: there was no page for one")),
        }
        match self.os.create_object(self.page_size()) {
            Ok(object) => {
                self.os.close_object(object);
                self.fact("memory objects", format_args!("supported"));
            }
            Err(error) if error.kind() == ErrorKind::NotSupported => {
                self.fact("memory objects", format_args!("no"));
            }
            Err(error) => self.fact("memory objects", format_args!("refused: {error}")),
        }
        self.fact("sealing", format_args!("{}", self.os.sealing_name()));
        let huge = self.os.huge_pages();
        match huge.mode {
            Some(mode) => self.fact("huge pages", format_args!("{mode:?}")),
            None => self.fact("huge pages", format_args!("not told")),
        }
        if let Some(on) = huge.on_for_process {
            self.fact(
                "huge pages for this process",
                format_args!("{}", if on { "on" } else { "off" }),
            );
        }
        let Some(size) = huge.size else {
            return self.fact("memory in huge pages", format_args!("no"));
        };
        match self.os.alloc_huge(size) {
            Ok(start) => {
                drop(Region::of(self, start.as_ptr(), size));
                self.fact("memory in huge pages", format_args!("supported"));
            }
            Err(error) if error.kind() == ErrorKind::NotSupported => {
                self.fact("memory in huge pages", format_args!("no"));
            }
            Err(error) => self.fact("memory in huge pages", format_args!("refused: {error}")),
        }
    }

    pub(super) fn capabilities(&self) {
        self.check("guard: reading and writing fault until it is removed", Self::guard);
        self.check("guard: the pages around stay as they were", Self::around_a_guard);
        self.check("guards: a row of them is installed and removed", Self::row_of_guards);
        self.check("object: a view faults until it shows something", |suite| {
            // Before another view shows a page, which Windows lets all of them show.
            suite.with_views(4, |_, [view]| suite.faults_throughout(view.range()))
        });
        self.check("object: its views show the same bytes", Self::views);
        self.check("object: what is taken out of sight faults, and is kept", Self::out_of_sight);
        self.check("object: a view that is read only cannot be written to", Self::view_to_read);
        self.check("seal: protection and place stay", Self::seal);
        self.check("switch_huge_pages: what is set for the process is told", Self::switched);
        self.check("alloc_huge: memory is zero, readable and writable", Self::huge_memory);
    }

    fn guard(&self) -> Checked {
        let region = self.ready(4, RW)?;
        self.fill(region.range())?;
        // SAFETY: the range is Ready and the region's, and its contents are given up.
        let mechanism = unsafe { self.os.install_guard(region.range()) }?;
        self.faults_throughout(region.range())?;
        // SAFETY: it was just installed.
        unsafe { self.os.remove_guard(region.range(), RW, mechanism) }?;
        let seed = self.fill(region.range())?;
        self.holds(region.range(), seed, 0)?;
        self.note(format_args!("{mechanism}"));
        Ok(())
    }

    fn around_a_guard(&self) -> Checked {
        let region = self.ready(12, RW)?;
        let seed = self.fill(region.range())?;
        let inner = region.pages(4, 4);
        // SAFETY: the range is Ready and the region's, and its contents are given up.
        let mechanism = unsafe { self.os.install_guard(inner) }?;
        self.holds(region.pages(0, 4), seed, 0)?;
        self.holds(region.pages(8, 4), seed, 8)?;
        let (below, above) = (self.fill(region.pages(0, 4))?, self.fill(region.pages(8, 4))?);
        // SAFETY: it was just installed.
        unsafe { self.os.remove_guard(inner, RW, mechanism) }?;
        self.holds(region.pages(0, 4), below, 0)?;
        self.holds(region.pages(8, 4), above, 0)
    }

    fn row_of_guards(&self) -> Checked {
        const COUNT: usize = 5;
        let region = self.ready(3 * COUNT, RW)?;
        let seed = self.fill(region.range())?;
        let stride = 3 * self.page_size();
        let row = PageRow { first: region.pages(0, 1), stride, count: COUNT };
        // SAFETY: the ranges are Ready and the region's, and their contents are given up.
        let mechanism = unsafe { self.os.install_guards(row, RW) }?;
        for index in 0..COUNT {
            self.faults(row.range(index).start, Access::Read)?;
            self.holds(region.pages(3 * index + 1, 2), seed, 3 * index + 1)?;
        }
        // SAFETY: they were just installed.
        unsafe { self.os.remove_guards(row, RW, mechanism) }.map_err(|stopped| stopped.error)?;
        let seed = self.fill(region.range())?;
        self.holds(region.range(), seed, 0)
    }

    /// An object of `npages` pages, and views of it for `check`.
    fn with_views<const VIEWS: usize>(
        &self,
        npages: usize,
        check: impl FnOnce(&MemoryObject, [Region<'_, 'a, O, P>; VIEWS]) -> Checked,
    ) -> Checked {
        let len = npages * self.page_size();
        let object = self.os.create_object(len)?;
        let options = ReserveOptions::new(len);
        let views = [(); VIEWS].map(|()| {
            let start = self.os.reserve_view(&options, &object)?;
            let policy = Policy { source: Source::Object, ..Policy::DEFAULT };
            Ok::<_, Stop>(Region::with_policy(self, start.as_ptr(), len, policy))
        });
        let failed = views.iter().any(Result::is_err);
        let checked = match failed {
            true => views.into_iter().find_map(Result::err).map_or(Ok(()), Err),
            false => check(&object, views.map(|view| view.unwrap_or_else(|_| unreachable!()))),
        };
        self.os.close_object(object);
        checked
    }

    fn views(&self) -> Checked {
        self.with_views(4, |object, [one, two]| {
            let page_size = self.page_size();
            for (view, part) in [(&one, (0, 4)), (&two, (1, 2))] {
                let range = view.pages(part.0, part.1);
                // SAFETY: a Reserved part of a view of this object.
                unsafe { self.os.map_object(range, RW, object, part.0 * page_size) }?;
            }
            self.zero(one.range())?;
            self.write_words(one.range(), self.seed());
            let seed = self.seed();
            self.write_words(two.pages(1, 2), seed);
            self.holds(one.pages(1, 2), seed, 0)?;
            let seed = self.seed();
            self.write_words(one.range(), seed);
            self.holds(two.pages(1, 2), seed, 1)
        })
    }

    fn out_of_sight(&self) -> Checked {
        self.with_views(4, |object, [view]| {
            // SAFETY: all of a view of this object, and Reserved.
            unsafe { self.os.map_object(view.range(), RW, object, 0) }?;
            self.allowed(view.start, Access::Write)?;
            let seed = self.seed();
            self.write_words(view.range(), seed);
            view.drop_contents(view.pages(1, 2))?;
            self.faults_throughout(view.pages(1, 2))?;
            let page_size = self.page_size();
            // SAFETY: as above, and Reserved again.
            unsafe { self.os.map_object(view.pages(1, 2), RW, object, page_size) }?;
            self.holds(view.range(), seed, 0)
        })
    }

    fn view_to_read(&self) -> Checked {
        self.with_views(1, |object, [one, two]| {
            // SAFETY: all of views of this object, and Reserved.
            unsafe {
                self.os.map_object(one.range(), RW, object, 0)?;
                self.os.map_object(two.range(), Protection::ReadOnly, object, 0)?;
            }
            let seed = self.seed();
            self.write_words(one.range(), seed);
            self.holds(two.range(), seed, 0)?;
            self.faults(two.start, Access::Write)
        })
    }

    /// Leaves two pages behind, which stay until the process ends.
    fn seal(&self) -> Checked {
        let region = self.ready(2, RW)?;
        let seed = self.fill(region.range())?;
        region.protect(region.range(), Protection::ReadOnly)?;
        // SAFETY: the region's, which is not returned from then on.
        unsafe { self.os.seal(region.range()) }?;
        region.give_up();
        // SAFETY: Ready; that the access is lost or gained, nobody relies on.
        let protected = unsafe { self.os.protect(region.range(), RW) };
        self.ensure(protected.is_err(), format_args!("protect took what is sealed"))?;
        self.faults(region.start, Access::Write)?;
        // SAFETY: the whole region, to which there is no reference.
        let freed = unsafe { self.os.free(region.range()) };
        self.ensure(freed.is_err(), format_args!("free took what is sealed"))?;
        self.holds(region.range(), seed, 0)?;
        self.note(format_args!("{}", self.os.sealing_name()));
        Ok(())
    }

    fn switched(&self) -> Checked {
        let on = || self.os.huge_pages().on_for_process;
        let Some(was) = on() else {
            return Err(self.cannot("this system does not tell"));
        };
        let switch = |on| self.os.switch_huge_pages(Scope::Process, on);
        switch(!was).map_err(|error| self.not_for_everybody(error))?;
        let told = on();
        switch(was)?;
        self.ensure(told == Some(!was), format_args!("set to {}, told {told:?}", !was))?;
        let told = on();
        self.ensure(told == Some(was), format_args!("set back to {was}, told {told:?}"))
    }

    /// A refusal that breaks no promise where huge pages are not set aside, or not for everybody.
    fn not_for_everybody(&self, error: Error) -> Stop {
        match error.kind() {
            ErrorKind::OutOfMemory { .. } | ErrorKind::NoPrivilege { .. } | ErrorKind::Denied => {
                self.note(format_args!("{error}"));
                Stop::NotSupported
            }
            _ => error.into(),
        }
    }

    fn huge_memory(&self) -> Checked {
        let Some(size) = self.os.huge_pages().size else {
            return Err(self.cannot("this system has no huge pages"));
        };
        let mut allocated = self.os.alloc_huge(size);
        // A privilege that a process has is not yet one that is switched on.
        let refused = |error: &Error| matches!(error.kind(), ErrorKind::NoPrivilege { .. });
        if allocated.as_ref().is_err_and(refused)
            && self.os.switch_huge_pages(Scope::Process, true).is_ok()
        {
            allocated = self.os.alloc_huge(size);
            self.os.switch_huge_pages(Scope::Process, false)?;
        }
        let start = allocated.map_err(|error| self.not_for_everybody(error))?;
        let region = Region::of(self, start.as_ptr(), size);
        // Not by a child first: its copy would be another huge page, of which there may be none.
        self.words_are(region.range(), |_| Some(0))?;
        let seed = self.seed();
        self.write_words(region.range(), seed);
        self.words_are(region.range(), |index| Some(crate::region::word(seed, index)))?;
        region.free()?;
        self.note(format_args!("{size} bytes"));
        Ok(())
    }
}
