//! What a simulated process sees at more than one address. That takes real address space, and a
//! running system that can map one memory twice wherever it is told to: on others, and on the heap
//! backing, simulated kernels have no such memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::vec::Vec;

use super::ranges::Ranges;
use crate::os::PageRange;
use crate::{MemoryObject, MemoryObjects, Native, Protection};

/// The memory objects of a simulated process, and where it sees them.
#[derive(Default)]
pub(crate) struct Views {
    /// By number, from 1 on. What was closed may still be seen.
    objects: BTreeMap<i32, Object>,
    views: Vec<View>,
}

struct Object {
    real: MemoryObject,
    open: bool,
    /// The pages that are committed, where that is kept of objects (Windows).
    committed: Ranges,
}

#[derive(Clone)]
struct View {
    range: Range<usize>,
    object: i32,
    /// Where in the object the range begins.
    offset: usize,
}

/// Whether the running system maps objects over parts of reservations.
const POSSIBLE: bool = cfg!(any(target_os = "linux", target_os = "freebsd"));

impl Views {
    /// A new object of zeros, if there can be one.
    pub(crate) fn create(&mut self, len: usize) -> Option<i32> {
        let real = POSSIBLE.then(|| Native::NEW.create_object(len))?.ok()?;
        let number = self.objects.last_key_value().map_or(1, |(last, _)| last + 1);
        self.objects.insert(number, Object { real, open: true, committed: Ranges::default() });
        Some(number)
    }

    /// The length of an object that is open.
    pub(crate) fn len_of(&self, object: i32) -> Option<usize> {
        self.objects.get(&object).filter(|object| object.open).map(|object| object.real.len())
    }

    pub(crate) fn close(&mut self, object: i32) {
        let open = self.objects.get_mut(&object).filter(|object| object.open);
        open.unwrap_or_else(|| panic!("object {object} closed, but not open")).open = false;
    }

    /// The pages of an object that were [committed](Views::commit).
    pub(crate) fn committed(&self, object: i32) -> &Ranges {
        &self.objects[&object].committed
    }

    pub(crate) fn commit(&mut self, object: i32, pages: Range<usize>) {
        if let Some(object) = self.objects.get_mut(&object) {
            object.committed.insert(pages);
        }
    }

    /// Bytes that are committed, each once, wherever they are seen.
    pub(crate) fn charged(&self) -> usize {
        let of =
            |object: &Object| object.committed.inside(0..usize::MAX).into_iter().map(|it| it.len());
        self.objects.values().flat_map(of).sum()
    }

    /// Where a part of an object is seen.
    pub(crate) fn places(&self, object: i32, part: &Range<usize>) -> Vec<Range<usize>> {
        let views = self.views.iter().filter(|view| view.object == object);
        let places = views.map(|view| {
            let seen = view.offset..view.offset + view.range.len();
            let (from, to) = (part.start.max(seen.start), part.end.min(seen.end));
            let start = view.range.start + from.saturating_sub(view.offset);
            start..start + to.saturating_sub(from)
        });
        places.filter(|place| !place.is_empty()).collect()
    }

    /// Ends objects that are neither open nor seen.
    pub(crate) fn forget_unseen(&mut self) {
        let seen: Vec<i32> = self.views.iter().map(|view| view.object).collect();
        let unseen = |(&number, object): (&i32, &Object)| {
            (!object.open && !seen.contains(&number)).then_some(number)
        };
        let unseen: Vec<i32> = self.objects.iter().filter_map(unseen).collect();
        for number in unseen {
            if let Some(object) = self.objects.remove(&number) {
                Native::NEW.close_object(object.real);
            }
        }
    }

    /// Objects that are open.
    pub(crate) fn open(&self) -> usize {
        self.objects.values().filter(|object| object.open).count()
    }

    /// Shows an object in real address space that is reserved for this process.
    pub(crate) fn show(
        &mut self,
        start: *mut u8,
        len: usize,
        protection: Protection,
        object: i32,
        offset: usize,
    ) {
        let real = &self.objects[&object].real;
        // SAFETY: part of the reservation that backs the process, where nothing is mapped.
        unsafe { Native::NEW.map_object(PageRange::new(start, len), protection, real, offset) }
            .expect("the running system shows the object");
        let range = start.addr()..start.addr() + len;
        self.views.push(View { range, object, offset });
    }

    /// The parts of a range in which objects are seen, with the object and the offset in it.
    pub(crate) fn inside(&self, range: &Range<usize>) -> Vec<(Range<usize>, i32, usize)> {
        let parts = self.views.iter().map(|view| {
            let part = view.range.start.max(range.start)..view.range.end.min(range.end);
            let into = part.start.saturating_sub(view.range.start);
            (part, view.object, view.offset + into)
        });
        parts.filter(|(part, ..)| part.start < part.end).collect()
    }

    /// Forgets what is seen in a range; the caller maps it anew.
    pub(crate) fn hide(&mut self, range: &Range<usize>) {
        let mut left = Vec::new();
        for view in self.views.drain(..) {
            let Range { start, end } = view.range;
            let below = start..end.min(range.start);
            let above = start.max(range.end)..end;
            for part in [below, above] {
                if part.start < part.end {
                    let offset = view.offset + (part.start - start);
                    left.push(View { range: part, offset, ..view.clone() });
                }
            }
        }
        self.views = left;
    }

    /// Makes zeros of a part of an object.
    pub(crate) fn discard(&self, object: i32, offset: usize, len: usize) {
        // SAFETY: the process gives these bytes up.
        unsafe { Native::NEW.discard_object(&self.objects[&object].real, offset, len) }
            .expect("the running system discards a part of the object");
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        for (_, object) in std::mem::take(&mut self.objects) {
            Native::NEW.close_object(object.real);
        }
    }
}
