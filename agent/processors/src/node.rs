//! Whether the node itself explains a change: CPU, steal, disks, memory, in its first seconds against the minutes before.
//!
//! Owns the readings of half an hour and what counts as saturated. Refuses to speak for members of other hosts, to call a
//! saturation a cause that lay there before and did not change, and to weigh: what a rival means is `verdict`'s business.

mod span;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use model::finding::NodeCheck;
use model::host::HostFact;
use model::record::{Fact, Record};
use model::time::{SECOND_NS, Stamp};
use serde::{Deserialize, Serialize};

use span::{Mean, Span};

/// A rollout is judged for half an hour: so far back an onset may lie.
const KEPT_NS: u64 = 1_800 * SECOND_NS;

/// Half an hour at the shipped interval of 5 s; where it is shorter the readings reach less far back.
const SPANS_MAX: usize = 360;

/// Readings further apart say nothing of the moments between them.
const GAP_NS: u64 = 180 * SECOND_NS;

/// The first seconds of a change: what was there before it is still there, and what follows from it is not yet all there is.
const FIRST_NS: u64 = 15 * SECOND_NS;

/// What was usual before: five minutes.
const BEFORE_NS: u64 = 300 * SECOND_NS;

/// A resource that was as busy before explains no change.
const GREW: f64 = 2.0;

/// Share of CPU time the hypervisor kept: from a tenth on, every answer waits for it now and then.
const STEAL_MIN: f64 = 0.1;

/// Share of CPU time in use from which a ready thread usually waits.
const BUSY_MIN: f64 = 0.9;

/// And so much more than before it must be: a node that is always this busy explains no change.
const BUSY_GREW: f64 = 0.15;

/// Share of the CPU in use that must not be etcd's own: what etcd burns itself is the trouble, not its cause.
const OTHERS_MIN: f64 = 0.5;

/// A disk that is busy for so much of the time has a queue.
const DISK_BUSY_MIN: f64 = 0.9;

/// Share of time in which something waited for I/O.
const IO_STALL_MIN: f64 = 0.4;

/// What one request takes on a disk that is in trouble, seconds; etcd wants its fsyncs below 10 ms.
const AWAIT_MIN_S: f64 = 0.01;

/// Share of time in which something waited for memory.
const MEMORY_STALL_MIN: f64 = 0.1;

/// Share of memory left below which the kernel reclaims all the time.
const AVAILABLE_MIN: f64 = 0.05;

/// Readings of the agent's own node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    last: Option<(Stamp, HostFact)>,
    spans: VecDeque<Span>,
    /// Members whose processes are watched here.
    members: BTreeSet<String>,
}

impl Node {
    /// Takes a reading.
    pub fn observe(&mut self, record: &Record) {
        let Fact::Host(fact) = &record.fact else { return };
        self.members = fact.processes.iter().filter_map(|process| process.role.clone()).collect();
        if let Some((at, before)) = self.last.replace((record.at, fact.clone())) {
            let between = record.at.since_ns(at);
            if between > 0 && between <= GAP_NS {
                self.spans.push_back(Span::between((at, &before), (record.at, fact)));
            } else {
                self.spans.clear();
            }
        }
        let newest_ns = record.at.mono_ns;
        while self.spans.len() > SPANS_MAX
            || self.spans.front().is_some_and(|span| newest_ns.saturating_sub(span.to_ns) > KEPT_NS)
        {
            self.spans.pop_front();
        }
    }

    /// Members whose processes are seen on this node.
    #[must_use]
    pub fn members(&self) -> &BTreeSet<String> {
        &self.members
    }

