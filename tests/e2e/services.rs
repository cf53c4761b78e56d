//! A service that is replaced under the agent's eyes: nobody says a word, and the rollout has the name of the new build.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    daemon::{Daemon, Seat, decision},
    process::{Process, wait_until},
};

/// The watch looks each second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A copy of the shell as `orders`, whose build id is these 20 bytes: a program of its own that waits for ever.
fn build(dir: &Path, id: [u8; 20]) -> Result<PathBuf> {
    let mut program = fs::read("/bin/sh").context("read the shell")?;
    // The note of GNU linkers: lengths of name and id, kind 3, the name.
    let note = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0];
    let at =
        program.windows(note.len()).position(|window| window == note).context("the shell has no build id")?;
    let place = program.get_mut(at + note.len()..).and_then(|rest| rest.get_mut(..id.len()));
    place.context("a torn note")?.copy_from_slice(&id);
    let path = dir.join("orders");
    // A running program's file cannot be written to; a new one takes its place, as a package manager does it.
    let new = dir.join("orders.new");
    fs::write(&new, program)?;
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::rename(&new, &path)?;
    Ok(path)
}

fn start(program: &Path) -> Result<Process> {
    let mut command = Command::new(program);
    command.args(["-c", "while :; do sleep 1; done", "--shard=eu"]);
    Process::spawn("orders", command)
}

fn marks(agent: &Daemon, kind: &str, n: u32) -> Result<()> {
    wait_until(&format!("{n} marks of kind {kind}"), SOON, || {
        Ok((agent.metric("agent_marks_total", kind)? >= f64::from(n)).then_some(()))
    })
    .with_context(|| format!("agent wrote: {}", agent.agent.stderr()))
}

/// The revision that is judged for `orders`, and whether a put-back was seen.
fn judged(agent: &Daemon, revision: &str) -> Result<()> {
    agent.wait_for(&format!("orders at {revision}"), SOON, |board| {
        let decision = decision(board, "orders")?;
        (decision.get("revision")?.as_str()? == revision).then_some(())
    })
}

fn is_replaced() -> Result<()> {
    let seat = Seat::new("services")?;
    let dir = seat.folder().path().to_owned();
    let programs = [(0x11, "11"), (0x22, "22")].map(|(byte, text)| (build(&dir, [byte; 20]), text.repeat(8)));
    let [(Ok(_), _), (Ok(program), _)] = &programs else { anyhow::bail!("{programs:?}") };
    build(&dir, [0x11; 20])?;
    seat.configure(&format!(
        "etcd: {{ discovery: false }}\nmarks:\n  services:\n    - {{ target: orders, command: {} --shard=eu }}\n",
        program.display()
    ))?;
    let mut running = start(program)?;
    let agent = seat.start(&[])?;
    // It has looked at least once: what runs then is no change.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(agent.metric("agent_marks_total", "")? == 0.0, "what ran before is no mark");

    drop(running);
    running = start(program)?;
    marks(&agent, "restart", 1)?;
    ensure!(agent.metric("agent_marks_total", "rollout")? == 0.0, "the same build is no rollout");

    build(&dir, [0x22; 20])?;
    drop(running);
    running = start(program)?;
    marks(&agent, "rollout", 1)?;
    judged(&agent, "2222222222222222")?;

    build(&dir, [0x11; 20])?;
    drop(running);
    running = start(program)?;
    marks(&agent, "rollout", 2)?;
    wait_until("the put-back to be told", SOON, || {
        let said = agent.agent.stderr();
        let put_back = said.lines().any(|line| {
            line.contains("a process changed")
                && line.contains("1111111111111111")
                && line.contains("rollback_of")
                && line.contains("2222222222222222")
        });
        Ok(put_back.then_some(()))
    })?;

    // Whoever announces it has the word: the agent sees the same change and does not name it after its build.
    seat.mark(&["--target", "orders", "--revision", "v3"])?;
    build(&dir, [0x33; 20])?;
    drop(running);
    let _running = start(program)?;
    wait_until("the announced change to be seen", SOON, || {
        Ok((agent.metric("agent_mark_skips_total", "announced")? >= 1.0).then_some(()))
    })?;
    judged(&agent, "v3")?;
    agent.stop()
}

#[test]
fn a_service_that_is_replaced_is_a_rollout_named_after_its_build() {
    is_replaced().unwrap();
}
