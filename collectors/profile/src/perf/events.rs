//! The events of one session: which are open on which CPU, and the rings they write into.
//!
//! Owns descriptors and locked memory, and what an older kernel or a smaller privilege leaves of the wish. Refuses to read:
//! rings are handed out.
//!
//! Each CPU has a lane: a side-band event that owns the ring, and a sampling event that writes into it. Tasks that are
//! followed one by one have a set each on every CPU, all of them in that CPU's ring: the kernel shares no ring between
//! CPUs once an event is inherited.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use super::attr::{Abilities, Attr, Hz, Level, Measure, Scope, Shape};
use super::cpus;
use super::refusal::{Asked, Refusal, Situation};
use super::ring::Ring;
use super::sys::{self, Mapping, Watched};
use super::target::Target;
use super::tracepoint::{self, Way};

use self::lane::{Lane, Set};
use self::opening::shape;

pub use self::sizes::Sizes;

mod lane;
mod opening;
mod sizes;

/// Of one CPU: 0.4 s at 999 Hz, and with its first page just what an unprivileged user may lock for each CPU by default.
pub const RING_BYTES: usize = 512 << 10;
/// Over all CPUs. On a machine with more than 64 of them each gets less.
const RINGS_BYTES_MAX: usize = 32 << 20;
/// Below this a ring holds less than one longest record.
const RING_BYTES_MIN: usize = 64 << 10;

/// Who the events are opened for.
#[derive(Debug)]
enum Aim {
    Node,
    Cgroup(File, PathBuf),
    Tasks(Vec<u32>),
}

/// All events of one session.
#[derive(Debug)]
pub struct Events {
    aim: Aim,
    shape: Shape,
    ring_bytes: usize,
    lanes: Vec<Lane>,
    /// Of lanes that are closed.
    lost_before: u64,
    is_sampling: bool,
}

impl Events {
    /// Opens them: side-band on, samples off. What a thread waits for is told by the scheduler's own word.
    pub fn open(target: &Target, measure: (Measure, Hz), sizes: Sizes) -> Result<Events, Refusal> {
        Events::open_by(target, measure, sizes, Way::ByStates)
    }

    /// The same, with waiting seen in the first of the ways that the kernel grants.
    pub fn open_by(
        target: &Target,
        (measure, hz): (Measure, Hz),
        sizes: Sizes,
        way: Way,
    ) -> Result<Events, Refusal> {
        let (cpus, ring_bytes) = (cpus::online(), sizes.ring_bytes);
        let shape = shape(measure, hz, sizes.stack_bytes);
        match measure {
            Measure::Running => Events::open_running(target, shape, ring_bytes, &cpus),
            Measure::Waiting => opening::in_a_way(target, way, |switches| {
                let shape = Shape { switches: Some(switches), ..shape };
                Events::open_waiting(target, shape, ring_bytes, &cpus)
            }),
        }
    }

