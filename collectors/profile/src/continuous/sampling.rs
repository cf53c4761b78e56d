//! The session behind it all. Owns whom it samples, at which rate, and that it comes back when it has ended.

use std::path::Path;
use std::time::Duration;

use model::ledger::Ledger;
use tracing::{info, warn};

use super::Processes;
use crate::binaries::Binaries;
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
        match Sampling::of(Scope::Node, binaries, hz) {
            Ok(sampling) => Ok(sampling),
            Err(refusal) => {
                let members = processes.current();
                let sampling = match members.is_empty() {
                    true => Err(refusal),
                    false => Sampling::of(Scope::Members(members), binaries, hz).map_err(|_| refusal),
                }?;
                info!("the kernel lets us sample the members alone, not the rest of the node");
                Ok(sampling)
            }
        }
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

    /// Another rate from here on; what was sampled before is in what is gathered next. A session whose rate is fixed is
    /// replaced by one with the other rate.
    pub(super) fn set_rate(&mut self, hz: Hz, binaries: &Binaries) -> Option<Gathered> {
        if hz == self.hz {
            return None;
        }
        match self.session.set_rate(hz) {
            Ok(()) if self.session.awaits_rate(hz, SWITCH) => {}
            Ok(()) => warn!(hz = hz.get(), "the rate of sampling did not change in time"),
            Err(_) => {
                let rest = self.gather();
                match Sampling::of(self.scope.clone(), binaries, hz) {
                    Ok(other) => *self = other,
                    Err(refusal) => warn!(%refusal, hz = hz.get(), "sampling goes on at the old rate"),
                }
                return Some(rest);
            }
        }
        self.hz = hz;
        Some(self.gather())
    }

    pub(super) fn gather(&mut self) -> Gathered {
        let (now, told) = (self.session.statistics(), self.told);
        self.told = now;
        Gathered {
            counted: self.harvest.take(),
            lost: now.lost.saturating_sub(told.lost),
            truncated: now.truncated.saturating_sub(told.truncated),
        }
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

/// Whether nobody may be sampled. A file that cannot be looked at counts as there: in doubt nothing is profiled.
pub(super) fn is_killed(kill_switch: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match std::fs::symlink_metadata(kill_switch) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), NotFound | NotADirectory),
    }
}
