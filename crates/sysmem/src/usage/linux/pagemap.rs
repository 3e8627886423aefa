//! /proc/PID/pagemap: `PAGEMAP_SCAN`, and what it was before.

use super::process::Alive;
use crate::calls::{Files, PageRegion, PagemapScan};
use crate::usage::files::{File, process_refusal};
use crate::usage::residency::Runs;
use crate::usage::{PageRun, PageState, Process, refusal};
use crate::{Errno, Error, ErrorKind, Operation, PageRange};

// Categories of pages: <linux/fs.h>.
const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const ZERO: u64 = 1 << 5;
const HUGE: u64 = 1 << 6;

const ENOTTY: Errno = Errno(25);
const EINVAL: Errno = Errno(22);

pub(super) fn page_runs(
    kernel: &impl PagemapScan,
    process: Process,
    range: PageRange,
    each: &mut dyn FnMut(&PageRun),
) -> Result<(), Error> {
    range.check(Operation::Residency, kernel.page_size())?;
    let alive = Alive::open(kernel, process)?;
    let file = File::of(kernel, process, "pagemap").map_err(process_refusal)?;
    let mut runs = Runs::new(each);
    match scan(kernel, &file, range, &mut runs) {
        // Before 6.7: not a control that the file knows.
        Err(Ended::At(at, ENOTTY | EINVAL)) if at == range.start.addr() => {
            read(kernel, &file, range, &mut runs)?;
        }
        Err(Ended::At(_, errno)) => return Err(process_refusal(errno)),
        Err(Ended::Nowhere) => return Err(refusal(ErrorKind::Unreadable)),
        Ok(()) => {}
    }
    runs.finish();
    // What has no memory any more reads as empty, and a scan of it finds nothing.
    alive.same_program()
}

/// Why a scan ended.
enum Ended {
    /// The kernel refused to go on from this address.
    At(usize, Errno),
    /// The kernel did not say how far it came, or went back.
    Nowhere,
}

/// Asks for all that is in memory or in swap; passes over page tables that are not there.
fn scan<K: PagemapScan>(
    kernel: &K,
    file: &File<'_, K>,
    range: PageRange,
    runs: &mut Runs<'_>,
) -> Result<(), Ended> {
    let mut regions = [PageRegion::default(); 64];
    let (mut at, end) = (range.start.addr(), range.start.addr() + range.len);
    while at < end {
        let from = at;
        let (count, walked) = kernel
            .pagemap_scan(file.number, at..end, PRESENT | SWAPPED, &mut regions)
            .map_err(|errno| Ended::At(at, errno))?;
        for region in regions.get(..count).ok_or(Ended::Nowhere)? {
            let (start, stop) = (region.start as usize, region.end as usize);
            if start < at || stop > end {
                return Err(Ended::Nowhere);
            }
            at = at.max(stop);
            runs.add(start, stop, state(region.categories));
        }
        // How far it came: the end, or where it ran out of room.
        let walked = usize::try_from(walked).unwrap_or(0);
        if walked < at || walked <= from {
            return Err(Ended::Nowhere);
        }
        at = walked;
    }
    Ok(())
}

fn state(categories: u64) -> PageState {
    let is = |category| categories & category != 0;
    PageState {
        resident: is(PRESENT),
        swapped: Some(is(SWAPPED)),
        huge: Some(is(HUGE)),
        zero: Some(is(ZERO)),
        file: Some(is(FILE)),
        shared: None,
    }
}

/// Eight bytes a page (proc_pid_pagemap(5)): bit 63 present, bit 62 swapped, bit 61 of a file or
/// shared memory.
fn read(
    kernel: &impl Files,
    file: &File<'_, impl Files>,
    range: PageRange,
    runs: &mut Runs<'_>,
) -> Result<(), Error> {
    let page_size = kernel.page_size();
    let (mut at, end) = (range.start.addr(), range.start.addr() + range.len);
    let mut entries = [0; 512 * 8];
    while at < end {
        let room = ((end - at) / page_size * 8).min(entries.len());
        let offset = (at / page_size * 8) as u64;
        let len = file.read_at(&mut entries[..room], offset).map_err(process_refusal)?;
        if len < 8 {
            // Past what the process can have.
            return Ok(());
        }
        for entry in entries[..len].chunks_exact(8) {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            let bit = |bit: u32| entry >> bit & 1 != 0;
            let state = PageState {
                resident: bit(63),
                swapped: Some(bit(62)),
                file: Some(bit(61)),
                ..PageState::default()
            };
            if bit(63) || bit(62) {
                runs.add(at, at + page_size, state);
            }
            at += page_size;
        }
    }
    Ok(())
}
