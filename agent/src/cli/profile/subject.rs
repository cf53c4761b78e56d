//! Whose profile is wanted: a member of etcd, or any process, container, command or the whole node.
//!
//! Owns the ways to name them and the look through /proc. Refuses to choose between processes of one name: all of them are
//! meant.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::anyhow;
use clap::Args;

use crate::cli::{Exit, Failure};

/// Processes of one name or container: what a full node runs.
const PROCESSES_MAX: usize = 1_024;
/// An id of a container may be cut to what `crictl ps` and `docker ps` show.
const CONTAINER_DIGITS_MIN: usize = 12;
/// A pid's file in /proc: a few lines.
const FILE_BYTES_MAX: usize = 64 << 10;

/// Whose, as the command line says it; the local etcd where it says nothing.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub(super) struct Who {
    /// This process and what it starts; may be given again.
    #[arg(short, long, value_name = "PID")]
    pid: Vec<u32>,
    /// The member of that name or `host:port`, else all processes of that name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The processes of the container with this id, or one that begins so.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Everything on the node.
    #[arg(short, long)]
    all: bool,
    /// This command, from its start to its end; its exit code is passed on.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// A member, the default one where it has no name.
    Member(Option<String>),
    /// These processes, and what they are called together.
    Processes(Vec<u32>, String),
    /// All.
    Node,
    /// One that is still to be started.
    Command(Vec<OsString>),
}

impl Who {
    /// The name, which may be a member's.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Who that is. A name is first held against `members`.
    ///
    /// # Errors
    /// When nobody is called so.
    pub(super) fn find(&self, members: impl Fn(&str) -> bool) -> Result<Subject, Failure> {
        if self.all {
            return Ok(Subject::Node);
        }
        if !self.command.is_empty() {
            return Ok(Subject::Command(self.command.clone()));
        }
        if !self.pid.is_empty() {
            return self.pids();
        }
        if let Some(id) = &self.container {
            return container(id);
        }
        match &self.name {
            Some(name) if !members(name) => match running(|pid| is_called(pid, name)) {
                pids if pids.is_empty() => Ok(Subject::Member(Some(name.clone()))),
                pids => Ok(Subject::Processes(pids, name.clone())),
            },
            name => Ok(Subject::Member(name.clone())),
        }
    }

    fn pids(&self) -> Result<Subject, Failure> {
        let gone = self.pid.iter().find(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if let Some(pid) = gone {
            let error = anyhow!("no process {pid} here; in a container, hostPID shows those of the node");
            return Err(Failure::new(Exit::TargetDown, error));
        }
        let name = self.pid.first().map_or_else(String::new, |pid| called(*pid));
        Ok(Subject::Processes(self.pid.clone(), name))
    }
}

fn container(id: &str) -> Result<Subject, Failure> {
    if id.len() < CONTAINER_DIGITS_MIN || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let error = anyhow!("--container takes {CONTAINER_DIGITS_MIN} or more hexadecimal digits, not {id}");
        return Err(Failure::new(Exit::Usage, error));
    }
    let pids = running(|pid| {
        let paths = read(pid, "cgroup").unwrap_or_default();
        paths.split(['/', '-', ':', '\n']).any(|part| part.starts_with(id))
    });
    if pids.is_empty() {
        let error = anyhow!("no process here is in a container whose id begins with {id}");
        return Err(Failure::new(Exit::TargetDown, error));
    }
    Ok(Subject::Processes(pids, format!("container {}", id.get(..CONTAINER_DIGITS_MIN).unwrap_or(id))))
}

/// Processes that run now and are wanted; never ourselves.
fn running(is_wanted: impl Fn(u32) -> bool) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id() && is_wanted(*pid)).take(PROCESSES_MAX).collect()
}

/// A process's name, at most 15 bytes; empty when it is gone.
pub(super) fn called(pid: u32) -> String {
    read(pid, "comm").map_or_else(String::new, |name| name.trim_end().to_owned())
}

/// By its name as `ps` shows it, or by that of its program's file.
fn is_called(pid: u32, name: &str) -> bool {
    let program = || fs::read_link(format!("/proc/{pid}/exe")).ok();
    called(pid) == name || program().is_some_and(|path| path.file_name().is_some_and(|file| file == name))
}

fn read(pid: u32, file: &str) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/{file}")).ok().filter(|text| text.len() <= FILE_BYTES_MAX)?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Subject, Who, called};

    fn find(who: &Who) -> Option<Subject> {
        who.find(|name| name == "m1").ok()
    }

    #[test]
    fn a_name_is_a_member_before_it_is_a_process() {
        let named = |name: &str| Who { name: Some(name.to_owned()), ..Who::default() };
        assert_eq!(find(&named("m1")), Some(Subject::Member(Some("m1".to_owned()))));
        // Nobody: the search for members has the words for it.
        assert_eq!(find(&named("no-such-name")), Some(Subject::Member(Some("no-such-name".to_owned()))));
        assert_eq!(find(&Who::default()), Some(Subject::Member(None)));
        let init = called(1);
        let Some(Subject::Processes(pids, name)) = find(&named(&init)) else { panic!("{init}") };
        assert!(pids.contains(&1) && name == init);
    }

    #[test]
    fn who_is_gone_is_told() {
        assert_eq!(find(&Who { pid: vec![u32::MAX], ..Who::default() }), None);
        assert_eq!(find(&Who { container: Some("xyz".to_owned()), ..Who::default() }), None);
        assert_eq!(find(&Who { container: Some("0123456789abcdef".to_owned()), ..Who::default() }), None);
        let ours = std::process::id();
        let found = find(&Who { pid: vec![ours], ..Who::default() });
        assert_eq!(found, Some(Subject::Processes(vec![ours], called(ours))));
    }
}
