//! What a receiver gets: a CloudEvents 1.0 structured JSON body, below 20 kB.
//!
//! Owns ids and bodies. **Ids**: a signal's id derives from (target, revision, action, epoch), so that every agent, retry
//! and restart says the same. The rollback event's id is the signal's; evidence and resolved events have ids of their own
//! below it (`<signal>.evidence.<request>.<kind>`, `<signal>.resolved`), because a receiver that drops repeated ids would
//! drop them too; `signalid`, `dedupkey` and `data.signal_id` carry the signal's id in all of them.

use jiff::Timestamp;
use model::finding::ProfileDiff;
use model::origin::Origin;
use model::profile::ProfileKind;
use model::verdict::{Decision, SignalEvent};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Standard Webhooks asks for bodies below 20 kB.
pub(crate) const BODY_BYTES_MAX: usize = 20_000;

/// Elements that a list keeps, and bytes that a text keeps, tried in this order until the body fits.
const CLIPS: [(usize, usize); 6] = [(64, 2048), (20, 1024), (10, 512), (5, 256), (2, 128), (0, 64)];

/// Nesting that is written out: evidence has five levels.
const DEPTH_MAX: usize = 16;

/// Hex digits of a signal id: 128 bits, beyond any accidental collision.
const ID_HEX: usize = 32;

/// The id of the one rollback signal for this target, revision and epoch.
pub(crate) fn signal_id(target: &str, revision: &str, epoch: u64) -> String {
    let mut sum = Sha256::new();
    for part in ["backburn.rollback.v1", target, revision, "rollback", &epoch.to_string()] {
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        sum.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        sum.update(part.as_bytes());
    }
    let mut id = String::from("sig_");
    id.push_str(model::hex::text(&sum.finalize()).get(..ID_HEX).unwrap_or_default());
    id
}

/// The id of an event about a signal.
pub(crate) fn event_id(signal: &str, kind: SignalEvent, detail: &str) -> String {
    match kind {
        SignalEvent::Rollback => signal.to_owned(),
        SignalEvent::Evidence => format!("{signal}.evidence.{detail}"),
        SignalEvent::Resolved => format!("{signal}.resolved"),
    }
}

/// What tells one diff from another: the capture and the kind.
pub(crate) fn diff_detail(diff: &ProfileDiff) -> String {
    let kind = match diff.kind {
        ProfileKind::Cpu => "cpu",
        ProfileKind::Heap => "heap",
        ProfileKind::Goroutine => "goroutine",
        ProfileKind::OffCpu => "off_cpu",
        ProfileKind::Alloc => "alloc",
    };
    format!("{}.{kind}", diff.request)
}

/// RFC 3339 in UTC; the epoch for a time that the calendar does not have.
pub(crate) fn rfc3339(wall_ns: u64) -> String {
    Timestamp::from_nanosecond(i128::from(wall_ns)).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// What an event is about, beyond its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// The signal's id.
    pub(crate) signal: &'a str,
    /// The decision's target.
    pub(crate) target: &'a str,
    /// The revision that is put away.
    pub(crate) revision: &'a str,
    /// The decision's epoch.
    pub(crate) epoch: u64,
    /// Nobody may act on it after this, wall ns.
    pub(crate) valid_until_ns: u64,
}

/// What an event carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    /// The decision that asks for the rollback, and where its evidence lies.
    Rollback(&'a Decision, &'a str),
    /// A diff that came later.
    Evidence(&'a ProfileDiff),
    /// The decision that ends it.
    Resolved(&'a Decision),
}

impl Content<'_> {
    /// The event's kind.
    pub(crate) fn kind(self) -> SignalEvent {
        match self {
            Content::Rollback(..) => SignalEvent::Rollback,
            Content::Evidence(_) => SignalEvent::Evidence,
            Content::Resolved(_) => SignalEvent::Resolved,
        }
    }

    fn state(self) -> &'static str {
        match self {
            Content::Rollback(..) | Content::Evidence(_) => "rollback",
            Content::Resolved(decision) => decision.state.name(),
        }
    }

    /// The evidence as JSON, whole, with stamps as times of day.
    fn evidence(self) -> Value {
        let value = match self {
            Content::Rollback(decision, stored_at) => {
                let mut evidence = decision.evidence.clone();
                evidence.stored_at = Some(stored_at.to_owned());
                serde_json::to_value(evidence)
            }
            Content::Resolved(decision) => serde_json::to_value(&decision.evidence),
            Content::Evidence(diff) => serde_json::to_value(diff).map(|diff| json!({ "profile_diff": diff })),
        };
        // Only a map with keys that are not text cannot be written; the model has none.
        value.unwrap_or(Value::Null)
    }
}

