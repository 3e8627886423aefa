//! Signals pass through the command as if it were not there.
//!
//! The command blocks every signal and takes them one by one. A signal that a process sent to the
//! command is sent on to the program; one that the terminal sent to the whole process group reached
//! the program by itself. When the program stops, the command stops too, so that the shell sees
//! its job stopped; when a signal killed the program, the command dies of the same signal.

use libc::{c_int, siginfo_t, sigset_t};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, getpid, getsid, set_dumpable_behavior, setrlimit,
};
use std::mem::MaybeUninit;
use std::time::Duration;
use std::{io, ptr};

/// Every signal blocked.
pub struct Signals {
    all: sigset_t,
    /// What the program is to find.
    pub inherited: Inherited,
}

/// The signals as the command inherited them.
#[derive(Clone, Copy)]
pub struct Inherited {
    mask: sigset_t,
    child_signal: libc::sigaction,
    pipe_signal: libc::sigaction,
}

/// A signal that the command took.
pub struct Taken(siginfo_t);

impl Signals {
    /// Blocks every signal that can be blocked. Other dispositions stay as they were inherited, so
    /// that the program inherits them too (nohup); SIGCHLD alone must not be ignored here, or the
    /// kernel would reap the program and keep its status to itself.
    pub fn hold() -> Self {
        let (child_signal, pipe_signal) = (disposition(libc::SIGCHLD), disposition(libc::SIGPIPE));
        // SAFETY: sets are plain data for which zeros are valid, filled in by the calls, which get
        // pointers to whole values; SIG_DFL needs no handler.
        unsafe {
            let mut all = MaybeUninit::<sigset_t>::zeroed().assume_init();
            let mut mask = MaybeUninit::<sigset_t>::zeroed().assume_init();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, &mut mask);
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            Self { all, inherited: Inherited { mask, child_signal, pipe_signal } }
        }
    }

    /// Waits for the next signal, at most as long as said.
    pub fn take(&self, at_most: Duration) -> Option<Taken> {
        let timeout = libc::timespec {
            tv_sec: at_most.as_secs() as libc::time_t,
            tv_nsec: at_most.subsec_nanos().into(),
        };
        // SAFETY: siginfo_t is plain data for which zeros are valid.
        let mut info = unsafe { MaybeUninit::<siginfo_t>::zeroed().assume_init() };
        // SAFETY: the pointers lead to whole values.
        let signal = unsafe { libc::sigtimedwait(&self.all, &mut info, &timeout) };
        (signal > 0).then_some(Taken(info))
    }

    /// Stops the command as the signal stopped the program, until something continues the command.
    ///
    /// A program stopped by SIGSTOP is followed only where there is a terminal, and so a shell that
    /// watches its jobs: whoever stops a service by its process number continues that number alone,
    /// and a command that had stopped with it would stay stopped.
    pub fn stop_as(&self, signal: c_int) {
        if signal == libc::SIGSTOP && !has_terminal() {
            return;
        }
        let before = disposition(signal);
        // SAFETY: SIG_DFL needs no handler, `one` is filled in before it is used, and the mask put
        // back is the one of `hold`.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            let mut one = MaybeUninit::<sigset_t>::zeroed().assume_init();
            libc::sigemptyset(&mut one);
            libc::sigaddset(&mut one, signal);
            libc::raise(signal);
            libc::sigprocmask(libc::SIG_UNBLOCK, &one, ptr::null_mut());
            libc::sigprocmask(libc::SIG_SETMASK, &self.all, ptr::null_mut());
            libc::sigaction(signal, &before, ptr::null_mut());
        }
    }
}

impl Inherited {
    /// Puts everything back, between fork and exec. std has set SIGPIPE to its default there.
    pub fn restore(&self) {
        // SAFETY: the values were filled in by `hold`; the calls are async-signal-safe.
        unsafe {
            libc::sigaction(libc::SIGPIPE, &self.pipe_signal, ptr::null_mut());
            libc::sigaction(libc::SIGCHLD, &self.child_signal, ptr::null_mut());
            libc::sigprocmask(libc::SIG_SETMASK, &self.mask, ptr::null_mut());
        }
    }
}

impl Taken {
    pub fn number(&self) -> c_int {
        self.0.si_signo
    }

