//! What the heap says, held against the model, the accounts and the system.

use super::*;

impl<S: System> Model<S> {
    /// Holds the heap's figures and the accounts against the model, and the heap against itself.
    pub(super) fn check(&mut self) {
        self.heap.verify().unwrap_or_else(|error| panic!("{error}"));
        self.lose_freed();
        self.mend();
        let now = self.heap.statistics();
        let mut model = Statistics { in_use: 0, ..now };
        (model.free_backed, model.given_back, model.unmapped, model.reserved) = (0, 0, 0, 0);
        model.lost = 0;
        let page_size = self.page_size as u64;
        for page in self.regions.values().flatten() {
            model.reserved += page_size;
            match page {
                Page::Unmapped => model.unmapped += page_size,
                Page::Lost => model.lost += page_size,
                Page::InUse => model.in_use += page_size,
                Page::Free { backed: true, .. } => model.free_backed += page_size,
                Page::Free { backed: false, .. } => model.given_back += page_size,
            }
        }
        self.peak = self.peak.max(model.in_use);
        model.peak_in_use = self.peak;
        assert_eq!(now, model);
        self.check_map(&model);
        let figures = self.accounts.heap.figures();
        let states = [figures.ready, figures.prepared, figures.reserved];
        // What is lost keeps the states that it had.
        let known = [model.in_use + model.free_backed, model.given_back, model.unmapped];
        assert_eq!(states.iter().sum::<u64>(), known.iter().sum::<u64>() + model.lost);
        assert!(states.iter().zip(known).all(|(&booked, known)| booked >= known));
        assert_eq!(self.accounts.metadata.figures().ready, now.metadata);
        self.before = now;
    }

    /// The map's cells add up to the statistics, and cover the reservations in order.
    fn check_map(&self, model: &Statistics) {
        let mut cells = vec![MapCell::default(); self.heap.map(&mut [])];
        assert_eq!(self.heap.try_map(&mut cells), Some(cells.len()));
        assert!(cells.is_sorted_by(|a, b| a.address < b.address));
        let bytes = |count: fn(&MapCell) -> u16| {
            let pages: usize = cells.iter().map(|cell| count(cell) as usize).sum();
            (pages * self.page_size) as u64
        };
        assert_eq!(bytes(|cell| cell.in_use), model.in_use);
        assert_eq!(bytes(|cell| cell.free_backed), model.free_backed);
        assert_eq!(bytes(|cell| cell.given_back), model.given_back);
        assert_eq!(bytes(|cell| cell.unmapped), model.unmapped + model.lost);
        for cell in &cells {
            let end = cell.address + WHOLE * self.page_size;
            let (start, len) =
                self.registered().range(..end).next_back().map(|it| (*it.0, *it.1)).unwrap();
            assert!(start + len > cell.address);
        }
        // What there is no room for is left out, and nothing else changes.
        let mut first = [MapCell::default(); 2];
        assert_eq!(self.heap.map(&mut first), cells.len());
        assert!(first.iter().zip(&cells).all(|(one, other)| one == other));
    }

    /// Nobody is at work on the heap, so what it says is in memory is there, and nothing else: all that
    /// is in use was written to. Of what the system lost nobody says anything.
    pub(super) fn check_residency(&self) {
        // The running system, which has the simulated memory, may bring more of it in.
        if huge::query().mode == Some(huge::Mode::Always) {
            return;
        }
        let told = match self.heap.verify_residency().unwrap_or_else(|error| panic!("{error}")) {
            Residency::Told(told) => told,
            Residency::NotTold(error) => {
                return assert_eq!(error.kind(), ErrorKind::NotSupported);
            }
        };
        let known = self.regions.iter().filter(|(start, _)| !self.lost.contains(start));
        let in_use = known.flat_map(|it| it.1).filter(|&&page| page == Page::InUse).count();
        assert_eq!(told.in_use, (in_use * self.page_size) as u64);
        assert!(told.free_backed <= self.heap.statistics().free_backed);
        let lazy = self.setting.options == self.setting.options.give_back(GiveBack::Lazy);
        assert!(told.given_back == 0 || lazy);
    }
}