/// The body of an event, or `None` when even without any list it is too large (a name of many kilobytes).
pub(crate) fn body(
    subject: Subject<'_>,
    content: Content<'_>,
    origin: &Origin,
    at_ns: u64,
) -> Option<String> {
    let evidence = content.evidence();
    for (list_max, text_max) in CLIPS {
        let clipped = clip(&evidence, list_max, text_max, DEPTH_MAX);
        let text = envelope(subject, content, origin, (at_ns, clipped)).to_string();
        if text.len() < BODY_BYTES_MAX {
            return Some(text);
        }
    }
    None
}

/// The whole evidence with readable times, for the file on disk.
pub(crate) fn whole(content: Content<'_>) -> Value {
    clip(&content.evidence(), usize::MAX, usize::MAX, DEPTH_MAX)
}

fn envelope(subject: Subject<'_>, content: Content<'_>, origin: &Origin, timed: (u64, Value)) -> Value {
    let (at_ns, evidence) = timed;
    let (detail, suffix) = match content {
        Content::Rollback(..) => (String::new(), "rollback.v1"),
        Content::Evidence(diff) => (diff_detail(diff), "rollback.evidence.v1"),
        Content::Resolved(_) => (String::new(), "rollback.resolved.v1"),
    };
    let cluster = origin.cluster_id.map(|id| format!("{id:x}"));
    json!({
        "specversion": "1.0",
        "id": event_id(subject.signal, content.kind(), &detail),
        "source": source(cluster.as_deref(), &origin.node),
        "type": format!("dev.backburn.{suffix}"),
        "subject": subject.target,
        "time": rfc3339(at_ns),
        "datacontenttype": "application/json",
        "signalid": subject.signal,
        "dedupkey": subject.signal,
        "data": {
            "signal_id": subject.signal,
            "target": subject.target,
            "revision": subject.revision,
            "epoch": subject.epoch,
            "state": content.state(),
            "valid_until": rfc3339(subject.valid_until_ns),
            // A dry run sends nothing, so what arrives is always meant.
            "dry_run": false,
            "cluster_id": cluster,
            "node": origin.node,
            "evidence": evidence,
        },
    })
}

/// A URI reference without a host: who says it, by cluster and node. Bytes that a path may not hold become `_`.
fn source(cluster: Option<&str>, node: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._~".contains(c) { c } else { '_' };
    let node: String = node.chars().take(256).map(plain).collect();
    match cluster {
        Some(cluster) => format!("/backburn/clusters/{cluster}/nodes/{node}"),
        None => format!("/backburn/nodes/{node}"),
    }
}

