//! The book: which signals are open and what became of each at each receiver. The journal's entries, folded.
//!
//! Pure: no clock, no I/O. Every change is an [`Entry`] that was journalled first; a restart folds the same entries into
//! the same book.

use std::collections::{BTreeMap, VecDeque};

use model::verdict::{Delivery, Done, SignalEvent};
use serde::{Deserialize, Serialize};

/// Signals that wait for their end at one time: one a target, and nobody rolls back this many at once on purpose.
pub(crate) const OPEN_MAX: usize = 64;

/// Evidence events for one signal: CPU, heap and goroutine diffs of five members.
pub(crate) const EVIDENCE_MAX: usize = 15;

/// Ids of closed signals and dry runs that are remembered, so that an old decision is not taken for a new one.
const CLOSED_MAX: usize = 1024;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// The intent: a new signal, or (after rotation) one as it stands.
    Signal(Signal),
    /// A further event for an open signal.
    Event {
        /// The signal's id.
        signal: String,
        /// The event, without legs.
        event: Event,
    },
    /// One attempt came to its end.
    Attempt(Attempt),
    /// The engine was told of an end.
    Told {
        /// The event's id.
        event: String,
        /// The signal's id.
        signal: String,
        /// The receiver's name.
        receiver: String,
    },
    /// Nothing more will happen to a signal, or it is a dry run that sent nothing.
    Closed {
        /// The signal's id; `dry_run:` before it for a dry run.
        signal: String,
    },
    /// What a dry run would have sent, and to whom.
    DryRun {
        /// The signal's id.
        signal: String,
        /// The target.
        target: String,
        /// The revision.
        revision: String,
        /// Receivers that take the target.
        receivers: Vec<String>,
        /// When, wall ns.
        at_ns: u64,
    },
}

/// One signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Signal {
    /// See [`super::event::signal_id`].
    pub(crate) id: String,
    /// The decision's target.
    pub(crate) target: String,
    /// The decision's revision.
    pub(crate) revision: String,
    /// The decision's epoch.
    pub(crate) epoch: u64,
    /// When the intent was written, wall ns.
    pub(crate) opened_ns: u64,
    /// Receivers that take it, by name.
    pub(crate) receivers: Vec<String>,
    /// The rollback first, then what followed.
    pub(crate) events: Vec<Event>,
}

/// One event of a signal: the bytes that are sent, the same each time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// See [`super::event::event_id`].
    pub(crate) id: String,
    /// Its kind.
    pub(crate) kind: SignalEvent,
    /// The body, as sent.
    pub(crate) body: String,
    /// Not sent after this, wall ns.
    pub(crate) valid_until_ns: u64,
    /// How it stands at each receiver that was tried.
    #[serde(default)]
    pub(crate) legs: BTreeMap<String, Leg>,
}

/// How one event stands at one receiver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Leg {
    /// Attempts that came to their end.
    pub(crate) attempts: u32,
    /// Whether a byte of it may have arrived.
    pub(crate) reached: bool,
    /// How it ended.
    pub(crate) end: Option<Delivery>,
    /// Whether the engine knows.
    pub(crate) told: bool,
}

/// The end of one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// The signal's id.
    pub(crate) signal: String,
    /// The event's id.
    pub(crate) event: String,
    /// The receiver's name.
    pub(crate) receiver: String,
    /// When, wall ns.
    pub(crate) at_ns: u64,
    /// What was seen, for people.
    pub(crate) saw: String,
    /// Whether a byte of it may have arrived.
    pub(crate) reached: bool,
    /// The effect's end, unless it will be tried again.
    pub(crate) end: Option<Delivery>,
}

/// Where one event stands at one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// To be sent.
    Due,
    /// Waits for the rollback's end at this receiver.
    Waits,
    /// Never sent: this receiver does not know the signal.
    Unwanted,
    /// Came to its end.
    Ended,
}

impl Signal {
    /// Whether a `resolved` event exists.
    pub(crate) fn resolved(&self) -> bool {
        self.events.iter().any(|event| event.kind == SignalEvent::Resolved)
    }

