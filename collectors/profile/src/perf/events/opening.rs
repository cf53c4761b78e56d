//! How the events of a target are opened: whole CPUs or single tasks, and what is asked for first.

use std::fs;

use super::super::attr::{DEPTH_MAX, Hz, Level, Measure, Scope, Shape, StackBytes};
use super::super::refusal::Refusal;
use super::super::target::{self, Target};
use super::super::tracepoint::{self, Switches, Tracepoints, Untraced, Way};
use super::{Aim, Events};

impl Events {
    /// A node switches hundreds of thousands of times a second: only those that are asked about shall pay. Events of a
    /// cgroup would be taken from the CPU and put back whenever another one has its turn, so its tasks are followed.
    pub(super) fn open_waiting(
        target: &Target,
        shape: Shape,
        ring_bytes: usize,
        cpus: &[u32],
    ) -> Result<Events, Refusal> {
        match target {
            Target::Node => Events::open_as(Aim::Node, shape, ring_bytes, cpus),
            Target::Pids(pids) => Events::open_tasks(target::threads(pids), shape, ring_bytes, cpus),
            Target::Cgroup(path) => {
                let tids = target::cgroup_threads(path)?;
                Events::open_tasks(tids, shape, ring_bytes, cpus)
            }
        }
    }

    pub(super) fn open_running(
        target: &Target,
        shape: Shape,
        ring_bytes: usize,
        cpus: &[u32],
    ) -> Result<Events, Refusal> {
        let aim = match target {
            Target::Cgroup(path) => Aim::Cgroup(target::cgroup_directory(path)?, path.clone()),
            Target::Node | Target::Pids(_) => Aim::Node,
        };
        let first = Events::open_as(aim, shape, ring_bytes, cpus);
        match (first, target) {
            // Without the privilege for whole CPUs one may still follow one's own.
            (Err(refusal @ (Refusal::Paranoid { .. } | Refusal::Namespace)), Target::Pids(pids)) => {
                let tids = target::threads(pids);
                Events::open_tasks(tids, shape, ring_bytes, cpus).map_err(|task| match task {
                    // Then the first answer is the one that helps.
                    Refusal::Paranoid { .. } => refusal,
                    other => other,
                })
            }
            (first, _) => first,
        }
    }

    fn open_tasks(tids: Vec<u32>, shape: Shape, ring_bytes: usize, cpus: &[u32]) -> Result<Events, Refusal> {
        let shape = Shape { scope: Scope::Tasks, ..shape };
        match Events::open_as(Aim::Tasks(tids.clone()), shape, ring_bytes, cpus) {
            // A switch is in the kernel: who may not see that sees none.
            Err(Refusal::Paranoid { .. } | Refusal::Namespace) if shape.measure == Measure::Running => {
                let shape = Shape { is_kernel_seen: false, ..shape };
                Events::open_as(Aim::Tasks(tids), shape, ring_bytes, cpus)
            }
            done => done,
        }
    }
}

/// What is asked for first.
pub(super) fn shape(measure: Measure, hz: Hz, stack_bytes: StackBytes) -> Shape {
    let depth = fs::read_to_string("/proc/sys/kernel/perf_event_max_stack").unwrap_or_default();
    Shape {
        measure,
        hz,
        level: Level::Lost,
        scope: Scope::Node,
        is_kernel_seen: true,
        // More than the machine allows is an error, not a shorter stack.
        depth: depth.trim().parse().unwrap_or(DEPTH_MAX).min(DEPTH_MAX),
        stack_bytes,
        wakeup_bytes: 0,
        switches: None,
    }
}

/// Opens waiting in the first way that is granted. Of the whole node one event sees who leaves and who comes, but by the
/// host's numbers; only single tasks have clocks of their own. Tracefs is looked for when nothing better opened.
pub(super) fn in_a_way<T>(
    target: &Target,
    way: Way,
    open: impl Fn(Switches) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    if way == Way::Records {
        return open(Switches::Counted(Untraced::Unwanted));
    }
    let is_node = matches!(target, Target::Node);
    let timed = |when| (!is_node && way == when).then(|| open(Switches::Timed).ok()).flatten();
    if let Some(opened) = timed(Way::ByStacks) {
        return Ok(opened);
    }
    let found = match is_node && !tracepoint::is_first_namespace() {
        true => Err(Untraced::Namespace),
        false => Tracepoints::find(),
    };
    let why = match found.map(|tracepoints| open(Switches::Traced(tracepoints))) {
        Ok(Ok(opened)) => return Ok(opened),
        Ok(Err(_)) => Untraced::Refused,
        Err(why) => why,
    };
    timed(Way::ByStates).map_or_else(|| open(Switches::Counted(why)), Ok)
}
