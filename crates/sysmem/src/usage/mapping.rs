//! The mappings of a process, and what they are for.

use super::PageFigures;

/// What a mapping is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MappingKind {
    /// The program's own file.
    Program,
    /// Another file: libraries, mapped data.
    File,
    /// Memory that processes may share, without a file on disk.
    SharedMemory,
    /// Memory with a name that the program gave it.
    Named,
    /// Memory without a name.
    Anonymous,
    /// The C library's heap behind the program (brk(2)).
    ProgramBreak,
    /// A thread's stack; of threads other than the first, where the C library names them.
    Stack,
    /// The kernel's: vdso, devices.
    System,
}

/// One mapping of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// The first address.
    pub start: usize,
    /// The address after the last.
    pub end: usize,
    /// Whether it may be read.
    pub readable: bool,
    /// Whether it may be written to.
    pub writable: bool,
    /// Whether it may be executed.
    pub executable: bool,
    /// Whether writes are seen by others that map the same. `None` on FreeBSD, NetBSD and
    /// DragonFly, which do not tell.
    pub shared: Option<bool>,
    /// Where in its file it begins.
    pub offset: u64,
    /// What it is made of.
    pub kind: MappingKind,
    /// The path of its file, or the name it was given; as the system writes it, cut where the
    /// caller's buffer had no room. Empty for memory without a name.
    pub name: &'a [u8],
    /// What was found page by page; with [`Detail::Pages`](super::Detail::Pages) only.
    pub pages: PageFigures,
}

impl Mapping<'_> {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Never: no mapping is empty.
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Whether anything may be done with it.
    pub fn accessible(&self) -> bool {
        self.readable || self.writable || self.executable
    }
}

/// What mappings are for: the parts into which an address space is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Memory that was given a name: the subsystems of a heap.
    Named,
    /// Memory without a name: heaps that map, stacks of threads that nobody named.
    Unnamed,
    /// Address space without a name that allows no access: reserved, guards.
    NoAccess,
    /// The C library's heap behind the program.
    ProgramBreak,
    /// Stacks, as far as the system or the C library marks them: the first thread's at least.
    Stacks,
    /// The program's file.
    Program,
    /// Libraries and other files.
    Files,
    /// Shared memory without a file on disk.
    SharedMemory,
    /// The kernel's own mappings: vdso, devices.
    System,
}

impl Group {
    /// How many there are.
    pub const COUNT: usize = Group::ALL.len();

    /// All of them, in their order.
    pub const ALL: [Group; 9] = [
        Group::Named,
        Group::Unnamed,
        Group::NoAccess,
        Group::ProgramBreak,
        Group::Stacks,
        Group::Program,
        Group::Files,
        Group::SharedMemory,
        Group::System,
    ];

    /// The group of a mapping.
    pub fn of(mapping: &Mapping<'_>) -> Group {
        match mapping.kind {
            MappingKind::Named => Group::Named,
            MappingKind::Anonymous if mapping.accessible() => Group::Unnamed,
            MappingKind::Anonymous => Group::NoAccess,
            MappingKind::ProgramBreak => Group::ProgramBreak,
            MappingKind::Stack => Group::Stacks,
            MappingKind::Program => Group::Program,
            MappingKind::File => Group::Files,
            MappingKind::SharedMemory => Group::SharedMemory,
            MappingKind::System => Group::System,
        }
    }

    /// What it is called for people.
    pub const fn title(self) -> &'static str {
        match self {
            Group::Named => "memory by name",
            Group::Unnamed => "memory without a name",
            Group::NoAccess => "reserved, no access",
            Group::ProgramBreak => "the C library's heap",
            Group::Stacks => "stacks",
            Group::Program => "program",
            Group::Files => "libraries and files",
            Group::SharedMemory => "shared memory",
            Group::System => "system",
        }
    }

    /// What it is called for machines.
    pub const fn key(self) -> &'static str {
        match self {
            Group::Named => "named",
            Group::Unnamed => "unnamed",
            Group::NoAccess => "no_access",
            Group::ProgramBreak => "program_break",
            Group::Stacks => "stacks",
            Group::Program => "program",
            Group::Files => "files",
            Group::SharedMemory => "shared_memory",
            Group::System => "system",
        }
    }
}
