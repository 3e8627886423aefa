//! What Windows tells of processes and of the machine.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use windows_sys::Win32::Foundation::{CloseHandle, FILETIME, HANDLE, STILL_ACTIVE};
use windows_sys::Win32::System::JobObjects::{
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JobObjectExtendedLimitInformation,
    QueryInformationJobObject,
};
use windows_sys::Win32::System::Memory::{
    CreateMemoryResourceNotification, GetLargePageMinimum, LowMemoryResourceNotification,
    MEMORY_BASIC_INFORMATION, QueryMemoryResourceNotification, VirtualQueryEx,
};
use windows_sys::Win32::System::ProcessStatus::{
    ENUM_PAGE_FILE_INFORMATION, K32EnumPageFilesW, K32EnumProcessModules, K32GetMappedFileNameW,
    K32GetPerformanceInfo, K32GetProcessMemoryInfo, K32QueryWorkingSetEx, PERFORMANCE_INFORMATION,
    PROCESS_MEMORY_COUNTERS_EX,
};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetExitCodeProcess, GetProcessTimes, OpenProcess, PROCESS_QUERY_INFORMATION,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_VM_READ,
};
use windows_sys::core::{BOOL, PCWSTR};

use super::{Kernel, done, last_error};
use crate::Errno;
use crate::calls::{ProcessStatistics, WorkingSetPage};

const _: () = assert!(size_of::<PROCESS_MEMORY_COUNTERS_EX>() == 80);
const _: () = assert!(size_of::<MEMORY_BASIC_INFORMATION>() == 48);
const _: () = assert!(size_of::<PERFORMANCE_INFORMATION>() == 104);
const _: () = assert!(size_of::<JOBOBJECT_EXTENDED_LIMIT_INFORMATION>() == 144);

/// Bytes that a structure of numbers and pointers may be written to.
#[repr(C, align(8))]
struct Room<const LEN: usize>([u8; LEN]);

/// Has the system fill in a structure, by a call that is given its place and length, and hands out
/// its bytes.
fn filled<const LEN: usize>(
    bytes: &mut [u8; LEN],
    fill: impl FnOnce(*mut c_void, u32) -> BOOL,
) -> Result<(), Errno> {
    let mut room = Room([0; LEN]);
    done(fill(room.0.as_mut_ptr().cast(), LEN as u32))?;
    *bytes = room.0;
    Ok(())
}

fn handle(process: isize) -> HANDLE {
    process as HANDLE
}

fn length(len: u32) -> Option<usize> {
    (len > 0).then_some(len as usize)
}

/// Adds the pages of a page file to the two sums that `sums` points to.
unsafe extern "system" fn add_page_file(
    sums: *mut c_void,
    file: *mut ENUM_PAGE_FILE_INFORMATION,
    _name: PCWSTR,
) -> BOOL {
    // SAFETY: what `page_files` passed, for as long as its call lasts.
    let sums = unsafe { &mut *sums.cast::<(usize, usize)>() };
    // SAFETY: the system's, for as long as this call lasts.
    let file = unsafe { &*file };
    sums.0 = sums.0.saturating_add(file.TotalSize);
    sums.1 = sums.1.saturating_add(file.TotalInUse);
    1
}

impl ProcessStatistics for Kernel {
    fn open_process(&self, id: Option<u32>) -> Result<isize, Errno> {
        let Some(id) = id else {
            // SAFETY: takes no memory.
            return Ok(unsafe { GetCurrentProcess() } as isize);
        };
        // The counters of another user's process want the lesser right only.
        for rights in
            [PROCESS_QUERY_INFORMATION | PROCESS_VM_READ, PROCESS_QUERY_LIMITED_INFORMATION]
        {
            // SAFETY: takes no memory.
            let process = unsafe { OpenProcess(rights, 0, id) };
            if !process.is_null() {
                return Ok(process as isize);
            }
        }
        Err(last_error())
    }

    fn close_process(&self, process: isize) {
        // SAFETY: the handle is the caller's; that of the own process is a constant, which is not
        // closed by this.
        unsafe { CloseHandle(handle(process)) };
    }

    fn has_ended(&self, process: isize) -> bool {
        let mut code = 0;
        // SAFETY: a word to write to.
        let told = unsafe { GetExitCodeProcess(handle(process), &mut code) };
        told != 0 && code != STILL_ACTIVE as u32
    }

