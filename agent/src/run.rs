//! Assembles one run: a list of sources, the engine, a list of sinks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use collectors::target::Target;
use collectors::{clock, discover, host, logs, marks, member, probe, scrape};
use model::board::Board;
use model::inbox::Inbox;
use model::ledger::Ledger;
use model::origin::Origin;
use model::record::{Fact, Record};
use model::time::Clock;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::{Ended, Exit, Failure};
use crate::config::Config;
use crate::engine_task::{Applied, Decisions, EngineTask, Outlets};
use crate::pipeline::{Pipeline, Shared, signal};
use crate::recording::Writer;
use crate::{admin, artefacts, state};

/// Records between the sources and the engine: seconds of a busy node, see the room in bytes for pages.
const INBOX_RECORDS: usize = 1_024;
/// KiB between the sources and the engine: some tens of metrics pages of 10 KiB of values each, or a few captures.
const INBOX_KIB: u32 = 16 << 10;
/// Items between the engine and the OTLP encoder: seconds of everything.
const OUTBOX_ITEMS: usize = 2_048;
/// Applied records waiting for the recorder; beyond it the recording says that records are missing.
const RECORDER_QUEUE: usize = 8_192;
/// A block of the recording is closed at least this often.
const RECORDER_FLUSH: Duration = Duration::from_secs(1);
/// Everything is drained within this time, or said to be lost.
const GRACE: Duration = Duration::from_secs(10);
