//! FreeBSD, NetBSD and OpenBSD, through sysctl(3).
//!
//! Structures are decoded from bytes at the offsets that the headers of FreeBSD 14.5, NetBSD 10.1
//! and OpenBSD 7.8 give them on 64-bit machines; they have grown at their ends only. What the
//! fields hold was seen on FreeBSD 15-CURRENT, NetBSD 7.0 and OpenBSD 7.6.

use core::time::Duration;

use super::{
    Detail, MachineUsage, Mapping, MappingKind, Overcommit, PageFigures, Process, ProcessUsage,
    Usage, refusal,
};
use crate::calls::{Calls, Sysctl};
use crate::os::bsd::{CTL_KERN, KERN_PROC_PID, number};
use crate::os::freebsd::{FreeBsd, FreeBsdCalls};
use crate::os::netbsd::{NetBsd, NetBsdCalls};
use crate::os::openbsd::{OpenBsd, OpenBsdCalls};
use crate::os::{Os, freebsd, netbsd, openbsd};
use crate::{Errno, Error, ErrorKind};

// <sys/sysctl.h>.
const CTL_VM: i32 = 2;
const CTL_HW: i32 = 6;
const FREEBSD_KERN_PROC_PATHNAME: i32 = 12;
const FREEBSD_KERN_PROC_VMMAP: i32 = 32;
const NETBSD_VM_UVMEXP2: i32 = 5;
const NETBSD_HW_PHYSMEM64: i32 = 13;
const OPENBSD_VM_UVMEXP: i32 = 4;
const OPENBSD_HW_PHYSMEM64: i32 = 19;

/// `SZOMB` of all three, in `p_stat`; OpenBSD says `SDEAD` instead.
const ZOMBIE: u8 = 5;
const OPENBSD_DEAD: u8 = 6;

const ENOMEM: Errno = Errno(12);
const ESRCH: Errno = Errno(3);
const EPERM: Errno = Errno(1);

impl<K: FreeBsdCalls> Usage for FreeBsd<K> {
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let mib = [CTL_KERN, freebsd::KERN_PROC, KERN_PROC_PID, id(self.kernel(), process)];
        let mut bytes = [0; 1088];
        freebsd_process(ask(self.kernel(), &mib, &mut bytes)?, self.page_size() as u64)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let kernel = self.kernel();
        let page_size = self.page_size() as u64;
        let free = number(kernel, c"vm.stats.vm.v_free_count");
        Ok(MachineUsage {
            page_size: Some(page_size),
            total: number(kernel, c"hw.physmem"),
            free: free.and_then(|pages| pages.checked_mul(page_size)),
            swap_total: number(kernel, c"vm.swap_total"),
            committed: number(kernel, c"vm.swap_reserved"),
            // Bit 0: no more than swap (tuning(7)).
            overcommit: number(kernel, c"vm.overcommit").map(|bits| match bits & 1 {
                0 => Overcommit::Always,
                _ => Overcommit::Never,
            }),
            huge_page_size: self.huge_page_size().map(|size| size as u64),
            ..MachineUsage::default()
        })
    }

    /// The whole list must fit into the buffer: some 150 bytes a mapping, and the paths.
    fn mappings(
        &self,
        process: Process,
        _detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error> {
        let kernel = self.kernel();
        let mut mib =
            [CTL_KERN, freebsd::KERN_PROC, FREEBSD_KERN_PROC_PATHNAME, id(kernel, process)];
        let mut path = [0; 1024];
        let program = ask(kernel, &mib, &mut path).map(until_zero).unwrap_or_default();
        mib[2] = FREEBSD_KERN_PROC_VMMAP;
        let entries = ask(kernel, &mib, buffer)?;
        freebsd_mappings(entries, self.page_size() as u64, program, each)
    }
}

