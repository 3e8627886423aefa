//! A table of calls that answers questions about processes and the machine from what it was given,
//! for the tests of systems that do not run here. The process is number 17.

mod damage;
mod darwin;
mod windows;

pub(crate) use damage::{ask_everything, damages};

use core::alloc::Layout;
use core::ffi::CStr;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use std::alloc::alloc_zeroed;
use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::string::{String, ToString};
use std::vec::Vec;

use self::darwin::MachAnswers;
use self::windows::WindowsAnswers;
use super::bytes::Bytes;
use super::reconcile::reconcile;
use super::{Detail, Mapping, Process, Reconciliation, Usage};
use crate::calls::{
    Calls, Files, Findings, Kernel, Links, Memcntl, Mincore, Minherit, PageSizes, Sysctl,
    SysctlByName, SysctlMib, SystemPages, UnixCalls,
};
use crate::state_map::Page;
use crate::{Account, Errno, Policy, Protection, State};

pub(crate) const PROCESS: i32 = 17;

const ENOENT: Errno = Errno(2);
const ESRCH: Errno = Errno(3);
const EBADF: Errno = Errno(9);
const ENOMEM: Errno = Errno(12);
const EINVAL: Errno = Errno(22);

/// Which kernel a table speaks for.
pub(crate) trait Speaks: Sync {
    const KERNEL: Kernel;
}

macro_rules! speaks {
    ($($name:ident = $kernel:ident),*) => {$(
        pub(crate) struct $name;
        impl Speaks for $name {
            const KERNEL: Kernel = Kernel::$kernel;
        }
    )*};
}
speaks!(
    FreeBsdKernel = FreeBsd,
    NetBsdKernel = NetBsd,
    OpenBsdKernel = OpenBsd,
    DragonFlyKernel = DragonFly,
    IllumosKernel = Illumos,
    DarwinKernel = Darwin,
    WindowsKernel = Windows
);

pub(crate) struct Answers<S> {
    numbers: BTreeMap<Vec<i32>, Vec<u8>>,
    names: BTreeMap<CString, Vec<u8>>,
    mibs: BTreeMap<CString, Vec<i32>>,
    /// Of a list that is told from an address on, and how many entries are told at once at most.
    entries: Option<(Vec<i32>, Vec<Vec<u8>>, usize)>,
    files: Vec<(String, Vec<u8>)>,
    links: BTreeMap<String, String>,
    refused: Option<Errno>,
    anonymous: Vec<u8>,
    mach: MachAnswers,
    windows: WindowsAnswers,
    findings: Findings,
    speaks: PhantomData<S>,
}

/// Integers as sysctls hold them.
pub(crate) trait Integer {
    fn bytes(self) -> Vec<u8>;
}

impl Integer for u32 {
    fn bytes(self) -> Vec<u8> {
        self.to_ne_bytes().to_vec()
    }
}

impl Integer for u64 {
    fn bytes(self) -> Vec<u8> {
        self.to_ne_bytes().to_vec()
    }
}

impl<S> Answers<S> {
    pub fn new() -> Answers<S> {
        Answers {
            numbers: BTreeMap::new(),
            names: BTreeMap::new(),
            mibs: BTreeMap::new(),
            entries: None,
            files: Vec::new(),
            links: BTreeMap::new(),
            refused: None,
            anonymous: Vec::new(),
            mach: MachAnswers::default(),
            windows: WindowsAnswers::default(),
            findings: Findings::new(),
            speaks: PhantomData,
        }
    }

    /// What a sysctl of this number holds.
    pub fn number(mut self, mib: &[i32], bytes: Vec<u8>) -> Self {
        self.numbers.insert(mib.to_vec(), bytes);
        self
    }

    /// What a sysctl of this name holds.
    pub fn name(self, name: &CStr, value: impl Integer) -> Self {
        self.named_bytes(name, value.bytes())
    }

    pub fn named_bytes(mut self, name: &CStr, bytes: Vec<u8>) -> Self {
        self.names.insert(name.to_owned(), bytes);
        self
    }

    /// The number behind a name.
    pub fn mib(mut self, name: &CStr, mib: &[i32]) -> Self {
        self.mibs.insert(name.to_owned(), mib.to_vec());
        self
    }

