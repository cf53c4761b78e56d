//! Records in the order in which an engine could get them: several members, probes, pages, lines, marks, captures.
//!
//! Stamps mostly move on; some go back, as two sources may, and the wall clock is sometimes set. Values are anything.

mod lines;
mod pages;

use std::collections::BTreeMap;
use std::sync::Arc;

use collectors::scrape::columns::{Columns, Generations};
use model::host::{Cgroup, CgroupCpu, CpuTimes, Disk, HostFact, Pressure, Process};
use model::mark::{Mark, MarkKind, MarkSource};
use model::member::{HashKv, ListedMember, MemberFact, MemberState};
use model::origin::{MemberRef, Origin};
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::profile::windows::{Window, WindowCount};
use model::profile::{
    Baseline, CaptureOutcome, CaptureResult, FunctionCount, FunctionCounts, ProfileKind, ProfileSet,
};
use model::record::{Fact, Record, Tick};
use model::scrape::{Scrape, ScrapeOutcome};
use model::time::{SECOND_NS, Stamp};
use model::verdict::{Delivery, Done, SignalEvent};

use self::lines::batch;
use self::pages::{any_scrape, page};
use crate::seed::Seed;

/// Records of one input: an hour of a small cluster fits, and a run stays below a second.
const RECORDS_MAX: usize = 2_000;

/// What the next record follows from.
#[derive(Debug)]
struct World {
    now: Stamp,
    /// One number is one shape, whoever's page it is, as in an agent.
    generations: Generations,
    pages: BTreeMap<String, (Columns, BTreeMap<String, f64>)>,
}

/// All records that the bytes stand for.
#[must_use]
pub fn records(data: &[u8]) -> Vec<Record> {
    let mut seed = Seed::new(data);
    let start = Stamp { mono_ns: 1_000 * SECOND_NS, wall_ns: 1_700_000_000 * SECOND_NS };
    let mut world = World { now: start, generations: Generations::default(), pages: BTreeMap::new() };
    let mut records: Vec<Record> = Vec::new();
    while !seed.is_empty() && records.len() < RECORDS_MAX {
        match seed.byte() {
            // Quiet minutes and long incidents are many records of one kind; a byte is enough for each.
            0..24 => world.repeat(&mut seed, &mut records),
            24..40 => records.push(world.tick(&mut seed)),
            kind => {
                let fact = world.fact(&mut seed, kind);
                let origin = origin(&mut seed);
                world.pass(&mut seed);
                records.push(Record { at: world.now, origin, fact });
            }
        }
    }
    records
}

/// Batches of log lines alone, with ticks between them.
#[must_use]
pub fn logs(data: &[u8]) -> Vec<Record> {
    let mut seed = Seed::new(data);
    let now = Stamp { mono_ns: 1_000 * SECOND_NS, wall_ns: 1_700_000_000 * SECOND_NS };
    let mut world = World { now, generations: Generations::default(), pages: BTreeMap::new() };
    let mut records = Vec::new();
    while !seed.is_empty() && records.len() < RECORDS_MAX {
        let fact = if seed.rarely() {
            Fact::Tick(Tick::default())
        } else {
            Fact::Logs(batch(&mut seed, world.now.wall_ns))
        };
        let origin = origin(&mut seed);
        world.pass(&mut seed);
        records.push(Record { at: world.now, origin, fact });
    }
    records
}

impl World {
    fn pass(&mut self, seed: &mut Seed<'_>) {
        let ms = SECOND_NS / 1_000;
        match seed.byte() {
            0..128 => self.now = self.now.plus_ns(SECOND_NS),
            128..160 => self.now = self.now.plus_ns(20 * ms),
            160..192 => {}
            192..208 => self.now = self.now.plus_ns(30 * SECOND_NS),
            208..224 => self.now = self.now.plus_ns(3_600 * SECOND_NS),
            224..232 => self.now = self.now.plus_ns(seed.number() % (1 << 56)),
            232..244 => {
                let ns = seed.number() % (10 * SECOND_NS);
                let Stamp { mono_ns, wall_ns } = self.now;
                self.now = Stamp { mono_ns: mono_ns.saturating_sub(ns), wall_ns: wall_ns.saturating_sub(ns) };
            }
            _ => self.now.wall_ns = seed.number(),
        }
    }

    fn tick(&mut self, seed: &mut Seed<'_>) -> Record {
        self.pass(seed);
        let wall_step_ns = if seed.rarely() { seed.number().cast_signed() } else { 0 };
        Record { at: self.now, origin: Arc::new(Origin::default()), fact: Fact::Tick(Tick { wall_step_ns }) }
    }

    fn repeat(&mut self, seed: &mut Seed<'_>, records: &mut Vec<Record>) {
        let back = seed.below(4) + 1;
        let times = usize::from(seed.byte());
        let from = records.len().saturating_sub(back);
        let pattern: Vec<Record> = records.get(from..).unwrap_or_default().to_vec();
        let step = seed.pick(&[SECOND_NS, SECOND_NS / 4, 5 * SECOND_NS, 60 * SECOND_NS]);
        for record in std::iter::repeat_n(pattern, times).flatten() {
            if records.len() >= RECORDS_MAX {
                return;
            }
            self.now = self.now.plus_ns(step);
            records.push(Record { at: self.now, ..record });
        }
    }

