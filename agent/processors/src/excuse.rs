//! Which disturbances have a harmless cause: planned restarts, leader moves, defragmentation, compaction, snapshots.
//!
//! Owns what is known of each member's gaps and of maintenance work in the cluster. Refuses to judge: whether an
//! excused event costs budget or votes is `slo`'s business, what a cause means for a finding `detect`'s.

mod signs;

use std::collections::{BTreeMap, VecDeque};

use model::mark::{Mark, MarkKind};
use model::member::MemberFact;
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::record::{Fact, Record};
use model::scrape::{Scrape, ScrapeOutcome};
use model::time::{SECOND_NS, Stamp};
use serde::{Deserialize, Serialize};

use signs::Signs;

/// A member that is away for longer is no restart: its absence votes.
pub const GAP_MAX_NS: u64 = 30 * SECOND_NS;

/// Requests of so long before the first refusal may have been lost by the same stop.
const BEFORE_NS: u64 = 2 * SECOND_NS;

/// After a start the member catches up and clients reconnect.
const SETTLE_NS: u64 = 5 * SECOND_NS;

/// A member that stops takes a leader with it at worst: one election (1 s by default, twice on a split vote) and its tail.
const ELECTION_NS: u64 = 4 * SECOND_NS;

/// An announced restart may begin so long after its announcement.
const PLANNED_NS: u64 = 300 * SECOND_NS;

/// An announcement alone, without a gap seen, covers so much: restarts faster than the probes see.
const PLANNED_BARE_NS: u64 = 30 * SECOND_NS;

/// A second unplanned restart of a member within this time is a crash loop.
const CRASH_LOOP_NS: u64 = 600 * SECOND_NS;

/// Refusals so soon after a gap belong to it.
const SAME_GAP_NS: u64 = 3 * SECOND_NS;

/// Work may have begun so long before the scrape that shows it, and its wake lasts so long after.
const WORK_WAKE_NS: u64 = 5 * SECOND_NS;

/// Members remembered; etcd clusters have at most 7, so that replaced members fit too.
const MEMBERS_MAX: usize = 64;

/// Gaps, markers and works remembered: an hour of one a minute.
const EVENTS_MAX: usize = 64;

/// A stamp so far behind the newest belongs to another boot: what was known of gaps is over.
const REBOOT_NS: u64 = 60 * SECOND_NS;

/// What is known of harmless causes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Excuses {
    newest_ns: u64,
    planned: VecDeque<(u64, String)>,
    members: BTreeMap<String, Life>,
    works: VecDeque<Work>,
    listed: usize,
    signs: Signs,
}

/// One member's comings and goings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Life {
    gaps: VecDeque<Gap>,
    process_start_ns: Option<u64>,
    leader: u64,
}

/// One absence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Gap {
    from_ns: u64,
    to_ns: Option<u64>,
    refused: bool,
    start_seen: bool,
    planned: bool,
    quorum_lost: bool,
    repeated: bool,
}

/// Maintenance work, or a change of leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Work {
    from_ns: u64,
    to_ns: u64,
    what: Harmless,
    member: String,
}

/// Harmless causes that concern the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Harmless {
    /// Another leader.
    LeaderMove,
    /// `etcdctl defrag`.
    Defragmentation,
    /// Compaction of old revisions.
    Compaction,
    /// `etcdctl snapshot save`.
    Snapshot,
}

impl Harmless {
    fn name(self) -> &'static str {
        match self {
            Harmless::LeaderMove => "leader move",
            Harmless::Defragmentation => "defragmentation",
            Harmless::Compaction => "compaction",
            Harmless::Snapshot => "snapshot",
        }
    }
}