    /// A sysctl that tells entries from the address on with which the buffer begins.
    pub fn entries(mut self, mib: &[i32], entries: Vec<Vec<u8>>, at_once: usize) -> Self {
        self.entries = Some((mib.to_vec(), entries, at_once));
        self
    }

    /// Every sysctl of a process is refused so.
    pub fn refuse(mut self, errno: i32) -> Self {
        self.refused = Some(Errno(errno));
        self
    }

    pub fn file(mut self, path: &str, bytes: Vec<u8>) -> Self {
        self.files.retain(|(other, _)| other != path);
        self.files.push((path.to_string(), bytes));
        self
    }

    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.links.insert(path.to_string(), target.to_string());
        self
    }

    pub fn anonymous(mut self, bytes: Vec<u8>) -> Self {
        self.anonymous = bytes;
        self
    }
}

/// Memory for the records of a registry, for good.
fn records(address: *mut u8, len: usize) -> Result<*mut u8, Errno> {
    let layout = Layout::from_size_align(len, 4096).map_err(|_| EINVAL)?;
    match address.is_null() && (1..=1 << 20).contains(&len) {
        // SAFETY: the layout is not empty.
        true => Ok(unsafe { alloc_zeroed(layout) }),
        false => Err(ENOMEM),
    }
}

/// Holds a listing against a reservation of ours in it: what is ours, in bytes of address space and
/// of memory. All that there is, is told once.
pub(crate) fn reconciled<O: Usage>(
    os: &O,
    start: usize,
    len: usize,
) -> (u64, Option<u64>, Reconciliation) {
    static OURS: Account = Account::new("a reservation in the listing");
    let start = NonNull::new(core::ptr::without_provenance_mut(start)).unwrap();
    let page = Page::new(State::Prepared, Protection::ReadWrite);
    os.registry().room(os).unwrap().enter(start, len, Policy::DEFAULT, page, &OURS);
    let mut buffer = std::vec![0; 1 << 16];
    let mut listed = 0;
    let count = &mut |mapping: &Mapping<'_>| listed += mapping.len() as u64;
    os.mappings(Process::Own, Detail::Pages, &mut buffer, count).unwrap();
    let whole = reconcile(os, &mut [], &mut buffer).unwrap();
    assert_eq!(whole.sum().virtual_size, listed);
    (whole.ours.virtual_size, whole.ours.resident, whole)
}

fn fill(value: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
    buffer.get_mut(..value.len()).ok_or(ENOMEM)?.copy_from_slice(value);
    Ok(value.len())
}

// SAFETY: the page size is that of what is told.
unsafe impl<S: Speaks> Calls for Answers<S> {
    const KERNEL: Kernel = S::KERNEL;

    fn page_size(&self) -> usize {
        4096
    }

    fn monotonic_time(&self) -> Duration {
        Duration::ZERO
    }

    fn thread_cpu_time(&self) -> Duration {
        Duration::ZERO
    }

    fn park(&self, _: &AtomicU32, _: u32, _: Option<Duration>) {}

    fn wake(&self, _: &AtomicU32, _: u32) {}

    fn environment(&self, _: &CStr) -> Option<&CStr> {
        None
    }

    fn findings(&self) -> &Findings {
        &self.findings
    }
}

// SAFETY: what it maps is memory of the heap that nobody else has.
unsafe impl<S: Speaks> UnixCalls for Answers<S> {
    unsafe fn mmap(&self, at: *mut u8, len: usize, _: i32, _: i32) -> Result<*mut u8, Errno> {
        records(at, len)
    }

    unsafe fn munmap(&self, _: *mut u8, _: usize) -> Result<(), Errno> {
        Err(EINVAL)
    }

    unsafe fn mprotect(&self, _: *mut u8, _: usize, _: i32) -> Result<(), Errno> {
        Err(EINVAL)
    }

    unsafe fn madvise(&self, _: *mut u8, _: usize, _: i32) -> Result<(), Errno> {
        Err(EINVAL)
    }

    fn resource_limit(&self, _: i32) -> Result<u64, Errno> {
        Ok(1 << 28)
    }
}

