//! The demo interrupted: whatever ends it, nothing that it started goes on or listens.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use harness::{
    agent::built,
    daemon::Folder,
    process::{Process, Signal, wait_until},
};

/// Three members, 30,000 keys, deployer, client and agent: about eight seconds on two idle cores.
const UP_MAX: Duration = Duration::from_secs(90);

/// The kernel kills them when the demo dies; a member's last fsync may hold it back for as long as that takes.
const GONE_MAX: Duration = Duration::from_secs(10);

/// A process of the story, by its working folder, which children inherit and a dead one has no longer.
#[derive(Debug)]
struct Running {
    name: String,
    /// Inodes of its sockets that somebody may connect to.
    listening: BTreeSet<String>,
}

fn running(dir: &Path) -> Vec<Running> {
    let listening = listening();
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let of_story = processes.filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == dir));
    let look = |process: PathBuf| Running {
        name: fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned(),
        listening: sockets(&process).intersection(&listening).cloned().collect(),
    };
    of_story.map(look).collect()
}

fn sockets(process: &Path) -> BTreeSet<String> {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    targets
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect()
}

/// Inodes of all TCP sockets of this host that listen.
fn listening() -> BTreeSet<String> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    // The fourth column is the state, 0A is LISTEN; the tenth is the inode.
    let of_line = |line: &str| {
        let mut columns = line.split_whitespace().skip(3);
        (columns.next()? == "0A").then(|| columns.nth(5).map(str::to_owned))?
    };
    tables.iter().flat_map(|table| table.lines().filter_map(of_line)).collect()
}

/// Everybody is there, and everybody who serves something listens.
fn is_up(story: &[Running]) -> bool {
    let listeners = |name: &str| {
        story.iter().filter(|process| process.name == name && !process.listening.is_empty()).count()
    };
    // The driver has the OTLP receiver, the deployer its webhook, and the client listens to nobody.
    let demos = story.iter().filter(|process| process.name == "demo").count();
    listeners("etcd") == 3 && listeners("agent") == 1 && listeners("demo") == 2 && demos == 3
}

/// Starts the demo, waits until all of it is up, ends it with `signal` and looks for what is left.
fn check(name: &str, wrap: impl FnOnce(&Path) -> Command, signal: Signal) {
    let folder = Folder::new(&format!("demo-{name}")).unwrap();
    let dir = fs::canonicalize(folder.path()).unwrap();
    // The demo reads the shipped configuration of the folder it is started in, and writes below it.
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy"), dir.join("deploy")).unwrap();
    let mut command = wrap(&built("demo").unwrap());
    let output = File::create(dir.join("output")).unwrap();
    command.current_dir(&dir).env("ETCD_VERSION", "3.5").stdout(output.try_clone().unwrap()).stderr(output);
    let demo = Process::spawn("demo", command).unwrap();
    let written = || fs::read_to_string(dir.join("output")).unwrap_or_default();
    let before = wait_until("the demo to be up", UP_MAX, || {
        assert_eq!(demo.exit_status()?, None, "the demo ended: {}", written());
        let story = running(&dir);
        Ok(is_up(&story).then_some(story))
    });
    let before = before.unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", running(&dir), written()));
    demo.signal(signal).unwrap();
    let gone = wait_until("everything to be gone", GONE_MAX, || Ok(running(&dir).is_empty().then_some(())));
    gone.unwrap_or_else(|error| panic!("{error:#}: {:?}", running(&dir)));
    assert!(!demo.wait(GONE_MAX).unwrap().success());
    let ports: BTreeSet<String> = before.into_iter().flat_map(|process| process.listening).collect();
    // A process that dies leaves its folder before the kernel has closed its sockets.
    let silent =
        wait_until("the sockets to close", GONE_MAX, || Ok(ports.is_disjoint(&listening()).then_some(())));
    silent.unwrap_or_else(|error| panic!("{error:#}: {ports:?}"));
}

#[test]
fn ctrl_c_at_the_terminal_ends_everything() {
    // The terminal signals the whole group: make, its shell and the demo. The members have groups of their own.
    let below_a_shell = |demo: &Path| {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg("\"$0\"; exit $?").arg(demo);
        shell
    };
    check("group", below_a_shell, Signal::Int);
}

#[test]
fn an_interrupt_of_the_demo_alone_ends_everything() {
    check("alone", |demo| Command::new(demo), Signal::Int);
}

#[test]
fn a_killed_demo_leaves_nothing_behind() {
    check("killed", |demo| Command::new(demo), Signal::Kill);
}
