//! Fragments of one trace as a tree. Owns who is whose parent and how sure that is; refuses cycles, whatever ids the lines tell.

use std::collections::BTreeMap;

use model::finding::{FoundBy, Span};

use super::fragment::{Fragment, Trace};
use super::hash;

/// A child may stick out of its parent by this much and still be found inside it: a reply is logged after it was sent.
pub(super) const ENCLOSING_SLACK_NS: u64 = 1_000_000;
/// Open intervals looked at for one child; only a trace without any parent ids is this deep.
const OPEN_MAX: usize = 256;
/// Steps towards the root before a chain counts as a cycle.
const DEPTH_MAX: usize = 1000;
/// Tightest of intervals that lie in each other: 99 % of such edges were right on recorded logs of 40 services that call each
/// other and wait; services that do not wait are worse.
const ENCLOSING_NESTED: u8 = 75;
/// Tightest of intervals that overlap: any of them may be the parent. Half were right on the worst of six recordings.
const ENCLOSING_OVERLAPPING: u8 = 50;
/// Nothing but the trace id in common: half of such children of the root were right.
const SIBLING: u8 = 40;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Parent {
    None,
    /// Told, but not among the fragments.
    Outside([u8; 8]),
    Node(usize, FoundBy, u8),
}

/// Spans of a trace, root first, parents before children, in the same order whatever order the lines came in; and for each
/// fragment (by its place in the trace) the id of its span.
pub(super) fn build(trace_id: u128, trace: &Trace) -> (Vec<Span>, BTreeMap<usize, [u8; 8]>) {
    let mut order: Vec<(usize, &Fragment)> = trace.fragments.iter().enumerate().collect();
    order.sort_by(|(_, a), (_, b)| {
        let key = |f: &Fragment| (f.start_ns(), u64::MAX - f.end_ns(), f.span_id);
        key(a).cmp(&key(b)).then_with(|| a.service.cmp(&b.service))
    });
    let nodes: Vec<&Fragment> = order.iter().map(|(_, fragment)| *fragment).collect();
    let (ids, first_of) = span_ids(trace_id, &nodes);
    let mut parents = told_parents(&nodes, &ids, &first_of);
    enclosing_parents(&nodes, &mut parents);
    let root = choose_root(&nodes, &mut parents);
    let placed = order.iter().zip(&ids).map(|((place, _), id)| (*place, *id)).collect();
    (emit(&nodes, &ids, &parents, root), placed)
}

/// Each node's own id: the one it told, or a derived one where another service has it already (a shared client/server id).
fn span_ids(trace_id: u128, nodes: &[&Fragment]) -> (Vec<[u8; 8]>, BTreeMap<[u8; 8], usize>) {
    let mut first_of = BTreeMap::new();
    let mut ids = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let first = *first_of.entry(node.span_id).or_insert(index);
        ids.push(if first == index {
            node.span_id
        } else {
            hash::span(&[&trace_id.to_be_bytes(), &node.span_id, node.service.as_bytes()])
        });
    }
    (ids, first_of)
}

fn told_parents(nodes: &[&Fragment], ids: &[[u8; 8]], first_of: &BTreeMap<[u8; 8], usize>) -> Vec<Parent> {
    let mut parents = vec![Parent::None; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let shares = ids.get(index) != Some(&node.span_id);
        let told = if shares { Some(node.span_id) } else { node.parent };
        let Some(told) = told else { continue };
        let found = match first_of.get(&told) {
            Some(&parent) if !leads_to(&parents, parent, index) => {
                Parent::Node(parent, FoundBy::ParentId, 100)
            }
            Some(_) => Parent::None, // two lines that claim to be each other's parent
            None => Parent::Outside(told),
        };
        if let Some(place) = parents.get_mut(index) {
            *place = found;
        }
    }
    parents
}

/// Whether `from` is `to` or below it.
fn leads_to(parents: &[Parent], from: usize, to: usize) -> bool {
    let mut at = from;
    for _ in 0..DEPTH_MAX {
        if at == to {
            return true;
        }
        match parents.get(at) {
            Some(Parent::Node(up, ..)) => at = *up,
            _ => return false,
        }
    }
    true
}

