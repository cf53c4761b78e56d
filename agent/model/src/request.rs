//! What a processor may ask of a collector: the only thing that flows backwards.

use serde::{Deserialize, Serialize};

/// One request. It ends in exactly one record that carries its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Unique within one engine.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked. Nothing here changes a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// CPU, heap and goroutine profiles of a member; answered by [`crate::profile::CaptureResult`].
    Capture {
        /// Member name.
        target: String,
        /// The finding that asks.
        finding: u64,
        /// Only a baseline taken before this monotonic time is a "before": the latest rollout marker, if there is one.
        before_mono_ns: Option<u64>,
    },
}
