use core::borrow::{Borrow, BorrowMut};
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::ops::{Deref, DerefMut};
use core::slice;

use sysmem::Os;

use super::VmVec;

impl<T, O: Os> Deref for VmVec<T, O> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T, O: Os> DerefMut for VmVec<T, O> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

impl<T, O: Os> AsRef<[T]> for VmVec<T, O> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T, O: Os> AsMut<[T]> for VmVec<T, O> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T, O: Os> Borrow<[T]> for VmVec<T, O> {
    fn borrow(&self) -> &[T] {
        self
    }
}

impl<T, O: Os> BorrowMut<[T]> for VmVec<T, O> {
    fn borrow_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<'a, T, O: Os> IntoIterator for &'a VmVec<T, O> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;
    fn into_iter(self) -> slice::Iter<'a, T> {
        self.iter()
    }
}

impl<'a, T, O: Os> IntoIterator for &'a mut VmVec<T, O> {
    type Item = &'a mut T;
    type IntoIter = slice::IterMut<'a, T>;
    fn into_iter(self) -> slice::IterMut<'a, T> {
        self.iter_mut()
    }
}

impl<T: fmt::Debug, O: Os> fmt::Debug for VmVec<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_slice(), f)
    }
}

impl<T: PartialEq<U>, U, O: Os, P: Os> PartialEq<VmVec<U, P>> for VmVec<T, O> {
    fn eq(&self, other: &VmVec<U, P>) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: PartialEq<U>, U, O: Os> PartialEq<[U]> for VmVec<T, O> {
    fn eq(&self, other: &[U]) -> bool {
        self.as_slice() == other
    }
}

impl<T: PartialEq<U>, U, O: Os> PartialEq<&[U]> for VmVec<T, O> {
    fn eq(&self, other: &&[U]) -> bool {
        self.as_slice() == *other
    }
}

impl<T: PartialEq<U>, U, O: Os, const N: usize> PartialEq<[U; N]> for VmVec<T, O> {
    fn eq(&self, other: &[U; N]) -> bool {
        self.as_slice() == other
    }
}

impl<T: Eq, O: Os> Eq for VmVec<T, O> {}

impl<T: PartialOrd, O: Os, P: Os> PartialOrd<VmVec<T, P>> for VmVec<T, O> {
    fn partial_cmp(&self, other: &VmVec<T, P>) -> Option<Ordering> {
        self.as_slice().partial_cmp(other.as_slice())
    }
}

impl<T: Ord, O: Os> Ord for VmVec<T, O> {
    fn cmp(&self, other: &VmVec<T, O>) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl<T: Hash, O: Os> Hash for VmVec<T, O> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl<O: Os> fmt::Write for VmVec<u8, O> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.extend_from_slice(text.as_bytes()).map_err(|_| fmt::Error)
    }
}
