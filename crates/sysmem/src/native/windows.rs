//! The running Windows kernel.

#[path = "windows/privilege.rs"]
mod privilege;
#[path = "windows/statistics.rs"]
mod statistics;

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use core::time::Duration;

use windows_sys::Win32::Foundation::{
    self as foundation, CloseHandle, FILETIME, GetLastError, HANDLE, INVALID_HANDLE_VALUE,
    SetLastError,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
use windows_sys::Win32::System::Memory as memory;
use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};
use windows_sys::Win32::System::ProcessStatus::{
    K32QueryWorkingSetEx, PSAPI_WORKING_SET_EX_INFORMATION,
};
use windows_sys::Win32::System::SystemInformation::{
    GetSystemInfo, GlobalMemoryStatusEx, MEMORYSTATUSEX, SYSTEM_INFO,
};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetCurrentThread, GetThreadTimes, INFINITE, WaitOnAddress, WakeByAddressAll,
    WakeByAddressSingle,
};

use crate::Errno;
use crate::calls::{
    AddressRequirements, Calls, Findings, Kernel as Name, Region, Sections, VirtualMemory,
    WorkingSetPage,
};
use crate::os::windows as numbers;

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

/// The operating system that this program runs on. Zero-sized.
pub type Native = crate::os::windows::Windows<Kernel>;

static FINDINGS: Findings = Findings::new();

macro_rules! same {
    ($($name:ident),*) => { $(const _: () = assert!(numbers::$name == memory::$name);)* };
}
macro_rules! same_error {
    ($($name:ident),*) => {
        $(const _: () = assert!(numbers::$name.0 as u32 == foundation::$name);)*
    };
}
same!(MEM_COMMIT, MEM_RESERVE, MEM_DECOMMIT, MEM_RELEASE, MEM_RESET);
same_error!(ERROR_NOT_ENOUGH_MEMORY, ERROR_OUTOFMEMORY, ERROR_INVALID_ADDRESS);
same_error!(ERROR_NO_SYSTEM_RESOURCES, ERROR_COMMITMENT_LIMIT, ERROR_CALL_NOT_IMPLEMENTED);
same!(FILE_MAP_READ, FILE_MAP_WRITE, FILE_MAP_EXECUTE);
const _: () = assert!(numbers::large_pages::MEM_LARGE_PAGES == memory::MEM_LARGE_PAGES);
const _: () = {
    use numbers::large_pages::{
        ERROR_INVALID_PARAMETER, ERROR_NOT_ALL_ASSIGNED, ERROR_PRIVILEGE_NOT_HELD,
    };
    assert!(ERROR_INVALID_PARAMETER.0 as u32 == foundation::ERROR_INVALID_PARAMETER);
    assert!(ERROR_NOT_ALL_ASSIGNED.0 as u32 == foundation::ERROR_NOT_ALL_ASSIGNED);
    assert!(ERROR_PRIVILEGE_NOT_HELD.0 as u32 == foundation::ERROR_PRIVILEGE_NOT_HELD);
};
same!(PAGE_NOACCESS, PAGE_READONLY, PAGE_READWRITE, PAGE_EXECUTE_READ);
const _: () = assert!(size_of::<WorkingSetPage>() == size_of::<PSAPI_WORKING_SET_EX_INFORMATION>());

unsafe extern "C" {
    fn getenv(name: *const c_char) -> *const c_char;
}

pub(super) fn errno() -> c_int {
    // SAFETY: reads the calling thread's last error.
    unsafe { GetLastError() as c_int }
}

pub(super) fn set_errno(value: c_int) {
    // SAFETY: sets the calling thread's last error.
    unsafe { SetLastError(value as u32) };
}

#[cold]
fn last_error() -> Errno {
    Errno(errno())
}

fn done(answer: i32) -> Result<(), Errno> {
    if answer != 0 { Ok(()) } else { Err(last_error()) }
}

/// Page size and allocation granularity.
fn sizes() -> (usize, usize) {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    static GRANULARITY: AtomicUsize = AtomicUsize::new(0);
    if PAGE.load(Relaxed) == 0 || GRANULARITY.load(Relaxed) == 0 {
        let mut info = SYSTEM_INFO::default();
        // SAFETY: `info` is there to be filled in.
        unsafe { GetSystemInfo(&mut info) };
        GRANULARITY.store(info.dwAllocationGranularity as usize, Relaxed);
        PAGE.store(info.dwPageSize as usize, Relaxed);
    }
    (PAGE.load(Relaxed), GRANULARITY.load(Relaxed))
}

