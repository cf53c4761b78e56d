//! Facts of members and of the node as metrics, under OpenTelemetry's names where it has one.
//!
//! Owns names and units: `system.*` and `process.*` follow the semantic conventions, `etcd.member.*` is what a member says of
//! itself, `backburn.*` is what has no convention (pressure stalls, flushes, connections, control groups). Cumulative values stay cumulative
//! without a start time: the kernel does not tell it on the page. Refuses to compute rates.

use model::host::{Disk, HostFact, Process};
use model::member::{MemberFact, MemberState};
use model::record::Record;

use super::metrics::{CUMULATIVE, seconds};
use super::pack::{Nest, Pack};
use super::resource::Identity;
use super::wire::{Value, Writer};

mod cgroup;

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A level.
    Gauge,
    /// Adds up over attributes, goes up and down.
    UpDown,
    /// Only grows.
    Counter,
}

#[derive(Clone, Copy, Debug)]
struct Metric {
    name: &'static str,
    unit: &'static str,
    kind: Kind,
}

type Attribute<'a> = (&'static str, &'a str);

/// One metric and its points.
#[derive(Debug)]
struct Lines<'n, 'p, 'b> {
    nest: &'n mut Nest<'p, 'b>,
    time_ns: u64,
}

impl Lines<'_, '_, '_> {
    fn put(&mut self, metric: Metric, points: &[(&[Attribute<'_>], f64)]) {
        let time_ns = self.time_ns;
        self.nest.put(super::wire::wide(points.len()), &|writer| metric.write(time_ns, points, writer));
    }

    fn gauge(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.put(Metric { name, unit, kind: Kind::Gauge }, &[(&[], value)]);
    }

    fn up_down(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.put(Metric { name, unit, kind: Kind::UpDown }, &[(&[], value)]);
    }

    fn counter(&mut self, name: &'static str, unit: &'static str, points: &[(&[Attribute<'_>], f64)]) {
        self.put(Metric { name, unit, kind: Kind::Counter }, points);
    }
}

impl Metric {
    fn write(self, time_ns: u64, points: &[(&[Attribute<'_>], f64)], writer: &mut Writer) {
        let metric = writer.open(2);
        writer.string(1, self.name);
        writer.string(3, self.unit);
        let data = writer.open(if self.kind == Kind::Gauge { 5 } else { 7 });
        if self.kind != Kind::Gauge {
            writer.uint(2, u64::from(CUMULATIVE));
            writer.uint(3, u64::from(self.kind == Kind::Counter));
        }
        for (attributes, value) in points {
            let point = writer.open(1);
            for (key, text) in *attributes {
                writer.attribute(7, key, Value::Str(text));
            }
            writer.fixed64(3, time_ns);
            writer.double(4, *value);
            writer.close(point);
        }
        writer.close(data);
        writer.close(metric);
    }
}

/// Counts and sizes as OTLP doubles.
#[expect(clippy::cast_precision_loss, reason = "a gauge for people and thresholds: 53 bits are enough")]
fn number(value: u64) -> f64 {
    value as f64
}

fn truth(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// What a member says of itself.
pub(crate) fn member(identity: &Identity, record: &Record, fact: &MemberFact, pack: &mut Pack) {
    let resource = identity.member(&record.origin);
    let scope = identity.scope().to_vec();
    let mut nest = Nest::new(pack);
    nest.enter(1, &resource);
    nest.enter(2, &scope);
    let mut lines = Lines { nest: &mut nest, time_ns: record.at.wall_ns };
    match fact {
        MemberFact::Silent { reason, .. } => {
            let up = Metric { name: "etcd.member.answered", unit: "1", kind: Kind::Gauge };
            lines.put(up, &[(&[("error.type", reason)], 0.0)]);
        }
        MemberFact::Answered(state) => answered(&mut lines, state),
    }
}

fn answered(lines: &mut Lines<'_, '_, '_>, state: &MemberState) {
    lines.gauge("etcd.member.answered", "1", 1.0);
    lines.gauge("etcd.member.has_leader", "1", truth(state.leader != 0));
    lines.gauge("etcd.member.is_leader", "1", truth(state.leader != 0 && state.leader == state.id));
    lines.gauge("etcd.member.is_learner", "1", truth(state.learner));
    lines.gauge("etcd.member.raft.term", "1", number(state.raft_term));
    lines.gauge("etcd.member.raft.index", "1", number(state.raft_index));
    lines.gauge("etcd.member.raft.applied_index", "1", number(state.raft_applied_index));
    lines.gauge("etcd.member.revision", "1", number(state.revision));
    lines.up_down("etcd.member.db.size", "By", number(state.db_size_bytes));
    lines.up_down("etcd.member.db.used", "By", number(state.db_in_use_bytes));
    if let Some(quota) = state.quota_bytes {
        lines.up_down("etcd.member.db.quota", "By", number(quota));
    }
    lines.gauge("etcd.cluster.members", "{member}", number(super::wire::wide(state.members.len())));
    let alarms =
        |name: &str| number(super::wire::wide(state.alarms.iter().filter(|(kind, _)| kind == name).count()));
    lines.put(
        Metric { name: "etcd.cluster.alarms", unit: "{alarm}", kind: Kind::Gauge },
        &[
            (&[("etcd.alarm.type", "NOSPACE")], alarms("NOSPACE")),
            (&[("etcd.alarm.type", "CORRUPT")], alarms("CORRUPT")),
        ],
    );
}

/// The node and its watched processes.
pub(crate) fn host(identity: &Identity, record: &Record, fact: &HostFact, pack: &mut Pack) {
    let resource = identity.host(&record.origin);
    let scope = identity.scope().to_vec();
    let mut nest = Nest::new(pack);
    nest.enter(1, &resource);
    nest.enter(2, &scope);
    let mut lines = Lines { nest: &mut nest, time_ns: record.at.wall_ns };
    node(&mut lines, fact);
    fact.cgroup.iter().for_each(|group| cgroup::write(&mut lines, group));
    fact.disks.iter().for_each(|device| disk(&mut lines, device));
    drop(nest);
    for process in &fact.processes {
        let resource = identity.process(&record.origin, &process.name, process.pid, process.role.as_deref());
        let mut nest = Nest::new(pack);
        nest.enter(1, &resource);
        nest.enter(2, &scope);
        watched(&mut Lines { nest: &mut nest, time_ns: record.at.wall_ns }, process);
    }
}

fn node(lines: &mut Lines<'_, '_, '_>, fact: &HostFact) {
    let cpu = &fact.cpu;
    lines.counter(
        "system.cpu.time",
        "s",
        &[
            (&[("cpu.mode", "user")], seconds(cpu.user_ns)),
            (&[("cpu.mode", "system")], seconds(cpu.system_ns)),
            (&[("cpu.mode", "idle")], seconds(cpu.idle_ns)),
            (&[("cpu.mode", "iowait")], seconds(cpu.iowait_ns)),
            (&[("cpu.mode", "steal")], seconds(cpu.steal_ns)),
        ],
    );
    lines.up_down("system.cpu.logical.count", "{cpu}", f64::from(fact.cpus));
    lines.up_down("system.memory.limit", "By", number(fact.memory_total_bytes));
    lines.up_down("system.linux.memory.available", "By", number(fact.memory_available_bytes));
    if let Some(pressure) = &fact.pressure {
        let stalled = |us: u64| seconds(us.saturating_mul(1000));
        lines.counter(
            "backburn.host.pressure.stall.time",
            "s",
            &[
                (&[("resource", "cpu")], stalled(pressure.cpu_us)),
                (&[("resource", "io")], stalled(pressure.io_us)),
                (&[("resource", "memory")], stalled(pressure.memory_us)),
            ],
        );
    }
    for filesystem in &fact.filesystems {
        let used = filesystem.total_bytes.saturating_sub(filesystem.available_bytes);
        let place = ("system.filesystem.mountpoint", filesystem.path.as_str());
        let usage = Metric { name: "system.filesystem.usage", unit: "By", kind: Kind::UpDown };
        lines.put(
            usage,
            &[
                (&[place, ("system.filesystem.state", "used")], number(used)),
                (&[place, ("system.filesystem.state", "free")], number(filesystem.available_bytes)),
            ],
        );
    }
}

fn disk(lines: &mut Lines<'_, '_, '_>, disk: &Disk) {
    let device = ("system.device", disk.name.as_str());
    let (read, write) = (("disk.io.direction", "read"), ("disk.io.direction", "write"));
    let spent = |ms: u64| seconds(ms.saturating_mul(1_000_000));
    lines.counter(
        "system.disk.operations",
        "{operation}",
        &[(&[device, read], number(disk.reads)), (&[device, write], number(disk.writes))],
    );
    lines.counter(
        "system.disk.operation_time",
        "s",
        &[(&[device, read], spent(disk.read_ms)), (&[device, write], spent(disk.write_ms))],
    );
    lines.counter("system.disk.io_time", "s", &[(&[device], spent(disk.busy_ms))]);
    lines.counter("backburn.host.disk.flushes", "{operation}", &[(&[device], number(disk.flushes))]);
    lines.counter("backburn.host.disk.flush_time", "s", &[(&[device], spent(disk.flush_ms))]);
}

fn watched(lines: &mut Lines<'_, '_, '_>, process: &Process) {
    lines.counter("process.cpu.time", "s", &[(&[], seconds(process.cpu_ns))]);
    lines.up_down("process.memory.usage", "By", number(process.rss_bytes));
    lines.up_down("process.thread.count", "{thread}", number(process.threads));
    if let Some(fds) = process.fds {
        lines.up_down("process.unix.file_descriptor.count", "{file_descriptor}", number(fds));
    }
    if let Some(connections) = process.connections {
        lines.up_down("backburn.process.connections", "{connection}", number(connections));
    }
    process.cgroup.iter().for_each(|group| cgroup::write(lines, group));
}
