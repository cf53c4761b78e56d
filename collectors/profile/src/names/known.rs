//! What is remembered of places in files: the functions that are there.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use model::profile::{FrameKind, Function};

use super::frames::Depth;

/// Places in one generation, of which there are two. A node of twenty busy programs shows some fifty thousand.
const PLACES_MAX: usize = 32_768;
/// Bytes of one generation. A function that many places share counts for the first of them.
const BYTES_MAX: usize = 4 << 20;
/// What a place and each of its frames take beside names: keys, pointers, counts.
const PLACE_BYTES: usize = 64;
const FRAME_BYTES: usize = 24;
const FUNCTION_BYTES: usize = 96;

/// A place in a file, and how it was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) module: u32,
    pub(super) offset: u64,
    pub(super) is_return: bool,
    pub(super) depth: Depth,
}

/// What comes after a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ends {
    /// Its caller.
    #[default]
    Call,
    /// What it interrupted: that instruction is next there.
    Interrupted,
    /// Nothing: what follows is another stack, or no stack.
    Stack,
}

/// One function at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Called {
    pub(super) function: Arc<Function>,
    pub(super) line: i64,
    pub(super) is_inlined: bool,
    /// Made by the compiler: not shown unless what it calls is a panic.
    pub(super) is_wrapper: bool,
    /// Wrappers that call it are shown.
    pub(super) is_panic: bool,
    pub(super) ends: Ends,
    pub(super) kind: FrameKind,
}

/// All functions at a place, innermost first; none where nobody knows any.
pub(super) type Place = Arc<[Called]>;

#[derive(Debug, Default)]
struct Generation {
    places: HashMap<Key, Place>,
    bytes: usize,
}

impl Generation {
    fn put(&mut self, key: Key, place: Place) {
        self.bytes += PLACE_BYTES + place.len() * FRAME_BYTES;
        self.places.insert(key, place);
    }

    fn is_full(&self) -> bool {
        self.places.len() >= PLACES_MAX || self.bytes >= BYTES_MAX
    }
}

/// Two generations: when the young one is full it becomes the old one, and what is asked for again moves over.
#[derive(Debug, Default)]
pub(super) struct Known {
    young: Generation,
    old: Generation,
    functions: HashSet<Arc<Function>>,
}

impl Known {
    pub(super) fn get(&mut self, key: &Key) -> Option<Place> {
        if let Some(place) = self.young.places.get(key) {
            return Some(Arc::clone(place));
        }
        let place = Arc::clone(self.old.places.get(key)?);
        self.keep(*key, &place);
        Some(place)
    }

    /// What was found, as it is kept: functions that are known already are shared.
    pub(super) fn put(&mut self, key: Key, found: Vec<Called>) -> Place {
        let place: Place = found.into_iter().map(|called| self.shared(called)).collect();
        self.keep(key, &place);
        place
    }

    pub(super) fn forget(&mut self) {
        *self = Known::default();
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    fn shared(&mut self, called: Called) -> Called {
        let function = match self.functions.get(&called.function) {
            Some(known) => Arc::clone(known),
            None => {
                self.young.bytes += FUNCTION_BYTES + called.function.name.len() + called.function.file.len();
                self.functions.insert(Arc::clone(&called.function));
                called.function
            }
        };
        Called { function, ..called }
    }

    fn keep(&mut self, key: Key, place: &Place) {
        if self.young.is_full() {
            self.old = std::mem::take(&mut self.young);
            self.functions.retain(|function| Arc::strong_count(function) > 1);
        }
        self.young.put(key, Arc::clone(place));
    }
}
