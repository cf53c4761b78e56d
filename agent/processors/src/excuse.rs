//! Which disturbances have a harmless cause: planned restarts, leader moves, defragmentation, compaction, snapshots.
//!
//! Owns what is known of each member's gaps and of maintenance work in the cluster. Refuses to judge: whether an
//! excused event costs budget or votes is `slo`'s business, what a cause means for a finding `detect`'s.

mod signs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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

/// Excused disturbances are shown for so long.
const SHOWN_NS: u64 = 600 * SECOND_NS;

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

impl Work {
    fn sentence(&self) -> String {
        match self.what {
            Harmless::LeaderMove => self.what.name().to_owned(),
            _ => format!("{} on {}", self.what.name(), self.member),
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

    /// A harmless cause for a disturbance of the whole cluster at `at`: a restart, else maintenance or a leader move.
    #[must_use]
    pub fn cause(&self, at: Stamp) -> Option<String> {
        self.restart(at).or_else(|| {
            let near = |work: &&Work| {
                work.from_ns.saturating_sub(WORK_WAKE_NS) <= at.mono_ns
                    && at.mono_ns <= work.to_ns.saturating_add(WORK_WAKE_NS)
            };
            self.works.iter().filter(near).min_by_key(|work| work.what).map(Work::sentence)
        })
    }

    /// What did not vote in the last minutes, a sentence each: absences that are excused, elections, maintenance.
    #[must_use]
    pub fn recent(&self) -> Vec<String> {
        let recent = |end: Option<u64>| end.is_none_or(|end| self.newest_ns.saturating_sub(end) <= SHOWN_NS);
        let gaps = self.members.iter().flat_map(|(name, life)| {
            let gaps = life.gaps.iter().filter(|gap| recent(gap.to_ns));
            gaps.filter_map(|gap| self.pardon(name, gap))
        });
        let works = self.works.iter().filter(|work| recent(Some(work.to_ns))).map(Work::sentence);
        gaps.chain(works).collect::<BTreeSet<String>>().into_iter().collect()
    }

    /// The excused restart, of whichever member, that events at `at` are put down to.
    #[must_use]
    pub fn restart(&self, at: Stamp) -> Option<String> {
        self.members.keys().find_map(|member| self.excuse(member, at))
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
        // Nor what comes after the gap that was announced: what was planned has happened.
        let happened = |marked: u64| {
            gaps.is_some_and(|gaps| {
                gaps.iter().any(|gap| gap.from_ns >= marked && gap.to_ns.is_some_and(|to| to <= at))
            })
        };
        let covers = |(marked, target): &&(u64, String)| {
            let from = marked.saturating_sub(BEFORE_NS);
            target == member && from <= at && at <= marked.saturating_add(PLANNED_BARE_NS) && !happened(from)
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

#[cfg(test)]
mod tests {
    use model::mark::MarkKind;
    use model::probe::{ProbeKind, ProbeOutcome};
    use model::record::Record;
    use model::scrape::{Scrape, ScrapeOutcome};

    use super::Excuses;
    use crate::story::{MEMBERS, Page, mark, probe, record, stamp};

    fn after(records: &[Record]) -> Excuses {
        let mut excuses = Excuses::default();
        // All members are known, and healthy, from the beginning.
        for member in MEMBERS {
            excuses.observe(&probe(1.0, member, ProbeKind::Status, (1.0, ProbeOutcome::Ok)));
        }
        for record in records {
            excuses.observe(record);
        }
        excuses
    }

    fn read(at: f64, member: &str, outcome: ProbeOutcome) -> Record {
        probe(at, member, ProbeKind::LinearizableRead, (2.0, outcome))
    }

    /// Whether events of m2 at `at` are excused, and with which words.
    fn check(records: &[Record], at: f64, expected: Option<&str>) {
        let found = after(records).excuse("m2", stamp(at));
        match (&found, expected) {
            (None, None) => {}
            (Some(found), Some(words)) => assert!(found.contains(words), "{found:?} lacks {words:?}"),
            _ => panic!("at {at}: {found:?}, expected {expected:?}"),
        }
    }

    fn refused_then_ok(from: f64, to: f64) -> Vec<Record> {
        vec![read(from, "m2", ProbeOutcome::Refused), read(to, "m2", ProbeOutcome::Ok)]
    }

    #[test]
    fn a_gap_is_judged_by_its_length_and_its_end() {
        check(&refused_then_ok(100.0, 112.0), 105.0, Some("restart of m2, back after 12.0 s"));
        check(&refused_then_ok(100.0, 112.0), 99.0, Some("restart"));
        check(&refused_then_ok(100.0, 112.0), 115.0, Some("restart"));
        check(&refused_then_ok(100.0, 112.0), 90.0, None);
        check(&refused_then_ok(100.0, 112.0), 130.0, None);
        check(&refused_then_ok(100.0, 131.0), 105.0, None);
    }

    #[test]
    fn what_was_excused_is_shown_for_minutes_and_what_votes_is_not() {
        let shown = |until: f64, back: f64| {
            let mut records = refused_then_ok(100.0, back);
            records.push(read(until, "m2", ProbeOutcome::Ok));
            after(&records).recent()
        };
        assert_eq!(shown(120.0, 112.0), ["restart of m2, back after 12.0 s"]);
        assert_eq!(shown(700.0, 112.0).len(), 1);
        assert!(shown(720.0, 112.0).is_empty());
        assert!(shown(150.0, 140.0).is_empty());
    }

    #[test]
    fn an_absence_is_given_thirty_seconds() {
        let away = [read(100.0, "m2", ProbeOutcome::Refused), read(110.0, "m2", ProbeOutcome::Refused)];
        check(&away, 105.0, Some("away for 10.0 s"));
        let away = [read(100.0, "m2", ProbeOutcome::Refused), read(131.0, "m2", ProbeOutcome::Refused)];
        check(&away, 105.0, None);
    }

    #[test]
    fn a_connection_that_broke_is_no_restart() {
        let broke = [read(100.0, "m2", ProbeOutcome::LostInFlight), read(101.0, "m2", ProbeOutcome::Ok)];
        check(&broke, 100.0, None);
        let slow = [read(100.0, "m2", ProbeOutcome::TimedOut), read(103.0, "m2", ProbeOutcome::Ok)];
        check(&slow, 100.0, None);
    }

    #[test]
    fn a_crash_loop_is_excused_once() {
        let mut twice = refused_then_ok(100.0, 103.0);
        twice.extend(refused_then_ok(200.0, 203.0));
        check(&twice, 101.0, Some("restart"));
        check(&twice, 201.0, None);
    }

    #[test]
    fn without_a_majority_nothing_is_excused() {
        let mut two = vec![read(100.0, "m1", ProbeOutcome::Refused)];
        two.extend(refused_then_ok(101.0, 105.0));
        check(&two, 102.0, None);
        // The others answer, but have no quorum: linearizable reads fail well after an election's time.
        let starved = [
            read(100.0, "m2", ProbeOutcome::Refused),
            read(108.0, "m1", ProbeOutcome::TimedOut),
            read(112.0, "m2", ProbeOutcome::Ok),
        ];
        check(&starved, 102.0, None);
    }

    #[test]
    fn an_announcement_names_a_member_or_covers_any() {
        for target in ["m2", "host-upgrade"] {
            let mut planned = vec![mark(95.0, target, "", MarkKind::Planned)];
            planned.extend(refused_then_ok(100.0, 120.0));
            check(&planned, 105.0, Some("planned restart of m2"));
        }
        let mut other = vec![mark(95.0, "m3", "", MarkKind::Planned)];
        other.extend(refused_then_ok(100.0, 140.0));
        check(&other, 105.0, None);
        check(&[mark(95.0, "m2", "", MarkKind::Planned)], 100.0, Some("planned restart of m2"));
        check(&[mark(95.0, "shop", "v2", MarkKind::Rollout)], 100.0, None);
        // What was planned has happened: a minute later there is nothing left to excuse.
        let mut done = vec![mark(95.0, "m2", "", MarkKind::Planned)];
        done.extend(refused_then_ok(100.0, 104.0));
        check(&done, 103.0, Some("planned restart of m2"));
        check(&done, 115.0, None);
        // Announced or not: what does not come back in time votes.
        let mut long = vec![mark(95.0, "m2", "", MarkKind::Planned)];
        long.extend(refused_then_ok(100.0, 140.0));
        check(&long, 105.0, None);
    }

    #[test]
    fn a_start_that_only_counters_show_is_seen() {
        let mut page = Page { process_start_ns: Some(1_790_000_000_000_000_000), ..Page::default() };
        let first = page.scrape(99.0, "m2");
        page.process_start_ns = Some(1_790_000_100_500_000_000);
        page.restarted = true;
        check(&[first, page.scrape(101.0, "m2")], 100.0, Some("restart of m2"));
    }

    #[test]
    fn elections_after_a_stop_excuse_the_others_for_seconds_only() {
        let excuses = after(&refused_then_ok(100.0, 112.0));
        assert!(excuses.excuse("m1", stamp(101.0)).unwrap().contains("election after restart of m2"));
        assert_eq!(excuses.excuse("m1", stamp(108.0)), None);
    }

    /// (family, labels, before, after, cause) at m1.
    fn check_sign(
        family: &'static str,
        labels: &[(&'static str, &'static str)],
        values: (f64, f64),
        cause: Option<&str>,
    ) {
        let page = |value| Page { values: vec![(family, labels.to_vec(), value)], ..Page::default() };
        let excuses = after(&[page(values.0).scrape(100.0, "m1"), page(values.1).scrape(101.0, "m1")]);
        assert_eq!(excuses.cause(stamp(100.5)).as_deref(), cause, "{family}");
        assert_eq!(excuses.cause(stamp(120.0)), None, "{family} long after");
    }

    #[test]
    fn pages_give_maintenance_away() {
        check_sign("etcd_server_leader_changes_seen_total", &[], (1.0, 2.0), Some("leader move"));
        check_sign("etcd_disk_defrag_inflight", &[], (0.0, 1.0), Some("defragmentation on m1"));
        check_sign("etcd_mvcc_db_total_size_in_bytes", &[], (1e8, 4e7), Some("defragmentation on m1"));
        check_sign("etcd_mvcc_db_total_size_in_bytes", &[], (1e8, 1.1e8), None);
        check_sign(
            "grpc_server_started_total",
            &[("grpc_method", "Snapshot")],
            (0.0, 1.0),
            Some("snapshot on m1"),
        );
        check_sign("grpc_server_started_total", &[("grpc_method", "Range")], (0.0, 1.0), None);
        check_sign("etcd_debugging_mvcc_compact_revision", &[], (10.0, 900.0), Some("compaction on m1"));
    }

    #[test]
    fn a_scrape_that_is_refused_begins_a_gap_and_a_timeout_does_not() {
        for (reason, expected) in [("refused", Some("away")), ("timeout", None)] {
            let mut down = Page::default().scrape(100.0, "m2");
            if let super::Fact::Scrape(Scrape { outcome, .. }) = &mut down.fact {
                *outcome = ScrapeOutcome::Down { reason: reason.to_owned(), detail: String::new() };
            }
            check(
                &[down, record(105.0, "", super::Fact::Tick(model::record::Tick::default()))],
                103.0,
                expected,
            );
        }
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut excuses = Excuses::default();
        for round in 0..500_u32 {
            let at = f64::from(round) * 20.0;
            let member = format!("m{round}");
            excuses.observe(&read(at, &member, ProbeOutcome::Refused));
            excuses.observe(&read(at, "m2", ProbeOutcome::Refused));
            excuses.observe(&read(at + 5.0, "m2", ProbeOutcome::LeaderChanged));
            excuses.observe(&read(at + 6.0, "m2", ProbeOutcome::Ok));
            excuses.observe(&mark(at, &member, "", MarkKind::Planned));
        }
        assert!(excuses.members.len() <= 64 && excuses.works.len() <= 64 && excuses.planned.len() <= 64);
        assert!(excuses.members.values().all(|life| life.gaps.len() <= 64));
    }
}
