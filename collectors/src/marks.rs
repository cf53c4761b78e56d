//! Sees processes start anew or change their build id, image or version. Owns what makes two lives of a process the same
//! revision; refuses to guess why: a change of revision is a rollout, a new life of the same revision a restart.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::inbox::{Inbox, NoPlace};
use model::ledger::Ledger;
use model::mark::{Mark, MarkKind, MarkSource};
use model::origin::Origin;
use model::record::{Fact, Record};
use model::time::Clock;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::target::Target;

mod announced;
mod build_id;
mod life;

pub use announced::Announced;
use life::{Fingerprint, Key, Lives};

/// Marks waiting for a place in the inbox: a few a deployment.
const MARKS_MAX: usize = 64;

/// Room that one record takes in the inbox.
const RECORD_BYTES: usize = 512;

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Between two looks; a process that lives shorter is not seen.
    pub interval: Duration,
    /// What stands before `/proc`.
    pub root: PathBuf,
    /// The targets.
    pub watched: Vec<Watched>,
}

/// One target: a member or a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The mark's target: a member's name, or a service's name as in its logs.
    pub target: String,
    /// Which processes are its.
    pub find: Find,
    /// Flags that carry the version, without dashes (`version`, `revision`); the first that is set counts.
    pub version_flags: Vec<String>,
    /// Variables that carry image or version (`IMAGE`); `service.version` in `OTEL_RESOURCE_ATTRIBUTES` counts by itself.
    pub version_variables: Vec<String>,
}

/// How the processes of a target are recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Find {
    /// The etcd process that discovery gives this name.
    Member(String),
    /// By program (the last part of its path; empty for any) and by words that its command line contains.
    Command {
        /// Program name.
        program: String,
        /// Each must occur in the arguments, joined by blanks.
        contains: Vec<String>,
    },
    /// The process whose id stands in this file.
    PidFile(PathBuf),
}

impl Default for Config {
    fn default() -> Config {
        Config { interval: Duration::from_secs(1), root: PathBuf::from("/"), watched: Vec::new() }
    }
}

impl Watched {
    /// The process of a member that runs on this node; `None` for members elsewhere.
    #[must_use]
    pub fn member(target: &Target) -> Option<Watched> {
        target.pid?;
        // By address where it is known: two clusters on one node may both have an m1.
        let address = target.client_url.as_deref().and_then(|url| Some(url.split_once("://")?.1.to_owned()));
        Some(Watched::new(&target.name, Find::Member(address.unwrap_or_else(|| target.name.clone()))))
    }

    /// A service, with the usual names of its version flag and variable.
    #[must_use]
    pub fn new(target: &str, find: Find) -> Watched {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Watched {
            target: target.to_owned(),
            find,
            version_flags: words(&["revision", "version"]),
            version_variables: words(&["CONTAINER_IMAGE", "IMAGE"]),
        }
    }
}

/// Watches the processes of its targets until it is told to stop.
#[derive(Debug)]
pub struct Watch {
    config: Config,
    clock: Clock,
    ledger: Ledger,
    lives: Lives,
    /// By place in the configuration: a service may be called like a member.
    known: Vec<Known>,
    announced: Announced,
}

/// What is known of one target.
#[derive(Clone, Debug, Default)]
struct Known {
    /// What ran at the last look; empty while nothing runs.
    running: BTreeMap<Key, Fingerprint>,
    /// What ran at the last look at which anything ran.
    last: Vec<Fingerprint>,
    /// Lives that ended and were not followed by another yet.
    ended: usize,
    /// The last rollout, while it can be put back: what ran before it, and its name.
    replaced: Option<(Vec<Fingerprint>, String)>,
}

/// What a look at one target found to have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    kind: MarkKind,
    revision: String,
    rollback_of: Option<String>,
}

impl Watch {
    /// A watch. The first look learns what runs; only changes from then on are marks.
    #[must_use]
    pub fn new(config: Config, clock: Clock, ledger: Ledger) -> Watch {
        let lives = Lives::new(&config.root);
        let known = vec![Known::default(); config.watched.len()];
        Watch { config, clock, ledger, lives, known, announced: Announced::default() }
    }

