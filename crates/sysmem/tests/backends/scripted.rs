//! A table of calls that records what it is asked and answers as it was told. No memory is behind
//! it: the backends never touch what they hand out.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use sysmem::Errno;
use sysmem::calls::{
    AddressRequirements, Calls, Files, Findings, Kernel, LargePages, MachVm, Memcntl, Mincore,
    Minherit, PageSizes, Region, Remap, Sections, SwitchPerThread, Sysctl, SysctlByName,
    SystemPages, UnixCalls, VirtualMemory, WorkingSetPage,
};

pub const PAGE: usize = 4096;

/// A call and its arguments, as the kernel gets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Mmap(usize, usize, i32, i32),
    Munmap(usize, usize),
    Mprotect(usize, usize, i32),
    Madvise(usize, usize, i32),
    Minherit(usize, usize, i32),
    Memcntl(usize, usize, i32, usize),
    Mincore(usize, usize),
    MachMap(usize, usize, usize, i32, i32),
    VirtualAlloc(usize, usize, u32, u32),
    ReserveWhere(usize, usize, usize),
    VirtualFree(usize, usize, u32),
    VirtualProtect(usize, usize, u32),
    MapAgain(usize, usize, usize),
    CreateSection(usize),
    CloseSection(usize),
    MapSection(usize, usize, usize, usize, u32),
    UnmapView(usize),
    LetThreadWrite(bool),
}

/// What a call answers in place of success.
type Script = Box<dyn FnMut(&Asked) -> Option<Result<usize, i32>> + Send>;

/// Which kernel a table speaks for.
pub trait Speaks: Sync {
    const KERNEL: Kernel;
}

pub struct Scripted<S> {
    asked: Mutex<Vec<Asked>>,
    script: Mutex<Script>,
    /// Values of sysctls by name.
    pub values: Vec<(&'static CStr, Vec<u8>)>,
    /// What the only sysctl asked for by number holds, and the only file.
    pub process: Vec<u8>,
    /// Pages of anonymous memory that there can be, that are free, that are reserved.
    pub swap: [u64; 3],
    /// Soft limits.
    pub limits: Vec<(i32, u64)>,
    /// Mappings that Mach or Windows tell of: start and end.
    pub mapped: Vec<(usize, usize)>,
    /// Whether `VirtualAlloc2` exists.
    pub modern: bool,
    /// Whether the process may lock memory, and its user has been given that.
    pub may_lock: (Mutex<bool>, bool),
    findings: Findings,
    speaks: PhantomData<S>,
}

impl<S> Scripted<S> {
    pub fn new() -> Scripted<S> {
        Scripted {
            asked: Mutex::new(Vec::new()),
            script: Mutex::new(Box::new(|_| None)),
            values: Vec::new(),
            process: Vec::new(),
            swap: [1 << 20, 1 << 20, 0],
            limits: Vec::new(),
            mapped: Vec::new(),
            modern: true,
            may_lock: (Mutex::new(false), true),
            findings: Findings::new(),
            speaks: PhantomData,
        }
    }

    /// Answers as `script` says from now on, and forgets what was asked.
    pub fn answer(
        &self,
        script: impl FnMut(&Asked) -> Option<Result<usize, i32>> + Send + 'static,
    ) {
        *self.script.lock().unwrap() = Box::new(script);
        self.list().clear();
    }

    /// What was asked since the last look.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.list())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap()
    }

    fn ask(&self, asked: Asked, success: usize) -> Result<usize, Errno> {
        let answer = (self.script.lock().unwrap())(&asked);
        self.list().push(asked);
        answer.unwrap_or(Ok(success)).map_err(Errno)
    }
}

/// Where mappings go that are asked for nowhere in particular.
pub const ANYWHERE: usize = 0x10_0020_0000;

fn placed(address: usize) -> usize {
    if address == 0 { ANYWHERE } else { address }
}

fn pointer(address: usize) -> *mut u8 {
    std::ptr::without_provenance_mut(address)
}

// SAFETY: the page size is that of the ranges that are asked about.
unsafe impl<S: Speaks> Calls for Scripted<S> {
    const KERNEL: Kernel = S::KERNEL;

