//! The running system, where it is a Unix.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

use sysmem::PageRange;

use crate::platform::{Access, Platform, Seen, Signal};

mod stack;
#[cfg(any(
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
mod sysctl;
#[cfg_attr(target_os = "linux", path = "unix/linux.rs")]
#[cfg_attr(target_os = "freebsd", path = "unix/freebsd.rs")]
#[cfg_attr(target_os = "netbsd", path = "unix/netbsd.rs")]
#[cfg_attr(target_os = "openbsd", path = "unix/openbsd.rs")]
#[cfg_attr(target_os = "dragonfly", path = "unix/dragonfly.rs")]
#[cfg_attr(any(target_os = "illumos", target_os = "solaris"), path = "unix/illumos.rs")]
#[cfg_attr(target_vendor = "apple", path = "unix/darwin.rs")]
mod system;

/// The running system: fork(2), sigaction(2), mlock(2), and where it tells the size of a process.
#[derive(Clone, Copy, Debug)]
pub struct Running;

impl Running {
    /// The running system.
    pub const NEW: Running = Running;
}

type Fact<'f> = &'f mut dyn FnMut(&str, fmt::Arguments<'_>);

/// The longest a child may take, in seconds: a second is long, an emulated machine is slow.
const PATIENCE: u32 = 30;

/// Where the child that makes an access reports to.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// What the child says: whether the access succeeded, the value or the signal, `si_code`,
/// `si_addr`.
type Message = [u64; 4];

fn say(message: Message) {
    // SAFETY: the message is as long as said. A pipe takes so few bytes whole (pipe(7)).
    unsafe { libc::write(PIPE.load(Relaxed), message.as_ptr().cast(), size_of::<Message>()) };
}

extern "C" fn report_fault(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO a siginfo_t.
    let info = unsafe { &*info };
    // SAFETY: SIGSEGV, SIGBUS and SIGILL fill the field in (sigaction(2)).
    let address = unsafe { info.si_addr() }.addr();
    say([1, signal as u64, info.si_code as u64, address as u64]);
    // SAFETY: _exit(2) may be called in a handler.
    unsafe { libc::_exit(0) };
}

/// Makes the access and reports, in a child that does nothing else.
///
/// # Safety
///
/// As for [`Platform::access`], and in a forked child.
unsafe fn make_access(address: *mut u8, access: Access) -> ! {
    // SAFETY: all zero is a sigaction.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = report_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL] {
        // SAFETY: the handler calls only what a handler may (sigaction(2)).
        unsafe { libc::sigaction(signal, &action, core::ptr::null_mut()) };
    }
    // SAFETY: ends the child if the access never does.
    unsafe { libc::alarm(PATIENCE) };
    let value = match access {
        // SAFETY: reads a byte, or ends in the handler.
        Access::Read => unsafe { address.read_volatile() },
        Access::Write => {
            // SAFETY: changes the child's copy, or ends in the handler.
            unsafe { address.write_volatile(0x5a) };
            0
        }
        Access::Execute => {
            // SAFETY: the caller's promise; if it is not executable, this ends in the handler.
            let function: extern "C" fn() -> c_int = unsafe { core::mem::transmute(address) };
            function() as u8
        }
    };
    say([0, u64::from(value), 0, 0]);
    // SAFETY: ends the child without running what the parent wants to run at its end.
    unsafe { libc::_exit(0) }
}

/// Waits for the end of a child.
fn wait_for(child: libc::pid_t) -> c_int {
    let mut status = 0;
    // SAFETY: `status` is an int to write to. Where the parent ignores SIGCHLD the call fails once
    // the child is gone, which is what was waited for (waitpid(2)).
    while unsafe { libc::waitpid(child, &mut status, 0) } < 0 && system::errno() == libc::EINTR {}
    status
}

/// What a forked child says that does some work, which ends it.
fn seen_by_child(work: &dyn Fn()) -> Option<Seen> {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return None;
    }
    let [read_end, write_end] = ends;
    // SAFETY: the child does the work, by which it ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        PIPE.store(write_end, Relaxed);
        work();
    }
    let status = if child > 0 { wait_for(child) } else { 0 };
    let mut message: Message = [0; 4];
    // The child has said all it had to say; another child of this process may hold the other end
    // open, so the end of the pipe is not waited for.
    // SAFETY: the descriptor is ours, the message as long as said.
    let read = unsafe {
        libc::close(write_end);
        libc::fcntl(read_end, libc::F_SETFL, libc::O_NONBLOCK);
        let read = libc::read(read_end, message.as_mut_ptr().cast(), size_of::<Message>());
        libc::close(read_end);
        read
    };
    if child < 0 {
        return None;
    }
    if read != size_of::<Message>() as isize {
        return Some(Seen::Died(status));
    }
    let [faulted, value, code, address] = message;
    if faulted == 0 {
        return Some(Seen::Value(value as u8));
    }
    let signal = match value as c_int {
        libc::SIGSEGV => Signal::Segv,
        libc::SIGBUS => Signal::Bus,
        _ => Signal::Ill,
    };
    Some(Seen::Fault { signal, code: code as i32, address: address as usize })
}