impl<S: Speaks> Mincore for Answers<S> {
    /// Every other page is resident.
    fn mincore(&self, _: *mut u8, _: usize, residency: &mut [u8]) -> Result<(), Errno> {
        residency.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index % 2 == 0).into());
        Ok(())
    }
}

// SAFETY: it changes nothing.
unsafe impl<S: Speaks> Minherit for Answers<S> {
    unsafe fn minherit(&self, _: *mut u8, _: usize, _: i32) -> Result<(), Errno> {
        Err(EINVAL)
    }
}

// SAFETY: it changes nothing.
unsafe impl<S: Speaks> Memcntl for Answers<S> {
    unsafe fn memcntl(&self, _: *mut u8, _: usize, _: i32, _: usize) -> Result<(), Errno> {
        Err(EINVAL)
    }
}

impl<S: Speaks> PageSizes for Answers<S> {
    fn page_sizes(&self, sizes: &mut [usize]) -> Result<usize, Errno> {
        sizes[0] = 4096;
        Ok(1)
    }
}

impl<S: Speaks> Sysctl for Answers<S> {
    fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno> {
        if let Some(errno) = self.refused {
            return Err(errno);
        }
        if let Some((_, entries, at_once)) = self.entries.as_ref().filter(|it| it.0 == mib) {
            let from = Bytes(value).u64(0).ok_or(EINVAL)?;
            let rest = entries.iter().filter(|it| Bytes(it).u64(0) >= Some(from));
            let rest: Vec<&Vec<u8>> = rest.collect();
            let len = entries[0].len();
            // The room that the caller gave decides how many there are, as on the kernel.
            let room = (value.len() / len).min(*at_once);
            let told = rest.len().min(room);
            for (entry, place) in rest.iter().zip(value.chunks_exact_mut(len)).take(told) {
                place.copy_from_slice(entry);
            }
            // A piece that is not all fills the whole buffer.
            if rest.len() > told {
                value[told * len..].fill(0);
                let (last, free) = value.split_at_mut(told * len);
                let end = Bytes(&last[(told - 1) * len..]).u64(8).ok_or(EINVAL)?;
                for place in free.chunks_exact_mut(len) {
                    super::bytes::put_u64(place, 0, end);
                    super::bytes::put_u64(place, 8, end);
                }
                return Err(ENOMEM);
            }
            return Ok(told * len);
        }
        fill(self.numbers.get(mib).ok_or(ESRCH)?, value)
    }

    fn process_id(&self) -> i32 {
        PROCESS
    }
}

impl<S: Speaks> SysctlByName for Answers<S> {
    fn sysctl_by_name(&self, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        fill(self.names.get(name).ok_or(ENOENT)?, value)
    }
}

impl<S: Speaks> SysctlMib for Answers<S> {
    fn sysctl_mib(&self, name: &CStr, mib: &mut [i32]) -> Result<usize, Errno> {
        let number = self.mibs.get(name).ok_or(ENOENT)?;
        mib.get_mut(..number.len()).ok_or(ENOMEM)?.copy_from_slice(number);
        Ok(number.len())
    }
}

impl<S: Speaks> Files for Answers<S> {
    fn open(&self, path: &CStr) -> Result<i32, Errno> {
        let path = path.to_str().map_err(|_| ENOENT)?;
        let place = self.files.iter().position(|(name, _)| name == path);
        place.map(|place| place as i32).ok_or(ENOENT)
    }

    fn read_at(&self, file: i32, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let (_, bytes) = self.files.get(file as usize).ok_or(EBADF)?;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        fill(&rest[..len], buffer)
    }

    fn close(&self, _: i32) {}
}

impl<S: Speaks> Links for Answers<S> {
    fn read_link(&self, path: &CStr, target: &mut [u8]) -> Result<usize, Errno> {
        let link = path.to_str().ok().and_then(|path| self.links.get(path)).ok_or(ENOENT)?;
        fill(link.as_bytes(), target)
    }
}

impl<S: Speaks> SystemPages for Answers<S> {
    fn physical_pages(&self) -> Option<u64> {
        Some(1 << 20)
    }

    fn free_pages(&self) -> Option<u64> {
        Some(1 << 18)
    }

    fn anonymous_memory(&self, info: &mut [u8; 24]) -> Result<(), Errno> {
        fill(&self.anonymous, info).map(drop)
    }
}