    fn page_size(&self) -> usize {
        PAGE
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

// SAFETY: nobody accesses the memory it speaks of.
unsafe impl<S: Speaks> UnixCalls for Scripted<S> {
    unsafe fn mmap(
        &self,
        address: *mut u8,
        len: usize,
        protection: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        let address = address.addr();
        self.ask(Asked::Mmap(address, len, protection, flags), placed(address)).map(pointer)
    }

    unsafe fn munmap(&self, address: *mut u8, len: usize) -> Result<(), Errno> {
        self.ask(Asked::Munmap(address.addr(), len), 0).map(drop)
    }

    unsafe fn mprotect(&self, address: *mut u8, len: usize, protection: i32) -> Result<(), Errno> {
        self.ask(Asked::Mprotect(address.addr(), len, protection), 0).map(drop)
    }

    unsafe fn madvise(&self, address: *mut u8, len: usize, advice: i32) -> Result<(), Errno> {
        self.ask(Asked::Madvise(address.addr(), len, advice), 0).map(drop)
    }

    fn resource_limit(&self, resource: i32) -> Result<u64, Errno> {
        let limit = self.limits.iter().find(|&&(number, _)| number == resource);
        Ok(limit.map_or(u64::MAX, |&(_, limit)| limit))
    }
}

impl<S: Speaks> Mincore for Scripted<S> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        let byte = self.ask(Asked::Mincore(address.addr(), len), 0)?;
        residency.fill(byte as u8);
        Ok(())
    }
}

// SAFETY: as above.
unsafe impl<S: Speaks> Minherit for Scripted<S> {
    unsafe fn minherit(&self, address: *mut u8, len: usize, inherit: i32) -> Result<(), Errno> {
        self.ask(Asked::Minherit(address.addr(), len, inherit), 0).map(drop)
    }
}

fn fill(value: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
    buffer.get_mut(..value.len()).ok_or(Errno(12))?.copy_from_slice(value);
    Ok(value.len())
}

impl<S: Speaks> Sysctl for Scripted<S> {
    fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno> {
        assert_eq!(mib[3], 17);
        fill(&self.process, value)
    }

    fn process_id(&self) -> i32 {
        17
    }
}

impl<S: Speaks> SysctlByName for Scripted<S> {
    fn sysctl_by_name(&self, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        let found = self.values.iter().find(|(key, _)| *key == name).ok_or(Errno(2))?;
        fill(&found.1, value)
    }
}

// SAFETY: as above.
unsafe impl<S: Speaks> Memcntl for Scripted<S> {
    unsafe fn memcntl(
        &self,
        address: *mut u8,
        len: usize,
        command: i32,
        page_size: usize,
    ) -> Result<(), Errno> {
        self.ask(Asked::Memcntl(address.addr(), len, command, page_size), 0).map(drop)
    }
}

impl<S: Speaks> PageSizes for Scripted<S> {
    fn page_sizes(&self, sizes: &mut [usize]) -> Result<usize, Errno> {
        sizes[..2].copy_from_slice(&[PAGE, 2 << 20]);
        Ok(2)
    }
}

impl<S: Speaks> MachVm for Scripted<S> {
    fn mach_vm_map(
        &self,
        address: usize,
        len: usize,
        mask: usize,
        flags: i32,
        maximum: i32,
    ) -> Result<*mut u8, i32> {
        self.ask(Asked::MachMap(address, len, mask, flags, maximum), placed(address))
            .map(pointer)
            .map_err(|answer| answer.0)
    }

    fn mach_vm_region(&self, address: usize) -> Option<(usize, usize)> {
        let region = self.mapped.iter().find(|&&(_, end)| end > address);
        region.map(|&(start, end)| (start, end - start))
    }
}

// SAFETY: as above.
unsafe impl<S: Speaks> VirtualMemory for Scripted<S> {
    fn allocation_granularity(&self) -> usize {
        64 << 10
    }

    unsafe fn virtual_alloc(
        &self,
        address: *mut u8,
        len: usize,
        kind: u32,
        protection: u32,
    ) -> Result<*mut u8, Errno> {
        let address = address.addr();
        self.ask(Asked::VirtualAlloc(address, len, kind, protection), placed(address)).map(pointer)
    }

