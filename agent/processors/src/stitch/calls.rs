//! etcd's own slow lines: up to three of them tell of one request (`request stats` holds `trace` holds `apply`). Owns their
//! merging into calls and the spans of a call; refuses to make a parent of a read loop, which serves many reads at once.

use std::collections::{BTreeMap, BTreeSet};

use model::finding::{FoundBy, Span};
use model::log::LogEvent;
use model::origin::Origin;
use serde::{Deserialize, Serialize};

use super::assign::{Pair, assign};
use super::hash;
use super::piece::{Kind, Piece};

/// Lines that wait for their client: at etcd's 100 ms limit a member on two cores cannot write more in ten seconds.
const PIECES_MAX: usize = 4096;
/// etcd prints a step only above 100 ms / (steps + 1).
const HIDDEN_STEP_NS: u64 = 100_000_000;
/// Waiting for the read index: what a read loop does for it.
const AGREEMENT: &str = "agreement among raft nodes before linearized reading";
/// Operation of the loop itself.
const READ_LOOP: &str = "linearizableReadLoop";

/// Lines that wait, sorted; the same line read twice is one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Pieces {
    /// With the monotonic time each was first seen.
    waiting: Vec<(Piece, u64)>,
}

/// One request inside one member: places in [`Pieces`], outermost first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    parts: Vec<(usize, u8)>,
    pub seen_ns: u64,
}

/// How sure a choice is: `base` without rivals. With rivals, what was reached where the truth was known: simulated loads of
/// eight workers, and eight workers that read one large range at once from overloaded members of 3.5, 3.6 and 3.7 (120 of 265
/// right, the least favourable case there is); the worse of the two, rounded down.
#[must_use]
pub(super) fn certainty(base: u8, pair: Pair) -> u8 {
    let margin = pair.margin.unwrap_or(0);
    let reached = match (pair.rivals, margin) {
        (0..=1, _) => base,
        (2..=6, margin) if margin >= pair.cost.max(1) => 65,
        (_, margin) if margin >= pair.cost.max(1) => 60,
        (2..=4, _) | (5..=6, 1..) => 60,
        (5..=6, 0) => 30,
        (_, 1..) => 40,
        (_, 0) => 20,
    };
    reached.min(base)
}

impl Pieces {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the oldest came.
    pub(super) fn oldest_ns(&self) -> Option<u64> {
        self.waiting.iter().map(|(_, seen)| *seen).min()
    }

    /// Keeps an etcd slow line. Returns whether an older one had to go.
    pub(super) fn add(&mut self, event: &LogEvent, origin: &Origin, now_ns: u64) -> bool {
        let Some(piece) = Piece::new(event, origin) else { return false };
        let Err(place) = self.waiting.binary_search_by(|(known, _)| known.cmp(&piece)) else { return false };
        self.waiting.insert(place, (piece, now_ns));
        if self.waiting.len() <= PIECES_MAX {
            return false;
        }
        let oldest = self.waiting.iter().enumerate().min_by_key(|(index, (_, seen))| (*seen, *index));
        if let Some((index, _)) = oldest {
            self.waiting.remove(index);
        }
        true
    }

    /// All waiting lines as calls, in order of member, class and start.
    pub(super) fn calls(&self) -> Vec<Call> {
        let mut groups = BTreeMap::<(&str, &str), Vec<usize>>::new();
        for (index, (piece, _)) in self.waiting.iter().enumerate() {
            groups.entry((&piece.member, &piece.class)).or_default().push(index);
        }
        groups.values().flat_map(|group| self.merge(group)).collect()
    }

    /// Traces go into requests, applies into traces, applies that are left into requests.
    fn merge(&self, group: &[usize]) -> Vec<Call> {
        let of = |kind: Kind| -> Vec<usize> {
            group
                .iter()
                .copied()
                .filter(|&index| self.piece(index).is_some_and(|piece| piece.kind == kind))
                .collect()
        };
        let (requests, traces, applies) = (of(Kind::Request), of(Kind::Trace), of(Kind::Apply));
        let trace_in_request = self.nest(&traces, &requests);
        let apply_in_trace = self.nest(&applies, &traces);
        let left: Vec<usize> =
            applies.iter().copied().filter(|apply| !apply_in_trace.contains_key(apply)).collect();
        let apply_in_request = self.nest(&left, &requests);
        let inner = |map: &BTreeMap<usize, (usize, u8)>, outer: usize| {
            map.iter()
                .filter(|(_, (of, _))| *of == outer)
                .map(|(&inner, &(_, sure))| (inner, sure))
                .collect::<Vec<_>>()
        };
        let mut calls = Vec::new();
        for &request in &requests {
            let mut parts = vec![(request, 100)];
            for (trace, sure) in inner(&trace_in_request, request) {
                parts.push((trace, sure));
                parts.extend(inner(&apply_in_trace, trace));
            }
            if parts.len() < 3 {
                parts.extend(inner(&apply_in_request, request));
            }
            calls.push(parts);
        }
        for &trace in traces.iter().filter(|trace| !trace_in_request.contains_key(trace)) {
            let mut parts = vec![(trace, 100)];
            parts.extend(inner(&apply_in_trace, trace));
            calls.push(parts);
        }
        let taken: BTreeSet<usize> = calls.iter().flatten().map(|(index, _)| *index).collect();
        calls.extend(applies.iter().filter(|apply| !taken.contains(apply)).map(|&apply| vec![(apply, 100)]));
        let seen = |parts: &[(usize, u8)]| {
            parts.iter().filter_map(|(index, _)| Some(self.waiting.get(*index)?.1)).min()
        };
        calls.into_iter().map(|parts| Call { seen_ns: seen(&parts).unwrap_or(0), parts }).collect()
    }

