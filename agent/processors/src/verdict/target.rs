//! What is known of one target: its latest rollout, and the decision as it stands.

use std::sync::Arc;

use model::finding::NodeCheck;
use model::mark::Mark;
use model::time::Stamp;
use model::verdict::{Decision, State};
use serde::{Deserialize, Serialize};

/// One target under judgement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Judged {
    /// Grows with each rollout that is judged.
    pub epoch: u64,
    /// The revision that is judged.
    pub revision: String,
    /// The revision before it: what a rollback would put back.
    pub previous: Option<String>,
    /// When its rollout was marked.
    pub marked_at: Option<Stamp>,
    /// It is a put-back itself, or has recovered by one: never rolled back.
    pub put_back: Option<PutBack>,
    /// Probes seen since the marker.
    pub probes: u64,
    /// The state as it stands.
    pub state: State,
    /// Since when.
    pub since: Stamp,
    /// The node at the onset of the trouble that is open: (onset, what was found).
    pub node: Option<(Stamp, NodeCheck)>,
    /// The decision as it was last told.
    pub decision: Option<Arc<Decision>>,
}

/// A rollout that undid another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PutBack {
    /// The revision that serves again.
    pub to: String,
    /// When that was marked.
    pub at: Stamp,
}

impl Default for Judged {
    fn default() -> Judged {
        Judged {
            epoch: 0,
            revision: String::new(),
            previous: None,
            marked_at: None,
            put_back: None,
            probes: 0,
            state: State::Unknown,
            since: Stamp::default(),
            node: None,
            decision: None,
        }
    }
}

impl Judged {
    /// Takes a rollout marker. A put-back of the revision under judgement ends its trial and keeps its epoch, so that
    /// the decision that asked for it can return to `pass`; any other rollout opens a trial of its own.
    pub(super) fn mark(&mut self, mark: &Mark, at: Stamp) {
        let undoes = mark.rollback_of.as_ref().is_some_and(|bad| *bad == self.revision);
        let put_back = mark.rollback_of.as_ref().map(|_| PutBack { to: mark.revision.clone(), at });
        if !undoes {
            let before = self.serving();
            self.previous = (!before.is_empty()).then_some(before);
            self.epoch += 1;
            self.revision.clone_from(&mark.revision);
            self.marked_at = Some(at);
            self.state = State::Unknown;
        }
        self.put_back = put_back;
        self.probes = 0;
    }

    /// The marker that may be held responsible: none once a put-back has been marked.
    pub(super) fn armed(&self) -> Option<Stamp> {
        if self.put_back.is_some() { None } else { self.marked_at }
    }

    /// The revision that serves now.
    pub(super) fn serving(&self) -> String {
        self.put_back.as_ref().map_or_else(|| self.revision.clone(), |put_back| put_back.to.clone())
    }
}
