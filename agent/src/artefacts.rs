//! Writes what a capture brought into the artefact directory, off the engine's thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use exporters::files::{self, FilesError};
use model::ledger::Ledger;
use model::profile::{CaptureOutcome, CaptureResult};
use model::record::{Fact, Record};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// Captures waiting to be written: they come one at a time and minutes apart.
pub(crate) const QUEUE: usize = 4;

/// Writes captures until the channel is closed.
pub(crate) async fn run(dir: PathBuf, mut captures: mpsc::Receiver<Arc<Record>>, ledger: Ledger) {
    while let Some(record) = captures.recv().await {
        let dir = dir.clone();
        let written = spawn_blocking(move || write(&dir, &record)).await;
        match written {
            Ok(Ok(Some(folder))) => info!(folder = %folder.display(), "profile written"),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                ledger.add("agent_artefacts_dropped_total", "write_failed", 1);
                warn!(%error, "profile not written");
            }
            Err(error) => {
                ledger.add("agent_artefacts_dropped_total", "panicked", 1);
                warn!(%error, "profile not written");
            }
        }
    }
}

fn write(dir: &Path, record: &Record) -> Result<Option<PathBuf>, FilesError> {
    let Fact::Capture(CaptureResult { request, target, outcome: CaptureOutcome::Done { before, after, .. } }) =
        &record.fact
    else {
        return Ok(None);
    };
    let name = format!("{}-{}-{request}", stamp(record.at.wall_ns), plain(target));
    let title = format!("{target}, {}", stamp(record.at.wall_ns));
    let sets = (before.as_deref(), after.as_ref());
    files::store_capture(dir, &name, sets, &title, files::ARTEFACT_BYTES_MAX)?;
    Ok(Some(dir.join(name)))
}

/// `20261121T040000Z`: sorts as it should and is the same in every time zone.
pub(crate) fn stamp(wall_ns: u64) -> String {
    let second = i64::try_from(wall_ns / model::time::SECOND_NS).unwrap_or(0);
    jiff::Timestamp::from_second(second)
        .map(|at| at.strftime("%Y%m%dT%H%M%SZ").to_string())
        .unwrap_or_default()
}

/// A name that is safe in a path.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::{plain, stamp};

    #[test]
    fn names_are_safe_in_paths() {
        assert_eq!(plain("../etc/passwd"), "___etc_passwd");
        assert_eq!(plain("https://10.0.0.1:2379").len(), 21);
        assert_eq!(stamp(1_795_233_600_000_000_000), "20261121T040000Z");
    }
}
