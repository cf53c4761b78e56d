//! What is measured and for how long.

use std::env;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::profilers::Load;

/// The quiet half hour.
const MINUTES: f64 = 30.0;

/// A day: beyond it somebody has mistyped.
const MINUTES_MAX: f64 = 24.0 * 60.0;

/// The agent's own figures are taken over the first third: ten minutes of thirty.
const COST_SHARE: f64 = 1.0 / 3.0;

/// One of [`Plan::blocks`], as a share of the half hour: a minute.
const BLOCK_SHARE: f64 = 1.0 / 30.0;

/// Off, on, on, off, …: a drift of the disk or of the database's size falls on both sides alike.
const BLOCKS: [bool; 10] = [false, true, true, false, false, true, true, false, false, true];

/// After a start the agent takes a baseline of each member, five seconds each; after a stop its connections close.
const SETTLE: Duration = Duration::from_secs(20);

/// A window of each profiler, as a share of the half hour: 25 seconds. There are 84 of them.
const WINDOW_SHARE: f64 = 1.0 / 72.0;

/// Shorter than that, a profiler has hardly begun.
const WINDOW_MIN: Duration = Duration::from_secs(3);

/// Forwards and backwards, twice.
const ROUNDS: usize = 4;

/// In windows shorter than that nothing is measured but that the measuring works: two rounds show it.
const WINDOW_SERIOUS_S: u64 = 10;

/// Shorter ones have too few fsyncs to tell anything.
const BLOCK_MIN: Duration = Duration::from_secs(3);

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// The agent's own CPU, memory and losses.
    pub(crate) cost: bool,
    /// etcd's fsync with and without the agent.
    pub(crate) fsync: bool,
    /// Maintenance that must not alarm anybody.
    pub(crate) quiet: bool,
    /// Other profilers, each in its turn.
    pub(crate) profilers: bool,
    /// Under what.
    pub(crate) loads: Vec<Load>,
    /// Length of the quiet part.
    pub(crate) length: Duration,
}

impl Plan {
    /// Reads `MEASURE`, `MINUTES` and `LOADS`.
    pub(crate) fn from_environment() -> Result<Plan> {
        let set = |name: &str| env::var(name).unwrap_or_default();
        Ok(Plan { loads: Load::chosen(&set("LOADS"))?, ..Plan::parse(&set("MEASURE"), &set("MINUTES"))? })
    }

    fn parse(parts: &str, minutes: &str) -> Result<Plan> {
        let minutes: f64 = match minutes.trim() {
            "" => MINUTES,
            given => given.parse().with_context(|| format!("MINUTES is {given:?}, not a number"))?,
        };
        ensure!(minutes > 0.0 && minutes <= MINUTES_MAX, "MINUTES must lie between 0 and {MINUTES_MAX}");
        let length = Duration::from_secs_f64(minutes * 60.0);
        let loads = Load::chosen("")?;
        let mut plan = Plan { cost: false, fsync: false, quiet: false, profilers: false, loads, length };
        let parts = if parts.trim().is_empty() { "cost fsync quiet" } else { parts };
        for part in parts.split([' ', ',']).filter(|part| !part.is_empty()) {
            match part {
                "cost" => plan.cost = true,
                "fsync" => plan.fsync = true,
                "quiet" => plan.quiet = true,
                "profilers" => plan.profilers = true,
                _ => bail!("MEASURE names {part:?}; there are cost, fsync, quiet and profilers"),
            }
        }
        Ok(plan)
    }

    /// Whether the agent runs through once, for its cost, for quiet, or for both at once.
    pub(crate) fn is_soaked(&self) -> bool {
        self.cost || self.quiet
    }

    /// How long the agent's own figures are taken.
    pub(crate) fn cost_window(&self) -> Duration {
        self.length.mul_f64(COST_SHARE)
    }

    /// How long that run takes.
    pub(crate) fn soak(&self) -> Duration {
        if self.quiet { self.length } else { self.cost_window() }
    }

    /// Whether the agent runs, block by block.
    pub(crate) fn blocks(&self) -> [bool; 10] {
        BLOCKS
    }

    /// Length of one.
    pub(crate) fn block(&self) -> Duration {
        self.length.mul_f64(BLOCK_SHARE).max(BLOCK_MIN)
    }

    /// Length of a profiler's window, whole seconds: so the agent takes it.
    pub(crate) fn window_s(&self) -> u64 {
        self.length.mul_f64(WINDOW_SHARE).max(WINDOW_MIN).as_secs_f64().round() as u64
    }

    /// How many windows each profiler has under each load; an even number, as every other round runs backwards.
    pub(crate) fn rounds(&self) -> usize {
        if self.window_s() < WINDOW_SERIOUS_S { 2 } else { ROUNDS }
    }

    /// Between a start or stop of the agent and the block that follows.
    pub(crate) fn settle(&self) -> Duration {
        self.block().min(SETTLE)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = |length: Duration| length.as_secs_f64() / 60.0;
        if self.is_soaked() {
            write!(f, "the agent runs for {:.1} minutes", minutes(self.soak()))?;
            if self.cost {
                write!(f, ", its cost is taken over the first {:.1}", minutes(self.cost_window()))?;
            }
            if self.quiet {
                write!(f, ", with maintenance that must not alarm anybody")?;
            }
            writeln!(f)?;
        }
        if self.fsync {
            let (count, block) = (self.blocks().len(), self.block().as_secs_f64());
            writeln!(f, "then {count} blocks of {block:.0} s, half of them with the agent")?;
        }
        if self.profilers {
            writeln!(f, "profilers in turns, each {} times for {} s", self.rounds(), self.window_s())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BLOCKS, Plan};

    #[test]
    fn everything_takes_forty_minutes_when_nothing_is_said() {
        let plan = Plan::parse("", "").unwrap();
        assert!(plan.cost && plan.fsync && plan.quiet);
        assert_eq!(plan.length, Duration::from_secs(1_800));
        assert_eq!(plan.cost_window(), Duration::from_secs(600));
        assert_eq!(plan.block(), Duration::from_secs(60));
        assert!(!plan.profilers, "they must be brought first");
    }

    #[test]
    fn parts_and_minutes_are_chosen() {
        let plan = Plan::parse("quiet, cost", "3").unwrap();
        assert!(plan.cost && plan.quiet && !plan.fsync);
        assert_eq!(plan.soak(), Duration::from_secs(180));
        let plan = Plan::parse("profilers", "").unwrap();
        assert!(
            plan.profilers && !plan.is_soaked() && !plan.fsync && plan.window_s() == 25 && plan.rounds() == 4
        );
        let plan = Plan::parse("profilers", "2").unwrap();
        assert_eq!((plan.window_s(), plan.rounds()), (3, 2));
        assert_eq!(Plan::parse("cost", "3").unwrap().soak(), Duration::from_secs(60));
        for (parts, minutes) in [("coast", "3"), ("", "ten"), ("", "0"), ("", "-1"), ("", "NaN"), ("", "1e9")]
        {
            Plan::parse(parts, minutes).unwrap_err();
        }
    }

    #[test]
    fn half_of_the_blocks_run_without_the_agent_and_neither_half_is_earlier() {
        let places = |with: bool| -> usize {
            BLOCKS.iter().enumerate().filter(|(_, on)| **on == with).map(|(place, _)| place).sum()
        };
        assert_eq!(BLOCKS.iter().filter(|on| **on).count() * 2, BLOCKS.len());
        assert!(places(true).abs_diff(places(false)) <= 1);
    }
}