    /// Where `event` stands at `receiver`.
    pub(crate) fn standing(&self, event: &Event, receiver: &str) -> Standing {
        let leg = event.legs.get(receiver);
        if leg.is_some_and(|leg| leg.end.is_some()) {
            return Standing::Ended;
        }
        if event.kind == SignalEvent::Rollback {
            return Standing::Due;
        }
        let rollback = self.events.first().and_then(|first| first.legs.get(receiver));
        let Some(end) = rollback.and_then(|leg| leg.end.as_ref()) else { return Standing::Waits };
        let reached = rollback.is_some_and(|leg| leg.reached);
        match (end, event.kind) {
            (Delivery::Delivered | Delivery::Confirmed, _) => Standing::Due,
            // An attempt without an answer may have arrived: whoever may act must hear that it is over.
            (Delivery::Expired, SignalEvent::Resolved) if reached => Standing::Due,
            (Delivery::Expired | Delivery::Refused(_), _) => Standing::Unwanted,
        }
    }

    /// Nothing is left to send or to tell.
    pub(crate) fn settled(&self) -> bool {
        self.events.iter().all(|event| {
            self.receivers.iter().all(|receiver| match self.standing(event, receiver) {
                Standing::Ended => event.legs.get(receiver).is_some_and(|leg| leg.told),
                Standing::Unwanted => true,
                Standing::Due | Standing::Waits => false,
            })
        })
    }
}

/// All signals.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Book {
    /// Open ones by id.
    pub(crate) open: BTreeMap<String, Signal>,
    /// Ids that are over, oldest first.
    pub(crate) closed: VecDeque<String>,
}

impl Book {
    /// Folds one entry in. An entry about a signal that is not open changes nothing.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Signal(signal) => {
                self.open.insert(signal.id.clone(), signal.clone());
            }
            Entry::Event { signal, event } => {
                if let Some(signal) = self.open.get_mut(signal)
                    && signal.events.iter().all(|known| known.id != event.id)
                {
                    signal.events.push(event.clone());
                }
            }
            Entry::Attempt(attempt) => {
                if let Some(leg) = self.leg(&attempt.signal, &attempt.event, &attempt.receiver)
                    && leg.end.is_none()
                {
                    leg.attempts = leg.attempts.saturating_add(1);
                    leg.reached |= attempt.reached;
                    leg.end.clone_from(&attempt.end);
                }
            }
            Entry::Told { signal, event, receiver } => {
                if let Some(leg) = self.leg(signal, event, receiver) {
                    leg.told = true;
                }
            }
            Entry::Closed { signal } => {
                self.open.remove(signal);
                self.remember(signal.clone());
            }
            Entry::DryRun { signal, .. } => self.remember(dry_run_key(signal)),
        }
    }

    /// Whether the id was ever signalled, as far as is remembered.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.open.contains_key(id) || self.closed.iter().any(|closed| closed == id)
    }

    /// The entries from which the same book folds again.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let closed = self.closed.iter().map(|signal| Entry::Closed { signal: signal.clone() });
        closed.chain(self.open.values().cloned().map(Entry::Signal))
    }

    /// After a restart: an attempt may have been under way, so every rollback without an end may have arrived.
    pub(crate) fn distrust(&mut self) {
        for signal in self.open.values_mut() {
            let receivers = &signal.receivers;
            let Some(rollback) = signal.events.first_mut() else { continue };
            for receiver in receivers {
                let leg = rollback.legs.entry(receiver.clone()).or_default();
                leg.reached |= leg.end.is_none();
            }
        }
    }

    /// Ends that the engine has not been told of: the event's id, and what to say.
    pub(crate) fn untold(&self) -> Vec<(String, String, Done)> {
        let mut untold = Vec::new();
        for signal in self.open.values() {
            for event in &signal.events {
                for (receiver, leg) in &event.legs {
                    if let (Some(outcome), false) = (&leg.end, leg.told) {
                        let done = Done {
                            target: signal.target.clone(),
                            epoch: signal.epoch,
                            revision: signal.revision.clone(),
                            receiver: receiver.clone(),
                            event: event.kind,
                            outcome: outcome.clone(),
                        };
                        untold.push((signal.id.clone(), event.id.clone(), done));
                    }
                }
            }
        }
        untold
    }

    fn leg(&mut self, signal: &str, event: &str, receiver: &str) -> Option<&mut Leg> {
        let events = &mut self.open.get_mut(signal)?.events;
        let event = events.iter_mut().find(|known| known.id == event)?;
        Some(event.legs.entry(receiver.to_owned()).or_default())
    }

    fn remember(&mut self, id: String) {
        if !self.closed.contains(&id) {
            self.closed.push_back(id);
        }
        while self.closed.len() > CLOSED_MAX {
            self.closed.pop_front();
        }
    }
}

