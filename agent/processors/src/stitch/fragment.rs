//! What the lines of one trace have told so far: one fragment a span. Owns merging, which gives the same in any order; refuses
//! to grow past its bound.

use model::log::{LogEvent, Meaning};
use serde::{Deserialize, Serialize};

use super::hash;

/// Fragments of one trace.
pub(super) const FRAGMENTS_MAX: usize = 10_000;
/// Attributes of one span.
const ATTRIBUTES_MAX: usize = 16;

/// An open trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Trace {
    /// Sorted by span id and service.
    pub fragments: Vec<Fragment>,
    /// Monotonic nanoseconds.
    pub first_seen_ns: u64,
    /// Monotonic nanoseconds.
    pub last_seen_ns: u64,
    /// Lines that found no room.
    pub missing: u64,
}

/// One span, as far as its lines tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Fragment {
    pub span_id: [u8; 8],
    pub service: String,
    pub revision: Option<String>,
    /// The parent id in the line.
    pub parent: Option<[u8; 8]>,
    /// The interval that a line told.
    pub told: Option<Told>,
    /// First line's time and text.
    first: (u64, String),
    last_ns: u64,
    pub failed: bool,
}

/// An interval of work that a line told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Told {
    duration_ns: u64,
    start_ns: u64,
    pub operation: String,
    pub peer: Option<String>,
    pub key: Option<String>,
    attributes: Vec<(String, String)>,
}

impl Trace {
    /// Files a line. Returns the bytes it added.
    pub(super) fn add(&mut self, trace_id: u128, event: &LogEvent, now_ns: u64) -> usize {
        self.last_seen_ns = self.last_seen_ns.max(now_ns);
        let new = Fragment::new(trace_id, event);
        let place = self
            .fragments
            .binary_search_by(|known| (known.span_id, &known.service).cmp(&(new.span_id, &new.service)));
        match place {
            Ok(index) => {
                if let Some(known) = self.fragments.get_mut(index) {
                    known.merge(new);
                }
                0
            }
            Err(_) if self.fragments.len() >= FRAGMENTS_MAX => {
                self.missing += 1;
                0
            }
            Err(index) => {
                let bytes = new.bytes();
                self.fragments.insert(index, new);
                bytes
            }
        }
    }

    /// Whether a span is here that has no parent in this trace and holds all others.
    pub(super) fn has_root(&self, slack_ns: u64) -> bool {
        let start = self.fragments.iter().map(Fragment::start_ns).min().unwrap_or(0);
        let end = self.fragments.iter().map(Fragment::end_ns).max().unwrap_or(0);
        let inside = |id: &[u8; 8]| self.fragments.binary_search_by(|other| other.span_id.cmp(id)).is_ok();
        self.fragments.iter().any(|fragment| {
            fragment.told.is_some()
                && !fragment.parent.as_ref().is_some_and(inside)
                && fragment.start_ns() <= start.saturating_add(slack_ns)
                && fragment.end_ns().saturating_add(slack_ns) >= end
        })
    }

    /// About the memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.fragments.iter().map(Fragment::bytes).sum()
    }
}

impl Fragment {
    fn new(trace_id: u128, event: &LogEvent) -> Fragment {
        let told = match &event.meaning {
            Meaning::Work(work) => Some(Told {
                duration_ns: work.duration_ns,
                start_ns: work.start_ns,
                operation: work.operation.clone(),
                peer: work.peer.clone(),
                key: work.key.clone(),
                attributes: event.attributes.iter().take(ATTRIBUTES_MAX).cloned().collect(),
            }),
            _ => None,
        };
        let trace = trace_id.to_be_bytes();
        let span_id = event.span_id.unwrap_or_else(|| match &told {
            // Without a span id each interval is a span, and all plain lines of a service are one.
            Some(told) => hash::span(&[
                &trace,
                event.service.as_bytes(),
                told.operation.as_bytes(),
                &told.start_ns.to_be_bytes(),
                &told.duration_ns.to_be_bytes(),
            ]),
            None => hash::span(&[&trace, event.service.as_bytes()]),
        });
        let failed = match &event.meaning {
            Meaning::Work(work) => work.failed,
            _ => event.severity >= model::log::Severity::Error,
        };
        Fragment {
            span_id,
            service: event.service.clone(),
            revision: event.revision.clone(),
            parent: event.parent_span_id.filter(|parent| *parent != span_id),
            told,
            first: (event.time_ns, event.message.clone()),
            last_ns: event.time_ns,
            failed,
        }
    }

    /// Every choice is by value, never by order of arrival.
    fn merge(&mut self, other: Fragment) {
        self.revision = self.revision.take().max(other.revision);
        self.parent = self.parent.max(other.parent);
        self.told = self.told.take().max(other.told);
        self.last_ns = self.last_ns.max(other.last_ns);
        self.failed |= other.failed;
        if other.first < self.first {
            self.first = other.first;
        }
    }

    pub(super) fn start_ns(&self) -> u64 {
        self.told.as_ref().map_or(self.first.0, |told| told.start_ns)
    }

    pub(super) fn end_ns(&self) -> u64 {
        self.told.as_ref().map_or(self.last_ns, |told| told.start_ns.saturating_add(told.duration_ns))
    }

    /// The operation, or the first line.
    pub(super) fn name(&self) -> &str {
        /// A span's name is a word or a sentence, not a stack trace.
        const NAME_BYTES_MAX: usize = 128;
        let name = self.told.as_ref().map_or(self.first.1.as_str(), |told| told.operation.as_str());
        name.get(..name.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or(name)
    }

    pub(super) fn attributes(&self) -> Vec<(String, String)> {
        let Some(told) = &self.told else { return Vec::new() };
        let mut attributes = told.attributes.clone();
        // One name for the peer, whatever the line called it.
        if let Some(peer) = told.peer.as_ref().filter(|_| attributes.iter().all(|(name, _)| name != "peer")) {
            attributes.push(("peer".to_owned(), peer.clone()));
        }
        attributes
    }

    fn bytes(&self) -> usize {
        let told = self.told.as_ref().map_or(0, |told| {
            let attributes: usize =
                told.attributes.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
            96 + told.operation.len() + attributes
        });
        192 + self.service.len() + self.first.1.len() + told
    }
}
