//! When the page heap is drawn: now and then, when it is larger than ever before, and at the exit.

use core::sync::atomic::{AtomicU64, Ordering};
use sysmem_alloc::figures::{Figures, HeapFigures, PICTURES, Picture, Slot};

use super::clock_ns;

/// A heap that was never larger than this is drawn at the exit only.
const WORTH_DRAWING: u64 = 4 << 20;

/// How often the heap is drawn while it changes.
const EVERY_NS: u64 = 50_000_000;

/// The most memory that the heap had when its peak was drawn.
static PEAK: AtomicU64 = AtomicU64::new(0);
/// What was in use when the heap was last drawn, and when that was.
static LATEST: AtomicU64 = AtomicU64::new(0);
static LATEST_NS: AtomicU64 = AtomicU64::new(0);

/// Begins anew, in the child of a fork.
pub(super) fn begin() {
    PEAK.store(0, Ordering::Relaxed);
    LATEST.store(0, Ordering::Relaxed);
}

/// Draws the heap as it is now: where `anyway` says so, and where a sixteenth more or less is in use
/// than when it was last drawn. As its peak where it has a sixteenth more memory than at the last
/// one.
pub(super) fn draw_if_due(figures: &Figures, slot: &Slot, heap: &HeapFigures, anyway: bool) {
    let memory = heap.in_use_bytes + heap.free_bytes;
    let (peak, latest) = (PEAK.load(Ordering::Relaxed), LATEST.load(Ordering::Relaxed));
    let higher = memory > peak + peak / 16;
    let now = clock_ns(libc::CLOCK_MONOTONIC_COARSE);
    let changed = heap.in_use_bytes.abs_diff(latest) > latest / 16
        && now >= LATEST_NS.load(Ordering::Relaxed) + EVERY_NS;
    if memory < WORTH_DRAWING && peak == 0 || !(anyway || higher || changed) {
        return;
    }
    draw(figures, slot, heap, higher);
}

/// Draws the heap as it is at the exit; of a small one only where there is plenty of room.
pub(super) fn draw_last(figures: &Figures, slot: &Slot, heap: &HeapFigures) {
    let memory = heap.in_use_bytes + heap.free_bytes;
    let is_free = |picture: &&Picture| picture.owner.load(Ordering::Relaxed) == 0;
    if memory < WORTH_DRAWING && figures.pictures.iter().filter(is_free).count() <= PICTURES / 2 {
        return;
    }
    draw(figures, slot, heap, memory > PEAK.load(Ordering::Relaxed));
}

fn draw(figures: &Figures, slot: &Slot, heap: &HeapFigures, peak: bool) {
    let Some(picture) = figures.claim_picture(slot) else { return };
    let now = clock_ns(libc::CLOCK_MONOTONIC);
    if peak && picture.peak.draw(now) {
        PEAK.store(heap.in_use_bytes + heap.free_bytes, Ordering::Relaxed);
    }
    if picture.latest.draw(now) {
        LATEST.store(heap.in_use_bytes, Ordering::Relaxed);
        LATEST_NS.store(now, Ordering::Relaxed);
    }
}
