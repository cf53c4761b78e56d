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
    pub(super) is_hung_up: bool,
}

/// The events of one watched task, or of all.
#[derive(Debug)]
pub(super) struct Set {
    /// Tells of processes.
    pub(super) side: OwnedFd,
    /// Samples.
    pub(super) samplers: Vec<OwnedFd>,
}

impl Lane {
    /// The first set, whose side-band event owns the ring.
    pub(super) fn new(cpu: u32, set: Set, mapping: Mapping) -> Result<Lane, Refusal> {
        let (ring, owner) = (Ring::new(mapping), set.side);
        let (sides, samplers) = (Vec::new(), Vec::new());
        let mut lane = Lane { cpu, ring, owner, sides, samplers, is_hung_up: false };
        lane.sample(set.samplers)?;
        Ok(lane)
    }

    /// One more.
    pub(super) fn add(&mut self, set: Set) -> Result<(), Refusal> {
        sys::redirect(&set.side, &self.owner).map_err(other)?;
        self.sides.push(set.side);
        self.sample(set.samplers)
    }

    fn sample(&mut self, samplers: Vec<OwnedFd>) -> Result<(), Refusal> {
        for sampler in samplers {
            sys::redirect(&sampler, &self.owner).map_err(other)?;
            self.samplers.push(sampler);
        }
        Ok(())
    }

    /// Lets come what tells of processes, and samples if they are wanted already.
    pub(super) fn enable(&self, is_sampling: bool) -> Result<(), Refusal> {
        let samplers = self.samplers.iter().filter(|_| is_sampling);
        let mut events = [&self.owner].into_iter().chain(&self.sides).chain(samplers);
        events.try_for_each(|event| sys::enable(event).map_err(other))
    }

    /// An event that cannot be stopped is stopped by closing it, soon.
    pub(super) fn disable(&self) {
        self.events().for_each(|event| drop(sys::disable(event)));
    }

    /// What its events lost, where the kernel counts that.
    pub(super) fn lost(&self) -> u64 {
        self.events().filter_map(sys::read_words).map(|[_count, _id, lost]| lost).sum()
    }

    /// All of them; samples first.
    pub(super) fn events(&self) -> impl Iterator<Item = &OwnedFd> {
        self.samplers.iter().chain(&self.sides).chain([&self.owner])
    }
}
