//! Conclusions, each with the evidence it rests on.

mod diff;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::origin::Origin;
use crate::request::Request;
use crate::time::Stamp;
use crate::verdict::Decision;

pub use diff::{Cause, FunctionDiff, ProfileDiff, Proof};

/// All that one record led to: effects as data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Conclusions, in the order they were drawn.
    pub findings: Vec<Finding>,
    /// Asked of collectors.
    pub requests: Vec<Request>,
    /// Decisions that changed (state, revision, evidence or validity).
    pub decisions: Vec<Arc<Decision>>,
}

/// One conclusion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Unique within one engine, ascending.
    pub id: u64,
    /// When it was drawn (the record's stamp).
    pub at: Stamp,
    /// Whom it is about.
    pub origin: Arc<Origin>,
    /// The conclusion.
    pub conclusion: Conclusion,
}

/// Kinds of conclusion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// A metric or probe left its baseline, or came back.
    Regression(Regression),
    /// An SLO burns, or stopped.
    Burn(Burn),
    /// One trace, closed.
    CallTree(CallTree),
    /// Calls between two services over the last interval.
    Edge(Edge),
    /// What changed between two profiles.
    ProfileDiff(ProfileDiff),
    /// A capture that was asked for did not happen.
    CaptureFailed(CaptureFailed),
    /// A decision changed its state.
    Verdict(Verdict),
    /// Members say that something is wrong with them or with their data, or no longer say it.
    Alarm(Alarm),
}

impl Conclusion {
    /// The kind, as a label.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Conclusion::Regression(_) => "regression",
            Conclusion::Burn(_) => "burn",
            Conclusion::CallTree(_) => "call_tree",
            Conclusion::Edge(_) => "edge",
            Conclusion::ProfileDiff(_) => "profile_diff",
            Conclusion::CaptureFailed(_) => "capture_failed",
            Conclusion::Verdict(_) => "verdict",
            Conclusion::Alarm(_) => "alarm",
        }
    }
}

/// A metric or probe left its baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// What was watched, e.g. `probe lease_grant latency`, `etcd_disk_wal_fsync_duration_seconds`.
    pub metric: String,
    /// Unit of the values, UCUM (`s`, `1/s`, `By`).
    pub unit: String,
    /// Step (stays) or spike (went back).
    pub shape: Shape,
    /// Whether this opens or closes the alarm.
    pub open: bool,
    /// First instant that belongs to the change.
    pub onset: Stamp,
    /// Typical value before, with its n.
    pub before: Measured,
    /// Typical value since, with its n.
    pub after: Measured,
    /// How unlikely under the baseline: robust z score, or −log10 p for counts.
    pub score: f64,
    /// What it was put down to, when a harmless cause is known (`leader move`, `defragmentation`, `planned restart of m2`).
    pub cause: Option<String>,
    /// Why it was closed, where it did not come back by itself: `no data`.
    pub ended: Option<String>,
    /// Whether the node the member runs on explains it.
    pub node: NodeCheck,
}

/// Whether the node itself explains a change: its CPU, the hypervisor's steal, its disks, its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeCheck {
    /// Nobody looked, and why.
    NotChecked(String),
    /// The first seconds of the change against the minutes before it, with figures.
    Checked {
        /// What does not explain it, e.g. `steal 0.2 % (0.1 % before)`.
        excluded: Vec<String>,
        /// What began before it or with it on this node, and may be the cause instead.
        rivals: Vec<String>,
    },
}

/// A value and what it rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Median (or rate).
    pub value: f64,
    /// 10th percentile, or lower bound.
    pub low: f64,
    /// 90th percentile, or upper bound.
    pub high: f64,
    /// Observations.
    pub n: u64,
}

/// Shape of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// A new level.
    Step,
    /// Went back by itself.
    Spike,
}

/// An SLO burns its budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Burn {
    /// Objective's name.
    pub slo: String,
    /// What fired.
    pub lane: Lane,
    /// Starts or stops.
    pub firing: bool,
    /// Whether it may vote for a rollback (false: excused, or ticket tier).
    pub votes: bool,
    /// Why it does not vote.
    pub excused: Option<String>,
    /// Burn over the long window (or since the marker), multiples of the budget rate.
    pub burn_long: f64,
    /// Burn over the short window (or the last third).
    pub burn_short: f64,
    /// Bad events in the long window.
    pub bad: u64,
    /// All events in the long window.
    pub total: u64,
    /// Share of the long window that was observed, 0 to 1.
    pub coverage: f64,
    /// Exact binomial tail probability of so many bad events within budget.
    pub p_value: f64,
    /// Members with bad events: (name, bad, total).
    pub members: Vec<(String, u64, u64)>,
    /// Start of the long window.
    pub since: Stamp,
    /// True when the indicator is measured inside etcd, not by a client's probe.
    pub server_side: bool,
}

