//! Objectives, exact counts, burn lanes.
//!
//! Owns what is good and what is bad, how many of each there were, and when that burns a budget: by the shipped tiers
//! and, after a rollout, by the change window. Refuses zeros that mean "nothing seen": no traffic and no data are states.

mod burn;
mod change;
mod fsync;
mod missed;
mod series;
#[cfg(test)]
mod tests;
mod timeline;
mod window;

use model::board::BoardSlo;
use model::finding::Conclusion;
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::record::{Fact, Record};
use serde::{Deserialize, Serialize};

use crate::excuse::Excuses;
use burn::TIERS;
use change::Change;
use fsync::Fsync;
pub(crate) use missed::Missed;
use series::{Context, Series};
use timeline::Timeline;
use window::Counts;

/// Write probes unseen for so long are gone (permission withdrawn), and the fsync objective takes over again.
const WRITE_GONE_S: u64 = 600;

/// One objective: so many events in a million must be good, and good means within the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Events in a million that must be good: 999 000 is 99.9 %. An integer, so that no 0.9990000000000001 appears.
    pub target_ppm: u32,
    /// Slowest good answer, milliseconds. For `wal_fsync` it must be a bucket bound of etcd's: a power of two up to 8192.
    pub limit_ms: u32,
}

/// The objectives. The default needs no configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Any probe answered in time (watch lag apart: it fails with the put it waits for).
    pub availability: Objective,
    /// Linearizable reads.
    pub linearizable_read: Objective,
    /// Writes, by LeaseGrant.
    pub write: Objective,
    /// WAL fsync as etcd measures it; judged only where there are no write probes.
    pub wal_fsync: Objective,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            availability: Objective { target_ppm: 999_000, limit_ms: 1000 },
            linearizable_read: Objective { target_ppm: 990_000, limit_ms: 128 },
            write: Objective { target_ppm: 990_000, limit_ms: 256 },
            wal_fsync: Objective { target_ppm: 990_000, limit_ms: 16 },
        }
    }
}

impl Config {
    /// What is wrong with it, each as (key, what to write instead); empty when nothing is. For the loader.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for name in Name::ALL {
            let objective = self.objective(name);
            if !(1..=999_999).contains(&objective.target_ppm) {
                problems
                    .push((name.as_str(), "target must lie between 0 and 100 %, both excluded".to_owned()));
            } else if TIERS[0].factor * objective.budget() >= 1.0 {
                problems.push((
                    name.as_str(),
                    "the 14.4 tier can never fire below a target of 93.06 %".to_owned(),
                ));
            }
            if objective.limit_ms == 0 {
                problems.push((name.as_str(), "the limit must be at least 1 ms".to_owned()));
            }
        }
        let limit = self.wal_fsync.limit_ms;
        if !limit.is_power_of_two() || limit > 8192 {
            problems.push(("wal_fsync", "the limit must be a bucket bound: 1, 2, 4, ... 8192 ms".to_owned()));
        }
        problems
    }

    fn objective(&self, name: Name) -> Objective {
        match name {
            Name::Availability => self.availability,
            Name::LinearizableRead => self.linearizable_read,
            Name::Write => self.write,
            Name::WalFsync => self.wal_fsync,
        }
    }
}

impl Objective {
    /// Share of events that may be bad.
    fn budget(self) -> f64 {
        f64::from(1_000_000_u32.saturating_sub(self.target_ppm)) / 1e6
    }
}

/// The four indicators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Name {
    Availability,
    LinearizableRead,
    Write,
    WalFsync,
}

impl Name {
    const ALL: [Name; 4] = [Name::Availability, Name::LinearizableRead, Name::Write, Name::WalFsync];

    fn as_str(self) -> &'static str {
        match self {
            Name::Availability => "availability",
            Name::LinearizableRead => "linearizable_read",
            Name::Write => "write",
            Name::WalFsync => "wal_fsync",
        }
    }
}

/// All objectives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slo {
    timeline: Timeline,
    now: u64,
    series: Vec<Series>,
    fsync: Fsync,
    changes: Vec<Change>,
}

impl Slo {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(config: &Config) -> Slo {
        Slo {
            timeline: Timeline::default(),
            now: 0,
            series: Name::ALL.iter().map(|name| Series::new(*name, config.objective(*name))).collect(),
            fsync: Fsync::default(),
            changes: Vec::new(),
        }
    }

    /// Takes over another configuration. An objective whose limit changed starts anew: its old counts mean something
    /// else. What fires by them ends here, and is said: nobody could end it later.
    #[must_use]
    pub fn configure(&mut self, config: &Config) -> Vec<Conclusion> {
        let changed = |series: &Series| config.objective(series.name).limit_ms != series.objective.limit_ms;
        let anew: Vec<Name> = self.series.iter().filter(|one| changed(one)).map(|one| one.name).collect();
        let mut stopped = Vec::new();
        for series in self.series.iter().filter(|series| anew.contains(&series.name)) {
            stopped.extend(series.stop_tiers(self.now, &self.timeline).into_iter().map(Conclusion::Burn));
        }
        stopped.extend(self.stop_lanes(&anew));
        for series in &mut self.series {
            let objective = config.objective(series.name);
            if anew.contains(&series.name) {
                *series = Series::new(series.name, objective);
            }
            series.objective = objective;
        }
        stopped
    }

