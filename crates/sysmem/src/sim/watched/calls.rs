//! Every call that can be watched, on its way to the table below.

use std::ffi::{CStr, CString};
use std::ops::Range;
use std::ptr;
use std::vec::Vec;

use super::{Watch, Watched};
use crate::calls::{
    AddressRequirements, Calls, Files, Findings, Kernel, MachVm, Memcntl, Mincore, Minherit,
    NameMapping, PageRegion, PageSizes, PagemapScan, ProcessControl, ProcessMadvise, Region, Remap,
    ResourceUsage, Resources, Sections, SharedMemory, SwitchPerThread, Sysctl, SysctlByName,
    SystemPages, UnixCalls, VirtualMemory, WorkingSetPage, WriteFiles, time_and_parking,
};
use crate::{Errno, PageRange};

/// One call that may fail, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is the call of that name with its arguments.
pub enum Call {
    Mmap { address: usize, len: usize, protection: i32, flags: i32 },
    Munmap { address: usize, len: usize },
    Mprotect { address: usize, len: usize, protection: i32 },
    Madvise { address: usize, len: usize, advice: i32 },
    ProcessMadvise { ranges: Vec<PageRange>, advice: i32 },
    NameMapping { address: usize, len: usize, name: CString },
    Mincore { address: usize, len: usize },
    ResourceLimit { resource: i32 },
    Open { path: CString },
    ReadAt { file: i32, len: usize, offset: u64 },
    PagemapScan { file: i32, range: Range<usize> },
    WriteFile { path: CString, bytes: Vec<u8> },
    ProcessControl { option: i32, argument: usize },
    Minherit { address: usize, len: usize, inherit: i32 },
    Memcntl { address: usize, len: usize, command: i32, page_size: usize },
    PageSizes,
    AnonymousMemory,
    MachVmMap { address: usize, len: usize, mask: usize, flags: i32, maximum: i32 },
    VirtualAlloc { address: usize, len: usize, kind: u32, protection: u32 },
    ReserveWhere { requirements: AddressRequirements, len: usize },
    VirtualFree { address: usize, len: usize, kind: u32 },
    UnmapView { address: usize },
    CreateSection { len: usize },
    MapSection { section: usize, offset: usize, len: usize, address: usize, access: u32 },
    VirtualProtect { address: usize, len: usize, protection: u32 },
    WorkingSet { pages: usize },
    Sysctl { mib: Vec<i32> },
    SysctlByName { name: CString },
    CreateMemory { name: CString, len: usize },
    DiscardMemory { memory: i32, offset: u64, len: usize },
    MmapMemory { address: usize, len: usize, protection: i32, flags: i32, memory: i32, offset: u64 },
    MapAgain { from: usize, to: usize, len: usize },
}

fn address_of(start: &*mut u8) -> usize {
    start.addr()
}

fn no_number<T>(_: &T) -> usize {
    0
}

// SAFETY: a call that passes is the kernel's below; one that does not has no effect.
unsafe impl<K: Calls, W: Watch> Calls for Watched<K, W> {
    const KERNEL: Kernel = K::KERNEL;

    fn page_size(&self) -> usize {
        self.kernel.page_size()
    }

    time_and_parking!(self => self.kernel);

    fn environment(&self, name: &CStr) -> Option<&CStr> {
        self.kernel.environment(name)
    }

    fn findings(&self) -> &Findings {
        self.watch.findings().unwrap_or(self.kernel.findings())
    }
}

