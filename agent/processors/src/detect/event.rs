//! One disturbance, however many streams it shows in.
//!
//! Owns which findings an event makes: few. Refuses a storm (one onset, at most three findings) and, where a harmless
//! cause is known, an alarm: such an event is told once, when it is over; only if it outlives its cause it is opened.

use model::time::{SECOND_NS, Stamp};
use serde::{Deserialize, Serialize};

/// Findings that open for one event: enough to see the client's side, the server's and the cause.
const TOLD_MAX: usize = 3;

/// Streams that leave their baseline so soon after the first belong to the same onset.
const JOIN_NS: u64 = 30 * SECOND_NS;

/// A disturbance that is still there so long after it was put down to a harmless cause has another one.
const OUTLIVED_NS: u64 = 15 * SECOND_NS;

/// A stream that opens again so soon after the event's end belongs to it.
const LINGER_NS: u64 = 10 * SECOND_NS;

/// Which stream: (member, metric); the member is empty for all together.
pub(super) type Key = (String, String);

/// What to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// Nothing.
    Nothing,
    /// A finding that opens.
    Open,
    /// The end of one that was opened.
    Close,
    /// A whole event that had a harmless cause and is over.
    Over(String),
}

/// The event under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Event {
    opened: Option<Stamp>,
    closed: Option<Stamp>,
    open: Vec<Key>,
    told: Vec<Key>,
    told_n: usize,
    cause: Option<String>,
}

impl Event {
    /// A stream left its baseline at `onset`, or became much worse; `cause` is what is known of that time.
    pub(super) fn opened(&mut self, at: Stamp, onset: Stamp, key: &Key, cause: Option<String>) -> Tell {
        if self.closed.is_some_and(|closed| at.since_ns(closed) > LINGER_NS) {
            *self = Event::default();
        }
        self.closed = None;
        // What begins later is another onset: it has its own findings, and its own cause.
        if self.opened.is_some_and(|opened| onset.since_ns(opened) > JOIN_NS) {
            self.part();
        }
        let first = self.opened.is_none();
        let opened = *self.opened.get_or_insert(at);
        let worse = self.open.contains(key);
        if !worse {
            self.open.push(key.clone());
        }
        if first {
            self.cause = cause;
        } else if cause.is_none() && self.cause.is_some() {
            // A stream that left without a cause: the event is more than its cause explains.
            self.cause = None;
        }
        // A slow stream notices later what has been told already; what became worse is always news, once.
        let room = if worse {
            self.told_n <= TOLD_MAX
        } else {
            self.told_n < TOLD_MAX && (self.told_n == 0 || at.since_ns(opened) <= JOIN_NS)
        };
        if self.cause.is_some() || !room {
            return Tell::Nothing;
        }
        self.tell(key)
    }

    /// An open stream's next point: has the event outlived its cause? `cause` is what is known of now.
    pub(super) fn lasts(&mut self, at: Stamp, key: &Key, cause: Option<&String>) -> Tell {
        let outlived = self.cause.is_some()
            && cause.is_none()
            && self.opened.is_some_and(|opened| at.since_ns(opened) >= OUTLIVED_NS);
        if !outlived || !self.open.contains(key) {
            return Tell::Nothing;
        }
        self.cause = None;
        if self.told_n >= TOLD_MAX { Tell::Nothing } else { self.tell(key) }
    }

    /// A stream is back.
    pub(super) fn closed(&mut self, at: Stamp, key: &Key) -> Tell {
        self.open.retain(|open| open != key);
        if self.open.is_empty() {
            self.closed = Some(at);
        }
        if self.told.contains(key) {
            self.told.retain(|told| told != key);
            return Tell::Close;
        }
        match self.cause.clone() {
            Some(cause) if self.open.is_empty() && self.told_n == 0 => {
                self.told_n = TOLD_MAX;
                Tell::Over(cause)
            }
            _ => Tell::Nothing,
        }
    }

    /// Somebody changed something: what begins from here on is another onset.
    pub(super) fn part(&mut self) {
        self.opened = None;
        self.told_n = 0;
        self.cause = None;
    }

    fn tell(&mut self, key: &Key) -> Tell {
        if !self.told.contains(key) {
            self.told.push(key.clone());
        }
        self.told_n += 1;
        Tell::Open
    }
}
