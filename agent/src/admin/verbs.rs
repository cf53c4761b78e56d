//! What the socket's owner may ask for: a mark, a reload, profiles of the agent itself; faster probes are next door.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use model::inbox::NoPlace;
use model::mark::{Mark, MarkKind, MarkSource};
use model::record::{Fact, Record};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc::error::TrySendError;

use super::boost;
use super::routes::{Answer, Surface, Via, text, unavailable, with_type};
use crate::selfprofile;

/// A mark is two names and a word.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Longest name: an image reference with its digest is below 200 bytes.
const NAME_BYTES_MAX: usize = 256;

/// A mark as a record, in the inbox.
const MARK_BYTES: usize = 1024;

/// Longest profile.
pub(super) const PROFILE_TIME_MAX: Duration = Duration::from_secs(60);

/// Length of a profile that does not say.
const PROFILE_SECONDS: u64 = 10;

/// A mark as it is posted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Posted {
    target: String,
    #[serde(default)]
    revision: String,
    kind: MarkKind,
    #[serde(default)]
    rollback_of: Option<String>,
}

pub(super) async fn post(surface: &Surface, request: Request<Incoming>) -> Answer {
    match request.uri().path() {
        "/mark" => match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
            Ok(body) => mark(surface, &body.to_bytes()),
            Err(error) => text(StatusCode::PAYLOAD_TOO_LARGE, format!("body: {error}\n")),
        },
        "/-/reload" => reload(surface),
        "/probe-rate" => boost::post(surface, request.uri().query()),
        _ => text(StatusCode::NOT_FOUND, "not here\n"),
    }
}

