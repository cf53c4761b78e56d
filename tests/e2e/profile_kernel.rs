//! `agent --profile` by the kernel's samples: nobody in the target helps, and everybody on the node can be looked at.
//!
//! Who may not sample others may sample what is their own, so these stories hold for any user: the members are theirs.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    agent::{self, Agent, Finished},
    daemon::{self, Folder},
    etcd::{Cluster, Options, Version},
    process::Process,
};
use model::{
    profile::{ProfileKind, Stacks},
    time::Stamp,
};
use profile::gopprof;

/// Two seconds of profile, names, and the patience that a busy host asks for.
const SOON: Duration = Duration::from_secs(60);

fn profile(folder: &Folder, args: &[&str]) -> Result<Finished> {
    let mut all = vec!["--profile"];
    all.extend(args);
    Agent::run(folder.path(), &all, &[], SOON)
}

fn decoded(dir: &Path, file: &str) -> Result<Stacks> {
    let bytes = fs::read(dir.join(file)).with_context(|| format!("read {file}"))?;
    Ok(gopprof::decode(&bytes, ProfileKind::Cpu, Stamp::default())?.0)
}

fn names(stacks: &Stacks, begin: &str) -> bool {
    stacks.functions.iter().any(|function| function.name.starts_with(begin))
}

/// A shell that counts: it computes, and starts nobody.
const BUSY: &str = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; exit 7";

fn a_member(version: Version) -> Result<()> {
    let folder = Folder::new(&format!("kernel-{version}"))?;
    let cluster = Cluster::start(version, 1, &Options::default())?;
    let config = folder.write("agent.yaml", &daemon::named(&cluster, true))?;
    let out = folder.path().join("out");
    let args =
        ["--for", "3s", "--config", config.to_str().context("path")?, "--out", out.to_str().context("path")?];
    let over = std::sync::atomic::AtomicBool::new(false);
    let told = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                cluster.put("/busy", "again").ok();
            }
        });
        let told = profile(&folder, &args);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        told
    })?;
    ensure!(told.status.code() == Some(0), "{}", told.stderr);
    let answer = told.stdout.lines().next().context("no answer")?;
    ensure!(answer.starts_with("likely bottleneck: ") || answer.starts_with("not CPU: "), "{answer}");
    ensure!(told.stdout.contains(" at 99 Hz by the kernel"), "{}", told.stdout);
    ensure!(told.stdout.contains("sure of it: lost 0"), "{}", told.stdout);
    ensure!(
        told.stdout.contains("etcd serves one with --enable-pprof"),
        "why there is no heap: {}",
        told.stdout
    );
    let cpu = decoded(&out, "cpu.pb.gz")?;
    ensure!(names(&cpu, "go.etcd.io/") && names(&cpu, "runtime."), "{:?}", cpu.functions);
    ensure!(out.join("flame.html").exists() && out.join("cpu.folded").exists());
    Ok(())
}

#[test]
fn a_member_of_3_4_without_an_endpoint_is_profiled() {
    a_member(Version::V3_4).unwrap();
}

#[test]
fn a_member_of_3_7_without_an_endpoint_is_profiled() {
    a_member(Version::V3_7).unwrap();
}

#[test]
fn a_command_is_profiled_from_start_to_end_and_its_exit_code_passed_on() -> Result<()> {
    let folder = Folder::new("kernel-command")?;
    let told = profile(&folder, &["--hz", "499", "--out", "out", "--", "sh", "-c", BUSY])?;
    ensure!(told.status.code() == Some(7), "{:?} {}", told.status, told.stderr);
    ensure!(told.stdout.contains("command sh, ") && told.stdout.contains("exit code 7"), "{}", told.stdout);
    let cpu = decoded(&folder.path().join("out"), "cpu.pb.gz")?;
    let samples: i64 = cpu.samples.iter().map(|sample| sample.count).sum();
    ensure!(samples > 20, "{samples} samples of a shell that counts");
    ensure!(cpu.owners.iter().all(|owner| owner.cpu.is_some()), "where it ran: {:?}", cpu.owners);
    ensure!(!names(&cpu, "agent::"), "we are not in it: {:?}", cpu.functions);
    let missing = profile(&folder, &["--", "/no/such/program"])?;
    ensure!(missing.status.code() == Some(127), "{:?} {}", missing.status, missing.stderr);
    Ok(())
}

#[test]
fn any_process_is_profiled_and_an_interrupt_keeps_what_there_is() -> Result<()> {
    let folder = Folder::new("kernel-pid")?;
    let mut spinning = Command::new("sh");
    spinning.args(["-c", "while :; do :; done"]);
    let shell = Process::spawn("a shell that spins", spinning)?;
    let pid = shell.pid().to_string();
    let out = folder.path().join("out");
    let agent = Command::new(agent::binary()?)
        .args(["--profile", "-p", &pid, "--for", "60s", "--off-cpu", "--out"])
        .arg(&out)
        .stdout(Stdio::piped())
        .spawn()?;
    std::thread::sleep(Duration::from_secs(3));
    let interrupted = Command::new("sh").args(["-c", "kill -INT $0", &agent.id().to_string()]).status()?;
    let told = agent.wait_with_output()?;
    shell.kill()?;
    let text = String::from_utf8_lossy(&told.stdout);
    ensure!(interrupted.success() && told.status.code() == Some(0), "{:?} {text}", told.status);
    ensure!(text.contains(&format!("process sh (pid {pid}), ")) && text.contains(", interrupted"), "{text}");
    // Who may not see the scheduler at work, as most regular users may not, is told what it takes.
    let is_told = text.contains("waiting is not seen: ") && text.contains("cure: ");
    ensure!(text.contains("waiting: ") || is_told, "{text}");
    let cpu = decoded(&out, "cpu.pb.gz")?;
    ensure!(cpu.samples.iter().map(|sample| sample.count).sum::<i64>() > 20, "{text}");
    Ok(())
}

#[test]
fn who_is_not_there_or_not_ours_is_told() -> Result<()> {
    let folder = Folder::new("kernel-nobody")?;
    let gone = profile(&folder, &["-p", "4294967295"])?;
    ensure!(
        gone.status.code() == Some(69) && gone.stderr.contains("no process 4294967295"),
        "{}",
        gone.stderr
    );
    let container = profile(&folder, &["--container", "0123456789abcdef"])?;
    ensure!(container.status.code() == Some(69), "{}", container.stderr);
    let both = profile(&folder, &["-a", "-p", "1"])?;
    ensure!(both.status.code() == Some(2), "{}", both.stderr);
    let args = ["--profile", "-p", "1", "--for", "1s", "--out", "-"];
    let stranger = Agent::run_as_stranger(folder.path(), &args, &[], SOON)?;
    ensure!(stranger.status.code() == Some(77), "{:?} {}", stranger.status, stranger.stderr);
    ensure!(stranger.stderr.contains("cure: ") && stranger.stderr.contains("sudo "), "{}", stranger.stderr);
    Ok(())
}
