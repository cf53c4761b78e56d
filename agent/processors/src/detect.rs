//! Robust baselines of metrics and probes; step and spike told apart; nothing learnt while an alarm is open.
//!
//! Owns what is watched and which findings come of it. Refuses to weigh them: whether a regression matters is
//! `verdict`'s business.

mod alarm;
mod baseline;
mod event;
mod silence;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;

use model::finding::{Measured, NodeCheck, Regression, Shape};
use model::mark::MarkKind;
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::record::{Fact, Record};
use model::scrape::{Scrape, ScrapeOutcome};
use model::time::{SECOND_NS, Stamp};
use serde::{Deserialize, Serialize};

use crate::excuse::Excuses;
use alarm::{Alarm, Effect, Turn, measured};
use baseline::{Baseline, Scale};
use event::{Event, Key, Tell};
use watch::{Meter, ROWS, Resolved, Row, resolve, seconds};

/// Members watched; a cluster has at most 7, replaced ones stay until the agent restarts.
const MEMBERS_MAX: usize = 32;

/// After a start caches fill and connections come back: its scrapes are compared with nothing.
const WARM_UP_NS: u64 = 60 * SECOND_NS;

/// What went back within this time was a spike.
const SPIKE_NS: u64 = 30 * SECOND_NS;

/// So soon after a rollout a leader move or a compaction is as likely its consequence: only restarts count as causes.
const FRESH_NS: u64 = 300 * SECOND_NS;

/// A stamp so far behind the newest belongs to another boot.
const REBOOT_NS: u64 = 60 * SECOND_NS;

/// Latencies are told to 0.15 octaves (11 %), and every probe is learnt.
const LATENCY: Scale = Scale { offset: 1e-6, floor: 0.15, learn_every_s: 0 };

/// How the name of a metric ends that is watched over all members together.
pub(crate) const ALL_MEMBERS: &str = ", all members";

/// Settings of detection. The default needs no configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Points a baseline needs before it judges.
    pub warm_up_points: u32,
    /// Sum of robust deviations (each point counts for at most 6 less 1.5) at which an alarm goes off. Higher: later and surer.
    pub threshold: f64,
    /// A latency below this multiple of its median is no regression.
    pub latency_factor: f64,
    /// Nor is one that grew by less, milliseconds: what a busy neighbour on the node costs is no regression of etcd.
    pub latency_excess_ms: f64,
}

impl Default for Config {
    fn default() -> Config {
        Config { warm_up_points: 12, threshold: 10.0, latency_factor: 2.0, latency_excess_ms: 10.0 }
    }
}

impl Config {
    fn warm_up(&self) -> usize {
        usize::try_from(self.warm_up_points).unwrap_or(usize::MAX)
    }

    fn latency(&self) -> Effect {
        Effect {
            octaves: self.latency_factor.max(1.0).log2(),
            absolute: self.latency_excess_ms.max(0.0) / 1e3,
            threshold: self.threshold,
        }
    }

    fn row(&self, row: &Row) -> Effect {
        Effect { octaves: row.octaves, absolute: row.absolute, threshold: self.threshold }
    }
}

/// Baseline and alarm of one metric at one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Stream {
    baseline: Baseline,
    alarm: Alarm,
}

/// All streams of one member.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Member {
    probes: BTreeMap<ProbeKind, Stream>,
    rows: BTreeMap<String, (Meter, Stream)>,
    cold_until_ns: u64,
    process_start_ns: Option<u64>,
    /// Generation and number of series of the layout seen last. A restart of the agent must not forget it: the page after
    /// may have another shape.
    seen: Option<(u64, u32)>,
    /// Found again with each layout, and after a restart of the agent.
    #[serde(skip)]
    resolved: Option<Vec<Resolved>>,
}

/// All that is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detect {
    config: Config,
    newest_ns: u64,
    members: BTreeMap<String, Member>,
    /// One alarm a kind over the points of all members: three times as fast as one member's.
    pools: BTreeMap<ProbeKind, Alarm>,
    event: Event,
    /// The latest rollout.
    rollout: Option<Stamp>,
    /// Alarms that were closed because nothing was heard of their stream any more.
    silenced: u64,
}

/// A regression that opens or closes.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The member; empty for what is watched over all of them.
    pub member: String,
    /// What is told.
    pub regression: Regression,
}

/// A turn of an alarm, with what a finding says of it.
struct Turned {
    key: Key,
    unit: &'static str,
    turn: Option<Turn>,
    onset: Stamp,
    calming: bool,
    before: Measured,
    after: Measured,
    score: f64,
    /// Why it closed, where it did not come back.
    ended: Option<&'static str>,
}

impl Detect {
    /// Nothing learnt yet.
    #[must_use]
    pub fn new(config: &Config) -> Detect {
        Detect {
            config: config.clone(),
            newest_ns: 0,
            members: BTreeMap::new(),
            pools: BTreeMap::new(),
            event: Event::default(),
            rollout: None,
            silenced: 0,
        }
    }

