//! Linux's figures, read from /proc, /sys and the control groups without a heap.

use core::ffi::CStr;
use core::fmt::{self, Write};

use super::lines::{Lines, field, kilobytes, number};
use super::{ControlGroup, Detail, MachineUsage, Mapping, Process, ProcessUsage, Usage, refusal};
use crate::calls::{Files, ResourceUsage};
use crate::os::linux::{Linux, LinuxCalls};
use crate::{Errno, Error, ErrorKind};

mod control_group;
mod machine;
mod mappings;
mod process;

pub(crate) use mappings::mapping_lines;

const EPERM: Errno = Errno(1);
const ENOENT: Errno = Errno(2);
const ESRCH: Errno = Errno(3);
const EACCES: Errno = Errno(13);

impl<K: LinuxCalls + ResourceUsage> Usage for Linux<K> {
    fn process_usage(&self, process: Process, detail: Detail) -> Result<ProcessUsage, Error> {
        process::usage(self.kernel(), process, detail)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        machine::usage(self.kernel())
    }

    fn control_group(&self, process: Process) -> Result<ControlGroup, Error> {
        control_group::usage(self.kernel(), process)
    }

    fn mappings(
        &self,
        process: Process,
        detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error> {
        mappings::mappings(self.kernel(), process, detail, buffer, each)
    }
}

/// An open file, closed when dropped.
struct File<'a, K: Files> {
    kernel: &'a K,
    file: i32,
}

impl<'a, K: Files> File<'a, K> {
    fn open(kernel: &'a K, path: &CStr) -> Result<File<'a, K>, Errno> {
        Ok(File { kernel, file: kernel.open(path)? })
    }

    /// A file in the directory of a process in /proc.
    fn of(kernel: &'a K, process: Process, name: &str) -> Result<File<'a, K>, Errno> {
        let mut path = Path::<64>::new();
        // Neither is longer than the path's room.
        let _ = match process {
            Process::Own => write!(path, "/proc/self/{name}"),
            Process::Id(number) => write!(path, "/proc/{number}/{name}"),
        };
        File::open(kernel, path.as_c_str().ok_or(ENOENT)?)
    }

    /// Reads from the beginning until the buffer is full or the file ends.
    fn fill<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        let mut len = 0;
        while len < buffer.len() {
            match self.kernel.read_at(self.file, &mut buffer[len..], len as u64)? {
                0 => break,
                read => len += read,
            }
        }
        Ok(&buffer[..len])
    }

    fn lines<'b>(
        &'b self,
        buffer: &'b mut [u8],
    ) -> Lines<'b, impl FnMut(&mut [u8]) -> Result<usize, Errno> + 'b> {
        let mut offset = 0;
        let read = move |buffer: &mut [u8]| {
            let read = self.kernel.read_at(self.file, buffer, offset)?;
            offset += read as u64;
            Ok(read)
        };
        Lines::new(read, buffer)
    }
}

impl<K: Files> Drop for File<'_, K> {
    fn drop(&mut self) {
        self.kernel.close(self.file);
    }
}

/// A path put together without a heap.
struct Path<const ROOM: usize> {
    text: [u8; ROOM],
    len: usize,
}

impl<const ROOM: usize> Path<ROOM> {
    const fn new() -> Self {
        Path { text: [0; ROOM], len: 0 }
    }

    /// Appends, or refuses what has no room for it and for a zero at the end.
    fn push(&mut self, text: &[u8]) -> Option<()> {
        let end = self.len.checked_add(text.len()).filter(|&end| end < ROOM)?;
        self.text[self.len..end].copy_from_slice(text);
        self.len = end;
        Some(())
    }

    fn truncate(&mut self, len: usize) {
        self.text[len..self.len].fill(0);
        self.len = len;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }

    /// `None` if there is a zero in the middle.
    fn as_c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_with_nul(&self.text[..=self.len]).ok()
    }
}

impl<const ROOM: usize> Write for Path<ROOM> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes()).ok_or(fmt::Error)
    }
}

/// What it means that a file of a process could not be opened or read.
fn process_refusal(errno: Errno) -> Error {
    refusal(match errno {
        ENOENT | ESRCH => ErrorKind::Gone,
        EPERM | EACCES => ErrorKind::Denied,
        errno => ErrorKind::System(errno),
    })
}

/// The beginning of a file, as much as fits into the buffer.
pub(crate) fn read<'b>(kernel: &impl Files, path: &CStr, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    File::open(kernel, path).ok()?.fill(buffer).ok()
}

/// The number that a file holds.
pub(crate) fn number_in(kernel: &impl Files, path: &CStr) -> Option<u64> {
    number(read(kernel, path, &mut [0; 64])?)
}

/// The figures of /proc/PID/statm that the layer needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statm {
    /// The size of the address space: what `RLIMIT_AS` limits.
    pub virtual_size: u64,
    /// Private writable mappings and stacks: about what `RLIMIT_DATA` limits.
    pub data: u64,
}

/// /proc/self/statm (proc_pid_statm(5)): pages of size, resident, shared, text, lib, data, dt.
pub(crate) fn statm(kernel: &impl Files, buffer: &mut [u8]) -> Option<Statm> {
    let text = read(kernel, c"/proc/self/statm", buffer)?;
    let page_size = kernel.page_size() as u64;
    let mut fields = text.split(|&byte| byte == b' ');
    let virtual_size = number(fields.next()?)?.checked_mul(page_size)?;
    let data = number(fields.nth(4)?)?.checked_mul(page_size)?;
    Some(Statm { virtual_size, data })
}

/// A figure of /proc/meminfo, in bytes.
pub(crate) fn meminfo(kernel: &impl Files, key: &[u8]) -> Option<u64> {
    let file = File::open(kernel, c"/proc/meminfo").ok()?;
    let mut found = None;
    let seen = file.lines(&mut [0; 256]).each(|line| {
        found =
            field(line).filter(|&(name, _)| name == key).and_then(|(_, value)| kilobytes(value));
        found.is_none()
    });
    found.filter(|_| seen.is_ok())
}
