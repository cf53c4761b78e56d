//! What the engine shows each tick: the whole answer of `/verdict`, the page and `agent check`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::member::MemberState;
use crate::origin::Origin;
use crate::time::Stamp;
use crate::verdict::Decision;

/// Findings kept on the board; history is the backend's.
pub const FINDINGS_MAX: usize = 100;

/// The engine's state at one tick.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Board {
    /// The tick.
    pub at: Stamp,
    /// Members seen.
    pub members: Vec<BoardMember>,
    /// Alarms that stand, a sentence each: those of etcd, data that differ, version skew.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Disturbances of the last ten minutes that do not vote, with their harmless cause.
    #[serde(default)]
    pub excused: Vec<String>,
    /// Objectives.
    pub slos: Vec<BoardSlo>,
    /// Decisions by target.
    pub decisions: Vec<Arc<Decision>>,
    /// The last findings (call trees and edges left out), oldest first, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// What was dropped, skipped, rejected: (metric, reason, count).
    pub losses: Vec<(String, String, u64)>,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoardMember {
    /// Who.
    pub origin: Arc<Origin>,
    /// Whether its last page came; `None` where it is not scraped.
    pub up: Option<bool>,
    /// Its last own account.
    pub state: Option<MemberState>,
    /// Probe latencies of the last five minutes.
    pub latencies: Vec<BoardLatency>,
}

/// Latency of one probe kind at one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoardLatency {
    /// Probe kind.
    pub kind: String,
    /// Probes sent.
    pub n: u64,
    /// Of which not answered.
    pub failed: u64,
    /// Median of the answered, seconds; `None` below 2.
    pub p50_s: Option<f64>,
    /// 99th percentile, seconds; `None` below 100 answers.
    pub p99_s: Option<f64>,
}

/// One objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoardSlo {
    /// Name.
    pub name: String,
    /// Objective, e.g. 0.99.
    pub target: f64,
    /// `no_data`, `no_traffic`, `ok`, `burning`.
    pub state: String,
    /// Bad and total events in the last hour.
    pub bad: u64,
    /// All events in the last hour.
    pub total: u64,
    /// Burn over one hour, where there was traffic.
    pub burn_1h: Option<f64>,
    /// Burn over five minutes.
    pub burn_5m: Option<f64>,
    /// Tiers that fire.
    pub firing: Vec<String>,
    /// Measured inside etcd.
    pub server_side: bool,
}
