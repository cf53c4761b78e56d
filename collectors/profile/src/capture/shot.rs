//! One capture of one target: fetch CPU, heap and goroutines, check, decode.
//!
//! Owns the order (CPU first: writing a heap profile would show up in it) and what may be missing: heap and goroutines,
//! never the CPU.

use std::sync::Arc;
use std::time::Duration;

use model::ledger::Ledger;
use model::profile::{CaptureOutcome, FunctionCounts, ProfileKind, ProfileSet, Stacks};
use model::record::{Fact, Record};
use model::time::Clock;

use crate::baselines::Shot;
use crate::capture::ProfileTarget;
use crate::counts;
use crate::fetch::{self, Endpoint, FetchError};
use crate::gopprof::{self, DecodeError};

/// A CPU profile that was just abandoned ends within milliseconds; another's rarely ends while we wait.
const BUSY_RETRIES_MAX: u32 = 8;
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(250);
/// What a record takes besides its functions and stacks.
const RECORD_BYTES: usize = 1_024;

/// Why a capture failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// The CPU profile did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It came and could not be read.
    #[error("bad profile: {0}")]
    BadProfile(#[from] DecodeError),
}

impl TakeError {
    /// The fixed word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            TakeError::Fetch(error) => error.reason(),
            TakeError::BadProfile(_) => "bad_profile",
        }
    }
}

/// A single capture for a person at the command line.
#[derive(Clone, Debug)]
pub struct Once {
    /// What was captured; heap or goroutines may be missing.
    pub set: ProfileSet,
    /// Bytes that the target sent.
    pub bytes: usize,
    /// Kinds that did not come, and why.
    pub missing: Vec<(ProfileKind, TakeError)>,
}

/// Profiles a target once, outside every budget: somebody asked for it by hand.
///
/// # Errors
/// [`TakeError`], when there is no CPU profile.
pub async fn once(target: &ProfileTarget, cpu_seconds: u32, clock: &Clock) -> Result<Once, TakeError> {
    let (shot, mut missing) = fetch_all(target, cpu_seconds, clock).await?;
    let ledger = Ledger::default();
    let set = decode(&shot, &ledger)?;
    for (kind, body) in &shot.bodies {
        if let Err(error) = gopprof::decode(body, *kind, shot.began) {
            missing.push((*kind, TakeError::BadProfile(error)));
        }
    }
    Ok(Once { set, bytes: shot.bytes(), missing })
}

/// Fetches all kinds; what is missing beside the CPU is left out.
pub(super) async fn take(target: &ProfileTarget, cpu_seconds: u32, clock: &Clock) -> Result<Shot, TakeError> {
    fetch_all(target, cpu_seconds, clock).await.map(|(shot, _)| shot)
}

type Missing = Vec<(ProfileKind, TakeError)>;

async fn fetch_all(
    target: &ProfileTarget,
    cpu_seconds: u32,
    clock: &Clock,
) -> Result<(Shot, Missing), TakeError> {
    let began = clock.now();
    let cpu = cpu(target, cpu_seconds).await?;
    let ended = clock.now();
    let mut bodies = vec![(ProfileKind::Cpu, cpu)];
    let mut missing = Vec::new();
    for endpoint in [Endpoint::Heap, Endpoint::Goroutine] {
        match fetch::get(&target.client, &target.base_url, endpoint).await {
            Ok(body) => bodies.push((endpoint.kind(), body)),
            Err(error) => missing.push((endpoint.kind(), error.into())),
        }
    }
    Ok((Shot { began, ended, bodies }, missing))
}

async fn cpu(target: &ProfileTarget, seconds: u32) -> Result<Vec<u8>, FetchError> {
    for _ in 0..BUSY_RETRIES_MAX {
        match fetch::get(&target.client, &target.base_url, Endpoint::Cpu { seconds }).await {
            Err(FetchError::AnotherProfileRunning) => tokio::time::sleep(BUSY_RETRY_AFTER).await,
            ended => return ended,
        }
    }
    fetch::get(&target.client, &target.base_url, Endpoint::Cpu { seconds }).await
}

/// Whether a shot can be decoded later: a baseline that cannot is none.
pub(super) fn check(shot: &Shot, ledger: &Ledger) -> Result<(), TakeError> {
    decode(shot, ledger).map(|_| ())
}

/// Stacks and counts of a shot. A kind that cannot be read is left out and counted; without CPU it fails.
pub(super) fn decode(shot: &Shot, ledger: &Ledger) -> Result<ProfileSet, TakeError> {
    let mut stacks: Vec<Stacks> = Vec::new();
    for (kind, body) in &shot.bodies {
        match gopprof::decode(body, *kind, shot.began) {
            Ok((decoded, rejects)) => {
                for (reason, n) in rejects.lines() {
                    ledger.add("agent_profile_rejects_total", reason, n);
                }
                stacks.push(decoded);
            }
            Err(error) => {
                ledger.add("agent_profile_rejects_total", error.reason(), 1);
                if *kind == ProfileKind::Cpu {
                    return Err(error.into());
                }
            }
        }
    }
    let counts = stacks.iter().map(counts::of).collect();
    Ok(ProfileSet { at: shot.began, engine: "go_pprof".to_owned(), counts, stacks: Arc::new(stacks) })
}

/// About what a record takes in memory, for the inbox's account.
pub(super) fn record_bytes(record: &Record) -> usize {
    let Fact::Capture(capture) = &record.fact else { return RECORD_BYTES };
    let CaptureOutcome::Done { before, after, .. } = &capture.outcome else { return RECORD_BYTES };
    RECORD_BYTES + set_bytes(after) + before.as_deref().map_or(0, set_bytes)
}

fn set_bytes(set: &ProfileSet) -> usize {
    let of_counts = |counts: &FunctionCounts| {
        let names: usize = counts.functions.iter().map(|function| function.name.len() + 48).sum();
        names + counts.edges.len() * 16
    };
    let of_stacks = |stacks: &Stacks| {
        let names: usize = stacks.functions.iter().map(|f| f.name.len() + f.file.len() + 56).sum();
        let samples: usize = stacks.samples.iter().map(|sample| sample.frames.len() * 4 + 40).sum();
        names + samples + stacks.frames.len() * 40 + stacks.pprof.len()
    };
    set.counts.iter().map(of_counts).sum::<usize>() + set.stacks.iter().map(of_stacks).sum::<usize>()
}
