use core::ops::RangeInclusive;

/// The end of the address space that is given out: 47 bits on every system and machine.
pub(crate) const ADDRESS_END: usize = 1 << 47;

/// The place closest to an address, among the free ranges it is shown.
pub(crate) struct NearestPlace {
    address: usize,
    len: usize,
    align: usize,
    /// The first address that is close enough, and the one after the last.
    lowest: usize,
    end: usize,
    place: Option<usize>,
}

impl NearestPlace {
    /// Looks for `len` bytes aligned to `align`, all of them within `distance` of `address`.
    pub(crate) fn new(address: usize, distance: usize, len: usize, align: usize) -> NearestPlace {
        NearestPlace {
            address,
            len,
            align,
            // The lowest 64 KiB are out of bounds on every system.
            lowest: address.saturating_sub(distance).max(1 << 16),
            end: address.saturating_add(distance).min(ADDRESS_END),
            place: None,
        }
    }

    /// Takes note of a free range.
    pub(crate) fn consider(&mut self, start: usize, end: usize) {
        let first = start.max(self.lowest).checked_next_multiple_of(self.align);
        let last = end.min(self.end).checked_sub(self.len).map(|last| last & !(self.align - 1));
        if let (Some(first), Some(last)) = (first, last) {
            if first <= last {
                let candidate = (self.address & !(self.align - 1)).clamp(first, last);
                let distance = |place: usize| place.abs_diff(self.address);
                if self.place.is_none_or(|place| distance(candidate) < distance(place)) {
                    self.place = Some(candidate);
                }
            }
        }
    }

    /// The closest place so far.
    pub(crate) fn place(&self) -> Option<usize> {
        self.place
    }

    /// Every place that is close enough.
    pub(crate) fn within(&self) -> RangeInclusive<usize> {
        self.lowest..=self.end.saturating_sub(self.len)
    }
}
