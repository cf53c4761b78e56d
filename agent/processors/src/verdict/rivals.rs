//! Causes besides a rollout: the node at the onset of the trouble, and how sure that leaves a decision.

use model::finding::NodeCheck;
use model::time::{SECOND_NS, Stamp};
use model::verdict::{Confidence, Evidence};

use super::Verdict;
use super::target::Judged;
use crate::node::Node;

/// So long after an onset the readings of its first seconds have come; what is found later is about something else.
const SETTLED_NS: u64 = 60 * SECOND_NS;

impl Verdict {
    /// Looks at the node for each target with trouble open, again until the readings of its onset have come.
    pub(super) fn look_at(&mut self, node: &Node, now: Stamp) {
        self.here.clone_from(node.members());
        let onsets: Vec<(String, Option<Stamp>)> =
            self.targets.iter().map(|(name, judged)| (name.clone(), self.onset(judged))).collect();
        for (name, onset) in onsets {
            let Some(judged) = self.targets.get_mut(&name) else { continue };
            let settled = |(at, _): &(Stamp, NodeCheck)| Some(*at) == onset && now.since_ns(*at) > SETTLED_NS;
            if !judged.node.as_ref().is_some_and(settled) {
                judged.node = onset.map(|onset| (onset, node.check("", onset)));
            }
        }
    }

    /// Fills in what the node says, for those members concerned that run on it.
    pub(super) fn name_rivals(&self, judged: &Judged, evidence: &mut Evidence) {
        let Some((_, check)) = &judged.node else { return };
        let elsewhere: Vec<&str> =
            evidence.members.iter().filter(|name| !self.here.contains(*name)).map(String::as_str).collect();
        if !elsewhere.is_empty() {
            evidence.unchecked.push(format!("the nodes of {}: not this one", elsewhere.join(", ")));
        }
        let is_about_here = evidence.members.is_empty() || elsewhere.len() < evidence.members.len();
        match check {
            _ if !is_about_here => {}
            NodeCheck::NotChecked(why) => evidence.unchecked.push(format!("the node: {why}")),
            NodeCheck::Checked { excluded, rivals } => {
                evidence.excluded.extend(excluded.iter().cloned());
                evidence.rivals.extend(rivals.iter().cloned());
                evidence.confidence = match (rivals.is_empty(), elsewhere.is_empty()) {
                    (false, _) => Confidence::Low,
                    (true, true) => Confidence::High,
                    (true, false) => Confidence::Medium,
                };
            }
        }
        if !evidence.rivals.is_empty() {
            let rivals = evidence.rivals.join(", ");
            evidence.sentence.push_str(&format!("; the node may be the cause as well: {rivals}"));
        }
    }
}
