//! What operators do to a healthy cluster: move the leader, save a snapshot, compact, defragment. Real calls.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use etcd_client::{Client, ConnectOptions};
use harness::etcd::{Cluster, Member};

/// A defragmentation blocks its member for as long as it takes; here that is far below a second.
const CALL_MAX: Duration = Duration::from_secs(60);

/// One piece of work, by the member's place where it is one member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// To the next member in the order of names.
    LeaderMove,
    /// Saved to a file, as `etcdctl snapshot save` does.
    Snapshot,
    /// Up to the current revision.
    Compaction,
    /// Of the member with this number, from 1.
    Defragmentation(usize),
}

/// In the order of a careful operator; the time between them is the caller's.
pub(crate) const ALL: [Work; 6] = [
    Work::LeaderMove,
    Work::Snapshot,
    Work::Compaction,
    Work::Defragmentation(1),
    Work::Defragmentation(2),
    Work::Defragmentation(3),
];

impl Work {
    /// Does it, and says what was done.
    pub(crate) fn perform(self, cluster: &Cluster, dir: &Path) -> Result<String> {
        match self {
            Work::LeaderMove => {
                let from = cluster.leader()?;
                let members = cluster.members().iter();
                let to = members.cycle().skip_while(|member| member.name() != from.name()).nth(1);
                let to = to.context("nobody to lead")?;
                cluster.move_leader(to)?;
                Ok(format!("leader move from {} to {}", from.name(), to.name()))
            }
            Work::Snapshot => {
                let member = cluster.member(2)?;
                let bytes = ask(member, |client| snapshot(client, dir))?;
                Ok(format!("snapshot of {}, {bytes} bytes", member.name()))
            }
            Work::Compaction => {
                let member = cluster.member(1)?;
                let revision = i64::try_from(member.status()?.revision)?;
                ask(member, async |mut client| Ok(client.compact(revision, None).await.map(drop)?))?;
                Ok(format!("compaction at revision {revision}"))
            }
            Work::Defragmentation(number) => {
                let member = cluster.member(number)?;
                ask(member, async |mut client| Ok(client.defragment().await.map(drop)?))?;
                Ok(format!("defragmentation of {}", member.name()))
            }
        }
    }
}

fn ask<T>(member: &Member, act: impl AsyncFnOnce(Client) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = ConnectOptions::new().with_timeout(CALL_MAX);
        act(Client::connect([member.client_url()], Some(options)).await?).await
    })
}

async fn snapshot(mut client: Client, dir: &Path) -> Result<usize> {
    let mut saved = Vec::new();
    let mut stream = client.snapshot().await?;
    while let Some(part) = stream.message().await? {
        saved.extend_from_slice(part.blob());
    }
    fs::write(dir.join("snapshot.db"), &saved).context("save the snapshot")?;
    Ok(saved.len())
}
