//! When this agent's puts were due, shared by its probers: a put through one member is awaited at all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::time::Stamp;

/// Puts remembered: three members at the fastest rate for a second, and more than a minute at the shipped one.
const PUTS_MAX: usize = 64;

/// The due times of the puts of one agent. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct PutClock {
    puts: Arc<Mutex<Puts>>,
}

#[derive(Debug, Default)]
struct Puts {
    last: u64,
    known: BTreeMap<u64, Put>,
}

/// One put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Put {
    /// Ascending within one agent.
    pub(super) number: u64,
    /// When it was due.
    pub(super) due: Stamp,
    /// A member has answered it: from then on every watcher owes its event.
    pub(super) written: bool,
}

impl PutClock {
    /// Enters a put before it is sent; returns its number and the value to write, which carries the due time.
    pub(super) fn enter(&self, due: Stamp) -> (u64, String) {
        let mut puts = self.lock();
        puts.last += 1;
        let number = puts.last;
        puts.known.insert(number, Put { number, due, written: false });
        while puts.known.len() > PUTS_MAX {
            puts.known.pop_first();
        }
        (number, format!("{} {number}", due.wall_ns))
    }

    /// A member has answered the put.
    pub(super) fn written(&self, number: u64) {
        if let Some(put) = self.lock().known.get_mut(&number) {
            put.written = true;
        }
    }

    /// The put that wrote this value; `None` for values of others and of the agent's earlier lives.
    pub(super) fn find(&self, value: &[u8]) -> Option<Put> {
        let text = std::str::from_utf8(value).ok()?;
        let (wall_ns, number) = text.split_once(' ')?;
        let put = self.lock().known.get(&number.parse::<u64>().ok()?).copied()?;
        (put.due.wall_ns == wall_ns.parse::<u64>().ok()?).then_some(put)
    }

    /// The number of the latest put.
    pub(super) fn last(&self) -> u64 {
        self.lock().last
    }

    /// Puts that are newer than `after` and were due before `limit_mono_ns`, oldest first.
    pub(super) fn due_before(&self, after: u64, limit_mono_ns: u64) -> Vec<Put> {
        let puts = self.lock();
        let newer = puts.known.range(after.saturating_add(1)..).map(|(_, put)| *put);
        newer.filter(|put| put.due.mono_ns < limit_mono_ns).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Puts> {
        // A panic between two of these statements leaves the map whole.
        self.puts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_values_are_found() {
        let puts = PutClock::default();
        let due = Stamp { mono_ns: 5, wall_ns: 1_700_000_000_000_000_000 };
        let (number, value) = puts.enter(due);
        assert_eq!(puts.find(value.as_bytes()), Some(Put { number, due, written: false }));
        for foreign in
            ["", " ", "1700000000000000000 2", "1700000000000000001 1", "x 1", "1 x", "1700000000000000000"]
        {
            assert_eq!(puts.find(foreign.as_bytes()), None, "{foreign}");
        }
        assert_eq!(puts.find(&[0xff, b' ', b'1']), None);
    }

    #[test]
    fn puts_are_found_by_age_and_number() {
        let puts = PutClock::default();
        let (first, _) = puts.enter(Stamp { mono_ns: 10, wall_ns: 10 });
        let (second, _) = puts.enter(Stamp { mono_ns: 20, wall_ns: 20 });
        puts.written(second);
        let due = |after, limit| {
            puts.due_before(after, limit).iter().map(|put| (put.number, put.written)).collect::<Vec<_>>()
        };
        assert_eq!(due(0, 100), vec![(first, false), (second, true)]);
        assert_eq!(due(first, 100), vec![(second, true)]);
        assert_eq!(due(0, 20), vec![(first, false)]);
        puts.written(99);
        assert_eq!(due(second, u64::MAX), vec![]);
    }

    #[test]
    fn old_puts_are_forgotten() {
        let puts = PutClock::default();
        let (_, value) = puts.enter(Stamp::default());
        for mono_ns in 0..1_000 {
            puts.enter(Stamp { mono_ns, wall_ns: 1 });
        }
        assert_eq!(puts.find(value.as_bytes()), None);
        assert_eq!(puts.lock().known.len(), PUTS_MAX);
    }
}
