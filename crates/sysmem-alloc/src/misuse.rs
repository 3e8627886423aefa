//! One line that helps, then the end: what is left to do when the heap is misused, since going on
//! would corrupt what the program still has.

use core::fmt::{self, Write};

use sysmem::Os;

use crate::NATIVE;

/// A line on its way to standard error, built without a heap.
struct Line {
    text: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.len..];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

fn abort_with(message: fmt::Arguments<'_>) -> ! {
    let mut line = Line { text: [0; 256], len: 0 };
    let _ = writeln!(line, "sysmem: {message}");
    // SAFETY: the text is as long as said. Nothing can be done if it does not get out.
    unsafe {
        libc::write(2, line.text.as_ptr().cast(), line.len);
        libc::abort()
    }
}

/// Ends the program over `what`, which concerns `address`.
#[cold]
pub(crate) fn die(what: &str, address: *mut u8) -> ! {
    abort_with(format_args!("{address:p}: {what}"))
}

/// Ends the program over a block that is free already.
#[cold]
pub(crate) fn double_free(block: *mut u8) -> ! {
    abort_with(format_args!("free of {block:p}: the block is free already (double free)"))
}

/// Ends the program over an address that no allocation begins at.
#[cold]
pub(crate) fn not_ours(operation: &str, address: *mut u8) -> ! {
    match NATIVE.registry().find(address.addr()) {
        Some(found) => abort_with(format_args!(
            "{operation} of {address:p}: it lies {} bytes into memory of {:?}, but no allocation \
             begins there (freed before, or a pointer into the middle)",
            address.addr() - found.address(),
            found.account().name(),
        )),
        None => abort_with(format_args!(
            "{operation} of {address:p}: not memory of this allocator (from another allocator, \
             the stack or a static?)"
        )),
    }
}
