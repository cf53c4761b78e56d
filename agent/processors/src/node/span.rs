//! What two readings of the node say of the time between them, and means over several such spans. Refuses negative growth:
//! a counter that began anew counts as nothing.

use std::collections::{BTreeMap, VecDeque};

use model::host::HostFact;
use model::time::Stamp;
use serde::{Deserialize, Serialize};

use crate::binomial::to_f64;

/// Disks kept of one span, the busiest: etcd writes to one.
const DISKS_MAX: usize = 4;

/// The time between two readings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Span {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    /// Shares of the CPU time there was, 0 to 1: in use, kept by the hypervisor, used by the watched members.
    busy: f64,
    steal: f64,
    own: f64,
    stalls: Option<Stalls>,
    /// Share of memory that was available at the end.
    available: f64,
    disks: BTreeMap<String, Disk>,
}

/// Shares of the time in which something waited, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stalls {
    pub(super) cpu: f64,
    pub(super) io: f64,
    pub(super) memory: f64,
}

/// One disk's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Disk {
    requests: u64,
    spent_ms: u64,
    /// Share of the time with a request in flight, 0 to 1.
    pub(super) busy: f64,
}

impl Span {
    pub(super) fn between((from, before): (Stamp, &HostFact), (to, after): (Stamp, &HostFact)) -> Span {
        let length_ns = to.since_ns(from);
        let (then, now) = (before.cpu, after.cpu);
        let grown = |after: u64, before: u64| to_f64(after.saturating_sub(before));
        let used = grown(now.user_ns, then.user_ns) + grown(now.system_ns, then.system_ns);
        let steal = grown(now.steal_ns, then.steal_ns);
        let all = used + steal + grown(now.idle_ns, then.idle_ns) + grown(now.iowait_ns, then.iowait_ns);
        let stalls = before.pressure.zip(after.pressure).map(|(then, now)| {
            let stalled = |now: u64, then: u64| share(grown(now, then) * 1e3, to_f64(length_ns));
            Stalls {
                cpu: stalled(now.cpu_us, then.cpu_us),
                io: stalled(now.io_us, then.io_us),
                memory: stalled(now.memory_us, then.memory_us),
            }
        });
        Span {
            from_ns: from.mono_ns,
            to_ns: to.mono_ns,
            busy: share(used, all),
            steal: share(steal, all),
            own: share(own(before, after), all),
            stalls,
            available: share(to_f64(after.memory_available_bytes), to_f64(after.memory_total_bytes)),
            disks: disks(before, after, length_ns),
        }
    }
}

/// CPU time of the watched members' processes, nanoseconds.
fn own(before: &HostFact, after: &HostFact) -> f64 {
    let spent = after.processes.iter().filter(|process| process.role.is_some()).filter_map(|now| {
        let is_same =
            |then: &&model::host::Process| (then.pid, then.started_ticks) == (now.pid, now.started_ticks);
        let then = before.processes.iter().find(is_same)?;
        Some(now.cpu_ns.saturating_sub(then.cpu_ns))
    });
    to_f64(spent.fold(0, u64::saturating_add))
}

fn disks(before: &HostFact, after: &HostFact, length_ns: u64) -> BTreeMap<String, Disk> {
    let worked = |now: &model::host::Disk| {
        let then = before.disks.iter().find(|then| then.name == now.name)?;
        let grown = |of: fn(&model::host::Disk) -> u64| of(now).saturating_sub(of(then));
        let requests = [grown(|disk| disk.reads), grown(|disk| disk.writes), grown(|disk| disk.flushes)];
        let spent_ms = [grown(|disk| disk.read_ms), grown(|disk| disk.write_ms), grown(|disk| disk.flush_ms)];
        let busy = share(to_f64(grown(|disk| disk.busy_ms)) * 1e6, to_f64(length_ns));
        let sum = |parts: [u64; 3]| parts.into_iter().fold(0, u64::saturating_add);
        Some((now.name.clone(), Disk { requests: sum(requests), spent_ms: sum(spent_ms), busy }))
    };
    let mut disks: Vec<(String, Disk)> =
        after.disks.iter().filter_map(worked).filter(|(_, disk)| disk.requests > 0).collect();
    disks.sort_by(|(_, one), (_, other)| other.busy.total_cmp(&one.busy));
    disks.truncate(DISKS_MAX);
    disks.into_iter().collect()
}

