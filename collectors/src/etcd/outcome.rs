//! Names how a call ended. Goes by message and phase, never by the gRPC code alone: the same loss carries different codes
//! in different versions of etcd, and the client library books a refused connection and a stopped server under one code.

use std::error::Error as StdError;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcd_client::Error;
use model::probe::ProbeOutcome;
use tonic::Code;

use super::ConnectError;
use super::session::Session;

/// Error chains are a handful deep; a longer one is cut.
const CHAIN_MAX: usize = 12;

/// Answers that name the leader as the cause. A dropped proposal is what a leader in transfer, or none, leaves behind.
const LEADER_MESSAGES: [&str; 6] = [
    "etcdserver: leader changed",
    "etcdserver: no leader",
    "etcdserver: not leader",
    "etcdserver: leader transferee",
    "possibly due to previous leader failure",
    "raft proposal dropped",
];

/// Answers that say that we may not, under whichever code the version chose.
const PERMISSION_MESSAGES: [&str; 6] = [
    "etcdserver: permission denied",
    "etcdserver: user name is empty",
    "etcdserver: user name not found",
    "etcdserver: invalid auth token",
    "etcdserver: authentication failed",
    "etcdserver: revision of auth store is old",
];

/// TLS alerts and errors of the peer that mean: not with this certificate, or not without one.
const CERTIFICATE_WORDS: [&str; 7] = [
    "certificaterequired",
    "certificate required",
    "badcertificate",
    "bad certificate",
    "accessdenied",
    "unknownca",
    "certificateexpired",
];

/// How far a failed call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The member answered.
    Answer,
    /// The member's TLS refused our certificate, or that we have none.
    Certificate,
    /// No connection was made.
    Connect,
    /// The connection closed while the request waited for its turn: the library gave it back.
    Unsent,
    /// The connection broke after sending.
    Sent,
}

/// Whether a member takes our certificate, as far as one connection knows.
///
/// With TLS 1.3 the member looks at our certificate after we take the handshake for done. Its refusal is an alert that races
/// with the first request: now the alert is read, now the broken connection is seen. Once an alert was read, what breaks
/// before the next answer broke for that reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admission {
    refused: Arc<AtomicBool>,
    session: Session,
}

impl Admission {
    /// Of a connection with this user.
    pub(super) fn of(session: Session) -> Admission {
        Admission { session, ..Admission::default() }
    }

    /// The connection's user.
    pub(crate) fn session(&self) -> Session {
        self.session.clone()
    }

    /// Whether a call was turned away for a token that is being renewed: it says nothing of the member.
    pub(crate) fn is_between_tokens(&self, outcome: &ProbeOutcome) -> bool {
        *outcome == ProbeOutcome::NotPermitted && self.session.is_logging_in()
    }

    /// The member answered a call.
    pub(crate) fn admitted(&self) {
        self.refused.store(false, Ordering::Relaxed);
    }

    /// How a failed call on this connection ended.
    pub(crate) fn outcome(&self, error: &Error) -> ProbeOutcome {
        match phase(error) {
            Phase::Answer => {
                self.admitted();
                if let Error::GRpcStatus(status) = error
                    && let Some(outcome) = self.session.answered(status.message())
                {
                    return outcome;
                }
            }
            Phase::Certificate => self.refused.store(true, Ordering::Relaxed),
            Phase::Unsent | Phase::Sent if self.refused.load(Ordering::Relaxed) => {
                return ProbeOutcome::NotPermitted;
            }
            Phase::Unsent | Phase::Sent | Phase::Connect => {}
        }
        of_error(error)
    }
}

/// How a call that got no connection ended.
pub(crate) fn of_connect_error(error: &ConnectError) -> ProbeOutcome {
    match error {
        ConnectError::NotPermitted(_) => ProbeOutcome::NotPermitted,
        ConnectError::NoUrl
        | ConnectError::BadUrl(_)
        | ConnectError::Unreadable(_)
        | ConnectError::BadCertificate(_) => ProbeOutcome::Refused,
    }
}

/// How a failed call ended, by itself.
pub(super) fn of_error(error: &Error) -> ProbeOutcome {
    match (phase(error), error) {
        (Phase::Certificate, _) => ProbeOutcome::NotPermitted,
        (Phase::Connect | Phase::Unsent, _) => ProbeOutcome::Refused,
        (Phase::Sent, _) => ProbeOutcome::LostInFlight,
        (Phase::Answer, Error::GRpcStatus(status)) => of_answer(status.code(), status.message()),
        // The lease that was granted a moment ago is unknown: the grant did not survive.
        (Phase::Answer, Error::LeaseKeepAliveError(_)) => {
            ProbeOutcome::Grpc(code_name(Code::NotFound).to_owned())
        }
        (Phase::Answer, _) => ProbeOutcome::Grpc(code_name(Code::Internal).to_owned()),
    }
}

/// A status with a source was made by our side of the connection; one without was sent by the member.
fn phase(error: &Error) -> Phase {
    match error {
        Error::GRpcStatus(status) => status.source().map_or(Phase::Answer, transport_phase),
        Error::TransportError(error) => transport_phase(error),
        Error::IoError(error) => transport_phase(error),
        Error::LeaseKeepAliveError(message) if message.contains("lease not found") => Phase::Answer,
        // The stream ended without a status.
        Error::LeaseKeepAliveError(_) | Error::WatchError(_) => Phase::Sent,
        _ => Phase::Answer,
    }
}

