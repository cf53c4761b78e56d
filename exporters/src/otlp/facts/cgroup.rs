//! A control group as metrics of the process it holds, or of the node. Its path names pods and is no attribute: it would make
//! a new series at each restart.

use model::host::Cgroup;

use super::{Lines, number, seconds};

pub(super) fn write(lines: &mut Lines<'_, '_, '_>, group: &Cgroup) {
    if let Some(cpu) = &group.cpu {
        if let Some(usage_ns) = cpu.usage_ns {
            lines.counter("backburn.cgroup.cpu.time", "s", &[(&[], seconds(usage_ns))]);
        }
        if let Some(limit) = cpu.limit_millicpus {
            lines.gauge("backburn.cgroup.cpu.limit", "{cpu}", number(limit) / 1_000.0);
        }
        lines.counter("backburn.cgroup.cpu.periods", "{period}", &[(&[], number(cpu.periods))]);
        let throttled = number(cpu.throttled_periods);
        lines.counter("backburn.cgroup.cpu.throttled.periods", "{period}", &[(&[], throttled)]);
        lines.counter("backburn.cgroup.cpu.throttled.time", "s", &[(&[], seconds(cpu.throttled_ns))]);
    }
    if let Some(memory) = &group.memory {
        lines.up_down("backburn.cgroup.memory.usage", "By", number(memory.usage_bytes));
        if let Some(limit) = memory.limit_bytes {
            lines.up_down("backburn.cgroup.memory.limit", "By", number(limit));
        }
        if let Some(hits) = memory.limit_hits {
            lines.counter("backburn.cgroup.memory.limit.hits", "{hit}", &[(&[], number(hits))]);
        }
        if let Some(kills) = memory.oom_kills {
            lines.counter("backburn.cgroup.memory.oom_kills", "{kill}", &[(&[], number(kills))]);
        }
    }
    if let Some(io) = &group.io {
        lines.counter(
            "backburn.cgroup.disk.io",
            "By",
            &[
                (&[("disk.io.direction", "read")], number(io.read_bytes)),
                (&[("disk.io.direction", "write")], number(io.write_bytes)),
            ],
        );
    }
}