fn mark(surface: &Surface, body: &Bytes) -> Answer {
    let mark = match parse(body) {
        Ok(mark) => mark,
        Err(reason) => return text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
    };
    let Some(inbox) = surface.inbox.upgrade() else { return unavailable("the agent is stopping\n") };
    let place = match inbox.reserve(MARK_BYTES) {
        Ok(place) => place,
        Err(NoPlace::Full) => return unavailable("the inbox is full: try again\n"),
        Err(NoPlace::Closed) => return unavailable("the agent is stopping\n"),
    };
    let at = surface.clock.now();
    tracing::info!(target = mark.target, revision = mark.revision, kind = ?mark.kind, "mark");
    surface.announced.enter(&mark.target, at);
    place.send(Record { at, origin: Arc::clone(&surface.origin), fact: Fact::Mark(mark) });
    let time = Timestamp::from_nanosecond(i128::from(at.wall_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
    let answer = json!({ "mono_ns": at.mono_ns, "wall_ns": at.wall_ns, "at": time.to_string() });
    with_type(StatusCode::ACCEPTED, "application/json", format!("{answer}\n"))
}

/// The mark, or one line that says what to write instead.
fn parse(body: &[u8]) -> Result<Mark, String> {
    let posted: Posted = serde_json::from_slice(body).map_err(|error| format!("mark: {error}"))?;
    name("target", &posted.target)?;
    if posted.target.is_empty() {
        return Err("target: must not be empty".to_owned());
    }
    name("revision", &posted.revision)?;
    if let Some(rollback_of) = &posted.rollback_of {
        name("rollback_of", rollback_of)?;
        if posted.kind != MarkKind::Rollout {
            return Err("rollback_of: only a rollout can put a revision back".to_owned());
        }
        if rollback_of.is_empty() || *rollback_of == posted.revision {
            return Err(
                "rollback_of: must name the revision that is put away, not the one put back".to_owned()
            );
        }
    }
    if posted.kind == MarkKind::Rollout && posted.revision.is_empty() {
        return Err("revision: a rollout must name what it puts in place".to_owned());
    }
    let Posted { target, revision, kind, rollback_of } = posted;
    Ok(Mark { target, revision, kind, rollback_of, source: MarkSource::Operator })
}

/// Whether the body of a mark can be read.
#[cfg(fuzzing)]
pub(crate) fn readable_mark(body: &[u8]) -> bool {
    parse(body).is_ok()
}

fn name(field: &str, value: &str) -> Result<(), String> {
    if value.len() > NAME_BYTES_MAX {
        return Err(format!("{field}: {} bytes, at most {NAME_BYTES_MAX}", value.len()));
    }
    if value.chars().any(char::is_control) {
        return Err(format!("{field}: control characters"));
    }
    if value.trim() != value {
        return Err(format!("{field}: white space at an end"));
    }
    Ok(())
}

fn reload(surface: &Surface) -> Answer {
    match surface.reload.try_send(()) {
        // A wish that waits already covers this one.
        Ok(()) | Err(TrySendError::Full(())) => {
            text(StatusCode::ACCEPTED, "the configuration will be read again; the log says how that went\n")
        }
        Err(TrySendError::Closed(())) => unavailable("the agent is stopping\n"),
    }
}

pub(super) async fn profile(surface: &Surface, via: Via, query: Option<&str>) -> Answer {
    if let Some(refusal) = unprofiled(surface, via) {
        return refusal;
    }
    let asked = match query.unwrap_or_default().strip_prefix("seconds=").map(str::parse::<u64>) {
        None => PROFILE_SECONDS,
        Some(Ok(seconds)) if (1..=PROFILE_TIME_MAX.as_secs()).contains(&seconds) => seconds,
        Some(_) => return text(StatusCode::BAD_REQUEST, "seconds: 1 to 60\n"),
    };
    profiled(selfprofile::capture(Duration::from_secs(asked)).await)
}

pub(super) async fn heap(surface: &Surface, via: Via) -> Answer {
    match unprofiled(surface, via) {
        Some(refusal) => refusal,
        None => profiled(selfprofile::heap::capture(surface.clock.now()).await),
    }
}

/// Why the agent may not be profiled.
fn unprofiled(surface: &Surface, via: Via) -> Option<Answer> {
    if via == Via::Tcp {
        return Some(text(StatusCode::NOT_FOUND, "the agent's profiles are on the admin socket\n"));
    }
    let off = "the agent's own profiling is off by configuration\n";
    (!surface.profiling).then(|| text(StatusCode::FORBIDDEN, off))
}

fn profiled(profile: Result<Vec<u8>, selfprofile::SelfProfileError>) -> Answer {
    match profile {
        Ok(profile) => with_type(StatusCode::OK, "application/octet-stream", profile),
        Err(selfprofile::SelfProfileError::Busy) => {
            unavailable("another profile of the agent is being taken\n")
        }
        Err(error) => {
            let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}{cause}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn check(body: &str, expected: Result<(), &str>) {
        let got = parse(body.as_bytes());
        match expected {
            Ok(()) => assert!(got.is_ok(), "{body}: {got:?}"),
            Err(reason) => {
                assert!(got.as_ref().is_err_and(|error| error.contains(reason)), "{body}: {got:?}");
            }
        }
    }

    #[test]
    fn a_mark_is_taken_or_the_reason_is_exact() {
        check(r#"{"target":"client","revision":"v2","kind":"rollout"}"#, Ok(()));
        check(r#"{"target":"client","revision":"v1b","kind":"rollout","rollback_of":"v2"}"#, Ok(()));
        check(r#"{"target":"m2","kind":"planned"}"#, Ok(()));
        check(r#"{"target":"client","kind":"rollout"}"#, Err("revision: a rollout must name"));
        check(r#"{"target":"","revision":"v2","kind":"rollout"}"#, Err("target: must not be empty"));
        check(r#"{"target":"client","revision":"v2","kind":"upgrade"}"#, Err("unknown variant `upgrade`"));
        check(r#"{"target":"client","revision":"v2"}"#, Err("missing field `kind`"));
        check(r#"{"target":"client","revision":"v2","kind":"rollout","x":1}"#, Err("unknown field `x`"));
        check(r#"{"target":"c","revision":"v2","kind":"rollout","rollback_of":"v2"}"#, Err("rollback_of"));
        check(r#"{"target":"c","revision":"v2","kind":"planned","rollback_of":"v1"}"#, Err("only a rollout"));
        check(r#"{"target":"a\nb","revision":"v2","kind":"rollout"}"#, Err("target: control characters"));
        check(r#"{"target":" a","revision":"v2","kind":"rollout"}"#, Err("white space"));
        check(
            &format!(r#"{{"target":"{}","kind":"restart"}}"#, "x".repeat(257)),
            Err("257 bytes, at most 256"),
        );
        check("", Err("EOF"));
        check(&"[".repeat(16_000), Err("mark:"));
        check("\u{0}\u{ff}", Err("mark:"));
    }
}