impl Excuses {
    /// Takes note of a record. To be called before `slo` and `detect` see the same record.
    pub fn observe(&mut self, record: &Record) {
        let now = record.at.mono_ns;
        if now.saturating_add(REBOOT_NS) < self.newest_ns {
            *self = Excuses { listed: self.listed, newest_ns: now, ..Excuses::default() };
        }
        self.newest_ns = self.newest_ns.max(now);
        let member = record.origin.member_name();
        match &record.fact {
            Fact::Mark(mark) => self.mark(now, mark),
            Fact::Probe(probe) if !member.is_empty() => self.probe(now, member, probe),
            Fact::Scrape(scrape) if !member.is_empty() => self.scrape(record.at, member, scrape),
            Fact::Member(MemberFact::Answered(state)) if !member.is_empty() => {
                self.listed = state.members.iter().filter(|listed| !listed.learner).count();
                let leader = state.leader;
                let Some(life) = self.life(member) else { return };
                let before = std::mem::replace(&mut life.leader, leader);
                if before != 0 && leader != 0 && before != leader {
                    self.work(now, now, Harmless::LeaderMove, member);
                }
            }
            _ => {}
        }
    }

    /// Why events of `member` at `at` do not vote; `None` when they do. Asked again later the answer may differ: a
    /// member that is away is given 30 s to come back, and one that did not was not restarting.
    #[must_use]
    pub fn excuse(&self, member: &str, at: Stamp) -> Option<String> {
        let at = at.mono_ns;
        self.own_gap(member, at).or_else(|| self.announced(member, at)).or_else(|| self.election(member, at))
    }

    /// A harmless cause for a disturbance of the whole cluster at `at`.
    #[must_use]
    pub fn cause(&self, at: Stamp) -> Option<String> {
        let restart = self.members.keys().find_map(|member| {
            let own = self.own_gap(member, at.mono_ns).or_else(|| self.announced(member, at.mono_ns));
            own.or_else(|| self.election(member, at.mono_ns))
        });
        restart.or_else(|| {
            let near = |work: &&Work| {
                work.from_ns.saturating_sub(WORK_WAKE_NS) <= at.mono_ns
                    && at.mono_ns <= work.to_ns.saturating_add(WORK_WAKE_NS)
            };
            let work = self.works.iter().filter(near).min_by_key(|work| work.what)?;
            Some(match work.what {
                Harmless::LeaderMove => work.what.name().to_owned(),
                _ => format!("{} on {}", work.what.name(), work.member),
            })
        })
    }

    /// Whether `member` is known to be away now.
    #[must_use]
    pub fn is_away(&self, member: &str) -> bool {
        self.members.get(member).and_then(|life| life.gaps.back()).is_some_and(|gap| gap.to_ns.is_none())
    }

    fn own_gap(&self, member: &str, at: u64) -> Option<String> {
        let gaps = &self.members.get(member)?.gaps;
        let gap = gaps.iter().rev().find(|gap| gap.covers(at))?;
        self.pardon(member, gap)
    }

    /// Why a gap is excused.
    fn pardon(&self, member: &str, gap: &Gap) -> Option<String> {
        let length = gap.to_ns.unwrap_or(self.newest_ns).saturating_sub(gap.from_ns);
        if length > GAP_MAX_NS || gap.quorum_lost || self.quorum_lost_with(member, gap) {
            return None;
        }
        let seconds = crate::binomial::to_f64(length) / 1e9;
        match (gap.planned, gap.to_ns) {
            (true, _) => Some(format!("planned restart of {member}, away {seconds:.1} s")),
            (false, _) if gap.repeated => None,
            (false, Some(_)) if gap.start_seen => {
                Some(format!("restart of {member}, back after {seconds:.1} s"))
            }
            (false, Some(_)) => None,
            (false, None) => Some(format!("{member} is away for {seconds:.1} s: a restart is given 30 s")),
        }
    }

    /// A majority was not left while `gap` lasted.
    fn quorum_lost_with(&self, member: &str, gap: &Gap) -> bool {
        let size = self.listed.max(self.members.len());
        let end = gap.to_ns.unwrap_or(self.newest_ns);
        let away = self
            .members
            .iter()
            .filter(|(name, life)| {
                *name == member || life.gaps.iter().any(|other| other.overlaps(gap.from_ns, end))
            })
            .count();
        size.saturating_sub(away) <= size / 2
    }

