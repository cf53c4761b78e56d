//! Call trees as spans, under the resource of the service that did the work.
//!
//! Each span says how it was found (`stitch.method`, `stitch.confidence`), by how much its place is unknown
//! (`placement.slack_ns`) and that it comes from logs. Owns span kinds: they are derived from who called whom, so that a
//! backend's service map has its client and server pairs. Refuses to invent spans.

use std::collections::BTreeMap;

use model::finding::{CallTree, FoundBy, Span};
use model::origin::Origin;

use super::logs::signed;
use super::pack::{Nest, Pack};
use super::resource::Identity;
use super::wire::{Value, Writer};

const INTERNAL: u64 = 1;
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// `SpanFlags`: bits 8 and 9, whether the parent is remote is known, and it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Encodes one tree.
pub(crate) fn tree(identity: &Identity, origin: &Origin, tree: &CallTree, pack: &mut Pack) {
    let by_id: BTreeMap<[u8; 8], &Span> = tree.spans.iter().map(|span| (span.span_id, span)).collect();
    let mut calls_out: BTreeMap<[u8; 8], bool> = BTreeMap::new();
    for span in &tree.spans {
        let parent = span.parent.and_then(|id| by_id.get(&id));
        if let Some(parent) = parent.filter(|parent| parent.service != span.service) {
            calls_out.insert(parent.span_id, true);
        }
    }
    let mut services: BTreeMap<(&str, Option<&str>), Vec<&Span>> = BTreeMap::new();
    for span in &tree.spans {
        services.entry((&span.service, span.revision.as_deref())).or_default().push(span);
    }
    for ((service, revision), spans) in services {
        let resource = identity.service(origin, service, revision);
        let mut nest = Nest::new(pack);
        nest.enter(1, &resource);
        nest.enter(2, identity.scope());
        for span in spans {
            let remote =
                span.parent.and_then(|id| by_id.get(&id)).map(|parent| parent.service != span.service);
            let place = Place { remote, calls_out: calls_out.contains_key(&span.span_id) };
            nest.put(1, &|writer| write(tree, span, place, writer));
        }
    }
}

/// Where a span stands between services.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Whether the parent is in another service; `None` when the parent is not in the tree.
    remote: Option<bool>,
    /// Whether a child is in another service.
    calls_out: bool,
}

impl Place {
    fn kind(self, found_by: FoundBy) -> u64 {
        match (self.remote, self.calls_out) {
            _ if found_by == FoundBy::Step => INTERNAL,
            (Some(true), _) => SERVER,
            (_, true) => CLIENT,
            (None, false) => SERVER,
            (Some(false), false) => INTERNAL,
        }
    }
}

fn write(tree: &CallTree, span: &Span, place: Place, writer: &mut Writer) {
    let mark = writer.open(2);
    writer.bytes(1, &tree.trace_id);
    writer.bytes(2, &span.span_id);
    if let Some(parent) = span.parent {
        writer.bytes(4, &parent);
    }
    writer.string(5, &span.name);
    writer.uint(6, place.kind(span.found_by));
    writer.fixed64(7, span.start_ns);
    writer.fixed64(8, span.end_ns.max(span.start_ns));
    writer.attribute(9, "derived_from", Value::Str("logs"));
    writer.attribute(9, "stitch.method", Value::Str(method(span.found_by)));
    writer.attribute(9, "stitch.confidence", Value::Int(i64::from(span.confidence)));
    if span.slack_ns > 0 {
        writer.attribute(9, "placement.slack_ns", Value::Int(signed(span.slack_ns)));
    }
    if tree.derived {
        writer.attribute(9, "stitch.trace_id_derived", Value::Bool(true));
    }
    if span.parent.is_none() && tree.missing > 0 {
        writer.attribute(9, "stitch.missing", Value::Int(signed(tree.missing)));
    }
    for (key, value) in &span.attributes {
        writer.attribute(9, key, Value::Str(value));
    }
    if span.failed {
        let status = writer.open(15);
        writer.uint(3, 2);
        writer.close(status);
    }
    if let Some(remote) = place.remote {
        writer.fixed32(16, HAS_IS_REMOTE | if remote { IS_REMOTE } else { 0 });
    }
    writer.close(mark);
}

fn method(found_by: FoundBy) -> &'static str {
    match found_by {
        FoundBy::Root => "root",
        FoundBy::ParentId => "parent_id",
        FoundBy::Step => "step",
        FoundBy::SameRequest => "same_request",
        FoundBy::PeerAndTime => "peer_and_time",
        FoundBy::Enclosing => "enclosing",
        FoundBy::Sibling => "sibling",
    }
}
