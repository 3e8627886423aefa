use core::fmt;

use crate::{Protection, State};

/// An operating system's error number, with the meaning that system gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only numbers that every supported system shares (errno(2)) are given their name.
        let name = match self.0 {
            1 => "EPERM",
            2 => "ENOENT",
            4 => "EINTR",
            9 => "EBADF",
            12 => "ENOMEM",
            13 => "EACCES",
            14 => "EFAULT",
            16 => "EBUSY",
            17 => "EEXIST",
            22 => "EINVAL",
            number => return write!(f, "errno {number}"),
        };
        f.write_str(name)
    }
}

/// The operation that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Each is the operation of that name.
pub enum Operation {
    Alloc,
    /// Allocating huge pages.
    AllocHuge,
    Reserve,
    Map,
    Used,
    Unused,
    Fault,
    Free,
    Protect,
    HugePage,
    NoHugePage,
    Collapse,
    Name,
    SetInheritance,
    SetDumped,
    Residency,
    Usage,
    Guard,
    RemoveGuard,
    Seal,
    /// Making an object that can be mapped twice.
    CreateObject,
    MapObject,
    DiscardObject,
    /// Switching huge pages on or off.
    SwitchHugePages,
    /// A page heap handing out a run of pages.
    AllocatePages,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Alloc => "alloc",
            Operation::AllocHuge => "alloc huge pages",
            Operation::Reserve => "reserve",
            Operation::Map => "map",
            Operation::Used => "used",
            Operation::Unused => "unused",
            Operation::Fault => "fault",
            Operation::Free => "free",
            Operation::Protect => "protect",
            Operation::HugePage => "huge_page",
            Operation::NoHugePage => "no_huge_page",
            Operation::Collapse => "collapse",
            Operation::Name => "name",
            Operation::SetInheritance => "set_inheritance",
            Operation::SetDumped => "set_dumped",
            Operation::Residency => "residency",
            Operation::Usage => "usage",
            Operation::Guard => "guard",
            Operation::RemoveGuard => "remove guard",
            Operation::Seal => "seal",
            Operation::CreateObject => "create object",
            Operation::MapObject => "map object",
            Operation::DiscardObject => "discard object",
            Operation::SwitchHugePages => "switch huge pages",
            Operation::AllocatePages => "allocate pages",
        }
    }
}

