//! By whom a profile is taken: by the kernel where it lets us, else by the process itself.

use std::sync::Arc;
use std::time::Duration;

use model::profile::{Baseline, CaptureOutcome, ProfileKind, ProfileSet};
use model::time::Stamp;
use tokio::task::spawn_blocking;
use tracing::info;

use super::shot::{self, TakeError};
use super::{Capturer, Pprof, ProfileTarget, sampled};
use crate::baselines::Shot;
use crate::binaries::Ids;
use crate::continuous::{Continuous, Wish};
use crate::fetch::FetchError;

impl Capturer {
    /// What a baseline has: of CPU time only where the kernel does not keep it anyway.
    pub(super) async fn shoot(&self, target: &ProfileTarget) -> Result<Shot, TakeError> {
        let is_pulled = self.config.is_cpu_pulled && !self.is_sampled(&target.name);
        let seconds = is_pulled.then_some(self.config.baseline_cpu_seconds);
        let heap = sampled::heap(self.heap_of(&target.name), &self.clock).await;
        let pulled = match &target.pprof {
            Some(pprof) => self.pull((&target.name, pprof), seconds).await,
            None => Err(TakeError::Fetch(FetchError::NoEndpoint)),
        };
        let Some(heap) = heap else { return pulled };
        let mut shot = match pulled {
            Err(TakeError::Fetch(FetchError::NoEndpoint)) => {
                Shot { began: heap.at, ended: heap.at, ..Shot::default() }
            }
            pulled => pulled?,
        };
        shot.bodies.retain(|(kind, _)| *kind != ProfileKind::Heap);
        shot.read.push(heap.stacks());
        Ok(shot)
    }

    /// From its endpoint, and which program that was.
    pub(super) async fn pull(
        &self,
        (member, pprof): (&str, &Pprof),
        seconds: Option<u32>,
    ) -> Result<Shot, TakeError> {
        let mut shot = shot::take(pprof, seconds, &self.clock).await?;
        if let Some(pid) = self.processes.newest(member) {
            shot.program = spawn_blocking(move || Ids::of_program(pid)).await.ok().flatten();
        }
        Ok(shot)
    }

    /// Whether the kernel keeps its CPU time.
    fn is_sampled(&self, member: &str) -> bool {
        self.sampled.as_ref().is_some_and(Continuous::is_sampling) && self.processes.newest(member).is_some()
    }

    /// Whether there is anything to take of it that the kernel does not keep.
    pub(super) fn has_baseline(&self, target: &ProfileTarget) -> bool {
        target.pprof.is_some() || self.heap_of(&target.name).is_some()
    }

    /// The process whose heap may be read.
    pub(super) fn heap_of(&self, member: &str) -> Option<u32> {
        self.processes.newest(member).filter(|_| self.config.is_heap_read)
    }

    /// By the kernel where it lets us, else by the endpoint.
    pub(super) async fn take(
        &self,
        target: &ProfileTarget,
        asked: Stamp,
        before_mono_ns: Option<u64>,
    ) -> CaptureOutcome {
        if let Some(sampled) = &self.sampled {
            let wish = Wish {
                member: target.name.clone(),
                length: Duration::from_secs(self.config.seconds(true).into()),
                asked,
                before_mono_ns,
            };
            match self.sampled(sampled, target, wish).await {
                Ok(outcome) => return outcome,
                Err(missed) => {
                    self.ledger.add("agent_profile_samples_missed_total", missed.reason(), 1);
                    if target.pprof.is_none() || !self.config.is_cpu_pulled {
                        let (reason, detail) = (missed.reason().to_owned(), missed.to_string());
                        return match missed.has_begun() {
                            true => CaptureOutcome::Failed { reason, detail },
                            false => CaptureOutcome::Refused { reason },
                        };
                    }
                    info!(target_name = target.name, %missed, "its own endpoint is asked instead");
                }
            }
        }
        let Some(pprof) = target.pprof.as_ref().filter(|_| self.config.is_cpu_pulled) else {
            return CaptureOutcome::Refused { reason: FetchError::NoEndpoint.reason().to_owned() };
        };
        let shot = self.pull((&target.name, pprof), Some(self.config.seconds(false))).await;
        match shot.and_then(|shot| shot::decode(&shot, &self.ledger)) {
            Ok(after) => self.compared(&target.name, asked, before_mono_ns, after),
            Err(TakeError::Fetch(FetchError::NoEndpoint)) => {
                CaptureOutcome::Refused { reason: FetchError::NoEndpoint.reason().to_owned() }
            }
            Err(error) => {
                CaptureOutcome::Failed { reason: error.reason().to_owned(), detail: error.to_string() }
            }
        }
    }

    fn compared(
        &self,
        target: &str,
        asked: Stamp,
        before_mono_ns: Option<u64>,
        after: ProfileSet,
    ) -> CaptureOutcome {
        let (shot, label) = self.baselines.choose(target, asked, before_mono_ns);
        // It could be decoded when it was kept.
        let before = shot.and_then(|shot| shot::decode(shot, &self.ledger).ok()).map(Arc::new);
        let baseline = if before.is_some() { label } else { Baseline::Missing };
        CaptureOutcome::Done { before, baseline, after: Arc::new(after) }
    }
}
