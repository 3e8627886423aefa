//! Where the program writes to when there may be no descriptor to write to.

use core::ffi::c_int;
use core::fmt;

/// Standard output, or /dev/console where that is closed. Writes a line at a time: a console may
/// take a system call for each piece.
pub struct Console {
    descriptor: c_int,
    line: [u8; 1024],
    len: usize,
}

impl Console {
    /// Takes descriptor 1, opening the console for it if it is closed.
    pub fn open() -> Console {
        let mut descriptor = libc::STDOUT_FILENO;
        // SAFETY: asks about a descriptor, fcntl(2).
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
            let flags = libc::O_RDWR | libc::O_NOCTTY;
            // SAFETY: the path ends in zero. If it cannot be opened, -1 refuses every write.
            descriptor = unsafe { libc::open(c"/dev/console".as_ptr(), flags) };
        }
        Console { descriptor, line: [0; 1024], len: 0 }
    }

    fn flush(&mut self) {
        let mut rest = &self.line[..self.len];
        while !rest.is_empty() {
            // SAFETY: `rest` is as long as said.
            let written = unsafe { libc::write(self.descriptor, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) => rest = &rest[written.min(rest.len())..],
                // There is nobody to tell; a signal cannot interrupt: none is caught.
                Err(_) => break,
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
        // Waits until a terminal or serial line has sent everything: the machine may be switched
        // off next.
        // SAFETY: refuses what is not a terminal, tcdrain(3).
        unsafe { libc::tcdrain(self.descriptor) };
    }
}
