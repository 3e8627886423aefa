//! Standard output.

use core::ptr;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Storage::FileSystem::WriteFile;
use windows_sys::Win32::System::Console::{GetStdHandle, STD_OUTPUT_HANDLE};

pub struct Output {
    handle: HANDLE,
}

impl Output {
    /// Takes the standard output.
    pub fn open() -> Output {
        // SAFETY: reads a field of the process. If there is none, null refuses every write.
        Output { handle: unsafe { GetStdHandle(STD_OUTPUT_HANDLE) } }
    }

    /// Writes some bytes and says how many, unless they are refused.
    pub fn write(&self, bytes: &[u8]) -> Option<usize> {
        let len = bytes.len().min(u32::MAX as usize) as u32;
        let mut written = 0;
        // SAFETY: `bytes` is at least as long as said.
        let answer =
            unsafe { WriteFile(self.handle, bytes.as_ptr(), len, &mut written, ptr::null_mut()) };
        (answer != 0).then_some(written as usize)
    }

    /// Nothing: what was written is the system's.
    pub fn drain(&self) {}
}