    /// What somebody announced in time is not told a second time, under another revision's name.
    #[must_use]
    pub fn knowing(mut self, announced: Announced) -> Watch {
        self.announced = announced;
        self
    }

    /// Looks each interval until `cancel`, or until the engine has gone. `origin` names the node.
    pub async fn run(mut self, origin: Arc<Origin>, inbox: Inbox, cancel: CancellationToken) {
        if self.config.watched.is_empty() {
            cancel.cancelled().await;
            return;
        }
        let mut ticks = interval(self.config.interval.max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting: Vec<Record> = Vec::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let at = self.clock.now();
            for mark in self.look() {
                if mark.kind == MarkKind::Rollout && self.announced.explains(&mark.target, at) {
                    self.ledger.add("agent_mark_skips_total", "announced", 1);
                    continue;
                }
                let Mark { target, revision, rollback_of, .. } = &mark;
                tracing::info!(%target, %revision, rollback_of, kind = kind(mark.kind), "a process changed");
                self.ledger.add("agent_marks_total", kind(mark.kind), 1);
                waiting.push(Record { at, origin: Arc::clone(&origin), fact: Fact::Mark(mark) });
            }
            // A mark is not made up for by the next look: it waits for its place, and keeps its stamp.
            while let Some(record) = waiting.first() {
                match inbox.reserve(RECORD_BYTES) {
                    Ok(place) => {
                        place.send(record.clone());
                        waiting.remove(0);
                    }
                    Err(NoPlace::Full) => break,
                    Err(NoPlace::Closed) => return,
                }
            }
            let over = waiting.len().saturating_sub(MARKS_MAX);
            self.ledger.add("agent_mark_drops_total", "inbox_full", u64::try_from(over).unwrap_or(u64::MAX));
            waiting.drain(..over);
        }
    }

    /// One look at all processes: what changed since the last.
    fn look(&mut self) -> Vec<Mark> {
        let Some(found) = self.lives.look(&self.config.watched) else {
            self.ledger.add("agent_mark_skips_total", "proc_unreadable", 1);
            return Vec::new();
        };
        let pairs = self.config.watched.iter().zip(&mut self.known).zip(found);
        let marks = pairs.filter_map(|((watched, known), now)| {
            let Change { kind, revision, rollback_of } = known.advance(now)?;
            let target = watched.target.clone();
            Some(Mark { target, revision, kind, rollback_of, source: MarkSource::Observed })
        });
        marks.collect()
    }
}

impl Known {
    /// Takes what runs now; what that means, if anything.
    ///
    /// A life of a revision that did not run before is a rollout. One of a known revision is a restart when it takes the place
    /// of one that ended; with none ended it is a further process (a worker, a scale-out) and means nothing.
    fn advance(&mut self, now: BTreeMap<Key, Fingerprint>) -> Option<Change> {
        let fresh: Vec<(&Key, &Fingerprint)> =
            now.iter().filter(|(key, print)| self.running.get(*key) != Some(*print)).collect();
        self.ended += self.running.keys().filter(|key| !now.contains_key(*key)).count();
        let newest = fresh.iter().max_by_key(|(key, _)| key.start).map(|(_, print)| (*print).clone());
        let changed =
            fresh.iter().filter(|(_, print)| !self.last.contains(*print)).max_by_key(|(key, _)| key.start);
        let change = match (changed, newest) {
            _ if self.last.is_empty() => None,
            (Some((_, print)), _) => Some(self.roll_out(print)),
            (None, Some(print)) if self.ended > 0 => {
                Some(Change { kind: MarkKind::Restart, revision: print.revision(), rollback_of: None })
            }
            (None, _) => None,
        };
        self.ended = self.ended.saturating_sub(fresh.len());
        if !now.is_empty() {
            self.last = now.values().cloned().collect();
            self.last.dedup();
        }
        self.running = now;
        change
    }

    /// A revision that did not run at the last look. What ran before the last rollout and runs again puts that one back; the
    /// one that was put back and comes a second time is a rollout like any other.
    fn roll_out(&mut self, print: &Fingerprint) -> Change {
        let revision = print.revision_after(&self.last);
        let rollback_of =
            self.replaced.take().filter(|(before, _)| before.contains(print)).map(|(_, bad)| bad);
        if rollback_of.is_none() {
            self.replaced = Some((self.last.clone(), revision.clone()));
        }
        Change { kind: MarkKind::Rollout, revision, rollback_of }
    }
}