    /// Whether the program must be sent this signal, because it did not get it by itself.
    pub fn is_for_program(&self, program: Pid) -> bool {
        match self.number() {
            libc::SIGCHLD => false,
            _ if self.0.si_code <= 0 => !is_of_family(self.sender(), program),
            // A timer that was set before the command was executed (`perl -e 'alarm …; exec …'`):
            // the program would have inherited it from exec and not from fork.
            libc::SIGALRM | libc::SIGVTALRM | libc::SIGPROF => true,
            // When a terminal hangs up, the kernel tells the leader of its session alone.
            libc::SIGHUP | libc::SIGCONT => getsid(None).is_ok_and(|leader| leader == getpid()),
            // The terminal, which tells the whole process group.
            _ => false,
        }
    }

    /// Sends the signal on, with the value that it carries.
    pub fn send_to(&self, program: Pid) {
        let (program, signal) = (program.as_raw_nonzero().get(), self.number());
        // SAFETY: the calls take numbers and a pointer to a whole siginfo_t. The program has not
        // been reaped, so its number is its own.
        unsafe {
            if self.0.si_code == libc::SI_QUEUE {
                libc::syscall(libc::SYS_rt_sigqueueinfo, program, signal, &self.0);
            } else {
                libc::kill(program, signal);
            }
        }
    }

    fn sender(&self) -> c_int {
        // SAFETY: codes up to 0 say that a process sent the signal; then its number is there.
        unsafe { self.0.si_pid() }
    }
}

/// Whether a process is this command, the program or a descendant of it. What these send to their
/// whole group (`kill(0, …)`) reached the program; what they send to their parent is not for it.
fn is_of_family(process: c_int, program: Pid) -> bool {
    let (own, program) = (getpid().as_raw_nonzero().get(), program.as_raw_nonzero().get());
    let mut process = process;
    while process > 1 {
        if process == program || process == own {
            return true;
        }
        match parent_of(process) {
            Some(parent) => process = parent,
            None => return false,
        }
    }
    process == own
}

fn parent_of(process: c_int) -> Option<c_int> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    text.rsplit(')').next()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What the process does with a signal now.
fn disposition(signal: c_int) -> libc::sigaction {
    // SAFETY: plain data for which zeros are valid, filled in by the call.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        libc::sigaction(signal, ptr::null(), &mut action);
        action
    }
}

fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Kills the program, should the command be killed without a chance to tell it; for the time
/// between fork and exec. `parent` is the command.
pub fn die_with_parent(parent: Pid) -> io::Result<()> {
    let kill = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(kill)?;
    // The command may have died before the call.
    if rustix::process::getppid().is_some_and(|now| now != parent) {
        return Err(io::Error::other("the command is gone"));
    }
    Ok(())
}

/// Ends the command by the signal that killed the program, without a core of its own.
pub fn die_of(signal: c_int) -> ! {
    // The limit stops a core file, the other a core that is piped to a handler (core(5)).
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // SAFETY: SIG_DFL needs no handler; `one` is filled in before it is used.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
        let mut one = MaybeUninit::<sigset_t>::zeroed().assume_init();
        libc::sigemptyset(&mut one);
        libc::sigaddset(&mut one, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &one, ptr::null_mut());
    }
    // Process 1 of a container is not killed by signals: say it as a shell does.
    std::process::exit(128 + signal)
}

/// A signal's name; numbers from SIGRTMIN on are told by their distance.
pub fn name(signal: c_int) -> String {
    const NAMES: [(c_int, &str); 30] = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
        (libc::SIGCHLD, "SIGCHLD"),
        (libc::SIGCONT, "SIGCONT"),
        (libc::SIGSTOP, "SIGSTOP"),
        (libc::SIGTSTP, "SIGTSTP"),
        (libc::SIGTTIN, "SIGTTIN"),
        (libc::SIGTTOU, "SIGTTOU"),
        (libc::SIGURG, "SIGURG"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGPWR, "SIGPWR"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    match NAMES.iter().find(|(number, _)| *number == signal) {
        Some((_, name)) => (*name).to_owned(),
        None if signal >= libc::SIGRTMIN() => format!("SIGRTMIN+{}", signal - libc::SIGRTMIN()),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_its_children_are_family_and_others_are_not() {
        let own = getpid();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        assert!(is_of_family(child.id() as c_int, own));
        assert!(is_of_family(own.as_raw_nonzero().get(), own));
        assert!(!is_of_family(1, Pid::from_raw(child.id() as c_int).unwrap()));
        assert!(!is_of_family(0, own), "a sender outside of the process namespace");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn signals_have_their_names() {
        assert_eq!(name(9), "SIGKILL");
        assert_eq!(name(libc::SIGRTMIN() + 2), "SIGRTMIN+2");
        assert_eq!(name(33), "signal 33");
    }
}
