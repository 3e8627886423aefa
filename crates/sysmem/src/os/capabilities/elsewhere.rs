//! What some systems do not have: guards are `PROT_NONE` there, and the rest is refused.
//!
//! No memory object without a name in some file system: OpenBSD (shm_open(3) makes a file in /tmp),
//! DragonFly, illumos, and Darwin, where mach_vm_remap would do and the hardened runtime refuses it.
//!
//! FreeBSD's `MAP_GUARD` is not used: `mprotect` on such a mapping succeeds and does nothing, and
//! taking it away is a fixed mapping, which may be refused and leave a hole.

use core::ptr::NonNull;

use super::{CodeMemory, GuardMechanism, Guards, MemoryObject, MemoryObjects, Sealing};
use crate::calls::VirtualMemory;
use crate::huge::{HugePageControl, HugePages, Scope};
use crate::os::unix::Unix;
use crate::os::windows::Windows;
use crate::os::{
    Os, PageRange, ReserveOptions, darwin, dragonfly, freebsd, illumos, netbsd, openbsd,
};
use crate::{Error, ErrorKind, Operation, Protection};

macro_rules! elsewhere {
    ($([$($generics:tt)*] $system:ty;)*) => {$(
        // SAFETY: memory that allows nothing faults on every access.
        unsafe impl<$($generics)*> Guards for $system {
            unsafe fn install_guard(&self, range: PageRange) -> Result<GuardMechanism, Error> {
                // SAFETY: the caller gives the access up.
                unsafe { self.protect(range, Protection::NoAccess) }
                    .map_err(|error| range.error(Operation::Guard, error.kind()))?;
                Ok(GuardMechanism::NoAccess)
            }

            unsafe fn remove_guard(
                &self,
                range: PageRange,
                protection: Protection,
                _mechanism: GuardMechanism,
            ) -> Result<(), Error> {
                // SAFETY: the caller's promise.
                unsafe { self.protect(range, protection) }
                    .map_err(|error| range.error(Operation::RemoveGuard, error.kind()))
            }
        }
    )*};
}

macro_rules! without_objects {
    ($([$($generics:tt)*] $system:ty;)*) => {$(
        // SAFETY: there are no objects, so all views of one agree.
        unsafe impl<$($generics)*> MemoryObjects for $system {
            fn create_object(&self, len: usize) -> Result<MemoryObject, Error> {
                Err(Error::new(Operation::CreateObject, 0, len, ErrorKind::NotSupported))
            }

            fn close_object(&self, _object: MemoryObject) {}

            unsafe fn discard_object(
                &self,
                _object: &MemoryObject,
                offset: usize,
                len: usize,
            ) -> Result<(), Error> {
                Err(Error::new(Operation::DiscardObject, offset, len, ErrorKind::NotSupported))
            }

            fn reserve_view(
                &self,
                options: &ReserveOptions,
                _object: &MemoryObject,
            ) -> Result<NonNull<u8>, Error> {
                Err(Error::new(Operation::Reserve, 0, options.len(), ErrorKind::NotSupported))
            }

            unsafe fn map_object(
                &self,
                range: PageRange,
                _protection: Protection,
                _object: &MemoryObject,
                _offset: usize,
            ) -> Result<(), Error> {
                Err(range.error(Operation::MapObject, ErrorKind::NotSupported))
            }
        }
    )*};
}

macro_rules! unsealed {
    ($([$($generics:tt)*] $system:ty;)*) => {$(
        // SAFETY: nothing is ever sealed.
        unsafe impl<$($generics)*> Sealing for $system {
            fn sealing_name(&self) -> &'static str {
                "not here"
            }

            unsafe fn seal(&self, range: PageRange) -> Result<(), Error> {
                Err(range.error(Operation::Seal, ErrorKind::NotSupported))
            }
        }
    )*};
}

macro_rules! unswitched {
    ($([$($generics:tt)*] $system:ty;)*) => {$(
        impl<$($generics)*> HugePageControl for $system {
            fn huge_pages(&self) -> HugePages {
                HugePages { size: self.huge_page_size(), ..HugePages::default() }
            }

            fn switch_huge_pages(&self, _scope: Scope, _on: bool) -> Result<(), Error> {
                Err(Error::new(Operation::SwitchHugePages, 0, 0, ErrorKind::NotSupported))
            }
        }
    )*};
}

unswitched! {
    [K: netbsd::NetBsdCalls] Unix<K, netbsd::NetBsdRules>;
    [K: openbsd::OpenBsdCalls] Unix<K, openbsd::OpenBsdRules>;
    [K: dragonfly::DragonFlyCalls] Unix<K, dragonfly::DragonFlyRules>;
    [K: illumos::IllumosCalls] Unix<K, illumos::IllumosRules>;
}

elsewhere! {
    [K: freebsd::FreeBsdCalls] Unix<K, freebsd::FreeBsdRules>;
    [K: netbsd::NetBsdCalls] Unix<K, netbsd::NetBsdRules>;
    [K: openbsd::OpenBsdCalls] Unix<K, openbsd::OpenBsdRules>;
    [K: dragonfly::DragonFlyCalls] Unix<K, dragonfly::DragonFlyRules>;
    [K: illumos::IllumosCalls] Unix<K, illumos::IllumosRules>;
    [K: darwin::DarwinCalls] Unix<K, darwin::DarwinRules>;
    [K: VirtualMemory] Windows<K>;
}

without_objects! {
    [K: openbsd::OpenBsdCalls] Unix<K, openbsd::OpenBsdRules>;
    [K: dragonfly::DragonFlyCalls] Unix<K, dragonfly::DragonFlyRules>;
    [K: illumos::IllumosCalls] Unix<K, illumos::IllumosRules>;
    [K: darwin::DarwinCalls] Unix<K, darwin::DarwinRules>;
}

impl<K: openbsd::OpenBsdCalls> CodeMemory for Unix<K, openbsd::OpenBsdRules> {}
impl<K: dragonfly::DragonFlyCalls> CodeMemory for Unix<K, dragonfly::DragonFlyRules> {}
impl<K: illumos::IllumosCalls> CodeMemory for Unix<K, illumos::IllumosRules> {}

unsealed! {
    [K: freebsd::FreeBsdCalls] Unix<K, freebsd::FreeBsdRules>;
    [K: netbsd::NetBsdCalls] Unix<K, netbsd::NetBsdRules>;
    [K: dragonfly::DragonFlyCalls] Unix<K, dragonfly::DragonFlyRules>;
    [K: illumos::IllumosCalls] Unix<K, illumos::IllumosRules>;
    [K: darwin::DarwinCalls] Unix<K, darwin::DarwinRules>;
    [K: VirtualMemory] Windows<K>;
}