/// The tightest interval around each node that told no parent.
fn enclosing_parents(nodes: &[&Fragment], parents: &mut [Parent]) {
    let mut open: Vec<usize> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let end = |&other: &usize| nodes.get(other).map_or(0, |other| other.end_ns());
        open.retain(|other| end(other).saturating_add(ENCLOSING_SLACK_NS) >= node.start_ns());
        if parents.get(index) == Some(&Parent::None) {
            let holds = |other: &usize| end(other).saturating_add(ENCLOSING_SLACK_NS) >= node.end_ns();
            let length = |other: usize| nodes.get(other).map_or(0, |other| other.end_ns() - other.start_ns());
            let holders: Vec<usize> = open
                .iter()
                .copied()
                .filter(holds)
                .filter(|&other| !leads_to(parents, other, index))
                .collect();
            let tightest =
                holders.iter().copied().min_by_key(|&other| (length(other), std::cmp::Reverse(other)));
            if let (Some(parent), Some(place)) = (tightest, parents.get_mut(index)) {
                // Open intervals began before this one: an outer one that also ends later holds the tightest too.
                let nested = holders.iter().all(|other| {
                    *other <= parent && end(other).saturating_add(ENCLOSING_SLACK_NS) >= end(&parent)
                });
                let sure = if nested { ENCLOSING_NESTED } else { ENCLOSING_OVERLAPPING };
                *place = Parent::Node(parent, FoundBy::Enclosing, sure);
            }
        }
        if node.told.is_some() || node.end_ns() > node.start_ns() {
            open.push(index);
            if open.len() > OPEN_MAX {
                open.remove(0);
            }
        }
    }
}

/// The longest node without a parent; the others become its children. Without one, a node whose parent is elsewhere.
fn choose_root(nodes: &[&Fragment], parents: &mut [Parent]) -> usize {
    let length =
        |index: usize| nodes.get(index).map_or(0, |node| node.end_ns().saturating_sub(node.start_ns()));
    let longest = |wanted: fn(&Parent) -> bool| {
        let fits = |(index, parent): (usize, &Parent)| wanted(parent).then_some(index);
        parents
            .iter()
            .enumerate()
            .filter_map(fits)
            .max_by_key(|&index| (length(index), std::cmp::Reverse(index)))
    };
    let root = longest(|parent| *parent == Parent::None)
        .or_else(|| longest(|parent| matches!(parent, Parent::Outside(_))))
        .unwrap_or(0);
    for (index, parent) in parents.iter_mut().enumerate() {
        if *parent == Parent::None && index != root {
            *parent = Parent::Node(root, FoundBy::Sibling, SIBLING);
        }
    }
    root
}

fn emit(nodes: &[&Fragment], ids: &[[u8; 8]], parents: &[Parent], root: usize) -> Vec<Span> {
    let mut children = BTreeMap::<usize, Vec<usize>>::new();
    let mut tops = vec![root];
    for (index, parent) in parents.iter().enumerate() {
        match parent {
            Parent::Node(up, ..) => children.entry(*up).or_default().push(index),
            Parent::None | Parent::Outside(_) if index != root => tops.push(index),
            Parent::None | Parent::Outside(_) => {}
        }
    }
    // A stack of what is still to be written; the last of it is next.
    tops.reverse();
    let mut spans = Vec::with_capacity(nodes.len());
    while let Some(index) = tops.pop() {
        let (Some(node), Some(id), Some(parent)) = (nodes.get(index), ids.get(index), parents.get(index))
        else {
            continue;
        };
        let (up, found_by, confidence) = match parent {
            Parent::None => (None, FoundBy::Root, 100),
            Parent::Outside(up) => (Some(*up), FoundBy::ParentId, 100),
            Parent::Node(up, found_by, sure) => (ids.get(*up).copied(), *found_by, *sure),
        };
        spans.push(Span {
            span_id: *id,
            parent: up,
            service: node.service.clone(),
            revision: node.revision.clone(),
            name: node.name().to_owned(),
            start_ns: node.start_ns(),
            end_ns: node.end_ns(),
            failed: node.failed,
            found_by,
            confidence,
            slack_ns: 0,
            attributes: node.attributes(),
        });
        tops.extend(children.remove(&index).unwrap_or_default().into_iter().rev());
    }
    spans
}
