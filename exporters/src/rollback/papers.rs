//! What the desk writes and says of a signal: its subject, its evidence file, the end of an attempt, what is due. Plain
//! functions of what they are given; refuses to keep or journal anything.

use std::collections::BTreeSet;

use model::finding::ProfileDiff;
use model::verdict::{Decision, Delivery, State};
use serde_json::{Value, json};

use super::book::{Book, Signal, Standing};
use super::event::{self, Content, Subject};
use super::{Attempted, Leg};

/// Whether a signal is no longer asked for: another state, a later rollout, or a dry run from now on.
pub(super) fn takes_back(now: &Decision, signal: &Signal) -> bool {
    let asked_for = now.epoch == signal.epoch && now.state == State::Rollback && !now.dry_run;
    now.epoch >= signal.epoch && !asked_for
}

/// What an event about a decision names.
pub(super) fn subject<'a>(decision: &'a Decision, id: &'a str) -> Subject<'a> {
    Subject {
        signal: id,
        target: &decision.target,
        revision: &decision.revision,
        epoch: decision.epoch,
        valid_until_ns: decision.valid_until_ns,
    }
}

/// The whole evidence, not clipped, with readable times.
pub(super) fn evidence_file(
    subject: Subject<'_>,
    decision: &Decision,
    receivers: &[String],
    at_ns: u64,
) -> Value {
    json!({
        "signal_id": subject.signal,
        "target": subject.target,
        "revision": subject.revision,
        "epoch": subject.epoch,
        "dry_run": decision.dry_run,
        "at": event::rfc3339(at_ns),
        "valid_until": event::rfc3339(subject.valid_until_ns),
        "receivers": receivers,
        "evidence": event::whole(Content::Rollback(decision, "")),
        "profile_diffs": [],
    })
}

/// What a later event of an open signal names; a signal without its first event (a damaged journal) is valid no longer.
pub(super) fn subject_of(signal: &Signal, now_ns: u64) -> Subject<'_> {
    Subject {
        signal: &signal.id,
        target: &signal.target,
        revision: &signal.revision,
        epoch: signal.epoch,
        valid_until_ns: signal.events.first().map_or(now_ns, |rollback| rollback.valid_until_ns),
    }
}

/// The evidence file with one diff more; where the file could not be read, one of diffs alone.
pub(super) fn with_diff(read: Option<Value>, signal: &str, diff: &ProfileDiff) -> Value {
    let mut value = read.unwrap_or_else(|| json!({ "signal_id": signal }));
    if let Some(fields) = value.as_object_mut() {
        let diffs = fields.entry("profile_diffs").or_insert_with(|| json!([]));
        if let Some(diffs) = diffs.as_array_mut() {
            diffs.push(json!(diff));
        }
    }
    value
}

/// All legs that could be sent now, rollbacks first.
pub(super) fn due(book: &Book) -> BTreeSet<Leg> {
    let mut due = BTreeSet::new();
    for signal in book.open.values() {
        for event in &signal.events {
            for receiver in &signal.receivers {
                if signal.standing(event, receiver) == Standing::Due {
                    due.insert(Leg {
                        kind: event.kind,
                        signal: signal.id.clone(),
                        event: event.id.clone(),
                        receiver: receiver.clone(),
                    });
                }
            }
        }
    }
    due
}

/// What an attempt saw, whether the receiver may have it, and the end, where this was the last attempt.
pub(super) fn end_of(attempted: Attempted) -> (String, bool, Option<Delivery>) {
    match attempted {
        Attempted::Taken { confirmed: true, saw } => (saw, true, Some(Delivery::Confirmed)),
        Attempted::Taken { confirmed: false, saw } => (saw, true, Some(Delivery::Delivered)),
        Attempted::Refused(saw) => (saw.clone(), true, Some(Delivery::Refused(saw))),
        Attempted::Later { saw, reached, .. } => (saw, reached, None),
    }
}

/// Logs how an attempt ended; gives the outcome's label.
pub(super) fn tell_end(leg: &Leg, saw: &str, end: Option<&Delivery>) -> &'static str {
    let (event, receiver) = (leg.event.as_str(), leg.receiver.as_str());
    let outcome = match end {
        None => "retry",
        Some(Delivery::Delivered) => "delivered",
        Some(Delivery::Confirmed) => "confirmed",
        Some(Delivery::Refused(_)) => "refused",
        Some(Delivery::Expired) => "expired",
    };
    match end {
        Some(Delivery::Delivered | Delivery::Confirmed) => {
            tracing::info!(event, receiver, saw, "signal delivered");
        }
        Some(_) => tracing::error!(event, receiver, saw, outcome, "signal not delivered"),
        None => tracing::warn!(event, receiver, saw, "signal will be sent again"),
    }
    outcome
}
