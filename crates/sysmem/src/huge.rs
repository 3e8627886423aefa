//! Whether this system has huge pages, switching them on and off, and memory that is made of
//! nothing else.
//!
//! Asking for them range by range, where a system builds them out of pages, is
//! [`Reservation::huge_page`](crate::Reservation::huge_page).
//!
//! | system | query | switch |
//! |---|---|---|
//! | Linux | /sys/kernel/mm/transparent_hugepage, `PR_GET_THP_DISABLE` | for the process `PR_SET_THP_DISABLE` (3.15), for the system /sys (root) |
//! | FreeBSD | `vm.pmap.pg_ps_enabled`, on arm64 `vm.pmap.superpages_enabled` | [`SetAtBoot`](crate::ErrorKind::SetAtBoot): the kernel reads them when it boots |
//! | Windows | `GetLargePageMinimum`, whether the process may | for the process the privilege `SeLockMemoryPrivilege`, which its user must have been given |
//! | NetBSD, OpenBSD, DragonFly, illumos, Darwin | size, where the system tells one | `NotSupported`: there is no switch |
//!
//! [`HugeMemory`] is huge pages from the moment it is allocated, in memory until it is freed:
//! `MAP_HUGETLB` on Linux, out of those set aside (`vm.nr_hugepages`); superpages on Intel's Macs;
//! large pages on Windows. FreeBSD builds superpages unasked, illumos where it is advised.

use core::ptr::NonNull;

use crate::{Account, Error, ErrorKind, Native, Operation, Os, Reservation};

/// When a system builds huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Wherever they fit, unless a range is advised against.
    Always,
    /// In ranges advised to: Linux's `madvise`.
    Advised,
    /// Never.
    Never,
}

/// Whom a switch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The calling process, and what it forks and executes from now on.
    Process,
    /// The whole system; root's to switch.
    System,
}

/// What a system does about huge pages. `None` is what it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The size of a huge page in bytes; `None` also where there are none.
    pub size: Option<usize>,
    /// When the system builds them.
    pub mode: Option<Mode>,
    /// Whether the process gets them where the system builds them.
    pub on_for_process: Option<bool>,
}

/// A system that can be asked about huge pages, and may let them be switched.
pub trait HugePageControl: Os {
    /// What the system does about huge pages.
    fn huge_pages(&self) -> HugePages;

    /// Switches huge pages on ([`Mode::Always`] for the system) or off. What is built already
    /// stays.
    fn switch_huge_pages(&self, scope: Scope, on: bool) -> Result<(), Error>;

    /// None → Ready: `len` bytes, a multiple of the huge page size, of zeroed memory in huge pages,
    /// readable and writable, to be freed whole. Parts of it take no other operation.
    fn alloc_huge(&self, len: usize) -> Result<NonNull<u8>, Error> {
        Err(Error::new(Operation::AllocHuge, 0, len, ErrorKind::NotSupported))
    }
}

/// Memory that was allocated in huge pages. It is in memory and accessible until it is freed, which
/// dropping it does.
#[derive(Debug)]
pub struct HugeMemory<O: HugePageControl = Native>(Reservation<O>);

impl HugeMemory {
    /// None → Ready: `len` bytes, a multiple of [`HugePages::size`], of zeroed memory, readable and
    /// writable, from the running system.
    #[track_caller]
    pub fn alloc(len: usize, account: &'static Account) -> Result<HugeMemory, Error> {
        HugeMemory::alloc_in(Native::NEW, len, account)
    }
}

impl<O: HugePageControl> HugeMemory<O> {
    /// [`alloc`](HugeMemory::alloc), from `os`.
    #[track_caller]
    pub fn alloc_in(os: O, len: usize, account: &'static Account) -> Result<HugeMemory<O>, Error> {
        Reservation::obtain_in(os, len, account, |os| os.alloc_huge(len)).map(HugeMemory)
    }

    /// The first byte.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: nothing is not allocated.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the running system does about huge pages.
pub fn query() -> HugePages {
    Native::NEW.huge_pages()
}

/// Switches huge pages of the running system on ([`Mode::Always`] for the system) or off.
/// [`Denied`](crate::ErrorKind::Denied) where this user may not,
/// [`NoPrivilege`](crate::ErrorKind::NoPrivilege) with its name where one is missing,
/// [`SetAtBoot`](crate::ErrorKind::SetAtBoot) where only the boot loader can.
pub fn set(scope: Scope, on: bool) -> Result<(), Error> {
    Native::NEW.switch_huge_pages(scope, on)
}
