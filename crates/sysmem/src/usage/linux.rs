//! Linux's figures, read from /proc without a heap.

use core::ffi::CStr;

use crate::calls::Files;

/// A file in /proc, closed when dropped.
struct File<'a, K: Files> {
    kernel: &'a K,
    file: i32,
}

impl<'a, K: Files> File<'a, K> {
    fn open(kernel: &'a K, path: &CStr) -> Option<File<'a, K>> {
        Some(File { kernel, file: kernel.open(path).ok()? })
    }

    /// Reads from `offset` until the buffer is full or the file ends.
    fn fill(&self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        let mut len = 0;
        while len < buffer.len() {
            match self.kernel.read_at(self.file, &mut buffer[len..], offset + len as u64).ok()? {
                0 => break,
                read => len += read,
            }
        }
        Some(len)
    }
}

impl<K: Files> Drop for File<'_, K> {
    fn drop(&mut self) {
        self.kernel.close(self.file);
    }
}

/// The beginning of a file, as much as fits into the buffer.
pub(crate) fn read<'b>(kernel: &impl Files, path: &CStr, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let len = File::open(kernel, path)?.fill(buffer, 0)?;
    Some(&buffer[..len])
}

/// The decimal number that `text` begins with, after blanks.
fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let (number, count) = digits.fold((0u64, 0), |(number, count), digit| {
        (number.saturating_mul(10).saturating_add(u64::from(digit - b'0')), count + 1)
    });
    (count > 0).then_some(number)
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
    let virtual_size = number(fields.next()?)? * page_size;
    let data = number(fields.nth(4)?)? * page_size;
    Some(Statm { virtual_size, data })
}

/// The value of a line `Key:   123 kB` in `text`, in bytes.
pub(crate) fn kilobytes(text: &[u8], key: &[u8]) -> Option<u64> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let value = line.strip_prefix(key)?.strip_prefix(b":")?;
        number(value)?.checked_mul(1024)
    })
}

/// A figure of /proc/meminfo, in bytes.
pub(crate) fn meminfo(kernel: &impl Files, key: &[u8]) -> Option<u64> {
    kilobytes(read(kernel, c"/proc/meminfo", &mut [0; 4096])?, key)
}

/// One mapping of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub start: usize,
    pub end: usize,
}

/// Hands each line of /proc/self/maps (proc_pid_maps(5)) to `each`, lowest address first: where
/// the mapping begins and ends, and the beginning of what follows, at least 64 bytes of it. `None`
/// if the file cannot be read or is not what it should be.
pub(crate) fn mapping_lines(
    kernel: &impl Files,
    each: &mut dyn FnMut(usize, usize, &[u8]),
) -> Option<()> {
    let file = File::open(kernel, c"/proc/self/maps")?;
    let mut buffer = [0; 1024];
    // Read strictly forward: to look at an earlier place again, the kernel walks there from the
    // first mapping (fs/seq_file.c, `traverse`), which takes seconds where there are many.
    let mut offset = 0;
    let mut kept = 0;
    let mut in_line = false;
    loop {
        let read = file.fill(&mut buffer[kept..], offset)?;
        if read == 0 {
            return (kept == 0).then_some(());
        }
        offset += read as u64;
        let len = kept + read;
        let mut text = &buffer[..len];
        while !text.is_empty() {
            let end = text.iter().position(|&byte| byte == b'\n');
            if !in_line {
                // "start-end " is at most 34 bytes. Paths can be 4 KiB long.
                if end.is_none() && text.len() < 34 + 64 {
                    break;
                }
                let space = text.iter().position(|&byte| byte == b' ')?;
                let Mapping { start, end: mapping_end } = range(&text[..space])?;
                each(start, mapping_end, &text[space + 1..end.unwrap_or(text.len())]);
            }
            in_line = end.is_none();
            text = end.map_or(&[], |end| &text[end + 1..]);
        }
        // What is left is the beginning of a line, to go before what is read next.
        kept = text.len();
        buffer.copy_within(len - kept..len, 0);
    }
}

/// Hands each mapping of the process to `each`, lowest address first; `None` as above.
pub(crate) fn mappings(kernel: &impl Files, each: &mut dyn FnMut(Mapping)) -> Option<()> {
    mapping_lines(kernel, &mut |start, end, _| each(Mapping { start, end }))
}

/// Two hexadecimal addresses with a dash between them.
fn range(text: &[u8]) -> Option<Mapping> {
    let text = core::str::from_utf8(text).ok()?;
    let (start, end) = text.split_once('-')?;
    let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
    Some(Mapping { start: hexadecimal(start)?, end: hexadecimal(end)? })
}
