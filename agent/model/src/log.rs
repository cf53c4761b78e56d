//! Log lines after parsing: redacted, timed, with the trace ids they carry. Owns the shape, the receipt and its stub.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

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
    /// Resolved by the exporter once the receiver has the lines, or they are dropped for a counted reason. Not recorded.
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

/// Nobody has said anything.
const PENDING: u8 = 0;
/// The lines are bytes of a request now; the parsed ones may go.
const ENCODED: u8 = 1;
/// From here on the word is final.
const TAKEN: u8 = 2;
const LOST: u8 = 3;

/// Tells a source that can read again whether what it sent is safe. Clones share one state; the first final word stands, and
/// a receipt whose last clone goes without one is lost: nobody is left who could deliver it.
#[derive(Clone, Debug, Default)]
pub struct Receipt {
    slip: Arc<Slip>,
}

/// What the source keeps. One stub may stand for several batches; it is settled when each of them is.
#[derive(Debug, Default)]
pub struct Stub {
    tally: Arc<Tally>,
}

/// State of a [`Receipt`] or a [`Stub`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptState {
    /// Nobody has said.
    Pending,
    /// The receiver has it, or it was dropped for a counted reason: the checkpoint may pass.
    Taken,
    /// Not delivered: read again from here.
    Lost,
}

#[derive(Debug, Default)]
struct Slip {
    state: AtomicU8,
    /// `None` where nobody waits for a word.
    tally: Option<Arc<Tally>>,
}

#[derive(Debug, Default)]
struct Tally {
    /// Batches without a final word.
    open: AtomicU32,
    /// Those of them that are not encoded yet.
    parsed: AtomicU32,
    lost: AtomicBool,
}

impl Stub {
    /// The receipt of one more batch.
    #[must_use]
    pub fn issue(&self) -> Receipt {
        self.tally.open.fetch_add(1, Ordering::AcqRel);
        self.tally.parsed.fetch_add(1, Ordering::AcqRel);
        Receipt {
            slip: Arc::new(Slip { state: AtomicU8::new(PENDING), tally: Some(Arc::clone(&self.tally)) }),
        }
    }

    /// Pending while one batch is; lost when one of them was.
    #[must_use]
    pub fn state(&self) -> ReceiptState {
        if self.tally.open.load(Ordering::Acquire) > 0 {
            ReceiptState::Pending
        } else if self.tally.lost.load(Ordering::Acquire) {
            ReceiptState::Lost
        } else {
            ReceiptState::Taken
        }
    }

    /// Batches that are still in memory as parsed lines.
    #[must_use]
    pub fn parsed(&self) -> u32 {
        self.tally.parsed.load(Ordering::Acquire)
    }
}

impl Receipt {
    /// The lines are encoded: who reads the files may read on.
    pub fn encoded(&self) {
        let first = self.slip.state.compare_exchange(PENDING, ENCODED, Ordering::AcqRel, Ordering::Acquire);
        if let (Ok(_), Some(tally)) = (first, &self.slip.tally) {
            tally.parsed.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The lines are safe, or given up for a reason that is counted.
    pub fn take(&self) {
        self.slip.settle(TAKEN);
    }

    /// The lines were not delivered and should come again.
    pub fn lose(&self) {
        self.slip.settle(LOST);
    }

    /// What is known.
    #[must_use]
    pub fn state(&self) -> ReceiptState {
        match self.slip.state.load(Ordering::Acquire) {
            TAKEN => ReceiptState::Taken,
            LOST => ReceiptState::Lost,
            _ => ReceiptState::Pending,
        }
    }
}

impl Slip {
    fn settle(&self, to: u8) {
        let open = |state: u8| (state < TAKEN).then_some(to);
        let Ok(before) = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, open) else { return };
        let Some(tally) = &self.tally else { return };
        if before == PENDING {
            tally.parsed.fetch_sub(1, Ordering::AcqRel);
        }
        if to == LOST {
            tally.lost.store(true, Ordering::Release);
        }
        // Last, so that who sees no open batch sees the loss too.
        tally.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Slip {
    fn drop(&mut self) {
        self.settle(LOST);
    }
}

impl PartialEq for Receipt {
    fn eq(&self, _: &Receipt) -> bool {
        true // two batches are the same data whatever became of them
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_final_word_stands_and_no_word_is_a_loss() {
        let stub = Stub::default();
        assert_eq!(stub.state(), ReceiptState::Taken, "nothing was sent");
        let check = |word: &dyn Fn(Receipt), expected| {
            let stub = Stub::default();
            word(stub.issue());
            assert_eq!((stub.state(), stub.parsed()), (expected, 0));
        };
        check(&|receipt| receipt.take(), ReceiptState::Taken);
        check(&|receipt| receipt.lose(), ReceiptState::Lost);
        check(&drop, ReceiptState::Lost);
        check(&|receipt| receipt.encoded(), ReceiptState::Lost);
        check(
            &|receipt| {
                receipt.encoded();
                receipt.clone().take();
                receipt.lose();
            },
            ReceiptState::Taken,
        );
    }

    #[test]
    fn a_stub_waits_for_each_of_its_batches() {
        let stub = Stub::default();
        let (first, second) = (stub.issue(), stub.issue());
        first.encoded();
        first.encoded();
        assert_eq!((stub.state(), stub.parsed()), (ReceiptState::Pending, 1));
        first.take();
        assert_eq!(stub.state(), ReceiptState::Pending);
        second.take();
        assert_eq!((stub.state(), stub.parsed()), (ReceiptState::Taken, 0));
        stub.issue().lose();
        assert_eq!(stub.state(), ReceiptState::Lost, "one of them was");
    }
}
