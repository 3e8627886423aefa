//! madvise(2), process_madvise(2), and the names of mappings.

use std::ffi::{CStr, CString};
use std::ops::Range;
use std::sync::Arc;

use super::sealing::is_sealed_from_advice;
use super::{EAGAIN, change, since, whole};
use crate::os::linux::{
    ENOSYS, MADV_COLLAPSE, MADV_DODUMP, MADV_DOFORK, MADV_DONTDUMP, MADV_DONTFORK, MADV_DONTNEED,
    MADV_DONTNEED_LOCKED, MADV_FREE, MADV_HUGEPAGE, MADV_KEEPONFORK, MADV_NOHUGEPAGE, MADV_NORMAL,
    MADV_RANDOM, MADV_WIPEONFORK,
};
use crate::os::unix::{EBADF, EINVAL, ENOMEM, EPERM};
use crate::sim::machine::Machine;
use crate::sim::mappings::{Attributes, Mapping};
use crate::{Errno, Inheritance, PageRange};

const EINTR: Errno = Errno(4);
const PAGE_NAME_MAX: usize = 80;

/// Applies `advise` to each mapping of a range; a hole is ENOMEM after the rest was done
/// (mm/madvise.c, `madvise_walk_vmas`).
pub(super) fn walk(
    machine: &mut Machine,
    range: Range<usize>,
    mut advise: impl FnMut(&mut Machine, &Mapping) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let parts = machine.mappings.inside(range.clone());
    for part in &parts {
        advise(machine, part)?;
    }
    let mapped: usize = parts.iter().map(Mapping::len).sum();
    if mapped == range.len() { Ok(()) } else { Err(ENOMEM) }
}

pub(super) fn madvise(
    machine: &mut Machine,
    address: usize,
    len: usize,
    advice: i32,
) -> Result<(), Errno> {
    let version = machine.settings.version;
    let has_huge_pages = machine.settings.huge_page_size.is_some();
    // `madvise_behavior_valid`.
    let known = match advice {
        MADV_NORMAL | MADV_RANDOM | MADV_DONTNEED => true,
        MADV_FREE => version >= since::FREE,
        MADV_DONTNEED_LOCKED => version >= since::DONTNEED_LOCKED,
        MADV_HUGEPAGE | MADV_NOHUGEPAGE => has_huge_pages,
        MADV_DONTFORK | MADV_DOFORK | MADV_DONTDUMP | MADV_DODUMP => true,
        MADV_WIPEONFORK | MADV_KEEPONFORK => version >= since::WIPEONFORK,
        MADV_COLLAPSE => version >= since::COLLAPSE && has_huge_pages,
        // MADV_GUARD_INSTALL and MADV_GUARD_REMOVE: not simulated, as if before 6.13. What is no
        // advice at all is asked to find that out.
        102 | 103 | 0x7ead => false,
        advice => panic!("the simulated Linux has no rule for advice {advice}"),
    };
    if !known {
        return Err(EINVAL);
    }
    let range = whole(machine, address, len)?;
    machine.own("madvise", &range);
    walk(machine, range, |machine, part| match advice {
        MADV_DONTNEED | MADV_DONTNEED_LOCKED | MADV_FREE | MADV_DONTFORK | MADV_WIPEONFORK
            if is_sealed_from_advice(part) =>
        {
            Err(EPERM)
        }
        // `madvise_dontneed_free_valid_vma`: locked memory takes DONTNEED_LOCKED only.
        MADV_DONTNEED | MADV_FREE if part.attributes.locked => Err(EINVAL),
        // `madvise_free_single_vma`: anonymous memory only.
        MADV_FREE if part.attributes.view != 0 => Err(EINVAL),
        MADV_FREE => {
            // mm/madvise.c, `madvise_free_pte_range`: not what a fork shares.
            machine.unshared(part).iter().for_each(|part| machine.discard_lazily(part));
            Ok(())
        }
        MADV_DONTFORK | MADV_DOFORK | MADV_WIPEONFORK | MADV_KEEPONFORK => {
            let inheritance = match (advice, part.attributes.inheritance) {
                (MADV_DONTFORK, _) => Inheritance::Nothing,
                (MADV_WIPEONFORK, _) => Inheritance::Zeros,
                (MADV_DOFORK, Inheritance::Nothing) => Inheritance::Copy,
                (MADV_KEEPONFORK, Inheritance::Zeros) => Inheritance::Copy,
                (_, as_it_is) => as_it_is,
            };
            let attributes = Attributes { inheritance, ..part.attributes.clone() };
            change(machine, part, attributes).map_err(|_| EAGAIN)
        }
        MADV_NORMAL | MADV_RANDOM => {
            let random = advice == MADV_RANDOM;
            let attributes = Attributes { random, ..part.attributes.clone() };
            change(machine, part, attributes).map_err(|_| EAGAIN)
        }
        MADV_DONTDUMP | MADV_DODUMP => {
            let dumped = advice == MADV_DODUMP;
            let attributes = Attributes { dumped, ..part.attributes.clone() };
            change(machine, part, attributes).map_err(|_| EAGAIN)
        }
        // An object keeps what it holds (madvise(2)).
        MADV_DONTNEED | MADV_DONTNEED_LOCKED if part.attributes.view != 0 => Ok(()),
        MADV_DONTNEED | MADV_DONTNEED_LOCKED => {
            machine.discard(part);
            Ok(())
        }
        // mm/khugepaged.c, `madvise_collapse`: memory kept from huge pages refuses.
        MADV_COLLAPSE if part.attributes.huge == Some(false) => Err(EINVAL),
        MADV_COLLAPSE => Ok(()),
        _ => {
            let huge = Some(advice == MADV_HUGEPAGE);
            let attributes = Attributes { huge, ..part.attributes.clone() };
            // `madvise_vma_behavior` makes EAGAIN of ENOMEM (seen at the limit on mappings).
            change(machine, part, attributes).map_err(|_| EAGAIN)
        }
    })
}

