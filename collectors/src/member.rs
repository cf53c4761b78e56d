//! Asks each member for its own account: status, list, alarms, hash. Owns what is asked and when; refuses to compare members:
//! that is the engine's work.
//!
//! Alarms are read from the errors field of Status, where etcd lists every alarm that is raised, and not with the Alarm call:
//! that one goes through raft, so each look would be a write to all members and would hang without a quorum. Where the
//! prober asks Status too, its answers are taken and the member is not asked twice.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error, HashKvResponse, MemberListResponse, StatusResponse};
use model::inbox::{Inbox, NoPlace};
use model::ledger::Ledger;
use model::member::{HashKv, ListedMember, MemberFact, MemberState};
use model::probe::ProbeOutcome;
use model::record::{Fact, Record};
use model::time::{Clock, SECOND_NS, Stamp};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::etcd::Connection;
use crate::etcd::outcome::{self, Admission};
use crate::target::{Identity, Target, Told};

/// Status and MemberList are answered from memory; a member that takes longer says enough by it.
const DEADLINE: Duration = Duration::from_secs(2);

/// HashKV walks the whole key space: about 80 ms for each 100 MB, so this is enough for the largest quota etcd suggests.
const HASH_DEADLINE: Duration = Duration::from_secs(30);

/// The list changes when somebody changes the cluster: every third round keeps a member below 2 requests/s in all (1.95 + 0.03, as the prober's Status is shared).
const LIST_EVERY: u32 = 3;

/// Members, alarms and errors kept of one answer: clusters have 3 to 7 members.
const ENTRIES_MAX: usize = 64;

/// Characters kept of one name, URL or error text.
const TEXT_MAX: usize = 512;

/// Room that one record takes in the inbox.
const RECORD_BYTES: usize = 4 * 1024;

/// How often a member is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Between two rounds.
    pub interval: Duration,
    /// Between two HashKV calls; `None` where it is not configured: it costs the member 80 ms per 100 MB.
    pub hash_kv: Option<Duration>,
}

impl Default for Config {
    fn default() -> Config {
        Config { interval: Duration::from_secs(10), hash_kv: None }
    }
}

/// Asks one member until it is told to stop.
#[derive(Debug)]
pub struct MemberWatch {
    config: Config,
    connection: Arc<Mutex<Connection>>,
    admission: Admission,
    has_url: bool,
    identity: Identity,
    clock: Clock,
    ledger: Ledger,
    rounds: u32,
    /// The list of the last round that had one.
    members: Vec<ListedMember>,
    /// The period of wall time in which the last hash was asked for.
    hashed: Option<u64>,
}