/// The ledger's word for a kind.
fn kind(kind: MarkKind) -> &'static str {
    match kind {
        MarkKind::Rollout => "rollout",
        MarkKind::Restart => "restart",
        MarkKind::Planned => "planned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::fixture::Tree;

    fn watch(tree: &Tree, find: Find) -> Watch {
        let watched = vec![Watched::new("client", find)];
        let config = Config { root: tree.root().to_owned(), watched, ..Config::default() };
        Watch::new(config, Clock::new(model::time::Stamp::default), Ledger::default())
    }

    fn client() -> Find {
        Find::Command { program: "client".to_owned(), contains: vec!["--workers".to_owned()] }
    }

    fn seen(watch: &mut Watch) -> Vec<(MarkKind, String)> {
        watch.look().into_iter().map(|mark| (mark.kind, mark.revision)).collect()
    }

    fn start(tree: &Tree, pid: u32, revision: &str, ticks: u64) {
        tree.process(pid, &["/opt/client", "--workers", "8", "--revision", revision], &[], ticks);
    }

    #[test]
    fn what_runs_at_the_start_is_no_change() {
        let tree = Tree::new("marks-start");
        start(&tree, 5, "v1", 100);
        let mut watch = watch(&tree, client());
        assert_eq!(seen(&mut watch), []);
        assert_eq!(seen(&mut watch), []);
    }

    #[test]
    fn a_new_life_is_a_restart_and_a_new_revision_a_rollout() {
        let tree = Tree::new("marks-lives");
        start(&tree, 5, "v1", 100);
        let mut watch = watch(&tree, client());
        assert_eq!(seen(&mut watch), []);
        tree.end(5);
        assert_eq!(seen(&mut watch), []);
        start(&tree, 6, "v1", 200);
        assert_eq!(seen(&mut watch), [(MarkKind::Restart, "v1".to_owned())]);
        // The same pid again, started later.
        start(&tree, 6, "v1", 300);
        assert_eq!(seen(&mut watch), [(MarkKind::Restart, "v1".to_owned())]);
        tree.end(6);
        start(&tree, 7, "v2", 400);
        assert_eq!(seen(&mut watch), [(MarkKind::Rollout, "v2".to_owned())]);
        tree.end(7);
        start(&tree, 8, "v1", 500);
        assert_eq!(seen(&mut watch), [(MarkKind::Rollout, "v1".to_owned())]);
        assert_eq!(seen(&mut watch), []);
    }

    #[test]
    fn what_ran_before_and_runs_again_is_a_put_back() {
        let tree = Tree::new("marks-back");
        start(&tree, 5, "v1", 100);
        let mut watch = watch(&tree, client());
        assert_eq!(seen(&mut watch), []);
        let mut next = |revision: &str, ticks: u64| {
            start(&tree, 5, revision, ticks);
            let marks: Vec<_> =
                watch.look().into_iter().map(|mark| (mark.revision, mark.rollback_of)).collect();
            marks
        };
        let rollout = |revision: &str| [(revision.to_owned(), None)];
        let put_back = |revision: &str, of: &str| [(revision.to_owned(), Some(of.to_owned()))];
        assert_eq!(next("v2", 200), rollout("v2"));
        assert_eq!(next("v1", 300), put_back("v1", "v2"));
        assert_eq!(next("v2", 400), rollout("v2"), "a second try is judged again");
        assert_eq!(next("v3", 500), rollout("v3"));
        assert_eq!(next("v1", 600), rollout("v1"), "not what ran before v3");
    }

    #[test]
    fn a_service_that_is_called_like_a_member_is_kept_apart() {
        let tree = Tree::new("marks-namesakes");
        tree.process(9, &["etcd", "--name", "client"], &[], 7);
        start(&tree, 5, "v1", 100);
        let find = [Find::Member("client".to_owned()), client()];
        let watched = find.map(|find| Watched::new("client", find)).to_vec();
        let config = Config { root: tree.root().to_owned(), watched, ..Config::default() };
        let mut watch = Watch::new(config, Clock::new(model::time::Stamp::default), Ledger::default());
        assert_eq!(seen(&mut watch), []);
        assert_eq!(seen(&mut watch), []);
        start(&tree, 5, "v1", 200);
        assert_eq!(seen(&mut watch), [(MarkKind::Restart, "v1".to_owned())]);
    }

    #[test]
    fn a_rolling_change_is_one_rollout_and_a_further_worker_is_nothing() {
        let tree = Tree::new("marks-rolling");
        start(&tree, 5, "v1", 100);
        start(&tree, 6, "v1", 101);
        let mut watch = watch(&tree, client());
        assert_eq!(seen(&mut watch), []);
        start(&tree, 7, "v1", 200);
        assert_eq!(seen(&mut watch), [], "a further worker");
        start(&tree, 8, "v2", 300);
        assert_eq!(seen(&mut watch), [(MarkKind::Rollout, "v2".to_owned())]);
        start(&tree, 9, "v2", 301);
        assert_eq!(seen(&mut watch), [], "the second one of the new revision");
        for pid in [5, 6, 7] {
            tree.end(pid);
        }
        assert_eq!(seen(&mut watch), []);
    }

    #[test]
    fn an_image_label_and_a_build_id_are_revisions_too() {
        let tree = Tree::new("marks-image");
        let arguments = ["/opt/client", "--workers"];
        tree.process(5, &arguments, &["IMAGE=client:1"], 1);
        let mut by_image = watch(&tree, client());
        assert_eq!(seen(&mut by_image), []);
        tree.process(5, &arguments, &["OTEL_RESOURCE_ATTRIBUTES=a=b,service.version=2"], 2);
        assert_eq!(seen(&mut by_image), [(MarkKind::Rollout, "2".to_owned())]);
        tree.process(5, &arguments, &[], 3).file("proc/5/exe", &build_id::tests::elf("ab", "x"));
        let named = seen(&mut by_image);
        assert_eq!(named.len(), 1);
        tree.process(5, &arguments, &[], 4).file("proc/5/exe", &build_id::tests::elf("cd", "x"));
        let named_again = seen(&mut by_image);
        assert!(
            named_again.iter().all(|(kind, revision)| *kind == MarkKind::Rollout && revision == "6364"),
            "{named_again:?}"
        );
    }

    #[test]
    fn a_pid_file_and_a_member_are_followed() {
        let tree = Tree::new("marks-find");
        tree.file("run/x.pid", "5\n").process(5, &["anything"], &[], 1);
        let mut by_file = watch(&tree, Find::PidFile(tree.root().join("run/x.pid")));
        assert_eq!(seen(&mut by_file), []);
        tree.file("run/x.pid", "6").process(6, &["anything"], &[], 2).end(5);
        assert_eq!(seen(&mut by_file).len(), 1);
        tree.process(9, &["etcd", "--name", "m1"], &[], 7).process(10, &["etcd", "--name", "m2"], &[], 7);
        let mut by_name = watch(&tree, Find::Member("m1".to_owned()));
        assert_eq!(seen(&mut by_name), []);
        tree.process(10, &["etcd", "--name", "m2"], &[], 70);
        assert_eq!(seen(&mut by_name), [], "another member");
        tree.process(9, &["etcd", "--name", "m1"], &[], 71);
        assert_eq!(seen(&mut by_name).first().map(|(kind, _)| *kind), Some(MarkKind::Restart));
    }

    #[test]
    fn a_process_that_becomes_ours_by_exec_is_seen() {
        let tree = Tree::new("marks-exec");
        tree.process(5, &["sh", "-c", "start"], &[], 1);
        let mut watch = watch(&tree, client());
        assert_eq!(seen(&mut watch), []);
        start(&tree, 5, "v1", 1);
        assert_eq!(seen(&mut watch), [], "its first life");
        start(&tree, 5, "v2", 1);
        assert_eq!(
            seen(&mut watch),
            [(MarkKind::Rollout, "v2".to_owned())],
            "exec of a new revision in place"
        );
    }
}
