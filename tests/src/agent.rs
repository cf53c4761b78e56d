//! The built `agent`, as a process.
//!
//! Owns finding the binary, its output files and its end. What it says is the test's to read.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Process, Signal, wait_until};

/// Where the built binary lies: `$AGENT`, else beside this executable or one folder up, as cargo puts them.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("AGENT").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    built("agent").context("or set AGENT")
}

/// Where cargo has put another binary of the workspace.
pub fn built(name: &str) -> Result<PathBuf> {
    let exe = env::current_exe().context("find this executable")?;
    let beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.with_context(|| format!("no {name} beside {}: run `cargo build -p {name}`", exe.display()))
}

/// `nobody`: owns nothing, and is in no group.
const STRANGER: u32 = 65_534;

/// A running agent with its output in files. Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What a run that ended by itself left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code, or the signal that ended it.
    pub status: ExitStatus,
    /// Everything on standard output, as text.
    pub stdout: String,
    /// Everything on standard output, as it came.
    pub bytes: Vec<u8>,
    /// Everything on standard error.
    pub stderr: String,
}

impl Agent {
    /// Starts `agent ARGS…` with its output below `dir` as `agent.stdout` and `agent.stderr`, which are appended to.
    ///
    /// OTEL_* and ETCDCTL_* variables of whoever runs the test are removed; `variables` are what the agent gets.
    pub fn start<A: AsRef<OsStr>>(dir: &Path, args: &[A], variables: &[(&str, &str)]) -> Result<Agent> {
        let mut command = Command::new(binary()?);
        command.args(args).envs(variables.iter().copied());
        Agent::spawn(dir, command)
    }

    fn spawn(dir: &Path, mut command: Command) -> Result<Agent> {
        let inherited = |name: &OsStr| {
            let name = name.to_string_lossy();
            name.starts_with("OTEL_") || name.starts_with("ETCDCTL_")
        };
        let given: Vec<OsString> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        for (name, _) in env::vars_os().filter(|(name, _)| inherited(name) && !given.contains(name)) {
            command.env_remove(name);
        }
        let (stdout, stderr) = (dir.join("agent.stdout"), dir.join("agent.stderr"));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        command
            .stdin(Stdio::null())
            .stdout(append(&stdout).with_context(|| format!("open {}", stdout.display()))?)
            .stderr(append(&stderr)?);
        Ok(Agent { process: Process::spawn("agent", command)?, stdout, stderr })
    }

    /// Runs `agent ARGS…` in `dir` to its end, which must come within `limit`.
    pub fn run<A: AsRef<OsStr>>(
        dir: &Path,
        args: &[A],
        variables: &[(&str, &str)],
        limit: Duration,
    ) -> Result<Finished> {
        let mut command = Command::new(binary()?.canonicalize()?);
        command.args(args).envs(variables.iter().copied());
        Agent::to_its_end(dir, command, limit)
    }

    /// As [`Agent::run`], for a user who may not read what is private: `nobody` where the test is root's, else the test's
    /// own. A file of mode 0 is closed to the one as to the other.
    pub fn run_as_stranger<A: AsRef<OsStr>>(
        dir: &Path,
        args: &[A],
        variables: &[(&str, &str)],
        limit: Duration,
    ) -> Result<Finished> {
        // A home directory is closed to others, and the build lies in one: the stranger gets a copy. Another process makes
        // it: what a thread of ours forks meanwhile would hold the file open, and then it cannot be run.
        let copy = dir.join("agent");
        if !copy.exists() {
            let done = Command::new("cp")
                .arg("--preserve=mode")
                .arg(binary()?)
                .arg(&copy)
                .status()
                .context("start cp")?;
            ensure!(done.success(), "copy the agent: {done}");
        }
        let mut command = Command::new(copy);
        command.args(args).envs(variables.iter().copied());
        if is_root() {
            command.uid(STRANGER).gid(STRANGER);
        }
        Agent::to_its_end(dir, command, limit)
    }