impl Platform for Running {
    fn facts(&self, fact: &mut dyn FnMut(&str, fmt::Arguments<'_>)) {
        let mut name = MaybeUninit::<libc::utsname>::zeroed();
        // SAFETY: `name` is a utsname to write to.
        unsafe { libc::uname(name.as_mut_ptr()) };
        // SAFETY: zeros are one too, should the call have failed.
        let name = unsafe { name.assume_init() };
        fact("system", format_args!("{}", text(&name.sysname)));
        fact("release", format_args!("{}", text(&name.release)));
        fact("version", format_args!("{}", text(&name.version).trim_end()));
        fact("machine", format_args!("{}", text(&name.machine)));
        // SAFETY: getpid(2) and getuid(2) cannot fail.
        let (process, user) = unsafe { (libc::getpid(), libc::getuid()) };
        fact("process and user", format_args!("{process}, {user}"));
        for &(name, resource) in system::LIMITS {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `limit` is an rlimit to write to.
            if unsafe { libc::getrlimit(resource as _, &mut limit) } == 0 {
                match limit.rlim_cur {
                    libc::RLIM_INFINITY => fact(name, format_args!("unlimited")),
                    bytes => fact(name, format_args!("{bytes}")),
                }
            }
        }
        system::facts(fact);
        writable_and_executable(fact);
    }

    fn room(&self) -> usize {
        1 << (usize::BITS - 2).min(47)
    }

    fn resident(&self) -> Option<u64> {
        system::resident()
    }

    fn size(&self) -> Option<u64> {
        system::size()
    }

    unsafe fn access(&self, address: *mut u8, access: Access) -> Option<Seen> {
        // SAFETY: the caller's promise, and what is done is done in a child.
        seen_by_child(&|| unsafe { make_access(address, access) })
    }

    unsafe fn access_by_child(&self, address: *mut u8, access: Access) -> Option<Seen> {
        // SAFETY: the caller's promise.
        unsafe { self.access(address, access) }
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    unsafe fn stand_on(&self, stack: PageRange) -> Option<Seen> {
        // SAFETY: the caller's promise, and what is done is done in a child.
        seen_by_child(&|| unsafe { stack::enter_kernel_from(stack) })
    }

    #[cfg(target_os = "linux")]
    fn dumped(&self, address: *mut u8) -> Option<bool> {
        system::dumped(address.addr())
    }

    fn while_forked(&self, work: &mut dyn FnMut()) -> bool {
        // SAFETY: the child waits for its end.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child should the parent be gone; pause(2) returns only after a
            // handler, and there is none.
            unsafe {
                libc::alarm(PATIENCE);
                loop {
                    libc::pause();
                }
            }
        }
        if child < 0 {
            return false;
        }
        work();
        // SAFETY: the child is ours and was not waited for.
        unsafe { libc::kill(child, libc::SIGKILL) };
        wait_for(child);
        true
    }

    fn lock(&self, range: PageRange) -> bool {
        // SAFETY: mlock(2) changes no contents and checks the range.
        unsafe { libc::mlock(range.start.cast(), range.len) == 0 }
    }
}

/// The text in a field of C characters.
fn text(field: &[c_char]) -> &str {
    // SAFETY: a c_char is a byte.
    let bytes = unsafe { core::slice::from_raw_parts(field.as_ptr().cast::<u8>(), field.len()) };
    CStr::from_bytes_until_nul(bytes).ok().and_then(|text| text.to_str().ok()).unwrap_or("?")
}

/// What the system lets be writable and executable: a page that is both, a writable page made
/// executable, a reserved page made executable.
fn writable_and_executable(fact: Fact<'_>) {
    const NONE: c_int = libc::PROT_NONE;
    const RW: c_int = libc::PROT_READ | libc::PROT_WRITE;
    const RX: c_int = libc::PROT_READ | libc::PROT_EXEC;
    for (name, first, second) in [
        ("writable and executable", RW | RX, None),
        ("writable, then both", RW, Some(RW | RX)),
        ("writable, then executable", RW, Some(RX)),
        ("reserved, then executable", NONE, Some(RX)),
        ("reserved, then writable", NONE, Some(RW)),
    ] {
        let len = sysmem::page_size();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
        // SAFETY: without MAP_FIXED nothing is replaced.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), len, first, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            fact(name, format_args!("refused by mmap, errno {}", system::errno()));
            continue;
        }
        // SAFETY: the page was just mapped and nobody uses it.
        match second.map(|second| unsafe { libc::mprotect(start, len, second) }) {
            None | Some(0) => fact(name, format_args!("allowed")),
            Some(_) => fact(name, format_args!("refused by mprotect, errno {}", system::errno())),
        }
        // SAFETY: as above.
        unsafe { libc::munmap(start, len) };
    }
}

/// Switches the machine off, or waits for ever where that may not be: the end of process 1, whose
/// return would be a panic of the kernel.
pub fn switch_off() -> ! {
    // SAFETY: gives a slow console the time to show the last lines.
    unsafe { libc::sleep(1) };
    system::power_off();
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}
