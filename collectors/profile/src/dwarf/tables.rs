//! The tables of all modules that are in use, and the rules that were read from them.
//!
//! Owns the bounds: tables, bytes, rules, and how much work a module may ask for. Work is paid from an allowance that grows
//! with each walk, so that no module, however it was made, takes more time than its share of the samples.

use std::sync::Arc;

use foldhash::HashMap;

use super::image::Image;
use super::rule::Rule;
use super::table::{Evaluator, Table};
use crate::binaries::{Binaries, Missing};
use crate::perf::modules::{Kind, Module};

/// Modules whose tables are open, or that are known to have none: a busy node runs code of about a hundred. Each open one
/// holds a descriptor.
const TABLES_MAX: usize = 128;
/// Bytes of windows and indexes of all of them. One table takes up to 256 KiB while it is new, the usual library 80.
const BYTES_MAX: usize = 6 << 20;
/// A module that could not be opened is tried again after so many walks: through another process perhaps.
const RETRY_AFTER: u64 = 4096;
/// Opening takes as long as a hundred walks.
const OPENINGS_MAX: u64 = 256;
/// How many walks pay for an opening, once the first ones are used up.
const WALKS_PER_OPENING: u64 = 16;
/// What looking up may cost a module at once, in the units of a look-up: about a thousand of them, 10 ms.
const ALLOWANCE_MAX: u64 = 8 << 20;
/// What is added to that with each walk: two look-ups, 20 µs.
const ALLOWANCE_PER_WALK: u64 = 16 << 10;
/// Rules kept. A program has a few thousand places at which it is sampled or called through; 0.4 MiB in all.
const RULES_MAX: usize = 8192;
/// Places for one rule: a new one takes the older of them.
const WAYS: usize = 2;

/// What looking after tables has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Tables opened.
    pub opened: u64,
    /// Modules without a table: no file, no section, another processor.
    pub without: u64,
    /// Modules whose file could not be had, or is not what was mapped any more.
    pub refused: u64,
    /// Tables given up for others.
    pub evicted: u64,
    /// Rules read from a table.
    pub read: u64,
    /// Rules that were not read, because their module or all of them had used up what they may.
    pub starved: u64,
    /// Tables open now.
    pub tables: usize,
    /// Bytes of tables and rules now.
    pub bytes: usize,
}

#[derive(Debug)]
enum State {
    Open(Box<Table<Image>>),
    /// It has none.
    Without,
    /// Not to be had, at this walk.
    Refused(u64),
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// The latest walk that asked.
    used: u64,
    allowance: u64,
    bytes: usize,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// 0 for a place that is free.
    module: u32,
    used: u32,
    offset: u64,
    rule: Rule,
}

/// All tables.
#[derive(Debug)]
pub(super) struct Tables {
    binaries: Binaries,
    slots: HashMap<u32, Slot>,
    rules: Vec<Known>,
    evaluator: Evaluator,
    walks: u64,
    openings: u64,
    bytes: usize,
    work: Work,
}

impl Tables {
    pub(super) fn new(binaries: Binaries) -> Tables {
        Tables {
            binaries,
            slots: HashMap::default(),
            rules: vec![Known::default(); RULES_MAX],
            evaluator: Evaluator::default(),
            walks: 0,
            openings: OPENINGS_MAX,
            bytes: 0,
            work: Work::default(),
        }
    }

    /// Another walk: everybody may do a little more.
    pub(super) fn begin_walk(&mut self) {
        self.walks += 1;
        if self.walks.is_multiple_of(WALKS_PER_OPENING) {
            self.openings = (self.openings + 1).min(OPENINGS_MAX);
        }
    }

    pub(super) fn work(&self) -> Work {
        let open = self.slots.values().filter(|slot| matches!(slot.state, State::Open(_)));
        Work {
            tables: open.count(),
            bytes: self.bytes + self.rules.capacity() * size_of::<Known>(),
            ..self.work
        }
    }