    /// Counts what a record says; on a tick, tells which burns started or stopped.
    pub fn observe(&mut self, record: &Record, excuses: &Excuses) -> Vec<Conclusion> {
        let second = self.timeline.see(record.at);
        let member = record.origin.member_name();
        match &record.fact {
            Fact::Probe(probe) => {
                self.probe(second, member, probe);
                Vec::new()
            }
            Fact::Scrape(scrape) => {
                let Some(series) = self.series.iter_mut().find(|series| series.name == Name::WalFsync) else {
                    return Vec::new();
                };
                if let Some(counts) = self.fsync.read(second, member, scrape, series.objective.limit_ms) {
                    series.add(second, member, counts);
                }
                Vec::new()
            }
            Fact::Mark(mark) => self.mark(second, mark),
            Fact::Tick(_) => {
                if second > self.now.saturating_add(change::CALM_S) {
                    self.series.iter_mut().for_each(|series| series.miss.unseen());
                }
                self.now = second;
                self.judge(excuses)
            }
            _ => Vec::new(),
        }
    }

    /// The objectives that are judged, for the board.
    #[must_use]
    pub fn board(&self) -> Vec<BoardSlo> {
        self.series
            .iter()
            .filter(|series| self.is_judged(series.name))
            .map(|series| self.row(series))
            .collect()
    }

    fn row(&self, series: &Series) -> BoardSlo {
        let (to, budget) = (self.now + 1, series.objective.budget());
        let hour = series.history.sum(to.saturating_sub(3600), to);
        let burn = |window: u64| Some(series.history.sum(to.saturating_sub(window), to).ratio()? / budget);
        let mut firing: Vec<String> = TIERS
            .iter()
            .zip(&series.tiers)
            .filter(|(_, phase)| phase.fires())
            .map(|(tier, _)| tier.name.to_owned())
            .collect();
        firing.extend(
            self.changes
                .iter()
                .filter(|change| change.phase(series.name).fires())
                .map(|change| format!("change {} {}", change.target, change.revision)),
        );
        let state = if series.has_no_data(self.now) {
            "no_data"
        } else if series.history.sum(to.saturating_sub(300), to).total == 0 {
            "no_traffic"
        } else if firing.is_empty() {
            "ok"
        } else {
            "burning"
        };
        BoardSlo {
            name: series.name.as_str().to_owned(),
            target: f64::from(series.objective.target_ppm) / 1e6,
            state: state.to_owned(),
            bad: hour.bad,
            total: hour.total,
            burn_1h: burn(3600),
            burn_5m: burn(300),
            firing,
            server_side: series.name == Name::WalFsync,
        }
    }

    fn probe(&mut self, second: u64, member: &str, probe: &Probe) {
        if !is_data(&probe.outcome) {
            return;
        }
        for series in &mut self.series {
            let counted = match series.name {
                Name::Availability => probe.kind != ProbeKind::WatchLag,
                Name::LinearizableRead => probe.kind == ProbeKind::LinearizableRead,
                Name::Write => probe.kind == ProbeKind::LeaseGrant,
                Name::WalFsync => false,
            };
            if counted {
                let limit_ns = u64::from(series.objective.limit_ms) * 1_000_000;
                let good = probe.outcome == ProbeOutcome::Ok && probe.latency_ns <= limit_ns;
                series.add(second, member, Counts { bad: u64::from(!good), total: 1 });
            }
        }
    }

    /// Writes are judged by LeaseGrant as soon as there is one, else by fsync.
    fn is_judged(&self, name: Name) -> bool {
        let write = self.series.iter().find(|series| series.name == Name::Write);
        let written = write
            .and_then(|series| series.history.last_seen())
            .is_some_and(|last| last.saturating_add(WRITE_GONE_S) > self.now);
        match name {
            Name::Availability | Name::LinearizableRead => true,
            Name::Write => written,
            Name::WalFsync => !written,
        }
    }

    fn judge(&mut self, excuses: &Excuses) -> Vec<Conclusion> {
        let mut conclusions = Vec::new();
        let judged: Vec<Name> = Name::ALL.into_iter().filter(|name| self.is_judged(*name)).collect();
        let context = Context { timeline: &self.timeline, excuses };
        for series in &mut self.series {
            series.settle(self.now, context);
            for index in 0..TIERS.len() {
                let burn = series.tier(index, self.now, judged.contains(&series.name), context);
                conclusions.extend(burn.map(Conclusion::Burn));
            }
        }
        conclusions.extend(self.judge_changes(&judged, excuses));
        self.watch_misses(&judged, excuses);
        conclusions
    }
}

/// What we may not ask tells nothing about etcd's health.
pub(crate) fn is_data(outcome: &ProbeOutcome) -> bool {
    match outcome {
        ProbeOutcome::NotPermitted => false,
        ProbeOutcome::Grpc(code) => code != "PermissionDenied" && code != "Unauthenticated",
        _ => true,
    }
}
