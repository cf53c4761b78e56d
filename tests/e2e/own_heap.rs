//! The running agent's own heap, as its owner gets it from the admin socket: a profile with names, and only where allowed.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    daemon::{self, Seat},
    etcd::{Cluster, Options, Version},
};
use model::{profile::ProfileKind, time::Stamp};
use profile::{counts, gopprof};

/// Names come from debug information, which takes seconds of a busy host.
const SOON: Duration = Duration::from_secs(30);

/// Status and body of a GET over the socket.
fn get(socket: &Path, path: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connect {}", socket.display()))?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no head")?;
    let head = String::from_utf8_lossy(answer.get(..end).context("no head")?).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok((status, answer.split_off(end + 4)))
}

fn is_told_to_its_owner() -> Result<()> {
    let cluster = Cluster::start(Version::V3_6, 1, &Options::default())?;
    let seat = Seat::new("own-heap")?;
    let socket = seat.folder().path().join("agent.sock");
    seat.configure(&daemon::named(&cluster, false))?;
    let agent = seat.start(&[])?;
    let (status, _) = get(&socket, "/heap")?;
    ensure!(status == 403, "not allowed, and answered with {status}");
    agent.stop()?;

    seat.configure(&format!("  self_profile: true\n{}", daemon::named(&cluster, false)))?;
    // One in 4 KiB: of a heap of a few MiB the usual one in 512 would be a handful.
    let agent = seat.start(&[("_RJEM_MALLOC_CONF", "lg_prof_sample:12")])?;
    agent.wait_for("the first probes", SOON, |board| {
        let (n, _) = daemon::probes(board, cluster.member(1).ok()?.name(), "linearizable_read")?;
        (n >= 3).then_some(())
    })?;
    ensure!(agent.get("/heap")?.status == 404, "over TCP");
    let (status, body) = get(&socket, "/heap")?;
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    let (stacks, rejects) = gopprof::decode(&body, ProfileKind::Heap, Stamp::default())?;
    ensure!(rejects == gopprof::Rejects::default(), "{rejects:?}");
    let counts = counts::of(&stacks);
    let has = |start: &str| counts.functions.iter().any(|function| function.name.starts_with(start));
    // Of the agent's doing, on tokio's tasks, and nothing of the allocator that took the stacks.
    ensure!(counts.total > 256 << 10 && counts.total < 1 << 30, "{} bytes", counts.total);
    ensure!(has("agent::") && has("tokio::"), "{:#?}", counts.functions);
    ensure!(!has("_rjem_") && !has("prof_"), "{:#?}", counts.functions);
    let is_nameless = |name: &str| name.starts_with('[');
    let nameless: u64 = counts
        .functions
        .iter()
        .filter(|function| is_nameless(&function.name))
        .map(|function| function.own)
        .sum();
    ensure!(nameless * 10 < counts.total, "{nameless} of {} bytes have no name", counts.total);
    agent.stop()
}

#[test]
fn the_agents_own_heap_is_told_to_its_owner_where_allowed() {
    is_told_to_its_owner().unwrap();
}
