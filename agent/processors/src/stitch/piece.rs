//! One slow line of one member, as the stitcher keeps it. Owns what makes two lines one request's, and the line's own span.

use model::finding::{FoundBy, Span};
use model::log::{LogEvent, Meaning, Work};
use model::origin::Origin;
use serde::{Deserialize, Serialize};

use super::hash;

/// Nested lines of one request may stick out by this much: 3.4 writes whole milliseconds, and the outer line's clock is read first.
const NEST_SLACK_NS: u64 = 2_000_000;
/// A trace begins when its handler gets a core: 10 ms after `request stats` were seen on two busy cores, more in longer calls.
const START_LAG_MIN_NS: u64 = 5_000_000;
const START_LAG_SHARE: u64 = 4;

/// What kind of line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Kind {
    Request,
    Trace,
    Apply,
}

/// One slow line of one member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Piece {
    pub member: String,
    pub endpoint: String,
    pub class: String,
    pub start_ns: u64,
    pub end_ns: u64,
    pub kind: Kind,
    pub operation: String,
    pub key: Option<String>,
    pub number: u32,
    pub steps: Vec<(String, u64)>,
    pub attributes: Vec<(String, String)>,
    pub failed: bool,
}

/// One class of operation for all spellings; `None` for what is not one of etcd's.
#[must_use]
pub(super) fn class(operation: &str) -> Option<&'static str> {
    let name = operation.rsplit(['/', '.']).next().unwrap_or(operation);
    let name = name.strip_prefix("etcd ").or_else(|| name.strip_prefix("etcd_")).unwrap_or(name);
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).take(32).collect();
    Some(match plain.as_str() {
        "range" | "get" | "rangestream" => "range",
        "put" => "put",
        "txn" | "transaction" => "txn",
        "delete" | "deleterange" => "delete_range",
        "compact" | "compaction" => "compact",
        "leasegrant" => "lease_grant",
        "leaserevoke" => "lease_revoke",
        "leasekeepalive" | "keepalive" => "lease_keep_alive",
        _ => return None,
    })
}

impl Piece {
    pub(super) fn new(event: &LogEvent, origin: &Origin) -> Option<Piece> {
        let told = |name: &str, value: String| (name.to_owned(), value);
        let (kind, work, number, steps, mut attributes): (Kind, &Work, u32, Vec<_>, Vec<_>) =
            match &event.meaning {
                Meaning::EtcdTrace { number, work, steps } => {
                    let steps = steps.iter().map(|step| (step.name.clone(), step.duration_ns)).collect();
                    (Kind::Trace, work, *number, steps, vec![told("etcd.trace.number", number.to_string())])
                }
                Meaning::EtcdSlowApply { work, .. } => (Kind::Apply, work, 0, Vec::new(), Vec::new()),
                Meaning::EtcdRequest { work, remote, response_count, response_bytes } => {
                    let attributes = vec![
                        told("network.peer.address", remote.clone()),
                        told("etcd.response.count", response_count.to_string()),
                        told("etcd.response.bytes", response_bytes.to_string()),
                    ];
                    (Kind::Request, work, 0, Vec::new(), attributes)
                }
                Meaning::Plain | Meaning::Work(_) => return None,
            };
        attributes.extend(work.key.iter().map(|key| told("etcd.key", key.clone())));
        let member = origin.member_name().to_owned();
        attributes.push(told("etcd.member", member.clone()));
        Some(Piece {
            endpoint: origin.member.as_ref().map_or_else(String::new, |member| member.endpoint.clone()),
            member,
            class: class(&work.operation).map_or_else(|| work.operation.clone(), str::to_owned),
            start_ns: work.start_ns,
            end_ns: work.start_ns.saturating_add(work.duration_ns),
            kind,
            operation: work.operation.clone(),
            key: work.key.clone(),
            number,
            steps,
            attributes,
            failed: work.failed,
        })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn member(&self) -> &str {
        &self.member
    }

    /// Distance to a line that may hold this one; `None` where it cannot.
    pub(super) fn nested_cost(&self, outer: &Piece) -> Option<u64> {
        let keys_fit = self.key.is_none() || outer.key.is_none() || self.key == outer.key;
        let nested = self.start_ns.saturating_add(NEST_SLACK_NS) >= outer.start_ns
            && self.end_ns <= outer.end_ns.saturating_add(NEST_SLACK_NS);
        let (at_start, at_end) = (self.start_ns.abs_diff(outer.start_ns), self.end_ns.abs_diff(outer.end_ns));
        let (near, cost) = match self.kind {
            // One function of etcd reads the clock for both lines of a read.
            Kind::Apply if self.class == "range" => (at_start, at_start.saturating_add(at_end)),
            // An apply of a write begins after raft agreed: only its end is near its request's.
            Kind::Apply => (at_end, at_end),
            Kind::Request | Kind::Trace => (at_start, at_start),
        };
        let most = ((outer.end_ns - outer.start_ns) / START_LAG_SHARE).max(START_LAG_MIN_NS);
        (keys_fit && nested && near <= most).then_some(cost)
    }

    pub(super) fn trace_id(&self) -> u128 {
        let kind = [match self.kind {
            Kind::Request => 1,
            Kind::Trace => 2,
            Kind::Apply => 3,
        }];
        hash::id128(&[
            self.member.as_bytes(),
            self.endpoint.as_bytes(),
            self.class.as_bytes(),
            &self.start_ns.to_be_bytes(),
            &self.end_ns.to_be_bytes(),
            &self.number.to_be_bytes(),
            &kind,
        ])
    }

    pub(super) fn span(&self, trace_id: u128) -> Span {
        let kind = match self.kind {
            Kind::Request => "request",
            Kind::Trace => "trace",
            Kind::Apply => "apply",
        };
        let own = self.trace_id().to_be_bytes();
        Span {
            span_id: hash::span(&[&trace_id.to_be_bytes(), &own]),
            parent: None,
            service: "etcd".to_owned(),
            revision: None,
            name: match self.kind {
                Kind::Request => self.operation.clone(),
                Kind::Trace | Kind::Apply => format!("{kind} {}", self.class),
            },
            start_ns: self.start_ns,
            end_ns: self.end_ns,
            failed: self.failed,
            found_by: FoundBy::Root,
            confidence: 100,
            slack_ns: 0,
            attributes: self.attributes.clone(),
        }
    }
}