pub(in crate::sim) fn process_madvise(
    machine: &mut Machine,
    ranges: &[PageRange],
    advice: i32,
) -> Result<usize, Errno> {
    let version = machine.settings.version;
    if let Some(errno) = machine.settings.process_madvise_refused {
        return Err(errno);
    }
    if version < since::PROCESS_MADVISE {
        return Err(ENOSYS);
    }
    // readv(2): at most UIO_MAXIOV ranges.
    if ranges.len() > 1024 {
        return Err(EINVAL);
    }
    // An unknown negative descriptor.
    if version < since::PIDFD_SELF {
        return Err(EBADF);
    }
    if version < since::PROCESS_MADVISE_SELF {
        return Err(EINVAL);
    }
    let stop = match machine.settings.short_counts {
        true => machine.random.below(ranges.len() + 1),
        false => ranges.len(),
    };
    let mut bytes = 0;
    for (index, range) in ranges.iter().enumerate() {
        if index == stop {
            // `vector_madvise`: what was done is reported, an error only if nothing was.
            return if bytes > 0 { Ok(bytes) } else { Err(EINTR) };
        }
        match madvise(machine, range.start.addr(), range.len, advice) {
            Ok(()) => bytes += range.len,
            Err(errno) if bytes == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(bytes)
}

pub(in crate::sim) fn name_mapping(
    machine: &mut Machine,
    address: usize,
    len: usize,
    name: &CStr,
) -> Result<(), Errno> {
    if machine.settings.version < since::NAMES || !machine.settings.mapping_names {
        return Err(EINVAL);
    }
    // PR_SET_VMA(2const): printable, without \ ` $ [ ], at most 80 bytes with the zero.
    let allowed =
        |&byte: &u8| (byte == b' ' || byte.is_ascii_graphic()) && !b"\\`$[]".contains(&byte);
    if name.count_bytes() >= PAGE_NAME_MAX || !name.to_bytes().iter().all(allowed) {
        return Err(EINVAL);
    }
    let range = whole(machine, address, len)?;
    machine.own("naming", &range);
    let name = Some(Arc::new(CString::from(name)));
    walk(machine, range, |machine, part| {
        let attributes = Attributes { name: name.clone(), ..part.attributes.clone() };
        change(machine, part, attributes).map_err(|_| EAGAIN)
    })
}
