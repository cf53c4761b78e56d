//! The board's view of each member: last account, last page, probe latencies of five minutes. Concludes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use model::board::{BoardLatency, BoardMember};
use model::member::{MemberFact, MemberState};
use model::origin::Origin;
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::record::{Fact, Record};
use model::scrape::ScrapeOutcome;
use model::time::{SECOND_NS, Stamp};
use serde::{Deserialize, Serialize};

/// How far back latencies are shown.
const LATENCY_NS: u64 = 300 * SECOND_NS;
/// Results kept for each member and kind: five minutes at the fastest mode's 20 a second would be 6,000; at the shipped rates 150.
const RESULTS_MAX: usize = 6_000;
/// Members shown; etcd clusters have at most seven, a node rarely sees two clusters.
const MEMBERS_MAX: usize = 64;

/// Members seen so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Members {
    known: BTreeMap<String, Seen>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Seen {
    origin: Arc<Origin>,
    up: Option<bool>,
    state: Option<MemberState>,
    results: BTreeMap<ProbeKind, VecDeque<Answer>>,
}

/// (when due, latency; `None` when not answered).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Answer {
    mono_ns: u64,
    latency_ns: Option<u64>,
}

impl Members {
    /// Takes what a record says of a member.
    pub fn observe(&mut self, record: &Record) {
        let name = record.origin.member_name();
        if name.is_empty() || (self.known.len() >= MEMBERS_MAX && !self.known.contains_key(name)) {
            return;
        }
        let seen = self.known.entry(name.to_owned()).or_default();
        seen.origin = Arc::clone(&record.origin);
        match &record.fact {
            Fact::Scrape(scrape) => seen.up = Some(scrape.outcome == ScrapeOutcome::Up),
            Fact::Member(MemberFact::Answered(state)) => seen.state = Some(MemberState::clone(state)),
            Fact::Member(MemberFact::Silent { .. }) => seen.state = None,
            Fact::Probe(probe) => seen.probe(probe, record.at),
            _ => {}
        }
    }

    /// What the board shows at `at`.
    #[must_use]
    pub fn board(&self, at: Stamp) -> Vec<BoardMember> {
        self.known.values().map(|seen| seen.board(at)).collect()
    }

    /// Who a member is, as its last record said.
    #[must_use]
    pub fn origin(&self, name: &str) -> Option<Arc<Origin>> {
        self.known.get(name).map(|seen| Arc::clone(&seen.origin))
    }
}

impl Seen {
    fn probe(&mut self, probe: &Probe, at: Stamp) {
        if probe.outcome == ProbeOutcome::NotPermitted {
            return;
        }
        let results = self.results.entry(probe.kind).or_default();
        let latency_ns = (probe.outcome == ProbeOutcome::Ok).then_some(probe.latency_ns);
        results.push_back(Answer { mono_ns: at.mono_ns, latency_ns });
        while results.len() > RESULTS_MAX
            || results.front().is_some_and(|first| at.mono_ns.saturating_sub(first.mono_ns) > LATENCY_NS)
        {
            results.pop_front();
        }
    }

    fn board(&self, at: Stamp) -> BoardMember {
        let latencies =
            self.results.iter().map(|(kind, results)| latency(*kind, results, at)).filter(|one| one.n > 0);
        BoardMember {
            origin: Arc::clone(&self.origin),
            up: self.up,
            state: self.state.clone(),
            latencies: latencies.collect(),
        }
    }
}

fn latency(kind: ProbeKind, results: &VecDeque<Answer>, at: Stamp) -> BoardLatency {
    let recent = results.iter().filter(|one| at.mono_ns.saturating_sub(one.mono_ns) <= LATENCY_NS);
    let (answered, failed): (Vec<&Answer>, Vec<&Answer>) = recent.partition(|one| one.latency_ns.is_some());
    let mut sorted: Vec<u64> = answered.iter().filter_map(|one| one.latency_ns).collect();
    sorted.sort_unstable();
    BoardLatency {
        kind: kind.name().to_owned(),
        n: count(answered.len() + failed.len()),
        failed: count(failed.len()),
        p50_s: quantile(&sorted, 50, 2),
        p99_s: quantile(&sorted, 99, 100),
    }
}

/// The nearest-rank percentile in seconds; `None` below `least` answers, where it would be a guess.
fn quantile(sorted: &[u64], percent: usize, least: usize) -> Option<f64> {
    if sorted.len() < least {
        return None;
    }
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    let ns = *sorted.get(rank - 1)?;
    Some(std::time::Duration::from_nanos(ns).as_secs_f64())
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn percentiles_are_left_out_where_n_is_too_small() {
        let check = |n: u64, percent, least, expected: Option<f64>| {
            let sorted: Vec<u64> = (1..=n).map(|ms| ms * 1_000_000).collect();
            assert_eq!(quantile(&sorted, percent, least), expected, "n = {n}, p{percent}");
        };
        check(0, 50, 2, None);
        check(1, 50, 2, None);
        check(2, 50, 2, Some(0.001));
        check(99, 99, 100, None);
        check(100, 99, 100, Some(0.099));
        check(200, 50, 2, Some(0.1));
    }
}
