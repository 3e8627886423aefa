//! Memory that is mapped more than once, on the kernels that have it.
//!
//! There is such memory on the real backing only. On the heap backing a Linux answers as a kernel
//! built without CONFIG_MEMFD_CREATE does, a FreeBSD as in a jail that forbids it, a NetBSD as 7.0, a
//! Windows as one that has the call and nothing behind it (`ERROR_CALL_NOT_IMPLEMENTED`).

use std::ffi::CStr;
use std::ops::Range;

use super::machine::Machine;
use super::unix::MAP_SHARED;
use super::{FreeBsd, NetBsd, Simulated, System, freebsd, linux};
use crate::calls::{Remap, SharedMemory};
use crate::os::unix::{EBADF, EINVAL, ENOMEM, MAP_FIXED};
use crate::os::{freebsd as freebsd_numbers, linux as linux_numbers};
use crate::{Errno, Inheritance};

impl<S: System> Simulated<S> {
    /// Memory objects that are open.
    pub fn open_objects(&self) -> usize {
        self.machine().views.open()
    }
}

/// A part of an object, if it is one.
fn part(machine: &Machine, object: i32, offset: u64, len: usize) -> Result<usize, Errno> {
    let whole = machine.views.len_of(object).ok_or(EBADF)?;
    let (offset, page) = (offset as usize, machine.page_size());
    let inside = offset.checked_add(len).is_some_and(|end| end <= whole);
    if offset % page != 0 || len % page != 0 || !inside { Err(EINVAL) } else { Ok(offset) }
}

/// The rule of a kernel for mapping an object over what is there.
type MapObject = fn(&mut Machine, Range<usize>, i32, i32, usize) -> Result<(), Errno>;

macro_rules! shared_memory {
    ($($system:ty: $without:expr, $map:expr;)*) => {$(
        // SAFETY: as for `Calls`.
        unsafe impl SharedMemory for Simulated<$system> {
            fn create_memory(&self, _name: &CStr, len: usize) -> Result<i32, Errno> {
                self.call().create_object(len).ok_or($without)
            }

            fn close_memory(&self, memory: i32) {
                self.machine().views.close(memory);
            }

            fn discard_memory(&self, memory: i32, offset: u64, len: usize) -> Result<(), Errno> {
                let machine = &*self.call();
                let offset = part(machine, memory, offset, len)?;
                machine.views.discard(memory, offset, len);
                Ok(())
            }

            unsafe fn mmap_memory(
                &self,
                address: *mut u8,
                len: usize,
                protection: i32,
                flags: i32,
                memory: i32,
                offset: u64,
            ) -> Result<*mut u8, Errno> {
                assert_eq!(flags, MAP_SHARED | MAP_FIXED, "objects are mapped in this way only");
                let machine = &mut *self.call();
                let offset = part(machine, memory, offset, len)?;
                let range = address.addr()..address.addr() + len;
                if !machine.has(&range) {
                    return Err(ENOMEM);
                }
                let map: MapObject = $map;
                map(machine, range, protection, memory, offset).map(|()| address)
            }
        }
    )*};
}

shared_memory! {
    super::Linux: linux_numbers::ENOSYS, linux::map_object;
    FreeBsd: freebsd_numbers::ECAPMODE, freebsd::map_object;
}

// SAFETY: as for `Calls`.
unsafe impl Remap for Simulated<NetBsd> {
    /// `MAP_REMAPDUP` and `MAP_FIXED`: sys/uvm/uvm_mremap.c.
    unsafe fn map_again(&self, from: *mut u8, to: *mut u8, len: usize) -> Result<*mut u8, Errno> {
        let machine = &mut *self.call();
        let source = from.addr()..from.addr() + len;
        let range = to.addr()..to.addr() + len;
        // `uvm_map_extract`: a hole.
        let [ref mapping] = machine.mappings.inside(source.clone())[..] else {
            return Err(EINVAL);
        };
        let attributes = mapping.attributes.clone();
        if mapping.len() != len {
            return Err(EINVAL);
        }
        // Private memory can be mapped again as well, with rules at a fork that are not here.
        assert_eq!(attributes.inheritance, Inheritance::Share, "shared memory is mapped again");
        // `uvm_map_reserve`: a taken address.
        if !machine.can_map(&range) {
            return Err(ENOMEM);
        }
        machine.own("mremap", &source);
        let object = match attributes.view {
            // What is mapped again for the first time becomes an object here.
            0 => {
                assert!(!machine.holds_anything(mapping), "it was not written to before");
                let object = machine.create_object(len).ok_or(EINVAL)?;
                machine.map_object(source, attributes.clone(), object, 0);
                machine.views.close(object);
                object
            }
            object => object,
        };
        // With the protection, and the most that is allowed, of what is mapped again.
        machine.map_object(range, attributes, object, 0);
        Ok(to)
    }
}
