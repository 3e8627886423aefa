//! The privilege to lock memory, which large pages take.

use core::ptr;

use windows_sys::Win32::Foundation::{CloseHandle, HANDLE, LUID};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueA, PRIVILEGE_SET,
    PrivilegeCheck, SE_PRIVILEGE_ENABLED, TOKEN_ADJUST_PRIVILEGES, TOKEN_PRIVILEGES, TOKEN_QUERY,
};
use windows_sys::Win32::System::Memory::GetLargePageMinimum;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::{Kernel, done, last_error, set_errno};
use crate::Errno;
use crate::calls::LargePages;
use crate::os::windows::large_pages::ERROR_NOT_ALL_ASSIGNED;

/// Runs `work` with the token of the process and the number of the privilege.
fn with_token<T>(
    access: u32,
    work: impl FnOnce(HANDLE, LUID) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut privilege = LUID::default();
    let name = c"SeLockMemoryPrivilege";
    // SAFETY: the name ends in zero; no system's name is this one's; the number is written.
    done(unsafe { LookupPrivilegeValueA(ptr::null(), name.as_ptr().cast(), &mut privilege) })?;
    let mut token = ptr::null_mut();
    // SAFETY: the handle of the process is always valid; the token is written.
    done(unsafe { OpenProcessToken(GetCurrentProcess(), access, &mut token) })?;
    let answer = work(token, privilege);
    // SAFETY: opened above.
    unsafe { CloseHandle(token) };
    answer
}

impl LargePages for Kernel {
    fn large_page_size(&self) -> usize {
        // SAFETY: takes nothing.
        unsafe { GetLargePageMinimum() }
    }

    fn lock_memory_privilege(&self) -> Option<bool> {
        with_token(TOKEN_QUERY, |token, privilege| {
            let mut set = PRIVILEGE_SET {
                PrivilegeCount: 1,
                Control: 0,
                Privilege: [LUID_AND_ATTRIBUTES { Luid: privilege, Attributes: 0 }],
            };
            let mut held = 0;
            // SAFETY: the token is open, the set has one privilege, the answer is written.
            done(unsafe { PrivilegeCheck(token, &mut set, &mut held) })?;
            Ok(held != 0)
        })
        .ok()
    }

    fn switch_lock_memory_privilege(&self, on: bool) -> Result<(), Errno> {
        with_token(TOKEN_QUERY | TOKEN_ADJUST_PRIVILEGES, |token, privilege| {
            let attributes = if on { SE_PRIVILEGE_ENABLED } else { 0 };
            let wanted = TOKEN_PRIVILEGES {
                PrivilegeCount: 1,
                Privileges: [LUID_AND_ATTRIBUTES { Luid: privilege, Attributes: attributes }],
            };
            set_errno(0);
            // SAFETY: the token is open, one privilege is given, nothing is to be told of before.
            done(unsafe {
                AdjustTokenPrivileges(token, 0, &wanted, 0, ptr::null_mut(), ptr::null_mut())
            })?;
            // It succeeds without the privilege, and says so in the last error alone.
            match last_error() {
                ERROR_NOT_ALL_ASSIGNED => Err(ERROR_NOT_ALL_ASSIGNED),
                _ => Ok(()),
            }
        })
    }
}