impl<K: NetBsdCalls> Usage for NetBsd<K> {
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let mut bytes = [0; 680];
        let len = bytes.len() as i32;
        let process = id(self.kernel(), process);
        let mib = [CTL_KERN, netbsd::KERN_PROC2, KERN_PROC_PID, process, len, 1];
        netbsd_process(ask(self.kernel(), &mib, &mut bytes)?, self.page_size() as u64)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let mut bytes = [0; 712];
        let pages = ask(self.kernel(), &[CTL_VM, NETBSD_VM_UVMEXP2], &mut bytes)?;
        let page_size = self.page_size() as u64;
        // `struct uvmexp_sysctl`: 64-bit counts of pages.
        let at = |offset| u64_at(pages, offset)?.checked_mul(page_size);
        let mut total = [0; 8];
        let total = ask(self.kernel(), &[CTL_HW, NETBSD_HW_PHYSMEM64], &mut total).ok();
        Ok(MachineUsage {
            page_size: Some(page_size),
            total: total.and_then(|total| u64_at(total, 0)),
            free: at(32),
            swap_total: at(136),
            swap_free: at(136).zip(at(144)).and_then(|(total, used)| total.checked_sub(used)),
            ..MachineUsage::default()
        })
    }
}

impl<K: OpenBsdCalls> Usage for OpenBsd<K> {
    fn process_usage(&self, process: Process, _detail: Detail) -> Result<ProcessUsage, Error> {
        let mut bytes = [0; 648];
        let len = bytes.len() as i32;
        let process = id(self.kernel(), process);
        let mib = [CTL_KERN, openbsd::KERN_PROC, KERN_PROC_PID, process, len, 1];
        openbsd_process(ask(self.kernel(), &mib, &mut bytes)?, self.page_size() as u64)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        let mut bytes = [0; 344];
        let pages = ask(self.kernel(), &[CTL_VM, OPENBSD_VM_UVMEXP], &mut bytes)?;
        let page_size = self.page_size() as u64;
        // `struct uvmexp`: 32-bit counts of pages.
        let at = |offset| u32_at(pages, offset)?.checked_mul(page_size);
        let mut total = [0; 8];
        let total = ask(self.kernel(), &[CTL_HW, OPENBSD_HW_PHYSMEM64], &mut total).ok();
        Ok(MachineUsage {
            page_size: Some(page_size),
            total: total.and_then(|total| u64_at(total, 0)),
            free: at(16),
            swap_total: at(104),
            swap_free: at(104).zip(at(108)).and_then(|(total, used)| total.checked_sub(used)),
            ..MachineUsage::default()
        })
    }
}

fn id(kernel: &impl Sysctl, process: Process) -> i32 {
    match process {
        Process::Own => kernel.process_id(),
        // No process has a number that does not fit.
        Process::Id(id) => i32::try_from(id).unwrap_or(i32::MAX),
    }
}

