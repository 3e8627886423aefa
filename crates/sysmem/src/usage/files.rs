//! Small files of the kernel's, and paths to them, without a heap.

use core::ffi::CStr;
use core::fmt::{self, Write};

use super::lines::{Lines, number};
use super::{Process, refusal};
use crate::calls::Files;
use crate::{Errno, Error, ErrorKind};

const EPERM: Errno = Errno(1);
const ENOENT: Errno = Errno(2);
const ESRCH: Errno = Errno(3);
const EACCES: Errno = Errno(13);

/// An open file, closed when dropped.
pub(crate) struct File<'a, K: Files> {
    kernel: &'a K,
    pub number: i32,
}

impl<'a, K: Files> File<'a, K> {
    pub fn open(kernel: &'a K, path: &CStr) -> Result<File<'a, K>, Errno> {
        Ok(File { kernel, number: kernel.open(path)? })
    }

    /// A file in the directory of a process in /proc.
    pub fn of(kernel: &'a K, process: Process, name: &str) -> Result<File<'a, K>, Errno> {
        let path = Path::<64>::of(process, name).ok_or(ENOENT)?;
        File::open(kernel, path.as_c_str().ok_or(ENOENT)?)
    }

    /// Reads from a place; returns how much, 0 at the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        self.kernel.read_at(self.number, buffer, offset)
    }

    /// Reads from the beginning until the buffer is full or the file ends.
    pub fn fill<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        let mut len = 0;
        while len < buffer.len() {
            match self.kernel.read_at(self.number, &mut buffer[len..], len as u64)? {
                0 => break,
                read => len += read,
            }
        }
        Ok(&buffer[..len])
    }

    pub fn lines<'b>(
        &'b self,
        buffer: &'b mut [u8],
    ) -> Lines<'b, impl FnMut(&mut [u8]) -> Result<usize, Errno> + 'b> {
        let mut offset = 0;
        let read = move |buffer: &mut [u8]| {
            let read = self.kernel.read_at(self.number, buffer, offset)?;
            offset += read as u64;
            Ok(read)
        };
        Lines::new(read, buffer)
    }
}

impl<K: Files> Drop for File<'_, K> {
    fn drop(&mut self) {
        self.kernel.close(self.number);
    }
}

/// A path put together without a heap.
pub(super) struct Path<const ROOM: usize> {
    text: [u8; ROOM],
    pub len: usize,
}

impl<const ROOM: usize> Path<ROOM> {
    pub const fn new() -> Self {
        Path { text: [0; ROOM], len: 0 }
    }

    /// The path of a file in the directory of a process in /proc.
    pub fn of(process: Process, name: &str) -> Option<Self> {
        let mut path = Self::new();
        let written = match process {
            Process::Own => write!(path, "/proc/self/{name}"),
            Process::Id(number) => write!(path, "/proc/{number}/{name}"),
        };
        written.ok().map(|()| path)
    }

    /// Appends, or refuses what has no room for it and for a zero at the end.
    pub fn push(&mut self, text: &[u8]) -> Option<()> {
        let end = self.len.checked_add(text.len()).filter(|&end| end < ROOM)?;
        self.text[self.len..end].copy_from_slice(text);
        self.len = end;
        Some(())
    }

    pub fn truncate(&mut self, len: usize) {
        self.text[len..self.len].fill(0);
        self.len = len;
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }

    /// `None` if there is a zero in the middle.
    pub fn as_c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_with_nul(&self.text[..=self.len]).ok()
    }
}

impl<const ROOM: usize> Write for Path<ROOM> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes()).ok_or(fmt::Error)
    }
}

/// What it means that a file of a process could not be opened or read.
pub(super) fn process_refusal(errno: Errno) -> Error {
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
