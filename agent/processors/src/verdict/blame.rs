//! What may be blamed on a rollout: the trouble that began after it, its own burns, and the calls that lead from it to etcd.
//!
//! Owns what dates trouble. Refuses what was so before: a page outlives its cause, and tells of an hour.

use model::finding::Lane;
use model::time::{SECOND_NS, Stamp};

use super::target::Judged;
use super::{CLUSTER, Firing, Link, Verdict};

/// A regression that began so shortly before a rollout is the likelier cause of what follows; an older one is how things are.
const RECENT_NS: u64 = 600 * SECOND_NS;

impl Verdict {
    /// Targets whose rollout could explain the trouble that is open now.
    pub(super) fn fitting(&self, now: Stamp) -> Vec<String> {
        let onset_max_ns = self.config.onset_max_s * SECOND_NS;
        let window_ns = self.config.window_s * SECOND_NS;
        let fits = |judged: &Judged| {
            let Some(marked) = judged.armed() else { return false };
            let recent = marked.mono_ns.saturating_sub(RECENT_NS)..marked.mono_ns;
            let began_before =
                self.voting_regressions().any(|opened| recent.contains(&opened.regression.onset.mono_ns));
            let onset = self.onset(judged);
            now.since_ns(marked) <= window_ns
                && !began_before
                && onset.is_some_and(|onset| onset.since_ns(marked) <= onset_max_ns)
        };
        self.targets
            .iter()
            .filter(|(name, judged)| name.as_str() != CLUSTER && fits(judged))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// First sign of the trouble that is open, looking back no further than to the rollout: the earliest onset of a voting
    /// regression, or the first voting burn that is not about what was so before.
    pub(super) fn onset(&self, judged: &Judged) -> Option<Stamp> {
        let from = judged.armed().unwrap_or_default();
        let regressions = self.voting_regressions().map(|opened| opened.regression.onset);
        let burns = self.voting_burns().filter(|firing| !Verdict::is_older(firing, judged));
        let onsets = regressions.chain(burns.map(|firing| firing.at));
        onsets.filter(|onset| onset.mono_ns >= from.mono_ns).min()
    }

    /// Burns that may cost this target its revision: its own change window, or a page tier.
    pub(super) fn burns_against(&self, name: &str, judged: &Judged) -> Vec<&Firing> {
        self.voting_burns()
            .filter(|firing| match &firing.burn.lane {
                Lane::Change { target, revision } => target == name && *revision == judged.revision,
                // An hour's window burns on after the cure: once a put-back is in, the change window alone says when it is over.
                Lane::Tier { .. } => judged.put_back.is_none(),
            })
            .collect()
    }

    /// Notes since when what burns was missed; a page outlives that.
    pub(super) fn date_burns(&mut self) {
        for firing in self.burning.values_mut() {
            let of_it = self.missed.iter().find(|missed| missed.slo == firing.burn.slo);
            firing.missed_since = firing.missed_since.or(of_it.map(|missed| missed.since));
        }
    }

    /// Whether a page tells of what was so before this rollout: its own window says whether that became worse.
    pub(super) fn is_older(firing: &Firing, judged: &Judged) -> bool {
        let is_before = |since: Stamp| judged.marked_at.is_some_and(|marked| since.mono_ns < marked.mono_ns);
        matches!(firing.burn.lane, Lane::Tier { .. }) && firing.missed_since.is_some_and(is_before)
    }

    /// Call trees that lead from this target's revision to etcd since its rollout.
    pub(super) fn links_from(&self, name: &str, judged: &Judged) -> Vec<&Link> {
        self.links
            .iter()
            .filter(|link| {
                link.service == name
                    && judged.marked_at.is_some_and(|marked| link.at.mono_ns >= marked.mono_ns)
                    && link.revision.as_ref().is_none_or(|revision| *revision == judged.revision)
            })
            .collect()
    }
}
