//! Who calls whom, from closed trees: calls, failures and durations by caller, callee and operation. Owns the edges of one
//! interval; refuses edges that are too unsure, which it only counts.

use std::collections::{BTreeMap, BTreeSet};

use model::finding::{CallTree, Conclusion, Edge, Span};
use model::record::{Fact, Record};
use model::time::SECOND_NS;
use serde::{Deserialize, Serialize};

use crate::stitch::join::host_port;

/// Edges are published this often.
const INTERVAL_NS: u64 = 15 * SECOND_NS;
/// Edges of one interval: about 1 MB. Further ones are counted as uncounted.
const EDGES_MAX: usize = 5_000;
/// Below this an edge is more likely a stranger's: not fed, only counted.
const CONFIDENCE_MIN: u8 = 70;
/// A call line that names a member's endpoint as its peer.
const PEER_TOLD: u8 = 90;
/// Endpoints of members that are remembered.
const ENDPOINTS_MAX: usize = 64;

/// Edges of the interval that runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    sums: Vec<Edge>,
    endpoints: BTreeSet<String>,
    published_ns: Option<u64>,
    unsure: u64,
    overflow: u64,
}

impl Topology {
    /// Takes the trees that were closed by this record; publishes edges on ticks.
    pub fn observe(&mut self, trees: &[&CallTree], record: &Record) -> Vec<Conclusion> {
        self.learn(record);
        trees.iter().for_each(|tree| self.take(tree));
        match &record.fact {
            Fact::Tick(_) => self.tick(record.at.mono_ns),
            _ => Vec::new(),
        }
    }

    /// Calls whose edge was too unsure to be counted.
    #[must_use]
    pub fn unsure(&self) -> u64 {
        self.unsure
    }

    /// Calls that found no room among the edges of their interval.
    #[must_use]
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    fn learn(&mut self, record: &Record) {
        if let Some(member) = record.origin.member.as_ref().filter(|_| self.endpoints.len() < ENDPOINTS_MAX) {
            let endpoint = host_port(&member.endpoint);
            if !endpoint.is_empty() && !self.endpoints.contains(&endpoint) {
                self.endpoints.insert(endpoint);
            }
        }
    }

    fn take(&mut self, tree: &CallTree) {
        let by_id: BTreeMap<[u8; 8], &Span> = tree.spans.iter().map(|span| (span.span_id, span)).collect();
        let parents: BTreeSet<[u8; 8]> = tree.spans.iter().filter_map(|span| span.parent).collect();
        for span in &tree.spans {
            let caller = span.parent.and_then(|parent| by_id.get(&parent));
            if let Some(caller) = caller.filter(|caller| caller.service != span.service) {
                self.count(&caller.service, &span.service, span, sure(span));
            } else if !parents.contains(&span.span_id) {
                self.take_leaf(span);
            }
        }
    }

    /// A call whose callee told nothing: the peer it names.
    fn take_leaf(&mut self, span: &Span) {
        let peer = span.attributes.iter().find(|(name, _)| name == "peer").map(|(_, peer)| host_port(peer));
        let Some(peer) = peer.filter(|peer| !peer.is_empty()) else { return };
        let callee = if self.endpoints.contains(&peer) { "etcd" } else { peer.as_str() };
        self.count(&span.service, callee, span, PEER_TOLD);
    }

    fn count(&mut self, caller: &str, callee: &str, span: &Span, confidence: u8) {
        if confidence < CONFIDENCE_MIN {
            self.unsure += 1;
            return;
        }
        // The callee's own name for it and the caller's are one operation.
        let operation = crate::stitch::operation(&span.name);
        let key = |edge: &Edge| (edge.caller.clone(), edge.callee.clone(), edge.operation.clone());
        let wanted = (caller.to_owned(), callee.to_owned(), operation);
        let place = match self.sums.binary_search_by(|edge| key(edge).cmp(&wanted)) {
            Ok(place) => place,
            Err(_) if self.sums.len() >= EDGES_MAX => {
                self.overflow += 1;
                return;
            }
            Err(place) => {
                let (caller, callee, operation) = wanted;
                let empty = Edge {
                    caller,
                    callee,
                    operation,
                    calls: 0,
                    failed: 0,
                    duration_sum_ns: 0,
                    duration_max_ns: 0,
                    confidence: 100,
                };
                self.sums.insert(place, empty);
                place
            }
        };
        if let Some(edge) = self.sums.get_mut(place) {
            let duration = span.end_ns.saturating_sub(span.start_ns);
            edge.calls += 1;
            edge.failed += u64::from(span.failed);
            edge.duration_sum_ns = edge.duration_sum_ns.saturating_add(duration);
            edge.duration_max_ns = edge.duration_max_ns.max(duration);
            edge.confidence = edge.confidence.min(confidence);
        }
    }

