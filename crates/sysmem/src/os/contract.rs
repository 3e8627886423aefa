//! What giving memory back promises.

/// How memory is given back by `unused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GiveBack {
    /// The system takes the pages when it wants memory: cheap, and cheap to use again.
    Lazy,
    /// The system takes the pages now.
    Eager,
}

/// When the resident set falls after `unused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidentFalls {
    /// Before the call returns.
    AtOnce,
    /// When the system wants memory, or never.
    UnderPressure,
}

/// What pages hold after `unused` and `used`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Zeros.
    Zero,
    /// Anything, until a page is first written: two reads may differ.
    Unspecified,
}

/// What a system promises of memory given back: its `needZeroAfterSysUnused`, in full.
///
/// | System | [`GiveBack`] | the resident set falls | contents | `used` is | by |
/// |---|---|---|---|---|---|
/// | Linux | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | Linux | `Eager` | `AtOnce` | `Zero` | no call | `MADV_DONTNEED` |
/// | FreeBSD | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | FreeBSD | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | FreeBSD, strict | `Lazy` | `UnderPressure` | `Unspecified` | a call | `MADV_FREE` |
/// | FreeBSD, strict | `Eager` | `AtOnce` | `Zero` | a call | fresh fixed mapping |
/// | NetBSD | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | NetBSD | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | OpenBSD | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | OpenBSD | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | DragonFly | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | DragonFly | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | illumos | `Lazy` | `UnderPressure` | `Unspecified` | no call | `MADV_FREE` |
/// | illumos | `Eager` | `AtOnce` | `Zero` | no call | fresh fixed mapping |
/// | Darwin | `Lazy` | `UnderPressure` | `Unspecified` | a call | `MADV_FREE_REUSABLE` |
/// | Darwin | `Eager` | `AtOnce` | `Zero` | a call | fresh fixed mapping |
/// | Windows | `Lazy` | `UnderPressure` | `Unspecified` | a call | `MEM_RESET` |
/// | Windows | `Eager` | `AtOnce` | `Zero` | a call | `MEM_DECOMMIT` |
///
/// FreeBSD is strict where `vm.overcommit` has it refuse what swap cannot hold (tuning(7)).
///
/// A promise is the least that holds. `MADV_FREE` of NetBSD and OpenBSD drops pages before it
/// returns, but neither those that a forked child shares nor wired ones; Windows decommits in place
/// of `MEM_RESET` where pages are not all committed, and Darwin maps anew where pages are not
/// writable. Darwin counts what it was given back out of the footprint at once, and the resident
/// set later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "needZeroAfterSysUnusedOS")]
pub struct UnusedContract {
    /// When the resident set falls.
    pub resident_falls: ResidentFalls,
    /// What the pages hold once they are used again.
    pub contents: Contents,
    /// Whether `used` is a real call on this system, or only a change in our books.
    pub used_is_a_call: bool,
}