    fn announced(&self, member: &str, at: u64) -> Option<String> {
        // The announcement alone never covers what a seen gap has already refused to.
        let gaps = self.members.get(member).map(|life| &life.gaps);
        if gaps.is_some_and(|gaps| gaps.iter().any(|gap| gap.covers(at))) {
            return None;
        }
        let covers = |(marked, target): &&(u64, String)| {
            target == member
                && marked.saturating_sub(BEFORE_NS) <= at
                && at <= marked.saturating_add(PLANNED_BARE_NS)
        };
        self.planned.iter().find(covers).map(|_| format!("planned restart of {member}"))
    }

    /// Others' events while a stopped member's leadership moves.
    fn election(&self, member: &str, at: u64) -> Option<String> {
        self.members.iter().filter(|(name, _)| *name != member).find_map(|(name, life)| {
            let gap = life.gaps.iter().rev().find(|gap| {
                gap.from_ns.saturating_sub(BEFORE_NS) <= at && at <= gap.from_ns.saturating_add(ELECTION_NS)
            })?;
            self.pardon(name, gap).map(|why| format!("election after {why}"))
        })
    }

    fn life(&mut self, member: &str) -> Option<&mut Life> {
        if !self.members.contains_key(member) {
            if self.members.len() >= MEMBERS_MAX {
                return None;
            }
            self.members.insert(member.to_owned(), Life::default());
        }
        self.members.get_mut(member)
    }

    fn mark(&mut self, now: u64, mark: &Mark) {
        let known = self.members.contains_key(&mark.target);
        match mark.kind {
            MarkKind::Rollout => {}
            MarkKind::Planned => {
                push(&mut self.planned, (now, mark.target.clone()));
                for (name, life) in &mut self.members {
                    if (!known || *name == mark.target)
                        && let Some(gap) = life.gaps.back_mut()
                        && gap.is_near(now)
                    {
                        gap.planned = true;
                    }
                }
            }
            MarkKind::Restart => {
                if let Some(gap) = self.members.get_mut(&mark.target).and_then(|life| life.gaps.back_mut())
                    && gap.is_near(now)
                {
                    gap.start_seen = true;
                }
            }
        }
    }

    fn probe(&mut self, now: u64, member: &str, probe: &Probe) {
        match probe.outcome {
            ProbeOutcome::Ok => self.back(now, now.saturating_add(probe.latency_ns), member),
            ProbeOutcome::Refused => self.away(now, member, true),
            ProbeOutcome::LostInFlight => self.away(now, member, false),
            ProbeOutcome::LeaderChanged => self.work(now, now, Harmless::LeaderMove, member),
            ProbeOutcome::NotPermitted | ProbeOutcome::TimedOut | ProbeOutcome::Grpc(_) => {}
        }
        if probe.kind == ProbeKind::LinearizableRead && probe.outcome != ProbeOutcome::Ok {
            for (name, life) in &mut self.members {
                if name != member
                    && let Some(gap) = life.gaps.back_mut()
                    && gap.to_ns.is_none()
                    && now > gap.from_ns.saturating_add(SETTLE_NS)
                {
                    gap.quorum_lost = true;
                }
            }
        }
    }

    /// The member did not answer; `refused` when nobody listened, else the connection broke.
    fn away(&mut self, now: u64, member: &str, refused: bool) {
        let planned = self.planned.iter().any(|(marked, target)| {
            (target == member || !self.members.contains_key(target))
                && *marked <= now.saturating_add(SETTLE_NS)
                && now <= marked.saturating_add(PLANNED_NS)
        });
        let Some(life) = self.life(member) else { return };
        match life.gaps.back_mut() {
            Some(gap) if gap.to_ns.is_none() => {
                gap.from_ns = gap.from_ns.min(now);
                gap.refused |= refused;
            }
            Some(gap) if gap.to_ns.is_some_and(|to| now <= to) => {}
            Some(gap) if gap.to_ns.is_some_and(|to| now <= to.saturating_add(SAME_GAP_NS)) => {
                gap.to_ns = None;
                gap.refused |= refused;
            }
            last => {
                let repeated =
                    last.is_some_and(|gap| !gap.planned && now.saturating_sub(gap.from_ns) < CRASH_LOOP_NS);
                let gap = Gap {
                    from_ns: now,
                    to_ns: None,
                    refused,
                    start_seen: false,
                    planned,
                    quorum_lost: false,
                    repeated,
                };
                push(&mut life.gaps, gap);
            }
        }
    }

