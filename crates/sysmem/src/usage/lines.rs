//! Text files read line by line in a fixed buffer.

use crate::Errno;

/// The lines that `read` gives piece by piece; it fills the beginning of a buffer and says how
/// much, 0 at the end.
///
/// Read strictly forward: to look at an earlier place of a file in /proc again, the kernel walks
/// there from its beginning (fs/seq_file.c, `traverse`), which takes seconds where it is long.
pub(crate) struct Lines<'b, R> {
    read: R,
    buffer: &'b mut [u8],
    start: usize,
    end: usize,
    /// The rest of a line that was handed out cut is still to come.
    cut: bool,
    ended: bool,
}

impl<'b, R: FnMut(&mut [u8]) -> Result<usize, Errno>> Lines<'b, R> {
    pub fn new(read: R, buffer: &'b mut [u8]) -> Lines<'b, R> {
        Lines { read, buffer, start: 0, end: 0, cut: false, ended: false }
    }

    /// The next line without its end; cut at the length of the buffer.
    pub fn next(&mut self) -> Result<Option<&[u8]>, Errno> {
        let (start, end) = loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(len) = unread.iter().position(|&byte| byte == b'\n') {
                let start = self.start;
                self.start += len + 1;
                if core::mem::take(&mut self.cut) {
                    continue;
                }
                break (start, start + len);
            }
            let full = self.start == 0 && self.end == self.buffer.len();
            let last = self.ended && self.start < self.end;
            if full || last {
                let start = core::mem::replace(&mut self.start, self.end);
                if core::mem::replace(&mut self.cut, full) {
                    continue;
                }
                break (start, self.end);
            }
            if self.ended {
                return Ok(None);
            }
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let read = (self.read)(&mut self.buffer[self.end..])?;
            self.ended = read == 0;
            self.end += read;
        };
        Ok(Some(&self.buffer[start..end]))
    }

    /// Hands every line to `each` until it says that it has seen enough.
    pub fn each(&mut self, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), Errno> {
        while let Some(line) = self.next()? {
            if !each(line) {
                break;
            }
        }
        Ok(())
    }
}

/// The decimal number that `text` begins with, after blanks.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii_start();
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    core::str::from_utf8(&text[..len]).ok()?.parse().ok()
}

/// The key and the value of a line `Key:   value`.
pub(crate) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// The bytes of a value `123 kB`.
pub(crate) fn kilobytes(value: &[u8]) -> Option<u64> {
    number(value.strip_suffix(b" kB")?)?.checked_mul(1024)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// A file of `text` that is read at most `step` bytes at a time.
    pub(crate) fn reader(
        text: &[u8],
        step: usize,
    ) -> impl FnMut(&mut [u8]) -> Result<usize, Errno> + '_ {
        let mut rest = text;
        move |buffer| {
            let len = rest.len().min(step).min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            Ok(len)
        }
    }

    fn read_all(text: &[u8], step: usize, room: usize) -> Vec<Vec<u8>> {
        let mut buffer = std::vec![0; room];
        let mut found = Vec::new();
        let mut lines = Lines::new(reader(text, step), &mut buffer);
        while let Some(line) = lines.next().unwrap() {
            found.push(line.to_vec());
        }
        found
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_text_cut_at_the_buffer(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400),
            step in 1usize..50,
            room in 1usize..60,
        ) {
            let mut expected: Vec<Vec<u8>> = text
                .split(|&byte| byte == b'\n')
                .map(|line| line[..line.len().min(room)].to_vec())
                .collect();
            // Text after the last line's end is a line, nothing after it is none.
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            prop_assert_eq!(read_all(&text, step, room), expected);
        }

        #[test]
        fn numbers_are_what_std_parses(text in "[ ]{0,3}[0-9]{0,22}[a-z ]{0,3}") {
            let digits: std::string::String =
                text.trim_start().chars().take_while(char::is_ascii_digit).collect();
            prop_assert_eq!(number(text.as_bytes()), digits.parse().ok());
        }
    }

    #[test]
    fn an_error_in_the_middle_is_handed_on() {
        let mut reads = 0;
        let read = |buffer: &mut [u8]| {
            reads += 1;
            if reads == 2 {
                return Err(Errno(3));
            }
            buffer[..2].copy_from_slice(b"a\n");
            Ok(2)
        };
        let mut buffer = [0; 8];
        let mut lines = Lines::new(read, &mut buffer);
        assert_eq!(lines.next(), Ok(Some(&b"a"[..])));
        assert_eq!(lines.next(), Err(Errno(3)));
    }

    #[test]
    fn sizes_need_their_unit_and_fit() {
        assert_eq!(kilobytes(b"12 kB"), Some(12 << 10));
        assert_eq!(kilobytes(b"12"), None);
        assert_eq!(kilobytes(b" kB"), None);
        assert_eq!(kilobytes(b"-3 kB"), None);
        assert_eq!(kilobytes(b"18014398509481984 kB"), None);
        assert_eq!(field(b"VmRSS:\t    4 kB"), Some((&b"VmRSS"[..], &b"4 kB"[..])));
        assert_eq!(field(b"no colon"), None);
    }
}
