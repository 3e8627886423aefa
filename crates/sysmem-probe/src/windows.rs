//! The running system, where it is Windows.

use core::ffi::CStr;
use core::fmt;
use core::ptr;

use sysmem::PageRange;
use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
use windows_sys::Win32::System::Memory::{MEM_COMMIT, MEM_RESERVE};
use windows_sys::Win32::System::Memory::{
    MEM_FREE, MEM_RELEASE, MEMORY_BASIC_INFORMATION, PAGE_EXECUTE_READ, PAGE_EXECUTE_READWRITE,
    PAGE_READWRITE, VirtualAlloc, VirtualFree, VirtualLock, VirtualProtect, VirtualQuery,
};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::SystemInformation::{
    GetSystemInfo, GlobalMemoryStatusEx, MEMORYSTATUSEX, OSVERSIONINFOW, SYSTEM_INFO,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetCurrentProcessId};

use crate::platform::{Access, Platform, Seen};

#[cfg(target_arch = "x86_64")]
mod attempt;

/// The running system: a vectored exception handler, VirtualLock, and the working set.
#[derive(Clone, Copy, Debug)]
pub struct Running;

impl Running {
    /// The running system.
    pub const NEW: Running = Running;
}

/// What the process uses: working set and commit charge.
fn counters() -> Option<PROCESS_MEMORY_COUNTERS> {
    let len = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    let mut counters = PROCESS_MEMORY_COUNTERS { cb: len, ..Default::default() };
    // SAFETY: `counters` is as long as said.
    let answer = unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &mut counters, len) };
    (answer != 0).then_some(counters)
}

/// The version of Wine, where that and no Windows is below.
fn wine() -> Option<&'static CStr> {
    // SAFETY: both names end in zero; the module is part of every process.
    let function = unsafe {
        let module = GetModuleHandleA(c"ntdll.dll".as_ptr().cast());
        GetProcAddress(module, c"wine_get_version".as_ptr().cast())
    }?;
    // SAFETY: Wine's function of that name takes nothing and returns a string that stays
    // (dlls/ntdll/version.c).
    let version = unsafe {
        let function: extern "C" fn() -> *const core::ffi::c_char = core::mem::transmute(function);
        function()
    };
    // SAFETY: as above.
    (!version.is_null()).then(|| unsafe { CStr::from_ptr(version) })
}

type Fact<'f> = &'f mut dyn FnMut(&str, fmt::Arguments<'_>);

/// What the system lets be writable and executable.
fn writable_and_executable(fact: Fact<'_>) {
    let len = sysmem::page_size();
    for (name, first, second) in [
        ("writable and executable", PAGE_EXECUTE_READWRITE, None),
        ("writable, then both", PAGE_READWRITE, Some(PAGE_EXECUTE_READWRITE)),
        ("writable, then executable", PAGE_READWRITE, Some(PAGE_EXECUTE_READ)),
    ] {
        // SAFETY: nothing is reserved at an address of the system's choice.
        let start = unsafe { VirtualAlloc(ptr::null(), len, MEM_RESERVE | MEM_COMMIT, first) };
        if start.is_null() {
            fact(name, format_args!("refused by VirtualAlloc"));
            continue;
        }
        let mut before = 0;
        // SAFETY: the page was just committed and nobody uses it.
        match second.map(|second| unsafe { VirtualProtect(start, len, second, &mut before) }) {
            Some(0) => fact(name, format_args!("refused by VirtualProtect")),
            _ => fact(name, format_args!("allowed")),
        }
        // SAFETY: as above.
        unsafe { VirtualFree(start, 0, MEM_RELEASE) };
    }
}

impl Platform for Running {
    fn facts(&self, fact: &mut dyn FnMut(&str, fmt::Arguments<'_>)) {
        let mut version = OSVERSIONINFOW {
            dwOSVersionInfoSize: size_of::<OSVERSIONINFOW>() as u32,
            ..Default::default()
        };
        // SAFETY: `version` says how long it is.
        unsafe { RtlGetVersion(&mut version) };
        match wine().and_then(|version| version.to_str().ok()) {
            None => fact("system", format_args!("Windows")),
            Some(version) => fact("system", format_args!("Wine {version}")),
        }
        let OSVERSIONINFOW { dwMajorVersion, dwMinorVersion, dwBuildNumber, .. } = version;
        fact("release", format_args!("{dwMajorVersion}.{dwMinorVersion}.{dwBuildNumber}"));
        // SAFETY: cannot fail.
        fact("process", format_args!("{}", unsafe { GetCurrentProcessId() }));
        let mut info = SYSTEM_INFO::default();
        // SAFETY: `info` is there to be filled in.
        unsafe { GetSystemInfo(&mut info) };
        fact("allocation granularity", format_args!("{}", info.dwAllocationGranularity));
        let len = size_of::<MEMORYSTATUSEX>() as u32;
        let mut status = MEMORYSTATUSEX { dwLength: len, ..Default::default() };
        // SAFETY: `status` says how long it is.
        if unsafe { GlobalMemoryStatusEx(&mut status) } != 0 {
            fact("physical memory", format_args!("{}", status.ullTotalPhys));
            fact("commit limit", format_args!("{}", status.ullTotalPageFile));
            fact("commit left", format_args!("{}", status.ullAvailPageFile));
            fact("address space", format_args!("{}", status.ullTotalVirtual));
        }
        if let Some(counters) = counters() {
            fact("commit charge", format_args!("{}", counters.PagefileUsage));
        }
        writable_and_executable(fact);
    }

    fn room(&self) -> usize {
        1 << (usize::BITS - 2).min(47)
    }

    fn resident(&self) -> Option<u64> {
        Some(counters()?.WorkingSetSize as u64)
    }

    /// What is reserved or committed, added up.
    fn size(&self) -> Option<u64> {
        let mut info = MEMORY_BASIC_INFORMATION::default();
        let (mut at, mut size) = (0usize, 0);
        loop {
            let address = ptr::without_provenance(at);
            // SAFETY: there is room for what is asked for.
            if unsafe { VirtualQuery(address, &mut info, size_of_val(&info)) } == 0 {
                // Past the last address that a program may have.
                return (at != 0).then_some(size);
            }
            if info.State != MEM_FREE {
                size += info.RegionSize as u64;
            }
            at = info.BaseAddress.addr().checked_add(info.RegionSize).filter(|&end| end > at)?;
        }
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn access(&self, address: *mut u8, access: Access) -> Option<Seen> {
        // SAFETY: the caller's promise.
        unsafe { attempt::attempt(address, access) }
    }

    fn lock(&self, range: PageRange) -> bool {
        // SAFETY: changes no contents and checks the range.
        unsafe { VirtualLock(range.start.cast(), range.len) != 0 }
    }
}
