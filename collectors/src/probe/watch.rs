//! The watcher of the agent's own key at one member: from a put's due time to its event here. Resumes after the last
//! revision it saw; refuses to trust what a stream sends: event types it does not know are counted, not unpacked.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Error, WatchOptions, WatchResponse, WatchStream};
use model::inbox::{Inbox, NoPlace};
use model::probe::{ProbeKind, ProbeOutcome};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::puts::{Put, PutClock};
use super::{Prober, RECORD_BYTES, Reach, nanos};
use crate::etcd::Connection;
use crate::etcd::outcome::{self, Admission};

/// Between two attempts to open the stream: once a second is a tenth of what the probes ask.
const RETRY: Duration = Duration::from_secs(1);

/// How often events that did not come are looked for.
const OVERDUE_CHECK: Duration = Duration::from_millis(500);

/// One member's watcher.
pub(super) struct Watcher {
    connection: Arc<Mutex<Connection>>,
    admission: Admission,
    puts: PutClock,
    reach: Reach,
    position: Position,
}

/// How far the watcher has come. State changes happen here, in plain functions.
#[derive(Debug, Default)]
struct Position {
    /// Where the next stream starts; 0 is "from now".
    resume_revision: i64,
    /// Puts up to this number are settled: seen, given up, or older than the watcher.
    settled: u64,
    /// Puts above `settled` that were seen; at most as many as the clock remembers.
    seen: Vec<u64>,
    /// Why there is no stream, if there is none.
    down: Option<ProbeOutcome>,
}

impl Watcher {
    pub(super) fn new(prober: &Prober) -> Watcher {
        let position = Position { settled: prober.puts.last(), ..Position::default() };
        Watcher {
            connection: Arc::clone(&prober.connection),
            admission: prober.admission.clone(),
            puts: prober.puts.clone(),
            reach: prober.reach.clone(),
            position,
        }
    }

    /// Watches until `cancel`. A put that was answered and whose event does not come within two deadlines of its due time
    /// (the put itself may have used up the first) is a failed `WatchLag`.
    pub(super) async fn run(mut self, inbox: &Inbox, cancel: &CancellationToken) {
        let mut overdue = interval(OVERDUE_CHECK);
        overdue.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stream: Option<WatchStream> = None;
        let mut retry_at = Instant::now();
        loop {
            if stream.is_none() && Instant::now() >= retry_at {
                retry_at = Instant::now() + RETRY;
                // Bounded by the deadline, so that the look for what is overdue is late by that at most.
                stream = tokio::select! {
                    () = cancel.cancelled() => return,
                    opened = self.open() => opened,
                };
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = overdue.tick() => {
                    if self.give_up(inbox) == Err(NoPlace::Closed) {
                        return;
                    }
                }
                Some(message) = next(stream.as_mut()) => {
                    if !self.take(message, inbox) {
                        stream = None;
                    }
                }
            }
        }
    }

    async fn open(&mut self) -> Option<WatchStream> {
        let options = WatchOptions::new().with_start_revision(self.position.resume_revision);
        let opening = async {
            let client = self.connection.lock().await.client().await;
            let client = client.map_err(|error| outcome::of_connect_error(&error))?;
            let mut watch = client.watch_client();
            let key = self.reach.write_key.as_bytes();
            watch.watch(key, Some(options)).await.map_err(|error| self.admission.outcome(&error))
        };
        let opened = timeout(self.reach.deadline, opening).await.unwrap_or(Err(ProbeOutcome::TimedOut));
        opened.map_err(|failed| self.fail(failed)).ok()
    }

    fn fail(&mut self, failed: ProbeOutcome) {
        self.reach.ledger.add("agent_probe_watch_errors_total", outcome::label(&failed), 1);
        self.position.down = Some(failed);
    }