/// A limit that refused an operation, as far as it could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `RLIMIT_AS`, in bytes (`ulimit -v`; getrlimit(2)).
    AddressSpace(u64),
    /// `RLIMIT_DATA`, in bytes (`ulimit -d`). Linux counts private writable mappings since 4.7.
    Data(u64),
    /// `RLIMIT_SWAP`, in bytes (`ulimit -w`): FreeBSD, where bit 1 of `vm.overcommit` is set.
    Swap(u64),
    /// The number of mappings one process may have (`vm.max_map_count` on Linux, `vm.max_proc_mmap`
    /// on DragonFly).
    Mappings(u64),
    /// The commit limit of a system that does not overcommit, in bytes (`CommitLimit` in
    /// /proc/meminfo on Linux; swap on FreeBSD with bit 0 of `vm.overcommit`).
    Commit(u64),
    /// The huge pages that the system has set aside (`vm.nr_hugepages` on Linux).
    HugePages(u64),
    /// The memory limit that the owner of a page heap set, in bytes.
    Heap(u64),
    /// What the memory limit of the process's control group leaves a page heap, in bytes.
    ControlGroup(u64),
}

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The address or the length is not a multiple of `multiple` bytes.
    Unaligned {
        /// What both must be a multiple of, in bytes.
        multiple: usize,
    },
    /// The length is zero.
    Empty,
    /// The length, rounded up or aligned, does not fit into the address space.
    TooLong,
    /// The alignment is not a power of two, or more than the address space can hold.
    BadAlignment,
    /// The range does not lie inside the reservation, which is `len` bytes long.
    OutOfBounds {
        /// The length of the reservation in bytes.
        len: usize,
    },
    /// A page of the range is in a state that the operation does not start from.
    WrongState {
        /// The state of the first page that stands in the way.
        found: State,
    },
    /// The protection asks for execution, the reservation was made without `executable`.
    NotExecutable,
    /// The pages are not accessible in the way the operation needs.
    WrongProtection {
        /// The protection of the first page that stands in the way.
        found: Protection,
    },
    /// A page of the range is a guard.
    Guard,
    /// The reservation is a view of a memory object, whose pages are the object's.
    View,
    /// The address asked for is taken by another mapping.
    Taken,
    /// No free range lies where the placement asked for one.
    NoPlace,
    /// The system has no memory, address space or mapping left for this; the limit is named where
    /// it could be told.
    OutOfMemory {
        /// The error number the system gave, if a system refused.
        errno: Option<Errno>,
        /// The limit that refused.
        limit: Option<Limit>,
    },
    /// The system took the range away in a replacement that failed half way; its reservation can
    /// only be forgotten.
    Lost,
    /// This system or this kernel does not have it.
    NotSupported,
    /// The user may not: it takes a privilege that an administrator grants.
    NoPrivilege {
        /// The privilege, as the system calls it, and where it is granted.
        privilege: &'static str,
    },
    /// It can only be set when the system boots.
    SetAtBoot {
        /// The setting, as the boot loader calls it.
        tunable: &'static str,
    },
    /// The process is not there, or it ended, or executed another program, while it was looked at.
    Gone,
    /// The system does not show it to this user, or does not let this user change it.
    Denied,
    /// What the system told is not in the form that it should have.
    Unreadable,
    /// The buffer is too small to work in.
    SmallBuffer {
        /// The bytes that it must have.
        least: usize,
    },
    /// The system refused for a reason of its own.
    System(Errno),
}

/// A refused operation: what was asked, of which range, and why it was refused.
///
/// The text names a way out where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    operation: Operation,
    address: usize,
    len: usize,
    kind: ErrorKind,
}

impl Error {
    /// An error of `kind` that `operation` met on the `len` bytes at `address` (zero where the
    /// operation was to choose the address).
    pub const fn new(operation: Operation, address: usize, len: usize, kind: ErrorKind) -> Error {
        Error { operation, address, len, kind }
    }

    /// The operation that was refused.
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The first address of the range it was asked for; zero where it was to choose.
    pub const fn address(&self) -> usize {
        self.address
    }