    /// What is known of the node at the onset of a change at `member`; an empty name stands for all members.
    #[must_use]
    pub fn check(&self, member: &str, onset: Stamp) -> NodeCheck {
        if member.is_empty() && self.members.is_empty() {
            return NodeCheck::NotChecked("no member's process is seen on this node".to_owned());
        }
        if !member.is_empty() && !self.members.contains(member) {
            return NodeCheck::NotChecked(format!("no process of {member} is seen on this node"));
        }
        let from = onset.mono_ns;
        let since = Mean::of(&self.spans, from, from.saturating_add(FIRST_NS));
        let before = Mean::of(&self.spans, from.saturating_sub(BEFORE_NS), from);
        match (before, since) {
            (_, None) => NodeCheck::NotChecked("no reading of the node since the onset".to_owned()),
            (None, _) => NodeCheck::NotChecked("no reading of the node from before the onset".to_owned()),
            (Some(before), Some(since)) => compare(&before, &since),
        }
    }
}

fn compare(before: &Mean, since: &Mean) -> NodeCheck {
    let (mut excluded, mut rivals) = (Vec::new(), Vec::new());
    let looks = [cpu(before, since), steal(before, since), disk(before, since), memory(before, since)];
    for (text, is_rival) in looks.into_iter().flatten() {
        if is_rival { rivals.push(text) } else { excluded.push(text) }
    }
    NodeCheck::Checked { excluded, rivals }
}

/// What is said of a resource, and whether it may be the cause.
type Look = Option<(String, bool)>;

fn cpu(before: &Mean, since: &Mean) -> Look {
    let others = if since.busy > 0.0 { (1.0 - since.own / since.busy).clamp(0.0, 1.0) } else { 0.0 };
    let is_rival = since.busy >= BUSY_MIN && since.busy - before.busy >= BUSY_GREW && others >= OTHERS_MIN;
    let stalled = since.stalls.map_or_else(String::new, |stalls| format!(", stalls {}", percent(stalls.cpu)));
    let (now, then) = (percent(since.busy), percent(before.busy));
    Some((
        format!("cpu {now} busy ({then} before), {} of it not by etcd{stalled}", percent(others)),
        is_rival,
    ))
}

fn steal(before: &Mean, since: &Mean) -> Look {
    let is_rival = since.steal >= STEAL_MIN && since.steal >= GREW * before.steal;
    Some((format!("steal {} ({} before)", percent(since.steal), percent(before.steal)), is_rival))
}

/// The disk whose requests took longest.
fn disk(before: &Mean, since: &Mean) -> Look {
    let (name, disk) = since.slowest()?;
    let await_s = disk.await_s()?;
    let usual_s = before.disk(name).and_then(span::Disk::await_s);
    let stalled = since.stalls.map_or(0.0, |stalls| stalls.io);
    let is_saturated = disk.busy >= DISK_BUSY_MIN || stalled >= IO_STALL_MIN;
    let grew = usual_s.is_none_or(|usual_s| await_s >= GREW * usual_s);
    let then =
        usual_s.map_or_else(|| "idle before".to_owned(), |usual_s| format!("{:.1} ms before", usual_s * 1e3));
    let stalls =
        since.stalls.map_or_else(String::new, |stalls| format!(", io stalls {}", percent(stalls.io)));
    let text =
        format!("disk {name} await {:.1} ms ({then}), {} busy{stalls}", await_s * 1e3, percent(disk.busy));
    Some((text, is_saturated && await_s >= AWAIT_MIN_S && grew))
}

fn memory(before: &Mean, since: &Mean) -> Look {
    let stall = |mean: &Mean| mean.stalls.map_or(0.0, |stalls| stalls.memory);
    let stalled = stall(since) >= MEMORY_STALL_MIN && stall(since) >= GREW * stall(before);
    let scarce = since.available < AVAILABLE_MIN && before.available >= AVAILABLE_MIN;
    let stalls =
        since.stalls.map_or_else(String::new, |stalls| format!(", stalls {}", percent(stalls.memory)));
    let (now, then) = (percent(since.available), percent(before.available));
    Some((format!("memory {now} available ({then} before){stalls}"), stalled || scarce))
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}
