//! The ways in which memory for code comes about, and what to say when none of them is allowed.

use core::fmt;

use sysmem::{ErrorKind, Operation, Placement};

/// How memory becomes writable at one moment and executable at another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodeMechanism {
    /// One memory object, seen executable at one address and writable at another: code can be
    /// changed while it runs. Linux (`memfd_create`), FreeBSD (`SHM_ANON`), NetBSD from 8.0 on
    /// (`MAP_REMAPDUP`), Windows (sections of the paging file). On Windows the executable view
    /// shows pages from when they were written to, not only from when they were published. Where
    /// Linux measures what is executed (IMA), each publishing may cost a hash of the object.
    TwoViews,
    /// One view of which each thread says whether it writes to it or executes it: code can be
    /// changed while others run it. macOS on Apple silicon (`MAP_JIT`,
    /// `pthread_jit_write_protect_np`), where a program under the hardened runtime needs the
    /// entitlement `com.apple.security.cs.allow-jit`. What was unpublished or discarded stays
    /// executable there.
    PerThread,
    /// One view that is switched between writable and executable, by `mprotect` and its kin:
    /// where the system lets memory that was writable be executed. The only way on OpenBSD,
    /// DragonFly and illumos.
    Switch,
}

impl CodeMechanism {
    /// All of them, those that can do more first.
    pub(super) const ALL: [CodeMechanism; 3] =
        [CodeMechanism::TwoViews, CodeMechanism::PerThread, CodeMechanism::Switch];
}

/// A mechanism that the system refused, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The mechanism.
    pub mechanism: CodeMechanism,
    /// The operation that was refused.
    pub operation: Operation,
    /// Why it was refused.
    pub kind: ErrorKind,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.mechanism, self.operation, self.kind)
    }
}

/// The mechanisms that were tried in vain.
pub(super) type Refusals = [Option<Refusal>; CodeMechanism::ALL.len()];

impl fmt::Display for CodeMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CodeMechanism::TwoViews => "two views of one memory object",
            CodeMechanism::PerThread => "switching per thread",
            CodeMechanism::Switch => "switching by protection",
        })
    }
}

/// What to reserve for code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct CodeOptions {
    pub(super) len: usize,
    pub(super) placement: Placement,
    pub(super) mechanism: Option<CodeMechanism>,
}

impl CodeOptions {
    /// `len` bytes, above 4 GiB, by the first mechanism that the system allows.
    pub const fn new(len: usize) -> CodeOptions {
        CodeOptions { len, placement: Placement::High, mechanism: None }
    }

    /// Placed as `placement` says: near what the code calls, say.
    pub const fn placement(self, placement: Placement) -> CodeOptions {
        CodeOptions { placement, ..self }
    }

    /// By this mechanism or not at all.
    pub const fn mechanism(self, mechanism: CodeMechanism) -> CodeOptions {
        CodeOptions { mechanism: Some(mechanism), ..self }
    }
}