impl Disk {
    /// Seconds a request took; `None` where there was none.
    pub(super) fn await_s(self) -> Option<f64> {
        (self.requests > 0).then(|| to_f64(self.spent_ms) / 1e3 / to_f64(self.requests))
    }
}

/// Means over spans, each weighed by its length.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mean {
    pub(super) busy: f64,
    pub(super) steal: f64,
    pub(super) own: f64,
    pub(super) available: f64,
    pub(super) stalls: Option<Stalls>,
    disks: BTreeMap<String, Disk>,
}

impl Mean {
    /// Over the spans that lie in `[from_ns, to_ns)` for at least half of their length, or fill at least half of it.
    pub(super) fn of(spans: &VecDeque<Span>, from_ns: u64, to_ns: u64) -> Option<Mean> {
        let lies_in = |span: &&Span| {
            let common = span.to_ns.min(to_ns).saturating_sub(span.from_ns.max(from_ns));
            let shorter = span.to_ns.saturating_sub(span.from_ns).min(to_ns.saturating_sub(from_ns));
            common > 0 && common.saturating_mul(2) >= shorter
        };
        let spans: Vec<&Span> = spans.iter().filter(lies_in).collect();
        let length = |span: &Span| to_f64(span.to_ns.saturating_sub(span.from_ns));
        let all: f64 = spans.iter().map(|span| length(span)).sum();
        if all <= 0.0 {
            return None;
        }
        let mean =
            |of: &dyn Fn(&Span) -> f64| spans.iter().map(|span| of(span) * length(span)).sum::<f64>() / all;
        let stall = |of: fn(&Stalls) -> f64| mean(&|span| span.stalls.as_ref().map_or(0.0, of));
        let has_stalls = spans.iter().any(|span| span.stalls.is_some());
        let mut disks: BTreeMap<String, Disk> = BTreeMap::new();
        for span in &spans {
            for (name, disk) in &span.disks {
                let sum = disks.entry(name.clone()).or_default();
                sum.requests = sum.requests.saturating_add(disk.requests);
                sum.spent_ms = sum.spent_ms.saturating_add(disk.spent_ms);
                sum.busy += disk.busy * length(span) / all;
            }
        }
        Some(Mean {
            busy: mean(&|span| span.busy),
            steal: mean(&|span| span.steal),
            own: mean(&|span| span.own),
            available: mean(&|span| span.available),
            stalls: has_stalls.then(|| Stalls {
                cpu: stall(|stalls| stalls.cpu),
                io: stall(|stalls| stalls.io),
                memory: stall(|stalls| stalls.memory),
            }),
            disks,
        })
    }

    pub(super) fn disk(&self, name: &str) -> Option<Disk> {
        self.disks.get(name).copied()
    }

    /// The disk whose requests took longest, among those that were busy for a hundredth of the time; else the busiest.
    pub(super) fn slowest(&self) -> Option<(&str, Disk)> {
        const WORKED_MIN: f64 = 0.01;
        let worked = self.disks.iter().filter(|(_, disk)| disk.busy >= WORKED_MIN);
        let slowest = worked.max_by(|(_, one), (_, other)| {
            one.await_s().unwrap_or(0.0).total_cmp(&other.await_s().unwrap_or(0.0))
        });
        let busiest = || self.disks.iter().max_by(|(_, one), (_, other)| one.busy.total_cmp(&other.busy));
        slowest.or_else(busiest).map(|(name, disk)| (name.as_str(), *disk))
    }
}

/// A share between 0 and 1; of nothing it is 0.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}
