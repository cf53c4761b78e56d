//! One long run of the agent: its cost over the first part, and maintenance spread over the whole.

use std::collections::VecDeque;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::daemon::Daemon;

use crate::cost::{Cost, Opening};
use crate::maintenance::{self, Work};
use crate::plan::Plan;
use crate::quiet::{self, Quiet, Seen};
use crate::stage::Stage;
use crate::usage::Usage;

/// How late a piece of work may be.
const STEP: Duration = Duration::from_millis(200);

/// The board keeps the last hundred findings; a quiet run has a handful in so long, and asking costs the agent little.
const LOOK: Duration = Duration::from_secs(20);

/// A line of progress.
const MINUTE: Duration = Duration::from_secs(60);

/// The harmless rollout is marked after this share of the run, so that the change window is open and the first piece of
/// work falls into the five minutes in which a rollout explains trouble.
const ROLLOUT: f64 = 1.0 / 30.0;

/// Runs the agent once for everything that needs one long run.
pub(crate) fn run(stage: &Stage, plan: &Plan) -> Result<(Option<Cost>, Option<Quiet>)> {
    let daemon = stage.seat.start(&[])?;
    let opening = Opening::take(stage, &daemon)?;
    stage.say("the agent is ready");
    let begun = Instant::now();
    let mut soak = Soak { stage, daemon, opening, cost: None, seen: Seen::default(), begun };
    let mut work: VecDeque<(Duration, Work)> =
        if plan.quiet { spread(plan.length).into() } else { VecDeque::new() };
    let mut rollout = plan.quiet.then(|| plan.length.mul_f64(ROLLOUT));
    let (mut look, mut minute) = (LOOK, MINUTE);
    while begun.elapsed() < plan.soak() {
        if rollout.is_some_and(|due| begun.elapsed() >= due) {
            rollout = None;
            soak.roll_out()?;
        }
        if let Some((due, next)) = work.front().copied().filter(|(due, _)| begun.elapsed() >= *due) {
            work.pop_front();
            soak.perform(next).with_context(|| format!("{next:?}, due after {due:?}"))?;
        }
        if plan.cost && soak.cost.is_none() && begun.elapsed() >= plan.cost_window() {
            soak.close_window()?;
        }
        if begun.elapsed() >= look {
            look += LOOK;
            soak.seen.look(&soak.daemon)?;
        }
        if begun.elapsed() >= minute {
            minute += MINUTE;
            soak.tell()?;
        }
        sleep(STEP);
    }
    soak.end(plan)
}

/// When each piece of work is due: as far from each other as from both ends.
fn spread(length: Duration) -> Vec<(Duration, Work)> {
    let gaps = maintenance::ALL.len() + 1;
    let due = |(place, work): (usize, Work)| (length.mul_f64((place + 1) as f64 / gaps as f64), work);
    maintenance::ALL.into_iter().enumerate().map(due).collect()
}

struct Soak<'a> {
    stage: &'a Stage,
    daemon: Daemon,
    opening: Opening,
    cost: Option<Cost>,
    seen: Seen,
    begun: Instant,
}

impl Soak<'_> {
    fn roll_out(&mut self) -> Result<()> {
        self.stage.workload.roll_out("v1b");
        self.stage.seat.mark(&["--target", "orders", "--revision", "v1b"])?;
        self.seen.rolled_out();
        self.stage.say("rollout of orders v1 -> v1b, which changes nothing");
        Ok(())
    }

    fn perform(&mut self, work: Work) -> Result<()> {
        let event = quiet::Event::of(|| work.perform(&self.stage.cluster, &self.stage.dir))?;
        self.stage.say(&event.what);
        self.seen.events.push(event);
        Ok(())
    }

    fn close_window(&mut self) -> Result<()> {
        let cost = self.opening.close(self.stage, &self.daemon)?;
        let (cpu, peak) = (cost.cpu_percent_of_one_core, cost.rss_peak_mib);
        self.stage.say(&format!("cost taken: {cpu:.2} % of one core, peak {peak:.1} MiB"));
        self.cost = Some(cost);
        Ok(())
    }

    fn tell(&mut self) -> Result<()> {
        let usage = Usage::of(self.daemon.agent.pid())?;
        let cpu = self.opening.look(&usage);
        let (rss, found) = (usage.rss_mib, self.seen.told());
        let failed = self.stage.workload.failed();
        self.stage.say(&format!(
            "agent {cpu:.2} % CPU, {rss:.1} MiB; {found}; {failed} requests of the workload failed"
        ));
        Ok(())
    }

    fn end(mut self, plan: &Plan) -> Result<(Option<Cost>, Option<Quiet>)> {
        if plan.cost && self.cost.is_none() {
            self.close_window()?;
        }
        self.seen.look(&self.daemon)?;
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        let quiet = plan.quiet.then(|| self.seen.conclude(self.stage, &self.daemon, minutes)).transpose()?;
        self.daemon.stop()?;
        Ok((self.cost, quiet))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ROLLOUT, spread};

    #[test]
    fn work_is_spread_over_the_half_hour_and_begins_within_five_minutes_of_the_rollout() {
        let length = Duration::from_secs(1_800);
        let due: Vec<u64> = spread(length).iter().map(|(due, _)| due.as_secs()).collect();
        assert_eq!(due, [257, 514, 771, 1_028, 1_285, 1_542]);
        assert!(due[0] - length.mul_f64(ROLLOUT).as_secs() < 300);
    }
}