/// What a sysctl holds; nothing is what NetBSD and OpenBSD say of a process that is not there.
fn ask<'b>(
    kernel: &(impl Sysctl + Calls),
    mib: &[i32],
    buffer: &'b mut [u8],
) -> Result<&'b [u8], Error> {
    let room = buffer.len();
    let len = kernel.sysctl(mib, buffer).map_err(|errno| {
        refusal(match errno {
            ESRCH => ErrorKind::Gone,
            EPERM => ErrorKind::Denied,
            ENOMEM => ErrorKind::SmallBuffer { least: room + 1 },
            errno => ErrorKind::System(errno),
        })
    })?;
    match len {
        0 => Err(refusal(ErrorKind::Gone)),
        _ => buffer.get(..len).ok_or(refusal(ErrorKind::Unreadable)),
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u64::from(u32::from_ne_bytes(*bytes)))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn time(seconds: Option<u64>, microseconds: Option<u64>) -> Option<Duration> {
    Duration::from_secs(seconds?).checked_add(Duration::from_micros(microseconds?))
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Refuses what is no structure of `len` bytes or is of a process that ended.
fn check(bytes: &[u8], len: usize, state_at: usize, ended: u8) -> Result<(), Error> {
    if bytes.len() < len {
        return Err(refusal(ErrorKind::Unreadable));
    }
    match bytes[state_at] == ended {
        true => Err(refusal(ErrorKind::Gone)),
        false => Ok(()),
    }
}

/// `struct kinfo_proc` of FreeBSD: `ki_stat` 388, `ki_size` 256 in bytes, `ki_rssize` 264,
/// `ki_dsize` 288, `ki_ssize` 296 in pages, `ki_rusage` 608 with `ru_maxrss` in KiB, which the
/// clock samples.
fn freebsd_process(bytes: &[u8], page_size: u64) -> Result<ProcessUsage, Error> {
    check(bytes, 1088, 388, ZOMBIE)?;
    let pages = |offset| u64_at(bytes, offset)?.checked_mul(page_size);
    Ok(ProcessUsage {
        virtual_size: u64_at(bytes, 256),
        resident: pages(264),
        data: pages(288),
        stack: pages(296),
        user_time: time(u64_at(bytes, 608), u64_at(bytes, 616)),
        system_time: time(u64_at(bytes, 624), u64_at(bytes, 632)),
        peak_resident: u64_at(bytes, 608 + 32).and_then(|kib| kib.checked_mul(1024)),
        minor_faults: u64_at(bytes, 608 + 64),
        major_faults: u64_at(bytes, 608 + 72),
        ..ProcessUsage::default()
    })
}

/// `struct kinfo_proc2` of NetBSD: `p_stat` 360, `p_vm_rssize` 432, `p_vm_dsize` 440,
/// `p_vm_ssize` 444, `p_vm_vsize` 664 in pages, `p_uutime_sec` 464, `p_ustime_sec` 472,
/// `p_uru_minflt` 512, `p_uru_majflt` 520. `ru_maxrss` is always 0 there.
fn netbsd_process(bytes: &[u8], page_size: u64) -> Result<ProcessUsage, Error> {
    check(bytes, 680, 360, ZOMBIE)?;
    let pages = |offset| u32_at(bytes, offset)?.checked_mul(page_size);
    Ok(ProcessUsage {
        virtual_size: pages(664),
        resident: pages(432),
        data: pages(440),
        stack: pages(444),
        user_time: time(u32_at(bytes, 464), u32_at(bytes, 468)),
        system_time: time(u32_at(bytes, 472), u32_at(bytes, 476)),
        minor_faults: u64_at(bytes, 512),
        major_faults: u64_at(bytes, 520),
        ..ProcessUsage::default()
    })
}

/// `struct kinfo_proc` of OpenBSD: `p_stat` 304, `p_vm_rssize` 384, `p_vm_dsize` 392,
/// `p_vm_ssize` 396 in pages, `p_uutime_sec` 420, `p_ustime_sec` 428, `p_uru_maxrss` 440 in KiB,
/// `p_uru_minflt` 472, `p_uru_majflt` 480. `p_vm_map_size` is 0 there.
fn openbsd_process(bytes: &[u8], page_size: u64) -> Result<ProcessUsage, Error> {
    check(bytes, 648, 304, OPENBSD_DEAD)?;
    let pages = |offset| u32_at(bytes, offset)?.checked_mul(page_size);
    Ok(ProcessUsage {
        resident: pages(384),
        data: pages(392),
        stack: pages(396),
        user_time: time(u32_at(bytes, 420), u32_at(bytes, 424)),
        system_time: time(u32_at(bytes, 428), u32_at(bytes, 432)),
        peak_resident: u64_at(bytes, 440).and_then(|kib| kib.checked_mul(1024)),
        minor_faults: u64_at(bytes, 472),
        major_faults: u64_at(bytes, 480),
        ..ProcessUsage::default()
    })
}

/// Packed entries of `struct kinfo_vmentry`, each as long as its first word says: `kve_type` 4,
/// `kve_start` 8, `kve_end` 16, `kve_offset` 24, `kve_flags` 44, `kve_resident` 48 and
/// `kve_private_resident` 52 in pages, `kve_protection` 56, `kve_path` 136.
fn freebsd_mappings(
    mut entries: &[u8],
    page_size: u64,
    program: &[u8],
    each: &mut dyn FnMut(&Mapping<'_>),
) -> Result<(), Error> {
    const PATH: usize = 136;
    const GROWS_DOWN: u64 = 0x20;
    while !entries.is_empty() {
        let entry = u32_at(entries, 0)
            .map(|len| len as usize)
            // The kernel ends a list that was cut with a zero.
            .filter(|&len| len > PATH)
            .and_then(|len| entries.split_at_checked(len));
        let (entry, rest) = entry.ok_or(refusal(ErrorKind::Unreadable))?;
        entries = rest;
        let mapping = (|| {
            let name = until_zero(&entry[PATH..]);
            let kind = match u32_at(entry, 4)? {
                _ if u32_at(entry, 44)? & GROWS_DOWN != 0 => MappingKind::Stack,
                2 if !program.is_empty() && name == program => MappingKind::Program,
                2 => MappingKind::File,
                // None, default, swap, guard.
                0 | 1 | 3 | 9 => MappingKind::Anonymous,
                _ => MappingKind::System,
            };
            let pages = |offset| u32_at(entry, offset)?.checked_mul(page_size);
            let protection = u32_at(entry, 56)?;
            let start = usize::try_from(u64_at(entry, 8)?).ok()?;
            let end = usize::try_from(u64_at(entry, 16)?).ok().filter(|&end| end > start)?;
            Some(Mapping {
                start,
                end,
                readable: protection & 1 != 0,
                writable: protection & 2 != 0,
                executable: protection & 4 != 0,
                shared: false,
                offset: u64_at(entry, 24)?,
                kind,
                name,
                pages: PageFigures {
                    resident: pages(48),
                    private: pages(52),
                    ..PageFigures::default()
                },
            })
        })();
        each(&mapping.ok_or(refusal(ErrorKind::Unreadable))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    #[test]
    fn freebsd_tells_a_process_in_bytes_pages_and_kibibytes() {
        let mut bytes = [0xee; 1088];
        bytes[388] = 3;
        for (offset, value) in [
            (256, 128_364_544u64),
            (264, 1000),
            (288, 500),
            (296, 32),
            (608, 2),
            (616, 500_000),
            (624, 1),
            (632, 7),
            (640, 8032),
            (672, 4711),
            (680, 12),
        ] {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        let expected = ProcessUsage {
            virtual_size: Some(128_364_544),
            resident: Some(1000 << 12),
            data: Some(500 << 12),
            stack: Some(32 << 12),
            user_time: Some(Duration::from_millis(2500)),
            system_time: Some(Duration::from_micros(1_000_007)),
            peak_resident: Some(8032 << 10),
            minor_faults: Some(4711),
            major_faults: Some(12),
            ..ProcessUsage::default()
        };
        assert_eq!(freebsd_process(&bytes, 4096), Ok(expected));
        bytes[388] = ZOMBIE;
        assert_eq!(freebsd_process(&bytes, 4096).unwrap_err().kind(), ErrorKind::Gone);
        let short = freebsd_process(&bytes[..1000], 4096);
        assert_eq!(short.unwrap_err().kind(), ErrorKind::Unreadable);
    }

    #[test]
    fn netbsd_and_openbsd_tell_a_process_in_pages() {
        let mut bytes = [0xee; 680];
        bytes[360] = 2;
        for (offset, value) in [
            (664, 3000u32),
            (432, 700),
            (440, 300),
            (444, 20),
            (464, 1),
            (468, 5),
            (472, 0),
            (476, 9),
        ] {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        put(&mut bytes, 512, &42u64.to_ne_bytes());
        put(&mut bytes, 520, &3u64.to_ne_bytes());
        let expected = ProcessUsage {
            virtual_size: Some(3000 << 12),
            resident: Some(700 << 12),
            data: Some(300 << 12),
            stack: Some(20 << 12),
            user_time: Some(Duration::from_micros(1_000_005)),
            system_time: Some(Duration::from_micros(9)),
            minor_faults: Some(42),
            major_faults: Some(3),
            ..ProcessUsage::default()
        };
        assert_eq!(netbsd_process(&bytes, 4096), Ok(expected));

        let mut bytes = [0xee; 648];
        bytes[304] = 2;
        for (offset, value) in
            [(384, 700u32), (392, 300), (396, 20), (420, 1), (424, 5), (428, 0), (432, 9)]
        {
            put(&mut bytes, offset, &value.to_ne_bytes());
        }
        put(&mut bytes, 440, &8324u64.to_ne_bytes());
        put(&mut bytes, 472, &42u64.to_ne_bytes());
        put(&mut bytes, 480, &3u64.to_ne_bytes());
        let expected =
            ProcessUsage { virtual_size: None, peak_resident: Some(8324 << 10), ..expected };
        assert_eq!(openbsd_process(&bytes, 4096), Ok(expected));
        bytes[304] = OPENBSD_DEAD;
        assert_eq!(openbsd_process(&bytes, 4096).unwrap_err().kind(), ErrorKind::Gone);
    }

    /// An entry as FreeBSD packs it: as long as its path needs, rounded up to eight bytes.
    fn entry(
        kind: u32,
        start: u64,
        npages: u64,
        flags: u32,
        protection: u32,
        path: &str,
    ) -> Vec<u8> {
        let len = (136 + path.len() + 1).next_multiple_of(8);
        let mut bytes = std::vec![0; len];
        put(&mut bytes, 0, &(len as u32).to_ne_bytes());
        put(&mut bytes, 4, &kind.to_ne_bytes());
        put(&mut bytes, 8, &start.to_ne_bytes());
        put(&mut bytes, 16, &(start + npages * 4096).to_ne_bytes());
        put(&mut bytes, 44, &flags.to_ne_bytes());
        put(&mut bytes, 48, &7u32.to_ne_bytes());
        put(&mut bytes, 52, &5u32.to_ne_bytes());
        put(&mut bytes, 56, &protection.to_ne_bytes());
        put(&mut bytes, 136, path.as_bytes());
        bytes
    }

    fn listing() -> Vec<u8> {
        [
            entry(2, 0x20_0000, 4, 0, 1 | 4, "/bin/cat"),
            entry(2, 0x8_0000_0000, 9, 1, 1, "/lib/libc.so.7"),
            entry(3, 0x8_1000_0000, 16, 0, 3, ""),
            entry(9, 0x8_2000_0000, 100, 0, 0, ""),
            entry(3, 0x7fff_dfff_0000, 16, 0x20, 3, ""),
            entry(5, 0x7fff_ffff_e000, 1, 0, 5, ""),
        ]
        .concat()
    }

    #[test]
    fn freebsd_mappings_are_told_with_kind_path_and_pages() {
        assert_eq!(entry(9, 0, 1, 0, 0, "").len(), 144, "as seen on a running kernel");
        let mut seen = Vec::new();
        freebsd_mappings(&listing(), 4096, b"/bin/cat", &mut |mapping| {
            assert_eq!(mapping.pages.resident, Some(7 << 12));
            assert_eq!(mapping.pages.private, Some(5 << 12));
            let access = (mapping.readable, mapping.writable, mapping.executable);
            seen.push((mapping.len() / 4096, mapping.kind, mapping.name.to_vec(), access));
        })
        .unwrap();
        let expected = [
            (4, MappingKind::Program, &b"/bin/cat"[..], (true, false, true)),
            (9, MappingKind::File, b"/lib/libc.so.7", (true, false, false)),
            (16, MappingKind::Anonymous, b"", (true, true, false)),
            (100, MappingKind::Anonymous, b"", (false, false, false)),
            (16, MappingKind::Stack, b"", (true, true, false)),
            (1, MappingKind::System, b"", (true, false, true)),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(len, kind, name, a)| (len, kind, name.to_vec(), a))
            .collect();
        assert_eq!(seen, expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..1200),
            place in 0usize..800,
            damage in proptest::collection::vec(any::<u8>(), 1..6),
        ) {
            let _ = freebsd_process(&bytes, 4096);
            let _ = netbsd_process(&bytes, 4096);
            let _ = openbsd_process(&bytes, 4096);
            let _ = freebsd_mappings(&bytes, 4096, b"/bin/cat", &mut |_| {});
            let mut listing = listing();
            let place = place % (listing.len() - damage.len());
            put(&mut listing, place, &damage);
            let _ = freebsd_mappings(&listing, 4096, b"/bin/cat", &mut |_| {});
        }
    }
}
