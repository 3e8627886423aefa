//! What Darwin tells of processes and of the machine.

use core::ffi::{c_int, c_void};

use super::super::unix::last_error;
use super::{Kernel, task};
use crate::Errno;
use crate::calls::MachStatistics;

unsafe extern "C" {
    fn mach_host_self() -> libc::mach_port_t;
    fn mach_port_deallocate(task: libc::mach_port_t, port: libc::mach_port_t) -> c_int;
    fn task_info(task: libc::mach_port_t, flavor: u32, info: *mut c_int, words: *mut u32) -> c_int;
    fn host_statistics64(
        host: libc::mach_port_t,
        flavor: c_int,
        info: *mut c_int,
        words: *mut u32,
    ) -> c_int;
    fn proc_pidinfo(
        process: c_int,
        flavor: c_int,
        argument: u64,
        info: *mut c_void,
        len: c_int,
    ) -> c_int;
    fn proc_pid_rusage(process: c_int, flavor: c_int, info: *mut c_void) -> c_int;
    fn proc_pidpath(process: c_int, path: *mut c_void, len: u32) -> c_int;
    fn mach_timebase_info(ratio: *mut [u32; 2]) -> c_int;
}

/// The words that Mach may fill in of a buffer, which it writes in words of four bytes.
fn words(info: &[u8]) -> u32 {
    (info.len() / 4) as u32
}

impl MachStatistics for Kernel {
    fn process_info(
        &self,
        process: i32,
        flavor: i32,
        argument: u64,
        info: &mut [u8],
    ) -> Result<usize, Errno> {
        let room = info.len().min(c_int::MAX as usize) as c_int;
        // SAFETY: the buffer is as long as said.
        let len =
            unsafe { proc_pidinfo(process, flavor, argument, info.as_mut_ptr().cast(), room) };
        // No structure is empty: none is an error.
        usize::try_from(len).ok().filter(|&len| len > 0).ok_or_else(last_error)
    }

    fn process_rusage(&self, process: i32, flavor: i32, info: &mut [u8; 296]) -> Result<(), Errno> {
        // Later flavors are longer.
        if flavor > libc::RUSAGE_INFO_V4 {
            return Err(crate::os::unix::EINVAL);
        }
        // SAFETY: this flavor's structure and those before it have room.
        match unsafe { proc_pid_rusage(process, flavor, info.as_mut_ptr().cast()) } {
            0 => Ok(()),
            _ => Err(last_error()),
        }
    }

    fn process_path(&self, process: i32, path: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: the buffer is as long as said.
        let len = unsafe { proc_pidpath(process, path.as_mut_ptr().cast(), path.len() as u32) };
        usize::try_from(len).ok().filter(|&len| len > 0).ok_or_else(last_error)
    }

    fn own_task_info(&self, flavor: u32, info: &mut [u8]) -> Option<usize> {
        let mut words = words(info);
        // SAFETY: there is room for that many words; Mach copies them in as bytes.
        let answer = unsafe { task_info(task(), flavor, info.as_mut_ptr().cast(), &mut words) };
        (answer == libc::KERN_SUCCESS).then_some(words as usize * 4)
    }

    fn host_statistics(&self, flavor: i32, info: &mut [u8]) -> Option<usize> {
        let mut words = words(info);
        // SAFETY: takes no memory.
        let host = unsafe { mach_host_self() };
        // SAFETY: there is room for that many words; Mach copies them in as bytes.
        let answer =
            unsafe { host_statistics64(host, flavor, info.as_mut_ptr().cast(), &mut words) };
        // Asking for the port has made one more reference to it.
        // SAFETY: the reference just made.
        unsafe { mach_port_deallocate(task(), host) };
        (answer == libc::KERN_SUCCESS).then_some(words as usize * 4)
    }

    fn clock_ratio(&self) -> (u32, u32) {
        let mut ratio = [1, 1];
        // SAFETY: two words to write to.
        unsafe { mach_timebase_info(&mut ratio) };
        (ratio[0], ratio[1])
    }
}
