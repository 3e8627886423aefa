//! What a reservation is to be: where it lies, and what it keeps through every operation.

/// Where a reservation is to lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the system likes.
    #[default]
    Any,
    /// At this address if it is free, elsewhere otherwise.
    Hint(usize),
    /// At this address, or [`ErrorKind::Taken`](crate::ErrorKind::Taken).
    At(usize),
    /// As close to `address` as can be found, every byte within `distance` bytes of it, or
    /// [`ErrorKind::NoPlace`](crate::ErrorKind::NoPlace): for code that reaches its callees with
    /// relative calls.
    Near {
        /// The address to be close to.
        address: usize,
        /// The farthest any byte may be, in bytes.
        distance: usize,
    },
    /// Above the first 4 GiB, away from addresses that fit in 32 bits.
    High,
}

/// What a forked child gets of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Inheritance {
    /// A copy.
    #[default]
    Copy,
    /// The same memory.
    Share,
    /// Nothing: the range is not mapped.
    Nothing,
    /// Zeros.
    Zeros,
}

/// What the pages of a reservation are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// Memory of the process, from no object.
    #[default]
    Anonymous,
    /// The bytes of a memory object, of which the reservation is a view: made by
    /// [`Reservation::reserve_view_in`](crate::Reservation::reserve_view_in) only.
    Object,
    /// Memory of the process that each thread switches between writable and executable for itself
    /// ([`CodeMemory::let_thread_write`](crate::os::capabilities::CodeMemory::let_thread_write)):
    /// `MAP_JIT` of macOS on Apple silicon. A thread can write to it or execute it, never both at
    /// once.
    PerThread,
}

/// What memory keeps through every operation.
///
/// A mapping that replaces another has none of what the other was told. So each operation that
/// may map a range anew is told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Whether pages may become executable.
    pub executable: bool,
    /// Whether a core dump has the memory in it.
    pub dumped: bool,
    /// What a forked child gets of the memory.
    pub inheritance: Inheritance,
    /// What its pages are.
    pub source: Source,
    /// Whether threads may have their stacks in it, where it is mapped readable and writable.
    pub stacks: bool,
}

impl Policy {
    /// Anonymous, not executable, dumped, copied for a forked child, not for stacks: what every
    /// system does unasked.
    pub const DEFAULT: Policy = Policy {
        executable: false,
        dumped: true,
        inheritance: Inheritance::Copy,
        source: Source::Anonymous,
        stacks: false,
    };
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::DEFAULT
    }
}

/// What to reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ReserveOptions {
    pub(crate) len: usize,
    pub(crate) align: usize,
    pub(crate) placement: Placement,
    pub(crate) policy: Policy,
}

impl ReserveOptions {
    /// `len` bytes anywhere, aligned to a page.
    pub const fn new(len: usize) -> ReserveOptions {
        ReserveOptions { len, align: 1, placement: Placement::Any, policy: Policy::DEFAULT }
    }

    /// Aligned to `align` bytes, a power of two; a page where that is less.
    pub const fn align(self, align: usize) -> ReserveOptions {
        ReserveOptions { align, ..self }
    }

    /// Placed as `placement` says.
    pub const fn placement(self, placement: Placement) -> ReserveOptions {
        ReserveOptions { placement, ..self }
    }

    /// Whether pages may become executable later. NetBSD (mmap(2), `PROT_MPROTECT`) must know
    /// when the memory is reserved; asking everywhere keeps a program portable.
    pub const fn executable(self, executable: bool) -> ReserveOptions {
        ReserveOptions { policy: Policy { executable, ..self.policy }, ..self }
    }

    /// Executable memory that each thread switches for itself ([`Source::PerThread`]);
    /// [`Os::supports`](crate::Os::supports) tells whether the system has it.
    pub const fn switched_per_thread(self) -> ReserveOptions {
        let policy = Policy { executable: true, source: Source::PerThread, ..self.policy };
        ReserveOptions { policy, ..self }
    }

    /// Whether a core dump has the memory in it; [`Os::supports`](crate::Os::supports) tells
    /// whether the system can leave it out.
    pub const fn dumped(self, dumped: bool) -> ReserveOptions {
        ReserveOptions { policy: Policy { dumped, ..self.policy }, ..self }
    }

    /// What a forked child gets of the memory; [`Os::supports`](crate::Os::supports) tells whether
    /// the system has it.
    pub const fn inheritance(self, inheritance: Inheritance) -> ReserveOptions {
        ReserveOptions { policy: Policy { inheritance, ..self.policy }, ..self }
    }

    /// Whether threads may have their stacks in the memory, where it is mapped readable and
    /// writable. OpenBSD ends a process that enters the kernel with its stack pointer anywhere
    /// else (mmap(2), `MAP_STACK`, since 6.4); asking everywhere keeps a program portable.
    pub const fn stacks(self, stacks: bool) -> ReserveOptions {
        ReserveOptions { policy: Policy { stacks, ..self.policy }, ..self }
    }

    /// The length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero, which no system reserves.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it is to be aligned to, in bytes.
    pub const fn alignment(&self) -> usize {
        self.align
    }

    /// Where it is to lie.
    pub const fn place(&self) -> Placement {
        self.placement
    }

    /// What it is to keep through every operation.
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether pages may become executable later.
    pub const fn may_become_executable(&self) -> bool {
        self.policy.executable
    }
}
