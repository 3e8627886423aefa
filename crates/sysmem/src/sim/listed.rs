//! What the simulated BSDs tell of the mappings of their process: sysctl(3), in the structures of
//! 64-bit machines whose fields `usage` names.

use std::vec;
use std::vec::Vec;

use super::bsd;
use super::machine::Machine;
use super::mappings::Mapping;
use super::{FreeBsd, Simulated};
use crate::calls::SysctlMib;
use crate::os::unix::{ENOMEM, PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::{Errno, Inheritance, Protection};

/// An entry of so many bytes, zero but for these fields.
fn entry(len: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut entry = vec![0; len];
    for &(offset, field) in fields {
        entry[offset..offset + field.len()].copy_from_slice(field);
    }
    entry
}

fn bits(mapping: &Mapping) -> [u8; 4] {
    let bits = match mapping.attributes.protection {
        Protection::NoAccess => 0,
        Protection::ReadOnly => PROT_READ,
        Protection::ReadWrite => PROT_READ | PROT_WRITE,
        Protection::ReadExecute => PROT_READ | PROT_EXEC,
    };
    bits.to_ne_bytes()
}

fn bounds(mapping: &Mapping) -> [[u8; 8]; 2] {
    [mapping.start, mapping.end].map(|address| (address as u64).to_ne_bytes())
}

/// The whole list, or ENOMEM where it has no room.
fn whole(entries: impl Iterator<Item = Vec<u8>>, value: &mut [u8]) -> Result<usize, Errno> {
    let list: Vec<u8> = entries.flatten().collect();
    bsd::answer(value, list.len(), &[(0, &list)])
}

/// KERN_PROC_VMMAP of FreeBSD: `struct kinfo_vmentry`, each as long as it must be.
pub(super) fn freebsd(machine: &Machine, value: &mut [u8]) -> Result<usize, Errno> {
    const LEN: usize = 144;
    const TYPE_SWAP: u32 = 3;
    const TYPE_GUARD: u32 = 9;
    const POSIX_SHARED_MEMORY: u32 = 0x100;
    let entries = machine.mappings.iter().map(|mapping| {
        let [start, end] = bounds(mapping);
        let kind = if mapping.attributes.guard { TYPE_GUARD } else { TYPE_SWAP };
        let flags = if mapping.attributes.view != 0 { POSIX_SHARED_MEMORY } else { 0 };
        entry(
            LEN,
            &[
                (0, &(LEN as u32).to_ne_bytes()),
                (4, &kind.to_ne_bytes()),
                (8, &start),
                (16, &end),
                (44, &flags.to_ne_bytes()),
                (56, &bits(mapping)),
            ],
        )
    });
    whole(entries, value)
}

/// VM_PROC_MAP of NetBSD: `struct kinfo_vmentry`.
pub(super) fn netbsd(machine: &Machine, value: &mut [u8]) -> Result<usize, Errno> {
    const TYPE_ANON: u32 = 5;
    let entries = machine.mappings.iter().map(|mapping| {
        let [start, end] = bounds(mapping);
        let kind = TYPE_ANON.to_ne_bytes();
        entry(1128, &[(0, &start), (8, &end), (24, &kind), (48, &bits(mapping))])
    });
    whole(entries, value)
}

/// KERN_PROC_VMMAP of OpenBSD: as many `struct kinfo_vmentry` as there is room for, from the
/// address on that the buffer begins with; ENOMEM where more follow.
pub(super) fn openbsd(machine: &Machine, value: &mut [u8]) -> Result<usize, Errno> {
    const LEN: usize = 80;
    const COPY_ON_WRITE: u32 = 4;
    let from = value.first_chunk().map_or(0, |&from| u64::from_ne_bytes(from)) as usize;
    let entries = machine.mappings.iter().filter(|mapping| mapping.start >= from).map(|mapping| {
        let [start, end] = bounds(mapping);
        let shared = mapping.attributes.inheritance == Inheritance::Share;
        let kind = if shared { 0 } else { COPY_ON_WRITE }.to_ne_bytes();
        entry(LEN, &[(0, &start), (8, &end), (52, &kind), (56, &bits(mapping))])
    });
    let room = value.len() / LEN;
    let (mut told, mut entries) = (0, entries.peekable());
    for (entry, place) in entries.by_ref().take(room).zip(value.chunks_exact_mut(LEN)) {
        place.copy_from_slice(&entry);
        told += LEN;
    }
    if entries.peek().is_some() { Err(ENOMEM) } else { Ok(told) }
}

impl SysctlMib for Simulated<FreeBsd> {
    /// No node that ends in a number but has no name is simulated.
    fn sysctl_mib(&self, _name: &std::ffi::CStr, _mib: &mut [i32]) -> Result<usize, Errno> {
        Err(bsd::ENOENT)
    }
}