// SAFETY: the page size is the system's.
unsafe impl Calls for Kernel {
    const KERNEL: Name = Name::Windows;

    fn page_size(&self) -> usize {
        sizes().0
    }

    fn monotonic_time(&self) -> Duration {
        let (mut count, mut frequency) = (0, 0);
        // SAFETY: both are there to be filled in, and cannot fail since Windows XP.
        unsafe { QueryPerformanceCounter(&mut count) };
        // SAFETY: as above.
        unsafe { QueryPerformanceFrequency(&mut frequency) };
        let (count, frequency) = (count as u64, (frequency as u64).max(1));
        let nanoseconds = (count % frequency) * 1_000_000_000 / frequency;
        Duration::new(count / frequency, nanoseconds as u32)
    }

    fn thread_cpu_time(&self) -> Duration {
        let mut times = [FILETIME::default(); 4];
        let [creation, exit, kernel, user] = &mut times;
        // SAFETY: all four are there to be filled in.
        unsafe { GetThreadTimes(GetCurrentThread(), creation, exit, kernel, user) };
        // In units of 100 ns.
        let time =
            |time: &FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
        Duration::from_nanos((time(kernel) + time(user)) * 100)
    }

    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
        let milliseconds = timeout.map_or(INFINITE, |timeout| {
            timeout.as_millis().clamp(1, u128::from(INFINITE - 1)) as u32
        });
        let expected = ptr::from_ref(&while_equal).cast();
        // SAFETY: both words live through the call and are four bytes long.
        unsafe { WaitOnAddress(word.as_ptr().cast(), expected, 4, milliseconds) };
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        let address = word.as_ptr().cast::<c_void>();
        match count {
            // SAFETY: the word is taken for an address only.
            0 | 1 => unsafe { WakeByAddressSingle(address) },
            // SAFETY: as above.
            _ => unsafe { WakeByAddressAll(address) },
        }
    }

    fn environment(&self, name: &CStr) -> Option<&CStr> {
        // SAFETY: `name` ends in zero; the caller sees to it that nobody changes the environment.
        let value = unsafe { getenv(name.as_ptr()) };
        // SAFETY: getenv gives a string that ends in zero, or null.
        (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
    }

    fn findings(&self) -> &Findings {
        &FINDINGS
    }
}

/// `MEM_ADDRESS_REQUIREMENTS`.
#[repr(C)]
struct Requirements {
    lowest: *mut c_void,
    highest: *mut c_void,
    align: usize,
}

/// `MEM_EXTENDED_PARAMETER`, with a pointer for its value.
#[repr(C)]
struct Parameter {
    kind: u64,
    pointer: *const c_void,
}
const _: () = assert!(size_of::<Parameter>() == size_of::<memory::MEM_EXTENDED_PARAMETER>());

/// `MemExtendedParameterAddressRequirements`.
const ADDRESS_REQUIREMENTS: u64 = 1;

type VirtualAlloc2 = unsafe extern "system" fn(
    process: HANDLE,
    address: *const c_void,
    len: usize,
    kind: u32,
    protection: u32,
    parameters: *mut Parameter,
    count: u32,
) -> *mut c_void;

/// Looked up, so that the program starts where it is missing.
fn virtual_alloc_2() -> Option<VirtualAlloc2> {
    /// 0: not looked up yet, 1: missing.
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    let mut found = FOUND.load(Relaxed);
    if found == 0 {
        // SAFETY: both names end in zero; the module is part of every process.
        let function = unsafe {
            let module = GetModuleHandleA(c"kernelbase.dll".as_ptr().cast());
            GetProcAddress(module, c"VirtualAlloc2".as_ptr().cast())
        };
        found = function.map_or(1, |function| function as usize);
        FOUND.store(found, Relaxed);
    }
    // SAFETY: the address of the function of that name.
    (found != 1).then(|| unsafe { mem::transmute::<usize, VirtualAlloc2>(found) })
}

// SAFETY: every call is the system's own.
unsafe impl Sections for Kernel {
    fn create_section(&self, len: usize) -> Result<usize, Errno> {
        let protection = memory::PAGE_EXECUTE_READWRITE | memory::SEC_RESERVE;
        let (high, low) = ((len as u64 >> 32) as u32, len as u32);
        // SAFETY: no file, no attributes, no name: a new section of the paging file.
        let section = unsafe {
            memory::CreateFileMappingW(
                INVALID_HANDLE_VALUE,
                ptr::null(),
                protection,
                high,
                low,
                ptr::null(),
            )
        };
        if section.is_null() { Err(last_error()) } else { Ok(section.expose_provenance()) }
    }

