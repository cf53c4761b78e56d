//! What is remembered of instructions: one look-up in a file for each, however often it is met.

use foldhash::HashMap;

use super::walk::Known;

/// Instructions in one generation, of which there are two: 4 MiB. An hour of a busy etcd has some ten thousand.
const GENERATION_MAX: usize = 32_768;

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) module: u32,
    pub(super) offset: u64,
    /// It is a call that has not returned yet.
    pub(super) is_return: bool,
}

/// Two generations: when the young one is full it becomes the old one, and what is asked for again moves over.
#[derive(Debug, Default)]
pub(super) struct Answers {
    young: HashMap<Key, Known>,
    old: HashMap<Key, Known>,
}

impl Answers {
    pub(super) fn get(&mut self, key: &Key) -> Option<Known> {
        if let Some(known) = self.young.get(key) {
            return Some(*known);
        }
        let known = self.old.get(key).copied()?;
        self.put(*key, known);
        Some(known)
    }

    pub(super) fn put(&mut self, key: Key, known: Known) {
        if self.young.len() >= GENERATION_MAX {
            // The memory of the older one is used again.
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(key, known);
    }

    /// Everything: some file is not what it was.
    pub(super) fn forget(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::gopclntab::Role;

    fn key(offset: u64) -> Key {
        Key { module: 1, offset, is_return: false }
    }

    #[test]
    fn what_is_asked_for_again_is_kept_and_the_rest_is_bounded() {
        let mut answers = Answers::default();
        let known = |delta| Known::Go { delta: Some(delta), role: Role::Plain };
        answers.put(key(0), known(7));
        for offset in 1..200_000 {
            answers.put(key(offset), Known::Code);
            if offset % 1_000 == 0 {
                assert_eq!(answers.get(&key(0)), Some(known(7)), "after {offset}");
            }
            assert!(answers.len() <= 2 * GENERATION_MAX);
        }
        assert_eq!(answers.get(&key(1)), None);
        assert_eq!(answers.get(&Key { is_return: true, ..key(0) }), None);
        answers.forget();
        assert_eq!(answers.get(&key(0)), None);
    }
}
