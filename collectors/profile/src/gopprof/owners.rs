//! Whose a sample is, read from the labels that we write ourselves.
//!
//! Refuses other labels: their text is data of the target. A sample with neither `pid` nor `process` has no owner.

use std::collections::HashMap;

use model::profile::Owner;

use super::wire::{RawLabel, Sections};

/// Bytes of one text: a container id has 64, a pod's name 253 at most.
const TEXT_BYTES_MAX: usize = 256;

/// The owners seen so far; those beyond the bound are not told apart.
#[derive(Debug)]
pub(super) struct Owners {
    max: usize,
    list: Vec<Owner>,
    places: HashMap<Owner, u32>,
}

impl Owners {
    pub(super) fn new(max: usize) -> Owners {
        Owners { max, list: Vec::new(), places: HashMap::new() }
    }

    /// The place of a sample's owner; `u32::MAX` where it has none.
    pub(super) fn of(&mut self, labels: &[RawLabel], sections: &Sections<'_>) -> u32 {
        let owner = owner(labels, sections);
        if owner.pid == 0 && owner.process.is_empty() {
            return u32::MAX;
        }
        if let Some(place) = self.places.get(&owner) {
            return *place;
        }
        let Some(place) = u32::try_from(self.list.len()).ok().filter(|_| self.list.len() < self.max) else {
            return u32::MAX;
        };
        self.list.push(owner.clone());
        self.places.insert(owner, place);
        place
    }

    pub(super) fn into_list(self) -> Vec<Owner> {
        self.list
    }
}

fn owner(labels: &[RawLabel], sections: &Sections<'_>) -> Owner {
    let mut owner = Owner::default();
    for label in labels {
        let key = usize::try_from(label.key).ok().and_then(|at| sections.strings.get(at)).copied();
        let text = || super::cut(&sections.text(label.text), TEXT_BYTES_MAX).to_owned();
        match key.unwrap_or_default() {
            b"pid" => owner.pid = u32::try_from(label.number).unwrap_or(0),
            b"cpu" => owner.cpu = u32::try_from(label.number).ok().filter(|_| label.text == 0),
            b"process" => owner.process = text(),
            b"thread" => owner.thread = text(),
            b"container_id" => owner.container = text(),
            b"pod" => owner.pod = text(),
            b"namespace" => owner.namespace = text(),
            _ => {}
        }
    }
    owner
}
