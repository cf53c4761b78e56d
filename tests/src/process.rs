//! One child process in a group of its own, which never outlives the test.
//!
//! Owns spawning, signals, waiting and the final kill. Knows nothing of what the child does.

#![allow(clippy::disallowed_methods, reason = "a deadline for a real process needs the real clock")]

use std::{
    fmt, fs, io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    sync::{
        Mutex, OnceLock, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::sys;

/// How often a condition is looked at while waiting: short beside what etcd takes to start, long beside a look.
pub const POLL: Duration = Duration::from_millis(20);

/// A thread stops at its next return from the kernel; one in a slow fsync takes as long as that does.
const FREEZE_MAX: Duration = Duration::from_secs(10);

/// What can be sent to a process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ends it at once, without its consent.
    Kill,
    /// Asks it to end.
    Term,
    /// What Ctrl-C sends.
    Int,
    /// By convention: read your configuration again.
    Hup,
    /// Freezes it: connections stay open and nobody answers.
    Stop,
    /// Thaws it.
    Cont,
}

/// A child and its process group. Dropping it kills the group and reaps the child.
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Process {
    /// Starts `command` as leader of a new group; it dies with this process, even when that one is killed.
    pub fn spawn(name: &str, mut command: Command) -> Result<Process> {
        command.process_group(0);
        sys::die_with_spawner(&mut command);
        let child = spawn_from_lasting_thread(command).with_context(|| format!("start {name}"))?;
        Ok(Process { name: name.to_owned(), pid: child.id(), child: Mutex::new(child) })
    }

    /// Also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// `None` while it runs.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.try_wait().with_context(|| format!("look at {}", self.name))
    }

    /// Signals the whole group; nothing happens where it is gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.exit_status()?.is_some() {
            // Reaped: the number may belong to somebody else by now.
            return Ok(());
        }
        sys::signal_group(self.pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// SIGSTOP, and returns when the last thread of the process has stopped: the signal alone is only a request, and a
    /// thread on another core may still answer.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::Stop)?;
        wait_until(&format!("{} to freeze", self.name), FREEZE_MAX, || Ok(self.is_frozen()?.then_some(())))
    }

    fn is_frozen(&self) -> Result<bool> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            // The name before the state is in brackets and may hold anything.
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            if state != Some('T') {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fails when it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to exit", self.name);
        wait_until(&what, limit, || self.exit_status())
    }

    /// Asks it to end and gives it `limit`; then it is killed, and that is an error.
    pub fn stop(&self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::Term)?;
        self.wait(limit).or_else(|late| {
            self.kill()?;
            Err(late)
        })
    }

    /// Kills the group and reaps the child.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::Kill)?;
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.wait().with_context(|| format!("reap {}", self.name))?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell, and the kernel ends the child with us in any case.
        self.kill().ok();
    }
}

/// The calling thread, and all that it starts from now on, run on the first `cpus` of those that it may use.
pub fn confine(cpus: usize) -> Result<()> {
    let mut set = sched_getaffinity(None).context("ask which CPUs may be used")?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    for cpu in allowed.iter().skip(cpus) {
        set.unset(*cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("stay on {cpus} CPUs"))
}

/// Polls until `look` finds something; the error names `what` and the last failure of `look` is its cause.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = look();
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            let waited = format!("waited {limit:?} for {what}");
            match seen {
                Err(error) => return Err(error.context(waited)),
                Ok(_) => bail!(waited),
            }
        }
        thread::sleep(POLL);
    }
}

/// A child's death signal follows the thread that spawned it, and a test's thread ends early, as do those of a blocking
/// pool. So one thread, which lives as long as the process, spawns for all.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Job = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The asker waits below; should it have gone, the child is reaped by nobody but dies with us.
                reply.send(command.spawn()).ok();
            }
        });
        jobs
    });
    let (reply, answer) = channel();
    let gone = |_| io::Error::other("the spawning thread is gone");
    spawner.send((command, reply)).map_err(|_| io::Error::other("the spawning thread is gone"))?;
    answer.recv().map_err(gone)?
}
