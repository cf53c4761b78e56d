//! A mark: somebody changed something on purpose. Only a rollout can ever be rolled back.

use serde::{Deserialize, Serialize};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What was changed: a service's name as in its logs, or a member's name.
    pub target: String,
    /// What it was changed to (image, version, build id).
    pub revision: String,
    /// Why.
    pub kind: MarkKind,
    /// The revision that this rollout puts back, when it is a put-back: never rolled back itself.
    pub rollback_of: Option<String>,
    /// Who told us.
    pub source: MarkSource,
}

/// Kinds of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// A new revision takes over: arms the change window.
    Rollout,
    /// The target restarted without a new revision: seen, not announced.
    Restart,
    /// A restart or maintenance that was announced.
    Planned,
}

/// Where a mark came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkSource {
    /// The admin socket or `agent mark`.
    Operator,
    /// A process's build id, image or version label changed, or it started anew.
    Observed,
}