// SAFETY: as for `Calls`.
unsafe impl<K: UnixCalls, W: Watch> UnixCalls for Watched<K, W> {
    unsafe fn mmap(
        &self,
        address: *mut u8,
        len: usize,
        protection: i32,
        flags: i32,
    ) -> Result<*mut u8, Errno> {
        let call = Call::Mmap { address: address.addr(), len, protection, flags };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.mmap(address, len, protection, flags) }, address_of)
    }

    unsafe fn munmap(&self, address: *mut u8, len: usize) -> Result<(), Errno> {
        let call = Call::Munmap { address: address.addr(), len };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.munmap(address, len) }, no_number)
    }

    unsafe fn mprotect(&self, address: *mut u8, len: usize, protection: i32) -> Result<(), Errno> {
        let call = Call::Mprotect { address: address.addr(), len, protection };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.mprotect(address, len, protection) }, no_number)
    }

    unsafe fn madvise(&self, address: *mut u8, len: usize, advice: i32) -> Result<(), Errno> {
        let call = Call::Madvise { address: address.addr(), len, advice };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.madvise(address, len, advice) }, no_number)
    }

    fn resource_limit(&self, resource: i32) -> Result<u64, Errno> {
        let call = Call::ResourceLimit { resource };
        self.pass(call, || self.kernel.resource_limit(resource), |&limit| limit as usize)
    }
}

impl<K: Files, W: Watch> Files for Watched<K, W> {
    fn open(&self, path: &CStr) -> Result<i32, Errno> {
        let call = Call::Open { path: path.into() };
        self.pass(call, || self.kernel.open(path), |&file| file as usize)
    }

    fn read_at(&self, file: i32, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let call = Call::ReadAt { file, len: buffer.len(), offset };
        self.pass(call, || self.kernel.read_at(file, buffer, offset), |&read| read)
    }

    fn close(&self, file: i32) {
        self.kernel.close(file);
    }
}

impl<K: PagemapScan, W: Watch> PagemapScan for Watched<K, W> {
    fn pagemap_scan(
        &self,
        file: i32,
        range: Range<usize>,
        wanted: u64,
        regions: &mut [PageRegion],
    ) -> Result<(usize, u64), Errno> {
        let call = Call::PagemapScan { file, range: range.clone() };
        let run = || self.kernel.pagemap_scan(file, range, wanted, regions);
        self.pass(call, run, |&(count, _)| count)
    }
}

impl<K: WriteFiles, W: Watch> WriteFiles for Watched<K, W> {
    fn write_file(&self, path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
        let call = Call::WriteFile { path: path.into(), bytes: bytes.into() };
        self.pass(call, || self.kernel.write_file(path, bytes), no_number)
    }
}

impl<K: ProcessControl, W: Watch> ProcessControl for Watched<K, W> {
    fn process_control(&self, option: i32, argument: usize) -> Result<i32, Errno> {
        let call = Call::ProcessControl { option, argument };
        let run = || self.kernel.process_control(option, argument);
        self.pass(call, run, |&answer| answer as usize)
    }
}

impl<K: ResourceUsage, W: Watch> ResourceUsage for Watched<K, W> {
    fn resource_usage(&self) -> Resources {
        self.kernel.resource_usage()
    }
}

impl<K: Mincore, W: Watch> Mincore for Watched<K, W> {
    fn mincore(&self, address: *mut u8, len: usize, residency: &mut [u8]) -> Result<(), Errno> {
        let call = Call::Mincore { address: address.addr(), len };
        self.pass(call, || self.kernel.mincore(address, len, residency), no_number)
    }
}

// SAFETY: as for `Calls`.
unsafe impl<K: ProcessMadvise, W: Watch> ProcessMadvise for Watched<K, W> {
    unsafe fn process_madvise(&self, ranges: &[PageRange], advice: i32) -> Result<usize, Errno> {
        let call = Call::ProcessMadvise { ranges: ranges.into(), advice };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.process_madvise(ranges, advice) }, |&bytes| bytes)
    }
}

// SAFETY: as for `Calls`.
unsafe impl<K: NameMapping, W: Watch> NameMapping for Watched<K, W> {
    unsafe fn name_mapping(&self, address: *mut u8, len: usize, name: &CStr) -> Result<(), Errno> {
        let call = Call::NameMapping { address: address.addr(), len, name: name.into() };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.name_mapping(address, len, name) }, no_number)
    }
}

// SAFETY: as for `Calls`.
unsafe impl<K: Minherit, W: Watch> Minherit for Watched<K, W> {
    unsafe fn minherit(&self, address: *mut u8, len: usize, inherit: i32) -> Result<(), Errno> {
        let call = Call::Minherit { address: address.addr(), len, inherit };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.minherit(address, len, inherit) }, no_number)
    }
}

