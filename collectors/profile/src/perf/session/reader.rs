//! From a record's bytes to a sample with its process: what a session does with each record, and what it counts.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::super::attr::{Abilities, Measure, Scope};
use super::super::cgroup::Cgroup;
use super::super::processes::Processes;
use super::super::record::{self, Birth, Layout, Meta, Record, Sample, Stint};
use super::super::statistics::Statistics;
use super::super::synthesis::Proc;
use super::super::target::Target;
use super::super::tracepoint::{Switches, Traced};
use super::waits::Waits;
use super::{KernelCode, Plan, Seen, Sink, Wait, WaitKind};

/// Processes that a session follows. Who starts more has a node to watch.
const FOLLOWED_MAX: usize = 16_384;

/// The processes that are wanted, among all that are seen.
#[derive(Debug)]
struct Followed {
    pids: HashSet<u32>,
    /// When the latest of their threads ended.
    ended_ns: Option<u64>,
}

impl Followed {
    fn tell(&mut self, at_ns: u64, record: &Record<'_>) {
        match record {
            Record::Fork(Birth { pid, parent_pid, .. }) if pid != parent_pid => {
                // A child of ours is ours; another one that got the number of ours is not.
                let is_ours = self.pids.contains(parent_pid) && self.pids.len() < FOLLOWED_MAX;
                if is_ours {
                    self.pids.insert(*pid)
                } else {
                    self.pids.remove(pid)
                };
            }
            Record::Exit(Birth { pid, .. }) if self.pids.contains(pid) => {
                self.ended_ns = self.ended_ns.max(Some(at_ns));
            }
            _ => {}
        }
    }
}

/// The state of reading.
#[derive(Debug)]
pub(super) struct Reader<S> {
    layout: Layout,
    depth: usize,
    proc: Proc,
    processes: Processes,
    followed: Option<Followed>,
    /// Whether the events themselves follow the tasks, so that whatever comes is wanted.
    is_followed_by_kernel: bool,
    waits: Option<Waits>,
    switches: Option<Switches>,
    statistics: Statistics,
    sink: S,
    newest_ns: u64,
}

impl<S: Sink> Reader<S> {
    pub(super) fn new(
        plan: &Plan,
        abilities: Abilities,
        (proc, processes): (Proc, Processes),
        sink: S,
    ) -> Reader<S> {
        let followed = match &plan.target {
            Target::Pids(pids) => Some(Followed { pids: pids.iter().copied().collect(), ended_ns: None }),
            Target::Node | Target::Cgroup(_) => None,
        };
        Reader {
            layout: abilities.layout,
            depth: usize::from(abilities.depth),
            proc,
            processes,
            followed,
            is_followed_by_kernel: abilities.scope == Scope::Tasks,
            waits: (plan.measure == Measure::Waiting).then(Waits::default),
            switches: abilities.switches,
            statistics: Statistics::default(),
            sink,
            newest_ns: 0,
        }
    }

    pub(super) fn into_parts(self) -> (S, Processes) {
        (self.sink, self.processes)
    }

    pub(super) fn statistics(&self) -> Statistics {
        Statistics {
            processes: self.processes.len(),
            refused: self.processes.refused(),
            short_waits: self.waits.as_ref().map_or(0, Waits::short),
            crowded_waits: self.waits.as_ref().map_or(0, Waits::crowded),
            ..self.statistics
        }
    }

    /// Records that the kernel told us were lost.
    pub(super) fn lost(&self) -> u64 {
        self.statistics.lost
    }

    pub(super) fn begin_round(&mut self) {
        self.proc.refill();
    }

    pub(super) fn end_round(&mut self) {
        self.processes.expire(self.newest_ns);
    }

    /// The end: who is still away has waited until now, and those are the ones that one looks for.
    pub(super) fn finish(&mut self, now_ns: u64) {
        let away = self.waits.as_ref().map(Waits::away).unwrap_or_default();
        for tid in away {
            self.come_back(Meta { tid, time_ns: now_ns, ..Meta::default() });
        }
    }

