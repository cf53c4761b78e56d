//! What calls what in two profiles, and what it costs on either side.
//!
//! Owns the edges by name; only what is about to be explained needs them.

use std::collections::{BTreeMap, BTreeSet};

use model::profile::FunctionCounts;

use super::pair::{Pair, Shift};

/// Edges of both sides.
#[derive(Debug)]
pub(super) struct Calls<'p, 'a> {
    pub(super) pair: &'p Pair<'a>,
    /// By caller, then callee.
    callees: BTreeMap<&'a str, BTreeMap<&'a str, (u64, u64)>>,
    callers: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'p, 'a> Calls<'p, 'a> {
    /// Of both profiles.
    pub(super) fn of(pair: &'p Pair<'a>) -> Calls<'p, 'a> {
        let mut calls = Calls { pair, callees: BTreeMap::new(), callers: BTreeMap::new() };
        calls.read(pair.before, |(then, _)| then);
        calls.read(pair.after, |(_, now)| now);
        calls
    }

    fn read(&mut self, counts: &'a FunctionCounts, side: impl Fn(&mut (u64, u64)) -> &mut u64) {
        let name = |at: u32| Some(counts.functions.get(usize::try_from(at).ok()?)?.name.as_str());
        for (caller, callee, weight) in &counts.edges {
            // A function that calls itself neither gives work away nor takes any.
            if let (Some(caller), Some(callee)) = (name(*caller), name(*callee))
                && caller != callee
            {
                *side(self.callees.entry(caller).or_default().entry(callee).or_default()) = *weight;
                self.callers.entry(callee).or_default().insert(caller);
            }
        }
    }

    /// What a caller spends in each callee.
    pub(super) fn callees(&self, caller: &str) -> impl Iterator<Item = (&'a str, Shift)> {
        let callees = self.callees.get(caller).into_iter().flatten();
        callees.map(|(callee, (then, now))| (*callee, self.pair.shift(*then, *now)))
    }

    /// What a caller spends in one callee, in units in which a typical function did not change.
    pub(super) fn edge(&self, caller: &str, callee: &str) -> Shift {
        self.pair.scaled(self.seen(caller, callee))
    }

    /// What a caller spends in one callee, as it was seen.
    pub(super) fn seen(&self, caller: &str, callee: &str) -> Shift {
        let edge = self.callees.get(caller).and_then(|callees| callees.get(callee));
        edge.map(|(then, now)| self.pair.of_whole(*then, *now)).unwrap_or_default()
    }

    /// Who calls it, on either side.
    pub(super) fn callers(&self, callee: &str) -> impl Iterator<Item = &'a str> {
        self.callers.get(callee).into_iter().flatten().copied()
    }
}
