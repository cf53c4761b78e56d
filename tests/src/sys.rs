//! The system calls that std does not offer: signals, and death with the parent.
//!
//! The only unsafe code of the harness. It refuses to know what the processes are.

#![allow(unsafe_code, reason = "prctl and kill have no safe form in std")]

use std::{io, os::unix::process::CommandExt, process::Command};

use crate::process::Signal;

/// Makes the child die when the *thread* that spawns it ends, however that happens. Spawn from a thread that lives
/// as long as the process.
pub(crate) fn die_with_spawner(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec in the child. It calls signal, prctl and getppid alone, which are
    // async-signal-safe, and allocates nothing: `io::Error::last_os_error` and `from_raw_os_error` hold a number.
    unsafe {
        command.pre_exec(move || {
            // A shell that runs the tests in its background has them ignore interrupts, and so would the child.
            if libc::signal(libc::SIGINT, libc::SIG_DFL) == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above; then nobody would send the signal.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// Signals the process group `pid` leads. A group that is gone is not an error: that is what one wants of it.
pub(crate) fn signal_group(pid: u32, signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Kill => libc::SIGKILL,
        Signal::Term => libc::SIGTERM,
        Signal::Int => libc::SIGINT,
        Signal::Hup => libc::SIGHUP,
        Signal::Stop => libc::SIGSTOP,
        Signal::Cont => libc::SIGCONT,
    };
    let Ok(pid) = i32::try_from(pid) else { return Err(io::Error::from_raw_os_error(libc::EINVAL)) };
    if pid <= 1 {
        // 0 and -1 would mean "my own group" and "everybody".
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: kill takes two integers and touches no memory; the pid is that of a child we have not reaped, or of one
    // that is gone, and the check above keeps it from naming anybody else.
    if unsafe { libc::kill(-pid, number) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}