    /// Whether a session of named processes has none of them left.
    pub(super) fn targets_are_gone(&mut self) -> bool {
        let Some(followed) = &self.followed else { return false };
        !followed.pids.iter().any(|pid| self.proc.is_alive(*pid))
    }

    /// When the last of them ended, by what the kernel told until now.
    pub(super) fn targets_ended_ns(&self) -> Option<u64> {
        self.followed.as_ref()?.ended_ns
    }

    /// Ends processes that are not there any more.
    pub(super) fn end_the_gone(&mut self, now_ns: u64) {
        self.processes.end_unless(now_ns, |pid| Path::new(&format!("/proc/{pid}")).exists());
    }

    /// One record, in its turn.
    pub(super) fn record(&mut self, bytes: &[u8]) {
        let Some((meta, record)) = record::decode(bytes, &self.layout) else {
            self.statistics.malformed += 1;
            return;
        };
        self.newest_ns = self.newest_ns.max(meta.time_ns);
        if let Some(followed) = &mut self.followed {
            followed.tell(meta.time_ns, &record);
        }
        self.processes.apply(&meta, &record);
        match record {
            Record::Sample(sample) => match self.waits {
                Some(_) => self.switched(meta, &sample, bytes),
                None => self.sample(meta, sample, None),
            },
            Record::Switch { is_out: false, .. } => self.come_back(meta),
            Record::Switch { is_preempted, .. } => {
                if let Some(waits) = self.waits.as_mut().filter(|_| is_preempted) {
                    waits.was_preempted(meta.tid);
                }
            }
            Record::Exit(Birth { tid, .. }) => {
                // It has run, if only to end.
                self.come_back(Meta { tid, ..meta });
                if let Some(waits) = &mut self.waits {
                    waits.end(tid);
                }
            }
            Record::Lost { records: lost } | Record::LostSamples { samples: lost } => {
                self.statistics.lost += lost;
                self.waits.iter_mut().for_each(Waits::forget);
            }
            Record::Throttle { is_on } => self.statistics.throttled += u64::from(is_on),
            Record::Comm { pid, is_exec: true, .. } => self.exec(pid),
            Record::Ksymbol { address, bytes, is_gone, name } => {
                let name = (!is_gone).then(|| name.into());
                self.sink.kernel_code(KernelCode { address, bytes, name });
            }
            Record::Comm { .. }
            | Record::Mmap(_)
            | Record::Fork(_)
            | Record::Cgroup { .. }
            | Record::Other(_) => {}
        }
    }

    /// A runtime moves a process into its container before it becomes the container's program. Where samples carry the
    /// cgroup that is seen then; elsewhere now is the time to look.
    fn exec(&mut self, pid: u32) {
        self.statistics.execs += 1;
        if self.proc.is_unified() || !self.proc.may_read() {
            return;
        }
        if let Some(cgroup) = self.proc.cgroup(pid) {
            // Most are where their parent was, and share its value.
            let before = self.processes.get(pid).and_then(|process| process.cgroup.as_deref());
            if before != Some(&cgroup) {
                self.processes.learn_cgroup(None, pid, &Arc::new(cgroup));
            }
        }
    }

    /// A sample of one that leaves, or that is back.
    fn switched(&mut self, meta: Meta, sample: &Sample<'_>, bytes: &[u8]) {
        let thread = (meta.tid, meta.time_ns);
        let Some(waits) = &mut self.waits else { return };
        let traced = match (&self.switches, sample.stint) {
            (Some(Switches::Traced(tracepoints)), _) => tracepoints.read(sample.raw),
            (Some(Switches::Timed), Some(stint)) => return self.timed(meta, stint, bytes),
            // Whether it could have run on is told by the next record.
            _ => return waits.leave(thread, WaitKind::Sleeping, bytes),
        };
        match traced {
            Some(Traced::Left { kind, next_tid }) => {
                // It must have been back since it left the last time, for so short that nobody told.
                self.come_back(meta);
                let Some(waits) = &mut self.waits else { return };
                match kind {
                    // The idle task of a CPU waits for nothing.
                    Some(_) if meta.tid == 0 => {}
                    Some(kind) => waits.leave(thread, kind, bytes),
                    None => waits.end(meta.tid),
                }
                if !self.is_followed_by_kernel {
                    self.come_back(Meta { tid: next_tid, ..meta });
                }
            }
            // The first of these after it came says since when it runs; the scheduler's clock omits time that the host
            // took, which then is part of the wait.
            Some(Traced::Ran) => {
                let time_ns = meta.time_ns.saturating_sub(sample.period);
                self.come_back(Meta { time_ns, ..meta });
            }
            None => self.statistics.malformed += 1,
        }
    }

