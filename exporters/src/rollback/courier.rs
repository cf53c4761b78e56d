//! The courier: deliveries under way and when the next ones are due. Nothing here needs to survive a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::inbox::WeakInbox;
use model::origin::Origin;
use model::time::{Clock, SECOND_NS};
use sha2::{Digest, Sha256};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time;
use tracing::{Instrument, info_span};

use super::desk::Desk;
use super::{Attempted, Door, Leg, Rollback, Way, command, file};

/// Attempts under way at one receiver: a slow one holds up itself alone, and not with more than this.
const IN_FLIGHT_MAX: usize = 4;

/// Waits after the first, second, … attempt; the last one repeats. A rollback is worth two minutes of haste.
pub(super) const WAITS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];

/// A wait is up to this share of itself (in 1/256) longer, so that three agents do not knock in step.
const JITTER_256: u32 = 51;

/// House-keeping (expiry, closing, telling the engine again) at least this often.
const TICK: Duration = Duration::from_secs(1);

/// Deliveries under way and when the next ones are due: what need not survive a restart.
#[derive(Debug)]
pub(super) struct Courier {
    pub(super) desk: Desk,
    doors: BTreeMap<String, Door>,
    waits: [Duration; 5],
    inbox: WeakInbox,
    pub(super) under_way: JoinSet<Attempted>,
    legs: BTreeMap<Id, Leg>,
    /// Not before this monotonic time.
    not_before: BTreeMap<Leg, u64>,
}

impl Courier {
    pub(super) fn new(rollback: Rollback, inbox: WeakInbox, origin: Arc<Origin>) -> Courier {
        let Rollback { mut desk, doors, waits } = rollback;
        desk.origin = origin;
        let (under_way, legs, not_before) = (JoinSet::new(), BTreeMap::new(), BTreeMap::new());
        Courier { desk, doors, waits, inbox, under_way, legs, not_before }
    }

    pub(super) fn clock_ns(&self) -> u64 {
        self.desk.clock.now().mono_ns
    }

    /// House-keeping, then whatever is due leaves.
    pub(super) async fn turn(&mut self) {
        let busy: BTreeSet<Leg> = self.legs.values().cloned().collect();
        self.desk.keep_house(&busy).await;
        self.desk.tell(&self.inbox).await;
        let due = self.desk.due();
        self.not_before.retain(|leg, _| due.contains(leg));
        let now_ns = self.clock_ns();
        for leg in due {
            let early = self.not_before.get(&leg).is_some_and(|&at_ns| at_ns > now_ns);
            let at_receiver = self.legs.values().filter(|other| other.receiver == leg.receiver).count();
            if !early && !busy.contains(&leg) && at_receiver < IN_FLIGHT_MAX {
                self.launch(leg);
            }
        }
    }

    fn launch(&mut self, leg: Leg) {
        let Some(door) = self.doors.get(&leg.receiver).cloned() else { return };
        let Some((body, valid_until_ns)) = self.desk.parcel(&leg) else { return };
        let (clock, id) = (self.desk.clock.clone(), leg.event.clone());
        let span = info_span!("deliver", signal = %leg.event, receiver = %leg.receiver);
        let attempt = attempt(door, id, (body, valid_until_ns), clock).instrument(span);
        let task = self.under_way.spawn(attempt);
        self.legs.insert(task.id(), leg);
    }

    pub(super) async fn ended(&mut self, ended: Result<(Id, Attempted), JoinError>) {
        let (id, attempted) = ended.unwrap_or_else(|error| {
            // A panic in an attempt is a defect of ours; the effect is not lost for it.
            let saw = format!("attempt ended early: {error}");
            (error.id(), Attempted::Later { saw, reached: true, wait: None })
        });
        let Some(leg) = self.legs.remove(&id) else { return };
        let asked = if let Attempted::Later { wait, .. } = &attempted { *wait } else { None };
        let attempts = self.desk.attempted(&leg, attempted).await;
        let wait = wait_after(&self.waits, &leg, attempts).max(asked.unwrap_or_default());
        self.not_before.insert(leg, self.clock_ns().saturating_add(nanos(wait)));
    }

    /// Time until the next retry, at most a tick.
    pub(super) fn rest(&self) -> Duration {
        let now_ns = self.clock_ns();
        let next = self.not_before.values().filter(|&&at_ns| at_ns > now_ns).min();
        next.map_or(TICK, |at_ns| Duration::from_nanos(at_ns - now_ns).min(TICK))
    }

    /// Whether nothing more can be done before `stop_at` (monotonic ns): all has ended, or waits longer than that.
    pub(super) fn is_done_until(&self, stop_at: u64) -> bool {
        if self.clock_ns() >= stop_at {
            return true;
        }
        let waits_beyond = |leg: &Leg| self.not_before.get(leg).is_some_and(|&at_ns| at_ns >= stop_at);
        self.legs.is_empty() && self.desk.due().iter().all(waits_beyond)
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The wait after the `attempts`th attempt, with a jitter that derives from the leg: no randomness to seed.
fn wait_after(waits: &[Duration; 5], leg: &Leg, attempts: u32) -> Duration {
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX).min(waits.len() - 1);
    let base = waits.get(index).copied().unwrap_or(TICK);
    let seed = Sha256::digest(format!("{}/{}/{attempts}/{}", leg.event, leg.receiver, std::process::id()));
    let share = u32::from(seed.first().copied().unwrap_or_default()) * JITTER_256 / 256;
    base + base * share / 256
}

/// One attempt through one door, never beyond `valid_until`.
async fn attempt(door: Door, id: String, parcel: (String, u64), clock: Clock) -> Attempted {
    let (body, valid_until_ns) = parcel;
    let now_ns = clock.now().wall_ns;
    let Some(left_ns) = valid_until_ns.checked_sub(now_ns).filter(|&left_ns| left_ns > 0) else {
        return Attempted::Later { saw: "too late".to_owned(), reached: false, wait: None };
    };
    let limit = door.timeout.min(Duration::from_nanos(left_ns));
    let send = async {
        match door.way {
            Way::Webhook(webhook) => webhook.attempt(&id, &body, now_ns).await,
            Way::Command(argv) => command::attempt(&argv, limit, &id, &body).await,
            Way::File(path) => {
                let written = tokio::task::spawn_blocking(move || file::attempt(&path, &id, &body)).await;
                written.unwrap_or_else(|error| Attempted::Later {
                    saw: error.to_string(),
                    reached: true,
                    wait: None,
                })
            }
        }
    };
    // A command ends its own group at the limit; the extra second only lets it.
    let ended = time::timeout(limit.saturating_add(Duration::from_nanos(SECOND_NS)), send).await;
    ended.unwrap_or_else(|_| Attempted::Later {
        saw: format!("no answer in {limit:?}"),
        reached: true,
        wait: None,
    })
}
