//! The record: one batch of facts with one stamp, the only thing that reaches the engine.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::host::HostFact;
use crate::log::LogBatch;
use crate::mark::Mark;
use crate::member::MemberFact;
use crate::origin::Origin;
use crate::probe::Probe;
use crate::profile::CaptureResult;
use crate::scrape::Scrape;
use crate::time::Stamp;
use crate::verdict::Done;

/// One batch of facts with one stamp, taken once, when the request was sent (or the batch was read).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When the facts were asked for.
    pub at: Stamp,
    /// Whom they are about.
    pub origin: Arc<Origin>,
    /// The facts.
    pub fact: Fact,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fact {
    /// One page of metrics, or the failure to get it.
    Scrape(Scrape),
    /// One answer (or none) to one probe.
    Probe(Probe),
    /// What a member says of itself and its cluster.
    Member(MemberFact),
    /// The node and the watched processes.
    Host(HostFact),
    /// Something was changed on purpose.
    Mark(Mark),
    /// Lines of one file.
    Logs(LogBatch),
    /// The end of one capture request.
    Capture(CaptureResult),
    /// The end of one rollback signal, per receiver.
    Done(Done),
    /// The engine's configuration from here on, as JSON of `processors::Config`, without secrets.
    Config(String),
    /// A second has passed.
    Tick(Tick),
}

/// The engine's only clock. One a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// How far the wall clock jumped against the monotonic clock since the last tick, nanoseconds; 0 below one second.
    pub wall_step_ns: i64,
}

impl Fact {
    /// The kind, as the label of counters and recordings.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Fact::Scrape(_) => "scrape",
            Fact::Probe(_) => "probe",
            Fact::Member(_) => "member",
            Fact::Host(_) => "host",
            Fact::Mark(_) => "mark",
            Fact::Logs(_) => "logs",
            Fact::Capture(_) => "capture",
            Fact::Done(_) => "done",
            Fact::Config(_) => "config",
            Fact::Tick(_) => "tick",
        }
    }
}