    /// The length of that range in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the range is empty.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Why it was refused.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Bytes as a person reads them: "1.5 GiB".
struct Human(u64);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >> shift != 0 {
                let tenths = (u128::from(self.0) * 10) >> shift;
                return write!(f, "{}.{} {unit}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Limit::AddressSpace(bytes) => {
                write!(f, "RLIMIT_AS is {} (raise it with ulimit -v)", Human(bytes))
            }
            Limit::Data(bytes) => {
                write!(f, "RLIMIT_DATA is {} (raise it with ulimit -d)", Human(bytes))
            }
            Limit::Swap(bytes) => {
                write!(f, "RLIMIT_SWAP is {} (raise it with ulimit -w)", Human(bytes))
            }
            Limit::Mappings(count) => {
                write!(f, "the process has as many mappings as it may have, {count}")
            }
            Limit::Commit(bytes) => {
                write!(f, "the system does not overcommit and its commit limit is {}", Human(bytes))
            }
            Limit::HugePages(count) => {
                write!(f, "the system has set {count} huge pages aside (raise vm.nr_hugepages)")
            }
            Limit::Heap(bytes) => write!(f, "the memory limit of the heap is {}", Human(bytes)),
            Limit::ControlGroup(bytes) => {
                write!(f, "the memory limit of the control group leaves the heap {}", Human(bytes))
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation.name())?;
        // These are of a process or of the machine, not of a range.
        if !matches!(self.operation, Operation::Usage | Operation::SwitchHugePages) {
            write!(f, " of {}", Human(self.len as u64))?;
        }
        if self.address != 0 {
            write!(f, " at {:#x}", self.address)?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was wrong, and a way out where there is one.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ErrorKind::Unaligned { multiple } => write!(
                f,
                "address and length must be multiples of {multiple} bytes (round them first)"
            ),
            ErrorKind::Empty => f.write_str("the length is zero; ask for at least one page"),
            ErrorKind::TooLong => f.write_str("the length does not fit into the address space"),
            ErrorKind::BadAlignment => f.write_str(
                "the alignment must be a power of two and smaller than the address space",
            ),
            ErrorKind::OutOfBounds { len } => {
                write!(f, "outside the reservation, which is {} long", Human(len as u64))
            }
            ErrorKind::WrongState { found } => {
                let way_out = match found {
                    State::Reserved => "map it first",
                    State::Prepared => "call used first",
                    State::Ready => "fault it first",
                };
                write!(f, "a page of the range is {found:?}; {way_out}")
            }
            ErrorKind::NotExecutable => f.write_str(
                "the reservation cannot become executable; make it with ReserveOptions::executable",
            ),
            ErrorKind::WrongProtection { found } => {
                write!(f, "a page of the range is {found:?}; change it with protect")
            }
            ErrorKind::Guard => f.write_str("a page of the range is a guard; remove it first"),
            ErrorKind::View => f.write_str(
                "the reservation is a view of a memory object; show parts of it with map_object, \
                 hide them with fault",
            ),
            ErrorKind::Taken => f.write_str("the address is taken by another mapping"),
            ErrorKind::NoPlace => {
                f.write_str("no free range lies where the placement asked for one")
            }
            ErrorKind::OutOfMemory { errno, limit } => {
                f.write_str("out of memory or address space")?;
                if let Some(limit) = limit {
                    write!(f, ": {limit}")?;
                }
                match errno {
                    Some(errno) => write!(f, " ({errno})"),
                    None => Ok(()),
                }
            }
            ErrorKind::Lost => f.write_str(
                "the range was lost in a replacement that failed half way; forget the reservation",
            ),
            ErrorKind::NotSupported => f.write_str("this system does not have it"),
            ErrorKind::NoPrivilege { privilege } => {
                write!(f, "the user has not the privilege it takes: {privilege}")
            }
            ErrorKind::SetAtBoot { tunable } => write!(
                f,
                "the system takes it only when it boots; set {tunable} in /boot/loader.conf and \
                 boot again"
            ),
            ErrorKind::Gone => f.write_str(
                "the process is not there, or ended or executed another program meanwhile",
            ),
            ErrorKind::Denied => f.write_str(
                "the system does not allow it to this user; run as the user of the process or root",
            ),
            ErrorKind::Unreadable => {
                f.write_str("what the system told is not in the form that it should have")
            }
            ErrorKind::SmallBuffer { least } => {
                write!(f, "the buffer is too small; it needs at least {least} bytes")
            }
            ErrorKind::System(errno) => write!(f, "the system refused ({errno})"),
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn an_error_names_operation_range_limit_and_way_out() {
        let error = Error::new(
            Operation::Map,
            0x7000_0000,
            3 << 20,
            ErrorKind::OutOfMemory { errno: Some(Errno(12)), limit: Some(Limit::Data(3 << 29)) },
        );
        assert_eq!(
            error.to_string(),
            "map of 3.0 MiB at 0x70000000: out of memory or address space: \
             RLIMIT_DATA is 1.5 GiB (raise it with ulimit -d) (ENOMEM)"
        );
    }

    #[test]
    fn an_error_about_a_process_speaks_of_no_range() {
        let error = Error::new(Operation::Usage, 0, 0, ErrorKind::Gone);
        assert_eq!(
            error.to_string(),
            "usage: the process is not there, or ended or executed another program meanwhile"
        );
    }

    #[test]
    fn an_error_without_address_leaves_it_out() {
        let error = Error::new(Operation::Reserve, 0, 0, ErrorKind::Empty);
        assert_eq!(
            error.to_string(),
            "reserve of 0 bytes: the length is zero; ask for at least one page"
        );
    }
}
