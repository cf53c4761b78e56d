//! The lines of the last layout, by place and by bytes. Owns one copy of the keys; refuses to know what they mean.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use super::super::exposition::Reject;

/// What a line that was seen before stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    Series(u32),
    Rejected(Reject),
    /// HELP or TYPE as it was.
    Comment,
}

/// A known line: a key of the arena, and what it stands for.
#[derive(Clone, Debug)]
pub(super) struct Item {
    key: Range<usize>,
    pub(super) slot: Slot,
}

/// The raw keys and comments of the last layout in page order, with an index.
#[derive(Debug, Default)]
pub(super) struct Items {
    arena: Vec<u8>,
    pub(super) items: Vec<Item>,
    hasher: RandomState,
    // Hash to place in `items`; a hash that is taken by another key moves on by one.
    places: HashMap<u64, usize>,
}

impl Items {
    pub(super) fn key(&self, item: &Item) -> &[u8] {
        self.arena.get(item.key.clone()).unwrap_or_default()
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<(usize, Slot)> {
        let mut hash = self.hasher.hash_one(key);
        loop {
            let place = *self.places.get(&hash)?;
            let item = self.items.get(place)?;
            if self.key(item) == key {
                return Some((place, item.slot));
            }
            hash = hash.wrapping_add(1);
        }
    }

    /// Adds a key that [`Items::find`] does not know.
    pub(super) fn push(&mut self, key: &[u8], slot: Slot) {
        let start = self.arena.len();
        self.arena.extend_from_slice(key);
        let mut hash = self.hasher.hash_one(key);
        while self.places.contains_key(&hash) {
            hash = hash.wrapping_add(1);
        }
        self.places.insert(hash, self.items.len());
        self.items.push(Item { key: start..self.arena.len(), slot });
    }
}
