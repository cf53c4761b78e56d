//! Processes as `/proc` shows them, and which of them are etcd. Shared with `marks`, which watches the same processes.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::flags::Flags;
use super::{Discovery, Environment};

/// Processes looked at in one walk; the kernel's default limit of ids.
const PROCESSES_MAX: usize = 32_768;

/// Bytes read of a command line or an environment.
const TEXT_BYTES_MAX: u64 = 64 * 1024;

/// Where k3s and RKE2 keep their etcd.
const RANCHER: [(&str, &str); 2] = [("k3s", "/var/lib/rancher/k3s"), ("rke2", "/var/lib/rancher/rke2")];

/// Where packages and installers keep etcd's variables, for when the process's own are not ours to read: Debian, Red Hat,
/// kubespray.
const ENVIRONMENT_FILES: [&str; 3] = ["/etc/default/etcd", "/etc/etcd/etcd.conf", "/etc/etcd.env"];

/// One etcd process.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) pid: u32,
    pub(crate) flags: Flags,
    /// k3s or RKE2 run etcd inside themselves, with fixed addresses.
    pub(crate) rancher: bool,
    /// What could not be read of it.
    pub(crate) note: Option<String>,
}

/// All process ids, ascending, at most [`PROCESSES_MAX`].
pub(crate) fn pids(root: &Path) -> std::io::Result<Vec<u32>> {
    let mut pids: Vec<u32> = fs::read_dir(root.join("proc"))?
        .take(PROCESSES_MAX + 1_000)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .take(PROCESSES_MAX)
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The arguments of a process; empty for kernel threads and for those that are gone.
pub(crate) fn arguments(root: &Path, pid: u32) -> Vec<String> {
    nul_separated(&root.join(format!("proc/{pid}/cmdline")))
}

/// The environment of a process; empty where we may not read it.
pub(crate) fn environment(root: &Path, pid: u32) -> Vec<String> {
    nul_separated(&root.join(format!("proc/{pid}/environ")))
}

/// Start time in clock ticks since boot: with the pid, the name of one life of a process.
pub(crate) fn start_ticks(root: &Path, pid: u32) -> Option<u64> {
    let stat = read(&root.join(format!("proc/{pid}/stat")))?;
    let text = String::from_utf8_lossy(&stat);
    // The command may hold spaces and parentheses; the last one ends it. Then field 3 is the state, field 22 the start.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The last part of the program's name.
pub(crate) fn program(arguments: &[String]) -> &str {
    let first = arguments.first().map_or("", String::as_str);
    // k3s and others rewrite their command line into one word with spaces.
    let first = first.split(' ').next().unwrap_or("");
    first.rsplit('/').next().unwrap_or("")
}

/// An etcd, or a k3s or RKE2 with one inside; `None` for another program, a note for a k3s or RKE2 without.
pub(crate) fn any_member(root: &Path, pid: u32) -> Result<Option<Member>, String> {
    match member(root, pid) {
        Some(member) => Ok(Some(member)),
        None => rancher(root, pid),
    }
}

/// An etcd's settings, or `None` for another program.
fn member(root: &Path, pid: u32) -> Option<Member> {
    let arguments = arguments(root, pid);
    if program(&arguments) != "etcd" {
        return None;
    }
    let mut flags = Flags::from_arguments(arguments.get(1..).unwrap_or_default());
    let mut note = None;
    if fs::File::open(root.join(format!("proc/{pid}/environ"))).is_ok() {
        flags.add_environment(environment(root, pid).iter().map(String::as_str));
    } else if let Some((file, variables)) = environment_file(root) {
        flags.add_environment(variables.iter().map(String::as_str));
        note = Some(format!("the environment of etcd (pid {pid}) is not readable: {file} is taken for it"));
    } else {
        note =
            Some(format!("the environment of etcd (pid {pid}) is not readable: its flags alone are known"));
    }
    if let Some(text) = flags.get("config-file").and_then(|file| read(&visible(root, pid, Path::new(file)))) {
        flags = Flags::from_file(&String::from_utf8_lossy(&text));
    }
    Some(Member { pid, flags, rancher: false, note })
}

/// Whether a process has another network than we have: there loopback is another one. What cannot be read is taken for ours.
pub(super) fn is_apart(root: &Path, pid: u32) -> bool {
    let network = |who: &str| fs::read_link(root.join(format!("proc/{who}/ns/net"))).ok();
    network("self").zip(network(&pid.to_string())).is_some_and(|(ours, its)| ours != its)
}

/// A path as a process means it: on the node where it is there too, else through the process's own root.
pub(crate) fn visible(root: &Path, pid: u32, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let through = root.join(format!("proc/{pid}/root")).join(relative);
    let direct = root.join(relative);
    if !direct.exists() && through.exists() { through } else { direct }
}

/// The etcd processes of this node.
pub(super) fn members(environment: &Environment, discovery: &mut Discovery) -> Vec<Member> {
    let root = environment.root.as_path();
    let pids = match pids(root) {
        Ok(pids) => pids,
        Err(error) => {
            discovery.look("/proc", format!("not readable: {error}"));
            return Vec::new();
        }
    };
    let mut members = Vec::new();
    for pid in &pids {
        match any_member(root, *pid) {
            Ok(member) => {
                discovery.notes.extend(member.as_ref().and_then(|member| member.note.clone()));
                members.extend(member);
            }
            Err(note) => discovery.notes.push(note),
        }
    }
    discovery.look("/proc", format!("{} processes, {} etcd", pids.len(), members.len()));
    members
}

/// k3s or RKE2 as a server whose data directory holds an etcd.
fn rancher(root: &Path, pid: u32) -> Result<Option<Member>, String> {
    let arguments = arguments(root, pid);
    let Some((program, home)) = RANCHER.into_iter().find(|(name, _)| *name == program(&arguments)) else {
        return Ok(None);
    };
    let words: Vec<String> = arguments.iter().flat_map(|word| word.split(' ')).map(str::to_owned).collect();
    if words.get(1).map(String::as_str) != Some("server") {
        return Ok(None);
    }
    let given = Flags::from_arguments(words.get(2..).unwrap_or_default());
    let home = given.get("data-dir").or_else(|| given.get("d")).unwrap_or(home);
    let data = format!("{home}/server/db/etcd");
    let dir = root.join(data.trim_start_matches('/'));
    let name = read(&dir.join("name"));
    if name.is_none() && !dir.is_dir() {
        return Err(format!(
            "{program} (pid {pid}) runs without an etcd of its own that we can see in {data}"
        ));
    }
    let name = String::from_utf8_lossy(&name.unwrap_or_default()).trim().to_owned();
    let flags = Flags::from_arguments(&[
        format!("--name={name}"),
        format!("--data-dir={data}"),
        "--listen-client-urls=https://127.0.0.1:2379".to_owned(),
        "--listen-metrics-urls=http://127.0.0.1:2381".to_owned(),
        "--client-cert-auth=true".to_owned(),
        format!("--trusted-ca-file={home}/server/tls/etcd/server-ca.crt"),
    ]);
    Ok(Some(Member { pid, flags, rancher: true, note: None }))
}

/// The first environment file that is there, and its `NAME=value` lines.
fn environment_file(root: &Path) -> Option<(&'static str, Vec<String>)> {
    ENVIRONMENT_FILES.into_iter().find_map(|file| {
        let text = read(&root.join(file.trim_start_matches('/')))?;
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().map(|line| line.trim().trim_start_matches("export "));
        let variables =
            lines.filter(|line| line.starts_with("ETCD_")).map(|line| line.replace(['"', '\''], ""));
        Some((file, variables.collect()))
    })
}

fn nul_separated(path: &Path) -> Vec<String> {
    let bytes = read(path).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// At most [`TEXT_BYTES_MAX`] bytes of a file.
pub(crate) fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    #[test]
    fn the_start_is_read_behind_any_command_name() {
        let tree = Tree::new("start");
        tree.process(5, &["etcd"], &[], 4_711);
        assert_eq!(start_ticks(tree.root(), 5), Some(4_711));
        assert_eq!(start_ticks(tree.root(), 6), None);
        tree.file("proc/7/stat", "7 (x");
        assert_eq!(start_ticks(tree.root(), 7), None);
    }

    #[test]
    fn a_path_in_a_container_is_seen_through_its_root() {
        let tree = Tree::new("visible");
        tree.file("proc/5/root/etc/etcd/etcd.yaml", "name: inside");
        tree.file("proc/5/cmdline", "etcd\0--config-file=/etc/etcd/etcd.yaml\0");
        let member = member(tree.root(), 5).expect("a member");
        assert_eq!(member.flags.get("name"), Some("inside"));
        tree.file("etc/etcd/etcd.yaml", "name: outside");
        assert!(visible(tree.root(), 5, Path::new("/etc/etcd/etcd.yaml")).ends_with("etc/etcd/etcd.yaml"));
    }
}
