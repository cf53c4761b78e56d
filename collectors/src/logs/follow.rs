//! The source: polls the files, sends what they gave, keeps the checkpoint. Owns the rhythm; the files are `tail`'s.
//!
//! A poll is one stat and one fstat a file, 5 times a second, off the runtime's thread: a log disk that stalls must not make
//! the probes late. inotify would save those two calls a file and cost a second path to rotation.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::inbox::Inbox;
use model::ledger::Ledger;
use model::origin::Origin;
use model::record::{Fact, Record};
use model::time::{Clock, SECOND_NS};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::logs::checkpoint::Mark;
use crate::logs::followed::{Owner, Parsed};
use crate::logs::tail::Tail;
use crate::logs::{Config, checkpoint};
use crate::target::Identity;

/// How late a line may be read.
const POLL: Duration = Duration::from_millis(200);
/// Checkpoints are grouped: they may share a disk with etcd's write-ahead log.
const CHECKPOINT_NS: u64 = 10 * SECOND_NS;
/// Polls after the stop in which the exporter may still say what became of the last batches: eight seconds, longer than it
/// drains and shorter than the agent waits for its parts. It says so of each, so this is rarely spent.
const LAST_WORDS: u32 = 40;

/// Follows files until it is stopped.
#[derive(Debug)]
pub struct Follower {
    tail: Tail,
    checkpoint: Option<PathBuf>,
    /// What was written last: a silent log costs no write.
    saved: Vec<Mark>,
    clock: Clock,
    ledger: Ledger,
}

impl Follower {
    /// `config.files` are logs of services on this node; `members` are logs that one etcd member each writes.
    #[must_use]
    pub fn new(
        config: Config,
        node: &Arc<Origin>,
        members: Vec<(PathBuf, Identity)>,
        tools: (Clock, Ledger),
    ) -> Follower {
        let (clock, ledger) = tools;
        let checkpoint = config.checkpoint.clone();
        let members = members.into_iter().map(|(path, identity)| (path, Owner::Member(identity)));
        let services = config.files.iter().map(|path| (path.clone(), Owner::Node(Arc::clone(node))));
        // Members first: a pattern that also matches a member's file finds it taken.
        let sources = members.chain(services).collect();
        Follower {
            tail: Tail::new(config, sources, ledger.clone()),
            checkpoint,
            saved: Vec::new(),
            clock,
            ledger,
        }
    }

    /// Reads until `stop`, then waits for the last receipts and writes the checkpoint: behind it is what a receiver has, or
    /// what was given up for a counted reason.
    pub async fn run(mut self, inbox: Inbox, stop: CancellationToken) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saved_ns = self.clock.now().mono_ns;
        let mut more = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = poll.tick(), if !more => {}
                () = std::future::ready(()), if more => {}
            }
            let now = self.clock.now();
            let mut tail = self.tail;
            let worked = tokio::task::spawn_blocking(move || {
                let pass = tail.pass(now);
                (tail, pass)
            });
            let Ok((tail, pass)) = worked.await else { return };
            self.tail = tail;
            more = pass.more;
            for parsed in pass.batches {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => parsed.batch.receipt.lose(),
                    open = send(&inbox, &self.clock, &parsed) => if !open { return },
                }
            }
            let begun = self.tail.take_begun();
            if begun || now.mono_ns.saturating_sub(saved_ns) >= CHECKPOINT_NS {
                self = self.save().await;
                saved_ns = now.mono_ns;
            }
        }
        drop(inbox);
        for _ in 0..LAST_WORDS {
            if self.tail.settle(self.clock.now()).ranges == 0 {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        self.save().await;
    }

    async fn save(mut self) -> Follower {
        let Some(path) = self.checkpoint.clone() else { return self };
        let marks = self.tail.marks();
        if marks == self.saved {
            return self;
        }
        self.saved.clone_from(&marks);
        let written = tokio::task::spawn_blocking(move || checkpoint::save(&path, marks)).await;
        if let Ok(Err(error)) = written {
            self.saved.clear(); // so that the next round tries again
            self.ledger.add("agent_logs_checkpoint_errors_total", "io", 1);
            warn!(%error, "log checkpoint not written");
        }
        self
    }
}

/// Whether the engine is still there.
async fn send(inbox: &Inbox, clock: &Clock, parsed: &Parsed) -> bool {
    let Ok(place) = inbox.wait(parsed.bytes).await else {
        parsed.batch.receipt.lose();
        return false;
    };
    let origin = Arc::clone(&parsed.origin);
    place.send(Record { at: clock.now(), origin, fact: Fact::Logs(parsed.batch.clone()) });
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use model::time::Stamp;

    use super::*;
    use crate::logs::StartAt;

    #[tokio::test(start_paused = true)]
    async fn lines_become_records_and_the_checkpoint_is_private() {
        let dir = std::env::temp_dir().join(format!("agent-follow-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let log = dir.join("m1.log");
        std::fs::write(
            &log,
            "{\"level\":\"warn\",\"ts\":\"2026-11-20T12:00:00Z\",\"caller\":\"c\",\"msg\":\"m\"}\n",
        )
        .unwrap();
        let config = Config {
            start_at: StartAt::Beginning,
            checkpoint: Some(dir.join("offsets.json")),
            ..Config::default()
        };
        let identity = Identity::new("node", "m1", "http://127.0.0.1:2379");
        let clock = Clock::new(|| Stamp { mono_ns: 5, wall_ns: 7 });
        let node = Arc::new(Origin::default());
        let follower = Follower::new(config, &node, vec![(log, identity)], (clock, Ledger::default()));
        let (inbox, mut records) = Inbox::new(4, 64);
        let stop = CancellationToken::new();
        let reader = async {
            let envelope = records.recv().await.unwrap();
            assert_eq!(envelope.record.origin.member_name(), "m1");
            let Fact::Logs(batch) = &envelope.record.fact else { panic!() };
            assert_eq!((batch.lines, batch.events.len()), (1, 1));
            // The clock stands still: it is the new file that makes a checkpoint due, and its line is not safe yet.
            while !dir.join("offsets.json").exists() {
                tokio::time::sleep(POLL).await;
            }
            assert_eq!(checkpoint::load(&dir.join("offsets.json"))[0].offset, 0);
            batch.receipt.take();
            stop.cancel();
        };
        tokio::join!(follower.run(inbox, stop.clone()), reader);
        let saved = checkpoint::load(&dir.join("offsets.json"));
        assert!(saved[0].offset > 0, "{saved:?}");
        let mode = std::fs::metadata(dir.join("offsets.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