    fn tick(&mut self, now_ns: u64) -> Vec<Conclusion> {
        let since = *self.published_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(since) < INTERVAL_NS {
            return Vec::new();
        }
        self.published_ns = Some(now_ns);
        std::mem::take(&mut self.sums).into_iter().map(Conclusion::Edge).collect()
    }
}

/// The caller may be surer than the call: eight workers of one service that do the same at once.
fn sure(span: &Span) -> u8 {
    let caller = span.attributes.iter().find(|(name, _)| name == "stitch.caller_confidence");
    caller.and_then(|(_, value)| value.parse().ok()).unwrap_or(0).max(span.confidence)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::finding::FoundBy;
    use model::origin::{MemberRef, Origin};
    use model::record::Tick;
    use model::time::Stamp;

    use super::*;

    fn span(id: u8, parent: u8, service: &str, confidence: u8) -> Span {
        Span {
            span_id: [id; 8],
            parent: (parent > 0).then_some([parent; 8]),
            service: service.into(),
            revision: None,
            name: "range".into(),
            start_ns: 0,
            end_ns: 7,
            failed: id == 2,
            found_by: FoundBy::Enclosing,
            confidence,
            slack_ns: 0,
            attributes: Vec::new(),
        }
    }

    fn tree(spans: Vec<Span>) -> CallTree {
        CallTree { trace_id: [1; 16], derived: false, spans, missing: 0 }
    }

    fn tick(second: u64) -> Record {
        let member = MemberRef { id: None, name: "m1".into(), endpoint: "http://127.0.0.1:2379".into() };
        Record {
            at: Stamp { mono_ns: second * SECOND_NS, wall_ns: 0 },
            origin: Arc::new(Origin { cluster_id: None, node: "n".into(), member: Some(member) }),
            fact: Fact::Tick(Tick::default()),
        }
    }

    fn edges(trees: &[CallTree]) -> (Vec<Edge>, u64) {
        let mut topology = Topology::default();
        topology.observe(&[], &tick(0));
        topology.observe(&trees.iter().collect::<Vec<_>>(), &tick(1));
        assert!(topology.observe(&[], &tick(14)).is_empty());
        let edge = |conclusion| match conclusion {
            Conclusion::Edge(edge) => edge,
            other => panic!("{other:?}"),
        };
        let found = topology.observe(&[], &tick(15)).into_iter().map(edge).collect();
        assert!(topology.observe(&[], &tick(31)).is_empty(), "an interval's edges are its own");
        (found, topology.unsure())
    }

    #[test]
    fn calls_between_services_become_edges() {
        let one =
            tree(vec![span(1, 0, "a", 100), span(2, 1, "b", 100), span(3, 1, "b", 80), span(4, 3, "b", 100)]);
        let (edges, unsure) = edges(&[one]);
        assert_eq!((edges.len(), unsure), (1, 0));
        let edge = &edges[0];
        assert_eq!((edge.caller.as_str(), edge.callee.as_str(), edge.calls, edge.failed), ("a", "b", 2, 1));
        assert_eq!((edge.duration_sum_ns, edge.duration_max_ns, edge.confidence), (14, 7, 80));
    }

    #[test]
    fn unsure_edges_are_only_counted() {
        let mut joined = span(3, 1, "etcd", 20);
        joined.attributes.push(("stitch.caller_confidence".into(), "85".into()));
        let (edges, unsure) = edges(&[tree(vec![span(1, 0, "a", 100), span(2, 1, "b", 50), joined])]);
        assert_eq!((edges.len(), unsure), (1, 1));
        assert_eq!(edges[0].callee, "etcd");
    }

    #[test]
    fn a_call_that_names_a_member_leads_to_etcd() {
        let mut call = span(1, 0, "a", 100);
        call.attributes.push(("peer".into(), "localhost:2379".into()));
        let mut other = span(1, 0, "a", 100);
        other.attributes.push(("peer".into(), "db:5432".into()));
        let (edges, _) = edges(&[tree(vec![call]), tree(vec![other])]);
        let callees: Vec<&str> = edges.iter().map(|edge| edge.callee.as_str()).collect();
        assert_eq!(callees, ["db:5432", "etcd"]);
    }
}
