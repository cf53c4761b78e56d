//! Which client's call an etcd request is: same operation, the member's endpoint, the key where told, and a client's interval
//! that holds etcd's. Owns the confidence of that; refuses a guess without a peer.

use super::assign::assign;
use super::calls::{Call, Pieces, certainty};
use super::fragment::Fragment;
use super::piece::{Piece, class};

/// Clocks of one node, and the moment between the end of a call and its log line.
const CLOCK_SLACK_NS: u64 = 2_000_000;
/// The end tells less than the start: after etcd's end the answer still travels and is decoded.
const END_SHARE: u64 = 64;
/// Endpoint and key told and equal, and nobody else fits.
const WITH_KEY: u8 = 95;
/// Endpoint equal, no key in the client's line.
const WITHOUT_KEY: u8 = 85;
/// Port equal but not the host (a member has many addresses), or only a name.
const WEAK_PEER: u8 = 60;

/// A client's fragment and the etcd call under it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Joined {
    /// Place among the clients that were asked about.
    pub client: usize,
    /// Place among the calls.
    pub call: usize,
    /// Which of the fitting clients it is, 0 to 100.
    pub confidence: u8,
    /// Whether every client that fits is of one service: then the caller is surer than the call. 0 to 100.
    pub caller_confidence: u8,
}

/// Whether a fragment tells of a call that could be one of etcd's.
#[must_use]
pub(super) fn is_client_call(fragment: &Fragment) -> bool {
    fragment.told.as_ref().is_some_and(|told| class(&told.operation).is_some() && told.peer.is_some())
}

/// One-to-one, most pairs, least distance of starts.
#[must_use]
pub(super) fn join(clients: &[&Fragment], calls: &[Call], pieces: &Pieces) -> Vec<Joined> {
    let fit = |row: usize, col: usize| {
        let (client, call) = (clients.get(row)?, calls.get(col)?);
        let outer = pieces.outer(call)?;
        // Times first: they are cheap, and hardly any pair has them right.
        let nested = outer.start_ns.saturating_add(CLOCK_SLACK_NS) >= client.start_ns()
            && outer.end_ns <= client.end_ns().saturating_add(CLOCK_SLACK_NS);
        if !nested {
            return None;
        }
        let base = base_confidence(client, outer, pieces.key(call))?;
        let cost =
            client.start_ns().abs_diff(outer.start_ns) + client.end_ns().abs_diff(outer.end_ns) / END_SHARE;
        Some((base, cost))
    };
    let pairs = assign(clients.len(), calls.len(), |row, col| fit(row, col).map(|(_, cost)| cost));
    let judged = |(row, pair): (usize, &Option<super::assign::Pair>)| {
        let pair = (*pair)?;
        let (base, _) = fit(row, pair.col)?;
        let service = &clients.get(row)?.service;
        let alone = clients.iter().enumerate().all(|(other, client)| {
            other == row || client.service == *service || fit(other, pair.col).is_none()
        });
        let confidence = certainty(base, pair);
        Some(Joined {
            client: row,
            call: pair.col,
            confidence,
            caller_confidence: if alone { base } else { confidence },
        })
    };
    pairs.iter().enumerate().filter_map(judged).collect()
}

fn base_confidence(client: &Fragment, outer: &Piece, key: Option<&str>) -> Option<u8> {
    let told = client.told.as_ref()?;
    if class(&told.operation)? != outer.class {
        return None;
    }
    let with_key = match (told.key.as_deref(), key) {
        (Some(mine), Some(theirs)) if mine != theirs => return None,
        (Some(_), Some(_)) => true,
        _ => false,
    };
    // A client's list of endpoints names each it may have called.
    let exact = told.peer.as_deref()?.split(',').map(|peer| peer_fit(peer, outer)).max()??;
    Some(match (exact, with_key) {
        (Fit::Endpoint, true) => WITH_KEY,
        (Fit::Endpoint, false) => WITHOUT_KEY,
        (Fit::Weak, _) => WEAK_PEER,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Weak,
    Endpoint,
}

fn peer_fit(peer: &str, outer: &Piece) -> Option<Fit> {
    let (peer, endpoint) = (host_port(peer), host_port(outer.endpoint()));
    if !endpoint.is_empty() && peer == endpoint {
        return Some(Fit::Endpoint);
    }
    if peer == outer.member() {
        return Some(Fit::Endpoint);
    }
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
    let same_port = port(&peer).is_some_and(|mine| port(&endpoint).as_ref() == Some(&mine));
    (same_port || peer == "etcd").then_some(Fit::Weak)
}

/// `http://localhost:2379/path` as `127.0.0.1:2379`.
#[must_use]
pub(crate) fn host_port(address: &str) -> String {
    let bare = address.trim().rsplit_once("://").map_or(address.trim(), |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or(bare);
    bare.to_ascii_lowercase().replace("localhost", "127.0.0.1")
}