    fn fact(&mut self, seed: &mut Seed<'_>, kind: u8) -> Fact {
        match kind {
            40..96 => Fact::Probe(probe(seed)),
            96..128 => Fact::Scrape(self.page(seed)),
            128..136 => Fact::Scrape(self.any_scrape(seed)),
            136..152 => Fact::Member(member(seed)),
            152..164 => Fact::Host(host(seed)),
            164..188 => Fact::Mark(mark(seed)),
            188..224 => Fact::Logs(batch(seed, self.now.wall_ns)),
            224..240 => Fact::Capture(capture(seed, self.now)),
            240..250 => Fact::Done(done(seed)),
            _ => Fact::Config(config(seed)),
        }
    }

    fn any_scrape(&mut self, seed: &mut Seed<'_>) -> Scrape {
        any_scrape(seed, self.generations.draw())
    }

    /// A page as a member would show it, read by the collector's own columns: counters move on, and sometimes begin anew.
    fn page(&mut self, seed: &mut Seed<'_>) -> Scrape {
        let target = seed.pick(&["m1", "m2", "m3"]).to_owned();
        let (columns, values) = self
            .pages
            .entry(target.clone())
            .or_insert_with(|| (Columns::numbered(128, self.generations.clone()), BTreeMap::new()));
        let reading = if seed.rarely() {
            columns.fail(seed.number())
        } else {
            let text = page(seed, values);
            match columns.read(text.as_bytes(), seed.number()) {
                Ok(reading) => reading,
                Err(_) => columns.fail(1),
            }
        };
        Scrape {
            target: target.into(),
            generation: reading.layout.generation,
            layout: reading.layout,
            values: reading.values,
            outcome: ScrapeOutcome::Up,
            duration_ns: 1,
            body_bytes: 1,
            samples: reading.samples,
            process_start_ns: reading.process_start_ns,
            restarted: reading.restarted.is_some(),
        }
    }
}

fn origin(seed: &mut Seed<'_>) -> Arc<Origin> {
    let name = seed.pick(&["m1", "m2", "m3"]);
    let member = (!seed.rarely()).then(|| MemberRef {
        id: seed.maybe(Seed::number),
        name: name.to_owned(),
        endpoint: "http://127.0.0.1:2379".to_owned(),
    });
    Arc::new(Origin { cluster_id: seed.maybe(|seed| u64::from(seed.byte())), node: seed.text(), member })
}

fn probe(seed: &mut Seed<'_>) -> Probe {
    let kind = seed.pick(&[
        ProbeKind::LinearizableRead,
        ProbeKind::LeaseGrant,
        ProbeKind::SerializableRead,
        ProbeKind::Status,
        ProbeKind::LeaseKeepAlive,
        ProbeKind::LeaseRevoke,
        ProbeKind::Put,
        ProbeKind::WatchLag,
    ]);
    let latency_ns = match seed.byte() {
        byte @ 0..200 => u64::from(byte) * 2_000_000,
        _ => seed.number(),
    };
    let outcome = match seed.byte() {
        0..192 => ProbeOutcome::Ok,
        192..204 => ProbeOutcome::TimedOut,
        204..212 => ProbeOutcome::Refused,
        212..220 => ProbeOutcome::LostInFlight,
        220..228 => ProbeOutcome::LeaderChanged,
        228..236 => ProbeOutcome::NotPermitted,
        _ => ProbeOutcome::Grpc(seed.text()),
    };
    Probe { kind, latency_ns, outcome }
}

fn member(seed: &mut Seed<'_>) -> MemberFact {
    if seed.rarely() {
        return MemberFact::Silent { reason: seed.text(), detail: seed.text() };
    }
    MemberFact::Answered(Box::new(MemberState {
        id: seed.number(),
        cluster_id: seed.number(),
        version: seed.pick(&["3.5.33", "3.4.23", ""]).to_owned(),
        leader: seed.number(),
        raft_term: seed.number(),
        raft_index: seed.number(),
        raft_applied_index: seed.number(),
        db_size_bytes: seed.number(),
        db_in_use_bytes: seed.number(),
        quota_bytes: seed.maybe(Seed::number),
        revision: seed.number(),
        learner: seed.rarely(),
        alarms: seed.some(3, |seed| (seed.text(), seed.number())),
        errors: seed.some(3, Seed::text),
        members: seed.some(4, |seed| ListedMember {
            id: seed.number(),
            name: seed.text(),
            client_urls: seed.some(3, Seed::text),
            learner: seed.rarely(),
        }),
        hash: seed.maybe(|seed| HashKv { revision: seed.number(), compact_revision: seed.number(), hash: 1 }),
    }))
}