    /// Takes over another configuration; baselines stay.
    pub fn configure(&mut self, config: &Config) {
        self.config = config.clone();
    }

    /// Compares what a record says with what is usual. `excuses` must have seen the record.
    pub fn observe(&mut self, record: &Record, excuses: &Excuses) -> Vec<Told> {
        let at = record.at;
        let mut told = Vec::new();
        if at.mono_ns.saturating_add(REBOOT_NS) < self.newest_ns {
            told = self.restart_clock(at, excuses);
        }
        self.newest_ns = self.newest_ns.max(at.mono_ns);
        let member = record.origin.member_name();
        let turned = match &record.fact {
            Fact::Tick(_) => self.silence(at),
            Fact::Mark(mark) if mark.kind == MarkKind::Rollout => {
                self.part(at);
                Vec::new()
            }
            // What was due before a rollout and answered after it would make the rollout's trouble begin before it.
            Fact::Probe(_) if self.rollout.is_some_and(|rollout| at.mono_ns < rollout.mono_ns) => Vec::new(),
            Fact::Probe(probe) if self.knows(member) && excuses.excuse(member, at).is_none() => {
                self.probe(at, member, probe)
            }
            Fact::Scrape(scrape) if self.knows(member) => self.scrape(at, member, scrape),
            _ => Vec::new(),
        };
        told.extend(turned.into_iter().filter_map(|turned| self.tell(at, turned, excuses)));
        told
    }

    /// Regressions and alarms that had no finding, closed because nothing was heard of their stream any more.
    #[must_use]
    pub fn silenced(&self) -> u64 {
        self.silenced
    }

    fn knows(&mut self, member: &str) -> bool {
        if member.is_empty() || self.members.contains_key(member) {
            return !member.is_empty();
        }
        let room = self.members.len() < MEMBERS_MAX;
        if room {
            self.members.insert(member.to_owned(), Member::default());
        }
        room
    }

    /// A rollout: what begins from here on is another onset, and no alarm that has not gone off yet reaches back before it.
    fn part(&mut self, at: Stamp) {
        self.rollout = Some(at);
        self.event.part();
        let probes = self.members.values_mut().flat_map(|member| member.probes.values_mut());
        probes.map(|stream| &mut stream.alarm).chain(self.pools.values_mut()).for_each(Alarm::begin);
        let rows = self.members.values_mut().flat_map(|member| member.rows.values_mut());
        rows.for_each(|(_, stream)| stream.alarm.begin());
    }

    fn probe(&mut self, at: Stamp, member: &str, probe: &Probe) -> Vec<Turned> {
        // What was not answered has no latency but the deadline's; what was refused has none at all.
        if !matches!(probe.outcome, ProbeOutcome::Ok | ProbeOutcome::TimedOut) {
            return Vec::new();
        }
        let value = seconds(probe.latency_ns);
        let (warm_up, effect) = (self.config.warm_up(), self.config.latency());
        let Some(stream) =
            self.members.get_mut(member).map(|member| member.probes.entry(probe.kind).or_default())
        else {
            return Vec::new();
        };
        let point = stream.baseline.standardise(value, LATENCY, warm_up);
        let metric = silence::metric(probe.kind);
        let mut turned = Vec::new();
        if let Some(point) = point {
            let turn = stream.alarm.observe(at, point, effect);
            turned.extend(stream.turned(turn, (member.to_owned(), metric.clone()), "s", LATENCY));
        }
        let pool = self.pools.entry(probe.kind).or_default();
        let pool_turn = point.and_then(|point| pool.observe(at, point, effect));
        if pool.is_open() {
            stream.baseline.discard_pending();
        } else {
            stream.learn(at, value, LATENCY, warm_up);
        }
        if pool_turn.is_some() || pool.is_open() {
            let key = (String::new(), format!("{metric}{ALL_MEMBERS}"));
            turned.extend(pool.turned(pool_turn, key, "s", usual(&self.members, probe.kind)));
        }
        turned
    }

