//! The system calls that std does not offer: the end of a child with what it has used, and the CPU clock of one that runs.
//!
//! The only unsafe code of the measuring. `/proc/PID/stat` counts in hundredths of a second, too coarse for a profiler that
//! takes thousandths of a core.

#![allow(unsafe_code, reason = "wait4 and the CPU clock of another process have no safe form in std")]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// How a child ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// Exit code or signal.
    pub(super) status: ExitStatus,
    /// User and system time of it and of all children that it has waited for, since its start.
    pub(super) cpu: Duration,
}

/// Reaps a child of ours that has ended; `None` while it runs.
pub(super) fn reap(pid: u32) -> io::Result<Option<Ended>> {
    let pid = number(pid)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to locals that live until the call returns, and the kernel writes nothing beyond them.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    if reaped < 0 {
        return Err(io::Error::last_os_error());
    }
    if reaped == 0 {
        return Ok(None);
    }
    // SAFETY: rusage is numbers alone, for which zeros are a value; the kernel has filled it in besides.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    Ok(Some(Ended { status: ExitStatus::from_raw(status), cpu: time(usage.ru_utime) + time(usage.ru_stime) }))
}

/// User and system time of a running process with all its threads, ended ones too, without its children.
pub(super) fn cpu(pid: u32) -> io::Result<Duration> {
    let pid = number(pid)?;
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call. It gives an error number, and sets no errno.
    let refused = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if refused != 0 {
        return Err(io::Error::from_raw_os_error(refused));
    }
    // SAFETY: as above; a clock of a process that is gone by now is an error.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    Ok(seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0)))
}

fn number(pid: u32) -> io::Result<libc::pid_t> {
    // 0 would mean "any child of my group".
    libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::{cpu, reap};

    #[test]
    #[expect(clippy::zombie_processes, reason = "what is tested waits for it")]
    fn a_child_is_reaped_with_the_time_of_its_own_children() {
        let script = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; exit 3";
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let ended = loop {
            if let Some(ended) = reap(child.id()).unwrap() {
                break ended;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.cpu > Duration::from_millis(20), "{ended:?}");
        assert!(reap(child.id()).is_err(), "it is gone");
    }

    #[test]
    fn the_clock_of_a_process_goes_on_while_it_works() {
        let before = cpu(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while cpu(std::process::id()).unwrap() < before + Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu(0).is_err());
    }
}
