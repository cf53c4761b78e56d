//! One CPU of a session: its ring and the events that write into it.

use std::os::fd::OwnedFd;

use super::super::refusal::Refusal;
use super::super::ring::Ring;
use super::super::sys::{self, Mapping};
use super::other;

/// Everything on one CPU.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) cpu: u32,
    pub(super) ring: Ring<Mapping>,
    pub(super) owner: OwnedFd,
    sides: Vec<OwnedFd>,
    pub(super) samplers: Vec<OwnedFd>,
    clocks: Vec<OwnedFd>,
    pub(super) is_hung_up: bool,
}

/// The events of one watched task, or of all.
#[derive(Debug)]
pub(super) struct Set {
    /// Tells of processes.
    pub(super) side: OwnedFd,
    /// Samples.
    pub(super) samplers: Vec<OwnedFd>,
    /// A member of the sampler's group.
    pub(super) clock: Option<OwnedFd>,
}

impl Lane {
    /// The first set, whose side-band event owns the ring.
    pub(super) fn new(cpu: u32, set: Set, mapping: Mapping) -> Result<Lane, Refusal> {
        let (ring, owner) = (Ring::new(mapping), set.side);
        let (sides, samplers, clocks) = (Vec::new(), Vec::new(), Vec::new());
        let mut lane = Lane { cpu, ring, owner, sides, samplers, clocks, is_hung_up: false };
        lane.sample(set.samplers, set.clock)?;
        Ok(lane)
    }

    /// One more.
    pub(super) fn add(&mut self, set: Set) -> Result<(), Refusal> {
        sys::redirect(&set.side, &self.owner).map_err(other)?;
        self.sides.push(set.side);
        self.sample(set.samplers, set.clock)
    }

    fn sample(&mut self, samplers: Vec<OwnedFd>, clock: Option<OwnedFd>) -> Result<(), Refusal> {
        let mut events = samplers.iter().chain(&clock);
        events.try_for_each(|event| sys::redirect(event, &self.owner).map_err(other))?;
        self.samplers.extend(samplers);
        self.clocks.extend(clock);
        Ok(())
    }

    /// Lets samples come.
    pub(super) fn start(&self) -> Result<(), Refusal> {
        // A clock starts with the event that leads its group, or it would count what nobody saw begin.
        let mut events = self.clocks.iter().chain(&self.samplers);
        events.try_for_each(|event| sys::enable(event).map_err(other))
    }

    /// Lets come what tells of processes, and samples if they are wanted already.
    pub(super) fn enable(&self, is_sampling: bool) -> Result<(), Refusal> {
        let mut events = [&self.owner].into_iter().chain(&self.sides);
        events.try_for_each(|event| sys::enable(event).map_err(other))?;
        if is_sampling { self.start() } else { Ok(()) }
    }

    /// An event that cannot be stopped is stopped by closing it, soon.
    pub(super) fn disable(&self) {
        self.events().for_each(|event| drop(sys::disable(event)));
    }

    /// What its events lost, where the kernel counts that; who leads a group tells of all of it.
    pub(super) fn lost(&self) -> u64 {
        self.samplers.iter().chain(&self.sides).chain([&self.owner]).filter_map(sys::read_lost).sum()
    }

    /// All of them; samples first.
    pub(super) fn events(&self) -> impl Iterator<Item = &OwnedFd> {
        self.samplers.iter().chain(&self.clocks).chain(&self.sides).chain([&self.owner])
    }
}
