//! Transparent huge pages: Documentation/admin-guide/mm/transhuge.rst.

use core::ffi::CStr;
use core::ptr::{self, NonNull};

use super::{ENOSYS, Linux, LinuxCalls, MAP_ANONYMOUS, MAP_HUGETLB};
use crate::calls::{ProcessControl, WriteFiles};
use crate::huge::{HugePageControl, HugePages, Mode, Scope};
use crate::os::unix::{EINVAL, ENOMEM, EPERM, MAP_PRIVATE, PROT_READ, PROT_WRITE};
use crate::os::{Os, PageRange};
use crate::usage::files::read;
use crate::{Errno, Error, ErrorKind, Limit, Operation};

pub(crate) const PR_SET_THP_DISABLE: i32 = 41;
pub(crate) const PR_GET_THP_DISABLE: i32 = 42;
pub(crate) const ENOENT: Errno = Errno(2);
pub(crate) const EACCES: Errno = Errno(13);
pub(crate) const EROFS: Errno = Errno(30);

const ENABLED: &CStr = c"/sys/kernel/mm/transparent_hugepage/enabled";

/// The word in brackets of "always [madvise] never".
fn mode(text: &[u8]) -> Option<Mode> {
    let (_, rest) = split(text, b'[')?;
    match split(rest, b']')?.0 {
        b"always" => Some(Mode::Always),
        b"madvise" => Some(Mode::Advised),
        b"never" => Some(Mode::Never),
        _ => None,
    }
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let index = text.iter().position(|&byte| byte == at)?;
    Some((&text[..index], &text[index + 1..]))
}

impl<K: LinuxCalls + WriteFiles + ProcessControl> HugePageControl for Linux<K> {
    fn huge_pages(&self) -> HugePages {
        let mut text = [0; 64];
        // Since 6.18 more bits of the answer say that advised ranges are excepted.
        let off = self.kernel.process_control(PR_GET_THP_DISABLE, 0);
        HugePages {
            size: self.huge_page_size(),
            mode: read(&self.kernel, ENABLED, &mut text).and_then(mode),
            on_for_process: off.ok().map(|off| off == 0),
        }
    }

    fn switch_huge_pages(&self, scope: Scope, on: bool) -> Result<(), Error> {
        let switched = match (scope, on) {
            (Scope::Process, _) => {
                self.kernel.process_control(PR_SET_THP_DISABLE, usize::from(!on)).map(drop)
            }
            (Scope::System, true) => self.kernel.write_file(ENABLED, b"always"),
            (Scope::System, false) => self.kernel.write_file(ENABLED, b"never"),
        };
        switched.map_err(|errno| {
            let kind = match errno {
                EPERM | EACCES | EROFS => ErrorKind::Denied,
                // Before 3.15, or built without them.
                EINVAL | ENOSYS | ENOENT => ErrorKind::NotSupported,
                errno => ErrorKind::System(errno),
            };
            Error::new(Operation::SwitchHugePages, 0, 0, kind)
        })
    }

    /// Takes pages that were set aside (Documentation/admin-guide/mm/hugetlbpage.rst). Without
    /// `MAP_NORESERVE` they are promised when this returns.
    fn alloc_huge(&self, len: usize) -> Result<NonNull<u8>, Error> {
        let range = PageRange::new(ptr::null_mut(), len);
        let size = self.huge_page_size().ok_or(range.error(ALLOC, ErrorKind::NotSupported))?;
        range.check(ALLOC, size)?;
        // `MAP_HUGE_SHIFT`: the size that is meant, to the base two.
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (size.ilog2() as i32) << 26;
        // SAFETY: nothing is replaced.
        unsafe { self.kernel.mmap(ptr::null_mut(), len, PROT_READ | PROT_WRITE, flags) }
            .and_then(|start| NonNull::new(start).ok_or(EINVAL))
            .map_err(|errno| {
                let mut text = [0; 32];
                let aside = read(&self.kernel, c"/proc/sys/vm/nr_hugepages", &mut text);
                let aside = aside.and_then(|text| core::str::from_utf8(text).ok());
                let kind = match (errno, aside.and_then(|text| text.trim().parse().ok())) {
                    (ENOMEM, Some(count)) => ErrorKind::OutOfMemory {
                        errno: Some(errno),
                        limit: Some(Limit::HugePages(count)),
                    },
                    // Built without them, or without this size: nothing else is invalid.
                    (EINVAL | ENOSYS, _) => ErrorKind::NotSupported,
                    _ => return self.refused(ALLOC, range, errno),
                };
                range.error(ALLOC, kind)
            })
    }
}

const ALLOC: Operation = Operation::AllocHuge;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_choice_in_brackets_counts() {
        assert_eq!(mode(b"[always] madvise never\n"), Some(Mode::Always));
        assert_eq!(mode(b"always [madvise] never\n"), Some(Mode::Advised));
        assert_eq!(mode(b"always madvise [never]\n"), Some(Mode::Never));
        assert_eq!(mode(b"always madvise [inherit] never\n"), None);
        assert_eq!(mode(b"always madvise never\n"), None);
        assert_eq!(mode(b"[always"), None);
    }

    proptest! {
        #[test]
        fn any_choice_is_read_without_a_panic(choice in "[a-z\\[\\] ]{0,30}") {
            mode(choice.as_bytes());
        }
    }
}
