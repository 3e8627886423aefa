//! Where the program writes to when there may be nothing to write to.

use core::fmt;

#[cfg_attr(unix, path = "console/unix.rs")]
#[cfg_attr(windows, path = "console/windows.rs")]
mod output;

use output::Output;

/// Writes a line at a time: a console may take a system call for each piece.
pub struct Console {
    output: Output,
    line: [u8; 1024],
    len: usize,
}

impl Console {
    /// Takes the standard output, or what there is instead.
    pub fn open() -> Console {
        Console { output: Output::open(), line: [0; 1024], len: 0 }
    }

    fn flush(&mut self) {
        let mut rest = &self.line[..self.len];
        while !rest.is_empty() {
            match self.output.write(rest) {
                Some(written) => rest = &rest[written.min(rest.len())..],
                // There is nobody to tell; a signal cannot interrupt: none is caught.
                None => break,
            }
        }
        self.len = 0;
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.len == self.line.len() {
                self.flush();
            }
            self.line[self.len] = byte;
            self.len += 1;
            if byte == b'\n' {
                self.flush();
            }
        }
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.flush();
        self.output.drain();
    }
}
