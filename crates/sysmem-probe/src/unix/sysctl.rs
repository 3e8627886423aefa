//! sysctl(3), where the BSDs tell about processes and themselves.

use core::ffi::c_int;
use core::ptr;

/// Reads what has this number; returns how many bytes it has.
pub(super) fn by_number(number: &[c_int], buffer: &mut [u8]) -> Option<usize> {
    let mut len = buffer.len();
    let parts = number.len() as core::ffi::c_uint;
    // SAFETY: number and buffer are as long as said, and nothing is set.
    let answer = unsafe {
        libc::sysctl(
            number.as_ptr(),
            parts,
            buffer.as_mut_ptr().cast(),
            &mut len,
            ptr::null_mut(),
            0,
        )
    };
    (answer == 0).then_some(len)
}

/// The number that has this name, of four or eight bytes.
#[cfg(not(target_os = "openbsd"))]
pub(super) fn by_name(name: &core::ffi::CStr) -> Option<u64> {
    let mut buffer = [0; 8];
    let mut len = buffer.len();
    let place = buffer.as_mut_ptr().cast();
    // SAFETY: the name ends in zero, the buffer is as long as said, and nothing is set.
    let answer = unsafe { libc::sysctlbyname(name.as_ptr(), place, &mut len, ptr::null_mut(), 0) };
    let [a, b, c, d, ..] = buffer;
    match (answer, len) {
        (0, 4) => Some(u64::from(u32::from_ne_bytes([a, b, c, d]))),
        (0, 8) => Some(u64::from_ne_bytes(buffer)),
        _ => None,
    }
}

/// The eight bytes at an offset of a structure.
#[cfg(not(target_os = "openbsd"))]
pub(super) fn eight_bytes(structure: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(structure.get(offset..offset + 8)?.try_into().ok()?))
}

/// The four bytes at an offset of a structure.
#[cfg(not(target_os = "freebsd"))]
pub(super) fn four_bytes(structure: &[u8], offset: usize) -> Option<u64> {
    let bytes = structure.get(offset..offset + 4)?.try_into().ok()?;
    Some(u64::from(u32::from_ne_bytes(bytes)))
}
