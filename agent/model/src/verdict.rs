//! Decisions: a state for each target, with the evidence, and what became of the signals.

use serde::{Deserialize, Serialize};

use crate::time::Stamp;

/// What may be done about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Something is missing, and the evidence says what.
    Unknown,
    /// Enough data, nothing wrong.
    Pass,
    /// Stop: start no further step.
    Hold,
    /// Put the revision before back.
    Rollback,
}

impl State {
    /// The word used everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Pass => "pass",
            State::Hold => "hold",
            State::Rollback => "rollback",
        }
    }
}

/// The state of one target. A *state*, not an event: the latest replaces what was there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What it is about: a marker's target, or `etcd` for the cluster as a whole.
    pub target: String,
    /// Grows by one with each rollout marker for the target.
    pub epoch: u64,
    /// The revision that is judged; empty where no marker is known.
    pub revision: String,
    /// The state.
    pub state: State,
    /// When this state was reached.
    pub since: Stamp,
    /// After this wall time (ns) nobody may act on it.
    pub valid_until_ns: u64,
    /// Whether effects are asked for or only told.
    pub dry_run: bool,
    /// What it rests on.
    pub evidence: Evidence,
}

/// What a decision rests on. Built by `processors::verdict` alone: a decision without it cannot be written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evidence {
    /// One sentence for a person at night.
    pub sentence: String,
    /// Members concerned.
    pub members: Vec<String>,
    /// Callers concerned, by service name.
    pub callers: Vec<String>,
    /// Share of requests concerned, 0 to 1, where known.
    pub request_share: Option<f64>,
    /// Burn that fired, with windows, counts and p.
    pub burn: Vec<crate::finding::Burn>,
    /// Regressions, before and after with counts.
    pub regressions: Vec<crate::finding::Regression>,
    /// Alarms that stand: each is a reason to stop, none a reason to roll back.
    pub alarms: Vec<crate::finding::Alarm>,
    /// Latest rollout marker, when it came.
    pub marked_at: Option<Stamp>,
    /// First sign of trouble.
    pub onset: Option<Stamp>,
    /// What is known of the profile.
    pub profile: ProfileState,
    /// Trace ids, hex, of call trees that lead from the target to etcd.
    pub trace_ids: Vec<String>,
    /// Causes that were looked at and excluded.
    pub excluded: Vec<String>,
    /// Causes that began before the trouble or with it and may explain it as well, e.g. `steal 31 % (0.2 % before)`.
    pub rivals: Vec<String>,
    /// What was not checked, or is missing.
    pub unchecked: Vec<String>,
    /// How sure it is that nothing else explains the trouble.
    pub confidence: Confidence,
    /// Objectives that are missed by far at present.
    pub missed: Vec<String>,
    /// Whether a cool-down holds this back.
    pub cool_down: Option<String>,
    /// Where the evidence lies on disk; filled by the rollback journal.
    pub stored_at: Option<String>,
}

impl Evidence {
    /// An empty body around one sentence; `processors::verdict` fills it. A tidy test keeps other callers out.
    #[must_use]
    pub fn assemble(sentence: String) -> Evidence {
        Evidence {
            sentence,
            members: Vec::new(),
            callers: Vec::new(),
            request_share: None,
            burn: Vec::new(),
            regressions: Vec::new(),
            alarms: Vec::new(),
            marked_at: None,
            onset: None,
            profile: ProfileState::None,
            trace_ids: Vec::new(),
            excluded: Vec::new(),
            rivals: Vec::new(),
            unchecked: Vec::new(),
            missed: Vec::new(),
            confidence: Confidence::Medium,
            cool_down: None,
            stored_at: None,
        }
    }
}

/// How sure it is that nothing but what the sentence names explains the trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// A rival cause was found on the node.
    Low,
    /// No rival was found, but not everywhere was looked.
    Medium,
    /// The node of each member concerned was looked at, and nothing there explains it.
    High,
}

/// What is known of the profile that explains a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileState {
    /// None was asked for.
    None,
    /// Being captured; the diff follows with the same signal id.
    Running,
    /// Could not be captured.
    Failed(String),
    /// Here it is.
    Diff(Box<crate::finding::ProfileDiff>),
}

/// The end of one effect at one receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The decision's target.
    pub target: String,
    /// The decision's epoch.
    pub epoch: u64,
    /// The decision's revision.
    pub revision: String,
    /// The receiver's name.
    pub receiver: String,
    /// What was sent.
    pub event: SignalEvent,
    /// How it ended.
    pub outcome: Delivery,
}

/// What a signal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalEvent {
    /// Roll back.
    Rollback,
    /// More evidence for a signal sent before, same id.
    Evidence,
    /// It is over.
    Resolved,
}

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// The receiver took it.
    Delivered,
    /// The receiver says that it acted.
    Confirmed,
    /// The receiver refused for good, and why.
    Refused(String),
    /// Not taken before `valid_until`.
    Expired,
}