fn host(seed: &mut Seed<'_>) -> HostFact {
    HostFact {
        cpus: u32::from(seed.byte()),
        cpu: CpuTimes {
            user_ns: seed.number(),
            system_ns: seed.number(),
            idle_ns: seed.number(),
            iowait_ns: seed.number(),
            steal_ns: seed.number(),
        },
        memory_total_bytes: seed.number(),
        memory_available_bytes: seed.number(),
        pressure: seed.maybe(|seed| Pressure {
            cpu_us: seed.number(),
            io_us: seed.number(),
            memory_us: seed.number(),
        }),
        disks: seed.some(3, |seed| Disk {
            name: seed.text(),
            writes: seed.number(),
            write_ms: seed.number(),
            ..Disk::default()
        }),
        filesystems: Vec::new(),
        processes: seed.some(3, |seed| Process {
            pid: u32::from(seed.byte()),
            name: seed.text(),
            role: seed.maybe(Seed::text),
            started_ticks: seed.number(),
            cpu_ns: seed.number(),
            rss_bytes: seed.number(),
            cgroup: seed.maybe(|seed| Cgroup {
                path: seed.text(),
                cpu: seed.maybe(|seed| CgroupCpu {
                    usage_ns: seed.maybe(Seed::number),
                    limit_millicpus: seed.maybe(Seed::number),
                    throttled_ns: seed.number(),
                    ..CgroupCpu::default()
                }),
                ..Cgroup::default()
            }),
            ..Process::default()
        }),
        cgroup: None,
    }
}

fn mark(seed: &mut Seed<'_>) -> Mark {
    Mark {
        target: seed.pick(&["checkout", "etcd", "m1", "payments"]).to_owned(),
        revision: seed.pick(&["v1", "v1b", "v2", "", "v3"]).to_owned(),
        kind: seed.pick(&[MarkKind::Rollout, MarkKind::Restart, MarkKind::Planned]),
        rollback_of: if seed.rarely() { Some(seed.pick(&["v2", "v1", ""]).to_owned()) } else { None },
        source: seed.pick(&[MarkSource::Operator, MarkSource::Observed]),
    }
}

fn capture(seed: &mut Seed<'_>, now: Stamp) -> CaptureResult {
    let outcome = match seed.byte() % 8 {
        0 => CaptureOutcome::Refused { reason: seed.text() },
        1 => CaptureOutcome::Failed { reason: seed.text(), detail: seed.text() },
        _ => CaptureOutcome::Done {
            before: seed.maybe(|seed| profiles(seed, now)),
            baseline: seed.pick(&[
                Baseline::BeforeMarker,
                Baseline::Aged,
                Baseline::Young,
                Baseline::Missing,
            ]),
            after: profiles(seed, now),
        },
    };
    CaptureResult {
        request: u64::from(seed.byte() % 8),
        target: seed.pick(&["m1", "m2", "m3"]).to_owned(),
        outcome,
    }
}

fn profiles(seed: &mut Seed<'_>, now: Stamp) -> Arc<ProfileSet> {
    let counts = seed.some(4, |seed| FunctionCounts {
        kind: seed.pick(&[ProfileKind::Cpu, ProfileKind::Heap, ProfileKind::Goroutine]),
        duration_ns: seed.number(),
        period: seed.number(),
        total: seed.number(),
        samples: seed.number(),
        functions: seed.some(8, |seed| FunctionCount {
            name: seed.text(),
            own: seed.number(),
            total: seed.number(),
            samples: seed.number(),
        }),
        edges: seed.some(8, |seed| (u32::from(seed.byte()), u32::from(seed.byte()), seed.number())),
        other: seed.number(),
        requests: seed.maybe(Seed::number),
        windows: seed.some(5, |seed| Window {
            duration_ns: seed.number(),
            total: seed.number(),
            functions: seed.some(4, |seed| WindowCount {
                function: u32::from(seed.byte() % 9),
                own: seed.number(),
                total: seed.number(),
            }),
        }),
    });
    Arc::new(ProfileSet { at: now, engine: seed.text(), counts, ..ProfileSet::default() })
}

fn done(seed: &mut Seed<'_>) -> Done {
    Done {
        target: seed.pick(&["checkout", "etcd"]).to_owned(),
        epoch: u64::from(seed.byte()),
        revision: seed.pick(&["v1", "v2"]).to_owned(),
        receiver: seed.text(),
        event: seed.pick(&[SignalEvent::Rollback, SignalEvent::Evidence, SignalEvent::Resolved]),
        outcome: match seed.byte() % 4 {
            0 => Delivery::Delivered,
            1 => Delivery::Confirmed,
            2 => Delivery::Refused(seed.text()),
            _ => Delivery::Expired,
        },
    }
}

/// The agent writes this record itself, from a checked configuration.
fn config(seed: &mut Seed<'_>) -> String {
    let mut config = processors::Config::default();
    config.verdict.enforce = seed.byte() % 2 == 0;
    config.slo.write.limit_ms = seed.pick(&[32, 256, 64, 128]);
    config.slo.availability.target_ppm = seed.pick(&[999_000, 990_000, 999_900, 500_000]);
    if !config.slo.problems().is_empty() {
        config.slo = processors::slo::Config::default();
    }
    config.detect.warm_up_points = u32::from(seed.byte());
    serde_json::to_string(&config).unwrap_or_default()
}
