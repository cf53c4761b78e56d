//! Log lines after parsing: redacted, timed, with the trace ids they carry. Owns the shape and the receipt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

/// Lines of one file, in file order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogBatch {
    /// Path of the file (after rotation: the name it was opened under).
    pub file: Arc<str>,
    /// The lines worth keeping.
    pub events: Vec<LogEvent>,
    /// Lines read, kept or not.
    pub lines: u64,
    /// Lines that no parser could read, by reason.
    pub rejects: Vec<(String, u64)>,
    /// Bytes that were lost to truncation or rotation since the last batch.
    pub lost_bytes: u64,
    /// Resolved by the exporter once the encoded bytes are in its queue. Not recorded.
    #[serde(skip)]
    pub receipt: Receipt,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEvent {
    /// The line's own time, nanoseconds since the epoch; the read time when it has none.
    pub time_ns: u64,
    /// Severity.
    pub severity: Severity,
    /// `service.name` of the writer: `etcd`, or the line's own service key.
    pub service: String,
    /// The writer's version or revision, where the line tells.
    pub revision: Option<String>,
    /// The message, key and value bytes replaced by length and hash.
    pub message: String,
    /// W3C trace id; never an etcd number.
    #[serde(with = "crate::hex::option")]
    pub trace_id: Option<[u8; 16]>,
    /// Span id of the writer.
    #[serde(with = "crate::hex::option")]
    pub span_id: Option<[u8; 8]>,
    /// Parent span id, where the line tells.
    #[serde(with = "crate::hex::option")]
    pub parent_span_id: Option<[u8; 8]>,
    /// What the line means.
    pub meaning: Meaning,
    /// Further fields, redacted, at most 32.
    pub attributes: Vec<(String, String)>,
    /// Whether the line itself is exported (warnings, slow lines, lines with a trace id; all by a key).
    pub ship: bool,
}

/// OTLP severity classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Finer than debug.
    Trace,
    /// Debug.
    Debug,
    /// Info.
    Info,
    /// Warning.
    Warn,
    /// Error.
    Error,
    /// Fatal, panic.
    Fatal,
}

/// What a line means to the stitcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Meaning {
    /// Nothing but its text.
    Plain,
    /// The line gives an interval of work (start and end or duration) by the service that wrote it.
    Work(Work),
    /// etcd `trace[N] op` or `"msg":"trace"`: one request inside one member, with steps.
    EtcdTrace {
        /// etcd's process-local random number: not a trace id.
        number: u32,
        /// The work, `operation` = `range`, `put`, `transaction`, `linearizableReadLoop`, …
        work: Work,
        /// Steps that were logged, in order.
        steps: Vec<Step>,
    },
    /// etcd `apply request took too long`. The line's time is the end.
    EtcdSlowApply {
        /// The work; `operation` from the prefix and request (`range`, `txn`, `put`, `lease_grant`, …).
        work: Work,
        /// The limit it broke, nanoseconds.
        expected_ns: u64,
    },
    /// etcd `request stats`: one gRPC request with its peer.
    EtcdRequest {
        /// The work; `operation` = full gRPC method.
        work: Work,
        /// Peer `ip:port`, as etcd saw it.
        remote: String,
        /// Objects in the response.
        response_count: i64,
        /// Bytes of the response.
        response_bytes: i64,
    },
}

/// An interval of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What was done.
    pub operation: String,
    /// Nanoseconds since the epoch.
    pub start_ns: u64,
    /// Nanoseconds.
    pub duration_ns: u64,
    /// Who was called, where the line tells: `host:port`, a URL or a service name.
    pub peer: Option<String>,
    /// Whether it failed.
    pub failed: bool,
    /// Length and hash of the key range, where there is one: equal ranges compare equal.
    pub key: Option<String>,
}

/// One step of an etcd trace line. Steps are consecutive; hidden ones are not printed by etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Name, without quotes and fields.
    pub name: String,
    /// Nanoseconds.
    pub duration_ns: u64,
}

const PENDING: u8 = 0;
const TAKEN: u8 = 1;
const LOST: u8 = 2;

/// Tells a source that can read again whether what it sent is safe. Clones share one state; the first word stands.
#[derive(Clone, Debug, Default)]
pub struct Receipt {
    state: Arc<AtomicU8>,
}

/// State of a [`Receipt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptState {
    /// Nobody has said.
    Pending,
    /// The encoded bytes are in a queue: the checkpoint may pass.
    Taken,
    /// Dropped: read again from here.
    Lost,
}

impl Receipt {
    /// The encoded bytes are safe.
    pub fn take(&self) {
        self.settle(TAKEN);
    }

    /// The batch was dropped.
    pub fn lose(&self) {
        self.settle(LOST);
    }

    /// What is known.
    #[must_use]
    pub fn state(&self) -> ReceiptState {
        match self.state.load(Ordering::Acquire) {
            TAKEN => ReceiptState::Taken,
            LOST => ReceiptState::Lost,
            _ => ReceiptState::Pending,
        }
    }

    /// Whether this is the last clone: nobody is left who could say anything. With no exporter for logs that is how a batch ends.
    #[must_use]
    pub fn is_last(&self) -> bool {
        Arc::strong_count(&self.state) == 1
    }

    fn settle(&self, to: u8) {
        // Losing the race means that another clone spoke first, and the first word stands.
        self.state.compare_exchange(PENDING, to, Ordering::AcqRel, Ordering::Acquire).ok();
    }
}

impl PartialEq for Receipt {
    fn eq(&self, _: &Receipt) -> bool {
        true // two batches are the same data whatever became of them
    }
}
