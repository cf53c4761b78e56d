//! WAL fsyncs from histogram buckets: exact integer deltas between two scrapes of one process.
//!
//! Owns the last counts of each member. Refuses limits between two buckets, and counts that contradict each other:
//! those are skipped and counted.

use std::collections::BTreeMap;

use model::scrape::{Layout, PointShape, Scrape, ScrapeOutcome};
use serde::{Deserialize, Serialize};

use super::window::Counts;

const FAMILY: &str = "etcd_disk_wal_fsync_duration_seconds";

/// Over a longer pause a delta belongs to no second any more; it is dropped and counting starts anew.
const PAUSE_MAX_S: u64 = 120;

/// Members remembered; a cluster has at most 7.
const MEMBERS_MAX: usize = 64;

/// Counter state of all members.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Fsync {
    members: BTreeMap<String, Last>,
    /// Scrapes whose buckets exceeded their count.
    pub(super) contradictions: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Last {
    second: u64,
    seen: Option<(u64, u64)>,
    limit_ms: u32,
    process_start_ns: Option<u64>,
    /// Found again with each layout, and after a restart of the agent.
    #[serde(skip)]
    resolved: Option<Resolved>,
}

/// Where a layout has the two counts: (good, total), if it has them.
#[derive(Clone, Copy, Debug)]
struct Resolved {
    generation: u64,
    series: u32,
    found: Option<(u32, u32)>,
}

impl Fsync {
    /// Fsyncs since the member's last scrape; `None` when that cannot be told.
    pub(super) fn read(
        &mut self,
        second: u64,
        member: &str,
        scrape: &Scrape,
        limit_ms: u32,
    ) -> Option<Counts> {
        if scrape.outcome != ScrapeOutcome::Up || member.is_empty() {
            return None;
        }
        if !self.members.contains_key(member) && self.members.len() < MEMBERS_MAX {
            self.members.insert(member.to_owned(), Last { limit_ms, ..Last::default() });
        }
        let last = self.members.get_mut(member)?;
        if last.limit_ms != limit_ms {
            *last = Last { limit_ms, ..Last::default() };
        }
        let (good, total) = last.series(&scrape.layout)?;
        let (good, total) = (whole(scrape.value(good)?)?, whole(scrape.value(total)?)?);
        let restarted = scrape.restarted
            || (last.process_start_ns.is_some() && last.process_start_ns != scrape.process_start_ns);
        let before = last.seen.replace((good, total));
        let pause = second.saturating_sub(std::mem::replace(&mut last.second, second));
        last.process_start_ns = scrape.process_start_ns;
        if good > total {
            self.contradictions += 1;
            last.seen = None;
            return None;
        }
        let (good_before, total_before) = before.filter(|_| pause <= PAUSE_MAX_S)?;
        // A smaller value is a restart too: all of it came after.
        if restarted || total < total_before || good < good_before {
            return Some(Counts { bad: total - good, total });
        }
        let (good, total) = (good - good_before, total - total_before);
        if good > total {
            self.contradictions += 1;
            return None;
        }
        Some(Counts { bad: total - good, total })
    }
}

impl Last {
    fn series(&mut self, layout: &Layout) -> Option<(u32, u32)> {
        let current =
            |known: &Resolved| known.generation == layout.generation && known.series == layout.series;
        let resolved = self.resolved.filter(current).unwrap_or_else(|| Resolved {
            generation: layout.generation,
            series: layout.series,
            found: resolve(layout, self.limit_ms),
        });
        self.resolved = Some(resolved);
        resolved.found
    }
}

/// Series of the bucket at the limit, and of all. Bounds are compared as numbers: "1" and "1.0" are one.
fn resolve(layout: &Layout, limit_ms: u32) -> Option<(u32, u32)> {
    let PointShape::Histogram { buckets, count, .. } = &layout.find(FAMILY, &[])?.shape else { return None };
    let limit = f64::from(limit_ms) / 1e3;
    let good = buckets.iter().find(|(bound, _)| (bound - limit).abs() <= limit * 1e-9)?.1;
    let all =
        count.or_else(|| buckets.iter().find(|(bound, _)| bound.is_infinite()).map(|(_, series)| *series))?;
    Some((good, all))
}

/// A counter's value; not a number, negative or beyond 2⁵³ it is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a whole number in range"
)]
pub(crate) fn whole(value: f64) -> Option<u64> {
    (0.0..=9.0e15).contains(&value).then_some(value as u64)
}
