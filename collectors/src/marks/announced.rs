//! What people have announced, so that the agent does not tell the same change again under a name of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::time::{SECOND_NS, Stamp};

/// An announced change is carried out within this, also one that replaces many processes one after the other.
const CARRIED_OUT_NS: u64 = 5 * 60 * SECOND_NS;

/// Targets announced within that time; beyond, the oldest is forgotten.
const TARGETS_MAX: usize = 256;

/// When each target was last announced. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    at: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Announced {
    /// Somebody said that this target is changed now.
    pub fn enter(&self, target: &str, at: Stamp) {
        let mut known = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(target.to_owned(), at.mono_ns);
        if known.len() > TARGETS_MAX {
            let oldest = known.iter().min_by_key(|(_, at)| **at).map(|(target, _)| target.clone());
            oldest.and_then(|target| known.remove(&target));
        }
    }

    /// Whether a change that is seen now was announced.
    pub(super) fn explains(&self, target: &str, now: Stamp) -> bool {
        let known = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(target).is_some_and(|at| now.mono_ns.saturating_sub(*at) <= CARRIED_OUT_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ns: u64) -> Stamp {
        Stamp { mono_ns, ..Stamp::default() }
    }

    #[test]
    fn an_announcement_explains_its_target_for_five_minutes() {
        let announced = Announced::default();
        assert!(!announced.explains("orders", at(0)));
        announced.enter("orders", at(100));
        assert!(announced.explains("orders", at(100 + CARRIED_OUT_NS)));
        assert!(!announced.explains("orders", at(101 + CARRIED_OUT_NS)));
        assert!(!announced.explains("payments", at(100)));
    }

    #[test]
    fn the_oldest_announcement_is_forgotten_first() {
        let announced = Announced::default();
        for n in 0..=u64::try_from(TARGETS_MAX).expect("small") {
            announced.enter(&format!("service-{n}"), at(n));
        }
        assert!(!announced.explains("service-0", at(1)) && announced.explains("service-1", at(1)));
    }
}
