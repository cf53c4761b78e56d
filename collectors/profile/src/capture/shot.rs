//! One capture of one target: fetch CPU, heap and goroutines, check, decode.
//!
//! Owns the order (CPU first: writing a heap profile would show up in it) and what may be missing: heap and goroutines,
//! never the CPU where it is wanted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use model::ledger::Ledger;
use model::profile::{ProfileKind, ProfileSet, Stacks};
use model::time::Clock;

use crate::baselines::Shot;
use crate::binaries::Ids;
use crate::capture::Pprof;
use crate::counts;
use crate::fetch::{self, Endpoint, FetchError};
use crate::gopprof::{self, DecodeError};

/// A CPU profile that was just abandoned ends within milliseconds; another's rarely ends while we wait.
const BUSY_RETRIES_MAX: u32 = 8;
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(250);

/// Why a capture failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TakeError {
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
    pub(super) fn reason(&self) -> &'static str {
        match self {
            TakeError::Fetch(error) => error.reason(),
            TakeError::BadProfile(_) => "bad_profile",
        }
    }
}

/// Fetches heap and goroutines, and before them the CPU of so many seconds where that is wanted. Heap and goroutines that
/// are missing are left out; all that is missing is an error.
pub(super) async fn take(target: &Pprof, cpu_seconds: Option<u32>, clock: &Clock) -> Result<Shot, TakeError> {
    let (shot, missing) = fetch_all(target, cpu_seconds, clock).await?;
    match missing.into_iter().next() {
        Some((_, error)) if shot.bodies.is_empty() => Err(error),
        _ => Ok(shot),
    }
}

type Missing = Vec<(ProfileKind, TakeError)>;

async fn fetch_all(
    target: &Pprof,
    cpu_seconds: Option<u32>,
    clock: &Clock,
) -> Result<(Shot, Missing), TakeError> {
    let began = clock.now();
    let mut bodies = Vec::new();
    if let Some(seconds) = cpu_seconds {
        bodies.push((ProfileKind::Cpu, cpu(target, seconds).await?));
    }
    let ended = clock.now();
    let mut missing = Vec::new();
    for endpoint in [Endpoint::Heap, Endpoint::Goroutine] {
        match fetch::get(&target.client, &target.base_url, endpoint).await {
            Ok(body) => bodies.push((endpoint.kind(), body)),
            Err(error) => missing.push((endpoint.kind(), error.into())),
        }
    }
    // Heap and goroutines alone are as old as they are; beside a CPU profile they are a moment younger.
    let ended = if cpu_seconds.is_some() { ended } else { clock.now() };
    Ok((Shot { began, ended, bodies, ..Shot::default() }, missing))
}

async fn cpu(target: &Pprof, seconds: u32) -> Result<Vec<u8>, FetchError> {
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

/// Fills in what Go's own profiles leave out of the program, which is their first mapping.
fn identify(stacks: &mut Stacks, (path, ids): &(PathBuf, Ids)) {
    let Some(mapping) = stacks.mappings.first_mut() else { return };
    // Another build since the profile was taken has another build id.
    let is_it = Path::new(&mapping.path).file_name() == path.file_name()
        && (mapping.build_id.is_empty() || mapping.build_id == ids.build_id);
    if is_it {
        mapping.build_id.clone_from(&ids.build_id);
        mapping.go_build_id.clone_from(&ids.go_build_id);
        mapping.htlhash.clone_from(&ids.htlhash);
    }
}

/// Stacks and counts of a shot. A kind that cannot be read is left out and counted; without CPU it fails.
pub(super) fn decode(shot: &Shot, ledger: &Ledger) -> Result<ProfileSet, TakeError> {
    let mut stacks: Vec<Stacks> = Vec::new();
    for (kind, body) in &shot.bodies {
        match gopprof::decode(body, *kind, shot.began) {
            Ok((mut decoded, rejects)) => {
                shot.program.iter().for_each(|program| identify(&mut decoded, program));
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
    stacks.extend(shot.read.iter().cloned());
    let counts = stacks.iter().map(counts::of).collect();
    Ok(ProfileSet::new("go_pprof", shot.began, counts, stacks))
}