/// The name under which a dry run is remembered: a later real signal with the same id must still leave.
pub(crate) fn dry_run_key(signal: &str) -> String {
    format!("dry_run:{signal}")
}

#[cfg(test)]
pub(crate) mod tests {
    use model::verdict::{Delivery, SignalEvent};

    use super::{Attempt, Book, Entry, Event, Signal, Standing};

    pub(crate) fn story() -> Vec<Entry> {
        let event = |id: &str, kind| Event {
            id: id.to_owned(),
            kind,
            body: "{\"a\":\"ä\\n\"}".to_owned(),
            valid_until_ns: 100,
            legs: Default::default(),
        };
        let attempt = |event: &str, receiver: &str, end| {
            Entry::Attempt(Attempt {
                signal: "sig_1".to_owned(),
                event: event.to_owned(),
                receiver: receiver.to_owned(),
                at_ns: 5,
                saw: "status 500".to_owned(),
                reached: true,
                end,
            })
        };
        let told = |event: &str, receiver: &str| Entry::Told {
            signal: "sig_1".to_owned(),
            event: event.to_owned(),
            receiver: receiver.to_owned(),
        };
        vec![
            Entry::Closed { signal: "sig_0".to_owned() },
            Entry::Signal(Signal {
                id: "sig_1".to_owned(),
                target: "client".to_owned(),
                revision: "v2".to_owned(),
                epoch: 1,
                opened_ns: 1,
                receivers: vec!["a".to_owned(), "b".to_owned()],
                events: vec![event("sig_1", SignalEvent::Rollback)],
            }),
            attempt("sig_1", "a", None),
            attempt("sig_1", "a", Some(Delivery::Delivered)),
            told("sig_1", "a"),
            attempt("sig_1", "b", Some(Delivery::Refused("status 410".to_owned()))),
            told("sig_1", "b"),
            Entry::Event {
                signal: "sig_1".to_owned(),
                event: event("sig_1.resolved", SignalEvent::Resolved),
            },
            attempt("sig_1.resolved", "a", Some(Delivery::Confirmed)),
            told("sig_1.resolved", "a"),
            Entry::Closed { signal: "sig_1".to_owned() },
        ]
    }

    #[test]
    fn a_book_folds_again_from_its_own_entries_at_every_step() {
        let mut book = Book::default();
        for entry in story() {
            book.apply(&entry);
            let mut again = Book::default();
            book.entries().for_each(|entry| again.apply(&entry));
            assert_eq!(again, book);
        }
        assert!(book.open.is_empty() && book.knows("sig_1") && book.knows("sig_0"));
    }

    #[test]
    fn resolved_waits_for_the_rollback_and_skips_who_refused_it() {
        let mut book = Book::default();
        story().iter().take(8).for_each(|entry| book.apply(entry));
        let signal = &book.open["sig_1"];
        let resolved = &signal.events[1];
        assert_eq!(signal.standing(resolved, "a"), Standing::Due);
        assert_eq!(signal.standing(resolved, "b"), Standing::Unwanted);
        assert_eq!(signal.standing(resolved, "c"), Standing::Waits);
        assert!(!signal.settled());
        story().iter().skip(8).take(2).for_each(|entry| book.apply(entry));
        assert!(book.open["sig_1"].settled());
    }

    #[test]
    fn an_end_is_final() {
        let mut book = Book::default();
        story().iter().take(5).for_each(|entry| book.apply(entry));
        let before = book.clone();
        book.apply(&story()[2]);
        assert_eq!(book, before);
    }
}