fn transport_phase(error: &(dyn StdError + 'static)) -> Phase {
    let text = chain(error).to_ascii_lowercase();
    if text.contains("alert") && CERTIFICATE_WORDS.iter().any(|word| text.contains(word)) {
        Phase::Certificate
    } else if sources(error).any(|error| error.is::<tonic::ConnectError>()) {
        Phase::Connect
    } else if text.contains("operation was canceled") {
        Phase::Unsent
    } else {
        Phase::Sent
    }
}

fn of_answer(code: Code, message: &str) -> ProbeOutcome {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&LEADER_MESSAGES) {
        ProbeOutcome::LeaderChanged
    } else if has(&PERMISSION_MESSAGES) || matches!(code, Code::PermissionDenied | Code::Unauthenticated) {
        ProbeOutcome::NotPermitted
    } else {
        ProbeOutcome::Grpc(code_name(code).to_owned())
    }
}

/// An outcome as a fixed word from the source, for the ledger: codes by their canonical name.
pub(crate) fn label(outcome: &ProbeOutcome) -> &'static str {
    match outcome {
        ProbeOutcome::Ok => "ok",
        ProbeOutcome::Refused => "refused",
        ProbeOutcome::NotPermitted => "not_permitted",
        ProbeOutcome::TimedOut => "timed_out",
        ProbeOutcome::LostInFlight => "lost_in_flight",
        ProbeOutcome::LeaderChanged => "leader_changed",
        ProbeOutcome::Grpc(name) => {
            CODES.iter().map(|code| code_name(*code)).find(|known| known == name).unwrap_or("Unknown")
        }
    }
}

const CODES: [Code; 16] = [
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// The canonical name of a gRPC code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// The texts of an error and its causes, outermost first, each once.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for error in sources(error) {
        let one = error.to_string();
        if text.ends_with(&one) {
            continue;
        }
        let gap = if text.is_empty() { "" } else { ": " };
        // Writing to a string cannot fail.
        if write!(text, "{gap}{one}").is_err() {
            break;
        }
    }
    text
}

fn sources<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn StdError + 'static)| error.source()).take(CHAIN_MAX)
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn what_a_member_answers_is_named_by_its_message() {
        let check = |code, message: &str, expected: &str| {
            let error = Error::GRpcStatus(Status::new(code, message));
            assert_eq!(of_error(&error).name(), expected, "{message}");
        };
        check(Code::Unavailable, "etcdserver: leader changed", "leader_changed");
        check(Code::Unknown, "etcdserver: leader changed", "leader_changed");
        check(Code::Unavailable, "etcdserver: no leader", "leader_changed");
        check(Code::Unknown, "raft proposal dropped", "leader_changed");
        check(
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
            "leader_changed",
        );
        check(Code::Unavailable, "etcdserver: request timed out", "Unavailable");
        check(Code::PermissionDenied, "etcdserver: permission denied", "not_permitted");
        check(Code::InvalidArgument, "etcdserver: user name is empty", "not_permitted");
        check(Code::Unauthenticated, "etcdserver: invalid auth token", "not_permitted");
        check(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "ResourceExhausted");
        check(Code::Unavailable, "etcdserver: server stopped", "Unavailable");
        check(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", "OutOfRange");
    }

    #[test]
    fn every_code_has_its_own_label() {
        for code in CODES {
            let outcome = ProbeOutcome::Grpc(code_name(code).to_owned());
            assert_eq!(label(&outcome), code_name(code));
        }
        assert_eq!(label(&ProbeOutcome::Grpc("made up".to_owned())), "Unknown");
    }

    #[test]
    fn a_broken_connection_is_named_by_phase() {
        let reset = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let refused =
            tonic::ConnectError(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
        let alert = std::io::Error::other("received fatal alert: CertificateRequired");
        let check = |error: Box<dyn StdError + Send + Sync>, expected: &str| {
            let text = error.to_string();
            assert_eq!(of_error(&Error::GRpcStatus(Status::from_error(error))).name(), expected, "{text}");
        };
        check(Box::new(reset()), "lost_in_flight");
        check(Box::new(refused), "refused");
        check(Box::new(alert), "not_permitted");
        assert_eq!(of_error(&Error::IoError(reset())), ProbeOutcome::LostInFlight);
    }

    #[test]
    fn after_a_refused_certificate_a_broken_connection_is_no_accident() {
        let admission = Admission::default();
        let broken = |text: &str| Error::IoError(std::io::Error::other(text.to_owned()));
        let check = |error: Error, expected: &str| assert_eq!(admission.outcome(&error).name(), expected);
        check(broken("broken pipe"), "lost_in_flight");
        check(broken("operation was canceled"), "refused");
        check(broken("received fatal alert: CertificateRequired"), "not_permitted");
        check(broken("broken pipe"), "not_permitted");
        check(broken("operation was canceled"), "not_permitted");
        admission.admitted();
        check(broken("broken pipe"), "lost_in_flight");
    }

    #[test]
    fn an_endless_chain_of_causes_is_cut() {
        #[derive(Debug)]
        struct Ring;
        impl std::fmt::Display for Ring {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("again and again")
            }
        }
        impl StdError for Ring {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&Ring)
            }
        }
        assert_eq!(sources(&Ring).count(), CHAIN_MAX);
        assert_eq!(chain(&Ring), "again and again");
    }
}