    /// The rule for the instruction at an offset of a module's file, which that process maps.
    pub(super) fn rule(&mut self, pid: u32, module: &Arc<Module>, offset: u64) -> &Rule {
        const UNKNOWN: &Rule = &Rule::Unknown;
        if module.kind == Kind::Anonymous {
            return UNKNOWN;
        }
        let set = set_of(module.id, offset);
        let now = u32::try_from(self.walks & u64::from(u32::MAX)).unwrap_or(0);
        let ways = self.rules.get(set..set + WAYS).unwrap_or_default();
        let known = ways.iter().position(|known| known.module == module.id && known.offset == offset);
        let way = match known {
            Some(way) => way,
            None => {
                let Some(rule) = self.read(pid, module, offset) else { return UNKNOWN };
                let ways = self.rules.get(set..set + WAYS).unwrap_or_default();
                let age =
                    |known: &Known| if known.module == 0 { u32::MAX } else { now.wrapping_sub(known.used) };
                let oldest = ways.iter().enumerate().max_by_key(|(_, known)| age(known));
                let way = oldest.map_or(0, |(way, _)| way);
                if let Some(place) = self.rules.get_mut(set + way) {
                    *place = Known { module: module.id, used: now, offset, rule };
                }
                way
            }
        };
        let Some(known) = self.rules.get_mut(set + way) else { return UNKNOWN };
        known.used = now;
        &known.rule
    }

    /// `None` when nothing can be said now, but perhaps later.
    fn read(&mut self, pid: u32, module: &Arc<Module>, offset: u64) -> Option<Rule> {
        let walks = self.walks;
        if !self.is_there(pid, module) {
            self.work.starved += 1;
            return None;
        }
        let slot = self.slots.get_mut(&module.id)?;
        let grown = (walks - slot.used).saturating_mul(ALLOWANCE_PER_WALK);
        slot.allowance = slot.allowance.saturating_add(grown).min(ALLOWANCE_MAX);
        slot.used = walks;
        let table = match &mut slot.state {
            State::Open(table) => table,
            State::Without => return Some(Rule::Unknown),
            State::Refused(_) => return None,
        };
        if slot.allowance == 0 {
            self.work.starved += 1;
            return None;
        }
        let (rule, cost) = table.rule(offset, &mut self.evaluator);
        slot.allowance = slot.allowance.saturating_sub(cost.0);
        let bytes = table.bytes();
        self.bytes = (self.bytes + bytes).saturating_sub(slot.bytes);
        slot.bytes = bytes;
        self.work.read += 1;
        self.make_room(module.id);
        Some(rule)
    }

    /// Opens a module's table unless that was done already; false when it must wait.
    fn is_there(&mut self, pid: u32, module: &Module) -> bool {
        let known = self.slots.get(&module.id).map(|slot| &slot.state);
        let is_due =
            known.is_none_or(|state| matches!(state, State::Refused(at) if self.walks - at >= RETRY_AFTER));
        if !is_due {
            return true;
        }
        if self.openings == 0 {
            return false;
        }
        self.openings -= 1;
        let state = self.opened(pid, module);
        let bytes = if let State::Open(table) = &state { table.bytes() } else { 0 };
        let slot = Slot { state, used: self.walks, allowance: ALLOWANCE_MAX, bytes };
        let before = self.slots.insert(module.id, slot).map_or(0, |slot| slot.bytes);
        self.bytes = (self.bytes + bytes).saturating_sub(before);
        self.make_room(module.id);
        true
    }

    fn opened(&mut self, pid: u32, module: &Module) -> State {
        let table = match Image::open(&self.binaries, pid, module) {
            Ok(image) => Table::open(image),
            Err(Missing::Memory | Missing::Unreadable) => {
                self.work.without += 1;
                return State::Without;
            }
            Err(Missing::Gone | Missing::Denied | Missing::Replaced) => {
                self.work.refused += 1;
                return State::Refused(self.walks);
            }
        };
        match table {
            Ok(table) if !table.is_empty() => {
                self.work.opened += 1;
                State::Open(Box::new(table))
            }
            Ok(_) | Err(_) => {
                self.work.without += 1;
                State::Without
            }
        }
    }

    /// Gives up those that were asked for longest ago, but not the one in hand.
    fn make_room(&mut self, in_hand: u32) {
        while self.slots.len() > TABLES_MAX || self.bytes > BYTES_MAX {
            let others = self.slots.iter().filter(|(id, _)| **id != in_hand);
            // Those without bytes are no help against bytes, and cost an opening to learn again.
            let is_small = self.slots.len() <= TABLES_MAX;
            let candidates = others.filter(|(_, slot)| !is_small || slot.bytes > 0);
            let Some(oldest) = candidates.min_by_key(|(_, slot)| slot.used).map(|(id, _)| *id) else {
                return;
            };
            if let Some(slot) = self.slots.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(slot.bytes);
                self.work.evicted += u64::from(matches!(slot.state, State::Open(_)));
            }
        }
    }
}

/// Where the places for a rule begin.
fn set_of(module: u32, offset: u64) -> usize {
    // Fibonacci's multiplier spreads neighbours.
    let key = offset ^ (u64::from(module) << 40);
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let sets = RULES_MAX / WAYS;
    usize::try_from(mixed).unwrap_or(0) % sets * WAYS
}
