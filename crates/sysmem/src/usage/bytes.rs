//! Structures of a kernel, decoded from their bytes at stated offsets.

use core::time::Duration;

use super::refusal;
use crate::{Error, ErrorKind};

/// The bytes of a structure, or of as much of it as came.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'b>(pub &'b [u8]);

impl<'b> Bytes<'b> {
    /// What is at least `len` bytes long; anything shorter is no such structure.
    pub fn of_at_least(bytes: &'b [u8], len: usize) -> Result<Bytes<'b>, Error> {
        match bytes.len() < len {
            true => Err(unreadable()),
            false => Ok(Bytes(bytes)),
        }
    }

    fn at<const LEN: usize>(self, offset: usize) -> Option<[u8; LEN]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    pub fn u8(self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    pub fn u32(self, offset: usize) -> Option<u32> {
        self.at(offset).map(u32::from_ne_bytes)
    }

    pub fn u64(self, offset: usize) -> Option<u64> {
        self.at(offset).map(u64::from_ne_bytes)
    }

    pub fn address(self, offset: usize) -> Option<usize> {
        usize::try_from(self.u64(offset)?).ok()
    }

    /// A 32-bit count of things of `size` bytes, in bytes.
    pub fn counted_u32(self, offset: usize, size: u64) -> Option<u64> {
        u64::from(self.u32(offset)?).checked_mul(size)
    }

    /// The same with 64 bits.
    pub fn counted_u64(self, offset: usize, size: u64) -> Option<u64> {
        self.u64(offset)?.checked_mul(size)
    }

    /// Seconds and, right after them, microseconds, with 32 bits each.
    pub fn time_u32(self, offset: usize) -> Option<Duration> {
        time(self.u32(offset)?.into(), self.u32(offset + 4)?.into(), 1_000)
    }

    /// `struct timeval`: seconds and microseconds with 64 bits each.
    pub fn timeval(self, offset: usize) -> Option<Duration> {
        time(self.u64(offset)?, self.u64(offset + 8)?, 1_000)
    }

    /// `struct timespec`: seconds and nanoseconds with 64 bits each.
    pub fn timespec(self, offset: usize) -> Option<Duration> {
        time(self.u64(offset)?, self.u64(offset + 8)?, 1)
    }

    /// The text from `offset` to the first zero or the end.
    pub fn text(self, offset: usize) -> &'b [u8] {
        until_zero(self.0.get(offset..).unwrap_or_default())
    }
}

fn time(seconds: u64, parts: u64, nanoseconds: u64) -> Option<Duration> {
    let parts = Duration::from_nanos(parts.checked_mul(nanoseconds)?);
    Duration::from_secs(seconds).checked_add(parts)
}

/// The text up to the first zero or the end.
pub(crate) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Writes a 64-bit number at an offset that lies inside.
pub(crate) fn put_u64(bytes: &mut [u8], offset: usize, value: u64) {
    if let Some(place) = bytes.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()) {
        *place = value.to_ne_bytes();
    }
}

/// What a structure that is not what it should be is refused as.
pub(crate) fn unreadable() -> Error {
    refusal(ErrorKind::Unreadable)
}

/// Writes values at offsets, for the structures of tests.
#[cfg(test)]
pub(crate) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_lies_outside_is_none_whatever_the_offset(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            offset in 0usize..64,
        ) {
            let decoded = Bytes(&bytes);
            let inside = |len| offset + len <= bytes.len();
            prop_assert_eq!(decoded.u8(offset).is_some(), inside(1));
            prop_assert_eq!(decoded.u32(offset).is_some(), inside(4));
            prop_assert_eq!(decoded.u64(offset).is_some(), inside(8));
            // A time that does not fit is none too.
            prop_assert!(inside(16) || decoded.timeval(offset).is_none());
            prop_assert!(inside(16) || decoded.timespec(offset).is_none());
            prop_assert!(!decoded.text(offset).contains(&0));
            prop_assert!(Bytes::of_at_least(&bytes, bytes.len() + 1).is_err());
        }
    }

    #[test]
    fn times_carry_and_do_not_overflow() {
        let mut bytes = [0; 16];
        put(&mut bytes, 0, &2u64.to_ne_bytes());
        put(&mut bytes, 8, &1_500_000u64.to_ne_bytes());
        assert_eq!(Bytes(&bytes).timeval(0), Some(Duration::from_millis(3500)));
        assert_eq!(Bytes(&bytes).timespec(0), Some(Duration::new(2, 1_500_000)));
        assert_eq!(Bytes(&[0xff; 16]).timeval(0), None);
        assert_eq!(Bytes(&[0xff; 16]).timespec(0), None);
    }
}