// SAFETY: as for `Calls`.
unsafe impl<K: Memcntl, W: Watch> Memcntl for Watched<K, W> {
    unsafe fn memcntl(
        &self,
        address: *mut u8,
        len: usize,
        command: i32,
        page_size: usize,
    ) -> Result<(), Errno> {
        let call = Call::Memcntl { address: address.addr(), len, command, page_size };
        // SAFETY: the caller's promise.
        let run = || unsafe { self.kernel.memcntl(address, len, command, page_size) };
        self.pass(call, run, no_number)
    }
}

impl<K: PageSizes, W: Watch> PageSizes for Watched<K, W> {
    fn page_sizes(&self, sizes: &mut [usize]) -> Result<usize, Errno> {
        self.pass(Call::PageSizes, || self.kernel.page_sizes(sizes), |&count| count)
    }
}

impl<K: SystemPages, W: Watch> SystemPages for Watched<K, W> {
    fn physical_pages(&self) -> Option<u64> {
        self.kernel.physical_pages()
    }

    fn free_pages(&self) -> Option<u64> {
        self.kernel.free_pages()
    }

    fn anonymous_memory(&self, info: &mut [u8; 24]) -> Result<(), Errno> {
        self.pass(Call::AnonymousMemory, || self.kernel.anonymous_memory(info), no_number)
    }
}

impl<K: MachVm, W: Watch> MachVm for Watched<K, W> {
    fn mach_vm_map(
        &self,
        address: usize,
        len: usize,
        mask: usize,
        flags: i32,
        maximum: i32,
    ) -> Result<*mut u8, i32> {
        let call = Call::MachVmMap { address, len, mask, flags, maximum };
        let run = || self.kernel.mach_vm_map(address, len, mask, flags, maximum).map_err(Errno);
        self.pass(call, run, address_of).map_err(|answer| answer.0)
    }

    fn mach_vm_region(&self, address: usize) -> Option<(usize, usize)> {
        self.kernel.mach_vm_region(address)
    }
}

// SAFETY: as for `Calls`.
unsafe impl<K: VirtualMemory, W: Watch> VirtualMemory for Watched<K, W> {
    fn allocation_granularity(&self) -> usize {
        self.kernel.allocation_granularity()
    }

    unsafe fn virtual_alloc(
        &self,
        address: *mut u8,
        len: usize,
        kind: u32,
        protection: u32,
    ) -> Result<*mut u8, Errno> {
        let call = Call::VirtualAlloc { address: address.addr(), len, kind, protection };
        // SAFETY: the caller's promise.
        let run = || unsafe { self.kernel.virtual_alloc(address, len, kind, protection) };
        self.pass(call, run, address_of)
    }

    fn reserve_where(
        &self,
        requirements: AddressRequirements,
        len: usize,
    ) -> Option<Result<*mut u8, Errno>> {
        // Where the call is missing, there is nothing to fail.
        let mut missing = false;
        let run = || {
            let answer = self.kernel.reserve_where(requirements, len);
            missing = answer.is_none();
            answer.unwrap_or(Ok(ptr::null_mut()))
        };
        let answer = self.pass(Call::ReserveWhere { requirements, len }, run, address_of);
        (!missing).then_some(answer)
    }

    unsafe fn virtual_free(&self, address: *mut u8, len: usize, kind: u32) -> Result<(), Errno> {
        let call = Call::VirtualFree { address: address.addr(), len, kind };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.virtual_free(address, len, kind) }, no_number)
    }

    unsafe fn unmap_view(&self, address: *mut u8) -> Result<(), Errno> {
        let call = Call::UnmapView { address: address.addr() };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.unmap_view(address) }, no_number)
    }

    unsafe fn virtual_protect(
        &self,
        address: *mut u8,
        len: usize,
        protection: u32,
    ) -> Result<(), Errno> {
        let call = Call::VirtualProtect { address: address.addr(), len, protection };
        // SAFETY: the caller's promise.
        let run = || unsafe { self.kernel.virtual_protect(address, len, protection) };
        self.pass(call, run, no_number)
    }

    fn virtual_query(&self, address: usize) -> Option<Region> {
        self.kernel.virtual_query(address)
    }

    fn working_set(&self, pages: &mut [WorkingSetPage]) -> Result<(), Errno> {
        let call = Call::WorkingSet { pages: pages.len() };
        self.pass(call, || self.kernel.working_set(pages), no_number)
    }

    fn commit_limit(&self) -> Option<u64> {
        self.kernel.commit_limit()
    }
}

