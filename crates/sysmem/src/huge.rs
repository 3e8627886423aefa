//! Whether this system has huge pages that it builds out of pages, and switching them on and off.
//!
//! Asking for them range by range is [`Reservation::huge_page`](crate::Reservation::huge_page).
//!
//! | system | query | switch |
//! |---|---|---|
//! | Linux | /sys/kernel/mm/transparent_hugepage, `PR_GET_THP_DISABLE` | for the process `PR_SET_THP_DISABLE` (3.15), for the system /sys (root) |
//! | FreeBSD | `vm.pmap.pg_ps_enabled`, on arm64 `vm.pmap.superpages_enabled` | [`SetAtBoot`](crate::ErrorKind::SetAtBoot): the kernel reads them when it boots |
//! | NetBSD, OpenBSD, DragonFly | size, where the system tells one | `NotSupported`: there is no switch |
//! | illumos, Darwin, Windows | size, where the system tells one | `NotSupported`: huge pages are asked for range by range and nobody switches them |

use crate::{Error, Native, Os};

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
}

/// What the running system does about huge pages.
pub fn query() -> HugePages {
    Native::NEW.huge_pages()
}

/// Switches huge pages of the running system on ([`Mode::Always`] for the system) or off.
/// [`Denied`](crate::ErrorKind::Denied) where this user may not,
/// [`SetAtBoot`](crate::ErrorKind::SetAtBoot) where only the boot loader can.
pub fn set(scope: Scope, on: bool) -> Result<(), Error> {
    Native::NEW.switch_huge_pages(scope, on)
}