    /// As [`Agent::run`], on a node of its own: no process and no address of this one is seen. `None` where the kernel
    /// allows us no namespaces, as in most containers.
    pub fn run_alone<A: AsRef<OsStr>>(dir: &Path, args: &[A], limit: Duration) -> Result<Option<Finished>> {
        let alone = || {
            let mut command = Command::new("unshare");
            if !is_root() {
                command.args(["--user", "--map-root-user"]);
            }
            command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--net"]);
            command
        };
        let allowed = alone().arg("true").stdin(Stdio::null()).stderr(Stdio::null()).status();
        if !allowed.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let mut command = alone();
        command.arg(binary()?.canonicalize()?).args(args);
        Agent::to_its_end(dir, command, limit).map(Some)
    }

    fn to_its_end(dir: &Path, mut command: Command, limit: Duration) -> Result<Finished> {
        for output in ["agent.stdout", "agent.stderr"] {
            // Usually there is none: what counts is that the answer is this run's.
            fs::remove_file(dir.join(output)).ok();
        }
        command.current_dir(dir);
        let agent = Agent::spawn(dir, command)?;
        let status = agent.process.wait(limit).with_context(|| format!("agent wrote: {}", agent.stderr()))?;
        let bytes = fs::read(&agent.stdout)?;
        Ok(Finished { status, stdout: agent.stdout(), bytes, stderr: agent.stderr() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until `text` is in its standard error; fails at once when it has exited without.
    pub fn wait_for_line(&self, text: &str, limit: Duration) -> Result<()> {
        let said = wait_until(&format!("the agent to say {text:?}"), limit, || {
            let exited = self.process.exit_status()?;
            if self.stderr().contains(text) {
                return Ok(Some(Ok(())));
            }
            Ok(exited.map(|status| Err(anyhow::anyhow!("the agent ended with {status}"))))
        });
        said.and_then(|said| said).with_context(|| format!("agent wrote: {}", self.stderr()))
    }

    /// `None` while it runs.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        self.process.exit_status()
    }

    /// SIGKILL, as the kernel's out-of-memory killer does.
    pub fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    /// Any signal: SIGSTOP for a frozen agent, SIGHUP for a reload.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// SIGTERM; an exit code other than 0 is an error that quotes what it wrote.
    pub fn stop(&self, limit: Duration) -> Result<()> {
        let status = self.process.stop(limit)?;
        if !status.success() {
            bail!("the agent ended with {status}: {}", self.stderr());
        }
        Ok(())
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::PathBuf, process, process::Command, time::Duration};

    use super::Agent;

    const SOON: Duration = Duration::from_secs(10);

    /// A shell script in the agent's place: the harness must be right whatever the agent does.
    fn pretend(name: &str, script: &str) -> (PathBuf, Agent) {
        let dir = env::temp_dir().join(format!("backburn-{name}-{}", process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env("OTEL_SERVICE_NAME", "given");
        let agent = Agent::spawn(&dir, command).unwrap();
        (dir, agent)
    }

    #[test]
    fn output_is_kept_and_sigterm_ends_it() {
        let script = r#"trap 'echo bye; exit 0' TERM; echo "ready $OTEL_SERVICE_NAME" >&2; while :; do sleep 0.02; done"#;
        let (dir, agent) = pretend("stops", script);
        agent.wait_for_line("ready given", SOON).unwrap();
        agent.stop(SOON).unwrap();
        // The shell may add that the signal ended its sleep.
        assert_eq!((agent.stdout().as_str(), agent.stderr().lines().next()), ("bye\n", Some("ready given")));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_agent_that_fails_is_quoted() {
        let (dir, agent) = pretend("fails", "echo 'failed to start: no config' >&2; exit 78");
        let error = format!("{:#}", agent.wait_for_line("ready", SOON).unwrap_err());
        assert!(error.contains("exit status: 78") && error.contains("no config"), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_that_ignores_sigterm_is_killed_and_that_is_an_error() {
        let (dir, agent) = pretend("ignores", "trap '' TERM; echo ready >&2; while :; do sleep 0.02; done");
        agent.wait_for_line("ready", SOON).unwrap();
        agent.stop(Duration::from_millis(100)).unwrap_err();
        assert!(agent.exit_status().unwrap().is_some());
        fs::remove_dir_all(dir).unwrap();
    }
}
