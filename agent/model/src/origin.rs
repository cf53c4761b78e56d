//! Who a record is about: cluster, node, member. Refuses what a backend adds itself.

use serde::{Deserialize, Serialize};

/// Where a record comes from; becomes OTLP resource attributes of what is exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// etcd cluster id from a response header; `None` until a member has answered, or for facts of the node.
    pub cluster_id: Option<u64>,
    /// Host name of the node the agent runs on (`host.name`).
    pub node: String,
    /// The member the record is about, if it is about one.
    pub member: Option<MemberRef>,
}

/// One etcd member, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemberRef {
    /// Member id from a response header; `None` until it has answered.
    pub id: Option<u64>,
    /// etcd's `--name` where known, else the endpoint. Stable for the life of the process: the key of per-member state.
    pub name: String,
    /// The client URL the agent uses, e.g. `https://127.0.0.1:2379`.
    pub endpoint: String,
}

impl Origin {
    /// The member's name, or `""` for facts of the node.
    #[must_use]
    pub fn member_name(&self) -> &str {
        self.member.as_ref().map_or("", |member| member.name.as_str())
    }
}
