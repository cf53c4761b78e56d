//! One probe and its answer, as a client sees etcd.

use serde::{Deserialize, Serialize};

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProbeKind {
    /// Range on one key answered from the member's own state.
    SerializableRead,
    /// Range through ReadIndex: needs the leader and a quorum.
    LinearizableRead,
    /// Maintenance Status.
    Status,
    /// LeaseGrant: the whole raft and fsync path without growth of the key space. The write SLO's indicator.
    LeaseGrant,
    /// One LeaseKeepAlive round trip.
    LeaseKeepAlive,
    /// LeaseRevoke.
    LeaseRevoke,
    /// Put on the agent's own key.
    Put,
    /// From that put's due time to its event at this member's watcher.
    WatchLag,
}

impl ProbeKind {
    /// The word used in metrics, configuration and evidence.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::SerializableRead => "serializable_read",
            ProbeKind::LinearizableRead => "linearizable_read",
            ProbeKind::Status => "status",
            ProbeKind::LeaseGrant => "lease_grant",
            ProbeKind::LeaseKeepAlive => "lease_keep_alive",
            ProbeKind::LeaseRevoke => "lease_revoke",
            ProbeKind::Put => "put",
            ProbeKind::WatchLag => "watch_lag",
        }
    }
}

/// One probe. The record's stamp is the time it was due: a slow answer never delays the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// What was asked.
    pub kind: ProbeKind,
    /// Due time to answer (or to giving up), nanoseconds.
    pub latency_ns: u64,
    /// How it ended.
    pub outcome: ProbeOutcome,
}

/// How a probe ended. Only [`ProbeOutcome::Ok`] is an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProbeOutcome {
    /// Answered.
    Ok,
    /// Nobody listens, or the connection could not be made.
    Refused,
    /// etcd answered that we may not.
    NotPermitted,
    /// No answer by our deadline.
    TimedOut,
    /// The connection broke after sending: a write may or may not have happened.
    LostInFlight,
    /// etcd said that the leader changed or is missing.
    LeaderChanged,
    /// Another gRPC code, by its canonical name (`ResourceExhausted`).
    Grpc(String),
}

impl ProbeOutcome {
    /// The label of counters and evidence.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            ProbeOutcome::Ok => "ok",
            ProbeOutcome::Refused => "refused",
            ProbeOutcome::NotPermitted => "not_permitted",
            ProbeOutcome::TimedOut => "timed_out",
            ProbeOutcome::LostInFlight => "lost_in_flight",
            ProbeOutcome::LeaderChanged => "leader_changed",
            ProbeOutcome::Grpc(code) => code,
        }
    }
}
