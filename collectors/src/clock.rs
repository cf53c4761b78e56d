//! The one place that reads the system's clocks; sends a tick each second.
//!
//! Owns the real [`Clock`] and the engine's heartbeat. Refuses to catch up: a tick that found no room is gone, and the
//! next one says how far the wall clock has moved since the last tick that was sent.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::inbox::{Inbox, NoPlace};
use model::ledger::Ledger;
use model::origin::Origin;
use model::record::{Fact, Record, Tick};
use model::time::{Clock, SECOND_NS, Stamp};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

mod sys;

/// The engine's heartbeat; every window of the processors is a multiple of it.
const TICK: Duration = Duration::from_secs(1);
/// A smaller move of the wall clock is slewing or jitter of the two readings, not a step.
const WALL_STEP_MIN_NS: i128 = SECOND_NS as i128;
/// What a tick takes in the inbox; it holds no heap data.
const TICK_BYTES: usize = 256;

/// The system's clocks: CLOCK_MONOTONIC (so that stamps compare across restarts of the agent within one boot) and the wall clock.
#[must_use]
pub fn system() -> Clock {
    Clock::new(|| Stamp { mono_ns: sys::monotonic_ns(), wall_ns: wall_ns() })
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_ns() -> u64 {
    // Before 1970 the clock is not set; 0 says so better than an error would.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Sends a [`Tick`] each second until cancelled or the engine is gone. A full inbox skips the tick, counted in
/// `agent_ticks_skipped_total{inbox_full}`.
pub async fn run(
    clock: Clock,
    node_origin: Arc<Origin>,
    inbox: Inbox,
    cancel: CancellationToken,
    ledger: Ledger,
) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = clock.now();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            _ = interval.tick() => {}
        }
        match inbox.reserve(TICK_BYTES) {
            Err(NoPlace::Closed) => return,
            Err(NoPlace::Full) => ledger.add("agent_ticks_skipped_total", "inbox_full", 1),
            Ok(place) => {
                let at = clock.now();
                let tick = Tick { wall_step_ns: wall_step_ns(last, at) };
                if tick.wall_step_ns != 0 {
                    tracing::warn!(step_ns = tick.wall_step_ns, "wall clock stepped");
                }
                place.send(Record { at, origin: Arc::clone(&node_origin), fact: Fact::Tick(tick) });
                last = at;
            }
        }
    }
}

/// How far the wall clock moved against the monotonic one between two readings; 0 below a second.
fn wall_step_ns(earlier: Stamp, later: Stamp) -> i64 {
    let wall = i128::from(later.wall_ns) - i128::from(earlier.wall_ns);
    let mono = i128::from(later.mono_ns) - i128::from(earlier.mono_ns);
    let step = wall - mono;
    if step.abs() <= WALL_STEP_MIN_NS {
        return 0;
    }
    i64::try_from(step).unwrap_or(if step < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn at(mono_ms: u64, wall_ms: u64) -> Stamp {
        Stamp { mono_ns: mono_ms * 1_000_000, wall_ns: wall_ms * 1_000_000 }
    }

    #[test]
    fn the_system_clock_moves_forward_on_both_hands() {
        let clock = system();
        let first = clock.now();
        let second = clock.now();
        assert!(second.mono_ns >= first.mono_ns && first.mono_ns > 0);
        assert!(first.wall_ns > 1_500_000_000 * SECOND_NS);
    }

    #[test]
    fn a_step_is_what_the_wall_moved_against_the_monotonic_clock() {
        assert_eq!(wall_step_ns(at(0, 10_000), at(1_000, 11_000)), 0);
        assert_eq!(wall_step_ns(at(0, 10_000), at(1_000, 12_000)), 0, "exactly a second is no step");
        assert_eq!(wall_step_ns(at(0, 10_000), at(1_000, 13_000)), 2_000_000_000);
        assert_eq!(wall_step_ns(at(0, 10_000), at(1_000, 1_000)), -10_000_000_000);
        let far = Stamp { mono_ns: 0, wall_ns: u64::MAX };
        assert_eq!(wall_step_ns(Stamp::default(), far), i64::MAX);
    }

    fn scripted(stamps: Vec<Stamp>) -> Clock {
        let script = Mutex::new(stamps.into_iter());
        Clock::new(move || script.lock().unwrap().next().unwrap_or(at(9_999_000, 9_999_000)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_inbox_skips_ticks_and_the_next_one_tells_the_whole_step() {
        let (inbox, mut rx) = Inbox::new(1, 64);
        let ledger = Ledger::default();
        let cancel = CancellationToken::new();
        let clock = scripted(vec![at(0, 0), at(0, 0), at(3_000, 63_000), at(4_000, 64_000)]);
        let ticking = run(clock, Arc::new(Origin::default()), inbox.clone(), cancel.clone(), ledger.clone());
        let reading = async {
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            assert_eq!(ledger.get("agent_ticks_skipped_total", "inbox_full"), 2);
            let first = rx.recv().await.unwrap();
            assert_eq!(first.record.fact, Fact::Tick(Tick { wall_step_ns: 0 }));
            let second = rx.recv().await.unwrap();
            assert_eq!(second.record.fact, Fact::Tick(Tick { wall_step_ns: 60_000_000_000 }));
            let third = rx.recv().await.unwrap();
            assert_eq!(third.record.fact, Fact::Tick(Tick { wall_step_ns: 0 }), "told once");
            cancel.cancel();
        };
        tokio::join!(ticking, reading);
    }
}
