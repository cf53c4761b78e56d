//! Faster probes for a while, as an operator asks for them: told, shown, bounded, and over by themselves.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{
    daemon::{self, Daemon, Seat},
    etcd::{Cluster, Options, Version},
    process::wait_until,
};

const SOON: Duration = Duration::from_secs(30);

/// Probes that the agent has sent.
fn sent(agent: &Daemon) -> Result<f64> {
    agent.metric("agent_probes_total", "")
}

fn is_boosted(board: &serde_json::Value) -> Option<bool> {
    let warnings = board.get("warnings")?.as_array()?;
    Some(
        warnings
            .iter()
            .filter_map(|warning| warning.as_str())
            .any(|warning| warning.contains("10 times as fast")),
    )
}

fn comes_and_goes() -> Result<()> {
    let cluster = Cluster::start(Version::V3_5, 1, &Options::default())?;
    let seat = Seat::new("boost")?;
    seat.configure(&daemon::named(&cluster, false))?;
    let agent = seat.start(&[])?;
    agent.wait_for("the first probes", SOON, |board| {
        let (n, _) = daemon::probes(board, cluster.member(1).ok()?.name(), "linearizable_read")?;
        (n >= 1).then_some(())
    })?;
    let socket = seat.folder().path().join("agent.sock").display().to_string();
    let boost = |args: &[&str]| {
        let all: Vec<&str> = ["boost", "--socket", &socket].iter().chain(args).copied().collect();
        seat.command(&all, &[])
    };
    for (args, code) in [
        (&["--factor", "41", "--for", "5s"][..], 65),
        (&["--factor", "10", "--for", "16m"], 65),
        (&["--factor", "10", "--for", "a&b"], 65),
        (&["--factor", "10", "--for", "5s", "--off"], 2),
    ] {
        let refused = boost(args)?;
        ensure!(refused.status.code() == Some(code), "{args:?}: {refused:?}");
    }
    let before = sent(&agent)?;
    let taken = boost(&["--factor", "10", "--for", "6s"])?;
    ensure!(taken.status.success() && taken.stdout.contains("10 times"), "{taken:?}");
    agent.wait_for("the boost", SOON, |board| is_boosted(board).filter(|boosted| *boosted))?;
    // 1.1 a second would be 7 in that time.
    wait_until("thirty probes", Duration::from_secs(6), || {
        Ok((sent(&agent)? - before >= 30.0).then_some(()))
    })?;
    agent.wait_for("its end", SOON, |board| is_boosted(board).filter(|boosted| !boosted))?;
    std::thread::sleep(Duration::from_secs(1));
    let over = sent(&agent)?;
    std::thread::sleep(Duration::from_secs(5));
    let after = sent(&agent)? - over;
    ensure!((2.0..=10.0).contains(&after), "{after} probes in 5 s after the end");
    ensure!(agent.agent.stderr().contains("probing at another rate"), "{}", agent.agent.stderr());
    agent.stop()
}

#[test]
fn an_operator_boosts_the_probes_for_a_few_seconds() {
    comes_and_goes().unwrap();
}