    /// A thread's own clock says since when it has been running, now that it leaves or after some milliseconds.
    fn timed(&mut self, meta: Meta, stint: Stint, bytes: &[u8]) {
        let Some(waits) = &mut self.waits else { return };
        let Some((ran_ns, is_leaving)) = waits.stint((meta.tid, meta.cpu), stint) else { return };
        self.come_back(Meta { time_ns: meta.time_ns.saturating_sub(ran_ns), ..meta });
        if let Some(waits) = self.waits.as_mut().filter(|_| is_leaving) {
            waits.leave((meta.tid, meta.time_ns), WaitKind::Sleeping, bytes);
        }
    }

    /// A thread runs again: now it is known how long it waited with the stack that it left with.
    fn come_back(&mut self, meta: Meta) {
        // Taken out for the call, so that the record can be read while everything else changes.
        let Some(mut waits) = self.waits.take() else { return };
        if let Some((wait, bytes)) = waits.come_back(meta.tid, meta.time_ns)
            && let Some((left, Record::Sample(sample))) = record::decode(bytes, &self.layout)
        {
            self.sample(left, sample, Some(wait));
        }
        self.waits = Some(waits);
    }

    fn sample(&mut self, meta: Meta, sample: Sample<'_>, wait: Option<Wait>) {
        let is_wanted = self.followed.as_ref().is_none_or(|followed| followed.pids.contains(&meta.pid));
        if !is_wanted && !self.is_followed_by_kernel {
            self.statistics.passed_over += 1;
            return;
        }
        // 0 is nobody here but somebody elsewhere: idle time is not sampled. The other is one that is just ending.
        let has_number = meta.pid != 0 && meta.pid != u32::MAX;
        self.statistics.hidden += u64::from(meta.pid == 0);
        if has_number && self.processes.get(meta.pid).is_none() && self.proc.may_read() {
            self.proc.adopt(meta.pid, &mut self.processes);
        }
        self.learn_cgroup(meta, sample.cgroup);
        let process = self.processes.get(meta.pid).filter(|_| has_number);
        self.statistics.unattributed += u64::from(process.is_none());
        let is_truncated = sample.kernel.len() + sample.user.len() >= self.depth;
        self.statistics.truncated += u64::from(is_truncated);
        self.statistics.samples += 1;
        wait.into_iter().for_each(|wait| self.statistics.waited.add(wait.kind, wait.length_ns));
        let cgroup = cgroup_of(&self.proc, &self.processes, sample.cgroup);
        let cgroup = cgroup.or_else(|| process.and_then(|process| process.cgroup.as_ref()));
        self.sink.sample(&Seen { meta, sample, process, cgroup, is_truncated, wait });
    }

    /// A number that no record has told us of: the process in it knows the path.
    fn learn_cgroup(&mut self, meta: Meta, id: u64) {
        let is_unknown = id != 0 && self.proc.is_unified() && self.processes.cgroups().get(id).is_none();
        if is_unknown
            && self.proc.may_read()
            && let Some(cgroup) = self.proc.cgroup(meta.pid)
        {
            self.processes.learn_cgroup(Some(id), meta.pid, &Arc::new(cgroup));
        }
    }
}

/// Where there is one hierarchy, the number says it at the time of the sample.
fn cgroup_of<'p>(proc: &Proc, processes: &'p Processes, id: u64) -> Option<&'p Arc<Cgroup>> {
    processes.cgroups().get(id).filter(|_| proc.is_unified())
}
