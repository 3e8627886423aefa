//! The running illumos or Solaris kernel.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_uint, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use core::time::Duration;

use super::slots::{Sleeper, Slots};
pub use super::unix::Kernel;
use super::unix::{done, last_error, same, same_errno, timespec};
use crate::Errno;
use crate::calls::{Kernel as Name, Memcntl, PageSizes, SystemPages};

/// The operating system that this program runs on. Zero-sized.
pub type Native = crate::os::illumos::Illumos<Kernel>;

pub(super) const NAME: Name = Name::Illumos;
pub(super) const THREAD_CLOCK: libc::clockid_t = libc::CLOCK_THREAD_CPUTIME_ID;

same!(crate::os::illumos: MAP_NORESERVE, MAP_ANON, MAP_ALIGN, MADV_FREE, RLIMIT_AS);
same_errno!(crate::os::illumos: EAGAIN);

/// `struct memcntl_mha`: <sys/mman.h>.
#[repr(C)]
struct MapSize {
    command: c_uint,
    flags: c_uint,
    page_size: usize,
}

/// Sub-command of `MC_HAT_ADVISE`: the preferred page size of a range.
const MHA_MAPSIZE_VA: c_uint = 1;

unsafe extern "C" {
    // All are in libc, and not in the libc crate (0.2.191).
    fn memcntl(
        address: *mut c_char,
        len: usize,
        command: c_int,
        argument: *mut c_char,
        attributes: c_int,
        mask: c_int,
    ) -> c_int;
    fn swapctl(command: c_int, argument: *mut c_void) -> c_int;
    fn sem_reltimedwait_np(semaphore: *mut libc::sem_t, time: *const libc::timespec) -> c_int;
}

pub(super) fn errno() -> c_int {
    // SAFETY: the C library's errno of this thread is always readable.
    unsafe { *libc::___errno() }
}

pub(super) fn set_errno(value: c_int) {
    // SAFETY: the C library's errno of this thread is always writable.
    unsafe { *libc::___errno() = value };
}

impl PageSizes for Kernel {
    fn page_sizes(&self, sizes: &mut [usize]) -> Result<usize, Errno> {
        let most = sizes.len().min(c_int::MAX as usize) as c_int;
        // SAFETY: there is room for that many.
        let count = unsafe { libc::getpagesizes(sizes.as_mut_ptr(), most) };
        usize::try_from(count).map_err(|_| last_error())
    }
}

/// `SC_AINFO`: <sys/swap.h>.
const ANONYMOUS_MEMORY: c_int = 5;

fn configuration(name: c_int) -> Option<u64> {
    // SAFETY: takes no memory.
    u64::try_from(unsafe { libc::sysconf(name) }).ok()
}

impl SystemPages for Kernel {
    fn physical_pages(&self) -> Option<u64> {
        configuration(libc::_SC_PHYS_PAGES)
    }

    fn free_pages(&self) -> Option<u64> {
        configuration(libc::_SC_AVPHYS_PAGES)
    }

    fn anonymous_memory(&self, info: &mut [u8; 24]) -> Result<(), Errno> {
        // SAFETY: `struct anoninfo` has three words.
        done(unsafe { swapctl(ANONYMOUS_MEMORY, info.as_mut_ptr().cast()) })
    }
}

// SAFETY: the call is the kernel's own.
unsafe impl Memcntl for Kernel {
    unsafe fn memcntl(
        &self,
        address: *mut u8,
        len: usize,
        command: i32,
        page_size: usize,
    ) -> Result<(), Errno> {
        let mut advice = MapSize { command: MHA_MAPSIZE_VA, flags: 0, page_size };
        let argument = match command {
            crate::os::illumos::MC_HAT_ADVISE => ptr::from_mut(&mut advice).cast(),
            _ => ptr::null_mut(),
        };
        // SAFETY: the caller's promise; the advice lives through the call.
        done(unsafe { memcntl(address.cast(), len, command, argument, 0, 0) })
    }
}

/// A semaphore within the process: sem_init(3C) allocates nothing for it.
struct Semaphore {
    initialized: AtomicBool,
    semaphore: UnsafeCell<MaybeUninit<libc::sem_t>>,
}

// SAFETY: a semaphore is made for many threads; it is initialized by the first owner of its slot,
// before anybody else can see it.
unsafe impl Sync for Semaphore {}

impl Sleeper for Semaphore {
    const NEW: Semaphore = Semaphore {
        initialized: AtomicBool::new(false),
        semaphore: UnsafeCell::new(MaybeUninit::uninit()),
    };

    fn claim(&self) {
        if !self.initialized.load(Relaxed) {
            // SAFETY: nobody else uses it yet.
            unsafe { libc::sem_init(self.semaphore.get().cast(), 0, 0) };
            self.initialized.store(true, Relaxed);
        }
    }

    fn sleep(&self, timeout: Option<Duration>) {
        let semaphore = self.semaphore.get().cast();
        match timeout.map(timespec) {
            // SAFETY: initialized when it was claimed.
            None => unsafe { libc::sem_wait(semaphore) },
            // SAFETY: as above; the time lives through the call.
            Some(time) => unsafe { sem_reltimedwait_np(semaphore, &time) },
        };
    }

    fn wake(&self) {
        // SAFETY: initialized when it was claimed.
        unsafe { libc::sem_post(self.semaphore.get().cast()) };
    }
}

static PARKED: Slots<Semaphore> = Slots::new();

pub(super) fn park(word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
    PARKED.park(word, while_equal, timeout);
}

pub(super) fn wake(word: &AtomicU32, _count: u32) {
    PARKED.wake_all(word);
}
