//! The ledger: every drop, skip, reject and retry is written here with a reason, and read by `/metrics` and the board.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared counters and gauges, keyed by metric name and one reason label. Both are words from the source: never data.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    lines: Arc<Mutex<BTreeMap<(&'static str, &'static str), u64>>>,
}

impl Ledger {
    /// Adds to a counter, e.g. `add("agent_scrape_rejects_total", "bad_value", 3)`.
    pub fn add(&self, metric: &'static str, reason: &'static str, n: u64) {
        if n > 0 {
            let mut lines = self.lock();
            let line = lines.entry((metric, reason)).or_insert(0);
            *line = line.saturating_add(n);
        }
    }

    /// Sets a gauge (a name without `_total`), e.g. `set("agent_otlp_queue_bytes", "", 1024)`.
    pub fn set(&self, metric: &'static str, reason: &'static str, value: u64) {
        self.lock().insert((metric, reason), value);
    }

    /// One line; 0 when it was never written.
    #[must_use]
    pub fn get(&self, metric: &'static str, reason: &'static str) -> u64 {
        self.lock().get(&(metric, reason)).copied().unwrap_or(0)
    }

    /// All lines, sorted.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.lock().iter().map(|((metric, reason), value)| (*metric, *reason, *value)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, &'static str), u64>> {
        // A panic while counting leaves the map whole: integers only.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