    fn memory_counters(&self, process: isize, counters: &mut [u8; 80]) -> Result<(), Errno> {
        filled(counters, |place, len| {
            // SAFETY: there is room for a structure of that length.
            unsafe { K32GetProcessMemoryInfo(handle(process), place.cast(), len) }
        })
    }

    fn process_times(&self, process: isize) -> Result<(u64, u64), Errno> {
        let mut times = [FILETIME::default(); 4];
        let [creation, exit, kernel, user] = &mut times;
        // SAFETY: all four are there to be filled in.
        done(unsafe { GetProcessTimes(handle(process), creation, exit, kernel, user) })?;
        let time =
            |time: &FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
        Ok((time(kernel), time(user)))
    }

    fn query_region(
        &self,
        process: isize,
        address: usize,
        region: &mut [u8; 48],
    ) -> Result<(), Errno> {
        let address = ptr::without_provenance(address);
        filled(region, |place, len| {
            // SAFETY: there is room for a structure of that length.
            let len =
                unsafe { VirtualQueryEx(handle(process), address, place.cast(), len as usize) };
            BOOL::from(len != 0)
        })
    }

    fn mapped_file(&self, process: isize, address: usize, name: &mut [u16]) -> Option<usize> {
        let (place, room) = (name.as_mut_ptr(), name.len() as u32);
        let address = ptr::without_provenance(address);
        // SAFETY: the buffer is as long as said.
        length(unsafe { K32GetMappedFileNameW(handle(process), address, place, room) })
    }

    fn program_base(&self, process: isize) -> Option<usize> {
        let (mut module, mut needed) = (ptr::null_mut(), 0);
        let room = size_of_val(&module) as u32;
        // SAFETY: there is room for one.
        let listed =
            unsafe { K32EnumProcessModules(handle(process), &mut module, room, &mut needed) };
        (listed != 0 && needed >= room).then(|| module.addr())
    }

    fn working_set_of(&self, process: isize, pages: &mut [WorkingSetPage]) -> Result<(), Errno> {
        let bytes = size_of_val(pages) as u32;
        // SAFETY: the pages are laid out as the system's and as long as said.
        done(unsafe { K32QueryWorkingSetEx(handle(process), pages.as_mut_ptr().cast(), bytes) })
    }

    fn performance(&self, bytes: &mut [u8; 104]) -> Result<(), Errno> {
        filled(bytes, |place, len| {
            // SAFETY: there is room for a structure of that length.
            unsafe { K32GetPerformanceInfo(place.cast(), len) }
        })
    }

    fn page_files(&self) -> Option<(usize, usize)> {
        let mut sums = (0usize, 0usize);
        let place = ptr::from_mut(&mut sums).cast();
        // SAFETY: the sums live through the call, in which alone the function is called.
        done(unsafe { K32EnumPageFilesW(Some(add_page_file), place) }).ok()?;
        Some(sums)
    }

    fn large_page_minimum(&self) -> usize {
        // SAFETY: takes no memory.
        unsafe { GetLargePageMinimum() }
    }

    fn own_job_limits(&self, limits: &mut [u8; 144]) -> Result<(), Errno> {
        let class = JobObjectExtendedLimitInformation;
        filled(limits, |place, len| {
            // SAFETY: there is room for a structure of that length; no job means the calling
            // process's.
            unsafe {
                QueryInformationJobObject(ptr::null_mut(), class, place, len, ptr::null_mut())
            }
        })
    }

    fn memory_is_short(&self) -> Option<bool> {
        /// The notification, made at the first use and kept.
        static NOTIFICATION: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
        let mut notification = NOTIFICATION.load(Ordering::Acquire);
        if notification.is_null() {
            // SAFETY: takes no memory.
            let made = unsafe { CreateMemoryResourceNotification(LowMemoryResourceNotification) };
            if made.is_null() {
                return None;
            }
            let null = ptr::null_mut();
            let kept =
                NOTIFICATION.compare_exchange(null, made, Ordering::AcqRel, Ordering::Acquire);
            notification = match kept {
                Ok(_) => made,
                Err(other) => {
                    // SAFETY: ours alone, as nobody saw it.
                    unsafe { CloseHandle(made) };
                    other
                }
            };
        }
        let mut short = 0;
        // SAFETY: a word to write to; the notification is never closed.
        done(unsafe { QueryMemoryResourceNotification(notification, &mut short) }).ok()?;
        Some(short != 0)
    }
}
