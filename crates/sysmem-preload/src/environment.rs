//! What the environment decides about the heap (docs/environment.md).

use core::ffi::CStr;

use sysmem_alloc::{HugePages, MemoryLimit};

/// Does what the environment says; for the library's constructor. That of a setuid program is not
/// to be trusted.
pub(crate) fn apply() {
    if variable(c"SYSMEM_HUGE_PAGES") == Some(b"advise") {
        sysmem_alloc::set_huge_pages(HugePages::Advise);
    }
    if variable(c"SYSMEM_SCAVENGER") != Some(b"off") {
        sysmem_alloc::start_scavenger();
    }
    let limit = |name| variable(name).and_then(limit).unwrap_or_default();
    // A group that cannot be read limits nothing.
    let _ = sysmem_alloc::set_memory_limit(
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

/// A number of bytes, or `cgroup` for the limit of the control group, with `-` and the head room in
/// bytes behind it or without.
fn limit(text: &[u8]) -> Option<MemoryLimit> {
    let Some(room) = text.strip_prefix(b"cgroup") else {
        return bytes(text).map(MemoryLimit::Bytes);
    };
    match room.split_first() {
        None => Some(MemoryLimit::ControlGroup { head_room: None }),
        Some((b'-', room)) => {
            bytes(room).map(|room| MemoryLimit::ControlGroup { head_room: Some(room) })
        }
        Some(_) => None,
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
    use super::{MemoryLimit, bytes, limit};

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

    #[test]
    fn a_limit_is_a_size_or_the_control_groups_with_room_beside_it() {
        let of_group = |head_room| Some(MemoryLimit::ControlGroup { head_room });
        for (text, expected) in [
            ("64M", Some(MemoryLimit::Bytes(64 << 20))),
            ("cgroup", of_group(None)),
            ("cgroup-64M", of_group(Some(64 << 20))),
            ("cgroup-", None),
            ("cgroup-x", None),
            ("cgroups", None),
            ("", None),
        ] {
            assert_eq!(limit(text.as_bytes()), expected, "{text:?}");
        }
    }
}