    fn reserve_where(
        &self,
        requirements: AddressRequirements,
        len: usize,
    ) -> Option<Result<*mut u8, Errno>> {
        let AddressRequirements { lowest, align } = requirements;
        self.modern
            .then(|| self.ask(Asked::ReserveWhere(lowest, align, len), ANYWHERE).map(pointer))
    }

    unsafe fn virtual_free(&self, address: *mut u8, len: usize, kind: u32) -> Result<(), Errno> {
        self.ask(Asked::VirtualFree(address.addr(), len, kind), 0).map(drop)
    }

    unsafe fn unmap_view(&self, address: *mut u8) -> Result<(), Errno> {
        self.ask(Asked::UnmapView(address.addr()), 0).map(drop)
    }

    unsafe fn virtual_protect(
        &self,
        address: *mut u8,
        len: usize,
        protection: u32,
    ) -> Result<(), Errno> {
        self.ask(Asked::VirtualProtect(address.addr(), len, protection), 0).map(drop)
    }

    fn virtual_query(&self, address: usize) -> Option<Region> {
        let mut at = 0;
        for &(start, end) in &self.mapped {
            for (start, end, free) in [(at, start, true), (start, end, false)] {
                if (start..end).contains(&address) {
                    return Some(Region { start, len: end - start, free });
                }
            }
            at = end;
        }
        let end = 1 << 47;
        (at..end).contains(&address).then(|| Region { start: at, len: end - at, free: true })
    }

    fn working_set(&self, pages: &mut [WorkingSetPage]) -> Result<(), Errno> {
        for page in pages {
            page.attributes = usize::from(page.address / PAGE % 2 == 0);
        }
        Ok(())
    }

    fn commit_limit(&self) -> Option<u64> {
        Some(3 << 30)
    }
}

// SAFETY: as above.
unsafe impl<S: Speaks> Remap for Scripted<S> {
    unsafe fn map_again(&self, from: *mut u8, to: *mut u8, len: usize) -> Result<*mut u8, Errno> {
        self.ask(Asked::MapAgain(from.addr(), to.addr(), len), to.addr()).map(pointer)
    }
}

impl<S: Speaks> Files for Scripted<S> {
    fn open(&self, _path: &CStr) -> Result<i32, Errno> {
        Ok(3)
    }

    fn read_at(&self, _file: i32, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let rest = self.process.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn close(&self, _file: i32) {}
}

impl<S: Speaks> SystemPages for Scripted<S> {
    fn physical_pages(&self) -> Option<u64> {
        None
    }

    fn free_pages(&self) -> Option<u64> {
        None
    }

    fn anonymous_memory(&self, info: &mut [u8; 24]) -> Result<(), Errno> {
        for (place, pages) in info.chunks_exact_mut(8).zip(self.swap) {
            place.copy_from_slice(&pages.to_ne_bytes());
        }
        Ok(())
    }
}

impl<S: Speaks> SwitchPerThread for Scripted<S> {
    fn switches_per_thread(&self) -> bool {
        self.modern
    }

    fn let_thread_write(&self, writable: bool) {
        let _ = self.ask(Asked::LetThreadWrite(writable), 0);
    }
}

// SAFETY: as above.
unsafe impl<S: Speaks> Sections for Scripted<S> {
    fn create_section(&self, len: usize) -> Result<usize, Errno> {
        self.ask(Asked::CreateSection(len), 0x5ec)
    }

    fn close_section(&self, section: usize) {
        let _ = self.ask(Asked::CloseSection(section), 0);
    }

    fn map_section(
        &self,
        section: usize,
        offset: usize,
        len: usize,
        address: *mut u8,
        access: u32,
    ) -> Result<*mut u8, Errno> {
        let address = address.addr();
        self.ask(Asked::MapSection(section, offset, len, address, access), placed(address))
            .map(pointer)
    }
}

impl<S: Speaks> LargePages for Scripted<S> {
    fn large_page_size(&self) -> usize {
        2 << 20
    }

    fn lock_memory_privilege(&self) -> Option<bool> {
        Some(*self.may_lock.0.lock().unwrap())
    }

    fn switch_lock_memory_privilege(&self, on: bool) -> Result<(), Errno> {
        // ERROR_NOT_ALL_ASSIGNED.
        self.may_lock.1.then_some(()).ok_or(Errno(1300))?;
        *self.may_lock.0.lock().unwrap() = on;
        Ok(())
    }
}
