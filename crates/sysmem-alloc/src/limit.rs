use core::time::Duration;

use sysmem::usage::{self, ControlGroup, Detail, NO_LIMIT, Process};
use sysmem::{Error, Limit};

use crate::PAGES;

/// How much memory the heap may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// As much as there is.
    #[default]
    None,
    /// So many bytes.
    Bytes(usize),
    /// What the control group of the process may have, less some room for what is not the heap's:
    /// stacks, files in memory, other processes of the group. Without a limit on the group there is
    /// none.
    ControlGroup {
        /// The room in bytes; `None` is a tenth of the group's limit for a soft limit and a
        /// twentieth for a hard one.
        head_room: Option<usize>,
    },
}

/// Limits the memory of the heap. Above the soft limit allocations first give back what is free;
/// above the hard limit they fail. See [`PageHeap::set_limit`].
///
/// The control group is asked once, here, without an allocation; a soft limit of a group is also what
/// it is slowed down from (memory.high). If it cannot be read, nothing is limited.
///
/// [`PageHeap::set_limit`]: sysmem_pages::PageHeap::set_limit
pub fn set_memory_limit(soft: MemoryLimit, hard: MemoryLimit) -> Result<(), Error> {
    let from_group = |limit| matches!(limit, MemoryLimit::ControlGroup { .. });
    let group = match from_group(soft) || from_group(hard) {
        true => usage::control_group(Process::Own)?,
        false => ControlGroup::default(),
    };
    let name = if from_group(hard) { Limit::ControlGroup } else { Limit::Heap };
    let soft = bytes(soft, [group.limit, group.process_limit, group.slowed_from], 10);
    let hard = bytes(hard, [group.limit, group.process_limit, None], 20);
    PAGES.set_named_limit(soft, hard, name);
    // A program may fill its memory before the scavenger looks for the first time.
    count_besides(true);
    Ok(())
}

/// How often the rest of the process is looked at while the heap is near its soft limit.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What stays below the limit, as a divisor of it: the kernel counts resident pages in portions for
/// each processor (lib/percpu_counter.c), and the rest of the process changes between two looks.
const MARGIN_DIVISOR: u64 = 64;

/// Has what the process has in memory besides the heap count against the soft limit: code, stacks, the
/// allocator's records, what the program maps itself. Looks only if the heap is near such a limit, or
/// `also_far`; whether it is near.
fn count_besides(also_far: bool) -> bool {
    let Some((soft, heap)) = PAGES.soft_limit_and_memory() else { return false };
    let is_near = heap >= soft / 4 * 3;
    if !is_near && !also_far {
        return false;
    }
    let usage = usage::process(Process::Own, Detail::Counters);
    if let Some(resident) = usage.ok().and_then(|usage| usage.resident) {
        PAGES.count_besides((resident.saturating_sub(heap) + soft / MARGIN_DIVISOR) as usize);
    }
    is_near
}

/// Looks at the process while the heap is near its soft limit; for the scavenger.
pub(crate) struct Besides {
    next_look: Duration,
}

impl Besides {
    pub(crate) const fn new() -> Besides {
        Besides { next_look: Duration::ZERO }
    }

    /// A look, if it is time for one; when to come again at the latest.
    pub(crate) fn look(&mut self, now: Duration) -> Duration {
        if now >= self.next_look {
            let near = count_besides(false);
            self.next_look = now.saturating_add(if near { LOOK_EVERY } else { LOOK_EVERY * 5 });
        }
        match PAGES.soft_limit_and_memory() {
            Some(_) => self.next_look.saturating_sub(now),
            None => Duration::MAX,
        }
    }
}

/// A limit in bytes, `usize::MAX` for none; of a group it is the least of these.
fn bytes(limit: MemoryLimit, group: [Option<u64>; 3], default_part: u64) -> usize {
    match limit {
        MemoryLimit::None => usize::MAX,
        MemoryLimit::Bytes(bytes) => bytes,
        MemoryLimit::ControlGroup { head_room } => {
            let least = group.into_iter().flatten().min().filter(|&least| least < NO_LIMIT);
            let Some(least) = least else { return usize::MAX };
            let room = head_room.map_or(least / default_part, |bytes| bytes as u64);
            usize::try_from(least.saturating_sub(room)).unwrap_or(usize::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_group_leaves_room_and_no_limit_is_none() {
        const MIB: u64 = 1 << 20;
        let of_group = |head_room, group| bytes(MemoryLimit::ControlGroup { head_room }, group, 10);
        let limited = [Some(1000 * MIB), None, None];
        assert_eq!(of_group(None, limited), (900 * MIB) as usize);
        assert_eq!(of_group(Some(64 << 20), limited), (936 * MIB) as usize);
        assert_eq!(of_group(Some(usize::MAX), limited), 0);
        assert_eq!(of_group(None, [Some(NO_LIMIT), None, Some(500 * MIB)]), (450 * MIB) as usize);
        assert_eq!(of_group(None, [Some(NO_LIMIT), None, Some(NO_LIMIT)]), usize::MAX);
        assert_eq!(of_group(None, [None; 3]), usize::MAX);
        assert_eq!(bytes(MemoryLimit::Bytes(7), limited, 10), 7);
        assert_eq!(bytes(MemoryLimit::None, limited, 10), usize::MAX);
    }
}
