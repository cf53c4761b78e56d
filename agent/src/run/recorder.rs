//! The tee that writes a recording: never in the engine's way, honest about what it missed.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use model::ledger::Ledger;
use processors::Engine;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use crate::cli::{Exit, Failure};
use crate::engine_task::Applied;
use crate::recording::Writer;

/// Applied records waiting for the recorder; beyond it the recording says that records are missing.
pub(super) const QUEUE: usize = 8_192;
/// A block is closed at least this often: what a crash can cost.
const FLUSH: Duration = Duration::from_secs(1);

/// Creates the file with the engine's state at its head.
pub(super) fn create(path: &Path, engine: &Engine) -> Result<Writer, Failure> {
    let state = postcard::to_stdvec(engine).context("write the engine's state down")?;
    Writer::create(path, state)
        .with_context(|| format!("create {} (it must not exist yet)", path.display()))
        .map_err(|error| Failure::new(Exit::Config, error))
}

/// Writes until the engine has gone.
pub(super) async fn run(mut writer: Writer, mut applied: mpsc::Receiver<Applied>, ledger: Ledger) {
    let mut flush = interval(FLUSH);
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missed = 0;
    loop {
        let written = tokio::select! {
            one = applied.recv() => match one {
                Some(one) => write(&mut writer, &one, &mut missed, &ledger),
                None => break,
            },
            _ = flush.tick() => writer.flush(),
        };
        if let Err(why) = written {
            error!(error = %why, "the recording ends here");
            ledger.add("agent_recording_missing_total", "write_failed", 1);
            // The engine must find its queue open: what comes from here on is read and thrown away.
            while applied.recv().await.is_some() {}
            return;
        }
    }
    if let Err(why) = writer.flush() {
        error!(error = %why, "the recording lacks its end");
    }
}

fn write(
    writer: &mut Writer,
    one: &Applied,
    missed: &mut u64,
    ledger: &Ledger,
) -> Result<(), crate::recording::RecordingError> {
    let missing = ledger.get("agent_recording_missing_total", "recorder_full");
    if missing > *missed {
        writer.missing(missing - *missed)?;
        *missed = missing;
    }
    writer.applied(&one.record, &one.outcome)
}