// SAFETY: as for `Calls`.
unsafe impl<K: Sections, W: Watch> Sections for Watched<K, W> {
    fn create_section(&self, len: usize) -> Result<usize, Errno> {
        let call = Call::CreateSection { len };
        self.pass(call, || self.kernel.create_section(len), |&section| section)
    }

    fn close_section(&self, section: usize) {
        self.kernel.close_section(section);
    }

    fn map_section(
        &self,
        section: usize,
        offset: usize,
        len: usize,
        address: *mut u8,
        access: u32,
    ) -> Result<*mut u8, Errno> {
        let call = Call::MapSection { section, offset, len, address: address.addr(), access };
        let run = || self.kernel.map_section(section, offset, len, address, access);
        self.pass(call, run, address_of)
    }
}

impl<K: Sysctl, W: Watch> Sysctl for Watched<K, W> {
    fn sysctl(&self, mib: &[i32], value: &mut [u8]) -> Result<usize, Errno> {
        let call = Call::Sysctl { mib: mib.into() };
        self.pass(call, || self.kernel.sysctl(mib, value), |&len| len)
    }

    fn process_id(&self) -> i32 {
        self.kernel.process_id()
    }
}

impl<K: SysctlByName, W: Watch> SysctlByName for Watched<K, W> {
    fn sysctl_by_name(&self, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        let call = Call::SysctlByName { name: name.into() };
        self.pass(call, || self.kernel.sysctl_by_name(name, value), |&len| len)
    }
}

impl<K: SwitchPerThread, W: Watch> SwitchPerThread for Watched<K, W> {
    fn switches_per_thread(&self) -> bool {
        self.kernel.switches_per_thread()
    }

    fn let_thread_write(&self, writable: bool) {
        self.kernel.let_thread_write(writable);
    }
}

// SAFETY: as for `Calls`.
unsafe impl<K: SharedMemory, W: Watch> SharedMemory for Watched<K, W> {
    fn create_memory(&self, name: &CStr, len: usize) -> Result<i32, Errno> {
        let call = Call::CreateMemory { name: name.into(), len };
        self.pass(call, || self.kernel.create_memory(name, len), |&memory| memory as usize)
    }

    fn close_memory(&self, memory: i32) {
        self.kernel.close_memory(memory);
    }

    fn discard_memory(&self, memory: i32, offset: u64, len: usize) -> Result<(), Errno> {
        let call = Call::DiscardMemory { memory, offset, len };
        self.pass(call, || self.kernel.discard_memory(memory, offset, len), no_number)
    }

    unsafe fn mmap_memory(
        &self,
        address: *mut u8,
        len: usize,
        protection: i32,
        flags: i32,
        memory: i32,
        offset: u64,
    ) -> Result<*mut u8, Errno> {
        let start = address.addr();
        let call = Call::MmapMemory { address: start, len, protection, flags, memory, offset };
        let map = || {
            // SAFETY: the caller's promise.
            unsafe { self.kernel.mmap_memory(address, len, protection, flags, memory, offset) }
        };
        self.pass(call, map, address_of)
    }
}

// SAFETY: as for `Calls`.
unsafe impl<K: Remap, W: Watch> Remap for Watched<K, W> {
    unsafe fn map_again(&self, from: *mut u8, to: *mut u8, len: usize) -> Result<*mut u8, Errno> {
        let call = Call::MapAgain { from: from.addr(), to: to.addr(), len };
        // SAFETY: the caller's promise.
        self.pass(call, || unsafe { self.kernel.map_again(from, to, len) }, address_of)
    }
}