/// Burn lanes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// A shipped tier, both windows above the factor.
    Tier {
        /// `page_fast`, `page_slow`, `ticket_fast`, `ticket_slow`.
        name: String,
        /// Long window, seconds.
        long_s: u64,
        /// Short window, seconds.
        short_s: u64,
    },
    /// The change window after a rollout marker.
    Change {
        /// The marker's target.
        target: String,
        /// The marker's revision.
        revision: String,
    },
}

/// One trace as a tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallTree {
    /// W3C trace id, or one derived from an etcd line (then `derived`).
    #[serde(with = "crate::hex")]
    pub trace_id: [u8; 16],
    /// No W3C id was in the logs.
    pub derived: bool,
    /// Spans, parents before children; the first is the root.
    pub spans: Vec<Span>,
    /// Fragments that were dropped or came after closing.
    pub missing: u64,
}

/// One span of a tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Id, given or derived (hash of trace and fragment).
    #[serde(with = "crate::hex")]
    pub span_id: [u8; 8],
    /// Parent, `None` for a root.
    #[serde(with = "crate::hex::option")]
    pub parent: Option<[u8; 8]>,
    /// Service, `etcd` for etcd's own.
    pub service: String,
    /// The service's revision, where its lines tell.
    pub revision: Option<String>,
    /// Operation.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub start_ns: u64,
    /// Nanoseconds since the epoch.
    pub end_ns: u64,
    /// Failed.
    pub failed: bool,
    /// How the edge to the parent was found.
    pub found_by: FoundBy,
    /// How sure, 0 to 100.
    pub confidence: u8,
    /// By how much the span's place inside its parent is unknown, nanoseconds (etcd steps).
    pub slack_ns: u64,
    /// Further attributes.
    pub attributes: Vec<(String, String)>,
}

/// Evidence for an edge, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// It is a root.
    Root,
    /// The parent id stood in the line.
    ParentId,
    /// A step inside an etcd trace line.
    Step,
    /// etcd lines of one request: same operation, key and time.
    SameRequest,
    /// Same operation, peer and time as a client's call.
    PeerAndTime,
    /// Tightest enclosing interval in the same trace.
    Enclosing,
    /// Nothing better: child of the root.
    Sibling,
}

/// Calls between two services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// Caller.
    pub caller: String,
    /// Callee.
    pub callee: String,
    /// Operation at the callee.
    pub operation: String,
    /// Calls seen in the interval.
    pub calls: u64,
    /// Of which failed.
    pub failed: u64,
    /// Sum of durations, nanoseconds.
    pub duration_sum_ns: u64,
    /// Longest, nanoseconds.
    pub duration_max_ns: u64,
    /// Lowest confidence among them, 0 to 100.
    pub confidence: u8,
}

/// A capture that was asked for did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureFailed {
    /// The capture request.
    pub request: u64,
    /// The regression that asked for it.
    pub finding: u64,
    /// Member.
    pub target: String,
    /// A fixed word.
    pub reason: String,
    /// What was seen.
    pub detail: String,
}

/// A decision changed its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// State before; `None` for the first.
    pub from: Option<crate::verdict::State>,
    /// The decision now.
    pub decision: Arc<Decision>,
}

/// Something is wrong with members or with their data: said once when it is seen first, and once when it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Names what stands, the same in the finding that ends it, e.g. `cdf818194e3a8c32 NOSPACE 8e9e05c52164694d`.
    pub key: String,
    /// What is wrong.
    pub trouble: Trouble,
    /// Starts or ends.
    pub raised: bool,
    /// Whether no further step of a rollout may begin while it stands.
    pub holds: bool,
    /// When it was seen first.
    pub since: Stamp,
    /// Members concerned, by name.
    pub members: Vec<String>,
    /// One sentence for a person at night.
    pub sentence: String,
    /// Why it stands no longer: `disarmed`, `hashes agree`, `one version`, `no data`.
    pub ended: Option<String>,
}

/// What can be wrong with members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// etcd's alarm: the quota is used up, and the cluster refuses writes.
    NoSpace {
        /// Size of the member's database, where it tells.
        db_size_bytes: Option<u64>,
        /// Its quota: from its Status since 3.6, from its metrics page before.
        quota_bytes: Option<u64>,
    },
    /// etcd's alarm: the member's data are not those of the others.
    Corrupt,
    /// An alarm of etcd's that is not known here.
    Other(String),
    /// HashKV at the same revision differs.
    DifferentData {
        /// The revision.
        revision: u64,
        /// The compact revision, the same at all of them.
        compact_revision: u64,
        /// Hash by member.
        hashes: Vec<(String, u32)>,
    },
    /// Members run different versions.
    VersionSkew {
        /// Version by member.
        versions: Vec<(String, String)>,
        /// Minor releases between the oldest and the newest; one is an upgrade under way, more is not supported by etcd.
        minors_apart: u64,
    },
}