    /// The member answered a request that was sent at `asked`. Refused before, answered now: its start was seen.
    fn back(&mut self, asked: u64, answered: u64, member: &str) {
        let Some(life) = self.life(member) else { return };
        if let Some(gap) = life.gaps.back_mut()
            && gap.to_ns.is_none()
            && asked > gap.from_ns
        {
            gap.to_ns = Some(answered);
            gap.start_seen |= gap.refused;
        }
    }

    fn scrape(&mut self, at: Stamp, member: &str, scrape: &Scrape) {
        let now = at.mono_ns;
        if let ScrapeOutcome::Down { reason, .. } = &scrape.outcome {
            if reason == "refused" {
                self.away(now, member, true);
            }
            return;
        }
        self.back(now, now.saturating_add(scrape.duration_ns), member);
        let Some(life) = self.life(member) else { return };
        let before = std::mem::replace(&mut life.process_start_ns, scrape.process_start_ns);
        let anew = scrape.process_start_ns.is_some() && before.is_some() && before != scrape.process_start_ns;
        if scrape.restarted || anew {
            let started = scrape
                .process_start_ns
                .map_or(now, |wall| now.saturating_sub(at.wall_ns.saturating_sub(wall)));
            self.started(started.min(now), now, member);
        }
        let restarted = scrape.restarted || anew;
        for (from_ns, what) in self.signs.read(now, member, scrape, restarted) {
            self.work(from_ns, now, what, member);
        }
    }

    /// A process start that counters gave away: it ends the gap that is known, or makes one too short for the probes.
    fn started(&mut self, started: u64, now: u64, member: &str) {
        let near = self
            .members
            .get_mut(member)
            .and_then(|life| life.gaps.back_mut())
            .filter(|gap| gap.is_near(started));
        if let Some(gap) = near {
            gap.start_seen = true;
            return;
        }
        self.away(started.saturating_sub(SECOND_NS), member, true);
        self.back(started, now.min(started.saturating_add(SECOND_NS)), member);
    }

    fn work(&mut self, from_ns: u64, to_ns: u64, what: Harmless, member: &str) {
        let same = self.works.iter_mut().rev().find(|work| {
            work.what == what
                && (what == Harmless::LeaderMove || work.member == member)
                && from_ns <= work.to_ns.saturating_add(WORK_WAKE_NS)
                && to_ns.saturating_add(WORK_WAKE_NS) >= work.from_ns
        });
        if let Some(work) = same {
            work.from_ns = work.from_ns.min(from_ns);
            work.to_ns = work.to_ns.max(to_ns);
            return;
        }
        push(&mut self.works, Work { from_ns, to_ns, what, member: member.to_owned() });
    }
}

impl Gap {
    fn covers(&self, at: u64) -> bool {
        self.from_ns.saturating_sub(BEFORE_NS) <= at
            && self.to_ns.is_none_or(|to| at <= to.saturating_add(SETTLE_NS))
    }

    fn overlaps(&self, from: u64, to: u64) -> bool {
        self.from_ns <= to && self.to_ns.is_none_or(|end| from <= end)
    }

    /// What is learnt at `at` may concern this gap.
    fn is_near(&self, at: u64) -> bool {
        self.from_ns <= at.saturating_add(SETTLE_NS)
            && self.to_ns.is_none_or(|to| at <= to.saturating_add(SETTLE_NS))
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= EVENTS_MAX {
        queue.pop_front();
    }
    queue.push_back(item);
}
