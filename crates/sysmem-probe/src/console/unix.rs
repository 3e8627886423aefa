//! Standard output, or /dev/console where that is closed.

use core::ffi::c_int;

pub struct Output {
    descriptor: c_int,
}

impl Output {
    /// Takes descriptor 1, opening the console for it if it is closed.
    pub fn open() -> Output {
        let mut descriptor = libc::STDOUT_FILENO;
        // SAFETY: asks about a descriptor, fcntl(2).
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
            let flags = libc::O_RDWR | libc::O_NOCTTY;
            // SAFETY: the path ends in zero. If it cannot be opened, -1 refuses every write.
            descriptor = unsafe { libc::open(c"/dev/console".as_ptr(), flags) };
        }
        Output { descriptor }
    }

    /// Writes some bytes and says how many, unless they are refused.
    pub fn write(&self, bytes: &[u8]) -> Option<usize> {
        // SAFETY: `bytes` is as long as said.
        let written = unsafe { libc::write(self.descriptor, bytes.as_ptr().cast(), bytes.len()) };
        usize::try_from(written).ok()
    }

    /// Waits until a terminal or serial line has sent everything: the machine may be switched off
    /// next.
    pub fn drain(&self) {
        // SAFETY: refuses what is not a terminal, tcdrain(3).
        unsafe { libc::tcdrain(self.descriptor) };
    }
}