    /// Which outer line each inner one lies in, and how sure that is.
    fn nest(&self, inner: &[usize], outer: &[usize]) -> BTreeMap<usize, (usize, u8)> {
        /// Same member, operation, key where told, and nested times.
        const BASE: u8 = 98;
        /// Lines of one function differ by the time it takes to write them: a clear best within this is hardly a rival's.
        const ONE_FUNCTION_NS: u64 = 1_000_000;
        let cost = |row: usize, col: usize| {
            let (inner, outer) = (self.piece(*inner.get(row)?)?, self.piece(*outer.get(col)?)?);
            inner.nested_cost(outer)
        };
        let pairs = assign(inner.len(), outer.len(), cost);
        let named = |(&inner, pair): (&usize, &Option<Pair>)| {
            let pair = (*pair)?;
            let clear = pair.margin.is_none_or(|margin| margin > pair.cost.saturating_mul(4));
            let sure = if clear && pair.cost <= ONE_FUNCTION_NS { BASE } else { certainty(BASE, pair) };
            Some((inner, (*outer.get(pair.col)?, sure)))
        };
        inner.iter().zip(&pairs).filter_map(named).collect()
    }

    fn piece(&self, index: usize) -> Option<&Piece> {
        self.waiting.get(index).map(|(piece, _)| piece)
    }

    /// The outermost line of a call.
    pub(super) fn outer(&self, call: &Call) -> Option<&Piece> {
        self.piece(call.parts.first()?.0)
    }

    /// The key range of a call, from whichever line tells it.
    pub(super) fn key(&self, call: &Call) -> Option<&str> {
        call.parts.iter().find_map(|(index, _)| self.piece(*index)?.key.as_deref())
    }

    /// Forgets the lines of these calls.
    pub(super) fn remove(&mut self, calls: &[&Call]) {
        let gone: BTreeSet<usize> =
            calls.iter().flat_map(|call| &call.parts).map(|(index, _)| *index).collect();
        let mut index = 0;
        self.waiting.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
    }

    /// A call as spans: request, trace with its steps, apply. `parent` is the client's span, if one was found.
    pub(super) fn spans(
        &self,
        call: &Call,
        trace_id: u128,
        parent: Option<(&[u8; 8], FoundBy, u8)>,
    ) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for (index, sure) in &call.parts {
            let Some(piece) = self.piece(*index) else { continue };
            let mut span = piece.span(trace_id);
            let outer = spans.iter().rev().find(|outer| outer.found_by != FoundBy::Step);
            (span.parent, span.found_by, span.confidence) = match (outer, parent) {
                (Some(outer), _) => (Some(outer.span_id), FoundBy::SameRequest, *sure),
                (None, Some((id, found_by, sure))) => (Some(*id), found_by, sure),
                (None, None) => (None, FoundBy::Root, 100),
            };
            let steps = self.steps(piece, trace_id, span.span_id);
            spans.push(span);
            spans.extend(steps);
        }
        spans
    }

    /// Steps at their earliest place; hidden ones leave slack.
    fn steps(&self, piece: &Piece, trace_id: u128, parent: [u8; 8]) -> Vec<Span> {
        // A line may claim centuries.
        let total = piece.steps.iter().fold(0_u64, |total, (_, duration)| total.saturating_add(*duration));
        let slack_ns = (piece.end_ns - piece.start_ns).saturating_sub(total).min(HIDDEN_STEP_NS);
        let mut start_ns = piece.start_ns;
        let mut spans = Vec::new();
        for (place, (name, duration)) in piece.steps.iter().enumerate() {
            let end_ns = start_ns.saturating_add(*duration);
            let mut attributes = Vec::new();
            if name == AGREEMENT {
                attributes.extend(
                    self.read_loop(piece, start_ns, end_ns).map(|id| ("link.trace_id".to_owned(), id)),
                );
            }
            spans.push(Span {
                span_id: hash::span(&[&trace_id.to_be_bytes(), &parent, &place.to_le_bytes()]),
                parent: Some(parent),
                service: "etcd".to_owned(),
                revision: None,
                name: name.clone(),
                start_ns,
                end_ns,
                failed: false,
                found_by: FoundBy::Step,
                confidence: 100,
                slack_ns,
                attributes,
            });
            start_ns = end_ns;
        }
        spans
    }

    /// The read loop that overlaps a wait for agreement: a link, because it serves other reads too.
    fn read_loop(&self, piece: &Piece, start_ns: u64, end_ns: u64) -> Option<String> {
        let overlaps = |other: &&Piece| {
            other.member == piece.member
                && other.operation == READ_LOOP
                && other.start_ns < end_ns
                && other.end_ns > start_ns
        };
        let longest = self
            .waiting
            .iter()
            .map(|(other, _)| other)
            .filter(overlaps)
            .max_by_key(|other| other.end_ns.min(end_ns) - other.start_ns.max(start_ns))?;
        Some(format!("{:032x}", longest.trace_id()))
    }

    /// The derived trace id of a call that no client claims.
    pub(super) fn trace_id(&self, call: &Call) -> u128 {
        self.outer(call).map_or(1, Piece::trace_id)
    }
}
