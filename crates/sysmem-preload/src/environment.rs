//! What the environment decides about the heap (docs/environment.md).

use core::ffi::CStr;

/// Does what the environment says; for the library's constructor. That of a setuid program is not
/// to be trusted.
pub(crate) fn apply() {
    if variable(c"SYSMEM_SCAVENGER") != Some(b"off") {
        sysmem_alloc::start_scavenger();
    }
    let limit = |name| variable(name).and_then(bytes).unwrap_or(usize::MAX);
    sysmem_alloc::set_memory_limit(
        limit(c"SYSMEM_MEMORY_LIMIT"),
        limit(c"SYSMEM_MEMORY_LIMIT_HARD"),
    );
}

fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: getauxval takes no pointers.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return None;
    }
    // SAFETY: the name is a C string; constructors run before the program has threads that could
    // change the environment, and what getenv returns is a C string until then.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes())
    }
}

/// A number of bytes, with K, M, G or T for powers of 1024; `None` for anything else, and for none.
fn bytes(text: &[u8]) -> Option<usize> {
    let (digits, shift) = match text.split_last()? {
        (b'K' | b'k', digits) => (digits, 10),
        (b'M' | b'm', digits) => (digits, 20),
        (b'G' | b'g', digits) => (digits, 30),
        (b'T' | b't', digits) => (digits, 40),
        _ => (text, 0),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: usize = core::str::from_utf8(digits).ok()?.parse().ok()?;
    number.checked_mul(1 << shift).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        for (text, expected) in [
            ("1", Some(1)),
            ("4096", Some(4096)),
            ("3k", Some(3 << 10)),
            ("512M", Some(512 << 20)),
            ("2G", Some(2 << 30)),
            ("1T", Some(1 << 40)),
            ("", None),
            ("0", None),
            ("M", None),
            ("+5", None),
            ("-1", None),
            ("1.5G", None),
            ("12 M", None),
            ("512MB", None),
            ("99999999T", None),
            ("999999999999999999999", None),
        ] {
            assert_eq!(bytes(text.as_bytes()), expected, "{text:?}");
        }
    }
}
