//! Damaged answers: what no kernel would say, or one that nobody has seen.

use proptest::prelude::*;
use std::vec::Vec;

use super::Answers;
use crate::PageRange;
use crate::usage::reconcile::reconcile;
use crate::usage::{Detail, Process, Usage};

/// What happens to one answer.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    /// Which answer, and where in it, of all that there are.
    answer: usize,
    place: usize,
    /// What is there instead.
    bytes: Vec<u8>,
    /// Whether the answer ends there.
    ends: bool,
}

/// One to three of them; numbers that are small, large or nearly a page among the bytes.
pub(crate) fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let number = prop_oneof![
        Just(0u64),
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(4095),
        0u64..300,
        any::<u64>(),
    ];
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..6),
        number.prop_map(|number| number.to_ne_bytes().to_vec()),
    ];
    let damage = (any::<usize>(), any::<usize>(), bytes, prop::bool::weighted(0.1))
        .prop_map(|(answer, place, bytes, ends)| Damage { answer, place, bytes, ends });
    proptest::collection::vec(damage, 1..4)
}

impl<S> Answers<S> {
    /// The same with damage done to some of its answers.
    pub fn damaged(mut self, damages: &[Damage]) -> Self {
        for damage in damages {
            let mut answers = self.all_bytes();
            let count = answers.len();
            let answer = &mut *answers[damage.answer % count];
            let place = damage.place % (answer.len() + 1);
            // Numbers lie at multiples of four.
            let place = if damage.bytes.len() == 8 { place & !3 } else { place };
            if damage.ends {
                answer.truncate(place);
            } else {
                let end = (place + damage.bytes.len()).min(answer.len());
                answer[place..end].copy_from_slice(&damage.bytes[..end - place]);
            }
        }
        // A kernel tells entries of one length.
        if let Some((_, entries, _)) = &mut self.entries {
            let len = entries.iter().map(Vec::len).max().unwrap_or(0);
            entries.iter_mut().for_each(|entry| entry.resize(len, 0));
        }
        self
    }

    fn all_bytes(&mut self) -> Vec<&mut Vec<u8>> {
        let entries = self.entries.iter_mut().flat_map(|(_, entries, _)| entries);
        self.numbers
            .values_mut()
            .chain(self.names.values_mut())
            .chain(entries)
            .chain(self.files.iter_mut().map(|(_, bytes)| bytes))
            .chain([&mut self.anonymous])
            .chain(self.mach.all_bytes())
            .chain(self.windows.all_bytes())
            .filter(|bytes| !bytes.is_empty())
            .collect()
    }
}

/// Asks for all that there is to know: everything is told or refused, mappings are not empty and
/// have their names inside the buffer, and what is held against our books adds up.
///
/// With [`Detail::Counters`] pages are not looked at one by one, which of a region that is said to be
/// as large as the address space would take for ever.
pub(crate) fn ask_everything(os: &impl Usage, detail: Detail) {
    for process in [Process::Own, Process::Id(17)] {
        let _ = os.process_usage(process, detail);
        let _ = os.control_group(process);
        for room in [512, 1 << 14] {
            let mut buffer = std::vec![0; room];
            let inside = buffer.as_ptr_range();
            let mut told = 0_u32;
            let _ = os.mappings(process, detail, &mut buffer, &mut |mapping| {
                assert!(mapping.start < mapping.end, "{mapping:?}");
                let name = mapping.name.as_ptr_range();
                assert!(mapping.name.len() <= 4096 && name.start <= name.end, "{inside:?}");
                told += 1;
            });
            assert!(told < 1000, "a list that does not end");
        }
        let range = PageRange::new(core::ptr::without_provenance_mut(1 << 20), 8 << 12);
        let _ = os.page_runs(process, range, &mut |run| assert!(run.len() <= range.len));
    }
    let _ = os.machine_usage();
    if detail == Detail::Pages {
        let whole = reconcile(os, &mut [], &mut std::vec![0; 1 << 14]);
        assert!(
            whole.map_or(true, |whole| whole.ours.virtual_size == 0),
            "there is no reservation"
        );
    }
}
