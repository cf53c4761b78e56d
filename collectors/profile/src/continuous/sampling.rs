//! The session behind it all. Owns whom it samples, at which rate, and that it comes back when it has ended.

use std::path::Path;
use std::time::Duration;

use model::ledger::Ledger;
use tracing::info;

use super::Processes;
use crate::binaries::Binaries;
use crate::capture::kill_switch;
use crate::perf::attr::Hz;
use crate::perf::refusal::Refusal;
use crate::perf::session::{Plan, Session};
use crate::perf::statistics::Statistics;
use crate::perf::target::Target;
use crate::sampler::{Counted, Harvest, Sampler};

/// A rate is set within a round of the session, a quarter of a second.
const SWITCH: Duration = Duration::from_secs(2);

/// Whom it may sample.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    Node,
    /// The kernel keeps the rest of the node from us.
    Members(Vec<u32>),
}

/// A session and what has been taken from it.
#[derive(Debug)]
pub(super) struct Sampling {
    session: Session<Sampler>,
    harvest: Harvest,
    scope: Scope,
    hz: Hz,
    told: Statistics,
}

/// What came since the last time.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) counted: Counted,
    /// What the kernel had no room for.
    pub(super) lost: u64,
    /// Stacks that end before their root.
    pub(super) truncated: u64,
}

impl Sampling {
    /// Of the whole node, else of the members.
    pub(super) fn start(binaries: &Binaries, processes: &Processes, hz: Hz) -> Result<Sampling, Refusal> {
        let members = processes.current();
        let sampling = match Sampling::of(Scope::Node, binaries, hz) {
            Err(_) if !members.is_empty() => Sampling::of(Scope::Members(members), binaries, hz),
            started => started,
        }?;
        let whose =
            if sampling.scope == Scope::Node { "who runs on this node is" } else { "members alone are" };
        info!("{whose} sampled {} times a second of CPU time; nobody is asked anything for it", hz.get());
        Ok(sampling)
    }

    fn of(scope: Scope, binaries: &Binaries, hz: Hz) -> Result<Sampling, Refusal> {
        let target = match &scope {
            Scope::Node => Target::Node,
            Scope::Members(pids) => Target::Pids(pids.clone()),
        };
        let (sampler, harvest) = Sampler::new(binaries.clone());
        let session = Session::start(&Plan::new(target, hz), sampler)?;
        Ok(Sampling { session, harvest, scope, hz, told: Statistics::default() })
    }

    pub(super) fn hz(&self) -> Hz {
        self.hz
    }

    /// Whether it has ended by itself, or watches processes that are no longer the members'.
    pub(super) fn is_stale(&self, processes: &Processes) -> bool {
        self.session.is_over() || matches!(&self.scope, Scope::Members(pids) if *pids != processes.current())
    }

    /// Another rate from here on, and what was sampled before. A session that does not take it, because it follows tasks or is
    /// too busy, is replaced by one with that rate.
    ///
    /// # Errors
    /// [`Refusal`] when there is no other one either: then nobody knows at which rate the old one has sampled meanwhile.
    pub(super) fn set_rate(&mut self, hz: Hz, binaries: &Binaries) -> Result<Option<Gathered>, Refusal> {
        if hz == self.hz {
            return Ok(None);
        }
        if self.session.set_rate(hz).is_ok() && self.session.awaits_rate(hz, SWITCH) {
            self.hz = hz;
            return Ok(Some(self.gather()));
        }
        let other = Sampling::of(self.scope.clone(), binaries, hz)?;
        Ok(Some(std::mem::replace(self, other).end()))
    }

    /// Everything that is left in it.
    fn end(self) -> Gathered {
        let Sampling { session, harvest, told, .. } = self;
        let statistics = session.stop().statistics;
        gathered(&harvest, (told, statistics))
    }

    pub(super) fn gather(&mut self) -> Gathered {
        let now = self.session.statistics();
        gathered(&self.harvest, (std::mem::replace(&mut self.told, now), now))
    }

    /// What it costs and how it is, for `/metrics`.
    pub(super) fn tell(&self, ledger: &Ledger) {
        let now = self.session.statistics();
        ledger.set("agent_profiler_hz", "", u64::from(self.hz.get()));
        ledger.set("agent_profiler_cpus", "", u64::try_from(now.cpus).unwrap_or(0));
        ledger.set("agent_profiler_locked_bytes", "", u64::try_from(now.locked_bytes).unwrap_or(0));
        ledger.set("agent_profiler_processes", "", u64::try_from(now.processes).unwrap_or(0));
    }
}

fn gathered(harvest: &Harvest, (told, now): (Statistics, Statistics)) -> Gathered {
    Gathered {
        counted: harvest.take(),
        lost: now.lost.saturating_sub(told.lost),
        truncated: now.truncated.saturating_sub(told.truncated),
    }
}

/// Whether nobody may be sampled.
pub(super) fn is_killed(kill_switch: &Path) -> bool {
    kill_switch::is_there(std::fs::symlink_metadata(kill_switch))
}
