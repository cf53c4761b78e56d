//! Keeps of each finding what the next tick weighs: burns that fire, regressions and alarms that are open, callers, profiles.

use model::finding::{Burn, CallTree, Conclusion, Finding, Lane, Regression};
use model::time::Stamp;
use model::verdict::ProfileState;

use super::{CLUSTER, Firing, LINKS_MAX, Link, Opened, Verdict};
use crate::detect::ALL_MEMBERS;

impl Verdict {
    /// Keeps of a finding what a later tick weighs.
    pub(super) fn note(&mut self, finding: &Finding) {
        match &finding.conclusion {
            Conclusion::Burn(burn) => self.note_burn(burn, finding.at),
            Conclusion::Regression(regression) => self.note_regression(regression, finding),
            Conclusion::CallTree(tree) => self.note_tree(tree, finding.at),
            Conclusion::ProfileDiff(diff) => {
                if self.captures.contains_key(&diff.request) && diff.kind == model::profile::ProfileKind::Cpu
                {
                    self.profiles.insert(diff.target.clone(), ProfileState::Diff(Box::new(diff.clone())));
                }
            }
            Conclusion::CaptureFailed(failed) => {
                if self.captures.remove(&failed.request).is_some() {
                    let why = format!("{}: {}", failed.reason, failed.detail);
                    self.profiles.insert(failed.target.clone(), ProfileState::Failed(why));
                }
            }
            Conclusion::Alarm(alarm) if alarm.raised => {
                self.alarms.insert(alarm.key.clone(), alarm.clone());
            }
            Conclusion::Alarm(alarm) => {
                self.alarms.remove(&alarm.key);
            }
            Conclusion::Edge(_) | Conclusion::Verdict(_) => {}
        }
    }

    fn note_burn(&mut self, burn: &Burn, at: Stamp) {
        let key = lane_key(burn);
        if burn.firing {
            // It may be told again when it turns out excused, or not.
            let missed_since = self.burning.get(&key).and_then(|firing| firing.missed_since);
            self.burning.insert(key, Firing { burn: burn.clone(), at, missed_since });
        } else {
            self.burning.remove(&key);
        }
    }

    fn note_regression(&mut self, regression: &Regression, finding: &Finding) {
        // What is watched over all members opens at one member's record and closes at another's.
        let pooled = regression.metric.ends_with(ALL_MEMBERS);
        let member = if pooled { String::new() } else { finding.origin.member_name().to_owned() };
        let key = format!("{} {member}", regression.metric);
        if regression.open {
            self.regressed.insert(key, Opened { regression: regression.clone(), member });
        } else {
            self.regressed.remove(&key);
        }
    }

    fn note_tree(&mut self, tree: &CallTree, at: Stamp) {
        let Some(root) = tree.spans.first() else { return };
        let reaches_etcd = tree.spans.iter().any(|span| span.service == CLUSTER);
        if tree.derived || !reaches_etcd || root.service == CLUSTER {
            return;
        }
        if self.links.len() >= LINKS_MAX {
            self.links.pop_front();
        }
        self.links.push_back(Link {
            at,
            service: root.service.clone(),
            revision: root.revision.clone(),
            trace_id: model::hex::text(&tree.trace_id),
            duration_ns: root.end_ns.saturating_sub(root.start_ns),
        });
    }
}

fn lane_key(burn: &Burn) -> String {
    match &burn.lane {
        Lane::Tier { name, .. } => format!("{} {name}", burn.slo),
        Lane::Change { target, revision } => format!("{} change {target} {revision}", burn.slo),
    }
}