    fn scrape(&mut self, at: Stamp, name: &str, scrape: &Scrape) -> Vec<Turned> {
        let warm_up = self.config.warm_up();
        let Some(member) = self.members.get_mut(name) else { return Vec::new() };
        if scrape.outcome != ScrapeOutcome::Up {
            return Vec::new();
        }
        let start = std::mem::replace(&mut member.process_start_ns, scrape.process_start_ns);
        if scrape.restarted || (start.is_some() && start != scrape.process_start_ns) {
            member.cold_until_ns = at.mono_ns.saturating_add(WARM_UP_NS);
            member.rows.values_mut().for_each(|(meter, _)| meter.reset());
        }
        member.find(scrape);
        let Some(resolved) = &member.resolved else { return Vec::new() };
        let mut turned = Vec::new();
        for (row, series) in ROWS.iter().zip(resolved).filter(|(_, series)| !series.is_empty()) {
            if !member.rows.contains_key(row.family) {
                member.rows.insert(row.family.to_owned(), (Meter::default(), Stream::default()));
            }
            let Some((meter, stream)) = member.rows.get_mut(row.family) else { continue };
            let Some(value) = meter.read(seconds(at.mono_ns), scrape, row, series) else {
                meter.learn();
                continue;
            };
            if at.mono_ns < member.cold_until_ns {
                meter.skip();
                continue;
            }
            let turn = stream
                .baseline
                .standardise(value, row.scale, warm_up)
                .and_then(|point| stream.alarm.observe(at, point, self.config.row(row)));
            stream.learn(at, value, row.scale, warm_up);
            match turn {
                Some(Turn::Opened) => {
                    meter.begin_since(seconds(stream.alarm.onset().unwrap_or(at).mono_ns));
                }
                _ if stream.alarm.is_open() => meter.skip(),
                _ => meter.learn(),
            }
            let key = (name.to_owned(), row.family.to_owned());
            let told = stream.turned(turn, key, row.unit, row.scale).map(|mut turned| {
                if let Some((before, after)) = meter.quantiles() {
                    (turned.before, turned.after) = (before, after);
                }
                turned
            });
            turned.extend(told);
        }
        turned
    }

    /// What of a turn becomes a finding.
    fn tell(&mut self, at: Stamp, turned: Turned, excuses: &Excuses) -> Option<Told> {
        let (rollout, onset) = (self.rollout, turned.onset);
        let fresh = rollout.is_some_and(|rollout| onset >= rollout && onset.since_ns(rollout) <= FRESH_NS);
        let at_once = |at| if fresh { excuses.restart(at) } else { excuses.cause(at) };
        let told = match turned.turn {
            Some(Turn::Opened) => {
                self.event.opened(at, turned.onset, &turned.key, at_once(onset).or_else(|| at_once(at)))
            }
            Some(Turn::Closed) => self.event.closed(at, &turned.key),
            None if turned.calming => Tell::Nothing,
            None => self.event.lasts(at, &turned.key, at_once(at).as_ref()),
        };
        let short = turned.ended.is_none() && at.since_ns(turned.onset) < SPIKE_NS;
        let (open, shape, cause) = match told {
            Tell::Nothing => return None,
            Tell::Open => (true, Shape::Step, None),
            Tell::Close => (false, if short { Shape::Spike } else { Shape::Step }, None),
            Tell::Over(cause) => (false, Shape::Spike, Some(cause)),
        };
        let (member, metric) = turned.key;
        let regression = Regression {
            metric,
            unit: turned.unit.to_owned(),
            shape,
            open,
            onset: turned.onset,
            before: turned.before,
            after: turned.after,
            score: turned.score,
            cause,
            ended: turned.ended.map(str::to_owned),
            node: NodeCheck::NotChecked("not looked at yet".to_owned()),
        };
        Some(Told { member, regression })
    }
}

/// What a probe takes at all members together while nothing is wrong.
fn usual(members: &BTreeMap<String, Member>, kind: ProbeKind) -> Measured {
    let streams = members.values().filter_map(|member| member.probes.get(&kind));
    let mut usual: Vec<f64> = streams.flat_map(|stream| stream.baseline.values(LATENCY)).collect();
    let n = usual.len() as u64;
    measured(&mut usual, n)
}

impl Member {
    fn find(&mut self, scrape: &Scrape) {
        let layout = &scrape.layout;
        let new = (layout.generation, layout.series);
        if self.seen == Some(new) && self.resolved.is_some() {
            return;
        }
        // Another shape of the page sums other series: deltas across it would be steps of our making.
        if self.seen.is_some_and(|seen| seen != new) {
            self.rows.values_mut().for_each(|(meter, _)| meter.reset());
        }
        self.seen = Some(new);
        self.resolved = Some(ROWS.iter().map(|row| resolve(layout, row)).collect());
    }
}

impl Stream {
    fn learn(&mut self, at: Stamp, value: f64, scale: Scale, warm_up: usize) {
        if self.alarm.is_open() {
            self.baseline.discard_pending();
        } else {
            self.baseline.learn(at, value, scale, warm_up);
        }
    }

    fn turned(&mut self, turn: Option<Turn>, key: Key, unit: &'static str, scale: Scale) -> Option<Turned> {
        (turn.is_some() || self.alarm.is_open())
            .then(|| self.baseline.before(scale))
            .and_then(|before| self.alarm.turned(turn, key, unit, before))
    }
}

impl Alarm {
    /// The evidence of a turn, or of an alarm that goes on.
    fn turned(
        &mut self,
        turn: Option<Turn>,
        key: Key,
        unit: &'static str,
        before: Measured,
    ) -> Option<Turned> {
        let (onset, calming) = (self.onset()?, self.is_calming());
        let (after, score) = (self.after(), self.score());
        if turn == Some(Turn::Closed) {
            self.forget();
        }
        Some(Turned { key, unit, turn, onset, calming, before, after, score, ended: None })
    }
}
