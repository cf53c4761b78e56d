//! What a member says of itself and of its cluster (Status, MemberList, AlarmList, HashKV).

use serde::{Deserialize, Serialize};

/// One round of maintenance questions to one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MemberFact {
    /// It answered.
    Answered(Box<MemberState>),
    /// It did not; the reason is a fixed word (`refused`, `timed_out`, `not_permitted`, …: the words of probe outcomes).
    Silent {
        /// A fixed word.
        reason: String,
        /// What was seen.
        detail: String,
    },
}

/// A member's own account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberState {
    /// Member id.
    pub id: u64,
    /// Cluster id.
    pub cluster_id: u64,
    /// Server version, e.g. `3.5.33`.
    pub version: String,
    /// Leader's member id; 0 = none.
    pub leader: u64,
    /// Raft term.
    pub raft_term: u64,
    /// Last committed raft index.
    pub raft_index: u64,
    /// Last applied raft index (0 before 3.4).
    pub raft_applied_index: u64,
    /// Bytes allocated by the backend.
    pub db_size_bytes: u64,
    /// Bytes in use by the backend.
    pub db_in_use_bytes: u64,
    /// Backend quota, bytes; `None` where the version does not tell (before 3.6).
    pub quota_bytes: Option<u64>,
    /// Key-value revision from the header.
    pub revision: u64,
    /// Whether it is a learner.
    pub learner: bool,
    /// `NOSPACE`, `CORRUPT`, with the member id they concern.
    pub alarms: Vec<(String, u64)>,
    /// The errors field of Status.
    pub errors: Vec<String>,
    /// The member list as this member sees it.
    pub members: Vec<ListedMember>,
    /// HashKV, where configured.
    pub hash: Option<HashKv>,
}

/// One line of MemberList.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListedMember {
    /// Member id.
    pub id: u64,
    /// `--name`; empty before it started.
    pub name: String,
    /// Advertised client URLs.
    pub client_urls: Vec<String>,
    /// Whether it is a learner.
    pub learner: bool,
}

/// HashKV at a pinned revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashKv {
    /// The revision that was asked for.
    pub revision: u64,
    /// Compact revision at that time; hashes compare only where it is equal.
    pub compact_revision: u64,
    /// The hash.
    pub hash: u32,
}