    fn open_as(aim: Aim, shape: Shape, ring_bytes: usize, cpus: &[u32]) -> Result<Events, Refusal> {
        let share = RINGS_BYTES_MAX / cpus.len().max(1);
        let pages = (ring_bytes.min(share).max(RING_BYTES_MIN) / sys::page_bytes()).max(1);
        // The largest power of two that is not more.
        let ring_bytes = (1 << pages.ilog2()) * sys::page_bytes();
        let lanes = Vec::new();
        let mut events = Events { aim, shape, ring_bytes, lanes, lost_before: 0, is_sampling: false };
        events.size_rings(ring_bytes);
        events.fit_level(cpus.first().copied().unwrap_or(0))?;
        for cpu in cpus {
            match events.open_lane(*cpu) {
                // It went away in this moment.
                Ok(()) | Err(Refusal::Offline { .. }) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        if events.lanes.is_empty() {
            return Err(Refusal::Offline { cpu: 0 });
        }
        Ok(events)
    }

    /// Asks for less until the kernel knows all of it.
    fn fit_level(&mut self, cpu: u32) -> Result<(), Refusal> {
        loop {
            let Err(refusal) = self.first_set(cpu) else { return Ok(()) };
            // A kernel that times tasks knows all the rest.
            let may_be_older = refusal == Refusal::Unknown && !self.shape.is_timed();
            match self.shape.level.older().filter(|_| may_be_older) {
                Some(older) => self.shape.level = older,
                None => return Err(refusal),
            }
        }
    }

    fn first_set(&self, cpu: u32) -> Result<Set, Refusal> {
        let watched = self.watched();
        let mut gone = Refusal::Gone { tid: 0 };
        for watched in watched {
            match self.set(watched, cpu) {
                Err(refusal @ Refusal::Gone { .. }) => gone = refusal,
                done => return done,
            }
        }
        Err(gone)
    }

    /// Whom each set of events watches.
    fn watched(&self) -> Vec<Watched> {
        match &self.aim {
            Aim::Node => vec![Watched::All],
            Aim::Cgroup(directory, _) => vec![Watched::Cgroup(directory.as_raw_fd())],
            Aim::Tasks(tids) => tids.iter().map(|tid| Watched::Task(*tid)).collect(),
        }
    }

    /// A side-band event and those that sample. Of processes one wants to know all, whosever samples are taken.
    fn set(&self, watched: Watched, cpu: u32) -> Result<Set, Refusal> {
        let of = match watched {
            Watched::All | Watched::Cgroup(_) => Watched::All,
            Watched::Task(_) => watched,
        };
        let side = self.event(&Attr::side_band(&self.shape), of, cpu, None)?;
        let sampler = self.event(&Attr::sampling(&self.shape), watched, cpu, None)?;
        let clock = Attr::clock(&self.shape);
        let clock = clock.map(|attr| self.event(&attr, watched, cpu, Some(&sampler))).transpose()?;
        let mut samplers = vec![sampler];
        if let Some(attr) = Attr::returning(&self.shape) {
            let returning = self.event(&attr, watched, cpu, None)?;
            sys::filter(&returning, tracepoint::RETURNED).map_err(other)?;
            samplers.push(returning);
        }
        Ok(Set { side, samplers, clock })
    }

    fn event(
        &self,
        attr: &Attr,
        watched: Watched,
        cpu: u32,
        leader: Option<&OwnedFd>,
    ) -> Result<OwnedFd, Refusal> {
        let asked = match watched {
            Watched::All | Watched::Cgroup(_) => Asked::Node { cpu },
            Watched::Task(tid) => Asked::Task { tid, is_kernel_seen: self.shape.is_kernel_seen },
        };
        let refused = |error: io::Error| match (&self.aim, error.raw_os_error()) {
            (Aim::Cgroup(_, path), Some(libc::EBADF)) => {
                let cause = "not a cgroup of the perf_event hierarchy".to_owned();
                Refusal::Cgroup { path: path.display().to_string(), cause }
            }
            _ => Refusal::of(&error, asked, &Situation::read()),
        };
        match sys::open(attr, watched, cpu, leader).map_err(refused) {
            // The soft limit is often a tenth of what we may have.
            Err(Refusal::Files) if sys::raise(sys::Limit::Files, u64::MAX) => {
                sys::open(attr, watched, cpu, leader).map_err(refused)
            }
            done => done,
        }
    }

    fn open_lane(&mut self, cpu: u32) -> Result<(), Refusal> {
        let mut lane: Option<Lane> = None;
        for watched in self.watched() {
            let set = match self.set(watched, cpu) {
                Ok(set) => set,
                // Threads come and go while they are listed.
                Err(Refusal::Gone { .. }) => continue,
                Err(refusal) => return Err(refusal),
            };
            match &mut lane {
                Some(lane) => lane.add(set)?,
                None => {
                    let mapping = self.map(&set.side)?;
                    lane = Some(Lane::new(cpu, set, mapping)?);
                }
            }
        }
        let Some(lane) = lane else { return Err(Refusal::Gone { tid: 0 }) };
        lane.enable(self.is_sampling)?;
        self.lanes.push(lane);
        Ok(())
    }

    /// Maps a ring. Where locked memory is short the limit is raised, and where that is refused the ring is smaller.
    fn map(&mut self, owner: &OwnedFd) -> Result<Mapping, Refusal> {
        loop {
            let error = match Mapping::new(owner, self.ring_bytes) {
                Ok(mapping) => return Ok(mapping),
                Err(error) => error,
            };
            let is_locked = match error.raw_os_error() {
                Some(libc::EPERM | libc::EAGAIN) => true,
                Some(libc::ENOMEM) => false,
                _ => return Err(other(error)),
            };
            if is_locked && sys::raise(sys::Limit::Locked, u64::try_from(RINGS_BYTES_MAX).unwrap_or(u64::MAX))
            {
                continue;
            }
            let smaller = self.ring_bytes / 2;
            if smaller < RING_BYTES_MIN.max(sys::page_bytes()) {
                let bytes = self.ring_bytes;
                return Err(if is_locked { Refusal::Locked { bytes } } else { Refusal::Memory });
            }
            self.size_rings(smaller);
        }
    }

    fn size_rings(&mut self, bytes: usize) {
        self.ring_bytes = bytes;
        let wakeup_bytes = Sizes::wakeup_bytes(self.shape.stack_bytes, bytes, self.shape.hz);
        self.shape.wakeup_bytes = u32::try_from(wakeup_bytes).unwrap_or(u32::MAX);
    }

    /// Lets the samples come.
    pub fn start(&mut self) -> Result<(), Refusal> {
        self.is_sampling = true;
        self.lanes.iter().try_for_each(Lane::start)
    }

    /// Lets nothing more come. What is in the rings stays there.
    pub fn stop(&mut self) {
        self.is_sampling = false;
        self.lanes.iter().for_each(Lane::disable);
    }

    /// Another rate, from the next sample on. On followed tasks it cannot be changed: the kernel would change it for the
    /// first thread alone.
    pub fn set_rate(&mut self, hz: Hz) -> Result<(), Refusal> {
        if self.is_rate_fixed() {
            return Err(Refusal::FixedRate);
        }
        self.shape.hz = hz;
        let mut samplers = self.lanes.iter().flat_map(|lane| &lane.samplers);
        samplers.try_for_each(|event| sys::set_period(event, hz.period_ns()).map_err(other))
    }

    fn is_rate_fixed(&self) -> bool {
        self.shape.scope == Scope::Tasks || self.shape.measure == Measure::Waiting
    }

    /// Opens lanes for CPUs that came and closes those of CPUs that went. Drain the rings first.
    pub fn follow(&mut self, online: &[u32]) -> Result<(), Refusal> {
        let (kept, gone): (Vec<Lane>, Vec<Lane>) =
            std::mem::take(&mut self.lanes).into_iter().partition(|lane| online.contains(&lane.cpu));
        self.lanes = kept;
        self.lost_before += gone.iter().map(Lane::lost).sum::<u64>();
        let is_new = |cpu: &&u32| !self.lanes.iter().any(|lane| lane.cpu == **cpu);
        let new: Vec<u32> = online.iter().filter(is_new).copied().collect();
        new.into_iter().try_for_each(|cpu| self.open_lane(cpu))
    }

    /// The rings, to be read.
    pub(super) fn rings(&mut self) -> impl Iterator<Item = &mut Ring<Mapping>> {
        self.lanes.iter_mut().map(|lane| &mut lane.ring)
    }

    /// Waits for a ring that fills up, for the bell, or for the time to be over.
    pub(super) fn wait(&mut self, bell: &OwnedFd, timeout_ms: u32) {
        let waiting = self.lanes.iter_mut().filter(|lane| !lane.is_hung_up);
        let mut waiting: Vec<&mut Lane> = waiting.collect();
        let rings = waiting.iter().map(|lane| &lane.owner);
        let mut polled: Vec<libc::pollfd> = rings.chain([bell]).map(sys::interest).collect();
        sys::poll(&mut polled, timeout_ms);
        sys::silence(bell);
        for (lane, polled) in waiting.iter_mut().zip(&polled) {
            // Its first task has ended: it would wake us for ever. Others may write on, and the timeout sees them.
            lane.is_hung_up = sys::is_hung_up(polled);
        }
    }

    /// Records that found no room, where the kernel counts them.
    #[must_use]
    pub fn lost(&self) -> Option<u64> {
        (self.shape.level >= Level::Lost)
            .then(|| self.lost_before + self.lanes.iter().map(Lane::lost).sum::<u64>())
    }

    /// How often a ring made no sense.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.ring.torn()).sum()
    }

    /// What became of the wish.
    #[must_use]
    pub fn abilities(&self) -> Abilities {
        Abilities {
            scope: self.shape.scope,
            is_rate_fixed: self.is_rate_fixed(),
            is_kernel_seen: self.shape.is_kernel_seen,
            level: self.shape.level,
            ring_bytes: self.ring_bytes,
            depth: self.shape.depth,
            stack_bytes: self.shape.stack_bytes,
            layout: self.shape.layout(),
            switches: self.shape.switches,
        }
    }

    /// The rate now.
    #[must_use]
    pub fn hz(&self) -> Hz {
        self.shape.hz
    }

    /// Descriptors held.
    #[must_use]
    pub fn files(&self) -> usize {
        self.lanes.iter().map(|lane| lane.events().count()).sum()
    }

    /// Bytes locked.
    #[must_use]
    pub fn locked_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.ring.bytes() + sys::page_bytes()).sum()
    }

    /// Whether these are the CPUs that are watched.
    #[must_use]
    pub fn is_on(&self, online: &[u32]) -> bool {
        online.len() == self.lanes.len() && self.lanes.iter().all(|lane| online.contains(&lane.cpu))
    }

    /// CPUs watched.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.lanes.len()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn other(error: io::Error) -> Refusal {
    Refusal::Other(error.to_string())
}
