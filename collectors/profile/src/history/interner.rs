//! Values by number, each once.
//!
//! Owns the hash index over dense lists, exact and without a second copy of what is in them. Refuses to forget single
//! values: a dictionary is dropped as a whole.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

/// A slot in which nothing is.
const FREE: u32 = u32::MAX;
/// Slots to begin with.
const SLOTS_MIN: usize = 64;

/// An index over a list that somebody else holds. The hash is keyed, so that names cannot be made to collide.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<u32>,
    used: usize,
    hasher: RandomState,
}

impl Slots {
    pub(super) fn hasher(&self) -> &RandomState {
        &self.hasher
    }

    pub(super) fn hash(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }

    /// The number of an equal one.
    pub(super) fn find(&self, hash: u64, is_equal: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = place(hash, mask);
        // At most two thirds are taken, so there is a free one.
        loop {
            match self.slots.get(at) {
                None | Some(&FREE) => return None,
                Some(id) if is_equal(*id) => return Some(*id),
                Some(_) => at = (at + 1) & mask,
            }
        }
    }

    /// Adds one that was not found. `hash_of` gives the hash of those that are in it, for when it grows.
    pub(super) fn add(&mut self, id: u32, hash: u64, hash_of: impl Fn(&RandomState, u32) -> u64) {
        if (self.used + 1) * 3 > self.slots.len() * 2 {
            let grown = vec![FREE; (self.slots.len() * 2).max(SLOTS_MIN)];
            for old in std::mem::replace(&mut self.slots, grown).into_iter().filter(|old| *old != FREE) {
                self.put(old, hash_of(&self.hasher, old));
            }
        }
        self.put(id, hash);
        self.used += 1;
    }

    fn put(&mut self, id: u32, hash: u64) {
        let mask = self.slots.len().saturating_sub(1);
        let mut at = place(hash, mask);
        while let Some(slot) = self.slots.get_mut(at) {
            if *slot == FREE {
                *slot = id;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.len() * size_of::<u32>()
    }
}

fn place(hash: u64, mask: usize) -> usize {
    usize::try_from(hash & u64::try_from(mask).unwrap_or(u64::MAX)).unwrap_or(0)
}

/// Values of one size.
#[derive(Debug)]
pub(super) struct Interner<K> {
    entries: Vec<K>,
    slots: Slots,
}

impl<K> Default for Interner<K> {
    fn default() -> Interner<K> {
        Interner { entries: Vec::new(), slots: Slots::default() }
    }
}

impl<K: Copy + Eq + Hash> Interner<K> {
    /// The number of this value.
    pub(super) fn id(&mut self, key: K) -> u32 {
        let hash = self.slots.hash(key);
        if let Some(id) = self.slots.find(hash, |id| self.get(id) == Some(key)) {
            return id;
        }
        let id = u32::try_from(self.entries.len()).unwrap_or(FREE);
        self.entries.push(key);
        let entries = &self.entries;
        self.slots.add(id, hash, |hasher, id| {
            usize::try_from(id).ok().and_then(|at| entries.get(at)).map_or(0, |entry| hasher.hash_one(entry))
        });
        id
    }

    pub(super) fn get(&self, id: u32) -> Option<K> {
        self.entries.get(usize::try_from(id).ok()?).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Those with this number and higher ones.
    pub(super) fn since(&self, first: usize) -> &[K] {
        self.entries.get(first..).unwrap_or_default()
    }

    /// Bytes in use; what is allocated is at most twice that.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() * size_of::<K>() + self.slots.bytes()
    }
}

/// Texts, end to end in one piece.
#[derive(Debug, Default)]
pub(super) struct Texts {
    text: String,
    ends: Vec<u32>,
    slots: Slots,
}

impl Texts {
    /// The number of this text.
    pub(super) fn id(&mut self, text: &str) -> u32 {
        let hash = self.slots.hash(text);
        if let Some(id) = self.slots.find(hash, |id| self.get(id) == Some(text)) {
            return id;
        }
        let id = u32::try_from(self.ends.len()).unwrap_or(FREE);
        self.text.push_str(text);
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        let (whole, ends) = (&self.text, &self.ends);
        self.slots.add(id, hash, |hasher, id| piece(whole, ends, id).map_or(0, |text| hasher.hash_one(text)));
        id
    }

    pub(super) fn get(&self, id: u32) -> Option<&str> {
        piece(&self.text, &self.ends, id)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.ends.len() * size_of::<u32>() + self.slots.bytes()
    }
}

/// One of the texts that end where `ends` says.
pub(super) fn piece<'t>(text: &'t str, ends: &[u32], id: u32) -> Option<&'t str> {
    let at = usize::try_from(id).ok()?;
    let end = usize::try_from(*ends.get(at)?).ok()?;
    let begin = match at.checked_sub(1) {
        Some(before) => usize::try_from(*ends.get(before)?).ok()?,
        None => 0,
    };
    text.get(begin..end)
}

#[cfg(test)]
mod tests {
    use super::{Interner, Texts};

    #[test]
    fn each_value_has_one_number_however_many_there_are() {
        let mut numbers = Interner::default();
        for round in 0..2 {
            for value in 0..10_000_u64 {
                assert_eq!(u64::from(numbers.id(value * 7)), value, "round {round}");
            }
        }
        assert_eq!((numbers.len(), numbers.get(9_999), numbers.get(10_000)), (10_000, Some(69_993), None));
        assert_eq!(numbers.since(9_998), [69_986, 69_993]);
    }

    #[test]
    fn texts_are_kept_once_and_the_empty_one_is_a_text() {
        let mut texts = Texts::default();
        let ids: Vec<u32> =
            ["a", "", "runtime.mallocgc", "a", ""].iter().map(|text| texts.id(text)).collect();
        assert_eq!(ids, [0, 1, 2, 0, 1]);
        assert_eq!((texts.get(1), texts.get(2), texts.get(3)), (Some(""), Some("runtime.mallocgc"), None));
        for number in 0..5_000 {
            texts.id(&number.to_string());
        }
        assert_eq!(texts.id("4999"), 5_002);
    }
}
