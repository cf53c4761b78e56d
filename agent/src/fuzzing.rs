//! Doors for tests/fuzz to the parsers that only this crate uses. Exists in no other build.

use std::collections::BTreeMap;
use std::path::Path;

use processors::Engine;

use crate::config;
use crate::recording::{Entry, Reader};

/// Walks one configuration text as `agent validate` does: the number of problems and of values.
#[must_use]
pub fn config(text: &str) -> (usize, usize) {
    let files = [("fuzz.yaml".to_owned(), text.to_owned())];
    let loaded = config::composed(&files, &BTreeMap::new());
    (loaded.problems.len(), loaded.origins.len())
}

/// Reads one recording as `agent replay` does, with the engine it begins with: the number of entries before its end, or
/// before the damage that ends it.
#[must_use]
pub fn recording(path: &Path) -> usize {
    let Ok(mut reader) = Reader::open(path) else { return 0 };
    let mut entries = 0;
    let mut engine: Option<Engine> = None;
    while let Ok(Some(entry)) = reader.next() {
        match (&entry, &mut engine) {
            (Entry::Start { engine: bytes, .. }, None) => engine = postcard::from_bytes(bytes).ok(),
            (Entry::Record(record), Some(engine)) => drop(engine.apply(record)),
            _ => {}
        }
        entries += 1;
    }
    entries
}

/// Reads the body of a mark as the admin socket does.
#[must_use]
pub fn mark(body: &[u8]) -> bool {
    crate::admin::readable_mark(body)
}