/// Why a member is silent: the fixed word and what was seen.
type Silence = (&'static str, String);

impl MemberWatch {
    /// A watch of one member. A target without a client URL is not asked: [`MemberWatch::run`] then only waits for its end.
    #[must_use]
    pub fn new(target: &Target, config: Config, clock: Clock, ledger: Ledger) -> MemberWatch {
        let connection = Connection::new(target);
        MemberWatch {
            config,
            admission: connection.admission(),
            has_url: connection.has_url(),
            connection: Arc::new(Mutex::new(connection)),
            identity: target.identity.clone(),
            clock,
            ledger,
            rounds: 0,
            members: Vec::new(),
            hashed: None,
        }
    }

    /// Asks each interval until `cancel`, or until the engine has gone.
    pub async fn run(self, inbox: Inbox, cancel: CancellationToken) {
        if !self.has_url {
            cancel.cancelled().await;
            return;
        }
        let (session, connection) = (self.admission.session(), Arc::clone(&self.connection));
        let stop = cancel.child_token();
        let keeping = session.keep(&connection, &stop);
        let asking = async {
            self.rounds(inbox, &stop).await;
            stop.cancel();
        };
        tokio::join!(asking, keeping);
    }

    async fn rounds(mut self, inbox: Inbox, cancel: &CancellationToken) {
        let mut ticks = interval(self.config.interval.max(Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = self.identity.told();
        // The last round, and the last one that the prober's answer made.
        let (mut last, mut fed): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            let within = |past: Option<Instant>, share: f64| {
                past.is_some_and(|past| past.elapsed() < self.config.interval.mul_f64(share))
            };
            let given = tokio::select! {
                () = cancel.cancelled() => return,
                Ok(()) = told.changed() => told.borrow_and_update().clone().filter(|_| !within(last, 0.8)),
                _ = ticks.tick() => None,
            };
            // While the prober feeds us, our own beat asks nothing; it starts again when an answer is overdue.
            if given.is_none() && (within(fed, 1.2) || within(last, 0.8)) {
                continue;
            }
            let place = match inbox.reserve(RECORD_BYTES) {
                Ok(place) => place,
                Err(NoPlace::Full) => {
                    self.ledger.add("agent_member_skips_total", "inbox_full", 1);
                    continue;
                }
                Err(NoPlace::Closed) => return,
            };
            last = Some(Instant::now());
            fed = given.as_ref().and(last).or(fed);
            let (at, asked) = tokio::select! {
                () = cancel.cancelled() => return,
                round = self.round(given) => round,
            };
            let fact = match asked {
                Ok(state) => MemberFact::Answered(Box::new(state)),
                Err((reason, detail)) => {
                    self.ledger.add("agent_member_silent_total", reason, 1);
                    MemberFact::Silent { reason: reason.to_owned(), detail: cut(&detail) }
                }
            };
            place.send(Record { at, origin: self.identity.origin(), fact: Fact::Member(fact) });
        }
    }

    /// One round: the Status that was given, or one that is asked for, and what belongs to it.
    async fn round(&mut self, given: Option<Told>) -> (Stamp, Result<MemberState, Silence>) {
        self.admission.session().settled().await;
        match given {
            Some((at, state)) => (at, self.complete(at, state).await),
            None => {
                let at = self.clock.now();
                (at, self.ask(at).await)
            }
        }
    }

    async fn client(&mut self) -> Result<Client, Silence> {
        self.connection.lock().await.client().await.map_err(|error| (error.reason(), error.to_string()))
    }

    async fn ask(&mut self, at: Stamp) -> Result<MemberState, Silence> {
        let mut maintenance = self.client().await?.maintenance_client();
        let state = state(&answer(&self.admission, DEADLINE, maintenance.status()).await?);
        self.identity.learn(state.cluster_id, state.id);
        self.complete(at, state).await
    }

    async fn complete(&mut self, at: Stamp, mut state: MemberState) -> Result<MemberState, Silence> {
        let client = self.client().await?;
        if self.rounds.is_multiple_of(LIST_EVERY) || self.members.is_empty() {
            self.list(&client).await;
        }
        self.rounds = self.rounds.wrapping_add(1);
        state.members.clone_from(&self.members);
        state.hash = self.hash(&client, at, state.revision).await;
        Ok(state)
    }

    /// Brings the list up to date; one that does not come leaves the old one and is counted.
    async fn list(&mut self, client: &Client) {
        let mut cluster = client.cluster_client();
        match answer(&self.admission, DEADLINE, cluster.member_list()).await {
            Ok(list) => self.members = listed(&list),
            Err((reason, detail)) => {
                self.ledger.add("agent_member_list_errors_total", reason, 1);
                tracing::debug!(reason, detail, "member list failed");
            }
        }
    }

    /// HashKV, once in each period of wall time, so that all members are asked at nearly the same instant.
    async fn hash(&mut self, client: &Client, at: Stamp, revision: u64) -> Option<HashKv> {
        let period = period(at.wall_ns, self.config.hash_kv?);
        // The first round only notes the period: an agent that restarts must not hash at each start.
        if self.hashed.replace(period).is_none_or(|last| last == period) {
            return None;
        }
        let pinned = pinned(revision);
        let asked = i64::try_from(pinned).unwrap_or(i64::MAX);
        let mut maintenance = client.maintenance_client();
        match answer(&self.admission, HASH_DEADLINE, maintenance.hash_kv(asked)).await {
            Ok(hashed) => Some(hash(&hashed, pinned)),
            Err((reason, detail)) => {
                self.ledger.add("agent_member_hash_errors_total", reason, 1);
                tracing::debug!(reason, detail, "hash failed");
                None
            }
        }
    }
}

async fn answer<T>(
    admission: &Admission,
    deadline: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Silence> {
    match timeout(deadline, call).await {
        Ok(Ok(answer)) => {
            admission.admitted();
            Ok(answer)
        }
        Ok(Err(error)) => Err((outcome::label(&admission.outcome(&error)), outcome::chain(&error))),
        Err(_) => Err((outcome::label(&ProbeOutcome::TimedOut), format!("no answer within {deadline:?}"))),
    }
}

pub(crate) fn state(status: &StatusResponse) -> MemberState {
    let header = status.header();
    let quota = size(status.db_size_quota());
    MemberState {
        id: header.map_or(0, |header| header.member_id()),
        cluster_id: header.map_or(0, |header| header.cluster_id()),
        version: cut(status.version()),
        leader: status.leader(),
        raft_term: status.raft_term(),
        raft_index: status.raft_index(),
        raft_applied_index: status.raft_applied_index(),
        db_size_bytes: size(status.db_size()),
        db_in_use_bytes: size(status.raft_used_db_size()),
        quota_bytes: (quota > 0).then_some(quota),
        revision: header.map_or(0, |header| size(header.revision())),
        learner: status.is_learner(),
        alarms: status.errors().iter().take(ENTRIES_MAX).filter_map(|error| alarm(error)).collect(),
        errors: status.errors().iter().take(ENTRIES_MAX).map(|error| cut(error)).collect(),
        members: Vec::new(),
        hash: None,
    }
}

fn listed(list: &MemberListResponse) -> Vec<ListedMember> {
    let mut members: Vec<ListedMember> = list
        .members()
        .iter()
        .take(ENTRIES_MAX)
        .map(|member| ListedMember {
            id: member.id(),
            name: cut(member.name()),
            client_urls: member.client_urls().iter().take(ENTRIES_MAX).map(|url| cut(url)).collect(),
            learner: member.is_learner(),
        })
        .collect();
    members.sort();
    members
}

fn hash(hashed: &HashKvResponse, pinned: u64) -> HashKv {
    HashKv { revision: pinned, compact_revision: size(hashed.compact_version()), hash: hashed.hash() }
}

/// `memberID:10276657743932975437 alarm:NOSPACE`, with any white space: the text form of etcd's message, which the protobuf
/// library may space as it likes. `None` for other errors (`etcdserver: no leader`).
fn alarm(error: &str) -> Option<(String, u64)> {
    let (mut member, mut alarm) = (0, None);
    for word in error.split_whitespace() {
        match word.split_once(':') {
            Some(("memberID", id)) => member = id.parse().ok()?,
            Some(("alarm", name)) => alarm = Some(cut(name)),
            _ => return None,
        }
    }
    Some((alarm?, member))
}

/// The revision that members are hashed at: rounded down, so that members which are asked within a moment of each other hash
/// the same one; not so far that it is likely compacted (compaction commonly keeps 5 minutes or more).
fn pinned(revision: u64) -> u64 {
    let grain = [1_000, 100, 10].into_iter().find(|grain| revision / 10 >= *grain).unwrap_or(1);
    revision - revision % grain
}

fn period(wall_ns: u64, every: Duration) -> u64 {
    wall_ns / (every.as_secs().max(1) * SECOND_NS)
}

/// What etcd calls int64 and never makes negative.
fn size(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_read_from_the_errors_of_status() {
        let check = |error: &str, expected: Option<(&str, u64)>| {
            assert_eq!(alarm(error), expected.map(|(name, member)| (name.to_owned(), member)), "{error}");
        };
        check("memberID:10276657743932975437 alarm:NOSPACE ", Some(("NOSPACE", 10_276_657_743_932_975_437)));
        check("memberID:5  alarm:CORRUPT", Some(("CORRUPT", 5)));
        check("alarm:NOSPACE", Some(("NOSPACE", 0)));
        check("etcdserver: no leader", None);
        check("memberID:x alarm:NOSPACE", None);
        check("memberID:18446744073709551616 alarm:NOSPACE", None);
        check("", None);
    }

    #[test]
    fn members_hash_the_same_revision() {
        for (revision, expected) in [(0, 0), (7, 7), (99, 99), (105, 100), (1_234, 1_200), (57_123, 57_000)] {
            assert_eq!(pinned(revision), expected, "{revision}");
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(cut(&"ä".repeat(TEXT_MAX + 5)).chars().count(), TEXT_MAX);
    }
}