/// A copy in which lists keep `list_max` elements (what is missing is counted in `<key>_omitted`), texts `text_max` bytes,
/// and a stamp is one time of day.
fn clip(value: &Value, list_max: usize, text_max: usize, depth: usize) -> Value {
    match value {
        Value::String(text) => Value::String(clip_text(text, text_max)),
        Value::Array(items) if depth > 0 => Value::Array(
            items.iter().take(list_max).map(|item| clip(item, list_max, text_max, depth - 1)).collect(),
        ),
        Value::Object(fields) if depth > 0 => match stamp(fields) {
            Some(wall_ns) => Value::String(rfc3339(wall_ns)),
            None => clip_object(fields, list_max, text_max, depth - 1),
        },
        Value::Array(_) | Value::Object(_) => Value::Null,
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn clip_object(fields: &Map<String, Value>, list_max: usize, text_max: usize, depth: usize) -> Value {
    let mut kept = Map::new();
    for (key, field) in fields {
        kept.insert(key.clone(), clip(field, list_max, text_max, depth));
        if let Value::Array(items) = field
            && items.len() > list_max
        {
            kept.insert(format!("{key}_omitted"), json!(items.len() - list_max));
        }
    }
    Value::Object(kept)
}

fn clip_text(text: &str, text_max: usize) -> String {
    if text.len() <= text_max {
        return text.to_owned();
    }
    let cut = text.floor_char_boundary(text_max);
    format!("{}…", text.get(..cut).unwrap_or_default())
}

/// The wall time, when the object is a [`model::time::Stamp`].
fn stamp(fields: &Map<String, Value>) -> Option<u64> {
    match (fields.len(), fields.get("mono_ns"), fields.get("wall_ns")) {
        (2, Some(_), Some(wall_ns)) => wall_ns.as_u64(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::origin::Origin;
    use model::time::Stamp;
    use model::verdict::{Decision, Evidence, State};
    use serde_json::Value;

    use super::{BODY_BYTES_MAX, Content, Subject, body, signal_id};

    fn decision(target: &str) -> Decision {
        let mut evidence = Evidence::assemble("writes burn 22 times their budget since v2".to_owned());
        evidence.onset = Some(Stamp { mono_ns: 5, wall_ns: 1_700_000_000_000_000_000 });
        evidence.trace_ids = (0..5000).map(|n| format!("{n:032x}")).collect();
        evidence.excluded = vec!["x".repeat(100_000)];
        Decision {
            target: target.to_owned(),
            epoch: 3,
            revision: "v2".to_owned(),
            state: State::Rollback,
            since: Stamp::default(),
            valid_until_ns: 1_700_000_600_000_000_000,
            dry_run: false,
            evidence,
        }
    }

    fn made(decision: &Decision) -> Option<String> {
        let id = signal_id(&decision.target, &decision.revision, decision.epoch);
        let subject = Subject {
            signal: &id,
            target: &decision.target,
            revision: &decision.revision,
            epoch: decision.epoch,
            valid_until_ns: decision.valid_until_ns,
        };
        let origin = Origin { cluster_id: Some(0xabc), node: "node 1".to_owned(), member: None };
        body(subject, Content::Rollback(decision, "/var/lib/x.json"), &origin, 1_700_000_001_000_000_000)
    }

    #[test]
    fn a_body_is_one_cloud_event_below_twenty_kilobytes() {
        let text = made(&decision("client")).unwrap();
        assert!(text.len() < BODY_BYTES_MAX, "{}", text.len());
        let event: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["type"], "dev.backburn.rollback.v1");
        assert_eq!(event["source"], "/backburn/clusters/abc/nodes/node_1");
        assert_eq!(event["id"], event["data"]["signal_id"]);
        assert_eq!(event["time"], "2023-11-14T22:13:21Z");
        assert_eq!(event["data"]["valid_until"], "2023-11-14T22:23:20Z");
        assert_eq!(event["data"]["evidence"]["onset"], "2023-11-14T22:13:20Z");
        assert_eq!(event["data"]["evidence"]["stored_at"], "/var/lib/x.json");
        let listed = event["data"]["evidence"]["trace_ids"].as_array().unwrap().len();
        let omitted = event["data"]["evidence"]["trace_ids_omitted"].as_u64().unwrap();
        assert_eq!(u64::try_from(listed).unwrap() + omitted, 5000);
    }

    #[test]
    fn a_name_beyond_all_measure_gives_no_body_instead_of_a_wrong_name() {
        assert_eq!(made(&decision(&"n".repeat(30_000))), None);
    }

    #[test]
    fn ids_differ_wherever_target_revision_or_epoch_do() {
        let ids: BTreeSet<String> =
            [("ab", "c", 1), ("a", "bc", 1), ("ab", "c", 2), ("", "abc", 1), ("abc", "", 1)]
                .into_iter()
                .map(|(target, revision, epoch)| signal_id(target, revision, epoch))
                .collect();
        assert_eq!(ids.len(), 5);
        // A change of the derivation would send every open signal anew.
        assert_eq!(signal_id("client", "v2", 3), "sig_334c0a315a17e24f7fb96ec31ea99a4d");
    }
}
