//! The last operations on reservations and where they were called, readable without a lock.

use core::panic::Location;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering::*, fence};

use crate::registry::Change;
use crate::{Operation, PageRange};

/// How many operations are remembered: 40 KiB of them.
const REMEMBERED: usize = 1024;

pub(crate) struct History {
    next: AtomicUsize,
    slots: [Slot; REMEMBERED],
}

/// One operation. The version is odd while the slot changes.
struct Slot {
    version: AtomicU32,
    operation: AtomicU8,
    start: AtomicUsize,
    len: AtomicUsize,
    caller: AtomicPtr<Location<'static>>,
}

/// The operations that a reservation's memory goes through.
const OPERATIONS: [Operation; 10] = [
    Operation::Alloc,
    Operation::Reserve,
    Operation::Map,
    Operation::Used,
    Operation::Unused,
    Operation::Fault,
    Operation::Protect,
    Operation::Guard,
    Operation::RemoveGuard,
    Operation::MapObject,
];

impl Slot {
    const fn new() -> Slot {
        Slot {
            version: AtomicU32::new(0),
            operation: AtomicU8::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            caller: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

impl History {
    pub(crate) const fn new() -> History {
        History { next: AtomicUsize::new(0), slots: [const { Slot::new() }; REMEMBERED] }
    }

    pub(crate) fn remember(
        &self,
        operation: Operation,
        range: PageRange,
        caller: &'static Location<'static>,
    ) {
        let Some(operation) = OPERATIONS.iter().position(|&known| known == operation) else {
            return;
        };
        let slot = &self.slots[self.next.fetch_add(1, Relaxed) % REMEMBERED];
        let version = slot.version.load(Relaxed);
        // A thread that is a whole round late, or early, has the slot: what it writes is as good.
        if version % 2 == 1
            || slot
                .version
                .compare_exchange(version, version.wrapping_add(1), AcqRel, Relaxed)
                .is_err()
        {
            return;
        }
        slot.operation.store(operation as u8, Relaxed);
        slot.start.store(range.start.addr(), Relaxed);
        slot.len.store(range.len, Relaxed);
        slot.caller.store(ptr::from_ref(caller).cast_mut(), Relaxed);
        slot.version.store(version.wrapping_add(2), Release);
    }

    /// The last remembered operation on the byte at `address`.
    pub(crate) fn last(&self, address: usize) -> Option<Change> {
        let next = self.next.load(Acquire);
        (1..=REMEMBERED).find_map(|age| {
            let slot = &self.slots[next.wrapping_sub(age) % REMEMBERED];
            let version = slot.version.load(Acquire);
            let operation = slot.operation.load(Relaxed);
            let start = slot.start.load(Relaxed);
            let len = slot.len.load(Relaxed);
            let caller = slot.caller.load(Relaxed);
            fence(Acquire);
            let whole = version % 2 == 0 && slot.version.load(Relaxed) == version;
            let covers = address.checked_sub(start).is_some_and(|offset| offset < len);
            if !whole || !covers {
                return None;
            }
            let operation = *OPERATIONS.get(usize::from(operation))?;
            // SAFETY: slots hold `&'static Location`s, or null.
            Some(Change { operation, caller: unsafe { caller.as_ref() }? })
        })
    }
}