    fn close_section(&self, section: usize) {
        // SAFETY: the handle is the caller's.
        unsafe { CloseHandle(ptr::with_exposed_provenance_mut(section)) };
    }

    fn map_section(
        &self,
        section: usize,
        offset: usize,
        len: usize,
        address: *mut u8,
        access: u32,
    ) -> Result<*mut u8, Errno> {
        let (high, low) = ((offset as u64 >> 32) as u32, offset as u32);
        // SAFETY: nothing is replaced by a view.
        let view = unsafe {
            memory::MapViewOfFileEx(
                ptr::with_exposed_provenance_mut(section),
                access,
                high,
                low,
                len,
                address.cast(),
            )
        };
        if view.Value.is_null() { Err(last_error()) } else { Ok(view.Value.cast()) }
    }
}

// SAFETY: every call is the system's own.
unsafe impl VirtualMemory for Kernel {
    fn allocation_granularity(&self) -> usize {
        sizes().1
    }

    unsafe fn virtual_alloc(
        &self,
        address: *mut u8,
        len: usize,
        kind: u32,
        protection: u32,
    ) -> Result<*mut u8, Errno> {
        // SAFETY: the caller's promise.
        let start = unsafe { memory::VirtualAlloc(address.cast(), len, kind, protection) };
        if start.is_null() { Err(last_error()) } else { Ok(start.cast()) }
    }

    fn reserve_where(
        &self,
        requirements: AddressRequirements,
        len: usize,
    ) -> Option<Result<*mut u8, Errno>> {
        let function = virtual_alloc_2()?;
        let requirements = Requirements {
            lowest: ptr::without_provenance_mut(requirements.lowest),
            highest: ptr::null_mut(),
            align: requirements.align,
        };
        let mut parameter =
            Parameter { kind: ADDRESS_REQUIREMENTS, pointer: ptr::from_ref(&requirements).cast() };
        let (kind, protection) = (memory::MEM_RESERVE, memory::PAGE_NOACCESS);
        // SAFETY: the parameter and what it leads to live through the call; nothing is reserved at
        // an address of the system's choice.
        let start = unsafe {
            let process = GetCurrentProcess();
            function(process, ptr::null(), len, kind, protection, &mut parameter, 1)
        };
        Some(if start.is_null() { Err(last_error()) } else { Ok(start.cast()) })
    }

    unsafe fn virtual_free(&self, address: *mut u8, len: usize, kind: u32) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        done(unsafe { memory::VirtualFree(address.cast(), len, kind) })
    }

    unsafe fn unmap_view(&self, address: *mut u8) -> Result<(), Errno> {
        let address = memory::MEMORY_MAPPED_VIEW_ADDRESS { Value: address.cast() };
        // SAFETY: the caller's promise.
        done(unsafe { memory::UnmapViewOfFile(address) })
    }

    unsafe fn virtual_protect(
        &self,
        address: *mut u8,
        len: usize,
        protection: u32,
    ) -> Result<(), Errno> {
        let mut before = 0;
        // SAFETY: the caller's promise.
        done(unsafe { memory::VirtualProtect(address.cast(), len, protection, &mut before) })
    }

    fn virtual_query(&self, address: usize) -> Option<Region> {
        let mut info = memory::MEMORY_BASIC_INFORMATION::default();
        let size = size_of_val(&info);
        let address = ptr::without_provenance(address);
        // SAFETY: there is room for what is asked for.
        let len = unsafe { memory::VirtualQuery(address, &mut info, size) };
        (len != 0).then(|| Region {
            start: info.BaseAddress.addr(),
            len: info.RegionSize,
            free: info.State == memory::MEM_FREE,
        })
    }

    fn working_set(&self, pages: &mut [WorkingSetPage]) -> Result<(), Errno> {
        let bytes = size_of_val(pages) as u32;
        // SAFETY: the pages are laid out as the system's and as long as said.
        done(unsafe { K32QueryWorkingSetEx(GetCurrentProcess(), pages.as_mut_ptr().cast(), bytes) })
    }

    fn commit_limit(&self) -> Option<u64> {
        let mut status = MEMORYSTATUSEX {
            dwLength: size_of::<MEMORYSTATUSEX>() as u32,
            ..MEMORYSTATUSEX::default()
        };
        // SAFETY: `status` says how long it is.
        done(unsafe { GlobalMemoryStatusEx(&mut status) }).ok()?;
        Some(status.ullTotalPageFile)
    }
}