    /// Takes one message; false when the stream is over.
    fn take(&mut self, message: Result<Option<WatchResponse>, Error>, inbox: &Inbox) -> bool {
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => {
                self.fail(ProbeOutcome::LostInFlight);
                return false;
            }
            Err(error) => {
                self.fail(self.admission.outcome(&error));
                return false;
            }
        };
        if response.canceled() {
            self.admission.session().answered(response.cancel_reason());
        }
        let revision = response.header().map_or(0, |header| header.revision());
        if let Some(failed) = self.position.progress(Signal {
            revision,
            canceled: response.canceled(),
            compact_revision: response.compact_revision(),
            reason: response.cancel_reason(),
        }) {
            self.fail(failed);
            return false;
        }
        // The event's type is not unpacked: only our own values are known, and a deletion carries none.
        for kv in response.events().iter().filter_map(|event| event.kv()) {
            self.position.resume_revision =
                self.position.resume_revision.max(kv.mod_revision().saturating_add(1));
            match self.puts.find(kv.value()) {
                Some(put) if self.position.see(put.number) => {
                    self.write(put, self.reach.since(put.due), ProbeOutcome::Ok, inbox).ok();
                }
                Some(_) => {}
                None => self.reach.ledger.add("agent_probe_watch_foreign_total", "", 1),
            }
        }
        true
    }

    /// Settles what is older than two deadlines; what was written and not seen failed.
    fn give_up(&mut self, inbox: &Inbox) -> Result<(), NoPlace> {
        let now = self.reach.clock.now();
        let limit = now.mono_ns.saturating_sub(nanos(self.reach.deadline.saturating_mul(2)));
        for put in self.puts.due_before(self.position.settled, limit) {
            let unseen = self.position.see(put.number);
            self.position.settle(put.number);
            if unseen && put.written {
                let why = match &self.position.down {
                    Some(ProbeOutcome::NotPermitted) => ProbeOutcome::NotPermitted,
                    Some(ProbeOutcome::Refused) => ProbeOutcome::Refused,
                    _ => ProbeOutcome::TimedOut,
                };
                self.write(put, self.reach.since(put.due), why, inbox)?;
            }
        }
        Ok(())
    }

    fn write(&self, put: Put, lag: Duration, outcome: ProbeOutcome, inbox: &Inbox) -> Result<(), NoPlace> {
        match inbox.reserve(RECORD_BYTES) {
            Ok(place) => {
                place.send(self.reach.record(ProbeKind::WatchLag, put.due, lag, outcome));
                Ok(())
            }
            Err(NoPlace::Full) => {
                self.reach.ledger.add("agent_probe_skips_total", "inbox_full", 1);
                Ok(())
            }
            Err(NoPlace::Closed) => Err(NoPlace::Closed),
        }
    }
}

/// The next message of a stream, if there is a stream.
async fn next(stream: Option<&mut WatchStream>) -> Option<Result<Option<WatchResponse>, Error>> {
    match stream {
        Some(stream) => Some(stream.message().await),
        None => std::future::pending().await,
    }
}

/// What a response says of the stream itself.
#[derive(Clone, Copy, Debug, Default)]
struct Signal<'a> {
    revision: i64,
    canceled: bool,
    compact_revision: i64,
    reason: &'a str,
}

impl Position {
    /// Follows a response; why the watch is over, when it is.
    fn progress(&mut self, signal: Signal<'_>) -> Option<ProbeOutcome> {
        if signal.compact_revision > 0 {
            // What lies before is gone; events in between were lost and their puts fail as overdue.
            self.resume_revision = signal.compact_revision;
            return Some(ProbeOutcome::Grpc("OutOfRange".to_owned()));
        }
        if signal.canceled {
            let denied = ["ermission", "user name", "auth"].iter().any(|word| signal.reason.contains(word));
            let failed = if denied { ProbeOutcome::NotPermitted } else { ProbeOutcome::LeaderChanged };
            return Some(failed);
        }
        if self.resume_revision == 0 {
            self.resume_revision = signal.revision.saturating_add(1);
        }
        self.down = None;
        None
    }

    /// Notes an event; false when it was noted or given up before.
    fn see(&mut self, number: u64) -> bool {
        if number <= self.settled || self.seen.contains(&number) {
            return false;
        }
        self.seen.push(number);
        true
    }

    fn settle(&mut self, number: u64) {
        self.settled = self.settled.max(number);
        self.seen.retain(|seen| *seen > number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_resumes_after_what_it_saw() {
        let mut position = Position::default();
        let created = Signal { revision: 41, ..Signal::default() };
        assert_eq!(position.progress(created), None);
        assert_eq!(position.resume_revision, 42);
        // A later header does not skip events that are still to come.
        assert_eq!(position.progress(Signal { revision: 90, ..Signal::default() }), None);
        assert_eq!(position.resume_revision, 42);
    }

    #[test]
    fn a_compacted_start_moves_to_the_compaction() {
        let mut position = Position { resume_revision: 5, ..Position::default() };
        let compacted = Signal { compact_revision: 70, canceled: true, ..Signal::default() };
        assert_eq!(position.progress(compacted), Some(ProbeOutcome::Grpc("OutOfRange".to_owned())));
        assert_eq!(position.resume_revision, 70);
    }

    #[test]
    fn a_cancelled_watch_says_why() {
        let check = |reason, expected| {
            let signal = Signal { canceled: true, reason, ..Signal::default() };
            assert_eq!(Position::default().progress(signal), Some(expected), "{reason}");
        };
        check(
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            ProbeOutcome::NotPermitted,
        );
        check("etcdserver: invalid auth token", ProbeOutcome::NotPermitted);
        check("etcdserver: no leader", ProbeOutcome::LeaderChanged);
        check("", ProbeOutcome::LeaderChanged);
    }

    #[test]
    fn an_event_counts_once_and_never_after_it_was_given_up() {
        let mut position = Position { settled: 3, ..Position::default() };
        let seen: Vec<bool> = [3, 4, 4, 6, 5].map(|number| position.see(number)).into();
        assert_eq!(seen, [false, true, false, true, true]);
        position.settle(7);
        assert!(position.seen.is_empty());
        assert!(!position.see(7) && position.see(8));
    }
}
